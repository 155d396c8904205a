/* sl_json_parse and the field readers on any bytes. What parses must also print and parse again. */
#include "base/json.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_fields(const json_t *object)
{
    uint64_t count;
    double number;
    bool flag;
    const char *text;
    sl_status status = sl_json_uint(object, "body", "n", 1, 0, 100, &count);
    SL_ASSERT(status != SL_OK || count <= 100);
    status = sl_json_number(object, "body", "n", 1, 0, 2, &number);
    SL_ASSERT(status != SL_OK || (number >= 0 && number <= 2));
    status = sl_json_bool(object, "body", "b", false, &flag);
    status = sl_json_text(object, "body", "s", "", &text);
    SL_ASSERT(status != SL_OK || text != NULL);
}

/* What clients send: the same, unless it has numbers that are too large, or NUL. */
static void read_client(const char *text, size_t size, const json_t *plain)
{
    json_t *value = NULL;
    bool rounded = false;
    sl_status status = sl_json_parse_client("body", text, size, 1 << 16, &value, &rounded);
    SL_ASSERT(plain == NULL || (status == SL_OK && !rounded && json_equal(plain, value)));
    json_decref(value);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *value = NULL, *again = NULL;
    if (sl_json_parse("body", (const char *)data, size, 1 << 16, &value) != SL_OK) {
        SL_ASSERT(sl_error()[0] != '\0' && value == NULL);
        read_client((const char *)data, size, NULL);
        return 0;
    }
    read_client((const char *)data, size, value);
    read_fields(value);
    char *text = json_dumps(value, JSON_COMPACT);
    SL_ASSERT(text != NULL);
    sl_status status = sl_json_parse("again", text, strlen(text), 1 << 20, &again);
    SL_ASSERT(status == SL_OK && json_equal(value, again));
    json_decref(value);
    json_decref(again);
    free(text);
    return 0;
}

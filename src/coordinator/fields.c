/* Members of a body, one at a time: the types and limits that every field is checked by, and the
 * sentences of what is refused. Pure; any thread. */
#include "coordinator/fields.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BITS_63 0x1p63

const char *field_show(const json_t *value, char text[FIELD_SHOW_BYTES])
{
    switch (json_typeof(value)) {
    case JSON_INTEGER:
        snprintf(text, FIELD_SHOW_BYTES, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        break;
    case JSON_REAL: /* as short as it is no other number */
        snprintf(text, FIELD_SHOW_BYTES, "%.15g", json_real_value(value));
        if (strtod(text, NULL) != json_real_value(value))
            snprintf(text, FIELD_SHOW_BYTES, "%.17g", json_real_value(value));
        break;
    case JSON_STRING:
        snprintf(text, FIELD_SHOW_BYTES, "a string of %zu bytes", json_string_length(value));
        break;
    case JSON_ARRAY:
        snprintf(text, FIELD_SHOW_BYTES, "a list of %zu", json_array_size(value));
        break;
    case JSON_OBJECT:
        snprintf(text, FIELD_SHOW_BYTES, "an object");
        break;
    case JSON_TRUE:
        snprintf(text, FIELD_SHOW_BYTES, "true");
        break;
    case JSON_FALSE:
        snprintf(text, FIELD_SHOW_BYTES, "false");
        break;
    case JSON_NULL:
        snprintf(text, FIELD_SHOW_BYTES, "null");
        break;
    }
    return text;
}

sl_status field_wrong(struct api_error *error, const char *field, const json_t *value,
                      const char *want)
{
    char text[FIELD_SHOW_BYTES];
    return api_fail(error, 400, "invalid_value", field, "`%s` is %s; want %s", field,
                    field_show(value, text), want);
}

const json_t *field_get(const json_t *object, const char *field)
{
    const json_t *value = json_object_get(object, field);
    return json_is_null(value) ? NULL : value;
}

static bool is_content(const char *field)
{
    return strcmp(field, "prompt") == 0 || strcmp(field, "content") == 0 ||
           strcmp(field, "text") == 0;
}

/* `field`: the nearest member that the value is of. The depth is bounded by the parser's. */
static bool has_stray_nul(const char *field, json_t *value, const char **field_out)
{
    const char *name;
    json_t *item;
    size_t i;
    json_object_foreach(value, name, item)
    {
        if (has_stray_nul(name, item, field_out))
            return true;
    }
    json_array_foreach(value, i, item)
    {
        if (has_stray_nul(field, item, field_out))
            return true;
    }
    if (!json_is_string(value) || is_content(field) ||
        strlen(json_string_value(value)) == json_string_length(value))
        return false;
    *field_out = field;
    return true;
}

sl_status field_check_nul(json_t *body, struct api_error *error)
{
    const char *field = "";
    if (!has_stray_nul(field, body, &field))
        return SL_OK;
    return api_fail(error, 400, "invalid_value", field,
                    "`%.60s` has a NUL character; only prompts and messages may", field);
}

/* An integer that was rounded is a real beyond 64 bits. (So is 1e20, which is the same number, but there is no
 * telling them apart.) */
static bool has_rounded(json_t *value)
{
    const char *name;
    json_t *item;
    size_t i;
    json_object_foreach(value, name, item)
    {
        if (has_rounded(item))
            return true;
    }
    json_array_foreach(value, i, item)
    {
        if (has_rounded(item))
            return true;
    }
    return json_is_real(value) && fabs(json_real_value(value)) >= BITS_63;
}

sl_status field_check_rounded(const json_t *body, struct api_error *error)
{
    static const char *const written[] = {"messages", "tools", "documents", "chat_template_kwargs"};
    for (size_t i = 0; i < sizeof(written) / sizeof(written[0]); i++)
        if (has_rounded(json_object_get(body, written[i])))
            return api_fail(error, 400, "invalid_value", written[i],
                            "`%s` has a number beyond 64 bits, which the template would write in "
                            "another way; want a string",
                            written[i]);
    return SL_OK;
}

bool field_is_int(const json_t *value, int64_t *number_out)
{
    double real = json_real_value(value);
    if (json_is_integer(value))
        *number_out = json_integer_value(value);
    else if (json_is_real(value) && real >= -BITS_63 && real < BITS_63 && trunc(real) == real)
        *number_out = (int64_t)real;
    else
        return false;
    return true;
}

sl_status field_bool(const json_t *object, const char *field, bool *value_out,
                     struct api_error *error)
{
    const json_t *value = field_get(object, field);
    if (value == NULL)
        return SL_OK;
    if (!json_is_boolean(value))
        return field_wrong(error, field, value, "true or false");
    *value_out = json_is_true(value);
    return SL_OK;
}

sl_status field_text(const json_t *object, const char *field, const char **value_out,
                     struct api_error *error)
{
    const json_t *value = field_get(object, field);
    if (value == NULL)
        return SL_OK;
    if (!json_is_string(value))
        return field_wrong(error, field, value, "a string");
    *value_out = json_string_value(value);
    return SL_OK;
}

sl_status field_number(const json_t *object, const char *field, double min, double max,
                       double *value_out, struct api_error *error)
{
    const json_t *value = field_get(object, field);
    if (value == NULL)
        return SL_OK;
    double number = json_number_value(value);
    if (!json_is_number(value) || !isfinite(number) || number < min || number > max) {
        char want[FIELD_SHOW_BYTES];
        snprintf(want, sizeof(want), "a number of %g to %g", min, max);
        return field_wrong(error, field, value, want);
    }
    *value_out = number;
    return SL_OK;
}

sl_status field_int(const json_t *object, const char *field, int64_t min, int64_t max,
                    int64_t *value_out, bool *found_out, struct api_error *error)
{
    const json_t *value = field_get(object, field);
    if (value == NULL)
        return SL_OK;
    int64_t number;
    if (!field_is_int(value, &number) || number < min || number > max) {
        char want[FIELD_SHOW_BYTES];
        snprintf(want, sizeof(want), "an integer of %" PRId64 " to %" PRId64, min, max);
        return field_wrong(error, field, value, want);
    }
    *value_out = number;
    if (found_out != NULL)
        *found_out = true;
    return SL_OK;
}

static bool is_token_id(const json_t *value)
{
    int64_t id;
    return field_is_int(value, &id) && id >= 0 && id <= UINT32_MAX;
}

uint32_t field_id(const json_t *value)
{
    return (uint32_t)json_number_value(value);
}

sl_status field_check_ids(const json_t *ids, const char *field, struct api_error *error)
{
    size_t i;
    json_t *id;
    if (json_array_size(ids) > API_TOKENS_MAX)
        return api_fail(error, 400, "invalid_value", field, "`%s` has %zu token ids; at most %u",
                        field, json_array_size(ids), API_TOKENS_MAX);
    json_array_foreach(ids, i, id)
    {
        char text[FIELD_SHOW_BYTES];
        if (!is_token_id(id))
            return api_fail(error, 400, "invalid_value", field,
                            "`%s[%zu]` is %s; want a token id of 0 to %u", field, i,
                            field_show(id, text), UINT32_MAX);
    }
    return SL_OK;
}

/* jansson with limits.
 *
 * jansson rejects invalid UTF-8, NUL and integers beyond 64 bits by itself; on top come the cap on the
 * size, the cap on the depth (counted before it parses, since its own is 2,048 stack frames), and
 * the rejection of duplicate keys. Field readers treat null as absent, as OpenAI's clients send it.
 *
 * A client's number that is too large is an error of its field, not of the JSON, so such a text is read again with
 * these numbers rewritten. (JSON_DECODE_INT_AS_REAL would take the last digits of every other integer, too.)
 * Pure; any thread. */
#include "base/json.h"

#include "base/buf.h"
#include "base/mem.h"

#include <errno.h>
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Deepest nesting in the text; strings are skipped, an unterminated one is jansson's to report. */
static uint32_t deepest(const char *text, size_t bytes)
{
    uint32_t depth = 0, max = 0;
    bool in_string = false;
    for (size_t i = 0; i < bytes; i++) {
        char c = text[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            depth++;
            max = depth > max ? depth : max;
        } else if ((c == '}' || c == ']') && depth > 0) {
            depth--;
        }
    }
    return max;
}

static sl_status check_shape(const char *what, const char *text, size_t bytes, size_t bytes_max)
{
    if (bytes > bytes_max)
        return sl_fail(SL_INVALID, "%s: %zu bytes; at most %zu", what, bytes, bytes_max);
    if (deepest(text, bytes) > SL_JSON_DEPTH_MAX)
        return sl_fail(SL_INVALID, "%s: nested deeper than %d levels", what, SL_JSON_DEPTH_MAX);
    return SL_OK;
}

static sl_status no_json(const char *what, const json_error_t *error)
{
    return sl_fail(SL_INVALID, "%s: line %d column %d: %s", what, error->line, error->column,
                   error->text);
}

sl_status sl_json_parse(const char *what, const char *text, size_t bytes, size_t bytes_max,
                        json_t **value_out)
{
    sl_status status = check_shape(what, text, bytes, bytes_max);
    if (status != SL_OK)
        return status;
    json_error_t error;
    json_t *value = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
    if (value == NULL)
        return no_json(what, &error);
    *value_out = value;
    return SL_OK;
}

#define WHOLE_DIGITS 19 /* of the least integer that may be beyond 64 bits */
#define REAL_BYTES   5  /* of the shortest number beyond a double */

/* Whether a number is beyond 64 bits, or beyond a double. Its n characters follow a sign, if it has one. */
static bool is_beyond(const char *number, size_t n, bool negative, bool whole)
{
    if (!whole)
        return n >= REAL_BYTES && isinf(strtod(number, NULL));
    if (n < WHOLE_DIGITS)
        return false;
    errno = 0;
    (void)strtoll(negative ? number - 1 : number, NULL, 10);
    return errno == ERANGE;
}

/* Writes a number that is_beyond as one that can be read, into the room of its n characters: 15 digits of
 * an integer and its exponent, rounded away from 0. */
static void round_number(char *number, size_t n, bool whole)
{
    char text[40] = "1e308";
    if (whole && n <= DBL_MAX_10_EXP) {
        char first[16] = "";
        memcpy(first, number, 15);
        (void)snprintf(text, sizeof(text), "%llue%zu", strtoull(first, NULL, 10) + 1, n - 15);
    }
    SL_ASSERT(strlen(text) <= n);
    memset(number, ' ', n);
    memcpy(number, text, strlen(text));
}

/* Bytes of the number that begins with the digit at p, without its sign; what JSON does not take as its end is
 * not of it. */
static size_t number_bytes(const char *p, bool *whole_out)
{
    static const char digits[] = "0123456789";
    size_t n = p[0] == '0' ? 1 : strspn(p, digits), more;
    *whole_out = true;
    if (p[n] == '.' && (more = strspn(p + n + 1, digits)) > 0) {
        n += 1 + more;
        *whole_out = false;
    }
    size_t sign = p[n] == 'e' || p[n] == 'E' ? 1 + (p[n + 1] == '-' || p[n + 1] == '+') : 0;
    if (sign > 0 && (more = strspn(p + n + sign, digits)) > 0) {
        n += sign + more;
        *whole_out = false;
    }
    return n;
}

static void round_numbers(char *text, size_t bytes)
{
    bool in_string = false, whole;
    for (char *p = text, *end = text + bytes; p < end; p++) {
        if (*p == '"')
            in_string = !in_string;
        else if (in_string && *p == '\\')
            p++;
        if (in_string || *p < '0' || *p > '9')
            continue;
        size_t n = number_bytes(p, &whole);
        if (is_beyond(p, n, p > text && p[-1] == '-', whole))
            round_number(p, n, whole);
        p += n - 1;
    }
}

sl_status sl_json_parse_client(const char *what, const char *text, size_t bytes, size_t bytes_max,
                               json_t **value_out, bool *rounded_out)
{
    sl_status status = check_shape(what, text, bytes, bytes_max);
    if (status != SL_OK)
        return status;
    json_error_t error;
    const size_t flags = JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL;
    json_t *value = json_loadb(text, bytes, flags, &error);
    bool rounded = value == NULL && json_error_code(&error) == json_error_numeric_overflow;
    if (rounded) {
        char *copy = sl_try_zalloc(bytes + 1, 1);
        if (copy == NULL)
            return sl_fail(SL_NO_MEMORY, "%s: no memory for its %zu bytes", what, bytes);
        memcpy(copy, text, bytes);
        round_numbers(copy, bytes);
        value = json_loadb(copy, bytes, flags, &error);
        sl_free(copy);
    }
    if (value == NULL)
        return no_json(what, &error);
    *value_out = value;
    *rounded_out = rounded;
    return SL_OK;
}

/* The whole file into buf; a file that has more than the buffer's maximum fails. */
static sl_status read_file(const char *path, struct sl_buf *buf)
{
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return sl_fail(errno == ENOENT ? SL_NOT_FOUND : SL_INVALID, "%s: %s", path,
                       strerror(errno));
    char block[16384];
    size_t n;
    errno = 0;
    while (!buf->failed && (n = fread(block, 1, sizeof(block), file)) > 0)
        sl_buf_add(buf, block, n);
    bool failed = ferror(file) != 0;
    int error = errno;
    fclose(file);
    if (failed)
        return sl_fail(SL_INVALID, "%s: %s", path, strerror(error));
    if (buf->failed)
        return sl_fail(SL_INVALID, "%s: more than %zu bytes, or memory is gone", path,
                       buf->bytes_max);
    return SL_OK;
}

sl_status sl_json_load(const char *path, size_t bytes_max, json_t **value_out)
{
    struct sl_buf buf;
    sl_buf_init(&buf, bytes_max);
    sl_status status = read_file(path, &buf);
    if (status == SL_OK)
        status =
            sl_json_parse(path, buf.data == NULL ? "" : buf.data, buf.bytes, bytes_max, value_out);
    sl_buf_fini(&buf);
    return status;
}

static const char *type_name(const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a fraction";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    case JSON_NULL:
        return "null";
    }
    return "unknown";
}

/* The field, NULL if absent or null; SL_INVALID if `object` is none. */
static sl_status field_of(const json_t *object, const char *what, const char *field,
                          const json_t **value_out)
{
    if (!json_is_object(object))
        return sl_fail(SL_INVALID, "%s: %s where an object was wanted", what,
                       object == NULL ? "nothing" : type_name(object));
    const json_t *value = json_object_get(object, field);
    *value_out = json_is_null(value) ? NULL : value;
    return SL_OK;
}

static sl_status wrong_type(const char *what, const char *field, const char *wanted,
                            const json_t *value)
{
    return sl_fail(SL_INVALID, "%s: %s must be %s, not %s", what, field, wanted, type_name(value));
}

sl_status sl_json_uint(const json_t *object, const char *what, const char *field, uint64_t fallback,
                       uint64_t min, uint64_t max, uint64_t *value_out)
{
    const json_t *value;
    sl_status status = field_of(object, what, field, &value);
    if (status != SL_OK)
        return status;
    if (value == NULL) {
        *value_out = fallback;
        return SL_OK;
    }
    if (!json_is_integer(value))
        return wrong_type(what, field, "an integer", value);
    json_int_t number = json_integer_value(value);
    if (number < 0 || (uint64_t)number < min || (uint64_t)number > max)
        return sl_fail(SL_INVALID, "%s: %s is %lld; want %" PRIu64 "..%" PRIu64, what, field,
                       (long long)number, min, max);
    *value_out = (uint64_t)number;
    return SL_OK;
}

sl_status sl_json_number(const json_t *object, const char *what, const char *field, double fallback,
                         double min, double max, double *value_out)
{
    const json_t *value;
    sl_status status = field_of(object, what, field, &value);
    if (status != SL_OK)
        return status;
    if (value == NULL) {
        *value_out = fallback;
        return SL_OK;
    }
    if (!json_is_number(value))
        return wrong_type(what, field, "a number", value);
    double number = json_number_value(value);
    if (!(number >= min && number <= max))
        return sl_fail(SL_INVALID, "%s: %s is %g; want %g..%g", what, field, number, min, max);
    *value_out = number;
    return SL_OK;
}

sl_status sl_json_bool(const json_t *object, const char *what, const char *field, bool fallback,
                       bool *value_out)
{
    const json_t *value;
    sl_status status = field_of(object, what, field, &value);
    if (status != SL_OK)
        return status;
    if (value != NULL && !json_is_boolean(value))
        return wrong_type(what, field, "a boolean", value);
    *value_out = value == NULL ? fallback : json_is_true(value);
    return SL_OK;
}

sl_status sl_json_text(const json_t *object, const char *what, const char *field,
                       const char *fallback, const char **value_out)
{
    const json_t *value;
    sl_status status = field_of(object, what, field, &value);
    if (status != SL_OK)
        return status;
    if (value != NULL && !json_is_string(value))
        return wrong_type(what, field, "a string", value);
    *value_out = value == NULL ? fallback : json_string_value(value);
    return SL_OK;
}

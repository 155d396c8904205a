/* JSON with limits: what is refused, and that it says where. */
#include "base/json.h"

#include "support/support.h"

#include <math.h>

static json_t *parsed(const char *text)
{
    json_t *value = NULL;
    assert_ok(sl_json_parse("body", text, strlen(text), 1 << 20, &value));
    return value;
}

static void refuse(const char *text, const char *part)
{
    json_t *value = NULL;
    assert_fails(sl_json_parse("body", text, strlen(text), 1000, &value), SL_INVALID, part);
    assert_null(value);
}

static void test_refuses(void **state)
{
    (void)state;
    refuse("", "body: line");
    refuse("{\"a\":1,\n \"a\":2}", "duplicate");
    refuse("{\"a\":1,\n \"b\":}", "line 2");
    refuse("{\"a\":1} x", "body: line 1");
    refuse("3", "body: line 1");
    refuse("{\"a\":\"\xff\"}", "body: line 1");
    refuse("{\"a\":18446744073709551616}", "body: line 1");
    char text[1100];
    memset(text, ' ', sizeof(text));
    text[sizeof(text) - 1] = '\0';
    refuse(text, "1099 bytes; at most 1000");
}

static void test_depth(void **state)
{
    (void)state;
    char text[400];
    json_t *value = NULL;
    for (int depth = SL_JSON_DEPTH_MAX; depth <= SL_JSON_DEPTH_MAX + 1; depth++) {
        memset(text, '[', (size_t)depth);
        memset(text + depth, ']', (size_t)depth);
        text[2 * depth] = '\0';
        if (depth > SL_JSON_DEPTH_MAX)
            refuse(text, "nested deeper than 128");
        else
            assert_ok(sl_json_parse("body", text, strlen(text), 1000, &value));
    }
    json_decref(value);
    memset(text, '[', 300); /* brackets in strings do not count */
    text[0] = '[';
    text[1] = text[298] = '"';
    text[299] = ']';
    text[300] = '\0';
    assert_ok(sl_json_parse("body", text, 300, 1000, &value));
    json_decref(value);
}

/* Many, but none deep: what closes is left again, be it an array or an object. */
static void test_breadth_is_no_depth(void **state)
{
    (void)state;
    char text[1000];
    size_t n = 0;
    text[n++] = '[';
    for (int i = 0; i < SL_JSON_DEPTH_MAX; i++)
        n += (size_t)snprintf(text + n, sizeof(text) - n, "[],{},");
    snprintf(text + n, sizeof(text) - n, "0]");
    json_decref(parsed(text));
    refuse("]]]", "body: line 1"); /* more closed than opened: not deep */
    refuse("}", "body: line 1");
    n = (size_t)snprintf(text, sizeof(text), "[\"a\\\"\",");
    memset(text + n, '[', SL_JSON_DEPTH_MAX); /* behind a string they count again */
    text[n + SL_JSON_DEPTH_MAX] = '\0';
    refuse(text, "nested deeper than 128");
}

/* The text ends where its length says; ASan sees a byte more. */
static void test_length_is_exact(void **state)
{
    (void)state;
    json_t *value = NULL;
    char *text = sl_try_zalloc(1, 4);
    memcpy(text, "[12]", 4);
    assert_ok(sl_json_parse("body", text, 4, 4, &value));
    json_decref(value);
    value = NULL;
    assert_fails(sl_json_parse("body", text, 3, 4, &value), SL_INVALID, "body: line 1");
    assert_fails(sl_json_parse("body", text, 4, 3, &value), SL_INVALID, "4 bytes; at most 3");
    assert_null(value);
    sl_free(text);
}

static json_t *parsed_client(const char *text, bool rounded)
{
    json_t *value = NULL;
    bool was_rounded = !rounded;
    assert_ok(sl_json_parse_client("body", text, strlen(text), 1000, &value, &was_rounded));
    assert_true(was_rounded == rounded);
    return value;
}

/* Only where it is asked for. */
static void test_nul(void **state)
{
    (void)state;
    static const char text[] = "[\"a\\u0000b\"]";
    refuse(text, "\\u0000 is not allowed");
    json_t *value = parsed_client(text, false);
    assert_int_equal(json_string_length(json_array_get(value, 0)), 3);
    json_decref(value);
}

/* Numbers that are too large stay so, and every other number in the text stays what it is. */
static void test_rounded(void **state)
{
    (void)state;
    static const struct {
        const char *number;
        double about;
    } cases[] = {
        {"9223372036854775808", 0x1p63},
        {"-9223372036854775809", -0x1p63},
        {"99999999999999999999", 1e20},
        {"-18446744073709551616", -0x1p64},
        {"1234567890123456789012345", 1.234567890123456789e24},
        {"9999999999999999999999999", 1e25},
        {"1e309", 1e308},
        {"-9E+999", -1e308},
        {"123456789.5e301", 1e308},
        {"0.5e310", 1e308},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char text[200];
        (void)snprintf(text, sizeof(text),
                       "{\"a\":[%s,9007199254740993,\"\\\"99999999999999999999\",%s],\"b\":-7}",
                       cases[i].number, cases[i].number);
        json_t *value = parsed_client(text, true), *list = json_object_get(value, "a");
        double real = json_real_value(json_array_get(list, 0));
        if (fabs(real / cases[i].about - 1) > 1e-14 || fabs(real) < 0x1p63)
            fail_msg("%s: %.17g", cases[i].number, real);
        assert_true(real == json_real_value(json_array_get(list, 3)));
        assert_int_equal(json_integer_value(json_array_get(list, 1)), 9007199254740993);
        assert_string_equal(json_string_value(json_array_get(list, 2)), "\"99999999999999999999");
        assert_int_equal(json_integer_value(json_object_get(value, "b")), -7);
        json_decref(value);
    }
    char digits[600] = "[";
    memset(digits + 1, '9', 500);
    digits[501] = ']';
    json_t *value = parsed_client(digits, true);
    assert_true(json_real_value(json_array_get(value, 0)) == 1e308);
    json_decref(value);
    value = parsed_client("[9223372036854775807,-9223372036854775808,1e308,1e-999]", false);
    assert_int_equal(json_integer_value(json_array_get(value, 1)), INT64_MIN);
    json_decref(value);
}

/* What is no JSON does not become it. */
static void test_rounded_refuses(void **state)
{
    (void)state;
    static const char *const wrong[] = {
        "1e309,1e400.5",
        "1e309,01e400",
        "1e309,1.e400",
        "1e309,1e400e5",
        "1e309,1e400-3",
        "1e309,1e400 5",
        "1e309,+1e400",
        "1e309,0x1p99999",
        "1e309,99999999999999999999-99999999999999999999",
        "1e309,099999999999999999999",
        "1e309,\"1e309",
        "1e309,\"\\",
    };
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        char text[100];
        json_t *value = NULL;
        bool rounded;
        (void)snprintf(text, sizeof(text), "[%s]", wrong[i]);
        if (sl_json_parse_client("body", text, strlen(text), 100, &value, &rounded) != SL_INVALID)
            fail_msg("%s is taken", text);
        assert_non_null(strstr(sl_error(), "body: line 1 column"));
    }
}

static void test_uint(void **state)
{
    (void)state;
    json_t *o = parsed("{\"n\":12,\"neg\":-1,\"f\":1.5,\"s\":\"x\",\"z\":null,"
                       "\"big\":9223372036854775807}");
    uint64_t v = 0;
    assert_ok(sl_json_uint(o, "body", "n", 5, 1, 20, &v));
    assert_int_equal(v, 12);
    assert_ok(sl_json_uint(o, "body", "z", 5, 1, 20, &v));
    assert_int_equal(v, 5);
    assert_ok(sl_json_uint(o, "body", "absent", 7, 1, 20, &v));
    assert_int_equal(v, 7);
    assert_ok(sl_json_uint(o, "body", "big", 0, 0, UINT64_MAX, &v));
    assert_int_equal(v, INT64_MAX);
    assert_fails(sl_json_uint(o, "body", "n", 5, 1, 11, &v), SL_INVALID, "n is 12; want 1..11");
    assert_fails(sl_json_uint(o, "body", "neg", 0, 0, 9, &v), SL_INVALID, "neg is -1");
    assert_fails(sl_json_uint(o, "body", "f", 0, 0, 9, &v), SL_INVALID,
                 "f must be an integer, not a fraction");
    assert_fails(sl_json_uint(o, "body", "s", 0, 0, 9, &v), SL_INVALID, "not a string");
    assert_int_equal(v, INT64_MAX); /* set only on success */
    json_decref(o);
}

static void test_other_types(void **state)
{
    (void)state;
    json_t *o = parsed("{\"n\":1,\"f\":0.25,\"t\":true,\"s\":\"x\",\"a\":[1]}");
    double d = 0;
    bool b = false;
    const char *s = NULL;
    assert_ok(sl_json_number(o, "body", "n", 9, 0, 2, &d));
    assert_true(d == 1);
    assert_ok(sl_json_number(o, "body", "f", 9, 0, 2, &d));
    assert_true(d == 0.25);
    assert_ok(sl_json_number(o, "body", "x", 9, 0, 2, &d));
    assert_true(d == 9);
    assert_fails(sl_json_number(o, "body", "f", 0, 1, 2, &d), SL_INVALID, "f is 0.25; want 1..2");
    assert_fails(sl_json_number(o, "body", "t", 0, 1, 2, &d), SL_INVALID, "a boolean");
    assert_ok(sl_json_bool(o, "body", "t", false, &b));
    assert_true(b);
    assert_ok(sl_json_bool(o, "body", "x", true, &b));
    assert_true(b);
    assert_fails(sl_json_bool(o, "body", "n", false, &b), SL_INVALID, "not an integer");
    assert_ok(sl_json_text(o, "body", "s", NULL, &s));
    assert_string_equal(s, "x");
    assert_ok(sl_json_text(o, "body", "none", "y", &s));
    assert_string_equal(s, "y");
    assert_fails(sl_json_text(o, "body", "a", NULL, &s), SL_INVALID, "an array");
    assert_fails(sl_json_text(json_object_get(o, "a"), "body.a", "s", NULL, &s), SL_INVALID,
                 "an array where an object was wanted");
    assert_fails(sl_json_text(NULL, "body.q", "s", NULL, &s), SL_INVALID, "nothing where");
    json_decref(o);
}

static void test_load(void **state)
{
    (void)state;
    char *dir = test_dir_create();
    char *path = test_path(dir, "config.json");
    json_t *value = NULL;
    assert_fails(sl_json_load(path, 100, &value), SL_NOT_FOUND, path);
    test_write_text(dir, "config.json", "{\"a\": 1}");
    assert_ok(sl_json_load(path, 100, &value));
    json_decref(value);
    assert_fails(sl_json_load(path, 7, &value), SL_INVALID, "more than 7 bytes");
    assert_fails(sl_json_load(dir, 100, &value), SL_INVALID, dir);
    sl_free(path);
    test_dir_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_depth),
        cmocka_unit_test(test_breadth_is_no_depth),
        cmocka_unit_test(test_length_is_exact),
        cmocka_unit_test(test_nul),
        cmocka_unit_test(test_rounded),
        cmocka_unit_test(test_rounded_refuses),
        cmocka_unit_test(test_uint),
        cmocka_unit_test(test_other_types),
        cmocka_unit_test(test_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* JSON with limits: what is refused, and that it says where. */
#include "base/json.h"

#include "support/support.h"

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

/* Only where it is asked for. */
static void test_nul(void **state)
{
    (void)state;
    static const char text[] = "[\"a\\u0000b\"]";
    json_t *value = NULL;
    refuse(text, "\\u0000 is not allowed");
    assert_ok(sl_json_parse_nul("body", text, strlen(text), 100, &value));
    assert_int_equal(json_string_length(json_array_get(value, 0)), 3);
    json_decref(value);
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
        cmocka_unit_test(test_uint),
        cmocka_unit_test(test_other_types),
        cmocka_unit_test(test_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

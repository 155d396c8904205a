/* Addresses: what is one, and what each wrong one is told. */
#include "base/address.h"

#include "support/support.h"

static void good(void **state)
{
    (void)state;
    char host[SL_HOST_BYTES];
    uint16_t port;
    assert_ok(sl_address_parse("--listen", "127.0.0.1:8000", host, &port));
    assert_string_equal(host, "127.0.0.1");
    assert_int_equal(port, 8000);
    assert_ok(sl_address_parse("--listen", "[::1]:0", host, &port));
    assert_string_equal(host, "::1");
    assert_int_equal(port, 0);
    assert_ok(sl_address_parse("--listen", "a-node.pool_1:65535", host, &port));
    assert_string_equal(host, "a-node.pool_1");
    assert_int_equal(port, 65535);
}

static void written(void **state)
{
    (void)state;
    char text[SL_ADDRESS_BYTES], host[SL_HOST_BYTES];
    uint16_t port;
    sl_address_format("a.b", 80, text);
    assert_string_equal(text, "a.b:80");
    sl_address_format("::1", 65535, text);
    assert_string_equal(text, "[::1]:65535");
    assert_ok(sl_address_parse("x", text, host, &port));
    assert_true(sl_address_is_any("0.0.0.0") && sl_address_is_any("::"));
    assert_false(sl_address_is_any("::1") || sl_address_is_any("10.0.0.0") ||
                 sl_address_is_any("a"));
    assert_string_equal(sl_address_reach("0.0.0.0"), "127.0.0.1");
    assert_string_equal(sl_address_reach("::"), "::1");
    assert_string_equal(sl_address_reach("10.0.0.1"), "10.0.0.1");
}

static void wrong(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"", "want HOST:PORT"},
        {"host", "want HOST:PORT"},
        {"http://host:80", "want HOST:PORT"},
        {":8000", "the host is missing"},
        {"[]:8000", "the host is missing"},
        {"::1:5", "brackets"},
        {"a b:5", "neither a name nor an address"},
        {"[::1:80", "brackets"},
        {"a/b:5", "neither a name nor an address"},
        {"a@b:5", "neither a name nor an address"},
        {"a\"b:5", "neither a name nor an address"},
        {"a'b:5", "neither a name nor an address"},
        {"a[b:5", "neither a name nor an address"},
        {"a]b:5", "neither a name nor an address"},
        {"host:", "port wants 0..65535"},
        {"host:65536", "port wants 0..65535"},
        {"host:99999", "port wants 0..65535"},
        {"host:-1", "port wants 0..65535"},
        {"host:+1", "port wants 0..65535"},
        {"host:8x", "port wants 0..65535"},
        {"host: 8", "port wants 0..65535"},
        {"host:000001", "port wants 0..65535"},
    };
    char host[SL_HOST_BYTES] = "untouched";
    uint16_t port = 7;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_fails(sl_address_parse("--admin", cases[i].text, host, &port), SL_INVALID,
                     cases[i].says);
        assert_non_null(strstr(sl_error(), "--admin"));
        assert_non_null(strstr(sl_error(), cases[i].text));
        assert_string_equal(host, "untouched");
        assert_int_equal(port, 7);
    }
    assert_fails(sl_address_parse("a", NULL, host, &port), SL_INVALID, "HOST:PORT");
    char text[SL_HOST_BYTES + 8];
    memset(text, 'h', sizeof(text));
    memcpy(text + SL_HOST_BYTES, ":1", 3);
    assert_fails(sl_address_parse("a", text, host, &port), SL_INVALID, "longer than 255");
    memcpy(text + SL_HOST_BYTES - 1, ":1", 3);
    assert_ok(sl_address_parse("a", text, host, &port));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(good), cmocka_unit_test(written),
                                       cmocka_unit_test(wrong)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

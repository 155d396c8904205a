/* The decoder against the definition: every code point, and every sequence of up to three bytes. */
#include "base/utf8.h"

#include "support/support.h"

static uint32_t put(uint32_t code, char *out)
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    uint32_t n = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    static const uint32_t first[5] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (uint32_t i = n; i-- > 1; code >>= 6)
        out[i] = (char)(0x80 | (code & 0x3f));
    out[0] = (char)(first[n] | code);
    return n;
}

/* Each reads back alone and with something behind it; each beginning of it is not complete. */
static void test_every_code_point(void **state)
{
    (void)state;
    for (uint32_t code = 0; code <= 0x10ffff; code++) {
        char text[8] = {0};
        uint32_t n = put(code, text), got = 0;
        text[n] = 'x';
        if (code >= 0xd800 && code <= 0xdfff) {
            assert_true(sl_utf8_next(text, n, &got) < 0);
            continue;
        }
        assert_int_equal(sl_utf8_next(text, n, &got), n);
        assert_int_equal(got, code);
        assert_int_equal(sl_utf8_next(text, n + 1, &got), n);
        for (uint32_t part = 1; part < n; part++)
            assert_int_equal(sl_utf8_next(text, part, &got), 0);
    }
}

/* What is taken for a character is the one form of its code point. */
static void test_every_sequence(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits < 1u << 24; bits++) {
        char text[4] = {(char)(bits >> 16), (char)(bits >> 8), (char)bits, 0}, form[4];
        uint32_t code = 0;
        int n = sl_utf8_next(text, 3, &code);
        if (n <= 0) {
            if (n < -3 || (n == 0 && (unsigned char)text[0] < 0xf0))
                fail_msg("%06x gave %d", bits, n);
            continue;
        }
        if (put(code, form) != (uint32_t)n || memcmp(form, text, (size_t)n) != 0)
            fail_msg("%06x was taken for U+%04X", bits, code);
    }
}

/* Table 3-8 of the Unicode standard: the longest beginning of a character counts as one. */
static void test_maximal_subparts(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int bytes;
    } cases[] = {{"\xc0\xaf", -1},         {"\xe0\x9f\x80", -1},     {"\xed\xa0\x80", -1},
                 {"\xf4\x90\x80\x80", -1}, {"\xf8\x80\x80", -1},     {"\x80", -1},
                 {"\xe1\x80\xe2", -2},     {"\xf0\x91\x92\x41", -3}, {"\xf1\x41", -1}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint32_t code;
        assert_int_equal(sl_utf8_next(cases[i].text, strlen(cases[i].text), &code), cases[i].bytes);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_code_point),
        cmocka_unit_test(test_every_sequence),
        cmocka_unit_test(test_maximal_subparts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

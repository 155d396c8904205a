/* Sentences and the outward mapping. */
#include "base/status.h"

#include "base/thread.h"
#include "support/support.h"

static void test_sentence_is_kept(void **state)
{
    (void)state;
    assert_int_equal(sl_fail(SL_INVALID, "block %d of %s", 3, "pool"), SL_INVALID);
    assert_string_equal(sl_error(), "block 3 of pool");
}

static void test_sentence_may_quote_the_last_one(void **state)
{
    (void)state;
    (void)sl_fail(SL_PEER, "inner");
    (void)sl_fail(SL_PEER, "outer: %s", sl_error());
    assert_string_equal(sl_error(), "outer: inner");
}

static void test_long_sentence_is_cut(void **state)
{
    (void)state;
    char text[2 * SL_ERROR_BYTES_MAX];
    memset(text, 'x', sizeof(text));
    text[sizeof(text) - 1] = '\0';
    (void)sl_fail(SL_INVALID, "%s", text);
    assert_int_equal(strlen(sl_error()), SL_ERROR_BYTES_MAX - 1);
    assert_string_equal(sl_error() + SL_ERROR_BYTES_MAX - 5, "x...");
    text[SL_ERROR_BYTES_MAX - 1] = '\0'; /* the longest that is whole */
    (void)sl_fail(SL_INVALID, "%s", text);
    assert_string_equal(sl_error(), text);
    text[SL_ERROR_BYTES_MAX - 1] = 'x';
    text[SL_ERROR_BYTES_MAX] = '\0';
    (void)sl_fail(SL_INVALID, "%s", text);
    assert_string_equal(sl_error() + SL_ERROR_BYTES_MAX - 5, "x...");
}

static void test_shown(void **state)
{
    (void)state;
    char text[300], out[SL_SHOWN_BYTES];
    memset(text, 'x', sizeof(text));
    text[SL_SHOWN_BYTES - 1] = '\0';
    assert_ptr_equal(sl_shown(text, out), text);
    for (size_t i = SL_SHOWN_BYTES - 6; i + 3 < sizeof(text); i += 3)
        memcpy(text + i, "\xe2\x82\xac", 4); /* the euro sign */
    const char *shown = sl_shown(text, out);
    assert_int_equal(strlen(shown), SL_SHOWN_BYTES - 3);
    assert_string_equal(shown + SL_SHOWN_BYTES - 7, "x...");
}

static void test_cut_spares_characters(void **state)
{
    (void)state;
    for (size_t shift = 0; shift < 3; shift++) {
        char text[2 * SL_ERROR_BYTES_MAX + 3];
        memset(text, 'x', shift);
        for (size_t i = shift; i + 3 < sizeof(text); i += 3)
            memcpy(text + i, "\xe2\x82\xac", 4); /* the euro sign */
        (void)sl_fail(SL_INVALID, "%s", text);
        size_t bytes = strlen(sl_error());
        assert_in_range(bytes, SL_ERROR_BYTES_MAX - 4, SL_ERROR_BYTES_MAX - 1);
        assert_string_equal(sl_error() + bytes - 6, "\xe2\x82\xac...");
    }
}

static void fail_elsewhere(void *arg)
{
    *(int *)arg = sl_error()[0] == '\0';
    (void)sl_fail(SL_DEVICE, "other thread");
}

static void test_sentence_is_of_the_thread(void **state)
{
    (void)state;
    struct sl_thread thread = {0};
    int was_empty = 0;
    (void)sl_fail(SL_INVALID, "mine");
    assert_ok(sl_thread_start(&thread, "other", fail_elsewhere, &was_empty));
    sl_thread_join(&thread);
    assert_true(was_empty);
    assert_string_equal(sl_error(), "mine");
}

static void test_every_code_has_a_row(void **state)
{
    (void)state;
    for (int i = 0; i < SL_STATUS_COUNT; i++) {
        sl_status status = (sl_status)i;
        assert_non_null(sl_status_name(status));
        assert_in_range(sl_status_grpc(status), 0, 16);
        assert_int_equal(status == SL_OK, sl_status_grpc(status) == 0);
    }
    assert_string_equal(sl_status_name(SL_NO_MEMORY), "NO_MEMORY");
    assert_int_equal(sl_status_grpc(SL_EXHAUSTED), 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sentence_is_kept),
        cmocka_unit_test(test_sentence_may_quote_the_last_one),
        cmocka_unit_test(test_long_sentence_is_cut),
        cmocka_unit_test(test_shown),
        cmocka_unit_test(test_cut_spares_characters),
        cmocka_unit_test(test_sentence_is_of_the_thread),
        cmocka_unit_test(test_every_code_has_a_row),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Allocation, arenas and buffers. */
#include "base/mem.h"

#include "base/arena.h"
#include "base/buf.h"
#include "base/fault.h"
#include "support/support.h"
#include "support/torture.h"

static void test_zero_size_gives_a_pointer(void **state)
{
    (void)state;
    void *a = sl_try_zalloc(0, 8), *b = sl_zalloc(3, 0);
    assert_non_null(a);
    assert_non_null(b);
    assert_ptr_not_equal(a, b);
    sl_free(a);
    sl_free(b);
    sl_free(NULL);
}

static void test_overflow_is_no_memory(void **state)
{
    (void)state;
    volatile size_t huge = SIZE_MAX / 2 + 2; /* the compiler must not see it */
    assert_null(sl_try_zalloc(huge, 2));
    char *p = sl_try_realloc(NULL, 1, 4);
    assert_non_null(p);
    memcpy(p, "abc", 4);
    assert_null(sl_try_realloc(p, huge, 2));
    assert_string_equal(p, "abc");
    sl_free(p);
}

static void test_aligned_is_aligned_and_zero(void **state)
{
    (void)state;
    const size_t sizes[] = {0, 1, 4096, 3 << 20};
    for (size_t i = 0; i < 4; i++) {
        unsigned char *p = sl_try_aligned(4096, sizes[i]);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 4096, 0);
        for (size_t k = 0; k < sizes[i]; k++)
            assert_int_equal(p[k], 0);
        sl_free(p);
    }
}

static void test_fault_point_mem(void **state)
{
    (void)state;
    assert_ok(sl_fault_configure("mem=always"));
    assert_null(sl_try_zalloc(1, 1));
    assert_null(sl_try_realloc(NULL, 1, 1));
    assert_null(sl_try_aligned(64, 1));
    void *small = sl_zalloc(1, 1); /* never fails */
    assert_non_null(small);
    sl_free(small);
    sl_fault_clear();
}

static void test_strings(void **state)
{
    (void)state;
    char *a = sl_strdup("abc");
    char *b = sl_asprintf("%s-%d", a, 7);
    assert_string_equal(b, "abc-7");
    sl_free(a);
    sl_free(b);
}

static void test_arena_aligns_zeroes_and_bounds(void **state)
{
    (void)state;
    struct sl_arena arena;
    sl_arena_init(&arena, 256, 4096);
    unsigned char *last = NULL;
    for (size_t n = 1; n < 40; n++) {
        unsigned char *p = sl_arena_try_alloc(&arena, n, 1);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 16, 0);
        for (size_t i = 0; i < n; i++)
            assert_int_equal(p[i], 0);
        memset(p, 0xAA, n);
        assert_true(last == NULL || last[0] == 0xAA);
        last = p;
    }
    assert_true(arena.used_bytes <= arena.bytes_max);
    assert_null(sl_arena_try_alloc(&arena, 1, 4096));
    assert_null(sl_arena_try_alloc(&arena, SIZE_MAX, 2));
    assert_non_null(sl_arena_try_alloc(&arena, 1, 1000)); /* larger than a chunk */
    sl_arena_fini(&arena);
    assert_null(arena.chunks);
}

static void test_arena_copies_text(void **state)
{
    (void)state;
    struct sl_arena arena;
    sl_arena_init(&arena, 128, 1 << 20);
    char *text = sl_arena_try_strndup(&arena, "abcdef", 3);
    assert_string_equal(text, "abc");
    sl_arena_fini(&arena);
}

static void test_arena_without_room(void **state)
{
    (void)state;
    struct sl_arena arena;
    sl_arena_init(&arena, 64, 16384);
    assert_null(sl_arena_try_alloc(&arena, SIZE_MAX / 2 + 1, 1));
    assert_null(sl_arena_try_strndup(&arena, "x", SIZE_MAX));
    assert_int_equal(arena.used_bytes, 0); /* a refusal takes nothing */
    assert_non_null(sl_arena_try_alloc(&arena, 1, 16));
    size_t each = arena.used_bytes; /* with ASan's gap */
    for (size_t n = 2; n <= 16384 / each; n++) {
        assert_non_null(sl_arena_try_alloc(&arena, 1, 16));
        assert_int_equal(arena.used_bytes, n * each);
    }
    assert_null(sl_arena_try_alloc(&arena, 1, 16));
    assert_null(sl_arena_try_strndup(&arena, "some text", 9));
    assert_int_equal(arena.used_bytes, 16384);
    sl_arena_fini(&arena);
    assert_non_null(sl_arena_try_alloc(&arena, 1, 16384 - (each - 16))); /* the whole, at once */
    sl_arena_fini(&arena);
}

static void test_buf_grows_to_its_maximum(void **state)
{
    (void)state;
    struct sl_buf buf;
    sl_buf_init(&buf, 1000);
    for (int i = 0; i < 1000; i++)
        sl_buf_add(&buf, "x", 1);
    assert_ok(sl_buf_status(&buf, "body"));
    assert_int_equal(buf.bytes, 1000);
    assert_int_equal(buf.data[1000], 0);
    sl_buf_add(&buf, "y", 1);
    assert_true(buf.failed);
    assert_int_equal(buf.bytes, 1000);
    assert_fails(sl_buf_status(&buf, "body"), SL_EXHAUSTED, "body is larger than 1000 bytes");
    sl_buf_reset(&buf);
    sl_buf_add_format(&buf, "%d,%s", 12, "ab");
    assert_string_equal(buf.data, "12,ab");
    sl_buf_consume(&buf, 3);
    assert_string_equal(buf.data, "ab");
    assert_int_equal(buf.bytes, 2);
    sl_buf_fini(&buf);
    sl_buf_reset(&buf); /* without memory: nothing to do */
    assert_null(buf.data);
    char large[1000];
    memset(large, 'z', sizeof(large));
    sl_buf_add(&buf, large, 1); /* then more at once than doubling gives */
    sl_buf_add(&buf, large, 900);
    assert_true(buf.capacity > 901);
    sl_buf_add(&buf, large, 99);
    assert_int_equal(buf.capacity, 1001); /* the maximum and the NUL, never more */
    assert_ok(sl_buf_status(&buf, "body"));
    assert_int_equal(strlen(buf.data), 1000);
    sl_buf_fini(&buf);
}

static void test_buf_failed_stays_failed(void **state)
{
    (void)state;
    struct sl_buf buf;
    sl_buf_init(&buf, 10);
    sl_buf_add_text(&buf, "123456789012");
    sl_buf_add_text(&buf, "a"); /* would fit, but the text before is missing */
    assert_true(buf.failed);
    assert_int_equal(buf.bytes, 0);
    sl_buf_fini(&buf);
}

static void test_buf_json_string(void **state)
{
    (void)state;
    struct sl_buf buf;
    sl_buf_init(&buf, 1000);
    const char text[] = "a\"b\\c\n\t\x01\x1f\0 z/\x7f\xc3\xa9";
    sl_buf_add_json_string(&buf, text, sizeof(text) - 1);
    assert_string_equal(buf.data, "\"a\\\"b\\\\c\\n\\t\\u0001\\u001f\\u0000 z/\x7f\xc3\xa9\"");
    sl_buf_fini(&buf);
}

static sl_status build_document(void *arg)
{
    (void)arg;
    struct sl_buf buf;
    struct sl_arena arena;
    sl_buf_init(&buf, 100000);
    sl_arena_init(&arena, 64, 100000);
    for (int i = 0; i < 300; i++)
        sl_buf_add_format(&buf, "line %d\n", i);
    sl_status status = sl_buf_status(&buf, "document");
    for (int i = 0; i < 20 && status == SL_OK; i++) {
        if (sl_arena_try_alloc(&arena, 1, 50) == NULL)
            status = sl_fail(SL_NO_MEMORY, "arena");
    }
    sl_arena_fini(&arena);
    sl_buf_fini(&buf);
    return status;
}

static void test_torture(void **state)
{
    (void)state;
    assert_true(torture_run("document", build_document, NULL, NULL, 1000) > 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_zero_size_gives_a_pointer),
        cmocka_unit_test(test_overflow_is_no_memory),
        cmocka_unit_test(test_aligned_is_aligned_and_zero),
        cmocka_unit_test(test_fault_point_mem),
        cmocka_unit_test(test_strings),
        cmocka_unit_test(test_arena_aligns_zeroes_and_bounds),
        cmocka_unit_test(test_arena_copies_text),
        cmocka_unit_test(test_arena_without_room),
        cmocka_unit_test(test_buf_grows_to_its_maximum),
        cmocka_unit_test(test_buf_failed_stays_failed),
        cmocka_unit_test(test_buf_json_string),
        cmocka_unit_test(test_torture),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Stop strings against a reference that looks at the whole text again after every byte. */
#include "support/support.h"
#include "text/stop.h"

#define TEXT_MAX 64

/* What the reference says of a text that comes in pieces. */
struct verdict {
    int index;
    size_t visible; /* bytes of the text that are shown in the end */
};

/* The first byte at which a string is complete; the longest of those that are. */
static struct verdict judge(const struct text_stop_args *args, const char *text, size_t bytes,
                            size_t counts_from)
{
    for (size_t end = counts_from + 1; end <= bytes; end++) {
        int best = -1;
        size_t best_bytes = 0;
        for (uint32_t i = 0; i < args->n_strings; i++) {
            size_t n = strlen(args->strings[i]);
            if (n <= end && n > best_bytes && memcmp(text + end - n, args->strings[i], n) == 0) {
                best = (int)i;
                best_bytes = n;
            }
        }
        if (best >= 0)
            return (struct verdict){best, args->include_stop_str ? end : end - best_bytes};
    }
    return (struct verdict){-1, bytes};
}

/* Whether some longer text could make a stop string out of a suffix of so many bytes. */
static bool begins_stop(const struct text_stop_args *args, const char *suffix, size_t bytes)
{
    for (uint32_t i = 0; i < args->n_strings; i++)
        if (bytes < strlen(args->strings[i]) && memcmp(args->strings[i], suffix, bytes) == 0)
            return true;
    return false;
}

static size_t must_hold(const struct text_stop_args *args, const char *text, size_t bytes)
{
    for (size_t n = bytes; n > 0; n--)
        if (begins_stop(args, text + bytes - n, n))
            return n;
    return 0;
}

static void check(const struct text_stop_args *args, const char *text, size_t bytes,
                  const size_t *cuts, size_t n_cuts)
{
    struct text_stop *stop = NULL;
    struct sl_buf out;
    size_t counts_from =
        args->min_tokens < n_cuts ? args->min_tokens == 0 ? 0 : cuts[args->min_tokens - 1] : bytes;
    struct verdict want = judge(args, text, bytes, counts_from);
    size_t done = 0;
    bool stopped = false;

    sl_buf_init(&out, 1000);
    assert_ok(text_stop_create(args, &stop));
    for (size_t i = 0; i < n_cuts && !stopped; i++) {
        stopped = text_stop_push(stop, text + done, cuts[i] - done, &out);
        done = cuts[i];
        if (!stopped) { /* exactly what may become a stop string is held */
            assert_int_equal(text_stop_held_bytes(stop), must_hold(args, text, done));
            assert_int_equal(out.bytes, done - must_hold(args, text, done));
        }
    }
    assert_int_equal(stopped, want.index >= 0);
    if (stopped) {
        assert_true(text_stop_push(stop, "more", 4, &out));
        assert_int_equal(text_stop_held_bytes(stop), 0);
    }
    text_stop_flush(stop, &out);
    assert_int_equal(text_stop_index(stop), want.index);
    assert_int_equal(out.bytes, want.visible);
    if (want.visible > 0)
        assert_memory_equal(out.data, text, want.visible);
    text_stop_destroy(stop);
    sl_buf_fini(&out);
}

static void test_random_texts(void **state)
{
    uint64_t seed = 11;
    uint32_t n_stopped = 0;

    (void)state;
    for (int round = 0; round < 60000; round++) {
        char strings[TEXT_STOPS_MAX][8], text[TEXT_MAX];
        const char *pointers[TEXT_STOPS_MAX];
        size_t cuts[TEXT_MAX], n_cuts = 0;
        uint32_t letters = 2 + (uint32_t)(test_random(&seed) % 3);
        struct text_stop_args args = {
            .strings = pointers,
            .n_strings = (uint32_t)(test_random(&seed) % (TEXT_STOPS_MAX / 2 + 1)),
            .include_stop_str = test_random(&seed) % 4 == 0,
            .min_tokens = test_random(&seed) % 3 == 0 ? (uint32_t)(test_random(&seed) % 8) : 0,
        };
        for (uint32_t i = 0; i < args.n_strings; i++) {
            size_t n = 1 + test_random(&seed) % 7;
            for (size_t k = 0; k < n; k++)
                strings[i][k] = (char)('a' + test_random(&seed) % letters);
            strings[i][n] = '\0';
            pointers[i] = strings[i];
        }
        size_t bytes = test_random(&seed) % TEXT_MAX;
        for (size_t i = 0; i < bytes; i++)
            text[i] = (char)('a' + test_random(&seed) % (letters + (i % 2)));
        for (size_t at = 0; at < bytes || n_cuts == 0; n_cuts++) {
            at += test_random(&seed) % 5;
            if (at > bytes || n_cuts == TEXT_MAX - 1)
                at = bytes;
            cuts[n_cuts] = at;
        }
        check(&args, text, bytes, cuts, n_cuts);
        n_stopped += judge(&args, text, bytes, 0).index >= 0;
    }
    assert_true(n_stopped > 10000 && n_stopped < 59000);
}

static const char *run(const struct text_stop_args *args, const char *const *pieces, int n,
                       struct sl_buf *out, int *index_out)
{
    struct text_stop *stop = NULL;

    sl_buf_reset(out);
    sl_buf_add_text(out, "");
    assert_ok(text_stop_create(args, &stop));
    bool stopped = false;
    for (int i = 0; i < n && !stopped; i++)
        stopped = text_stop_push(stop, pieces[i], strlen(pieces[i]), out);
    if (!stopped)
        text_stop_flush(stop, out);
    *index_out = text_stop_index(stop);
    text_stop_destroy(stop);
    return out->data;
}

static void test_cases(void **state)
{
    struct sl_buf out;
    int index;

    (void)state;
    sl_buf_init(&out, 1000);
    /* across tokens */
    struct text_stop_args args = {.strings = (const char *const[]){"\n\nQ:"}, .n_strings = 1};
    const char *const answer[] = {"yes", "\n", "\n", "Q", ":", " no"};
    assert_string_equal(run(&args, answer, 6, &out, &index), "yes");
    assert_int_equal(index, 0);
    args.include_stop_str = true;
    assert_string_equal(run(&args, answer, 6, &out, &index), "yes\n\nQ:");
    /* complete first, not listed first nor longest */
    args = (struct text_stop_args){.strings = (const char *const[]){"three four", "ee"},
                                   .n_strings = 2};
    const char *const words[] = {"one three four five"};
    assert_string_equal(run(&args, words, 1, &out, &index), "one thr");
    assert_int_equal(index, 1);
    /* complete together: the longer */
    args = (struct text_stop_args){.strings = (const char *const[]){"four", "ee four", "r"},
                                   .n_strings = 3};
    const char *const more[] = {"th", "ee fou", "r five"};
    assert_string_equal(run(&args, more, 3, &out, &index), "th");
    assert_int_equal(index, 1);
    /* min_tokens: one that completes too early passes, and the next counts */
    args = (struct text_stop_args){
        .strings = (const char *const[]){"x"}, .n_strings = 1, .min_tokens = 2};
    const char *const early[] = {"ax", "x", "bxc"};
    assert_string_equal(run(&args, early, 3, &out, &index), "axxb");
    /* one that begins early and completes in time */
    args.strings = (const char *const[]){"END"};
    const char *const across[] = {"aE", "N", "Db"};
    assert_string_equal(run(&args, across, 3, &out, &index), "a");
    /* none */
    args.n_strings = 0;
    assert_string_equal(run(&args, across, 3, &out, &index), "aENDb");
    assert_int_equal(index, -1);
    sl_buf_fini(&out);
}

static void test_bounds(void **state)
{
    char *long_one = sl_zalloc(TEXT_STOP_BYTES_MAX + 2, 1);
    const char *many[TEXT_STOPS_MAX + 1];
    struct text_stop *stop = NULL;

    (void)state;
    for (size_t i = 0; i <= TEXT_STOPS_MAX; i++)
        many[i] = "stop";
    struct text_stop_args args = {.strings = many, .n_strings = TEXT_STOPS_MAX + 1};
    assert_fails(text_stop_create(&args, &stop), SL_INVALID, "17 strings");
    args.n_strings = TEXT_STOPS_MAX;
    assert_ok(text_stop_create(&args, &stop)); /* one string sixteen times */
    text_stop_destroy(stop);
    many[0] = "";
    assert_fails(text_stop_create(&args, &stop), SL_INVALID, "0 bytes");
    many[0] = "\xff";
    assert_fails(text_stop_create(&args, &stop), SL_INVALID, "UTF-8");
    memset(long_one, 'a', TEXT_STOP_BYTES_MAX + 1);
    many[0] = long_one;
    assert_fails(text_stop_create(&args, &stop), SL_INVALID, "1025 bytes");

    /* the longest of all, and a text that nearly is it a thousand times: linear, nothing lost */
    long_one[TEXT_STOP_BYTES_MAX] = '\0';
    long_one[TEXT_STOP_BYTES_MAX - 1] = 'b';
    args.n_strings = 1;
    assert_ok(text_stop_create(&args, &stop));
    struct sl_buf out;
    sl_buf_init(&out, 1 << 21);
    for (int i = 0; i < 1 << 20; i++)
        assert_false(text_stop_push(stop, "a", 1, &out));
    assert_int_equal(text_stop_held_bytes(stop), TEXT_STOP_BYTES_MAX - 1);
    assert_true(text_stop_push(stop, "b", 1, &out));
    assert_int_equal(out.bytes, (1 << 20) + 1 - TEXT_STOP_BYTES_MAX);
    text_stop_destroy(stop);
    sl_buf_fini(&out);
    sl_free(long_one);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_texts),
        cmocka_unit_test(test_cases),
        cmocka_unit_test(test_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

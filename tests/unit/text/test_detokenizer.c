/* Detokenizer: pieces are whole characters, and together they are what the whole decodes to. */
#include "golden.h"
#include "text/chars.h"
#include "text/detokenizer.h"

#define LISTS 400

static void check_list(const struct text_tokenizer *tokenizer, const uint32_t *ids, size_t n,
                       bool skip, struct text_detokenizer *detokenizer)
{
    struct sl_buf whole, pieces;
    size_t held_max = 0;

    sl_buf_init(&whole, 1 << 20);
    sl_buf_init(&pieces, 1 << 20);
    text_tokenizer_decode(tokenizer, ids, n, skip, &whole);
    for (size_t i = 0; i < n; i++) {
        struct text_offset offset;
        size_t start = pieces.bytes, chars = 0;
        text_detokenizer_push(detokenizer, ids[i], &pieces, &offset);
        assert_int_equal(offset.bytes, start);
        for (size_t k = 0; k < start; k++)
            chars += ((uint8_t)pieces.data[k] & 0xc0u) != 0x80u;
        assert_int_equal(offset.chars, chars);
        if (pieces.bytes > start)
            assert_true(text_utf8_valid(pieces.data + start, pieces.bytes - start, NULL));
        /* what came out is the beginning of the whole: nothing is taken back */
        assert_true(pieces.bytes <= whole.bytes + 12);
        if (detokenizer->n_held > held_max)
            held_max = detokenizer->n_held;
    }
    assert_true(held_max <= 3);
    text_detokenizer_flush(detokenizer, &pieces);
    assert_int_equal(pieces.bytes, whole.bytes);
    if (whole.bytes > 0)
        assert_memory_equal(pieces.data, whole.data, whole.bytes);
    sl_buf_fini(&whole);
    sl_buf_fini(&pieces);
}

static void check_tokenizer(const char *name)
{
    struct text_tokenizer *tokenizer = golden_tokenizer(name);
    struct text_detokenizer detokenizer;
    uint64_t seed = 7;

    for (int skip = 0; skip < 2; skip++) {
        text_detokenizer_init(&detokenizer, tokenizer, skip == 1);
        for (int i = 0; i < LISTS; i++) { /* one detokenizer for all: flush begins anew */
            uint32_t ids[48];
            size_t n = test_random(&seed) % 48;
            uint32_t top = i % 2 == 0 ? text_tokenizer_n_ids(tokenizer) + 3 : 260;
            for (size_t k = 0; k < n; k++)
                ids[k] = (uint32_t)(test_random(&seed) % top);
            check_list(tokenizer, ids, n, skip == 1, &detokenizer);
        }
        text_detokenizer_fini(&detokenizer);
    }
    text_tokenizer_destroy(tokenizer);
}

static void test_pieces_are_the_whole(void **state)
{
    DIR *root = opendir(GOLDEN_ROOT);
    int n = 0;

    (void)state;
    assert_non_null(root);
    for (struct dirent *entry; (entry = readdir(root)) != NULL;) {
        if (entry->d_name[0] == '.' || strncmp(entry->d_name, "split_", 6) == 0)
            continue;
        check_tokenizer(entry->d_name);
        n++;
    }
    closedir(root);
    assert_true(n >= 18);
}

/* The euro sign byte by byte: nothing, nothing, all; and cut short. */
static void test_holds_back(void **state)
{
    struct text_tokenizer *tokenizer = golden_tokenizer("gpt2");
    struct text_detokenizer detokenizer;
    struct sl_buf out;
    uint32_t e2, b82, ac, a;

    (void)state;
    assert_true(text_tokenizer_find(tokenizer, "â", 2, &e2));  /* e2 */
    assert_true(text_tokenizer_find(tokenizer, "Ĥ", 2, &b82)); /* 82 */
    assert_true(text_tokenizer_find(tokenizer, "¬", 2, &ac));  /* ac */
    assert_true(text_tokenizer_find(tokenizer, "a", 1, &a));
    sl_buf_init(&out, 1000);
    text_detokenizer_init(&detokenizer, tokenizer, true);

    text_detokenizer_push(&detokenizer, e2, &out, NULL);
    text_detokenizer_push(&detokenizer, b82, &out, NULL);
    assert_int_equal(out.bytes, 0);
    text_detokenizer_push(&detokenizer, ac, &out, NULL);
    assert_string_equal(out.data, "€");
    text_detokenizer_push(&detokenizer, 0, &out, NULL); /* special */
    text_detokenizer_push(&detokenizer, e2, &out, NULL);
    text_detokenizer_push(&detokenizer, b82, &out, NULL);
    text_detokenizer_push(&detokenizer, a, &out, NULL);
    assert_string_equal(out.data, "€\ufffda");
    text_detokenizer_push(&detokenizer, ac, &out, NULL); /* belongs to nothing */
    text_detokenizer_push(&detokenizer, e2, &out, NULL);
    assert_string_equal(out.data, "€\ufffda\ufffd");
    text_detokenizer_flush(&detokenizer, &out);
    assert_string_equal(out.data, "€\ufffda\ufffd\ufffd");

    text_detokenizer_fini(&detokenizer);
    sl_buf_fini(&out);
    text_tokenizer_destroy(tokenizer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pieces_are_the_whole),
        cmocka_unit_test(test_holds_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

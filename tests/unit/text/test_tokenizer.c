/* Tokenizer against what the Python package `tokenizers` answered, hostile texts, bad files. */
#include "base/clock.h"
#include "base/thread.h"
#include "golden.h"
#include "support/torture.h"
#include "text/detokenizer.h"

static struct text_ids wanted, had, before, after;
static struct sl_buf text_had;

static int setup(void **state)
{
    (void)state;
    text_ids_init(&wanted, SIZE_MAX / 16);
    text_ids_init(&had, SIZE_MAX / 16);
    text_ids_init(&before, 64);
    text_ids_init(&after, 64);
    sl_buf_init(&text_had, SIZE_MAX / 16);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    text_ids_fini(&wanted);
    text_ids_fini(&had);
    text_ids_fini(&before);
    text_ids_fini(&after);
    sl_buf_fini(&text_had);
    return 0;
}

static void assert_ids(const char *name, const char *text, const struct text_ids *want)
{
    bool equal = want->n_ids == had.n_ids &&
                 (had.n_ids == 0 || memcmp(want->ids, had.ids, had.n_ids * sizeof(uint32_t)) == 0);
    if (!equal)
        fail_msg("%s: \"%s\": %zu ids, want %zu, or others", name, text, had.n_ids, want->n_ids);
}

static void assert_decoded(const char *name, const struct text_tokenizer *tokenizer,
                           const struct text_ids *ids, bool skip, const char *want, size_t bytes)
{
    sl_buf_reset(&text_had);
    text_tokenizer_decode(tokenizer, ids->ids, ids->n_ids, skip, &text_had);
    assert_ok(sl_buf_status(&text_had, "text"));
    if (text_had.bytes != bytes || (bytes > 0 && memcmp(text_had.data, want, bytes) != 0))
        fail_msg("%s: decoded \"%s\", want \"%s\"", name, text_had.data, want);
}

/* One E line: ids without and with special tokens, and decoded again. */
static void check_encode(const char *name, const struct text_tokenizer *tokenizer,
                         const struct golden_line *line)
{
    const char *text = line->fields[1];
    size_t bytes = line->bytes[1];
    bool same = strcmp(line->fields[3], "=") == 0;

    golden_ids(line->fields[2], &wanted);
    had.n_ids = 0;
    assert_ok(text_tokenizer_encode(tokenizer, text, bytes, false, &had));
    assert_ids(name, text, &wanted);
    assert_decoded(name, tokenizer, &had, false, line->fields[same ? 1 : 3],
                   line->bytes[same ? 1 : 3]);

    struct text_ids whole;
    text_ids_init(&whole, SIZE_MAX / 16);
    for (size_t i = 0; i < before.n_ids; i++)
        assert_ok(text_ids_add(&whole, before.ids[i]));
    for (size_t i = 0; i < wanted.n_ids; i++)
        assert_ok(text_ids_add(&whole, wanted.ids[i]));
    for (size_t i = 0; i < after.n_ids; i++)
        assert_ok(text_ids_add(&whole, after.ids[i]));
    had.n_ids = 0;
    assert_ok(text_tokenizer_encode(tokenizer, text, bytes, true, &had));
    assert_ids(name, text, &whole);
    text_ids_fini(&whole);
}

static void check_decode(const char *name, const struct text_tokenizer *tokenizer,
                         const struct golden_line *line)
{
    int skipped = strcmp(line->fields[3], "=") == 0 ? 2 : 3;

    golden_ids(line->fields[1], &wanted);
    assert_decoded(name, tokenizer, &wanted, false, line->fields[2], line->bytes[2]);
    assert_decoded(name, tokenizer, &wanted, true, line->fields[skipped], line->bytes[skipped]);
}

/* Returns the number of texts. */
static uint32_t check_golden(const char *name)
{
    struct text_tokenizer *tokenizer = golden_tokenizer(name);
    struct golden_file file;
    struct golden_line line;
    uint32_t n_texts = 0, n_lists = 0;

    golden_open(name, &file);
    while (golden_next(&file, &line)) {
        if (line.fields[0][0] == 'S') {
            golden_ids(line.fields[1], &before);
            golden_ids(line.fields[2], &after);
        } else if (line.fields[0][0] == 'E') {
            check_encode(name, tokenizer, &line);
            n_texts++;
        } else {
            check_decode(name, tokenizer, &line);
            n_lists++;
        }
    }
    assert_true(n_texts >= 100 && n_lists >= 20);
    golden_close(&file);
    text_tokenizer_destroy(tokenizer);
    return n_texts;
}

static void test_golden(void **state)
{
    static const char *const patterns[] = {"gpt2",   "llama3",   "qwen2",  "gpt4o",
                                           "cl100k", "deepseek", "smollm", "added"};
    DIR *root = opendir(GOLDEN_ROOT);
    uint32_t n_names = 0;

    (void)state;
    assert_non_null(root);
    for (size_t i = 0; i < sizeof(patterns) / sizeof(patterns[0]); i++)
        assert_true(check_golden(patterns[i]) >= 1000);
    for (struct dirent *entry; (entry = readdir(root)) != NULL;) {
        if (entry->d_name[0] == '.')
            continue;
        check_golden(entry->d_name);
        n_names++;
    }
    closedir(root);
    assert_true(n_names >= 29);
}

/* A megabyte of something that punishes what is not linear. The text comes back, in seconds. */
static void check_hostile(const struct text_tokenizer *tokenizer, const char *unit, size_t bytes,
                          bool comes_back)
{
    size_t n = strlen(unit), at = 0;
    char *text = sl_zalloc(bytes + n, 1);
    uint64_t start = sl_now_us();

    for (; at < bytes; at += n)
        memcpy(text + at, unit, n);
    had.n_ids = 0;
    assert_ok(text_tokenizer_encode(tokenizer, text, at, false, &had));
    if (comes_back)
        assert_decoded("hostile", tokenizer, &had, false, text, at);
    if (sl_now_us() - start > 20 * SL_SECOND_US)
        fail_msg("%zu bytes of \"%s\" took %.1f s", at, unit, (double)(sl_now_us() - start) / 1e6);
    sl_free(text);
}

static void test_hostile(void **state)
{
    static const char *const names[] = {"gpt2", "llama3", "qwen2"};
    static const char *const units[] = {"a", "ab", " ", "\n", " \n", "\t ",  "1",      "the",
                                        "é", "漢", "'", "<|", "!",   "\x01", "👩\u200d"};

    (void)state;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        struct text_tokenizer *tokenizer = golden_tokenizer(names[i]);
        for (size_t j = 0; j < sizeof(units) / sizeof(units[0]); j++)
            check_hostile(tokenizer, units[j], j == 0 && i == 0 ? 1 << 20 : 1 << 17, true);
        /* marks of falling classes, which have to be sorted */
        check_hostile(tokenizer, "\u0345\u0301\u0316\u0334", 1 << 17, i != 2);
        text_tokenizer_destroy(tokenizer);
    }
}

/* Many threads, one tokenizer. */
struct worker {
    struct sl_thread thread;
    const struct text_tokenizer *tokenizer;
    uint64_t seed;
    bool equal;
};

static void work(void *arg)
{
    static const char text[] = "It's 12345 о'clock, 今日は👩\u200d👧 e\u0301 <|im_end|>\n\n done";
    struct worker *worker = arg;
    struct text_ids ids;
    struct sl_buf out;

    text_ids_init(&ids, 1000);
    sl_buf_init(&out, 10000);
    worker->equal = true;
    for (int i = 0; i < 50; i++) {
        size_t bytes = sizeof(text) - 1;
        ids.n_ids = 0;
        sl_buf_reset(&out);
        if (text_tokenizer_encode(worker->tokenizer, text, bytes, true, &ids) != SL_OK)
            worker->equal = false;
        text_tokenizer_decode(worker->tokenizer, ids.ids, ids.n_ids, false, &out);
        worker->equal = worker->equal && strstr(out.data, "done") != NULL &&
                        strstr(out.data, "\u00e9 <|im_end|>") != NULL;
    }
    text_ids_fini(&ids);
    sl_buf_fini(&out);
}

static void test_threads(void **state)
{
    struct text_tokenizer *tokenizer = golden_tokenizer("qwen2");
    struct worker workers[4] = {0};

    (void)state;
    for (int i = 0; i < 4; i++) {
        workers[i].tokenizer = tokenizer;
        assert_ok(sl_thread_start(&workers[i].thread, "encode", work, &workers[i]));
    }
    for (int i = 0; i < 4; i++) {
        sl_thread_join(&workers[i].thread);
        assert_true(workers[i].equal);
    }
    text_tokenizer_destroy(tokenizer);
}

static void test_refused_text(void **state)
{
    struct text_tokenizer *tokenizer = golden_tokenizer("gpt2");
    struct text_ids few;

    (void)state;
    assert_fails(text_tokenizer_encode(tokenizer, "ab\xff", 3, false, &had), SL_INVALID, "byte 2");
    assert_fails(text_tokenizer_encode(tokenizer, "\xe6\xbc", 2, false, &had), SL_INVALID, "UTF-8");
    assert_fails(text_tokenizer_encode(tokenizer, "\xed\xa0\x80", 3, false, &had), SL_INVALID,
                 "UTF-8");
    text_ids_init(&few, 3);
    assert_fails(text_tokenizer_encode(tokenizer, "one two three four", 18, false, &few),
                 SL_EXHAUSTED, "3 tokens");
    text_ids_fini(&few);
    text_tokenizer_destroy(tokenizer);
}

static void test_tokens(void **state)
{
    struct text_tokenizer *tokenizer = golden_tokenizer("gpt2");
    uint32_t id, ids[2];
    size_t bytes;
    struct sl_buf name;

    (void)state;
    sl_buf_init(&name, 1000);
    assert_true(text_tokenizer_find(tokenizer, "<|endoftext|>", 13, &id));
    assert_int_equal(id, 0);
    assert_true(text_tokenizer_is_special(tokenizer, 0));
    assert_false(text_tokenizer_is_special(tokenizer, 1));
    assert_false(text_tokenizer_is_special(tokenizer, UINT32_MAX));
    assert_false(text_tokenizer_find(tokenizer, "no such token", 13, &id));
    assert_null(text_tokenizer_token_bytes(tokenizer, text_tokenizer_n_ids(tokenizer), &bytes));
    assert_false(text_tokenizer_eos(tokenizer, &id));
    assert_true(text_tokenizer_find(tokenizer, "Ġthe", 5, &id));
    assert_memory_equal(text_tokenizer_token_bytes(tokenizer, id, &bytes), " the", 4);
    assert_int_equal(bytes, 4);
    text_tokenizer_token_name(tokenizer, id, false, &name);
    assert_string_equal(name.data, " the");
    sl_buf_reset(&name);
    text_tokenizer_token_name(tokenizer, id, true, &name);
    assert_string_equal(name.data, "bytes:\\x20\\x74\\x68\\x65");
    sl_buf_reset(&name);
    assert_true(text_tokenizer_find(tokenizer, "â", 2, &id)); /* the byte e2 */
    text_tokenizer_token_name(tokenizer, id, false, &name);
    assert_string_equal(name.data, "bytes:\\xe2");
    ids[0] = id;
    ids[1] = text_tokenizer_n_ids(tokenizer) + 7; /* nobody's: nothing */
    sl_buf_reset(&name);
    text_tokenizer_decode(tokenizer, ids, 2, true, &name);
    assert_string_equal(name.data, "\ufffd");
    sl_buf_fini(&name);
    text_tokenizer_destroy(tokenizer);
}

/* ---- files ---- */

#define VOCAB "\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"<s>\":3}"
#define MODEL "\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":[[\"a\",\"b\"]]}"
#define BYTES "\"pre_tokenizer\":{\"type\":\"ByteLevel\"}"

static const struct {
    const char *json;
    sl_status code;
    const char *part;
} bad_files[] = {
    {"", SL_INVALID, "bad.json"},
    {"[]", SL_INVALID, "not an object"},
    {"{}", SL_INVALID, "no model"},
    {"{" MODEL, SL_INVALID, "line 1"},
    {"{\"version\":\"2.0\"," MODEL "}", SL_UNSUPPORTED, "version"},
    {"{\"model\":7}", SL_INVALID, "model is not"},
    {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}", SL_UNSUPPORTED, "Unigram"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":[],\"merges\":[]}}", SL_INVALID, "model.vocab"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]}}", SL_INVALID, "model.vocab"},
    {"{\"model\":{\"type\":\"BPE\"," VOCAB "}}", SL_INVALID, "model.merges"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}}", SL_INVALID, "\"a\""},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":1.5},\"merges\":[]}}", SL_INVALID, "\"a\""},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":4000000000},\"merges\":[]}}", SL_INVALID,
     "\"a\""},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}", SL_CORRUPT,
     "twice"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"a\":1},\"merges\":[]}}", SL_INVALID,
     "line"},
    {"{\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":[\"a c\"]}}", SL_CORRUPT, "merges[0]"},
    {"{\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":[\"b a\"]}}", SL_CORRUPT, "merges[0]"},
    {"{\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":[\"ab\"]}}", SL_INVALID, "merges[0]"},
    {"{\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":[\"a b c\"]}}", SL_INVALID, "merges[0]"},
    {"{\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":[\"a b\",[\"a\",\"b\"]]}}", SL_INVALID,
     "merges[1]"},
    {"{\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":[[\"a\"]]}}", SL_INVALID, "merges[0]"},
    {"{\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":[],\"unk_token\":\"?\"}}", SL_CORRUPT,
     "unk_token"},
    {"{\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":[],\"dropout\":0.1}}", SL_UNSUPPORTED,
     "dropout"},
    {"{\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":[],\"dropout\":\"x\"}}", SL_INVALID,
     "dropout must be a number"},
    {"{\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":[],\"end_of_word_suffix\":\"</w>\"}}",
     SL_UNSUPPORTED, "end_of_word_suffix"},
    {"{\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":[],\"fuse_unk\":\"yes\"}}", SL_INVALID,
     "fuse_unk"},
    {"{\"normalizer\":{\"type\":\"Precompiled\"}," MODEL "}", SL_UNSUPPORTED, "Precompiled"},
    {"{\"normalizer\":[]," MODEL "}", SL_INVALID, "normalizer"},
    {"{\"pre_tokenizer\":{\"type\":\"UnicodeScripts\"}," MODEL "}", SL_UNSUPPORTED,
     "UnicodeScripts"},
    {"{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\"},"
     "{\"type\":\"Digits\"}]}," MODEL "}",
     SL_UNSUPPORTED, "behind ByteLevel"},
    {"{\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Isolated\",\"pattern\":{\"Regex\":\"("
     "\"}}"
     "," MODEL "}",
     SL_INVALID, "Split"},
    {"{\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Isolated\",\"pattern\":{\"Regex\":"
     "\"\\\\h+\"}}," MODEL "}",
     SL_UNSUPPORTED, "\\h"},
    {"{\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Sideways\",\"pattern\":{\"String\":\" "
     "\"}}"
     "," MODEL "}",
     SL_INVALID, "Sideways"},
    {"{\"post_processor\":{\"type\":\"Other\"}," MODEL "}", SL_UNSUPPORTED, "Other"},
    {"{\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":"
     "\"<s>\"}},{\"Sequence\":{\"id\":\"A\"}}],\"special_tokens\":{}}," MODEL "}",
     SL_INVALID, "<s>"},
    {"{\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":"
     "\"<s>\"}},{\"Sequence\":{\"id\":\"A\"}}],\"special_tokens\":{\"<s>\":{\"ids\":[99]}}}," MODEL
     "}",
     SL_CORRUPT, "99"},
    {"{\"decoder\":{\"type\":\"WordPiece\"}," MODEL "}", SL_UNSUPPORTED, "WordPiece"},
    {"{\"added_tokens\":{}," MODEL "}", SL_INVALID, "added_tokens"},
    {"{\"added_tokens\":[{\"id\":3}]," MODEL "}", SL_INVALID, "added_tokens[0].content"},
    {"{\"added_tokens\":[{\"content\":\"x\"}]," MODEL "}", SL_INVALID, "added_tokens[0].id"},
    {"{\"added_tokens\":[{\"id\":1,\"content\":\"x\"}]," MODEL "}", SL_CORRUPT, "its turn is 4"},
    {"{\"added_tokens\":[{\"id\":2,\"content\":\"<s>\"}]," MODEL "}", SL_CORRUPT,
     "model.vocab it is 3"},
    {"{\"added_tokens\":[{\"id\":4,\"content\":\"x\"},{\"id\":5,\"content\":\"x\"}]," MODEL "}",
     SL_CORRUPT, "twice"},
    {"{\"added_tokens\":[{\"id\":99999999,\"content\":\"x\"}]," MODEL "}", SL_INVALID, "id"},
};

static void test_bad_files(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(bad_files) / sizeof(bad_files[0]); i++) {
        struct text_tokenizer *tokenizer = NULL;
        const char *json = bad_files[i].json;
        sl_status status = text_tokenizer_parse("bad.json", json, strlen(json), &tokenizer);
        if (status != bad_files[i].code || strstr(sl_error(), bad_files[i].part) == NULL ||
            strstr(sl_error(), "bad.json") == NULL)
            fail_msg("%s: %s \"%s\"", json, sl_status_name(status), sl_error());
        assert_null(tokenizer);
    }
}

/* A real file, cut short anywhere: an error that names it, every time. */
static void test_truncated(void **state)
{
    struct text_tokenizer *tokenizer = NULL;
    FILE *file = fopen(GOLDEN_ROOT "/dropping/tokenizer.json", "re");
    char json[65536];

    (void)state;
    assert_non_null(file);
    size_t bytes = fread(json, 1, sizeof(json), file);
    fclose(file);
    while (bytes > 0 && json[bytes - 1] != '}')
        bytes--;
    assert_ok(text_tokenizer_parse("cut.json", json, bytes, &tokenizer));
    text_tokenizer_destroy(tokenizer);
    tokenizer = NULL;
    for (size_t n = 0; n < bytes; n += n < 64 ? 1 : 37)
        assert_fails(text_tokenizer_parse("cut.json", json, n, &tokenizer), SL_INVALID, "cut.json");
    assert_null(tokenizer);
}

static void test_open(void **state)
{
    char *dir = test_dir_create();
    struct text_tokenizer *tokenizer = NULL;
    uint32_t id;

    (void)state;
    assert_fails(text_tokenizer_open(dir, &tokenizer), SL_NOT_FOUND, "tokenizer.json");
    test_write_text(dir, "tokenizer.json", "{" MODEL "}");
    assert_ok(text_tokenizer_open(dir, &tokenizer));
    assert_false(text_tokenizer_eos(tokenizer, &id));
    text_tokenizer_destroy(tokenizer);
    test_write_text(dir, "tokenizer_config.json",
                    "{\"eos_token\":{\"content\":\"<s>\"},\"bos_token\":\"ab\",\"other\":1}");
    assert_ok(text_tokenizer_open(dir, &tokenizer));
    assert_true(text_tokenizer_eos(tokenizer, &id));
    assert_int_equal(id, 3);
    assert_true(text_tokenizer_bos(tokenizer, &id));
    assert_int_equal(id, 2);
    text_tokenizer_destroy(tokenizer);
    tokenizer = NULL;
    test_write_text(dir, "tokenizer_config.json", "{\"eos_token\":");
    assert_fails(text_tokenizer_open(dir, &tokenizer), SL_INVALID, "tokenizer_config.json");
    assert_null(tokenizer);
    test_dir_remove(dir);
}

/* Every allocation that may fail, failing in turn. */
static sl_status scenario(void *arg)
{
    static const char json[] =
        "{\"added_tokens\":[{\"id\":4,\"content\":\"e\u0301\",\"normalized\":true}],\"normalizer\":"
        "{"
        "\"type\":\"NFC\"}," BYTES "," MODEL ",\"decoder\":{\"type\":\"ByteLevel\"}}";
    struct text_tokenizer *tokenizer = NULL;
    char text[400];
    struct text_ids ids;

    (void)arg;
    memset(text, 'a', sizeof(text));
    memcpy(text, "e\u0301 o\u0301", 7);
    text_ids_init(&ids, 1000);
    sl_status status = text_tokenizer_parse("torture", json, sizeof(json) - 1, &tokenizer);
    if (status == SL_OK)
        status = text_tokenizer_encode(tokenizer, text, sizeof(text), true, &ids);
    if (status == SL_OK)
        assert_int_equal(ids.ids[0], 4);
    text_ids_fini(&ids);
    text_tokenizer_destroy(tokenizer);
    return status;
}

static void test_torture(void **state)
{
    (void)state;
    torture_run("tokenizer", scenario, NULL, NULL, 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_golden, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hostile, setup, teardown),
        cmocka_unit_test(test_threads),
        cmocka_unit_test_setup_teardown(test_refused_text, setup, teardown),
        cmocka_unit_test(test_tokens),
        cmocka_unit_test(test_bad_files),
        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_open),
        cmocka_unit_test(test_torture),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

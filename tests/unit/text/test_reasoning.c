/* Reasoning told from the answer: the same, however the text is cut into tokens. */
#include "text/reasoning.h"

#include "support/support.h"

struct cases {
    bool inside;
    const char *text, *thought, *answer;
};

static const struct cases cases[] = {
    {false, "<think>\nadd them\n</think>\n\n4", "\nadd them\n", "\n\n4"},
    {false, "\n <think>a</think>b", "a", "b"},
    {false, "4", "", "4"},
    {false, "", "", ""},
    {false, "  4", "", "  4"},
    {false, " \n", "", " \n"},
    {false, "<thi", "", "<thi"},
    {false, "<thin>k", "", "<thin>k"},
    {false, " < think>x</think>", "", " < think>x</think>"},
    {false, "a <think>b</think>", "", "a <think>b</think>"},
    {false, "<think></think>x", "", "x"},
    {false, "<think>a</thin</think>b", "a</thin", "b"},
    {false, "<think>a<<</think>b", "a<<", "b"},
    {false, "<think>a</</think></think>b", "a</", "</think>b"},
    {false, "<think>a</thi", "a</thi", ""},
    {false, "<think>a<think>b</think>c", "a<think>b", "c"},
    {true, "first</think>then", "first", "then"},
    {true, "\n\nfirst", "\n\nfirst", ""},
    {true, "</think>x<think>y</think>z", "", "x<think>y</think>z"},
    {true, "na\xc3\xafve \xe2\x82\xac</think>\xf0\x9f\x99\x82", "na\xc3\xafve \xe2\x82\xac",
     "\xf0\x9f\x99\x82"},
    /* More white space than is held. */
    {false, "                                 <think>a</think>", "",
     "                                 <think>a</think>"},
    {false, "                                <think>a</think>", "a", ""},
};

static const char *text_of(const struct sl_buf *buf)
{
    return buf->data != NULL ? buf->data : "";
}

static void split(const struct cases *c, size_t step, struct text_reasoning *r)
{
    struct sl_buf thought, answer;
    sl_buf_init(&thought, 1 << 16);
    sl_buf_init(&answer, 1 << 16);
    text_reasoning_init(r, &text_reasoning_marks[0], c->inside);
    size_t n = strlen(c->text), at = 0;
    for (; at + step < n; at += step)
        text_reasoning_push(r, c->text + at, step, &thought, &answer);
    text_reasoning_push(r, c->text + at, n - at, &thought, &answer);
    text_reasoning_flush(r, "", 0, &thought, &answer);
    if (strcmp(text_of(&thought), c->thought) != 0 || strcmp(text_of(&answer), c->answer) != 0)
        fail_msg("\"%s\" in steps of %zu: \"%s\" and \"%s\"", c->text, step, text_of(&thought),
                 text_of(&answer));
    sl_buf_fini(&thought);
    sl_buf_fini(&answer);
}

static void test_any_cut(void **state)
{
    (void)state;
    struct text_reasoning r;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        for (size_t step = 1; step <= strlen(cases[i].text) + 1; step++)
            split(&cases[i], step, &r);
}

/* Text is given out as soon as it cannot be part of a mark any more. */
static void test_holds_little(void **state)
{
    (void)state;
    struct text_reasoning r;
    struct sl_buf thought, answer;
    sl_buf_init(&thought, 1 << 16);
    sl_buf_init(&answer, 1 << 16);
    text_reasoning_init(&r, &text_reasoning_marks[0], true);
    text_reasoning_push(&r, "ab</th", 6, &thought, &answer);
    assert_string_equal(thought.data, "ab");
    text_reasoning_push(&r, "e", 1, &thought, &answer);
    assert_string_equal(thought.data, "ab</the");
    text_reasoning_push(&r, "</think>!", 9, &thought, &answer);
    assert_string_equal(answer.data, "!");
    text_reasoning_flush(&r, "?", 1, &thought, &answer);
    assert_string_equal(answer.data, "!?");
    sl_buf_fini(&thought);
    sl_buf_fini(&answer);
}

/* Tokens: one byte each, so the count is that of the bytes, marks and what stood before included. */
static void test_counts_tokens(void **state)
{
    (void)state;
    const struct {
        bool inside;
        const char *text;
        uint32_t n;
    } counts[] = {{false, "<think>abc</think>de", 18},
                  {false, " <think>a</think>", 17},
                  {false, "plain", 0},
                  {false, "<thinx", 0},
                  {true, "abc</think>de", 11},
                  {true, "abc", 3}};
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        struct text_reasoning r;
        struct sl_buf out;
        sl_buf_init(&out, 1 << 16);
        text_reasoning_init(&r, &text_reasoning_marks[0], counts[i].inside);
        for (const char *p = counts[i].text; *p != '\0'; p++)
            text_reasoning_push(&r, p, 1, &out, &out);
        assert_int_equal(r.n_tokens, counts[i].n);
        sl_buf_fini(&out);
    }
    for (uint32_t i = 0; i < TEXT_REASONING_MARKS; i++)
        assert_true(strlen(text_reasoning_marks[i].open) <= TEXT_REASONING_MARK_BYTES &&
                    strlen(text_reasoning_marks[i].close) <= TEXT_REASONING_MARK_BYTES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_any_cut),
        cmocka_unit_test(test_holds_little),
        cmocka_unit_test(test_counts_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

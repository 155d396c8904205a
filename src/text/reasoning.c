/* Reasoning.
 *
 * A mark may be a token of its own, or come in any number of pieces, so it is looked for in the text.
 * What may be its beginning is held back: at most the white space before an open mark, and a mark less
 * one byte. Only an open mark at the start of the answer counts: later it is text that the model talks
 * about. The same goes for a close mark outside of the reasoning. */
#include "text/reasoning.h"

#include <string.h>

const struct text_reasoning_marks text_reasoning_marks[TEXT_REASONING_MARKS] = {
    {"<think>", "</think>"},
    {"[THINK]", "[/THINK]"},
    {"<seed:think>", "</seed:think>"},
};

void text_reasoning_init(struct text_reasoning *r, const struct text_reasoning_marks *marks,
                         bool inside)
{
    memset(r, 0, sizeof(*r));
    r->marks = marks;
    r->opened = inside;
    r->phase = inside ? TEXT_REASONING_INSIDE : TEXT_REASONING_BEFORE;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static void release(struct text_reasoning *r, struct sl_buf *to)
{
    sl_buf_add(to, r->held, r->n_held);
    r->n_held = 0;
}

/* One byte while it is open whether there will be reasoning at all. */
static void before(struct text_reasoning *r, char c, struct sl_buf *answer)
{
    uint32_t n_space = 0;
    while (n_space < r->n_held && is_space(r->held[n_space]))
        n_space++;
    uint32_t n_mark = r->n_held - n_space;
    r->held[r->n_held++] = c;
    if (n_mark == 0 && is_space(c) && n_space < TEXT_REASONING_SPACE_MAX)
        return;
    if (c != r->marks->open[n_mark]) {
        r->phase = TEXT_REASONING_AFTER;
        release(r, answer);
    } else if (r->marks->open[n_mark + 1] == '\0') {
        r->phase = TEXT_REASONING_INSIDE;
        r->opened = true;
        r->n_held = 0;
    }
}

/* One byte of the reasoning: what is held is always a beginning of the close mark. */
static void inside(struct text_reasoning *r, char c, struct sl_buf *thought)
{
    r->held[r->n_held++] = c;
    while (r->n_held > 0 && memcmp(r->held, r->marks->close, r->n_held) != 0) {
        sl_buf_add(thought, r->held, 1);
        memmove(r->held, r->held + 1, --r->n_held);
    }
    if (r->n_held > 0 && r->marks->close[r->n_held] == '\0') {
        r->phase = TEXT_REASONING_AFTER;
        r->n_held = 0;
    }
}

static void take(struct text_reasoning *r, const char *text, size_t bytes, struct sl_buf *thought,
                 struct sl_buf *answer)
{
    size_t i = 0;
    for (; i < bytes && r->phase == TEXT_REASONING_BEFORE; i++)
        before(r, text[i], answer);
    for (; i < bytes && r->phase == TEXT_REASONING_INSIDE; i++)
        inside(r, text[i], thought);
    if (i < bytes)
        sl_buf_add(answer, text + i, bytes - i);
}

void text_reasoning_push(struct text_reasoning *r, const char *text, size_t bytes,
                         struct sl_buf *thought, struct sl_buf *answer)
{
    if (r->phase != TEXT_REASONING_AFTER)
        r->n_open++;
    take(r, text, bytes, thought, answer);
    if (r->phase == TEXT_REASONING_BEFORE)
        return;
    if (r->opened)
        r->n_tokens += r->n_open;
    r->n_open = 0;
}

void text_reasoning_flush(struct text_reasoning *r, const char *text, size_t bytes,
                          struct sl_buf *thought, struct sl_buf *answer)
{
    take(r, text, bytes, thought, answer);
    release(r, r->phase == TEXT_REASONING_INSIDE ? thought : answer);
}

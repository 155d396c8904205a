/* Reasoning: the part of an answer that a model marks as its thinking, told from the rest while the
 * text grows. */
#ifndef SL_TEXT_REASONING_H
#define SL_TEXT_REASONING_H

#include "base/buf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TEXT_REASONING_MARKS      3u
#define TEXT_REASONING_MARK_BYTES 16u /* longest mark */
#define TEXT_REASONING_SPACE_MAX  32u /* bytes of white space that may stand before the open mark */

struct text_reasoning_marks {
    const char *open, *close; /* ASCII */
};

/* The marks that models use. */
extern const struct text_reasoning_marks text_reasoning_marks[TEXT_REASONING_MARKS];

/* BEFORE ── open mark ──► INSIDE ── close mark ──► AFTER
 *    └────────── anything else ─────────────────────┘ */
enum text_reasoning_phase {
    TEXT_REASONING_BEFORE, /* nothing but white space yet, or the beginning of the open mark */
    TEXT_REASONING_INSIDE,
    TEXT_REASONING_AFTER,
};

/* In the caller's storage; one thread at a time. Fields are its own, but for reading. */
struct text_reasoning {
    const struct text_reasoning_marks *marks; /* borrowed */
    enum text_reasoning_phase phase;
    bool opened;       /* there is reasoning */
    uint32_t n_tokens; /* pushes whose text belonged to the reasoning, marks included */
    uint32_t n_open;   /* pushes of which it is not known yet */
    uint32_t n_held;
    char held[TEXT_REASONING_SPACE_MAX + TEXT_REASONING_MARK_BYTES];
};

/* inside: the prompt ends with the open mark, the answer begins behind it. */
void text_reasoning_init(struct text_reasoning *reasoning, const struct text_reasoning_marks *marks,
                         bool inside);
/* Takes the text of one more token (may be empty) and appends what is certain now to one of the two.
 * Marks belong to neither; all else comes out unchanged, but for white space before the open mark. */
void text_reasoning_push(struct text_reasoning *reasoning, const char *text, size_t bytes,
                         struct sl_buf *thought, struct sl_buf *answer);
/* The end: the rest of the text, which is no token of its own, and what is held. */
void text_reasoning_flush(struct text_reasoning *reasoning, const char *text, size_t bytes,
                          struct sl_buf *thought, struct sl_buf *answer);

#endif

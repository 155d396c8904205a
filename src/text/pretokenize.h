/* Pre-tokenizers: cut a text into the pieces that the model sees one by one. */
#ifndef SL_TEXT_PRETOKENIZE_H
#define SL_TEXT_PRETOKENIZE_H

#include "base/buf.h"
#include "base/json.h"
#include "base/status.h"
#include "text/regex.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TEXT_PRETOKENIZERS_MAX 16u

/* What becomes of a match. */
enum text_split_behavior {
    TEXT_SPLIT_REMOVED,
    TEXT_SPLIT_ISOLATED,
    TEXT_SPLIT_MERGED_WITH_PREVIOUS,
    TEXT_SPLIT_MERGED_WITH_NEXT,
    TEXT_SPLIT_CONTIGUOUS, /* neighbouring matches are one piece */
};

enum text_prepend_scheme { TEXT_PREPEND_NEVER, TEXT_PREPEND_FIRST, TEXT_PREPEND_ALWAYS };

struct text_pretokenizer_step {
    bool splits; /* cuts at matches; else only the prefix counts */
    enum text_split_behavior behavior;
    bool invert;                      /* matches are what lies between */
    struct text_regex *regex;         /* finds matches, or … */
    bool (*is_match)(uint32_t code);  /* … each such character is one */
    bool metaspace;                   /* spaces become the prefix text first */
    enum text_prepend_scheme prepend; /* puts the prefix in front where it is not there */
    char prefix[8];
};

/* In the caller's storage; all zero hands the text on whole. Immutable after load. */
struct text_pretokenizer {
    struct text_pretokenizer_step steps[TEXT_PRETOKENIZERS_MAX];
    uint32_t n_steps;
    bool byte_level; /* the model sees bytes, written in the byte alphabet */
};

/* Takes one piece, never empty, valid UTF-8. What it returns ends the run unless SL_OK. */
typedef sl_status (*text_piece_fn)(void *arg, const char *piece, size_t bytes);

/* One thread's run. Init, apply any number of times, fini. */
struct text_pretokenizer_run {
    const struct text_pretokenizer *pretokenizer;
    struct text_regex_match *match; /* borrowed */
    text_piece_fn take;
    void *arg;
    struct sl_buf buffers[TEXT_PRETOKENIZERS_MAX]; /* of steps that change the text */
};

/* Reads the `pre_tokenizer` value of a tokenizer.json (NULL and null are fine). SL_UNSUPPORTED names
 * what is not there; SL_INVALID. fini also after a failure. */
sl_status text_pretokenizer_load(struct text_pretokenizer *pretokenizer, const char *what,
                                 const json_t *value) SL_MUST_USE;
void text_pretokenizer_fini(struct text_pretokenizer *pretokenizer);

void text_pretokenizer_run_init(struct text_pretokenizer_run *run,
                                const struct text_pretokenizer *pretokenizer,
                                struct text_regex_match *match, text_piece_fn take, void *arg);
void text_pretokenizer_run_fini(struct text_pretokenizer_run *run);
/* Cuts one stretch of text; at_start: it is the beginning of the whole text. SL_EXHAUSTED from a
 * pattern, SL_NO_MEMORY, or what `take` returned. */
sl_status text_pretokenizer_apply(struct text_pretokenizer_run *run, const char *text, size_t bytes,
                                  bool at_start) SL_MUST_USE;

#endif

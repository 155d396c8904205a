/* Normalizers: what happens to a text before it is cut. */
#ifndef SL_TEXT_NORMALIZE_H
#define SL_TEXT_NORMALIZE_H

#include "base/buf.h"
#include "base/json.h"
#include "base/status.h"
#include "text/nfc.h"
#include "text/regex.h"

#include <stdbool.h>
#include <stddef.h>

#define TEXT_NORMALIZERS_MAX 16u

enum text_normalizer_kind {
    TEXT_NORMALIZE_FORM, /* Unicode normalization form */
    TEXT_NORMALIZE_LOWERCASE,
    TEXT_NORMALIZE_PREPEND, /* text in front of what is not empty */
    TEXT_NORMALIZE_REPLACE, /* every match of regex becomes text */
    TEXT_NORMALIZE_STRIP,   /* White_Space at the ends */
};

struct text_normalizer_step {
    enum text_normalizer_kind kind;
    enum text_normal_form form;
    char *text;
    struct text_regex *regex;
    bool one_char; /* REPLACE of one literal character */
    bool left, right;
};

/* In the caller's storage; all zero does nothing. Immutable after load. */
struct text_normalizer {
    struct text_normalizer_step steps[TEXT_NORMALIZERS_MAX];
    uint32_t n_steps;
};

/* Reads the `normalizer` value of a tokenizer.json (NULL and null are fine). SL_UNSUPPORTED names
 * the type; SL_INVALID. fini also after a failure. */
sl_status text_normalizer_load(struct text_normalizer *normalizer, const char *what,
                               const json_t *value) SL_MUST_USE;
void text_normalizer_fini(struct text_normalizer *normalizer);
/* The working memory of one text's normalization, however many stretches it is cut into. */
struct text_normalizer_run {
    struct text_regex_match *match; /* borrowed */
    struct sl_buf buffers[2];
    size_t bytes_left; /* that steps may yet write */
};

/* bytes_max: all that the steps write together, so that no file can make much of a little text. */
void text_normalizer_run_init(struct text_normalizer_run *run, struct text_regex_match *match,
                              size_t bytes_max);
void text_normalizer_run_fini(struct text_normalizer_run *run);
/* Normalizes a stretch (valid UTF-8). The result is in *text_out: the text itself where nothing
 * changed, or one of the run's buffers, which are overwritten. *at_start (in and out): whether the
 * text begins where the whole text does; no longer, once its beginning was removed. SL_EXHAUSTED
 * beyond bytes_max, or from a pattern. */
sl_status text_normalizer_apply(const struct text_normalizer *normalizer,
                                struct text_normalizer_run *run, const char *text, size_t bytes,
                                const char **text_out, size_t *bytes_out,
                                bool *at_start) SL_MUST_USE;

#endif

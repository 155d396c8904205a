/* Regular expressions of tokenizer files: written for Oniguruma, run by PCRE2. */
#ifndef SL_TEXT_REGEX_H
#define SL_TEXT_REGEX_H

#include "base/buf.h"
#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TEXT_PATTERN_BYTES_MAX   4096u
#define TEXT_HARD_STEPS_MAX      10000000u
#define TEXT_HARD_STEPS_PER_BYTE 16u
#define TEXT_SCANNED_PER_BYTE    64u

struct text_regex;
struct text_regex_match; /* working memory of one text, and the steps that were spent on it */

/* Compiles a pattern so that it finds what Oniguruma finds. SL_UNSUPPORTED names the construct that
 * would mean something else or is not known here; SL_INVALID: not a pattern. `what` and `field` are
 * for the sentence. */
sl_status text_regex_compile(const char *what, const char *field, const char *pattern,
                             struct text_regex **regex_out) SL_MUST_USE;
/* A pattern that finds a literal text, which must not be empty. */
sl_status text_regex_literal(const char *what, const char *field, const char *text,
                             struct text_regex **regex_out) SL_MUST_USE;
void text_regex_destroy(struct text_regex *regex);

/* Fits every regex. steps_max: TEXT_HARD_STEPS_MAX, but in tests. SL_NO_MEMORY. */
sl_status text_regex_match_create(uint64_t steps_max,
                                  struct text_regex_match **match_out) SL_MUST_USE;
void text_regex_match_destroy(struct text_regex_match *match);
/* Steps that were spent on places of the text which need many. */
uint64_t text_regex_match_steps(const struct text_regex_match *match);
/* Bytes that repeats of one character scanned where something could fail behind them. */
uint64_t text_regex_match_scanned(const struct text_regex_match *match);

/* First match that begins at or behind `from`. text is valid UTF-8; what lies outside of it is not
 * seen. SL_EXHAUSTED when the pattern needs too many steps on this text, all searches with this
 * `match` together: more than steps_max, and TEXT_HARD_STEPS_PER_BYTE for each byte; or as many bytes scanned,
 * with TEXT_SCANNED_PER_BYTE. */
sl_status text_regex_find(const struct text_regex *regex, struct text_regex_match *match,
                          const char *text, size_t bytes, size_t from, bool *found_out,
                          size_t *start_out, size_t *end_out) SL_MUST_USE;

/* The translation alone, for tests: appends the PCRE2 pattern. */
sl_status text_regex_translate(const char *what, const char *field, const char *pattern,
                               struct sl_buf *out) SL_MUST_USE;

#endif

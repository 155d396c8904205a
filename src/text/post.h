/* Post-processors: the ids that are put around those of a text. */
#ifndef SL_TEXT_POST_H
#define SL_TEXT_POST_H

#include "base/json.h"
#include "base/status.h"
#include "text/tokenizer.h"

#include <stdint.h>

#define TEXT_AROUND_MAX 32u /* ids on either side */

/* In the caller's storage; all zero adds nothing. Immutable after load. */
struct text_post {
    uint32_t before[TEXT_AROUND_MAX], after[TEXT_AROUND_MAX];
    uint32_t n_before, n_after;
};

/* Reads the `post_processor` value of a tokenizer.json (NULL and null are fine). SL_UNSUPPORTED
 * names the type or template; SL_INVALID; ids are below TEXT_IDS_MAX, the caller knows more. */
sl_status text_post_load(struct text_post *post, const char *what, const json_t *value) SL_MUST_USE;

#endif

/* What a request says about single tokens: penalties, logit_bias, bad_words. Read from the body, brought
 * into token ids, handed on in a submit. */
#ifndef SL_COORDINATOR_ADJUST_H
#define SL_COORDINATOR_ADJUST_H

#include "coordinator/api.h"
#include "proto/node.pb-c.h"
#include "text/tokenizer.h"

/* The members of the body that are read here, into *out (zeroed). */
sl_status adjust_read(const json_t *body, const struct api_defaults *defaults,
                      struct api_adjust *out, struct api_error *error) SL_MUST_USE;
/* Token ids against the vocabulary; words to token ids. Before the body goes. */
sl_status adjust_prepare(const struct text_tokenizer *tokenizer, uint32_t vocab,
                         struct api_adjust *adjust, struct api_error *error) SL_MUST_USE;
/* Lists are borrowed from `adjust`. */
void adjust_fill(const struct api_adjust *adjust, Sluice__Sampling *sampling);
void adjust_fini(struct api_adjust *adjust);

#endif

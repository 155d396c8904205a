/* The first token's logprobs, as they go with the seal to the destination. It repeats the token to the coordinator,
 * and may be heard before the source, or alone: so it must have all of it. Little-endian: the
 * token's own f32, then u32 id and f32 of each of the likeliest. Pure. */
#ifndef SL_WORKER_NOTE_H
#define SL_WORKER_NOTE_H

#include "model/sampler.h"
#include "transfer/transfer.h"

void worker_note_pack(const struct model_token *token, struct transfer_note *note_out);
/* Sets the logprobs of *token, whose id is known. SL_INVALID names what does not fit: the size, more than
 * n_top_max likeliest, an id beyond the vocabulary, a number that is none. */
sl_status worker_note_unpack(const struct transfer_note *note, uint32_t n_top_max, uint32_t vocab,
                             struct model_token *token) SL_MUST_USE;

#endif

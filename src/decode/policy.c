/* Every decoding sequence is in every step: a step that leaves one out gives it a gap between tokens
 * for no gain, since a row more costs almost nothing. What the budget leaves goes to local prompts in
 * the order of their admission; a sequence that waits for its first token delays nobody by it. When
 * decoding uses the budget up, CHUNK_MIN tokens of prompt go along all the same, or a full batch would
 * keep the prompts out until it empties. Pure. */
#include "decode/policy.h"

#define CHUNK_MIN 16

static int64_t key(const struct worker_candidate *candidate)
{
    return (int64_t)candidate->order;
}

static void plan(const struct worker_candidate *candidates, uint32_t n, uint32_t chunk_tokens,
                 struct worker_plan *plan_out)
{
    plan_out->n_shares = 0;
    uint32_t n_decoding = worker_plan_decoding(candidates, n, plan_out);
    uint32_t least = chunk_tokens < CHUNK_MIN ? chunk_tokens : CHUNK_MIN;
    uint32_t budget = chunk_tokens > n_decoding + least ? chunk_tokens - n_decoding : least;
    worker_plan_chunks(candidates, n, budget, key, plan_out);
}

static bool takes(Sluice__Mode mode)
{
    return mode == SLUICE__MODE__MODE_DECODE || mode == SLUICE__MODE__MODE_LOCAL;
}

const struct worker_policy decode_policy = {
    .name = "decode",
    .role = SLUICE__ROLE__ROLE_DECODE,
    .plan = plan,
    .takes = takes,
};

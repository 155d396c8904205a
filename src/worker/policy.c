/* Planning helpers. Candidates are few (at most MODEL_SEQS_MAX) and a step takes few chunks, so the
 * best is looked for again for each chunk instead of sorting: no memory, and n * chunks is small.
 * Pure. */
#include "worker/policy.h"

#define PATIENCE   4u  /* the part of its wait, 1/4, for which one in the line is overtaken */
#define MISSES_MAX 32u /* looked at in vain in a turn: a long line must not cost a step */

static bool before(const struct worker_candidate *a, const struct worker_candidate *b,
                   int64_t (*key)(const struct worker_candidate *candidate))
{
    if (a->priority != b->priority)
        return a->priority < b->priority;
    int64_t a_key = key(a), b_key = key(b);
    return a_key != b_key ? a_key < b_key : a->order < b->order;
}

bool worker_line_passes(struct worker_line *line, uint64_t waited_us, uint64_t wait_us)
{
    line->n_missed++;
    return line->n_missed < MISSES_MAX && waited_us < wait_us / PATIENCE;
}

uint32_t worker_plan_decoding(const struct worker_candidate *candidates, uint32_t n,
                              struct worker_plan *plan)
{
    uint32_t n_decoding = 0;
    for (uint32_t i = 0; i < n; i++)
        if (candidates[i].decoding) {
            plan->shares[plan->n_shares++] = (struct worker_share){.candidate = i, .n_tokens = 1};
            n_decoding++;
        }
    return n_decoding;
}

void worker_plan_chunks(const struct worker_candidate *candidates, uint32_t n, uint32_t budget,
                        int64_t (*key)(const struct worker_candidate *candidate),
                        struct worker_plan *plan)
{
    bool taken[MODEL_SEQS_MAX] = {false};
    while (budget > 0) {
        uint32_t best = n;
        for (uint32_t i = 0; i < n; i++) {
            if (candidates[i].decoding || taken[i])
                continue;
            if (best == n || before(&candidates[i], &candidates[best], key))
                best = i;
        }
        if (best == n)
            return;
        taken[best] = true;
        uint32_t n_tokens = candidates[best].remaining;
        if (n_tokens > budget)
            n_tokens = budget;
        plan->shares[plan->n_shares++] =
            (struct worker_share){.candidate = best, .n_tokens = n_tokens};
        budget -= n_tokens;
    }
}

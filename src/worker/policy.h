/* What tells a prefill node from a decode node: pure functions of what the scheduler sees. */
#ifndef SL_WORKER_POLICY_H
#define SL_WORKER_POLICY_H

#include "model/engine.h"
#include "proto/node.pb-c.h"

#include <stdbool.h>
#include <stdint.h>

/* A sequence that could be in the next step. */
struct worker_candidate {
    int32_t priority;   /* less is more urgent, and goes first whatever the rest says */
    uint64_t order;     /* of admission: smaller came earlier; no two are equal */
    uint64_t waited_us; /* since its last step, or since it was admitted */
    uint32_t remaining; /* tokens to compute until one can be sampled, >= 1 */
    bool decoding;      /* has sampled here before, and has one token to compute */
};

struct worker_share {
    uint32_t candidate; /* index */
    uint32_t n_tokens;  /* 1..remaining */
};

/* At most one share per candidate. The tokens of all shares are at most chunk_tokens, not counting
 * those of decoding sequences; with them at most chunk_tokens + the number of candidates. */
struct worker_plan {
    uint32_t n_shares;
    struct worker_share shares[MODEL_SEQS_MAX];
};

struct worker_policy {
    const char *name; /* "prefill", "decode" */
    Sluice__Role role;
    /* What goes into the next step; n <= MODEL_SEQS_MAX. At least one share when n > 0. */
    void (*plan)(const struct worker_candidate *candidates, uint32_t n, uint32_t chunk_tokens,
                 struct worker_plan *plan_out);
    /* Whether the node takes requests of this mode at all. */
    bool (*takes)(Sluice__Mode mode);
};

/* Helper of both: a share of one token for every decoding candidate; returns their number. */
uint32_t worker_plan_decoding(const struct worker_candidate *candidates, uint32_t n,
                              struct worker_plan *plan);
/* Helper of both: divides `budget` tokens among the other candidates, the most urgent first, among those
 * least key first; ties go to the earlier one. */
void worker_plan_chunks(const struct worker_candidate *candidates, uint32_t n, uint32_t budget,
                        int64_t (*key)(const struct worker_candidate *candidate),
                        struct worker_plan *plan);

/* The line in front of the pool, gone through from its head in each turn. Zeroed at the start of a turn. */
struct worker_line {
    uint32_t n_missed; /* stood before and found no room */
};
/* One found no room, that has waited for waited_us of the wait_us it may. Whether those behind it may be
 * tried: not once it has waited for a part of its time, so that what becomes free stays for it. */
bool worker_line_passes(struct worker_line *line, uint64_t waited_us, uint64_t wait_us);

#endif

/* The router: which node prefills and which decodes. A pure function of what the coordinator knows:
 * state in, decision out, with its reason and its parts in milliseconds. No clock, no memory of its
 * own, so it runs the same in the process, in tests and in a simulation. */
#ifndef SL_COORDINATOR_ROUTER_H
#define SL_COORDINATOR_ROUTER_H

#include <stdbool.h>
#include <stdint.h>

#define ROUTER_NODES_MAX 256u

/* Cost of a step, ms = base + per_token * tokens, fitted to samples with fading weight. Zeroed: the
 * default guess. */
struct router_cost {
    double weight, sum_x, sum_y, sum_xx, sum_xy;
};

void router_cost_add(struct router_cost *cost, double tokens, double ms);
/* Adds the samples of one cost to another's: what nodes of one kind have in common. */
void router_cost_merge(struct router_cost *cost, const struct router_cost *from);
/* The cost to reckon with: the pool's, unless this node is clearly faster or slower. Fits of equal
 * nodes differ by noise, and placing by noise would send everything to one of them. */
struct router_cost router_cost_settle(const struct router_cost *own,
                                      const struct router_cost *pool);
double router_cost_base_ms(const struct router_cost *cost);
/* What of `ms` is beyond a step of so many tokens: all of it while there is no sample, never below 0. */
double router_cost_beyond_step_ms(const struct router_cost *cost, double tokens, double ms);
double router_cost_token_ms(const struct router_cost *cost);

/* A node that may get work now. */
struct router_node {
    bool prefill; /* else decode */
    bool avoid; /* it refused or failed this request: no P then, and D only if there is no other */
    uint32_t matched_tokens; /* of this prompt, in its cache */
    uint64_t queued_tokens;  /* prompt tokens waiting or in work */
    uint32_t running;        /* sequences */
    uint32_t unadmitted;     /* requests without a promise yet */
    uint32_t blocks_total;
    uint32_t blocks_available;   /* free or cached, less what is promised */
    uint32_t request_blocks_max; /* a request holds no more, however long; 0: as its tokens fill */
    uint64_t affinity;           /* the same for the same (node, first block): breaks ties */
    struct router_cost cost;
};

struct router_input {
    const struct router_node *nodes;
    uint32_t n_nodes;  /* at most ROUTER_NODES_MAX */
    uint32_t n_tokens; /* to have in the cache: prompt and what was generated */
    uint32_t n_new;    /* tokens wanted */
    uint32_t block_tokens;
    uint64_t block_bytes;
    uint64_t window_block_bytes; /* of them, those of layers that look back a limited way … */
    uint32_t window_tokens;      /* … so far: what lies before is not sent */
    uint32_t local_prefill_max_tokens;
    uint32_t unadmitted_max; /* a node with so many gets no further one */
    double bytes_per_ms;     /* measured between nodes; 0: unknown */
    uint64_t rotation;       /* breaks the ties that affinity leaves */
    bool has_affinity;       /* there is a full block */
};

enum router_reason {
    ROUTER_PAIR,          /* P prefills, D decodes */
    ROUTER_SINGLE_TOKEN,  /* one token: P alone */
    ROUTER_LOCAL_SUFFIX,  /* D lacks little */
    ROUTER_LOCAL_NO_P,    /* no prefill node */
    ROUTER_LOCAL_P_UNFIT, /* no prefill node that is large enough and not avoided */
    ROUTER_LOCAL_NO_D,    /* no decode node: a prefill node generates too */
    ROUTER_NONE,          /* no node at all */
    ROUTER_BUSY,          /* every node that could generate has its fill of waiting requests */
    ROUTER_TOO_LARGE,     /* larger than every pool */
    ROUTER_REASON_COUNT
};

struct router_decision {
    enum router_reason reason;
    int32_t
        p; /* index into nodes; -1 none. Local: p == -1, d whoever it is; single token: d == -1 */
    int32_t d;
    double queue_ms;
    double compute_ms;
    double handover_ms;
    double itl_ms;
    uint32_t compute_tokens; /* expected, at P or at the local D */
};

/* p and d are -1 for the reasons from ROUTER_NONE on. */
struct router_decision router_choose(const struct router_input *input);
const char *router_reason_name(enum router_reason reason);
/* Blocks of a pool that n_tokens and n_new further ones take. */
uint32_t router_blocks(uint32_t n_tokens, uint32_t n_new, uint32_t block_tokens);
/* Blocks that a request of so many holds at most on a node with this bound (0: none). */
uint32_t router_blocks_held(uint32_t blocks, uint32_t request_blocks_max);

#endif

/* The state machine of one request's placements: which attempt is current, which tokens are accepted,
 * and what follows from each thing a node says or from its loss. Pure: events in, a step out, which
 * the caller carries out. The rules are those of the transfer protocol's coordinator. */
#ifndef SL_COORDINATOR_FLOW_H
#define SL_COORDINATOR_FLOW_H

#include "proto/node.pb-c.h"

#include <stdbool.h>
#include <stdint.h>

#define FLOW_FAILURES_MAX  4u /* attempts that may fail */
#define FLOW_REDIRECTS_MAX 2u /* in a row */
#define FLOW_AVOID_MAX     8u

/* One joining of a node; never reused. 0: none. */
typedef uint64_t flow_node;

enum flow_mode { FLOW_UNPLACED, FLOW_PAIR, FLOW_LOCAL, FLOW_SINGLE };

/* UNPLACED ── flow_place ──► placed ── tokens ──► … ── the caller ends it
 *     ▲                        │  flow_redirect: a new D, the same P
 *     └──── flow_unplace ──────┘ */
struct flow {
    enum flow_mode mode;
    uint32_t attempt; /* of the present or last placement; 0 before the first */
    uint32_t failures;
    uint32_t redirects; /* since the last full placement */
    uint32_t next_index;
    flow_node p;    /* PAIR, SINGLE; 0 once it is lost or done */
    flow_node d;    /* PAIR, LOCAL */
    bool p_holds;   /* P has the blocks, or has not said otherwise */
    bool admitted;  /* by D or the single P, in this attempt */
    bool d_started; /* D sent a token of this attempt */
    uint32_t n_avoid;
    flow_node avoid[FLOW_AVOID_MAX]; /* nodes not to be asked again while there are others */
};

enum flow_step {
    FLOW_NOTHING,
    FLOW_STALE,    /* of an attempt that is over: answer with Cancel */
    FLOW_ACCEPT,   /* tokens, but for *skip_out of them */
    FLOW_ADMITTED, /* for the first time in this attempt */
    FLOW_RELEASE,  /* tell P that it need not hold any more */
    FLOW_REDIRECT, /* another D, fed by the same P */
    FLOW_RETRY,    /* a new attempt */
    FLOW_FULL,     /* D had no room: wait, or refuse the client */
    FLOW_REFUSE,   /* no node will do it: TOO_LARGE, INVALID */
};

/* A new attempt; the mode says which of p and d are set. Returns its number. */
uint32_t flow_place(struct flow *flow, enum flow_mode mode, flow_node p, flow_node d);
/* A new attempt with the same P. Only when flow_can_redirect, or after FLOW_REDIRECT. */
uint32_t flow_redirect(struct flow *flow, flow_node d);
/* The placement is over (the caller has cancelled it). */
void flow_unplace(struct flow *flow);
bool flow_may_retry(const struct flow *flow);
/* P lives and holds, D has not started, and it was not tried too often. */
bool flow_can_redirect(const struct flow *flow);
bool flow_avoids(const struct flow *flow, flow_node node);
void flow_avoid(struct flow *flow, flow_node node);

/* Tokens first_index … first_index + n - 1. ACCEPT moves next_index past them. */
enum flow_step flow_tokens(struct flow *flow, flow_node node, uint32_t attempt,
                           uint32_t first_index, uint32_t n, uint32_t *skip_out);
/* What should have come before these tokens has not: as tokens that are missing. */
enum flow_step flow_gap(struct flow *flow, flow_node node, uint32_t attempt);
enum flow_step flow_admit(struct flow *flow, flow_node node, uint32_t attempt);
enum flow_step flow_refused(struct flow *flow, flow_node node, uint32_t attempt,
                            Sluice__Reason reason);
enum flow_step flow_stream_failed(struct flow *flow, flow_node node, uint32_t attempt,
                                  Sluice__Reason reason, bool held, bool source);
/* For a request that has not ended: STOP and LENGTH then mean that tokens are missing. */
enum flow_step flow_finished(struct flow *flow, flow_node node, uint32_t attempt,
                             Sluice__Finish finish, Sluice__Reason reason);
enum flow_step flow_node_lost(struct flow *flow, flow_node node);

#endif

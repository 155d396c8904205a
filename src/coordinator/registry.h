/* Registry: the nodes of the fleet, by id, with what they said of themselves and how they are. Pure:
 * the time is passed in, streams are only kept. One thread. */
#ifndef SL_COORDINATOR_REGISTRY_H
#define SL_COORDINATOR_REGISTRY_H

#include "base/status.h"
#include "coordinator/flow.h"
#include "coordinator/prefix_index.h"
#include "coordinator/router.h"
#include "proto/node.pb-c.h"

#include <stdbool.h>
#include <stdint.h>

#define REGISTRY_NODES_MAX     PREFIX_INDEX_NODES_MAX
#define REGISTRY_TRANSFERS_MAX 64u /* (src, dst, side, transport) of one node */

struct rpc_stream;

struct registry_times {
    uint64_t suspect_us; /* without a heartbeat: no new work */
    uint64_t dead_us;    /* … ejected */
    uint64_t stalled_us; /* a step loop without progress: ejected */
    uint64_t switch_us;  /* the served identity is gone so long: another may take over */
};

enum registry_state {
    REGISTRY_LOADING,
    REGISTRY_READY,
    REGISTRY_SUSPECT,
    REGISTRY_DRAINING,
    REGISTRY_FOREIGN, /* ready, but of another identity or layout than those served */
};

struct registry_node {
    bool used;
    flow_node join; /* number of this joining; its low byte is the slot */
    uint32_t slot;
    struct rpc_stream *stream; /* the caller's reference */
    Sluice__Hello *hello;      /* the newest; inside hello_message */
    Sluice__NodeMessage *hello_message;
    char id[16];
    bool prefill;
    bool ready;
    bool draining;
    bool suspect;
    bool slow; /* suspect, because its step loop does not move */
    uint64_t joined_us;
    uint64_t beat_us; /* last heartbeat, or the joining */
    uint64_t load_done, load_total;
    Sluice__Load load; /* of the last heartbeat */
    uint64_t step, stalled_us;
    struct prefix_feed feed;
    struct router_cost cost;
    /* What the coordinator placed there and the node's load may not show yet. */
    uint64_t own_queued_tokens;
    uint32_t own_running;
    uint32_t own_unadmitted;
    uint32_t own_pending_blocks;
};

struct registry {
    struct registry_node nodes[REGISTRY_NODES_MAX];
    uint32_t n_nodes;
    uint64_t joins;
    struct registry_times times;
    bool has_served;
    uint8_t served[16];        /* identity that new requests get … */
    uint8_t served_layout[16]; /* … and layout */
    uint32_t vocab;            /* of the model served, 0: unknown; a node with another is refused */
    uint64_t ready_us;         /* last time a decode node of it was ready; 0 never */
};

void registry_init(struct registry *registry, const struct registry_times *times, uint32_t vocab);
/* Frees hellos; streams are the caller's. */
void registry_fini(struct registry *registry);

/* A node says hello on `stream`, for the first time or again (takes the message on success).
 * SL_INVALID: the hello contradicts itself, is of another model, or another process that lives has
 * its id; SL_EXHAUSTED: full.
 * replaced_out: the node that has this id already on another stream and must be lost first; then
 * nothing was done, and the message is the caller's: call again after registry_remove. */
sl_status registry_hello(struct registry *registry, struct rpc_stream *stream,
                         Sluice__NodeMessage *message, uint64_t now_us,
                         struct registry_node **node_out,
                         struct registry_node **replaced_out) SL_MUST_USE;
void registry_heartbeat(struct registry *registry, struct registry_node *node,
                        const Sluice__Heartbeat *heartbeat, uint64_t now_us);
/* Frees the slot. */
void registry_remove(struct registry *registry, struct registry_node *node);
/* NULL: gone. */
struct registry_node *registry_find(struct registry *registry, flow_node join);
struct registry_node *registry_find_id(struct registry *registry, const char *id);
struct registry_node *registry_find_stream(struct registry *registry,
                                           const struct rpc_stream *stream);

/* The coordinator itself stood still for so long: what nodes sent meanwhile is not read yet, and is not
 * held against them. */
void registry_forgive(struct registry *registry, uint64_t paused_us);

/* Renews suspicions; returns the next node after *cursor (start with 0) that is to be ejected, or
 * NULL. */
struct registry_node *registry_sweep(struct registry *registry, uint64_t now_us, uint32_t *cursor);
/* Chooses the identity served: the present one while a decode node of it is ready, or was within
 * switch_us and may be back; else that of a ready decode node, or, when no node of it is left, of a
 * prefill node. A drain hands over at once. True if it changed. */
bool registry_settle(struct registry *registry, uint64_t now_us);

enum registry_state registry_state(const struct registry *registry,
                                   const struct registry_node *node);
const char *registry_state_name(enum registry_state state);
/* May be given new work. */
bool registry_usable(const struct registry *registry, const struct registry_node *node);
/* Usable nodes of a role. */
uint32_t registry_count(const struct registry *registry, bool prefill);
/* Some node can take a request: of either role, since each can do all. */
bool registry_serves(const struct registry *registry);
/* Who generates: usable decode nodes, or the prefill nodes while there is none. */
bool registry_generates(const struct registry *registry, const struct registry_node *node);

#endif

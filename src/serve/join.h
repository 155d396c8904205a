/* A node's place in the fleet: dials the coordinator and stays joined. Says hello when the stream
 * opens and again when asked, beats, reports load progress, notices a silent coordinator (closes
 * the stream; the client dials again), and passes messages on.
 *
 *   DOWN ── stream opens: hello ──► GREETED ── Welcome: joined() ──► UP
 *    ▲                                │                               │
 *    └───────── stream closes ────────┴──── stream closes, or ────────┘
 *                                           silence of dead_us: lost()
 *
 * What to do while the coordinator is lost, and for how long, is the node's affair. */
#ifndef SL_SERVE_JOIN_H
#define SL_SERVE_JOIN_H

#include "base/status.h"
#include "proto/check.h"
#include "proto/rpc.h"

#include <stdbool.h>
#include <stdint.h>

#define SERVE_TRANSFERS_MAX 64 /* (src, dst, side) rows of one heartbeat */
#define SERVE_REASONS       16 /* failure counters by Reason */

/* Storage of one heartbeat; all linked up before the callback, which fills values and the counts
 * message.n_samples, message.n_transfers. */
struct serve_heartbeat {
    Sluice__Heartbeat message;
    Sluice__Load load;
    Sluice__StepSample samples[RPC_SAMPLES_MAX];
    Sluice__StepSample *sample_list[RPC_SAMPLES_MAX];
    Sluice__TransferTotals transfers[SERVE_TRANSFERS_MAX];
    Sluice__TransferTotals *transfer_list[SERVE_TRANSFERS_MAX];
    uint64_t failures[SERVE_TRANSFERS_MAX][SERVE_REASONS]; /* transfers[i].failures */
    char names[SERVE_TRANSFERS_MAX][2][16];                /* transfers[i].src, .dst point here */
};

/* Links everything up, zeroed, with no samples and no transfers. */
void serve_heartbeat_init(struct serve_heartbeat *heartbeat);

struct serve_join_args {
    const char *coordinator; /* "host:port" */
    /* Fills the Hello: node_id, role, incarnation, ready, …; what it points to must stay until the
     * next call. protocol, pid and version are set already. Control thread or the caller of
     * serve_join_announce. */
    void (*hello)(void *arg, Sluice__Hello *hello);
    /* On the heartbeat thread; from a snapshot, never waiting for the step loop. */
    void (*heartbeat)(void *arg, struct serve_heartbeat *heartbeat);
    /* Fills progress and returns true while the model is loading. Heartbeat thread. NULL: none. */
    bool (*loading)(void *arg, Sluice__LoadProgress *progress);
    /* Welcomed. coordinator: its incarnation; lost_us: how long it was gone, 0 the first time;
     * restarted: it is another incarnation than the last one. Control thread. */
    void (*joined)(void *arg, uint64_t coordinator, uint64_t lost_us, bool restarted);
    /* Only after joined. Control thread. */
    void (*lost)(void *arg, sl_status why, const char *text);
    /* What is not Welcome or Beat; the callee's to free. Control thread; must not block. */
    void (*message)(void *arg, Sluice__CoordinatorMessage *message);
    void *arg;
};

struct serve_join;

/* args is copied, coordinator too. SL_INVALID: coordinator is no HOST:PORT. */
sl_status serve_join_start(const struct serve_join_args *args,
                           struct serve_join **join_out) SL_MUST_USE;
/* Queued messages get a second to leave; no callback runs afterwards. */
void serve_join_stop(struct serve_join *join);

/* Any thread. SL_PEER while not joined: the message is not kept. SL_EXHAUSTED: the coordinator does
 * not read. */
sl_status serve_join_send(struct serve_join *join, enum rpc_class class,
                          const Sluice__NodeMessage *message) SL_MUST_USE;
/* Says hello again (the model is loaded, the node drains …). Does nothing while not connected. */
void serve_join_announce(struct serve_join *join);
/* A heartbeat now, besides the one each second: when load changed a lot. */
void serve_join_beat(struct serve_join *join);
/* How long the coordinator has been gone; 0 while joined. */
uint64_t serve_join_lost_us(const struct serve_join *join);

#endif

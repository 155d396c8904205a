/* Metrics of the coordinator: the names of the operations notes, their series, and the sums over the
 * fleet, in which dead workers stay. */
#ifndef SL_COORDINATOR_METERS_H
#define SL_COORDINATOR_METERS_H

#include "base/metrics.h"
#include "coordinator/prefix_index.h"
#include "coordinator/registry.h"
#include "coordinator/stages.h"
#include "proto/node.pb-c.h"

#include <stdint.h>

enum meters_blocks { BLOCKS_USED, BLOCKS_CACHED, BLOCKS_FREE, BLOCKS_LANDING, BLOCKS_STATE_COUNT };

struct meters_account; /* what an incarnation of a node said last of its totals */

struct meters {
    struct sl_metrics *metrics;
    struct sl_metric *ttft, *itl, *e2e, *handover, *second_token;
    struct sl_metric *stages[STAGE_COUNT];
    struct sl_metric *prompt_tokens, *generation_tokens;
    struct sl_metric *computed, *local_hit;
    struct sl_metric *running, *waiting, *failing, *kv_usage, *blocks[BLOCKS_STATE_COUNT];
    struct sl_metric *prefix_queries, *prefix_hits;
    struct sl_metric *index_entries, *index_overflows, *gaps, *stale_tokens, *overtakes;
    struct sl_metric_family *requests, *decisions, *rejected, *migrations, *replicas, *preemptions;
    struct sl_metric_family *transfer_bytes, *transfer_pieces, *transfer_streams;
    struct sl_metric_family *transfer_busy, *transfer_exposed, *transfer_failures;
    struct sl_metric_family *transfer_seconds, *transfer_throughput;
    struct meters_account *accounts;
    struct meters_account *account_of[REGISTRY_NODES_MAX]; /* by the node's slot */
    uint64_t heard;                                        /* heartbeats and joinings so far */
    uint64_t overflows;                                    /* of the index, as counted so far */
};

/* model: the served name, a label. */
void meters_init(struct meters *meters, const char *model);
void meters_fini(struct meters *meters);
/* How many nodes of each pool there are to be; never asked for where somebody else decides. */
void meters_desired(struct meters *meters, uint32_t n_prefill, uint32_t n_decode);
/* A node joined: its totals start from nothing, or, of an incarnation that was here before, from what it said
 * last. */
void meters_node_joined(struct meters *meters, const struct registry_node *node);
/* Adds what grew since the node's last heartbeat. */
void meters_heartbeat(struct meters *meters, const struct registry_node *node,
                      const Sluice__Heartbeat *heartbeat);
/* A request was served: its latency, and the stages that it was in. */
void meters_request(struct meters *meters, const struct stages *stages, uint64_t whole_us);
/* A node's part in a request, which may be over: a short answer is before its source has heard of it. */
void meters_finished(struct meters *meters, const struct registry_node *node,
                     const Sluice__Finished *finished);
/* Gauges of the fleet and of open requests. */
void meters_fleet(struct meters *meters, const struct registry *registry,
                  const struct prefix_index *index, uint32_t running, uint32_t waiting);

#endif

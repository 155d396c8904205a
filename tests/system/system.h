/* The whole system in one process: the coordinator with its HTTP and gRPC servers, and nodes, each a thread that runs
 * what the process of a node runs. Blocks travel over the loop. */
#ifndef TESTS_SYSTEM_SYSTEM_H
#define TESTS_SYSTEM_SYSTEM_H

#include "base/thread.h"
#include "coordinator/coordinator.h"
#include "serve/worker_options.h"
#include "transfer/loop.h"
#include "worker/policy.h"

#include <jansson.h>

#define SYSTEM_NODES_MAX 8u
#define SYSTEM_BLOCK_TOKENS                                                                        \
    16u /* so that short prompts have several; shorter ones stay where they are decoded */
#define SYSTEM_WAIT_US (120 * SL_SECOND_US) /* sanitizers on a busy machine */

struct system_args {
    const char *model;   /* directory */
    const char *backend; /* "cpu", "ref", "fake" */
    const char *threads;
    uint32_t kv_blocks;
    uint32_t n_prefill, n_decode;
    struct transfer_loop_args loop;
};

struct system_node {
    const struct worker_policy *policy;
    struct serve_worker_config config;
    struct sl_options *options; /* owns its strings */
    struct transfer_loop *loop;
    struct sl_thread thread;
    sl_status status; /* how it ended */
};

struct system {
    struct system_args args;
    struct transfer_loop *loop;
    struct coordinator *coordinator;
    uint16_t port, nodes_port;
    uint32_t n_nodes;
    struct system_node nodes[SYSTEM_NODES_MAX];
};

/* Returns when /ready lists every node. */
void system_open(struct system *s, const struct system_args *args);
/* A new coordinator in the place of the old one, whose open requests end with an error. */
void system_restart_coordinator(struct system *s);
/* SIGTERM to this process. Returns when the coordinator refuses new requests. */
void system_terminate(struct system *s);
/* After system_terminate: what is in flight finishes, then everything ends, and has ended well. */
void system_close(struct system *s);

/* A page of the coordinator, which must be there. */
json_t *system_page(const struct system *s, const char *path);
/* Until every block of every node is free or cached. */
void system_settled(const struct system *s);
/* Sum of the coordinator's series of that name which have the label, name="value", and are of the loop. */
double system_metric(const struct system *s, const char *name, const char *label);
/* Breaks the link between two nodes, whichever they are. */
void system_cut(const struct system *s, uint32_t a, uint32_t b);

#endif

/* The process of a node: options, model, transport, fleet, admin pages, drain. */
#ifndef SL_WORKER_NODE_H
#define SL_WORKER_NODE_H

#include "serve/worker_options.h"
#include "worker/policy.h"

struct transfer_loop;

/* main() of both programs; returns the exit code. */
int worker_main(const struct worker_policy *policy, const char *program, const char *summary,
                int argc, char **argv);

/* All of it between serve_start and serve_stop: returns when the drain is over. Blocks travel over UCX; over `loop`
 * when it is given, which is how tests have several nodes in one process, each on a thread. config is borrowed.
 * SL_INVALID, SL_NOT_FOUND: the configuration or the model; else what could not be started. */
sl_status worker_node_run(const struct worker_policy *policy,
                          const struct serve_worker_config *config,
                          struct transfer_loop *loop) SL_MUST_USE;

#endif

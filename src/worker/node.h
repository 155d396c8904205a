/* The process of a node: options, model, transport, fleet, admin pages, drain. */
#ifndef SL_WORKER_NODE_H
#define SL_WORKER_NODE_H

#include "worker/policy.h"

/* main() of both programs; returns the exit code. */
int worker_main(const struct worker_policy *policy, const char *program, const char *summary,
                int argc, char **argv);

#endif

/* The actuator "local": starts the workers of both pools on this machine and keeps them running. One
 * thread, which must live as long as the workers (the kernel ties a child's life to its parent
 * thread): the coordinator's loop. */
#ifndef SL_COORDINATOR_ACTUATOR_H
#define SL_COORDINATOR_ACTUATOR_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define ACTUATOR_WORKERS_MAX 64u /* of one pool */
#define ACTUATOR_OPTIONS_MAX 64u

struct actuator_args {
    const char *prefill_path; /* programs */
    const char *decode_path;
    uint32_t n_prefill, n_decode;
    const char *const *options; /* ["--kv-blocks=512", …] handed on to each; copied */
    uint32_t n_options;
    uint32_t threads;     /* of each worker; 0: as many as its CPUs */
    const char *cpu_list; /* CPUs given by --cpus, NULL: this process's own */
    bool share_cpus;      /* never bind workers to CPUs of their own */
    const char *
        admin; /* host:port of the first worker's pages, the next one's port is the next; port 0: free
                             ones; NULL: those of 127.0.0.1 */
};

struct actuator;

/* nodes_address: where workers dial, "127.0.0.1:PORT". Starts nothing yet. SL_INVALID: too many of something,
 * or an address or a list of CPUs that is none. */
sl_status actuator_create(const struct actuator_args *args, const char *nodes_address,
                          struct actuator **actuator_out) SL_MUST_USE;
/* Starts what is due, reaps what has ended. Call it every few tens of ms. Returns when it wants to
 * be called next, at the latest. */
uint64_t actuator_tick(struct actuator *actuator, uint64_t now_us);
/* The worker with this id has become a node that is ready. */
void actuator_ready(struct actuator *actuator, const char *id, pid_t pid, uint64_t now_us);
/* The node with this id hangs: kill it now (it is started again). False: not one of its workers. */
bool actuator_kill(struct actuator *actuator, const char *id, pid_t pid);
/* Workers that have ended, and not become ready since. Of the one that ended most often in a row `out` says
 * how often, and with what error; "" without one. */
uint32_t actuator_failing(const struct actuator *actuator, char *out, size_t bytes);
/* SIGTERM to all, SIGKILL after grace_us, waits for all. Then destroys. NULL is fine. */
void actuator_destroy(struct actuator *actuator, uint64_t grace_us);

/* How long the start after the nth end in a row waits: 0.1 s doubling to 5 s. */
uint64_t actuator_backoff_us(uint32_t ends);

/* CPU lists for n workers out of `cpus` ("0-3,8"): disjoint when each can have `need` of them (0: an equal
 * share, at least 1). lists_out[n][64]; false when there are too few: all share. Pure. */
bool actuator_divide_cpus(const uint16_t *cpus, uint32_t n_cpus, uint32_t n_workers, uint32_t need,
                          char (*lists_out)[64]);

#endif

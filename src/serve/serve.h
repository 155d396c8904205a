/* The process skeleton of all three programs: common options, signals, spawning, exit codes.
 *
 *   main:  sl_options_parse(tables with serve_options) ─► serve_start ─► build the program
 *          ─► serve_wait ─► drain until serve_drain_deadline_us ─► tear down ─► serve_stop
 *          ─► return serve_exit_code(status)
 *
 * SIGTERM and SIGINT begin the drain; a second one ends the process at once, and so do ten seconds between its bound
 * and serve_stop. SIGPIPE is ignored. */
#ifndef SL_SERVE_SERVE_H
#define SL_SERVE_SERVE_H

#include "base/options.h"
#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Must be the first member of the program's configuration struct, whose address is
 * sl_options_args.config: the tables below hold offsets from it. */
struct serve_config {
    char *admin;        /* "host:port"; port 0 takes a free one */
    uint32_t log_level; /* enum sl_log_level */
    double drain_seconds;
    char *fault;        /* base/fault.h; NULL for none */
    uint64_t report_fd; /* a pipe to who has started this process; 0: none */
};

/* --log-level, --drain-seconds, --fault, --report-fd: for all programs. */
extern const struct sl_option serve_options[];
extern const size_t serve_option_count;
/* --admin: for programs with a page of their own (admin.h). */
extern const struct sl_option serve_admin_options[];
extern const size_t serve_admin_option_count;

/* Call it from main before any other thread is there: blocks the signals and handles them on a
 * thread of its own; log level, node name (NULL: none) and fault points take effect.
 * SL_INVALID a fault specification; SL_DEVICE no thread. Once per process, or again after serve_stop. */
sl_status serve_start(const struct serve_config *config, const char *node) SL_MUST_USE;
/* Ends the signal thread. */
void serve_stop(void);

/* Waits until the drain begins, or timeout_us (UINT64_MAX: for ever); true once it has begun. */
bool serve_wait(uint64_t timeout_us);
bool serve_draining(void);
/* Begins the drain as SIGTERM would, for instance on a coordinator's Drain; `why` is logged. bound_us
 * shortens the drain; 0 leaves the option's. Later calls only shorten. Any thread. */
void serve_drain(const char *why, uint64_t bound_us);
/* When in-flight work is cut off, on sl_real_us(); UINT64_MAX before the drain. */
uint64_t serve_drain_deadline_us(void);

enum { SERVE_EXIT_OK = 0, SERVE_EXIT_FAILED = 1, SERVE_EXIT_USAGE = 2 };
/* SL_OK and SL_CANCELLED: 0; SL_INVALID and SL_NOT_FOUND: 2; else 1. Unless 0, sl_error() goes to standard
 * error, and to --report-fd. */
int serve_exit_code(const char *program, sl_status status);

/* Starts a child that dies (SIGKILL) when this process does, in a process group of its own so that
 * Ctrl-C in a terminal reaches only this one, with the signal mask cleared and every descriptor but
 * 0, 1, 2 closed on exec; `report`, unless it is -1, is the child's SERVE_REPORT_FD, for --report-fd. The
 * environment is inherited without options (SLUICE_…), but for SLUICE_FAULT. argv[0] is a path. Wait
 * for it with waitpid. The kernel ties a child's life to the *thread* that started it: call from one
 * that lives as long as the process. SL_DEVICE fork or exec failed. */
#define SERVE_REPORT_FD 3
sl_status serve_spawn(char *const argv[], int report, pid_t *pid_out) SL_MUST_USE;

/* Random, never 0: incarnations, stream keys. */
uint64_t serve_random_id(void);

#endif

/* The admin pages of a process: /health, /ready, /metrics, /version over libmicrohttpd. JSON bodies
 * of one line, except /metrics. GET and HEAD only; headers at most 8 KiB, no request body, at most
 * 64 connections. The coordinator, which has an HTTP server already, answers the same paths there
 * with serve_admin_page. */
#ifndef SL_SERVE_ADMIN_H
#define SL_SERVE_ADMIN_H

#include "base/buf.h"
#include "base/metrics.h"
#include "base/status.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define SERVE_REASON_BYTES_MAX 160

/* Written by the loop that must make progress, each time round and at least every second when there
 * is nothing to do; read by any thread. A loop that is merely busy beats; one that hangs does not. */
struct serve_pulse {
    _Atomic uint64_t beat_us; /* sl_real_us() of the last beat; 0 before the first */
    _Atomic uint64_t step;
};
void serve_pulse_beat(struct serve_pulse *pulse, uint64_t step);
/* Time since the last beat, 0 before the first. */
uint64_t serve_pulse_stalled_us(const struct serve_pulse *pulse);

enum serve_state { SERVE_LOADING, SERVE_READY, SERVE_DRAINING, SERVE_UNAVAILABLE };

struct serve_health {
    bool ok;
    char reason[SERVE_REASON_BYTES_MAX]; /* when not ok, or not ready */
    uint64_t step;
    uint64_t stalled_us;
    enum serve_state state;
    uint64_t bytes_done, bytes_total; /* LOADING */
};

struct serve_admin_args {
    const char *listen; /* "host:port"; ignored by serve_admin_page */
    const char *node;   /* id, "" if none */
    struct sl_metrics *metrics;
    /* Called on an HTTP thread, with a zeroed `health`; quick, never blocks. */
    void (*health)(void *arg, struct serve_health *health);
    void *arg;
};

struct serve_admin;

/* Everything in args must outlive it. Adds process metrics to args->metrics. SL_DEVICE: port taken. */
sl_status serve_admin_start(const struct serve_admin_args *args,
                            struct serve_admin **admin_out) SL_MUST_USE;
uint16_t serve_admin_port(const struct serve_admin *admin);
void serve_admin_stop(struct serve_admin *admin);

struct serve_page {
    int http_status;
    const char *content_type;
    struct sl_buf body; /* sl_buf_fini() */
};
/* The page of `path`; false when there is none of that name (page_out is not touched). */
bool serve_admin_page(const struct serve_admin_args *args, const char *path,
                      struct serve_page *page_out);

/* process_resident_memory_bytes, process_cpu_seconds_total, process_open_fds, process_threads,
 * process_start_time_seconds, and build_info{version}, refreshed when rendered. Once per registry. */
void serve_process_metrics(struct sl_metrics *metrics);

#endif

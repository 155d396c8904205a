/* logfmt on standard error: `ts=… level=info event=kv_sent node=d0 req=… blocks=3`.
 * An event noun, then key=value. Each call site is limited to SL_LOG_RATE_MAX lines a second; what
 * was left out is counted in the next line (suppressed=N). Thread-safe. Prompts are never logged. */
#ifndef SL_BASE_LOG_H
#define SL_BASE_LOG_H

#include "base/status.h"

#include <stdint.h>

enum sl_log_level { SL_LOG_ERROR, SL_LOG_WARN, SL_LOG_INFO, SL_LOG_DEBUG, SL_LOG_TRACE };

#define SL_LOG_RATE_MAX 50

struct sl_log_site {
    uint64_t window_us;
    uint32_t lines;
    uint32_t suppressed;
};

/* Lines above `level` are dropped. Default: info. */
void sl_log_set_level(enum sl_log_level level);
/* Put into every line as node=NAME; copied. */
void sl_log_set_node(const char *name);
void sl_log_write(struct sl_log_site *site, enum sl_log_level level, const char *event,
                  const char *fmt, ...) SL_PRINTF(4, 5);
extern _Atomic(enum sl_log_level) sl_log_level_now;
extern const char *const sl_log_levels[]; /* "error" … "trace", NULL */

/* fmt may be "" when there is nothing to add. Values with spaces: quote them as key="…" in fmt. */
#define SL_LOG_AT(level, event, ...)                                                               \
    do {                                                                                           \
        static struct sl_log_site sl_site_;                                                        \
        if ((level) <= sl_log_level_now)                                                           \
            sl_log_write(&sl_site_, (level), (event), __VA_ARGS__);                                \
    } while (0)
#define sl_error_log(event, ...) SL_LOG_AT(SL_LOG_ERROR, event, __VA_ARGS__)
#define sl_warn(event, ...)      SL_LOG_AT(SL_LOG_WARN, event, __VA_ARGS__)
#define sl_info(event, ...)      SL_LOG_AT(SL_LOG_INFO, event, __VA_ARGS__)
#define sl_debug(event, ...)     SL_LOG_AT(SL_LOG_DEBUG, event, __VA_ARGS__)
#define sl_trace(event, ...)     SL_LOG_AT(SL_LOG_TRACE, event, __VA_ARGS__)

#endif

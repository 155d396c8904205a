/* Named threads, wake-ups, processor sets. */
#ifndef SL_BASE_THREAD_H
#define SL_BASE_THREAD_H

#include "base/status.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct sl_thread {
    pthread_t handle;
    bool started;
};

/* Starts a thread with all signals blocked; name is cut to 15 bytes. SL_DEVICE on failure. */
sl_status sl_thread_start(struct sl_thread *thread, const char *name, void (*run)(void *arg),
                          void *arg) SL_MUST_USE;
/* Waits for its end; does nothing if it never started. */
void sl_thread_join(struct sl_thread *thread);

/* An eventfd: any thread signals, one thread waits. */
struct sl_wake {
    int fd;
};
sl_status sl_wake_init(struct sl_wake *wake) SL_MUST_USE;
void sl_wake_fini(struct sl_wake *wake);
/* Async-signal-safe; never blocks. */
void sl_wake_signal(const struct sl_wake *wake);
/* Returns when signalled (clearing it) or after timeout_us; true if signalled. */
bool sl_wake_wait(const struct sl_wake *wake, uint64_t timeout_us);
/* Clears without waiting. */
void sl_wake_clear(const struct sl_wake *wake);

/* CPUs this process may use (affinity mask and cgroup quota), at least 1. */
uint32_t sl_cpu_count(void);
/* Restricts the calling thread (and threads it starts) to a list like "0-3,8". */
sl_status sl_cpu_bind(const char *cpu_list) SL_MUST_USE;

#endif

/* The clock; the only file that asks the system for the time. Any thread. The fake time is one
 * atomic for the whole process: a test that sets it owns the process's time. */
#include "base/clock.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <time.h>

static _Atomic bool fake;
static _Atomic uint64_t fake_us;

uint64_t sl_real_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * SL_SECOND_US + (uint64_t)now.tv_nsec / 1000;
}

uint64_t sl_now_us(void)
{
    if (atomic_load_explicit(&fake, memory_order_acquire))
        return atomic_load_explicit(&fake_us, memory_order_acquire);
    return sl_real_us();
}

double sl_wall_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

void sl_sleep_us(uint64_t us)
{
    struct timespec left = {.tv_sec = (time_t)(us / SL_SECOND_US),
                            .tv_nsec = (long)(us % SL_SECOND_US) * 1000};
    while (clock_nanosleep(CLOCK_MONOTONIC, 0, &left, &left) == EINTR)
        continue;
}

void sl_clock_fake(uint64_t now_us)
{
    atomic_store_explicit(&fake_us, now_us, memory_order_release);
    atomic_store_explicit(&fake, true, memory_order_release);
}

void sl_clock_advance(uint64_t us)
{
    atomic_fetch_add_explicit(&fake_us, us, memory_order_acq_rel);
}

void sl_clock_real(void)
{
    atomic_store_explicit(&fake, false, memory_order_release);
}

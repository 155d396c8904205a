/* The only clock. Monotonic microseconds; tests set and advance it by hand. */
#ifndef SL_BASE_CLOCK_H
#define SL_BASE_CLOCK_H

#include <stdint.h>

#define SL_SECOND_US 1000000ull
#define SL_MS_US     1000ull

/* Monotonic, from an arbitrary origin; the fake time when one is set. */
uint64_t sl_now_us(void);
/* Monotonic and never fake: for deadlines of waits that the operating system does. */
uint64_t sl_real_us(void);
/* Seconds since the epoch (for `created` in API bodies and log stamps). Never fake. */
double sl_wall_seconds(void);
/* Sleeps in real time. */
void sl_sleep_us(uint64_t us);
/* From now on sl_now_us() returns the fake time; sl_clock_real() ends it. Process-wide. */
void sl_clock_fake(uint64_t now_us);
void sl_clock_advance(uint64_t us);
void sl_clock_real(void);

#endif

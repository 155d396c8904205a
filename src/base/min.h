/* The smaller of two. */
#ifndef SL_BASE_MIN_H
#define SL_BASE_MIN_H

#include <stdint.h>

static inline uint32_t sl_min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static inline uint64_t sl_min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

#endif

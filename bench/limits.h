/* What the machine itself can do, measured in the same run as what is compared with it. */
#ifndef SL_BENCH_LIMITS_H
#define SL_BENCH_LIMITS_H

#include "kernels/cpu/cpu.h"

struct limits {
    double fma_gflops; /* f32 fused multiply-adds of the path's vectors, all threads */
    double read_gbs;   /* reading memory that no cache holds, all threads */
};

/* Takes about a second. */
void limits_measure(struct cpu_team *team, const char *path, struct limits *limits_out);

#endif

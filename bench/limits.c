/* Peak of f32 multiply-adds and of reading memory: the two floors of every kernel.
 *
 * The multiply-adds run in registers, in enough independent chains to hide their latency. Reading walks
 * LIMIT_BYTES in 64-byte steps, each thread its own part, with plain vector loads and with software
 * prefetch; the better counts. Each figure is the best of ROUNDS slices: a limit is what the
 * machine can do, not what neighbours left of it. */
#include "limits.h"

#include "base/clock.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define ROUNDS      12
#define FMA_STEPS   2000000
#define LIMIT_BYTES ((size_t)1 << 30)
#define PART_BYTES  ((size_t)8 << 20)

static volatile float sink;

#if defined(__x86_64__)
#define CHAINS 12

__attribute__((target("avx2,fma"))) static void fma_avx2(void)
{
    __m256 acc[CHAINS], a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(0.001f);
    for (int i = 0; i < CHAINS; i++)
        acc[i] = _mm256_set1_ps((float)i);
    for (long n = 0; n < FMA_STEPS; n++) {
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++)
            acc[i] = _mm256_fmadd_ps(acc[i], a, b);
    }
    for (int i = 1; i < CHAINS; i++)
        acc[0] = _mm256_add_ps(acc[0], acc[i]);
    sink = _mm256_cvtss_f32(acc[0]);
}

__attribute__((target("avx512f"))) static void fma_avx512(void)
{
    __m512 acc[CHAINS], a = _mm512_set1_ps(0.999f), b = _mm512_set1_ps(0.001f);
    for (int i = 0; i < CHAINS; i++)
        acc[i] = _mm512_set1_ps((float)i);
    for (long n = 0; n < FMA_STEPS; n++) {
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++)
            acc[i] = _mm512_fmadd_ps(acc[i], a, b);
    }
    for (int i = 1; i < CHAINS; i++)
        acc[0] = _mm512_add_ps(acc[0], acc[i]);
    sink = _mm512_cvtss_f32(acc[0]);
}

static void fma_sse(void)
{
    __m128 acc[CHAINS], a = _mm_set1_ps(0.999f), b = _mm_set1_ps(0.001f);
    for (int i = 0; i < CHAINS; i++)
        acc[i] = _mm_set1_ps((float)i);
    for (long n = 0; n < FMA_STEPS; n++) {
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++)
            acc[i] = _mm_add_ps(_mm_mul_ps(acc[i], a), b);
    }
    for (int i = 1; i < CHAINS; i++)
        acc[0] = _mm_add_ps(acc[0], acc[i]);
    sink = _mm_cvtss_f32(acc[0]);
}

static void (*fma_of(const char *path, double *flops))(void)
{
    bool wide = strcmp(path, "avx512") == 0, middle = strcmp(path, "avx2") == 0;
    *flops = 2.0 * CHAINS * FMA_STEPS * (wide ? 16 : middle ? 8 : 4);
    return wide ? fma_avx512 : middle ? fma_avx2 : fma_sse;
}

static uint64_t read_part(const unsigned char *p, bool prefetch)
{
    __m128i a = _mm_setzero_si128(), b = a, c = a, d = a;
    for (size_t i = 0; i < PART_BYTES; i += 64) {
        const __m128i *line = (const __m128i *)(const void *)(p + i);
        if (prefetch)
            _mm_prefetch((const char *)p + i + 4096, _MM_HINT_T0);
        a = _mm_or_si128(a, _mm_load_si128(line));
        b = _mm_or_si128(b, _mm_load_si128(line + 1));
        c = _mm_or_si128(c, _mm_load_si128(line + 2));
        d = _mm_or_si128(d, _mm_load_si128(line + 3));
    }
    a = _mm_or_si128(_mm_or_si128(a, b), _mm_or_si128(c, d));
    return (uint64_t)_mm_cvtsi128_si64(a);
}
#else
static void fma_plain(void)
{
    float acc[32];
    for (int i = 0; i < 32; i++)
        acc[i] = (float)i;
    for (long n = 0; n < FMA_STEPS; n++)
        for (int i = 0; i < 32; i++)
            acc[i] = acc[i] * 0.999f + 0.001f;
    for (int i = 1; i < 32; i++)
        acc[0] += acc[i];
    sink = acc[0];
}

static void (*fma_of(const char *path, double *flops))(void)
{
    (void)path;
    *flops = 2.0 * 32 * FMA_STEPS;
    return fma_plain;
}

static uint64_t read_part(const unsigned char *p, bool prefetch)
{
    uint64_t sum = 0, word;
    for (size_t i = 0; i < PART_BYTES; i += 8) {
        if (prefetch && i % 64 == 0)
            __builtin_prefetch(p + i + 4096);
        memcpy(&word, p + i, 8);
        sum |= word;
    }
    return sum;
}
#endif

struct job {
    void (*fma)(void);
    const unsigned char *memory;
    bool prefetch;
    volatile uint64_t sums[CPU_THREADS_MAX];
};

static void fma_item(void *arg, uint32_t item, uint32_t thread)
{
    (void)item;
    (void)thread;
    ((struct job *)arg)->fma();
}

static void read_item(void *arg, uint32_t item, uint32_t thread)
{
    struct job *job = arg;
    job->sums[thread] = read_part(job->memory + item * PART_BYTES, job->prefetch);
}

void limits_measure(struct cpu_team *team, const char *path, struct limits *limits_out)
{
    static struct job job;
    uint32_t threads = cpu_team_threads(team);
    double flops;
    *limits_out = (struct limits){0};
    job.fma = fma_of(path, &flops);
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t start = sl_now_us();
        cpu_team_run(team, fma_item, &job, threads);
        double rate = flops * threads / (double)(sl_now_us() - start) / 1e3;
        if (rate > limits_out->fma_gflops)
            limits_out->fma_gflops = rate;
    }
    unsigned char *memory = sl_try_aligned(4096, LIMIT_BYTES + PART_BYTES);
    if (memory == NULL) {
        fprintf(stderr, "bench-kernels: no memory for the bandwidth test\n");
        exit(1);
    }
    memset(memory, 0x5a, LIMIT_BYTES);
    job.memory = memory;
    for (int i = 0; i < ROUNDS; i++) {
        job.prefetch = i % 2 == 1;
        uint64_t start = sl_now_us();
        cpu_team_run(team, read_item, &job, (uint32_t)(LIMIT_BYTES / PART_BYTES));
        double rate = (double)LIMIT_BYTES / (double)(sl_now_us() - start) / 1e3;
        if (rate > limits_out->read_gbs)
            limits_out->read_gbs = rate;
    }
    sl_free(memory);
}

/* A vector of f32 in the native width of the instruction set that this file is compiled for: one
 * source, three builds (-mavx512f …, -mavx2 -mfma, none), so that testing one build tests the loops of
 * all.
 *
 *   CPU_VL       lanes: 16, 8, 4
 *   CPU_ACC_MAX  accumulators that fit the registers beside the operands of a product
 *
 * v_zero_below(a, b, x) is x where a >= b or unordered, else 0; v_pow2(n) is 2^n for whole n in
 * -126..127; v_sum4 gives the sums of the lanes of four vectors, each in the same order.
 *
 * v_fma is a fused product where the set has one, and a product and a sum where it has not (the
 * portable build): fixed either way by the numerics id. Nothing here depends on rounding modes or
 * contraction. When an operand is NaN, v_max and v_min give their second operand. */
#ifndef SL_KERNELS_CPU_SIMD_H
#define SL_KERNELS_CPU_SIMD_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#define CPU_INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__)
#include "kernels/cpu/simd_avx512.h"
#elif defined(__AVX2__)
#include "kernels/cpu/simd_avx2.h"
#else
#include "kernels/cpu/simd_portable.h"
#endif

CPU_INLINE vf v_zero(void)
{
    return v_set1(0.0f);
}

/* The first n < CPU_VL values at p, the other lanes `fill`; reads nothing beyond. */
CPU_INLINE vf v_load_some(const float *p, size_t n, float fill)
{
    float lanes[CPU_VL];
    for (size_t i = 0; i < CPU_VL; i++)
        lanes[i] = i < n ? p[i] : fill;
    return v_load(lanes);
}

CPU_INLINE void v_store_some(float *p, vf x, size_t n)
{
    float lanes[CPU_VL];
    v_store(lanes, x);
    for (size_t i = 0; i < n && i < CPU_VL; i++)
        p[i] = lanes[i];
}

CPU_INLINE float v_sum(vf x)
{
    float sums[4];
    v_sum4(x, x, x, x, sums);
    return sums[0];
}

CPU_INLINE float v_maximum(vf x)
{
    float lanes[CPU_VL];
    v_store(lanes, x);
    float max = lanes[0];
    for (int i = 1; i < CPU_VL; i++)
        max = lanes[i] > max ? lanes[i] : max;
    return max;
}

/* e^x. Reduction by ln 2 in two parts, polynomial of degree 6 on |r| <= ln 2 / 2 (Cephes expf's
 * shape); relative error below 2.5e-7 (2 ulp; tests/unit/kernels measures it) for -87.3 <= x <= 88.
 * Below -87.3 the result is 0 (it would be subnormal), above 88 that of 88. NaN gives NaN. */
CPU_INLINE vf v_exp(vf x)
{
    const vf round = v_set1(12582912.0f); /* 1.5 * 2^23: adding it leaves a whole number */
    vf y = v_min(v_set1(88.0f), v_max(v_set1(-88.0f), x));
    vf n = v_sub(v_add(v_mul(y, v_set1(1.44269504088896341f)), round), round);
    vf r = v_fma(n, v_set1(-0.693359375f), y);
    r = v_fma(n, v_set1(2.12194440e-4f), r);
    vf p = v_fma(v_set1(1.9875691500e-4f), r, v_set1(1.3981999507e-3f));
    p = v_fma(p, r, v_set1(8.3334519073e-3f));
    p = v_fma(p, r, v_set1(4.1665795894e-2f));
    p = v_fma(p, r, v_set1(1.6666665459e-1f));
    p = v_fma(p, r, v_set1(5.0000001201e-1f));
    p = v_fma(p, v_mul(r, r), v_add(r, v_set1(1.0f)));
    /* 2^-127 is subnormal: keep n at -126, where the result is cut to 0 anyway. */
    p = v_mul(p, v_pow2(v_max(v_set1(-126.0f), n)));
    return v_zero_below(x, v_set1(-87.3f), p);
}

/* cap * tanh(x / cap), tanh y = (1 - e) / (1 + e) with e = e^-2|y|: absolute error about cap * 1e-7. */
CPU_INLINE vf v_softcap(vf x, float cap)
{
    vf y = v_div(x, v_set1(cap));
    vf magnitude = v_max(y, v_sub(v_zero(), y));
    vf e = v_exp(v_mul(v_set1(-2.0f), magnitude));
    vf t = v_div(v_sub(v_set1(1.0f), e), v_add(v_set1(1.0f), e));
    vf sign = v_div(y, v_max(v_set1(1e-30f), magnitude)); /* -1, 1; tiny y: about y, and t is 0 */
    return v_mul(v_set1(cap), v_mul(t, sign));
}

#endif

/* A vector of f32 in the native width of the instruction set that this file is
 * compiled for: one source, three builds (-mavx512f …, -mavx2 -mfma, none), so
 * that testing one build tests the loops of all.
 *
 *   CPU_VL       lanes: 16, 8, 4
 *   CPU_ACC_MAX  accumulators that fit the registers beside the operands of a
 * product
 *
 * v_fma is a fused product where the set has one, and a product and a sum where
 * it has not (the portable build): fixed either way by the numerics id. Nothing
 * here depends on rounding modes or contraction. When an operand is NaN, v_max
 * and v_min give their second operand. */
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

#define CPU_VL      16
#define CPU_ACC_MAX 24
typedef __m512 vf;

CPU_INLINE vf v_set1(float x)
{
    return _mm512_set1_ps(x);
}
CPU_INLINE vf v_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
CPU_INLINE void v_store(float *p, vf x)
{
    _mm512_storeu_ps(p, x);
}
CPU_INLINE vf v_load_bf16(const uint16_t *p)
{
    __m256i half = _mm256_loadu_si256((const __m256i *)(const void *)p);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
CPU_INLINE vf v_add(vf a, vf b)
{
    return _mm512_add_ps(a, b);
}
CPU_INLINE vf v_sub(vf a, vf b)
{
    return _mm512_sub_ps(a, b);
}
CPU_INLINE vf v_mul(vf a, vf b)
{
    return _mm512_mul_ps(a, b);
}
CPU_INLINE vf v_div(vf a, vf b)
{
    return _mm512_div_ps(a, b);
}
CPU_INLINE vf v_max(vf a, vf b)
{
    return _mm512_max_ps(a, b);
}
CPU_INLINE vf v_min(vf a, vf b)
{
    return _mm512_min_ps(a, b);
}
CPU_INLINE vf v_fma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}
/* 2^n for whole n in -126..127 */
CPU_INLINE vf v_pow2(vf n)
{
    __m512i e = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(e, 23));
}
/* x where a >= b, else 0 (also where unordered: x) */
CPU_INLINE vf v_zero_below(vf a, vf b, vf x)
{
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, b, _CMP_NLT_UQ), x);
}
/* Sums of the lanes of a, b, c, d, each in the same order. */
CPU_INLINE void v_sum4(vf a, vf b, vf c, vf d, float *out)
{
    /* 16 lanes of four vectors: add pairs within 128-bit parts, then the four
   * parts. */
    __m512 ab = _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xdd));
    __m512 cd = _mm512_add_ps(_mm512_shuffle_ps(c, d, 0x88), _mm512_shuffle_ps(c, d, 0xdd));
    __m512 s = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x88), _mm512_shuffle_ps(ab, cd, 0xdd));
    __m256 h = _mm256_add_ps(_mm512_castps512_ps256(s), _mm512_extractf32x8_ps(s, 1));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1)));
}

#elif defined(__AVX2__)

#define CPU_VL      8
#define CPU_ACC_MAX 12
typedef __m256 vf;

CPU_INLINE vf v_set1(float x)
{
    return _mm256_set1_ps(x);
}
CPU_INLINE vf v_load(const float *p)
{
    return _mm256_loadu_ps(p);
}
CPU_INLINE void v_store(float *p, vf x)
{
    _mm256_storeu_ps(p, x);
}
CPU_INLINE vf v_load_bf16(const uint16_t *p)
{
    __m128i half = _mm_loadu_si128((const __m128i *)(const void *)p);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}
CPU_INLINE vf v_add(vf a, vf b)
{
    return _mm256_add_ps(a, b);
}
CPU_INLINE vf v_sub(vf a, vf b)
{
    return _mm256_sub_ps(a, b);
}
CPU_INLINE vf v_mul(vf a, vf b)
{
    return _mm256_mul_ps(a, b);
}
CPU_INLINE vf v_div(vf a, vf b)
{
    return _mm256_div_ps(a, b);
}
CPU_INLINE vf v_max(vf a, vf b)
{
    return _mm256_max_ps(a, b);
}
CPU_INLINE vf v_min(vf a, vf b)
{
    return _mm256_min_ps(a, b);
}
CPU_INLINE vf v_fma(vf a, vf b, vf c)
{
    return _mm256_fmadd_ps(a, b, c);
}
CPU_INLINE vf v_pow2(vf n)
{
    __m256i e = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(e, 23));
}
CPU_INLINE vf v_zero_below(vf a, vf b, vf x)
{
    return _mm256_and_ps(_mm256_cmp_ps(a, b, _CMP_NLT_UQ), x);
}
CPU_INLINE void v_sum4(vf a, vf b, vf c, vf d, float *out)
{
    __m256 ab = _mm256_add_ps(_mm256_shuffle_ps(a, b, 0x88), _mm256_shuffle_ps(a, b, 0xdd));
    __m256 cd = _mm256_add_ps(_mm256_shuffle_ps(c, d, 0x88), _mm256_shuffle_ps(c, d, 0xdd));
    __m256 s = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x88), _mm256_shuffle_ps(ab, cd, 0xdd));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1)));
}

#else

#define CPU_VL      4
#define CPU_ACC_MAX 12
typedef float vf __attribute__((vector_size(16)));
typedef int32_t vi __attribute__((vector_size(16)));

CPU_INLINE vf v_set1(float x)
{
    return (vf){x, x, x, x};
}
CPU_INLINE vf v_load(const float *p)
{
    vf x;
    memcpy(&x, p, sizeof(x));
    return x;
}
CPU_INLINE void v_store(float *p, vf x)
{
    memcpy(p, &x, sizeof(x));
}
CPU_INLINE vf v_load_bf16(const uint16_t *p)
{
    uint32_t wide[4] = {(uint32_t)p[0] << 16, (uint32_t)p[1] << 16, (uint32_t)p[2] << 16,
                        (uint32_t)p[3] << 16};
    vf x;
    memcpy(&x, wide, sizeof(x));
    return x;
}
CPU_INLINE vf v_add(vf a, vf b)
{
    return a + b;
}
CPU_INLINE vf v_sub(vf a, vf b)
{
    return a - b;
}
CPU_INLINE vf v_mul(vf a, vf b)
{
    return a * b;
}
CPU_INLINE vf v_div(vf a, vf b)
{
    return a / b;
}
CPU_INLINE vf v_select(vi mask, vf a, vf b)
{
    return (vf)(((vi)a & mask) | ((vi)b & ~mask));
}
CPU_INLINE vf v_max(vf a, vf b)
{
    return v_select(a > b, a, b);
}
CPU_INLINE vf v_min(vf a, vf b)
{
    return v_select(a < b, a, b);
}
CPU_INLINE vf v_fma(vf a, vf b, vf c)
{
    return a * b + c;
}
CPU_INLINE vf v_pow2(vf n)
{
    vi e = __builtin_convertvector(n, vi);
    return (vf)((e + 127) << 23);
}
CPU_INLINE vf v_zero_below(vf a, vf b, vf x)
{
    return (vf)((vi)x & ~(a < b));
}
CPU_INLINE void v_sum4(vf a, vf b, vf c, vf d, float *out)
{
    const vf all[4] = {a, b, c, d};
    for (int i = 0; i < 4; i++)
        out[i] = (all[i][0] + all[i][1]) + (all[i][2] + all[i][3]);
}

#endif

CPU_INLINE vf v_zero(void)
{
    return v_set1(0.0f);
}

/* The first n < CPU_VL values at p, the other lanes `fill`; reads nothing
 * beyond. */
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

/* e^x. Reduction by ln 2 in two parts, polynomial of degree 6 on |r| <= ln 2 /
 * 2 (Cephes expf's shape); relative error below 2.5e-7 (2 ulp;
 * tests/unit/kernels measures it) for -87.3 <= x <= 88. Below -87.3 the result
 * is 0 (it would be subnormal), above 88 that of 88. NaN gives NaN. */
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
    /* 2^-127 is subnormal: keep n at -126, where the result is cut to 0 anyway.
   */
    p = v_mul(p, v_pow2(v_max(v_set1(-126.0f), n)));
    return v_zero_below(x, v_set1(-87.3f), p);
}

#endif

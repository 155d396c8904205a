/* 8 lanes by AVX2 and FMA.
 * Included by simd.h, which says what each function does. */
#ifndef SL_KERNELS_CPU_SIMD_AVX2_H
#define SL_KERNELS_CPU_SIMD_AVX2_H

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

#endif

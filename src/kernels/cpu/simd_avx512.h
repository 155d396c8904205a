/* 16 lanes by AVX-512 F, BW, DQ, VL.
 * Included by simd.h, which says what each function does. */
#ifndef SL_KERNELS_CPU_SIMD_AVX512_H
#define SL_KERNELS_CPU_SIMD_AVX512_H

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
CPU_INLINE vf v_pow2(vf n)
{
    __m512i e = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(e, 23));
}
CPU_INLINE vf v_zero_below(vf a, vf b, vf x)
{
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, b, _CMP_NLT_UQ), x);
}
CPU_INLINE void v_sum4(vf a, vf b, vf c, vf d, float *out)
{
    /* 16 lanes of four vectors: add pairs within 128-bit parts, then the four parts. */
    __m512 ab = _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xdd));
    __m512 cd = _mm512_add_ps(_mm512_shuffle_ps(c, d, 0x88), _mm512_shuffle_ps(c, d, 0xdd));
    __m512 s = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x88), _mm512_shuffle_ps(ab, cd, 0xdd));
    __m256 h = _mm256_add_ps(_mm512_castps512_ps256(s), _mm512_extractf32x8_ps(s, 1));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1)));
}

#endif

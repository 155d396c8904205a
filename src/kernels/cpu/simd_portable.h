/* 4 lanes by the compiler's vector extension, on any machine.
 * Included by simd.h, which says what each function does. */
#ifndef SL_KERNELS_CPU_SIMD_PORTABLE_H
#define SL_KERNELS_CPU_SIMD_PORTABLE_H

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

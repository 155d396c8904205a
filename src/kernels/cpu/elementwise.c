/* Row-wise arithmetic of a path, and the path's table; compiled once per path.
 *
 * A reduction (the sum of squares of a norm) runs in two vectors of lanes over ascending index and one
 * fixed tree at the end: the same for a row wherever it stands. Loops without a reduction are
 * plain C: whatever the compiler makes of them, each element's operations are the same. */
#include "kernels/cpu/path.h"

#include <math.h>

static void rms_norm(const float *x, const float *weight, uint32_t n, float eps, float *out)
{
    vf a = v_zero(), b = v_zero();
    uint32_t i = 0;
    for (; i + 2 * CPU_VL <= n; i += 2 * CPU_VL) {
        vf x0 = v_load(x + i), x1 = v_load(x + i + CPU_VL);
        a = v_fma(x0, x0, a);
        b = v_fma(x1, x1, b);
    }
    for (; i < n; i += CPU_VL) {
        vf x0 = n - i >= CPU_VL ? v_load(x + i) : v_load_some(x + i, n - i, 0.0f);
        a = v_fma(x0, x0, a);
    }
    float inverse = 1.0f / sqrtf(v_sum(v_add(a, b)) / (float)n + eps);
    for (i = 0; i < n; i++)
        out[i] = x[i] * inverse * weight[i];
}

static void store(const float *c, const float *bias, uint32_t n, float *out)
{
    if (bias == NULL)
        memcpy(out, c, n * sizeof(*out));
    else
        for (uint32_t i = 0; i < n; i++)
            out[i] = c[i] + bias[i];
}

static void add(const float *c, const float *bias, uint32_t n, float *out)
{
    if (bias == NULL)
        for (uint32_t i = 0; i < n; i++)
            out[i] += c[i];
    else
        for (uint32_t i = 0; i < n; i++)
            out[i] += c[i] + bias[i];
}

static void add_scaled(const float *c, float scale, uint32_t n, float *out)
{
    for (uint32_t i = 0; i < n; i++)
        out[i] += scale * c[i];
}

static void softcap(float *x, uint32_t n, float cap)
{
    uint32_t i = 0;
    for (; i + CPU_VL <= n; i += CPU_VL)
        v_store(x + i, v_softcap(v_load(x + i), cap));
    if (i < n)
        v_store_some(x + i, v_softcap(v_load_some(x + i, n - i, 0.0f), cap), n - i);
}

/* x / (1 + e^-x) */
CPU_INLINE vf silu(vf x)
{
    return v_div(x, v_add(v_set1(1.0f), v_exp(v_sub(v_zero(), x))));
}

/* x/2 (1 + tanh u) = x / (1 + e^-2u), u = sqrt(2/pi) (x + 0.044715 x^3) */
CPU_INLINE vf gelu_tanh(vf x)
{
    vf cubic = v_mul(v_mul(v_mul(x, x), x), v_set1(0.044715f));
    vf u = v_mul(v_set1(-2.0f * 0.7978845608028654f), v_add(x, cubic));
    return v_div(x, v_add(v_set1(1.0f), v_exp(u)));
}

CPU_INLINE vf activate(enum kernel_activation activation, vf x)
{
    return activation == KERNEL_SILU ? silu(x) : gelu_tanh(x);
}

static void gate(enum kernel_activation activation, const float *g, const float *up, uint32_t n,
                 float *out)
{
    uint32_t i = 0;
    for (; i + CPU_VL <= n; i += CPU_VL)
        v_store(out + i, v_mul(activate(activation, v_load(g + i)), v_load(up + i)));
    if (i < n) {
        vf last = activate(activation, v_load_some(g + i, n - i, 0.0f));
        v_store_some(out + i, v_mul(last, v_load_some(up + i, n - i, 0.0f)), n - i);
    }
}

static void rotate(const float *cosine, const float *sine, uint32_t half, float *x)
{
    for (uint32_t i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cosine[i] - b * sine[i];
        x[i + half] = b * cosine[i] + a * sine[i];
    }
}

static void to_kv(enum kernel_element element, const float *x, uint32_t n, void *out)
{
    if (element == KERNEL_F32) {
        memcpy(out, x, n * sizeof(*x));
        return;
    }
    uint16_t *half = out;
    for (uint32_t i = 0; i < n; i++)
        half[i] = kernel_to_bf16(x[i]);
}

static void exp_of(const float *x, uint32_t n, float *out)
{
    for (uint32_t i = 0; i < n; i += CPU_VL) {
        uint32_t m = n - i < CPU_VL ? n - i : CPU_VL;
        v_store_some(out + i, v_exp(v_load_some(x + i, m, 0.0f)), m);
    }
}

#define TEXT_(x) #x
#define TEXT(x)  TEXT_(x)

/* The last part of a numerics id is the version of the order of operations: a change to any kernel
 * that changes a bit changes it. */
const struct cpu_path CPU_NAME(cpu_path) = {
    .name = TEXT(CPU_PATH),
    .numerics_id = "cpu-" TEXT(CPU_PATH) "-1",
    .panel = CPU_PANEL,
    .tile_rows = CPU_TILE_ROWS,
    .lanes = CPU_VL,
    .skinny = CPU_NAME(cpu_skinny),
    .gemm = CPU_NAME(cpu_gemm),
    .pack_tile = CPU_NAME(cpu_pack_tile),
    .attend_floats = CPU_NAME(cpu_attend_floats),
    .attend = CPU_NAME(cpu_attend),
    .attend_start = CPU_NAME(cpu_attend_start),
    .attend_fold = CPU_NAME(cpu_attend_fold),
    .attend_finish = CPU_NAME(cpu_attend_finish),
    .rms_norm = rms_norm,
    .store = store,
    .add = add,
    .add_scaled = add_scaled,
    .softcap = softcap,
    .gate = gate,
    .rotate = rotate,
    .to_kv = to_kv,
    .exp = exp_of,
};

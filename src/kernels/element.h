/* What every host backend needs: element conversions and the address of a KV tile. Private to
 * kernels/; static inline, so that files built for another instruction set share no symbol. */
#ifndef SL_KERNELS_ELEMENT_H
#define SL_KERNELS_ELEMENT_H

#include "kernels/kernels.h"

#include <string.h>

static inline float kernel_from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

static inline uint32_t kernel_to_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

static inline float kernel_from_bf16(uint16_t value)
{
    return kernel_from_bits((uint32_t)value << 16);
}

/* Nearest, ties to even; a NaN stays a (quiet) NaN. */
static inline uint16_t kernel_to_bf16(float value)
{
    uint32_t bits = kernel_to_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((bits >> 16) | 0x40u);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

static inline float kernel_from_f16(uint16_t value)
{
    uint32_t sign = (uint32_t)(value & 0x8000u) << 16;
    uint32_t exponent = (value >> 10) & 31u, mantissa = value & 0x3ffu;
    if (exponent == 31)
        return kernel_from_bits(sign | 0x7f800000u | mantissa << 13);
    if (exponent != 0)
        return kernel_from_bits(sign | (exponent + 112u) << 23 | mantissa << 13);
    float subnormal = (float)mantissa * 0x1p-24f;
    return kernel_from_bits(sign | kernel_to_bits(subnormal));
}

/* Element i of a source matrix as f32. */
static inline float kernel_source_at(const struct kernel_weight_source *source, size_t i)
{
    if (source->element == KERNEL_BF16)
        return kernel_from_bf16(((const uint16_t *)source->data)[i]);
    if (source->element == KERNEL_F16)
        return kernel_from_f16(((const uint16_t *)source->data)[i]);
    return ((const float *)source->data)[i];
}

/* The K tile of a head in the block that holds tokens [index * block_tokens, …) of a sequence; its V
 * tile is kv->v_offset bytes further. */
static inline unsigned char *kernel_kv_tile(const struct kernel_kv *kv,
                                            const struct kernel_seq *seq, uint32_t index,
                                            uint32_t head)
{
    SL_ASSERT(index < seq->n_blocks);
    uint32_t block = seq->block_tables[kv->class_index][index];
    SL_ASSERT(block < kv->pool->bytes / kv->block_bytes); /* no hole */
    return (unsigned char *)kv->pool->address + (size_t)block * kv->block_bytes + kv->layer_offset +
           (size_t)head * kv->head_bytes;
}

/* SL_INVALID names the field, the value and the limit. */
sl_status kernel_shape_check(const struct kernel_shape *shape) SL_MUST_USE;
/* The sources of one weight: same k, sizes in range; gives their summed n. */
sl_status kernel_sources_check(enum kernel_weight_use use,
                               const struct kernel_weight_source *sources, uint32_t n_sources,
                               uint32_t *n_out) SL_MUST_USE;

/* e^(score - largest score) of each expert -> the chosen ones in ascending order, and their weights. */
struct kernel_choice {
    uint32_t n_experts, n_chosen;
    bool renormalise;
};
void kernel_choose_experts(const struct kernel_choice *choice, const float *exps,
                           uint32_t *chosen_out, float *weights_out);

extern const struct kernel_ops kernel_ref_ops;
extern const struct kernel_ops kernel_cpu_ops;

#endif

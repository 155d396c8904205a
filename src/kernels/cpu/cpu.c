/* The CPU backend: context, choice of the instruction path, activations, and the op table.
 *
 * The path is chosen once, at open, by cpuid (and by what the operating system saves of the
 * registers); tests choose any that the machine has. What differs between paths is in the path table,
 * what does not is compiled once: the ops (ops.c), the team (team.c), packing (pack.c), angles (rope.c).
 *
 * Nothing is allocated after acts_create; scratch is per thread of the team. */
#include "kernels/cpu/cpu.h"

#include "base/mem.h"

#include <string.h>

static bool has_path(const struct cpu_path *path)
{
#if defined(__x86_64__)
    if (path == &cpu_path_avx512)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (path == &cpu_path_avx2)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return path == &cpu_path_portable;
}

static sl_status find_path(const char *name, const struct cpu_path **path_out)
{
    static const struct cpu_path *const all[] = {
#if defined(__x86_64__)
        &cpu_path_avx512,
        &cpu_path_avx2,
#endif
        &cpu_path_portable,
    };
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        if (name != NULL && strcmp(name, all[i]->name) != 0)
            continue;
        if (has_path(all[i])) {
            *path_out = all[i];
            return SL_OK;
        }
    }
    return sl_fail(SL_UNSUPPORTED, "kernels: no path %s on this machine",
                   name == NULL ? "at all" : name);
}

/* ---- context ---- */

static size_t rounded(size_t floats)
{
    return (floats + 15) / 16 * 16; /* whole cache lines */
}

static uint32_t queries_max(const struct kernel_shape *shape)
{
    uint32_t group = shape->n_q_heads / shape->n_kv_heads;
    return group > CPU_QUERIES ? group : CPU_QUERIES;
}

/* A block of c: rows of an item by the panels of its group; twice that and one for gate and up. */
static size_t c_floats(const struct cpu_path *path)
{
    size_t block = (size_t)CPU_BLOCK_ROWS * (CPU_GROUP_BLOCK + 2) * path->panel;
    size_t skinny = (size_t)path->tile_rows * (2 * CPU_GROUP_SKINNY + 1) * path->panel;
    return rounded(block > skinny ? block : skinny);
}

static sl_status scratch_create(struct kernel_context *context, uint32_t n_threads)
{
    const struct cpu_path *path = context->path;
    size_t c = c_floats(path), wide = rounded((size_t)CPU_DEPTH * path->panel);
    size_t attend =
        rounded(path->attend_floats(queries_max(&context->shape), context->shape.head_dim));
    /* One page more than needed per thread keeps their buffers out of each other's cache sets. */
    size_t each = c + wide + attend + 1024;
    context->scratch_memory = sl_try_aligned(64, n_threads * each * sizeof(float));
    if (context->scratch_memory == NULL)
        return sl_fail(SL_NO_MEMORY, "compute scratch of %u threads, %zu bytes each", n_threads,
                       each * sizeof(float));
    context->scratch = sl_zalloc(n_threads, sizeof(*context->scratch));
    for (uint32_t i = 0; i < n_threads; i++) {
        float *at = (float *)context->scratch_memory + i * each;
        context->scratch[i] = (struct cpu_scratch){at, at + c, at + c + wide, c};
    }
    return SL_OK;
}

static void cpu_close(struct kernel_context *context)
{
    if (context == NULL)
        return;
    cpu_team_destroy(context->team);
    sl_free(context->scratch);
    sl_free(context->scratch_memory);
    pthread_mutex_destroy(&context->turn);
    sl_free(context);
}

sl_status kernel_cpu_open_path(struct device *device, const struct kernel_shape *shape,
                               uint32_t n_threads, const char *path,
                               struct kernel_context **context_out)
{
    sl_status status = kernel_shape_check(shape);
    if (status != SL_OK)
        return status;
    if (device_kind(device) == DEVICE_CUDA)
        return sl_fail(SL_UNSUPPORTED, "kernels: cpu runs on host and fake, not on %s",
                       device_name(device));
    const struct cpu_path *chosen = NULL;
    status = find_path(path, &chosen);
    if (status != SL_OK)
        return status;
    if (n_threads == 0)
        n_threads = sl_cpu_count() < CPU_THREADS_MAX ? sl_cpu_count() : CPU_THREADS_MAX;

    struct kernel_context *context = sl_zalloc(1, sizeof(*context));
    context->device = device;
    context->shape = *shape;
    context->path = chosen;
    pthread_mutex_init(&context->turn, NULL);
    status = cpu_team_create(n_threads, &context->team);
    if (status != SL_OK)
        goto fail;
    status = scratch_create(context, n_threads);
    if (status != SL_OK)
        goto fail;
    *context_out = context;
    return SL_OK;
fail:
    cpu_close(context);
    return status;
}

static sl_status cpu_open(struct device *device, const struct kernel_shape *shape,
                          uint32_t n_threads, struct kernel_context **context_out)
{
    return kernel_cpu_open_path(device, shape, n_threads, NULL, context_out);
}

static const char *cpu_numerics_id(const struct kernel_context *context)
{
    return context->path->numerics_id;
}

static sl_status weight_pack(struct kernel_context *context, enum kernel_weight_use use,
                             const struct kernel_weight_source *sources, uint32_t n_sources,
                             struct kernel_weight **weight_out)
{
    pthread_mutex_lock(&context->turn);
    sl_status status =
        cpu_weight_pack(context->team, context->path->panel, use, sources, n_sources, weight_out);
    pthread_mutex_unlock(&context->turn);
    return status;
}

/* ---- activations ---- */

static void acts_destroy(struct kernel_acts *acts)
{
    if (acts == NULL)
        return;
    device_free(&acts->memory);
    sl_free(acts);
}

/* Gives *floats rounded floats of the memory, or only counts when base is NULL. */
static void *carve(float *base, size_t *used, size_t floats)
{
    void *at = base == NULL ? NULL : base + *used;
    *used += rounded(floats);
    return at;
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Lays the buffers out from base on; returns the floats they take. */
static size_t acts_layout(struct kernel_acts *acts, float *base)
{
    const struct kernel_shape *shape = &acts->context->shape;
    const struct cpu_path *path = acts->context->path;
    size_t rows = shape->rows_max, hidden = shape->hidden, dim = shape->head_dim;
    size_t q_width = shape->n_q_heads * dim, qkv_width = q_width + 2 * shape->n_kv_heads * dim;
    size_t chunk = larger(rows, shape->logits_max);
    chunk = chunk < CPU_CHUNK_ROWS ? chunk : CPU_CHUNK_ROWS;
    size_t mlp = larger(shape->mlp_hidden, shape->expert_hidden);
    size_t k_max = larger(larger(hidden, q_width), mlp);
    size_t used = 0;

    acts->hidden = carve(base, &used, rows * hidden);
    acts->q = carve(base, &used, rows * q_width);
    acts->attention = carve(base, &used, rows * q_width);
    acts->x = carve(base, &used, chunk * hidden);
    acts->wide = carve(base, &used, chunk * larger(qkv_width, mlp));
    /* Tiles of at least half their rows: never more than twice the rows. */
    acts->packed = carve(base, &used, (2 * chunk + path->tile_rows) * k_max);
    acts->rope_cosine = carve(base, &used, rows * (dim / 2));
    acts->rope_sine = carve(base, &used, rows * (dim / 2));
    acts->row_seq = carve(base, &used, rows);
    acts->blocks = carve(base, &used, rows * sizeof(*acts->blocks) / sizeof(float));
    acts->partials = carve(base, &used, acts->partial_floats);
    if (shape->n_experts == 0)
        return used;
    size_t n_experts = shape->n_experts, choices = chunk * shape->n_chosen;
    acts->gathered = carve(base, &used, chunk * hidden);
    acts->scores = carve(base, &used, chunk * n_experts);
    acts->chosen = carve(base, &used, choices);
    acts->weights = carve(base, &used, choices);
    acts->expert_first = carve(base, &used, n_experts + 1);
    acts->expert_rows = carve(base, &used, choices);
    acts->expert_weights = carve(base, &used, choices);
    return used;
}

static sl_status acts_create(struct kernel_context *context, struct kernel_acts **acts_out)
{
    const struct kernel_shape *shape = &context->shape;
    struct kernel_acts *acts = sl_zalloc(1, sizeof(*acts));
    acts->context = context;
    size_t units = 2 * (size_t)cpu_team_threads(context->team);
    if (units > 2) /* else attention never works on parts of a context */
        acts->partial_floats = 9 * units * queries_max(shape) * CPU_PARTIAL_FLOATS(shape->head_dim);
    sl_status status =
        device_alloc(context->device, acts_layout(acts, NULL) * sizeof(float), &acts->memory);
    if (status != SL_OK) {
        sl_free(acts);
        return status;
    }
    acts_layout(acts, acts->memory.address);
    *acts_out = acts;
    return SL_OK;
}

const struct kernel_ops kernel_cpu_ops = {
    .name = "cpu",
    .open = cpu_open,
    .close = cpu_close,
    .numerics_id = cpu_numerics_id,
    .weight_pack = weight_pack,
    .weight_free = cpu_weight_free,
    .acts_create = acts_create,
    .acts_destroy = acts_destroy,
    .embed = cpu_embed,
    .attn_in = cpu_attn_in,
    .attention = cpu_attention,
    .attn_out = cpu_attn_out,
    .mlp = cpu_mlp,
    .moe = cpu_moe,
    .logits = cpu_logits,
    .kv_block_copy = cpu_kv_block_copy,
    .all_reduce = NULL,
    .act_read = cpu_act_read,
};

/* The mixture of experts of the CPU backend.
 *
 *   prepare │ product → scores │ per row: exp, choice │ rows sorted by expert
 *   per expert that was chosen, in their order: gather │ product gate and up → act(gate) * up │ pack
 *                                             │ product, times the rows' weights, added to hidden
 *
 * An expert takes all its rows of the chunk at once, so that its weights are read once. What a row
 * gets does not depend on that: its choice is its own, a product's row is its own, and the experts add
 * to it in their order, from hidden on. Rejected: a sum of the experts that is added to hidden as one
 * (the order of transformers): a buffer more, for a rounding that no one can tell apart. */
#include "kernels/cpu/product.h"

#include "base/min.h"

#include <string.h>

struct choose {
    struct kernel_acts *acts;
    struct kernel_choice choice;
};

static void choose_row(void *arg, uint32_t row, uint32_t thread)
{
    (void)thread;
    const struct choose *c = arg;
    struct kernel_acts *acts = c->acts;
    uint32_t n_experts = c->choice.n_experts, n_chosen = c->choice.n_chosen;
    float *scores = acts->scores + (size_t)row * n_experts, max = scores[0];
    for (uint32_t e = 1; e < n_experts; e++)
        max = scores[e] > max ? scores[e] : max;
    for (uint32_t e = 0; e < n_experts; e++)
        scores[e] -= max;
    acts->context->path->exp(scores, n_experts, scores);
    kernel_choose_experts(&c->choice, scores, acts->chosen + (size_t)row * n_chosen,
                          acts->weights + (size_t)row * n_chosen);
}

/* chosen [n_rows][n_chosen] -> expert_first, expert_rows, expert_weights; rows ascending. */
static void sort_by_expert(struct kernel_acts *acts, uint32_t n_rows, uint32_t n_experts,
                           uint32_t n_chosen)
{
    uint32_t *first = acts->expert_first, n = n_rows * n_chosen;
    memset(first, 0, (n_experts + 1) * sizeof(*first));
    for (uint32_t i = 0; i < n; i++)
        first[acts->chosen[i] + 1]++;
    for (uint32_t e = 0; e < n_experts; e++)
        first[e + 1] += first[e];
    for (uint32_t i = 0; i < n; i++) {
        uint32_t at = first[acts->chosen[i]]++;
        acts->expert_rows[at] = i / n_chosen;
        acts->expert_weights[at] = acts->weights[i];
    }
    /* Each begin has moved to its end, which is the next one's begin. */
    memmove(first + 1, first, n_experts * sizeof(*first));
    first[0] = 0;
}

static void run_expert(const struct kernel_moe_args *args, uint32_t expert, float *hidden)
{
    struct kernel_acts *acts = args->acts;
    uint32_t first = acts->expert_first[expert];
    size_t width = acts->context->shape.hidden;
    struct cpu_product gate_up = {
        .context = acts->context,
        .from = acts->x,
        .from_stride = width,
        .from_rows = acts->expert_rows + first,
        .x = acts->gathered,
        .packed = acts->packed,
        .n_rows = acts->expert_first[expert + 1] - first,
        .weight = args->gate_up[expert],
        .finish = CPU_FINISH_GATE,
        .activation = args->activation,
        .out = acts->wide,
        .out_stride = args->down[expert]->k,
    };
    cpu_product_run(&gate_up);
    struct cpu_product down = {
        .context = acts->context,
        .from = acts->wide,
        .from_stride = args->down[expert]->k,
        .packed = acts->packed,
        .n_rows = gate_up.n_rows,
        .weight = args->down[expert],
        .finish = CPU_FINISH_WEIGHTED,
        .out = hidden,
        .out_stride = width,
        .out_rows = acts->expert_rows + first,
        .weights = acts->expert_weights + first,
    };
    cpu_product_run(&down);
}

static void run_chunk(const struct kernel_moe_args *args, uint32_t n_rows, float *hidden)
{
    struct kernel_acts *acts = args->acts;
    struct choose choose = {acts, {args->router->n, args->n_chosen, args->renormalise}};
    uint32_t n_experts = choose.choice.n_experts;
    struct cpu_product router = {
        .context = acts->context,
        .from = hidden,
        .from_stride = acts->context->shape.hidden,
        .norm = args->norm,
        .norm_eps = args->norm_eps,
        .x = acts->x,
        .packed = acts->packed,
        .n_rows = n_rows,
        .weight = args->router,
        .finish = CPU_FINISH_STORE,
        .out = acts->scores,
        .out_stride = n_experts,
    };
    cpu_product_run(&router);
    cpu_region(acts->context, choose_row, &choose, n_rows, (uint64_t)n_rows * n_experts * 16);
    sort_by_expert(acts, n_rows, n_experts, args->n_chosen);
    for (uint32_t e = 0; e < n_experts; e++)
        if (acts->expert_first[e + 1] > acts->expert_first[e])
            run_expert(args, e, hidden);
}

static void moe_run(void *p)
{
    const struct kernel_moe_args *args = p;
    struct kernel_acts *acts = args->acts;
    const struct kernel_shape *shape = &acts->context->shape;
    SL_ASSERT(args->router->n == shape->n_experts && args->n_chosen <= shape->n_chosen);
    pthread_mutex_lock(&acts->context->turn);
    for (uint32_t first = 0; first < acts->batch.n_rows; first += CPU_CHUNK_ROWS)
        run_chunk(args, sl_min_u32(CPU_CHUNK_ROWS, acts->batch.n_rows - first),
                  acts->hidden + (size_t)first * shape->hidden);
    pthread_mutex_unlock(&acts->context->turn);
}

void cpu_moe(struct device_stream *stream, const struct kernel_moe_args *args)
{
    device_launch(stream, moe_run, args, sizeof(*args));
}

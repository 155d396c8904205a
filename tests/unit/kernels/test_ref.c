/* The reference backend against the formulas in double.
 *
 * Each op is computed again from what the reference itself had as input (hidden state, q, pool), so a
 * difference is that op's own rounding: a sum of K products of values near 1 in one f32 accumulator is
 * off by about sqrt(K) * 2^-24 of its terms' size, at K <= 600 below 2e-6; allowed are 2e-5 of
 * (1 + |x|). KV elements in bf16 may besides fall to the other side of a rounding boundary: 2^-8. */
#include "fixture.h"

#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#define TOLERANCE 2e-5
#define EPS       1e-5

static const struct fx_shape shapes[] = {
    {.name = "f32",
     .hidden = 60,
     .n_q = 4,
     .n_kv = 2,
     .dim = 16,
     .mlp = 70,
     .vocab = 50,
     .block_tokens = 16,
     .rotary = 16},
    {.name = "bf16, bias, norms, window, cap, gelu",
     .hidden = 48,
     .n_q = 3,
     .n_kv = 1,
     .dim = 24,
     .mlp = 40,
     .vocab = 33,
     .block_tokens = 32,
     .kv = KERNEL_BF16,
     .weights = KERNEL_BF16,
     .rotary = 16,
     .bias = true,
     .head_norms = true,
     .activation = KERNEL_GELU_TANH,
     .window = 9,
     .softcap = 1.5f,
     .table_is_matrix = true},
    {.name = "norms before and behind, cap of the logits",
     .hidden = 44,
     .n_q = 4,
     .n_kv = 2,
     .dim = 16,
     .mlp = 30,
     .vocab = 37,
     .block_tokens = 16,
     .rotary = 8,
     .head_norms = true,
     .post_norms = true,
     .activation = KERNEL_GELU_TANH,
     .softcap = 2,
     .logits_softcap = 1.5f},
    {.name = "norms behind only, of all of q and k, bias",
     .hidden = 52,
     .n_q = 6,
     .n_kv = 3,
     .dim = 8,
     .mlp = 44,
     .vocab = 29,
     .block_tokens = 32,
     .rotary = 8,
     .bias = true,
     .whole_norms = true,
     .no_norms = true,
     .post_norms = true},
    {.name = "experts",
     .hidden = 40,
     .n_q = 2,
     .n_kv = 1,
     .dim = 16,
     .mlp = 8,
     .vocab = 21,
     .block_tokens = 16,
     .rotary = 16,
     .experts = 7,
     .chosen = 3,
     .expert_mlp = 33},
    {.name = "experts, shares that add up to 1, wider than the rest",
     .hidden = 24,
     .n_q = 2,
     .n_kv = 2,
     .dim = 8,
     .mlp = 8,
     .vocab = 21,
     .block_tokens = 16,
     .weights = KERNEL_BF16,
     .rotary = 8,
     .activation = KERNEL_GELU_TANH,
     .experts = 5,
     .chosen = 5,
     .expert_mlp = 90,
     .renormalise = true},
    {.name = "f16, large scores",
     .hidden = 64,
     .n_q = 2,
     .n_kv = 2,
     .dim = 64,
     .mlp = 64,
     .vocab = 40,
     .block_tokens = 16,
     .weights = KERNEL_F16,
     .rotary = 64,
     .q_gain = 400},
};

static void near(const char *what, const char *name, size_t row, size_t i, double got, double want,
                 double tolerance)
{
    if (!(fabs(got - want) <= tolerance * (1 + fabs(want))))
        fail_msg("%s: %s row %zu [%zu]: %.9g, want %.9g", name, what, row, i, got, want);
}

static double norm_factor(const double *x, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += x[i] * x[i];
    return 1 / sqrt(sum / (double)n + EPS);
}

/* Norms before attention and MLP are those that a shape may lack. */
static void normed(const struct fx_model *model, enum fx_matrix norm, const float *x, double *out)
{
    size_t n = model->shape->hidden;
    for (size_t i = 0; i < n; i++)
        out[i] = (double)x[i];
    if (model->shape->no_norms && norm != FX_LAST_NORM)
        return;
    double factor = norm_factor(out, n);
    for (size_t i = 0; i < n; i++)
        out[i] *= factor * fx_at(model, norm, i, 0);
}

static double dot(const struct fx_model *model, enum fx_matrix matrix, size_t n, const double *x)
{
    double sum = 0;
    for (size_t k = 0; k < model->sources[matrix].k; k++)
        sum += fx_at(model, matrix, n, k) * x[k];
    return sum;
}

/* Element n of q, k or v before norm and rotation. */
static double projected(const struct fx_model *model, int kind, uint32_t n, const double *x)
{
    double sum = dot(model, (enum fx_matrix)(FX_Q + kind), n, x);
    return model->shape->bias ? sum + fx_at(model, (enum fx_matrix)(FX_Q_BIAS + kind), n, 0) : sum;
}

/* One head of q or k: product, bias, norm, rotation. */
static void head_of(const struct fx_model *model, int kind, uint32_t head, const double *x,
                    uint32_t position, double *out)
{
    const struct fx_shape *s = model->shape;
    for (uint32_t i = 0; i < s->dim; i++)
        out[i] = projected(model, kind, head * s->dim + i, x);
    if (kind == 2)
        return;
    if (s->whole_norms) {
        double all[512];
        uint32_t n = s->dim * (kind == 0 ? s->n_q : s->n_kv);
        for (uint32_t i = 0; i < n; i++)
            all[i] = projected(model, kind, i, x);
        double factor = norm_factor(all, n);
        for (uint32_t i = 0; i < s->dim; i++)
            out[i] *=
                factor * fx_at(model, (enum fx_matrix)(FX_Q_NORM + kind), head * s->dim + i, 0);
    }
    if (s->head_norms) {
        double factor = norm_factor(out, s->dim);
        for (uint32_t i = 0; i < s->dim; i++)
            out[i] *= factor * fx_at(model, (enum fx_matrix)(FX_Q_NORM + kind), i, 0);
    }
    for (uint32_t i = 0; i < s->rotary / 2; i++) {
        double angle = (double)((float)position * model->inv_freq[i]);
        double a = out[i], b = out[i + s->rotary / 2];
        out[i] = a * cos(angle) - b * sin(angle);
        out[i + s->rotary / 2] = b * cos(angle) + a * sin(angle);
    }
}

static void check_attn_in(const struct fx *fx, const struct fx_result *r, size_t row, uint32_t id,
                          uint32_t position)
{
    const struct fx_shape *s = fx->model->shape;
    double x[512], out[KERNEL_HEAD_DIM_MAX];
    normed(fx->model, FX_NORM, r->start + row * s->hidden, x);
    double gain = s->q_gain > 0 ? (double)s->q_gain : 1;
    for (uint32_t head = 0; head < s->n_q; head++) {
        head_of(fx->model, 0, head, x, position, out);
        for (uint32_t i = 0; i < s->dim; i++)
            near("q", s->name, row, head * s->dim + i,
                 (double)r->q[(row * s->n_q + head) * s->dim + i], out[i], TOLERANCE * gain);
    }
    for (uint32_t head = 0; head < s->n_kv; head++)
        for (int value = 0; value < 2; value++) {
            head_of(fx->model, 1 + value, head, x, position, out);
            for (uint32_t i = 0; i < s->dim; i++)
                near(value ? "v" : "k", s->name, row, i,
                     fx_slot(fx, id, position, head, value != 0, i), out[i],
                     s->kv == KERNEL_BF16 ? 0x1p-8 : TOLERANCE);
        }
}

static void check_attention(const struct fx *fx, const struct fx_result *r, size_t row, uint32_t id,
                            uint32_t position)
{
    const struct fx_shape *s = fx->model->shape;
    uint32_t first = s->window > 0 && position + 1 > s->window ? position + 1 - s->window : 0;
    for (uint32_t head = 0; head < s->n_q; head++) {
        uint32_t kv_head = head / (s->n_q / s->n_kv);
        const float *q = r->q + (row * s->n_q + head) * s->dim;
        double scores[1024], max = -INFINITY, sum = 0;
        for (uint32_t j = first; j <= position; j++) {
            double score = 0;
            for (uint32_t i = 0; i < s->dim; i++)
                score += (double)q[i] * fx_slot(fx, id, j, kv_head, false, i);
            score /= sqrt((double)s->dim);
            if (s->softcap > 0)
                score = (double)s->softcap * tanh(score / (double)s->softcap);
            scores[j] = score;
            max = fmax(max, score);
        }
        for (uint32_t j = first; j <= position; j++)
            sum += scores[j] = exp(scores[j] - max);
        for (uint32_t i = 0; i < s->dim; i++) {
            double want = 0;
            for (uint32_t j = first; j <= position; j++)
                want += scores[j] / sum * fx_slot(fx, id, j, kv_head, true, i);
            /* A score near 1,000 is itself known to 1,000 * 2^-24 only. */
            near("attention", s->name, row, head * s->dim + i,
                 (double)r->attention[(row * s->n_q + head) * s->dim + i], want,
                 TOLERANCE * (1 + fabs(max) / 4));
        }
    }
}

static double activation(const struct fx_shape *s, double x)
{
    if (s->activation == KERNEL_SILU)
        return x / (1 + exp(-x));
    return 0.5 * x * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
}

/* The residual after y: y added, or its norm. */
static void check_residual(const char *what, const struct fx_model *model, enum fx_matrix norm,
                           size_t row, const float *before, const float *after, double *y)
{
    const struct fx_shape *s = model->shape;
    double factor = s->post_norms ? norm_factor(y, s->hidden) : 1;
    for (uint32_t i = 0; i < s->hidden; i++) {
        y[i] *= s->post_norms ? factor * fx_at(model, norm, i, 0) : 1;
        near(what, s->name, row, i, (double)after[row * s->hidden + i],
             (double)before[row * s->hidden + i] + y[i], TOLERANCE);
    }
}

/* y = the MLP of a gate, an up and a down matrix whose rows begin there. */
static void gated(const struct fx_model *model, const enum fx_matrix matrices[3], size_t first,
                  size_t first_down, const double *x, double *y)
{
    const struct fx_shape *s = model->shape;
    double gate[512];
    size_t width = model->sources[matrices[2]].k;
    for (size_t i = 0; i < width; i++)
        gate[i] = activation(s, dot(model, matrices[0], first + i, x)) *
                  dot(model, matrices[1], first + i, x);
    for (uint32_t i = 0; i < s->hidden; i++)
        y[i] = dot(model, matrices[2], first_down + i, gate);
}

/* An expert is chosen if fewer than `chosen` others are ahead of it. */
static bool is_chosen(const struct fx_shape *s, const double *scores, uint32_t e)
{
    uint32_t n_ahead = 0;
    for (uint32_t i = 0; i < s->experts; i++)
        n_ahead += scores[i] > scores[e];
    return n_ahead < s->chosen;
}

static void experts(const struct fx_model *model, const double *x, double *y)
{
    static const enum fx_matrix matrices[] = {FX_EXPERT_GATE, FX_EXPERT_UP, FX_EXPERT_DOWN};
    const struct fx_shape *s = model->shape;
    double scores[FX_EXPERTS_MAX], sum = 0, part[512];
    for (uint32_t e = 0; e < s->experts; e++)
        scores[e] = dot(model, FX_ROUTER, e, x);
    for (uint32_t e = 0; e < s->experts; e++)
        if (!s->renormalise || is_chosen(s, scores, e))
            sum += exp(scores[e]);
    for (uint32_t i = 0; i < s->hidden; i++)
        y[i] = 0;
    for (uint32_t e = 0; e < s->experts; e++) {
        if (!is_chosen(s, scores, e))
            continue;
        gated(model, matrices, (size_t)e * s->expert_mlp, (size_t)e * s->hidden, x, part);
        for (uint32_t i = 0; i < s->hidden; i++)
            y[i] += exp(scores[e]) / sum * part[i];
    }
}

static void check_rest(const struct fx *fx, const struct fx_result *r, size_t row)
{
    static const enum fx_matrix mlp[] = {FX_GATE, FX_UP, FX_DOWN};
    const struct fx_model *model = fx->model;
    const struct fx_shape *s = model->shape;
    double x[512], y[512];
    for (uint32_t i = 0; i < s->n_q * s->dim; i++)
        x[i] = (double)r->attention[row * s->n_q * s->dim + i];
    for (uint32_t i = 0; i < s->hidden; i++)
        y[i] = dot(model, FX_OUT, i, x) + (s->bias ? fx_at(model, FX_OUT_BIAS, i, 0) : 0);
    check_residual("attn_out", model, FX_POST_NORM, row, r->start, r->middle, y);

    normed(model, FX_MLP_NORM, r->middle + row * s->hidden, x);
    if (s->experts > 0)
        experts(model, x, y);
    else
        gated(model, mlp, 0, 0, x, y);
    check_residual("mlp", model, FX_MLP_POST_NORM, row, r->middle, r->hidden, y);

    normed(model, FX_LAST_NORM, r->hidden + row * s->hidden, x);
    for (uint32_t i = 0; i < s->vocab; i++) {
        double want = dot(model, FX_HEAD, i, x), cap = (double)s->logits_softcap;
        near("logits", s->name, row, i, (double)r->logits[row * s->vocab + i],
             cap > 0 ? cap * tanh(want / cap) : want, TOLERANCE);
    }
}

static void check_batch(const struct fx_shape *s, enum device_kind device)
{
    struct fx_model model;
    struct fx fx;
    fx_model_init(&model, s);
    fx_open(&fx, &(struct fx_run_args){.model = &model,
                                       .backend = "ref",
                                       .device = device,
                                       .n_threads = 1,
                                       .rows_max = 64,
                                       .context_max = 96,
                                       .seed = 7});
    const struct fx_seq seqs[] = {{3, 0, 20}, {0, 37, 1}, {5, 15, 18}, {1, 0, 1}};
    fx_context(&fx, 0, 37);
    fx_context(&fx, 5, 15);
    fx_pool_put(&fx);
    struct fx_result r;
    fx_layer(&fx, seqs, 4, &r);
    fx_pool_get(&fx);
    size_t row = 0;
    for (size_t n = 0; n < 4; n++)
        for (uint32_t i = 0; i < seqs[n].n_rows; i++, row++) {
            uint32_t position = seqs[n].first_position + i;
            uint32_t token = fx_token(&fx, seqs[n].id, position);
            for (uint32_t j = 0; j < s->hidden; j++)
                near("embed", s->name, row, j, (double)r.start[row * s->hidden + j],
                     1.25 * fx_at(&model, FX_TABLE, token, j), 1e-7);
            check_attn_in(&fx, &r, row, seqs[n].id, position);
            check_attention(&fx, &r, row, seqs[n].id, position);
            check_rest(&fx, &r, row);
        }
    /* Nothing but the rows' own slots was written: the other layer is as it was. */
    for (uint32_t block = 0; block < fx.n_blocks; block++)
        for (size_t i = 0; i < fx.kv.layer_offset; i++)
            assert_int_equal(fx.image[block * fx.kv.block_bytes + i], 0xff);
    fx_result_fini(&r);
    fx_close(&fx);
    fx_model_fini(&model);
}

static void test_ops_are_their_formulas(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
        check_batch(&shapes[i], DEVICE_HOST);
        check_batch(&shapes[i], DEVICE_FAKE);
    }
}

static void test_large_scores_occur(void **state)
{
    (void)state;
    struct fx_model model;
    struct fx fx;
    fx_model_init(&model, &shapes[sizeof(shapes) / sizeof(shapes[0]) - 1]);
    fx_open(&fx, &(struct fx_run_args){
                     .model = &model, .backend = "ref", .rows_max = 8, .context_max = 16});
    fx_pool_put(&fx);
    struct fx_result r;
    fx_layer(&fx, &(struct fx_seq){0, 0, 8}, 1, &r);
    fx_pool_get(&fx);
    double max = 0;
    for (uint32_t j = 0; j < 8; j++) {
        double score = 0;
        for (uint32_t i = 0; i < 64; i++)
            score += (double)r.q[7 * 128 + i] * fx_slot(&fx, 0, j, 0, false, i) / 8;
        max = fmax(max, fabs(score));
    }
    assert_true(max > 100);
    fx_result_fini(&r);
    fx_close(&fx);
    fx_model_fini(&model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ops_are_their_formulas),
        cmocka_unit_test(test_large_scores_occur),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

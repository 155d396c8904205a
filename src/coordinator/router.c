/* The router.
 *
 * Costs are separable, so P and D are chosen each on its own instead of over all pairs:
 *
 *   P:  queue(P) + compute(what P lacks)              (ttft)
 *   D:  exposed transfer(what D lacks) + wait for blocks + w * itl(D with one more)
 *   local on D:  queue(D) + compute(what D lacks) + wait for blocks + w * itl
 *
 * Rules that go before costs: one token needs no D, unless D has the history; a suffix of at most
 * local_prefill_max_tokens, or a fleet without a fitting P, is local; in a fleet without any D the prefill
 * nodes stand for them, and all is local to those; otherwise a pair. (Comparing
 * pair and local by cost alone was left out: with two costs that are both estimates, a fleet near
 * balance flips between the two, and the operator's knob says what is wanted.)
 *
 * Ties: fewer requests, then affinity (a highest-random-weight hash of the first block and the node: equal
 * prompts that arrive together meet), then rotation. */
#include "coordinator/router.h"

#define FADE            0.98 /* of the weight of older samples, each new one */
#define BASE_MS         1.0
#define TOKEN_MS        0.05
#define SAMPLES_MIN     4.0
#define ITL_WEIGHT      8.0    /* tokens whose delay is charged to a placement */
#define BLOCK_WAIT_MS   2000.0 /* for a pool that lacks all the blocks */
#define BYTES_PER_MS    1.0e6
#define TRANSFER_SHOWN  0.25 /* of a transfer that is not under compute, as a guess */
#define TIE_MS          0.01
#define CLEARLY         1.5 /* faster or slower than the pool */
#define SETTLED_SAMPLES 20.0

void router_cost_add(struct router_cost *cost, double tokens, double ms)
{
    cost->weight = cost->weight * FADE + 1;
    cost->sum_x = cost->sum_x * FADE + tokens;
    cost->sum_y = cost->sum_y * FADE + ms;
    cost->sum_xx = cost->sum_xx * FADE + tokens * tokens;
    cost->sum_xy = cost->sum_xy * FADE + tokens * ms;
}

void router_cost_merge(struct router_cost *cost, const struct router_cost *from)
{
    cost->weight += from->weight;
    cost->sum_x += from->sum_x;
    cost->sum_y += from->sum_y;
    cost->sum_xx += from->sum_xx;
    cost->sum_xy += from->sum_xy;
}

/* Slope of the fit; false while samples are few or all of one size. */
static bool slope(const struct router_cost *cost, double *slope_out)
{
    double spread = cost->weight * cost->sum_xx - cost->sum_x * cost->sum_x;
    if (cost->weight < SAMPLES_MIN || spread <= 1e-3 * cost->sum_xx)
        return false;
    *slope_out = (cost->weight * cost->sum_xy - cost->sum_x * cost->sum_y) / spread;
    return true;
}

double router_cost_token_ms(const struct router_cost *cost)
{
    double ms;
    if (!slope(cost, &ms))
        ms = cost->sum_x > 0 ? cost->sum_y / cost->sum_x : TOKEN_MS;
    return ms < 1e-5 ? 1e-5 : ms > 1000 ? 1000 : ms;
}

double router_cost_base_ms(const struct router_cost *cost)
{
    double per_token, base = BASE_MS;
    if (slope(cost, &per_token))
        base = (cost->sum_y - per_token * cost->sum_x) / cost->weight;
    else if (cost->weight > 0)
        base = 0;
    return base < 0 ? 0 : base;
}

static double step_ms(const struct router_cost *cost, double tokens)
{
    return router_cost_base_ms(cost) + router_cost_token_ms(cost) * tokens;
}

double router_cost_beyond_step_ms(const struct router_cost *cost, double tokens, double ms)
{
    double beyond = cost->weight > 0 ? ms - step_ms(cost, tokens) : ms;
    return beyond > 0 ? beyond : 0;
}

struct router_cost router_cost_settle(const struct router_cost *own, const struct router_cost *pool)
{
    if (own->weight < SETTLED_SAMPLES)
        return *pool;
    /* At the size of the node's own steps: beyond it the fit is a guess. */
    double tokens = own->sum_x / own->weight;
    double ratio = step_ms(own, tokens) / step_ms(pool, tokens);
    return ratio > CLEARLY || ratio < 1 / CLEARLY ? *own : *pool;
}

uint32_t router_blocks(uint32_t n_tokens, uint32_t n_new, uint32_t block_tokens)
{
    /* The last token is sampled and never written. */
    uint64_t total = (uint64_t)n_tokens + (n_new > 0 ? n_new - 1 : 0);
    return (uint32_t)((total + block_tokens - 1) / block_tokens);
}

uint32_t router_blocks_held(uint32_t blocks, uint32_t request_blocks_max)
{
    return request_blocks_max > 0 && blocks > request_blocks_max ? request_blocks_max : blocks;
}

static bool is_too_small(const struct router_node *node, uint32_t blocks)
{
    return node->blocks_total < router_blocks_held(blocks, node->request_blocks_max);
}

static double lacking(const struct router_node *node, uint32_t n_tokens)
{
    uint32_t matched = node->matched_tokens;
    /* One token is always computed. */
    return matched >= n_tokens ? 1 : (double)(n_tokens - matched);
}

static double block_wait_ms(const struct router_input *input, const struct router_node *node)
{
    uint32_t need = router_blocks(input->n_tokens, 1, input->block_tokens);
    uint32_t held = node->matched_tokens / input->block_tokens;
    need = router_blocks_held(need > held ? need - held : 0, node->request_blocks_max);
    if (need <= node->blocks_available)
        return 0;
    return BLOCK_WAIT_MS * (double)(need - node->blocks_available) / (double)(need > 0 ? need : 1);
}

static double itl_ms(const struct router_node *node)
{
    return router_cost_base_ms(&node->cost) +
           router_cost_token_ms(&node->cost) * (node->running + node->unadmitted + 1);
}

static double handover_ms(const struct router_input *input, const struct router_node *d)
{
    double speed = input->bytes_per_ms > 0 ? input->bytes_per_ms : BYTES_PER_MS;
    double tokens = lacking(d, input->n_tokens);
    double seen = tokens < input->window_tokens ? tokens : input->window_tokens;
    double bytes = tokens * (double)(input->block_bytes - input->window_block_bytes) +
                   seen * (double)input->window_block_bytes;
    return TRANSFER_SHOWN * bytes / input->block_tokens / speed + block_wait_ms(input, d);
}

static double queue_ms(const struct router_node *node)
{
    return (double)node->queued_tokens * router_cost_token_ms(&node->cost);
}

static double compute_ms(const struct router_input *input, const struct router_node *node)
{
    return lacking(node, input->n_tokens) * router_cost_token_ms(&node->cost);
}

/* Whether `node` at index i is better than `best`, whose cost is best_ms. */
static bool better(const struct router_input *input, uint32_t i, double ms, int32_t best,
                   double best_ms)
{
    if (best < 0)
        return true;
    const struct router_node *a = &input->nodes[i], *b = &input->nodes[best];
    if (a->avoid != b->avoid)
        return b->avoid;
    if (ms < best_ms - TIE_MS || ms > best_ms + TIE_MS)
        return ms < best_ms;
    uint64_t a_load = (uint64_t)a->running + a->unadmitted;
    uint64_t b_load = (uint64_t)b->running + b->unadmitted;
    if (a_load != b_load)
        return a_load < b_load;
    if (input->has_affinity && a->affinity != b->affinity)
        return a->affinity > b->affinity;
    /* The first one at or behind the rotation's place wins. */
    uint32_t from = (uint32_t)(input->rotation % input->n_nodes);
    return (i + input->n_nodes - from) % input->n_nodes <
           ((uint32_t)best + input->n_nodes - from) % input->n_nodes;
}

struct choice {
    int32_t node;
    double ms;
};

static struct choice choose_p(const struct router_input *input, uint32_t blocks, bool *any_out)
{
    struct choice best = {-1, 0};
    *any_out = false;
    for (uint32_t i = 0; i < input->n_nodes; i++) {
        const struct router_node *node = &input->nodes[i];
        if (!node->prefill)
            continue;
        *any_out = true;
        if (node->avoid || is_too_small(node, blocks))
            continue;
        double ms = queue_ms(node) + compute_ms(input, node);
        if (better(input, i, ms, best.node, best.ms))
            best = (struct choice){(int32_t)i, ms};
    }
    return best;
}

struct d_search {
    bool prefill; /* among prefill nodes, as there is no other */
    bool fits;    /* there is one whose pool is large enough */
};

static struct choice choose_d(const struct router_input *input, uint32_t blocks, bool local,
                              struct d_search *search)
{
    struct choice best = {-1, 0};
    for (uint32_t i = 0; i < input->n_nodes; i++) {
        const struct router_node *node = &input->nodes[i];
        if (node->prefill != search->prefill || is_too_small(node, blocks))
            continue;
        search->fits = true;
        if (node->unadmitted >= input->unadmitted_max)
            continue;
        double ms = ITL_WEIGHT * itl_ms(node);
        ms += local ? queue_ms(node) + compute_ms(input, node) + block_wait_ms(input, node)
                    : handover_ms(input, node);
        if (better(input, i, ms, best.node, best.ms))
            best = (struct choice){(int32_t)i, ms};
    }
    return best;
}

static void fill_parts(const struct router_input *input, struct router_decision *decision)
{
    int32_t computing = decision->p >= 0 ? decision->p : decision->d;
    const struct router_node *node = &input->nodes[computing];
    decision->queue_ms = queue_ms(node);
    decision->compute_ms = compute_ms(input, node);
    decision->compute_tokens = (uint32_t)lacking(node, input->n_tokens);
    if (decision->d < 0)
        return;
    const struct router_node *d = &input->nodes[decision->d];
    decision->handover_ms = decision->p >= 0 ? handover_ms(input, d) : block_wait_ms(input, d);
    decision->itl_ms = itl_ms(d);
}

/* D has the history, and P would compute it again. */
static bool holds_more(const struct router_input *input, int32_t d, int32_t p)
{
    if (d < 0)
        return false;
    double at_d = lacking(&input->nodes[d], input->n_tokens);
    return at_d <= input->local_prefill_max_tokens &&
           at_d < lacking(&input->nodes[p], input->n_tokens);
}

static bool has_decode(const struct router_input *input)
{
    for (uint32_t i = 0; i < input->n_nodes; i++)
        if (!input->nodes[i].prefill)
            return true;
    return false;
}

struct router_decision router_choose(const struct router_input *input)
{
    struct router_decision decision = {.reason = ROUTER_NONE, .p = -1, .d = -1};
    bool any_p;
    uint32_t prompt_blocks = router_blocks(input->n_tokens, 1, input->block_tokens);
    struct choice p = choose_p(input, prompt_blocks, &any_p);
    uint32_t blocks = router_blocks(input->n_tokens, input->n_new, input->block_tokens);
    struct d_search search = {.prefill = !has_decode(input)};
    struct choice local = choose_d(input, blocks, true, &search);
    if (input->n_new == 1 && p.node >= 0 && !holds_more(input, local.node, p.node)) {
        decision.reason = ROUTER_SINGLE_TOKEN;
        decision.p = p.node;
        fill_parts(input, &decision);
        return decision;
    }
    if (local.node < 0) {
        decision.reason = input->n_nodes == 0 ? ROUTER_NONE
                          : !search.fits      ? ROUTER_TOO_LARGE
                                              : ROUTER_BUSY;
        return decision;
    }
    double suffix = lacking(&input->nodes[local.node], input->n_tokens);
    if (search.prefill)
        decision.reason = ROUTER_LOCAL_NO_D;
    else if (p.node < 0)
        decision.reason = any_p ? ROUTER_LOCAL_P_UNFIT : ROUTER_LOCAL_NO_P;
    else if (suffix <= input->local_prefill_max_tokens)
        decision.reason = ROUTER_LOCAL_SUFFIX;
    else
        decision.reason = ROUTER_PAIR;
    decision.d = local.node;
    if (decision.reason == ROUTER_PAIR) {
        decision.p = p.node;
        decision.d = choose_d(input, blocks, false, &search).node;
    }
    fill_parts(input, &decision);
    return decision;
}

const char *router_reason_name(enum router_reason reason)
{
    static const char *const names[ROUTER_REASON_COUNT] = {
        [ROUTER_PAIR] = "pair",
        [ROUTER_SINGLE_TOKEN] = "single_token",
        [ROUTER_LOCAL_SUFFIX] = "local_short_suffix",
        [ROUTER_LOCAL_NO_P] = "local_no_prefill",
        [ROUTER_LOCAL_P_UNFIT] = "local_prefill_unfit",
        [ROUTER_LOCAL_NO_D] = "local_no_decode",
        [ROUTER_NONE] = "no_node",
        [ROUTER_BUSY] = "busy",
        [ROUTER_TOO_LARGE] = "too_large",
    };
    return reason < ROUTER_REASON_COUNT ? names[reason] : "unknown";
}

/* Placements: asks the router, writes the Submits, keeps the accounts.
 *
 *   requests.c: "place it" ─► hashes ─► prefix index ─► router ─► flow (a new attempt)
 *                              ─► Submit to D, Submit to P (in this order, one after the other)
 *
 * An old attempt is always cancelled before a new one is submitted. The accounts say what was placed at a
 * node and is not visible in its heartbeats yet: without them, ten requests that arrive together all
 * see the same idle node. Each account is opened and closed by the request itself, so they return to
 * zero whatever happens. */
#include "coordinator/dispatch.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "coordinator/adjust.h"
#include "proto/check.h"
#include "serve/serve.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct candidates {
    struct router_node nodes[ROUTER_NODES_MAX];
    struct registry_node *from[ROUTER_NODES_MAX];
    uint32_t n;
};

/* ---- accounts ---- */

void accounts_first_token(struct coordinator *c, struct request *request)
{
    struct registry_node *node = registry_find(&c->registry, request->at_compute);
    if (node != NULL)
        node->own_queued_tokens -= request->compute_tokens;
    request->at_compute = 0;
}

void accounts_admitted(struct coordinator *c, struct request *request)
{
    struct registry_node *node = registry_find(&c->registry, request->at_decode);
    if (node == NULL || request->counted_running)
        return;
    request->counted_running = true;
    node->own_unadmitted--;
    node->own_running++;
    node->own_pending_blocks -= request->pending_blocks;
}

static void close_decode(struct coordinator *c, struct request *request)
{
    struct registry_node *node = registry_find(&c->registry, request->at_decode);
    if (node != NULL && request->counted_running) {
        node->own_running--;
    } else if (node != NULL) {
        node->own_unadmitted--;
        node->own_pending_blocks -= request->pending_blocks;
    }
    request->at_decode = 0;
    request->counted_running = false;
    c->place_again = true;
}

void accounts_close(struct coordinator *c, struct request *request)
{
    accounts_first_token(c, request);
    close_decode(c, request);
}

static void open_compute(struct request *request, struct registry_node *node, uint32_t tokens)
{
    request->at_compute = node->join;
    request->compute_tokens = tokens;
    node->own_queued_tokens += tokens;
}

static void open_decode(struct request *request, struct registry_node *node)
{
    request->at_decode = node->join;
    uint32_t blocks = router_blocks((uint32_t)request->tokens.n_ids, 1, node->hello->block_tokens);
    request->pending_blocks = router_blocks_held(blocks, node->hello->request_blocks_max);
    request->counted_running = false;
    node->own_unadmitted++;
    node->own_pending_blocks += request->pending_blocks;
}

/* ---- what the router is told ---- */

static uint32_t salt_bytes(const struct request *request)
{
    return request->group->has_salt ? sizeof(request->group->salt.bytes) : 0;
}

/* Hashes of the full blocks, as many as there are; continues what it has. False without memory. */
static bool update_hashes(struct request *request, const uint8_t *identity, uint32_t block_tokens)
{
    if (request->hashes_block_tokens != block_tokens ||
        memcmp(request->hashes_identity, identity, 16) != 0) {
        request->n_hashes = 0;
        request->hashes_block_tokens = block_tokens;
        memcpy(request->hashes_identity, identity, 16);
    }
    uint32_t n_blocks = (uint32_t)(request->tokens.n_ids / block_tokens);
    if (n_blocks <= request->n_hashes)
        return true;
    struct kv_hash *hashes = sl_try_realloc(request->hashes, n_blocks, sizeof(*hashes));
    if (hashes == NULL)
        return false;
    request->hashes = hashes;
    struct kv_hash root = kv_hash_root(identity, request->group->salt.bytes, salt_bytes(request));
    kv_hash_chain(&root, request->tokens.ids, block_tokens, request->n_hashes, n_blocks, hashes);
    request->n_hashes = n_blocks;
    return true;
}

static uint64_t mix(uint64_t x)
{
    x ^= x >> 33;
    x *= 0xff51afd7ed558ccdull;
    x ^= x >> 33;
    x *= 0xc4ceb9fe1a85ec53ull;
    return x ^ (x >> 33);
}

static uint64_t affinity(const struct request *request, const struct registry_node *node)
{
    uint64_t key = 0, id = 0;
    if (request->n_hashes > 0)
        memcpy(&key, request->hashes[0].bytes, sizeof(key));
    for (const char *p = node->id; *p != '\0'; p++)
        id = id * 131 + (unsigned char)*p;
    return mix(key ^ mix(id));
}

/* Step costs of the pools: [0] decode, [1] prefill. */
struct pool_costs {
    struct router_cost of[2];
};

static struct router_node describe(const struct request *request, const struct registry_node *node,
                                   const struct pool_costs *pools, uint32_t matched_blocks)
{
    uint32_t promised = node->load.promised_blocks > node->own_pending_blocks
                            ? node->load.promised_blocks
                            : node->own_pending_blocks;
    uint32_t available = node->load.blocks_free + node->load.blocks_cached;
    return (struct router_node){
        .prefill = node->prefill,
        .avoid = flow_avoids(&request->flow, node->join),
        .matched_tokens = matched_blocks * node->hello->block_tokens,
        .queued_tokens = node->own_queued_tokens,
        .running = node->own_running,
        .unadmitted = node->own_unadmitted,
        .blocks_total = node->load.blocks_total,
        .request_blocks_max = node->hello->request_blocks_max,
        .blocks_available = available > promised ? available - promised : 0,
        .affinity = affinity(request, node),
        .cost = router_cost_settle(&node->cost, &pools->of[node->prefill]),
    };
}

/* Nodes that may get the request; with_prefill false: decode nodes only. False without memory. */
static bool gather(struct coordinator *c, struct request *request, bool with_prefill,
                   struct candidates *out)
{
    uint32_t matched[PREFIX_INDEX_NODES_MAX];
    uint32_t block_tokens = 0;
    struct pool_costs pools = {.of = {{.weight = 0}}};
    out->n = 0;
    for (uint32_t i = 0; i < REGISTRY_NODES_MAX; i++) {
        struct registry_node *node = &c->registry.nodes[i];
        if (!node->used || !registry_usable(&c->registry, node) || (node->prefill && !with_prefill))
            continue;
        out->from[out->n++] = node;
        router_cost_merge(&pools.of[node->prefill], &node->cost);
        block_tokens = node->hello->block_tokens;
    }
    if (out->n == 0)
        return true;
    if (!update_hashes(request, c->registry.served, block_tokens))
        return false;
    uint32_t n_hits = (uint32_t)((request->tokens.n_ids - 1) / block_tokens);
    prefix_index_match(c->index, request->hashes, n_hits, matched);
    for (uint32_t i = 0; i < out->n; i++) {
        const struct registry_node *node = out->from[i];
        /* The index learns of the blocks later than the first token tells. */
        uint32_t n_matched = node->join == request->holder ? n_hits : matched[node->slot];
        out->nodes[i] = describe(request, node, &pools, n_matched);
    }
    return true;
}

static struct router_input route_input(struct coordinator *c, const struct request *request,
                                       const struct candidates *candidates)
{
    const Sluice__Hello *hello = candidates->from[0]->hello;
    return (struct router_input){
        .nodes = candidates->nodes,
        .n_nodes = candidates->n,
        .n_tokens = (uint32_t)request->tokens.n_ids,
        .n_new = request->max_tokens - request->flow.next_index,
        .block_tokens = hello->block_tokens,
        .block_bytes = hello->block_bytes,
        .window_block_bytes = hello->window_block_bytes,
        .window_tokens = hello->window_tokens,
        .local_prefill_max_tokens = c->config.local_prefill_max_tokens,
        .unadmitted_max = CORE_UNADMITTED,
        .rotation = c->rotation++,
        .has_affinity = request->n_hashes > 0,
    };
}

/* ---- messages ---- */

struct submit_parts {
    Sluice__Sampling sampling;
    Sluice__Peer peer;
    uint8_t salt[KV_HASH_BYTES];
    uint32_t stop_ids[CORE_END_IDS_MAX + API_STOP_IDS_MAX];
};

static void fill_sampling(struct coordinator *c, const struct request *request,
                          struct submit_parts *parts)
{
    const struct api_completion *params = &request->group->params;
    Sluice__Sampling *sampling = &parts->sampling;
    sluice__sampling__init(sampling);
    sampling->temperature = (float)params->temperature;
    /* As many as any vocabulary has keeps all, as 0 does. */
    sampling->top_k = params->top_k < RPC_VOCAB_MAX ? params->top_k : 0;
    /* 0, or so little that a float has it as 0, keeps the likeliest only, as a share too small for any
     * second one does. */
    sampling->top_p = (float)params->top_p > 0 ? (float)params->top_p : 1e-6f;
    sampling->min_p = (float)params->min_p;
    sampling->seed = request->seed;
    sampling->logprobs = params->logprobs;
    sampling->min_tokens = params->min_tokens;
    adjust_fill(&params->adjust, sampling);
    if (requests_lacks_scores(request)) {
        int32_t n = params->echo ? params->logprobs : -1;
        n = n > params->prompt_logprobs ? n : params->prompt_logprobs;
        sampling->prompt_logprobs = (uint32_t)(1 + n);
    }
    uint32_t n = 0;
    memcpy(parts->stop_ids, params->stop_ids, params->n_stop_ids * sizeof(uint32_t));
    n += params->n_stop_ids;
    memcpy(parts->stop_ids + n, c->end_ids, c->n_end_ids * sizeof(uint32_t));
    if (!params->ignore_eos) {
        n += c->n_end_ids;
    } else if (params->min_tokens > 0) {
        sampling->masked_ids = parts->stop_ids + n;
        sampling->n_masked_ids = c->n_end_ids;
    }
    sampling->stop_ids = parts->stop_ids;
    sampling->n_stop_ids = n;
}

static void fill_peer(const struct registry_node *node, Sluice__Peer *peer)
{
    sluice__peer__init(peer);
    peer->node_id = node->hello->node_id;
    peer->incarnation = node->hello->incarnation;
    peer->ranks = node->hello->ranks;
    peer->n_ranks = node->hello->n_ranks;
}

uint64_t dispatch_waited_us(const struct group *group, uint64_t now_us)
{
    return now_us > group->tokenized_us ? now_us - group->tokenized_us : 0;
}

static sl_status send_submit(struct coordinator *c, const struct request *request,
                             const struct registry_node *node, const struct registry_node *peer,
                             Sluice__Mode mode, uint64_t stream_key, uint64_t now_us)
{
    struct submit_parts parts;
    fill_sampling(c, request, &parts);
    Sluice__Submit submit = SLUICE__SUBMIT__INIT;
    uint64_t age_us = now_us - request->group->arrival_us;
    submit.incarnation = node->hello->incarnation;
    submit.request = request->id;
    submit.priority = request->group->params.priority;
    submit.attempt = request->flow.attempt;
    submit.mode = mode;
    submit.deadline_us = c->config.request_us > age_us ? c->config.request_us - age_us : 1;
    uint64_t waited_us = request->group->begun ? 0 : dispatch_waited_us(request->group, now_us);
    submit.admission_us = c->config.queue_us > waited_us ? c->config.queue_us - waited_us : 1;
    submit.sampling = &parts.sampling;
    memcpy(parts.salt, request->group->salt.bytes, sizeof(parts.salt));
    submit.salt.data = parts.salt;
    submit.salt.len = salt_bytes(request);
    submit.prompt_tokens = request->n_prompt;
    submit.tokens = request->tokens.ids;
    submit.n_tokens = request->placed_tokens;
    submit.first_index = request->placed_index;
    submit.max_tokens = request->max_tokens;
    if (peer != NULL) {
        fill_peer(peer, &parts.peer);
        submit.peer = &parts.peer;
        submit.stream_key = stream_key;
    }
    return rpc_send_submit(node->stream, &submit);
}

static void send_urgent(const struct registry_node *node, const Sluice__CoordinatorMessage *message)
{
    sl_status status = rpc_send_to_node(node->stream, RPC_URGENT, message);
    if (status != SL_OK)
        sl_debug("send_failed", "node=%s error=\"%s\"", node->id, sl_error());
}

static void send_cancel(const struct registry_node *node, uint64_t request, uint32_t attempt,
                        Sluice__Reason reason)
{
    Sluice__Cancel cancel = SLUICE__CANCEL__INIT;
    cancel.request = request;
    cancel.attempt = attempt;
    cancel.reason = reason;
    Sluice__CoordinatorMessage message = SLUICE__COORDINATOR_MESSAGE__INIT;
    message.body_case = SLUICE__COORDINATOR_MESSAGE__BODY_CANCEL;
    message.cancel = &cancel;
    send_urgent(node, &message);
}

void dispatch_cancel_stray(struct coordinator *c, struct registry_node *node, uint64_t request,
                           uint32_t attempt)
{
    sl_metric_add(c->meters.stale_tokens, 1);
    send_cancel(node, request, attempt, SLUICE__REASON__REASON_CANCELLED);
}

void dispatch_cancel(struct coordinator *c, struct request *request, flow_node not,
                     Sluice__Reason reason)
{
    const flow_node nodes[] = {request->flow.d, request->flow.p};
    for (int i = 0; i < 2; i++) {
        const struct registry_node *node = registry_find(&c->registry, nodes[i]);
        if (node != NULL && nodes[i] != not )
            send_cancel(node, request->id, request->flow.attempt, reason);
    }
    accounts_close(c, request);
}

void dispatch_release(struct coordinator *c, struct request *request)
{
    const struct registry_node *node = registry_find(&c->registry, request->flow.p);
    if (node == NULL)
        return;
    Sluice__Release release = SLUICE__RELEASE__INIT;
    release.request = request->id;
    release.attempt = request->flow.attempt;
    Sluice__CoordinatorMessage message = SLUICE__COORDINATOR_MESSAGE__INIT;
    message.body_case = SLUICE__COORDINATOR_MESSAGE__BODY_RELEASE;
    message.release = &release;
    send_urgent(node, &message);
}

/* ---- placing ---- */

static sl_status submit_placement(struct coordinator *c, struct request *request,
                                  const struct registry_node *p, const struct registry_node *d,
                                  uint64_t now_us)
{
    if (p != NULL && d != NULL) {
        uint64_t key = serve_random_id();
        sl_status status = send_submit(c, request, d, p, SLUICE__MODE__MODE_DECODE, key, now_us);
        if (status != SL_OK)
            return status;
        return send_submit(c, request, p, d, SLUICE__MODE__MODE_PREFILL, key, now_us);
    }
    return send_submit(c, request, p != NULL ? p : d, NULL, SLUICE__MODE__MODE_LOCAL, 0, now_us);
}

static void note_nodes(struct request *request, const struct registry_node *p,
                       const struct registry_node *d)
{
    snprintf(request->prefill_id, sizeof(request->prefill_id), "%s", p != NULL ? p->id : "-");
    snprintf(request->decode_id, sizeof(request->decode_id), "%s", d != NULL ? d->id : "-");
}

static void log_decision(const struct request *request, const struct router_decision *decision,
                         const struct registry_node *p, const struct registry_node *d)
{
    sl_info("routed",
            "req=%s node_req=%" PRIu64 " attempt=%u reason=%s p=%s d=%s tokens=%zu compute=%u "
            "expected_queue_ms=%.1f expected_compute_ms=%.1f expected_handover_ms=%.1f "
            "expected_itl_ms=%.2f",
            request->output.id, request->id, request->flow.attempt,
            router_reason_name(decision->reason), p != NULL ? p->id : "-", d != NULL ? d->id : "-",
            request->tokens.n_ids, decision->compute_tokens, decision->queue_ms,
            decision->compute_ms, decision->handover_ms, decision->itl_ms);
}

static enum dispatch_result carry_out(struct coordinator *c, struct request *request,
                                      const struct router_decision *decision,
                                      struct registry_node *p, struct registry_node *d,
                                      uint64_t now_us)
{
    enum flow_mode mode = p == NULL ? FLOW_LOCAL : d == NULL ? FLOW_SINGLE : FLOW_PAIR;
    flow_place(&request->flow, mode, p != NULL ? p->join : 0, d != NULL ? d->join : 0);
    request->placed_tokens = (uint32_t)request->tokens.n_ids;
    request->placed_index = request->flow.next_index;
    open_compute(request, p != NULL ? p : d, decision->compute_tokens);
    open_decode(request, d != NULL ? d : p);
    note_nodes(request, p, d);
    sl_metric_add(sl_metric_get(c->meters.decisions, router_reason_name(decision->reason)), 1);
    log_decision(request, decision, p, d);
    sl_status status = submit_placement(c, request, p, d, now_us);
    if (status != SL_OK) {
        sl_warn("submit_failed", "req=%s error=\"%s\"", request->output.id, sl_error());
        dispatch_cancel(c, request, 0, SLUICE__REASON__REASON_CANCELLED);
        flow_unplace(&request->flow);
        request->retry_at_us = now_us + CORE_RETRY_US;
        return status == SL_INVALID ? DISPATCH_INVALID : DISPATCH_WAIT;
    }
    stages_placed(&request->stages, sl_now_us());
    if (!request->cached_known)
        request->cached_tokens = (uint32_t)(request->tokens.n_ids - decision->compute_tokens);
    return DISPATCH_PLACED;
}

bool dispatch_has_place(const struct coordinator *c)
{
    bool any[2] = {false}, place[2] = {false}; /* [prefill] */
    for (uint32_t i = 0; i < REGISTRY_NODES_MAX; i++) {
        const struct registry_node *node = &c->registry.nodes[i];
        if (!node->used || !registry_usable(&c->registry, node))
            continue;
        any[node->prefill] = true;
        place[node->prefill] |= node->own_unadmitted < CORE_UNADMITTED;
    }
    if (!any[false] && !any[true])
        return true; /* no node at all: routing says so */
    return place[!any[false]];
}

enum dispatch_result dispatch_place(struct coordinator *c, struct request *request, bool place,
                                    uint64_t now_us)
{
    struct candidates candidates;
    /* Scores of a prompt come before its tokens, which only one node's messages do. */
    bool alone = requests_lacks_scores(request) && request->max_tokens > 1 &&
                 registry_count(&c->registry, false) > 0;
    if (!gather(c, request, !alone, &candidates))
        return DISPATCH_WAIT;
    if (candidates.n == 0)
        return DISPATCH_NO_NODE;
    struct router_input input = route_input(c, request, &candidates);
    input.unadmitted_max = place ? CORE_UNADMITTED : 0;
    struct router_decision decision = router_choose(&input);
    switch (decision.reason) {
    case ROUTER_NONE:
        return DISPATCH_NO_NODE;
    case ROUTER_BUSY:
        return DISPATCH_WAIT;
    case ROUTER_TOO_LARGE:
        return DISPATCH_TOO_LARGE;
    case ROUTER_PAIR:
    case ROUTER_SINGLE_TOKEN:
    case ROUTER_LOCAL_SUFFIX:
    case ROUTER_LOCAL_NO_P:
    case ROUTER_LOCAL_P_UNFIT:
    case ROUTER_LOCAL_NO_D:
    case ROUTER_REASON_COUNT:
        break;
    }
    return carry_out(c, request, &decision, decision.p >= 0 ? candidates.from[decision.p] : NULL,
                     decision.d >= 0 ? candidates.from[decision.d] : NULL, now_us);
}

static void send_redirect(const struct request *request, const struct registry_node *p,
                          const struct registry_node *d, uint64_t key)
{
    Sluice__Peer peer;
    fill_peer(d, &peer);
    Sluice__Redirect redirect = SLUICE__REDIRECT__INIT;
    redirect.request = request->id;
    redirect.attempt = request->flow.attempt;
    redirect.stream_key = key;
    redirect.peer = &peer;
    Sluice__CoordinatorMessage message = SLUICE__COORDINATOR_MESSAGE__INIT;
    message.body_case = SLUICE__COORDINATOR_MESSAGE__BODY_REDIRECT;
    message.redirect = &redirect;
    send_urgent(p, &message);
}

/* The new destination is told what the source was told: that is the stream it will see. A token that the source
 * has sent meanwhile comes from there again. */
static bool redirect(struct coordinator *c, struct request *request, bool fresh, uint64_t now_us)
{
    struct candidates candidates;
    struct registry_node *p = registry_find(&c->registry, request->flow.p);
    if (p == NULL || p->suspect || !gather(c, request, false, &candidates) || candidates.n == 0)
        return false;
    struct router_input input = route_input(c, request, &candidates);
    struct router_decision decision = router_choose(&input);
    if (decision.d < 0 || (fresh && candidates.nodes[decision.d].avoid))
        return false;
    struct registry_node *d = candidates.from[decision.d];
    const struct registry_node *old = registry_find(&c->registry, request->flow.d);
    uint32_t old_attempt = request->flow.attempt;
    if (old != NULL)
        send_cancel(old, request->id, old_attempt, SLUICE__REASON__REASON_CANCELLED);
    close_decode(c, request);
    flow_redirect(&request->flow, d->join);
    stages_redirected(&request->stages, now_us);
    open_decode(request, d);
    note_nodes(request, p, d);
    uint64_t key = serve_random_id();
    if (send_submit(c, request, d, p, SLUICE__MODE__MODE_DECODE, key, now_us) != SL_OK)
        return false;
    send_redirect(request, p, d, key);
    sl_info("redirected", "req=%s attempt=%u p=%s d=%s", request->output.id, request->flow.attempt,
            p->id, d->id);
    return true;
}

bool dispatch_redirect(struct coordinator *c, struct request *request, uint64_t now_us)
{
    return redirect(c, request, false, now_us);
}

bool dispatch_redirect_fresh(struct coordinator *c, struct request *request, uint64_t now_us)
{
    return redirect(c, request, true, now_us);
}

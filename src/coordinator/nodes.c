/* What nodes say, and their loss.
 *
 * A stream belongs to the node that said hello on it; messages before that, or after the node was ejected,
 * are ignored. Losing a node, for whatever reason, is one function: its requests go elsewhere, its
 * index entries vanish, its slot is free. */
#include "coordinator/core.h"
#include "coordinator/dispatch.h"

#include "base/log.h"
#include "proto/check.h"
#include "proto/message.h"

#include <inttypes.h>
#include <string.h>

/* ---- joining ---- */

static void send_welcome(struct coordinator *c, struct rpc_stream *stream)
{
    Sluice__Welcome welcome = SLUICE__WELCOME__INIT;
    welcome.protocol = RPC_PROTOCOL;
    welcome.coordinator = c->incarnation;
    welcome.heartbeat_us = c->config.heartbeat_us;
    welcome.dead_us = c->config.dead_us;
    Sluice__CoordinatorMessage message = SLUICE__COORDINATOR_MESSAGE__INIT;
    message.body_case = SLUICE__COORDINATOR_MESSAGE__BODY_WELCOME;
    message.welcome = &welcome;
    if (rpc_send_to_node(stream, RPC_URGENT, &message) != SL_OK)
        sl_debug("send_failed", "error=\"%s\"", sl_error());
}

/* What ends a text: the end tokens of the model's configuration, as its nodes read it, and the
 * tokenizer's, which in fine-tuned models may be the only one that is right. */
static void adopt_end_ids(struct coordinator *c, const Sluice__Hello *hello)
{
    uint32_t id, n = (uint32_t)hello->n_eos_ids;
    n = n < CORE_END_IDS_MAX ? n : CORE_END_IDS_MAX;
    memcpy(c->end_ids, hello->eos_ids, n * sizeof(uint32_t));
    bool known = !text_tokenizer_eos(c->tokenizer, &id) || id >= atomic_load(&c->vocab);
    for (uint32_t i = 0; i < n && !known; i++)
        known = c->end_ids[i] == id;
    if (!known && n < CORE_END_IDS_MAX)
        c->end_ids[n++] = id;
    c->n_end_ids = n;
}

/* What the served model's nodes say counts for all requests. */
static void adopt_model(struct coordinator *c)
{
    for (uint32_t i = 0; i < REGISTRY_NODES_MAX; i++) {
        const struct registry_node *node = &c->registry.nodes[i];
        if (!node->used || !registry_usable(&c->registry, node))
            continue;
        const Sluice__Hello *hello = node->hello;
        if (atomic_load(&c->vocab) == 0)
            atomic_store(&c->vocab, hello->vocab);
        adopt_end_ids(c, hello);
        if (hello->context_max > 0 && hello->context_max < atomic_load(&c->model_len_max))
            atomic_store(&c->model_len_max, hello->context_max);
    }
}

/* The end of a roll-out, or the fleet of another model by mistake: only who looks at it can tell. */
static void settle(struct coordinator *c, uint64_t now_us)
{
    struct registry *registry = &c->registry;
    bool had = registry->has_served;
    uint32_t foreign = 0;
    uint8_t was[16];
    memcpy(was, registry->served, sizeof(was));
    if (!registry_settle(registry, now_us))
        return;
    const uint8_t *now = registry->served;
    if (!had || memcmp(was, now, sizeof(was)) == 0) {
        sl_info("identity_served", "identity=%02x%02x%02x%02x", now[0], now[1], now[2], now[3]);
        return;
    }
    for (uint32_t i = 0; i < REGISTRY_NODES_MAX; i++)
        foreign += registry->nodes[i].used &&
                   registry_state(registry, &registry->nodes[i]) == REGISTRY_FOREIGN;
    sl_warn(
        "identity_switched",
        "identity=%02x%02x%02x%02x before=%02x%02x%02x%02x foreign=%u reason=\"the decode nodes of "
        "the one before are gone or drain\"",
        now[0], now[1], now[2], now[3], was[0], was[1], was[2], was[3], foreign);
}

static const char *role_of(const struct registry_node *node)
{
    return node->prefill ? "prefill" : "decode";
}

static void log_ready(struct coordinator *c, const struct registry_node *node)
{
    const Sluice__Hello *hello = node->hello;
    enum registry_state state = registry_state(&c->registry, node);
    if (state == REGISTRY_FOREIGN)
        sl_error_log("node_foreign",
                     "id=%s identity=%02x%02x%02x%02x reason=\"has another model or layout than "
                     "the one served, gets no work\"",
                     node->id, hello->identity.data[0], hello->identity.data[1],
                     hello->identity.data[2], hello->identity.data[3]);
    else
        sl_info("node_ready", "id=%s role=%s pid=%u blocks=%u block_bytes=%" PRIu64 " numerics=%s",
                node->id, role_of(node), hello->pid, hello->blocks_total, hello->block_bytes,
                hello->numerics_id);
}

/* `ended`: by itself. One that drained has left then, though a submit may have come too late for it. */
static void lose(struct coordinator *c, struct registry_node *node, const char *why, bool ended,
                 uint64_t now_us)
{
    uint32_t running = node->own_running + node->own_unadmitted;
    if (node->draining && (ended || running == 0))
        sl_info("node_left", "id=%s role=%s running=%u", node->id, role_of(node), running);
    else
        sl_warn("node_lost", "id=%s role=%s why=\"%s\" running=%u", node->id, role_of(node), why,
                running);
    flow_node join = node->join;
    struct rpc_stream *stream = node->stream;
    prefix_index_drop_node(c->index, node->slot);
    rpc_stream_close(stream, why);
    registry_remove(&c->registry, node);
    rpc_stream_release(stream);
    settle(c, now_us);
    requests_node_lost(c, join, now_us);
    c->place_again = true;
}

/* Takes the message if it is kept. */
static bool take_hello(struct coordinator *c, struct rpc_stream *stream,
                       Sluice__NodeMessage *message, uint64_t now_us)
{
    struct registry_node *node = NULL, *replaced = NULL;
    const struct registry_node *before = registry_find_stream(&c->registry, stream);
    bool known = before != NULL, was_ready = known && before->ready;
    sl_status status = registry_hello(&c->registry, stream, message, now_us, &node, &replaced);
    if (status == SL_OK && replaced != NULL) {
        lose(c, replaced, "replaced", false, now_us);
        known = was_ready = false;
        status = registry_hello(&c->registry, stream, message, now_us, &node, &replaced);
    }
    if (status != SL_OK) {
        sl_error_log("node_refused", "peer=%s error=\"%s\"", rpc_stream_peer(stream), sl_error());
        rpc_stream_close(stream, sl_error());
        return false;
    }
    if (!known) {
        rpc_stream_acquire(stream);
        meters_node_joined(&c->meters, node);
        sl_info("node_joined", "id=%s role=%s pid=%u", node->id, role_of(node), node->hello->pid);
        send_welcome(c, stream);
    }
    if (node->ready) {
        settle(c, now_us);
        adopt_model(c);
        if (!was_ready) /* it says hello again when it drains */
            log_ready(c, node);
        if (c->actuator != NULL)
            actuator_ready(c->actuator, node->id, (pid_t)node->hello->pid, now_us);
        c->place_again = true;
    }
    return true;
}

/* ---- messages ---- */

static void request_snapshot(const struct registry_node *node)
{
    Sluice__SnapshotRequest request = SLUICE__SNAPSHOT_REQUEST__INIT;
    Sluice__CoordinatorMessage message = SLUICE__COORDINATOR_MESSAGE__INIT;
    message.body_case = SLUICE__COORDINATOR_MESSAGE__BODY_SNAPSHOT_REQUEST;
    message.snapshot_request = &request;
    sl_debug("snapshot_request", "node=%s seq=%" PRIu64, node->id, node->feed.seq);
    if (rpc_send_to_node(node->stream, RPC_URGENT, &message) != SL_OK)
        sl_debug("send_failed", "node=%s error=\"%s\"", node->id, sl_error());
}

static void take_cache_events(struct coordinator *c, struct registry_node *node,
                              const Sluice__CacheEvents *events)
{
    bool ask = false;
    for (size_t i = 0; i < events->n_events; i++) {
        const Sluice__CacheEvent *event = events->events[i];
        if (event->hash.len != KV_HASH_BYTES)
            continue;
        struct kv_hash hash;
        uint8_t evicted = event->evicted ? 1 : 0;
        memcpy(hash.bytes, event->hash.data, KV_HASH_BYTES);
        ask |= prefix_feed_events(&node->feed, c->index, node->slot, events->first_seq + i, &hash,
                                  &evicted, 1);
    }
    if (ask)
        request_snapshot(node);
}

static void take_snapshot(struct coordinator *c, struct registry_node *node,
                          const Sluice__CacheSnapshot *snapshot)
{
    uint32_t n = (uint32_t)(snapshot->hashes.len / KV_HASH_BYTES);
    if (prefix_feed_snapshot(&node->feed, c->index, node->slot, snapshot->seq, snapshot->part,
                             snapshot->n_parts, (const struct kv_hash *)snapshot->hashes.data, n))
        request_snapshot(node);
}

static void take_admitted(struct coordinator *c, struct registry_node *node,
                          const Sluice__Admitted *admitted, uint64_t now_us)
{
    struct request *request = requests_find(c, admitted->request);
    if (request == NULL) {
        dispatch_cancel_stray(c, node, admitted->request, admitted->attempt);
        return;
    }
    bool computes = node->join == request->flow.p || request->flow.mode == FLOW_LOCAL;
    if (admitted->attempt == request->flow.attempt) {
        stages_admitted(&request->stages, computes, now_us);
        if (computes)
            requests_note_cached(request, admitted->cached_tokens);
    }
    enum flow_step step = flow_admit(&request->flow, node->join, admitted->attempt);
    if (step == FLOW_STALE)
        dispatch_cancel_stray(c, node, admitted->request, admitted->attempt);
    else
        requests_step(c, request, step, "admitted", NULL, now_us);
}

static void take_refused(struct coordinator *c, struct registry_node *node,
                         const Sluice__Refused *refused, uint64_t now_us)
{
    struct request *request = requests_find(c, refused->request);
    if (request == NULL)
        return;
    sl_info("placement_refused", "req=%s attempt=%u node=%s reason=%s text=\"%s\"",
            request->output.id, refused->attempt, node->id, rpc_reason_name(refused->reason),
            refused->message);
    enum flow_step step =
        flow_refused(&request->flow, node->join, refused->attempt, refused->reason);
    bool too_large = refused->reason == SLUICE__REASON__REASON_TOO_LARGE;
    requests_step(c, request, step, "refused", too_large ? "too large" : refused->message, now_us);
}

static void take_stream_failed(struct coordinator *c, struct registry_node *node,
                               const Sluice__StreamFailed *failed, uint64_t now_us)
{
    struct request *request = requests_find(c, failed->request);
    if (request == NULL)
        return;
    sl_info("stream_failed", "req=%s attempt=%u node=%s side=%s reason=%s held=%d",
            request->output.id, failed->attempt, node->id,
            failed->source ? "source" : "destination", rpc_reason_name(failed->reason),
            failed->held);
    enum flow_step step = flow_stream_failed(&request->flow, node->join, failed->attempt,
                                             failed->reason, failed->held, failed->source);
    requests_step(c, request, step, "stream_failed", NULL, now_us);
}

static void take_finished(struct coordinator *c, struct registry_node *node,
                          const Sluice__Finished *finished, uint64_t now_us)
{
    struct request *request = requests_find(c, finished->request);
    meters_finished(&c->meters, node, finished);
    if (request == NULL)
        return;
    bool computed = finished->computed_tokens > 0 && finished->attempt == request->flow.attempt;
    if (computed && request->flow.mode == FLOW_PAIR && node->join == request->flow.p)
        requests_note_cached(request, finished->cached_tokens);
    enum flow_step step = flow_finished(&request->flow, node->join, finished->attempt,
                                        finished->finish, finished->reason);
    if (step != FLOW_NOTHING)
        sl_warn("placement_ended", "req=%s attempt=%u node=%s finish=%s reason=%s text=\"%s\"",
                request->output.id, finished->attempt, node->id, rpc_finish_name(finished->finish),
                rpc_reason_name(finished->reason), finished->message);
    requests_step(c, request, step, "finished", finished->message, now_us);
}

static void take_heartbeat(struct coordinator *c, struct registry_node *node,
                           const Sluice__Heartbeat *heartbeat, uint64_t now_us)
{
    bool drained = node->draining;
    registry_heartbeat(&c->registry, node, heartbeat, now_us);
    if (node->draining && !drained)
        sl_info("node_draining", "id=%s role=%s running=%u", node->id, role_of(node),
                node->own_running + node->own_unadmitted);
    meters_heartbeat(&c->meters, node, heartbeat);
    c->place_again |= c->unplaced.first != NULL;
}

/* True when the message was kept. */
static bool take_message(struct coordinator *c, struct rpc_stream *stream,
                         Sluice__NodeMessage *message, uint64_t now_us)
{
    if (message->body_case == SLUICE__NODE_MESSAGE__BODY_HELLO)
        return take_hello(c, stream, message, now_us);
    struct registry_node *node = registry_find_stream(&c->registry, stream);
    if (node == NULL)
        return false;
    switch ((int)message->body_case) {
    case SLUICE__NODE_MESSAGE__BODY_HEARTBEAT:
        take_heartbeat(c, node, message->heartbeat, now_us);
        break;
    case SLUICE__NODE_MESSAGE__BODY_TOKENS:
        requests_tokens(c, node, message->tokens, now_us);
        break;
    case SLUICE__NODE_MESSAGE__BODY_PROMPT_SCORES:
        requests_scores(c, node, message->prompt_scores);
        break;
    case SLUICE__NODE_MESSAGE__BODY_ADMITTED:
        take_admitted(c, node, message->admitted, now_us);
        break;
    case SLUICE__NODE_MESSAGE__BODY_REFUSED:
        take_refused(c, node, message->refused, now_us);
        break;
    case SLUICE__NODE_MESSAGE__BODY_STREAM_FAILED:
        take_stream_failed(c, node, message->stream_failed, now_us);
        break;
    case SLUICE__NODE_MESSAGE__BODY_FINISHED:
        take_finished(c, node, message->finished, now_us);
        break;
    case SLUICE__NODE_MESSAGE__BODY_CACHE_EVENTS:
        take_cache_events(c, node, message->cache_events);
        break;
    case SLUICE__NODE_MESSAGE__BODY_CACHE_SNAPSHOT:
        take_snapshot(c, node, message->cache_snapshot);
        break;
    case SLUICE__NODE_MESSAGE__BODY_LOAD_PROGRESS:
        node->load_done = message->load_progress->bytes_done;
        node->load_total = message->load_progress->bytes_total;
        node->beat_us = now_us;
        break;
    default: /* a window: the stream's own affair */
        break;
    }
    return false;
}

void nodes_event(struct coordinator *c, struct node_event *event, uint64_t now_us)
{
    if (event->kind == NODE_EVENT_MESSAGE) {
        if (!take_message(c, event->stream, event->message, now_us))
            rpc_node_message_free(event->message);
        return;
    }
    struct registry_node *node = registry_find_stream(&c->registry, event->stream);
    if (node != NULL)
        lose(c, node, event->text, event->ended, now_us);
}

/* ---- time ---- */

void nodes_tick(struct coordinator *c, uint64_t now_us)
{
    uint32_t cursor = 0;
    struct registry_node *node;
    while ((node = registry_sweep(&c->registry, now_us, &cursor)) != NULL) {
        char id[sizeof(node->id)];
        memcpy(id, node->id, sizeof(id));
        pid_t pid = (pid_t)node->hello->pid;
        lose(c, node, "ejected: it does not answer, or its step loop does not move", false, now_us);
        if (c->actuator != NULL)
            actuator_kill(c->actuator, id, pid);
    }
    settle(c, now_us);
}

void nodes_beat(struct coordinator *c)
{
    Sluice__Beat beat = SLUICE__BEAT__INIT;
    Sluice__CoordinatorMessage message = SLUICE__COORDINATOR_MESSAGE__INIT;
    message.body_case = SLUICE__COORDINATOR_MESSAGE__BODY_BEAT;
    message.beat = &beat;
    for (uint32_t i = 0; i < REGISTRY_NODES_MAX; i++) {
        const struct registry_node *node = &c->registry.nodes[i];
        if (node->used && rpc_send_to_node(node->stream, RPC_URGENT, &message) != SL_OK)
            sl_debug("send_failed", "node=%s error=\"%s\"", node->id, sl_error());
    }
}

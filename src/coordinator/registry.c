/* Nodes of the fleet.
 *
 *   hello(ready = false) ─► LOADING ─► hello(ready) ─► READY ◄─► SUSPECT ─► ejected (dead_us)
 *                                                       │  └─► DRAINING
 *                                                       └─► FOREIGN: another identity is served
 *
 * A node that is gone leaves the table at once; one that comes back is a new joining with a number of its
 * own, whatever its id and incarnation, so nothing that was said of the old one can touch it.
 *
 * One identity is served at a time. Nodes of another one may join (a roll-out), get no work, and are
 * reported; when the last decode node of the served identity drains, or has been gone for switch_us
 * (a crash is no roll-out), the other one takes over. Nodes with another vocabulary than the
 * tokenizer's model are refused: their text would be nonsense. Called by the coordinator's loop only. */
#include "coordinator/registry.h"

#include "base/log.h"
#include "proto/rpc.h"

#include <stdio.h>
#include <string.h>

void registry_init(struct registry *registry, const struct registry_times *times, uint32_t vocab)
{
    memset(registry, 0, sizeof(*registry));
    registry->times = *times;
    registry->vocab = vocab;
}

void registry_fini(struct registry *registry)
{
    for (uint32_t i = 0; i < REGISTRY_NODES_MAX; i++)
        if (registry->nodes[i].used)
            registry_remove(registry, &registry->nodes[i]);
}

static sl_status check_hello(const struct registry *registry, const Sluice__Hello *hello)
{
    if (hello->role != SLUICE__ROLE__ROLE_PREFILL && hello->role != SLUICE__ROLE__ROLE_DECODE)
        return sl_fail(SL_INVALID, "node %s has no role", hello->node_id);
    if (!hello->ready)
        return SL_OK;
    if (hello->identity.len != 16 || hello->layout.len != 16 || hello->block_tokens == 0 ||
        hello->blocks_total == 0)
        return sl_fail(SL_INVALID, "node %s is ready without identity, layout or blocks",
                       hello->node_id);
    if (registry->vocab != 0 && hello->vocab != registry->vocab)
        return sl_fail(SL_INVALID, "node %s has another model: vocabulary of %u, this one has %u",
                       hello->node_id, hello->vocab, registry->vocab);
    return SL_OK;
}

static struct registry_node *take_slot(struct registry *registry)
{
    for (uint32_t i = 0; i < REGISTRY_NODES_MAX; i++) {
        struct registry_node *node = &registry->nodes[i];
        if (node->used)
            continue;
        memset(node, 0, sizeof(*node));
        node->used = true;
        node->slot = i;
        node->join = (++registry->joins << 8) | i;
        registry->n_nodes++;
        return node;
    }
    return NULL;
}

/* A second process under the id of one that lives: they would replace each other for ever. One that
 * was restarted has lost its old stream by then, or is silent; until it is, it is told to try again. */
static bool is_another(const struct registry *registry, const struct registry_node *node,
                       const struct rpc_stream *stream, const Sluice__Hello *hello, uint64_t now_us)
{
    return node->stream != stream && node->hello->incarnation != hello->incarnation &&
           !node->suspect && now_us < node->beat_us + registry->times.suspect_us;
}

sl_status registry_hello(struct registry *registry, struct rpc_stream *stream,
                         Sluice__NodeMessage *message, uint64_t now_us,
                         struct registry_node **node_out, struct registry_node **replaced_out)
{
    Sluice__Hello *hello = message->hello;
    *replaced_out = NULL;
    sl_status status = check_hello(registry, hello);
    if (status != SL_OK)
        return status;
    struct registry_node *node = registry_find_id(registry, hello->node_id);
    if (node != NULL && is_another(registry, node, stream, hello, now_us))
        return sl_fail(SL_INVALID,
                       "the id %s is that of a node that lives, with pid %u; start this one with "
                       "another --id",
                       hello->node_id, node->hello->pid);
    if (node != NULL && (node->stream != stream || node->hello->incarnation != hello->incarnation ||
                         node->hello->role != hello->role)) {
        *replaced_out = node;
        return SL_OK;
    }
    if (node == NULL && registry_find_stream(registry, stream) != NULL)
        return sl_fail(SL_INVALID, "a second node, %s, on one stream", hello->node_id);
    if (node == NULL) {
        node = take_slot(registry);
        if (node == NULL)
            return sl_fail(SL_EXHAUSTED, "node %s: the fleet has %u nodes already", hello->node_id,
                           REGISTRY_NODES_MAX);
        node->stream = stream;
        node->joined_us = now_us;
        snprintf(node->id, sizeof(node->id), "%s", hello->node_id);
    } else {
        rpc_node_message_free(node->hello_message);
    }
    node->hello_message = message;
    node->hello = hello;
    node->prefill = hello->role == SLUICE__ROLE__ROLE_PREFILL;
    node->beat_us = now_us;
    node->ready = hello->ready;
    if (node->load.blocks_total == 0) { /* until the first heartbeat */
        node->load.blocks_total = hello->blocks_total;
        node->load.blocks_free = hello->blocks_total;
    }
    *node_out = node;
    return SL_OK;
}

void registry_heartbeat(struct registry *registry, struct registry_node *node,
                        const Sluice__Heartbeat *heartbeat, uint64_t now_us)
{
    node->beat_us = now_us;
    node->suspect = false;
    node->step = heartbeat->step;
    node->stalled_us = heartbeat->stalled_us;
    node->slow = heartbeat->stalled_us > registry->times.stalled_us / 2;
    node->draining = heartbeat->draining;
    if (heartbeat->load != NULL && heartbeat->load->blocks_total > 0)
        node->load = *heartbeat->load;
    for (size_t i = 0; i < heartbeat->n_samples; i++) {
        const Sluice__StepSample *sample = heartbeat->samples[i];
        router_cost_add(&node->cost, sample->tokens, (double)sample->compute_us / 1000.0);
    }
}

void registry_remove(struct registry *registry, struct registry_node *node)
{
    rpc_node_message_free(node->hello_message);
    memset(node, 0, sizeof(*node));
    registry->n_nodes--;
}

struct registry_node *registry_find(struct registry *registry, flow_node join)
{
    struct registry_node *node = &registry->nodes[join % REGISTRY_NODES_MAX];
    return join != 0 && node->used && node->join == join ? node : NULL;
}

struct registry_node *registry_find_id(struct registry *registry, const char *id)
{
    for (uint32_t i = 0; i < REGISTRY_NODES_MAX; i++)
        if (registry->nodes[i].used && strcmp(registry->nodes[i].id, id) == 0)
            return &registry->nodes[i];
    return NULL;
}

struct registry_node *registry_find_stream(struct registry *registry,
                                           const struct rpc_stream *stream)
{
    for (uint32_t i = 0; i < REGISTRY_NODES_MAX; i++)
        if (registry->nodes[i].used && registry->nodes[i].stream == stream)
            return &registry->nodes[i];
    return NULL;
}

void registry_forgive(struct registry *registry, uint64_t paused_us)
{
    for (uint32_t i = 0; i < REGISTRY_NODES_MAX; i++)
        if (registry->nodes[i].used)
            registry->nodes[i].beat_us += paused_us;
    if (registry->ready_us != 0)
        registry->ready_us += paused_us;
}

struct registry_node *registry_sweep(struct registry *registry, uint64_t now_us, uint32_t *cursor)
{
    for (; *cursor < REGISTRY_NODES_MAX; (*cursor)++) {
        struct registry_node *node = &registry->nodes[*cursor];
        if (!node->used)
            continue;
        uint64_t silent_us = now_us > node->beat_us ? now_us - node->beat_us : 0;
        bool suspect = silent_us >= registry->times.suspect_us || node->slow;
        if (suspect && !node->suspect)
            sl_warn("node_suspect", "id=%s silent_ms=%llu stalled_ms=%llu", node->id,
                    (unsigned long long)silent_us / 1000,
                    (unsigned long long)node->stalled_us / 1000);
        node->suspect = suspect;
        if (silent_us >= registry->times.dead_us ||
            node->stalled_us >= registry->times.stalled_us) {
            (*cursor)++;
            return node;
        }
    }
    return NULL;
}

static bool same_identity(const struct registry *registry, const struct registry_node *node)
{
    return registry->has_served && node->ready &&
           memcmp(node->hello->identity.data, registry->served, 16) == 0 &&
           memcmp(node->hello->layout.data, registry->served_layout, 16) == 0;
}

static bool healthy(const struct registry_node *node)
{
    return node->used && node->ready && !node->suspect && !node->draining;
}

/* As the one whose identity is served: decode nodes first, then the oldest. */
static bool prefers(const struct registry_node *a, const struct registry_node *b)
{
    return a->prefill != b->prefill ? b->prefill : a->joined_us < b->joined_us;
}

bool registry_settle(struct registry *registry, uint64_t now_us)
{
    const struct registry_node *other = NULL;
    bool draining = false, kept = false;
    for (uint32_t i = 0; i < REGISTRY_NODES_MAX; i++) {
        const struct registry_node *node = &registry->nodes[i];
        draining |= node->used && !node->prefill && node->draining && same_identity(registry, node);
        if (!healthy(node))
            continue;
        bool same = same_identity(registry, node);
        if (same && !node->prefill) {
            registry->ready_us = now_us;
            return false;
        }
        kept |= same;
        if (!same && (other == NULL || prefers(node, other)))
            other = node;
    }
    bool gone = !registry->has_served || registry->ready_us == 0 ||
                now_us - registry->ready_us >= registry->times.switch_us;
    if (other == NULL || (!gone && !draining) || (other->prefill && kept))
        return false;
    memcpy(registry->served, other->hello->identity.data, 16);
    memcpy(registry->served_layout, other->hello->layout.data, 16);
    registry->has_served = true;
    registry->ready_us =
        other->prefill ? 0 : now_us; /* a decode node knows better, and takes over */
    return true;
}

enum registry_state registry_state(const struct registry *registry,
                                   const struct registry_node *node)
{
    if (!node->ready)
        return REGISTRY_LOADING;
    if (node->draining)
        return REGISTRY_DRAINING;
    if (node->suspect)
        return REGISTRY_SUSPECT;
    return !registry->has_served || same_identity(registry, node) ? REGISTRY_READY
                                                                  : REGISTRY_FOREIGN;
}

const char *registry_state_name(enum registry_state state)
{
    static const char *const names[] = {"loading", "ready", "suspect", "draining", "foreign"};
    return names[state];
}

bool registry_usable(const struct registry *registry, const struct registry_node *node)
{
    return healthy(node) && same_identity(registry, node);
}

uint32_t registry_count(const struct registry *registry, bool prefill)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < REGISTRY_NODES_MAX; i++)
        n += registry->nodes[i].used && registry->nodes[i].prefill == prefill &&
             registry_usable(registry, &registry->nodes[i]);
    return n;
}

bool registry_serves(const struct registry *registry)
{
    return registry_count(registry, false) + registry_count(registry, true) > 0;
}

bool registry_generates(const struct registry *registry, const struct registry_node *node)
{
    return registry_usable(registry, node) &&
           (!node->prefill || registry_count(registry, false) == 0);
}

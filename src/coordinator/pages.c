/* Pages that need the loop's state: /ready, /cluster, /metrics, /v1/models, /version. Rendered on the
 * loop, which takes well under a millisecond for a fleet of ten; nobody else reads the registry. */
#include "coordinator/core.h"

#include "base/address.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define PAGE_BYTES_MAX (32u << 20)
#define REASON_BYTES   1024

static void add_identities(const struct coordinator *c, char *out, size_t bytes)
{
    size_t n = strlen(out);
    for (uint32_t i = 0; i < REGISTRY_NODES_MAX; i++) {
        const struct registry_node *node = &c->registry.nodes[i];
        if (!node->used || !node->ready || n + 64 > bytes)
            continue;
        const uint8_t *id = node->hello->identity.data;
        n += (size_t)snprintf(out + n, bytes - n, " %s=%s/%02x%02x%02x%02x", node->id,
                              registry_state_name(registry_state(&c->registry, node)), id[0], id[1],
                              id[2], id[3]);
    }
}

/* What keeps workers of local pools from becoming nodes, if something does. */
static void add_failing(const struct coordinator *c, char *out, size_t bytes)
{
    char text[REASON_BYTES];
    size_t n = strlen(out);
    if (c->actuator != NULL && actuator_failing(c->actuator, text, sizeof(text)) > 0)
        snprintf(out + n, bytes - n, "; %s", text);
}

void pages_not_ready(struct coordinator *c, char *out, size_t bytes)
{
    uint64_t done = 0, total = 0;
    uint32_t loading = 0;
    for (uint32_t i = 0; i < REGISTRY_NODES_MAX; i++) {
        const struct registry_node *node = &c->registry.nodes[i];
        if (!node->used)
            continue;
        loading += !node->ready;
        done += node->load_done;
        total += node->load_total;
    }
    if (c->registry.n_nodes == 0)
        snprintf(out, bytes, "no node has joined");
    else if (loading > 0 && total > 0)
        snprintf(out, bytes, "the model is loading on %u node%s, %.0f%% of %.1f MB", loading,
                 loading == 1 ? "" : "s", 100.0 * (double)done / (double)total,
                 (double)total / 1e6);
    else if (loading > 0)
        snprintf(out, bytes, "the model is loading on %u node%s", loading, loading == 1 ? "" : "s");
    else
        snprintf(out, bytes, "no node can take requests");
    if (loading == 0 && c->registry.n_nodes > 0) {
        size_t n = strlen(out);
        snprintf(out + n, bytes - n, "; in the fleet (node=state/identity):");
        add_identities(c, out, bytes);
    }
    add_failing(c, out, bytes);
}

/* At the start a decode node; of local pools all, so that a script that waits for it measures what it
 * means to. Later one node suffices, of either role: each can do all. */
static bool is_ready(struct coordinator *c)
{
    uint32_t prefill = registry_count(&c->registry, true);
    uint32_t decode = registry_count(&c->registry, false);
    bool enough = c->want_prefill + c->want_decode > 0 || decode > 0;
    c->was_ready |= enough && prefill >= c->want_prefill && decode >= c->want_decode;
    return !atomic_load(&c->draining) && prefill + decode > 0 && c->was_ready;
}

/* Why a fleet that serves already is not called ready. */
static void waits_for(const struct coordinator *c, char *out, size_t bytes)
{
    if (c->want_prefill + c->want_decode > 0)
        snprintf(out, bytes, "ready once %u prefill and %u decode nodes have joined",
                 c->want_prefill, c->want_decode);
    else
        snprintf(out, bytes, "prefill nodes serve; ready once a decode node has joined");
    add_failing(c, out, bytes);
}

static void answer_ready(struct coordinator *c, struct sl_buf *out, int *status_out,
                         uint32_t *retry_out)
{
    char why[REASON_BYTES] = "";
    uint64_t done = 0, total = 0;
    uint32_t loading = 0;
    bool ready = is_ready(c);
    for (uint32_t i = 0; i < REGISTRY_NODES_MAX; i++) {
        const struct registry_node *node = &c->registry.nodes[i];
        if (!node->used || node->ready)
            continue;
        loading++;
        done += node->load_done;
        total += node->load_total;
    }
    if (atomic_load(&c->draining))
        snprintf(why, sizeof(why), "the server is shutting down");
    else if (!ready && loading == 0 && registry_serves(&c->registry))
        waits_for(c, why, sizeof(why));
    else if (!ready)
        pages_not_ready(c, why, sizeof(why));
    sl_buf_add_format(out, "{\"status\":\"%s\",\"reason\":", ready ? "ready" : "not ready");
    sl_buf_add_json_string(out, why, strlen(why));
    sl_buf_add_format(out,
                      ",\"prefill\":%u,\"decode\":%u,\"load\":{\"bytes_done\":%" PRIu64
                      ",\"bytes_total\":%" PRIu64 "}}\n",
                      registry_count(&c->registry, true), registry_count(&c->registry, false), done,
                      total);
    *status_out = ready ? 200 : 503;
    *retry_out = ready ? 0 : 2;
}

/* Of a node that listens at every address of its machine: the one from which it called, if it is of the kind that it
 * listens at. */
static void add_admin(const struct registry_node *node, struct sl_buf *out)
{
    const char *admin = node->hello->admin;
    char any[SL_HOST_BYTES], host[SL_HOST_BYTES], address[SL_ADDRESS_BYTES];
    uint16_t port;
    if (sl_address_parse("admin", admin, any, &port) == SL_OK && sl_address_is_any(any) &&
        rpc_peer_host(rpc_stream_peer(node->stream), host) &&
        (strchr(any, ':') != NULL) == (strchr(host, ':') != NULL)) {
        sl_address_format(host, port, address);
        admin = address;
    }
    sl_buf_add_json_string(out, admin, strlen(admin));
}

static void add_node(const struct coordinator *c, const struct registry_node *node,
                     struct sl_buf *out)
{
    const Sluice__Hello *hello = node->hello;
    const Sluice__Load *load = &node->load;
    sl_buf_add_text(out, "{\"id\":");
    sl_buf_add_json_string(out, node->id, strlen(node->id));
    sl_buf_add_format(out, ",\"role\":\"%s\",\"state\":\"%s\",\"pid\":%u,\"admin\":",
                      node->prefill ? "prefill" : "decode",
                      registry_state_name(registry_state(&c->registry, node)), hello->pid);
    add_admin(node, out);
    sl_buf_add_text(out, ",\"transport\":");
    sl_buf_add_json_string(out, hello->transport, strlen(hello->transport));
    sl_buf_add_format(out,
                      ",\"block_tokens\":%u,\"block_bytes\":%" PRIu64
                      ",\"blocks\":{\"total\":%u,\"free\":%u,\"cached\":%u,\"used\":%u,"
                      "\"landing\":%u},\"incarnation\":\"%016" PRIx64 "\",\"identity\":\"",
                      hello->block_tokens, hello->block_bytes, load->blocks_total,
                      load->blocks_free, load->blocks_cached, load->blocks_used,
                      load->blocks_landing, hello->incarnation);
    for (size_t i = 0; i < hello->identity.len; i++)
        sl_buf_add_format(out, "%02x", hello->identity.data[i]);
    sl_buf_add_text(out, "\",\"numerics\":");
    sl_buf_add_json_string(out, hello->numerics_id, strlen(hello->numerics_id));
    sl_buf_add_text(out, ",\"version\":");
    sl_buf_add_json_string(out, hello->version, strlen(hello->version));
    sl_buf_add_format(out, ",\"running\":%u,\"waiting\":%u,\"steps\":%" PRIu64 "}", load->running,
                      load->waiting, node->step);
}

static void answer_cluster(const struct coordinator *c, struct sl_buf *out)
{
    const char *comma = "";
    sl_buf_add_text(out, "{\"nodes\":[");
    for (uint32_t i = 0; i < REGISTRY_NODES_MAX; i++) {
        if (!c->registry.nodes[i].used)
            continue;
        sl_buf_add_text(out, comma);
        add_node(c, &c->registry.nodes[i], out);
        comma = ",";
    }
    sl_buf_add_format(out, "],\"requests\":{\"running\":%u,\"waiting\":%u}}\n", c->n_running,
                      c->admission.requests);
}

static void add_model(const struct coordinator *c, struct sl_buf *out)
{
    sl_buf_add_text(out, "{\"id\":");
    sl_buf_add_json_string(out, c->model_name, strlen(c->model_name));
    sl_buf_add_format(
        out, ",\"object\":\"model\",\"created\":%" PRIu64 ",\"owned_by\":\"sluice\",\"root\":",
        c->created);
    sl_buf_add_json_string(out, c->model_name, strlen(c->model_name));
    sl_buf_add_format(out, ",\"parent\":null,\"max_model_len\":%u}",
                      atomic_load(&c->model_len_max));
}

static void answer_models(const struct coordinator *c, struct sl_buf *out)
{
    sl_buf_add_text(out, "{\"object\":\"list\",\"data\":[");
    add_model(c, out);
    sl_buf_add_text(out, "]}\n");
}

static void set_failing(struct coordinator *c)
{
    char text[REASON_BYTES];
    uint32_t n = c->actuator != NULL ? actuator_failing(c->actuator, text, sizeof(text)) : 0;
    sl_metric_set(c->meters.failing, n);
}

void pages_answer(struct coordinator *c, struct http_exchange *exchange)
{
    int status = 200;
    uint32_t retry_s = 0;
    const char *type = HTTP_JSON;
    struct sl_buf page;
    sl_buf_init(&page, PAGE_BYTES_MAX);
    switch (http_exchange_route(exchange)) {
    case ROUTE_READY:
        answer_ready(c, &page, &status, &retry_s);
        break;
    case ROUTE_CLUSTER:
        answer_cluster(c, &page);
        break;
    case ROUTE_MODEL:
        add_model(c, &page);
        break;
    case ROUTE_MODELS:
        answer_models(c, &page);
        break;
    case ROUTE_METRICS:
        type = "text/plain; version=0.0.4; charset=utf-8";
        meters_fleet(&c->meters, &c->registry, c->index, c->n_running, c->admission.requests);
        set_failing(c);
        sl_metrics_render(c->meters.metrics, &page);
        break;
    default:
        sl_buf_add_text(&page, "{\"version\":\"" SLUICE_VERSION "\"}\n");
        break;
    }
    http_reply(exchange, status, type, page.data, page.bytes, retry_s);
    sl_buf_fini(&page);
}

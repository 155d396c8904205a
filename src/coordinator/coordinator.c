/* The coordinator's thread and its surroundings.
 *
 *   HTTP threads ──► text threads ──► http_inbox ─┐
 *        └── pages, "client left" ────────────────┤──► loop ──► http_reply, http_stream_write
 *   gRPC control thread ─────────────► node_inbox ┘      └────► rpc_send_* (queues of their own)
 *
 * The loop owns requests, registry, index, queue and actuator; nothing of these is ever touched by another
 * thread. It waits for an inbox to fill or for the next tick, takes whatever there is, and never
 * blocks: sends are queued, answers are buffered, both with bounds.
 *
 * http_inbox cannot overflow: an exchange puts at most two events into it, and exchanges are bounded.
 * node_inbox can, when nodes send faster than the loop reads; then the stream whose message does not
 * fit is closed, and its node joins again. */
#include "coordinator/coordinator.h"

#include "base/min.h"
#include "coordinator/core.h"
#include "coordinator/playground.h"

#include "base/address.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "coordinator/defaults.h"
#include "serve/serve.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONFIG_BYTES_MAX (4u << 20)
#define BEAT_GRACE_US    (5 * SL_SECOND_US)
#define FLUSH_MS         300
#define PAUSE_US         (1 * SL_SECOND_US) /* a round of the loop that took longer was a pause */
#define STALL_SECONDS    20u                /* of a request that does not go on */

static const struct http_route routes[] = {
    {"GET", "/", ROUTE_PLAYGROUND},
    {"POST", "/v1/completions", ROUTE_COMPLETIONS},
    {"POST", "/v1/chat/completions", ROUTE_CHAT},
    {"GET", "/v1/models", ROUTE_MODELS},
    {"POST", "/tokenize", ROUTE_TOKENIZE},
    {"POST", "/detokenize", ROUTE_DETOKENIZE},
    {"GET", "/health", ROUTE_HEALTH},
    {"GET", "/ready", ROUTE_READY},
    {"GET", "/version", ROUTE_VERSION},
    {"GET", "/metrics", ROUTE_METRICS},
    {"GET", "/cluster", ROUTE_CLUSTER},
    {"POST", "/v1/embeddings", ROUTE_LATER},
    {"POST", "/v1/responses", ROUTE_LATER},
    {"POST", "/v1/rerank", ROUTE_LATER},
    {"POST", "/v1/score", ROUTE_LATER},
    {"POST", "/v1/moderations", ROUTE_LATER},
    {"POST", "/v1/audio/transcriptions", ROUTE_LATER},
    {"POST", "/v1/audio/translations", ROUTE_LATER},
    {"POST", "/v1/audio/speech", ROUTE_LATER},
    {"POST", "/v1/images/generations", ROUTE_LATER},
    {"POST", "/v1/images/edits", ROUTE_LATER},
    {"POST", "/v1/files", ROUTE_LATER},
    {"POST", "/v1/batches", ROUTE_LATER},
    {"POST", "/v1/fine_tuning/jobs", ROUTE_LATER},
    {"POST", "/v1/assistants", ROUTE_LATER},
    {"POST", "/v1/threads", ROUTE_LATER},
    {"POST", "/v1/vector_stores", ROUTE_LATER},
};

void coordinator_config_init(struct coordinator_config *config)
{
    *config = (struct coordinator_config){
        .listen = "127.0.0.1:8000",
        .nodes_listen = "127.0.0.1:0",
        .split_reasoning = true,
        .model_defaults = true,
        .local_prefill_max_tokens = 64,
        .body_bytes_max = 4u << 20,
        .held_bytes_max = 1u << 30,
        .http_threads = 2,
        .text_threads = 2,
        .connections_max = 4096,
        .requests_max = 4096,
        .queue_requests_max = 1024,
        .queue_tokens_max = 8u << 20,
        .queue_us = 10 * SL_SECOND_US,
        .lost_us = 6 * SL_SECOND_US,
        .request_us = 600 * SL_SECOND_US,
        .heartbeat_us = 1 * SL_SECOND_US,
        .suspect_us = 3 * SL_SECOND_US,
        .dead_us = 5 * SL_SECOND_US,
        .stalled_us = 60 * SL_SECOND_US,
    };
}

/* ---- HTTP threads ---- */

static void reply_health(struct coordinator *c, struct http_exchange *exchange)
{
    uint64_t stalled_us = serve_pulse_stalled_us(&c->pulse);
    bool ok = stalled_us < BEAT_GRACE_US;
    char body[128];
    int n = snprintf(body, sizeof(body), "{\"status\":\"%s\",\"stalled_ms\":%" PRIu64 "}\n",
                     ok ? "ok" : "hung", stalled_us / 1000);
    http_reply(exchange, ok ? 200 : 503, HTTP_JSON, body, (size_t)n, 0);
}

static void reply_later(struct coordinator *c, struct http_exchange *exchange)
{
    struct api_error error;
    api_fail(&error, 501, "not_implemented", NULL,
             "this path is not served yet; /v1/chat/completions and /v1/completions are");
    reply_refusal(c, exchange, &error);
}

static void reply_no_model(const struct coordinator *c, struct http_exchange *exchange)
{
    struct api_error error;
    api_fail_model(&error, http_exchange_rest(exchange), c->model_name);
    reply_error(exchange, &error);
}

static void push_http(struct coordinator *c, enum http_event_kind kind,
                      struct http_exchange *exchange)
{
    struct http_event event = {.kind = kind, .exchange = http_exchange_acquire(exchange)};
    if (!inbox_push(&c->http_inbox, &event)) {
        sl_error_log("inbox_full", "kind=%d", (int)kind);
        http_abort(exchange);
        http_exchange_release(exchange);
    }
}

static void on_request(void *arg, struct http_exchange *exchange)
{
    struct coordinator *c = arg;
    switch (http_exchange_route(exchange)) {
    case ROUTE_COMPLETIONS:
    case ROUTE_CHAT:
    case ROUTE_TOKENIZE:
    case ROUTE_DETOKENIZE:
        if (!prepare_push(c->prepare, exchange)) {
            struct api_error error;
            api_fail(&error, 503, "overloaded", NULL, "too many requests wait to be read");
            error.retry_after_s = 1;
            reply_refusal(c, exchange, &error);
        }
        break;
    case ROUTE_HEALTH:
        reply_health(c, exchange);
        break;
    case ROUTE_PLAYGROUND:
        playground_reply(exchange);
        break;
    case ROUTE_NO_MODEL:
        reply_no_model(c, exchange);
        break;
    case ROUTE_LATER:
        reply_later(c, exchange);
        break;
    default:
        push_http(c, HTTP_EVENT_PAGE, exchange);
        break;
    }
}

static void on_refused(void *arg, const char *code)
{
    struct coordinator *c = arg;
    sl_metric_add(sl_metric_get(c->meters.rejected, code), 1);
}

static void on_gone(void *arg, struct http_exchange *exchange)
{
    push_http(arg, HTTP_EVENT_GONE, exchange);
}

/* ---- the rpc control thread ---- */

static void on_opened(void *arg, struct rpc_stream *stream)
{
    (void)arg;
    sl_debug("node_stream", "peer=%s", rpc_stream_peer(stream));
}

static void on_message(void *arg, struct rpc_stream *stream, Sluice__NodeMessage *message)
{
    struct coordinator *c = arg;
    struct node_event event = {
        .kind = NODE_EVENT_MESSAGE, .stream = rpc_stream_acquire(stream), .message = message};
    if (!inbox_push(&c->node_inbox, &event)) {
        rpc_stream_close(stream, "the coordinator cannot keep up");
        rpc_node_message_free(message);
        rpc_stream_release(stream);
    }
}

static void on_closed(void *arg, struct rpc_stream *stream, sl_status why, const char *text)
{
    struct coordinator *c = arg;
    struct node_event event = {
        .kind = NODE_EVENT_CLOSED, .stream = rpc_stream_acquire(stream), .ended = why == SL_OK};
    snprintf(event.text, sizeof(event.text), "%s%s%s", event.ended ? "" : sl_status_name(why),
             event.ended ? "" : " ", text);
    /* The loop empties the inbox all the time; this event must not be lost. */
    while (!inbox_push(&c->node_inbox, &event)) {
        if (atomic_load(&c->stopping)) {
            rpc_stream_release(stream);
            return;
        }
        sl_sleep_us(SL_MS_US);
    }
}

/* ---- the loop ---- */

static void take_http(struct coordinator *c, uint64_t now_us)
{
    uint32_t n;
    const struct http_event *events = inbox_take(&c->http_inbox, &n);
    for (uint32_t i = 0; i < n; i++) {
        switch (events[i].kind) {
        case HTTP_EVENT_COMPLETION:
            requests_admit(c, events[i].group, now_us);
            break;
        case HTTP_EVENT_PAGE:
            pages_answer(c, events[i].exchange);
            break;
        case HTTP_EVENT_GONE:
            requests_gone(c, events[i].exchange);
            break;
        }
        http_exchange_release(events[i].exchange);
    }
}

static void take_nodes(struct coordinator *c, uint64_t now_us)
{
    uint32_t n;
    const struct node_event *events = inbox_take(&c->node_inbox, &n);
    for (uint32_t i = 0; i < n; i++) {
        struct node_event event = events[i];
        nodes_event(c, &event, now_us);
        rpc_stream_release(event.stream);
    }
}

static void tick(struct coordinator *c, uint64_t now_us)
{
    if (now_us >= c->next_sweep_us) {
        c->next_sweep_us = now_us + CORE_TICK_US;
        nodes_tick(c, now_us);
        requests_tick(c, now_us);
    }
    if (now_us >= c->next_beat_us) {
        c->next_beat_us = now_us + c->config.heartbeat_us;
        nodes_beat(c);
    }
    if (c->actuator != NULL && now_us >= c->actuator_us)
        c->actuator_us = actuator_tick(c->actuator, now_us);
    if (c->place_again) {
        c->place_again = false;
        requests_place_queue(c, now_us);
    }
}

static void loop_run(void *arg)
{
    struct coordinator *c = arg;
    uint64_t rounds = 0, last_us = sl_now_us();
    while (!atomic_load(&c->stopping)) {
        uint64_t now_us = sl_now_us();
        if (now_us - last_us >= PAUSE_US) { /* stopped, swapped out, or a machine that slept */
            sl_warn("loop_paused", "ms=%" PRIu64, (uint64_t)((now_us - last_us) / SL_MS_US));
            registry_forgive(&c->registry, now_us - last_us);
        }
        last_us = now_us;
        serve_pulse_beat(&c->pulse, ++rounds);
        take_http(c, now_us);
        take_nodes(c, now_us);
        tick(c, now_us);
        uint64_t next_us = sl_min_u64(c->next_sweep_us, c->next_beat_us);
        if (c->actuator != NULL)
            next_us = sl_min_u64(next_us, c->actuator_us);
        sl_wake_wait(&c->wake, next_us > now_us ? next_us - now_us : 1);
    }
    requests_fail_all(c, "the server is stopping");
    /* The workers' lives hang on this thread. */
    actuator_destroy(c->actuator, 5 * SL_SECOND_US);
    c->actuator = NULL;
}

/* ---- start and stop ---- */

/* Of the path's last part; what is only a way to a directory (., ..) has the name of that. */
static char *directory_name(const char *path)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    size_t from = n;
    while (from > 0 && path[from - 1] != '/')
        from--;
    bool dots = n - from <= 2 && strspn(path + from, ".") >= n - from;
    char *whole = dots ? realpath(path, NULL) : NULL;
    char *name;
    if (whole != NULL && strcmp(whole, "/") != 0)
        name = directory_name(whole);
    else
        name = n > from ? sl_asprintf("%.*s", (int)(n - from), path + from) : sl_strdup("model");
    sl_free(whole);
    return name;
}

/* Context and vocabulary out of config.json, or of its text_config where the model has images too. What
 * it leaves to the model's class the nodes say (adopt_model). */
static sl_status read_sizes(const struct coordinator *c, uint64_t *context_out, uint64_t *vocab_out)
{
    char *path = sl_asprintf("%s/config.json", c->model_dir);
    json_t *json = NULL;
    sl_status status = sl_json_load(path, CONFIG_BYTES_MAX, &json);
    const json_t *text = json_object_get(json, "text_config");
    if (!json_is_object(text))
        text = json;
    if (status == SL_OK)
        status = sl_json_uint(text, path, "max_position_embeddings", API_TOKENS_MAX, 1,
                              API_TOKENS_MAX, context_out);
    if (status == SL_OK)
        status = sl_json_uint(text, path, "vocab_size", 0, 1, TEXT_IDS_MAX, vocab_out);
    json_decref(json);
    sl_free(path);
    return status;
}

static sl_status read_model(struct coordinator *c)
{
    sl_status status = text_tokenizer_open(c->model_dir, &c->tokenizer);
    if (status != SL_OK)
        return status;
    chat_open(c->model_dir, c->tokenizer, c->config.split_reasoning, &c->chat);
    c->defaults = (struct api_defaults)API_DEFAULTS;
    if (c->config.model_defaults)
        status = defaults_read(c->model_dir, &c->defaults);
    if (status != SL_OK)
        return status;
    uint64_t context = 0, vocab = 0;
    status = read_sizes(c, &context, &vocab);
    if (status != SL_OK)
        return status;
    if (c->config.model_len_max > context)
        return sl_fail(SL_INVALID, "max-model-len %u; the model's context is %" PRIu64,
                       c->config.model_len_max, context);
    atomic_store(&c->vocab, (unsigned)vocab);
    atomic_store(&c->model_len_max,
                 c->config.model_len_max > 0 ? c->config.model_len_max : (unsigned)context);
    return SL_OK;
}

static sl_status create_tables(struct coordinator *c)
{
    uint32_t n = c->config.requests_max;
    if (n == 0 || n > COORDINATOR_REQUESTS_MAX)
        return sl_fail(SL_INVALID, "%u open requests; want 1..%u", n, COORDINATOR_REQUESTS_MAX);
    c->requests = sl_try_zalloc(n, sizeof(struct request *));
    c->free_requests = sl_try_zalloc(n, sizeof(*c->free_requests));
    if (c->requests == NULL || c->free_requests == NULL)
        return sl_fail(SL_NO_MEMORY, "table of %u requests", n);
    for (uint32_t i = 0; i < n; i++)
        c->free_requests[i] = n - 1 - i;
    c->n_free_requests = n;
    sl_status status = inbox_init(&c->http_inbox, c->config.connections_max * 2 + 64,
                                  sizeof(struct http_event), &c->wake);
    if (status != SL_OK)
        return status;
    return inbox_init(&c->node_inbox, CORE_NODE_ITEMS, sizeof(struct node_event), &c->wake);
}

/* The fixed routes, the one that has the model's name, and that of other names; returns how many. */
static uint32_t make_routes(struct coordinator *c)
{
    uint32_t n = sizeof(routes) / sizeof(routes[0]);
    c->model_path = sl_asprintf("/v1/models/%s", c->model_name);
    c->routes = sl_zalloc(n + 2, sizeof(*c->routes));
    memcpy(c->routes, routes, sizeof(routes));
    c->routes[n] = (struct http_route){"GET", c->model_path, ROUTE_MODEL};
    c->routes[n + 1] = (struct http_route){"GET", "/v1/models/*", ROUTE_NO_MODEL};
    return n + 2;
}

static sl_status start_servers(struct coordinator *c)
{
    struct rpc_server_handler nodes = {
        .opened = on_opened, .message = on_message, .closed = on_closed, .arg = c};
    sl_status status = rpc_server_start(c->config.nodes_listen, &nodes, &c->rpc);
    if (status != SL_OK)
        return status;
    status = prepare_start(c, &c->prepare);
    if (status != SL_OK)
        return status;
    uint32_t n_routes = make_routes(c);
    struct http_args http = {
        .listen = c->config.listen,
        .routes = c->routes,
        .n_routes = n_routes,
        .handler = {.request = on_request, .gone = on_gone, .refused = on_refused, .arg = c},
        .threads = c->config.http_threads,
        .connections_max = c->config.connections_max,
        .body_bytes_max = c->config.body_bytes_max,
        .held_bytes_max = c->config.held_bytes_max,
        .allow_origin = c->config.allow_origin,
        .stall_seconds = STALL_SECONDS};
    return http_server_start(&http, &c->http);
}

static sl_status create_actuator(struct coordinator *c)
{
    if (c->config.actuator == NULL)
        return SL_OK;
    char host[SL_HOST_BYTES], address[SL_ADDRESS_BYTES];
    uint16_t port;
    sl_status status = sl_address_parse("nodes-listen", c->config.nodes_listen, host, &port);
    if (status != SL_OK)
        return status;
    sl_address_format(sl_address_reach(host), rpc_server_port(c->rpc), address);
    status = actuator_create(c->config.actuator, address, &c->actuator);
    c->want_prefill = c->config.actuator->n_prefill;
    c->want_decode = c->config.actuator->n_decode;
    meters_desired(&c->meters, c->want_prefill, c->want_decode);
    c->config.actuator = NULL; /* borrowed until here */
    return status;
}

sl_status coordinator_start(const struct coordinator_config *config,
                            struct coordinator **coordinator_out)
{
    struct coordinator *c = sl_zalloc(1, sizeof(*c));
    c->config = *config;
    c->model_dir = sl_strdup(config->model_dir);
    c->model_name = config->served_name != NULL ? sl_strdup(config->served_name)
                                                : directory_name(config->model_dir);
    c->created = (uint64_t)sl_wall_seconds();
    c->incarnation = serve_random_id();
    c->request_serial = serve_random_id() & 0xffffffffu;
    c->index = prefix_index_create();
    meters_init(&c->meters, c->model_name);
    serve_process_metrics(c->meters.metrics);
    sl_buf_init(&c->scratch, OUTPUT_TEXT_BYTES_MAX * 2);
    c->admission = (struct admission){.requests_max = config->queue_requests_max,
                                      .tokens_max = config->queue_tokens_max};
    sl_status status = sl_wake_init(&c->wake);
    if (status == SL_OK)
        status = create_tables(c);
    if (status == SL_OK)
        status = read_model(c);
    if (status != SL_OK)
        goto fail;
    struct registry_times times = {config->suspect_us, config->dead_us, config->stalled_us,
                                   config->lost_us + config->dead_us};
    registry_init(&c->registry, &times, atomic_load(&c->vocab));
    status = start_servers(c);
    if (status == SL_OK)
        status = create_actuator(c);
    if (status == SL_OK)
        status = sl_thread_start(&c->loop, "loop", loop_run, c);
    if (status != SL_OK)
        goto fail;
    *coordinator_out = c;
    return SL_OK;
fail:
    coordinator_stop(c);
    return status;
}

uint16_t coordinator_http_port(const struct coordinator *c)
{
    return http_server_port(c->http);
}

uint16_t coordinator_nodes_port(const struct coordinator *c)
{
    return rpc_server_port(c->rpc);
}

void coordinator_drain(struct coordinator *c)
{
    atomic_store(&c->draining, true);
}

uint32_t coordinator_open(const struct coordinator *c)
{
    return http_server_open(c->http);
}

bool coordinator_chats(const struct coordinator *c)
{
    return c->chat.template != NULL;
}

const char *coordinator_model(const struct coordinator *c)
{
    return c->model_name;
}

uint32_t coordinator_model_len_max(const struct coordinator *c)
{
    return atomic_load(&c->model_len_max);
}

/* What reached the inboxes after the loop's last look. */
static void discard_inboxes(struct coordinator *c)
{
    uint32_t n;
    if (c->http_inbox.item_bytes > 0) {
        const struct http_event *events = inbox_take(&c->http_inbox, &n);
        for (uint32_t i = 0; i < n; i++) {
            group_destroy(events[i].group);
            http_exchange_release(events[i].exchange);
        }
    }
    if (c->node_inbox.item_bytes > 0) {
        const struct node_event *events = inbox_take(&c->node_inbox, &n);
        for (uint32_t i = 0; i < n; i++) {
            rpc_node_message_free(events[i].message);
            rpc_stream_release(events[i].stream);
        }
    }
}

/* The last answers, error events among them, get a moment to leave. */
static void await_answers(const struct coordinator *c)
{
    for (int i = 0; c->http != NULL && http_server_open(c->http) > 0 && i < FLUSH_MS; i++)
        sl_sleep_us(SL_MS_US);
}

void coordinator_stop(struct coordinator *c)
{
    if (c == NULL)
        return;
    atomic_store(&c->draining, true);
    atomic_store(&c->stopping, true);
    if (c->wake.fd > 0)
        sl_wake_signal(&c->wake);
    sl_thread_join(&c->loop);
    actuator_destroy(c->actuator, 0);
    await_answers(c);
    http_server_stop(c->http);
    prepare_stop(c->prepare);
    rpc_server_stop(c->rpc);
    discard_inboxes(c);
    for (uint32_t i = 0; i < REGISTRY_NODES_MAX; i++)
        if (c->registry.nodes[i].used)
            rpc_stream_release(c->registry.nodes[i].stream);
    registry_fini(&c->registry);
    prefix_index_destroy(c->index);
    meters_fini(&c->meters);
    inbox_fini(&c->http_inbox);
    inbox_fini(&c->node_inbox);
    sl_wake_fini(&c->wake);
    chat_close(&c->chat);
    text_tokenizer_destroy(c->tokenizer);
    sl_buf_fini(&c->scratch);
    sl_free(c->requests);
    sl_free(c->free_requests);
    sl_free(c->model_dir);
    sl_free(c->routes);
    sl_free(c->model_path);
    sl_free(c->model_name);
    sl_free(c);
}

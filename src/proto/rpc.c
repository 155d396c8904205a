/* Servers and clients: lifecycles of gRPC channels, completion queues and the control thread.
 *
 * Server: one completion queue, one thread, a list of streams. A few calls are always requested, so
 * that a herd of nodes is taken at once. Stopping: no new streams; each stream is finished once its
 * queue is empty, or cancelled after STOP_FLUSH_US; the thread ends when gRPC has shut down and the
 * list is empty.
 *
 * Client: a fresh channel for every dial, since gRPC's own back-off inside a channel cannot be asked
 * for its state and would add to ours. At most one stream at a time.
 *
 *   IDLE ── next_dial_us ──► DIALLING ── opened ──► OPEN
 *    ▲                          │ refused, or DIAL_US │ closed
 *    └── back-off 0.1 s … 5 s ──┴─────────────────────┘
 *
 * There is no way to wake a completion queue from outside, so both threads look up every TICK_US. */
#include "proto/rpc_stream.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"

#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/support/log.h>
#include <grpc/support/time.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <string.h>

#define METHOD             "/sluice.Fleet/Join"
#define ACCEPTS            8u
#define TICK_US            (50 * SL_MS_US)
#define DIAL_US            (5 * SL_SECOND_US)
#define BACK_OFF_MIN_US    (100 * SL_MS_US)
#define BACK_OFF_MAX_US    (5 * SL_SECOND_US)
#define SETTLED_US         (5 * SL_SECOND_US) /* a stream that lived so long resets the back-off */
#define DIALS_PER_LINE     10u                /* failed ones, in the log */
#define STOP_FLUSH_US      (1 * SL_SECOND_US)
#define STOP_CANCEL_US     (2 * SL_SECOND_US)
#define KEEPALIVE_MS       5000
#define KEEPALIVE_LIMIT_MS 5000
#define PING_INTERVAL_MS   1000
#define LOOKAHEAD_BYTES    (1 << 20) /* what gRPC buffers per stream ahead of the reader */
#define HEADER_BYTES_MAX   8192

#define INTEGER_ARG(name, number)                                                                  \
    {                                                                                              \
        .type = GRPC_ARG_INTEGER, .key = (char *)(uintptr_t)(name), .value = {                     \
            .integer = (number)                                                                    \
        }                                                                                          \
    }

static const grpc_arg common_args[] = {
    INTEGER_ARG(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, (int)RPC_MESSAGE_BYTES_MAX),
    INTEGER_ARG(GRPC_ARG_MAX_METADATA_SIZE, HEADER_BYTES_MAX),
    INTEGER_ARG(GRPC_ARG_KEEPALIVE_TIME_MS, KEEPALIVE_MS),
    INTEGER_ARG(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, KEEPALIVE_LIMIT_MS),
    INTEGER_ARG(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1),
    INTEGER_ARG(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0),
    INTEGER_ARG(GRPC_ARG_HTTP2_BDP_PROBE, 0),
    INTEGER_ARG(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, LOOKAHEAD_BYTES),
};
static const grpc_arg server_args[] = {
    INTEGER_ARG(GRPC_ARG_ALLOW_REUSEPORT, 0),
    INTEGER_ARG(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, PING_INTERVAL_MS),
    INTEGER_ARG(GRPC_ARG_MAX_CONCURRENT_STREAMS, 4),
};
static const grpc_arg client_args[] = {
    INTEGER_ARG("grpc.enable_http_proxy", 0),
    INTEGER_ARG(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1),
    INTEGER_ARG(GRPC_ARG_ENABLE_RETRIES, 0),
    INTEGER_ARG(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100),
    INTEGER_ARG(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, (int)(DIAL_US / SL_MS_US)),
    INTEGER_ARG(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, (int)(BACK_OFF_MAX_US / SL_MS_US)),
};
#define N_COMMON   (sizeof(common_args) / sizeof(common_args[0]))
#define N_SERVER   (sizeof(server_args) / sizeof(server_args[0]))
#define N_CLIENT   (sizeof(client_args) / sizeof(client_args[0]))
#define N_ARGS_MAX 16

struct args {
    grpc_arg list[N_ARGS_MAX];
    grpc_channel_args channel;
};

static void args_fill(struct args *args, const grpc_arg *more, size_t n_more)
{
    _Static_assert(N_COMMON + N_SERVER <= N_ARGS_MAX && N_COMMON + N_CLIENT <= N_ARGS_MAX, "args");
    memcpy(args->list, common_args, sizeof(common_args));
    memcpy(args->list + N_COMMON, more, n_more * sizeof(*more));
    args->channel = (grpc_channel_args){.num_args = N_COMMON + n_more, .args = args->list};
}

/* gRPC's own complaints are about peers that come and go; the streams report those better. */
static void log_line(gpr_log_func_args *line)
{
    sl_debug("grpc", "text=\"%s\"", line->message);
}

static void library_init(void)
{
    static atomic_bool done;
    if (!atomic_exchange(&done, true))
        gpr_set_log_function(log_line);
    grpc_init();
}

/* Runs what has completed; returns after one event, or at until_us. False: the queue is shut down. */
static bool queue_step(grpc_completion_queue *queue, uint64_t until_us)
{
    uint64_t now = sl_real_us();
    uint64_t wait_us = until_us > now ? until_us - now : 0;
    gpr_timespec deadline = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                                         gpr_time_from_micros((int64_t)wait_us, GPR_TIMESPAN));
    grpc_event event = grpc_completion_queue_next(queue, deadline, NULL);
    if (event.type == GRPC_QUEUE_SHUTDOWN)
        return false;
    if (event.type == GRPC_OP_COMPLETE) {
        struct rpc_tag *tag = event.tag;
        tag->run(tag->owner, event.success != 0);
    }
    return true;
}

static void queue_destroy(grpc_completion_queue *queue)
{
    if (queue == NULL)
        return;
    grpc_completion_queue_shutdown(queue);
    while (queue_step(queue, sl_real_us() + TICK_US)) {
    }
    grpc_completion_queue_destroy(queue);
}

/* ---- server ---- */

struct rpc_server {
    struct rpc_server_handler handler;
    grpc_server *server;
    grpc_completion_queue *queue;
    void *method;
    uint16_t port;
    struct sl_thread thread;
    _Atomic uint64_t stop_us; /* when the stop was asked for; 0: not */

    /* Control thread only. */
    struct rpc_stream *streams;
    uint32_t n_streams;
    bool is_down;
    bool cancelled;
    struct rpc_tag down_tag;
};

static void server_opened(void *arg, struct rpc_stream *stream)
{
    struct rpc_server *server = arg;
    if (server->handler.opened != NULL)
        server->handler.opened(server->handler.arg, stream);
}

static void server_message(void *arg, struct rpc_stream *stream, ProtobufCMessage *message)
{
    struct rpc_server *server = arg;
    server->handler.message(server->handler.arg, stream, (Sluice__NodeMessage *)message);
}

static void server_closed(void *arg, struct rpc_stream *stream, sl_status why, const char *text)
{
    struct rpc_server *server = arg;
    if (server->handler.closed != NULL)
        server->handler.closed(server->handler.arg, stream, why, text);
}

static void server_gone(void *arg, struct rpc_stream *stream)
{
    struct rpc_server *server = arg;
    if (stream->prev != NULL)
        stream->prev->next = stream->next;
    else
        server->streams = stream->next;
    if (stream->next != NULL)
        stream->next->prev = stream->prev;
    server->n_streams--;
}

static void server_link(struct rpc_server *server, struct rpc_stream *stream)
{
    stream->next = server->streams;
    if (stream->next != NULL)
        stream->next->prev = stream;
    server->streams = stream;
    server->n_streams++;
}

static void server_accept(struct rpc_server *server);

static void on_accepted(void *owner, bool ok)
{
    struct rpc_stream *stream = owner;
    struct rpc_server *server = stream->events.arg;
    if (!ok) { /* shutting down: never was a call */
        stream->call = NULL;
        grpc_metadata_array_destroy(&stream->received_metadata);
        grpc_metadata_array_destroy(&stream->trailing_metadata);
        rpc_stream_release(stream);
        return;
    }
    if (atomic_load(&server->stop_us) == 0)
        server_accept(server);
    stream->born_us = sl_real_us();
    server_link(server, stream);
    rpc_stream_start_server(
        stream, server->n_streams > RPC_STREAMS_MAX ? "too many nodes on this coordinator" : NULL);
}

static void server_accept(struct rpc_server *server)
{
    struct rpc_events events = {.opened = server_opened,
                                .message = server_message,
                                .closed = server_closed,
                                .gone = server_gone,
                                .arg = server};
    struct rpc_stream *stream = rpc_stream_create(true, &events);
    stream->accept_tag = (struct rpc_tag){on_accepted, stream};
    grpc_call_error error = grpc_server_request_registered_call(
        server->server, server->method, &stream->call, &stream->deadline,
        &stream->received_metadata, NULL, server->queue, server->queue, &stream->accept_tag);
    SL_ASSERT(error == GRPC_CALL_OK);
}

static void on_down(void *owner, bool ok)
{
    (void)ok;
    struct rpc_server *server = owner;
    server->is_down = true;
}

static void server_wind_down(struct rpc_server *server, uint64_t stopping_us)
{
    struct rpc_stream *next;
    for (struct rpc_stream *stream = server->streams; stream != NULL; stream = next) {
        next = stream->next;
        if (!rpc_stream_finish(stream, "the coordinator stops") && stopping_us > STOP_FLUSH_US)
            rpc_stream_fail(stream, SL_CANCELLED, "the coordinator stops");
    }
    if (stopping_us > STOP_CANCEL_US && !server->cancelled) {
        server->cancelled = true;
        grpc_server_cancel_all_calls(server->server);
    }
}

static void server_main(void *arg)
{
    struct rpc_server *server = arg;
    for (uint32_t i = 0; i < ACCEPTS; i++)
        server_accept(server);
    while (!server->is_down || server->streams != NULL) {
        queue_step(server->queue, sl_real_us() + TICK_US);
        uint64_t stop_us = atomic_load(&server->stop_us);
        if (stop_us != 0)
            server_wind_down(server, sl_real_us() - stop_us);
    }
}

static void server_free(struct rpc_server *server)
{
    if (server->server != NULL)
        grpc_server_destroy(server->server);
    queue_destroy(server->queue);
    grpc_shutdown_blocking();
    sl_free(server);
}

sl_status rpc_server_start(const char *listen, const struct rpc_server_handler *handler,
                           struct rpc_server **server_out)
{
    library_init();
    struct rpc_server *server = sl_zalloc(1, sizeof(*server));
    server->handler = *handler;
    struct args args;
    args_fill(&args, server_args, N_SERVER);
    server->server = grpc_server_create(&args.channel, NULL);
    server->queue = grpc_completion_queue_create_for_next(NULL);
    grpc_server_register_completion_queue(server->server, server->queue, NULL);
    server->method =
        grpc_server_register_method(server->server, METHOD, NULL, GRPC_SRM_PAYLOAD_NONE, 0);
    grpc_server_credentials *credentials = grpc_insecure_server_credentials_create();
    int port = grpc_server_add_http2_port(server->server, listen, credentials);
    grpc_server_credentials_release(credentials);
    grpc_server_start(server->server);
    server->port = (uint16_t)port;
    server->down_tag = (struct rpc_tag){on_down, server};
    sl_status status = port > 0
                           ? SL_OK
                           : sl_fail(SL_DEVICE,
                                     "--nodes-listen: cannot listen on %s: port taken, or not an "
                                     "address of this machine",
                                     listen);
    if (status == SL_OK)
        status = sl_thread_start(&server->thread, "rpc-server", server_main, server);
    if (status != SL_OK)
        goto fail;
    *server_out = server;
    return SL_OK;
fail:
    grpc_server_shutdown_and_notify(server->server, server->queue, &server->down_tag);
    while (!server->is_down)
        queue_step(server->queue, sl_real_us() + TICK_US);
    server_free(server);
    return status;
}

uint16_t rpc_server_port(const struct rpc_server *server)
{
    return server->port;
}

void rpc_server_stop(struct rpc_server *server)
{
    if (server == NULL)
        return;
    atomic_store(&server->stop_us, sl_real_us());
    grpc_server_shutdown_and_notify(server->server, server->queue, &server->down_tag);
    sl_thread_join(&server->thread);
    server_free(server);
}

/* ---- client ---- */

struct rpc_client {
    struct rpc_client_handler handler;
    char *target;
    grpc_completion_queue *queue;
    struct sl_thread thread;
    _Atomic uint64_t stop_us;

    /* Control thread only. */
    grpc_channel *channel;
    struct rpc_stream *stream;
    uint64_t next_dial_us;
    uint64_t back_off_us;
    uint64_t noise;    /* state of the jitter */
    uint32_t n_failed; /* dials since the last that opened */
};

static void client_opened(void *arg, struct rpc_stream *stream)
{
    struct rpc_client *client = arg;
    stream->born_us = sl_real_us();
    if (client->handler.opened != NULL)
        client->handler.opened(client->handler.arg, stream);
}

static void client_message(void *arg, struct rpc_stream *stream, ProtobufCMessage *message)
{
    struct rpc_client *client = arg;
    client->handler.message(client->handler.arg, stream, (Sluice__CoordinatorMessage *)message);
}

static void client_closed(void *arg, struct rpc_stream *stream, sl_status why, const char *text)
{
    struct rpc_client *client = arg;
    if (client->handler.closed != NULL)
        client->handler.closed(client->handler.arg, stream, why, text);
}

/* A back-off with up to a fifth taken off at random, so that a fleet does not dial in step. */
static uint64_t jittered(struct rpc_client *client, uint64_t us)
{
    client->noise = client->noise * 6364136223846793005ull + 1442695040888963407ull;
    return us - us / 5 * (client->noise >> 54) / 1024;
}

static void client_gone(void *arg, struct rpc_stream *stream)
{
    struct rpc_client *client = arg;
    uint64_t now = sl_real_us();
    if (stream->opened && now - stream->born_us >= SETTLED_US)
        client->back_off_us = BACK_OFF_MIN_US;
    client->next_dial_us = now + jittered(client, client->back_off_us);
    client->back_off_us *= 2;
    if (client->back_off_us > BACK_OFF_MAX_US)
        client->back_off_us = BACK_OFF_MAX_US;
    client->n_failed = stream->opened ? 0 : client->n_failed + 1;
    if (client->n_failed % DIALS_PER_LINE == 1 && atomic_load(&client->stop_us) == 0)
        sl_warn("dial_failed", "target=%s tries=%u text=\"%s\"", client->target, client->n_failed,
                stream->text);
    client->stream = NULL;
    grpc_channel_destroy(client->channel);
    client->channel = NULL;
}

static void client_dial(struct rpc_client *client)
{
    struct args args;
    args_fill(&args, client_args, N_CLIENT);
    grpc_channel_credentials *credentials = grpc_insecure_credentials_create();
    client->channel = grpc_channel_create(client->target, credentials, &args.channel);
    grpc_channel_credentials_release(credentials);
    struct rpc_events events = {.opened = client_opened,
                                .message = client_message,
                                .closed = client_closed,
                                .gone = client_gone,
                                .arg = client};
    client->stream = rpc_stream_create(false, &events);
    client->stream->call = grpc_channel_create_call(
        client->channel, NULL, GRPC_PROPAGATE_DEFAULTS, client->queue,
        grpc_slice_from_static_string(METHOD), NULL, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
    rpc_stream_start_client(client->stream);
}

static void client_wind_down(struct rpc_client *client, uint64_t stopping_us)
{
    if (client->stream == NULL)
        return;
    if (!client->stream->opened || stopping_us > STOP_CANCEL_US)
        rpc_stream_fail(client->stream, SL_CANCELLED, "the node stops");
    else if (!rpc_stream_finish(client->stream, "the node stops") && stopping_us > STOP_FLUSH_US)
        rpc_stream_fail(client->stream, SL_CANCELLED, "the node stops");
}

static void client_step(struct rpc_client *client, uint64_t now)
{
    if (client->stream == NULL && now >= client->next_dial_us)
        client_dial(client);
    else if (client->stream != NULL && !client->stream->opened &&
             now - client->stream->born_us > DIAL_US)
        rpc_stream_fail(client->stream, SL_DEADLINE, "the coordinator does not answer");
}

static void client_main(void *arg)
{
    struct rpc_client *client = arg;
    for (;;) {
        uint64_t now = sl_real_us();
        uint64_t stop_us = atomic_load(&client->stop_us);
        if (stop_us != 0 && client->stream == NULL)
            return;
        if (stop_us != 0)
            client_wind_down(client, now - stop_us);
        else
            client_step(client, now);
        queue_step(client->queue, now + TICK_US);
    }
}

static void client_free(struct rpc_client *client)
{
    queue_destroy(client->queue);
    grpc_shutdown_blocking();
    sl_free(client->target);
    sl_free(client);
}

sl_status rpc_client_start(const char *target, const struct rpc_client_handler *handler,
                           struct rpc_client **client_out)
{
    library_init();
    struct rpc_client *client = sl_zalloc(1, sizeof(*client));
    client->handler = *handler;
    client->target = sl_strdup(target);
    client->queue = grpc_completion_queue_create_for_next(NULL);
    client->back_off_us = BACK_OFF_MIN_US;
    client->noise = sl_real_us() ^ (uint64_t)(uintptr_t)client;
    sl_status status = sl_thread_start(&client->thread, "rpc-client", client_main, client);
    if (status != SL_OK) {
        client_free(client);
        return status;
    }
    *client_out = client;
    return SL_OK;
}

void rpc_client_stop(struct rpc_client *client)
{
    if (client == NULL)
        return;
    atomic_store(&client->stop_us, sl_real_us());
    sl_thread_join(&client->thread);
    client_free(client);
}

/* A node's place in the fleet; see the header for the states.
 *
 * Threads: callbacks of the stream run on the client's control thread; heartbeats and the watch for a
 * silent coordinator on a thread of this file, so that neither a busy step loop nor a burst of
 * messages delays them. `mutex` covers the stream and what the coordinator said; `hello_mutex` makes
 * "fill, send, publish" one step, so that an announcement falls either before a stream's first hello,
 * which then says it, or after it and goes out on its own.
 *
 * gRPC's keepalive would notice a dead link, but not a coordinator that is stopped or whose control
 * thread hangs: hence the watch on what was last heard. */
#include "serve/join.h"

#include "base/address.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"
#include "proto/check.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#define HEARTBEAT_US (1 * SL_SECOND_US) /* until the coordinator says otherwise */
#define DEAD_US      (5 * SL_SECOND_US)

struct serve_join {
    struct serve_join_args args;
    char *coordinator;
    struct rpc_client *client;
    struct sl_thread thread;
    struct sl_wake wake;
    _Atomic bool stop;
    _Atomic bool beat_now;
    _Atomic uint64_t heard_us;
    _Atomic uint64_t lost_since_us; /* 0 while joined */

    pthread_mutex_t hello_mutex;
    pthread_mutex_t mutex;
    struct rpc_stream *stream; /* that has said hello; a reference */
    bool joined;
    uint64_t heartbeat_us, dead_us;

    /* Control thread only. */
    uint64_t incarnation; /* of the coordinator last joined; 0: none yet */
};

void serve_heartbeat_init(struct serve_heartbeat *heartbeat)
{
    sluice__heartbeat__init(&heartbeat->message);
    sluice__load__init(&heartbeat->load);
    heartbeat->message.load = &heartbeat->load;
    heartbeat->message.samples = heartbeat->sample_list;
    heartbeat->message.transfers = heartbeat->transfer_list;
    for (uint32_t i = 0; i < RPC_SAMPLES_MAX; i++) {
        sluice__step_sample__init(&heartbeat->samples[i]);
        heartbeat->sample_list[i] = &heartbeat->samples[i];
    }
    for (uint32_t i = 0; i < SERVE_TRANSFERS_MAX; i++) {
        Sluice__TransferTotals *totals = &heartbeat->transfers[i];
        sluice__transfer_totals__init(totals);
        for (uint32_t k = 0; k < SERVE_REASONS; k++)
            heartbeat->failures[i][k] = 0;
        totals->n_failures = SERVE_REASONS;
        totals->failures = heartbeat->failures[i];
        heartbeat->names[i][0][0] = heartbeat->names[i][1][0] = '\0';
        totals->src = heartbeat->names[i][0];
        totals->dst = heartbeat->names[i][1];
        heartbeat->transfer_list[i] = totals;
    }
}

/* The stream with a reference, or NULL. */
static struct rpc_stream *stream_of(struct serve_join *join)
{
    pthread_mutex_lock(&join->mutex);
    struct rpc_stream *stream = join->stream == NULL ? NULL : rpc_stream_acquire(join->stream);
    pthread_mutex_unlock(&join->mutex);
    return stream;
}

/* Under hello_mutex. */
static sl_status send_hello(struct serve_join *join, struct rpc_stream *stream)
{
    Sluice__Hello hello;
    sluice__hello__init(&hello);
    char version[] = SLUICE_VERSION;
    hello.protocol = RPC_PROTOCOL;
    hello.pid = (uint32_t)getpid();
    hello.version = version;
    join->args.hello(join->args.arg, &hello);
    Sluice__NodeMessage message = SLUICE__NODE_MESSAGE__INIT;
    message.body_case = SLUICE__NODE_MESSAGE__BODY_HELLO;
    message.hello = &hello;
    /* Better refused here, with the field's name, than by the coordinator. */
    sl_status status = rpc_check_node_message(&message);
    if (status == SL_OK)
        status = rpc_send_to_coordinator(stream, RPC_URGENT, &message);
    if (status != SL_OK)
        sl_error_log("hello_failed", "error=\"%s\"", sl_error());
    return status;
}

static void on_opened(void *arg, struct rpc_stream *stream)
{
    struct serve_join *join = arg;
    atomic_store(&join->heard_us, sl_real_us());
    pthread_mutex_lock(&join->hello_mutex);
    sl_status status = send_hello(join, stream);
    if (status == SL_OK) {
        pthread_mutex_lock(&join->mutex);
        join->stream = rpc_stream_acquire(stream);
        pthread_mutex_unlock(&join->mutex);
    }
    pthread_mutex_unlock(&join->hello_mutex);
    if (status != SL_OK)
        rpc_stream_close(stream, "hello failed");
}

static void on_welcome(struct serve_join *join, const Sluice__Welcome *welcome)
{
    pthread_mutex_lock(&join->mutex);
    bool first = !join->joined;
    join->joined = true;
    join->heartbeat_us = welcome->heartbeat_us;
    join->dead_us = welcome->dead_us;
    pthread_mutex_unlock(&join->mutex);
    if (!first)
        return;
    bool known = join->incarnation != 0;
    bool restarted = known && join->incarnation != welcome->coordinator;
    uint64_t since = atomic_exchange(&join->lost_since_us, 0);
    uint64_t lost_us = known ? sl_real_us() - since : 0;
    join->incarnation = welcome->coordinator;
    sl_debug("welcome",
             "coordinator=%s incarnation=%016" PRIx64 " lost_us=%" PRIu64 " restarted=%d",
             join->coordinator, welcome->coordinator, lost_us, restarted);
    sl_wake_signal(&join->wake); /* the period may have changed */
    if (join->args.joined != NULL)
        join->args.joined(join->args.arg, welcome->coordinator, lost_us, restarted);
}

static void on_message(void *arg, struct rpc_stream *stream, Sluice__CoordinatorMessage *message)
{
    (void)stream;
    struct serve_join *join = arg;
    atomic_store(&join->heard_us, sl_real_us());
    if (message->body_case == SLUICE__COORDINATOR_MESSAGE__BODY_WELCOME)
        on_welcome(join, message->welcome);
    else if (message->body_case != SLUICE__COORDINATOR_MESSAGE__BODY_BEAT) {
        join->args.message(join->args.arg, message);
        return;
    }
    rpc_coordinator_message_free(message);
}

static void on_closed(void *arg, struct rpc_stream *stream, sl_status why, const char *text)
{
    (void)stream;
    struct serve_join *join = arg;
    pthread_mutex_lock(&join->mutex);
    struct rpc_stream *mine = join->stream;
    bool was_joined = join->joined;
    join->stream = NULL;
    join->joined = false;
    join->heartbeat_us = HEARTBEAT_US;
    join->dead_us = DEAD_US;
    pthread_mutex_unlock(&join->mutex);
    rpc_stream_release(mine);
    if (!was_joined && atomic_load(&join->stop))
        return;
    if (!was_joined) {
        sl_warn("join_refused", "coordinator=%s why=%s text=\"%s\"", join->coordinator,
                sl_status_name(why), text);
        return;
    }
    atomic_store(&join->lost_since_us, sl_real_us());
    if (atomic_load(&join->stop))
        sl_debug("left", "coordinator=%s", join->coordinator);
    else
        sl_debug("stream_lost", "coordinator=%s why=%s text=\"%s\"", join->coordinator,
                 sl_status_name(why), text);
    if (join->args.lost != NULL)
        join->args.lost(join->args.arg, why, text);
}

/* ---- the heartbeat thread ---- */

static void send_quietly(struct rpc_stream *stream, const Sluice__NodeMessage *message)
{
    sl_status status = rpc_check_node_message(message);
    if (status == SL_OK)
        status = rpc_send_to_coordinator(stream, RPC_URGENT, message);
    if (status != SL_OK && status != SL_PEER)
        sl_warn("heartbeat_failed", "error=\"%s\"", sl_error());
}

static void send_heartbeat(struct serve_join *join, struct rpc_stream *stream,
                           struct serve_heartbeat *heartbeat)
{
    serve_heartbeat_init(heartbeat);
    join->args.heartbeat(join->args.arg, heartbeat);
    Sluice__NodeMessage message = SLUICE__NODE_MESSAGE__INIT;
    message.body_case = SLUICE__NODE_MESSAGE__BODY_HEARTBEAT;
    message.heartbeat = &heartbeat->message;
    send_quietly(stream, &message);
}

static void send_progress(struct serve_join *join, struct rpc_stream *stream)
{
    Sluice__LoadProgress progress = SLUICE__LOAD_PROGRESS__INIT;
    if (join->args.loading == NULL || !join->args.loading(join->args.arg, &progress))
        return;
    Sluice__NodeMessage message = SLUICE__NODE_MESSAGE__INIT;
    message.body_case = SLUICE__NODE_MESSAGE__BODY_LOAD_PROGRESS;
    message.load_progress = &progress;
    send_quietly(stream, &message);
}

static void read_periods(struct serve_join *join, uint64_t *heartbeat_us, uint64_t *dead_us)
{
    pthread_mutex_lock(&join->mutex);
    *heartbeat_us = join->heartbeat_us;
    *dead_us = join->dead_us;
    pthread_mutex_unlock(&join->mutex);
}

static void beat_main(void *arg)
{
    struct serve_join *join = arg;
    struct serve_heartbeat *heartbeat = sl_zalloc(1, sizeof(*heartbeat));
    uint64_t next_us = 0;
    while (!atomic_load(&join->stop)) {
        uint64_t heartbeat_us, dead_us, now = sl_real_us();
        read_periods(join, &heartbeat_us, &dead_us);
        struct rpc_stream *stream = stream_of(join);
        if (stream != NULL && (now >= next_us || atomic_exchange(&join->beat_now, false))) {
            send_heartbeat(join, stream, heartbeat);
            send_progress(join, stream);
            next_us = now + heartbeat_us;
        }
        uint64_t heard = atomic_load(&join->heard_us);
        if (stream != NULL && now > heard && now - heard > dead_us)
            rpc_stream_close(stream, "the coordinator is silent");
        rpc_stream_release(stream);
        uint64_t wait_us = stream != NULL && next_us > now ? next_us - now : heartbeat_us;
        sl_wake_wait(&join->wake, wait_us < heartbeat_us ? wait_us : heartbeat_us);
    }
    /* The last one says that the node drains, however early that was: it leaves, and is not lost. */
    struct rpc_stream *last = stream_of(join);
    if (last != NULL)
        send_heartbeat(join, last, heartbeat);
    rpc_stream_release(last);
    sl_free(heartbeat);
}

/* ---- start and stop ---- */

static void join_free(struct serve_join *join)
{
    rpc_stream_release(join->stream);
    sl_wake_fini(&join->wake);
    pthread_mutex_destroy(&join->mutex);
    pthread_mutex_destroy(&join->hello_mutex);
    sl_free(join->coordinator);
    sl_free(join);
}

sl_status serve_join_start(const struct serve_join_args *args, struct serve_join **join_out)
{
    SL_ASSERT(args->hello != NULL && args->heartbeat != NULL && args->message != NULL);
    char host[SL_HOST_BYTES];
    uint16_t port;
    sl_status status = sl_address_parse("--coordinator", args->coordinator, host, &port);
    if (status == SL_OK && port == 0)
        status = sl_fail(SL_INVALID, "--coordinator: \"%s\"; port 0 cannot be dialled",
                         args->coordinator);
    if (status != SL_OK)
        return status;
    struct serve_join *join = sl_zalloc(1, sizeof(*join));
    join->args = *args;
    join->coordinator = sl_strdup(args->coordinator);
    join->args.coordinator = join->coordinator;
    join->heartbeat_us = HEARTBEAT_US;
    join->dead_us = DEAD_US;
    atomic_store(&join->lost_since_us, sl_real_us());
    pthread_mutex_init(&join->mutex, NULL);
    pthread_mutex_init(&join->hello_mutex, NULL);
    status = sl_wake_init(&join->wake);
    if (status != SL_OK)
        goto fail;
    status = sl_thread_start(&join->thread, "heartbeat", beat_main, join);
    if (status != SL_OK)
        goto fail;
    struct rpc_client_handler handler = {
        .opened = on_opened, .message = on_message, .closed = on_closed, .arg = join};
    status = rpc_client_start(join->coordinator, &handler, &join->client);
    if (status != SL_OK)
        goto fail;
    *join_out = join;
    return SL_OK;
fail:
    serve_join_stop(join);
    return status;
}

void serve_join_stop(struct serve_join *join)
{
    if (join == NULL)
        return;
    atomic_store(&join->stop, true);
    if (join->thread.started)
        sl_wake_signal(&join->wake);
    sl_thread_join(&join->thread);
    rpc_client_stop(join->client);
    join_free(join);
}

sl_status serve_join_send(struct serve_join *join, enum rpc_class class,
                          const Sluice__NodeMessage *message)
{
    pthread_mutex_lock(&join->mutex);
    struct rpc_stream *stream = join->joined ? rpc_stream_acquire(join->stream) : NULL;
    pthread_mutex_unlock(&join->mutex);
    if (stream == NULL)
        return sl_fail(SL_PEER, "not joined to the coordinator at %s", join->coordinator);
    sl_status status = rpc_send_to_coordinator(stream, class, message);
    rpc_stream_release(stream);
    return status;
}

void serve_join_announce(struct serve_join *join)
{
    pthread_mutex_lock(&join->hello_mutex);
    struct rpc_stream *stream = stream_of(join);
    sl_status status = stream == NULL ? SL_OK : send_hello(join, stream);
    pthread_mutex_unlock(&join->hello_mutex);
    if (status != SL_OK && status != SL_PEER)
        rpc_stream_close(stream, "hello failed");
    rpc_stream_release(stream);
}

void serve_join_beat(struct serve_join *join)
{
    atomic_store(&join->beat_now, true);
    sl_wake_signal(&join->wake);
}

uint64_t serve_join_lost_us(const struct serve_join *join)
{
    uint64_t since = atomic_load(&join->lost_since_us);
    return since == 0 ? 0 : sl_real_us() - since;
}

/* One stream: gRPC batches, sending, receiving.
 *
 *            accept / dial
 *                 │ initial metadata through: opened()
 *                 ▼
 *               OPEN ── fail: cancel the call ─────────────┐
 *                 │                                        │ gRPC: over
 *                 ├── finish: queue empty, then status or ─┤
 *                 │           half-close                   ▼
 *                 └── the peer ends or dies ──────────► OVER ── last batch back ─► closed(), gone()
 *
 * Batches that can be outstanding, one of each: open (initial metadata), read, write, end (status or
 * half-close), over (RECV_CLOSE_ON_SERVER or RECV_STATUS_ON_CLIENT). `pending` counts them; the call
 * is dropped by the control thread when it is over and none is pending. So a batch may be started
 * outside the lock once it is counted, and the lock is never held while gRPC works, except for a
 * cancel, which must not race with the drop. `starters` counts the threads that are inside a start;
 * the drop waits for them, microseconds at the most, since a batch can come back before its start
 * has returned.
 *
 * Writes: one message at a time in gRPC; the rest waits in the outbox, where an urgent one can still
 * overtake. A sender whose message finds no write outstanding starts it on its own thread, which
 * costs it the system call but saves two thread switches; gRPC never blocks there. A peer that does
 * not read leaves the write outstanding, and the outbox fills up to its bound.
 *
 * Every hand-off through gRPC's queue is also ordered by the stream's lock, which is what ThreadSanitizer
 * sees of it. */
#include "proto/rpc_stream.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "proto/check.h"
#include "proto/message.h"

#include <arpa/inet.h>
#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/slice.h>
#include <grpc/support/alloc.h>
#include <stdio.h>
#include <string.h>

/* What a server says first, so that a client does not take just any gRPC server for a coordinator. */
#define OPEN_KEY   "sluice-protocol"
#define OPEN_VALUE "1"

struct stream_item {
    struct outbox_item item; /* first */
    grpc_byte_buffer *buffer;
};

static void item_destroy(struct stream_item *item)
{
    if (item == NULL)
        return;
    grpc_byte_buffer_destroy(item->buffer);
    sl_free(item);
}

static struct stream_item *item_create(const ProtobufCMessage *message, size_t bytes, bool counted)
{
    struct stream_item *item = sl_try_zalloc(1, sizeof(*item));
    if (item == NULL)
        return NULL;
    grpc_slice slice = grpc_slice_malloc(bytes);
    protobuf_c_message_pack(message, GRPC_SLICE_START_PTR(slice));
    item->buffer = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    item->item.bytes = (uint32_t)bytes;
    item->item.counted = counted;
    return item;
}

struct rpc_stream *rpc_stream_create(bool is_server, const struct rpc_events *events)
{
    struct rpc_stream *stream = sl_zalloc(1, sizeof(*stream));
    atomic_init(&stream->refs, 1);
    stream->is_server = is_server;
    stream->events = *events;
    stream->born_us = sl_real_us();
    stream->details = grpc_empty_slice();
    pthread_mutex_init(&stream->mutex, NULL);
    pthread_cond_init(&stream->started, NULL);
    outbox_init(&stream->outbox, RPC_QUEUE_BYTES_MAX, RPC_WINDOW_BYTES);
    grpc_metadata_array_init(&stream->received_metadata);
    grpc_metadata_array_init(&stream->trailing_metadata);
    return stream;
}

struct rpc_stream *rpc_stream_acquire(struct rpc_stream *stream)
{
    atomic_fetch_add_explicit(&stream->refs, 1, memory_order_relaxed);
    return stream;
}

/* What belongs to gRPC has been given back by stream_gone, so this may run after grpc_shutdown. */
void rpc_stream_release(struct rpc_stream *stream)
{
    if (stream == NULL || atomic_fetch_sub_explicit(&stream->refs, 1, memory_order_acq_rel) != 1)
        return;
    SL_ASSERT(stream->call == NULL);
    pthread_cond_destroy(&stream->started);
    pthread_mutex_destroy(&stream->mutex);
    sl_free(stream);
}

const char *rpc_stream_peer(const struct rpc_stream *stream)
{
    return stream->peer;
}

/* "ipv4:10.0.0.1:4711", "ipv6:%5B2001:db8::7%5D:4711"; older versions write the brackets out. */
bool rpc_peer_host(const char *peer, char host_out[SL_HOST_BYTES])
{
    const char *end = strrchr(peer, ':'), *host = peer + strlen("ipv4:");
    bool v6 = strncmp(peer, "ipv6:", 5) == 0;
    if ((!v6 && strncmp(peer, "ipv4:", 5) != 0) || end <= host)
        return false;
    size_t bracket = !v6 ? 0 : host[0] == '[' ? 1 : 3, n = (size_t)(end - host);
    if (n <= 2 * bracket || n - 2 * bracket >= SL_HOST_BYTES)
        return false;
    n -= 2 * bracket;
    memcpy(host_out, host + bracket, n);
    host_out[n] = '\0';
    unsigned char address[16];
    return inet_pton(v6 ? AF_INET6 : AF_INET, host_out, address) == 1;
}

static void start(struct rpc_stream *stream, const grpc_op *ops, size_t n, struct rpc_tag *tag)
{
    grpc_call_error error = grpc_call_start_batch(stream->call, ops, n, tag, NULL);
    if (error != GRPC_CALL_OK)
        sl_error_log("rpc_batch", "error=%s", grpc_call_error_to_string(error));
    SL_ASSERT(error == GRPC_CALL_OK);
}

static void count_batch(struct rpc_stream *stream)
{
    pthread_mutex_lock(&stream->mutex);
    stream->pending++;
    pthread_mutex_unlock(&stream->mutex);
}

/* ---- the end ---- */

static void set_why(struct rpc_stream *stream, sl_status why, const char *text)
{
    if (stream->why != SL_OK || stream->over)
        return;
    stream->why = why;
    snprintf(stream->text, sizeof(stream->text), "%s", text);
}

static grpc_status_code code_of(sl_status why)
{
    if (why == SL_CORRUPT)
        return GRPC_STATUS_INVALID_ARGUMENT;
    return (grpc_status_code)sl_status_grpc(why);
}

void rpc_stream_fail(struct rpc_stream *stream, sl_status why, const char *text)
{
    pthread_mutex_lock(&stream->mutex);
    set_why(stream, why, text);
    stream->writable = false;
    bool cancel = !stream->broken && stream->call != NULL && !stream->over;
    stream->broken = true;
    if (cancel)
        grpc_call_cancel_with_status(stream->call, code_of(why),
                                     stream->text[0] == '\0' ? "closed" : stream->text, NULL);
    pthread_mutex_unlock(&stream->mutex);
}

void rpc_stream_close(struct rpc_stream *stream, const char *reason)
{
    rpc_stream_fail(stream, SL_CANCELLED, reason == NULL ? "closed" : reason);
}

static void drop_queue(struct rpc_stream *stream)
{
    struct outbox_item *item;
    while ((item = outbox_discard(&stream->outbox)) != NULL)
        item_destroy((struct stream_item *)(void *)item);
}

static void stream_gone(struct rpc_stream *stream)
{
    pthread_mutex_lock(&stream->mutex);
    /* A sender may still be on its way out of starting the batch that has come back. */
    while (stream->starters > 0)
        pthread_cond_wait(&stream->started, &stream->mutex);
    drop_queue(stream);
    grpc_call *call = stream->call;
    stream->call = NULL;
    sl_status why = stream->why;
    pthread_mutex_unlock(&stream->mutex);
    grpc_call_unref(call);
    grpc_metadata_array_destroy(&stream->received_metadata);
    grpc_metadata_array_destroy(&stream->trailing_metadata);
    grpc_slice_unref(stream->details);
    stream->details = grpc_empty_slice();
    if (stream->incoming != NULL)
        grpc_byte_buffer_destroy(stream->incoming);
    stream->incoming = NULL;
    if (stream->opened)
        stream->events.closed(stream->events.arg, stream, why, stream->text);
    stream->events.gone(stream->events.arg, stream);
    rpc_stream_release(stream);
}

/* A batch has come back; returns false if it was the last and the stream is gone. */
static bool batch_done(struct rpc_stream *stream)
{
    pthread_mutex_lock(&stream->mutex);
    SL_ASSERT(stream->pending > 0);
    bool last = --stream->pending == 0 && stream->over;
    pthread_mutex_unlock(&stream->mutex);
    if (last)
        stream_gone(stream);
    return !last;
}

static void on_over_server(void *owner, bool ok)
{
    (void)ok;
    struct rpc_stream *stream = owner;
    pthread_mutex_lock(&stream->mutex);
    if (stream->cancelled)
        set_why(stream, SL_PEER, "the node cancelled the stream or its connection is lost");
    else
        set_why(stream, SL_OK, "the node ended the stream");
    stream->writable = false;
    stream->over = true;
    pthread_mutex_unlock(&stream->mutex);
    batch_done(stream);
}

static void on_over_client(void *owner, bool ok)
{
    (void)ok;
    struct rpc_stream *stream = owner;
    char text[STREAM_TEXT_BYTES_MAX];
    size_t n = GRPC_SLICE_LENGTH(stream->details);
    snprintf(text, sizeof(text), "%.*s", (int)(n < sizeof(text) ? n : sizeof(text) - 1),
             (const char *)GRPC_SLICE_START_PTR(stream->details));
    sl_status why = SL_PEER;
    if (stream->status == GRPC_STATUS_INVALID_ARGUMENT)
        why = SL_INVALID;
    else if (stream->status == GRPC_STATUS_UNIMPLEMENTED)
        why = SL_UNSUPPORTED;
    else if (stream->status == GRPC_STATUS_RESOURCE_EXHAUSTED)
        why = SL_EXHAUSTED;
    pthread_mutex_lock(&stream->mutex);
    set_why(stream, why, text[0] == '\0' ? "the coordinator ended the stream" : text);
    stream->writable = false;
    stream->over = true;
    pthread_mutex_unlock(&stream->mutex);
    batch_done(stream);
}

static void on_ended(void *owner, bool ok)
{
    (void)ok;
    batch_done(owner);
}

/* ---- writing ---- */

static struct stream_item *window_item(uint64_t consumed, bool to_node)
{
    Sluice__Window window = SLUICE__WINDOW__INIT;
    window.consumed_bytes = consumed;
    Sluice__CoordinatorMessage down = SLUICE__COORDINATOR_MESSAGE__INIT;
    down.body_case = SLUICE__COORDINATOR_MESSAGE__BODY_WINDOW;
    down.window = &window;
    Sluice__NodeMessage up = SLUICE__NODE_MESSAGE__INIT;
    up.body_case = SLUICE__NODE_MESSAGE__BODY_WINDOW;
    up.window = &window;
    const ProtobufCMessage *message = to_node ? &down.base : &up.base;
    return item_create(message, protobuf_c_message_get_packed_size(message), false);
}

/* Takes the next item to write and counts its batch, under the lock; NULL: nothing may go now. */
static struct stream_item *next_write(struct rpc_stream *stream)
{
    if (!stream->writable || stream->writing)
        return NULL;
    struct stream_item *item = NULL;
    uint64_t before = stream->outbox.announced;
    uint64_t consumed;
    if (outbox_announce(&stream->outbox, &consumed)) {
        item = window_item(consumed, stream->is_server);
        if (item == NULL) /* no memory: announced with the next free */
            stream->outbox.announced = before;
    }
    if (item == NULL)
        item = (struct stream_item *)(void *)outbox_pop(&stream->outbox);
    if (item == NULL)
        return NULL;
    stream->writing = true;
    stream->in_flight = item;
    stream->pending++;
    stream->starters++;
    return item;
}

static void pump(struct rpc_stream *stream)
{
    pthread_mutex_lock(&stream->mutex);
    struct stream_item *item = next_write(stream);
    pthread_mutex_unlock(&stream->mutex);
    if (item == NULL)
        return;
    grpc_op op = {.op = GRPC_OP_SEND_MESSAGE};
    op.data.send_message.send_message = item->buffer;
    start(stream, &op, 1, &stream->write_tag);
    pthread_mutex_lock(&stream->mutex);
    if (--stream->starters == 0)
        pthread_cond_signal(&stream->started);
    pthread_mutex_unlock(&stream->mutex);
}

static void on_written(void *owner, bool ok)
{
    struct rpc_stream *stream = owner;
    pthread_mutex_lock(&stream->mutex);
    struct stream_item *item = stream->in_flight;
    stream->in_flight = NULL;
    stream->writing = false;
    if (!ok)
        stream->writable = false; /* over follows */
    pthread_mutex_unlock(&stream->mutex);
    item_destroy(item);
    if (ok)
        pump(stream);
    batch_done(stream);
}

/* Queues a chain; takes the items in any case. */
static sl_status send_items(struct rpc_stream *stream, enum rpc_class class,
                            struct stream_item *chain)
{
    pthread_mutex_lock(&stream->mutex);
    sl_status status = stream->writable
                           ? outbox_push(&stream->outbox, class, &chain->item)
                           : sl_fail(SL_PEER, "stream closed%s%s",
                                     stream->text[0] == '\0' ? "" : ": ", stream->text);
    pthread_mutex_unlock(&stream->mutex);
    if (status == SL_OK) {
        pump(stream);
        return SL_OK;
    }
    while (chain != NULL) {
        struct stream_item *next = (struct stream_item *)(void *)chain->item.next;
        item_destroy(chain);
        chain = next;
    }
    return status;
}

static sl_status make_item(const ProtobufCMessage *message, bool counted,
                           struct stream_item **item_out)
{
    size_t bytes = protobuf_c_message_get_packed_size(message);
    if (bytes > RPC_MESSAGE_BYTES_MAX)
        return sl_fail(SL_INVALID, "%s of %zu bytes; at most %u", message->descriptor->short_name,
                       bytes, RPC_MESSAGE_BYTES_MAX);
    *item_out = item_create(message, bytes, counted);
    if (*item_out == NULL)
        return sl_fail(SL_NO_MEMORY, "no memory to send a message");
    return SL_OK;
}

static sl_status send_message(struct rpc_stream *stream, enum rpc_class class, bool counted,
                              const ProtobufCMessage *message)
{
    if (counted && class == RPC_URGENT)
        return sl_fail(SL_INVALID, "submits and cache events cannot be urgent");
    struct stream_item *item;
    sl_status status = make_item(message, counted, &item);
    if (status != SL_OK)
        return status;
    return send_items(stream, class, item);
}

sl_status rpc_send_to_node(struct rpc_stream *stream, enum rpc_class class,
                           const Sluice__CoordinatorMessage *message)
{
    SL_ASSERT(stream->is_server);
    return send_message(stream, class, rpc_coordinator_message_counted(message), &message->base);
}

sl_status rpc_send_to_coordinator(struct rpc_stream *stream, enum rpc_class class,
                                  const Sluice__NodeMessage *message)
{
    SL_ASSERT(!stream->is_server);
    return send_message(stream, class, rpc_node_message_counted(message), &message->base);
}

/* Part `index` of a submit: 0 is the Submit itself, the others SubmitParts. */
static sl_status make_submit_item(const Sluice__Submit *submit, uint32_t index, uint32_t n_parts,
                                  struct stream_item **item_out)
{
    size_t first = (size_t)index * RPC_SUBMIT_TOKENS_MAX;
    size_t left = submit->n_tokens - first;
    size_t n = left < RPC_SUBMIT_TOKENS_MAX ? left : RPC_SUBMIT_TOKENS_MAX;
    uint32_t *tokens = n == 0 ? NULL : submit->tokens + first;
    Sluice__CoordinatorMessage message = SLUICE__COORDINATOR_MESSAGE__INIT;
    if (index == 0) {
        Sluice__Submit head = *submit;
        head.n_tokens = n;
        head.tokens = tokens;
        head.n_parts = n_parts;
        head.total_tokens = (uint32_t)submit->n_tokens;
        message.body_case = SLUICE__COORDINATOR_MESSAGE__BODY_SUBMIT;
        message.submit = &head;
        sl_status status = rpc_check_coordinator_message(&message);
        return status == SL_OK ? make_item(&message.base, true, item_out) : status;
    }
    Sluice__SubmitPart part = SLUICE__SUBMIT_PART__INIT;
    part.request = submit->request;
    part.attempt = submit->attempt;
    part.part = index - 1;
    part.n_tokens = n;
    part.tokens = tokens;
    message.body_case = SLUICE__COORDINATOR_MESSAGE__BODY_SUBMIT_PART;
    message.submit_part = &part;
    return make_item(&message.base, true, item_out);
}

sl_status rpc_send_submit(struct rpc_stream *stream, const Sluice__Submit *submit)
{
    SL_ASSERT(stream->is_server);
    size_t n_items = submit->n_tokens == 0
                         ? 1
                         : (submit->n_tokens + RPC_SUBMIT_TOKENS_MAX - 1) / RPC_SUBMIT_TOKENS_MAX;
    if (n_items - 1 > RPC_SUBMIT_PARTS_MAX)
        return sl_fail(SL_INVALID, "submit of %zu tokens; at most %u", submit->n_tokens,
                       (RPC_SUBMIT_PARTS_MAX + 1) * RPC_SUBMIT_TOKENS_MAX);
    struct stream_item *first = NULL, *last = NULL;
    for (uint32_t i = 0; i < n_items; i++) {
        struct stream_item *item;
        sl_status status = make_submit_item(submit, i, (uint32_t)n_items - 1, &item);
        if (status != SL_OK) {
            while (first != NULL) {
                struct stream_item *next = (struct stream_item *)(void *)first->item.next;
                item_destroy(first);
                first = next;
            }
            return status;
        }
        if (last == NULL)
            first = item;
        else
            last->item.next = &item->item;
        last = item;
    }
    return send_items(stream, RPC_SUBMIT, first);
}

/* ---- reading ---- */

/* The consumer freed a counted message: on any thread, perhaps long after the stream is gone. */
static void on_freed(void *arg, uint32_t bytes)
{
    struct rpc_stream *stream = arg;
    pthread_mutex_lock(&stream->mutex);
    outbox_freed(&stream->outbox, bytes);
    pthread_mutex_unlock(&stream->mutex);
    pump(stream);
    rpc_stream_release(stream);
}

static sl_status take_window(struct rpc_stream *stream, uint64_t consumed)
{
    pthread_mutex_lock(&stream->mutex);
    sl_status status = outbox_peer_consumed(&stream->outbox, consumed);
    pthread_mutex_unlock(&stream->mutex);
    if (status == SL_OK)
        pump(stream);
    return status;
}

static sl_status take_counted(struct rpc_stream *stream, ProtobufCMessage *message, uint32_t bytes)
{
    pthread_mutex_lock(&stream->mutex);
    sl_status status = outbox_received(&stream->outbox, bytes);
    pthread_mutex_unlock(&stream->mutex);
    if (status == SL_OK)
        rpc_message_on_free(message, on_freed, rpc_stream_acquire(stream), bytes);
    return status;
}

static sl_status receive_on_server(struct rpc_stream *stream, const uint8_t *bytes, size_t n)
{
    Sluice__NodeMessage *message;
    sl_status status = rpc_node_message_unpack(bytes, n, &message);
    if (status != SL_OK)
        return status;
    if (message->body_case == SLUICE__NODE_MESSAGE__BODY_WINDOW) {
        status = take_window(stream, message->window->consumed_bytes);
        rpc_node_message_free(message);
        return status;
    }
    if (message->body_case == SLUICE__NODE_MESSAGE__BODY_HELLO)
        stream->greeted = true;
    if (!stream->greeted)
        status = sl_fail(SL_INVALID, "the first message of a node must be hello; got body %d",
                         (int)message->body_case);
    else if (rpc_node_message_counted(message))
        status = take_counted(stream, &message->base, (uint32_t)n);
    if (status != SL_OK) {
        rpc_node_message_free(message);
        return status;
    }
    stream->events.message(stream->events.arg, stream, &message->base);
    return SL_OK;
}

static sl_status receive_on_client(struct rpc_stream *stream, const uint8_t *bytes, size_t n)
{
    Sluice__CoordinatorMessage *message;
    sl_status status = rpc_coordinator_message_unpack(bytes, n, &message);
    if (status != SL_OK)
        return status;
    if (message->body_case == SLUICE__COORDINATOR_MESSAGE__BODY_WINDOW) {
        status = take_window(stream, message->window->consumed_bytes);
        rpc_coordinator_message_free(message);
        return status;
    }
    if (rpc_coordinator_message_counted(message))
        status = take_counted(stream, &message->base, (uint32_t)n);
    if (status != SL_OK) {
        rpc_coordinator_message_free(message);
        return status;
    }
    stream->events.message(stream->events.arg, stream, &message->base);
    return SL_OK;
}

static sl_status receive(struct rpc_stream *stream, grpc_byte_buffer *buffer)
{
    grpc_byte_buffer_reader reader;
    if (!grpc_byte_buffer_reader_init(&reader, buffer))
        return sl_fail(SL_INVALID, "a message that cannot be decompressed");
    grpc_slice slice = grpc_byte_buffer_reader_readall(&reader);
    grpc_byte_buffer_reader_destroy(&reader);
    const uint8_t *bytes = GRPC_SLICE_START_PTR(slice);
    size_t n = GRPC_SLICE_LENGTH(slice);
    sl_status status = stream->is_server ? receive_on_server(stream, bytes, n)
                                         : receive_on_client(stream, bytes, n);
    grpc_slice_unref(slice);
    return status;
}

static void read_next(struct rpc_stream *stream)
{
    count_batch(stream);
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};
    op.data.recv_message.recv_message = &stream->incoming;
    start(stream, &op, 1, &stream->read_tag);
}

/* Server: the node has half-closed; whatever is queued for it would reach nobody who listens. */
static void answer_half_close(struct rpc_stream *stream)
{
    pthread_mutex_lock(&stream->mutex);
    stream->writable = false;
    bool send = !stream->ending && !stream->over;
    stream->ending = true;
    if (send)
        stream->pending++;
    pthread_mutex_unlock(&stream->mutex);
    if (!send)
        return;
    grpc_op op = {.op = GRPC_OP_SEND_STATUS_FROM_SERVER};
    op.data.send_status_from_server.status = GRPC_STATUS_OK;
    start(stream, &op, 1, &stream->end_tag);
}

static bool stream_failed(struct rpc_stream *stream)
{
    pthread_mutex_lock(&stream->mutex);
    bool failed = stream->why != SL_OK;
    pthread_mutex_unlock(&stream->mutex);
    return failed;
}

static void on_read(void *owner, bool ok)
{
    struct rpc_stream *stream = owner;
    grpc_byte_buffer *buffer = stream->incoming;
    stream->incoming = NULL;
    if (ok && buffer != NULL) {
        if (!stream_failed(stream)) {
            sl_status status = receive(stream, buffer);
            if (status != SL_OK)
                rpc_stream_fail(stream, status, sl_error());
        }
        grpc_byte_buffer_destroy(buffer);
        read_next(stream);
    } else if (stream->is_server) {
        answer_half_close(stream);
    }
    batch_done(stream);
}

/* ---- opening ---- */

static void set_peer(struct rpc_stream *stream)
{
    char *peer = grpc_call_get_peer(stream->call);
    snprintf(stream->peer, sizeof(stream->peer), "%s", peer);
    gpr_free(peer);
}

static void open_stream(struct rpc_stream *stream)
{
    set_peer(stream);
    pthread_mutex_lock(&stream->mutex);
    bool alive = stream->why == SL_OK && !stream->over;
    stream->writable = alive;
    pthread_mutex_unlock(&stream->mutex);
    if (!alive)
        return;
    stream->opened = true;
    stream->events.opened(stream->events.arg, stream);
    read_next(stream);
}

static bool is_ours(const grpc_metadata_array *metadata)
{
    for (size_t i = 0; i < metadata->count; i++) {
        if (grpc_slice_str_cmp(metadata->metadata[i].key, OPEN_KEY) == 0 &&
            grpc_slice_str_cmp(metadata->metadata[i].value, OPEN_VALUE) == 0)
            return true;
    }
    return false;
}

/* Without our mark the server has refused the call, and its status says why in a moment; or it is not
 * ours, and the time limit of the dial ends it. */
static void on_open_client(void *owner, bool ok)
{
    struct rpc_stream *stream = owner;
    if (ok && is_ours(&stream->received_metadata))
        open_stream(stream);
    batch_done(stream);
}

static void on_open_server(void *owner, bool ok)
{
    struct rpc_stream *stream = owner;
    if (ok)
        open_stream(stream);
    batch_done(stream);
}

static void set_tags(struct rpc_stream *stream)
{
    bool server = stream->is_server;
    stream->open_tag = (struct rpc_tag){server ? on_open_server : on_open_client, stream};
    stream->over_tag = (struct rpc_tag){server ? on_over_server : on_over_client, stream};
    stream->read_tag = (struct rpc_tag){on_read, stream};
    stream->write_tag = (struct rpc_tag){on_written, stream};
    stream->end_tag = (struct rpc_tag){on_ended, stream};
}

void rpc_stream_start_client(struct rpc_stream *stream)
{
    set_tags(stream);
    count_batch(stream);
    count_batch(stream);
    grpc_op over = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT};
    over.data.recv_status_on_client.trailing_metadata = &stream->trailing_metadata;
    over.data.recv_status_on_client.status = &stream->status;
    over.data.recv_status_on_client.status_details = &stream->details;
    start(stream, &over, 1, &stream->over_tag);
    grpc_op open[2] = {{.op = GRPC_OP_SEND_INITIAL_METADATA},
                       {.op = GRPC_OP_RECV_INITIAL_METADATA}};
    open[1].data.recv_initial_metadata.recv_initial_metadata = &stream->received_metadata;
    /* The call waits while the channel connects; a failed connect ends it. */
    start(stream, open, 2, &stream->open_tag);
}

void rpc_stream_start_server(struct rpc_stream *stream, const char *refuse)
{
    set_tags(stream);
    count_batch(stream);
    grpc_op over = {.op = GRPC_OP_RECV_CLOSE_ON_SERVER};
    over.data.recv_close_on_server.cancelled = &stream->cancelled;
    start(stream, &over, 1, &stream->over_tag);
    if (refuse != NULL) {
        rpc_stream_fail(stream, SL_EXHAUSTED, refuse);
        return;
    }
    count_batch(stream);
    stream->open_metadata.key = grpc_slice_from_static_string(OPEN_KEY);
    stream->open_metadata.value = grpc_slice_from_static_string(OPEN_VALUE);
    grpc_op open = {.op = GRPC_OP_SEND_INITIAL_METADATA};
    open.data.send_initial_metadata.count = 1;
    open.data.send_initial_metadata.metadata = &stream->open_metadata;
    start(stream, &open, 1, &stream->open_tag);
}

bool rpc_stream_finish(struct rpc_stream *stream, const char *text)
{
    pthread_mutex_lock(&stream->mutex);
    bool done = stream->ending || stream->over || stream->why != SL_OK;
    bool send = !done && stream->opened && !stream->writing && outbox_empty(&stream->outbox);
    if (send) {
        set_why(stream, SL_CANCELLED, text);
        stream->ending = true;
        stream->writable = false;
        stream->pending++;
    }
    pthread_mutex_unlock(&stream->mutex);
    if (!send)
        return done;
    if (!stream->is_server) {
        grpc_op op = {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT};
        start(stream, &op, 1, &stream->end_tag);
        return true;
    }
    grpc_slice details = grpc_slice_from_copied_string(text);
    grpc_op op = {.op = GRPC_OP_SEND_STATUS_FROM_SERVER};
    op.data.send_status_from_server.status = GRPC_STATUS_UNAVAILABLE;
    op.data.send_status_from_server.status_details = &details;
    start(stream, &op, 1, &stream->end_tag);
    grpc_slice_unref(details);
    return true;
}

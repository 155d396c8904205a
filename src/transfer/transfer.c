/* The transfer object: its thread, the two rings to the scheduler, and what ties transport, sessions and
 * streams together.
 *
 *   scheduler thread                         transfer thread
 *   transfer_send_*, recv_* ──commands──►  send_command, recv_command ─┐
 *                                          session_control, recv_offer ├─► tables (source.c, destination.c)
 *                                          send/recv_completed, sweep ─┘        │ actions
 *   transfer_poll ◄────────────events───── transfer_emit ◄──────────────────────┘
 *
 * One turn: commands, transport progress, deadlines, offers. A command ring that is full is the caller's
 * to retry. An event is never dropped: what the ring has no space for waits in a backlog, and while
 * there is one neither commands nor the transport make progress, so that it grows by one turn at most.
 * The thread spins briefly after something happened (a rendezvous takes three messages), then arms the
 * transport and sleeps on its descriptor and on the command wake. Two cores may hold three processes: the
 * spin is bounded by time and gives the core away. */
#include "transfer/transfer.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "transfer/internal.h"

#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define SPIN_US         50
#define SWEEP_US        (5 * SL_MS_US) /* deadlines are this late at most, while somebody waits */
#define IDLE_US         (250 * SL_MS_US)
#define COMMANDS_A_TURN 256
#define CLOSE_WAIT_US   (2 * SL_SECOND_US)

/* ---- names ---- */

static const char *const reason_names[TRANSFER_REASON_COUNT] = {
    [0] = "none",
    [TRANSFER_UNKNOWN] = "unknown",
    [TRANSFER_CANCELLED] = "cancelled",
    [TRANSFER_DEADLINE] = "deadline",
    [TRANSFER_FULL] = "full",
    [TRANSFER_MISMATCH] = "mismatch",
    [TRANSFER_INCARNATION] = "incarnation",
    [TRANSFER_DRAINING] = "draining",
    [TRANSFER_MISBEHAVED] = "misbehaved",
    [TRANSFER_LOST] = "lost",
    [TRANSFER_CORRUPT] = "corrupt",
};

const char *transfer_reason_name(enum transfer_reason reason)
{
    return (unsigned)reason < TRANSFER_REASON_COUNT ? reason_names[reason] : "?";
}

void transfer_limits_default(struct transfer_limits *limits)
{
    *limits = (struct transfer_limits){
        .beat_us = SL_SECOND_US,
        .suspect_us = 3 * SL_SECOND_US,
        .dead_us = 5 * SL_SECOND_US,
        .parked_us = 2 * SL_SECOND_US,
        .open_us = 12 * SL_SECOND_US,
        .seal_us = 5 * SL_SECOND_US,
        .landing_us = 120 * SL_SECOND_US,
        .drain_us = 10 * SL_SECOND_US,
        .tombstone_us = 60 * SL_SECOND_US,
        .reconnect_min_us = 100 * SL_MS_US,
        .reconnect_max_us = 5 * SL_SECOND_US,
        .parked_per_session = 256,
        .parked_per_node = 2048,
        .offers_per_lane = 8,
        .offers_per_session = 64,
        .bytes_per_session = (uint64_t)256 << 20,
        .streams_max = 4096,
    };
}

/* ---- small things that the other files share ---- */

uint32_t stream_bucket(uint64_t key)
{
    return (uint32_t)((key * 0x9E3779B97F4A7C15ull) >> 52) % STREAM_BUCKETS;
}

void *transfer_piece_address(const struct transfer *transfer, const struct piece *piece,
                             uint32_t block_id)
{
    const struct transfer_class *class = &transfer->args.classes[piece->class_index];
    SL_ASSERT(block_id < class->n_blocks);
    size_t block_bytes = class->n_layers * class->layer_bytes;
    return device_export(&transfer->pools[piece->class_index],
                         block_id * block_bytes + piece->offset, piece->bytes);
}

struct transfer_op *transfer_op_take(struct transfer *transfer)
{
    if (transfer->free_ops == NULL) {
        struct transfer_op_slab *slab = sl_zalloc(1, sizeof(*slab));
        slab->next = transfer->op_slabs;
        transfer->op_slabs = slab;
        for (uint32_t i = 0; i < OP_SLAB_COUNT; i++)
            transfer_op_give(transfer, &slab->ops[i]);
    }
    struct transfer_op *op = transfer->free_ops;
    transfer->free_ops = op->next_free;
    return op;
}

void transfer_op_give(struct transfer *transfer, struct transfer_op *op)
{
    op->next_free = transfer->free_ops;
    transfer->free_ops = op;
}

void transfer_count_unknown(struct transfer *transfer, const struct peer *peer,
                            const struct frame *frame)
{
    meter_count(transfer->meter, METER_UNKNOWN);
    sl_debug("transfer_unknown_stream", "peer=%s type=%s key=%" PRIx64, peer->node_id,
             frame_type_name(frame->type), frame->key);
}

void transfer_refuse_key(struct transfer *transfer, const struct command *command, uint32_t attempt)
{
    sl_warn("transfer_key_refused",
            "key=%016" PRIx64 " error=\"stream key of attempt %u is taken by attempt %u\"",
            command->key, command->open.attempt, attempt);
    meter_count(transfer->meter, METER_MISBEHAVED); /* of this node: it is not the peer's fault */
}

/* ---- events ---- */

static void flush_backlog(struct transfer *transfer)
{
    uint32_t n = 0;
    while (n < transfer->backlog_count && sl_ring_push(transfer->events, &transfer->backlog[n]))
        n++;
    if (n == 0)
        return;
    transfer->backlog_count -= n;
    memmove(transfer->backlog, transfer->backlog + n,
            transfer->backlog_count * sizeof(*transfer->backlog));
    transfer->notify_wanted = true;
}

void transfer_emit(struct transfer *transfer, const struct transfer_event *event)
{
    transfer->notify_wanted = true;
    if (transfer->backlog_count == 0 && sl_ring_push(transfer->events, event))
        return;
    if (transfer->backlog_count == transfer->backlog_capacity) {
        uint32_t capacity = transfer->backlog_capacity == 0 ? 256 : 2 * transfer->backlog_capacity;
        void *grown = sl_try_realloc(transfer->backlog, capacity, sizeof(*transfer->backlog));
        SL_ASSERT(grown != NULL); /* small: bounded by what one turn can produce */
        transfer->backlog = grown;
        transfer->backlog_capacity = capacity;
    }
    transfer->backlog[transfer->backlog_count++] = *event;
}

/* ---- what the transport calls ---- */

static void sink_control(void *arg, uint64_t route, const uint8_t *frame, size_t frame_size,
                         const void *data, size_t data_bytes)
{
    session_control(arg, route, frame, frame_size, data, data_bytes);
}

static enum transfer_reason sink_offer(void *arg, uint64_t route, const uint8_t *frame,
                                       size_t frame_size, size_t length, bool rendezvous,
                                       void **to_out, void **op_out)
{
    return recv_offer(arg, route, frame, frame_size, length, rendezvous, to_out, op_out);
}

static void sink_landed(void *arg, void *op, enum transfer_reason reason)
{
    struct transfer *transfer = arg;
    transfer->now_us = sl_now_us();
    if (((struct transfer_op *)op)->recv == NULL)
        probe_landed(transfer, op, reason);
    else
        recv_completed(transfer, op, reason);
}

static void sink_sent(void *arg, void *op, enum transfer_reason reason)
{
    struct transfer *transfer = arg;
    transfer->now_us = sl_now_us();
    if (((struct transfer_op *)op)->send == NULL)
        probe_sent(transfer, op, reason);
    else
        send_completed(transfer, op, reason);
}

static void sink_lost(void *arg, void *user, const char *why)
{
    peer_lose(arg, user, TRANSFER_LOST, why);
}

static void sink_deaf(void *arg, const char *why)
{
    struct transfer *transfer = arg;
    sl_error_log("transfer_deaf", "why=\"%s\"", why);
    if (transfer->args.deaf != NULL)
        transfer->args.deaf(transfer->args.deaf_arg, why);
}

static void sink_closed(void *arg, void *user)
{
    (void)arg;
    session_closed(user);
}

/* ---- a turn ---- */

static void free_command(struct command *command)
{
    if (command->type == COMMAND_SEND_OPEN || command->type == COMMAND_RECV_EXPECT)
        sl_free(command->open.peer.address);
}

static bool run_commands(struct transfer *transfer)
{
    struct command command;
    uint32_t n = 0;
    while (n < COMMANDS_A_TURN && transfer->backlog_count == 0 &&
           sl_ring_pop(transfer->commands, &command)) {
        if (command.type <= COMMAND_SEND_CANCEL)
            send_command(transfer, &command);
        else
            recv_command(transfer, &command);
        free_command(&command);
        n++;
    }
    return n > 0;
}

static void update_gauges(struct transfer *transfer)
{
    uint32_t draining = 0, landing = 0;
    for (struct peer *peer = transfer->peers; peer != NULL; peer = peer->next) {
        for (struct send_stream *stream = peer->sends; stream != NULL; stream = stream->next)
            draining += stream->source.state == SOURCE_FAILING;
        for (struct recv_stream *stream = peer->receives; stream != NULL; stream = stream->next) {
            draining += stream->destination.state == DESTINATION_DRAINING;
            landing += stream->destination.state == DESTINATION_LANDING ||
                       stream->destination.state == DESTINATION_HELD;
        }
    }
    meter_gauge(transfer->meter, METER_SENDING, transfer->n_sends);
    meter_gauge(transfer->meter, METER_PARKED, transfer->n_parked);
    meter_gauge(transfer->meter, METER_LANDING, landing);
    meter_gauge(transfer->meter, METER_DRAINING, draining);
}

static void sweep(struct transfer *transfer, bool now)
{
    if (!now && transfer->now_us - transfer->swept_us < SWEEP_US)
        return;
    transfer->swept_us = transfer->now_us;
    session_sweep(transfer);
    recv_sweep_tombstones(transfer);
    update_gauges(transfer);
    meter_refresh(transfer->meter, transfer->now_us);
}

static bool turn(struct transfer *transfer)
{
    transfer->now_us = sl_now_us();
    flush_backlog(transfer);
    bool commands = run_commands(transfer);
    bool moved = commands;
    if (transfer->backlog_count == 0)
        moved |= transfer->transport->ops->progress(transfer->transport);
    transfer->now_us = sl_now_us();
    sweep(transfer, commands || transfer->args.manual);
    send_reap(transfer);
    recv_reap(transfer);
    if (transfer->notify_wanted) {
        transfer->notify_wanted = false;
        moved = true;
        if (transfer->args.notify != NULL)
            transfer->args.notify(transfer->args.notify_arg);
    }
    return moved;
}

/* ---- the thread ---- */

static int sleep_ms(struct transfer *transfer)
{
    uint64_t due = transfer->transport->ops->due_us(transfer->transport);
    bool busy = transfer->n_sends + transfer->n_receives > 0 || transfer->backlog_count > 0;
    for (struct peer *peer = transfer->peers; peer != NULL; peer = peer->next)
        busy |= peer->session == SESSION_CONNECTING || peer->answer_wanted;
    uint64_t most = busy ? SWEEP_US : IDLE_US;
    if (most > transfer->args.limits.beat_us / 4)
        most = transfer->args.limits.beat_us / 4;
    if (due < most)
        most = due;
    return (int)((most + SL_MS_US - 1) / SL_MS_US);
}

static void sleep_until_something(struct transfer *transfer)
{
    atomic_store(&transfer->sleeping, true); /* before the last look at the ring: no lost wake */
    if (sl_ring_count(transfer->commands) == 0 &&
        transfer->transport->ops->arm(transfer->transport)) {
        struct epoll_event events[2];
        (void)epoll_wait(transfer->epoll, events, 2, sleep_ms(transfer));
    }
    atomic_store(&transfer->sleeping, false);
    sl_wake_clear(&transfer->wake);
}

static int make_epoll(struct transfer *transfer)
{
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    if (epoll < 0)
        return -1;
    struct epoll_event event = {.events = EPOLLIN};
    int fd = transfer->transport->ops->fd(transfer->transport);
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, transfer->wake.fd, &event) != 0 ||
        (fd >= 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0)) {
        close(epoll);
        return -1;
    }
    return epoll;
}

static void run(void *arg)
{
    struct transfer *transfer = arg;
    uint64_t moved_us = sl_real_us();
    while (!atomic_load_explicit(&transfer->stop, memory_order_acquire)) {
        if (turn(transfer)) {
            moved_us = sl_real_us();
        } else if (sl_real_us() - moved_us < SPIN_US) {
            sched_yield();
        } else {
            sleep_until_something(transfer);
        }
    }
}

/* ---- create, destroy ---- */

static sl_status check_args(const struct transfer_args *args)
{
    size_t n = args->node_id == NULL ? 0 : strlen(args->node_id);
    if (n == 0 || n >= FRAME_NODE_ID_BYTES)
        return sl_fail(SL_INVALID, "transfer: node id of %zu bytes; want 1..15", n);
    if (args->incarnation == 0 || args->block_tokens == 0)
        return sl_fail(SL_INVALID, "transfer: incarnation and block tokens must not be 0");
    const struct transfer_limits *limits = &args->limits;
    if (limits->offers_per_lane == 0 || limits->offers_per_session == 0 ||
        limits->offers_per_lane > UINT16_MAX || limits->offers_per_session > UINT16_MAX ||
        limits->bytes_per_session == 0 || limits->streams_max == 0 || limits->beat_us == 0 ||
        limits->reconnect_min_us == 0)
        return sl_fail(SL_INVALID, "transfer: limits of zero, or offers beyond 65535");
    return SL_OK;
}

static sl_status check_class(const struct transfer_args *args, uint32_t c)
{
    const struct transfer_class *class = &args->classes[c];
    size_t bytes = class->n_layers * class->layer_bytes;
    if (class->pool == NULL || class->n_blocks == 0 || class->pool->bytes / bytes < class->n_blocks)
        return sl_fail(SL_INVALID, "KV class %u: %u blocks of %zu bytes do not fit the pool", c,
                       class->n_blocks, bytes);
    if (args->verify && device_kind(class->pool->device) == DEVICE_CUDA)
        return sl_fail(SL_UNSUPPORTED, "digests of memory that the host cannot read");
    return SL_OK;
}

static sl_status create_transport(struct transfer *transfer)
{
    struct transport_args args = {
        .sink = {.arg = transfer,
                 .control = sink_control,
                 .offer = sink_offer,
                 .landed = sink_landed,
                 .sent = sink_sent,
                 .lost = sink_lost,
                 .closed = sink_closed,
                 .deaf = sink_deaf},
        .transfer = &transfer->args,
    };
    const char *name = transfer->args.transport == NULL ? "ucx" : transfer->args.transport;
    if (strcmp(name, "ucx") == 0) {
#ifdef SLUICE_NO_UCX
        return sl_fail(SL_UNSUPPORTED, "transport ucx: not in builds for the thread sanitizer");
#else
        return transport_ucx_create(&args, &transfer->transport);
#endif
    }
    if (strcmp(name, "loop") == 0)
        return transport_loop_create(&args, &transfer->transport);
    return sl_fail(SL_UNSUPPORTED, "transport \"%s\"; want ucx or loop", name);
}

static sl_status start(struct transfer *transfer)
{
    if (transfer->args.manual)
        return SL_OK;
    transfer->epoll = make_epoll(transfer);
    if (transfer->epoll < 0)
        return sl_fail(SL_DEVICE, "transfer: epoll: %s", strerror(errno));
    return sl_thread_start(&transfer->thread, "transfer", run, transfer);
}

sl_status transfer_create(const struct transfer_args *args, struct transfer **transfer_out)
{
    sl_status status = check_args(args);
    if (status != SL_OK)
        return status;
    struct transfer *transfer = sl_zalloc(1, sizeof(*transfer));
    transfer->epoll = -1;
    transfer->args = *args;
    memcpy(transfer->node_id, args->node_id, strlen(args->node_id));
    transfer->args.node_id = transfer->node_id;
    status = shape_init(&transfer->shape, args->classes, args->n_classes, args->layers_per_piece);
    for (uint32_t c = 0; status == SL_OK && c < args->n_classes; c++) {
        status = check_class(args, c);
        transfer->pools[c] = status == SL_OK ? *args->classes[c].pool : transfer->pools[c];
        transfer->args.classes[c].pool = &transfer->pools[c];
    }
    if (status == SL_OK)
        status = sl_ring_create(TRANSFER_COMMANDS_MAX, sizeof(struct command), &transfer->commands);
    if (status == SL_OK)
        status =
            sl_ring_create(TRANSFER_EVENTS_MAX, sizeof(struct transfer_event), &transfer->events);
    if (status == SL_OK)
        status = sl_wake_init(&transfer->wake);
    if (status != SL_OK)
        goto fail;
    transfer->tombstones = sl_try_zalloc(TOMBSTONES_MAX, sizeof(*transfer->tombstones));
    if (transfer->tombstones == NULL) {
        status = sl_fail(SL_NO_MEMORY, "transfer: tombstones");
        goto fail;
    }
    status = probe_init(transfer);
    if (status == SL_OK)
        status = create_transport(transfer);
    if (status != SL_OK)
        goto fail;
    transfer->meter =
        meter_create(args->metrics, transfer->node_id, transfer->transport->ops->name);
    status = start(transfer);
    if (status != SL_OK)
        goto fail;
    *transfer_out = transfer;
    return SL_OK;
fail:
    transfer_destroy(transfer);
    return status;
}

static bool callbacks_are_due(const struct transfer *transfer)
{
    for (const struct peer *peer = transfer->peers; peer != NULL; peer = peer->next) {
        if (peer->session == SESSION_CLOSING)
            return true;
    }
    return false;
}

/* Ends every session and waits for what the transport still owes. */
static void close_sessions(struct transfer *transfer)
{
    transfer->now_us = sl_now_us();
    for (struct peer *peer = transfer->peers; peer != NULL; peer = peer->next)
        peer_lose(transfer, peer, TRANSFER_DRAINING, "this node stops");
    uint64_t begun = sl_real_us();
    while (callbacks_are_due(transfer) && sl_real_us() - begun < CLOSE_WAIT_US) {
        if (!transfer->transport->ops->progress(transfer->transport))
            sl_sleep_us(20);
    }
    if (callbacks_are_due(transfer))
        sl_warn("transfer_close_incomplete", "");
}

static void free_streams(struct transfer *transfer)
{
    for (struct peer *peer = transfer->peers; peer != NULL; peer = peer->next) {
        for (struct send_stream *stream = peer->sends, *next; stream != NULL; stream = next) {
            next = stream->next;
            stream->hash_next = transfer->dead_sends;
            transfer->dead_sends = stream;
        }
        for (struct recv_stream *stream = peer->receives, *next; stream != NULL; stream = next) {
            next = stream->next;
            stream->hash_next = transfer->dead_receives;
            transfer->dead_receives = stream;
        }
    }
    send_reap(transfer);
    recv_reap(transfer);
}

static void free_slabs(struct transfer *transfer)
{
    while (transfer->op_slabs != NULL) {
        struct transfer_op_slab *slab = transfer->op_slabs;
        transfer->op_slabs = slab->next;
        sl_free(slab);
    }
}

void transfer_destroy(struct transfer *transfer)
{
    if (transfer == NULL)
        return;
    atomic_store_explicit(&transfer->stop, true, memory_order_release);
    if (transfer->thread.started) {
        sl_wake_signal(&transfer->wake);
        sl_thread_join(&transfer->thread);
    }
    if (transfer->epoll >= 0)
        close(transfer->epoll);
    if (transfer->transport != NULL) {
        close_sessions(transfer);
        transfer->transport->ops->destroy(transfer->transport);
    }
    free_streams(transfer);
    session_destroy_all(transfer);
    struct command command;
    while (transfer->commands != NULL && sl_ring_pop(transfer->commands, &command))
        free_command(&command);
    sl_ring_destroy(transfer->commands);
    sl_ring_destroy(transfer->events);
    sl_wake_fini(&transfer->wake);
    meter_destroy(transfer->meter);
    free_slabs(transfer);
    probe_fini(transfer);
    sl_free(transfer->backlog);
    sl_free(transfer->tombstones);
    sl_free(transfer);
}

/* ---- any thread ---- */

void transfer_address(const struct transfer *transfer, const void **address_out, size_t *bytes_out)
{
    transfer->transport->ops->address(transfer->transport, address_out, bytes_out);
}

const char *transfer_transport(const struct transfer *transfer)
{
    return transfer->transport->ops->name;
}

void transfer_set_step(struct transfer *transfer, uint64_t step)
{
    atomic_store_explicit(&transfer->step, step, memory_order_relaxed);
}

uint32_t transfer_totals_read(struct transfer *transfer, struct transfer_totals *totals_out,
                              uint32_t max)
{
    return meter_totals(transfer->meter, totals_out, max);
}

/* ---- the scheduler's side ---- */

static sl_status push_command(struct transfer *transfer, const struct command *command)
{
    if (!sl_ring_push(transfer->commands, command))
        return sl_fail(SL_AGAIN, "the transfer thread has %d commands before it",
                       TRANSFER_COMMANDS_MAX);
    /* A read-modify-write, so that the push is seen before this looks: no lost wake. */
    if (atomic_exchange(&transfer->sleeping, false))
        sl_wake_signal(&transfer->wake);
    return SL_OK;
}

/* Checks a peer of the coordinator's and copies it into a command, which then owns the address. */
static sl_status copy_peer(const struct transfer_peer *peer, struct command_peer *copy_out)
{
    size_t n = peer->node_id == NULL ? 0 : strlen(peer->node_id);
    if (n == 0 || n >= FRAME_NODE_ID_BYTES)
        return sl_fail(SL_INVALID, "peer's node id of %zu bytes; want 1..15", n);
    if (peer->incarnation == 0)
        return sl_fail(SL_INVALID, "peer %s of incarnation 0", peer->node_id);
    if (peer->address_bytes == 0 || peer->address_bytes > TRANSFER_ADDRESS_BYTES_MAX)
        return sl_fail(SL_INVALID, "peer %s: address of %zu bytes; want 1..%d", peer->node_id,
                       peer->address_bytes, TRANSFER_ADDRESS_BYTES_MAX);
    *copy_out = (struct command_peer){.incarnation = peer->incarnation,
                                      .address = sl_zalloc(1, peer->address_bytes),
                                      .address_bytes = peer->address_bytes};
    memcpy(copy_out->node_id, peer->node_id, n);
    memcpy(copy_out->address, peer->address, peer->address_bytes);
    return SL_OK;
}

static sl_status check_stream(const struct transfer *transfer, uint64_t key, uint32_t n_blocks,
                              uint32_t n_tokens, const uint32_t *first_block)
{
    if (key == 0)
        return sl_fail(SL_INVALID, "stream key 0");
    uint32_t tokens = transfer->args.block_tokens;
    if (n_tokens == 0 || n_blocks > TRANSFER_STREAM_BLOCKS_MAX ||
        (n_tokens - 1) / tokens + 1 != n_blocks)
        return sl_fail(SL_INVALID, "stream of %u blocks for %u tokens of %u a block; at most %d",
                       n_blocks, n_tokens, tokens, TRANSFER_STREAM_BLOCKS_MAX);
    for (uint32_t c = 0; c < transfer->args.n_classes; c++) {
        if (first_block[c] > n_blocks)
            return sl_fail(SL_INVALID, "stream of %u blocks sends class %u from block %u on",
                           n_blocks, c, first_block[c]);
    }
    return SL_OK;
}

static sl_status push_open(struct transfer *transfer, struct command *command)
{
    sl_status status = push_command(transfer, command);
    if (status != SL_OK)
        free_command(command);
    return status;
}

sl_status transfer_send_open(struct transfer *transfer, const struct transfer_send_args *args)
{
    sl_status status =
        check_stream(transfer, args->key, args->n_blocks, args->n_tokens, args->first_block);
    if (status != SL_OK)
        return status;
    struct command command = {.type = COMMAND_SEND_OPEN, .key = args->key};
    status = copy_peer(&args->peer, &command.open.peer);
    if (status != SL_OK)
        return status;
    command.open.attempt = args->attempt;
    command.open.n_blocks = args->n_blocks;
    command.open.n_tokens = args->n_tokens;
    memcpy(command.open.first_block, args->first_block, sizeof(args->first_block));
    memcpy(command.open.blocks, args->blocks, sizeof(args->blocks));
    memcpy(command.open.prefix_hash, args->prefix_hash, sizeof(args->prefix_hash));
    return push_open(transfer, &command);
}

sl_status transfer_send_ready(struct transfer *transfer, uint64_t key, uint32_t first_block,
                              uint32_t end_block, const uint32_t *layer_ends)
{
    struct command command = {.type = COMMAND_SEND_READY,
                              .key = key,
                              .ready = {.first_block = first_block, .end_block = end_block}};
    memcpy(command.ready.layer_ends, layer_ends, transfer->args.n_classes * sizeof(*layer_ends));
    return push_command(transfer, &command);
}

sl_status transfer_send_token(struct transfer *transfer, uint64_t key,
                              const struct transfer_token *token)
{
    if (token->note.n_bytes > TRANSFER_NOTE_BYTES_MAX)
        return sl_fail(SL_INVALID, "note of %u bytes with a token; at most %u", token->note.n_bytes,
                       TRANSFER_NOTE_BYTES_MAX);
    struct command command = {.type = COMMAND_SEND_TOKEN, .key = key, .token = *token};
    return push_command(transfer, &command);
}

static sl_status push_cancel(struct transfer *transfer, enum command_type type, uint64_t key,
                             enum transfer_reason reason)
{
    if (reason == 0 || (unsigned)reason >= TRANSFER_REASON_COUNT)
        return sl_fail(SL_INVALID, "cancel for reason %u", (unsigned)reason);
    struct command command = {.type = type, .key = key, .reason = reason};
    return push_command(transfer, &command);
}

sl_status transfer_send_cancel(struct transfer *transfer, uint64_t key, enum transfer_reason reason)
{
    return push_cancel(transfer, COMMAND_SEND_CANCEL, key, reason);
}

sl_status transfer_recv_expect(struct transfer *transfer, const struct transfer_recv_args *args)
{
    sl_status status =
        check_stream(transfer, args->key, args->n_blocks, args->n_tokens, args->first_block);
    if (status != SL_OK)
        return status;
    struct command command = {.type = COMMAND_RECV_EXPECT, .key = args->key};
    status = copy_peer(&args->peer, &command.open.peer);
    if (status != SL_OK)
        return status;
    command.open.attempt = args->attempt;
    command.open.n_blocks = args->n_blocks;
    command.open.n_tokens = args->n_tokens;
    memcpy(command.open.first_block, args->first_block, sizeof(args->first_block));
    memcpy(command.open.prefix_hash, args->prefix_hash, sizeof(args->prefix_hash));
    return push_open(transfer, &command);
}

/* Checks blocks of the scheduler's and copies them into a command. */
static sl_status copy_blocks(const struct transfer *transfer, const struct transfer_block *blocks,
                             uint32_t n_blocks, struct command *command)
{
    if (n_blocks > TRANSFER_RING_BLOCKS_MAX)
        return sl_fail(SL_INVALID, "%u block ids at once; at most %d", n_blocks,
                       TRANSFER_RING_BLOCKS_MAX);
    for (uint32_t i = 0; i < n_blocks; i++) {
        uint32_t c = blocks[i].class_index;
        if (c >= transfer->args.n_classes)
            return sl_fail(SL_INVALID, "block of class %u of %u", c, transfer->args.n_classes);
        if (blocks[i].id >= transfer->args.classes[c].n_blocks)
            return sl_fail(SL_INVALID, "block id %u of %u", blocks[i].id,
                           transfer->args.classes[c].n_blocks);
        command->blocks.list[i] = blocks[i];
    }
    command->blocks.n = n_blocks;
    return SL_OK;
}

sl_status transfer_recv_admit(struct transfer *transfer, uint64_t key, const uint32_t *first_blocks,
                              const struct transfer_block *blocks, uint32_t n_blocks)
{
    struct command command = {.type = COMMAND_RECV_ADMIT, .key = key};
    sl_status status = copy_blocks(transfer, blocks, n_blocks, &command);
    if (status != SL_OK)
        return status;
    memcpy(command.blocks.first_blocks, first_blocks,
           transfer->args.n_classes * sizeof(*first_blocks));
    return push_command(transfer, &command);
}

sl_status transfer_recv_refill(struct transfer *transfer, uint64_t key,
                               const struct transfer_block *blocks, uint32_t n_blocks)
{
    struct command command = {.type = COMMAND_RECV_REFILL, .key = key};
    sl_status status = copy_blocks(transfer, blocks, n_blocks, &command);
    return status == SL_OK ? push_command(transfer, &command) : status;
}

sl_status transfer_recv_cancel(struct transfer *transfer, uint64_t key, enum transfer_reason reason)
{
    return push_cancel(transfer, COMMAND_RECV_CANCEL, key, reason);
}

bool transfer_poll(struct transfer *transfer, struct transfer_event *event_out)
{
    return sl_ring_pop(transfer->events, event_out);
}

bool transfer_progress(struct transfer *transfer)
{
    SL_ASSERT(transfer->args.manual);
    return turn(transfer);
}

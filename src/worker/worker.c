/* The scheduler's loop, and the ways in and out of it.
 *
 *   tick:  inbox ─► engine events ─► transfer events ─► timers ─► admission ─► next step
 *          ─► outbox, cache events ─► snapshot
 *
 * The next step is submitted before the outbox is packed, so the engine computes while this thread
 * talks. Everything that others see (heartbeats, metrics, /health) is a snapshot that is published
 * each turn; nothing here waits for anybody. The thread sleeps only on its wake-up, which the engine,
 * the transfer layer and the control thread signal; deadlines are looked at every SCAN_US.
 *
 * The coordinator lost: a source's sends go on for a grace period, since a destination that it still has
 * may be at their end. Then, or when the coordinator is back, everything is dropped: with the stream it
 * took this node's requests as gone, and placed them anew; what is computed for the old placements
 * would only stand in the way of the new ones. */
#include "worker/worker.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "proto/check.h"
#include "worker/parts.h"

#include <string.h>

#define SCAN_US       (10 * SL_MS_US)
#define SLEEP_BUSY_US (10 * SL_MS_US)
#define SLEEP_IDLE_US (100 * SL_MS_US)
#define CHANGED_US    (50 * SL_MS_US)
#define SAMPLES_RING  (2 * RPC_SAMPLES_MAX)

/* A step always has room for some prompt, however many sequences decode. */
uint32_t worker_rows_max(uint32_t chunk_tokens, uint32_t seqs_max)
{
    return chunk_tokens + seqs_max;
}

void worker_limits_default(struct worker_limits *limits)
{
    *limits = (struct worker_limits){
        .hold_us = 15 * SL_SECOND_US,
        .stream_us = 105 * SL_SECOND_US,
        .coordinator_us = 10 * SL_SECOND_US,
        .admission_us = 10 * SL_SECOND_US,
        .assembly_us = 10 * SL_SECOND_US,
        .growth_blocks = 2,
        .held_percent = 40,
        .streams_per_request = 8,
    };
}

static sl_status allocate(struct worker *worker)
{
    uint32_t n_blocks = worker->info->n_blocks[0];
    worker->snapshot_hashes = sl_try_zalloc(n_blocks, sizeof(*worker->snapshot_hashes));
    worker->runs = sl_try_zalloc(WORKER_OUTBOX_RUNS, sizeof(*worker->runs));
    worker->run_list = sl_try_zalloc(WORKER_OUTBOX_RUNS, sizeof(Sluice__TokenRun *));
    worker->finished = sl_try_zalloc(WORKER_OUTBOX_RUNS, sizeof(*worker->finished));
    worker->events = sl_try_zalloc(WORKER_REPLY_EVENTS, sizeof(*worker->events));
    worker->event_messages = sl_try_zalloc(WORKER_REPLY_EVENTS, sizeof(*worker->event_messages));
    worker->event_list = sl_try_zalloc(WORKER_REPLY_EVENTS, sizeof(Sluice__CacheEvent *));
    worker->scores = sl_try_zalloc(WORKER_SCORES_PART, sizeof(*worker->scores));
    worker->score_list = sl_try_zalloc(WORKER_SCORES_PART, sizeof(Sluice__Logprob *));
    if (worker->snapshot_hashes == NULL || worker->runs == NULL || worker->run_list == NULL ||
        worker->finished == NULL || worker->events == NULL || worker->event_messages == NULL ||
        worker->event_list == NULL || worker->scores == NULL || worker->score_list == NULL)
        return sl_fail(SL_NO_MEMORY, "worker: arrays for %u blocks", n_blocks);
    for (uint32_t i = 0; i < WORKER_REPLY_EVENTS; i++) {
        sluice__cache_event__init(&worker->event_messages[i]);
        worker->event_list[i] = &worker->event_messages[i];
    }
    for (uint32_t i = 0; i < WORKER_SCORES_PART; i++)
        worker->score_list[i] = &worker->scores[i];
    return SL_OK;
}

static sl_status create_class(struct worker *worker, uint32_t c)
{
    const struct kv_geometry *geometry = &worker->info->geometry;
    uint32_t n_blocks = worker->info->n_blocks[c];
    sl_status status = kv_pool_create(n_blocks, geometry->classes[c].window > 0, &worker->pools[c]);
    if (status == SL_OK)
        status = kv_prefix_cache_create(worker->pools[c], n_blocks, worker->caches[0],
                                        &worker->caches[c]);
    if (status != SL_OK)
        return status;
    uint32_t n_hits = kv_blocks_of(geometry, worker->info->context_max);
    worker->hits[c] = sl_try_zalloc(n_hits, sizeof(*worker->hits[c]));
    worker->landing_position[c] = sl_try_zalloc(n_blocks, sizeof(*worker->landing_position[c]));
    if (worker->hits[c] == NULL || worker->landing_position[c] == NULL)
        return sl_fail(SL_NO_MEMORY, "worker: arrays for %u blocks", n_blocks);
    return SL_OK;
}

static sl_status create_parts(struct worker *worker)
{
    sl_status status = SL_OK;
    for (uint32_t c = 0; c < worker->n_classes && status == SL_OK; c++)
        status = create_class(worker, c);
    if (status == SL_OK)
        status = worker_map_create(WORKER_REQUESTS_MAX, &worker->by_id);
    if (status == SL_OK)
        status = worker_map_create(2 * WORKER_REQUESTS_MAX, &worker->by_key);
    if (status == SL_OK)
        status = sl_ring_create(WORKER_INBOX_MAX, sizeof(struct inbox_item), &worker->inbox);
    if (status == SL_OK)
        status = sl_ring_create(SAMPLES_RING, sizeof(struct worker_sample), &worker->samples);
    return status == SL_OK ? allocate(worker) : status;
}

static void add_counts(const struct kv_pool *pool, struct kv_pool_counts *sum)
{
    struct kv_pool_counts counts;
    kv_pool_count(pool, &counts);
    sum->total += counts.total;
    sum->free += counts.free;
    sum->cached += counts.cached;
    sum->used += counts.used;
    sum->landing += counts.landing;
    sum->quarantined += counts.quarantined;
    sum->promised += counts.promised;
}

static void publish(struct worker *worker)
{
    struct worker_snapshot *now = &worker->now;
    kv_pool_count(worker->pools[0], &now->blocks);
    now->window_blocks = (struct kv_pool_counts){0};
    for (uint32_t c = 1; c < worker->n_classes; c++)
        add_counts(worker->pools[c], &now->window_blocks);
    now->requests = worker->n_requests;
    now->running = worker->lists[REQUEST_ACTIVE].n;
    now->waiting = worker->lists[REQUEST_WAITING].n + worker->lists[REQUEST_ASSEMBLING].n;
    now->landing = worker->lists[REQUEST_LANDING].n;
    now->held = worker->lists[REQUEST_HELD].n;
    now->draining = atomic_load(&worker->draining);
    worker_metrics_gauges(worker);
    pthread_mutex_lock(&worker->published_lock);
    worker->published = *now;
    pthread_mutex_unlock(&worker->published_lock);
}

static bool same_load(const struct worker_snapshot *a, const struct worker_snapshot *b)
{
    return memcmp(&a->blocks, &b->blocks, sizeof(a->blocks)) == 0 && a->running == b->running &&
           a->waiting == b->waiting && a->landing == b->landing && a->held == b->held;
}

/* Asks for a heartbeat when there is something new to say. */
static void announce(struct worker *worker)
{
    uint64_t now = sl_now_us();
    if (worker->args.changed == NULL || now - worker->changed_us < CHANGED_US ||
        same_load(&worker->now, &worker->announced))
        return;
    worker->changed_us = now;
    worker->announced = worker->now;
    worker->args.changed(worker->args.changed_arg);
}

sl_status worker_create(const struct worker_args *args, struct worker **worker_out)
{
    const struct model_info *info = model_engine_info(args->engine);
    if (args->chunk_tokens == 0 || args->seqs_max == 0 || args->seqs_max > MODEL_SEQS_MAX)
        return sl_fail(SL_INVALID,
                       "worker: chunks of %u, %u sequences; want at least one of each, at most %u "
                       "sequences",
                       args->chunk_tokens, args->seqs_max, MODEL_SEQS_MAX);
    struct worker *worker = sl_try_zalloc(1, sizeof(*worker));
    if (worker == NULL)
        return sl_fail(SL_NO_MEMORY, "worker");
    worker->args = *args;
    worker->info = info;
    worker->block_tokens = info->geometry.block_tokens;
    worker->n_classes = info->geometry.n_classes;
    worker->next_order = 1;
    pthread_mutex_init(&worker->published_lock, NULL);
    sl_status status = create_parts(worker);
    if (status != SL_OK) {
        worker_destroy(worker);
        return status;
    }
    worker_metrics_init(worker);
    publish(worker);
    *worker_out = worker;
    return SL_OK;
}

void worker_destroy(struct worker *worker)
{
    if (worker == NULL)
        return;
    request_discard_all(worker);
    struct inbox_item item;
    while (worker->inbox != NULL && sl_ring_pop(worker->inbox, &item))
        if (item.message != NULL)
            rpc_coordinator_message_free(item.message);
    sl_ring_destroy(worker->inbox);
    sl_ring_destroy(worker->samples);
    worker_map_destroy(worker->by_id);
    worker_map_destroy(worker->by_key);
    for (uint32_t c = worker->n_classes; c-- > 0;) {
        kv_prefix_cache_destroy(worker->caches[c]);
        kv_pool_destroy(worker->pools[c]);
        sl_free(worker->hits[c]);
        sl_free(worker->landing_position[c]);
    }
    sl_free(worker->snapshot_hashes);
    sl_free(worker->runs);
    sl_free(worker->run_list);
    sl_free(worker->finished);
    sl_free(worker->events);
    sl_free(worker->event_messages);
    sl_free(worker->event_list);
    sl_free(worker->scores);
    sl_free(worker->score_list);
    pthread_mutex_destroy(&worker->published_lock);
    sl_free(worker);
}

static void drop_all(struct worker *worker, Sluice__Reason reason, const char *text)
{
    uint32_t n = 0;
    for (uint32_t state = 0; state < REQUEST_ENDING; state++)
        while (worker->lists[state].head != NULL) {
            struct worker_request *request = worker->lists[state].head;
            report_finished(worker, request, SLUICE__FINISH__FINISH_ERROR, reason, text);
            request_end(worker, request, TRANSFER_CANCELLED);
            n++;
        }
    if (n > 0)
        sl_warn("requests_dropped", "n=%u why=\"%s\"", n, text);
}

static enum transfer_reason reason_of(Sluice__Reason reason)
{
    if ((uint32_t)reason >= 1 && (uint32_t)reason < TRANSFER_REASON_COUNT)
        return (enum transfer_reason)reason;
    return TRANSFER_CANCELLED;
}

/* From an attempt that we do not know, or an older one: nothing. */
static void cancel(struct worker *worker, uint64_t id, uint32_t attempt, Sluice__Reason reason)
{
    struct worker_request *request = worker_map_get(worker->by_id, id);
    if (request == NULL || request->attempt > attempt)
        return;
    report_finished(worker, request, SLUICE__FINISH__FINISH_CANCELLED, reason, "");
    request_end(worker, request, reason_of(reason));
}

static void take_message(struct worker *worker, const Sluice__CoordinatorMessage *message)
{
    switch ((int)message->body_case) {
    case SLUICE__COORDINATOR_MESSAGE__BODY_SUBMIT:
        admission_submit(worker, message->submit);
        break;
    case SLUICE__COORDINATOR_MESSAGE__BODY_SUBMIT_PART:
        admission_part(worker, message->submit_part);
        break;
    case SLUICE__COORDINATOR_MESSAGE__BODY_CANCEL:
        cancel(worker, message->cancel->request, message->cancel->attempt, message->cancel->reason);
        break;
    case SLUICE__COORDINATOR_MESSAGE__BODY_REDIRECT:
        sender_redirect(worker, message->redirect);
        break;
    case SLUICE__COORDINATOR_MESSAGE__BODY_RELEASE:
        cancel(worker, message->release->request, message->release->attempt,
               SLUICE__REASON__REASON_CANCELLED);
        break;
    case SLUICE__COORDINATOR_MESSAGE__BODY_SNAPSHOT_REQUEST:
        report_snapshot(worker);
        break;
    case SLUICE__COORDINATOR_MESSAGE__BODY_DRAIN:
        atomic_store(&worker->draining, true);
        break;
    default:
        break; /* Welcome, Beat, Window: serve's affair */
    }
}

static bool take_inbox(struct worker *worker)
{
    bool some = false;
    struct inbox_item item;
    while (sl_ring_pop(worker->inbox, &item)) {
        some = true;
        switch (item.kind) {
        case INBOX_MESSAGE:
            take_message(worker, item.message);
            rpc_coordinator_message_free(item.message);
            break;
        case INBOX_JOINED:
            worker->lost_us = 0;
            drop_all(worker, SLUICE__REASON__REASON_LOST, "the coordinator has placed it anew");
            break;
        case INBOX_LOST:
            if (worker->lost_us == 0)
                worker->lost_us = sl_now_us();
            break;
        }
    }
    return some;
}

/* Whether nobody takes the held blocks, or takes too long. */
static bool held_too_long(const struct worker *worker, const struct worker_request *request,
                          uint64_t now)
{
    uint64_t until = request->hold_us;
    for (const struct worker_stream *s = request->streams; s != NULL; s = s->next)
        if (!s->dead && !s->failed && !s->cancelled)
            until = request->hold_us + worker->args.limits.stream_us;
    return now >= until;
}

/* True when the request went. */
static bool scan_request(struct worker *worker, struct worker_request *request, uint64_t now)
{
    Sluice__Reason late = SLUICE__REASON__REASON_DEADLINE;
    if (request->state == REQUEST_ASSEMBLING &&
        now - request->arrived_us >= worker->args.limits.assembly_us) {
        report_refused(worker, request->id, request->attempt, late,
                       "parts of the submit are missing");
        request_end(worker, request, TRANSFER_DEADLINE);
    } else if (request->state == REQUEST_WAITING && now >= request->admission_us) {
        report_refused(worker, request->id, request->attempt, SLUICE__REASON__REASON_FULL,
                       "no blocks within the admission wait");
        request_end(worker, request, TRANSFER_FULL);
    } else if (now >= request->deadline_us) {
        report_finished(worker, request, SLUICE__FINISH__FINISH_ERROR, late, "deadline");
        request_end(worker, request, TRANSFER_DEADLINE);
    } else if (request->state == REQUEST_HELD && held_too_long(worker, request, now)) {
        report_finished(worker, request, SLUICE__FINISH__FINISH_ERROR, late, "held too long");
        request_end(worker, request, TRANSFER_DEADLINE);
    } else {
        return false;
    }
    return true;
}

/* Prompt tokens that wait or are in work: what the router reckons with. */
static uint64_t queued_tokens(const struct worker *worker)
{
    uint64_t n = 0;
    for (uint32_t state = REQUEST_ASSEMBLING; state <= REQUEST_ACTIVE; state++) {
        if (state == REQUEST_LANDING)
            continue;
        for (const struct worker_request *r = worker->lists[state].head; r != NULL; r = r->next)
            if (r->n_submitted > r->n_computed && !(r->mode == SLUICE__MODE__MODE_DECODE))
                n += r->n_submitted - r->n_computed;
    }
    return n;
}

static bool scan(struct worker *worker)
{
    uint64_t now = sl_now_us();
    if (now - worker->scanned_us < SCAN_US)
        return false;
    worker->scanned_us = now;
    bool some = false;
    for (uint32_t state = 0; state < REQUEST_ENDING; state++) {
        struct worker_request *next;
        for (struct worker_request *r = worker->lists[state].head; r != NULL; r = next) {
            next = r->next;
            some |= scan_request(worker, r, now);
        }
    }
    if (worker->lost_us != 0 && now - worker->lost_us >= worker->args.limits.coordinator_us)
        drop_all(worker, SLUICE__REASON__REASON_LOST, "the coordinator is gone");
    worker->now.queued_tokens = queued_tokens(worker);
    return some;
}

bool worker_tick(struct worker *worker)
{
    bool some = take_inbox(worker);
    if (atomic_exchange(&worker->drop, false))
        drop_all(worker, SLUICE__REASON__REASON_DRAINING, "the node ends");
    some |= step_poll(worker);
    if (worker->commands_blocked)
        stream_flush_all(worker);
    some |= stream_poll(worker);
    some |= scan(worker);
    some |= admission_run(worker);
    some |= step_start(worker);
    report_flush(worker);
    report_events(worker);
    publish(worker);
    announce(worker);
    return some;
}

void worker_run(struct worker *worker, struct serve_pulse *pulse)
{
    while (!atomic_load(&worker->stop)) {
        serve_pulse_beat(pulse, worker->now.steps);
        if (worker_tick(worker))
            continue;
        bool busy = worker->n_requests > 0 || worker->commands_blocked;
        (void)sl_wake_wait(worker->args.wake, busy ? SLEEP_BUSY_US : SLEEP_IDLE_US);
    }
}

void worker_stop(struct worker *worker)
{
    atomic_store(&worker->stop, true);
    sl_wake_signal(worker->args.wake);
}

static bool put(struct worker *worker, const struct inbox_item *item)
{
    bool done = sl_ring_push(worker->inbox, item);
    sl_wake_signal(worker->args.wake);
    return done;
}

void worker_deliver(struct worker *worker, Sluice__CoordinatorMessage *message)
{
    struct inbox_item item = {.kind = INBOX_MESSAGE, .message = message};
    if (put(worker, &item))
        return;
    /* The scheduler hangs; the coordinator will notice by the pulse. */
    sl_error_log("inbox_full", "kind=%d", (int)message->body_case);
    rpc_coordinator_message_free(message);
}

void worker_joined(struct worker *worker)
{
    struct inbox_item item = {.kind = INBOX_JOINED};
    (void)put(worker, &item);
}

void worker_lost(struct worker *worker)
{
    struct inbox_item item = {.kind = INBOX_LOST};
    (void)put(worker, &item);
}

void worker_drain(struct worker *worker)
{
    atomic_store(&worker->draining, true);
    sl_wake_signal(worker->args.wake);
}

bool worker_drained(struct worker *worker)
{
    struct worker_snapshot now;
    worker_snapshot(worker, &now);
    return now.draining && now.requests == 0;
}

void worker_drop_all(struct worker *worker)
{
    atomic_store(&worker->drop, true);
    sl_wake_signal(worker->args.wake);
}

void worker_snapshot(struct worker *worker, struct worker_snapshot *snapshot_out)
{
    pthread_mutex_lock(&worker->published_lock);
    *snapshot_out = worker->published;
    pthread_mutex_unlock(&worker->published_lock);
}

uint32_t worker_samples(struct worker *worker, struct worker_sample *samples_out, uint32_t max)
{
    uint32_t n = 0;
    while (n < max && sl_ring_pop(worker->samples, &samples_out[n]))
        n++;
    return n;
}

/* From a Submit to a promise.
 *
 * A Submit comes from the wire: check.h has looked at its form, here it is held against this node
 * (incarnation, mode, vocabulary, context, pool). What is wrong is refused with its reason; nothing
 * from a peer reaches an assertion.
 *
 * The line is in order of priority, then of arrival, and gone through in every turn. One that finds no room
 * is overtaken by those behind it that do, but only for a part of the time it may wait: then what
 * becomes free is left to it (policy.c). A request that was preempted is not overtaken at all.
 *
 * A request is admitted as a whole: references on the blocks the cache has for it, a promise for all
 * it lacks, and some for growth; of a class with a window, for as many as are held at once (blocks.c).
 * A source takes those of the other classes at once; others take them when tokens come. What is
 * admitted can finish its prompt whatever happens; only growth can fail later, and then the youngest
 * goes back (step.c) to the head of the queue.
 *
 * A destination has its stream expected before it is admitted, so that an `open` that is faster than
 * the promise is known, and the source learns of a refusal from the transfer layer. It counts every
 * full block that it holds, each class for itself: it computes nothing, so the limit of a hit does not
 * apply.
 *
 * A new attempt of a known request ends the old one first: the coordinator says Cancel before, but
 * its message may have been meant for an incarnation that is gone. */
#include "base/clock.h"
#include "base/log.h"
#include "worker/parts.h"

#include <inttypes.h>
#include <stdio.h>

static void refuse(struct worker *worker, const Sluice__Submit *submit, Sluice__Reason reason,
                   const char *text)
{
    report_refused(worker, submit->request, submit->attempt, reason, text);
}

/* A request that no pool state admits is refused at once. */
static Sluice__Reason check_size(const struct worker *worker, const Sluice__Submit *submit,
                                 char *text, size_t bytes)
{
    uint32_t tokens = submit->prompt_tokens + submit->max_tokens - 1;
    if (submit->mode == SLUICE__MODE__MODE_PREFILL)
        tokens = submit->total_tokens;
    for (uint32_t c = 0; c < worker->n_classes; c++) {
        uint32_t n_blocks = blocks_most(worker, c, tokens);
        if (n_blocks <= worker->info->n_blocks[c])
            continue;
        (void)snprintf(text, bytes, "needs %u blocks of KV class %u; its pool has %u", n_blocks, c,
                       worker->info->n_blocks[c]);
        return SLUICE__REASON__REASON_TOO_LARGE;
    }
    return SLUICE__REASON__REASON_NONE;
}

/* SLUICE__REASON__REASON_NONE, or why not, with the sentence in text. */
static Sluice__Reason check_node(struct worker *worker, const Sluice__Submit *submit, char *text,
                                 size_t bytes)
{
    if (submit->incarnation != worker->args.incarnation) {
        (void)snprintf(text, bytes, "meant for incarnation %016" PRIx64 " of this node",
                       submit->incarnation);
        return SLUICE__REASON__REASON_INCARNATION;
    }
    if (atomic_load(&worker->draining)) {
        (void)snprintf(text, bytes, "the node drains");
        return SLUICE__REASON__REASON_DRAINING;
    }
    if (!worker->args.policy->takes(submit->mode)) {
        (void)snprintf(text, bytes, "a %s node does not take mode %d", worker->args.policy->name,
                       (int)submit->mode);
        return SLUICE__REASON__REASON_INVALID;
    }
    return SLUICE__REASON__REASON_NONE;
}

static Sluice__Reason check_numbers(struct worker *worker, const Sluice__Submit *submit, char *text,
                                    size_t bytes)
{
    const struct model_info *info = worker->info;
    uint64_t length = (uint64_t)submit->prompt_tokens + submit->max_tokens;
    if (submit->prompt_tokens == 0 || submit->prompt_tokens > submit->total_tokens ||
        submit->first_index != submit->total_tokens - submit->prompt_tokens ||
        submit->max_tokens <= submit->first_index) {
        (void)snprintf(text, bytes, "prompt %u, total %u, first %u, max %u contradict each other",
                       submit->prompt_tokens, submit->total_tokens, submit->first_index,
                       submit->max_tokens);
        return SLUICE__REASON__REASON_INVALID;
    }
    if (length > info->context_max) {
        (void)snprintf(text, bytes, "%" PRIu64 " tokens; the context is %u", length,
                       info->context_max);
        return SLUICE__REASON__REASON_INVALID;
    }
    if (submit->sampling == NULL ||
        submit->sampling->n_stop_ids + submit->sampling->n_masked_ids > MODEL_STOP_IDS_MAX ||
        submit->sampling->logprobs > MODEL_LOGPROBS_MAX) {
        (void)snprintf(text, bytes, "sampling: want at most %d stop ids and %d logprobs",
                       MODEL_STOP_IDS_MAX, MODEL_LOGPROBS_MAX);
        return SLUICE__REASON__REASON_INVALID;
    }
    return check_size(worker, submit, text, bytes);
}

static bool has_stream(Sluice__Mode mode)
{
    return mode == SLUICE__MODE__MODE_PREFILL || mode == SLUICE__MODE__MODE_DECODE;
}

static Sluice__Reason check_peer(struct worker *worker, const Sluice__Submit *submit, char *text,
                                 size_t bytes)
{
    if (!has_stream(submit->mode))
        return SLUICE__REASON__REASON_NONE;
    const Sluice__Peer *peer = submit->peer;
    if (worker->args.transfer == NULL || peer == NULL || peer->n_ranks == 0 ||
        submit->stream_key == 0) {
        (void)snprintf(text, bytes, "a stream needs a key and a peer with an address");
        return SLUICE__REASON__REASON_INVALID;
    }
    return SLUICE__REASON__REASON_NONE;
}

/* Takes tokens over; false when one is not in the vocabulary or there are too many. */
static bool append(struct worker *worker, struct worker_request *request, const uint32_t *tokens,
                   size_t n)
{
    if (n > request->n_submitted - request->n_tokens)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (tokens[i] >= worker->info->vocab)
            return false;
        request_take_token(request, tokens[i]);
    }
    return true;
}

static void refuse_request(struct worker *worker, struct worker_request *request,
                           Sluice__Reason reason, enum transfer_reason why, const char *text)
{
    report_refused(worker, request->id, request->attempt, reason, text);
    request_end(worker, request, why);
}

/* The last part is here. */
static void assembled(struct worker *worker, struct worker_request *request)
{
    if (request->n_tokens != request->n_submitted) {
        refuse_request(worker, request, SLUICE__REASON__REASON_INVALID, TRANSFER_CANCELLED,
                       "fewer tokens than announced");
        return;
    }
    request_hash(worker, request);
    request_move(worker, request, REQUEST_WAITING);
    if (request->streams != NULL)
        stream_flush(worker, request->streams);
}

static void end_older(struct worker *worker, struct worker_request *old)
{
    sl_debug("request_superseded", "req=%" PRIu64 " attempt=%u", old->id, old->attempt);
    request_end(worker, old, TRANSFER_CANCELLED);
}

/* False: it was refused. */
static bool begin_stream(struct worker *worker, struct worker_request *request,
                         const Sluice__Submit *submit)
{
    if (!has_stream(submit->mode))
        return true;
    sl_status status = stream_add(worker, request, submit->stream_key, submit->attempt,
                                  submit->peer, submit->mode == SLUICE__MODE__MODE_PREFILL);
    if (status == SL_OK)
        return true;
    bool taken = status == SL_INVALID;
    refuse_request(worker, request,
                   taken ? SLUICE__REASON__REASON_MISBEHAVED : SLUICE__REASON__REASON_FULL,
                   taken ? TRANSFER_MISBEHAVED : TRANSFER_FULL, sl_error());
    return false;
}

void admission_submit(struct worker *worker, const Sluice__Submit *submit)
{
    char text[WORKER_TEXT_BYTES];
    struct worker_request *old = worker_map_get(worker->by_id, submit->request);
    if (old != NULL && submit->attempt <= old->attempt)
        return; /* stale or repeated */
    if (old != NULL)
        end_older(worker, old);
    Sluice__Reason reason = check_node(worker, submit, text, sizeof(text));
    if (reason == SLUICE__REASON__REASON_NONE)
        reason = check_numbers(worker, submit, text, sizeof(text));
    if (reason == SLUICE__REASON__REASON_NONE)
        reason = check_peer(worker, submit, text, sizeof(text));
    if (reason != SLUICE__REASON__REASON_NONE) {
        refuse(worker, submit, reason, text);
        return;
    }
    struct worker_request *request = request_create(worker, submit);
    if (request == NULL) {
        refuse(worker, submit, SLUICE__REASON__REASON_FULL, "too many requests, or no memory");
        return;
    }
    if (model_sampling_check(&request->sampling) != SL_OK ||
        model_adjust_check(&request->adjust, worker->info->vocab) != SL_OK) {
        refuse_request(worker, request, SLUICE__REASON__REASON_INVALID, TRANSFER_CANCELLED,
                       sl_error());
        return;
    }
    if (!begin_stream(worker, request, submit))
        return;
    if (!append(worker, request, submit->tokens, submit->n_tokens))
        refuse_request(worker, request, SLUICE__REASON__REASON_INVALID, TRANSFER_CANCELLED,
                       "a token outside the vocabulary, or too many");
    else if (request->parts_max == 0)
        assembled(worker, request);
}

void admission_part(struct worker *worker, const Sluice__SubmitPart *part)
{
    struct worker_request *request = worker_map_get(worker->by_id, part->request);
    if (request == NULL || request->attempt != part->attempt ||
        request->state != REQUEST_ASSEMBLING)
        return; /* refused or cancelled meanwhile */
    if (part->part != request->parts || !append(worker, request, part->tokens, part->n_tokens))
        refuse_request(worker, request, SLUICE__REASON__REASON_INVALID, TRANSFER_CANCELLED,
                       "parts out of order, too long, or a token outside the vocabulary");
    else if (++request->parts == request->parts_max)
        assembled(worker, request);
}

static bool room_for_one(const struct worker *worker, const struct worker_request *request)
{
    const struct worker_args *args = &worker->args;
    uint32_t n_active = worker->lists[REQUEST_ACTIVE].n;
    if (blocks_land(request)) /* most of them wait for their prompt to be computed elsewhere */
        return n_active + worker->lists[REQUEST_LANDING].n < 2 * args->seqs_max;
    if (request->mode == SLUICE__MODE__MODE_PREFILL &&
        (uint64_t)worker->held_blocks * 100 >
            (uint64_t)args->limits.held_percent * worker->info->n_blocks[0])
        return false;
    return n_active < args->seqs_max;
}

static void note_admitted(struct worker *worker, struct worker_request *request)
{
    request->admitted = true;
    request->admission_us = UINT64_MAX;
    request->admitted_us = request->stepped_us = sl_now_us();
    request->order = worker->next_order++;
    request->cached_tokens = request->n_computed;
    sl_metric_add(worker->metrics.queries, request->n_tokens);
    sl_metric_add(worker->metrics.hits, request->n_computed);
    sl_metric_add(worker->metrics.local_hit, request->n_computed);
    sl_metric_observe(worker->metrics.queue_seconds,
                      (double)(request->admitted_us - request->arrived_us) / 1e6);
    report_admitted(worker, request);
}

static void begin(struct worker *worker, struct worker_request *request)
{
    if (!request->admitted)
        note_admitted(worker, request);
    if (blocks_land(request)) {
        request_move(worker, request, REQUEST_LANDING);
        receiver_admit(worker, request);
        return;
    }
    request_move(worker, request, REQUEST_ACTIVE);
    if (request->mode != SLUICE__MODE__MODE_PREFILL)
        return;
    blocks_take_all(worker, request);
    stream_flush_request(worker, request);
}

/* How long it may wait in all; nothing for one that was admitted before. */
static uint64_t wait_us(const struct worker_request *request)
{
    return request->admitted ? 0 : request->admission_us - request->arrived_us;
}

bool admission_run(struct worker *worker)
{
    bool some = false;
    uint64_t now = sl_now_us();
    struct worker_line line = {0};
    struct worker_request *next;
    for (struct worker_request *r = worker->lists[REQUEST_WAITING].head; r != NULL; r = next) {
        next = r->next;
        if (room_for_one(worker, r) && blocks_promise(worker, r)) {
            sl_metric_add(worker->metrics.overtakes, line.n_missed > 0 ? 1 : 0);
            begin(worker, r);
            some = true;
        } else if (!worker_line_passes(&line, now - r->arrived_us, wait_us(r))) {
            break;
        }
    }
    return some;
}

/* Request records: their memory, tokens, hashes and blocks.
 *
 * A record and its arrays live in one allocation and one arena that is sized at Submit for the whole
 * life of the request: nothing grows in a step. The arena goes with the record.
 *
 * The end. request_end() takes the record out of the tables at once, so a new attempt of the same
 * request can start; the record waits in ENDING until no batch and no stream names its blocks.
 * Every path of the world's making ends there, and only request_settle() frees. */
#include "base/clock.h"
#include "base/mem.h"
#include "base/min.h"
#include "worker/parts.h"

#include <string.h>

#define ARENA_CHUNK_BYTES (16u << 10)
#define ARENA_BYTES_MAX   (1u << 30) /* tokens_max is bounded by the model's context */

static void list_remove(struct request_list *list, struct worker_request *request)
{
    if (request->previous != NULL)
        request->previous->next = request->next;
    else
        list->head = request->next;
    if (request->next != NULL)
        request->next->previous = request->previous;
    else
        list->tail = request->previous;
    list->n--;
}

/* next NULL: at the end. */
static void list_insert(struct request_list *list, struct worker_request *request,
                        struct worker_request *next)
{
    request->next = next;
    request->previous = next != NULL ? next->previous : list->tail;
    if (request->previous != NULL)
        request->previous->next = request;
    else
        list->head = request;
    if (next != NULL)
        next->previous = request;
    else
        list->tail = request;
    list->n++;
}

/* Behind its equals: before the first that is less urgent. */
static void list_append(struct request_list *list, struct worker_request *request, bool by_priority)
{
    struct worker_request *last = list->tail, *next = NULL;
    for (; by_priority && last != NULL && last->priority > request->priority; last = last->previous)
        next = last;
    list_insert(list, request, next);
}

static void leave(struct worker *worker, struct worker_request *request)
{
    list_remove(&worker->lists[request->state], request);
    if (request->state == REQUEST_HELD)
        worker->held_blocks -= kv_block_table_held(&request->classes[0].table);
}

void request_move(struct worker *worker, struct worker_request *request, enum request_state state)
{
    leave(worker, request);
    request->state = state;
    if (state == REQUEST_HELD)
        worker->held_blocks += kv_block_table_held(&request->classes[0].table);
    list_append(&worker->lists[state], request, state == REQUEST_WAITING);
}

void request_requeue(struct worker *worker, struct worker_request *request)
{
    struct request_list *list = &worker->lists[REQUEST_WAITING];
    leave(worker, request);
    request->state = REQUEST_WAITING;
    struct worker_request *next = list->head;
    while (next != NULL && next->priority < request->priority)
        next = next->next;
    list_insert(list, request, next);
}

static void destroy(struct worker_request *request)
{
    sl_arena_fini(&request->arena);
    sl_free(request);
}

static bool allocate_class(struct sl_arena *arena, struct request_class *class, uint32_t n_max)
{
    kv_block_id *blocks = sl_arena_try_alloc(arena, n_max, sizeof(*blocks));
    class->shadows = sl_arena_try_alloc(arena, n_max, sizeof(*class->shadows));
    if (blocks == NULL || class->shadows == NULL)
        return false;
    kv_block_table_init(&class->table, blocks, n_max);
    for (uint32_t i = 0; i < n_max; i++)
        class->shadows[i] = KV_BLOCK_NONE;
    return true;
}

static bool allocate(struct worker *worker, struct worker_request *request,
                     const Sluice__Submit *submit)
{
    struct sl_arena *arena = &request->arena;
    uint32_t tokens_max = submit->prompt_tokens + submit->max_tokens;
    if (submit->mode == SLUICE__MODE__MODE_PREFILL)
        tokens_max = submit->total_tokens + 1;
    /* The last token's KV is never needed. */
    uint32_t n_max = kv_blocks_of(&worker->info->geometry, tokens_max - 1);
    request->tokens = sl_arena_try_alloc(arena, tokens_max, sizeof(*request->tokens));
    request->hashes = sl_arena_try_alloc(arena, n_max, sizeof(*request->hashes));
    if (request->tokens == NULL || request->hashes == NULL)
        return false;
    request->tokens_max = tokens_max;
    request->blocks_max = n_max;
    for (uint32_t c = 0; c < worker->n_classes; c++)
        if (!allocate_class(arena, &request->classes[c], n_max))
            return false;
    return true;
}

static void set_sampling(struct worker_request *request, const Sluice__Submit *submit)
{
    const Sluice__Sampling *from = submit->sampling;
    struct model_sampling *to = &request->sampling;
    to->temperature = from->temperature;
    to->top_k = from->top_k;
    to->top_p = from->top_p;
    to->min_p = from->min_p;
    to->seed = from->seed;
    to->n_logprobs = from->logprobs;
    to->min_position = submit->prompt_tokens + from->min_tokens;
    request->prompt_logprobs = from->prompt_logprobs;
    for (size_t i = 0; i < from->n_stop_ids; i++)
        to->stop_ids[to->n_stop_ids++] = from->stop_ids[i];
    request->n_stops = to->n_stop_ids;
    for (size_t i = 0; i < from->n_masked_ids; i++)
        to->stop_ids[to->n_stop_ids++] = from->masked_ids[i];
}

static bool copy_ids(struct sl_arena *arena, const uint32_t *from, size_t n, const uint32_t **to)
{
    uint32_t *copy = sl_arena_try_alloc(arena, n, sizeof(*copy));
    if (copy == NULL)
        return false;
    for (size_t i = 0; i < n; i++)
        copy[i] = from[i];
    *to = copy;
    return true;
}

/* Lists are copied, counts get their room for the whole sequence. False without memory. */
static bool set_adjust(struct worker *worker, struct worker_request *request,
                       const Sluice__Submit *submit)
{
    const Sluice__Sampling *from = submit->sampling;
    struct sl_arena *arena = &request->arena;
    struct model_adjust *to = &request->adjust;
    to->repetition = from->repetition_penalty;
    to->presence = from->presence_penalty;
    to->frequency = from->frequency_penalty;
    to->n_biases = (uint32_t)from->n_bias_ids;
    to->n_words = (uint32_t)from->n_word_lengths;
    to->n_prompt = submit->prompt_tokens;
    to->tokens = request->tokens;
    if (model_adjust_is_neutral(to))
        return true;
    float *biases = sl_arena_try_alloc(arena, from->n_biases, sizeof(*biases));
    if (biases == NULL)
        return false;
    for (size_t i = 0; i < from->n_biases; i++)
        biases[i] = from->biases[i];
    to->biases = biases;
    uint32_t n_counts, n_slots;
    model_adjust_room(to, request->tokens_max, worker->info->vocab, &n_counts, &n_slots);
    struct model_count *counts = sl_arena_try_alloc(arena, n_counts, sizeof(*counts));
    uint32_t *slots = sl_arena_try_alloc(arena, n_slots, sizeof(*slots));
    if (counts == NULL || slots == NULL ||
        !copy_ids(arena, from->bias_ids, from->n_bias_ids, &to->bias_ids) ||
        !copy_ids(arena, from->word_lengths, from->n_word_lengths, &to->word_lengths) ||
        !copy_ids(arena, from->word_ids, from->n_word_ids, &to->word_ids))
        return false;
    model_adjust_init(to, counts, n_counts, slots, n_slots);
    request->sampling.adjust = to;
    return true;
}

static uint64_t instant(uint64_t now, uint64_t duration)
{
    return duration > UINT64_MAX - now ? UINT64_MAX : now + duration;
}

static void set_times(struct worker *worker, struct worker_request *request,
                      const Sluice__Submit *submit)
{
    const struct worker_limits *limits = &worker->args.limits;
    uint64_t now = sl_now_us();
    uint64_t wait = submit->admission_us;
    if (wait == 0 || wait > limits->admission_us)
        wait = limits->admission_us;
    request->arrived_us = request->stepped_us = now;
    request->deadline_us =
        submit->deadline_us == 0 ? UINT64_MAX : instant(now, submit->deadline_us);
    request->admission_us = instant(now, wait);
    request->hold_us = UINT64_MAX;
}

struct worker_request *request_create(struct worker *worker, const Sluice__Submit *submit)
{
    if (worker->n_requests == WORKER_REQUESTS_MAX)
        return NULL;
    struct worker_request *request = sl_try_zalloc(1, sizeof(*request));
    if (request == NULL)
        return NULL;
    sl_arena_init(&request->arena, ARENA_CHUNK_BYTES, ARENA_BYTES_MAX);
    if (!allocate(worker, request, submit) || !set_adjust(worker, request, submit) ||
        !worker_map_put(worker->by_id, submit->request, request)) {
        destroy(request);
        return NULL;
    }
    request->id = submit->request;
    request->attempt = submit->attempt;
    request->mode = submit->mode;
    request->priority = submit->priority;
    request->n_submitted = submit->total_tokens;
    request->prompt_tokens = submit->prompt_tokens;
    request->first_index = submit->first_index;
    request->max_tokens = submit->max_tokens;
    request->parts_max = submit->n_parts;
    request->root =
        kv_hash_root(worker->info->identity, submit->salt.data, (uint32_t)submit->salt.len);
    set_sampling(request, submit);
    set_times(worker, request, submit);
    request->state = REQUEST_ASSEMBLING;
    list_append(&worker->lists[REQUEST_ASSEMBLING], request, false);
    worker->n_requests++;
    return request;
}

bool request_scores(const struct worker_request *request)
{
    return request->prompt_logprobs > 0 && !request->decoding;
}

void request_take_token(struct worker_request *request, uint32_t token)
{
    request->tokens[request->n_tokens++] = token;
    if (request->sampling.adjust != NULL)
        model_adjust_take(&request->adjust, request->n_tokens);
}

void request_hash(struct worker *worker, struct worker_request *request)
{
    uint32_t n_full = sl_min_u32(request->n_tokens / worker->block_tokens, request->blocks_max);
    kv_hash_chain(&request->root, request->tokens, worker->block_tokens, request->n_hashes, n_full,
                  request->hashes);
    request->n_hashes = n_full;
}

void request_prefix(const struct worker *worker, const struct worker_request *request,
                    uint8_t prefix_out[TRANSFER_PREFIX_BYTES])
{
    uint32_t n_full = request->n_submitted / worker->block_tokens;
    memset(prefix_out, 0, TRANSFER_PREFIX_BYTES);
    if (n_full > 0)
        memcpy(prefix_out, request->hashes[n_full - 1].bytes, TRANSFER_PREFIX_BYTES);
}

static bool named(const struct worker_request *request)
{
    if (request->n_running > 0)
        return true;
    for (const struct worker_stream *stream = request->streams; stream != NULL;
         stream = stream->next)
        if (!stream->dead)
            return true;
    return false;
}

void request_settle(struct worker *worker, struct worker_request *request)
{
    if (request->state != REQUEST_ENDING || named(request))
        return;
    blocks_release(worker, request);
    leave(worker, request);
    worker->n_requests--;
    destroy(request);
}

void request_end(struct worker *worker, struct worker_request *request, enum transfer_reason why)
{
    SL_ASSERT(request->state != REQUEST_ENDING);
    worker_map_remove(worker->by_id, request->id);
    request_move(worker, request, REQUEST_ENDING);
    for (struct worker_stream *stream = request->streams; stream != NULL; stream = stream->next)
        if (!stream->dead)
            stream_cancel(worker, stream, why);
    request_settle(worker, request);
}

void request_discard_all(struct worker *worker)
{
    for (uint32_t state = 0; state < REQUEST_STATE_COUNT; state++)
        while (worker->lists[state].head != NULL) {
            struct worker_request *request = worker->lists[state].head;
            list_remove(&worker->lists[state], request);
            destroy(request);
        }
}

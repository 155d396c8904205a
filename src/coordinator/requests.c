/* The life of a completion in the loop. A group is one HTTP request, a request one of its choices.
 *
 *   admit ─► waiting + unplaced ─► placed ─► admitted by a node ─► tokens ─► ended
 *              │        ▲            │              │ (headers leave)
 *              │        └── retry ───┴──────────────┘
 *              └─► 429 after queue_us; 503 when no node takes over within lost_us; 400 too large
 *
 * Two lists hold requests that wait: `waiting`, those of whose group no node has ever admitted one, in the
 * order of their arrival (its head is the next to run out of time), and `unplaced`, those that the router
 * must place, by priority (retries before their equals). One that finds no place is passed by those that
 * do, until it has waited for a part of its time: then the next place to generate at is kept for it. A
 * request is on neither list while it decodes, so a tick costs nothing for it.
 *
 * Choices of one prompt share its blocks: the first goes ahead, the others are on no list until a node that
 * holds the blocks has sent its token, and are then placed where these are. An error of one choice ends the
 * group, as one HTTP answer cannot carry both.
 *
 * What a state machine decided (flow.c) is carried out in requests_step, and nowhere else. A request
 * may be freed in there, with its whole group: callers touch neither it nor a neighbour afterwards. */
#include "coordinator/core.h"
#include "coordinator/dispatch.h"

#include "base/clock.h"
#include "base/log.h"
#include "serve/serve.h"

#include <inttypes.h>
#include <string.h>

#define SLACK_US           (200 * SL_MS_US)
#define INDEX_MAX          0xffffu
#define ECHO_TOKEN_BYTES   16u /* in an event, on average */
#define ECHO_LOGPROB_BYTES 48u

/* ---- lists ---- */

static struct links *links_of(struct coordinator *c, const struct list *list,
                              struct request *request)
{
    return list == &c->waiting ? &request->waiting : &request->unplaced;
}

/* The place in the queue, in front of whom it stands: behind its equals, or before them. NULL: at the end. */
static struct request *place_of(const struct coordinator *c, const struct request *request,
                                bool front)
{
    int32_t priority = request->group->params.priority;
    struct request *next = front ? c->unplaced.first : NULL;
    while (front && next != NULL && next->group->params.priority < priority)
        next = next->unplaced.next;
    struct request *last = front ? NULL : c->unplaced.last;
    for (; last != NULL && last->group->params.priority > priority; last = last->unplaced.previous)
        next = last;
    return next;
}

static void insert(struct coordinator *c, struct list *list, struct request *request, bool front)
{
    struct links *links = links_of(c, list, request);
    if (links->in)
        return;
    links->in = true;
    links->next = list == &c->unplaced ? place_of(c, request, front) : NULL;
    links->previous = links->next != NULL ? links_of(c, list, links->next)->previous : list->last;
    if (links->previous != NULL)
        links_of(c, list, links->previous)->next = request;
    else
        list->first = request;
    if (links->next != NULL)
        links_of(c, list, links->next)->previous = request;
    else
        list->last = request;
    list->n++;
}

static void take_out(struct coordinator *c, struct list *list, struct request *request)
{
    struct links *links = links_of(c, list, request);
    if (!links->in)
        return;
    if (links->previous != NULL)
        links_of(c, list, links->previous)->next = links->next;
    else
        list->first = links->next;
    if (links->next != NULL)
        links_of(c, list, links->next)->previous = links->previous;
    else
        list->last = links->previous;
    memset(links, 0, sizeof(*links));
    list->n--;
}

/* ---- the table ---- */

struct request *requests_find(struct coordinator *c, uint64_t id)
{
    uint64_t index = id & INDEX_MAX;
    if (index >= c->config.requests_max)
        return NULL;
    struct request *request = c->requests[index];
    return request != NULL && request->id == id ? request : NULL;
}

static bool enter_table(struct coordinator *c, struct request *request)
{
    if (c->n_free_requests == 0)
        return false;
    request->index = c->free_requests[--c->n_free_requests];
    request->id = (++c->request_serial << 16) | request->index;
    c->requests[request->index] = request;
    atomic_fetch_add(&c->n_open, 1);
    return true;
}

/* Out of every list, account and table. */
static void close_choice(struct coordinator *c, struct request *request)
{
    take_out(c, &c->waiting, request);
    take_out(c, &c->unplaced, request);
    accounts_close(c, request);
    if (request->counted)
        admission_leave(&c->admission, request->n_prompt, false, sl_now_us());
    if (request->admitted)
        c->n_running--;
    c->requests[request->index] = NULL;
    c->free_requests[c->n_free_requests++] = request->index;
    atomic_fetch_sub(&c->n_open, 1);
    request->closed = true;
    request->group->n_open--;
}

/* Closes what is open, and frees it all. The answer has been given. */
static void drop(struct coordinator *c, struct group *group)
{
    for (uint32_t i = 0; i < group->n_choices; i++)
        if (!group->choices[i]->closed)
            close_choice(c, group->choices[i]);
    group_destroy(group);
}

/* One that is open still, as one is while the group lives: the exchange is known by it. */
static struct request *open_choice(const struct group *group)
{
    uint32_t i = 0;
    while (group->choices[i]->closed)
        i++;
    return group->choices[i];
}

static void cancel_all(struct coordinator *c, struct group *group)
{
    for (uint32_t i = 0; i < group->n_choices; i++)
        if (!group->choices[i]->closed)
            dispatch_cancel(c, group->choices[i], 0, SLUICE__REASON__REASON_CANCELLED);
}

/* ---- answers ---- */

static void count_outcome(struct coordinator *c, const char *outcome)
{
    sl_metric_add(sl_metric_get(c->meters.requests, outcome), 1);
}

/* Error object, or error event if headers have left; the group's placements are cancelled; freed. */
static void fail(struct coordinator *c, struct request *request, const struct api_error *error)
{
    struct group *group = request->group;
    char stages[STAGES_TEXT_BYTES];
    uint64_t whole_us = stages_end(&request->stages, sl_now_us());
    stages_text(&request->stages, stages, sizeof(stages));
    cancel_all(c, group);
    sl_info("request_failed",
            "req=%s index=%u status=%d attempts=%u tokens=%u error=\"%s\" e2e_ms=%.1f %s",
            request->output.id, request->output.index, error->http_status, request->flow.attempt,
            request->output.n_tokens, error->message, (double)whole_us / SL_MS_US, stages);
    count_outcome(c, "error");
    if (group->begun && group->params.stream) {
        sl_buf_reset(&c->scratch);
        output_error(error, &c->scratch);
        http_stream_write(group->exchange, c->scratch.data, c->scratch.bytes);
        http_stream_end(group->exchange);
    } else {
        reply_error(group->exchange, error);
    }
    drop(c, group);
}

/* Refused before it was placed in the table. */
static void reject(struct coordinator *c, struct group *group, const char *reason,
                   const struct api_error *error)
{
    sl_metric_add(sl_metric_get(c->meters.rejected, reason), 1);
    count_outcome(c, "rejected");
    sl_info("request_rejected", "req=%s reason=%s status=%d", group->choices[0]->output.id, reason,
            error->http_status);
    reply_error(group->exchange, error);
    group_destroy(group);
}

static uint32_t cached_of(const struct request *request)
{
    return request->cached_tokens < request->n_prompt ? request->cached_tokens
                                                      : request->n_prompt - 1;
}

/* A prompt counts once, however many choices it has. */
static struct output_usage usage_of(const struct group *group)
{
    const struct request *first = group->choices[0];
    struct output_usage usage = {
        .prefill = first->prefill_id, .decode = first->decode_id, .attempts = first->flow.attempt};
    for (uint32_t i = 0; i < group->n_choices; i++) {
        const struct request *request = group->choices[i];
        usage.completion_tokens += request->output.n_tokens;
        usage.reasoning_tokens += request->output.reasoning.n_tokens;
        if (request->leader != request)
            continue;
        usage.prompt_tokens += request->n_prompt;
        usage.cached_tokens += cached_of(request);
    }
    return usage;
}

/* The client has left or does not read. */
static void abandon(struct coordinator *c, struct group *group)
{
    char stages[STAGES_TEXT_BYTES];
    struct request *open = open_choice(group);
    uint64_t whole_us = stages_end(&open->stages, sl_now_us());
    stages_text(&open->stages, stages, sizeof(stages));
    sl_info("request_cancelled", "req=%s choices=%u tokens=%u e2e_ms=%.1f %s",
            group->choices[0]->output.id, group->n_choices, usage_of(group).completion_tokens,
            (double)whole_us / SL_MS_US, stages);
    count_outcome(c, "cancelled");
    cancel_all(c, group);
    http_abort(group->exchange);
    drop(c, group);
}

static void note_sent(struct coordinator *c, struct request *request, uint64_t now_us)
{
    request->group->sent_us = now_us;
    if (request->first_us != 0)
        return;
    request->first_us = now_us;
    sl_metric_observe(c->meters.ttft, (double)(now_us - request->group->arrival_us) / SL_SECOND_US);
}

/* Sends what is pending as one event. False: the client is gone, and the group freed. */
static bool send_pending(struct coordinator *c, struct request *request, uint64_t now_us)
{
    struct group *group = request->group;
    if (!group->params.stream || !group->begun || request->output.n_pending == 0)
        return true;
    sl_buf_reset(&c->scratch);
    output_chunk(&request->output, request->tokens.ids, request->n_prompt, &c->scratch);
    note_sent(c, request, now_us);
    if (!c->scratch.failed && http_stream_write(group->exchange, c->scratch.data, c->scratch.bytes))
        return true;
    abandon(c, group);
    return false;
}

static void count_tokens(struct coordinator *c, struct request *request, uint64_t now_us)
{
    char stages[STAGES_TEXT_BYTES];
    uint64_t whole_us = stages_end(&request->stages, now_us);
    stages_text(&request->stages, stages, sizeof(stages));
    uint32_t cached = cached_of(request);
    const char *outcome = request->output.finish == OUTPUT_STOP ? "stop" : "length";
    sl_metric_add(c->meters.prompt_tokens, request->n_prompt);
    sl_metric_add(c->meters.generation_tokens, request->output.n_tokens);
    sl_metric_add(c->meters.computed, request->n_prompt - cached);
    sl_metric_add(c->meters.local_hit, cached);
    sl_metric_add(c->meters.prefix_queries, request->n_prompt);
    sl_metric_add(c->meters.prefix_hits, cached);
    meters_request(&c->meters, &request->stages, whole_us);
    count_outcome(c, outcome);
    sl_info("request_done",
            "req=%s index=%u finish=%s prompt=%u cached=%u tokens=%u attempts=%u ttft_ms=%.1f "
            "e2e_ms=%.1f %s",
            request->output.id, request->output.index, outcome, request->n_prompt, cached,
            request->output.n_tokens, request->flow.attempt,
            (double)(request->first_us - request->group->arrival_us) / SL_MS_US,
            (double)whole_us / SL_MS_US, stages);
}

/* Headers leave now, if they have not: from here on the choice counts as running. */
static void admit_once(struct coordinator *c, struct request *request, uint64_t now_us)
{
    struct group *group = request->group;
    if (request->admitted)
        return;
    request->admitted = true;
    c->n_running++;
    take_out(c, &c->waiting, request);
    if (request->counted)
        admission_leave(&c->admission, request->n_prompt, true, now_us);
    request->counted = false;
    if (group->begun)
        return;
    group->begun = true;
    group->sent_us = now_us;
    for (uint32_t i = 0; i < group->n_choices; i++) /* the others may take their time */
        take_out(c, &c->waiting, group->choices[i]);
    /* Whom it was placed at; a stream that goes on elsewhere says so with its usage. */
    (void)http_add_header(group->exchange, "x-sluice-prefill", request->prefill_id);
    (void)http_add_header(group->exchange, "x-sluice-decode", request->decode_id);
    if (group->params.stream)
        (void)http_stream_begin(group->exchange);
}

/* Who still works on it is told. `sender` gave the last token. */
static void cancel_rest(struct coordinator *c, struct request *request, flow_node sender)
{
    bool by_node = request->output.stop_string < 0;
    /* P needs no word once D runs: its stream has been acknowledged, or is about to be. */
    if (sender == request->flow.d && by_node)
        accounts_close(c, request);
    else
        dispatch_cancel(c, request, by_node ? sender : 0, SLUICE__REASON__REASON_CANCELLED);
}

/* What is kept of an answer until it is whole has one limit, however many choices it has. */
static void fail_too_long(struct coordinator *c, struct request *request)
{
    struct api_error error;
    api_fail(&error, 400, "answer_too_large", NULL,
             "the answer has over %u bytes; ask for less in one request, or for a stream",
             HTTP_REPLY_BYTES_MAX);
    fail(c, request, &error);
}

static void fail_held(struct coordinator *c, struct request *request)
{
    struct api_error error;
    api_fail(&error, 429, "overloaded", NULL,
             "bodies and answers of all requests have over %zu bytes; ask for less in one request, "
             "for a stream, or later",
             c->config.held_bytes_max);
    error.retry_after_s = admission_retry_after_s(&c->admission);
    sl_metric_add(sl_metric_get(c->meters.rejected, "held_bytes"), 1);
    fail(c, request, &error);
}

/* What is kept of the group's answer is counted. False: all requests together keep too much. */
static bool hold(struct group *group)
{
    size_t bytes = group->params.stream ? 0 : group->kept_bytes;
    for (uint32_t i = 0; i < group->n_choices; i++)
        if (group->choices[i]->echo != NULL)
            bytes += output_bytes(group->choices[i]->echo);
    return http_exchange_hold(group->exchange, bytes);
}

/* The last choice has ended: the rest of the answer. */
static void finish(struct coordinator *c, struct group *group)
{
    struct output_usage usage = usage_of(group);
    const struct output *first = &group->choices[0]->output;
    sl_buf_reset(&c->scratch);
    if (group->params.stream) {
        output_done(first, &usage, &c->scratch);
        http_stream_write(group->exchange, c->scratch.data, c->scratch.bytes);
        http_stream_end(group->exchange);
    } else {
        output_body_begin(first, &c->scratch);
        for (uint32_t i = 0; i < group->n_choices; i++) {
            const struct request *request = group->choices[i];
            output_body_choice(&request->output, request->tokens.ids, request->n_prompt,
                               &c->scratch);
        }
        output_body_end(first, &usage, group->choices[0]->tokens.ids, group->choices[0]->n_prompt,
                        &c->scratch);
        if (c->scratch.failed || c->scratch.bytes > HTTP_REPLY_BYTES_MAX) {
            fail_too_long(c, open_choice(group));
            return;
        }
        http_reply(group->exchange, 200, HTTP_JSON, c->scratch.data, c->scratch.bytes, 0);
    }
    drop(c, group);
}

/* `holder` has the prompt's blocks: the other choices of the prompt may follow. */
static void let_follow(struct coordinator *c, struct request *leader, flow_node holder)
{
    if (leader->leader != leader || leader->holder != 0)
        return;
    leader->holder = holder;
    for (uint32_t i = 0; i < leader->group->n_choices; i++) {
        struct request *request = leader->group->choices[i];
        if (request->leader != leader || request == leader)
            continue;
        request->holder = holder;
        insert(c, &c->unplaced, request, false);
        c->place_again = true;
    }
}

static void complete(struct coordinator *c, struct request *request, flow_node sender,
                     uint64_t now_us)
{
    struct group *group = request->group;
    cancel_rest(c, request, sender);
    admit_once(c, request, now_us);
    if (output_status(&request->output) != SL_OK) {
        struct api_error error;
        api_fail(&error, 500, "too_large", NULL, "%s", sl_error());
        fail(c, request, &error);
        return;
    }
    if (!send_pending(c, request, now_us))
        return;
    if (!group->params.stream)
        note_sent(c, request, now_us);
    count_tokens(c, request, now_us);
    if (group->n_open == 1) {
        finish(c, group);
        return;
    }
    let_follow(c, request, sender);
    close_choice(c, request);
    http_exchange_set_user(group->exchange, open_choice(group)->id);
}

/* ---- admission ---- */

/* A stream says the prompt once for each choice, faster than clients may read, and has a bound on what they have not
 * read: half of it is for what is generated. What a token says of itself is about so many bytes. */
static bool echo_fits(const struct group *group, struct api_error *error)
{
    const struct api_completion *params = &group->params;
    uint64_t n_tokens = 0, each = ECHO_TOKEN_BYTES;
    if (!params->stream || !params->echo || group->n_choices == 1)
        return true;
    for (uint32_t i = 0; i < group->n_choices; i++)
        n_tokens += group->choices[i]->n_prompt;
    if (params->logprobs >= 0)
        each += ECHO_LOGPROB_BYTES * (1 + (uint64_t)params->logprobs);
    if (n_tokens * each <= HTTP_STREAM_BYTES_MAX / 2)
        return true;
    api_fail(
        error, 400, "echo_too_large", "echo",
        "`echo` of %" PRIu64 " prompt tokens in %u choices is about %" PRIu64
        " bytes; a stream of several choices takes at most %u: leave out `stream` or `echo`, or "
        "ask for fewer at a time",
        n_tokens, group->n_choices, n_tokens * each, HTTP_STREAM_BYTES_MAX / 2);
    return false;
}

static bool refuse_now(struct coordinator *c, struct group *group, uint64_t now_us)
{
    struct api_error error;
    uint64_t n_tokens = 0;
    for (uint32_t i = 0; i < group->n_choices; i++)
        n_tokens += group->choices[i]->n_prompt;
    if (atomic_load(&c->draining)) {
        api_fail(&error, 503, "draining", NULL, "the server is shutting down");
        error.retry_after_s = 5;
        reject(c, group, "draining", &error);
        return true;
    }
    bool lately = c->registry.ready_us != 0 && now_us - c->registry.ready_us < c->config.lost_us;
    if (!registry_serves(&c->registry) && !lately) {
        char why[API_MESSAGE_BYTES];
        pages_not_ready(c, why, sizeof(why));
        api_fail(&error, 503, "not_ready", NULL, "%s", why);
        error.retry_after_s = 2;
        reject(c, group, "not_ready", &error);
        return true;
    }
    uint32_t most = c->config.requests_max < c->config.queue_requests_max
                        ? c->config.requests_max
                        : c->config.queue_requests_max;
    if (!echo_fits(group, &error)) {
        reject(c, group, "too_large", &error);
        return true;
    }
    if (group->n_choices > most) { /* to wait would not help */
        api_fail(&error, 400, "too_many_choices", NULL,
                 "%u choices in one request; this server takes at most %u", group->n_choices, most);
        reject(c, group, "too_large", &error);
        return true;
    }
    if (http_server_held(c->http) > c->config.held_bytes_max / 2) {
        api_fail(
            &error, 429, "overloaded", NULL,
            "bodies and answers of all requests have %zu of %zu bytes already; try again later",
            http_server_held(c->http), c->config.held_bytes_max);
        error.retry_after_s = admission_retry_after_s(&c->admission);
        reject(c, group, "held_bytes", &error);
        return true;
    }
    if (c->n_free_requests < group->n_choices ||
        !admission_enter(&c->admission, group->n_choices, n_tokens)) {
        api_fail(&error, 429, "queue_full", NULL,
                 "%u requests with %" PRIu64 " prompt tokens wait already; try again later",
                 c->admission.requests, c->admission.tokens);
        error.retry_after_s = admission_retry_after_s(&c->admission);
        reject(c, group, "queue_full", &error);
        return true;
    }
    return false;
}

/* Without max_tokens an answer may become as long as the context and the largest pool allow. */
static void fit_pool(const struct coordinator *c, struct request *request)
{
    uint64_t largest = 0;
    for (uint32_t i = 0; i < REGISTRY_NODES_MAX; i++) {
        const struct registry_node *node = &c->registry.nodes[i];
        if (!node->used || !registry_generates(&c->registry, node))
            continue;
        uint64_t tokens = (uint64_t)node->load.blocks_total * node->hello->block_tokens;
        uint32_t held_max = node->hello->request_blocks_max;
        if (held_max > 0 && held_max <= node->load.blocks_total)
            return; /* however long: what a window has passed is let go */
        largest = tokens > largest ? tokens : largest;
    }
    if (request->group->params.has_max_tokens || largest <= request->n_prompt ||
        largest - request->n_prompt >= request->max_tokens)
        return; /* it fits, or will not whatever its length */
    request->max_tokens = (uint32_t)largest - request->n_prompt;
    request->output.max_tokens = request->max_tokens;
}

/* A given seed is that of each prompt's first choice, its next choices have the next ones, as in vLLM. */
static uint64_t seed_of(const struct group *group, uint32_t index, uint64_t drawn)
{
    const struct api_completion *params = &group->params;
    return params->has_seed ? params->seed + index % params->n : drawn + index;
}

void requests_admit(struct coordinator *c, struct group *group, uint64_t now_us)
{
    if (refuse_now(c, group, now_us))
        return;
    uint64_t drawn = serve_random_id();
    group->n_open = group->n_choices;
    for (uint32_t i = 0; i < group->n_choices; i++) {
        struct request *request = group->choices[i];
        stages_begin(&request->stages, group->arrival_us);
        stages_route(&request->stages, group->tokenized_us);
        request->counted = true;
        fit_pool(c, request);
        request->seed = seed_of(group, i, drawn);
        request->output.end_ids = c->end_ids;
        request->output.n_end_ids = c->n_end_ids;
        bool entered = enter_table(c, request);
        SL_ASSERT(entered);
        if (request->leader != request)
            continue;
        insert(c, &c->waiting, request, false);
        insert(c, &c->unplaced, request, false);
    }
    c->place_again = true;
    http_exchange_set_user(group->exchange, open_choice(group)->id);
    if (http_exchange_is_gone(group->exchange))
        abandon(c, group);
}

void requests_gone(struct coordinator *c, struct http_exchange *exchange)
{
    struct request *request = requests_find(c, http_exchange_user(exchange));
    if (request != NULL && request->group->exchange == exchange)
        abandon(c, request->group);
}

/* ---- the queue ---- */

static void fail_too_large(struct coordinator *c, struct request *request)
{
    struct api_error error;
    uint32_t largest = 0, block_tokens = 1, held_max = 0;
    for (uint32_t i = 0; i < REGISTRY_NODES_MAX; i++) {
        const struct registry_node *node = &c->registry.nodes[i];
        if (!node->used || !registry_generates(&c->registry, node))
            continue;
        largest = node->load.blocks_total > largest ? node->load.blocks_total : largest;
        block_tokens = node->hello->block_tokens;
        held_max = node->hello->request_blocks_max;
    }
    uint32_t blocks = router_blocks(request->n_prompt, request->max_tokens, block_tokens);
    api_fail(&error, 400, "request_too_large", "max_tokens",
             "prompt of %u tokens and max_tokens of %u need %u blocks of KV memory; the largest "
             "node has %u blocks of %u tokens",
             request->n_prompt, request->max_tokens, router_blocks_held(blocks, held_max), largest,
             block_tokens);
    sl_metric_add(sl_metric_get(c->meters.rejected, "too_large"), 1);
    fail(c, request, &error);
}

/* A limit here that is wider than the protocol's: our mistake, and one request's end rather than a node's. */
static void fail_invalid(struct coordinator *c, struct request *request)
{
    struct api_error error;
    api_fail(&error, 500, "internal_error", NULL, "the request cannot be given to a node: %s",
             sl_error());
    fail(c, request, &error);
}

/* How long it may wait: an open stream goes before all others. */
static uint64_t wait_us(const struct coordinator *c, const struct request *request)
{
    return request->group->begun ? 0 : c->config.queue_us;
}

static bool needs_place(const struct request *request)
{
    return request->max_tokens - request->flow.next_index > 1;
}

static void note_placed(struct coordinator *c, struct request *request, bool overtakes)
{
    request->lost_us = 0;
    take_out(c, &c->unplaced, request);
    if (overtakes)
        sl_metric_add(c->meters.overtakes, 1);
}

/* Places what can be placed, in order. */
void requests_place_queue(struct coordinator *c, uint64_t now_us)
{
    struct admission_pass pass = {.place = dispatch_has_place(c)};
    bool more = true;
    struct request *next;
    for (struct request *request = c->unplaced.first; request != NULL && more; request = next) {
        next = request->unplaced.next;
        if (request->retry_at_us > now_us)
            continue;
        if (needs_place(request) && !pass.place) {
            pass.n_passed++;
            continue;
        }
        switch (dispatch_place(c, request, pass.place, now_us)) {
        case DISPATCH_PLACED:
            note_placed(c, request, pass.n_passed > 0);
            pass.place = pass.place && dispatch_has_place(c);
            break;
        case DISPATCH_WAIT:
            more = admission_missed(&pass, dispatch_waited_us(request->group, now_us),
                                    wait_us(c, request));
            break;
        case DISPATCH_NO_NODE:
            request->lost_us = request->lost_us != 0 ? request->lost_us : now_us;
            break;
        case DISPATCH_TOO_LARGE:
            fail_too_large(c, request); /* its neighbour in the list may have gone with it */
            next = c->unplaced.first;
            break;
        case DISPATCH_INVALID:
            fail_invalid(c, request);
            next = c->unplaced.first;
            break;
        }
    }
}

static void time_out_waiting(struct coordinator *c, struct request *request)
{
    struct api_error error;
    api_fail(&error, 429, "queue_timeout", NULL,
             "no node had room for the request within %.1f s; try again later",
             (double)c->config.queue_us / SL_SECOND_US);
    error.retry_after_s = admission_retry_after_s(&c->admission);
    sl_metric_add(sl_metric_get(c->meters.rejected, "queue_timeout"), 1);
    fail(c, request, &error);
}

static void fail_lost(struct coordinator *c, struct request *request)
{
    struct api_error error;
    char why[API_MESSAGE_BYTES / 2];
    pages_not_ready(c, why, sizeof(why));
    api_fail(&error, 503, "no_node", NULL, "no node can go on with the request: %s", why);
    error.retry_after_s = 2;
    fail(c, request, &error);
}

static void fail_deadline(struct coordinator *c, struct request *request)
{
    struct api_error error;
    api_fail(&error, 504, "deadline", NULL, "the request took longer than %.0f s",
             (double)c->config.request_us / SL_SECOND_US);
    fail(c, request, &error);
}

static void second(struct coordinator *c, uint64_t now_us)
{
    for (uint32_t i = 0; i < c->config.requests_max; i++) {
        struct request *request = c->requests[i];
        if (request == NULL)
            continue;
        struct group *group = request->group;
        if (now_us - group->arrival_us >= c->config.request_us) {
            fail_deadline(c, request);
        } else if (group->begun && group->params.stream &&
                   now_us - group->sent_us >= CORE_KEEPALIVE_US) {
            group->sent_us = now_us;
            if (!http_stream_write(group->exchange, ": keep-alive\n\n", 14))
                abandon(c, group);
        }
    }
}

void requests_tick(struct coordinator *c, uint64_t now_us)
{
    while (c->waiting.first != NULL &&
           dispatch_waited_us(c->waiting.first->group, now_us) >= c->config.queue_us)
        time_out_waiting(c, c->waiting.first);
    struct request *next;
    for (struct request *request = c->unplaced.first; request != NULL; request = next) {
        next = request->unplaced.next;
        if (request->lost_us != 0 && now_us - request->lost_us >= c->config.lost_us) {
            fail_lost(c, request);
            next = c->unplaced.first;
        }
    }
    if (c->unplaced.first != NULL)
        c->place_again = true;
    if (now_us >= c->next_second_us) {
        c->next_second_us = now_us + SL_SECOND_US;
        second(c, now_us);
    }
}

/* ---- steps ---- */

static void queue_again(struct coordinator *c, struct request *request, uint64_t retry_at_us)
{
    flow_unplace(&request->flow);
    stages_route(&request->stages, sl_now_us());
    request->retry_at_us = retry_at_us;
    insert(c, &c->unplaced, request, true);
    c->place_again = true;
}

static void fail_attempts(struct coordinator *c, struct request *request, const char *why)
{
    struct api_error error;
    api_fail(&error, 503, "attempts_exhausted", NULL, "%u attempts failed, the last one: %s",
             request->flow.failures, why);
    error.retry_after_s = 1;
    fail(c, request, &error);
}

static void retry(struct coordinator *c, struct request *request, const char *why, uint64_t now_us)
{
    sl_metric_add(sl_metric_get(c->meters.migrations, why), 1);
    sl_info("request_retry", "req=%s attempt=%u failures=%u why=%s tokens=%u", request->output.id,
            request->flow.attempt, request->flow.failures, why, request->output.n_tokens);
    if (request->admitted && request->lost_us == 0)
        request->lost_us = now_us; /* an open stream goes on soon, or ends */
    dispatch_cancel(c, request, 0, SLUICE__REASON__REASON_CANCELLED);
    if (now_us - request->group->arrival_us + SLACK_US >= c->config.request_us)
        fail_deadline(c, request); /* which the node saw first */
    else if (!flow_may_retry(&request->flow))
        fail_attempts(c, request, why);
    else
        queue_again(c, request, now_us);
}

static void redirect(struct coordinator *c, struct request *request, const char *why,
                     uint64_t now_us)
{
    if (flow_may_retry(&request->flow) && dispatch_redirect(c, request, now_us))
        sl_metric_add(sl_metric_get(c->meters.migrations, "redirect"), 1);
    else
        retry(c, request, why, now_us);
}

/* D had no room. */
static void full(struct coordinator *c, struct request *request, uint64_t now_us)
{
    uint64_t waited_us = dispatch_waited_us(request->group, now_us);
    if (!request->group->begun && waited_us + SLACK_US >= c->config.queue_us) {
        time_out_waiting(c, request);
        return;
    }
    if (flow_can_redirect(&request->flow) && dispatch_redirect_fresh(c, request, now_us)) {
        sl_metric_add(sl_metric_get(c->meters.migrations, "redirect"), 1);
        return;
    }
    if (request->admitted && request->lost_us == 0)
        request->lost_us = now_us;
    dispatch_cancel(c, request, 0, SLUICE__REASON__REASON_CANCELLED);
    queue_again(c, request, now_us + CORE_RETRY_US);
}

static void refuse(struct coordinator *c, struct request *request, const char *refused)
{
    struct api_error error;
    if (!request->group->begun && strncmp(refused, "too large", 9) == 0) {
        fail_too_large(c, request);
        return;
    }
    api_fail(&error, 500, "refused", NULL, "a node refused the request: %.200s", refused);
    fail(c, request, &error);
}

void requests_step(struct coordinator *c, struct request *request, enum flow_step step,
                   const char *why, const char *refused, uint64_t now_us)
{
    switch (step) {
    case FLOW_NOTHING:
    case FLOW_STALE:
    case FLOW_ACCEPT:
        break;
    case FLOW_ADMITTED:
        accounts_admitted(c, request);
        admit_once(c, request, now_us);
        (void)send_pending(c, request, now_us);
        break;
    case FLOW_RELEASE:
        dispatch_release(c, request);
        break;
    case FLOW_REDIRECT:
        redirect(c, request, why, now_us);
        break;
    case FLOW_RETRY:
        retry(c, request, why, now_us);
        break;
    case FLOW_FULL:
        full(c, request, now_us);
        break;
    case FLOW_REFUSE:
        refuse(c, request, refused != NULL ? refused : "no reason given");
        break;
    }
}

void requests_note_cached(struct request *request, uint32_t cached_tokens)
{
    if (!request->cached_known || cached_tokens < request->cached_tokens)
        request->cached_tokens = cached_tokens;
    request->cached_known = true;
}

void requests_node_lost(struct coordinator *c, flow_node node, uint64_t now_us)
{
    for (uint32_t i = 0; i < c->config.requests_max; i++) {
        struct request *request = c->requests[i];
        if (request == NULL)
            continue;
        if (request->at_compute == node)
            request->at_compute = 0;
        if (request->at_decode == node) {
            request->at_decode = 0;
            request->counted_running = false;
        }
        enum flow_step step = flow_node_lost(&request->flow, node);
        requests_step(c, request, step, "node_lost", NULL, now_us);
    }
}

void requests_fail_all(struct coordinator *c, const char *why)
{
    for (uint32_t i = 0; i < c->config.requests_max; i++) {
        if (c->requests[i] == NULL)
            continue;
        struct api_error error;
        api_fail(&error, 503, "shutdown", NULL, "%s", why);
        fail(c, c->requests[i], &error);
    }
}

/* ---- tokens ---- */

/* What the second token took beyond a step of the node that gives it. */
static void observe_second(struct coordinator *c, const struct registry_node *node, uint64_t us)
{
    uint32_t tokens = node->own_running > 0 ? node->own_running : 1;
    double ms = router_cost_beyond_step_ms(&node->cost, tokens, (double)us / SL_MS_US);
    sl_metric_observe(c->meters.second_token, ms / 1000);
}

static void observe_latency(struct coordinator *c, const struct registry_node *node,
                            struct request *request, uint32_t n, uint64_t now_us)
{
    if (request->last_us != 0) {
        double each = (double)(now_us - request->last_us) / SL_SECOND_US / n;
        for (uint32_t i = 0; i < n; i++)
            sl_metric_observe(c->meters.itl, each);
        if (request->output.n_tokens == 1)
            observe_second(c, node, now_us - request->last_us);
    }
    request->last_us = now_us;
}

static struct output_logprob logprob_of(const Sluice__Logprob *from)
{
    size_t n = from->n_top_ids < from->n_top ? from->n_top_ids : from->n_top;
    return (struct output_logprob){.sampled = from->sampled,
                                   .n_top = (uint32_t)n,
                                   .top_ids = from->top_ids,
                                   .top = from->top,
                                   .rank = from->rank};
}

bool requests_lacks_scores(const struct request *request)
{
    const struct api_completion *params = &request->group->params;
    bool wanted = params->prompt_logprobs >= 0 || (params->echo && params->logprobs >= 0);
    return wanted && request->echo != NULL && request->echo->n_tokens < request->n_prompt;
}

/* They come in order; after a new attempt some come again. */
void requests_scores(struct coordinator *c, struct registry_node *node,
                     const Sluice__PromptScores *scores)
{
    struct request *request = requests_find(c, scores->request);
    if (request == NULL || request->flow.attempt != scores->attempt ||
        (node->join != request->flow.p && node->join != request->flow.d))
        return;
    for (size_t i = 0; i < scores->n_scores && requests_lacks_scores(request); i++) {
        uint32_t position = scores->first_position + (uint32_t)i;
        const struct output_logprob logprob = logprob_of(scores->scores[i]);
        if (position == request->echo->n_tokens)
            output_push_prompt(request->echo, request->tokens.ids[position], &logprob);
    }
    if (!hold(request->group))
        fail_held(c, request);
}

/* Takes the tokens of a run from `skip` on. False when the list has no memory. */
static bool take_tokens(struct request *request, const Sluice__TokenRun *run, uint32_t skip)
{
    struct output *output = &request->output;
    uint64_t *kept = &request->group->kept_bytes;
    if (output->echo != NULL && output->n_tokens == 0) /* each choice says it */
        *kept += output_bytes(output->echo);
    if (request->group->params.max_tokens == 0) {
        output_end(output);
        return true;
    }
    size_t before = output_bytes(output);
    for (size_t i = skip; i < run->n_tokens && output->finish == OUTPUT_OPEN; i++) {
        struct output_logprob logprob, *given = NULL;
        if (i < run->n_logprobs) {
            logprob = logprob_of(run->logprobs[i]);
            given = &logprob;
        }
        if (text_ids_add(&request->tokens, run->tokens[i]) != SL_OK)
            return false;
        (void)output_push(output, run->tokens[i], given);
    }
    *kept += output_bytes(output) - before;
    return true;
}

/* Whether the node's token says that the prompt's blocks are in its cache, where choices may follow. P's token
 * does not while D is to have them too. */
static bool holds_prompt(const struct request *request, flow_node node)
{
    return node == request->flow.d || request->flow.mode == FLOW_SINGLE;
}

static void note_stage(struct request *request, flow_node node, uint64_t now_us)
{
    if (node == request->flow.d || request->flow.mode == FLOW_SINGLE)
        stages_decodes(&request->stages, now_us);
    else
        stages_first_token(&request->stages, request->flow.admitted, now_us);
}

static void take_run(struct coordinator *c, struct registry_node *node, struct request *request,
                     const Sluice__TokenRun *run, uint64_t now_us)
{
    uint32_t skip = 0;
    enum flow_step step = requests_lacks_scores(request)
                              ? flow_gap(&request->flow, node->join, run->attempt)
                              : flow_tokens(&request->flow, node->join, run->attempt,
                                            run->first_index, (uint32_t)run->n_tokens, &skip);
    if (step == FLOW_STALE) {
        dispatch_cancel_stray(c, node, run->request, run->attempt);
        return;
    }
    note_stage(request, node->join, now_us);
    if (step != FLOW_ACCEPT) {
        if (step == FLOW_RETRY)
            sl_metric_add(c->meters.gaps, 1);
        requests_step(c, request, step, "gap", NULL, now_us);
        return;
    }
    if (request->at_compute != 0)
        accounts_first_token(c, request);
    observe_latency(c, node, request, (uint32_t)run->n_tokens - skip, now_us);
    if (!take_tokens(request, run, skip)) {
        struct api_error error;
        api_fail(&error, 500, "no_memory", NULL, "%s", sl_error());
        fail(c, request, &error);
    } else if (!request->group->params.stream &&
               request->group->kept_bytes > HTTP_REPLY_BYTES_MAX) {
        fail_too_long(c, request);
    } else if (!hold(request->group)) {
        fail_held(c, request);
    } else if (request->output.finish != OUTPUT_OPEN) {
        complete(c, request, node->join, now_us);
    } else {
        if (holds_prompt(request, node->join))
            let_follow(c, request, node->join);
        if (!request->group->params.stream)
            note_sent(c, request, now_us); /* as good as sent: the client waits for the rest */
        (void)send_pending(c, request, now_us);
    }
}

void requests_tokens(struct coordinator *c, struct registry_node *node,
                     const Sluice__TokenRuns *runs, uint64_t now_us)
{
    for (size_t i = 0; i < runs->n_runs; i++) {
        const Sluice__TokenRun *run = runs->runs[i];
        struct request *request = requests_find(c, run->request);
        if (request != NULL)
            take_run(c, node, request, run, now_us);
        else
            dispatch_cancel_stray(c, node, run->request, run->attempt);
    }
}

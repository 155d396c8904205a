/* A real server and real clients over loopback TCP. */
#include "proto/check.h"
#include "proto/message.h"
#include "proto/rpc.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define WAIT_US  (10 * SL_SECOND_US)
#define KEPT_MAX 4096

/* What happened at one end. */
struct side {
    pthread_mutex_t mutex;
    struct rpc_stream *stream; /* of the last opened; NULL after its end */
    uint32_t opened, closed, messages;
    sl_status why;
    char text[256];
    uint64_t kept[KEPT_MAX]; /* a number of each message, in order */
    uint32_t n_kept;
    bool hold; /* counted messages are not freed */
    void *held[KEPT_MAX];
    uint32_t n_held;
    uint64_t tokens, wrong_tokens; /* of submits and parts, all in order */
    bool greet;                    /* client: say hello when opened */
};

static void side_init(struct side *side)
{
    *side = (struct side){.greet = true};
    pthread_mutex_init(&side->mutex, NULL);
}

static void side_hold(struct side *side)
{
    pthread_mutex_lock(&side->mutex);
    side->hold = true;
    pthread_mutex_unlock(&side->mutex);
}

static void side_fini(struct side *side)
{
    rpc_stream_release(side->stream);
    pthread_mutex_destroy(&side->mutex);
}

static sl_status send_hello(struct rpc_stream *stream, uint32_t protocol)
{
    Sluice__Hello hello = SLUICE__HELLO__INIT;
    char id[] = "p0";
    hello.protocol = protocol;
    hello.node_id = id;
    hello.role = SLUICE__ROLE__ROLE_PREFILL;
    hello.incarnation = 1;
    Sluice__NodeMessage message = SLUICE__NODE_MESSAGE__INIT;
    message.body_case = SLUICE__NODE_MESSAGE__BODY_HELLO;
    message.hello = &hello;
    return rpc_send_to_coordinator(stream, RPC_URGENT, &message);
}

static void on_opened(void *arg, struct rpc_stream *stream)
{
    struct side *side = arg;
    pthread_mutex_lock(&side->mutex);
    rpc_stream_release(side->stream);
    side->stream = rpc_stream_acquire(stream);
    side->opened++;
    bool greet = side->greet;
    pthread_mutex_unlock(&side->mutex);
    if (greet)
        assert_int_equal(send_hello(stream, RPC_PROTOCOL), SL_OK);
}

static void on_opened_server(void *arg, struct rpc_stream *stream)
{
    struct side *side = arg;
    side->greet = false;
    on_opened(arg, stream);
}

static void on_closed(void *arg, struct rpc_stream *stream, sl_status why, const char *text)
{
    struct side *side = arg;
    pthread_mutex_lock(&side->mutex);
    if (side->stream == stream) {
        rpc_stream_release(side->stream);
        side->stream = NULL;
    }
    side->why = why;
    snprintf(side->text, sizeof(side->text), "%s", text);
    side->closed++;
    pthread_mutex_unlock(&side->mutex);
}

static void keep(struct side *side, uint64_t number)
{
    if (side->n_kept < KEPT_MAX)
        side->kept[side->n_kept++] = number;
}

static void on_node_message(void *arg, struct rpc_stream *stream, Sluice__NodeMessage *message)
{
    (void)stream;
    struct side *side = arg;
    bool hold = false;
    pthread_mutex_lock(&side->mutex);
    side->messages++;
    if (message->body_case == SLUICE__NODE_MESSAGE__BODY_HEARTBEAT)
        keep(side, message->heartbeat->step);
    if (message->body_case == SLUICE__NODE_MESSAGE__BODY_CACHE_EVENTS) {
        keep(side, message->cache_events->first_seq);
        hold = side->hold;
        if (hold)
            side->held[side->n_held++] = message;
    }
    pthread_mutex_unlock(&side->mutex);
    if (!hold)
        rpc_node_message_free(message);
}

static void count_tokens(struct side *side, uint64_t first, const uint32_t *tokens, size_t n)
{
    for (size_t i = 0; i < n; i++)
        side->wrong_tokens += tokens[i] != (uint32_t)((first + i) % 50000);
    side->tokens += n;
}

static void on_coordinator_message(void *arg, struct rpc_stream *stream,
                                   Sluice__CoordinatorMessage *message)
{
    (void)stream;
    struct side *side = arg;
    bool hold = false;
    pthread_mutex_lock(&side->mutex);
    side->messages++;
    if (message->body_case == SLUICE__COORDINATOR_MESSAGE__BODY_CANCEL)
        keep(side, message->cancel->request);
    if (message->body_case == SLUICE__COORDINATOR_MESSAGE__BODY_SUBMIT) {
        keep(side, message->submit->request);
        count_tokens(side, 0, message->submit->tokens, message->submit->n_tokens);
        hold = side->hold;
        if (hold)
            side->held[side->n_held++] = message;
    }
    if (message->body_case == SLUICE__COORDINATOR_MESSAGE__BODY_SUBMIT_PART)
        count_tokens(side, (uint64_t)(message->submit_part->part + 1) * RPC_SUBMIT_TOKENS_MAX,
                     message->submit_part->tokens, message->submit_part->n_tokens);
    pthread_mutex_unlock(&side->mutex);
    if (!hold)
        rpc_coordinator_message_free(message);
}

static struct rpc_server_handler server_handler(struct side *side)
{
    return (struct rpc_server_handler){on_opened_server, on_node_message, on_closed, side};
}

static struct rpc_client_handler client_handler(struct side *side)
{
    return (struct rpc_client_handler){on_opened, on_coordinator_message, on_closed, side};
}

static uint32_t read_count(struct side *side, const uint32_t *count)
{
    pthread_mutex_lock(&side->mutex);
    uint32_t value = *count;
    pthread_mutex_unlock(&side->mutex);
    return value;
}

static void wait_for(struct side *side, const uint32_t *count, uint32_t wanted)
{
    uint64_t until = sl_real_us() + WAIT_US;
    while (read_count(side, count) < wanted) {
        if (sl_real_us() > until)
            fail_msg("waited for %u, got %u", wanted, read_count(side, count));
        sl_sleep_us(500);
    }
}

/* How the last stream of a side ended. */
static void assert_closed(struct side *side, sl_status why, const char *part)
{
    pthread_mutex_lock(&side->mutex);
    if (side->why != why || strstr(side->text, part) == NULL)
        fail_msg("closed with %s \"%s\"; want %s \"%s\"", sl_status_name(side->why), side->text,
                 sl_status_name(why), part);
    pthread_mutex_unlock(&side->mutex);
}

/* The live stream of a side, with a reference. */
static struct rpc_stream *stream_of(struct side *side)
{
    pthread_mutex_lock(&side->mutex);
    struct rpc_stream *stream = side->stream == NULL ? NULL : rpc_stream_acquire(side->stream);
    pthread_mutex_unlock(&side->mutex);
    return stream;
}

struct pair {
    struct side up, down; /* at the server, at the client */
    struct rpc_server *server;
    struct rpc_client *client;
    char address[32];
};

static void pair_open_server(struct pair *pair)
{
    struct rpc_server_handler handler = server_handler(&pair->up);
    const char *listen = pair->address[0] == '\0' ? "127.0.0.1:0" : pair->address;
    assert_int_equal(rpc_server_start(listen, &handler, &pair->server), SL_OK);
    snprintf(pair->address, sizeof(pair->address), "127.0.0.1:%u", rpc_server_port(pair->server));
}

static void pair_open(struct pair *pair)
{
    *pair = (struct pair){.address = ""};
    side_init(&pair->up);
    side_init(&pair->down);
    pair_open_server(pair);
    struct rpc_client_handler handler = client_handler(&pair->down);
    assert_int_equal(rpc_client_start(pair->address, &handler, &pair->client), SL_OK);
    wait_for(&pair->down, &pair->down.opened, 1);
    wait_for(&pair->up, &pair->up.messages, 1);
}

static void pair_close(struct pair *pair)
{
    rpc_client_stop(pair->client);
    rpc_server_stop(pair->server);
    assert_int_equal(pair->up.opened, pair->up.closed);
    assert_int_equal(pair->down.opened, pair->down.closed);
    assert_int_equal(pair->down.wrong_tokens, 0);
    side_fini(&pair->up);
    side_fini(&pair->down);
}

static sl_status send_cancel(struct rpc_stream *stream, uint64_t request)
{
    Sluice__Cancel cancel = SLUICE__CANCEL__INIT;
    cancel.request = request;
    Sluice__CoordinatorMessage message = SLUICE__COORDINATOR_MESSAGE__INIT;
    message.body_case = SLUICE__COORDINATOR_MESSAGE__BODY_CANCEL;
    message.cancel = &cancel;
    return rpc_send_to_node(stream, RPC_URGENT, &message);
}

static sl_status send_beat(struct rpc_stream *stream, uint64_t step)
{
    Sluice__Load load = SLUICE__LOAD__INIT;
    Sluice__Heartbeat beat = SLUICE__HEARTBEAT__INIT;
    beat.step = step;
    beat.load = &load;
    Sluice__NodeMessage message = SLUICE__NODE_MESSAGE__INIT;
    message.body_case = SLUICE__NODE_MESSAGE__BODY_HEARTBEAT;
    message.heartbeat = &beat;
    return rpc_send_to_coordinator(stream, RPC_URGENT, &message);
}

#define EVENT_BYTES (2 + 2 + RPC_HASH_BYTES) /* of one cache event on the wire */

/* n times the same event. */
static sl_status send_event(struct rpc_stream *stream, uint64_t first, uint32_t n,
                            Sluice__CacheEvent *event)
{
    Sluice__CacheEvent **list = sl_zalloc(n, sizeof(*list));
    for (uint32_t i = 0; i < n; i++)
        list[i] = event;
    Sluice__CacheEvents events = SLUICE__CACHE_EVENTS__INIT;
    events.first_seq = first;
    events.n_events = n;
    events.events = list;
    Sluice__NodeMessage message = SLUICE__NODE_MESSAGE__INIT;
    message.body_case = SLUICE__NODE_MESSAGE__BODY_CACHE_EVENTS;
    message.cache_events = &events;
    sl_status status = rpc_send_to_coordinator(stream, RPC_BULK, &message);
    sl_free(list);
    return status;
}

static sl_status send_events(struct rpc_stream *stream, uint64_t first, uint32_t n)
{
    static uint8_t hash[RPC_HASH_BYTES];
    Sluice__CacheEvent event = SLUICE__CACHE_EVENT__INIT;
    event.hash = (ProtobufCBinaryData){sizeof(hash), hash};
    return send_event(stream, first, n, &event);
}

static sl_status send_submit(struct rpc_stream *stream, uint64_t request, uint32_t n_tokens)
{
    uint32_t *tokens = sl_zalloc(n_tokens, sizeof(*tokens));
    for (uint32_t i = 0; i < n_tokens; i++)
        tokens[i] = i % 50000;
    Sluice__Sampling sampling = SLUICE__SAMPLING__INIT;
    Sluice__Submit submit = SLUICE__SUBMIT__INIT;
    submit.incarnation = 1;
    submit.request = request;
    submit.mode = SLUICE__MODE__MODE_LOCAL;
    submit.sampling = &sampling;
    submit.prompt_tokens = n_tokens;
    submit.n_tokens = n_tokens;
    submit.tokens = tokens;
    submit.max_tokens = 16;
    sl_status status = rpc_send_submit(stream, &submit);
    sl_free(tokens);
    return status;
}

/* As gRPC 1.51 prints them, and others. */
static void test_hosts_of_peers(void **state)
{
    (void)state;
    static const struct {
        const char *peer, *host; /* NULL: none */
    } cases[] = {{"ipv4:10.0.0.1:4711", "10.0.0.1"},
                 {"ipv6:%5B2001:db8::7%5D:4711", "2001:db8::7"},
                 {"ipv6:[::1]:4711", "::1"},
                 {"ipv6:%5B%5D:4711", NULL},
                 {"ipv6:[]:1", NULL},
                 {"ipv6::::1", NULL},
                 {"ipv6:1", NULL},
                 {"ipv4:", NULL},
                 {"ipv4::1", NULL},
                 {"ipv4:name:1", NULL},
                 {"unix:/tmp/a:1", NULL},
                 {"ipv4", NULL},
                 {"", NULL}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char host[SL_HOST_BYTES] = "";
        bool found = rpc_peer_host(cases[i].peer, host);
        if (found != (cases[i].host != NULL) || (found && strcmp(host, cases[i].host) != 0))
            fail_msg("%s: \"%s\"", cases[i].peer, host);
    }
}

static void test_messages_go_both_ways_in_order(void **state)
{
    (void)state;
    struct pair pair;
    pair_open(&pair);
    struct rpc_stream *up = stream_of(&pair.up), *down = stream_of(&pair.down);
    char host[SL_HOST_BYTES];
    assert_true(rpc_peer_host(rpc_stream_peer(up), host));
    assert_string_equal(host, "127.0.0.1");
    enum { N = 2000 };
    for (uint64_t i = 0; i < N; i++) {
        assert_int_equal(send_cancel(up, i + 1), SL_OK);
        assert_int_equal(send_beat(down, i), SL_OK);
    }
    wait_for(&pair.down, &pair.down.messages, N);
    wait_for(&pair.up, &pair.up.messages, N + 1);
    for (uint64_t i = 0; i < N; i++) {
        assert_int_equal(pair.down.kept[i], i + 1);
        assert_int_equal(pair.up.kept[i], i);
    }
    rpc_stream_release(up);
    rpc_stream_release(down);
    pair_close(&pair);
    assert_int_equal(pair.down.why, SL_CANCELLED);
    assert_int_equal(pair.up.why, SL_OK);
}

static void test_long_submit_comes_in_parts(void **state)
{
    (void)state;
    struct pair pair;
    pair_open(&pair);
    struct rpc_stream *up = stream_of(&pair.up);
    assert_int_equal(send_submit(up, 7, 3 * RPC_SUBMIT_TOKENS_MAX + 5), SL_OK);
    wait_for(&pair.down, &pair.down.messages, 4);
    assert_int_equal(pair.down.tokens, 3 * RPC_SUBMIT_TOKENS_MAX + 5);
    pair.down.tokens = 0;
    assert_int_equal(send_submit(up, 8, RPC_SUBMIT_TOKENS_MAX), SL_OK);
    wait_for(&pair.down, &pair.down.messages, 5);
    assert_int_equal(pair.down.tokens, RPC_SUBMIT_TOKENS_MAX);
    assert_int_equal(pair.down.closed, 0);
    rpc_stream_release(up);
    pair_close(&pair);
}

/* A consumer that keeps its messages stops the sender at the window; urgent ones still pass; freeing
 * lets the rest through. */
static void test_window_stops_bulk_not_urgent(void **state)
{
    (void)state;
    struct pair pair;
    pair_open(&pair);
    struct rpc_stream *down = stream_of(&pair.down);
    side_hold(&pair.up);
    enum { EACH = 8000, N = 100 };
    for (uint64_t i = 0; i < N; i++)
        assert_int_equal(send_events(down, 1 + i * EACH, EACH), SL_OK);
    uint32_t held = RPC_WINDOW_BYTES / (EACH * EVENT_BYTES + 10);
    wait_for(&pair.up, &pair.up.n_held, held);
    assert_int_equal(send_beat(down, 0), SL_OK);
    wait_for(&pair.up, &pair.up.n_kept, held + 1);
    sl_sleep_us(50 * SL_MS_US);
    assert_int_equal(read_count(&pair.up, &pair.up.n_held), held);
    assert_int_equal(pair.up.kept[held], 0); /* the heartbeat, behind what the window let through */
    pthread_mutex_lock(&pair.up.mutex);
    pair.up.hold = false;
    pthread_mutex_unlock(&pair.up.mutex);
    for (uint32_t i = 0; i < held; i++)
        rpc_node_message_free(pair.up.held[i]);
    wait_for(&pair.up, &pair.up.n_kept, N + 1);
    uint64_t wanted = 1;
    for (uint32_t i = 0; i < N + 1; i++) {
        if (i == held)
            continue;
        assert_int_equal(pair.up.kept[i], wanted);
        wanted += EACH;
    }
    rpc_stream_release(down);
    pair_close(&pair);
}

static void free_held(struct side *side)
{
    pthread_mutex_lock(&side->mutex);
    side->hold = false;
    uint32_t n = side->n_held;
    side->n_held = 0;
    pthread_mutex_unlock(&side->mutex);
    for (uint32_t i = 0; i < n; i++)
        rpc_coordinator_message_free(side->held[i]);
}

/* Ten megabytes of submits do not fit the window of a node that keeps them; a cancel does. */
static void test_urgent_overtakes_what_waits(void **state)
{
    (void)state;
    struct pair pair;
    pair_open(&pair);
    struct rpc_stream *up = stream_of(&pair.up);
    side_hold(&pair.down);
    enum { N = 120, TOKENS = 30000 };
    for (uint64_t i = 0; i < N; i++)
        assert_int_equal(send_submit(up, i + 1, TOKENS), SL_OK);
    assert_int_equal(send_cancel(up, 1000), SL_OK);
    uint64_t until = sl_real_us() + WAIT_US;
    uint32_t place = KEPT_MAX;
    while (place == KEPT_MAX && sl_real_us() < until) {
        sl_sleep_us(1000);
        pthread_mutex_lock(&pair.down.mutex);
        for (uint32_t i = 0; i < pair.down.n_kept; i++)
            place = pair.down.kept[i] == 1000 ? i : place;
        pthread_mutex_unlock(&pair.down.mutex);
    }
    assert_true(place < N * 2 / 3);
    free_held(&pair.down);
    wait_for(&pair.down, &pair.down.n_kept, N + 1);
    for (uint32_t i = 0, wanted = 1; i < N + 1; i++) {
        if (i != place)
            assert_int_equal(pair.down.kept[i], wanted++);
    }
    rpc_stream_release(up);
    pair_close(&pair);
}

static void test_client_comes_back_after_server_restart(void **state)
{
    (void)state;
    struct pair pair;
    pair_open(&pair);
    for (uint32_t round = 1; round <= 2; round++) {
        rpc_server_stop(pair.server);
        wait_for(&pair.down, &pair.down.closed, round);
        assert_closed(&pair.down, SL_PEER, "the coordinator stops");
        pair_open_server(&pair);
        wait_for(&pair.down, &pair.down.opened, round + 1);
        wait_for(&pair.up, &pair.up.opened, round + 1);
    }
    struct rpc_stream *down = stream_of(&pair.down);
    assert_int_equal(send_beat(down, 5), SL_OK);
    rpc_stream_release(down);
    wait_for(&pair.up, &pair.up.n_kept, 1);
    pair_close(&pair);
}

static void test_queued_messages_leave_before_a_stop(void **state)
{
    (void)state;
    struct pair pair;
    pair_open(&pair);
    struct rpc_stream *down = stream_of(&pair.down);
    enum { N = 3000 };
    for (uint64_t i = 0; i < N; i++)
        assert_int_equal(send_beat(down, i), SL_OK);
    rpc_stream_release(down);
    rpc_client_stop(pair.client);
    wait_for(&pair.up, &pair.up.closed, 1);
    assert_int_equal(pair.up.messages, N + 1);
    assert_closed(&pair.up, SL_OK, "the node ended the stream");
    rpc_server_stop(pair.server);
    side_fini(&pair.up);
    side_fini(&pair.down);
}

static void test_close_with_reason_reaches_the_node(void **state)
{
    (void)state;
    struct pair pair;
    pair_open(&pair);
    struct rpc_stream *up = stream_of(&pair.up);
    rpc_stream_close(up, "heartbeats stopped");
    wait_for(&pair.down, &pair.down.closed, 1);
    assert_closed(&pair.down, SL_PEER, "heartbeats stopped");
    wait_for(&pair.up, &pair.up.closed, 1);
    assert_closed(&pair.up, SL_CANCELLED, "heartbeats stopped");
    assert_int_equal(send_cancel(up, 1), SL_PEER);
    rpc_stream_release(up);
    wait_for(&pair.down, &pair.down.opened, 2); /* and it dials again */
    pair_close(&pair);
}

static void test_refused_message_closes_with_the_reason(void **state)
{
    (void)state;
    struct pair pair;
    pair_open(&pair);
    struct rpc_stream *down = stream_of(&pair.down);
    Sluice__Refused refused = SLUICE__REFUSED__INIT; /* no request, no reason */
    Sluice__NodeMessage message = SLUICE__NODE_MESSAGE__INIT;
    message.body_case = SLUICE__NODE_MESSAGE__BODY_REFUSED;
    message.refused = &refused;
    assert_int_equal(rpc_send_to_coordinator(down, RPC_URGENT, &message), SL_OK);
    rpc_stream_release(down);
    wait_for(&pair.up, &pair.up.closed, 1);
    assert_closed(&pair.up, SL_INVALID, "Refused.request 0");
    wait_for(&pair.down, &pair.down.closed, 1);
    assert_closed(&pair.down, SL_INVALID, "Refused.request 0");
    pair_close(&pair);
}

/* What the client makes of each way in which the server may end its stream; and that nothing is taken
 * from a stream which has been refused, though much has come already. */
static void test_reasons_by_code(void **state)
{
    (void)state;
    struct pair pair;
    pair_open(&pair);
    struct rpc_stream *down = stream_of(&pair.down);
    assert_int_equal(send_hello(down, RPC_PROTOCOL + 1), SL_OK);
    for (uint64_t i = 0; i < 500; i++) {
        sl_status status = send_beat(down, i);
        assert_true(status == SL_OK || status == SL_PEER);
    }
    rpc_stream_release(down);
    wait_for(&pair.up, &pair.up.closed, 1);
    assert_closed(&pair.up, SL_UNSUPPORTED, "Hello.protocol 2");
    assert_int_equal(read_count(&pair.up, &pair.up.n_kept), 0);
    wait_for(&pair.down, &pair.down.closed, 1);
    assert_closed(&pair.down, SL_UNSUPPORTED, "Hello.protocol 2");

    wait_for(&pair.down, &pair.down.opened, 2);
    wait_for(&pair.up, &pair.up.messages, 2); /* the second stream's hello */
    down = stream_of(&pair.down);
    enum { N = 120000 }; /* two bytes each, and a struct each: beyond the bound of memory */
    Sluice__CacheEvent event = SLUICE__CACHE_EVENT__INIT;
    assert_int_equal(send_event(down, 0, N, &event), SL_OK);
    rpc_stream_release(down);
    wait_for(&pair.down, &pair.down.closed, 2);
    assert_closed(&pair.down, SL_EXHAUSTED, "to unpack");
    pair_close(&pair);
}

static void test_hello_must_come_first(void **state)
{
    (void)state;
    struct pair pair = {.address = ""};
    side_init(&pair.up);
    side_init(&pair.down);
    pair.down.greet = false;
    pair_open_server(&pair);
    struct rpc_client_handler handler = client_handler(&pair.down);
    assert_int_equal(rpc_client_start(pair.address, &handler, &pair.client), SL_OK);
    wait_for(&pair.down, &pair.down.opened, 1);
    struct rpc_stream *down = stream_of(&pair.down);
    assert_int_equal(send_beat(down, 1), SL_OK);
    rpc_stream_release(down);
    wait_for(&pair.down, &pair.down.closed, 1);
    assert_closed(&pair.down, SL_INVALID, "must be hello");
    pair_close(&pair);
    assert_int_equal(pair.up.messages, 0);
}

static void test_sends_are_checked(void **state)
{
    (void)state;
    struct pair pair;
    pair_open(&pair);
    struct rpc_stream *up = stream_of(&pair.up), *down = stream_of(&pair.down);
    assert_int_equal(send_events(down, 1, 15000), SL_INVALID);
    assert_non_null(strstr(sl_error(), "at most 262144"));
    Sluice__CacheEvents events = SLUICE__CACHE_EVENTS__INIT;
    Sluice__NodeMessage message = SLUICE__NODE_MESSAGE__INIT;
    message.body_case = SLUICE__NODE_MESSAGE__BODY_CACHE_EVENTS;
    message.cache_events = &events;
    assert_int_equal(rpc_send_to_coordinator(down, RPC_URGENT, &message), SL_INVALID);
    Sluice__Submit submit = SLUICE__SUBMIT__INIT;
    submit.n_tokens = (size_t)(RPC_SUBMIT_PARTS_MAX + 1) * RPC_SUBMIT_TOKENS_MAX + 1;
    assert_int_equal(rpc_send_submit(up, &submit), SL_INVALID); /* before a token is read */
    assert_non_null(strstr(sl_error(), "submit of 16809985 tokens; at most 16809984"));
    /* Nor does what the other side would end the stream for. */
    uint32_t token = 0;
    Sluice__Sampling sampling = SLUICE__SAMPLING__INIT;
    sampling.top_k = RPC_VOCAB_MAX + 1;
    submit = (Sluice__Submit)SLUICE__SUBMIT__INIT;
    submit.incarnation = submit.request = submit.prompt_tokens = submit.max_tokens = 1;
    submit.mode = SLUICE__MODE__MODE_LOCAL;
    submit.sampling = &sampling;
    submit.tokens = &token;
    submit.n_tokens = 1;
    assert_int_equal(rpc_send_submit(up, &submit), SL_INVALID);
    assert_non_null(strstr(sl_error(), "Sampling.top_k 16777217; want 0..16777216"));
    sampling.top_k = RPC_VOCAB_MAX;
    assert_int_equal(rpc_send_submit(up, &submit), SL_OK);
    wait_for(&pair.down, &pair.down.messages, 1);
    assert_int_equal(pair.down.closed, 0);
    rpc_stream_release(up);
    rpc_stream_release(down);
    pair_close(&pair);
}

static void test_port_taken(void **state)
{
    (void)state;
    struct pair pair;
    pair_open(&pair);
    struct rpc_server_handler handler = server_handler(&pair.up);
    struct rpc_server *second = NULL;
    assert_int_equal(rpc_server_start(pair.address, &handler, &second), SL_DEVICE);
    assert_non_null(strstr(sl_error(), pair.address));
    assert_null(second);
    pair_close(&pair);
}

/* Of a client that reaches nobody. */
static void expect_quick_stop(const char *target)
{
    struct side side;
    side_init(&side);
    struct rpc_client_handler handler = client_handler(&side);
    struct rpc_client *client;
    assert_int_equal(rpc_client_start(target, &handler, &client), SL_OK);
    sl_sleep_us(250 * SL_MS_US);
    uint64_t before = sl_real_us();
    rpc_client_stop(client);
    assert_true(sl_real_us() - before < SL_SECOND_US);
    assert_int_equal(side.opened, side.closed);
    side_fini(&side);
}

/* Nobody listens; or a peer accepts connections and never speaks, as a stopped process does. */
static void test_client_without_server_stops_quickly(void **state)
{
    (void)state;
    expect_quick_stop("127.0.0.1:1");
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof(address);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, n), 0);
    assert_int_equal(listen(fd, 4), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &n), 0);
    char target[32];
    snprintf(target, sizeof(target), "127.0.0.1:%u", ntohs(address.sin_port));
    expect_quick_stop(target);
    close(fd);
}

/* A client process that is stopped: sends queue, then are refused, and nothing blocks; once it goes
 * on, what was queued arrives; once it is killed, the stream ends soon. */
static int stopped_node_main(const char *target, int report)
{
    struct side side;
    side_init(&side);
    struct rpc_client_handler handler = client_handler(&side);
    struct rpc_client *client;
    if (rpc_client_start(target, &handler, &client) != SL_OK)
        return 1;
    uint32_t last = 0;
    for (;;) {
        uint32_t now = read_count(&side, &side.messages);
        if (now != last && write(report, &now, sizeof(now)) != (ssize_t)sizeof(now))
            return 1;
        last = now;
        sl_sleep_us(2000);
    }
}

static const char *self_path;

/* A server, and a node in a process of its own, which reports the number of its messages. */
struct outside {
    struct pair pair;
    struct rpc_stream *up;
    pid_t pid;
    int report[2];
};

static void outside_open(struct outside *node)
{
    *node = (struct outside){.pair = {.address = ""}};
    side_init(&node->pair.up);
    pair_open_server(&node->pair);
    assert_int_equal(pipe(node->report), 0);
    node->pid = fork();
    if (node->pid == 0) {
        char fd[16];
        snprintf(fd, sizeof(fd), "%d", node->report[1]);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execl(self_path, self_path, "node", node->pair.address, fd, (char *)NULL);
        _exit(1);
    }
    wait_for(&node->pair.up, &node->pair.up.messages, 1);
    node->up = stream_of(&node->pair.up);
}

/* The server has been stopped, the process killed. */
static void outside_close(struct outside *node)
{
    assert_int_equal(waitpid(node->pid, NULL, 0), node->pid);
    rpc_stream_release(node->up);
    close(node->report[0]);
    close(node->report[1]);
    side_fini(&node->pair.up);
}

static void test_stopped_and_killed_node(void **state)
{
    (void)state;
    struct outside node;
    outside_open(&node);
    assert_int_equal(kill(node.pid, SIGSTOP), 0);
    uint64_t slowest = 0;
    uint32_t sent = 0;
    sl_status status = SL_OK;
    while (sent < 100000 && status == SL_OK) {
        uint64_t before = sl_real_us();
        status = send_submit(node.up, 1, 10000);
        uint64_t took = sl_real_us() - before;
        slowest = took > slowest ? took : slowest;
        sent += status == SL_OK;
    }
    assert_int_equal(status, SL_EXHAUSTED);
    assert_true(sent > 1000 && sent < 10000);
    assert_true(slowest < 3 * SL_SECOND_US);          /* on a busy machine; usually 1 ms */
    assert_int_equal(send_cancel(node.up, 3), SL_OK); /* a class of its own still has room */
    assert_int_equal(kill(node.pid, SIGCONT), 0);
    uint32_t got = 0;
    uint64_t until = sl_real_us() + 6 * WAIT_US; /* 64 MiB to check, perhaps under a sanitizer */
    while (got < sent + 1 && sl_real_us() < until)
        assert_int_equal(read(node.report[0], &got, sizeof(got)), sizeof(got));
    assert_int_equal(got, sent + 1);
    uint64_t before = sl_real_us();
    assert_int_equal(kill(node.pid, SIGKILL), 0);
    wait_for(&node.pair.up, &node.pair.up.closed, 1);
    assert_int_equal(node.pair.up.why, SL_PEER);
    assert_true(sl_real_us() - before < 5 * SL_SECOND_US);
    rpc_server_stop(node.pair.server);
    outside_close(&node);
}

/* A server stops within its bound although a node with a full queue does not answer. */
static void test_server_stops_beside_a_stopped_node(void **state)
{
    (void)state;
    struct outside node;
    outside_open(&node);
    assert_int_equal(kill(node.pid, SIGSTOP), 0);
    for (int i = 0; i < 300; i++)
        assert_int_equal(send_submit(node.up, 1, 10000), SL_OK);
    uint64_t before = sl_real_us();
    rpc_server_stop(node.pair.server);
    assert_true(sl_real_us() - before < 6 * SL_SECOND_US);
    assert_int_equal(node.pair.up.closed, 1);
    assert_closed(&node.pair.up, SL_CANCELLED, "the coordinator stops");
    assert_int_equal(send_cancel(node.up, 1), SL_PEER);
    kill(node.pid, SIGKILL);
    outside_close(&node);
}

/* Many senders on one stream while both ends are stopped. */
struct sender {
    pthread_t thread;
    struct side *side;
    _Atomic bool *stop;
    bool up;
};

static void *sender_main(void *arg)
{
    struct sender *sender = arg;
    for (uint64_t i = 0; !atomic_load(sender->stop); i++) {
        struct rpc_stream *stream = stream_of(sender->side);
        if (stream == NULL) {
            sl_sleep_us(1000);
            continue;
        }
        sl_status status = sender->up ? send_cancel(stream, i + 1) : send_beat(stream, i);
        if (status != SL_OK)
            sl_sleep_us(1000);
        rpc_stream_release(stream);
    }
    return NULL;
}

static void test_stop_with_traffic(void **state)
{
    (void)state;
    for (int round = 0; round < 2; round++) {
        struct pair pair;
        pair_open(&pair);
        _Atomic bool stop = false;
        struct sender senders[4];
        for (int i = 0; i < 4; i++) {
            senders[i] = (struct sender){
                .side = i % 2 ? &pair.up : &pair.down, .stop = &stop, .up = i % 2 != 0};
            assert_int_equal(pthread_create(&senders[i].thread, NULL, sender_main, &senders[i]), 0);
        }
        sl_sleep_us(50 * SL_MS_US);
        if (round == 0)
            rpc_client_stop(pair.client);
        uint64_t before = sl_real_us();
        rpc_server_stop(pair.server);
        assert_true(sl_real_us() - before < 4 * SL_SECOND_US);
        if (round != 0)
            rpc_client_stop(pair.client);
        atomic_store(&stop, true);
        for (int i = 0; i < 4; i++)
            pthread_join(senders[i].thread, NULL);
        assert_int_equal(pair.up.opened, pair.up.closed);
        assert_int_equal(pair.down.opened, pair.down.closed);
        side_fini(&pair.up);
        side_fini(&pair.down);
    }
}

/* Messages and streams may outlive server and client. */
static void test_messages_outlive_their_stream(void **state)
{
    (void)state;
    struct pair pair;
    pair_open(&pair);
    struct rpc_stream *down = stream_of(&pair.down);
    side_hold(&pair.up);
    assert_int_equal(send_events(down, 1, 10), SL_OK);
    wait_for(&pair.up, &pair.up.n_held, 1);
    rpc_client_stop(pair.client);
    rpc_server_stop(pair.server);
    Sluice__NodeMessage *message = pair.up.held[0];
    assert_int_equal(message->cache_events->n_events, 10);
    rpc_node_message_free(message);
    assert_int_equal(send_beat(down, 1), SL_PEER);
    rpc_stream_release(down);
    side_fini(&pair.up);
    side_fini(&pair.down);
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    sl_log_set_level(SL_LOG_WARN);
    self_path = "/proc/self/exe";
    if (argc == 4 && strcmp(argv[1], "node") == 0) {
        int fd = 0;
        return sscanf(argv[3], "%d", &fd) == 1 ? stopped_node_main(argv[2], fd) : 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hosts_of_peers),
        cmocka_unit_test(test_messages_go_both_ways_in_order),
        cmocka_unit_test(test_long_submit_comes_in_parts),
        cmocka_unit_test(test_window_stops_bulk_not_urgent),
        cmocka_unit_test(test_urgent_overtakes_what_waits),
        cmocka_unit_test(test_client_comes_back_after_server_restart),
        cmocka_unit_test(test_queued_messages_leave_before_a_stop),
        cmocka_unit_test(test_close_with_reason_reaches_the_node),
        cmocka_unit_test(test_refused_message_closes_with_the_reason),
        cmocka_unit_test(test_reasons_by_code),
        cmocka_unit_test(test_hello_must_come_first),
        cmocka_unit_test(test_sends_are_checked),
        cmocka_unit_test(test_port_taken),
        cmocka_unit_test(test_client_without_server_stops_quickly),
        cmocka_unit_test(test_stopped_and_killed_node),
        cmocka_unit_test(test_server_stops_beside_a_stopped_node),
        cmocka_unit_test(test_stop_with_traffic),
        cmocka_unit_test(test_messages_outlive_their_stream),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

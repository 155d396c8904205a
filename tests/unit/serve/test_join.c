/* A node joins a coordinator that the test plays, over real gRPC. */
#include "serve/join.h"

#include "base/clock.h"
#include "base/log.h"
#include "proto/check.h"
#include "support/support.h"

#include <pthread.h>
#include <stdatomic.h>

#define WAIT_US (10 * SL_SECOND_US)

struct world {
    pthread_mutex_t mutex;
    /* The coordinator's side. */
    struct rpc_server *server;
    char address[32];
    uint64_t incarnation;
    uint64_t heartbeat_us, dead_us;
    bool welcome;
    struct rpc_stream *stream;
    uint32_t hellos, ready_hellos, beats, progress, tokens;
    uint64_t last_step, last_sample_us, last_failures;
    char last_src[16];
    /* The node's side. */
    struct serve_join *join;
    _Atomic bool ready;
    _Atomic bool nameless; /* its hello will not do */
    uint32_t asked;        /* for a hello */
    uint32_t joined, lost, cancels;
    uint64_t coordinator, lost_us;
    bool restarted;
    sl_status why;
};

/* ---- the coordinator ---- */

static void send_down(struct rpc_stream *stream, Sluice__CoordinatorMessage *message)
{
    sl_status status = rpc_send_to_node(stream, RPC_URGENT, message);
    assert_true(status == SL_OK || status == SL_PEER);
}

static void send_welcome(struct world *world, struct rpc_stream *stream)
{
    Sluice__Welcome welcome = SLUICE__WELCOME__INIT;
    welcome.protocol = RPC_PROTOCOL;
    welcome.coordinator = world->incarnation;
    welcome.heartbeat_us = world->heartbeat_us;
    welcome.dead_us = world->dead_us;
    Sluice__CoordinatorMessage message = SLUICE__COORDINATOR_MESSAGE__INIT;
    message.body_case = SLUICE__COORDINATOR_MESSAGE__BODY_WELCOME;
    message.welcome = &welcome;
    send_down(stream, &message);
}

static void on_beat(struct world *world, const Sluice__Heartbeat *beat)
{
    world->beats++;
    world->last_step = beat->step;
    world->last_sample_us = beat->n_samples == 0 ? 0 : beat->samples[0]->compute_us;
    if (beat->n_transfers > 0) {
        world->last_failures = beat->transfers[0]->failures[SLUICE__REASON__REASON_FULL];
        snprintf(world->last_src, sizeof(world->last_src), "%s", beat->transfers[0]->src);
    }
}

static void on_node_message(void *arg, struct rpc_stream *stream, Sluice__NodeMessage *message)
{
    struct world *world = arg;
    pthread_mutex_lock(&world->mutex);
    if (message->body_case == SLUICE__NODE_MESSAGE__BODY_HELLO) {
        world->hellos++;
        world->ready_hellos += message->hello->ready;
        assert_string_equal(message->hello->version, SLUICE_VERSION);
        assert_int_equal(message->hello->pid, getpid());
        if (world->stream != stream) {
            rpc_stream_release(world->stream);
            world->stream = rpc_stream_acquire(stream);
        }
        if (world->welcome)
            send_welcome(world, stream);
    } else if (message->body_case == SLUICE__NODE_MESSAGE__BODY_HEARTBEAT) {
        on_beat(world, message->heartbeat);
    } else if (message->body_case == SLUICE__NODE_MESSAGE__BODY_LOAD_PROGRESS) {
        world->progress++;
        assert_int_equal(message->load_progress->bytes_total, 100);
    } else if (message->body_case == SLUICE__NODE_MESSAGE__BODY_TOKENS) {
        world->tokens++;
    }
    pthread_mutex_unlock(&world->mutex);
    rpc_node_message_free(message);
}

static void coordinator_start(struct world *world)
{
    struct rpc_server_handler handler = {.message = on_node_message, .arg = world};
    assert_ok(rpc_server_start(world->address[0] == '\0' ? "127.0.0.1:0" : world->address, &handler,
                               &world->server));
    snprintf(world->address, sizeof(world->address), "127.0.0.1:%u",
             rpc_server_port(world->server));
}

/* ---- the node ---- */

static void on_hello(void *arg, Sluice__Hello *hello)
{
    static char id[] = "p0", numerics[] = "ref", transport[] = "ucx";
    static uint8_t hash[RPC_HASH_BYTES], bytes[4];
    static Sluice__Rank rank;
    static Sluice__Rank *ranks[] = {&rank};
    struct world *world = arg;
    pthread_mutex_lock(&world->mutex);
    world->asked++;
    pthread_mutex_unlock(&world->mutex);
    if (!atomic_load(&world->nameless))
        hello->node_id = id;
    hello->role = SLUICE__ROLE__ROLE_PREFILL;
    hello->incarnation = 77;
    hello->ready = atomic_load(&world->ready);
    if (!hello->ready)
        return;
    sluice__rank__init(&rank);
    rank.address = (ProtobufCBinaryData){sizeof(bytes), bytes};
    hello->identity = (ProtobufCBinaryData){sizeof(hash), hash};
    hello->layout = hello->identity;
    hello->numerics_id = numerics;
    hello->transport = transport;
    hello->vocab = hello->context_max = hello->blocks_total = 100;
    hello->block_tokens = 64;
    hello->block_bytes = 4096;
    hello->n_ranks = 1;
    hello->ranks = ranks;
}

static void on_heartbeat(void *arg, struct serve_heartbeat *beat)
{
    (void)arg;
    beat->message.step = 5;
    beat->load.running = 3;
    beat->message.n_samples = RPC_SAMPLES_MAX;
    for (uint32_t i = 0; i < RPC_SAMPLES_MAX; i++)
        beat->samples[i].compute_us = 900 + i;
    beat->message.n_transfers = SERVE_TRANSFERS_MAX;
    for (uint32_t i = 0; i < SERVE_TRANSFERS_MAX; i++) {
        snprintf(beat->names[i][0], sizeof(beat->names[i][0]), "p%u", i);
        snprintf(beat->names[i][1], sizeof(beat->names[i][1]), "d%u", i);
        beat->failures[i][SLUICE__REASON__REASON_FULL] = 9;
    }
}

static bool on_loading(void *arg, Sluice__LoadProgress *progress)
{
    struct world *world = arg;
    progress->bytes_done = 10;
    progress->bytes_total = 100;
    return !atomic_load(&world->ready);
}

static void on_joined(void *arg, uint64_t coordinator, uint64_t lost_us, bool restarted)
{
    struct world *world = arg;
    pthread_mutex_lock(&world->mutex);
    world->joined++;
    world->coordinator = coordinator;
    world->lost_us = lost_us;
    world->restarted = restarted;
    pthread_mutex_unlock(&world->mutex);
}

static void on_lost(void *arg, sl_status why, const char *text)
{
    struct world *world = arg;
    pthread_mutex_lock(&world->mutex);
    assert_true(text[0] != '\0');
    world->lost++;
    world->why = why;
    pthread_mutex_unlock(&world->mutex);
}

static void on_message(void *arg, Sluice__CoordinatorMessage *message)
{
    struct world *world = arg;
    pthread_mutex_lock(&world->mutex);
    world->cancels += message->body_case == SLUICE__COORDINATOR_MESSAGE__BODY_CANCEL;
    pthread_mutex_unlock(&world->mutex);
    rpc_coordinator_message_free(message);
}

static void node_start(struct world *world)
{
    struct serve_join_args args = {.coordinator = world->address,
                                   .hello = on_hello,
                                   .heartbeat = on_heartbeat,
                                   .loading = on_loading,
                                   .joined = on_joined,
                                   .lost = on_lost,
                                   .message = on_message,
                                   .arg = world};
    assert_ok(serve_join_start(&args, &world->join));
}

/* ---- the tests ---- */

static int setup(void **state)
{
    struct world *world = sl_zalloc(1, sizeof(*world));
    pthread_mutex_init(&world->mutex, NULL);
    world->incarnation = 1001;
    world->heartbeat_us = 20 * SL_MS_US;
    world->dead_us = 5 * SL_SECOND_US;
    world->welcome = true;
    *state = world;
    return 0;
}

static int teardown(void **state)
{
    struct world *world = *state;
    serve_join_stop(world->join);
    rpc_server_stop(world->server);
    rpc_stream_release(world->stream);
    pthread_mutex_destroy(&world->mutex);
    sl_free(world);
    return 0;
}

static void wait_for(struct world *world, const uint32_t *count, uint32_t wanted)
{
    uint64_t until = sl_real_us() + WAIT_US;
    uint32_t got;
    do {
        pthread_mutex_lock(&world->mutex);
        got = *count;
        pthread_mutex_unlock(&world->mutex);
        if (sl_real_us() > until)
            fail_msg("waited for %u, got %u", wanted, got);
        sl_sleep_us(500);
    } while (got < wanted);
}

static uint32_t count_of(struct world *world, const uint32_t *count)
{
    pthread_mutex_lock(&world->mutex);
    uint32_t value = *count;
    pthread_mutex_unlock(&world->mutex);
    return value;
}

static void test_joins_and_beats(void **state)
{
    struct world *world = *state;
    coordinator_start(world);
    node_start(world);
    wait_for(world, &world->joined, 1);
    uint64_t before = sl_real_us();
    wait_for(world, &world->beats, 8); /* in the period that the coordinator said */
    assert_true(sl_real_us() - before < 4 * SL_SECOND_US);
    wait_for(world, &world->progress, 1);
    assert_int_equal(serve_join_lost_us(world->join), 0);
    pthread_mutex_lock(&world->mutex);
    assert_int_equal(world->coordinator, 1001);
    assert_int_equal(world->lost_us, 0);
    assert_false(world->restarted);
    assert_int_equal(world->last_step, 5);
    assert_int_equal(world->last_sample_us, 900);
    assert_int_equal(world->last_failures, 9);
    assert_string_equal(world->last_src, "p0");
    assert_int_equal(world->ready_hellos, 0);
    pthread_mutex_unlock(&world->mutex);
    atomic_store(&world->ready, true);
    serve_join_announce(world->join);
    wait_for(world, &world->ready_hellos, 1);
    wait_for(world, &world->beats, count_of(world, &world->beats) + 2);
    assert_int_equal(count_of(world, &world->joined),
                     1); /* the second Welcome is no second joining */
}

static void test_messages_pass_both_ways(void **state)
{
    struct world *world = *state;
    uint32_t token = 5;
    Sluice__TokenRun run = SLUICE__TOKEN_RUN__INIT;
    run.request = 1;
    run.n_tokens = 1;
    run.tokens = &token;
    Sluice__TokenRun *list[] = {&run};
    Sluice__TokenRuns runs = SLUICE__TOKEN_RUNS__INIT;
    runs.n_runs = 1;
    runs.runs = list;
    Sluice__NodeMessage message = SLUICE__NODE_MESSAGE__INIT;
    message.body_case = SLUICE__NODE_MESSAGE__BODY_TOKENS;
    message.tokens = &runs;
    coordinator_start(world);
    node_start(world);
    sl_status early = serve_join_send(world->join, RPC_URGENT, &message);
    assert_true(early == SL_PEER || early == SL_OK);
    wait_for(world, &world->joined, 1);
    uint32_t before = count_of(world, &world->tokens);
    assert_ok(serve_join_send(world->join, RPC_URGENT, &message));
    wait_for(world, &world->tokens, before + 1);
    Sluice__Cancel cancel = SLUICE__CANCEL__INIT;
    cancel.request = 3;
    Sluice__CoordinatorMessage down = SLUICE__COORDINATOR_MESSAGE__INIT;
    down.body_case = SLUICE__COORDINATOR_MESSAGE__BODY_CANCEL;
    down.cancel = &cancel;
    send_down(world->stream, &down);
    wait_for(world, &world->cancels, 1);
}

static void test_coordinator_restarts(void **state)
{
    struct world *world = *state;
    coordinator_start(world);
    node_start(world);
    wait_for(world, &world->joined, 1);
    rpc_server_stop(world->server);
    wait_for(world, &world->lost, 1);
    Sluice__NodeMessage message = SLUICE__NODE_MESSAGE__INIT;
    assert_fails(serve_join_send(world->join, RPC_URGENT, &message), SL_PEER, world->address);
    sl_sleep_us(50 * SL_MS_US);
    assert_true(serve_join_lost_us(world->join) >= 50 * SL_MS_US);
    world->incarnation = 2002;
    coordinator_start(world);
    wait_for(world, &world->joined, 2);
    assert_int_equal(world->coordinator, 2002);
    assert_true(world->restarted);
    assert_true(world->lost_us >= 50 * SL_MS_US && world->lost_us < WAIT_US);
    /* The same one after a broken link: not a restart. */
    rpc_stream_close(world->stream, "link");
    wait_for(world, &world->joined, 3);
    assert_int_equal(world->lost, 2);
    assert_false(world->restarted);
}

static void test_silent_coordinator_is_left(void **state)
{
    struct world *world = *state;
    world->dead_us = 300 * SL_MS_US;
    coordinator_start(world);
    node_start(world);
    wait_for(world, &world->joined, 1);
    uint64_t before = sl_real_us();
    wait_for(world, &world->lost, 1); /* it never says a Beat */
    assert_true(sl_real_us() - before < 3 * SL_SECOND_US);
    assert_int_equal(world->why, SL_CANCELLED);
    wait_for(world, &world->joined, 2);
}

/* A heartbeat that is asked for does not wait for its time. */
static void test_beats_at_once(void **state)
{
    struct world *world = *state;
    world->heartbeat_us = 60 * SL_SECOND_US;
    world->dead_us = 600 * SL_SECOND_US;
    coordinator_start(world);
    node_start(world);
    wait_for(world, &world->joined, 1);
    wait_for(world, &world->beats, 1);
    sl_sleep_us(1200 * SL_MS_US); /* the period before the Welcome was a second */
    uint32_t beats = count_of(world, &world->beats);
    for (uint32_t i = 1; i <= 3; i++) {
        serve_join_beat(world->join);
        wait_for(world, &world->beats, beats + i);
    }
    sl_sleep_us(50 * SL_MS_US);
    assert_int_equal(count_of(world, &world->beats), beats + 3);
    /* The last one, which says that the node drains, is not asked for. */
    serve_join_stop(world->join);
    world->join = NULL;
    wait_for(world, &world->beats, beats + 4);
}

/* A hello that the check refuses never leaves; the stream is given up, and the next one tried. */
static void test_hello_that_will_not_do(void **state)
{
    struct world *world = *state;
    atomic_store(&world->nameless, true);
    coordinator_start(world);
    node_start(world);
    wait_for(world, &world->asked, 2);
    assert_int_equal(count_of(world, &world->hellos), 0);
    assert_int_equal(count_of(world, &world->joined), 0);
    atomic_store(&world->nameless, false);
    wait_for(world, &world->joined, 1);
}

static void test_never_welcomed_is_never_joined(void **state)
{
    struct world *world = *state;
    world->welcome = false;
    coordinator_start(world);
    node_start(world);
    wait_for(world, &world->hellos, 1);
    rpc_stream_close(world->stream, "another model");
    wait_for(world, &world->hellos, 2);
    assert_int_equal(world->joined, 0);
    assert_int_equal(world->lost, 0);
    assert_true(serve_join_lost_us(world->join) > 0);
}

static void test_stop_without_coordinator(void **state)
{
    struct world *world = *state;
    snprintf(world->address, sizeof(world->address), "127.0.0.1:1");
    node_start(world);
    sl_sleep_us(30 * SL_MS_US);
    uint64_t before = sl_real_us();
    serve_join_stop(world->join);
    world->join = NULL;
    assert_true(sl_real_us() - before < SL_SECOND_US);
}

static void test_bad_address_is_refused(void **state)
{
    struct world *world = *state;
    static const char *const wrong[] = {"nowhere", ":80", "host:0", "host:99999", ""};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        struct serve_join_args args = {.coordinator = wrong[i],
                                       .hello = on_hello,
                                       .heartbeat = on_heartbeat,
                                       .message = on_message,
                                       .arg = world};
        assert_fails(serve_join_start(&args, &world->join), SL_INVALID, "--coordinator");
        assert_null(world->join);
    }
}

#define WITH(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    sl_log_set_level(SL_LOG_ERROR);
    const struct CMUnitTest tests[] = {
        WITH(test_joins_and_beats),
        WITH(test_messages_pass_both_ways),
        WITH(test_coordinator_restarts),
        WITH(test_silent_coordinator_is_left),
        WITH(test_beats_at_once),
        WITH(test_hello_that_will_not_do),
        WITH(test_never_welcomed_is_never_joined),
        WITH(test_stop_without_coordinator),
        WITH(test_bad_address_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

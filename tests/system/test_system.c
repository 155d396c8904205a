/* Everything there is, run together: HTTP in, gRPC between, blocks over the loop, real engines; two prefill and two
 * decode nodes, and clients on threads of their own. Meant for ThreadSanitizer, which sees all threads of the system
 * only when they are in one process; the answers must be right without it too. They are those of transformers
 * (tests/golden/models), whoever leaves meanwhile.
 *
 *   travel     one request at a time: every byte that is sent is received, and how many there are
 *   crowd      all kinds of requests at once, and clients that leave
 *   repeat     what is cached is not computed, nor sent, again
 *   cuts       links break under streams
 *   restart    another coordinator takes the place of the first
 *   end        SIGTERM: what is open ends whole */
#include "system/client.h"
#include "system/system.h"

#include "unit/coordinator/fake_node.h"

#include "base/clock.h"
#include "base/fault.h"

#include <stdatomic.h>

#define CLIENTS_MAX 8u
#define CUTS        (TEST_TSAN ? 6u : 20u)
#define DECIDES     40.0 /* times f32_error: as in tests/e2e/test_families.py */
#define BYTES       "sluice_kv_transfer_bytes_total"
#define FAILURES    "sluice_kv_transfer_failures_total"
#define COMPLETIONS "/v1/completions"
#define CHATS       "/v1/chat/completions"
#define STREAM      ",\"stream\":true,\"stream_options\":{\"include_usage\":true}"

struct scene {
    struct system system;
    struct golden_model *golden;
    _Atomic uint32_t serial; /* of salts: a prompt with a new one is in no cache */
    _Atomic bool over;
    _Atomic uint32_t n_answers; /* of run_disturbed */
    _Atomic uint32_t n_begun;   /* of run_stream */
    uint32_t n_clients;
    bool windows; /* of what lies before one nothing travels */
};

struct client {
    struct scene *scene;
    struct sl_thread thread;
    uint32_t index;
    uint32_t n_whole, n_asked;    /* of run_disturbed */
    const struct golden_run *run; /* of run_stream */
    struct answer answer;
};

/* ---- requests ---- */

static const struct golden_run *run_of(const struct scene *scene, uint32_t turn)
{
    return &scene->golden->runs[turn % scene->golden->n_runs];
}

static const struct golden_run *longest_run_of(const struct scene *scene)
{
    const struct golden_run *longest = run_of(scene, 0);
    for (uint32_t i = 1; i < scene->golden->n_runs; i++)
        if (run_of(scene, i)->prompt_tokens > longest->prompt_tokens)
            longest = run_of(scene, i);
    return longest;
}

static char *body_of(struct scene *scene, const struct golden_run *run, uint32_t max_tokens,
                     const char *more)
{
    char *members =
        sl_asprintf(",\"cache_salt\":\"%u\"%s", atomic_fetch_add(&scene->serial, 1), more);
    char *body = client_golden_body(scene->golden, run, max_tokens, members);
    sl_free(members);
    return body;
}

static void ask_golden(struct scene *scene, const struct golden_run *run, const char *more)
{
    struct answer answer;
    char *body = body_of(scene, run, run->n_tokens, more);
    client_ask(scene->system.port, COMPLETIONS, body, NULL, &answer);
    answer_expect(&answer, 0, run);
    answer_fini(&answer);
    sl_free(body);
}

/* Three choices, drawn: the same twice, streamed and not. */
static void ask_choices(struct scene *scene, uint32_t turn)
{
    struct answer answers[2];
    for (uint32_t i = 0; i < 2; i++) {
        char *body =
            sl_asprintf("{\"prompt\":\"Harbour %u holds\",\"n\":3,\"seed\":%u,\"max_tokens\":9,"
                        "\"temperature\":0.9,\"ignore_eos\":true%s}",
                        turn, turn, i == 0 ? "" : STREAM);
        client_ask(scene->system.port, COMPLETIONS, body, NULL, &answers[i]);
        assert_true(answers[i].whole);
        assert_int_equal(answers[i].n_finished, 3);
        sl_free(body);
    }
    answer_expect_same(&answers[0], &answers[1], 3);
    answer_fini(&answers[0]);
    answer_fini(&answers[1]);
}

static void ask_chat(struct scene *scene, uint32_t turn)
{
    struct answer answers[2];
    for (uint32_t i = 0; i < 2; i++) {
        char *body =
            sl_asprintf("{\"messages\":[{\"role\":\"user\",\"content\":\"Berth %u holds tea and "
                        "sugar. Berth %u\"}],"
                        "\"max_tokens\":7,\"temperature\":0%s}",
                        turn, turn, i == 0 ? "" : STREAM);
        client_ask(scene->system.port, CHATS, body, NULL, &answers[i]);
        assert_true(answers[i].whole);
        assert_int_equal(answers[i].n_finished, 1);
        sl_free(body);
    }
    answer_expect_same(&answers[0], &answers[1], 1);
    answer_fini(&answers[0]);
    answer_fini(&answers[1]);
}

static void leave(struct scene *scene, bool at_once)
{
    char *body = body_of(scene, longest_run_of(scene), 400, STREAM);
    client_leave(scene->system.port, COMPLETIONS, body, at_once);
    sl_free(body);
}

static void ask_badly(struct scene *scene)
{
    struct answer answer;
    client_ask(scene->system.port, COMPLETIONS, "{\"prompt\":\"a\",\"max_tokens\":0}", NULL,
               &answer);
    assert_int_equal(answer.status, 400);
    answer_fini(&answer);
    client_ask(scene->system.port, "/tokenize", "{\"prompt\":\"Berth 17\"}", NULL, &answer);
    assert_int_equal(answer.status, 200);
    answer_fini(&answer);
}

/* Of a node, at the address that /cluster names. */
static void look_at_node(struct scene *scene, uint32_t turn)
{
    static const char *const paths[] = {"/metrics", "/health", "/ready"};
    json_t *cluster = system_page(&scene->system, "/cluster");
    const json_t *nodes = json_object_get(cluster, "nodes");
    const json_t *node = json_array_get(nodes, turn % json_array_size(nodes));
    const char *port = strrchr(json_string_value(json_object_get(node, "admin")), ':');
    assert_non_null(port);
    char *answer = client_request_within((uint16_t)strtoul(port + 1, NULL, 10), "GET",
                                         paths[turn % 3], NULL, SYSTEM_WAIT_US / SL_MS_US);
    assert_int_equal(client_status(answer), 200);
    sl_free(answer);
    json_decref(cluster);
    (void)system_metric(&scene->system, BYTES, "side=\"recv\"");
}

/* ---- clients ---- */

static void run_crowd(void *arg)
{
    struct client *client = arg;
    struct scene *scene = client->scene;
    enum { KINDS = 8 };
    for (uint32_t round = 0; round < KINDS; round++) {
        uint32_t turn = client->index * KINDS + round;
        switch ((round + client->index) % KINDS) {
        case 0:
            ask_golden(scene, run_of(scene, client->index), "");
            break;
        case 1:
            ask_golden(scene, run_of(scene, client->index + 1), STREAM);
            break;
        case 2:
            ask_choices(scene, turn);
            break;
        case 3:
            ask_chat(scene, turn);
            break;
        case 4:
            leave(scene, false);
            break;
        case 5:
            leave(scene, true);
            break;
        case 6:
            ask_badly(scene);
            break;
        default:
            look_at_node(scene, turn);
            break;
        }
    }
}

/* Streams until it is over; each ends whole or with an error, and what it says is right. */
static void run_disturbed(void *arg)
{
    struct client *client = arg;
    struct scene *scene = client->scene;
    while (!atomic_load(&scene->over)) {
        const struct golden_run *run = run_of(scene, client->index + client->n_asked);
        struct answer answer;
        char *body = body_of(scene, run, run->n_tokens, STREAM);
        client_ask(scene->system.port, COMPLETIONS, body, NULL, &answer);
        client->n_whole += answer_expect_beginning(&answer, run);
        client->n_asked++;
        atomic_fetch_add(&scene->n_answers, 1);
        answer_fini(&answer);
        sl_free(body);
    }
}

/* One stream. */
static void run_stream(void *arg)
{
    struct client *client = arg;
    char *body = body_of(client->scene, client->run, client->run->n_tokens, STREAM);
    client_ask(client->scene->system.port, COMPLETIONS, body, &client->scene->n_begun,
               &client->answer);
    sl_free(body);
}

static void start_clients(struct scene *scene, struct client *clients, void (*run)(void *arg))
{
    for (uint32_t i = 0; i < scene->n_clients; i++) {
        clients[i] = (struct client){.scene = scene, .index = i, .run = run_of(scene, i)};
        assert_ok(sl_thread_start(&clients[i].thread, "client", run, &clients[i]));
    }
}

/* ---- the acts ---- */

static void travel(struct scene *scene)
{
    const struct system *s = &scene->system;
    json_t *cluster = system_page(s, "/cluster");
    const json_t *node = json_array_get(json_object_get(cluster, "nodes"), 0);
    assert_string_equal(json_string_value(json_object_get(node, "transport")), "loop");
    double block_bytes = (double)json_integer_value(json_object_get(node, "block_bytes"));
    json_decref(cluster);
    double want = 0, sent = 0, received = 0;
    for (uint32_t i = 0; i < scene->golden->n_runs; i++) {
        const struct golden_run *run = run_of(scene, i);
        ask_golden(scene, run, i % 2 == 0 ? "" : STREAM);
        uint32_t n_blocks = (run->prompt_tokens + SYSTEM_BLOCK_TOKENS - 1) / SYSTEM_BLOCK_TOKENS;
        want += n_blocks > 1 ? n_blocks * block_bytes : 0; /* one is read where it is decoded */
    }
    uint64_t end = sl_real_us() + SYSTEM_WAIT_US;
    bool right = false;
    while (!right && sl_real_us() < end) {
        sl_sleep_us(50 * SL_MS_US);
        sent = system_metric(s, BYTES, "side=\"send\"");
        received = system_metric(s, BYTES, "side=\"recv\"");
        right = sent == received && (scene->windows ? sent > 0 && sent <= want : sent == want);
    }
    if (!right)
        fail_msg("%.0f bytes sent, %.0f received, want %.0f", sent, received, want);
}

static void crowd(struct scene *scene)
{
    struct client clients[CLIENTS_MAX];
    start_clients(scene, clients, run_crowd);
    for (uint32_t i = 0; i < scene->n_clients; i++)
        sl_thread_join(&clients[i].thread);
    system_settled(&scene->system);
}

/* The index hears of blocks a moment after they are there, so the first repeat may come too early. */
static void repeat(struct scene *scene)
{
    const struct golden_run *run = longest_run_of(scene);
    uint64_t end = sl_real_us() + SYSTEM_WAIT_US;
    char *body = client_golden_body(scene->golden, run, run->n_tokens, "");
    uint32_t cached = 0;
    for (uint32_t i = 0; cached < SYSTEM_BLOCK_TOKENS && sl_real_us() < end; i++) {
        struct answer answer;
        client_ask(scene->system.port, COMPLETIONS, body, NULL, &answer);
        answer_expect(&answer, 0, run);
        cached = answer.cached_tokens;
        assert_true(i > 0 || cached == 0);
        answer_fini(&answer);
    }
    assert_true(cached >= SYSTEM_BLOCK_TOKENS);
    sl_free(body);
}

/* Links break at the pace at which answers end, and until streams have failed of it. */
static void cuts(struct scene *scene)
{
    struct client clients[CLIENTS_MAX];
    const struct system *s = &scene->system;
    uint32_t n_whole = 0, n_asked = 0;
    uint64_t random = 3, until = sl_real_us() + SYSTEM_WAIT_US;
    atomic_store(&scene->over, false);
    start_clients(scene, clients, run_disturbed);
    for (uint32_t i = 0; i < CUTS || system_metric(s, FAILURES, "reason=\"lost\"") == 0; i++) {
        uint32_t enough = atomic_load(&scene->n_answers) + scene->n_clients / 2;
        while (atomic_load(&scene->n_answers) < enough && sl_real_us() < until)
            sl_sleep_us(10 * SL_MS_US);
        if (sl_real_us() >= until)
            break;
        uint32_t a = (uint32_t)(test_random(&random) % s->n_nodes);
        uint32_t b = (a + 1 + (uint32_t)(test_random(&random) % (s->n_nodes - 1))) % s->n_nodes;
        system_cut(s, a, b);
    }
    atomic_store(&scene->over, true);
    for (uint32_t i = 0; i < scene->n_clients; i++) {
        sl_thread_join(&clients[i].thread);
        n_whole += clients[i].n_whole;
        n_asked += clients[i].n_asked;
    }
    print_message("links broke under %.0f streams of blocks; %u of %u answers are whole\n",
                  system_metric(s, FAILURES, "reason=\"lost\""), n_whole, n_asked);
    assert_true(system_metric(s, FAILURES, "reason=\"lost\"") > 0);
    assert_true(n_whole >= n_asked / 2);
    system_settled(s);
}

/* Streams of all clients, each begun; the last ones are not at their ends, since steps are slow from here on. */
static void open_streams(struct scene *scene, struct client *clients)
{
    char fault[64];
    snprintf(fault, sizeof(fault), "engine_step=delay:%llu",
             (unsigned long long)(SL_SECOND_US / scene->golden->runs[0].n_tokens));
    assert_ok(sl_fault_configure(fault));
    atomic_store(&scene->n_begun, 0);
    start_clients(scene, clients, run_stream);
    uint64_t end = sl_real_us() + SYSTEM_WAIT_US;
    while (atomic_load(&scene->n_begun) < scene->n_clients && sl_real_us() < end)
        sl_sleep_us(5 * SL_MS_US);
    assert_int_equal(atomic_load(&scene->n_begun), scene->n_clients);
}

/* Returns how many ended whole; the others say an error. */
static uint32_t join_streams(const struct scene *scene, struct client *clients)
{
    uint32_t n_whole = 0;
    for (uint32_t i = 0; i < scene->n_clients; i++) {
        sl_thread_join(&clients[i].thread);
        n_whole += answer_expect_beginning(&clients[i].answer, clients[i].run);
        answer_fini(&clients[i].answer);
    }
    sl_fault_clear();
    return n_whole;
}

static void restart(struct scene *scene)
{
    struct client clients[CLIENTS_MAX];
    open_streams(scene, clients);
    system_restart_coordinator(&scene->system);
    assert_true(join_streams(scene, clients) < scene->n_clients);
    system_settled(&scene->system);
    ask_golden(scene, longest_run_of(scene), STREAM);
}

static void end(struct scene *scene)
{
    struct client clients[CLIENTS_MAX];
    open_streams(scene, clients);
    system_terminate(&scene->system);
    struct answer late;
    client_ask(scene->system.port, COMPLETIONS, "{\"prompt\":\"a\"}", NULL, &late);
    assert_int_equal(late.status, 503);
    answer_fini(&late);
    assert_int_equal(join_streams(scene, clients), scene->n_clients);
    system_close(&scene->system);
}

struct play {
    const char *golden, *backend, *threads;
    uint32_t n_clients, kv_blocks, prompt_max, tokens_max;
    bool windows;
};

/* Leaves the runs that are short enough; what is left of each must be decided by more than a rounding. */
static struct golden_model *read_runs(const struct play *play)
{
    struct golden_model *golden = golden_read(play->golden);
    uint32_t n = 0;
    for (uint32_t i = 0; i < golden->n_runs; i++) {
        struct golden_run *run = &golden->runs[i];
        if (run->prompt_tokens > play->prompt_max)
            continue;
        if (run->n_tokens > play->tokens_max)
            run->n_tokens = play->tokens_max;
        for (uint32_t k = 0; k < run->n_tokens; k++)
            assert_true(run->margins[k] > DECIDES * golden->f32_error);
        golden->runs[n++] = *run;
    }
    golden->n_runs = n;
    assert_true(n > 1);
    return golden;
}

static void run(const struct play *play)
{
    static struct scene scene;
    scene.golden = read_runs(play);
    scene.windows = play->windows;
    scene.n_clients = play->n_clients;
    char *model = sl_asprintf("%s/%s", MODEL_GOLDEN_DIR, scene.golden->model);
    struct system_args args = {
        .model = model,
        .backend = play->backend,
        .threads = play->threads,
        .kv_blocks = play->kv_blocks,
        .n_prefill = 2,
        .n_decode = 2,
        .loop = {
            .seed = 7, .delay_us = 200, .land_us = 200, .purge_us = 2000, .local_percent = 50}};
    system_open(&scene.system, &args);
    travel(&scene);
    crowd(&scene);
    repeat(&scene);
    cuts(&scene);
    restart(&scene);
    end(&scene);
    sl_free(scene.golden);
    sl_free(model);
}

static void test_cpu(void **state)
{
    (void)state;
    run(&(struct play){.golden = "llama-64",
                       .backend = "cpu",
                       .threads = "2",
                       .n_clients = 8,
                       .kv_blocks = 256,
                       .prompt_max = 200,
                       .tokens_max = 28});
}

/* Two KV classes, one of which slides; and so few blocks that requests wait for them. */
static void test_windows(void **state)
{
    (void)state;
    run(&(struct play){.golden = "qwen2-window",
                       .backend = "cpu",
                       .threads = "1",
                       .n_clients = 8,
                       .kv_blocks = 64,
                       .prompt_max = 200,
                       .tokens_max = 28,
                       .windows = true});
}

/* Short: its kernels are the plain ones. */
static void test_fake(void **state)
{
    (void)state;
    run(&(struct play){.golden = "llama-64",
                       .backend = "fake",
                       .threads = "1",
                       .n_clients = 4,
                       .kv_blocks = 128,
                       .prompt_max = 65,
                       .tokens_max = 8});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cpu),
        cmocka_unit_test(test_windows),
        cmocka_unit_test(test_fake),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

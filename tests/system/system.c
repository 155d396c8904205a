/* Each node's configuration comes from the option tables, so that defaults are those of the programs. Signals and the
 * drain are one per process (serve/serve.h): SIGTERM reaches the coordinator and all nodes at once, as when a machine
 * is shut down. Nothing here is called by two threads but what only reads pages. */
#include "system/system.h"

#include "support/support.h"
#include "unit/coordinator/fake_node.h"

#include "base/clock.h"
#include "base/log.h"
#include "decode/policy.h"
#include "prefill/policy.h"
#include "serve/serve.h"
#include "worker/node.h"

#include <inttypes.h>
#include <signal.h>

#define ARGUMENTS 16
#define POLL_US   (20 * SL_MS_US)

/* ---- up ---- */

static void start_coordinator(struct system *s, const char *nodes_listen)
{
    struct coordinator_config config;
    coordinator_config_init(&config);
    config.model_dir = s->args.model;
    config.served_name = "m";
    config.listen = "127.0.0.1:0";
    config.nodes_listen = nodes_listen;
    config.local_prefill_max_tokens = SYSTEM_BLOCK_TOKENS;
    config.queue_us = SYSTEM_WAIT_US;
    assert_ok(coordinator_start(&config, &s->coordinator));
    s->port = coordinator_http_port(s->coordinator);
    s->nodes_port = coordinator_nodes_port(s->coordinator);
}

static void configure(const struct system *s, const char *id, struct system_node *node)
{
    char coordinator[64], model[256], kv_blocks[32];
    snprintf(kv_blocks, sizeof(kv_blocks), "--kv-blocks=%u", s->args.kv_blocks);
    snprintf(coordinator, sizeof(coordinator), "127.0.0.1:%u", s->nodes_port);
    snprintf(model, sizeof(model), "%s", s->args.model);
    const char *argv[] = {"node",
                          "--model",
                          model,
                          "--coordinator",
                          coordinator,
                          "--id",
                          id,
                          "--backend",
                          s->args.backend,
                          "--threads",
                          s->args.threads,
                          "--kv-type=f32", /* as the golden tokens */
                          "--block-tokens=16",
                          "--local-prefill-max-tokens=16",
                          kv_blocks,
                          "--chunk-tokens=48",
                          "--transfer-verify",
                          "--log-level=error",
                          "--drain-seconds=120"};
    const struct sl_option *const tables[] = {serve_node_options, serve_worker_options,
                                              serve_admin_options, serve_options, NULL};
    const size_t counts[] = {serve_node_option_count, serve_worker_option_count,
                             serve_admin_option_count, serve_option_count};
    struct sl_options_args args = {.program = "node",
                                   .summary = "",
                                   .tables = tables,
                                   .table_counts = counts,
                                   .argc = sizeof(argv) / sizeof(argv[0]),
                                   .argv = (char **)(uintptr_t)argv,
                                   .config = &node->config};
    bool done;
    assert_ok(sl_options_parse(&args, &node->options, &done));
}

static void run_node(void *arg)
{
    struct system_node *node = arg;
    node->status = worker_node_run(node->policy, &node->config, node->loop);
    if (node->status != SL_OK)
        fail_msg("node %s: %s", node->config.id, sl_error());
}

/* Nothing of a node but its thread's end is asked here: what it says of itself is on the coordinator's pages. */
static void await_ready(const struct system *s)
{
    char want[64];
    snprintf(want, sizeof(want), "\"prefill\":%u,\"decode\":%u", s->args.n_prefill,
             s->args.n_decode);
    uint64_t end = sl_real_us() + SYSTEM_WAIT_US;
    for (;;) {
        char *answer = client_request(s->port, "GET", "/ready", NULL);
        bool ready = strstr(answer, want) != NULL;
        if (!ready && sl_real_us() > end)
            fail_msg("not ready, want %s: %s", want, answer);
        sl_free(answer);
        if (ready)
            return;
        sl_sleep_us(POLL_US);
    }
}

void system_open(struct system *s, const struct system_args *args)
{
    *s = (struct system){.args = *args, .n_nodes = args->n_prefill + args->n_decode};
    struct serve_config serve = {.log_level =
                                     getenv("VERBOSE") != NULL ? SL_LOG_DEBUG : SL_LOG_ERROR,
                                 .drain_seconds = 120.0};
    assert_ok(serve_start(&serve, NULL)); /* before any thread is there: it blocks the signals */
    assert_ok(transfer_loop_create(&args->loop, &s->loop));
    start_coordinator(s, "127.0.0.1:0");
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        struct system_node *node = &s->nodes[i];
        bool prefill = i < args->n_prefill;
        char id[16];
        snprintf(id, sizeof(id), "%c%u", prefill ? 'p' : 'd', prefill ? i : i - args->n_prefill);
        node->policy = prefill ? &prefill_policy : &decode_policy;
        node->loop = s->loop;
        configure(s, id, node);
        assert_ok(sl_thread_start(&node->thread, id, run_node, node));
    }
    await_ready(s);
}

void system_restart_coordinator(struct system *s)
{
    char nodes_listen[32];
    snprintf(nodes_listen, sizeof(nodes_listen), "127.0.0.1:%u", s->nodes_port);
    coordinator_stop(s->coordinator);
    start_coordinator(s, nodes_listen);
    await_ready(s);
}

/* ---- down: as main of the coordinator does it ---- */

void system_terminate(struct system *s)
{
    assert_int_equal(kill(getpid(), SIGTERM), 0);
    assert_true(serve_wait(SYSTEM_WAIT_US));
    coordinator_drain(s->coordinator);
}

void system_close(struct system *s)
{
    uint64_t end = sl_real_us() + SYSTEM_WAIT_US;
    while (coordinator_open(s->coordinator) > 0 && sl_real_us() < end)
        sl_sleep_us(POLL_US);
    assert_int_equal(coordinator_open(s->coordinator), 0);
    coordinator_stop(s->coordinator);
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        sl_thread_join(&s->nodes[i].thread);
        assert_int_equal(s->nodes[i].status, SL_OK);
        sl_options_destroy(s->nodes[i].options);
    }
    transfer_loop_destroy(s->loop);
    serve_stop();
}

/* ---- what it says of itself ---- */

static char *get(const struct system *s, const char *path)
{
    char *answer = client_request_within(s->port, "GET", path, NULL, SYSTEM_WAIT_US / SL_MS_US);
    if (client_status(answer) != 200)
        fail_msg("%s: %s", path, answer);
    return answer;
}

json_t *system_page(const struct system *s, const char *path)
{
    char *answer = get(s, path);
    json_t *json = json_loads(client_body(answer), JSON_REJECT_DUPLICATES, NULL);
    if (json == NULL)
        fail_msg("%s is not JSON: %s", path, answer);
    sl_free(answer);
    return json;
}

static json_int_t block_count(const json_t *node, const char *state)
{
    return json_integer_value(json_object_get(json_object_get(node, "blocks"), state));
}

static bool is_settled(const struct system *s, json_t *cluster)
{
    const json_t *nodes = json_object_get(cluster, "nodes");
    bool settled = json_array_size(nodes) == s->n_nodes;
    for (size_t i = 0; i < json_array_size(nodes); i++) {
        const json_t *node = json_array_get(nodes, i);
        settled &=
            block_count(node, "free") + block_count(node, "cached") == block_count(node, "total") &&
            block_count(node, "total") > 0;
    }
    return settled;
}

void system_settled(const struct system *s)
{
    uint64_t end = sl_real_us() + SYSTEM_WAIT_US;
    for (;;) {
        json_t *cluster = system_page(s, "/cluster");
        bool settled = is_settled(s, cluster);
        if (!settled && sl_real_us() > end)
            fail_msg("blocks leak: %s", json_dumps(cluster, 0));
        json_decref(cluster);
        if (settled)
            return;
        sl_sleep_us(POLL_US);
    }
}

double system_metric(const struct system *s, const char *name, const char *label)
{
    double sum = 0;
    char *answer = get(s, "/metrics"), *next;
    size_t n = strlen(name);
    for (char *line = answer; line != NULL; line = next) {
        next = strchr(line, '\n');
        if (next != NULL)
            *next++ = '\0';
        const char *value = strrchr(line, ' ');
        if (strncmp(line, name, n) == 0 && line[n] == '{' && strstr(line, label) != NULL &&
            strstr(line, "transport=\"loop\"") != NULL && value != NULL)
            sum += strtod(value, NULL);
    }
    sl_free(answer);
    return sum;
}

static uint64_t incarnation_of(json_t *cluster, uint32_t index)
{
    const json_t *node = json_array_get(json_object_get(cluster, "nodes"), index);
    const char *text = json_string_value(json_object_get(node, "incarnation"));
    return text == NULL ? 0 : strtoull(text, NULL, 16);
}

void system_cut(const struct system *s, uint32_t a, uint32_t b)
{
    json_t *cluster = system_page(s, "/cluster");
    transfer_loop_cut(s->loop, incarnation_of(cluster, a), incarnation_of(cluster, b));
    json_decref(cluster);
}

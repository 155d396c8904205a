/* The coordinator whole, over its real sockets, with nodes that follow a script. */
#include "coordinator/coordinator.h"

#include "support/support.h"
#include "unit/coordinator/fake_node.h"

#include "base/clock.h"
#include "base/log.h"

#include <jansson.h>

#define HELLO_TEXT "hello world, how are you?"

struct fixture {
    char *model;
    struct coordinator *c;
    uint16_t port, nodes_port;
};

static int setup(void **state)
{
    struct fixture *f = sl_zalloc(1, sizeof(*f));
    sl_log_set_level(getenv("VERBOSE") != NULL ? SL_LOG_DEBUG : SL_LOG_ERROR);
    f->model = fake_model_create();
    struct coordinator_config config;
    coordinator_config_init(&config);
    config.model_dir = f->model;
    config.served_name = "m";
    config.listen = "127.0.0.1:0";
    config.body_bytes_max = 64 << 10;
    config.heartbeat_us = 100000;
    config.suspect_us = 300000;
    config.dead_us = 500000;
    config.lost_us = 600000;
    config.queue_us = 800000;
    assert_ok(coordinator_start(&config, &f->c));
    f->port = coordinator_http_port(f->c);
    f->nodes_port = coordinator_nodes_port(f->c);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    coordinator_stop(f->c);
    fake_model_remove(f->model);
    sl_free(f);
    return 0;
}

static struct fake_node *start_node(struct fixture *f, const char *id, bool prefill)
{
    struct fake_args args = {
        .port = f->nodes_port, .id = id, .prefill = prefill, .identity = 7, .text = HELLO_TEXT};
    return fake_node_start(&args);
}

/* Waits until /ready lists so many of each. */
static void await(struct fixture *f, uint32_t prefill, uint32_t decode)
{
    char want[64];
    snprintf(want, sizeof(want), "\"prefill\":%u,\"decode\":%u", prefill, decode);
    uint64_t end = sl_real_us() + 5000000;
    for (;;) {
        char *answer = client_request(f->port, "GET", "/ready", NULL);
        bool ready = strstr(answer, want) != NULL;
        if (!ready && sl_real_us() > end)
            fail_msg("not ready, want %s: %s", want, answer);
        sl_free(answer);
        if (ready)
            return;
        sl_sleep_us(5000);
    }
}

static json_t *post_json(struct fixture *f, const char *path, const char *body, int status)
{
    char *answer = client_request(f->port, "POST", path, body);
    if (client_status(answer) != status)
        fail_msg("want %d: %s", status, answer);
    json_t *json = json_loads(client_body(answer), 0, NULL);
    if (json == NULL)
        fail_msg("not JSON: %s", answer);
    sl_free(answer);
    return json;
}

static const char *text_of(json_t *json)
{
    return json_string_value(
        json_object_get(json_array_get(json_object_get(json, "choices"), 0), "text"));
}

static json_int_t usage_of(json_t *json, const char *field)
{
    return json_integer_value(json_object_get(json_object_get(json, "usage"), field));
}

static void one_completion(void **state)
{
    struct fixture *f = *state;
    struct fake_node *d = start_node(f, "d0", false);
    await(f, 0, 1);
    json_t *json = post_json(f, "/v1/completions", "{\"prompt\":\"abc\",\"max_tokens\":5}", 200);
    assert_string_equal(text_of(json), "hello");
    assert_int_equal(usage_of(json, "prompt_tokens"), 3);
    assert_int_equal(usage_of(json, "completion_tokens"), 5);
    assert_int_equal(usage_of(json, "total_tokens"), 8);
    assert_int_equal(fake_node_last_mode(d), SLUICE__MODE__MODE_LOCAL);
    json_decref(json);
    fake_node_stop(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(one_completion, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "unit/coordinator/fixture.h"

#define WAIT_MS 20000

static int start(void **state, char *model, uint64_t queue_us, uint32_t queue_requests,
                 size_t held_bytes)
{
    struct fixture *f = sl_zalloc(1, sizeof(*f));
    sl_log_set_level(getenv("VERBOSE") != NULL ? SL_LOG_DEBUG : SL_LOG_ERROR);
    f->model = model;
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
    config.queue_us = queue_us;
    config.queue_requests_max = queue_requests;
    config.requests_max = queue_requests + 1;
    config.held_bytes_max = held_bytes;
    assert_ok(coordinator_start(&config, &f->c));
    f->port = coordinator_http_port(f->c);
    f->nodes_port = coordinator_nodes_port(f->c);
    *state = f;
    return 0;
}

int setup(void **state)
{
    return start(state, fake_model_create(), 800000, 1024, 1u << 30);
}

int setup_patient(void **state)
{
    return start(state, fake_model_create(), 60000000, 1024, 1u << 30);
}

int setup_short_queue(void **state)
{
    return start(state, fake_model_create(), 800000, 3, 1u << 30);
}

int setup_short_memory(void **state)
{
    return start(state, fake_model_create(), 60000000, 1024, 100000);
}

int setup_chat(void **state)
{
    char *model = fake_model_create();
    test_write_text(model, "chat_template.jinja",
                    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
                    "{% if add_generation_prompt %}<think>{% endif %}{# </think> #}");
    test_write_text(model, "tokenizer_config.json", "{\"eos_token\": \",\"}");
    return start(state, model, 800000, 1024, 1u << 30);
}

int teardown(void **state)
{
    struct fixture *f = *state;
    coordinator_stop(f->c);
    fake_model_remove(f->model);
    sl_free(f);
    return 0;
}

struct fake_node *start_node(struct fixture *f, const char *id, bool prefill)
{
    struct fake_args args = {
        .port = f->nodes_port, .id = id, .prefill = prefill, .identity = 7, .text = HELLO_TEXT};
    return fake_node_start(&args);
}

struct fake_node *start_decode(struct fixture *f)
{
    struct fake_node *d = start_node(f, "d0", false);
    await(f, 0, 1);
    return d;
}

void await(struct fixture *f, uint32_t prefill, uint32_t decode)
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

void await_closed(struct fixture *f, uint32_t ms)
{
    for (uint32_t i = 0; i < ms && coordinator_open(f->c) > 0; i++)
        sl_sleep_us(1000);
    assert_int_equal(coordinator_open(f->c), 0);
}

void await_submits(struct fake_node *node, uint32_t n)
{
    for (uint32_t i = 0; i < WAIT_MS && fake_node_submits(node) < n; i++)
        sl_sleep_us(1000);
    assert_int_equal(fake_node_submits(node), n);
}

static void expect_part(struct fixture *f, const char *method, const char *path, const char *body,
                        int status, const char *part)
{
    char *answer = client_request(f->port, method, path, body);
    if (client_status(answer) != status || strstr(answer, part) == NULL)
        fail_msg("want %d %s, got %.500s; of %.200s", status, part, answer,
                 body != NULL ? body : path);
    sl_free(answer);
}

void expect_page(struct fixture *f, const char *path, int status, const char *part)
{
    expect_part(f, "GET", path, NULL, status, part);
}

void expect_answer(struct fixture *f, const char *path, const char *body, int status,
                   const char *part)
{
    expect_part(f, "POST", path, body, status, part);
}

json_t *post_json(struct fixture *f, const char *path, const char *body, int status)
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

const char *text_of(json_t *json)
{
    return json_string_value(
        json_object_get(json_array_get(json_object_get(json, "choices"), 0), "text"));
}

json_int_t usage_of(json_t *json, const char *field)
{
    return json_integer_value(json_object_get(json_object_get(json, "usage"), field));
}

static void take_event(void *arg, const char *event, size_t n)
{
    struct stream_result *r = arg;
    assert_false(r->done || r->error); /* nothing follows these */
    if (n >= 6 && memcmp(event, "[DONE]", 6) == 0) {
        r->done = true;
        return;
    }
    json_t *json = json_loadb(event, n, JSON_REJECT_DUPLICATES, NULL);
    if (json == NULL)
        fail_msg("not JSON: %.*s", (int)n, event);
    json_t *choice = json_array_get(json_object_get(json, "choices"), 0);
    if (json_object_get(json, "error") != NULL) {
        r->error = true;
    } else if (choice == NULL) {
        r->usage = json_incref(json_object_get(json, "usage"));
    } else {
        r->n_chunks++;
        const char *text = json_string_value(json_object_get(choice, "text"));
        json_int_t index = json_integer_value(json_object_get(choice, "index"));
        assert_in_range(index, 0, CHOICES - 1);
        sl_buf_add_text(&r->text, text);
        sl_buf_add_text(&r->texts[index], text);
        const char *finish = json_string_value(json_object_get(choice, "finish_reason"));
        r->n_finished += finish != NULL;
        if (finish != NULL)
            snprintf(r->finish, sizeof(r->finish), "%s", finish);
    }
    json_decref(json);
}

void stream_events(const struct sl_buf *raw, void (*take)(void *arg, const char *event, size_t n),
                   void *arg)
{
    struct sl_buf plain;
    sl_buf_init(&plain, 16 << 20);
    const char *p = strstr(raw->data, "\r\n\r\n");
    assert_non_null(p);
    p += 4;
    for (;;) {
        char *end;
        unsigned long n = strtoul(p, &end, 16);
        if (end == p || n == 0 || end + 2 + n > raw->data + raw->bytes)
            break;
        sl_buf_add(&plain, end + 2, n);
        p = end + 2 + n + 2;
    }
    const char *q = plain.bytes > 0 ? plain.data : "";
    while (*q != '\0') {
        const char *end = strstr(q, "\n\n");
        assert_non_null(end);
        if (strncmp(q, "data: ", 6) == 0)
            take(arg, q + 6, (size_t)(end - q - 6));
        q = end + 2;
    }
    sl_buf_fini(&plain);
}

void parse_stream(struct stream_result *r)
{
    stream_events(&r->raw, take_event, r);
}

void stream_init(struct stream_result *r)
{
    memset(r, 0, sizeof(*r));
    sl_buf_init(&r->raw, 16 << 20);
    sl_buf_init(&r->text, 1 << 20);
    sl_buf_add_text(&r->text, "");
    for (int i = 0; i < CHOICES; i++)
        sl_buf_init(&r->texts[i], 1 << 20);
}

void stream_fini(struct stream_result *r)
{
    json_decref(r->usage);
    sl_buf_fini(&r->raw);
    sl_buf_fini(&r->text);
    for (int i = 0; i < CHOICES; i++)
        sl_buf_fini(&r->texts[i]);
}

int open_stream(struct fixture *f, const char *body)
{
    int fd = client_connect(f->port);
    client_post(fd, "/v1/completions", body);
    return fd;
}

/* How much text the events so far have. Tokens that a busy coordinator reads together share an event. */
static size_t letters(const struct sl_buf *raw)
{
    static const char member[] = "\"text\":\"";
    size_t n = 0;
    const char *q = raw->bytes > 0 ? strstr(raw->data, member) : NULL;
    for (; q != NULL; q = strstr(q, member)) {
        q += strlen(member);
        n += strcspn(q, "\"");
    }
    return n;
}

int begin_stream(struct fixture *f, struct stream_result *r, const char *body, size_t n_letters)
{
    stream_init(r);
    int fd = open_stream(f, body);
    uint64_t end = sl_real_us() + 5000000;
    while (letters(&r->raw) < n_letters) {
        assert_true(sl_real_us() < end);
        assert_false(client_read(fd, &r->raw, "[DONE]", 5));
    }
    return fd;
}

void finish_stream(int fd, struct stream_result *r)
{
    client_read(fd, &r->raw, "\r\n0\r\n\r\n", 15000);
    close(fd);
    parse_stream(r);
}

void read_stream(struct fixture *f, struct stream_result *r, const char *body)
{
    stream_init(r);
    finish_stream(open_stream(f, body), r);
}

void expect_hello(struct stream_result *r)
{
    if (strcmp(r->text.data, HELLO_TEXT) != 0 || !r->done || r->error)
        fail_msg("text \"%s\" done=%d error=%d: %s", r->text.data, r->done, r->error, r->raw.data);
    assert_string_equal(r->finish, "stop");
}

void finish_hello(int fd, struct stream_result *r)
{
    finish_stream(fd, r);
    expect_hello(r);
    stream_fini(r);
}

struct fake_node *start_slow(struct fixture *f, const char *id, bool prefill)
{
    struct fake_args args = {.port = f->nodes_port,
                             .id = id,
                             .prefill = prefill,
                             .identity = 7,
                             .text = HELLO_TEXT,
                             .token_us = 20000};
    return fake_node_start(&args);
}

/* The stream ends with every text whole, or with an error after the beginnings of texts: true if whole. */
static bool ends_well(int fd, uint32_t n_choices)
{
    struct stream_result r;
    bool whole = false;
    stream_init(&r);
    client_read(fd, &r.raw, "0\r\n\r\n", 15000);
    close(fd);
    if (client_status(r.raw.data) == 200) {
        parse_stream(&r);
        assert_true(r.done != r.error);
        whole = r.done;
        for (uint32_t i = 0; i < n_choices; i++) {
            if (r.texts[i].bytes > 0)
                assert_memory_equal(r.texts[i].data, HELLO_TEXT, r.texts[i].bytes);
            whole &= r.texts[i].bytes == strlen(HELLO_TEXT);
        }
        assert_int_equal(whole, r.done);
    } else {
        assert_in_range(client_status(r.raw.data), 429, 503);
    }
    stream_fini(&r);
    return whole;
}

void run_random_faults(struct fixture *f, const char *const bodies[3], uint32_t n_choices)
{
    enum { NODES = 5, STREAMS = 40 };
    static const char *const ids[NODES] = {"p0", "p1", "d0", "d1", "d2"};
    struct fake_node *nodes[NODES];
    int fds[STREAMS];
    uint64_t random = 20;
    uint32_t whole = 0;
    for (int i = 0; i < NODES; i++)
        nodes[i] = start_slow(f, ids[i], ids[i][0] == 'p');
    await(f, 2, 3);
    for (int i = 0; i < STREAMS; i++) {
        fds[i] = open_stream(f, bodies[i % 3]);
        sl_sleep_us(10000 + test_random(&random) % 30000);
        uint32_t k = (uint32_t)(test_random(&random) % NODES);
        switch (test_random(&random) % 8) {
        case 0:
            fake_node_stop(nodes[k]);
            nodes[k] = start_slow(f, ids[k], ids[k][0] == 'p');
            break;
        case 1:
            fake_node_freeze(nodes[k], true);
            break;
        case 2:
            fake_node_behave(nodes[k], FAKE_REFUSES_FULL);
            break;
        case 3:
            fake_node_behave(nodes[k], FAKE_FAILS_STREAMS);
            break;
        default:
            fake_node_freeze(nodes[k], false);
            fake_node_behave(nodes[k], FAKE_SERVES);
            break;
        }
    }
    for (int i = 0; i < NODES; i++) {
        fake_node_freeze(nodes[i], false);
        fake_node_behave(nodes[i], FAKE_SERVES);
    }
    for (int i = 0; i < STREAMS; i++)
        whole += ends_well(fds[i], n_choices);
    assert_in_range(whole, STREAMS / 2, STREAMS);
    await_closed(f, 1000);
    for (int i = 0; i < NODES; i++)
        fake_node_stop(nodes[i]);
}

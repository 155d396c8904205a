/* The coordinator whole, over its real sockets, with nodes that follow a script. */
#include "unit/coordinator/fixture.h"

static void one_completion(void **state)
{
    struct fixture *f = *state;
    struct fake_node *d = start_decode(f);
    json_t *json = post_json(f, "/v1/completions", "{\"prompt\":\"abc\",\"max_tokens\":5}", 200);
    assert_string_equal(text_of(json), "hello");
    assert_int_equal(usage_of(json, "prompt_tokens"), 3);
    assert_int_equal(usage_of(json, "completion_tokens"), 5);
    assert_int_equal(usage_of(json, "total_tokens"), 8);
    assert_int_equal(fake_node_last(d).mode, SLUICE__MODE__MODE_LOCAL);
    json_decref(json);
    fake_node_stop(d);
}

static void pair_and_stream(void **state)
{
    struct fixture *f = *state;
    struct fake_node *p = start_node(f, "p0", true), *d = start_node(f, "d0", false);
    await(f, 1, 1);
    struct stream_result r;
    read_stream(f, &r,
                "{\"prompt\":" LONG_PROMPT ",\"max_tokens\":100,\"stream\":true,"
                "\"stream_options\":{\"include_usage\":true}}");
    expect_hello(&r);
    assert_int_equal(r.n_chunks, strlen(HELLO_TEXT) + 1);
    assert_int_equal(json_integer_value(json_object_get(r.usage, "completion_tokens")),
                     strlen(HELLO_TEXT) + 1);
    assert_int_equal(fake_node_last(p).mode, SLUICE__MODE__MODE_PREFILL);
    assert_int_equal(fake_node_last(d).mode, SLUICE__MODE__MODE_DECODE);
    stream_fini(&r);
    /* One token: no destination. */
    uint32_t before = fake_node_submits(d);
    json_t *json =
        post_json(f, "/v1/completions", "{\"prompt\":" LONG_PROMPT ",\"max_tokens\":1}", 200);
    assert_string_equal(text_of(json), "h");
    json_decref(json);
    assert_int_equal(fake_node_submits(d), before);
    assert_int_equal(fake_node_last(p).mode, SLUICE__MODE__MODE_LOCAL);
    fake_node_stop(p);
    fake_node_stop(d);
}

static void a_stop_string_cancels(void **state)
{
    struct fixture *f = *state;
    struct fake_node *d = start_decode(f);
    json_t *json = post_json(f, "/v1/completions",
                             "{\"prompt\":\"abc\",\"max_tokens\":100,\"stop\":[\"wor\",\"xyz\"],"
                             "\"logprobs\":2,\"return_token_ids\":true,\"seed\":77}",
                             200);
    assert_string_equal(text_of(json), "hello ");
    assert_int_equal(fake_node_seed(d, 0), 77);
    json_t *choice = json_array_get(json_object_get(json, "choices"), 0);
    assert_int_equal(json_array_size(json_object_get(choice, "token_ids")), 9);
    assert_int_equal(json_array_size(json_object_get(choice, "prompt_token_ids")), 3);
    json_t *tops = json_object_get(json_object_get(choice, "logprobs"), "top_logprobs");
    assert_int_equal(json_object_size(json_array_get(tops, 0)), 2);
    json_decref(json);
    for (int i = 0; i < 1000 && fake_node_cancels(d) == 0; i++)
        sl_sleep_us(1000);
    assert_true(fake_node_cancels(d) >= 1); /* one more for each run that was on its way */
    fake_node_stop(d);
}

#define CHAT "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"

static const char *said(json_t *json, const char *field)
{
    json_t *choice = json_array_get(json_object_get(json, "choices"), 0);
    return json_string_value(json_object_get(json_object_get(choice, "message"), field));
}

static void a_chat(void **state)
{
    struct fixture *f = *state;
    struct fake_node *d = start_decode(f);
    json_t *json = post_json(f, "/v1/chat/completions", "{" CHAT "}", 200);
    /* The prompt opens the reasoning, and the comma ends the text. */
    assert_string_equal(said(json, "reasoning_content"), "hello world");
    assert_string_equal(said(json, "content"), "");
    assert_int_equal(usage_of(json, "prompt_tokens"), strlen("[user]hi<think>"));
    assert_int_equal(fake_node_last(d).total_tokens, strlen("[user]hi<think>"));
    assert_int_equal(usage_of(json, "completion_tokens"), strlen("hello world,"));
    json_decref(json);
    json = post_json(f, "/v1/chat/completions",
                     "{" CHAT ",\"add_generation_prompt\":false,\"ignore_eos\":true,"
                     "\"max_completion_tokens\":14}",
                     200);
    assert_string_equal(said(json, "content"), "hello world, h");
    assert_null(said(json, "reasoning_content"));
    json_decref(json);
    char *answer = client_request(f->port, "POST", "/v1/chat/completions", "{" CHAT "}");
    assert_non_null(strstr(answer, "x-sluice-prefill: -\r\n"));
    assert_non_null(strstr(answer, "x-sluice-decode: d0\r\n"));
    sl_free(answer);
    json = post_json(f, "/tokenize", "{" CHAT "}", 200);
    assert_int_equal(json_integer_value(json_object_get(json, "count")), 15);
    json_decref(json);
    fake_node_stop(d);
}

/* What nodes get is neither what the client gave nor another client's. */
static void salts(void **state)
{
    struct fixture *f = *state;
    struct fake_node *d = start_decode(f);
    json_decref(post_json(f, "/v1/completions", "{\"prompt\":\"abc\",\"max_tokens\":2}", 200));
    assert_int_equal(fake_node_last(d).salt_bytes, 0);
    json_decref(post_json(f, "/v1/completions",
                          "{\"prompt\":\"abc\",\"max_tokens\":2,\"cache_salt\":\"\"}", 200));
    assert_int_equal(fake_node_last(d).salt_bytes, 0);
    const char *with = "{\"prompt\":\"abc\",\"max_tokens\":2,\"cache_salt\":\"0123456789abcdef\"}";
    json_decref(post_json(f, "/v1/completions", with, 200));
    struct fake_submit first = fake_node_last(d);
    assert_int_equal(first.salt_bytes, 16);
    assert_memory_not_equal(first.salt, "0123456789abcdef", 16);
    json_decref(post_json(f, "/v1/chat/completions",
                          "{" CHAT ",\"cache_salt\":\"0123456789abcdeg\"}", 200));
    struct fake_submit other = fake_node_last(d);
    assert_int_equal(other.salt_bytes, 16);
    assert_memory_not_equal(first.salt, other.salt, 16);
    json_decref(post_json(f, "/v1/completions", with, 200));
    struct fake_submit again = fake_node_last(d);
    assert_int_equal(again.salt_bytes, 16);
    assert_memory_equal(first.salt, again.salt, 16);
    fake_node_stop(d);
}

static void cached_tokens(void **state)
{
    struct fixture *f = *state;
    struct fake_args args = {
        .port = f->nodes_port, .id = "d0", .identity = 7, .text = "x", .cached_tokens = 16};
    struct fake_node *d = fake_node_start(&args);
    await(f, 0, 1);
    expect_answer(f, "/v1/completions", "{\"prompt\":" LONG_PROMPT "}", 200,
                  "\"cached_tokens\":16}");
    /* A prompt's last token is computed, whatever the node says. */
    expect_answer(f, "/v1/completions", "{\"prompt\":\"abc\"}", 200, "\"cached_tokens\":2}");
    fake_node_stop(d);
}

/* The index sends a prompt to the node that holds it, and makes a pair local. */
static void prefix_routing(void **state)
{
    struct fixture *f = *state;
    struct fake_node *p = start_node(f, "p0", true);
    struct fake_node *d[3] = {start_node(f, "d0", false), start_node(f, "d1", false),
                              start_node(f, "d2", false)};
    await(f, 1, 3);
    char prompt[] = LONG_PROMPT;
    uint32_t tokens[200], n = (uint32_t)strlen(prompt) - 2;
    for (uint32_t i = 0; i < n; i++)
        tokens[i] = (uint8_t)prompt[i + 1];
    fake_node_store(d[1], 1, tokens, n);
    for (int i = 0; i < 4; i++) {
        sl_sleep_us(20000);
        json_decref(post_json(f, "/v1/completions", "{\"prompt\":" LONG_PROMPT "}", 200));
    }
    assert_int_equal(fake_node_submits(d[1]), 4);
    assert_int_equal(fake_node_submits(p), 0);
    for (int i = 0; i < 3; i++)
        fake_node_stop(d[i]);
    fake_node_stop(p);
}

static void many_at_once(void **state)
{
    struct fixture *f = *state;
    struct fake_node *p = start_node(f, "p0", true);
    struct fake_node *d[2] = {start_node(f, "d0", false), start_node(f, "d1", false)};
    await(f, 1, 2);
    enum { N = 60 };
    int fds[N];
    for (int i = 0; i < N; i++)
        fds[i] = open_stream(f, i % 2 == 0
                                    ? LONG_STREAM
                                    : "{\"prompt\":\"short\",\"max_tokens\":100,\"stream\":true}");
    for (int i = 0; i < N; i++) {
        struct stream_result r;
        stream_init(&r);
        finish_hello(fds[i], &r);
    }
    assert_int_equal(coordinator_open(f->c), 0);
    assert_in_range(fake_node_submits(d[0]), 15, 45);
    for (int i = 0; i < 2; i++)
        fake_node_stop(d[i]);
    fake_node_stop(p);
}

static void a_decode_node_dies(void **state)
{
    struct fixture *f = *state;
    struct fake_node *d0 = start_slow(f, "d0", false);
    await(f, 0, 1);
    struct stream_result r;
    int fd = begin_stream(f, &r, SHORT_STREAM, 5);
    struct fake_node *d1 = start_slow(f, "d1", false);
    await(f, 0, 2);
    fake_node_stop(d0);
    finish_hello(fd, &r); /* no token lost, none twice */
    assert_true(fake_node_last(d1).first_index >= 5);
    assert_int_equal(fake_node_last(d1).total_tokens, 3 + fake_node_last(d1).first_index);
    fake_node_stop(d1);
}

static void a_decode_node_hangs(void **state)
{
    struct fixture *f = *state;
    struct fake_node *d0 = start_slow(f, "d0", false);
    await(f, 0, 1);
    struct stream_result r;
    int fd = begin_stream(f, &r, SHORT_STREAM, 5);
    struct fake_node *d1 = start_slow(f, "d1", false);
    await(f, 0, 2);
    uint64_t from = sl_real_us();
    fake_node_freeze(d0, true);
    finish_hello(fd, &r);
    assert_true(sl_real_us() - from > 400000); /* dead_us of this test is 0.5 s */
    fake_node_freeze(d0, false);               /* it joins again, its stale tokens are dropped */
    await(f, 0, 2);
    fake_node_stop(d0);
    fake_node_stop(d1);
}

/* The replacement comes within the bound: the request goes on there. */
static void no_node_for_a_while(void **state)
{
    struct fixture *f = *state;
    struct fake_node *d = start_slow(f, "d0", false);
    await(f, 0, 1);
    struct stream_result r;
    int fd = begin_stream(f, &r, SHORT_STREAM, 5);
    fake_node_stop(d);
    sl_sleep_us(100000);
    d = start_slow(f, "d0", false);
    finish_hello(fd, &r);
    fake_node_stop(d);
}

static void no_node_for_too_long(void **state)
{
    struct fixture *f = *state;
    struct fake_node *d = start_slow(f, "d0", false);
    await(f, 0, 1);
    struct stream_result r;
    int fd = begin_stream(f, &r, SHORT_STREAM, 5);
    fake_node_stop(d);
    uint64_t from = sl_real_us();
    finish_stream(fd, &r);
    assert_true(r.error);
    assert_false(r.done);
    assert_in_range(sl_real_us() - from, 500000, 1500000);
    stream_fini(&r);
    /* And now there is nobody at all. */
    expect_answer(f, "/v1/completions", "{\"prompt\":\"a\"}", 503, "Retry-After");
}

/* The prefill node generates, and goes on with what the decode node had begun. */
static void no_decode_node_left(void **state)
{
    struct fixture *f = *state;
    struct fake_node *p = start_slow(f, "p0", true), *d = start_slow(f, "d0", false);
    await(f, 1, 1);
    struct stream_result r;
    int fd = begin_stream(f, &r, SHORT_STREAM, 5);
    fake_node_stop(d);
    finish_hello(fd, &r);
    assert_int_equal(fake_node_last(p).mode, SLUICE__MODE__MODE_LOCAL);
    await(f, 1, 0);
    json_t *json = post_json(f, "/v1/completions", "{\"prompt\":\"abc\",\"max_tokens\":100}", 200);
    assert_string_equal(text_of(json), HELLO_TEXT);
    json_decref(json);
    expect_page(f, "/metrics", 200, "routing_decisions_total{reason=\"local_no_decode\"} 2");
    expect_page(f, "/ready", 200, "");
    fake_node_stop(p);
}

static void a_prefill_node_dies(void **state)
{
    struct fixture *f = *state;
    struct fake_node *p = start_node(f, "p0", true), *d = start_slow(f, "d0", false);
    fake_node_behave(p, FAKE_SILENT);
    await(f, 1, 1);
    fake_node_behave(d, FAKE_SILENT);
    struct stream_result r;
    stream_init(&r);
    int fd = open_stream(f, LONG_STREAM);
    await_submits(p, 1);
    sl_sleep_us(20000);
    fake_node_behave(d, FAKE_SERVES);
    fake_node_stop(p);
    finish_hello(fd, &r); /* local on D */
    assert_int_equal(fake_node_last(d).mode, SLUICE__MODE__MODE_LOCAL);
    fake_node_stop(d);
}

static void a_prefill_node_dies_after(void **state)
{
    struct fixture *f = *state;
    struct fake_node *p = start_node(f, "p0", true), *d = start_slow(f, "d0", false);
    await(f, 1, 1);
    struct stream_result r;
    int fd = begin_stream(f, &r, LONG_STREAM, 5);
    fake_node_stop(p);
    finish_hello(fd, &r);
    assert_int_equal(fake_node_submits(d), 1); /* nothing happened to it */
    fake_node_stop(d);
}

static void redirects_then_gives_up_on_prefill(void **state)
{
    struct fixture *f = *state;
    struct fake_node *p = start_node(f, "p0", true);
    struct fake_node *d0 = start_node(f, "d0", false), *d1 = start_node(f, "d1", false);
    await(f, 1, 2);
    fake_node_behave(p, FAKE_FAILS_STREAMS);
    fake_node_behave(d0, FAKE_NEVER_ADMITS);
    fake_node_behave(d1, FAKE_NEVER_ADMITS);
    int fd = open_stream(f, LONG_STREAM);
    for (int i = 0; i < 2000 && fake_node_submits(d0) + fake_node_submits(d1) < 4; i++)
        sl_sleep_us(1000);
    assert_int_equal(fake_node_redirects(p), 2); /* two in a row */
    assert_int_equal(fake_node_submits(p), 1);   /* then not again */
    struct stream_result r;
    stream_init(&r);
    client_read(fd, &r.raw, "}}", 5000);
    assert_int_equal(client_status(r.raw.data), 429); /* nobody admits it */
    close(fd);
    stream_fini(&r);
    fake_node_stop(p);
    fake_node_stop(d0);
    fake_node_stop(d1);
}

/* The source's stream has no room for the token that the client has: the next destination gets the prompt, and
 * the token again. */
static void redirects_after_the_first_token(void **state)
{
    struct fixture *f = *state;
    struct fake_node *p = start_node(f, "p0", true);
    struct fake_node *d[2] = {start_node(f, "d0", false), start_node(f, "d1", false)};
    await(f, 1, 2);
    fake_node_behave(p, FAKE_HOLDS);
    fake_node_behave(d[0], FAKE_SILENT);
    fake_node_behave(d[1], FAKE_SILENT);
    int fd = open_stream(f, "{\"prompt\":" LONG_PROMPT ",\"max_tokens\":100,\"stream\":true}");
    for (int i = 0; i < 2000 && fake_node_submits(p) == 0; i++)
        sl_sleep_us(1000);
    sl_sleep_us(100000); /* token 0 */
    int first = fake_node_submits(d[0]) > 0 ? 0 : 1;
    fake_node_behave(d[!first], FAKE_SERVES);
    uint32_t n_tokens = fake_node_last(d[first]).total_tokens;
    fake_node_stop(d[first]);
    struct stream_result r;
    stream_init(&r);
    finish_stream(fd, &r);
    expect_hello(&r);
    assert_int_equal(fake_node_redirects(p), 1);
    assert_int_equal(fake_node_submits(p), 1);
    struct fake_submit last = fake_node_last(d[!first]);
    assert_true(last.mode == SLUICE__MODE__MODE_DECODE && last.first_index == 0);
    assert_int_equal(last.total_tokens, n_tokens);
    stream_fini(&r);
    fake_node_stop(d[!first]);
    fake_node_stop(p);
}

static void full_then_429(void **state)
{
    struct fixture *f = *state;
    struct fake_node *d = start_decode(f);
    fake_node_behave(d, FAKE_REFUSES_FULL);
    uint64_t from = sl_real_us();
    char *answer =
        client_request(f->port, "POST", "/v1/completions", "{\"prompt\":\"a\",\"stream\":true}");
    assert_int_equal(client_status(answer), 429);
    assert_non_null(strstr(answer, "Retry-After"));
    assert_non_null(strstr(answer, "rate_limit_error"));
    assert_non_null(strstr(answer, "x-should-retry: false"));
    assert_in_range(sl_real_us() - from, 500000, 1500000);
    assert_true(fake_node_submits(d) > 2); /* it was asked again */
    sl_free(answer);
    /* Room comes while one waits. */
    int fd = open_stream(f, "{\"prompt\":\"a\",\"max_tokens\":100,\"stream\":true}");
    sl_sleep_us(200000);
    fake_node_behave(d, FAKE_SERVES);
    struct stream_result r;
    stream_init(&r);
    finish_hello(fd, &r);
    fake_node_stop(d);
}

/* The wait for a place begins when the request is whole: a slow upload has not waited yet. */
static void a_slow_body(void **state)
{
    struct fixture *f = *state;
    struct fake_node *d = start_decode(f);
    int fd = client_connect(f->port);
    client_send(fd, "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 30\r\n\r\n"
                    "{\"prompt\":\"a\",");
    sl_sleep_us(1500000); /* longer than requests may wait here */
    client_send(fd, "\"max_tokens\":2 }");
    struct sl_buf answer;
    sl_buf_init(&answer, 1 << 20);
    assert_true(client_read(fd, &answer, "\"usage\"", 5000));
    assert_int_equal(client_status(answer.data), 200);
    sl_buf_fini(&answer);
    close(fd);
    fake_node_stop(d);
}

/* One destination has no room, the other has: what P computes is kept. */
static void full_here_room_there(void **state)
{
    struct fixture *f = *state;
    struct fake_node *p = start_node(f, "p0", true);
    struct fake_node *d0 = start_node(f, "d0", false), *d1 = start_node(f, "d1", false);
    await(f, 1, 2);
    fake_node_behave(p, FAKE_SILENT);
    fake_node_behave(d0, FAKE_REFUSES_FULL);
    for (uint32_t i = 1; i <= 8; i++) {
        struct stream_result r;
        read_stream(f, &r, LONG_STREAM);
        expect_hello(&r);
        stream_fini(&r);
    }
    assert_int_equal(fake_node_submits(p), 8);
    assert_int_equal(fake_node_submits(d1), 8);
    assert_int_equal(fake_node_redirects(p), fake_node_submits(d0));
    assert_true(fake_node_submits(d0) > 0);
    fake_node_stop(p);
    fake_node_stop(d0);
    fake_node_stop(d1);
}

/* Headers must not leave before the destination has admitted, even if token 0 is there. */
static void headers_wait_for_admission(void **state)
{
    struct fixture *f = *state;
    struct fake_node *p = start_node(f, "p0", true), *d = start_node(f, "d0", false);
    await(f, 1, 1);
    fake_node_behave(d, FAKE_SILENT);
    struct stream_result r;
    stream_init(&r);
    int fd = open_stream(f, LONG_STREAM);
    assert_false(client_read(fd, &r.raw, "HTTP", 300));
    assert_true(client_read(fd, &r.raw, "}}", 3000));
    assert_int_equal(client_status(r.raw.data), 429);
    close(fd);
    stream_fini(&r);
    fake_node_stop(p);
    fake_node_stop(d);
}

static void a_client_leaves(void **state)
{
    struct fixture *f = *state;
    struct fake_node *p = start_node(f, "p0", true), *d = start_slow(f, "d0", false);
    await(f, 1, 1);
    struct stream_result r;
    int fd = begin_stream(f, &r, LONG_STREAM, 2);
    close(fd);
    for (int i = 0; i < 200 && fake_node_cancels(d) == 0; i++)
        sl_sleep_us(1000);
    assert_true(fake_node_cancels(d) >= 1);
    await_closed(f, 1000);
    stream_fini(&r);
    fake_node_stop(p);
    fake_node_stop(d);
}

static void draining(void **state)
{
    struct fixture *f = *state;
    struct fake_node *d = start_slow(f, "d0", false);
    await(f, 0, 1);
    struct stream_result r;
    int fd = begin_stream(f, &r, SHORT_STREAM, 1);
    coordinator_drain(f->c);
    expect_answer(f, "/v1/completions", "{\"prompt\":\"a\"}", 503, "Retry-After");
    expect_page(f, "/ready", 503, "");
    finish_hello(fd, &r);
    fake_node_stop(d);
}

static void stopped_with_a_stream(void **state)
{
    struct fixture *f = *state;
    struct fake_node *d = start_slow(f, "d0", false);
    await(f, 0, 1);
    struct stream_result r;
    int fd = begin_stream(f, &r, SHORT_STREAM, 1);
    coordinator_stop(f->c);
    f->c = NULL;
    client_read(fd, &r.raw, NULL, 2000);
    close(fd);
    assert_null(strstr(r.raw.data, "[DONE]"));
    assert_non_null(strstr(r.raw.data, "the server is stopping"));
    stream_fini(&r);
    fake_node_stop(d);
}

static void foreign_and_wrong_nodes(void **state)
{
    struct fixture *f = *state;
    struct fake_node *d = start_decode(f);
    struct fake_args other = {.port = f->nodes_port, .id = "d1", .identity = 8, .text = "wrong"};
    struct fake_args wrong = {
        .port = f->nodes_port, .id = "d2", .identity = 7, .text = "wrong", .vocab = 300};
    struct fake_node *foreign = fake_node_start(&other), *refused = fake_node_start(&wrong);
    sl_sleep_us(200000);
    char *answer = client_request(f->port, "GET", "/cluster", NULL);
    assert_non_null(strstr(answer, "\"id\":\"d1\",\"role\":\"decode\",\"state\":\"foreign\""));
    assert_non_null(strstr(answer, ",\"version\":\"9.8 \\\"beta\\\"\","));
    assert_null(strstr(answer, "d2"));
    sl_free(answer);
    for (int i = 0; i < 6; i++) {
        json_t *json = post_json(f, "/v1/completions", "{\"prompt\":\"a\",\"max_tokens\":5}", 200);
        assert_string_equal(text_of(json), "hello");
        json_decref(json);
    }
    fake_node_stop(foreign);
    fake_node_stop(refused);
    fake_node_stop(d);
}

static void bad_requests(void **state)
{
    struct fixture *f = *state;
    struct fake_args small = {
        .port = f->nodes_port, .id = "d0", .identity = 7, .text = "x", .blocks = 20};
    struct fake_node *d = fake_node_start(&small);
    await(f, 0, 1);
    const char *path = "/v1/completions";
    expect_answer(f, path, "{\"prompt\":", 400, "invalid_json");
    expect_answer(f, path, "{\"prompt\":\"\"}", 400, "no tokens");
    expect_answer(f, path, "{\"prompt\":[1,257]}", 400,
                  "`prompt[1]` is 257; want a token id below 257");
    expect_answer(f, path, "{\"prompt\":\"a\",\"model\":\"other\"}", 404, "model_not_found");
    expect_answer(f, path, "{\"prompt\":\"a\",\"max_tokens\":1024}", 400,
                  "context_length_exceeded");
    expect_answer(f, path, "{\"prompt\":\"a\",\"max_tokens\":400}", 400,
                  "need 25 blocks of KV memory; the largest node has 20 blocks");
    expect_answer(f, path, "{\"prompt\":\"a\",\"stop_token_ids\":[999]}", 400, "stop_token_ids");
    static const char *const later[] = {"embeddings",
                                        "responses",
                                        "rerank",
                                        "score",
                                        "moderations",
                                        "audio/transcriptions",
                                        "audio/translations",
                                        "audio/speech",
                                        "images/generations",
                                        "images/edits",
                                        "files",
                                        "batches",
                                        "fine_tuning/jobs",
                                        "assistants",
                                        "threads",
                                        "vector_stores"};
    for (size_t i = 0; i < sizeof(later) / sizeof(later[0]); i++) {
        char later_path[64];
        snprintf(later_path, sizeof(later_path), "/v1/%s", later[i]);
        expect_answer(f, later_path, "{}", 501, "not served yet");
    }
    expect_answer(f, "/v1/chat/completions", "{}", 400, "`messages` is missing");
    expect_answer(f, "/tokenize", "{\"prompt\":3}", 400, "prompt");
    struct sl_buf body;
    sl_buf_init(&body, 1 << 20);
    sl_buf_add_text(&body, "{\"prompt\":\"");
    for (int i = 0; i < 1024; i++)
        sl_buf_add_text(&body, "x");
    sl_buf_add_text(&body, "\"}");
    expect_answer(f, path, body.data, 400, "context_length_exceeded");
    sl_buf_reset(&body); /* so long that its beginning decides; cut inside a character */
    sl_buf_add_text(&body, "{\"prompt\":\"x");
    for (int i = 0; i < 5000; i++)
        sl_buf_add_text(&body, "\xc3\xa9");
    sl_buf_add_text(&body, "\"}");
    expect_answer(f, path, body.data, 400, "context_length_exceeded");
    sl_buf_fini(&body);
    assert_int_equal(fake_node_submits(d), 0);
    expect_answer(f, "/nothing", "{}", 404, "not_found");
    char *page = client_request(f->port, "GET", "/metrics", NULL);
    static const struct {
        const char *reason;
        int n;
    } counted[] = {{"invalid_json", 1},
                   {"context_length_exceeded", 3},
                   {"model_not_found", 1},
                   {"not_implemented", 16},
                   {"not_found", 1},
                   {"too_large", 1},
                   {"missing_required_parameter", 1},
                   {"queue_full", 0},
                   {"queue_timeout", 0}};
    for (size_t i = 0; i < sizeof(counted) / sizeof(counted[0]); i++) {
        char *line = sl_asprintf("sluice_requests_rejected_total{reason=\"%s\"} %d\n",
                                 counted[i].reason, counted[i].n);
        if (strstr(page, line) == NULL)
            fail_msg("%s is not in the page", line);
        sl_free(line);
    }
    sl_free(page);
    fake_node_stop(d);
}

/* A body with a prompt of n letters x, and more fields. To be freed. */
static char *long_body(uint32_t n, const char *more)
{
    char *letters = sl_zalloc(n + 1, 1);
    memset(letters, 'x', n);
    char *body = sl_asprintf("{\"prompt\":\"%s\",%s}", letters, more);
    sl_free(letters);
    return body;
}

static void expect_long(struct fixture *f, uint32_t n, const char *more, int status,
                        const char *part)
{
    char *body = long_body(n, more);
    expect_answer(f, "/v1/completions", body, status, part);
    sl_free(body);
}

/* The end of a prompt that is too long, as long as was asked for or as leaves room for a token. */
static void cut_prompts(void **state)
{
    struct fixture *f = *state;
    struct fake_node *d = start_decode(f);
    const char *path = "/v1/completions";
    static const char cut[] =
        "{\"prompt\":\"abcdef\",\"truncate_prompt_tokens\":%d,\"max_tokens\":1,"
        "\"echo\":true,\"return_token_ids\":true}";
    static const struct {
        int keep;
        const char *text, *ids;
    } cuts[] = {{3, "\"text\":\"defh\"", "\"prompt_token_ids\":[100,101,102]"},
                {5, "\"text\":\"bcdefh\"", "\"prompt_token_ids\":[98,99,100,101,102]"},
                {6, "\"text\":\"abcdefh\"", "\"prompt_tokens\":6,"},
                {1023, "\"text\":\"abcdefh\"", "\"prompt_tokens\":6,"}};
    for (size_t i = 0; i < sizeof(cuts) / sizeof(cuts[0]); i++) {
        char body[200];
        snprintf(body, sizeof(body), cut, cuts[i].keep);
        expect_answer(f, path, body, 200, cuts[i].text);
        expect_answer(f, path, body, 200, cuts[i].ids);
    }
    expect_long(f, 3000, "\"truncate_prompt_tokens\":-1,\"max_tokens\":1", 200,
                "\"prompt_tokens\":1023,");
    expect_long(f, 5, "\"truncate_prompt_tokens\":1024", 400,
                "`truncate_prompt_tokens` is 1024; this model's maximum context length is 1024");
    fake_node_stop(d);
}

/* Prompt and answer fill the context, and not a token more. */
static void lengths_that_fit(void **state)
{
    struct fixture *f = *state;
    struct fake_node *d = start_decode(f);
    expect_long(f, 1, "\"max_tokens\":1023", 200, "\"prompt_tokens\":1,");
    expect_long(f, 1023, "\"max_tokens\":1", 200, "\"prompt_tokens\":1023,");
    expect_long(f, 1023, "\"max_tokens\":2", 400, "context_length_exceeded");
    expect_long(f, 1024, "\"user\":\"u\"", 400, "`prompt` has 1024 tokens");
    expect_long(f, 1020, "\"min_tokens\":4", 200, "\"completion_tokens\":4,");
    expect_long(f, 1020, "\"min_tokens\":5", 400, "`min_tokens` is 5; at most 4 fit the context");
    fake_node_stop(d);
}

/* Without a bound of its own a chat may fill the pool; and so may each of its choices. */
static void answers_that_fill_the_pool(void **state)
{
    struct fixture *f = *state;
    char text[401];
    memset(text, 'x', 400);
    text[400] = '\0';
    struct fake_args small = {
        .port = f->nodes_port, .id = "d0", .identity = 7, .text = text, .blocks = 20};
    struct fake_node *d = fake_node_start(&small);
    await(f, 0, 1);
    json_t *json = post_json(f, "/v1/chat/completions", "{" CHAT ",\"n\":2}", 200);
    uint32_t most = 20 * FAKE_BLOCK_TOKENS - (uint32_t)strlen("[user]hi<think>");
    assert_in_range(usage_of(json, "completion_tokens"), 2 * most, 2 * most + 2);
    json_decref(json);
    fake_node_stop(d);
}

/* What the API takes, nodes take: a stream that ended over one request would take all others with it. */
static void the_largest_values(void **state)
{
    struct fixture *f = *state;
    struct fake_node *d = start_decode(f);
    static const char *const bodies[] = {
        "\"top_k\":2147483647,\"top_p\":1,\"min_p\":1,\"temperature\":2,\"seed\":"
        "9223372036854775807,"
        "\"priority\":2147483647,\"repetition_penalty\":100,\"presence_penalty\":2,"
        "\"frequency_penalty\":2,\"logit_bias\":{\"256\":100},\"truncate_prompt_tokens\":16777216,"
        "\"stop_token_ids\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,256],\"min_tokens\":5,"
        "\"max_tokens\":500",
        "\"top_k\":-1,\"top_p\":0,\"min_p\":0,\"temperature\":0,\"seed\":-9223372036854775808,"
        "\"priority\":-2147483648,\"repetition_penalty\":0.01,\"presence_penalty\":-2,"
        "\"frequency_penalty\":-2,\"logit_bias\":{\"0\":-100},\"truncate_prompt_tokens\":-1,"
        "\"ignore_eos\":true,\"min_tokens\":0,\"max_tokens\":1",
        "\"top_p\":1e-300,\"min_p\":1e-300,\"temperature\":1e-300",
    };
    for (size_t i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++) {
        char *body = sl_asprintf("{\"prompt\":\"abc\",%s}", bodies[i]);
        json_t *json = post_json(f, "/v1/completions", body, 200);
        assert_int_equal(
            json_integer_value(json_object_get(json_object_get(json, "sluice"), "attempts")), 1);
        json_decref(json);
        sl_free(body);
    }
    assert_int_equal(fake_node_submits(d), 3);
    fake_node_stop(d);
}

static void ready_waits_for_a_decode_node(void **state)
{
    struct fixture *f = *state;
    struct fake_node *p = start_node(f, "p0", true);
    await(f, 1, 0);
    expect_page(f, "/ready", 503, "prefill nodes serve; ready once a decode node has joined");
    json_decref(post_json(f, "/v1/completions", "{\"prompt\":\"abc\"}", 200));
    struct fake_node *d = start_node(f, "d0", false);
    await(f, 1, 1);
    expect_page(f, "/ready", 200, "");
    fake_node_stop(d);
    fake_node_stop(p);
}

/* One that listens at every address of its machine is found where it called from. */
static void addresses_of_nodes(void **state)
{
    struct fixture *f = *state;
    char any[] = "0.0.0.0:77", any_v6[] = "[::]:78", name[] = "node.example:79";
    struct fake_args args = {.port = f->nodes_port, .id = "d0", .identity = 7, .text = HELLO_TEXT};
    struct fake_node *nodes[3];
    args.admin = any;
    nodes[0] = fake_node_start(&args);
    args.id = "d1";
    args.admin = any_v6; /* it called by the other kind of address */
    nodes[1] = fake_node_start(&args);
    args.id = "d2";
    args.admin = name;
    nodes[2] = fake_node_start(&args);
    await(f, 0, 3);
    char *answer = client_request(f->port, "GET", "/cluster", NULL);
    assert_non_null(strstr(answer, "\"admin\":\"127.0.0.1:77\""));
    assert_non_null(strstr(answer, "\"admin\":\"[::]:78\""));
    assert_non_null(strstr(answer, "\"admin\":\"node.example:79\""));
    sl_free(answer);
    for (int i = 0; i < 3; i++)
        fake_node_stop(nodes[i]);
}

static void pages(void **state)
{
    struct fixture *f = *state;
    expect_page(f, "/ready", 503, "no node has joined");
    struct fake_node *d = start_decode(f);
    expect_page(f, "/health", 200, "");
    expect_page(f, "/v1/models", 200, "\"id\":\"m\"");
    expect_page(f, "/v1/models", 200, "\"max_model_len\":1024");
    expect_page(f, "/version", 200, "\"version\":\"" SLUICE_VERSION "\"");
    sl_sleep_us(100000); /* a heartbeat */
    expect_page(f, "/cluster", 200,
                "\"blocks\":{\"total\":1000,\"free\":1000,\"cached\":0,"
                "\"used\":0,\"landing\":0}");
    expect_page(f, "/cluster", 200, "\"pid\":1234,\"admin\":\"127.0.0.1:1\"");
    json_decref(post_json(f, "/v1/completions", "{\"prompt\":\"abc\",\"max_tokens\":5}", 200));
    char *answer = client_request(f->port, "GET", "/metrics", NULL);
    assert_non_null(strstr(answer, "\nsluice_prompt_tokens_total 3\n"));
    assert_non_null(strstr(answer, "\nsluice_generation_tokens_total 5\n"));
    assert_non_null(
        strstr(answer, "sluice_routing_decisions_total{reason=\"local_no_prefill\"} 1"));
    assert_non_null(strstr(answer, "sluice_time_to_first_token_seconds_count{model=\"m\"} 1"));
    assert_non_null(strstr(answer, "sluice_inter_token_latency_seconds_count{model=\"m\"} 4"));
    sl_free(answer);
    fake_node_stop(d);
}

static void text_pages(void **state)
{
    struct fixture *f = *state;
    json_t *json = post_json(f, "/tokenize", "{\"prompt\":\"h\\u00e9\"}", 200);
    assert_int_equal(json_integer_value(json_object_get(json, "count")), 3);
    assert_int_equal(json_integer_value(json_object_get(json, "max_model_len")), 1024);
    json_t *tokens = json_object_get(json, "tokens");
    assert_int_equal(json_integer_value(json_array_get(tokens, 1)), 0xc3);
    json_decref(json);
    json = post_json(f, "/detokenize", "{\"tokens\":[104,195,169,256]}", 200);
    assert_string_equal(json_string_value(json_object_get(json, "prompt")), "h\xc3\xa9<|end|>");
    json_decref(json);
}

static json_int_t transferred(const char *page, const char *series)
{
    const char *p = strstr(page, series);
    return p != NULL ? (json_int_t)strtod(p + strlen(series), NULL) : -1;
}

static void send_totals(struct fake_node *node, uint64_t bytes)
{
    char src[] = "p0", dst[] = "d0", transport[] = "ucx";
    Sluice__TransferTotals totals = SLUICE__TRANSFER_TOTALS__INIT, *list[] = {&totals};
    totals.src = src;
    totals.dst = dst;
    totals.transport = transport;
    totals.bytes = bytes;
    Sluice__Load load = SLUICE__LOAD__INIT;
    Sluice__Heartbeat heartbeat = SLUICE__HEARTBEAT__INIT;
    heartbeat.load = &load;
    heartbeat.transfers = list;
    heartbeat.n_transfers = 1;
    Sluice__NodeMessage message = SLUICE__NODE_MESSAGE__INIT;
    message.body_case = SLUICE__NODE_MESSAGE__BODY_HEARTBEAT;
    message.heartbeat = &heartbeat;
    fake_node_send(node, &message);
    sl_sleep_us(50000);
}

/* Counters of dead workers stay in the sums. */
static void transfers_add_up(void **state)
{
    struct fixture *f = *state;
    const char *series = "sluice_kv_transfer_bytes_total{src=\"p0\",dst=\"d0\",transport=\"ucx\","
                         "side=\"recv\"} ";
    struct fake_node *d = start_decode(f);
    send_totals(d, 1000);
    send_totals(d, 1500);
    fake_node_stop(d);
    await(f, 0, 0); /* or the next one is told to come again */
    d = start_node(f, "d0", false);
    await(f, 0, 1);
    send_totals(d, 200);
    json_int_t sum = 0;
    for (uint64_t end = sl_now_us() + 10 * SL_SECOND_US; sum != 1700 && sl_now_us() < end;) {
        char *answer = client_request(f->port, "GET", "/metrics", NULL);
        sum = transferred(answer, series);
        sl_free(answer);
    }
    assert_int_equal(sum, 1700);
    fake_node_stop(d);
}

/* A short answer is over before its source says how the blocks went: they count all the same. */
static void a_transfer_of_a_request_that_is_over(void **state)
{
    struct fixture *f = *state;
    struct fake_node *p = start_node(f, "p0", true), *d = start_node(f, "d0", false);
    await(f, 1, 1);
    char text[] = "", destination[] = "d0";
    Sluice__StageTimes times = SLUICE__STAGE_TIMES__INIT;
    times.transfer_busy_us = 2000;
    times.transfer_bytes = 3000000;
    times.handover_us = 40000;
    Sluice__Finished finished = SLUICE__FINISHED__INIT;
    finished.request = 999;
    finished.finish = SLUICE__FINISH__FINISH_SENT;
    finished.message = text;
    finished.destination = destination;
    finished.times = &times;
    Sluice__NodeMessage message = SLUICE__NODE_MESSAGE__INIT;
    message.body_case = SLUICE__NODE_MESSAGE__BODY_FINISHED;
    message.finished = &finished;
    fake_node_send(p, &message);
    sl_sleep_us(100000);
    char *page = client_request(f->port, "GET", "/metrics", NULL);
    const char *link = "{src=\"p0\",dst=\"d0\",transport=\"loop\"} ";
    static const struct {
        const char *name;
        double value;
    } sums[] = {{"sluice_kv_transfer_seconds_sum", 0.002},
                {"sluice_kv_transfer_throughput_bytes_per_second_sum", 1.5e9}};
    for (size_t i = 0; i < sizeof(sums) / sizeof(sums[0]); i++) {
        char *series = sl_asprintf("%s%s", sums[i].name, link);
        const char *line = strstr(page, series);
        assert_non_null(line);
        double value = strtod(line + strlen(series), NULL);
        assert_true(value > 0.999999 * sums[i].value && value < 1.000001 * sums[i].value);
        sl_free(series);
    }
    assert_non_null(strstr(page, "\nsluice_handover_seconds_sum 0.04\n"));
    sl_free(page);
    fake_node_stop(p);
    fake_node_stop(d);
}

static void random_faults(void **state)
{
    static const char *const bodies[] = {
        "{\"prompt\":\"short\",\"max_tokens\":100,\"stream\":true}",
        LONG_STREAM,
        LONG_STREAM,
    };
    run_random_faults(*state, bodies, 1);
}

static void name_of_a_model(void **state)
{
    (void)state;
    static const char *const ways[] = {"", "/", "//", "/.", "/./"};
    char *model = fake_model_create();
    const char *name = strrchr(model, '/') + 1;
    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
        struct coordinator_config config;
        struct coordinator *c;
        char *path = sl_asprintf("%s%s", model, ways[i]);
        coordinator_config_init(&config);
        config.model_dir = path;
        config.listen = "127.0.0.1:0";
        assert_ok(coordinator_start(&config, &c));
        assert_string_equal(coordinator_model(c), name);
        coordinator_stop(c);
        sl_free(path);
    }
    fake_model_remove(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(name_of_a_model),
        TEST(one_completion),
        TEST(pair_and_stream),
        TEST(a_stop_string_cancels),
        cmocka_unit_test_setup_teardown(a_chat, setup_chat, teardown),
        cmocka_unit_test_setup_teardown(salts, setup_chat, teardown),
        TEST(cached_tokens),
        TEST(prefix_routing),
        TEST(many_at_once),
        TEST(a_decode_node_dies),
        TEST(a_decode_node_hangs),
        TEST(no_node_for_a_while),
        TEST(no_node_for_too_long),
        TEST(no_decode_node_left),
        TEST(a_prefill_node_dies),
        TEST(a_prefill_node_dies_after),
        TEST(redirects_then_gives_up_on_prefill),
        TEST(redirects_after_the_first_token),
        TEST(full_then_429),
        TEST(a_slow_body),
        TEST(full_here_room_there),
        TEST(headers_wait_for_admission),
        TEST(a_client_leaves),
        TEST(draining),
        TEST(stopped_with_a_stream),
        TEST(foreign_and_wrong_nodes),
        TEST(bad_requests),
        TEST(cut_prompts),
        TEST(lengths_that_fit),
        cmocka_unit_test_setup_teardown(answers_that_fill_the_pool, setup_chat, teardown),
        TEST(the_largest_values),
        TEST(ready_waits_for_a_decode_node),
        TEST(addresses_of_nodes),
        TEST(pages),
        TEST(text_pages),
        TEST(transfers_add_up),
        TEST(a_transfer_of_a_request_that_is_over),
        TEST(random_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

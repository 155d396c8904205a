/* Several choices and prompts in one request, and what is said of prompts, with nodes that follow a script. */
#include "unit/coordinator/fixture.h"

static int by_value(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

/* The choices of one prompt: one goes through the prefill node, the others where its blocks are then. */
static void choices_follow_the_first(void **state)
{
    struct fixture *f = *state;
    struct fake_node *p = start_node(f, "p0", true);
    struct fake_node *d[2] = {start_node(f, "d0", false), start_node(f, "d1", false)};
    await(f, 1, 2);
    json_t *json =
        post_json(f, "/v1/completions",
                  "{\"prompt\":" LONG_PROMPT ",\"max_tokens\":5,\"n\":3,\"seed\":40}", 200);
    json_t *choices = json_object_get(json, "choices");
    assert_int_equal(json_array_size(choices), 3);
    for (int i = 0; i < 3; i++) {
        json_t *choice = json_array_get(choices, (size_t)i);
        assert_int_equal(json_integer_value(json_object_get(choice, "index")), i);
        assert_string_equal(json_string_value(json_object_get(choice, "text")), "hello");
        assert_string_equal(json_string_value(json_object_get(choice, "finish_reason")), "length");
    }
    /* The prompt counts once. */
    assert_int_equal(usage_of(json, "prompt_tokens"), strlen(LONG_PROMPT) - 2);
    assert_int_equal(usage_of(json, "completion_tokens"), 15);
    json_decref(json);
    assert_int_equal(fake_node_submits(p), 1);
    struct fake_node *used = fake_node_submits(d[0]) > 0 ? d[0] : d[1];
    assert_int_equal(fake_node_submits(used), 3);
    assert_int_equal(fake_node_last(used).mode, SLUICE__MODE__MODE_LOCAL);
    uint64_t sum = 0;
    for (uint32_t i = 0; i < 3; i++)
        sum += fake_node_seed(used, i);
    assert_int_equal(fake_node_seed(used, 2), 40);
    assert_int_equal(sum, 40 + 41 + 42);
    /* A given seed is that of each prompt's first choice; one that is drawn is each choice's own. */
    static const struct {
        const char *body;
        uint64_t seeds[4]; /* in order; 0: drawn */
    } drawn[] = {{"{\"prompt\":[\"a\",\"b\"],\"n\":2,\"max_tokens\":2,\"seed\":7}", {7, 7, 8, 8}},
                 {"{\"prompt\":[\"a\",\"b\"],\"n\":2,\"max_tokens\":2}", {0}}};
    fake_node_stop(used == d[0] ? d[1] : d[0]);
    await(f, 1, 1);
    for (int k = 0; k < 2; k++) {
        uint64_t got[4];
        json_decref(post_json(f, "/v1/completions", drawn[k].body, 200));
        for (uint32_t i = 0; i < 4; i++)
            got[i] = fake_node_seed(used, i);
        qsort(got, 4, sizeof(got[0]), by_value);
        for (uint32_t i = 0; i < 4; i++)
            assert_true(k == 0 ? got[i] == drawn[k].seeds[i] : i == 0 || got[i] > got[i - 1]);
    }
    await_closed(f, 1000);
    fake_node_stop(p);
    fake_node_stop(used);
}

/* Lists of prompts, with choices of each, as a stream: events carry the index, one usage sums all up. */
static void prompts_and_choices_in_a_stream(void **state)
{
    struct fixture *f = *state;
    struct fake_node *d = start_decode(f);
    struct stream_result r;
    read_stream(f, &r,
                "{\"prompt\":[\"ab\",[97,98,99],\"x\"],\"n\":2,\"max_tokens\":100,"
                "\"stream\":true,\"stream_options\":{\"include_usage\":true}}");
    assert_true(r.done && !r.error);
    for (int i = 0; i < 6; i++)
        assert_string_equal(r.texts[i].data, HELLO_TEXT);
    assert_int_equal(r.n_finished, 6);
    assert_int_equal(json_integer_value(json_object_get(r.usage, "prompt_tokens")), 2 + 3 + 1);
    assert_int_equal(json_integer_value(json_object_get(r.usage, "completion_tokens")),
                     6 * (strlen(HELLO_TEXT) + 1));
    assert_int_equal(fake_node_submits(d), 6);
    stream_fini(&r);
    fake_node_stop(d);
}

/* More choices than may ever wait are not told to come again. */
static void more_choices_than_the_queue(void **state)
{
    struct fixture *f = *state;
    struct fake_node *d = start_decode(f);
    expect_answer(f, "/v1/completions", "{\"prompt\":\"abc\",\"n\":4}", 400,
                  "\"code\":\"too_many_choices\"");
    json_t *json =
        post_json(f, "/v1/completions", "{\"prompt\":\"abc\",\"n\":3,\"max_tokens\":5}", 200);
    assert_string_equal(text_of(json), "hello");
    json_decref(json);
    fake_node_stop(d);
}

/* Four requests may be open: two that run leave no room for three. */
static void more_choices_than_are_free(void **state)
{
    struct fixture *f = *state;
    struct fake_node *d = start_slow(f, "d0", false);
    int fds[2];
    struct stream_result r[2];
    await(f, 0, 1);
    for (int i = 0; i < 2; i++)
        fds[i] = begin_stream(f, &r[i], SHORT_STREAM, 1);
    expect_answer(f, "/v1/completions", "{\"prompt\":\"abc\",\"n\":3}", 429,
                  "\"code\":\"queue_full\"");
    for (int i = 0; i < 2; i++)
        finish_hello(fds[i], &r[i]);
    fake_node_stop(d);
}

/* Each choice's stream would begin with the whole prompt. */
static void echoes_in_one_stream(void **state)
{
    struct fixture *f = *state;
    struct fake_node *d = start_decode(f);
    char body[1200];
    static const char prompt[] = "{\"prompt\":\"%0900u\",\"max_tokens\":0,\"echo\":true,"
                                 "\"logprobs\":5,\"stream\":%s,\"n\":%u}";
    snprintf(body, sizeof(body), prompt, 7, "true", 8); /* 7,200 tokens of 304 bytes */
    char *answer = client_request(f->port, "POST", "/v1/completions", body);
    assert_int_equal(client_status(answer), 400);
    assert_non_null(strstr(answer, "`echo` of 7200 prompt tokens in 8 choices is about 2188800 "
                                   "bytes; a stream of several choices takes at most 2097152"));
    assert_non_null(strstr(answer, "\"param\":\"echo\""));
    assert_non_null(strstr(answer, "\"code\":\"echo_too_large\""));
    sl_free(answer);
    for (int i = 0; i < 2; i++) { /* fewer; or not as a stream */
        snprintf(body, sizeof(body), prompt, 7, i == 0 ? "true" : "false", i == 0 ? 7 : 8);
        answer = client_request(f->port, "POST", "/v1/completions", body);
        assert_int_equal(client_status(answer), 200);
        sl_free(answer);
    }
    fake_node_stop(d);
}

/* The answer of the first of these requests that has this status. */
static char *await_status(struct fixture *f, const char *body, int status)
{
    for (int i = 0; i < 300; i++) {
        char *answer = client_request(f->port, "POST", "/v1/completions", body);
        if (client_status(answer) == status)
            return answer;
        sl_free(answer);
        sl_sleep_us(10000);
    }
    fail_msg("%s: never %d", body, status);
    return NULL;
}

/* Of all requests: one that comes when half is taken waits outside, one that grows beyond all is given up. */
static void what_is_held_is_bounded(void **state)
{
    struct fixture *f = *state;
    struct fake_node *d = start_decode(f);
    static const char small[] = "{\"prompt\":\"abc\",\"max_tokens\":5}";
    char body[3200];
    json_decref(post_json(f, "/v1/completions", small, 200));
    snprintf(body, sizeof(body), "{\"prompt\":\"%01000u\",\"max_tokens\":3,\"echo\":true,\"n\":%u}",
             7, 90);
    json_decref(post_json(f, "/v1/completions", body, 200));
    snprintf(body, sizeof(body), "{\"prompt\":\"%01000u\",\"max_tokens\":3,\"echo\":true,\"n\":%u}",
             7, 120);
    expect_answer(f, "/v1/completions", body, 429, "\"code\":\"overloaded\"");
    await_closed(f, 3000);
    /* A body that does not come to its end. */
    int fd = client_connect(f->port);
    static char upload[51000];
    int n = snprintf(
        upload, sizeof(upload),
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\n");
    memset(upload + n, ' ', sizeof(upload) - n - 1);
    client_send(fd, upload);
    char *answer = await_status(f, small, 429);
    assert_non_null(strstr(answer, " of 100000 bytes already; try again later"));
    assert_non_null(strstr(answer, "\r\nRetry-After: "));
    sl_free(answer);
    close(fd);
    sl_free(await_status(f, small, 200));
    expect_page(f, "/metrics", 200, "\nsluice_requests_rejected_total{reason=\"held_bytes\"} ");
    /* Of a stream what it says of its prompts counts, and nothing that is sent. */
    snprintf(body, sizeof(body),
             "{\"prompt\":[\"%01000u\",\"%01000u\",\"%01000u\"],\"max_tokens\":3,\"echo\":true,"
             "\"logprobs\":5,\"stream\":true}",
             7, 8, 9);
    expect_answer(f, "/v1/completions", body, 200, "\"code\":\"overloaded\"");
    fake_node_stop(d);
    await(f, 0, 0);
    char text[901];
    memset(text, 'x', 900);
    text[900] = '\0';
    struct fake_args args = {.port = f->nodes_port, .id = "d0", .identity = 7, .text = text};
    d = fake_node_start(&args);
    await(f, 0, 1);
    expect_answer(f, "/v1/completions", "{\"prompt\":\"abc\",\"max_tokens\":900}", 200,
                  "\"completion_tokens\":900,");
    expect_answer(f, "/v1/completions",
                  "{\"prompt\":\"abc\",\"n\":3,\"max_tokens\":900,\"logprobs\":5,\"stream\":true}",
                  200, "[DONE]");
    fake_node_stop(d);
}

/* Without a token of the first, the others wait; the client's leaving ends them all. */
static void choices_wait_and_go_together(void **state)
{
    struct fixture *f = *state;
    struct fake_node *d = start_decode(f);
    fake_node_behave(d, FAKE_SILENT);
    int fd = open_stream(f, "{\"prompt\":\"abc\",\"n\":4,\"stream\":true}");
    await_submits(d, 1);
    sl_sleep_us(100000);
    assert_int_equal(fake_node_submits(d), 1);
    assert_int_equal(coordinator_open(f->c), 1);
    close(fd);
    await_closed(f, 2000);
    fake_node_stop(d);

    /* All of them run, the first one may be done. */
    struct fake_args args = {
        .port = f->nodes_port, .id = "d1", .identity = 7, .text = HELLO_TEXT, .token_us = 900000};
    struct fake_node *slow = fake_node_start(&args);
    await(f, 0, 1);
    fd = open_stream(f, "{\"prompt\":\"abc\",\"n\":4,\"stream\":true,\"max_tokens\":50}");
    for (int i = 0; i < 5000 && fake_node_running(slow) < 4; i++)
        sl_sleep_us(1000);
    assert_int_equal(fake_node_running(slow), 4);
    close(fd);
    for (int i = 0; i < 600 && fake_node_running(slow) > 0; i++)
        sl_sleep_us(1000); /* not one by one, as their next tokens come */
    assert_int_equal(fake_node_running(slow), 0);
    await_closed(f, 1000);
    fake_node_stop(slow);
}

/* The first choice is done before the other: the client's leaving is noticed all the same, without a write. */
static void a_client_leaves_the_last_choice(void **state)
{
    struct fixture *f = *state;
    struct fake_args args = {.port = f->nodes_port,
                             .id = "d0",
                             .identity = 7,
                             .text = HELLO_TEXT,
                             .token_us = 5000,
                             .slowing = true};
    struct fake_node *d = fake_node_start(&args);
    await(f, 0, 1);
    int fd = open_stream(f, "{\"prompt\":\"abc\",\"n\":2,\"max_tokens\":50}");
    for (int i = 0; i < 2000 && fake_node_running(d) < 2; i++)
        sl_sleep_us(500);
    for (int i = 0; i < 2000 && fake_node_running(d) > 1; i++)
        sl_sleep_us(500);
    uint32_t cancels = fake_node_cancels(d);
    assert_int_equal(fake_node_running(d), 1);
    close(fd);
    for (int i = 0; i < 100 && fake_node_cancels(d) == cancels; i++)
        sl_sleep_us(1000); /* its own end is further away */
    assert_true(fake_node_cancels(d) > cancels);
    await_closed(f, 1000);
    fake_node_stop(d);
}

/* One answer cannot carry an error and the rest: it ends with the error. */
static void an_error_ends_all_choices(void **state)
{
    struct fixture *f = *state;
    struct fake_args args = {
        .port = f->nodes_port, .id = "d0", .identity = 7, .text = HELLO_TEXT, .token_us = 50000};
    struct fake_node *d = fake_node_start(&args);
    await(f, 0, 1);
    int fd =
        open_stream(f, "{\"prompt\":[\"abc\",\"de\"],\"n\":2,\"stream\":true,\"max_tokens\":50}");
    for (int i = 0; i < 5000 && fake_node_running(d) < 4; i++)
        sl_sleep_us(1000);
    assert_int_equal(fake_node_running(d), 4);
    fake_node_stop(d);
    struct stream_result r;
    stream_init(&r);
    finish_stream(fd, &r); /* asserts that nothing follows the error */
    assert_true(r.error && !r.done);
    await_closed(f, 1000);
    stream_fini(&r);
}

/* More choices than may wait are refused at once, and leave nothing. */
static void too_many_choices(void **state)
{
    struct fixture *f = *state;
    struct fake_node *d = start_decode(f);
    json_decref(post_json(f, "/v1/completions", "{\"prompt\":[\"a\",\"b\"],\"n\":65}", 400));
    json_decref(post_json(f, "/v1/completions", "{\"prompt\":\"a\",\"n\":129}", 400));
    json_decref(
        post_json(f, "/v1/completions", "{\"prompt\":[\"a\",\"b\"],\"max_tokens\":100000}", 400));
    json_t *json =
        post_json(f, "/v1/completions", "{\"prompt\":\"a\",\"n\":100,\"max_tokens\":1}", 200);
    assert_int_equal(json_array_size(json_object_get(json, "choices")), 100);
    json_decref(json);
    await_closed(f, 1000);
    fake_node_stop(d);
}

/* The prompt said again, and scored; no token wanted, one, or several choices. */
static void echo(void **state)
{
    struct fixture *f = *state;
    struct fake_node *p = start_node(f, "p0", true), *d = start_node(f, "d0", false);
    await(f, 1, 1);
    json_t *json = post_json(f, "/v1/completions",
                             "{\"prompt\":\"abc\",\"max_tokens\":5,\"echo\":true,\"n\":2}", 200);
    for (size_t i = 0; i < 2; i++) {
        json_t *choice = json_array_get(json_object_get(json, "choices"), i);
        assert_string_equal(json_string_value(json_object_get(choice, "text")), "abchello");
        assert_true(json_is_null(json_object_get(choice, "logprobs")));
    }
    json_decref(json);
    json =
        post_json(f, "/v1/completions",
                  "{\"prompt\":[[97,195,175]],\"max_tokens\":0,\"echo\":true,\"logprobs\":1}", 200);
    assert_string_equal(text_of(json), "a\xc3\xaf");
    assert_int_equal(usage_of(json, "completion_tokens"), 0);
    json_t *choice = json_array_get(json_object_get(json, "choices"), 0);
    assert_string_equal(json_string_value(json_object_get(choice, "finish_reason")), "length");
    char *said = json_dumps(json_object_get(choice, "logprobs"), JSON_COMPACT | JSON_SORT_KEYS);
    assert_string_equal(said,
                        "{\"text_offset\":[0,1,1],\"token_logprobs\":[null,-0.25,-0.5],"
                        "\"tokens\":[\"a\",\"bytes:\\\\xc3\",\"bytes:\\\\xaf\"],\"top_logprobs\":"
                        "[null,{\"bytes:\\\\xc4\":-0.125},{\"bytes:\\\\xb0\":-0.125}]}");
    free(said);
    json_decref(json);
    json = post_json(f, "/v1/completions",
                     "{\"prompt\":\"abc\",\"max_tokens\":1,\"prompt_logprobs\":1}", 200);
    assert_string_equal(text_of(json), "h");
    choice = json_array_get(json_object_get(json, "choices"), 0);
    said = json_dumps(json_object_get(choice, "prompt_logprobs"), JSON_COMPACT | JSON_SORT_KEYS);
    assert_string_equal(
        said,
        "[null,{\"98\":{\"decoded_token\":\"b\",\"logprob\":-0.25,\"rank\":2},\"99\":{"
        "\"decoded_token\":\"c\",\"logprob\":-0.125,\"rank\":1}},{\"100\":{\"decoded_token\":\"d\","
        "\"logprob\":-0.125,\"rank\":1},\"99\":{\"decoded_token\":\"c\",\"logprob\":-0.5,\"rank\":"
        "2}}]");
    free(said);
    json_decref(json);
    static const struct {
        const char *body, *part;
    } said_again[] = {
        {"{\"prompt\":\"a\\u0000\\u00e9b\",\"max_tokens\":1,\"echo\":true,\"logprobs\":0}",
         "\"text\":\"a\\u0000\xc3\xa9"
         "bh\""},
        {"{\"prompt\":\"a\\u0000\\u00e9b\",\"max_tokens\":1,\"echo\":true,\"logprobs\":0}",
         "\"text_offset\":[0,1,2,2,3,4]"},
        {"{\"prompt\":\"ab\",\"max_tokens\":1,\"prompt_logprobs\":0,\"logprobs\":0}",
         "\"text_offset\":[0]"},
        {"{\"prompt\":[97,256],\"max_tokens\":1,\"echo\":true}", "\"text\":\"ah\""},
        {"{\"prompt\":[97,256],\"max_tokens\":1,\"echo\":true,\"skip_special_tokens\":false}",
         "\"text\":\"a<|end|>h\""},
        {"{\"prompt\":\"ab\",\"max_tokens\":1,\"prompt_logprobs\":2}", /* its own stands once */
         "[null,{\"98\":{\"logprob\":-0.25,\"rank\":2,\"decoded_token\":\"b\"},"
         "\"99\":{\"logprob\":-0.125,\"rank\":1,\"decoded_token\":\"c\"}}]"},
    };
    for (size_t i = 0; i < sizeof(said_again) / sizeof(said_again[0]); i++)
        expect_answer(f, "/v1/completions", said_again[i].body, 200, said_again[i].part);
    struct stream_result r;
    read_stream(f, &r,
                "{\"prompt\":[\"abc\",\"x\"],\"max_tokens\":4,\"echo\":true,\"n\":2,"
                "\"logprobs\":0,\"stream\":true}");
    const char *const want[] = {"abchell", "abchell", "xhell", "xhell"};
    for (int i = 0; i < 4; i++)
        assert_string_equal(r.texts[i].data, want[i]);
    stream_fini(&r);
    fake_node_stop(p);
    fake_node_stop(d);
}

/* Tokens without the scores before them count for nothing: the prompt is computed again. */
static void lost_scores(void **state)
{
    struct fixture *f = *state;
    struct fake_args args = {
        .port = f->nodes_port, .id = "d0", .identity = 7, .text = HELLO_TEXT, .scores_lost = 1};
    struct fake_node *d = fake_node_start(&args);
    await(f, 0, 1);
    json_t *json = post_json(
        f, "/v1/completions",
        "{\"prompt\":\"abc\",\"max_tokens\":5,\"echo\":true,\"logprobs\":0,\"n\":2}", 200);
    assert_string_equal(text_of(json), "abchello");
    json_t *choice = json_array_get(json_object_get(json, "choices"), 1);
    json_t *values = json_object_get(json_object_get(choice, "logprobs"), "token_logprobs");
    assert_int_equal(json_array_size(values), 8);
    assert_true(json_number_value(json_array_get(values, 2)) == -0.5);
    json_t *offsets = json_object_get(json_object_get(choice, "logprobs"), "text_offset");
    for (int i = 0; i < 8; i++)
        assert_int_equal(json_integer_value(json_array_get(offsets, (size_t)i)), i);
    assert_int_equal(fake_node_submits(d), 3); /* the first one twice */
    json_decref(json);
    fake_node_stop(d);
}

static void random_faults(void **state)
{
    static const char *const bodies[] = {
        "{\"prompt\":\"short\",\"n\":3,\"max_tokens\":100,\"stream\":true}",
        "{\"prompt\":" LONG_PROMPT ",\"n\":3,\"max_tokens\":100,\"stream\":true}",
        "{\"prompt\":[" LONG_PROMPT ",\"a\",\"b\"],\"max_tokens\":100,\"stream\":true}",
    };
    run_random_faults(*state, bodies, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(choices_follow_the_first),
        TEST(prompts_and_choices_in_a_stream),
        cmocka_unit_test_setup_teardown(more_choices_than_the_queue, setup_short_queue, teardown),
        cmocka_unit_test_setup_teardown(more_choices_than_are_free, setup_short_queue, teardown),
        TEST(choices_wait_and_go_together),
        TEST(echoes_in_one_stream),
        cmocka_unit_test_setup_teardown(what_is_held_is_bounded, setup_short_memory, teardown),
        TEST(a_client_leaves_the_last_choice),
        TEST(an_error_ends_all_choices),
        TEST(too_many_choices),
        TEST(echo),
        TEST(lost_scores),
        TEST(random_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

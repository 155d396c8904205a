/* What the HTTP server does not do for ever, or for everybody: bytes that it holds, requests that stand still,
 * pages of others. */
#include "unit/coordinator/http_fixture.h"

static int setup_one_thread(void **state)
{
    return setup_args(state, 1, 20);
}

static int setup_hasty(void **state)
{
    return setup_args(state, 2, 1);
}

static void await_held_bytes(struct fixture *f, size_t least, size_t most)
{
    for (int i = 0;
         i < 3000 && (http_server_held(f->server) < least || http_server_held(f->server) > most);
         i++)
        sl_sleep_us(1000);
    assert_in_range(http_server_held(f->server), least, most);
}

/* Of all requests together: bodies, what the handler keeps, answers until they are sent. */
static void what_is_held_is_counted(void **state)
{
    struct fixture *f = *state;
    int fd = client_connect(f->port), other = client_connect(f->port);
    struct sl_buf got;
    sl_buf_init(&got, 1 << 20);
    client_send(other, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n0123456789");
    await_held_bytes(f, 10, 10);
    client_post(fd, "/hold", "{\"ab\":12}");
    struct http_exchange *exchange = await_held(f);
    assert_int_equal(http_server_held(f->server), 19);
    http_exchange_drop_body(exchange);
    assert_int_equal(http_server_held(f->server), 10);
    assert_true(http_exchange_hold(exchange, 500));
    assert_true(http_exchange_hold(exchange, 300));
    assert_int_equal(http_server_held(f->server), 310);
    assert_true(http_exchange_hold(exchange, HELD_MAX - 10)); /* the limit is inside */
    assert_false(http_exchange_hold(exchange, HELD_MAX - 9));
    client_send(other, "0"); /* it has been told; so is a body that goes on */
    assert_true(client_read(other, &got, "}}", 3000));
    assert_int_equal(client_status(got.data), 429);
    assert_non_null(strstr(got.data, "\r\nRetry-After: 1\r\n"));
    assert_non_null(strstr(got.data, "\"type\":\"rate_limit_error\""));
    assert_non_null(strstr(got.data, "\"code\":\"overloaded\""));
    close(other);
    await_held_bytes(f, HELD_MAX - 9, HELD_MAX - 9);
    sl_buf_reset(&got);
    http_reply(exchange, 200, "text/plain", "short", 5, 0); /* what the handler kept is gone */
    assert_true(client_read(fd, &got, "short", 3000));
    await_held_bytes(f, 0, 0);
    assert_true(http_exchange_hold(exchange, HELD_MAX * 2ul)); /* in vain: it is over */
    assert_int_equal(http_server_held(f->server), 0);
    close(fd);
    sl_buf_fini(&got);
}

/* The one thread of the server does nothing else until `unblock` is true. */
static int keep_thread(struct fixture *f)
{
    int fd = client_connect(f->port);
    uint32_t before = atomic_load(&f->n_blocked);
    atomic_store(&f->unblock, false);
    client_send(fd, "GET /v1/block HTTP/1.1\r\nHost: a\r\n\r\n");
    for (int i = 0; i < 3000 && atomic_load(&f->n_blocked) == before; i++)
        sl_sleep_us(1000);
    assert_int_equal(atomic_load(&f->n_blocked), before + 1);
    return fd;
}

/* Half a body, and the client leaves. With `more` the thread hears of further bytes and of the end at once. */
static void leave_in_mid_upload(struct fixture *f, const char *body, bool reset, const char *more)
{
    static const struct linger hard = {.l_onoff = 1};
    int fd = client_connect(f->port), blocker = -1;
    client_send(fd, "POST /echo HTTP/1.1\r\nHost: a\r\n");
    client_send(fd, body);
    await_held_bytes(f, 10, 10);
    if (more != NULL) {
        blocker = keep_thread(f);
        client_send(fd, more);
    }
    if (reset)
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
    close(fd);
    uint64_t from = sl_real_us();
    if (more != NULL) {
        sl_sleep_us(20000); /* for the watcher */
        atomic_store(&f->unblock, true);
    }
    while (http_server_held(f->server) > 0 && sl_real_us() - from < 5000000)
        sl_sleep_us(1000);
    uint64_t took_us = sl_real_us() - from;
    if (took_us > 1000000)
        fail_msg("%.24s… %s%s: held for %d ms", body, reset ? "reset " : "",
                 more != NULL ? more : "", (int)(took_us / 1000));
    if (blocker >= 0)
        close(blocker);
}

/* What it holds is given back at once, and not when its body is overdue. */
static void clients_that_leave_in_mid_upload(void **state)
{
    static const char *const length = "Content-Length: 100\r\n\r\n0123456789";
    static const char *const chunk = "Transfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n";
    for (int i = 0; i < 4; i++) {
        bool reset = i % 2 == 1;
        leave_in_mid_upload(*state, length, reset, NULL);
        leave_in_mid_upload(*state, length, reset, "more");
        leave_in_mid_upload(*state, chunk, reset, NULL);
        leave_in_mid_upload(*state, chunk, reset, "5\r\nmore");
        leave_in_mid_upload(*state, chunk, reset, "5"); /* nothing of a body */
    }
}

/* While too much is held, a stream may have less unsent. */
static void streams_share(void **state)
{
    struct fixture *f = *state;
    static char block[65536];
    memset(block, 'x', sizeof(block));
    int fd, slow;
    struct http_exchange *holder = begin_held(f, &fd);
    atomic_store(&f->held, NULL);
    struct http_exchange *exchange = begin_unread(f, &slow);
    assert_false(http_exchange_hold(holder, HELD_MAX));
    uint32_t written = 0;
    while (http_stream_write(exchange, block, sizeof(block)) && written < 10000)
        written++;
    /* What the sockets take is not counted: a few MB at most, but less than without the limit. */
    size_t over = written * sizeof(block);
    http_abort(exchange);
    http_exchange_release(exchange);
    close(slow);
    assert_true(http_exchange_hold(holder, 0));
    exchange = begin_unread(f, &slow);
    for (written = 0; http_stream_write(exchange, block, sizeof(block)) && written < 10000;)
        written++;
    assert_true(written * sizeof(block) > over + HTTP_STREAM_BYTES_MAX / 2);
    http_abort(exchange);
    http_exchange_release(exchange);
    close(slow);
    http_reply(holder, 200, "text/plain", "", 0, 0);
    http_exchange_release(holder);
    close(fd);
}

/* A long event is not held against a client that has not read it yet. */
static void events_after_a_long_one(void **state)
{
    struct fixture *f = *state;
    const size_t bytes = HTTP_STREAM_BYTES_MAX + (1u << 20), step = 1u << 16;
    char *event = sl_zalloc(bytes, 1);
    memset(event, 'x', bytes);
    int slow;
    struct http_exchange *exchange = begin_unread(f, &slow);
    assert_true(http_stream_write(exchange, event, bytes));
    size_t more = 0;
    for (; more < HTTP_STREAM_BYTES_MAX - step; more += step)
        assert_true(http_stream_write(exchange, event, step));
    while (http_stream_write(exchange, event, step) && more < 10000 * step)
        more += step;
    assert_true(more < 10000 * step);
    assert_true(http_exchange_is_gone(exchange));
    http_abort(exchange);
    http_exchange_release(exchange);
    close(slow);
    sl_free(event);
}

/* No request within the time, or one whose head or body does not go on: the connection ends. */
static void requests_that_stand_still(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *bytes;
        int status; /* 0: no answer */
    } cases[] = {
        {"", 0},
        {"\x16\x03\x01\x02\x01\x01\x01\xfc\x03\x03 a ClientHello", 0},
        {"POST /echo HTTP/1.1\r\nHo", 0},
        {"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n", 408},
        {"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc", 408},
        {"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 408},
        {"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffff\r\n", 408}};
    enum { N = sizeof(cases) / sizeof(cases[0]) };
    int fds[N];
    uint64_t from = sl_real_us();
    for (size_t i = 0; i < N; i++) {
        fds[i] = client_connect(f->port);
        client_send(fds[i], cases[i].bytes);
    }
    for (size_t i = 0; i < N; i++) {
        struct sl_buf got;
        sl_buf_init(&got, 1 << 16);
        client_read(fds[i], &got, NULL, 20000);
        assert_true(sl_real_us() - from > 900000);
        if (cases[i].status != 0) {
            assert_int_equal(client_status(got.data), cases[i].status);
            assert_non_null(strstr(got.data, "nothing more of the request body came"));
        } else {
            assert_int_equal(got.bytes, 0);
        }
        char end;
        assert_true(recv(fds[i], &end, 1, 0) <= 0);
        close(fds[i]);
        sl_buf_fini(&got);
    }
    assert_true(sl_real_us() - from < 15000000);
}

/* A slow upload goes on, and a connection between two requests, or one that waits for its answer, stands still by
 * right. */
static void slow_ones_are_served(void **state)
{
    struct fixture *f = *state;
    struct sl_buf got;
    int fd = client_connect(f->port);
    sl_buf_init(&got, 1 << 16);
    client_send(fd, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\n");
    for (const char *p = "upload"; *p != '\0'; p++) {
        char byte[2] = {*p};
        client_send(fd, byte);
        sl_sleep_us(400000);
    }
    assert_true(client_read(fd, &got, "upload", 3000));
    sl_sleep_us(2500000);
    sl_buf_reset(&got);
    client_post(fd, "/hold", "{}");
    struct http_exchange *exchange = await_held(f);
    sl_sleep_us(2500000);
    assert_true(http_stream_begin(exchange));
    assert_true(http_stream_write(exchange, "data: 1\n\n", 9));
    sl_sleep_us(2500000);
    http_stream_end(exchange);
    assert_true(client_read(fd, &got, "\r\n0\r\n\r\n", 3000));
    assert_int_equal(client_status(got.data), 200);
    sl_sleep_us(2500000);
    sl_buf_reset(&got);
    client_send(fd, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok");
    assert_true(client_read(fd, &got, "ok", 3000));
    sl_buf_reset(&got);
    client_send(fd, "POST /echo HTTP/1.1\r\nHost: a\r\n"); /* now it has begun one */
    uint64_t from = sl_real_us();
    client_read(fd, &got, NULL, 20000);
    assert_in_range(sl_real_us() - from, 900000, 15000000);
    close(fd);
    sl_buf_fini(&got);
}

/* What a browser says of the page that sends the request. */
static void pages_of_others(void **state)
{
    struct fixture *f = *state;
    static const char echo[] =
        "POST /echo HTTP/1.1\r\nHost: %s\r\n%s%s%sContent-Length: 3\r\n\r\nabc";
    static const struct {
        const char *host, *origin;
        int status;
        bool told; /* that the page may read it */
    } cases[] = {{"127.0.0.1:1", NULL, 200, false},
                 {"127.0.0.1:1", "http://127.0.0.1:1", 200, false},
                 {"127.0.0.1:1", "http://127.0.0.1:2", 403, false},
                 {"127.0.0.1:1", "https://evil.example", 403, false},
                 {"127.0.0.1:1", "null", 403, false},
                 {"evil.example:1", NULL, 403, false},
                 {"evil.example:1", "http://evil.example:1", 403, false},
                 {"chat.example.com", "https://chat.example.com", 200, false},
                 {"localhost:1", "https://chat.example.com", 200, true}};
    char bytes[512];
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const char *origin = cases[i].origin;
        snprintf(bytes, sizeof(bytes), echo, cases[i].host, origin != NULL ? "Origin: " : "",
                 origin != NULL ? origin : "", origin != NULL ? "\r\n" : "");
        char *answer = raw(f, bytes, cases[i].status == 200 ? "abc" : "}}", 3000);
        if (client_status(answer) != cases[i].status)
            fail_msg("%s: %s", bytes, answer);
        bool told = strstr(answer, "\r\nAccess-Control-Allow-Origin: https://chat.example.com\r\n"
                                   "Access-Control-Expose-Headers: *\r\nVary: Origin\r\n") != NULL;
        assert_true(told == cases[i].told);
        assert_true(told || strstr(answer, "Access-Control") == NULL);
        if (cases[i].status == 403)
            assert_non_null(strstr(answer, "\"type\":\"permission_error\",\"param\":null,"
                                           "\"code\":\"forbidden\"}}"));
        sl_free(answer);
    }
    expect_sentence(f, "GET /page HTTP/1.1\r\nHost: evil.example:80\r\n\r\n",
                    "Host evil.example:80 is no name of this machine; --allow-origin http://HOST "
                    "makes it one");
    expect_sentence(f, "GET /page HTTP/1.1\r\nHost: a\r\nOrigin: https://evil.example/\"\r\n\r\n",
                    "pages of https://evil.example/... may not talk to this server");
    /* What is refused may be read, too. */
    char *refused = raw(f,
                        "GET /nothing HTTP/1.1\r\nHost: localhost\r\n"
                        "Origin: https://chat.example.com\r\n\r\n",
                        "}}", 3000);
    assert_int_equal(client_status(refused), 404);
    assert_non_null(
        strstr(refused, "\r\nAccess-Control-Allow-Origin: https://chat.example.com\r\n"));
    sl_free(refused);
}

/* Of a listed page: what is refused with the head or in the middle of the body can be read as well. */
static void pages_read_refusals(void **state)
{
    struct fixture *f = *state;
    static const char listed[] = "Host: localhost\r\nOrigin: https://chat.example.com\r\n";
    static const struct {
        const char *head;
        int status;
    } cases[] = {
        {"Content-Length: 10001\r\n\r\n", 413},
        {"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400},
        {"Transfer-Encoding: gzip\r\n\r\n", 501},
        {"Transfer-Encoding: chunked\r\n\r\n2711\r\n", 413}, /* and so many bytes */
        {"Content-Length: 9\r\n\r\nabc", 408},
        {"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", 429},
    };
    static char longest[BODY_MAX + 2], request[BODY_MAX + 500];
    memset(longest, 'x', BODY_MAX + 1);
    int fd;
    struct http_exchange *holder = begin_held(f, &fd);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        bool full = cases[i].status == 429;
        assert_true(http_exchange_hold(holder, full ? HELD_MAX + 1ul : 0) != full);
        (void)snprintf(request, sizeof(request), "POST /echo HTTP/1.1\r\n%s%s%s", listed,
                       cases[i].head, cases[i].status == 413 ? longest : "");
        char *answer = raw(f, request, "}}", 20000);
        if (client_status(answer) != cases[i].status ||
            strstr(answer, "\r\nAccess-Control-Allow-Origin: https://chat.example.com\r\n"
                           "Access-Control-Expose-Headers: *\r\nVary: Origin\r\n") == NULL)
            fail_msg("%.60s…: %s; want %d", cases[i].head, answer, cases[i].status);
        sl_free(answer);
    }
    http_reply(holder, 200, "text/plain", "", 0, 0);
    close(fd);
}

/* A page that may is told what it may send; others are not. */
static void preflights(void **state)
{
    struct fixture *f = *state;
    static const char asks[] = "OPTIONS /echo HTTP/1.1\r\nHost: localhost\r\nOrigin: %s\r\n"
                               "Access-Control-Request-Method: POST\r\n"
                               "Access-Control-Request-Headers: authorization,content-type\r\n\r\n";
    char bytes[512];
    snprintf(bytes, sizeof(bytes), asks, "https://chat.example.com");
    char *answer = raw(f, bytes, "\r\n\r\n", 3000);
    assert_int_equal(client_status(answer), 204);
    assert_non_null(
        strstr(answer, "\r\nAccess-Control-Allow-Origin: https://chat.example.com\r\n"));
    assert_non_null(strstr(answer, "\r\nAccess-Control-Allow-Methods: GET, POST\r\n"));
    assert_non_null(
        strstr(answer, "\r\nAccess-Control-Allow-Headers: authorization,content-type\r\n"));
    assert_non_null(strstr(answer, "\r\nVary: Origin\r\n"));
    sl_free(answer);
    snprintf(bytes, sizeof(bytes), asks, "https://evil.example");
    expect_refusal(f, bytes, 403);
    snprintf(bytes, sizeof(bytes), asks, "http://localhost");
    expect_refusal(f, bytes, 405);
    expect_refusal(
        f,
        "OPTIONS /echo HTTP/1.1\r\nHost: localhost\r\nOrigin: https://chat.example.com\r\n"
        "\r\n",
        405);
}

/* One that others reach has names that nobody here knows. */
static void names_of_a_server_for_others(void **state)
{
    struct fixture *f = *state;
    struct http_args args = args_of(f, "0.0.0.0:0", 1);
    struct http_server *own = f->server;
    uint16_t port = f->port;
    assert_ok(http_server_start(&args, &f->server));
    f->port = http_server_port(f->server);
    char *answer = raw(f, "GET /page HTTP/1.1\r\nHost: llm.svc\r\n\r\n", "later", 3000);
    assert_int_equal(client_status(answer), 429);
    sl_free(answer);
    expect_refusal(f, "GET /page HTTP/1.1\r\nHost: llm.svc\r\nOrigin: https://evil.example\r\n\r\n",
                   403);
    http_server_stop(f->server);
    f->server = own;
    f->port = port;
    args.allow_origin = "chat.example.com";
    struct http_server *server = NULL;
    assert_fails(http_server_start(&args, &server), SL_INVALID, "--allow-origin");
    assert_null(server);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(events_after_a_long_one, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_held_is_counted, setup, teardown),
        cmocka_unit_test_setup_teardown(clients_that_leave_in_mid_upload, setup_one_thread,
                                        teardown),
        cmocka_unit_test_setup_teardown(streams_share, setup, teardown),
        cmocka_unit_test_setup_teardown(requests_that_stand_still, setup_hasty, teardown),
        cmocka_unit_test_setup_teardown(slow_ones_are_served, setup_hasty, teardown),
        cmocka_unit_test_setup_teardown(pages_of_others, setup, teardown),
        cmocka_unit_test_setup_teardown(pages_read_refusals, setup_hasty, teardown),
        cmocka_unit_test_setup_teardown(preflights, setup, teardown),
        cmocka_unit_test_setup_teardown(names_of_a_server_for_others, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The HTTP server alone, over real sockets: framing that must be refused, and fast; streams; clients
 * that leave; the end of the server with everything open. */
#include "coordinator/http.h"

#include "support/support.h"
#include "unit/coordinator/fake_node.h"

#include "base/clock.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <stdatomic.h>
#include <sys/socket.h>

enum { ECHO, HOLD, PAGE };

static const struct http_route routes[] = {
    {"POST", "/echo", ECHO}, {"POST", "/hold", HOLD}, {"GET", "/page", PAGE}};

struct fixture {
    struct http_server *server;
    uint16_t port;
    atomic_uint gone;
    _Atomic(struct http_exchange *) held;
};

static void on_request(void *arg, struct http_exchange *exchange)
{
    struct fixture *f = arg;
    size_t n;
    const char *body = http_exchange_body(exchange, &n);
    if (http_exchange_route(exchange) == HOLD)
        atomic_store(&f->held, http_exchange_acquire(exchange));
    else if (http_exchange_route(exchange) == ECHO)
        http_reply(exchange, 200, "text/plain", body, n, 0);
    else
        http_reply(exchange, 429, "text/plain", "later", 5, 7);
}

static void on_gone(void *arg, struct http_exchange *exchange)
{
    struct fixture *f = arg;
    (void)exchange;
    atomic_fetch_add(&f->gone, 1);
}

static int setup(void **state)
{
    struct fixture *f = sl_zalloc(1, sizeof(*f));
    struct http_args args = {.listen = "127.0.0.1:0",
                             .routes = routes,
                             .n_routes = 3,
                             .handler = {on_request, on_gone, f},
                             .threads = 2,
                             .connections_max = 64,
                             .body_bytes_max = 10000};
    assert_ok(http_server_start(&args, &f->server));
    f->port = http_server_port(f->server);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    http_server_stop(f->server);
    http_exchange_release(atomic_load(&f->held));
    sl_free(f);
    return 0;
}

/* Sends raw bytes, reads the answer until the connection ends or `until` came. */
static char *raw(struct fixture *f, const char *bytes, const char *until, uint32_t ms)
{
    int fd = client_connect(f->port);
    struct sl_buf answer;
    sl_buf_init(&answer, 1 << 20);
    client_send(fd, bytes);
    client_read(fd, &answer, until, ms);
    close(fd);
    char *text = sl_strdup(answer.bytes > 0 ? answer.data : "");
    sl_buf_fini(&answer);
    return text;
}

static void expect_refusal(struct fixture *f, const char *bytes, int status)
{
    uint64_t from = sl_real_us();
    char *answer = raw(f, bytes, "}}", 5000);
    if (client_status(answer) != status)
        fail_msg("%.60s…: %.300s; want %d", bytes, answer, status);
    if (sl_real_us() - from > 1000000)
        fail_msg("%.60s…: took %d ms", bytes, (int)((sl_real_us() - from) / 1000));
    sl_free(answer);
}

static void ambiguous_framing(void **state)
{
    struct fixture *f = *state;
    expect_refusal(f,
                   "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n"
                   "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                   400);
    expect_refusal(
        f, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        400);
    expect_refusal(
        f, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        400);
    expect_refusal(f, "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501);
    expect_refusal(f,
                   "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
                   "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                   400);
    expect_refusal(f, "GET /page HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400);
}

static void hosts(void **state)
{
    struct fixture *f = *state;
    char *answer = raw(f, "GET /page HTTP/1.1\r\n\r\n", NULL, 3000);
    assert_int_equal(client_status(answer), 400);
    sl_free(answer);
    answer = raw(f, "GET /page HTTP/1.0\r\n\r\n", NULL, 3000);
    assert_int_equal(client_status(answer), 429);
    assert_non_null(strstr(answer, "Retry-After: 7"));
    sl_free(answer);
}

static void paths_and_methods(void **state)
{
    struct fixture *f = *state;
    expect_refusal(f, "GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n", 404);
    expect_refusal(f, "GET /echo HTTP/1.1\r\nHost: a\r\n\r\n", 405);
    expect_refusal(f, "DELETE /page HTTP/1.1\r\nHost: a\r\n\r\n", 405);
    expect_refusal(f, "POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", 404);
}

static void expect_sentence(struct fixture *f, const char *bytes, const char *sentence)
{
    char *answer = raw(f, bytes, "}}", 3000);
    if (strstr(answer, sentence) == NULL)
        fail_msg("%.60s…: %.400s; want %s", bytes, answer, sentence);
    sl_free(answer);
}

static void wrong_paths_are_explained(void **state)
{
    struct fixture *f = *state;
    expect_sentence(f, "GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n",
                    "\"message\":\"there is no path /nowhere\"");
    expect_sentence(f, "GET /a\"b HTTP/1.1\r\nHost: a\r\n\r\n",
                    "\"message\":\"there is no path /a...\"");
    expect_sentence(f, "GET /v1/page HTTP/1.1\r\nHost: a\r\n\r\n",
                    "\"message\":\"there is no path /v1/page; did you mean /page?\"");
    expect_sentence(f, "GET /echo HTTP/1.1\r\nHost: a\r\n\r\n",
                    "\"message\":\"/echo takes POST only\"");
    expect_sentence(f, "DELETE /page HTTP/1.1\r\nHost: a\r\n\r\n",
                    "\"message\":\"/page takes GET, HEAD only\"");
    char path[200], request[300];
    memset(path, 'x', sizeof(path));
    path[0] = '/';
    path[sizeof(path) - 1] = '\0';
    snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\nHost: a\r\n\r\n", path);
    expect_sentence(f, request, "x...\",\"type\":\"not_found_error\"");
}

static void long_headers(void **state)
{
    struct fixture *f = *state;
    struct sl_buf head;
    sl_buf_init(&head, 1 << 20);
    sl_buf_add_text(&head, "GET /page HTTP/1.1\r\nHost: a\r\nX: ");
    for (int i = 0; i < 40000; i++)
        sl_buf_add_text(&head, "y");
    sl_buf_add_text(&head, "\r\n\r\n");
    char *answer = raw(f, head.data, "}}", 3000);
    assert_int_equal(client_status(answer), 431);
    sl_free(answer);
    sl_buf_reset(&head);
    sl_buf_add_text(&head, "GET /page HTTP/1.1\r\nHost: a\r\n");
    for (int i = 0; i < 120; i++)
        sl_buf_add_format(&head, "X%d: y\r\n", i);
    sl_buf_add_text(&head, "\r\n");
    answer = raw(f, head.data, "}}", 3000);
    assert_int_equal(client_status(answer), 431);
    sl_free(answer);
    sl_buf_fini(&head);
}

static void long_bodies(void **state)
{
    struct fixture *f = *state;
    struct sl_buf body;
    sl_buf_init(&body, 1 << 22);
    /* Announced only. */
    expect_refusal(f, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10001\r\n\r\n", 413);
    expect_refusal(
        f, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", 413);
    /* Sent to the end by a client that does not look: the answer must survive. */
    sl_buf_add_text(&body, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n");
    for (int i = 0; i < 1000000; i++)
        sl_buf_add(&body, "z", 1);
    expect_refusal(f, body.data, 413);
    /* Chunked, without an end. */
    sl_buf_reset(&body);
    sl_buf_add_text(&body, "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    for (int i = 0; i < 30; i++) {
        sl_buf_add_text(&body, "400\r\n");
        for (int k = 0; k < 1024; k++)
            sl_buf_add(&body, "z", 1);
        sl_buf_add_text(&body, "\r\n");
    }
    expect_refusal(f, body.data, 413);
    sl_buf_fini(&body);
}

static void bodies_that_fit(void **state)
{
    struct fixture *f = *state;
    char *answer = raw(f,
                       "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                       "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
                       "abcde", 3000);
    assert_int_equal(client_status(answer), 200);
    assert_string_equal(client_body(answer), "abcde");
    sl_free(answer);
    /* Two on one connection, the second pipelined. */
    answer = raw(f,
                 "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
                 "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nxyz",
                 "xyz", 3000);
    assert_non_null(strstr(answer, "abc"));
    sl_free(answer);
    /* Slowly. */
    int fd = client_connect(f->port);
    struct sl_buf slow;
    sl_buf_init(&slow, 1 << 16);
    client_send(fd, "POST /echo HTTP/1.1\r\nHo");
    sl_sleep_us(20000);
    client_send(fd, "st: a\r\nContent-Length: 4\r\n\r\nab");
    sl_sleep_us(20000);
    client_send(fd, "cd");
    assert_true(client_read(fd, &slow, "abcd", 3000));
    close(fd);
    sl_buf_fini(&slow);
}

static struct http_exchange *await_held(struct fixture *f)
{
    for (int i = 0; i < 3000; i++) {
        struct http_exchange *exchange = atomic_load(&f->held);
        if (exchange != NULL)
            return exchange;
        sl_sleep_us(1000);
    }
    fail_msg("no request");
    return NULL;
}

static void a_stream(void **state)
{
    struct fixture *f = *state;
    int fd = client_connect(f->port);
    struct sl_buf got;
    sl_buf_init(&got, 1 << 20);
    client_post(fd, "/hold", "{}");
    struct http_exchange *exchange = await_held(f);
    assert_true(http_stream_begin(exchange));
    assert_false(http_stream_begin(exchange));
    /* The headers leave before anything is written. */
    assert_true(client_read(fd, &got, "text/event-stream", 3000));
    for (int i = 0; i < 200; i++) {
        char event[64];
        int n = snprintf(event, sizeof(event), "data: %d\n\n", i);
        assert_true(http_stream_write(exchange, event, (size_t)n));
        if (i % 50 == 0)
            sl_sleep_us(2000);
    }
    assert_true(client_read(fd, &got, "data: 199\n\n", 3000));
    http_stream_end(exchange);
    assert_true(client_read(fd, &got, "0\r\n\r\n", 3000));
    const char *p = got.data;
    for (int i = 0; i < 200; i++) {
        char event[64];
        snprintf(event, sizeof(event), "data: %d\n\n", i);
        p = strstr(p, event);
        assert_non_null(p);
    }
    assert_int_equal(atomic_load(&f->gone), 0);
    close(fd);
    sl_buf_fini(&got);
}

/* Headers of the handler's own: eight at most, no line breaks, none once the answer is there. */
static void added_headers(void **state)
{
    struct fixture *f = *state;
    int fd = client_connect(f->port);
    char name[16], long_value[HTTP_HEADER_VALUE_MAX + 2] = "";
    struct sl_buf got;
    sl_buf_init(&got, 1 << 20);
    client_post(fd, "/hold", "{}");
    struct http_exchange *exchange = await_held(f);
    memset(long_value, 'v', HTTP_HEADER_VALUE_MAX + 1);
    assert_false(http_add_header(exchange, "x-long", long_value));
    assert_false(http_add_header(exchange, "x-bad", "a\r\nx-worse: 1"));
    snprintf(name, sizeof(name), "p%d", 0); /* the value is copied */
    assert_true(http_add_header(exchange, "x-node", name));
    name[1] = '9';
    for (uint32_t i = 1; i < HTTP_ADDED_HEADERS_MAX; i++)
        assert_true(http_add_header(exchange, "x-more", ""));
    assert_false(http_add_header(exchange, "x-ninth", "1"));
    http_reply(exchange, 200, "text/plain", "done", 4, 0);
    assert_false(http_add_header(exchange, "x-late", "1"));
    assert_true(client_read(fd, &got, "done", 3000));
    assert_non_null(strcasestr(got.data, "\r\nx-node: p0\r\n"));
    assert_null(strcasestr(got.data, "x-long"));
    assert_null(strcasestr(got.data, "x-bad"));
    assert_null(strcasestr(got.data, "x-worse"));
    assert_null(strcasestr(got.data, "x-ninth"));
    close(fd);
    sl_buf_fini(&got);
}

static void await_gone(struct fixture *f)
{
    for (int i = 0; i < 2000 && atomic_load(&f->gone) == 0; i++)
        sl_sleep_us(1000);
    assert_int_equal(atomic_load(&f->gone), 1);
}

static void a_client_that_leaves(void **state)
{
    struct fixture *f = *state;
    int fd = client_connect(f->port);
    client_post(fd, "/hold", "{}");
    struct http_exchange *exchange = await_held(f);
    assert_false(http_exchange_is_gone(exchange));
    uint64_t from = sl_real_us();
    close(fd);
    await_gone(f);
    assert_true(sl_real_us() - from < 500000);
    assert_true(http_exchange_is_gone(exchange));
    assert_false(http_stream_begin(exchange));
    http_reply(exchange, 200, "text/plain", "x", 1, 0); /* in vain */
}

/* A request with the end of its side behind it; `early`: of a stream that has begun by then. */
static void half_closed(struct fixture *f, bool stream, bool early, uint32_t pause_us)
{
    int fd = client_connect(f->port);
    struct sl_buf got;
    sl_buf_init(&got, 1 << 20);
    client_send(fd, "POST /hold HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}");
    sl_sleep_us(pause_us);
    if (!early)
        shutdown(fd, SHUT_WR);
    struct http_exchange *exchange = await_held(f);
    if (early) {
        assert_true(http_stream_begin(exchange));
        assert_true(http_stream_write(exchange, "data: 1\n\n", 9));
        assert_true(client_read(fd, &got, "data: 1\n\n", 3000));
        shutdown(fd, SHUT_WR);
    }
    /* The probe, and time for a reset. */
    assert_true(client_read(fd, &got, early ? ":\n\n" : "100 Continue\r\n\r\n", 3000));
    sl_sleep_us(5000);
    assert_false(http_exchange_is_gone(exchange));
    if (stream) {
        assert_true(early || http_stream_begin(exchange));
        assert_true(http_stream_write(exchange, "data: the answer\n\n", 18));
        http_stream_end(exchange);
    } else {
        http_reply(exchange, 200, "text/plain", "the answer", 10, 0);
    }
    client_read(fd, &got, NULL, 3000); /* the server closes: nothing can follow */
    assert_non_null(strstr(got.data, "the answer"));
    assert_true(!stream || strstr(got.data, "0\r\n\r\n") != NULL);
    assert_int_equal(atomic_load(&f->gone), 0);
    atomic_store(&f->held, NULL);
    http_exchange_release(exchange);
    close(fd);
    sl_buf_fini(&got);
}

/* Only its own side is closed: it reads on, and is served. Often: the end may come with the request's bytes,
 * or some time behind them. */
static void a_client_that_only_stops_sending(void **state)
{
    for (uint32_t i = 0; i < 60; i++)
        half_closed(*state, i % 3 > 0, i % 3 == 2, i / 3 * 20);
}

/* HTTP/1.0 has nothing to ask such a client with: it counts as gone. */
static void an_old_client_that_stops_sending(void **state)
{
    struct fixture *f = *state;
    int fd = client_connect(f->port);
    client_send(fd, "POST /hold HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}");
    struct http_exchange *exchange = await_held(f);
    shutdown(fd, SHUT_WR);
    await_gone(f);
    assert_true(http_exchange_is_gone(exchange));
    close(fd);
}

static unsigned open_descriptors(void)
{
    unsigned n = 0;
    DIR *dir = opendir("/proc/self/fd");
    assert_non_null(dir);
    while (readdir(dir) != NULL)
        n++;
    (void)closedir(dir);
    return n;
}

/* Not only the exchange is over: the socket is closed, long before any timeout. */
static void await_descriptors(unsigned n)
{
    for (int i = 0; i < 3000 && open_descriptors() > n; i++)
        sl_sleep_us(1000);
    assert_int_equal(open_descriptors(), n);
}

static void sockets_of_clients_that_left(void **state)
{
    struct fixture *f = *state;
    unsigned before = open_descriptors();
    for (int i = 0; i < 10; i++) {
        int fd = client_connect(f->port);
        struct sl_buf got;
        sl_buf_init(&got, 1 << 20);
        client_post(fd, "/hold", "{}");
        struct http_exchange *exchange = await_held(f);
        atomic_store(&f->held, NULL);
        assert_true(http_stream_begin(exchange));
        assert_true(http_stream_write(exchange, "data: 1\n\n", 9));
        assert_true(client_read(fd, &got, "data: 1", 3000));
        close(fd);
        while (!http_exchange_is_gone(exchange))
            sl_sleep_us(1000);
        http_abort(exchange);
        http_exchange_release(exchange);
        sl_buf_fini(&got);
        int half = client_connect(f->port); /* leaves with half a body */
        client_send(half, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nab");
        close(half);
    }
    await_descriptors(before);
}

static void a_client_that_leaves_a_stream(void **state)
{
    struct fixture *f = *state;
    int fd = client_connect(f->port);
    struct sl_buf got;
    sl_buf_init(&got, 1 << 20);
    client_post(fd, "/hold", "{}");
    struct http_exchange *exchange = await_held(f);
    assert_true(http_stream_begin(exchange));
    assert_true(http_stream_write(exchange, "data: 1\n\n", 9));
    assert_true(client_read(fd, &got, "data: 1", 3000));
    close(fd);
    await_gone(f);
    assert_false(http_stream_write(exchange, "data: 2\n\n", 9));
    sl_buf_fini(&got);
}

/* What it does not read is bounded. */
static void a_client_that_does_not_read(void **state)
{
    struct fixture *f = *state;
    int fd = client_connect(f->port);
    static char block[65536];
    memset(block, 'x', sizeof(block));
    client_post(fd, "/hold", "{}");
    struct http_exchange *exchange = await_held(f);
    assert_true(http_stream_begin(exchange));
    uint32_t written = 0;
    while (http_stream_write(exchange, block, sizeof(block)) && written < 10000)
        written++;
    assert_in_range(written, HTTP_STREAM_BYTES_MAX / sizeof(block) / 2, 9999);
    http_abort(exchange);
    for (int i = 0; i < 3000 && http_server_open(f->server) > 0; i++)
        sl_sleep_us(1000);
    assert_int_equal(http_server_open(f->server), 0); /* though it still does not read */
    close(fd);
}

/* One event may be longer than what a client may leave unread. */
static void a_long_event(void **state)
{
    struct fixture *f = *state;
    const size_t bytes = HTTP_STREAM_BYTES_MAX + (1u << 20);
    int fd = client_connect(f->port);
    struct sl_buf got;
    sl_buf_init(&got, bytes * 2);
    char *event = sl_zalloc(bytes, 1);
    memset(event, 'x', bytes);
    client_post(fd, "/hold", "{}");
    struct http_exchange *exchange = await_held(f);
    assert_true(http_stream_begin(exchange));
    assert_true(http_stream_write(exchange, event, bytes));
    http_stream_end(exchange);
    assert_true(client_read(fd, &got, "\r\n0\r\n\r\n", 20000));
    assert_true(got.bytes > bytes);
    close(fd);
    sl_buf_fini(&got);
    sl_free(event);
}

static void stop_with_all_open(void **state)
{
    struct fixture *f = *state;
    int waiting = client_connect(f->port), stream = client_connect(f->port);
    int half = client_connect(f->port);
    client_post(waiting, "/hold", "{}");
    struct http_exchange *first = await_held(f);
    atomic_store(&f->held, NULL);
    client_post(stream, "/hold", "{}");
    struct http_exchange *second = await_held(f);
    assert_true(http_stream_begin(second));
    client_send(half, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nab");
    sl_sleep_us(20000);
    assert_int_equal(http_server_open(f->server), 2); /* a half-sent body holds no drain up */
    uint64_t from = sl_real_us();
    http_server_stop(f->server);
    f->server = NULL;
    assert_true(sl_real_us() - from < 2000000);
    assert_false(http_stream_write(second, "x", 1));
    http_exchange_release(first);
    close(waiting);
    close(stream);
    close(half);
}

static void a_port_that_is_taken(void **state)
{
    struct fixture *f = *state;
    struct http_server *server;
    char listen[32];
    snprintf(listen, sizeof(listen), "127.0.0.1:%u", f->port);
    struct http_args args = {.listen = listen,
                             .routes = routes,
                             .n_routes = 3,
                             .handler = {on_request, on_gone, f},
                             .threads = 1,
                             .connections_max = 4,
                             .body_bytes_max = 100};
    assert_fails(http_server_start(&args, &server), SL_DEVICE, listen);
    args.listen = "nonsense";
    assert_fails(http_server_start(&args, &server), SL_INVALID, "nonsense");
    args.listen = "127.0.0.1:99999"; /* not 34463 */
    assert_fails(http_server_start(&args, &server), SL_INVALID, "99999");
    args.listen = "127.0.0.1:";
    assert_fails(http_server_start(&args, &server), SL_INVALID, "port");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(ambiguous_framing, setup, teardown),
        cmocka_unit_test_setup_teardown(hosts, setup, teardown),
        cmocka_unit_test_setup_teardown(paths_and_methods, setup, teardown),
        cmocka_unit_test_setup_teardown(wrong_paths_are_explained, setup, teardown),
        cmocka_unit_test_setup_teardown(long_headers, setup, teardown),
        cmocka_unit_test_setup_teardown(long_bodies, setup, teardown),
        cmocka_unit_test_setup_teardown(bodies_that_fit, setup, teardown),
        cmocka_unit_test_setup_teardown(a_stream, setup, teardown),
        cmocka_unit_test_setup_teardown(added_headers, setup, teardown),
        cmocka_unit_test_setup_teardown(a_client_that_leaves, setup, teardown),
        cmocka_unit_test_setup_teardown(a_client_that_leaves_a_stream, setup, teardown),
        cmocka_unit_test_setup_teardown(a_client_that_only_stops_sending, setup, teardown),
        cmocka_unit_test_setup_teardown(an_old_client_that_stops_sending, setup, teardown),
        cmocka_unit_test_setup_teardown(sockets_of_clients_that_left, setup, teardown),
        cmocka_unit_test_setup_teardown(a_client_that_does_not_read, setup, teardown),
        cmocka_unit_test_setup_teardown(a_long_event, setup, teardown),
        cmocka_unit_test_setup_teardown(stop_with_all_open, setup, teardown),
        cmocka_unit_test_setup_teardown(a_port_that_is_taken, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

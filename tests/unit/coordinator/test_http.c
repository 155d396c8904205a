/* The HTTP server alone, over real sockets: framing that must be refused, and fast; streams; clients
 * that leave; the end of the server with everything open. */
#include "unit/coordinator/http_fixture.h"

#include <dirent.h>

static int setup_one_thread(void **state)
{
    return setup_args(state, 1, 60);
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

/* Not only the exchange is over: the socket is closed, long before any timeout. All have been accepted. */
static void await_descriptors(unsigned n)
{
    unsigned open = open_descriptors();
    for (int i = 0; i < 6000 && open > n; i++) {
        sl_sleep_us(1000);
        open = open_descriptors();
    }
    assert_int_equal(open, n);
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
    expect_refusal(f, "GET /page HTTP/1.1\r\nHost: a\r\na(b: c\r\n\r\n", 400);
}

/* Names of fields, and "chunked", are the same in any case. */
static void case_of_names(void **state)
{
    struct fixture *f = *state;
    expect_refusal(f,
                   "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n"
                   "transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
                   400);
    expect_refusal(
        f, "POST /echo HTTP/1.1\r\nHOST: a\r\ncontent-length: 3\r\nCONTENT-LENGTH: 3\r\n\r\nabc",
        400);
    expect_refusal(f, "POST /echo HTTP/1.1\r\nHost: a\r\ntransfer-ENCODING: gzip\r\n\r\n", 501);
    expect_refusal(f, "GET /page HTTP/1.1\r\nhost: a\r\nHost: b\r\n\r\n", 400);
    char *answer = raw(f,
                       "POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: Chunked\r\n\r\n"
                       "3\r\nabc\r\n0\r\n\r\n",
                       "abc", 3000);
    assert_int_equal(client_status(answer), 200);
    sl_free(answer);
}

/* libmicrohttpd's own refusals, without a body of ours. */
static void lengths_that_are_no_numbers(void **state)
{
    static const char *const lengths[] = {"3x", "+3", "-3", "0x3", "3 3", "3,3"};
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        char request[128];
        snprintf(request, sizeof(request),
                 "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: %s\r\n\r\nabc", lengths[i]);
        char *answer = raw(*state, request, NULL, 3000);
        if (client_status(answer) != 400)
            fail_msg("%s: %.200s", lengths[i], answer);
        sl_free(answer);
    }
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
    assert_non_null(strstr(answer, "x-should-retry: false"));
    sl_free(answer);
}

static void paths_and_methods(void **state)
{
    struct fixture *f = *state;
    expect_refusal(f, "GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n", 404);
    expect_refusal(f, "GET /echo HTTP/1.1\r\nHost: a\r\n\r\n", 405);
    expect_refusal(f, "DELETE /page HTTP/1.1\r\nHost: a\r\n\r\n", 405);
    expect_refusal(f, "POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", 404);
    char *answer =
        raw(f, "HEAD /page HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", NULL, 3000);
    assert_int_equal(client_status(answer), 429);
    assert_string_equal(client_body(answer), "");
    sl_free(answer);
}

/* What follows a refused request on its connection may be its body: it is not read as a request. */
static void a_refusal_ends_the_connection(void **state)
{
    struct fixture *f = *state;
    char *answer = raw(f,
                       "GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n"
                       "GET /page HTTP/1.1\r\nHost: a\r\n\r\n",
                       NULL, 3000);
    assert_int_equal(client_status(answer), 404);
    assert_non_null(strstr(answer, "Connection: close\r\n"));
    assert_null(strstr(answer, "later"));
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
    expect_sentence(f, "GET /echo HTTP/1.1\r\nHost: a\r\n\r\n", "\r\nAllow: POST\r\n");
    expect_sentence(f, "DELETE /page HTTP/1.1\r\nHost: a\r\n\r\n",
                    "\"message\":\"/page takes GET, HEAD only\"");
    expect_sentence(f, "DELETE /page HTTP/1.1\r\nHost: a\r\n\r\n", "\r\nAllow: GET, HEAD\r\n");
    expect_sentence(f, "GET /block HTTP/1.1\r\nHost: a\r\n\r\n", "did you mean /v1/block?");
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
    expect_sentence(f, head.data, "\"code\":\"headers_too_large\"");
    /* Each of them short, and few; the target counts. */
    for (size_t target = 1; target < 30000; target += 20000) {
        sl_buf_reset(&head);
        sl_buf_add_text(&head, "GET /");
        for (size_t i = 1; i < target; i++)
            sl_buf_add_text(&head, "p");
        sl_buf_add_text(&head, " HTTP/1.1\r\nHost: a\r\n");
        for (size_t i = 0; i < (target > 1 ? 35 : 85); i++)
            sl_buf_add_format(&head, "X%zu: %0400d\r\n", i, 0);
        sl_buf_add_text(&head, "\r\n");
        expect_sentence(f, head.data, "\"code\":\"headers_too_large\"");
    }
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

/* A client that sends on while its answer is there: nothing that it sends fails, so it comes to read. */
static void refused_uploads_are_read(void **state)
{
    static const char *const heads[] = {
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\n"};
    static char block[20000];
    struct fixture *f = *state;
    unsigned before = open_descriptors();
    for (size_t i = 0; i < 2; i++) {
        struct sl_buf got;
        int fd = client_connect(f->port);
        sl_buf_init(&got, 1 << 20);
        client_send(fd, heads[i]);
        for (int n = 0; n < 30; n++) {
            assert_int_equal(send(fd, block, sizeof(block), MSG_NOSIGNAL), sizeof(block));
            sl_sleep_us(2000);
        }
        assert_true(client_read(fd, &got, "}}", 3000));
        assert_int_equal(client_status(got.data), 413);
        assert_non_null(strstr(got.data, "\"code\":\"body_too_large\""));
        if (i == 0) {
            await_descriptors(before + 1); /* but not for ever */
            close(fd);
        } else {
            uint64_t from = sl_real_us();
            close(fd);
            await_descriptors(before); /* and no longer than the client stays */
            assert_true(sl_real_us() - from < 1500000);
        }
        sl_buf_fini(&got);
    }
}

/* The longest that is taken; one byte more is refused above. */
static void bodies_of_the_limit(void **state)
{
    struct fixture *f = *state;
    for (int chunked = 0; chunked < 2; chunked++) {
        struct sl_buf request;
        sl_buf_init(&request, 1 << 16);
        sl_buf_add_text(&request, "POST /echo HTTP/1.1\r\nHost: a\r\n");
        sl_buf_add_format(&request,
                          chunked ? "Transfer-Encoding: chunked\r\n\r\n%x\r\n"
                                  : "Content-Length: %u\r\n\r\n",
                          BODY_MAX);
        sl_buf_add_format(&request, "%0*d", (int)BODY_MAX, 7);
        sl_buf_add_text(&request, chunked ? "\r\n0\r\n\r\n" : "");
        char *answer = raw(f, request.data, "0007", 5000);
        assert_int_equal(client_status(answer), 200);
        assert_int_equal(strlen(client_body(answer)), BODY_MAX);
        sl_free(answer);
        sl_buf_fini(&request);
    }
}

static void a_body_that_takes_too_long(void **state)
{
    struct fixture *f = *state;
    int fd = client_connect(f->port);
    struct sl_buf got;
    sl_buf_init(&got, 1 << 20);
    sl_clock_fake(1000 * SL_SECOND_US);
    client_send(fd, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n");
    sl_clock_advance(59 * SL_SECOND_US); /* it may have begun, or not */
    client_send(fd, "b");
    assert_false(client_read(fd, &got, "}}", 50));
    for (int i = 0; i < 100 && !client_read(fd, &got, "}}", 20); i++) {
        client_send(fd, "b");
        sl_clock_advance(10 * SL_SECOND_US);
    }
    sl_clock_real();
    assert_int_equal(client_status(got.data), 408);
    assert_non_null(strstr(got.data, "\"code\":\"request_timeout\""));
    close(fd);
    sl_buf_fini(&got);
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

static void a_stream(void **state)
{
    struct fixture *f = *state;
    struct sl_buf got;
    int fd;
    struct http_exchange *exchange = begin_held(f, &fd);
    sl_buf_init(&got, 1 << 20);
    assert_true(http_stream_begin(exchange));
    assert_false(http_stream_begin(exchange));
    assert_false(http_add_header(exchange, "x-late", "1"));
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
    char name[16], long_value[HTTP_HEADER_VALUE_MAX + 2] = "";
    struct sl_buf got;
    int fd;
    struct http_exchange *exchange = begin_held(f, &fd);
    sl_buf_init(&got, 1 << 20);
    memset(long_value, 'v', HTTP_HEADER_VALUE_MAX + 1);
    assert_false(http_add_header(exchange, "x-long", long_value));
    assert_false(http_add_header(exchange, "x-bad", "a\r\nx-worse: 1"));
    assert_false(http_add_header(exchange, "x-bad", "a\x7f"));
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

/* Whoever answers has looked at the limit; here is only seen that nothing is sent by halves. */
static void an_answer_over_the_limit(void **state)
{
    struct fixture *f = *state;
    struct sl_buf got;
    int fd;
    struct http_exchange *exchange = begin_held(f, &fd);
    char *body = sl_zalloc(HTTP_REPLY_BYTES_MAX + 1, 1);
    sl_buf_init(&got, 1 << 20);
    http_reply(exchange, 200, "text/plain", body, HTTP_REPLY_BYTES_MAX + 1, 0);
    assert_true(client_read(fd, &got, "\r\n\r\n", 3000));
    assert_int_equal(client_status(got.data), 500);
    assert_non_null(strstr(got.data, "Content-Length: 0\r\n"));
    sl_free(body);
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
    int fd;
    struct http_exchange *exchange = begin_held(f, &fd);
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

/* The end of the client's side has come before its body is read: it is asked once the handler has it. */
static void an_end_that_comes_with_the_body(void **state)
{
    struct fixture *f = *state;
    struct sl_buf got;
    int fd = client_connect(f->port), other = client_connect(f->port);
    sl_buf_init(&got, 1 << 20);
    client_send(
        fd, "POST /hold HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    assert_true(client_read(fd, &got, "100 Continue\r\n\r\n", 3000)); /* the head has been read */
    sl_buf_reset(&got);
    client_send(other, "GET /v1/block HTTP/1.1\r\nHost: a\r\n\r\n");
    for (int i = 0; i < 3000 && atomic_load(&f->n_blocked) == 0; i++)
        sl_sleep_us(1000);
    client_send(fd, "{}");
    shutdown(fd, SHUT_WR);
    sl_sleep_us(50000); /* for the watcher */
    atomic_store(&f->unblock, true);
    struct http_exchange *exchange = await_held(f);
    assert_true(client_read(fd, &got, "100 Continue\r\n\r\n", 3000));
    assert_false(http_exchange_is_gone(exchange));
    http_reply(exchange, 200, "text/plain", "the answer", 10, 0);
    client_read(fd, &got, NULL, 3000);
    assert_non_null(strstr(got.data, "the answer"));
    close(fd);
    close(other);
    sl_buf_fini(&got);
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

static void sockets_of_clients_that_left(void **state)
{
    struct fixture *f = *state;
    unsigned before = open_descriptors();
    for (int i = 0; i < 10; i++) {
        struct sl_buf got;
        int fd;
        struct http_exchange *exchange = begin_held(f, &fd);
        sl_buf_init(&got, 1 << 20);
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
    /* The last may have closed before it was accepted. Sockets are accepted in their order. */
    sl_free(raw(f, "GET /page HTTP/1.1\r\nHost: a\r\n\r\n", "later", 3000));
    await_descriptors(before);
    assert_int_equal(http_server_open(f->server), 0);
}

static void a_client_that_leaves_a_stream(void **state)
{
    struct fixture *f = *state;
    struct sl_buf got;
    int fd;
    struct http_exchange *exchange = begin_held(f, &fd);
    sl_buf_init(&got, 1 << 20);
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
    static char block[65536];
    int fd;
    struct http_exchange *exchange = begin_held(f, &fd);
    memset(block, 'x', sizeof(block));
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

/* More of a stream: the bytes of its chunks go into `content`, what is not whole stays in `got`. */
static void take_chunks(int fd, struct sl_buf *got, struct sl_buf *content)
{
    char bytes[16384];
    size_t at = 0;
    ssize_t n = recv(fd, bytes, sizeof(bytes), 0);
    assert_true(n > 0);
    sl_buf_add(got, bytes, (size_t)n);
    for (const char *end; (end = strstr(got->data + at, "\r\n")) != NULL;) {
        size_t from = (size_t)(end - got->data) + 2, bytes_in = strtoul(got->data + at, NULL, 16);
        if (from + bytes_in + 2 > got->bytes)
            break;
        sl_buf_add(content, got->data + from, bytes_in);
        at = from + bytes_in + 2;
    }
    sl_buf_consume(got, at);
}

enum { LINES = 14000, LINE = 1024 };

static bool write_line(struct http_exchange *exchange, uint32_t i)
{
    char line[LINE + 1];
    snprintf(line, sizeof(line), "%0*u", LINE, i);
    return http_stream_write(exchange, line, LINE);
}

/* The client reads when it is `lag` lines behind. What it gets is what was written; all, unless it is cut. */
static bool lag_behind(struct fixture *f, uint32_t lag)
{
    struct sl_buf got, content;
    int fd;
    struct http_exchange *exchange = begin_unread(f, &fd);
    sl_buf_init(&got, 1 << 20);
    sl_buf_init(&content, LINES * LINE);
    assert_true(client_read(fd, &got, "\r\n\r\n", 3000));
    sl_buf_consume(&got, (size_t)(strstr(got.data, "\r\n\r\n") - got.data) + 4);
    bool whole = true;
    for (uint32_t i = 0; i < LINES && whole; i++) {
        whole = write_line(exchange, i);
        while (whole && content.bytes / LINE + lag < i)
            take_chunks(fd, &got, &content);
    }
    http_stream_end(exchange);
    while (whole && content.bytes < LINES * LINE)
        take_chunks(fd, &got, &content);
    for (uint32_t i = 0; i < content.bytes / LINE; i++) {
        char line[LINE + 1];
        snprintf(line, sizeof(line), "%0*u", LINE, i);
        assert_memory_equal(content.data + (size_t)i * LINE, line, LINE);
    }
    http_exchange_release(exchange);
    close(fd);
    sl_buf_fini(&got);
    sl_buf_fini(&content);
    return whole;
}

/* How much the sockets hold is found out, and differs: so clients that lag by less and less than what is too
 * much, and one of them is served while much is unsent. */
static void clients_that_lag(void **state)
{
    struct fixture *f = *state;
    uint32_t most = 0, n_whole = 0;
    int fd;
    struct http_exchange *exchange = begin_unread(f, &fd);
    while (write_line(exchange, most) && most < LINES)
        most++;
    assert_in_range(most, HTTP_STREAM_BYTES_MAX / LINE, LINES - 1);
    http_exchange_release(exchange);
    close(fd);
    for (uint32_t less = 0; less < most && n_whole < 3; less += 1000)
        n_whole += lag_behind(f, most - less);
    assert_true(n_whole > 0);
}

/* Its stream breaks off: it must not look whole. Nothing more is written, and nobody is told. */
static void a_stream_that_is_cut(void **state)
{
    static char block[65536];
    struct fixture *f = *state;
    memset(block, 'x', sizeof(block));
    for (int aborted = 0; aborted < 2; aborted++) {
        struct sl_buf got;
        int fd;
        struct http_exchange *exchange = begin_held(f, &fd);
        sl_buf_init(&got, 64u << 20);
        assert_true(http_stream_begin(exchange));
        assert_true(client_read(fd, &got, "\r\n\r\n", 3000));
        if (aborted) {
            assert_true(http_stream_write(exchange, "data: 1\n\n", 9));
            assert_true(client_read(fd, &got, "data: 1\n\n", 3000));
            http_abort(exchange);
        } else {
            for (int i = 0; i < 10000 && http_stream_write(exchange, block, sizeof(block));)
                i++;
        }
        assert_false(http_stream_write(exchange, "x", 1));
        assert_true(http_exchange_is_gone(exchange));
        client_read(fd, &got, NULL, 10000);
        assert_null(strstr(got.data, "\r\n0\r\n"));
        assert_int_equal(atomic_load(&f->gone), 0);
        atomic_store(&f->held, NULL);
        http_exchange_release(exchange);
        close(fd);
        sl_buf_fini(&got);
    }
}

/* One event may be longer than what a client may leave unread. */
static void a_long_event(void **state)
{
    struct fixture *f = *state;
    const size_t bytes = HTTP_STREAM_BYTES_MAX + (1u << 20);
    struct sl_buf got;
    int fd;
    struct http_exchange *exchange = begin_held(f, &fd);
    char *event = sl_zalloc(bytes, 1);
    sl_buf_init(&got, bytes * 2);
    memset(event, 'x', bytes);
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
    int waiting, stream, half = client_connect(f->port);
    struct http_exchange *first = begin_held(f, &waiting);
    atomic_store(&f->held, NULL);
    struct http_exchange *second = begin_held(f, &stream);
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
    struct http_args args = args_of(f, listen, 1);
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
        cmocka_unit_test_setup_teardown(case_of_names, setup, teardown),
        cmocka_unit_test_setup_teardown(lengths_that_are_no_numbers, setup, teardown),
        cmocka_unit_test_setup_teardown(hosts, setup, teardown),
        cmocka_unit_test_setup_teardown(paths_and_methods, setup, teardown),
        cmocka_unit_test_setup_teardown(a_refusal_ends_the_connection, setup, teardown),
        cmocka_unit_test_setup_teardown(wrong_paths_are_explained, setup, teardown),
        cmocka_unit_test_setup_teardown(long_headers, setup, teardown),
        cmocka_unit_test_setup_teardown(long_bodies, setup, teardown),
        cmocka_unit_test_setup_teardown(refused_uploads_are_read, setup, teardown),
        cmocka_unit_test_setup_teardown(bodies_of_the_limit, setup, teardown),
        cmocka_unit_test_setup_teardown(a_body_that_takes_too_long, setup, teardown),
        cmocka_unit_test_setup_teardown(bodies_that_fit, setup, teardown),
        cmocka_unit_test_setup_teardown(a_stream, setup, teardown),
        cmocka_unit_test_setup_teardown(added_headers, setup, teardown),
        cmocka_unit_test_setup_teardown(an_answer_over_the_limit, setup, teardown),
        cmocka_unit_test_setup_teardown(a_client_that_leaves, setup, teardown),
        cmocka_unit_test_setup_teardown(a_client_that_leaves_a_stream, setup, teardown),
        cmocka_unit_test_setup_teardown(a_client_that_only_stops_sending, setup, teardown),
        cmocka_unit_test_setup_teardown(an_end_that_comes_with_the_body, setup_one_thread,
                                        teardown),
        cmocka_unit_test_setup_teardown(an_old_client_that_stops_sending, setup, teardown),
        cmocka_unit_test_setup_teardown(sockets_of_clients_that_left, setup, teardown),
        cmocka_unit_test_setup_teardown(a_client_that_does_not_read, setup, teardown),
        cmocka_unit_test_setup_teardown(clients_that_lag, setup, teardown),
        cmocka_unit_test_setup_teardown(a_stream_that_is_cut, setup, teardown),
        cmocka_unit_test_setup_teardown(a_long_event, setup, teardown),
        cmocka_unit_test_setup_teardown(stop_with_all_open, setup, teardown),
        cmocka_unit_test_setup_teardown(a_port_that_is_taken, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

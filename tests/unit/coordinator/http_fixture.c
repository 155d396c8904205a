#include "unit/coordinator/http_fixture.h"

enum { ECHO, HOLD, PAGE, BLOCK };

static const struct http_route routes[] = {{"POST", "/echo", ECHO},
                                           {"POST", "/hold", HOLD},
                                           {"GET", "/page", PAGE},
                                           {"GET", "/v1/block", BLOCK}};

/* The thread of the connection is kept, and so all its connections. */
static void block(struct fixture *f, struct http_exchange *exchange)
{
    atomic_fetch_add(&f->n_blocked, 1);
    for (int i = 0; i < 10000 && !atomic_load(&f->unblock); i++)
        sl_sleep_us(1000);
    http_reply(exchange, 200, "text/plain", "unblocked", 9, 0);
}

static void on_request(void *arg, struct http_exchange *exchange)
{
    struct fixture *f = arg;
    size_t n;
    const char *body = http_exchange_body(exchange, &n);
    if (http_exchange_route(exchange) == HOLD)
        atomic_store(&f->held, http_exchange_acquire(exchange));
    else if (http_exchange_route(exchange) == ECHO)
        http_reply(exchange, 200, "text/plain", body, n, 0);
    else if (http_exchange_route(exchange) == BLOCK)
        block(f, exchange);
    else
        http_reply(exchange, 429, "text/plain", "later", 5, 7);
}

static void on_gone(void *arg, struct http_exchange *exchange)
{
    struct fixture *f = arg;
    (void)exchange;
    atomic_fetch_add(&f->gone, 1);
}

struct http_args args_of(struct fixture *f, const char *listen, uint32_t threads)
{
    return (struct http_args){.listen = listen,
                              .routes = routes,
                              .n_routes = sizeof(routes) / sizeof(routes[0]),
                              .handler = {on_request, on_gone, f},
                              .allow_origin = "http://a,https://chat.example.com",
                              .threads = threads,
                              .connections_max = 64,
                              .body_bytes_max = BODY_MAX,
                              .held_bytes_max = HELD_MAX,
                              .stall_seconds = 60};
}

int setup_args(void **state, uint32_t threads, uint32_t stall_seconds)
{
    struct fixture *f = sl_zalloc(1, sizeof(*f));
    struct http_args args = args_of(f, "127.0.0.1:0", threads);
    args.stall_seconds = stall_seconds;
    assert_ok(http_server_start(&args, &f->server));
    f->port = http_server_port(f->server);
    *state = f;
    return 0;
}

int teardown(void **state)
{
    struct fixture *f = *state;
    http_server_stop(f->server);
    http_exchange_release(atomic_load(&f->held));
    sl_free(f);
    return 0;
}

int setup(void **state)
{
    return setup_args(state, 2, 60);
}

char *raw(struct fixture *f, const char *bytes, const char *until, uint32_t ms)
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

void expect_refusal(struct fixture *f, const char *bytes, int status)
{
    uint64_t took_us = UINT64_MAX;
    for (int i = 0; i < 5 && took_us > 1000000; i++) {
        uint64_t from = sl_real_us();
        char *answer = raw(f, bytes, "}}", 10000);
        if (client_status(answer) != status)
            fail_msg("%.60s…: %.300s; want %d", bytes, answer, status);
        took_us = sl_real_us() - from;
        sl_free(answer);
    }
    if (took_us > 1000000)
        fail_msg("%.60s…: took %d ms", bytes, (int)(took_us / 1000));
}

void expect_sentence(struct fixture *f, const char *bytes, const char *sentence)
{
    char *answer = raw(f, bytes, "}}", 3000);
    if (strstr(answer, sentence) == NULL)
        fail_msg("%.60s…: %.400s; want %s", bytes, answer, sentence);
    sl_free(answer);
}

struct http_exchange *await_held(struct fixture *f)
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

struct http_exchange *begin_held(struct fixture *f, int *fd_out)
{
    *fd_out = client_connect(f->port);
    client_post(*fd_out, "/hold", "{}");
    return await_held(f);
}

struct http_exchange *begin_unread(struct fixture *f, int *fd_out)
{
    int fd = client_connect(f->port), small = 1 << 18;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
    client_post(fd, "/hold", "{}");
    struct http_exchange *exchange = await_held(f);
    atomic_store(&f->held, NULL);
    assert_true(http_stream_begin(exchange));
    *fd_out = fd;
    return exchange;
}

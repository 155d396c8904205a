/* A race that is there, for ThreadSanitizer to find: libmicrohttpd and gRPC are not instrumented, and what they do with
 * locks and memory is left out of sight (cmake/sluice.cmake). That must not hide what our own callbacks do on their
 * threads.
 *
 *   planted_race http | rpc
 *
 * A callback counts without a lock, and main reads the count once it has been told, by a relaxed atomic, which orders
 * nothing. ctest wants the report. */
#include "support/support.h"
#include "unit/coordinator/fake_node.h"

#include "base/clock.h"
#include "coordinator/http.h"

#include <stdatomic.h>

#define WAIT_US (60 * SL_SECOND_US)

static uint32_t planted;
static _Atomic uint32_t n_called;

static void count(void)
{
    planted++;
    atomic_fetch_add_explicit(&n_called, 1, memory_order_relaxed);
}

static int read_count(uint32_t n)
{
    uint64_t until = sl_real_us() + WAIT_US;
    while (atomic_load_explicit(&n_called, memory_order_relaxed) < n && sl_real_us() < until)
        sl_sleep_us(SL_MS_US);
    printf("%u of %u\n", planted, n);
    return 0;
}

static void on_request(void *arg, struct http_exchange *exchange)
{
    (void)arg;
    count();
    http_reply(exchange, 200, "text/plain", "a", 1, 0);
}

static void on_gone(void *arg, struct http_exchange *exchange)
{
    (void)arg;
    (void)exchange;
}

static int race_over_http(void)
{
    static const struct http_route routes[] = {{"GET", "/", 0}};
    struct http_args args = {.listen = "127.0.0.1:0",
                             .routes = routes,
                             .n_routes = 1,
                             .handler = {.request = on_request, .gone = on_gone},
                             .threads = 2,
                             .stall_seconds = 20,
                             .connections_max = 64,
                             .body_bytes_max = 1024};
    struct http_server *server;
    if (http_server_start(&args, &server) != SL_OK)
        return 1;
    int fd = client_connect(http_server_port(server));
    client_send(
        fd,
        "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"); /* its answer would order the two: it is not read */
    int status = read_count(1);
    close(fd);
    http_server_stop(server);
    return status;
}

static void on_opened(void *arg, struct rpc_stream *stream)
{
    (void)arg;
    (void)stream;
    count();
}

static void on_node_message(void *arg, struct rpc_stream *stream, Sluice__NodeMessage *message)
{
    (void)arg;
    (void)stream;
    rpc_node_message_free(message);
}

static void on_message(void *arg, struct rpc_stream *stream, Sluice__CoordinatorMessage *message)
{
    (void)arg;
    (void)stream;
    rpc_coordinator_message_free(message);
}

static int race_over_rpc(void)
{
    struct rpc_server_handler at_server = {.opened = on_opened, .message = on_node_message};
    struct rpc_client_handler at_client = {.message = on_message};
    struct rpc_server *server;
    struct rpc_client *client;
    char target[32];
    if (rpc_server_start("127.0.0.1:0", &at_server, &server) != SL_OK)
        return 1;
    snprintf(target, sizeof(target), "127.0.0.1:%u", rpc_server_port(server));
    if (rpc_client_start(target, &at_client, &client) != SL_OK)
        return 1;
    int status = read_count(1);
    rpc_client_stop(client);
    rpc_server_stop(server);
    return status;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "http") == 0)
        return race_over_http();
    if (argc == 2 && strcmp(argv[1], "rpc") == 0)
        return race_over_rpc();
    fprintf(stderr, "planted_race http | rpc\n");
    return 2;
}

/* The admin pages over a real socket. */
#include "serve/admin.h"

#include "base/clock.h"
#include "base/json.h"
#include "support/support.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>

#define REPLY_BYTES (1 << 20)

struct fixture {
    struct serve_health health; /* the test's own … */
    pthread_mutex_t lock;
    struct serve_health shown; /* … and what it was when the last page was asked for */
    struct sl_metrics *metrics;
    struct serve_admin *admin;
    char reply[REPLY_BYTES];
};

static void on_health(void *arg, struct serve_health *health)
{
    struct fixture *fixture = arg;
    assert_int_equal(health->bytes_total, 0);
    pthread_mutex_lock(&fixture->lock);
    *health = fixture->shown;
    pthread_mutex_unlock(&fixture->lock);
}

static void show(struct fixture *fixture)
{
    pthread_mutex_lock(&fixture->lock);
    fixture->shown = fixture->health;
    pthread_mutex_unlock(&fixture->lock);
}

static struct serve_admin_args args_of(struct fixture *fixture, const char *listen)
{
    return (struct serve_admin_args){.listen = listen,
                                     .node = "p0",
                                     .metrics = fixture->metrics,
                                     .health = on_health,
                                     .arg = fixture};
}

static int setup(void **state)
{
    struct fixture *fixture = sl_zalloc(1, sizeof(*fixture));
    pthread_mutex_init(&fixture->lock, NULL);
    fixture->metrics = sl_metrics_create();
    fixture->health = (struct serve_health){.ok = true, .state = SERVE_READY, .step = 42};
    struct serve_admin_args args = args_of(fixture, "127.0.0.1:0");
    assert_ok(serve_admin_start(&args, &fixture->admin));
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    serve_admin_stop(fixture->admin);
    sl_metrics_destroy(fixture->metrics);
    pthread_mutex_destroy(&fixture->lock);
    sl_free(fixture);
    return 0;
}

static int dial(struct fixture *fixture)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons(serve_admin_port(fixture->admin)),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    struct timeval limit = {.tv_sec = 5};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    return fd;
}

/* Sends the bytes and reads until the server closes; returns the HTTP status, 0 for no reply. */
static int ask_raw(struct fixture *fixture, const char *bytes, size_t n)
{
    show(fixture);
    int fd = dial(fixture);
    ssize_t sent = send(fd, bytes, n, MSG_NOSIGNAL);
    assert_true(sent > 0);
    size_t got = 0;
    ssize_t k;
    while (got < REPLY_BYTES - 1 &&
           (k = recv(fd, fixture->reply + got, REPLY_BYTES - 1 - got, 0)) > 0)
        got += (size_t)k;
    fixture->reply[got] = '\0';
    close(fd);
    int status = 0;
    return sscanf(fixture->reply, "HTTP/1.1 %d", &status) == 1 ? status : 0;
}

static int ask(struct fixture *fixture, const char *path)
{
    char request[256];
    snprintf(request, sizeof(request),
             "GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", path);
    return ask_raw(fixture, request, strlen(request));
}

static const char *body_of(const struct fixture *fixture)
{
    const char *end = strstr(fixture->reply, "\r\n\r\n");
    assert_non_null(end);
    return end + 4;
}

static json_t *json_body(const struct fixture *fixture)
{
    json_t *body;
    assert_ok(sl_json_parse("body", body_of(fixture), strlen(body_of(fixture)), 4096, &body));
    return body;
}

static void assert_text(const json_t *body, const char *field, const char *wanted)
{
    assert_string_equal(json_string_value(json_object_get(body, field)), wanted);
}

static void test_health(void **state)
{
    struct fixture *fixture = *state;
    assert_int_equal(ask(fixture, "/health"), 200);
    json_t *body = json_body(fixture);
    assert_text(body, "status", "ok");
    assert_text(body, "node", "p0");
    assert_int_equal(json_integer_value(json_object_get(body, "step")), 42);
    json_decref(body);
    fixture->health.ok = false;
    fixture->health.stalled_us = 12345678;
    snprintf(fixture->health.reason, sizeof(fixture->health.reason), "no \"step\" for 12 s");
    assert_int_equal(ask(fixture, "/health"), 503);
    body = json_body(fixture);
    assert_text(body, "status", "unhealthy");
    assert_text(body, "reason", "no \"step\" for 12 s");
    assert_int_equal(json_integer_value(json_object_get(body, "stalled_ms")), 12345);
    json_decref(body);
}

static void test_ready_tells_progress(void **state)
{
    struct fixture *fixture = *state;
    assert_int_equal(ask(fixture, "/ready"), 200);
    fixture->health.state = SERVE_LOADING;
    fixture->health.bytes_done = 0;
    fixture->health.bytes_total = 400;
    assert_int_equal(ask(fixture, "/ready"), 503);
    json_t *body = json_body(fixture);
    assert_text(body, "status", "loading");
    assert_true(json_is_null(json_object_get(body, "eta_seconds")));
    json_decref(body);
    sl_sleep_us(60 * SL_MS_US);
    fixture->health.bytes_done = 100;
    assert_int_equal(ask(fixture, "/ready"), 503);
    body = json_body(fixture);
    assert_int_equal(json_integer_value(json_object_get(body, "bytes_done")), 100);
    assert_int_equal(json_integer_value(json_object_get(body, "bytes_total")), 400);
    double eta = json_number_value(json_object_get(body, "eta_seconds"));
    assert_true(eta > 0.1 && eta < 5.0); /* three times what has passed */
    json_decref(body);
    fixture->health.state = SERVE_DRAINING;
    assert_int_equal(ask(fixture, "/ready"), 503);
    assert_non_null(strstr(body_of(fixture), "draining"));
    fixture->health.state = SERVE_UNAVAILABLE;
    assert_int_equal(ask(fixture, "/ready"), 503);
    assert_non_null(strstr(body_of(fixture), "unavailable"));
}

/* The page without a socket. */
static json_t *page_of(struct fixture *fixture, const char *node, const char *path)
{
    struct serve_admin_args args = args_of(fixture, "");
    args.node = node;
    struct serve_page page;
    show(fixture);
    assert_true(serve_admin_page(&args, path, &page));
    assert_int_equal(page.http_status, fixture->health.state == SERVE_READY ? 200 : 503);
    json_t *body;
    assert_ok(sl_json_parse("body", page.body.data, page.body.bytes, 4096, &body));
    sl_buf_fini(&page.body);
    return body;
}

static void test_what_is_unknown_is_left_out(void **state)
{
    struct fixture *fixture = *state;
    snprintf(fixture->health.reason, sizeof(fixture->health.reason), "old news");
    json_t *body = page_of(fixture, NULL, "/ready");
    assert_int_equal(json_object_size(body), 1); /* ready: no reason, and here no node */
    json_decref(body);
    body = page_of(fixture, "", "/health");
    assert_null(json_object_get(body, "node"));
    assert_null(json_object_get(body, "reason"));
    json_decref(body);
    fixture->health.state = SERVE_DRAINING;
    body = page_of(fixture, "p0", "/ready");
    assert_text(body, "reason", "old news");
    assert_text(body, "node", "p0");
    json_decref(body);
    fixture->health.state = SERVE_LOADING;
    fixture->health.reason[0] = '\0';
    fixture->health.bytes_done = fixture->health.bytes_total = 400;
    json_decref(page_of(fixture, "p0", "/ready")); /* the time begins */
    sl_sleep_us(2 * SL_MS_US);
    body = page_of(fixture, "p0", "/ready");
    assert_null(json_object_get(body, "reason"));
    assert_true(json_number_value(json_object_get(body, "eta_seconds")) == 0.0);
    assert_true(json_is_number(json_object_get(body, "eta_seconds")));
    json_decref(body);
    fixture->health.bytes_done = 401; /* more than there is says nothing */
    body = page_of(fixture, "p0", "/ready");
    assert_true(json_is_null(json_object_get(body, "eta_seconds")));
    json_decref(body);
}

static double metric_in(const struct fixture *fixture, const char *name)
{
    char start[96];
    snprintf(start, sizeof(start), "\nsluice_%s ", name);
    const char *line = strstr(body_of(fixture), start);
    assert_non_null(line);
    return strtod(line + strlen(start), NULL);
}

static void test_metrics(void **state)
{
    struct fixture *fixture = *state;
    int fd = dial(fixture);
    assert_int_equal(ask(fixture, "/metrics"), 200);
    double fds = metric_in(fixture, "process_open_fds");
    close(fd);
    assert_non_null(strstr(fixture->reply, "text/plain; version=0.0.4"));
    assert_true(metric_in(fixture, "process_resident_memory_bytes") > 1e6);
    double cpu = metric_in(fixture, "process_cpu_seconds_total");
    assert_true(cpu > 0.0 && cpu < 3600.0);
    assert_true(metric_in(fixture, "process_threads") >= 2.0);
    assert_true(metric_in(fixture, "process_start_time_seconds") > 1.7e9);
    assert_true(fds >= 5.0 && fds < 1000.0);
    assert_non_null(
        strstr(body_of(fixture), "sluice_build_info{version=\"" SLUICE_VERSION "\"} 1"));
}

static double open_fds(void)
{
    DIR *directory = opendir("/proc/self/fd");
    assert_non_null(directory);
    int n = 0;
    for (const struct dirent *entry; (entry = readdir(directory)) != NULL;)
        n += entry->d_name[0] != '.';
    closedir(directory);
    return n - 1; /* the directory itself */
}

static void test_descriptors_are_counted_exactly(void **state)
{
    struct fixture *fixture = *state;
    struct sl_metric *metric = sl_metric_get(
        sl_metrics_family(fixture->metrics, SL_METRIC_GAUGE, "process_open_fds", "", "", NULL, 0));
    struct sl_buf page;
    sl_buf_init(&page, 1 << 20);
    sl_metrics_render(fixture->metrics, &page);
    assert_true(sl_metric_value(metric) == open_fds());
    sl_buf_fini(&page);
}

static void test_version_and_unknown(void **state)
{
    struct fixture *fixture = *state;
    assert_int_equal(ask(fixture, "/version"), 200);
    assert_string_equal(body_of(fixture), "{\"version\":\"" SLUICE_VERSION "\"}\n");
    assert_int_equal(ask(fixture, "/"), 404);
    assert_int_equal(ask(fixture, "/health/../version"), 404);
}

static int ask_text(struct fixture *fixture, const char *request)
{
    return ask_raw(fixture, request, strlen(request));
}

static void test_guards(void **state)
{
    struct fixture *fixture = *state;
    assert_int_equal(ask_text(fixture, "POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: "
                                       "0\r\nConnection: close\r\n\r\n"),
                     405);
    /* Announced bodies are refused before they come. */
    assert_int_equal(
        ask_text(fixture, "POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n"),
        413);
    assert_int_equal(
        ask_text(fixture, "GET /health HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"),
        413);
    int status = ask_text(fixture, "GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: "
                                   "5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    assert_true(status == 413 || status == 400);
    assert_true(ask_text(fixture, "GARBAGE\r\n\r\n") != 200);
    assert_true(ask_text(fixture, "GET /health HTTP/1.1\r\n\r\n") != 200); /* no Host */
    assert_int_equal(ask_text(fixture, "GET /health HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n"), 400);
    assert_int_equal(ask_text(fixture, "GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: "
                                       "0\r\nContent-Length: 0\r\n\r\n"),
                     400);
    static char large[40000];
    int n = snprintf(large, sizeof(large), "GET /health HTTP/1.1\r\nHost: x\r\nX-Long: ");
    for (size_t bytes = 9000; bytes <= 36000; bytes += 27000) {
        memset(large + n, 'a', bytes);
        memcpy(large + n + bytes, "\r\nConnection: close\r\n\r\n", 24);
        status = ask_raw(fixture, large, (size_t)n + bytes + 23);
        assert_true(status == 431 || status == 413 || status == 414 || status == 0);
    }
    /* Names, values and four bytes each; Host and Connection are 28 of them, X-Long itself 10. */
    for (size_t bytes = 8192; bytes <= 8193; bytes++) {
        memset(large + n, 'a', bytes - 38);
        memcpy(large + n + bytes - 38, "\r\nConnection: close\r\n\r\n", 24);
        assert_int_equal(ask_raw(fixture, large, (size_t)n + bytes - 38 + 23),
                         bytes == 8192 ? 200 : 431);
    }
    assert_int_equal(ask(fixture, "/health"), 200); /* and it still serves */
    status = ask_text(fixture, "HEAD /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert_int_equal(status, 200);
    assert_string_equal(body_of(fixture), "");
}

static void test_port_taken_and_bad_address(void **state)
{
    struct fixture *fixture = *state;
    char listen[32];
    snprintf(listen, sizeof(listen), "127.0.0.1:%u", serve_admin_port(fixture->admin));
    struct serve_admin_args args = args_of(fixture, listen);
    struct serve_admin *second;
    assert_fails(serve_admin_start(&args, &second), SL_DEVICE, listen);
    args.listen = "nowhere";
    assert_fails(serve_admin_start(&args, &second), SL_INVALID, "nowhere");
}

static void test_stop_closes_the_port(void **state)
{
    struct fixture *fixture = *state;
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons(serve_admin_port(fixture->admin)),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    serve_admin_stop(fixture->admin);
    fixture->admin = NULL; /* teardown stops nothing again */
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), -1);
    close(fd);
}

static void test_ipv6(void **state)
{
    struct fixture *fixture = *state;
    struct serve_admin_args args = args_of(fixture, "[::1]:0");
    struct serve_admin *second;
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) != 0) {
        if (fd >= 0)
            close(fd);
        print_message("skip: this machine has no IPv6 loopback\n");
        skip();
    }
    assert_ok(serve_admin_start(&args, &second));
    address.sin6_port = htons(serve_admin_port(second));
    close(fd);
    fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    close(fd);
    serve_admin_stop(second);
}

static void test_pulse(void **state)
{
    (void)state;
    struct serve_pulse pulse = {0};
    assert_int_equal(serve_pulse_stalled_us(&pulse), 0);
    serve_pulse_beat(&pulse, 7);
    assert_int_equal(pulse.step, 7);
    sl_sleep_us(20 * SL_MS_US);
    uint64_t stalled = serve_pulse_stalled_us(&pulse);
    assert_true(stalled >= 20 * SL_MS_US && stalled < 5 * SL_SECOND_US);
    serve_pulse_beat(&pulse, 7);
    assert_true(serve_pulse_stalled_us(&pulse) < stalled);
}

#define WITH(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH(test_health),
        WITH(test_ready_tells_progress),
        WITH(test_what_is_unknown_is_left_out),
        WITH(test_metrics),
        WITH(test_descriptors_are_counted_exactly),
        WITH(test_version_and_unknown),
        WITH(test_guards),
        WITH(test_port_taken_and_bad_address),
        WITH(test_stop_closes_the_port),
        WITH(test_ipv6),
        cmocka_unit_test(test_pulse),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

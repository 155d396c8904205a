/* Admin pages. The pages themselves are pure (serve_admin_page); around them is a small
 * libmicrohttpd server with one thread.
 *
 * What a client may do here is narrow on purpose: GET and HEAD of four paths, no body, headers of
 * 8 KiB, 64 connections, ten seconds. Requests that announce a body are refused before the library
 * reads any of it, which also settles ambiguous framing.
 *
 * The estimate of the time that loading still takes is bytes so far over the time since loading was
 * first seen; one per process is enough, as a process loads one model. */
#include "serve/admin.h"

#include "base/address.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "serve/serve.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <microhttpd.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNECTIONS_MAX    64u
#define CONNECTION_BYTES   16384u /* memory of one connection, headers included */
#define HEADER_BYTES_MAX   8192u
#define TIMEOUT_SECONDS    10u
#define JSON_BYTES_MAX     4096u
#define METRICS_BYTES_MAX  (16u << 20)
#define CONTENT_JSON       "application/json"
#define CONTENT_PROMETHEUS "text/plain; version=0.0.4; charset=utf-8"

void serve_pulse_beat(struct serve_pulse *pulse, uint64_t step)
{
    atomic_store_explicit(&pulse->step, step, memory_order_relaxed);
    atomic_store_explicit(&pulse->beat_us, sl_real_us(), memory_order_relaxed);
}

uint64_t serve_pulse_stalled_us(const struct serve_pulse *pulse)
{
    uint64_t beat = atomic_load_explicit(&pulse->beat_us, memory_order_relaxed);
    uint64_t now = sl_real_us();
    return beat == 0 || now < beat ? 0 : now - beat;
}

/* ---- pages ---- */

static void page_init(struct serve_page *page, int http_status)
{
    page->http_status = http_status;
    page->content_type = CONTENT_JSON;
    sl_buf_init(&page->body, JSON_BYTES_MAX);
}

static void add_field(struct sl_buf *body, const char *name, const char *text)
{
    if (text == NULL || text[0] == '\0')
        return;
    sl_buf_add_format(body, ",\"%s\":", name);
    sl_buf_add_json_string(body, text, strlen(text));
}

static void health_page(const struct serve_admin_args *args, const struct serve_health *health,
                        struct serve_page *page)
{
    page_init(page, health->ok ? 200 : 503);
    sl_buf_add_format(&page->body, "{\"status\":\"%s\"", health->ok ? "ok" : "unhealthy");
    if (!health->ok)
        add_field(&page->body, "reason", health->reason);
    add_field(&page->body, "node", args->node);
    sl_buf_add_format(&page->body, ",\"step\":%" PRIu64 ",\"stalled_ms\":%" PRIu64 "}\n",
                      health->step, (uint64_t)(health->stalled_us / SL_MS_US));
}

static void add_progress(struct sl_buf *body, const struct serve_health *health)
{
    static _Atomic uint64_t loading_since_us;
    uint64_t now = sl_real_us(), since = 0;
    if (atomic_compare_exchange_strong(&loading_since_us, &since, now))
        since = now;
    sl_buf_add_format(body, ",\"bytes_done\":%" PRIu64 ",\"bytes_total\":%" PRIu64,
                      health->bytes_done, health->bytes_total);
    uint64_t done = health->bytes_done, total = health->bytes_total;
    if (done > 0 && total >= done && now > since)
        sl_buf_add_format(body, ",\"eta_seconds\":%.1f",
                          (double)(now - since) / 1e6 * (double)(total - done) / (double)done);
    else
        sl_buf_add_text(body, ",\"eta_seconds\":null");
}

static void ready_page(const struct serve_admin_args *args, const struct serve_health *health,
                       struct serve_page *page)
{
    static const char *const names[] = {[SERVE_LOADING] = "loading",
                                        [SERVE_READY] = "ready",
                                        [SERVE_DRAINING] = "draining",
                                        [SERVE_UNAVAILABLE] = "unavailable"};
    page_init(page, health->state == SERVE_READY ? 200 : 503);
    sl_buf_add_format(&page->body, "{\"status\":\"%s\"", names[health->state]);
    if (health->state == SERVE_LOADING)
        add_progress(&page->body, health);
    if (health->state != SERVE_READY)
        add_field(&page->body, "reason", health->reason);
    add_field(&page->body, "node", args->node);
    sl_buf_add_text(&page->body, "}\n");
}

static void metrics_page(const struct serve_admin_args *args, struct serve_page *page)
{
    page->http_status = 200;
    page->content_type = CONTENT_PROMETHEUS;
    sl_buf_init(&page->body, METRICS_BYTES_MAX);
    sl_metrics_render(args->metrics, &page->body);
}

static void version_page(struct serve_page *page)
{
    page_init(page, 200);
    sl_buf_add_format(&page->body, "{\"version\":\"%s\"}\n", SLUICE_VERSION);
}

bool serve_admin_page(const struct serve_admin_args *args, const char *path,
                      struct serve_page *page_out)
{
    bool is_health = strcmp(path, "/health") == 0, is_ready = strcmp(path, "/ready") == 0;
    struct serve_health health = {0};
    if (is_health || is_ready)
        args->health(args->arg, &health);
    if (is_health)
        health_page(args, &health, page_out);
    else if (is_ready)
        ready_page(args, &health, page_out);
    else if (strcmp(path, "/metrics") == 0)
        metrics_page(args, page_out);
    else if (strcmp(path, "/version") == 0)
        version_page(page_out);
    else
        return false;
    return true;
}

/* ---- the server ---- */

struct serve_admin {
    struct serve_admin_args args;
    struct MHD_Daemon *daemon;
    uint16_t port;
};

/* Takes the body. */
static enum MHD_Result reply(struct MHD_Connection *connection, struct serve_page *page, bool last)
{
    size_t bytes = page->body.bytes;
    struct MHD_Response *response =
        MHD_create_response_from_buffer_with_free_callback(bytes, page->body.data, sl_free);
    if (response == NULL) {
        sl_buf_fini(&page->body);
        return MHD_NO;
    }
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, page->content_type);
    MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    if (last)
        MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close");
    enum MHD_Result result = MHD_queue_response(connection, (unsigned)page->http_status, response);
    MHD_destroy_response(response);
    return result;
}

static enum MHD_Result refuse(struct MHD_Connection *connection, int http_status, const char *text)
{
    struct serve_page page;
    page_init(&page, http_status);
    sl_buf_add_text(&page.body, "{\"error\":{\"message\":");
    sl_buf_add_json_string(&page.body, text, strlen(text));
    sl_buf_add_format(&page.body, ",\"code\":%d}}\n", http_status);
    return reply(connection, &page, true);
}

struct headers {
    size_t bytes;
    uint32_t hosts, lengths;
};

static enum MHD_Result count_header(void *arg, enum MHD_ValueKind kind, const char *key,
                                    const char *value)
{
    (void)kind;
    struct headers *headers = arg;
    headers->bytes += strlen(key) + (value == NULL ? 0 : strlen(value)) + 4;
    headers->hosts += strcasecmp(key, MHD_HTTP_HEADER_HOST) == 0;
    headers->lengths += strcasecmp(key, MHD_HTTP_HEADER_CONTENT_LENGTH) == 0;
    return MHD_YES;
}

static const char *header(struct MHD_Connection *connection, const char *name)
{
    return MHD_lookup_connection_value(connection, MHD_HEADER_KIND, name);
}

static enum MHD_Result answer(void *arg, struct MHD_Connection *connection, const char *url,
                              const char *method, const char *version, const char *upload,
                              size_t *upload_bytes, void **context)
{
    (void)version;
    (void)upload;
    (void)context;
    const struct serve_admin *admin = arg;
    *upload_bytes = 0;
    const char *length = header(connection, MHD_HTTP_HEADER_CONTENT_LENGTH);
    if ((length != NULL && strcmp(length, "0") != 0) ||
        header(connection, MHD_HTTP_HEADER_TRANSFER_ENCODING) != NULL)
        return refuse(connection, 413, "these pages take no request body");
    struct headers headers = {0};
    MHD_get_connection_values(connection, MHD_HEADER_KIND, count_header, &headers);
    if (headers.hosts != 1 || headers.lengths > 1)
        return refuse(connection, 400, "one Host, and at most one Content-Length");
    if (headers.bytes > HEADER_BYTES_MAX)
        return refuse(connection, 431, "header fields over 8192 bytes");
    if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
        return refuse(connection, 405, "only GET and HEAD");
    struct serve_page page;
    if (!serve_admin_page(&admin->args, url, &page))
        return refuse(connection, 404, "no such page; there are /health /ready /metrics /version");
    if (page.body.failed) {
        sl_buf_fini(&page.body);
        return refuse(connection, 500, "the page is too large");
    }
    return reply(connection, &page, false);
}

static void log_http(void *arg, const char *fmt, va_list list)
    __attribute__((format(printf, 2, 0)));
static void log_http(void *arg, const char *fmt, va_list list)
{
    (void)arg;
    char text[256];
    vsnprintf(text, sizeof(text), fmt, list);
    text[strcspn(text, "\n")] = '\0';
    sl_debug("admin_http", "text=\"%s\"", text);
}

static sl_status resolve(const char *listen, struct addrinfo **address_out)
{
    char host[SL_HOST_BYTES];
    uint16_t port;
    sl_status status = sl_address_parse("--admin", listen, host, &port);
    if (status != SL_OK)
        return status;
    char service[8];
    snprintf(service, sizeof(service), "%u", port);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_PASSIVE | AI_NUMERICSERV,
                             .ai_family = AF_UNSPEC};
    int error = getaddrinfo(host, service, &hints, address_out);
    if (error != 0)
        return sl_fail(SL_INVALID, "--admin: \"%s\": %s", listen, gai_strerror(error));
    return SL_OK;
}

sl_status serve_admin_start(const struct serve_admin_args *args, struct serve_admin **admin_out)
{
    struct addrinfo *address;
    sl_status status = resolve(args->listen, &address);
    if (status != SL_OK)
        return status;
    struct serve_admin *admin = sl_zalloc(1, sizeof(*admin));
    admin->args = *args;
    unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_USE_ERROR_LOG;
    if (address->ai_family == AF_INET6)
        flags |= MHD_USE_IPv6;
    errno = 0;
    admin->daemon = MHD_start_daemon(
        flags, 0, NULL, NULL, answer, admin, MHD_OPTION_EXTERNAL_LOGGER, log_http, NULL,
        MHD_OPTION_SOCK_ADDR, address->ai_addr, MHD_OPTION_CONNECTION_LIMIT, CONNECTIONS_MAX,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_BYTES, MHD_OPTION_CONNECTION_TIMEOUT,
        TIMEOUT_SECONDS, MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_END);
    freeaddrinfo(address);
    if (admin->daemon == NULL) {
        int error = errno;
        sl_free(admin);
        return sl_fail(SL_DEVICE, "--admin: cannot serve pages on %s: %s", args->listen,
                       error == 0 ? "the HTTP library refused" : strerror(error));
    }
    const union MHD_DaemonInfo *info =
        MHD_get_daemon_info(admin->daemon, MHD_DAEMON_INFO_BIND_PORT);
    admin->port = info == NULL ? 0 : info->port;
    serve_process_metrics(args->metrics);
    *admin_out = admin;
    return SL_OK;
}

uint16_t serve_admin_port(const struct serve_admin *admin)
{
    return admin->port;
}

void serve_admin_stop(struct serve_admin *admin)
{
    if (admin == NULL)
        return;
    MHD_stop_daemon(admin->daemon);
    sl_free(admin);
}

/* ---- process metrics ---- */

static uint64_t count_entries(const char *path)
{
    DIR *directory = opendir(path);
    if (directory == NULL)
        return 0;
    uint64_t n = 0;
    for (const struct dirent *entry; (entry = readdir(directory)) != NULL;)
        n += entry->d_name[0] != '.';
    closedir(directory);
    return n;
}

static uint64_t resident_bytes(void)
{
    FILE *file = fopen("/proc/self/statm", "re");
    unsigned long long total = 0, resident = 0;
    if (file == NULL)
        return 0;
    int n = fscanf(file, "%llu %llu", &total, &resident);
    fclose(file);
    return n == 2 ? resident * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
}

static void set(struct sl_metrics *metrics, enum sl_metric_type type, const char *name,
                const char *help, double value)
{
    sl_metric_set(sl_metric_get(sl_metrics_family(metrics, type, name, help, "", NULL, 0)), value);
}

static void process_refresh(void *arg)
{
    struct sl_metrics *metrics = arg;
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) == 0)
        set(metrics, SL_METRIC_COUNTER, "process_cpu_seconds_total",
            "User and system time of this process.",
            (double)usage.ru_utime.tv_sec + (double)usage.ru_utime.tv_usec / 1e6 +
                (double)usage.ru_stime.tv_sec + (double)usage.ru_stime.tv_usec / 1e6);
    set(metrics, SL_METRIC_GAUGE, "process_resident_memory_bytes",
        "Resident memory of this process.", (double)resident_bytes());
    /* One of them is the directory being read. */
    uint64_t fds = count_entries("/proc/self/fd");
    set(metrics, SL_METRIC_GAUGE, "process_open_fds", "Open file descriptors.",
        (double)(fds > 0 ? fds - 1 : 0));
    set(metrics, SL_METRIC_GAUGE, "process_threads", "Threads of this process.",
        (double)count_entries("/proc/self/task"));
}

void serve_process_metrics(struct sl_metrics *metrics)
{
    set(metrics, SL_METRIC_GAUGE, "process_start_time_seconds",
        "Start of this process since the epoch.", sl_wall_seconds());
    struct sl_metric_family *build =
        sl_metrics_family(metrics, SL_METRIC_GAUGE, "build_info", "1; the version is in the label.",
                          "version", NULL, 0);
    sl_metric_set(sl_metric_get(build, SLUICE_VERSION), 1.0);
    sl_metrics_on_render(metrics, process_refresh, metrics); /* lives as long as itself */
}

/* HTTP/1.1 on libmicrohttpd: epoll, a pool of threads, suspended connections.
 *
 *   HTTP thread: head ─► guards ─► body ─► exchange ─► handler.request ─► suspend
 *                                                                          │
 *   any thread:  http_reply / http_stream_write ─► resume ─► HTTP thread sends ─► (stream: suspend)
 *   watcher:     client sends no more ─► a probe ─► reset ─► handler.gone, resume ─► the connection ends
 *
 * What libmicrohttpd 0.9.75 leaves to its user, and where it is done here:
 *   - A suspended connection does not notice that its client left. A second epoll instance watches the
 *     same descriptors for EPOLLRDHUP, one shot. It holds numbers of slots, not pointers: a slot says
 *     by its generation whether the event is still about the exchange it was armed for.
 *   - The end of what a client sends does not say whether it still reads (RFC 9112 allows both). So it is
 *     sent something harmless: an interim response while there is no answer yet, a comment in a stream.
 *     One that has closed its socket resets the connection at once, and has left; one that has only shut
 *     down its side reads on, and is served. HTTP/1.0 knows no interim responses: there it has left.
 *   - Ambiguous framing is accepted (length with chunks, two lengths, two hosts): counted and refused here.
 *     (No host, and a length that is no number, it refuses itself.)
 *   - The limit of a body is ours. An announced one is refused with the head; a chunked one that grows
 *     too long has its answer written straight to the socket, since the library takes none there.
 *   - A connection has one timeout, whatever it waits for. It is short until a request's head has come, and
 *     again from each request line on, and long else: for the next request, and for who reads an answer. A body of
 *     which nothing comes is found by the watcher, and answered, which a timeout of the library is not.
 *   - It is told of a socket's events by their edges, and so once of bytes and an end that come together, of which
 *     it reads the bytes only. A body whose client sends no more is therefore ended again and again (end_body).
 *   - A stream that its reader ends with an error, and an end that comes with the last bytes read, are
 *     noticed only at the idle timeout. The socket is shut down besides, which the library does see.
 *   - A close with unread bytes resets the connection, and the reset overtakes the answer: a refused upload
 *     lingers (http_linger.c).
 *   - All connections must be resumed before the library is stopped.
 *
 * Pages of others are refused, or told that they may read (http_guard.c): a preflight is answered here.
 *
 * One mutex per exchange covers "empty ─► suspend" against "write ─► resume". Lock order: the
 * exchange's mutex, then the server's; neither is held in a handler call. */
#include "coordinator/http.h"

#include "base/address.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"
#include "coordinator/http_guard.h"
#include "coordinator/http_linger.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <microhttpd.h>
#include <netdb.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define POOL_BYTES       (64u << 10) /* libmicrohttpd's memory of one connection */
#define READER_BYTES     4096u
#define IDLE_SECONDS     75u
#define BODY_US          (60 * SL_SECOND_US) /* a body that takes longer is refused */
#define SWEEP_US         (250 * SL_MS_US)
#define WATCH_EVENTS_MAX 64

enum phase {
    PHASE_BODY,    /* reading */
    PHASE_WAITING, /* with the handler */
    PHASE_REPLY,   /* `out` holds a whole answer */
    PHASE_STREAM,  /* `out` holds what is not sent yet */
    PHASE_CLOSED,  /* the connection is done with it */
};

struct header {
    const char *name; /* a literal */
    char *value;
};

struct http_exchange {
    atomic_uint references;
    pthread_mutex_t mutex;
    struct http_server *server; /* NULL once the connection is done */
    struct MHD_Connection *connection;
    enum phase phase;
    bool suspended;
    bool ended; /* stream: nothing more will be written */
    bool gone;
    bool told;      /* handler.gone was called, or is not wanted any more */
    bool old;       /* HTTP/1.0 */
    bool half;      /* the client sends nothing more */
    bool delivered; /* the connection's thread only: handler.request was called */
    uint32_t slot;
    uint32_t route;
    char rest[HTTP_REST_BYTES];
    char origin[ORIGIN_BYTES_MAX]; /* whose page is told that it may read the answer; "": none */
    uint64_t start_us;
    uint64_t user;
    struct sl_buf body;
    struct sl_buf out;
    size_t out_sent;         /* of `out` */
    size_t longest;          /* write since `out` was empty */
    size_t held;             /* by the handler, then by the library */
    size_t charged;          /* to the server, of all these */
    _Atomic uint64_t due_us; /* when more of the body must have come; UINT64_MAX: all has */
    atomic_bool ends;        /* no more of the body comes, and it is not read to the end */
    int http_status;
    const char *content_type;
    uint32_t retry_after_s;
    struct header headers[HTTP_ADDED_HEADERS_MAX];
    uint32_t n_headers;
};

struct slot {
    struct http_exchange *exchange; /* NULL: free */
    uint32_t generation;
    int fd;
};

struct http_server {
    struct MHD_Daemon *daemon;
    struct http_handler handler;
    struct http_guard guard;
    struct origins *origins; /* the guard's */
    uint16_t port;
    int watch_fd;
    struct sl_thread watcher;
    atomic_bool stopping;
    atomic_uint n_delivered; /* requests with the handler, not fully answered */
    atomic_size_t held;
    size_t held_bytes_max;
    uint32_t stall_seconds;
    uint64_t sweep_us; /* the watcher's: the next look at bodies */
    struct http_lingers lingers;
    pthread_mutex_t mutex; /* what follows */
    bool closing;
    struct slot *slots;
    uint32_t n_slots;
    uint32_t *free_slots;
    uint32_t n_free;
};

/* ---- exchanges ---- */

struct http_exchange *http_exchange_acquire(struct http_exchange *exchange)
{
    atomic_fetch_add_explicit(&exchange->references, 1, memory_order_relaxed);
    return exchange;
}

void http_exchange_release(struct http_exchange *exchange)
{
    if (exchange == NULL ||
        atomic_fetch_sub_explicit(&exchange->references, 1, memory_order_acq_rel) != 1)
        return;
    pthread_mutex_destroy(&exchange->mutex);
    sl_buf_fini(&exchange->body);
    sl_buf_fini(&exchange->out);
    for (uint32_t i = 0; i < exchange->n_headers; i++)
        sl_free(exchange->headers[i].value);
    sl_free(exchange);
}

uint32_t http_exchange_route(const struct http_exchange *exchange)
{
    return exchange->route;
}

const char *http_exchange_rest(const struct http_exchange *exchange)
{
    return exchange->rest;
}

const char *http_exchange_body(const struct http_exchange *exchange, size_t *bytes_out)
{
    *bytes_out = exchange->body.bytes;
    return exchange->body.data != NULL ? exchange->body.data : "";
}

uint64_t http_exchange_start_us(const struct http_exchange *exchange)
{
    return exchange->start_us;
}

/* Brings the server's sum up to date, with the exchange's mutex held. False: it is over the limit. */
static bool charge(struct http_exchange *exchange)
{
    struct http_server *server = exchange->server;
    if (server == NULL)
        return true;
    size_t now = exchange->body.bytes + exchange->out.bytes + exchange->held;
    size_t more = now - exchange->charged; /* or less: it wraps */
    exchange->charged = now;
    return atomic_fetch_add(&server->held, more) + more <= server->held_bytes_max;
}

void http_exchange_drop_body(struct http_exchange *exchange)
{
    pthread_mutex_lock(&exchange->mutex);
    sl_buf_fini(&exchange->body);
    sl_buf_init(&exchange->body, 0);
    (void)charge(exchange);
    pthread_mutex_unlock(&exchange->mutex);
}

bool http_exchange_hold(struct http_exchange *exchange, size_t bytes)
{
    bool fits = true;
    pthread_mutex_lock(&exchange->mutex);
    if (exchange->phase == PHASE_WAITING || exchange->phase == PHASE_STREAM) {
        exchange->held = bytes;
        fits = charge(exchange);
    }
    pthread_mutex_unlock(&exchange->mutex);
    return fits;
}

bool http_exchange_is_gone(struct http_exchange *exchange)
{
    pthread_mutex_lock(&exchange->mutex);
    bool gone = exchange->gone || exchange->phase == PHASE_CLOSED;
    pthread_mutex_unlock(&exchange->mutex);
    return gone;
}

void http_exchange_set_user(struct http_exchange *exchange, uint64_t user)
{
    pthread_mutex_lock(&exchange->mutex);
    exchange->user = user;
    pthread_mutex_unlock(&exchange->mutex);
}

uint64_t http_exchange_user(struct http_exchange *exchange)
{
    pthread_mutex_lock(&exchange->mutex);
    uint64_t user = exchange->user;
    pthread_mutex_unlock(&exchange->mutex);
    return user;
}

/* -1: it has none, which cannot be. */
static int socket_of(struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    return info != NULL ? info->connect_fd : -1;
}

/* With the exchange's mutex held. */
static void resume(struct http_exchange *exchange)
{
    if (!exchange->suspended)
        return;
    exchange->suspended = false;
    MHD_resume_connection(exchange->connection);
}

static bool is_header_value(const char *value)
{
    size_t bytes = strlen(value);
    for (size_t i = 0; i < bytes; i++)
        if ((unsigned char)value[i] < ' ' || value[i] == 127)
            return false;
    return bytes <= HTTP_HEADER_VALUE_MAX;
}

bool http_add_header(struct http_exchange *exchange, const char *name, const char *value)
{
    if (!is_header_value(value))
        return false;
    pthread_mutex_lock(&exchange->mutex);
    bool added = exchange->phase <= PHASE_WAITING && exchange->n_headers < HTTP_ADDED_HEADERS_MAX;
    if (added)
        exchange->headers[exchange->n_headers++] = (struct header){name, sl_strdup(value)};
    pthread_mutex_unlock(&exchange->mutex);
    return added;
}

void http_reply(struct http_exchange *exchange, int http_status, const char *content_type,
                const char *body, size_t bytes, uint32_t retry_after_s)
{
    pthread_mutex_lock(&exchange->mutex);
    if (exchange->phase == PHASE_WAITING && !exchange->gone) {
        sl_buf_add(&exchange->out, body, bytes);
        if (exchange->out.failed) {
            sl_buf_reset(&exchange->out);
            http_status = 500;
        }
        exchange->http_status = http_status;
        exchange->content_type = content_type;
        exchange->retry_after_s = retry_after_s;
        exchange->held = 0;
        (void)charge(exchange);
        exchange->phase = PHASE_REPLY;
        exchange->told = true;
        resume(exchange);
    }
    pthread_mutex_unlock(&exchange->mutex);
}

bool http_stream_begin(struct http_exchange *exchange)
{
    pthread_mutex_lock(&exchange->mutex);
    bool begun = exchange->phase == PHASE_WAITING && !exchange->gone;
    if (begun) {
        exchange->phase = PHASE_STREAM;
        resume(exchange);
    }
    pthread_mutex_unlock(&exchange->mutex);
    return begun;
}

bool http_stream_write(struct http_exchange *exchange, const char *bytes, size_t n)
{
    pthread_mutex_lock(&exchange->mutex);
    bool written = exchange->phase == PHASE_STREAM && !exchange->gone && !exchange->ended;
    if (written) {
        struct sl_buf *out = &exchange->out;
        size_t unsent = out->bytes - exchange->out_sent; /* before this one, which may be longer */
        if (exchange->out_sent > 0 && exchange->out_sent >= out->bytes / 2) {
            sl_buf_consume(out, exchange->out_sent);
            exchange->out_sent = 0;
        }
        bool late = unsent > HTTP_STREAM_BYTES_MAX + exchange->longest; /* it does not read */
        if (!late)
            sl_buf_add(out, bytes, n);
        exchange->longest = n > exchange->longest ? n : exchange->longest;
        late |= out->failed || (!charge(exchange) && unsent > HTTP_STREAM_SHARE);
        if (late) {
            exchange->gone = true;
            exchange->told = true;
            written = false;
        }
        resume(exchange);
    }
    pthread_mutex_unlock(&exchange->mutex);
    return written;
}

void http_stream_end(struct http_exchange *exchange)
{
    pthread_mutex_lock(&exchange->mutex);
    if (exchange->phase == PHASE_STREAM && !exchange->ended) {
        exchange->ended = true;
        exchange->told = true;
        resume(exchange);
    }
    pthread_mutex_unlock(&exchange->mutex);
}

/* With the exchange's mutex held, and not closed. What was sent still arrives, but no end of the body. */
static void cut(const struct http_exchange *exchange)
{
    (void)shutdown(socket_of(exchange->connection), SHUT_RDWR);
}

void http_abort(struct http_exchange *exchange)
{
    pthread_mutex_lock(&exchange->mutex);
    if (exchange->phase != PHASE_CLOSED) {
        exchange->gone = true;
        exchange->told = true;
        cut(exchange);
        resume(exchange);
    }
    pthread_mutex_unlock(&exchange->mutex);
}

/* Marks it gone and tells the handler, once. The caller holds a reference and no lock. */
static void tell_gone(struct http_server *server, struct http_exchange *exchange)
{
    pthread_mutex_lock(&exchange->mutex);
    bool tell = !exchange->told && exchange->phase >= PHASE_WAITING;
    exchange->gone = true;
    exchange->told = true;
    pthread_mutex_unlock(&exchange->mutex);
    if (tell)
        server->handler.gone(server->handler.arg, exchange);
}

/* ---- slots and the watcher ---- */

static uint64_t slot_tag(uint32_t slot, uint32_t generation)
{
    return ((uint64_t)(generation & 0x7fffffffu) << 32) | slot;
}

static struct http_exchange *exchange_create(struct http_server *server,
                                             struct MHD_Connection *connection, uint32_t route)
{
    struct http_exchange *exchange = sl_zalloc(1, sizeof(*exchange));
    atomic_init(&exchange->references, 1);
    pthread_mutex_init(&exchange->mutex, NULL);
    exchange->server = server;
    exchange->connection = connection;
    exchange->route = route;
    exchange->start_us = sl_now_us();
    atomic_init(&exchange->due_us, exchange->start_us + server->stall_seconds * SL_SECOND_US);
    atomic_init(&exchange->ends, false);
    sl_buf_init(&exchange->body, server->guard.body_bytes_max);
    sl_buf_init(&exchange->out, HTTP_REPLY_BYTES_MAX);
    exchange->slot = UINT32_MAX;
    return exchange;
}

/* Watches the client's end from now on. False when all slots are taken, or the server stops. */
static bool watch(struct http_server *server, struct http_exchange *exchange)
{
    int fd = socket_of(exchange->connection);
    if (fd < 0)
        return false;
    pthread_mutex_lock(&server->mutex);
    if (server->n_free == 0 || server->closing) {
        pthread_mutex_unlock(&server->mutex);
        return false;
    }
    uint32_t index = server->free_slots[--server->n_free];
    struct slot *slot = &server->slots[index];
    slot->exchange = exchange;
    slot->fd = fd;
    exchange->slot = index;
    struct epoll_event event = {.events = EPOLLRDHUP | EPOLLONESHOT,
                                .data.u64 = slot_tag(index, slot->generation)};
    if (epoll_ctl(server->watch_fd, EPOLL_CTL_ADD, slot->fd, &event) != 0)
        sl_warn("http_watch", "error=\"%s\"", strerror(errno));
    pthread_mutex_unlock(&server->mutex);
    return true;
}

static void unwatch(struct http_server *server, struct http_exchange *exchange)
{
    if (exchange->slot == UINT32_MAX)
        return;
    pthread_mutex_lock(&server->mutex);
    struct slot *slot = &server->slots[exchange->slot];
    epoll_ctl(server->watch_fd, EPOLL_CTL_DEL, slot->fd, NULL);
    slot->exchange = NULL;
    slot->generation++;
    server->free_slots[server->n_free++] = exchange->slot;
    pthread_mutex_unlock(&server->mutex);
    exchange->slot = UINT32_MAX;
}

/* The library reads what has come of the body, to its end. But it is told of bytes and their end at once, and may then
 * read the bytes only: so it is told again, until the exchange has another phase. With the exchange's mutex held. */
static void end_body(struct http_exchange *exchange)
{
    (void)shutdown(socket_of(exchange->connection), SHUT_RD);
    atomic_store(&exchange->ends, true);
}

/* Asks a client that sends nothing more whether it still reads; false if it cannot be asked, as one of
 * HTTP/1.0 before the answer. With the exchange's mutex held: the connection is suspended, or does not
 * send, so the library's bytes and ours do not mix. */
static bool probe(struct http_exchange *exchange)
{
    static const char interim[] = "HTTP/1.1 100 Continue\r\n\r\n";
    exchange->half = true;
    if (exchange->phase == PHASE_CLOSED || exchange->ended)
        return true;
    if (exchange->phase == PHASE_STREAM) {
        sl_buf_add_text(&exchange->out, ":\n\n");
        resume(exchange);
        return true;
    }
    if (exchange->phase == PHASE_BODY)
        end_body(exchange);
    if (exchange->phase != PHASE_WAITING || !exchange->suspended)
        return true; /* an answer is on its way */
    return !exchange->old && send(socket_of(exchange->connection), interim, sizeof(interim) - 1,
                                  MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)sizeof(interim) - 1;
}

/* The exchange that the event is about, and its socket; NULL when it is over. */
static struct http_exchange *find_watched(struct http_server *server, uint64_t tag, bool over)
{
    uint32_t index = (uint32_t)tag;
    struct http_exchange *exchange = NULL;
    pthread_mutex_lock(&server->mutex);
    struct slot *slot = &server->slots[index];
    if (slot->exchange != NULL && slot_tag(index, slot->generation) == tag) {
        struct epoll_event event = {.events = EPOLLONESHOT, .data.u64 = tag}; /* resets only */
        exchange = http_exchange_acquire(slot->exchange);
        if (over)
            (void)shutdown(slot->fd, SHUT_RDWR); /* the library may not have seen the end */
        else
            epoll_ctl(server->watch_fd, EPOLL_CTL_MOD, slot->fd, &event);
    }
    pthread_mutex_unlock(&server->mutex);
    return exchange;
}

static void watch_client(struct http_server *server, uint64_t tag, uint32_t events)
{
    bool over = (events & (EPOLLERR | EPOLLHUP)) != 0;
    struct http_exchange *exchange = find_watched(server, tag, over);
    if (exchange != NULL && !over) {
        pthread_mutex_lock(&exchange->mutex);
        over = !probe(exchange);
        pthread_mutex_unlock(&exchange->mutex);
        if (over)
            http_exchange_release(find_watched(server, tag, true));
    }
    if (exchange != NULL && over) {
        tell_gone(server, exchange);
        pthread_mutex_lock(&exchange->mutex);
        if (exchange->phase != PHASE_CLOSED)
            resume(exchange);
        pthread_mutex_unlock(&exchange->mutex);
    }
    http_exchange_release(exchange);
}

/* Keeps reading what the client still sends, so that the answer is not overtaken by a reset. */
static void linger(struct http_server *server, struct MHD_Connection *connection)
{
    http_lingers_add(&server->lingers, socket_of(connection));
}

/* ---- answers ---- */

static const char *refusal_code(unsigned status)
{
    switch (status) {
    case 403:
        return "forbidden";
    case 404:
        return "not_found";
    case 405:
        return "method_not_allowed";
    case 408:
        return "request_timeout";
    case 413:
        return "body_too_large";
    case 429:
        return "overloaded";
    case 431:
        return "headers_too_large";
    case 501:
        return "not_implemented";
    case 503:
        return "overloaded";
    default:
        return "bad_request";
    }
}

static int refusal_text(char *out, size_t bytes, unsigned status, const char *message)
{
    const char *type = status == 501   ? "not_implemented_error"
                       : status == 429 ? "rate_limit_error"
                       : status == 403 ? "permission_error"
                       : status == 404 ? "not_found_error"
                       : status >= 500 ? "service_unavailable_error"
                                       : "invalid_request_error";
    return snprintf(out, bytes,
                    "{\"error\":{\"message\":\"%s\",\"type\":\"%s\",\"param\":null,"
                    "\"code\":\"%s\"}}",
                    message, type, refusal_code(status));
}

static void tell_refused(const struct http_server *server, unsigned status, const char *message)
{
    sl_debug("http_refused", "status=%u why=\"%s\"", status, message);
    if (server->handler.refused != NULL)
        server->handler.refused(server->handler.arg, refusal_code(status));
}

/* What lets a page read an answer; NULL stands for its origin. */
static const struct page_header {
    const char *name, *value;
} page_headers[] = {{"Access-Control-Allow-Origin", NULL},
                    {"Access-Control-Expose-Headers", "*"},
                    {"Vary", "Origin"}};
#define PAGE_HEADERS (sizeof(page_headers) / sizeof(page_headers[0]))

static void add_origin(struct MHD_Response *response, const char *origin)
{
    for (size_t i = 0; i < PAGE_HEADERS && origin[0] != '\0'; i++) {
        const struct page_header *header = &page_headers[i];
        MHD_add_response_header(response, header->name,
                                header->value != NULL ? header->value : origin);
    }
}

/* Answers before the body was read; the connection ends after it. `message` needs no escaping; `origin` as
 * of an exchange. */
static enum MHD_Result refuse(struct http_server *server, struct MHD_Connection *connection,
                              unsigned status, const char *message, const char *allow,
                              const char *origin)
{
    char text[512];
    int n = refusal_text(text, sizeof(text), status, message);
    struct MHD_Response *response =
        MHD_create_response_from_buffer((size_t)n, text, MHD_RESPMEM_MUST_COPY);
    if (response == NULL)
        return MHD_NO;
    MHD_add_response_header(response, "Content-Type", HTTP_JSON);
    MHD_add_response_header(response, "Connection", "close");
    add_origin(response, origin);
    if (allow != NULL)
        MHD_add_response_header(response, "Allow", allow);
    if (status == 503)
        MHD_add_response_header(response, "Retry-After", "1");
    enum MHD_Result result = MHD_queue_response(connection, status, response);
    MHD_destroy_response(response);
    linger(server, connection);
    tell_refused(server, status, message);
    return result;
}

/* In the middle of a body, where the library takes no answer: straight to the socket. */
static void answer_raw(struct http_server *server, const struct http_exchange *exchange,
                       unsigned status, const char *message)
{
    char text[512], page[ORIGIN_BYTES_MAX + 128] = "", head[sizeof(text) + sizeof(page) + 256];
    int n = refusal_text(text, sizeof(text), status, message);
    const char *origin = exchange->origin;
    for (size_t i = 0, at = 0; i < PAGE_HEADERS && origin[0] != '\0'; i++) {
        const struct page_header *header = &page_headers[i];
        at += (size_t)snprintf(page + at, sizeof(page) - at, "%s: %s\r\n", header->name,
                               header->value != NULL ? header->value : origin);
    }
    int bytes = snprintf(head, sizeof(head),
                         "HTTP/1.1 %u %s\r\nContent-Type: application/json\r\n"
                         "Content-Length: %d\r\n%s%sConnection: close\r\n\r\n%s",
                         status, MHD_get_reason_phrase_for(status), n, page,
                         status == 429 || status == 503 ? "Retry-After: 1\r\n" : "", text);
    if (send(socket_of(exchange->connection), head, (size_t)bytes, MSG_DONTWAIT | MSG_NOSIGNAL) ==
        bytes)
        linger(server, exchange->connection);
}

static enum MHD_Result refuse_raw(struct http_server *server, const struct http_exchange *exchange,
                                  unsigned status, const char *message)
{
    answer_raw(server, exchange, status, message);
    tell_refused(server, status, message);
    return MHD_NO; /* closes */
}

static ssize_t stream_read(void *arg, uint64_t position, char *out, size_t max)
{
    (void)position;
    struct http_exchange *exchange = arg;
    ssize_t result = 0;
    pthread_mutex_lock(&exchange->mutex);
    size_t n = exchange->out.bytes - exchange->out_sent;
    n = n < max ? n : max;
    if (exchange->gone) {
        /* END_WITH_ERROR would keep the connection until the idle timeout; the end fails instead. */
        cut(exchange);
        result = MHD_CONTENT_READER_END_OF_STREAM;
    } else if (n > 0) {
        memcpy(out, exchange->out.data + exchange->out_sent, n);
        exchange->out_sent += n;
        if (exchange->out_sent == exchange->out.bytes) {
            sl_buf_reset(&exchange->out);
            exchange->out_sent = 0;
            exchange->longest = 0;
            (void)charge(exchange);
        }
        result = (ssize_t)n;
    } else if (exchange->ended) {
        result = MHD_CONTENT_READER_END_OF_STREAM;
    } else {
        exchange->suspended = true;
        MHD_suspend_connection(exchange->connection);
    }
    pthread_mutex_unlock(&exchange->mutex);
    return result;
}

static void stream_free(void *arg)
{
    http_exchange_release(arg);
}

/* A page asks what it may send: all that there is. */
static enum MHD_Result allow_page(struct MHD_Connection *connection, const char *origin)
{
    const char *names =
        MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Access-Control-Request-Headers");
    struct MHD_Response *response =
        MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT);
    if (response == NULL)
        return MHD_NO;
    add_origin(response, origin);
    MHD_add_response_header(response, "Access-Control-Allow-Methods", "GET, POST");
    if (names != NULL)
        MHD_add_response_header(response, "Access-Control-Allow-Headers", names);
    MHD_add_response_header(response, "Access-Control-Max-Age", "600");
    enum MHD_Result result = MHD_queue_response(connection, 204, response);
    MHD_destroy_response(response);
    return result;
}

/* The answer's bytes become the library's. */
static struct MHD_Response *give_whole(struct http_exchange *exchange)
{
    struct sl_buf *out = &exchange->out;
    if (out->data == NULL)
        return MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT);
    struct MHD_Response *response =
        MHD_create_response_from_buffer_with_free_callback(out->bytes, out->data, sl_free);
    if (response != NULL) {
        exchange->held = out->bytes;
        sl_buf_init(out, 0);
    }
    return response;
}

/* With the exchange's mutex held, on the connection's thread. */
static enum MHD_Result queue_answer(struct http_exchange *exchange)
{
    struct MHD_Response *response;
    unsigned status = 200;
    if (exchange->phase == PHASE_STREAM) {
        response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, READER_BYTES, stream_read,
                                                     http_exchange_acquire(exchange), stream_free);
        if (response == NULL) {
            http_exchange_release(exchange);
            return MHD_NO;
        }
        MHD_add_response_header(response, "Content-Type", "text/event-stream");
        MHD_add_response_header(response, "Cache-Control", "no-cache");
        MHD_add_response_header(response, "X-Accel-Buffering", "no");
    } else {
        status = (unsigned)exchange->http_status;
        response = give_whole(exchange);
        if (response == NULL)
            return MHD_NO;
        MHD_add_response_header(response, "Content-Type", exchange->content_type);
    }
    if (exchange->retry_after_s > 0) {
        char seconds[16];
        snprintf(seconds, sizeof(seconds), "%u", exchange->retry_after_s);
        MHD_add_response_header(response, "Retry-After", seconds);
        if (status == 429) /* clients that retry by themselves would make it worse */
            MHD_add_response_header(response, "x-should-retry", "false");
    }
    add_origin(response, exchange->origin);
    for (uint32_t i = 0; i < exchange->n_headers; i++)
        MHD_add_response_header(response, exchange->headers[i].name, exchange->headers[i].value);
    enum MHD_Result result = MHD_queue_response(exchange->connection, status, response);
    MHD_destroy_response(response);
    return result;
}

/* Answers if there is an answer, else waits for one. */
static enum MHD_Result answer_or_wait(struct http_exchange *exchange)
{
    enum MHD_Result result = MHD_YES;
    pthread_mutex_lock(&exchange->mutex);
    if (exchange->gone) {
        result = MHD_NO;
    } else if (exchange->phase != PHASE_WAITING) {
        result = queue_answer(exchange);
    } else {
        exchange->suspended = true;
        MHD_suspend_connection(exchange->connection);
        if (exchange->half && !probe(exchange)) { /* it ended together with its request */
            exchange->gone = true;
            cut(exchange);
            resume(exchange);
        }
    }
    pthread_mutex_unlock(&exchange->mutex);
    return result;
}

/* ---- the watcher ---- */

/* The next exchange from slot *index on whose body is overdue, or at its end, with a reference; NULL: none. */
static struct http_exchange *find_standing(struct http_server *server, uint32_t *index,
                                           uint64_t now_us)
{
    struct http_exchange *found = NULL;
    pthread_mutex_lock(&server->mutex);
    for (; *index < server->n_slots && found == NULL; ++*index) {
        struct http_exchange *exchange = server->slots[*index].exchange;
        if (exchange != NULL &&
            (now_us >= atomic_load(&exchange->due_us) || atomic_load(&exchange->ends)))
            found = http_exchange_acquire(exchange);
    }
    pthread_mutex_unlock(&server->mutex);
    return found;
}

/* Answers those whose bodies stand still, and ends their connections. */
static void sweep_bodies(struct http_server *server)
{
    static const char why[] = "nothing more of the request body came";
    struct http_exchange *exchange;
    uint32_t index = 0;
    if (sl_real_us() < server->sweep_us)
        return;
    server->sweep_us = sl_real_us() + SWEEP_US;
    uint64_t now_us = sl_now_us();
    while ((exchange = find_standing(server, &index, now_us)) != NULL) {
        pthread_mutex_lock(&exchange->mutex);
        bool reads = exchange->phase == PHASE_BODY && !exchange->gone;
        bool stalled = reads && now_us >= atomic_load(&exchange->due_us);
        if (stalled) {
            answer_raw(server, exchange, 408, why);
            exchange->gone = true;
            cut(exchange);
        } else if (reads && atomic_load(&exchange->ends)) {
            end_body(exchange);
        }
        pthread_mutex_unlock(&exchange->mutex);
        if (stalled)
            tell_refused(server, 408, why);
        http_exchange_release(exchange);
    }
}

static void watch_run(void *arg)
{
    struct http_server *server = arg;
    struct epoll_event events[WATCH_EVENTS_MAX];
    while (!atomic_load(&server->stopping)) {
        int n = epoll_wait(server->watch_fd, events, WATCH_EVENTS_MAX, 100);
        for (int i = 0; i < n; i++) {
            if (events[i].data.u64 & HTTP_LINGER_TAG)
                http_lingers_read(&server->lingers, events[i].data.u64);
            else
                watch_client(server, events[i].data.u64, events[i].events);
        }
        http_lingers_sweep(&server->lingers);
        sweep_bodies(server);
    }
}

/* ---- libmicrohttpd's callbacks ---- */

static void set_timeout(struct MHD_Connection *connection, uint32_t seconds)
{
    if (MHD_set_connection_option(connection, MHD_CONNECTION_OPTION_TIMEOUT, seconds) != MHD_YES)
        sl_warn("http_timeout", "seconds=%u", seconds);
}

static void on_connection(void *arg, struct MHD_Connection *connection, void **context,
                          enum MHD_ConnectionNotificationCode code)
{
    (void)context;
    const struct http_server *server = arg;
    if (code == MHD_CONNECTION_NOTIFY_STARTED)
        set_timeout(connection, server->stall_seconds);
}

static void *on_request_line(void *arg, const char *uri, struct MHD_Connection *connection)
{
    (void)uri;
    const struct http_server *server = arg;
    set_timeout(connection, server->stall_seconds);
    return NULL; /* no exchange yet */
}

static enum MHD_Result begin(struct http_server *server, struct MHD_Connection *connection,
                             const char *url, const char *method, const char *version,
                             void **context)
{
    const char *why = NULL, *allow = NULL;
    const struct http_route *route = NULL;
    char text[HTTP_GUARD_TEXT_BYTES];
    struct http_guard_page page;
    set_timeout(connection, IDLE_SECONDS);
    unsigned forbidden = http_guard_page(&server->guard, connection, method, &page, text);
    unsigned status = http_guard_head(&server->guard, connection, url, &why);
    if (status != 0)
        return refuse(server, connection, status, why, NULL, page.origin);
    if (forbidden != 0)
        return refuse(server, connection, forbidden, text, NULL, "");
    if (page.preflight)
        return allow_page(connection, page.origin);
    status = http_guard_route(&server->guard, url, method, &route, &allow, text);
    if (status != 0)
        return refuse(server, connection, status, text, allow, page.origin);
    struct http_exchange *exchange = exchange_create(server, connection, route->id);
    (void)snprintf(exchange->rest, sizeof(exchange->rest), "%s", url + strcspn(route->path, "*"));
    (void)snprintf(exchange->origin, sizeof(exchange->origin), "%s", page.origin);
    exchange->old = strcmp(version, MHD_HTTP_VERSION_1_0) == 0;
    if (!watch(server, exchange)) {
        http_exchange_release(exchange);
        return refuse(server, connection, 503, "too many requests are open", NULL, page.origin);
    }
    *context = exchange;
    return MHD_YES;
}

static enum MHD_Result read_body(struct http_server *server, struct http_exchange *exchange,
                                 const char *data, size_t *bytes)
{
    if (*bytes > server->guard.body_bytes_max - exchange->body.bytes)
        return refuse_raw(server, exchange, 413,
                          "the request body is longer than this server takes");
    if (sl_now_us() - exchange->start_us > BODY_US)
        return refuse_raw(server, exchange, 408, "the request body took longer than 60 s");
    pthread_mutex_lock(&exchange->mutex);
    sl_buf_add(&exchange->body, data, *bytes);
    bool fits = charge(exchange);
    atomic_store(&exchange->due_us, sl_now_us() + server->stall_seconds * SL_SECOND_US);
    pthread_mutex_unlock(&exchange->mutex);
    if (exchange->body.failed)
        return refuse_raw(server, exchange, 503, "no memory for the request body");
    if (!fits)
        return refuse_raw(server, exchange, 429,
                          "this server holds as many bytes of requests and answers as it may; try "
                          "again later");
    *bytes = 0;
    return MHD_YES;
}

static enum MHD_Result on_access(void *arg, struct MHD_Connection *connection, const char *url,
                                 const char *method, const char *version, const char *data,
                                 size_t *bytes, void **context)
{
    struct http_server *server = arg;
    struct http_exchange *exchange = *context;
    if (exchange == NULL)
        return begin(server, connection, url, method, version, context);
    if (*bytes > 0)
        return read_body(server, exchange, data, bytes);
    if (!exchange->delivered) {
        exchange->delivered = true;
        atomic_fetch_add(&server->n_delivered, 1);
        pthread_mutex_lock(&exchange->mutex);
        bool gone = exchange->gone;
        exchange->phase = PHASE_WAITING;
        atomic_store(&exchange->due_us, UINT64_MAX);
        atomic_store(&exchange->ends, false);
        pthread_mutex_unlock(&exchange->mutex);
        if (gone)
            return MHD_NO;
        server->handler.request(server->handler.arg, exchange);
        /* Called again at once. Suspended in its first call, a connection would read when it is resumed,
         * and take the end of a half-closed client's bytes for the end of the client. */
        return MHD_YES;
    }
    return answer_or_wait(exchange);
}

static void on_completed(void *arg, struct MHD_Connection *connection, void **context,
                         enum MHD_RequestTerminationCode why)
{
    (void)connection;
    struct http_server *server = arg;
    struct http_exchange *exchange = *context;
    if (exchange == NULL)
        return;
    *context = NULL;
    unwatch(server, exchange);
    if (exchange->delivered)
        atomic_fetch_sub(&server->n_delivered, 1);
    if (why != MHD_REQUEST_TERMINATED_COMPLETED_OK)
        tell_gone(server, exchange);
    pthread_mutex_lock(&exchange->mutex);
    exchange->phase = PHASE_CLOSED;
    exchange->connection = NULL;
    exchange->server = NULL;
    atomic_fetch_sub(&server->held, exchange->charged);
    pthread_mutex_unlock(&exchange->mutex);
    http_exchange_release(exchange);
}

__attribute__((format(printf, 2, 0))) static void on_log(void *arg, const char *fmt, va_list args)
{
    (void)arg;
    char text[256];
    vsnprintf(text, sizeof(text), fmt, args);
    text[strcspn(text, "\r\n")] = '\0';
    sl_debug("http_library", "text=\"%s\"", text);
}

/* ---- the server ---- */

static sl_status resolve(const char *listen, struct sockaddr_storage *address_out)
{
    char host[SL_HOST_BYTES], service[8];
    uint16_t port;
    sl_status status = sl_address_parse("--listen", listen, host, &port);
    if (status != SL_OK)
        return status;
    (void)snprintf(service, sizeof(service), "%u", port);
    struct addrinfo hints = {.ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    int error = getaddrinfo(host, service, &hints, &found);
    if (error != 0)
        return sl_fail(SL_INVALID, "--listen: \"%s\": %s", listen, gai_strerror(error));
    memcpy(address_out, found->ai_addr, found->ai_addrlen);
    freeaddrinfo(found);
    return SL_OK;
}

static bool is_loopback(const struct sockaddr_storage *address)
{
    const struct sockaddr_in *v4 = (const void *)address;
    const struct sockaddr_in6 *v6 = (const void *)address;
    return address->ss_family == AF_INET ? ntohl(v4->sin_addr.s_addr) >> 24 == 127
                                         : IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr) != 0;
}

static sl_status start_daemon(struct http_server *server, const struct http_args *args)
{
    struct sockaddr_storage address = {0};
    sl_status status = resolve(args->listen, &address);
    if (status != SL_OK)
        return status;
    server->guard.loopback = is_loopback(&address);
    unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG;
    if (address.ss_family == AF_INET6)
        flags |= MHD_USE_IPv6;
    struct MHD_OptionItem options[] = {
        {MHD_OPTION_EXTERNAL_LOGGER, (intptr_t)on_log, NULL},
        {MHD_OPTION_SOCK_ADDR, 0, &address},
        {MHD_OPTION_CONNECTION_LIMIT, (intptr_t)args->connections_max, NULL},
        {MHD_OPTION_CONNECTION_MEMORY_LIMIT, (intptr_t)POOL_BYTES, NULL},
        {MHD_OPTION_CONNECTION_TIMEOUT, IDLE_SECONDS, NULL},
        {MHD_OPTION_NOTIFY_COMPLETED, (intptr_t)on_completed, server},
        {MHD_OPTION_NOTIFY_CONNECTION, (intptr_t)on_connection, server},
        {MHD_OPTION_URI_LOG_CALLBACK, (intptr_t)on_request_line, server},
        {MHD_OPTION_LISTEN_BACKLOG_SIZE, 1024, NULL},
        {MHD_OPTION_STRICT_FOR_CLIENT, 1, NULL},
        {args->threads > 1 ? MHD_OPTION_THREAD_POOL_SIZE : MHD_OPTION_END, (intptr_t)args->threads,
         NULL},
        {MHD_OPTION_END, 0, NULL}};
    server->daemon = MHD_start_daemon(flags, 0, NULL, NULL, on_access, server, MHD_OPTION_ARRAY,
                                      options, MHD_OPTION_END);
    if (server->daemon == NULL)
        return sl_fail(SL_DEVICE, "--listen: cannot listen on %s: %s", args->listen,
                       strerror(errno));
    const union MHD_DaemonInfo *info =
        MHD_get_daemon_info(server->daemon, MHD_DAEMON_INFO_BIND_PORT);
    server->port = info != NULL ? info->port : 0;
    return SL_OK;
}

static sl_status create_slots(struct http_server *server, uint32_t n_slots)
{
    server->slots = sl_try_zalloc(n_slots, sizeof(*server->slots));
    server->free_slots = sl_try_zalloc(n_slots, sizeof(*server->free_slots));
    if (server->slots == NULL || server->free_slots == NULL)
        return sl_fail(SL_NO_MEMORY, "http server: %u connections", n_slots);
    server->n_slots = n_slots;
    for (uint32_t i = 0; i < n_slots; i++)
        server->free_slots[i] = n_slots - 1 - i;
    server->n_free = n_slots;
    return SL_OK;
}

sl_status http_server_start(const struct http_args *args, struct http_server **server_out)
{
    if (args->threads == 0 || args->threads > 64 || args->connections_max < args->threads ||
        args->connections_max > HTTP_CONNECTIONS_MAX)
        return sl_fail(SL_INVALID,
                       "http server with %u threads and %u connections; want 1..64 "
                       "and up to %u, at least one for each thread",
                       args->threads, args->connections_max, HTTP_CONNECTIONS_MAX);
    if (args->stall_seconds == 0 || args->stall_seconds > 60)
        return sl_fail(SL_INVALID, "http server that waits %u s for a request; want 1..60",
                       args->stall_seconds);
    struct http_server *server = sl_zalloc(1, sizeof(*server));
    server->handler = args->handler;
    server->guard = (struct http_guard){
        .routes = args->routes, .n_routes = args->n_routes, .body_bytes_max = args->body_bytes_max};
    server->held_bytes_max = args->held_bytes_max;
    server->stall_seconds = args->stall_seconds;
    pthread_mutex_init(&server->mutex, NULL);
    server->watch_fd = epoll_create1(EPOLL_CLOEXEC);
    http_lingers_init(&server->lingers, server->watch_fd);
    sl_status status = create_slots(server, args->connections_max);
    if (status == SL_OK)
        status = origins_create(args->allow_origin, &server->origins);
    if (status != SL_OK)
        goto fail;
    server->guard.origins = server->origins;
    if (server->watch_fd < 0) {
        status = sl_fail(SL_DEVICE, "epoll_create1: %s", strerror(errno));
        goto fail;
    }
    status = sl_thread_start(&server->watcher, "http-watch", watch_run, server);
    if (status != SL_OK)
        goto fail;
    status = start_daemon(server, args);
    if (status != SL_OK)
        goto fail;
    *server_out = server;
    return SL_OK;
fail:
    http_server_stop(server);
    return status;
}

uint16_t http_server_port(const struct http_server *server)
{
    return server->port;
}

size_t http_server_held(struct http_server *server)
{
    return atomic_load(&server->held);
}

uint32_t http_server_open(struct http_server *server)
{
    return atomic_load(&server->n_delivered);
}

/* Cuts every open exchange: the library must find none suspended. */
static void abort_all(struct http_server *server)
{
    for (uint32_t i = 0; i < server->n_slots; i++) {
        pthread_mutex_lock(&server->mutex);
        struct http_exchange *exchange = server->slots[i].exchange;
        if (exchange != NULL)
            http_exchange_acquire(exchange);
        pthread_mutex_unlock(&server->mutex);
        if (exchange == NULL)
            continue;
        http_abort(exchange);
        http_exchange_release(exchange);
    }
}

void http_server_stop(struct http_server *server)
{
    if (server == NULL)
        return;
    if (server->daemon != NULL) {
        MHD_socket fd = MHD_quiesce_daemon(server->daemon);
        pthread_mutex_lock(&server->mutex);
        server->closing = true;
        pthread_mutex_unlock(&server->mutex);
        abort_all(server);
        MHD_stop_daemon(server->daemon);
        if (fd != MHD_INVALID_SOCKET)
            close(fd);
    }
    atomic_store(&server->stopping, true);
    sl_thread_join(&server->watcher);
    http_lingers_fini(&server->lingers);
    if (server->watch_fd >= 0)
        close(server->watch_fd);
    pthread_mutex_destroy(&server->mutex);
    origins_destroy(server->origins);
    sl_free(server->slots);
    sl_free(server->free_slots);
    sl_free(server);
}

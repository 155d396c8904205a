/* The HTTP server: moves bytes and guards the framing, and knows nothing of completions.
 *
 * A whole, well-formed request becomes an exchange, which is answered now or later, from any thread:
 * at once (http_reply), or as a stream of events (http_stream_begin, _write, _end). A client that
 * leaves is noticed while its connection waits, within milliseconds. What the guards refuse never
 * reaches the handler. */
#ifndef SL_COORDINATOR_HTTP_H
#define SL_COORDINATOR_HTTP_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HTTP_HEADER_BYTES_MAX  (32u << 10) /* beyond: 431 */
#define HTTP_HEADER_FIELDS_MAX 100u
#define HTTP_REPLY_BYTES_MAX   (64u << 20) /* of a whole answer */
#define HTTP_STREAM_BYTES_MAX  (4u << 20)  /* unsent bytes of a stream; with more it is cut */
#define HTTP_STREAM_SHARE                                                                          \
    (256u << 10) /* of them, those it may have while the server holds too much */
#define HTTP_CONNECTIONS_MAX   65536u
#define HTTP_ADDED_HEADERS_MAX 8u
#define HTTP_HEADER_VALUE_MAX  512u
#define HTTP_REST_BYTES        128

struct http_server;
struct http_exchange; /* one request and its answer; counted by reference */

struct http_route {
    const char *method; /* "GET" (HEAD too), "POST" */
    const char *path;   /* its last character may be a star, for whatever follows */
    uint32_t id;        /* the user's number for it */
};

/* The calls hold no lock. request: on an HTTP thread, must not block; the exchange is borrowed,
 * acquire it to answer later. gone: at most once, on the server's watcher or an HTTP thread, when the client left
 * before the answer was complete; the connection ends by itself. refused (may be NULL): what the guards answered
 * themselves, by the code in the error object; on an HTTP thread. */
struct http_handler {
    void (*request)(void *arg, struct http_exchange *exchange);
    void (*gone)(void *arg, struct http_exchange *exchange);
    void *arg;
    void (*refused)(void *arg, const char *code);
};

struct http_args {
    const char *listen;              /* "host:port"; port 0 takes a free one */
    const struct http_route *routes; /* borrowed for the server's life */
    uint32_t n_routes;
    struct http_handler handler;
    const char *allow_origin; /* pages of others that may talk to it: origin.h; NULL: none */
    uint32_t threads;         /* 1..64 */
    uint32_t stall_seconds;   /* a request of which nothing comes for so long is given up: 1..60 */
    uint32_t connections_max; /* 1..HTTP_CONNECTIONS_MAX; further ones wait in the backlog */
    size_t body_bytes_max;    /* beyond: 413 */
    size_t held_bytes_max;    /* http_server_held: beyond, further bodies get 429 */
};

/* SL_INVALID listen, or a bound; SL_DEVICE the port is taken. */
sl_status http_server_start(const struct http_args *args,
                            struct http_server **server_out) SL_MUST_USE;
uint16_t http_server_port(const struct http_server *server);
/* Cuts what is open, joins the threads. Exchanges that others hold may be answered in vain after.
 * NULL is fine. */
void http_server_stop(struct http_server *server);
/* Requests that were read whole and are not fully answered. */
uint32_t http_server_open(struct http_server *server);

/* Bytes of bodies and answers, of all exchanges: received, made, not yet sent. What passes the limit is at most
 * the answers that are whole, and HTTP_STREAM_SHARE of each stream. */
size_t http_server_held(struct http_server *server);

struct http_exchange *http_exchange_acquire(struct http_exchange *exchange);
void http_exchange_release(struct http_exchange *exchange);
/* Constant while the exchange lives. */
uint32_t http_exchange_route(const struct http_exchange *exchange);
/* Of the request's path, what stands for the route's star, cut to HTTP_REST_BYTES: any bytes. */
const char *http_exchange_rest(const struct http_exchange *exchange);
const char *http_exchange_body(const struct http_exchange *exchange, size_t *bytes_out);
/* sl_now_us() when the request's head had arrived. */
uint64_t http_exchange_start_us(const struct http_exchange *exchange);
/* Frees the body early (it is not needed once parsed). Only before anybody else may look at it. */
void http_exchange_drop_body(struct http_exchange *exchange);
/* Counts what the handler keeps for the answer, until that is given; 0: nothing more. False: the server holds
 * more than it may, and the handler should let go. */
bool http_exchange_hold(struct http_exchange *exchange, size_t bytes);
/* True once the client is known to have left. */
bool http_exchange_is_gone(struct http_exchange *exchange);
/* A slot for whoever handles the request; set before others can see the exchange. */
void http_exchange_set_user(struct http_exchange *exchange, uint64_t user);
uint64_t http_exchange_user(struct http_exchange *exchange);

/* One more header of the answer, before http_reply or http_stream_begin. The name is borrowed for good
 * (a literal), the value copied. False, and no such header: answered already, a ninth one, or a value
 * that is longer than HTTP_HEADER_VALUE_MAX or has control characters. */
bool http_add_header(struct http_exchange *exchange, const char *name, const char *value);
#define HTTP_JSON "application/json"

/* The whole answer, copied. retry_after_s 0: no such header. The first answer counts, later ones
 * are dropped. */
void http_reply(struct http_exchange *exchange, int http_status, const char *content_type,
                const char *body, size_t bytes, uint32_t retry_after_s);
/* 200 and text/event-stream. False: answered already, or gone. */
bool http_stream_begin(struct http_exchange *exchange);
/* Copies. False when the client is gone, or has not read HTTP_STREAM_BYTES_MAX and more of what was written
 * before, not counting the longest write, which may be any: it is cut then. */
bool http_stream_write(struct http_exchange *exchange, const char *bytes, size_t n);
/* The end of the stream, when all is sent. */
void http_stream_end(struct http_exchange *exchange);
/* Ends the connection without finishing the answer. */
void http_abort(struct http_exchange *exchange);

#endif

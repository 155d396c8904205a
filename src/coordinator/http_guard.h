/* Guards of http.c, which look at a request's head. */
#ifndef SL_COORDINATOR_HTTP_GUARD_H
#define SL_COORDINATOR_HTTP_GUARD_H

#include "coordinator/http.h"
#include "coordinator/origin.h"

#include <microhttpd.h>
#include <stddef.h>
#include <stdint.h>

#define HTTP_GUARD_TEXT_BYTES 256

struct http_guard {
    const struct http_route *routes;
    uint32_t n_routes;
    size_t body_bytes_max;
    const struct origins *origins;
    bool loopback; /* only this machine reaches the server */
};

/* Of the page that sends the request, as the browser says; "": of none, or of one that need not be told. */
struct http_guard_page {
    char origin[ORIGIN_BYTES_MAX];
    bool preflight; /* it asks whether it may */
};

/* 0, or the status of the refusal and its sentence. */
unsigned http_guard_head(const struct http_guard *guard, struct MHD_Connection *connection,
                         const char *url, const char **why_out);
/* 0 and the page, or 403 and the sentence: a page that may not talk to this server. */
unsigned http_guard_page(const struct http_guard *guard, struct MHD_Connection *connection,
                         const char *method, struct http_guard_page *page_out,
                         char text[HTTP_GUARD_TEXT_BYTES]);
/* 0 and the route; or the status of the refusal (404, 405), its sentence, and with 405 the methods. */
unsigned http_guard_route(const struct http_guard *guard, const char *url, const char *method,
                          const struct http_route **route_out, const char **allow_out,
                          char text[HTTP_GUARD_TEXT_BYTES]);

#endif

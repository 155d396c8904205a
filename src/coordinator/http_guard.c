/* What of a request's head is refused before its body is read: framing that could be understood in two ways,
 * too much of anything, pages of others (origin.h), paths and methods that are not there. Nothing here is kept,
 * and nothing of a client's is repeated that would need escaping. Any HTTP thread. */
#include "coordinator/http_guard.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define SHOWN_BYTES 104 /* of a path that is not there */

struct head {
    uint32_t fields;
    size_t bytes;
    uint32_t hosts, lengths, encodings;
    bool bad_name;
    const char *length;
    const char *encoding;
};

static bool is_token(const char *name, size_t bytes)
{
    if (bytes == 0)
        return false;
    for (size_t i = 0; i < bytes; i++) {
        unsigned char c = (unsigned char)name[i];
        if (c <= ' ' || c >= 127 || strchr("\"(),/:;<=>?@[\\]{}", c) != NULL)
            return false;
    }
    return true;
}

static enum MHD_Result count_field(void *arg, enum MHD_ValueKind kind, const char *key,
                                   size_t key_bytes, const char *value, size_t value_bytes)
{
    (void)kind;
    struct head *head = arg;
    head->fields++;
    head->bytes += key_bytes + value_bytes + 4;
    head->bad_name |= !is_token(key, key_bytes);
    if (strcasecmp(key, "Host") == 0) {
        head->hosts++;
    } else if (strcasecmp(key, "Content-Length") == 0) {
        head->lengths++;
        head->length = value;
    } else if (strcasecmp(key, "Transfer-Encoding") == 0) {
        head->encodings++;
        head->encoding = value;
    }
    return MHD_YES;
}

unsigned http_guard_head(const struct http_guard *guard, struct MHD_Connection *connection,
                         const char *url, const char **why_out)
{
    struct head head = {0};
    MHD_get_connection_values_n(connection, MHD_HEADER_KIND, count_field, &head);
    head.bytes += strlen(url);
    if (head.fields > HTTP_HEADER_FIELDS_MAX || head.bytes > HTTP_HEADER_BYTES_MAX) {
        *why_out = "the request's headers are over 32768 bytes or 100 fields";
        return 431;
    }
    if (head.bad_name) {
        *why_out = "a header's name has characters that names cannot have";
        return 400;
    }
    if (head.hosts > 1) {
        *why_out = "more than one Host header";
        return 400;
    }
    if (head.encodings > 0 && head.lengths > 0) {
        *why_out = "both Content-Length and Transfer-Encoding";
        return 400;
    }
    if (head.lengths > 1 || head.encodings > 1) {
        *why_out = head.lengths > 1 ? "more than one Content-Length header"
                                    : "more than one Transfer-Encoding header";
        return 400;
    }
    if (head.encodings == 1 && strcasecmp(head.encoding, "chunked") != 0) {
        *why_out = "a Transfer-Encoding other than chunked";
        return 501;
    }
    if (head.lengths == 1 && strtoull(head.length, NULL, 10) > guard->body_bytes_max) {
        *why_out = "the request body is longer than this server takes";
        return 413;
    }
    return 0;
}

static bool method_fits(const struct http_route *route, const char *method)
{
    return strcmp(route->method, method) == 0 ||
           (strcmp(route->method, "GET") == 0 && strcmp(method, "HEAD") == 0);
}

/* The path is the route's, or beneath it where the route's ends in a star. */
static bool path_fits(const char *path, const char *url)
{
    size_t n = strcspn(path, "*");
    return path[n] == '*' ? strncmp(path, url, n) == 0 && url[n] != '\0' : strcmp(path, url) == 0;
}

/* 0 and the route, or the status of the refusal. */
static unsigned find_route(const struct http_guard *guard, const char *url, const char *method,
                           const struct http_route **route_out, const char **allow_out)
{
    *allow_out = NULL;
    for (uint32_t i = 0; i < guard->n_routes; i++) {
        const struct http_route *route = &guard->routes[i];
        if (!path_fits(route->path, url))
            continue;
        if (method_fits(route, method)) {
            *route_out = route;
            return 0;
        }
        *allow_out = strcmp(route->method, "GET") == 0 ? "GET, HEAD" : "POST";
    }
    return *allow_out != NULL ? 405 : 404;
}

/* The path that was meant, where /v1 was left out or given twice; NULL: none. */
static const char *near_path(const struct http_guard *guard, const char *url)
{
    size_t n = strlen(url);
    for (uint32_t i = 0; i < guard->n_routes; i++) {
        const char *path = guard->routes[i].path;
        size_t m = strlen(path);
        if (m > 1 && strcmp(m > n ? path + (m - n) : path, n > m ? url + (n - m) : url) == 0)
            return path;
    }
    return NULL;
}

/* The path as far as it needs no escaping, and fits; three points stand for more. */
static void show(const char *url, char out[SHOWN_BYTES])
{
    static const char plain[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/_-.:";
    size_t n = strspn(url, plain);
    n = n < SHOWN_BYTES - 4 ? n : SHOWN_BYTES - 4;
    (void)snprintf(out, SHOWN_BYTES, "%.*s%s", (int)n, url, url[n] != '\0' ? "..." : "");
}

unsigned http_guard_page(const struct http_guard *guard, struct MHD_Connection *connection,
                         const char *method, struct http_guard_page *page_out,
                         char text[HTTP_GUARD_TEXT_BYTES])
{
    char shown[SHOWN_BYTES];
    const char *host = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Host");
    const char *origin = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Origin");
    enum origin whose = origins_judge(guard->origins, origin, host);
    *page_out = (struct http_guard_page){.preflight = false};
    if (guard->loopback && !origins_know_host(guard->origins, host)) {
        show(host, shown);
        (void)snprintf(
            text, HTTP_GUARD_TEXT_BYTES,
            "Host %s is no name of this machine; --allow-origin http://HOST makes it one", shown);
        return 403;
    }
    if (whose == ORIGIN_FOREIGN) {
        show(origin, shown);
        (void)snprintf(text, HTTP_GUARD_TEXT_BYTES,
                       "pages of %s may not talk to this server; --allow-origin says which may",
                       shown);
        return 403;
    }
    if (whose == ORIGIN_ALLOWED) {
        (void)snprintf(page_out->origin, sizeof(page_out->origin), "%s", origin);
        page_out->preflight = strcmp(method, "OPTIONS") == 0 &&
                              MHD_lookup_connection_value(connection, MHD_HEADER_KIND,
                                                          "Access-Control-Request-Method") != NULL;
    }
    return 0;
}

unsigned http_guard_route(const struct http_guard *guard, const char *url, const char *method,
                          const struct http_route **route_out, const char **allow_out,
                          char text[HTTP_GUARD_TEXT_BYTES])
{
    char shown[SHOWN_BYTES];
    unsigned status = find_route(guard, url, method, route_out, allow_out);
    if (status == 0)
        return 0;
    const char *near = near_path(guard, url);
    show(url, shown);
    if (*allow_out != NULL)
        (void)snprintf(text, HTTP_GUARD_TEXT_BYTES, "%s takes %s only", shown, *allow_out);
    else if (near != NULL)
        (void)snprintf(text, HTTP_GUARD_TEXT_BYTES, "there is no path %s; did you mean %s?", shown,
                       near);
    else
        (void)snprintf(text, HTTP_GUARD_TEXT_BYTES, "there is no path %s", shown);
    return status;
}

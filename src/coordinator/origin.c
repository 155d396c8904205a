/* A browser says in Origin whose page sends a request, and in Host what it believes to talk to; a page can set
 * neither. Programs send no Origin, so they are not asked anything.
 *
 *   foreign page, fetch() to 127.0.0.1     Origin is not Host: refused, though it could not read the answer
 *   foreign name made to lead to 127.0.0.1  Origin is Host: only the name gives it away
 *
 * An origin is SCHEME://HOST[:PORT]. The scheme is not compared with the server's: a proxy in front may speak TLS.
 * The port that a scheme implies may be left out. */
#include "coordinator/origin.h"

#include "base/mem.h"

#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

struct origins {
    bool any;
    uint32_t n;
    char *list[ORIGINS_MAX];
};

/* What follows the scheme; NULL: it has none that browsers have pages of. */
static const char *authority_of(const char *origin)
{
    if (strncasecmp(origin, "http://", 7) == 0)
        return origin + 7;
    return strncasecmp(origin, "https://", 8) == 0 ? origin + 8 : NULL;
}

/* Bytes of HOST[:PORT] in front of the port that the scheme implies. */
static size_t bytes_of(const char *authority, const char *port)
{
    size_t n = strlen(authority), m = strlen(port);
    return n > m && strcmp(authority + n - m, port) == 0 ? n - m : n;
}

/* `origin` says the scheme of both. */
static bool same_authority(const char *origin, const char *a, const char *b)
{
    const char *port = strncasecmp(origin, "https", 5) == 0 ? ":443" : ":80";
    size_t n = bytes_of(a, port);
    return n == bytes_of(b, port) && strncasecmp(a, b, n) == 0;
}

/* Bytes of the host in HOST[:PORT], brackets included; 0: the text is something else. */
static size_t host_bytes(const char *authority)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._";
    static const char digits[] = "0123456789";
    size_t n = strspn(authority, plain);
    if (authority[0] == '[') {
        n = 1 + strspn(authority + 1, "0123456789abcdefABCDEF:.");
        if (authority[n++] != ']')
            return 0;
    }
    size_t port = authority[n] == ':' ? 1 + strspn(authority + n + 1, digits) : 0;
    return authority[n + port] == '\0' ? n : 0;
}

/* The same without the dot that may end every name: "localhost." is localhost. */
static size_t name_bytes(const char *authority)
{
    size_t n = host_bytes(authority);
    return n > 0 && authority[n - 1] == '.' ? n - 1 : n;
}

static bool is_origin(const char *text)
{
    const char *authority = authority_of(text);
    return authority != NULL && host_bytes(authority) > 0;
}

static sl_status add(struct origins *origins, const char *part, size_t n)
{
    char text[ORIGIN_BYTES_MAX];
    (void)snprintf(text, sizeof(text), "%.*s", (int)(n < sizeof(text) ? n : sizeof(text) - 1),
                   part);
    if (strcmp(text, "*") == 0) {
        origins->any = true;
        return SL_OK;
    }
    if (n >= sizeof(text) || !is_origin(text))
        return sl_fail(SL_INVALID,
                       "--allow-origin: \"%.60s\"; want * or origins like "
                       "https://chat.example.com, with commas between them",
                       text);
    if (origins->n == ORIGINS_MAX)
        return sl_fail(SL_INVALID, "--allow-origin: over %u origins", ORIGINS_MAX);
    origins->list[origins->n++] = sl_strdup(text);
    return SL_OK;
}

sl_status origins_create(const char *list, struct origins **origins_out)
{
    struct origins *origins = sl_zalloc(1, sizeof(*origins));
    for (const char *part = list; part != NULL && part[0] != '\0';) {
        size_t n = strcspn(part, ",");
        sl_status status = add(origins, part, n);
        if (status != SL_OK) {
            origins_destroy(origins);
            return status;
        }
        part += part[n] == ',' ? n + 1 : n;
    }
    *origins_out = origins;
    return SL_OK;
}

void origins_destroy(struct origins *origins)
{
    if (origins == NULL)
        return;
    for (uint32_t i = 0; i < origins->n; i++)
        sl_free(origins->list[i]);
    sl_free(origins);
}

enum origin origins_judge(const struct origins *origins, const char *origin, const char *host)
{
    if (origin == NULL)
        return ORIGIN_OWN;
    const char *authority = authority_of(origin);
    if (authority != NULL && host != NULL && same_authority(origin, authority, host))
        return ORIGIN_OWN;
    if (origins->any)
        return ORIGIN_ALLOWED;
    for (uint32_t i = 0; i < origins->n && authority != NULL; i++) {
        const char *allowed = authority_of(origins->list[i]);
        size_t scheme = (size_t)(allowed - origins->list[i]);
        if ((size_t)(authority - origin) == scheme && same_authority(origin, authority, allowed))
            return ORIGIN_ALLOWED;
    }
    return ORIGIN_FOREIGN;
}

/* No name service is asked about these. */
static bool is_address(const char *host)
{
    unsigned char bytes[16];
    size_t n = strlen(host);
    if (inet_pton(AF_INET, host, bytes) == 1)
        return true;
    char inside[ORIGIN_BYTES_MAX];
    if (n < 3 || host[0] != '[' || host[n - 1] != ']')
        return false;
    (void)snprintf(inside, sizeof(inside), "%.*s", (int)(n - 2), host + 1);
    return inet_pton(AF_INET6, inside, bytes) == 1;
}

/* Browsers know it and every name under it as loopback, without asking (RFC 6761). Of "ip6-localhost" and the like
 * only a machine's own table knows, where it has them: elsewhere somebody in the network may answer for them. */
static bool is_localhost(const char *host)
{
    static const char name[] = "localhost";
    size_t n = strlen(host), m = sizeof(name) - 1;
    return n >= m && strcasecmp(host + n - m, name) == 0 && (n == m || host[n - m - 1] == '.');
}

bool origins_know_host(const struct origins *origins, const char *host)
{
    char name[ORIGIN_BYTES_MAX];
    if (host == NULL || origins->any)
        return true;
    size_t n = name_bytes(host);
    if (n == 0 || n >= sizeof(name))
        return false;
    (void)snprintf(name, sizeof(name), "%.*s", (int)n, host);
    if (is_address(name) || is_localhost(name))
        return true;
    for (uint32_t i = 0; i < origins->n; i++) {
        const char *allowed = authority_of(origins->list[i]);
        if (name_bytes(allowed) == n && strncasecmp(allowed, name, n) == 0)
            return true;
    }
    return false;
}

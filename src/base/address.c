/* Addresses. A missing host is an error and not "any": who wants every interface says 0.0.0.0 or [::],
 * and does not get it by a slip. Numbers are read here because getaddrinfo cuts a port to 16 bits. Pure, but
 * for the interfaces. */
#include "base/address.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <ifaddrs.h>
#include <stdio.h>
#include <string.h>

#define PORT_MAX   65535u
#define DIGITS_MAX 5u

static bool parse_port(const char *text, uint16_t *port_out)
{
    uint32_t port = 0;
    size_t digits = strlen(text);
    if (digits == 0 || digits > DIGITS_MAX)
        return false;
    for (; *text != '\0'; text++) {
        if (*text < '0' || *text > '9')
            return false;
        port = port * 10 + (uint32_t)(*text - '0');
    }
    if (port > PORT_MAX)
        return false;
    *port_out = (uint16_t)port;
    return true;
}

/* What a name or an address may have; a slash is that of a URL. */
static bool is_host(const char *host, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isgraph((unsigned char)host[i]) || strchr("/\"'[]@", host[i]) != NULL)
            return false;
    return true;
}

sl_status sl_address_parse(const char *what, const char *text, char host_out[SL_HOST_BYTES],
                           uint16_t *port_out)
{
    char cut[SL_SHOWN_BYTES];
    const char *colon = text == NULL ? NULL : strrchr(text, ':');
    const char *shown = text == NULL ? "" : sl_shown(text, cut);
    if (colon == NULL || strstr(text, "://") != NULL)
        return sl_fail(SL_INVALID, "%s: \"%s\"; want HOST:PORT", what, shown);
    const char *host = text;
    size_t n = (size_t)(colon - text);
    if (n >= 2 && host[0] == '[' && host[n - 1] == ']') {
        host++;
        n -= 2;
    } else if (memchr(host, ':', n) != NULL) {
        return sl_fail(SL_INVALID, "%s: \"%s\"; an IPv6 address wants brackets: [::1]:80", what,
                       shown);
    }
    if (n == 0)
        return sl_fail(SL_INVALID, "%s: \"%s\"; the host is missing (0.0.0.0 for any address)",
                       what, shown);
    if (n >= SL_HOST_BYTES)
        return sl_fail(SL_INVALID, "%s: \"%s\"; host longer than %d bytes", what, shown,
                       SL_HOST_BYTES - 1);
    if (!is_host(host, n))
        return sl_fail(SL_INVALID, "%s: \"%s\"; the host is neither a name nor an address", what,
                       shown);
    if (!parse_port(colon + 1, port_out))
        return sl_fail(SL_INVALID, "%s: \"%s\"; port wants 0..%u", what, shown, PORT_MAX);
    memcpy(host_out, host, n);
    host_out[n] = '\0';
    return SL_OK;
}

void sl_address_format(const char *host, uint16_t port, char out[SL_ADDRESS_BYTES])
{
    bool v6 = strchr(host, ':') != NULL;
    (void)snprintf(out, SL_ADDRESS_BYTES, "%s%s%s:%u", v6 ? "[" : "", host, v6 ? "]" : "", port);
}

bool sl_address_is_any(const char *host)
{
    return strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0;
}

bool sl_address_is_host(const char *host, size_t bytes_max)
{
    struct in6_addr v6;
    size_t n = strlen(host);
    return n > 0 && n <= bytes_max && is_host(host, n) &&
           (strchr(host, ':') == NULL || inet_pton(AF_INET6, host, &v6) == 1);
}

sl_status sl_address_interface(const char *what, const char *text, char *name_out, size_t bytes)
{
    struct ifaddrs *all = NULL;
    name_out[0] = '\0';
    if (text == NULL || text[0] == '\0' || sl_address_is_any(text))
        return SL_OK;
    if (getifaddrs(&all) != 0)
        return sl_fail(SL_DEVICE, "getifaddrs: %s", strerror(errno));
    bool found = false;
    for (struct ifaddrs *i = all; i != NULL && !found; i = i->ifa_next) {
        char address[INET6_ADDRSTRLEN] = "";
        if (i->ifa_addr != NULL && i->ifa_addr->sa_family == AF_INET)
            inet_ntop(AF_INET, &((struct sockaddr_in *)(void *)i->ifa_addr)->sin_addr, address,
                      sizeof(address));
        else if (i->ifa_addr != NULL && i->ifa_addr->sa_family == AF_INET6)
            inet_ntop(AF_INET6, &((struct sockaddr_in6 *)(void *)i->ifa_addr)->sin6_addr, address,
                      sizeof(address));
        found = strcmp(i->ifa_name, text) == 0 || strcmp(address, text) == 0;
        if (found)
            (void)snprintf(name_out, bytes, "%s", i->ifa_name);
    }
    freeifaddrs(all);
    char cut[SL_SHOWN_BYTES];
    if (!found)
        return sl_fail(SL_INVALID, "%s: \"%s\"; no interface has this name or address", what,
                       sl_shown(text, cut));
    return SL_OK;
}

const char *sl_address_reach(const char *host)
{
    if (!sl_address_is_any(host))
        return host;
    return host[0] == ':' ? "::1" : "127.0.0.1";
}

/* --allow-origin, Origin and Host on any bytes: three lines. What the server takes for a page of its own, or for this
 * machine, is looked at again here, by plainer rules. */
#include "coordinator/origin.h"

#include <stdint.h>
#include <string.h>
#include <strings.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define LINE_BYTES 1000

/* The next line, cut. */
static const char *take_line(const uint8_t **data, size_t *size, char line[LINE_BYTES])
{
    size_t n = 0;
    for (; n < *size && (*data)[n] != '\n' && (*data)[n] != '\0'; n++)
        if (n < LINE_BYTES - 1)
            line[n] = (char)(*data)[n];
    line[n < LINE_BYTES - 1 ? n : LINE_BYTES - 1] = '\0';
    n += n < *size;
    *data += n;
    *size -= n;
    return line;
}

/* An address or localhost, and perhaps a port. A name that somebody can own ends in a label with a letter. */
static void check_name(const char *host)
{
    size_t n = host[0] == '[' ? strcspn(host, "]") + 1 : strcspn(host, ":");
    SL_ASSERT(host[n] == '\0' || host[n] == ':');
    SL_ASSERT(host[n] == '\0' || host[n + 1 + strspn(host + n + 1, "0123456789")] == '\0');
    if (host[0] == '[')
        return;
    size_t end = n - (host[n - 1] == '.');
    if (strspn(host, "0123456789.") == n)
        SL_ASSERT(end >= 7);
    else
        SL_ASSERT(end >= 9 && strncasecmp(host + end - 9, "localhost", 9) == 0 &&
                  (end == 9 || host[end - 10] == '.') && strcspn(host, "/@?#\\% \t") >= n);
}

static void check_own(const char *origin, const char *host)
{
    SL_ASSERT(strncasecmp(origin, "http://", 7) == 0 || strncasecmp(origin, "https://", 8) == 0);
    const char *authority = strstr(origin, "//") + 2;
    size_t n = strlen(authority), m = strlen(host), same = n < m ? n : m;
    SL_ASSERT(strncasecmp(authority, host, same) == 0);
    const char *rest = n < m ? host + same : authority + same;
    SL_ASSERT(rest[0] == '\0' || strcmp(rest, ":80") == 0 || strcmp(rest, ":443") == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char lines[3][LINE_BYTES];
    const char *list = take_line(&data, &size, lines[0]);
    const char *origin = take_line(&data, &size, lines[1]);
    const char *host = take_line(&data, &size, lines[2]);
    struct origins *none, *listed;
    SL_ASSERT(origins_create(NULL, &none) == SL_OK);
    enum origin whose = origins_judge(none, origin, host);
    bool known = origins_know_host(none, host);
    SL_ASSERT(whose != ORIGIN_ALLOWED);
    if (whose == ORIGIN_OWN)
        check_own(origin, host);
    if (known)
        check_name(host);
    if (origins_create(list, &listed) == SL_OK) {
        /* A list only adds. */
        SL_ASSERT((origins_judge(listed, origin, host) == ORIGIN_OWN) == (whose == ORIGIN_OWN));
        SL_ASSERT(!known || origins_know_host(listed, host));
        SL_ASSERT(origins_judge(listed, NULL, host) == ORIGIN_OWN);
        origins_destroy(listed);
    } else {
        SL_ASSERT(strstr(sl_error(), "--allow-origin: ") != NULL);
    }
    origins_destroy(none);
    return 0;
}

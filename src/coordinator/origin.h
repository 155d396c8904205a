/* Which web pages may talk to the server: one that listens on this machine is within reach of every page that
 * a browser on it shows. Pure. */
#ifndef SL_COORDINATOR_ORIGIN_H
#define SL_COORDINATOR_ORIGIN_H

#include "base/status.h"

#include <stdbool.h>

#define ORIGIN_BYTES_MAX 300u /* of one; longer ones are no origin of ours */
#define ORIGINS_MAX      64u

struct origins;

/* list: "https://chat.example.com,http://localhost:5173", or "*" for any page; NULL: none but the server's own.
 * SL_INVALID names the part that is no origin. */
sl_status origins_create(const char *list, struct origins **origins_out) SL_MUST_USE;
void origins_destroy(struct origins *origins); /* NULL is fine */

enum origin {
    ORIGIN_OWN,     /* no page, or one of this server's */
    ORIGIN_ALLOWED, /* of the list: its page may read the answers, too */
    ORIGIN_FOREIGN
};
/* From the headers of a request, NULL where there is none. */
enum origin origins_judge(const struct origins *origins, const char *origin, const char *host);
/* Whether a Host header may stand for this machine: an address, localhost or a name under it, or a host of the
 * list. Any other name may be an attacker's, which has come to lead here. */
bool origins_know_host(const struct origins *origins, const char *host);

#endif

/* Placements of requests and the messages that make them; the accounts of requests at the nodes. On the loop's
 * thread. */
#ifndef SL_COORDINATOR_DISPATCH_H
#define SL_COORDINATOR_DISPATCH_H

#include "coordinator/core.h"

enum dispatch_result {
    DISPATCH_PLACED,
    DISPATCH_WAIT,
    DISPATCH_NO_NODE,
    DISPATCH_TOO_LARGE,
    DISPATCH_INVALID, /* no node would read it; sl_error() says why */
};
/* place false: only where it takes no place of one that generates. */
enum dispatch_result dispatch_place(struct coordinator *c, struct request *request, bool place,
                                    uint64_t now_us);
/* How long the request has been waiting for its first place, or waited. */
uint64_t dispatch_waited_us(const struct group *group, uint64_t now_us);
/* Some node takes one more request to generate. */
bool dispatch_has_place(const struct coordinator *c);
/* False: no D that could take it. */
bool dispatch_redirect(struct coordinator *c, struct request *request, uint64_t now_us);
/* Only to a D that the request has not failed at. */
bool dispatch_redirect_fresh(struct coordinator *c, struct request *request, uint64_t now_us);
/* Cancel to whoever is in the placement, except `not`; ends the accounts. */
void dispatch_cancel(struct coordinator *c, struct request *request, flow_node not,
                     Sluice__Reason reason);
void dispatch_release(struct coordinator *c, struct request *request);
void dispatch_cancel_stray(struct coordinator *c, struct registry_node *node, uint64_t request,
                           uint32_t attempt);
/* The accounts at the nodes. */
void accounts_first_token(struct coordinator *c, struct request *request);
void accounts_admitted(struct coordinator *c, struct request *request);
void accounts_close(struct coordinator *c, struct request *request);

#endif

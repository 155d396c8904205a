/* Admission: the bound on requests that have no promise of blocks yet, in requests and in tokens,
 * and when a refused client should come back. Pure; one thread. */
#ifndef SL_COORDINATOR_ADMISSION_H
#define SL_COORDINATOR_ADMISSION_H

#include <stdbool.h>
#include <stdint.h>

struct admission {
    uint32_t requests_max;
    uint64_t tokens_max;
    uint32_t requests;
    uint64_t tokens;
    double per_second; /* admitted lately, fading */
    uint64_t last_us;
};

/* So many requests of one client, all or none. False when a bound would be passed; an empty queue takes any
 * tokens. */
bool admission_enter(struct admission *admission, uint32_t n_requests, uint64_t n_tokens);
/* It left the queue: admitted (counts for the rate), or not. */
void admission_leave(struct admission *admission, uint32_t n_tokens, bool admitted,
                     uint64_t now_us);
/* The queue for the router, gone through from its head whenever something has changed. */
struct admission_pass {
    bool place;        /* some node takes one more to generate: what most requests need */
    uint32_t n_passed; /* stood before, and were not placed */
    uint32_t n_missed; /* of them were routed in vain */
};
/* One was routed in vain, that has waited for waited_us of the wait_us it may. Once that is a part of its time
 * there is no place for those behind it, so that the next one is its own. Whether to go on. */
bool admission_missed(struct admission_pass *pass, uint64_t waited_us, uint64_t wait_us);

/* Seconds until the present queue should have been worked off: 1..60. */
uint32_t admission_retry_after_s(const struct admission *admission);

#endif

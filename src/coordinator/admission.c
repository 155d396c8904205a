/* Admission: two counters and a rate. The rate fades with a time constant of RATE_US, fed at each
 * departure; with none known yet, one request a second is assumed. Called by the loop only. */
#include "coordinator/admission.h"

#include "base/clock.h"
#include "base/status.h"

#define RATE_US     (10.0 * SL_SECOND_US)
#define RETRY_S_MAX 60
#define PATIENCE    4u  /* the part of its wait, 1/4, for which a request is overtaken */
#define MISSES_MAX  64u /* routed in vain in one pass */

bool admission_enter(struct admission *admission, uint32_t n_requests, uint64_t n_tokens)
{
    if (n_requests > admission->requests_max ||
        admission->requests > admission->requests_max - n_requests)
        return false;
    if (admission->requests > 0 && admission->tokens + n_tokens > admission->tokens_max)
        return false;
    admission->requests += n_requests;
    admission->tokens += n_tokens;
    return true;
}

void admission_leave(struct admission *admission, uint32_t n_tokens, bool admitted, uint64_t now_us)
{
    SL_ASSERT(admission->requests > 0 && admission->tokens >= n_tokens);
    admission->requests--;
    admission->tokens -= n_tokens;
    if (!admitted)
        return;
    double elapsed = (double)(now_us - admission->last_us);
    double keep = elapsed >= RATE_US ? 0 : 1 - elapsed / RATE_US;
    admission->per_second = admission->per_second * keep + 1.0 / (RATE_US / SL_SECOND_US);
    admission->last_us = now_us;
}

bool admission_missed(struct admission_pass *pass, uint64_t waited_us, uint64_t wait_us)
{
    pass->n_passed++;
    pass->place = pass->place && waited_us < wait_us / PATIENCE;
    return ++pass->n_missed < MISSES_MAX;
}

uint32_t admission_retry_after_s(const struct admission *admission)
{
    double rate = admission->per_second > 0.1 ? admission->per_second : 1;
    double seconds = admission->requests / rate;
    return seconds < 1 ? 1 : seconds > RETRY_S_MAX ? RETRY_S_MAX : (uint32_t)seconds;
}

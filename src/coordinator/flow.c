/* Placements of one request.
 *
 * Invariants:
 *   - A token is accepted if its attempt is current, its sender is placed in it, and its index is the
 *     next one. Lower indices are repeats (D's first message repeats P's token), a higher one is a
 *     gap, which is our bug: a new attempt closes it.
 *   - Every placement has a number of its own, so whatever an older one still sends is recognised.
 *   - A redirect needs a P that lives and holds, and a D that has not started; after
 *     FLOW_REDIRECTS_MAX in a row it is a full new attempt.
 *   - Refusals for want of room (FULL) and drains are no failures; losses and errors are, and
 *     FLOW_FAILURES_MAX of them end the request.
 *
 * Nothing here reads a clock or sends: the coordinator's loop does, on the step returned. */
#include "coordinator/flow.h"

#include "base/status.h"

#include <string.h>

uint32_t flow_place(struct flow *flow, enum flow_mode mode, flow_node p, flow_node d)
{
    SL_ASSERT(flow->mode == FLOW_UNPLACED && mode != FLOW_UNPLACED);
    flow->mode = mode;
    flow->attempt++;
    flow->redirects = 0;
    flow->p = p;
    flow->d = d;
    flow->p_holds = mode == FLOW_PAIR; /* the rest is as flow_unplace leaves it */
    return flow->attempt;
}

uint32_t flow_redirect(struct flow *flow, flow_node d)
{
    SL_ASSERT(flow->mode == FLOW_PAIR && flow->p != 0);
    flow->attempt++;
    flow->redirects++;
    flow->d = d; /* none of the old one's tokens was taken: d_started is false */
    flow->admitted = false;
    return flow->attempt;
}

void flow_unplace(struct flow *flow)
{
    flow->mode = FLOW_UNPLACED;
    flow->p = flow->d = 0;
    flow->p_holds = flow->admitted = flow->d_started = false;
}

bool flow_may_retry(const struct flow *flow)
{
    return flow->failures < FLOW_FAILURES_MAX;
}

bool flow_avoids(const struct flow *flow, flow_node node)
{
    for (uint32_t i = 0; i < flow->n_avoid; i++)
        if (flow->avoid[i] == node)
            return true;
    return false;
}

void flow_avoid(struct flow *flow, flow_node node)
{
    if (node == 0 || flow_avoids(flow, node))
        return;
    if (flow->n_avoid == FLOW_AVOID_MAX)
        memmove(flow->avoid, flow->avoid + 1, --flow->n_avoid * sizeof(flow->avoid[0]));
    flow->avoid[flow->n_avoid++] = node;
}

static bool current(const struct flow *flow, flow_node node, uint32_t attempt)
{
    return flow->mode != FLOW_UNPLACED && attempt == flow->attempt && node != 0 &&
           (node == flow->p || node == flow->d);
}

/* The attempt failed at `blamed`. */
static enum flow_step retry(struct flow *flow, flow_node blamed, bool counts)
{
    flow->failures += counts;
    flow_avoid(flow, blamed);
    return FLOW_RETRY;
}

bool flow_can_redirect(const struct flow *flow)
{
    return flow->mode == FLOW_PAIR && flow->p != 0 && flow->p_holds && !flow->d_started &&
           flow->redirects < FLOW_REDIRECTS_MAX;
}

static enum flow_step redirect_or_retry(struct flow *flow, flow_node blamed)
{
    if (!flow_can_redirect(flow)) {
        if (flow->redirects >= FLOW_REDIRECTS_MAX)
            flow_avoid(flow, flow->p); /* so many destinations are not all to blame */
        return retry(flow, blamed, true);
    }
    flow->failures++;
    flow_avoid(flow, blamed);
    return FLOW_REDIRECT;
}

enum flow_step flow_tokens(struct flow *flow, flow_node node, uint32_t attempt,
                           uint32_t first_index, uint32_t n, uint32_t *skip_out)
{
    if (!current(flow, node, attempt))
        return FLOW_STALE;
    if (node == flow->d && n > 0)
        flow->d_started = true;
    if (first_index > flow->next_index)
        return retry(flow, 0, true);
    if (n <= flow->next_index - first_index)
        return FLOW_NOTHING;
    *skip_out = flow->next_index - first_index;
    flow->next_index = first_index + n;
    return FLOW_ACCEPT;
}

enum flow_step flow_gap(struct flow *flow, flow_node node, uint32_t attempt)
{
    return current(flow, node, attempt) ? retry(flow, 0, true) : FLOW_STALE;
}

enum flow_step flow_admit(struct flow *flow, flow_node node, uint32_t attempt)
{
    if (!current(flow, node, attempt))
        return FLOW_STALE;
    bool counts = flow->mode == FLOW_SINGLE ? node == flow->p : node == flow->d;
    if (!counts || flow->admitted)
        return FLOW_NOTHING;
    flow->admitted = true;
    return FLOW_ADMITTED;
}

enum flow_step flow_refused(struct flow *flow, flow_node node, uint32_t attempt,
                            Sluice__Reason reason)
{
    if (!current(flow, node, attempt))
        return FLOW_NOTHING;
    if (reason == SLUICE__REASON__REASON_TOO_LARGE || reason == SLUICE__REASON__REASON_INVALID)
        return FLOW_REFUSE;
    if (reason == SLUICE__REASON__REASON_FULL && (node == flow->d || flow->mode == FLOW_SINGLE)) {
        flow_avoid(flow, node);
        return FLOW_FULL;
    }
    bool counts = reason != SLUICE__REASON__REASON_FULL &&
                  reason != SLUICE__REASON__REASON_DRAINING &&
                  reason != SLUICE__REASON__REASON_PREEMPTED;
    if (node != flow->d || !flow_can_redirect(flow))
        return retry(flow, node, counts);
    /* What P computes is not lost: another D gets it. */
    flow->failures += counts;
    flow_avoid(flow, node);
    return FLOW_REDIRECT;
}

enum flow_step flow_stream_failed(struct flow *flow, flow_node node, uint32_t attempt,
                                  Sluice__Reason reason, bool held, bool source)
{
    if (!current(flow, node, attempt) || flow->mode != FLOW_PAIR)
        return FLOW_NOTHING;
    if (source && node == flow->p) {
        flow->p_holds = held;
        if (flow->d_started)
            return held ? FLOW_RELEASE : FLOW_NOTHING;
        if (reason == SLUICE__REASON__REASON_FULL)
            return FLOW_FULL;
        return redirect_or_retry(flow, held ? flow->d : flow->p);
    }
    if (flow->d_started)
        return retry(flow, flow->d, true);
    if (reason == SLUICE__REASON__REASON_FULL)
        return FLOW_FULL;
    return redirect_or_retry(flow, flow->d);
}

enum flow_step flow_finished(struct flow *flow, flow_node node, uint32_t attempt,
                             Sluice__Finish finish, Sluice__Reason reason)
{
    if (!current(flow, node, attempt))
        return FLOW_NOTHING;
    if (finish == SLUICE__FINISH__FINISH_SENT && node == flow->p) {
        flow->p = 0;
        flow->p_holds = false;
        return FLOW_NOTHING;
    }
    /* P's end is no news once D runs by itself. */
    if (node == flow->p && flow->mode == FLOW_PAIR && flow->d_started)
        return FLOW_NOTHING;
    if (reason == SLUICE__REASON__REASON_FULL && (node == flow->d || flow->mode == FLOW_SINGLE))
        return FLOW_FULL;
    if (reason == SLUICE__REASON__REASON_TOO_LARGE)
        return FLOW_REFUSE;
    bool counts =
        reason != SLUICE__REASON__REASON_PREEMPTED && reason != SLUICE__REASON__REASON_DRAINING;
    return retry(flow, node, counts);
}

enum flow_step flow_node_lost(struct flow *flow, flow_node node)
{
    if (flow->mode == FLOW_UNPLACED || node == 0 || (node != flow->p && node != flow->d))
        return FLOW_NOTHING;
    if (node == flow->d)
        return redirect_or_retry(flow, node);
    flow->p = 0;
    flow->p_holds = false;
    if (flow->mode == FLOW_PAIR && flow->d_started)
        return FLOW_NOTHING;
    return retry(flow, node, true);
}

/* The stages of one request.
 *
 *   TOKENIZE ─► ROUTE ─► PREFILL_QUEUE ─► PREFILL ─► DECODE_QUEUE ─► TRANSFER ─► DECODE ─► the end
 *                ▲                           │            ▲──(redirect)──│          ▲
 *                └── a placement failed ─────┼────────────┴──────────────┴──────────┤
 *                                            └── local, or one token only ──────────┘
 *
 * All instants are the coordinator's own, taken when a message of a node arrives: durations that nodes
 * measure themselves would leave gaps, the messages' ways among them, and come after the end. What a
 * destination waits for room while the prompt is being computed delays nobody, so DECODE_QUEUE is only what
 * it waits longer. A message that is late or repeated leaves the stage as it is. */
#include "coordinator/stages.h"

#include "base/clock.h"

#include <stdio.h>
#include <string.h>

const char *stage_name(enum stage stage)
{
    static const char *const names[STAGE_COUNT] = {
        "tokenize", "route", "prefill_queue", "prefill", "transfer", "decode_queue", "decode"};
    return stage < STAGE_COUNT ? names[stage] : "unknown";
}

static void enter(struct stages *stages, enum stage stage, uint64_t now_us)
{
    /* Text threads and the loop read the clock each for itself. */
    if (now_us > stages->since_us) {
        stages->spent_us[stages->now] += now_us - stages->since_us;
        stages->since_us = now_us;
    }
    stages->now = stage;
    stages->passed |= 1u << stage;
}

void stages_begin(struct stages *stages, uint64_t now_us)
{
    memset(stages, 0, sizeof(*stages));
    stages->now = STAGE_TOKENIZE;
    stages->passed = 1u << STAGE_TOKENIZE;
    stages->since_us = now_us;
}

void stages_route(struct stages *stages, uint64_t now_us)
{
    enter(stages, STAGE_ROUTE, now_us);
}

void stages_placed(struct stages *stages, uint64_t now_us)
{
    enter(stages, STAGE_PREFILL_QUEUE, now_us);
}

void stages_admitted(struct stages *stages, bool computes, uint64_t now_us)
{
    if (computes && stages->now == STAGE_PREFILL_QUEUE)
        enter(stages, STAGE_PREFILL, now_us);
    else if (!computes && stages->now == STAGE_DECODE_QUEUE)
        enter(stages, STAGE_TRANSFER, now_us);
}

void stages_redirected(struct stages *stages, uint64_t now_us)
{
    if (stages->now == STAGE_TRANSFER)
        enter(stages, STAGE_DECODE_QUEUE, now_us);
}

void stages_first_token(struct stages *stages, bool admitted, uint64_t now_us)
{
    if (stages->now == STAGE_PREFILL || stages->now == STAGE_PREFILL_QUEUE)
        enter(stages, admitted ? STAGE_TRANSFER : STAGE_DECODE_QUEUE, now_us);
}

void stages_decodes(struct stages *stages, uint64_t now_us)
{
    if (stages->now != STAGE_DECODE && stages->now != STAGE_ROUTE)
        enter(stages, STAGE_DECODE, now_us);
}

uint64_t stages_end(struct stages *stages, uint64_t now_us)
{
    uint64_t whole_us = 0;
    enter(stages, stages->now, now_us);
    for (uint32_t i = 0; i < STAGE_COUNT; i++)
        whole_us += stages->spent_us[i];
    return whole_us;
}

void stages_text(const struct stages *stages, char *out, size_t bytes)
{
    size_t n = 0;
    out[0] = '\0';
    for (uint32_t i = 0; i < STAGE_COUNT && n < bytes; i++)
        n += (size_t)snprintf(out + n, bytes - n, "%s%s_ms=%.1f", i > 0 ? " " : "",
                              stage_name((enum stage)i), (double)stages->spent_us[i] / SL_MS_US);
}

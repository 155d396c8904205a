/* Where the time of a request goes. It is in one stage at a time, so the stages' sum is the whole,
 * whatever happens to it. Pure: the time is passed in. One thread. */
#ifndef SL_COORDINATOR_STAGES_H
#define SL_COORDINATOR_STAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum stage {
    STAGE_TOKENIZE,      /* received, parsed, tokenized */
    STAGE_ROUTE,         /* until it was placed; again after each failed placement */
    STAGE_PREFILL_QUEUE, /* until who computes the prompt has room */
    STAGE_PREFILL,       /* until the first token */
    STAGE_TRANSFER,      /* until the destination goes on, less … */
    STAGE_DECODE_QUEUE,  /* … what it still waited for room there */
    STAGE_DECODE,        /* until the end */
    STAGE_COUNT
};
const char *stage_name(enum stage stage);

#define STAGES_TEXT_BYTES 256

struct stages {
    enum stage now;
    uint64_t since_us;
    uint64_t spent_us[STAGE_COUNT]; /* in the stages that were left */
    uint32_t passed; /* bits of the stages that it was in, be it for no time at all */
};

/* Received. */
void stages_begin(struct stages *stages, uint64_t now_us);
/* Waits for a placement. */
void stages_route(struct stages *stages, uint64_t now_us);
void stages_placed(struct stages *stages, uint64_t now_us);
/* A node has room for it: one that computes the prompt, or the destination. */
void stages_admitted(struct stages *stages, bool computes, uint64_t now_us);
/* Another destination, which has not admitted it. */
void stages_redirected(struct stages *stages, uint64_t now_us);
/* A token from who will not be the last to generate (the destination has room for it, or not yet), or
 * from who is. */
void stages_first_token(struct stages *stages, bool admitted, uint64_t now_us);
void stages_decodes(struct stages *stages, uint64_t now_us);
/* The end; nothing may follow. Returns the whole, since stages_begin. */
uint64_t stages_end(struct stages *stages, uint64_t now_us);
/* "tokenize_ms=0.1 route_ms=…", for the log. */
void stages_text(const struct stages *stages, char *out, size_t bytes);

#endif

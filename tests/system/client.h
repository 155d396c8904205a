/* A client of the whole system, one request at a time; any thread. */
#ifndef TESTS_SYSTEM_CLIENT_H
#define TESTS_SYSTEM_CLIENT_H

#include "support/support.h"
#include "unit/model/golden.h"

#include "base/buf.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define ANSWER_CHOICES_MAX 3
#define ANSWER_TOKENS_MAX  64

/* What came of a completion or a chat, streamed or not. */
struct answer {
    int status;
    bool whole; /* status 200, and a body that ends as it should */
    bool error; /* an error object, as a body or as the last event */
    uint32_t n_finished;
    uint32_t cached_tokens;
    uint32_t n_tokens[ANSWER_CHOICES_MAX];
    uint32_t tokens[ANSWER_CHOICES_MAX][ANSWER_TOKENS_MAX];
    struct sl_buf texts[ANSWER_CHOICES_MAX];
};

/* The request for greedy tokens after the run's prompt, as a body of JSON; `more` is members that follow, each after
 * a comma. To be freed. */
char *client_golden_body(const struct golden_model *golden, const struct golden_run *run,
                         uint32_t max_tokens, const char *more);
/* Asks, and waits for the whole answer; answer_fini it. begun is counted up when the first of it is there; NULL is
 * fine. */
void client_ask(uint16_t port, const char *path, const char *body, _Atomic uint32_t *begun,
                struct answer *out);
/* Begins a stream and goes away: after the first event, or at once. */
void client_leave(uint16_t port, const char *path, const char *body, bool at_once);
void answer_fini(struct answer *answer);
/* The answer is whole, and choice `index` has exactly the run's tokens. */
void answer_expect(const struct answer *answer, uint32_t index, const struct golden_run *run);
/* Two answers whose first n choices say the same. */
void answer_expect_same(const struct answer *answer, const struct answer *other, uint32_t n);
/* Whole, or an error after the first of the run's tokens; returns whether it is whole. */
bool answer_expect_beginning(const struct answer *answer, const struct golden_run *run);

#endif

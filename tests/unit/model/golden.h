/* Reader of tests/golden/models/NAME: what transformers computes of a model that make_golden_models.py makes again. */
#ifndef TESTS_UNIT_MODEL_GOLDEN_H
#define TESTS_UNIT_MODEL_GOLDEN_H

#include <jansson.h>
#include <stdint.h>

#define GOLDEN_PROMPT_TOKENS 1000
#define GOLDEN_COLUMNS       16
#define GOLDEN_TOKENS_MAX    64
#define GOLDEN_RUNS_MAX      8

/* Greedy tokens after the first prompt_tokens of the prompt; margins: of the first logit over the second. */
struct golden_run {
    uint32_t prompt_tokens, n_tokens;
    uint32_t tokens[GOLDEN_TOKENS_MAX];
    double margins[GOLDEN_TOKENS_MAX];
};

struct golden_model {
    const char *name;
    char model[64]; /* its directory's name */
    uint32_t vocab;
    uint32_t prompt[GOLDEN_PROMPT_TOKENS];
    double f32_error, kv_error_max, kv_error_rms;
    uint32_t n_runs;
    struct golden_run runs[GOLDEN_RUNS_MAX];
    float rows[GOLDEN_PROMPT_TOKENS][4 + GOLDEN_COLUMNS]; /* of each position */
};

/* Fails the test when a file is missing or is not what it should be; sl_free it. */
struct golden_model *golden_read(const char *name);
/* A list of 1 to n_max ids. */
void golden_tokens(const json_t *list, uint32_t *tokens, uint32_t n_max, uint32_t *n_out);

#endif

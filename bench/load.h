/* Parts of the load generator: what a request is and does (load_request.c), figures from many of them
 * (load_report.c), and the run (load.c). */
#ifndef BENCH_LOAD_H
#define BENCH_LOAD_H

#include "base/buf.h"
#include "base/status.h"

#include <curl/curl.h>
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LOAD_TOKENS_MAX      (1u << 20) /* prompt or output of one request */
#define LOAD_REQUESTS_MAX    1000000u
#define LOAD_CONCURRENCY_MAX 20000u
#define LOAD_SAMPLES_MAX     (64u << 20) /* inter-token gaps kept */
#define LOAD_KINDS_MAX       32          /* kinds of error told apart */
#define LOAD_MESSAGE_BYTES   256

/* ---- random, seeded ---- */

struct load_random {
    uint64_t state;
};
uint64_t load_random_next(struct load_random *random);
double load_random_unit(struct load_random *random); /* (0, 1) */

/* A length: "512", "128..1024" (uniform), "lognormal:MEDIAN:SIGMA" (cut at LOAD_TOKENS_MAX). */
struct load_length {
    enum { LOAD_FIXED, LOAD_UNIFORM, LOAD_LOGNORMAL } kind;
    double a, b;
};
sl_status load_length_parse(const char *option, const char *text,
                            struct load_length *length_out) SL_MUST_USE;
uint32_t load_length_draw(const struct load_length *length, struct load_random *random);

/* ---- samples ---- */

struct load_samples {
    double *values;
    size_t n, capacity;
    double sum;
    bool sorted;
};
/* Beyond LOAD_SAMPLES_MAX values are dropped. */
void load_samples_add(struct load_samples *samples, double value);
void load_samples_fini(struct load_samples *samples);
double load_samples_mean(const struct load_samples *samples);
/* q in 0..1, nearest rank; 0 when there are none. */
double load_samples_quantile(struct load_samples *samples, double q);

/* ---- one request ---- */

struct load_plan {
    uint32_t prompt_tokens, output_tokens;
    uint64_t seed; /* of its own prompt */
    double due_s;  /* open loop: when it shall start, from the start of the run */
};

struct load_result {
    uint64_t start_us, first_us, last_us, end_us;
    uint32_t output_tokens, prompt_tokens, cached_tokens;
    uint32_t events; /* that carried tokens */
    bool ok;
    char error[48];                   /* kind: "http_429", "connect", "stream_error", … */
    char message[LOAD_MESSAGE_BYTES]; /* what the server, or curl, said of it; may be empty */
};

struct load_config {
    const char *url, *model;
    bool text;
    uint32_t vocab_min, vocab_max;
    double words_per_token; /* text prompts */
    uint32_t shared_prefix_tokens;
    uint64_t seed;
    double timeout_s;
};

struct load_request;
/* An easy handle that is ready to be added to a multi handle; `gaps` takes the time between events that
 * carry tokens, in seconds. start_us: what latencies count from. */
struct load_request *load_request_create(const struct load_config *config,
                                         const struct load_plan *plan, uint64_t start_us,
                                         struct load_samples *gaps);
CURL *load_request_handle(struct load_request *request);
/* After curl is done with it: judges and fills the result. */
void load_request_finish(struct load_request *request, CURLcode code, struct load_result *out);
void load_request_destroy(struct load_request *request);

/* GET or POST (body not NULL) of a small page. SL_PEER with a reason. */
sl_status load_fetch(const char *base, const char *path, const char *body,
                     struct sl_buf *out) SL_MUST_USE;
/* By asking /tokenize: how many of our words make one token. */
sl_status load_calibrate_words(struct load_config *config) SL_MUST_USE;

/* ---- the report ---- */

struct load_totals {
    struct load_samples ttft, tpot, itl, e2e;
    uint64_t prompt_tokens, cached_tokens, output_tokens;
    uint32_t n_ok, n_failed, n_good;
    double seconds;
    struct {
        char kind[48];
        char message[LOAD_MESSAGE_BYTES]; /* of the first of the kind */
        uint32_t count;
    } errors[LOAD_KINDS_MAX];
    uint32_t n_errors;
    double slo_ttft_s, slo_itl_s; /* 0: none */
};
void load_totals_add(struct load_totals *totals, const struct load_result *result);
void load_totals_fini(struct load_totals *totals);

/* before, after: the texts of /metrics, NULL when there was none. */
json_t *load_report(struct load_totals *totals, const char *before, const char *after);
void load_report_print(const json_t *report);

/* Sum over the series of a counter whose labels contain `label` ("" for all): for tests. */
double load_metric_sum(const char *page, const char *name, const char *label);

#endif

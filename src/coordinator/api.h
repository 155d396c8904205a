/* Request bodies of the HTTP API, parsed and checked field by field into structs. Pure: any thread,
 * no state, no clock; the fuzz target json_body calls nothing else. */
#ifndef SL_COORDINATOR_API_H
#define SL_COORDINATOR_API_H

#include "base/json.h"
#include "base/status.h"
#include "text/stop.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define API_TOKENS_MAX      (1u << 24) /* greatest max_tokens, longest list of ids */
#define API_LOGPROBS_MAX    5
#define API_STOP_IDS_MAX    16u
#define API_MESSAGE_BYTES   400u
#define API_TEMPERATURE_MAX 2.0
#define API_MEMBERS_MAX     4096u /* of all objects in a body */

/* What a refused request is answered with: {"error": {message, type, param, code}}. */
struct api_error {
    int http_status;
    const char *type; /* "invalid_request_error", …: static */
    const char *code; /* "context_length_exceeded", …: static; NULL */
    char param[64];   /* field, "" for none */
    char message[API_MESSAGE_BYTES];
    uint32_t retry_after_s; /* 0: no Retry-After */
};

/* A prompt: text, or ids. Borrowed from `body`. */
struct api_prompt {
    const char *text; /* NULL when given as ids */
    size_t text_bytes;
    const json_t *ids; /* array of integers, checked: 0..UINT32_MAX */
};

struct api_completion {
    json_t *body;      /* owned; all text below lives in it */
    const char *model; /* NULL: not given */
    struct api_prompt prompt;
    bool add_special_tokens;
    bool stream;
    bool include_usage;
    bool ignore_eos;
    bool return_token_ids;
    bool has_max_tokens;
    uint32_t max_tokens;
    uint32_t min_tokens;
    double temperature;
    double top_p;
    double min_p;
    uint32_t top_k; /* 0: all */
    bool has_seed;
    uint64_t seed;
    int32_t logprobs; /* -1: none */
    uint32_t n_stops;
    const char *stops[TEXT_STOPS_MAX];
    size_t stop_bytes[TEXT_STOPS_MAX];
    uint32_t n_stop_ids;
    uint32_t stop_ids[API_STOP_IDS_MAX];
};

struct api_tokenize {
    json_t *body;
    const char *model;
    struct api_prompt prompt; /* always text */
    bool add_special_tokens;
};

struct api_detokenize {
    json_t *body;
    const char *model;
    struct api_prompt prompt; /* always ids */
};

/* A look at a body before it is parsed, which costs a hundredth of it: so many members of objects, and
 * list items, that no request of this server can mean it, are refused at once. len_max: the longest
 * list of ids that can be served. SL_INVALID with *error_out. */
sl_status api_check_shape(const char *text, size_t bytes, uint32_t len_max,
                          struct api_error *error_out) SL_MUST_USE;

/* Each returns SL_OK, or SL_INVALID (SL_UNSUPPORTED, SL_EXHAUSTED) with *error_out filled; the struct
 * then owns nothing. Unknown names are ignored; what later versions serve is accepted when null or
 * at its neutral value. */
sl_status api_parse_completion(const char *text, size_t bytes, struct api_completion *out,
                               struct api_error *error_out) SL_MUST_USE;
void api_completion_fini(struct api_completion *completion);
sl_status api_parse_tokenize(const char *text, size_t bytes, struct api_tokenize *out,
                             struct api_error *error_out) SL_MUST_USE;
void api_tokenize_fini(struct api_tokenize *tokenize);
sl_status api_parse_detokenize(const char *text, size_t bytes, struct api_detokenize *out,
                               struct api_error *error_out) SL_MUST_USE;
void api_detokenize_fini(struct api_detokenize *detokenize);

/* Fills *error and returns the status that goes with http_status. param NULL or "": none. */
sl_status api_fail(struct api_error *error, int http_status, const char *code, const char *param,
                   const char *fmt, ...) SL_PRINTF(5, 6);
/* Appends the error object. */
struct sl_buf;
void api_error_body(const struct api_error *error, struct sl_buf *out);

#endif

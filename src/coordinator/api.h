/* Request bodies of the HTTP API, parsed and checked field by field into structs. Pure: any thread,
 * no state, no clock; the fuzz target json_body calls nothing else. */
#ifndef SL_COORDINATOR_API_H
#define SL_COORDINATOR_API_H

#include "base/json.h"
#include "base/status.h"
#include "text/stop.h"
#include "text/tokenizer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define API_TOKENS_MAX       (1u << 24) /* greatest max_tokens, longest list of ids */
#define API_CHOICES_MAX      128u       /* of one request: prompts times n */
#define API_BIASES_MAX       1024u
#define API_BIAS_MAX         100.0
#define API_BAD_WORDS_MAX    128u
#define API_BAD_WORD_BYTES   256u
#define API_BAD_WORD_IDS     4096u /* of all, each with and without a space before it */
#define API_PENALTY_MAX      2.0
#define API_REPETITION_MIN   0.01
#define API_REPETITION_MAX   100.0
#define API_TOP_LOGPROBS_MAX 20 /* of a chat */
#define API_LOGPROBS_MAX     5
#define API_STOP_IDS_MAX     16u
#define API_FIELD_BYTES      32u
#define API_MESSAGE_BYTES    400u
#define API_TEMPERATURE_MAX  2.0
#define API_MEMBERS_MAX      4096u  /* of all objects in a body … */
#define API_CHAT_MEMBERS_MAX 65536u /* … with messages */
#define API_MESSAGES_MAX     16384u /* also parts of a message, and tools */
#define API_SALT_BYTES_MAX   256u
#define API_REQUEST_ID_BYTES 64u

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

/* What a chat template is rendered with. Borrowed from the body, in which chat.c brings it into the
 * form that templates expect. */
struct api_messages {
    json_t *messages;        /* NULL: there are none; else objects with a known role */
    const json_t *tools;     /* NULL: none */
    const json_t *documents; /* NULL: none */
    const json_t *kwargs;    /* chat_template_kwargs; NULL: none */
    bool add_generation_prompt;
    bool continue_final_message;
};

/* What a request says about single tokens; adjust.h reads it, and hands it on. */
struct api_adjust {
    double repetition, presence, frequency; /* 1, 0, 0: none */
    uint32_t n_biases;
    uint32_t bias_ids[API_BIASES_MAX];
    float biases[API_BIASES_MAX];
    const json_t *bad_words; /* of the body; NULL once they are token ids: */
    uint32_t n_words;
    uint32_t word_lengths[2 * API_BAD_WORDS_MAX];
    struct text_ids word_ids; /* one word after the other; owned */
};

/* Parameters where the request is silent: those of the model's generation_config.json. */
struct api_defaults {
    double temperature, top_p, min_p, repetition_penalty;
    uint32_t top_k;      /* 0: all */
    uint32_t max_tokens; /* of a chat; 0: up to the context */
};

struct api_completion {
    json_t *body; /* owned; all text below lives in it */
    bool chat;
    const char *model;                          /* NULL: not given */
    uint32_t n_prompts;                         /* 1..API_CHOICES_MAX / n */
    struct api_prompt prompts[API_CHOICES_MAX]; /* of a chat: one, set by who renders it */
    uint32_t n;                                 /* choices of each prompt */
    bool add_special_tokens;
    bool stream;
    bool include_usage;
    bool ignore_eos;
    bool return_token_ids;
    bool skip_special_tokens;
    bool include_stop_str;  /* the stop string, or token, belongs to the text */
    bool include_reasoning; /* of a chat */
    bool has_max_tokens;
    uint32_t max_tokens;
    uint32_t min_tokens;
    uint32_t truncate_prompt_tokens; /* its last so many are kept; 0: all */
    double temperature;
    double top_p;
    double min_p;
    uint32_t top_k; /* 0: all */
    bool has_seed;
    uint64_t seed;
    struct api_adjust adjust;
    bool echo;               /* the prompt is said again, with its logprobs if there are any */
    int32_t prompt_logprobs; /* -1: none; of vLLM's list, without an echo too */
    int32_t logprobs;        /* -1: none */
    int32_t priority;        /* lower is earlier */
    const char *cache_salt;  /* NULL: none */
    const char *request_id;  /* NULL: none; letters, digits, -_.: */
    uint32_t n_stops;
    const char *stops[TEXT_STOPS_MAX];
    size_t stop_bytes[TEXT_STOPS_MAX];
    uint32_t n_stop_ids;
    uint32_t stop_ids[API_STOP_IDS_MAX];
};

struct api_chat {
    struct api_completion params;
    struct api_messages input;
};

struct api_tokenize {
    json_t *body;
    const char *model;
    struct api_prompt prompt;  /* text, or none … */
    struct api_messages input; /* … and messages */
    bool add_special_tokens;
};

struct api_detokenize {
    json_t *body;
    const char *model;
    struct api_prompt prompt; /* always ids */
};

/* Neutral values of all. */
#define API_DEFAULTS                                                                               \
    {                                                                                              \
        .temperature = 1, .top_p = 1, .repetition_penalty = 1                                      \
    }

/* A look at a body before it is parsed, which costs a hundredth of it: so many members of objects, and
 * list items, that no request of this server can mean it, are refused at once. len_max: the longest
 * list of ids that can be served. SL_INVALID with *error_out. */
sl_status api_check_shape(const char *text, size_t bytes, bool chat, uint32_t len_max,
                          struct api_error *error_out) SL_MUST_USE;
/* Of JSON that stands in a string of a body, and is parsed too: its values, give or take as many as it has
 * lists and objects. */
size_t api_count_values(const char *text, size_t bytes);

/* Each returns SL_OK, or SL_INVALID (SL_UNSUPPORTED, SL_EXHAUSTED) with *error_out filled; the struct
 * then owns nothing. Unknown names are ignored; what later versions serve is accepted when null or
 * at its neutral value. */
sl_status api_parse_completion(const char *text, size_t bytes, const struct api_defaults *defaults,
                               struct api_completion *out, struct api_error *error_out) SL_MUST_USE;
void api_completion_fini(struct api_completion *completion);
/* What errors call a prompt: "prompt", "prompt[3]", "messages". In `field`, or static. */
const char *api_prompt_field(const struct api_completion *completion, uint32_t index,
                             char field[API_FIELD_BYTES]);
sl_status api_parse_chat(const char *text, size_t bytes, const struct api_defaults *defaults,
                         struct api_chat *out, struct api_error *error_out) SL_MUST_USE;
void api_chat_fini(struct api_chat *chat);
sl_status api_parse_tokenize(const char *text, size_t bytes, struct api_tokenize *out,
                             struct api_error *error_out) SL_MUST_USE;
void api_tokenize_fini(struct api_tokenize *tokenize);
sl_status api_parse_detokenize(const char *text, size_t bytes, struct api_detokenize *out,
                               struct api_error *error_out) SL_MUST_USE;
void api_detokenize_fini(struct api_detokenize *detokenize);

/* Fills *error and returns the status that goes with http_status. param NULL or "": none. */
sl_status api_fail(struct api_error *error, int http_status, const char *code, const char *param,
                   const char *fmt, ...) SL_PRINTF(5, 6);
/* No such model, as OpenAI's clients expect it. */
sl_status api_fail_model(struct api_error *error, const char *model, const char *served);
/* Appends the error object. */
struct sl_buf;
void api_error_body(const struct api_error *error, struct sl_buf *out);

#endif

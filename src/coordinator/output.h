/* What a client gets: the text of a completion as it grows, its stops, its logprobs, and the JSON of
 * chunks and bodies. One request each; one thread at a time. */
#ifndef SL_COORDINATOR_OUTPUT_H
#define SL_COORDINATOR_OUTPUT_H

#include "base/buf.h"
#include "base/status.h"
#include "coordinator/api.h"
#include "text/detokenizer.h"
#include "text/reasoning.h"
#include "text/stop.h"
#include "text/tokenizer.h"

#include <stdbool.h>
#include <stdint.h>

#define OUTPUT_TEXT_BYTES_MAX (64u << 20)

enum output_finish { OUTPUT_OPEN, OUTPUT_STOP, OUTPUT_LENGTH };

struct output_logprob {
    float sampled;
    uint32_t n_top;
    const uint32_t *top_ids;
    const float *top;
    uint32_t rank; /* of a prompt's token */
};

struct output_usage {
    uint32_t prompt_tokens;
    uint32_t completion_tokens;
    uint32_t cached_tokens;
    uint32_t reasoning_tokens;
    const char *prefill, *decode; /* ids of the nodes that served it last, "-" for none */
    uint32_t attempts;
};

struct output_args {
    const struct text_tokenizer *tokenizer;   /* borrowed for the output's life */
    const struct api_completion *completion;  /* what it needs is copied */
    const char *model;                        /* borrowed for the output's life */
    const struct text_reasoning_marks *marks; /* NULL: reasoning is not told from the rest */
    bool reasoning_open;                      /* the prompt ends with the open mark */
};

struct output {
    const struct text_tokenizer *tokenizer;
    struct text_detokenizer detokenizer;
    struct text_stop *stop;
    struct text_reasoning reasoning; /* without marks: unused */
    char id[API_REQUEST_ID_BYTES + 16];
    const char *model; /* borrowed */
    uint64_t created;
    uint32_t index; /* of the choice */
    bool chat, stream, include_usage, return_token_ids, include_stop_str, show_thought;
    int32_t n_logprobs; /* -1: none */
    uint32_t max_tokens, min_tokens;
    bool ignore_eos;
    uint32_t n_end_ids;
    const uint32_t *end_ids; /* borrowed: end tokens of the model */
    uint32_t n_stop_ids;
    uint32_t stop_ids[API_STOP_IDS_MAX];
    uint32_t n_tokens; /* taken, the end token included */
    enum output_finish finish;
    int stop_string; /* index of what ended it, -1 */
    int64_t stop_id; /* id of what ended it, -1 */
    char *stop_texts[TEXT_STOPS_MAX];
    uint32_t n_stops;
    /* Not yet handed out: all of it for a body, the next chunk's for a stream. */
    struct sl_buf text, thought, ids;
    struct sl_buf entries;                      /* logprobs of a chat … */
    struct sl_buf names, values, tops, offsets; /* … and of a completion */
    uint32_t n_pending;
    const struct output *echo; /* of the prompt, said before the text; NULL: none. Borrowed */
    uint64_t echo_chars;
    bool shows_echo;              /* text and logprobs; else prompt_logprobs alone */
    int32_t prompt_logprobs;      /* -1: none */
    struct sl_buf piece, cleared; /* scratch */
    bool first_chunk_sent;
};

sl_status output_init(struct output *output, const struct output_args *args) SL_MUST_USE;
/* It is a further choice of the answer that `first` begins. */
void output_join(struct output *output, const struct output *first, uint32_t index);
void output_fini(struct output *output);
/* One more token; logprob may be NULL. Not after the end. */
enum output_finish output_push(struct output *output, uint32_t id,
                               const struct output_logprob *logprob);
/* The prompt as an output of its own, which choices then have as their echo: its text, and what is said of its
 * tokens, which are pushed in order, the first one without a logprob. text NULL: that of the ids. */
sl_status output_init_echo(struct output *echo, const struct output_args *args, const char *text,
                           size_t bytes, const uint32_t *ids, size_t n_ids) SL_MUST_USE;
void output_push_prompt(struct output *echo, uint32_t id, const struct output_logprob *logprob);
void output_set_echo(struct output *output, const struct output *echo, bool shown);
/* Ends it without a token. */
void output_end(struct output *output);
/* SL_EXHAUSTED when the text has passed its bound. */
sl_status output_status(const struct output *output) SL_MUST_USE;
/* Kept for the next chunk, or the body. */
size_t output_bytes(const struct output *output);
/* Appends the event with all that is pending (and the finish reason, if it has ended), and empties
 * it. prompt_ids: given with the first chunk when token ids are wanted. */
void output_chunk(struct output *output, const uint32_t *prompt_ids, uint32_t n_prompt_ids,
                  struct sl_buf *out);
/* The events after the last chunk: usage if asked for, and [DONE]. */
void output_done(const struct output *output, const struct output_usage *usage, struct sl_buf *out);
/* The body of an answer that is not a stream: its head, each choice in order, and the rest. */
void output_body_begin(const struct output *first, struct sl_buf *out);
void output_body_choice(const struct output *output, const uint32_t *prompt_ids,
                        uint32_t n_prompt_ids, struct sl_buf *out);
void output_body_end(const struct output *first, const struct output_usage *usage,
                     const uint32_t *prompt_ids, uint32_t n_prompt_ids, struct sl_buf *out);
/* An error event; nothing may follow. */
void output_error(const struct api_error *error, struct sl_buf *out);

#endif

/* Tokens to text; the JSON around it is answer.c.
 *
 *   token ─► end or stop id? ─► detokenizer (whole characters) ─► stop strings ─► reasoning ─► text
 *        │                                                        (may hold back)      └─► thought
 *        └─► ids, names, logprobs, offsets: JSON fragments, kept until the next chunk or the body
 *
 * Text lags behind its tokens where a character, a possible stop string or a mark of the reasoning is
 * incomplete; ids and logprobs do not. An end token, and a stop id, counts as a token but has no text,
 * unless it is asked for. The work for a token does not depend on how many came before it. */
#include "coordinator/output.h"

#include "base/clock.h"
#include "base/mem.h"
#include "text/chars.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#define FRAGMENT_BYTES_MAX (64u << 20)
#define NAME_BYTES_MAX     (TEXT_TOKEN_BYTES_MAX * 8)
#define LOGPROB_NONE       (-9999.0)

static sl_status create_stop(struct output *output, const struct api_completion *completion)
{
    struct text_stop_args args = {.strings = completion->stops,
                                  .bytes = completion->stop_bytes,
                                  .n_strings = completion->n_stops,
                                  .include_stop_str = completion->include_stop_str,
                                  .min_tokens = completion->min_tokens};
    sl_status status = text_stop_create(&args, &output->stop);
    if (status != SL_OK)
        return status;
    for (uint32_t i = 0; i < completion->n_stops; i++)
        output->stop_texts[output->n_stops++] = sl_strdup(completion->stops[i]);
    return SL_OK;
}

static void init_id(struct output *output, const struct api_completion *completion)
{
    const char *kind = completion->chat ? "chatcmpl" : "cmpl";
    if (completion->request_id != NULL) {
        snprintf(output->id, sizeof(output->id), "%s-%s", kind, completion->request_id);
        return;
    }
    uint64_t random = 0;
    if (getrandom(&random, sizeof(random), 0) != (ssize_t)sizeof(random))
        random = sl_real_us();
    snprintf(output->id, sizeof(output->id), "%s-%016" PRIx64, kind, random);
}

static void init_bufs(struct output *output)
{
    sl_buf_init(&output->text, OUTPUT_TEXT_BYTES_MAX);
    sl_buf_init(&output->thought, OUTPUT_TEXT_BYTES_MAX);
    sl_buf_init(&output->cleared, OUTPUT_TEXT_BYTES_MAX);
    sl_buf_init(&output->piece, NAME_BYTES_MAX * 4);
    sl_buf_init(&output->ids, FRAGMENT_BYTES_MAX);
    sl_buf_init(&output->entries, FRAGMENT_BYTES_MAX);
    sl_buf_init(&output->names, FRAGMENT_BYTES_MAX);
    sl_buf_init(&output->values, FRAGMENT_BYTES_MAX);
    sl_buf_init(&output->tops, FRAGMENT_BYTES_MAX);
    sl_buf_init(&output->offsets, FRAGMENT_BYTES_MAX);
}

sl_status output_init(struct output *output, const struct output_args *args)
{
    const struct api_completion *completion = args->completion;
    memset(output, 0, sizeof(*output));
    output->tokenizer = args->tokenizer;
    output->model = args->model;
    output->created = (uint64_t)sl_wall_seconds();
    output->chat = completion->chat;
    output->stream = completion->stream;
    output->include_usage = completion->include_usage;
    output->return_token_ids = completion->return_token_ids;
    output->include_stop_str = completion->include_stop_str;
    output->show_thought = completion->include_reasoning;
    output->n_logprobs = completion->logprobs;
    output->prompt_logprobs = completion->prompt_logprobs;
    output->max_tokens = completion->max_tokens;
    output->min_tokens = completion->min_tokens;
    output->ignore_eos = completion->ignore_eos;
    output->n_stop_ids = completion->n_stop_ids;
    memcpy(output->stop_ids, completion->stop_ids, sizeof(output->stop_ids));
    output->stop_string = -1;
    output->stop_id = -1;
    init_id(output, completion);
    text_detokenizer_init(&output->detokenizer, args->tokenizer, completion->skip_special_tokens);
    if (args->marks != NULL)
        text_reasoning_init(&output->reasoning, args->marks, args->reasoning_open);
    init_bufs(output);
    sl_status status = create_stop(output, completion);
    if (status != SL_OK)
        output_fini(output);
    return status;
}

void output_join(struct output *output, const struct output *first, uint32_t index)
{
    memcpy(output->id, first->id, sizeof(output->id));
    output->created = first->created;
    output->index = index;
}

void output_fini(struct output *output)
{
    if (output->tokenizer == NULL)
        return;
    text_detokenizer_fini(&output->detokenizer);
    text_stop_destroy(output->stop);
    for (uint32_t i = 0; i < output->n_stops; i++)
        sl_free(output->stop_texts[i]);
    sl_buf_fini(&output->text);
    sl_buf_fini(&output->thought);
    sl_buf_fini(&output->cleared);
    sl_buf_fini(&output->piece);
    sl_buf_fini(&output->ids);
    sl_buf_fini(&output->entries);
    sl_buf_fini(&output->names);
    sl_buf_fini(&output->values);
    sl_buf_fini(&output->tops);
    sl_buf_fini(&output->offsets);
    memset(output, 0, sizeof(*output));
}

sl_status output_status(const struct output *output)
{
    const struct sl_buf *const bufs[] = {&output->text,   &output->thought, &output->cleared,
                                         &output->ids,    &output->entries, &output->names,
                                         &output->values, &output->tops,    &output->offsets};
    for (size_t i = 0; i < sizeof(bufs) / sizeof(bufs[0]); i++)
        if (bufs[i]->failed)
            return sl_buf_status(bufs[i], "completion");
    return output->echo != NULL ? output_status(output->echo) : SL_OK;
}

size_t output_bytes(const struct output *output)
{
    return output->text.bytes + output->thought.bytes + output->ids.bytes + output->entries.bytes +
           output->names.bytes + output->values.bytes + output->tops.bytes + output->offsets.bytes;
}

static bool contains(const uint32_t *ids, uint32_t n, uint32_t id)
{
    for (uint32_t i = 0; i < n; i++)
        if (ids[i] == id)
            return true;
    return false;
}

static void comma(struct sl_buf *buf)
{
    if (buf->bytes > 0)
        sl_buf_add_text(buf, ",");
}

/* Nine digits bring back every float. */
static void add_logprob(struct sl_buf *buf, float value)
{
    double number = isfinite(value) ? (double)value : LOGPROB_NONE;
    sl_buf_add_format(buf, "%.9g", number);
}

static void add_name(struct output *output, uint32_t id, struct sl_buf *out)
{
    sl_buf_reset(&output->piece);
    text_tokenizer_token_name(output->tokenizer, id, false, &output->piece);
    sl_buf_add_json_string(out, output->piece.data != NULL ? output->piece.data : "",
                           output->piece.bytes);
}

/* How many of those before the i-th of the likeliest are the same bytes. */
static uint32_t count_same(const struct output *output, const uint32_t *ids, uint32_t i)
{
    uint32_t n_same = 0;
    size_t n = 0, other_n = 0;
    const char *bytes = text_tokenizer_token_bytes(output->tokenizer, ids[i], &n);
    for (uint32_t k = 0; k < i && bytes != NULL; k++) {
        const char *other = text_tokenizer_token_bytes(output->tokenizer, ids[k], &other_n);
        n_same += other != NULL && other_n == n && memcmp(other, bytes, n) == 0;
    }
    return n_same;
}

/* A key among the likeliest of one place: no two are equal. The second one of the same bytes is written as bytes; where
 * that is no other name, and for further ones, it is the id. */
static void add_key(struct output *output, const uint32_t *ids, uint32_t i, struct sl_buf *out)
{
    uint32_t n_same = count_same(output, ids, i);
    if (n_same == 0) {
        add_name(output, ids[i], out);
        return;
    }
    size_t n = 0;
    const char *bytes = text_tokenizer_token_bytes(output->tokenizer, ids[i], &n);
    sl_buf_reset(&output->piece);
    if (n_same == 1 && n > 0 && text_utf8_valid(bytes, n, NULL))
        text_tokenizer_token_name(output->tokenizer, ids[i], true, &output->piece);
    else
        sl_buf_add_format(&output->piece, "token_id:%u", ids[i]);
    sl_buf_add_json_string(out, output->piece.data, output->piece.bytes);
}

/* What chat shows of one token. */
static void add_entry(struct output *output, uint32_t id, float logprob, struct sl_buf *out)
{
    size_t n_bytes = 0;
    const char *bytes = text_tokenizer_token_bytes(output->tokenizer, id, &n_bytes);
    sl_buf_add_text(out, "{\"token\":");
    add_name(output, id, out);
    sl_buf_add_text(out, ",\"logprob\":");
    add_logprob(out, logprob);
    sl_buf_add_text(out, ",\"bytes\":");
    for (size_t i = 0; i < n_bytes; i++)
        sl_buf_add_format(out, i > 0 ? ",%u" : "[%u", (unsigned)(unsigned char)bytes[i]);
    sl_buf_add_text(out, bytes == NULL ? "null" : n_bytes > 0 ? "]" : "[]");
}

static void add_entries(struct output *output, uint32_t id, const struct output_logprob *logprob)
{
    struct sl_buf *out = &output->entries;
    uint32_t n = logprob != NULL ? logprob->n_top : 0;
    comma(out);
    /* A node that did not send them: as one that is not finite. */
    add_entry(output, id, logprob != NULL ? logprob->sampled : NAN, out);
    sl_buf_add_text(out, ",\"top_logprobs\":[");
    for (uint32_t i = 0; i < n && i < (uint32_t)output->n_logprobs; i++) {
        if (i > 0)
            sl_buf_add_text(out, ",");
        add_entry(output, logprob->top_ids[i], logprob->top[i], out);
        sl_buf_add_text(out, "}");
    }
    sl_buf_add_text(out, "]}");
}

static void add_logprobs(struct output *output, uint32_t id, const struct output_logprob *logprob,
                         uint64_t offset)
{
    comma(&output->names);
    add_name(output, id, &output->names);
    comma(&output->values);
    comma(&output->tops);
    comma(&output->offsets);
    sl_buf_add_format(&output->offsets, "%" PRIu64, offset);
    if (logprob == NULL) { /* a node that did not send them */
        sl_buf_add_text(&output->values, "null");
        sl_buf_add_text(&output->tops, "null");
        return;
    }
    add_logprob(&output->values, logprob->sampled);
    sl_buf_add_text(&output->tops, "{");
    uint32_t n = logprob->n_top;
    n = n < (uint32_t)output->n_logprobs ? n : (uint32_t)output->n_logprobs;
    for (uint32_t i = 0; i < n; i++) {
        if (i > 0)
            sl_buf_add_text(&output->tops, ",");
        add_key(output, logprob->top_ids, i, &output->tops);
        sl_buf_add_text(&output->tops, ":");
        add_logprob(&output->tops, logprob->top[i]);
    }
    sl_buf_add_text(&output->tops, "}");
}

/* Where text goes behind the stop strings: to whoever tells the reasoning from it, or straight on. */
static struct sl_buf *stop_target(struct output *output)
{
    return output->reasoning.marks != NULL ? &output->cleared : &output->text;
}

/* Of the text behind the stop strings, what is reasoning and what is not. */
static void divide(struct output *output, bool end)
{
    if (output->reasoning.marks == NULL)
        return;
    const char *text = output->cleared.data != NULL ? output->cleared.data : "";
    if (end)
        text_reasoning_flush(&output->reasoning, text, output->cleared.bytes, &output->thought,
                             &output->text);
    else
        text_reasoning_push(&output->reasoning, text, output->cleared.bytes, &output->thought,
                            &output->text);
    output->text.failed |= output->cleared.failed;
    sl_buf_reset(&output->cleared);
    if (!output->show_thought)
        sl_buf_reset(&output->thought);
}

/* The scratch piece through the stop strings. */
static bool stops(struct output *output)
{
    const char *text = output->piece.data != NULL ? output->piece.data : "";
    if (!text_stop_push(output->stop, text, output->piece.bytes, stop_target(output)))
        return false;
    output->finish = OUTPUT_STOP;
    output->stop_string = text_stop_index(output->stop);
    return true;
}

/* Whatever is held back belongs to the text now, unless it completes a stop string. */
static void close_text(struct output *output)
{
    sl_buf_reset(&output->piece);
    text_detokenizer_flush(&output->detokenizer, &output->piece);
    if (output->piece.bytes == 0 || !stops(output))
        text_stop_flush(output->stop, stop_target(output));
}

/* A mark that is a special token has no text, but is one here. */
static void add_mark(struct output *output, uint32_t id)
{
    const struct text_reasoning_marks *marks = output->reasoning.marks;
    if (marks == NULL || !output->detokenizer.skip_special ||
        !text_tokenizer_is_special(output->tokenizer, id))
        return;
    size_t n;
    const char *bytes = text_tokenizer_token_bytes(output->tokenizer, id, &n);
    const char *const both[] = {marks->open, marks->close};
    for (int i = 0; i < 2; i++)
        if (n == strlen(both[i]) && memcmp(bytes, both[i], n) == 0)
            sl_buf_add_text(&output->piece, both[i]);
}

/* The text of a token; true when it completes a stop string. */
static bool take_text(struct output *output, uint32_t id, struct text_offset *offset)
{
    sl_buf_reset(&output->piece);
    text_detokenizer_push(&output->detokenizer, id, &output->piece, offset);
    add_mark(output, id);
    return stops(output);
}

static bool ends(struct output *output, uint32_t id)
{
    if (output->n_tokens < output->min_tokens)
        return false;
    if (contains(output->stop_ids, output->n_stop_ids, id)) {
        output->stop_id = id;
        return true;
    }
    return !output->ignore_eos && contains(output->end_ids, output->n_end_ids, id);
}

enum output_finish output_push(struct output *output, uint32_t id,
                               const struct output_logprob *logprob)
{
    SL_ASSERT(output->finish == OUTPUT_OPEN);
    struct text_offset offset = {output->detokenizer.out_bytes, output->detokenizer.out_chars};
    bool end = ends(output, id);
    output->n_tokens++;
    output->n_pending++;
    bool stopped = (!end || output->include_stop_str) && take_text(output, id, &offset);
    if (!stopped && (end || output->n_tokens >= output->max_tokens)) {
        output->finish = end ? OUTPUT_STOP : OUTPUT_LENGTH;
        close_text(output);
    }
    divide(output, false);
    if (output->finish != OUTPUT_OPEN)
        divide(output, true);
    if (output->return_token_ids) {
        comma(&output->ids);
        sl_buf_add_format(&output->ids, "%u", id);
    }
    if (output->n_logprobs >= 0 && output->chat)
        add_entries(output, id, logprob);
    else if (output->n_logprobs >= 0)
        add_logprobs(output, id, logprob, output->echo_chars + offset.chars);
    return output->finish;
}

/* ---- the prompt ---- */

sl_status output_init_echo(struct output *echo, const struct output_args *args, const char *text,
                           size_t bytes, const uint32_t *ids, size_t n_ids)
{
    sl_status status = output_init(echo, args);
    if (status != SL_OK)
        return status;
    if (text != NULL)
        sl_buf_add(&echo->text, text, bytes);
    else
        text_tokenizer_decode(args->tokenizer, ids, n_ids, args->completion->skip_special_tokens,
                              &echo->text);
    for (size_t i = 0; i < echo->text.bytes; i++)
        echo->echo_chars += ((unsigned char)echo->text.data[i] & 0xc0) != 0x80;
    return SL_OK;
}

static void add_score(struct output *echo, uint32_t id, float logprob, uint32_t rank)
{
    struct sl_buf *out = &echo->entries;
    sl_buf_add_format(out, "\"%u\":{\"logprob\":", id);
    add_logprob(out, logprob);
    sl_buf_add_format(out, ",\"rank\":%u,\"decoded_token\":", rank);
    add_name(echo, id, out);
    sl_buf_add_text(out, "}");
}

/* One entry of prompt_logprobs: the token itself, and the likeliest. */
static void add_scores(struct output *echo, uint32_t id, const struct output_logprob *logprob)
{
    struct sl_buf *out = &echo->entries;
    comma(out);
    if (logprob == NULL) {
        sl_buf_add_text(out, "null");
        return;
    }
    sl_buf_add_text(out, "{");
    add_score(echo, id, logprob->sampled, logprob->rank);
    for (uint32_t i = 0; i < logprob->n_top && i < (uint32_t)echo->prompt_logprobs; i++) {
        if (logprob->top_ids[i] == id)
            continue;
        sl_buf_add_text(out, ",");
        add_score(echo, logprob->top_ids[i], logprob->top[i], i + 1);
    }
    sl_buf_add_text(out, "}");
}

void output_push_prompt(struct output *echo, uint32_t id, const struct output_logprob *logprob)
{
    struct text_offset offset = {echo->detokenizer.out_bytes, echo->detokenizer.out_chars};
    sl_buf_reset(&echo->piece);
    text_detokenizer_push(&echo->detokenizer, id, &echo->piece, &offset);
    echo->n_tokens++;
    if (echo->n_logprobs >= 0)
        add_logprobs(echo, id, logprob, offset.chars);
    if (echo->prompt_logprobs >= 0)
        add_scores(echo, id, logprob);
}

void output_set_echo(struct output *output, const struct output *echo, bool shown)
{
    output->echo = echo;
    output->shows_echo = shown;
    output->echo_chars = shown ? echo->echo_chars : 0;
}

void output_end(struct output *output)
{
    output->finish = OUTPUT_LENGTH;
    output->n_pending++;
}

/* Tokens to text to JSON.
 *
 *   token ─► end or stop id? ─► detokenizer (whole characters) ─► stop strings (may hold back) ─► text
 *        └─► ids, names, logprobs, offsets: JSON fragments, kept until the next chunk or the body
 *
 * Text lags behind its tokens where a character or a possible stop string is incomplete; ids and logprobs
 * do not. An end token, and a stop id, counts as a token but has no text. The work for a token does
 * not depend on how many came before it. */
#include "coordinator/output.h"

#include "base/clock.h"
#include "base/mem.h"

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
                                  .min_tokens = completion->min_tokens};
    sl_status status = text_stop_create(&args, &output->stop);
    if (status != SL_OK)
        return status;
    for (uint32_t i = 0; i < completion->n_stops; i++)
        output->stop_texts[output->n_stops++] = sl_strdup(completion->stops[i]);
    return SL_OK;
}

sl_status output_init(struct output *output, const struct text_tokenizer *tokenizer,
                      const struct api_completion *completion, const char *model)
{
    memset(output, 0, sizeof(*output));
    output->tokenizer = tokenizer;
    output->model = model;
    output->created = (uint64_t)sl_wall_seconds();
    output->stream = completion->stream;
    output->include_usage = completion->include_usage;
    output->return_token_ids = completion->return_token_ids;
    output->n_logprobs = completion->logprobs;
    output->max_tokens = completion->max_tokens;
    output->min_tokens = completion->min_tokens;
    output->ignore_eos = completion->ignore_eos;
    output->n_stop_ids = completion->n_stop_ids;
    memcpy(output->stop_ids, completion->stop_ids, sizeof(output->stop_ids));
    output->stop_string = -1;
    output->stop_id = -1;
    uint64_t random = 0;
    if (getrandom(&random, sizeof(random), 0) != (ssize_t)sizeof(random))
        random = sl_real_us();
    snprintf(output->id, sizeof(output->id), "cmpl-%016" PRIx64, random);
    text_detokenizer_init(&output->detokenizer, tokenizer, true);
    sl_buf_init(&output->text, OUTPUT_TEXT_BYTES_MAX);
    sl_buf_init(&output->piece, NAME_BYTES_MAX * 4);
    sl_buf_init(&output->ids, FRAGMENT_BYTES_MAX);
    sl_buf_init(&output->names, FRAGMENT_BYTES_MAX);
    sl_buf_init(&output->values, FRAGMENT_BYTES_MAX);
    sl_buf_init(&output->tops, FRAGMENT_BYTES_MAX);
    sl_buf_init(&output->offsets, FRAGMENT_BYTES_MAX);
    sl_status status = create_stop(output, completion);
    if (status != SL_OK)
        output_fini(output);
    return status;
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
    sl_buf_fini(&output->piece);
    sl_buf_fini(&output->ids);
    sl_buf_fini(&output->names);
    sl_buf_fini(&output->values);
    sl_buf_fini(&output->tops);
    sl_buf_fini(&output->offsets);
    memset(output, 0, sizeof(*output));
}

sl_status output_status(const struct output *output)
{
    const struct sl_buf *const bufs[] = {&output->text,   &output->ids,  &output->names,
                                         &output->values, &output->tops, &output->offsets};
    for (size_t i = 0; i < sizeof(bufs) / sizeof(bufs[0]); i++)
        if (bufs[i]->failed)
            return sl_buf_status(bufs[i], "completion");
    return SL_OK;
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

static void add_name(struct output *output, uint32_t id, bool as_bytes, struct sl_buf *out)
{
    sl_buf_reset(&output->piece);
    text_tokenizer_token_name(output->tokenizer, id, as_bytes, &output->piece);
    sl_buf_add_json_string(out, output->piece.data != NULL ? output->piece.data : "",
                           output->piece.bytes);
}

/* Whether an earlier one of the likeliest has the same name. */
static bool collides(struct output *output, const uint32_t *ids, uint32_t i)
{
    bool same = false;
    struct sl_buf mine, other;
    sl_buf_init(&mine, NAME_BYTES_MAX);
    sl_buf_init(&other, NAME_BYTES_MAX);
    text_tokenizer_token_name(output->tokenizer, ids[i], false, &mine);
    for (uint32_t k = 0; k < i && !same; k++) {
        sl_buf_reset(&other);
        text_tokenizer_token_name(output->tokenizer, ids[k], false, &other);
        same = mine.bytes == other.bytes &&
               (mine.bytes == 0 || memcmp(mine.data, other.data, mine.bytes) == 0);
    }
    sl_buf_fini(&mine);
    sl_buf_fini(&other);
    return same;
}

static void add_logprobs(struct output *output, uint32_t id, const struct output_logprob *logprob,
                         uint64_t offset)
{
    comma(&output->names);
    add_name(output, id, false, &output->names);
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
        add_name(output, logprob->top_ids[i], collides(output, logprob->top_ids, i), &output->tops);
        sl_buf_add_text(&output->tops, ":");
        add_logprob(&output->tops, logprob->top[i]);
    }
    sl_buf_add_text(&output->tops, "}");
}

/* Whatever is held back belongs to the text now, unless it completes a stop string. */
static void close_text(struct output *output)
{
    sl_buf_reset(&output->piece);
    text_detokenizer_flush(&output->detokenizer, &output->piece);
    if (output->piece.bytes > 0 &&
        text_stop_push(output->stop, output->piece.data, output->piece.bytes, &output->text)) {
        output->finish = OUTPUT_STOP;
        output->stop_string = text_stop_index(output->stop);
        return;
    }
    text_stop_flush(output->stop, &output->text);
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
    if (end) {
        output->finish = OUTPUT_STOP;
        close_text(output);
    } else {
        sl_buf_reset(&output->piece);
        text_detokenizer_push(&output->detokenizer, id, &output->piece, &offset);
        const char *text = output->piece.data != NULL ? output->piece.data : "";
        if (text_stop_push(output->stop, text, output->piece.bytes, &output->text)) {
            output->finish = OUTPUT_STOP;
            output->stop_string = text_stop_index(output->stop);
        } else if (output->n_tokens >= output->max_tokens) {
            output->finish = OUTPUT_LENGTH;
            close_text(output);
        }
    }
    if (output->return_token_ids) {
        comma(&output->ids);
        sl_buf_add_format(&output->ids, "%u", id);
    }
    if (output->n_logprobs >= 0)
        add_logprobs(output, id, logprob, offset.chars);
    return output->finish;
}

static void add_buf(struct sl_buf *out, const struct sl_buf *from)
{
    if (from->bytes > 0)
        sl_buf_add(out, from->data, from->bytes);
}

static void add_prompt_ids(struct sl_buf *out, const uint32_t *ids, uint32_t n_ids)
{
    sl_buf_add_text(out, ",\"prompt_token_ids\":[");
    for (uint32_t i = 0; i < n_ids; i++)
        sl_buf_add_format(out, i > 0 ? ",%u" : "%u", ids[i]);
    sl_buf_add_text(out, "]");
}

static void add_finish(const struct output *output, struct sl_buf *out)
{
    static const char *const names[] = {"null", "\"stop\"", "\"length\""};
    sl_buf_add_format(out, ",\"finish_reason\":%s,\"stop_reason\":", names[output->finish]);
    if (output->stop_string >= 0) {
        const char *text = output->stop_texts[output->stop_string];
        sl_buf_add_json_string(out, text, strlen(text));
    } else if (output->stop_id >= 0) {
        sl_buf_add_format(out, "%" PRId64, output->stop_id);
    } else {
        sl_buf_add_text(out, "null");
    }
}

static void add_choice(const struct output *output, const uint32_t *prompt_ids, uint32_t n_prompt,
                       struct sl_buf *out)
{
    sl_buf_add_text(out, "{\"index\":0,\"text\":");
    sl_buf_add_json_string(out, output->text.data != NULL ? output->text.data : "",
                           output->text.bytes);
    if (output->n_logprobs >= 0) {
        sl_buf_add_text(out, ",\"logprobs\":{\"text_offset\":[");
        add_buf(out, &output->offsets);
        sl_buf_add_text(out, "],\"token_logprobs\":[");
        add_buf(out, &output->values);
        sl_buf_add_text(out, "],\"tokens\":[");
        add_buf(out, &output->names);
        sl_buf_add_text(out, "],\"top_logprobs\":[");
        add_buf(out, &output->tops);
        sl_buf_add_text(out, "]}");
    } else {
        sl_buf_add_text(out, ",\"logprobs\":null");
    }
    add_finish(output, out);
    if (output->return_token_ids) {
        sl_buf_add_text(out, ",\"token_ids\":[");
        add_buf(out, &output->ids);
        sl_buf_add_text(out, "]");
        if (prompt_ids != NULL)
            add_prompt_ids(out, prompt_ids, n_prompt);
    }
    sl_buf_add_text(out, "}");
}

static void add_head(const struct output *output, struct sl_buf *out)
{
    sl_buf_add_format(
        out, "{\"id\":\"%s\",\"object\":\"text_completion\",\"created\":%" PRIu64 ",\"model\":",
        output->id, output->created);
    sl_buf_add_json_string(out, output->model, strlen(output->model));
    sl_buf_add_text(out, ",\"choices\":[");
}

static void add_usage(const struct output_usage *usage, struct sl_buf *out)
{
    sl_buf_add_format(out,
                      ",\"usage\":{\"prompt_tokens\":%u,\"completion_tokens\":%u,"
                      "\"total_tokens\":%u,\"prompt_tokens_details\":{\"cached_tokens\":%u}}",
                      usage->prompt_tokens, usage->completion_tokens,
                      usage->prompt_tokens + usage->completion_tokens, usage->cached_tokens);
}

void output_chunk(struct output *output, const uint32_t *prompt_ids, uint32_t n_prompt_ids,
                  struct sl_buf *out)
{
    sl_buf_add_text(out, "data: ");
    add_head(output, out);
    add_choice(output, output->first_chunk_sent ? NULL : prompt_ids, n_prompt_ids, out);
    sl_buf_add_text(out, output->include_usage ? "],\"usage\":null}\n\n" : "]}\n\n");
    output->first_chunk_sent = true;
    output->n_pending = 0;
    sl_buf_reset(&output->text);
    sl_buf_reset(&output->ids);
    sl_buf_reset(&output->names);
    sl_buf_reset(&output->values);
    sl_buf_reset(&output->tops);
    sl_buf_reset(&output->offsets);
}

void output_done(const struct output *output, const struct output_usage *usage, struct sl_buf *out)
{
    if (output->include_usage) {
        sl_buf_add_text(out, "data: ");
        add_head(output, out);
        sl_buf_add_text(out, "]");
        add_usage(usage, out);
        sl_buf_add_text(out, "}\n\n");
    }
    sl_buf_add_text(out, "data: [DONE]\n\n");
}

void output_body(const struct output *output, const struct output_usage *usage,
                 const uint32_t *prompt_ids, struct sl_buf *out)
{
    add_head(output, out);
    add_choice(output, prompt_ids, usage->prompt_tokens, out);
    sl_buf_add_text(out, "]");
    add_usage(usage, out);
    sl_buf_add_text(out, "}");
}

void output_error(const struct api_error *error, struct sl_buf *out)
{
    sl_buf_add_text(out, "data: ");
    api_error_body(error, out);
    sl_buf_add_text(out, "\n\n");
}

/* What a client reads: the events of a stream and the body of a whole answer, in the shapes of the two
 * endpoints.
 *
 *   completion   choices[].text                        prompt_token_ids in the choice
 *   chat         choices[].message, or .delta          … beside the choices
 *
 * An event holds everything that is pending, and empties it; a body holds it all. The first delta alone
 * has the role. Where reasoning is told from the rest it stands in reasoning_content. */
#include "coordinator/output.h"

#include <inttypes.h>
#include <string.h>

static void add_buf(struct sl_buf *out, const struct sl_buf *from)
{
    if (from->bytes > 0)
        sl_buf_add(out, from->data, from->bytes);
}

static void add_string(struct sl_buf *out, const struct sl_buf *text)
{
    sl_buf_add_json_string(out, text->data != NULL ? text->data : "", text->bytes);
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

/* What is said before the text, once. */
static const struct output *echo_of(const struct output *output)
{
    return output->shows_echo && !output->first_chunk_sent ? output->echo : NULL;
}

static void add_text(const struct output *output, struct sl_buf *out)
{
    const struct output *echo = echo_of(output);
    struct sl_buf whole;
    if (echo == NULL) {
        add_string(out, &output->text);
        return;
    }
    sl_buf_init(&whole, 2 * OUTPUT_TEXT_BYTES_MAX);
    add_buf(&whole, &echo->text);
    add_buf(&whole, &output->text);
    add_string(out, &whole);
    out->failed |= whole.failed;
    sl_buf_fini(&whole);
}

/* Items of two lists as those of one. */
static void add_both(struct sl_buf *out, const struct sl_buf *first, const struct sl_buf *second)
{
    if (first != NULL)
        add_buf(out, first);
    if (first != NULL && first->bytes > 0 && second->bytes > 0)
        sl_buf_add_text(out, ",");
    add_buf(out, second);
}

static void add_lists(const struct output *output, struct sl_buf *out)
{
    const struct output *echo = echo_of(output);
    const struct {
        const char *name;
        const struct sl_buf *before, *items;
    } lists[] = {
        {"text_offset", echo != NULL ? &echo->offsets : NULL, &output->offsets},
        {"token_logprobs", echo != NULL ? &echo->values : NULL, &output->values},
        {"tokens", echo != NULL ? &echo->names : NULL, &output->names},
        {"top_logprobs", echo != NULL ? &echo->tops : NULL, &output->tops},
    };
    for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
        sl_buf_add_format(out, "%s\"%s\":[", i > 0 ? "," : "", lists[i].name);
        add_both(out, lists[i].before, lists[i].items);
        sl_buf_add_text(out, "]");
    }
}

static void add_logprobs(const struct output *output, struct sl_buf *out)
{
    if (output->n_logprobs < 0) {
        sl_buf_add_text(out, ",\"logprobs\":null");
    } else if (output->chat) {
        sl_buf_add_text(out, ",\"logprobs\":{\"content\":[");
        add_buf(out, &output->entries);
        sl_buf_add_text(out, "],\"refusal\":null}");
    } else {
        sl_buf_add_text(out, ",\"logprobs\":{");
        add_lists(output, out);
        sl_buf_add_text(out, "}");
    }
}

static void add_message(const struct output *output, struct sl_buf *out)
{
    sl_buf_add_text(out, "\"message\":{\"role\":\"assistant\",\"content\":");
    add_string(out, &output->text);
    if (output->thought.bytes > 0) {
        sl_buf_add_text(out, ",\"reasoning_content\":");
        add_string(out, &output->thought);
    }
    sl_buf_add_text(out, ",\"refusal\":null}");
}

/* No content in a delta that is all reasoning, but for the first. */
static void add_delta(const struct output *output, struct sl_buf *out)
{
    const char *comma = "";
    bool first = !output->first_chunk_sent;
    sl_buf_add_text(out, "\"delta\":{");
    if (first) {
        sl_buf_add_text(out, "\"role\":\"assistant\"");
        comma = ",";
    }
    if (first || output->text.bytes > 0 || output->thought.bytes == 0) {
        sl_buf_add_format(out, "%s\"content\":", comma);
        add_string(out, &output->text);
        comma = ",";
    }
    if (output->thought.bytes > 0) {
        sl_buf_add_format(out, "%s\"reasoning_content\":", comma);
        add_string(out, &output->thought);
    }
    sl_buf_add_text(out, "}");
}

/* One choice. prompt_ids NULL: not here. */
static void add_choice(const struct output *output, bool event, const uint32_t *prompt_ids,
                       uint32_t n_prompt, struct sl_buf *out)
{
    sl_buf_add_format(out, "{\"index\":%u,", output->index);
    if (!output->chat) {
        sl_buf_add_text(out, "\"text\":");
        add_text(output, out);
    } else if (event) {
        add_delta(output, out);
    } else {
        add_message(output, out);
    }
    add_logprobs(output, out);
    add_finish(output, out);
    if (output->prompt_logprobs >= 0 && output->echo != NULL) {
        sl_buf_add_text(out, ",\"prompt_logprobs\":[");
        add_buf(out, &output->echo->entries);
        sl_buf_add_text(out, "]");
    }
    if (output->return_token_ids) {
        sl_buf_add_text(out, ",\"token_ids\":[");
        add_buf(out, &output->ids);
        sl_buf_add_text(out, "]");
        if (prompt_ids != NULL && !output->chat)
            add_prompt_ids(out, prompt_ids, n_prompt);
    }
    sl_buf_add_text(out, "}");
}

/* Up to the choices. */
static void add_head(const struct output *output, bool event, struct sl_buf *out)
{
    const char *object = !output->chat ? "text_completion"
                         : event       ? "chat.completion.chunk"
                                       : "chat.completion";
    sl_buf_add_format(out, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%" PRIu64 ",\"model\":",
                      output->id, object, output->created);
    sl_buf_add_json_string(out, output->model, strlen(output->model));
    sl_buf_add_text(out, ",\"choices\":[");
}

/* What the answer cost, and who gave it. */
static void add_usage(const struct output *output, const struct output_usage *usage,
                      struct sl_buf *out)
{
    sl_buf_add_format(out,
                      ",\"usage\":{\"prompt_tokens\":%u,\"completion_tokens\":%u,"
                      "\"total_tokens\":%u,\"prompt_tokens_details\":{\"cached_tokens\":%u}",
                      usage->prompt_tokens, usage->completion_tokens,
                      usage->prompt_tokens + usage->completion_tokens, usage->cached_tokens);
    if (output->reasoning.marks != NULL)
        sl_buf_add_format(out, ",\"completion_tokens_details\":{\"reasoning_tokens\":%u}",
                          usage->reasoning_tokens);
    sl_buf_add_text(out, "}");
    if (usage->decode != NULL)
        sl_buf_add_format(out, ",\"sluice\":{\"prefill\":\"%s\",\"decode\":\"%s\",\"attempts\":%u}",
                          usage->prefill, usage->decode, usage->attempts);
}

void output_chunk(struct output *output, const uint32_t *prompt_ids, uint32_t n_prompt_ids,
                  struct sl_buf *out)
{
    if (output->first_chunk_sent)
        prompt_ids = NULL;
    sl_buf_add_text(out, "data: ");
    add_head(output, true, out);
    add_choice(output, true, prompt_ids, n_prompt_ids, out);
    sl_buf_add_text(out, "]");
    if (output->chat && output->return_token_ids && prompt_ids != NULL)
        add_prompt_ids(out, prompt_ids, n_prompt_ids);
    sl_buf_add_text(out, output->include_usage ? ",\"usage\":null}\n\n" : "}\n\n");
    output->first_chunk_sent = true;
    output->n_pending = 0;
    struct sl_buf *const sent[] = {&output->text,    &output->thought, &output->ids,
                                   &output->entries, &output->names,   &output->values,
                                   &output->tops,    &output->offsets};
    for (size_t i = 0; i < sizeof(sent) / sizeof(sent[0]); i++)
        sl_buf_reset(sent[i]);
}

void output_done(const struct output *output, const struct output_usage *usage, struct sl_buf *out)
{
    if (output->include_usage) {
        sl_buf_add_text(out, "data: ");
        add_head(output, true, out);
        sl_buf_add_text(out, "]");
        add_usage(output, usage, out);
        sl_buf_add_text(out, "}\n\n");
    }
    sl_buf_add_text(out, "data: [DONE]\n\n");
}

void output_body_begin(const struct output *first, struct sl_buf *out)
{
    add_head(first, false, out);
}

void output_body_choice(const struct output *output, const uint32_t *prompt_ids,
                        uint32_t n_prompt_ids, struct sl_buf *out)
{
    if (output->index > 0)
        sl_buf_add_text(out, ",");
    add_choice(output, false, prompt_ids, n_prompt_ids, out);
}

void output_body_end(const struct output *first, const struct output_usage *usage,
                     const uint32_t *prompt_ids, uint32_t n_prompt_ids, struct sl_buf *out)
{
    sl_buf_add_text(out, "]");
    if (first->chat && first->return_token_ids && prompt_ids != NULL)
        add_prompt_ids(out, prompt_ids, n_prompt_ids);
    add_usage(first, usage, out);
    sl_buf_add_text(out, "}");
}

void output_error(const struct api_error *error, struct sl_buf *out)
{
    sl_buf_add_text(out, "data: ");
    api_error_body(error, out);
    sl_buf_add_text(out, "\n\n");
}

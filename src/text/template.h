/* Chat templates: the Jinja templates that models ship, rendered as transformers renders them.
 *
 * A template is read-only once it is open: any number of threads may render it at a time. What it
 * may do is bounded (steps, bytes, depth, memory); passing a bound is SL_EXHAUSTED and the sentence
 * names it. What it asks for with raise_exception is SL_INVALID with that text as the sentence; any
 * other error is SL_INVALID and names file or template, line and what is wrong. */
#ifndef SL_TEXT_TEMPLATE_H
#define SL_TEXT_TEMPLATE_H

#include "base/buf.h"
#include "base/json.h"
#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TEXT_TEMPLATE_BYTES_MAX  (1u << 20)
#define TEXT_TEMPLATE_NESTED_MAX 100u /* levels of brackets and of blocks in the source */

struct text_template;

/* 0: the default. */
struct text_template_limits {
    uint64_t steps_max; /* expressions, loop rounds and 64 bytes worked on; default 20 million */
    size_t output_bytes_max; /* of the prompt, and of any text that is put together; 16 MiB */
    size_t memory_bytes_max; /* all values of one rendering; 256 MiB */
    uint32_t depth_max;      /* nested expressions, blocks and calls; 400, which is also the most */
};

struct text_template_args {
    const json_t *messages;  /* array of objects */
    const json_t *tools;     /* array; NULL: none */
    const json_t *documents; /* array; NULL: none */
    const json_t
        *kwargs; /* chat_template_kwargs: object; NULL: none. They win over special tokens */
    bool add_generation_prompt;
    bool continue_final_message;       /* the prompt ends with the content of the last message */
    const char *bos_token, *eos_token; /* NULL: those of the model directory, if any */
    double now; /* seconds since the epoch, for strftime_now (local time); 0: the clock */
    struct text_template_limits limits;
};

/* The template of a model directory: chat_template.jinja (and additional_chat_templates/tool_use.jinja),
 * else chat_template of tokenizer_config.json, a string or a list of {name, template}. Special tokens
 * come from tokenizer_config.json and, where it is silent, special_tokens_map.json. SL_NOT_FOUND: the
 * model has none; SL_INVALID names file, line and what does not parse. */
sl_status text_template_open(const char *model_dir,
                             struct text_template **template_out) SL_MUST_USE;
/* One template from its text (UTF-8); `what` is for the sentences. */
sl_status text_template_parse(const char *what, const char *text, size_t bytes,
                              struct text_template **template_out) SL_MUST_USE;
void text_template_destroy(struct text_template *template);

/* Appends the prompt. The template named tool_use is taken where there is one and tools are given,
 * else the default. As transformers does before it renders: keys of a message whose value is null are
 * left out, and reasoning_content, thinking and reasoning are known under each other's name. */
sl_status text_template_render(const struct text_template *template,
                               const struct text_template_args *args,
                               struct sl_buf *out) SL_MUST_USE;

/* Whether a text stands in one of the templates, and whether one goes through the parts of a content
 * (else content has to be text). */
bool text_template_mentions(const struct text_template *template, const char *text);
bool text_template_takes_parts(const struct text_template *template);

/* A special token of the directory, such as "bos_token"; NULL if there is none. */
const char *text_template_special(const struct text_template *template, const char *name);

#endif

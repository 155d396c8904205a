/* Chat: the messages of a request, checked; and the model's chat template, which makes a prompt of
 * them. */
#ifndef SL_COORDINATOR_CHAT_H
#define SL_COORDINATOR_CHAT_H

#include "base/buf.h"
#include "coordinator/api.h"
#include "text/reasoning.h"
#include "text/tokenizer.h"

struct text_template;

/* What the coordinator knows of a model's chat. Constant once it is open. */
struct chat_model {
    struct text_template *template; /* NULL: chat is refused, because */
    bool broken;                    /* … it does not compile; else there is none */
    char why[API_MESSAGE_BYTES / 2];
    bool takes_parts;     /* the template goes through the parts of a content */
    bool knows_developer; /* … and has a use for that role; else it becomes "system" */
    const struct text_reasoning_marks *marks; /* NULL: the model marks no reasoning */
};

/* Opens the template of a model directory. One that is not there or does not compile is logged, and
 * the reason for which chats are refused. split_reasoning false: as if there were no marks. */
void chat_open(const char *model_dir, const struct text_tokenizer *tokenizer, bool split_reasoning,
               struct chat_model *model);
void chat_close(struct chat_model *model);

/* Reads messages, tools, documents, chat_template_kwargs and what goes with them. Arguments of tool calls
 * that are JSON in a string become objects, in the body. SL_OK, or a refusal in *error. */
sl_status chat_read(json_t *body, struct api_messages *out, struct api_error *error) SL_MUST_USE;
/* Whether the tools can be had: the template may show them, but nothing reads calls from an answer. */
sl_status chat_check_tools(const json_t *body, const struct api_messages *input,
                           struct api_error *error) SL_MUST_USE;
/* Appends the prompt; brings the messages into the form that this template expects. */
sl_status chat_render(const struct chat_model *model, struct api_messages *input,
                      struct sl_buf *prompt, struct api_error *error) SL_MUST_USE;
/* Whether an answer to this prompt begins within the reasoning. */
bool chat_opens_reasoning(const struct chat_model *model, const struct api_messages *input,
                          const struct sl_buf *prompt);

#endif

/* A template of any bytes, rendered over a small conversation within small bounds: it ends in a prompt
 * that is UTF-8, or in an error with a sentence. */
#include "text/chars.h"
#include "text/template.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char conversation[] = "[{\"role\": \"system\", \"content\": \" Be k\\u00efnd \"}, "
                                   "{\"role\": \"user\", \"content\": \"Hi\","
                                   " \"n\": [1, 2.5, null, true, {\"a\": \"b\"}]}, {\"role\": "
                                   "\"assistant\", \"content\": \"<think>x</think>y\"}]";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct text_template *template = NULL;
    json_t *messages = NULL;
    struct sl_buf out;

    if (text_template_parse("fuzz", (const char *)data, size, &template) != SL_OK) {
        SL_ASSERT(sl_error()[0] != '\0' && template == NULL);
        return 0;
    }
    sl_buf_init(&out, 1u << 20);
    sl_status status =
        sl_json_parse("messages", conversation, sizeof(conversation) - 1, 4096, &messages);
    SL_ASSERT(status == SL_OK);
    status = text_template_render(template,
                                  &(struct text_template_args){
                                      .messages = messages,
                                      .tools = messages,
                                      .bos_token = "<s>",
                                      .now = 1,
                                      .add_generation_prompt = size % 2 == 0,
                                      .continue_final_message = size % 4 == 1,
                                      .limits = {.steps_max = 100000,
                                                 .output_bytes_max = 1u << 18,
                                                 .memory_bytes_max = 8u << 20},
                                  },
                                  &out);
    SL_ASSERT(status == SL_OK || sl_error()[0] != '\0');
    SL_ASSERT(status != SL_OK || out.bytes == 0 || text_utf8_valid(out.data, out.bytes, NULL));
    json_decref(messages);
    sl_buf_fini(&out);
    text_template_destroy(template);
    return 0;
}

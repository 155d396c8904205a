/* render: a filter for tools/text_tables.py. Not a test.
 *
 * Reads lines of JSON from standard input, {"template": text, "messages": […]} with, if they are wanted,
 * "tools", "kwargs", "add" (the generation prompt) and "continue" (the final message); writes a line of
 * JSON for each: {"text": prompt} or {"error": sentence, "code": status}. */
#include "base/mem.h"
#include "text/template.h"

#include <stdio.h>
#include <string.h>

#define LINE_BYTES_MAX (16u << 20)
#define TEXT_BYTES_MAX (16u << 20)

static sl_status render(const json_t *line, struct sl_buf *out)
{
    const json_t *text = json_object_get(line, "template");
    struct text_template *template = NULL;

    if (!json_is_string(text))
        return sl_fail(SL_INVALID, "a line without a template");
    sl_status status = text_template_parse("template", json_string_value(text),
                                           json_string_length(text), &template);
    if (status == SL_OK)
        status = text_template_render(
            template,
            &(struct text_template_args){
                .messages = json_object_get(line, "messages"),
                .tools = json_object_get(line, "tools"),
                .kwargs = json_object_get(line, "kwargs"),
                .add_generation_prompt = json_is_true(json_object_get(line, "add")),
                .continue_final_message = json_is_true(json_object_get(line, "continue")),
            },
            out);
    text_template_destroy(template);
    return status;
}

static int answer(const char *text, size_t bytes)
{
    struct sl_buf out, shown;
    json_t *line = NULL;

    sl_buf_init(&out, TEXT_BYTES_MAX);
    sl_buf_init(&shown, (size_t)TEXT_BYTES_MAX * 8);
    sl_status status = sl_json_parse("line", text, bytes, LINE_BYTES_MAX, &line);
    if (status == SL_OK)
        status = render(line, &out);
    sl_buf_add_text(&shown, status == SL_OK ? "{\"text\":" : "{\"error\":");
    if (status == SL_OK)
        sl_buf_add_json_string(&shown, out.data == NULL ? "" : out.data, out.bytes);
    else
        sl_buf_add_json_string(&shown, sl_error(), strlen(sl_error()));
    sl_buf_add_format(&shown, ",\"code\":\"%s\"}\n", sl_status_name(status));
    bool failed = shown.failed || fwrite(shown.data, 1, shown.bytes, stdout) != shown.bytes;
    json_decref(line);
    sl_buf_fini(&out);
    sl_buf_fini(&shown);
    return failed || fflush(stdout) != 0;
}

int main(void)
{
    char *line = NULL;
    size_t capacity = 0;
    int failed = 0;

    for (ssize_t bytes; failed == 0 && (bytes = getline(&line, &capacity, stdin)) > 0;)
        failed = answer(line, (size_t)bytes);
    free(line);
    return failed;
}

/* Chat templates: opening a model's, and rendering one conversation.
 *
 * A text_template owns one or more parsed sources (by name: "default", "tool_use", …) and the special
 * tokens of the directory; it never changes once it is open. A rendering has an arena and buffers of
 * its own, gone when it ends. What is done to the messages before and to the text behind is what
 * transformers does (render_jinja_template): null values are left out, names of the reasoning are
 * made the same, and a final message that shall be continued is marked, and the text cut at the mark. */
#include "text/template.h"

#include "base/clock.h"
#include "base/mem.h"
#include "text/chars.h"
#include "text/template_parts.h"

#define NAMED_MAX    16u
#define FILE_MAX     (16u << 20)
#define CHUNK_BYTES  (64u << 10)
#define SOURCE_BYTES (256u << 20)
#define CONTINUE_TAG "CONTINUE_FINAL_MESSAGE_TAG "

struct named {
    char *name;
    struct tpl_source source;
};

struct text_template {
    char *what;
    struct named *named[NAMED_MAX];
    uint32_t n_named;
    json_t *specials; /* object of strings and lists of them */
};

static const char *const special_names[] = {
    "bos_token", "eos_token", "unk_token",  "sep_token",
    "pad_token", "cls_token", "mask_token", "additional_special_tokens",
};

void text_template_destroy(struct text_template *template)
{
    if (template == NULL)
        return;
    for (uint32_t i = 0; i < template->n_named; i++) {
        sl_arena_fini(&template->named[i]->source.arena);
        sl_free(template->named[i]->name);
        sl_free(template->named[i]);
    }
    json_decref(template->specials);
    sl_free(template->what);
    sl_free(template);
}

static struct text_template *template_new(const char *what)
{
    struct text_template *template = sl_zalloc(1, sizeof(*template));

    template->what = sl_strdup(what);
    return template;
}

/* Parses one source and adds it under its name. */
static sl_status add_source(struct text_template *template, const char *name, const char *text,
                            size_t bytes)
{
    if (bytes > TEXT_TEMPLATE_BYTES_MAX)
        return sl_fail(SL_INVALID, "%s: a template of %zu bytes; at most %u", template->what, bytes,
                       TEXT_TEMPLATE_BYTES_MAX);
    if (!text_utf8_valid(text, bytes, NULL))
        return sl_fail(SL_INVALID, "%s: the template is not UTF-8", template->what);
    if (template->n_named == NAMED_MAX)
        return sl_fail(SL_INVALID, "%s: more than %u templates", template->what, NAMED_MAX);
    struct named *named = sl_zalloc(1, sizeof(*named));
    named->name = sl_strdup(name);
    template->named[template->n_named++] = named;
    sl_arena_init(&named->source.arena, CHUNK_BYTES, SOURCE_BYTES);
    char *copy = sl_arena_try_strndup(&named->source.arena, text, bytes);
    if (copy == NULL)
        return sl_fail(SL_NO_MEMORY, "%s: template of %zu bytes", template->what, bytes);
    named->source.text = copy;
    named->source.bytes = bytes;
    return tpl_parse(template->what, &named->source);
}

static const struct tpl_source *find_source(const struct text_template *template, const char *name)
{
    for (uint32_t i = 0; i < template->n_named; i++)
        if (strcmp(template->named[i]->name, name) == 0)
            return &template->named[i]->source;
    return NULL;
}

sl_status text_template_parse(const char *what, const char *text, size_t bytes,
                              struct text_template **template_out)
{
    struct text_template *template = template_new(what);
    sl_status status = add_source(template, "default", text, bytes);

    if (status != SL_OK) {
        text_template_destroy(template);
        return status;
    }
    *template_out = template;
    return SL_OK;
}

/* Adds a file as a template; that it does not exist is fine. */
static sl_status add_file(struct text_template *template, const char *dir, const char *file,
                          const char *name)
{
    char *path = sl_asprintf("%s/%s", dir, file);
    FILE *handle = fopen(path, "re");
    sl_status status = SL_OK;

    if (handle != NULL) {
        char *text = sl_try_zalloc(TEXT_TEMPLATE_BYTES_MAX + 1, 1);
        size_t n = text == NULL ? 0 : fread(text, 1, TEXT_TEMPLATE_BYTES_MAX + 1, handle);
        if (text == NULL)
            status = sl_fail(SL_NO_MEMORY, "%s", path);
        else if (ferror(handle))
            status = sl_fail(SL_DEVICE, "%s cannot be read", path);
        else
            status = add_source(template, name, text, n);
        sl_free(text);
        fclose(handle);
    }
    sl_free(path);
    return status;
}

/* chat_template of tokenizer_config.json: a string, or a list of {name, template}. */
static sl_status add_config(struct text_template *template, const json_t *value)
{
    sl_status status = SL_OK;

    if (json_is_string(value))
        return add_source(template, "default", json_string_value(value), json_string_length(value));
    if (value == NULL || json_is_null(value))
        return SL_OK;
    if (!json_is_array(value))
        return sl_fail(SL_INVALID, "%s: chat_template is neither a string nor a list",
                       template->what);
    for (size_t i = 0; i < json_array_size(value) && status == SL_OK; i++) {
        const json_t *row = json_array_get(value, i), *text = json_object_get(row, "template");
        const char *name = json_string_value(json_object_get(row, "name"));
        if (name == NULL || !json_is_string(text))
            return sl_fail(SL_INVALID, "%s: chat_template: entry %zu has no name and template",
                           template->what, i);
        status = add_source(template, name, json_string_value(text), json_string_length(text));
    }
    return status;
}

/* The special tokens of a file; those known already stay. */
static sl_status add_specials(struct text_template *template, const json_t *config)
{
    for (size_t i = 0; i < sizeof(special_names) / sizeof(special_names[0]); i++) {
        json_t *token = json_object_get(config, special_names[i]);
        if (json_is_object(token))
            token = json_object_get(token, "content");
        if (json_object_get(template->specials, special_names[i]) != NULL ||
            (!json_is_string(token) && !json_is_array(token)))
            continue;
        if (json_object_set(template->specials, special_names[i], token) != 0)
            return sl_fail(SL_NO_MEMORY, "%s: special tokens", template->what);
    }
    return SL_OK;
}

static sl_status load(const char *dir, const char *file, json_t **value_out)
{
    char *path = sl_asprintf("%s/%s", dir, file);
    sl_status status = sl_json_load(path, FILE_MAX, value_out);

    sl_free(path);
    return status == SL_NOT_FOUND ? SL_OK : status;
}

sl_status text_template_open(const char *model_dir, struct text_template **template_out)
{
    struct text_template *template = template_new(model_dir);
    json_t *config = NULL, *specials = NULL;
    sl_status status = load(model_dir, "tokenizer_config.json", &config);

    if (status == SL_OK)
        status = load(model_dir, "special_tokens_map.json", &specials);
    template->specials = json_object();
    if (status == SL_OK && template->specials == NULL)
        status = sl_fail(SL_NO_MEMORY, "%s: special tokens", model_dir);
    if (status == SL_OK)
        status = add_specials(template, config);
    if (status == SL_OK)
        status = add_specials(template, specials);
    if (status == SL_OK)
        status = add_file(template, model_dir, "chat_template.jinja", "default");
    if (status == SL_OK)
        status =
            add_file(template, model_dir, "additional_chat_templates/tool_use.jinja", "tool_use");
    if (status == SL_OK && template->n_named == 0)
        status = add_config(template, json_object_get(config, "chat_template"));
    if (status == SL_OK && find_source(template, "default") == NULL)
        status = sl_fail(SL_NOT_FOUND, "%s: the model has no chat template", model_dir);
    json_decref(config);
    json_decref(specials);
    if (status != SL_OK) {
        text_template_destroy(template);
        return status;
    }
    /* What a client reads when it cannot be rendered; the directory is not its affair. */
    sl_free(template->what);
    template->what = sl_strdup("chat template");
    *template_out = template;
    return SL_OK;
}

bool text_template_mentions(const struct text_template *template, const char *text)
{
    for (uint32_t i = 0; i < template->n_named; i++) {
        const struct tpl_source *source = &template->named[i]->source;
        if (memmem(source->text, source->bytes, text, strlen(text)) != NULL)
            return true;
    }
    return false;
}

bool text_template_takes_parts(const struct text_template *template)
{
    for (uint32_t i = 0; i < template->n_named; i++)
        if (tpl_takes_parts(&template->named[i]->source))
            return true;
    return false;
}

const char *text_template_special(const struct text_template *template, const char *name)
{
    return json_string_value(json_object_get(template->specials, name));
}

static void set_text(struct tpl_run *run, struct tpl_dict *dict, const char *name,
                     struct tpl_value value)
{
    tpl_dict_set(run, dict, tpl_string(name, strlen(name)), value);
}

/* A message without null values, its reasoning under all names. */
static struct tpl_value message_of(struct tpl_run *run, const json_t *json)
{
    static const char *const names[] = {"reasoning_content", "thinking", "reasoning"};
    struct tpl_value all = tpl_from_json(run, json);
    struct tpl_dict *dict = tpl_dict_new(run, json_object_size(json) + 2);
    const struct tpl_value *reasoning = NULL;

    for (int i = 0; i < 3 && reasoning == NULL && !tpl_failed(run); i++) {
        reasoning = tpl_dict_find(run, all.dict, tpl_string(names[i], strlen(names[i])));
        if (reasoning != NULL && reasoning->kind == TPL_NONE)
            reasoning = NULL;
    }
    if (reasoning != NULL)
        set_text(run, dict, "thinking", *reasoning);
    for (size_t i = 0; !tpl_failed(run) && i < all.dict->n; i++)
        if (all.dict->pairs[i].value.kind != TPL_NONE)
            tpl_dict_set(run, dict, all.dict->pairs[i].key, all.dict->pairs[i].value);
    if (reasoning != NULL)
        set_text(run, dict, "reasoning_content", *reasoning);
    return tpl_failed(run) ? tpl_none() : tpl_of_dict(TPL_DICT, dict);
}

/* Marks the end of the final message; *final_out is its text without the mark. */
static void mark_final(struct tpl_run *run, const struct tpl_list *messages,
                       struct tpl_value *final_out)
{
    struct tpl_value key = tpl_string("content", 7),
                     tag = tpl_string(CONTINUE_TAG, strlen(CONTINUE_TAG));
    struct tpl_value *content =
        messages->n == 0 ? NULL : tpl_dict_find(run, messages->items[messages->n - 1].dict, key);

    if (content == NULL) {
        tpl_fail(run, "continue_final_message: there is no final message with content");
        return;
    }
    if (memmem(run->source->text, run->source->bytes, "content", 7) == NULL) {
        tpl_fail(run, "continue_final_message: the template does not look at content");
        return;
    }
    if (content->kind == TPL_LIST) {
        struct tpl_value text = tpl_string("text", 4), *found = NULL;
        for (size_t i = content->list->n; found == NULL && i-- > 0 && !tpl_failed(run);)
            if (content->list->items[i].kind == TPL_DICT)
                found = tpl_dict_find(run, content->list->items[i].dict, text);
        content = found;
    }
    if (content == NULL || content->kind != TPL_STRING) {
        tpl_fail(run, "continue_final_message: the final message has no text");
        return;
    }
    *final_out = *content;
    *content = tpl_binary(run, TPL_ADD, *content, tag);
}

/* Cuts the text at the mark. */
static void cut_final(struct tpl_run *run, struct sl_buf *text, struct tpl_value final)
{
    const struct tpl_value absent = {.kind = TPL_ABSENT};
    struct tpl_value part = tpl_strip(run, final, &absent, true, true);
    size_t tag = strlen(CONTINUE_TAG), n = text->bytes;
    const char *data = text->data == NULL ? "" : text->data;
    size_t at = tpl_find(run, data, 0, n, CONTINUE_TAG, tag - 1, true);

    if (tpl_failed(run))
        return;
    if (at == SIZE_MAX || tpl_find(run, data, 0, n, part.text, part.n, false) == SIZE_MAX) {
        tpl_fail(run, "continue_final_message: the template does not keep the final message");
        return;
    }
    bool whole = at + tag <= n && data[at + tag - 1] == ' ';
    struct tpl_value kept = tpl_string(data, at);
    text->bytes = whole ? at : tpl_strip(run, kept, &absent, false, true).n;
}

static void bind_json(struct tpl_run *run, struct tpl_scope *scope, const char *name,
                      const json_t *value)
{
    const struct tpl_name *known = tpl_name_find(run->source, name, strlen(name));

    if (known != NULL)
        tpl_scope_set(run, scope, known, tpl_from_json(run, value));
}

static void bind_value(struct tpl_run *run, struct tpl_scope *scope, const char *name,
                       struct tpl_value value)
{
    const struct tpl_name *known = tpl_name_find(run->source, name, strlen(name));

    if (known != NULL)
        tpl_scope_set(run, scope, known, value);
}

static void bind_object(struct tpl_run *run, struct tpl_scope *scope, const json_t *object)
{
    json_t *copy; /* jansson's iterators take no const */

    memcpy(&copy, &object, sizeof(copy));
    for (void *i = json_object_iter(copy); i != NULL; i = json_object_iter_next(copy, i)) {
        const char *key = json_object_iter_key(i);
        if (strcmp(key, "messages") == 0 || strcmp(key, "tools") == 0)
            tpl_fail(run, "chat_template_kwargs cannot set %s", key);
        bind_json(run, scope, key, json_object_iter_value(i));
    }
}

/* Everything that a template finds when it starts. */
static void bind_all(struct tpl_run *run, struct tpl_scope *scope,
                     const struct text_template *template, const struct text_template_args *args,
                     struct tpl_list *messages)
{
    bind_object(run, scope, template->specials);
    if (args->bos_token != NULL)
        bind_value(run, scope, "bos_token", tpl_string(args->bos_token, strlen(args->bos_token)));
    if (args->eos_token != NULL)
        bind_value(run, scope, "eos_token", tpl_string(args->eos_token, strlen(args->eos_token)));
    bind_value(run, scope, "messages", tpl_of_list(TPL_LIST, messages));
    bind_json(run, scope, "tools", args->tools);
    bind_json(run, scope, "documents", args->documents);
    bind_value(run, scope, "add_generation_prompt", tpl_bool(args->add_generation_prompt));
    bind_object(run, scope, args->kwargs);
}

static sl_status check_args(const struct text_template_args *args, const char *what)
{
    if (!json_is_array(args->messages))
        return sl_fail(SL_INVALID, "%s: messages are no array", what);
    for (size_t i = 0; i < json_array_size(args->messages); i++)
        if (!json_is_object(json_array_get(args->messages, i)))
            return sl_fail(SL_INVALID, "%s: message %zu is no object", what, i);
    if (args->continue_final_message && args->add_generation_prompt)
        return sl_fail(SL_INVALID,
                       "continue_final_message and add_generation_prompt exclude each other");
    if (args->kwargs != NULL && !json_is_object(args->kwargs))
        return sl_fail(SL_INVALID, "%s: chat_template_kwargs are no object", what);
    return SL_OK;
}

static void render(struct tpl_run *run, const struct text_template *template,
                   const struct text_template_args *args, struct sl_buf *text)
{
    struct tpl_value final = tpl_none();
    struct tpl_scope *scope = tpl_alloc(run, 1, sizeof(*scope));
    size_t n = json_array_size(args->messages);
    struct tpl_list *messages = tpl_list_new(run, n);

    for (size_t i = 0; i < n && !tpl_failed(run); i++)
        tpl_list_add(run, messages, message_of(run, json_array_get(args->messages, i)));
    if (!tpl_failed(run) && args->continue_final_message)
        mark_final(run, messages, &final);
    if (tpl_failed(run))
        return;
    bind_all(run, scope, template, args, messages);
    tpl_exec(run, scope, run->source->body);
    if (!tpl_failed(run) && args->continue_final_message)
        cut_final(run, text, final);
}

sl_status text_template_render(const struct text_template *template,
                               const struct text_template_args *args, struct sl_buf *out)
{
    const struct text_template_limits *limits = &args->limits;
    sl_status status = check_args(args, template->what);
    struct sl_buf text;

    if (status != SL_OK)
        return status;
    struct tpl_run run = {
        .what = template->what,
        .source = json_array_size(args->tools) > 0 ? find_source(template, "tool_use") : NULL,
        .out = &text,
        .steps_max = limits->steps_max > 0 ? limits->steps_max : 20000000,
        .depth_max = limits->depth_max > 0 && limits->depth_max < TPL_DEPTH_MAX ? limits->depth_max
                                                                                : TPL_DEPTH_MAX,
        .output_bytes_max = limits->output_bytes_max > 0 ? limits->output_bytes_max : 16u << 20,
        .line = 1,
        .now = args->now > 0 ? args->now : sl_wall_seconds(),
    };
    if (run.source == NULL)
        run.source = find_source(template, "default");
    sl_arena_init(&run.arena, CHUNK_BYTES,
                  limits->memory_bytes_max > 0 ? limits->memory_bytes_max : 256u << 20);
    tpl_buf_init(&run, &text);
    render(&run, template, args, &text);
    if (run.status == SL_OK) {
        sl_buf_add(out, text.data, text.bytes);
        run.status = sl_buf_status(out, "prompt");
    }
    sl_buf_fini(&text);
    sl_arena_fini(&run.arena);
    return run.status;
}

/* Chat templates against jinja2 (tests/golden/templates, tools/make_template_goldens.py), the bounds, the
 * places where a directory has its template, and a failure of every allocation. */
#include "support/support.h"
#include "support/torture.h"
#include "text/template.h"

#define ROOT        "tests/golden/templates"
#define OUT_MAX     (4u << 20)
#define TORTURE_MAX 3000

static json_t *inputs; /* conversations, tools, … */

static json_t *get(const json_t *object, const char *name)
{
    json_t *value = json_object_get(object, name);

    if (value == NULL)
        fail_msg("inputs.json has no %s", name);
    return value;
}

static int load_inputs(void **state)
{
    (void)state;
    return sl_json_load(ROOT "/inputs.json", 4u << 20, &inputs) == SL_OK ? 0 : -1;
}

static int free_inputs(void **state)
{
    (void)state;
    json_decref(inputs);
    return 0;
}

/* kwargs with the special tokens. */
static json_t *kwargs_of(json_t *kwargs)
{
    json_t *all = json_copy(get(inputs, "specials"));

    if (kwargs != NULL)
        assert_int_equal(json_object_update(all, kwargs), 0);
    return all;
}

static sl_status render_case(const struct text_template *template, const json_t *test, bool snippet,
                             struct sl_buf *out)
{
    const char *chat = snippet ? "turns" : json_string_value(get(test, "chat"));
    const json_t *n_tools = json_object_get(test, "tools");
    json_t *tools = NULL;
    json_t *kwargs =
        kwargs_of(snippet ? get(inputs, "snippet_kwargs") : json_object_get(test, "kwargs"));

    if (n_tools != NULL) {
        tools = json_array();
        for (int64_t i = 0; i < json_integer_value(n_tools); i++)
            json_array_append(tools, json_array_get(get(inputs, "tools"), (size_t)i));
    }
    sl_status status = text_template_render(
        template,
        &(struct text_template_args){
            .messages = get(get(inputs, "conversations"), chat),
            .tools = tools,
            .kwargs = kwargs,
            .add_generation_prompt = json_is_true(json_object_get(test, "add")),
            .continue_final_message = json_is_true(json_object_get(test, "continue")),
        },
        out);
    json_decref(tools);
    json_decref(kwargs);
    return status;
}

/* One line of a file; 1 if it differs. */
static int check_case(const json_t *test, bool snippet)
{
    const char *name = json_string_value(get(test, "template")), *want;
    const json_t *error = json_object_get(test, "error");
    struct text_template *template = NULL;
    struct sl_buf out;
    sl_status status;
    bool same;

    sl_buf_init(&out, OUT_MAX);
    if (snippet) {
        status = text_template_parse("snippet", name, strlen(name), &template);
    } else {
        char *path = sl_asprintf(ROOT "/%s.jinja", name), *data = sl_zalloc(1, 1u << 17);
        FILE *file = fopen(path, "re");
        if (file == NULL)
            fail_msg("%s is missing", path);
        size_t n = fread(data, 1, 1u << 17, file);
        fclose(file);
        status = text_template_parse(name, data, n, &template);
        sl_free(path);
        sl_free(data);
    }
    if (status == SL_OK)
        status = render_case(template, test, snippet, &out);
    sl_buf_add_text(&out, "");
    want = json_string_value(get(test, "want"));
    if (error == NULL)
        same = status == SL_OK && strcmp(want, out.data == NULL ? "" : out.data) == 0;
    else if (strcmp(json_string_value(error), "raise") == 0)
        same = status == SL_INVALID && strcmp(want, sl_error()) == 0;
    else
        same = status == SL_INVALID || status == SL_EXHAUSTED;
    if (!same)
        print_message("%s (%s)\n  want %s%s\n  got  %s\n", name,
                      snippet ? "" : json_string_value(get(test, "chat")), error ? "error: " : "",
                      want, status == SL_OK ? out.data : sl_error());
    text_template_destroy(template);
    sl_buf_fini(&out);
    return !same;
}

static void check_file(const char *path, bool snippet, int at_least)
{
    FILE *file = fopen(path, "re");
    char *line = NULL;
    size_t capacity = 0;
    int n = 0, different = 0;

    if (file == NULL)
        fail_msg("%s is missing", path);
    for (ssize_t bytes; (bytes = getline(&line, &capacity, file)) > 0; n++) {
        json_t *test = NULL;
        assert_ok(sl_json_parse(path, line, (size_t)bytes, 1u << 20, &test));
        different += check_case(test, snippet);
        json_decref(test);
    }
    free(line);
    fclose(file);
    print_message("%s: %d cases, %d differences\n", path, n, different);
    assert_true(n >= at_least);
    assert_int_equal(different, 0);
}

static void test_chats(void **state)
{
    (void)state;
    check_file(ROOT "/chats.jsonl", false, 1500);
}

static void test_snippets(void **state)
{
    (void)state;
    check_file(ROOT "/snippets.jsonl", true, 400);
}

static sl_status render_text(const char *text, const struct text_template_limits *limits,
                             struct sl_buf *out)
{
    struct text_template *template = NULL;
    sl_status status = text_template_parse("t", text, strlen(text), &template);

    if (status == SL_OK)
        status = text_template_render(
            template,
            &(struct text_template_args){.messages = get(get(inputs, "conversations"), "turns"),
                                         .limits = *limits,
                                         .now = 1721952000},
            out);
    text_template_destroy(template);
    return status;
}

static void test_limits(void **state)
{
    static const struct {
        const char *text, *says;
    } rows[] = {
        {"{% for a in range(999) %}{% set x = range(999)|sum %}{% endfor %}", "more than"},
        {"{% for a in range(99) %}{{ ('a' * 99999).count('b') }}{% endfor %}{% for a in range(999) "
         "%}"
         "{% if 1 in [2, 3, 4, 5, 6, 7, 8, 9] %}{% endif %}{% for b in 'aaaaaaaaaaaaaaaaaaaaaaaa' "
         "%}"
         "{% endfor %}{% endfor %}",
         "steps"},
        {"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "levels"},
        {"{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x "
         "%}"
         "{% endfor %}",
         "bytes"},
        {"{{ 'x' * 9999999999 }}", "more than"},
        {"{{ [1] * 9999999999 }}", "more than"},
        {"{{ '%9999s' % 'a' * 1000000 }}", "more than"},
        {"{% set ns = namespace(x=[]) %}{% for i in range(9999) %}{% set ns.x = [ns.x] %}{% endfor "
         "%}"
         "{{ ns.x }}",
         "levels"},
        {"{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}", "levels"},
        {"{{ range(99999)|list|join(range(99999)|join) }}", "more than"},
    };
    const struct text_template_limits small = {
        .steps_max = 300000, .output_bytes_max = 1u << 20, .memory_bytes_max = 4u << 20};
    struct sl_buf out;

    (void)state;
    sl_buf_init(&out, OUT_MAX);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        assert_fails(render_text(rows[i].text, &small, &out), SL_EXHAUSTED, rows[i].says);
    assert_int_equal(out.bytes, 0);
    sl_buf_fini(&out);
}

static void test_errors(void **state)
{
    const struct text_template_limits limits = {0};
    struct sl_buf out;

    (void)state;
    sl_buf_init(&out, OUT_MAX);
    assert_fails(render_text("a\n{% if x %}", &limits, &out), SL_INVALID,
                 "t, line 2: the template ends");
    assert_fails(render_text("a\n\n{{ x.y }}", &limits, &out), SL_INVALID,
                 "t, line 3: 'x' is undefined");
    assert_fails(render_text("{{ messages[0].nope.y }}", &limits, &out), SL_INVALID,
                 "'dict object' has no attribute 'nope'");
    assert_fails(render_text("{{ raise_exception('No ' + 'way') }}", &limits, &out), SL_INVALID,
                 "No way");
    assert_fails(render_text("{% include 'x' %}", &limits, &out), SL_INVALID,
                 "'include' is not supported");
    assert_fails(render_text("{{ 1|nope }}", &limits, &out), SL_INVALID, "nope");
    assert_fails(render_text("{{ '\xff' }}", &limits, &out), SL_INVALID, "UTF-8");
    assert_ok(render_text("{{ strftime_now('%Y') }}", &limits, &out));
    assert_string_equal(out.data, "2024");
    sl_buf_fini(&out);
}

static void test_open(void **state)
{
    char *dir = test_dir_create();
    struct text_template *template = NULL;
    struct sl_buf out;
    struct text_template_args args = {.messages = get(get(inputs, "conversations"), "chat")};

    (void)state;
    sl_buf_init(&out, OUT_MAX);
    assert_fails(text_template_open(dir, &template), SL_NOT_FOUND, "no chat template");
    test_write_text(
        dir, "tokenizer_config.json",
        "{\"bos_token\": {\"content\": \"<b>\"}, \"eos_token\": \"<e>\", \"chat_template\": ["
        "{\"name\": \"default\", \"template\": \"{{ bos_token }}d\"},"
        "{\"name\": \"tool_use\", \"template\": \"{{ eos_token }}t\"}]}");
    assert_ok(text_template_open(dir, &template));
    assert_string_equal(text_template_special(template, "eos_token"), "<e>");
    assert_ok(text_template_render(template, &args, &out));
    args.tools = get(inputs, "tools");
    assert_ok(text_template_render(template, &args, &out));
    assert_string_equal(out.data, "<b>d<e>t");
    text_template_destroy(template);
    test_write_text(dir, "chat_template.jinja", "{{ messages[0].role }}{{ eos_token }}\n");
    test_write_text(dir, "special_tokens_map.json",
                    "{\"eos_token\": \"<no>\", \"pad_token\": \"<p>\"}");
    assert_ok(text_template_open(dir, &template));
    sl_buf_reset(&out);
    args.eos_token = "<own>";
    assert_ok(text_template_render(template, &args, &out));
    assert_string_equal(out.data, "user<own>");
    assert_string_equal(text_template_special(template, "pad_token"), "<p>");
    text_template_destroy(template);
    test_write_text(dir, "chat_template.jinja", "{% if %}");
    assert_fails(text_template_open(dir, &template), SL_INVALID, "line 1");
    sl_buf_fini(&out);
    test_dir_remove(dir);
}

static sl_status scenario(void *arg)
{
    struct sl_buf out;

    (void)arg;
    sl_buf_init(&out, OUT_MAX);
    sl_status status = render_text(
        "{% macro m(a, b=1) %}{{ a }}{{ b }}{% endmacro %}{% set ns = namespace(s='') %}"
        "{% for m2 in messages %}{% set ns.s = ns.s ~ m2.content|trim|upper %}{{ loop.index }}"
        "{% endfor %}{{ m([1, 2]|tojson) }}{{ ns.s }}{% set z %}{{ {'a': [1.5, none]} }}{% endset "
        "%}{{ z }}",
        &(struct text_template_limits){0}, &out);
    sl_buf_fini(&out);
    return status;
}

static void test_torture(void **state)
{
    (void)state;
    torture_run("template", scenario, NULL, NULL, TORTURE_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_snippets), cmocka_unit_test(test_chats),
        cmocka_unit_test(test_limits),   cmocka_unit_test(test_errors),
        cmocka_unit_test(test_open),     cmocka_unit_test(test_torture),
    };

    return cmocka_run_group_tests(tests, load_inputs, free_inputs);
}

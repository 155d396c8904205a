/* Statements of a template: what stands in "{% %}", and the text between.
 *
 * A body is a list of nodes that ends at one of the words given ("endfor", "else", …), which the
 * caller then takes. What needs other files (include, import, extends, block) is refused: a model
 * directory has one template. */
#include "text/template_parts.h"

#include "text/template.h"

static struct tpl_node *parse_statement(struct tpl_parser *p);

static bool at_one_of(const struct tpl_parser *p, const char *const *words)
{
    for (; *words != NULL; words++)
        if (tpl_at_name(p, *words))
            return true;
    return false;
}

static void expect_type(struct tpl_parser *p, enum tpl_token_type type, const char *want)
{
    if (p->token->type != type)
        tpl_parse_fail(p, "expected '%s'", want);
    else
        tpl_next(p);
}

/* Up to "{% word", with the token at the word; words NULL: up to the end of the template. */
static struct tpl_node *parse_nodes(struct tpl_parser *p, const char *const *words)
{
    struct tpl_node *first = NULL, **last = &first;

    while (p->status == SL_OK && p->token->type != TPL_T_END) {
        struct tpl_node *node;
        if (p->token->type == TPL_T_DATA) {
            node = tpl_node_new(p, TPL_N_DATA);
            node->value = tpl_string(p->token->text, p->token->n);
            tpl_next(p);
        } else if (p->token->type == TPL_T_VARIABLE_BEGIN) {
            node = tpl_node_new(p, TPL_N_OUTPUT);
            tpl_next(p);
            node->a = tpl_parse_tuple(p, true, NULL, false);
            expect_type(p, TPL_T_VARIABLE_END, "}}");
        } else {
            expect_type(p, TPL_T_BLOCK_BEGIN, "{%");
            if (words != NULL && at_one_of(p, words))
                return first;
            node = parse_statement(p);
            expect_type(p, TPL_T_BLOCK_END, "%}");
        }
        *last = node;
        last = &node->next;
    }
    if (words != NULL)
        tpl_parse_fail(p, "the template ends where '%s' was looked for", words[0]);
    return first;
}

/* "%}" body "{%", with the token at one of the words. */
static struct tpl_node *parse_body(struct tpl_parser *p, const char *const *words)
{
    if (!tpl_parse_enter(p))
        return NULL;
    tpl_skip(p, ":");
    expect_type(p, TPL_T_BLOCK_END, "%}");
    struct tpl_node *body = parse_nodes(p, words);
    p->nested--;
    return body;
}

static struct tpl_node *parse_body_to(struct tpl_parser *p, const char *word)
{
    const char *const words[] = {word, NULL};
    struct tpl_node *body = parse_body(p, words);

    tpl_next(p);
    return body;
}

static struct tpl_node *parse_for(struct tpl_parser *p)
{
    static const char *const words[] = {"endfor", "else", NULL};
    struct tpl_node *node = tpl_node_new(p, TPL_N_FOR);

    node->a = tpl_parse_target(p, "in", false);
    if (!tpl_skip_name(p, "in"))
        tpl_parse_fail(p, "expected 'in'");
    node->b = tpl_parse_tuple(p, false, "recursive", false);
    if (tpl_skip_name(p, "if"))
        node->c = tpl_parse_expression(p, true);
    node->flag = tpl_skip_name(p, "recursive");
    p->loops++;
    node->d = parse_body(p, words);
    p->loops--;
    if (tpl_skip_name(p, "else"))
        node->e = parse_body_to(p, "endfor");
    else
        tpl_next(p);
    return node;
}

static struct tpl_node *parse_if(struct tpl_parser *p)
{
    static const char *const words[] = {"endif", "elif", "else", NULL};
    struct tpl_node *node = tpl_node_new(p, TPL_N_IF);
    struct tpl_node **last = &node->a;

    do {
        struct tpl_node *branch = tpl_node_new(p, TPL_N_BRANCH);
        branch->a = tpl_parse_tuple(p, false, NULL, false);
        branch->d = parse_body(p, words);
        *last = branch;
        last = &branch->next;
    } while (p->status == SL_OK && tpl_skip_name(p, "elif"));
    if (tpl_skip_name(p, "else")) {
        *last = tpl_node_new(p, TPL_N_BRANCH);
        (*last)->d = parse_body_to(p, "endif");
    } else {
        tpl_next(p);
    }
    return node;
}

static struct tpl_node *parse_set(struct tpl_parser *p)
{
    struct tpl_node *node = tpl_node_new(p, TPL_N_SET);

    node->a = tpl_parse_target(p, NULL, true);
    if (tpl_skip(p, "=")) {
        node->b = tpl_parse_tuple(p, true, NULL, false);
        return node;
    }
    node->type = TPL_N_SETBLOCK;
    node->b = tpl_parse_filters(p, NULL, false);
    node->d = parse_body_to(p, "endset");
    return node;
}

static struct tpl_node *parse_with(struct tpl_parser *p)
{
    struct tpl_node *node = tpl_node_new(p, TPL_N_WITH);
    struct tpl_node **target = &node->a, **value = &node->b;

    while (p->status == SL_OK && p->token->type != TPL_T_BLOCK_END) {
        if (node->a != NULL)
            tpl_expect(p, ",");
        struct tpl_node *name = tpl_node_new(p, TPL_N_NAME);
        name->name = tpl_expect_name(p);
        *target = name;
        target = &name->next;
        tpl_expect(p, "=");
        *value = tpl_parse_expression(p, true);
        value = &(*value)->next;
    }
    node->d = parse_body_to(p, "endwith");
    return node;
}

/* (a, b=1): parameters into node->a, defaults of the last ones into node->b. */
static void parse_signature(struct tpl_parser *p, struct tpl_node *node)
{
    struct tpl_node **parameter = &node->a, **value = &node->b;

    tpl_expect(p, "(");
    while (p->status == SL_OK && !tpl_at(p, ")")) {
        if (node->a != NULL)
            tpl_expect(p, ",");
        struct tpl_node *name = tpl_node_new(p, TPL_N_NAME);
        name->name = tpl_expect_name(p);
        *parameter = name;
        parameter = &name->next;
        if (tpl_skip(p, "=")) {
            *value = tpl_parse_expression(p, true);
            value = &(*value)->next;
        } else if (node->b != NULL) {
            tpl_parse_fail(p, "non-default argument follows default argument");
        }
    }
    tpl_expect(p, ")");
}

/* The body of a macro or of a call block: a function of its own. */
static void parse_function(struct tpl_parser *p, struct tpl_node *node, const char *end)
{
    uint8_t uses = p->uses;
    uint32_t loops = p->loops;

    p->uses = 0;
    p->loops = 0;
    node->d = parse_body_to(p, end);
    node->uses = p->uses;
    p->uses |= uses;
    p->loops = loops;
}

static struct tpl_node *parse_macro(struct tpl_parser *p)
{
    struct tpl_node *node = tpl_node_new(p, TPL_N_MACRO);

    node->name = tpl_expect_name(p);
    parse_signature(p, node);
    parse_function(p, node, "endmacro");
    return node;
}

static struct tpl_node *parse_call(struct tpl_parser *p)
{
    struct tpl_node *node = tpl_node_new(p, TPL_N_CALLBLOCK);

    if (tpl_at(p, "("))
        parse_signature(p, node);
    node->c = tpl_parse_expression(p, true);
    if (node->c->type != TPL_N_CALL)
        tpl_parse_fail(p, "expected call");
    parse_function(p, node, "endcall");
    return node;
}

static struct tpl_node *parse_filter_block(struct tpl_parser *p)
{
    struct tpl_node *node = tpl_node_new(p, TPL_N_FILTERBLOCK);

    node->a = tpl_parse_filters(p, NULL, true);
    node->d = parse_body_to(p, "endfilter");
    return node;
}

/* What transformers adds to mark the text that the model has written: a call block. */
static struct tpl_node *parse_generation(struct tpl_parser *p)
{
    struct tpl_node *node = tpl_node_new(p, TPL_N_SCOPE);

    parse_function(p, node, "endgeneration");
    return node;
}

static struct tpl_node *parse_jump(struct tpl_parser *p, enum tpl_node_type type)
{
    if (p->loops == 0)
        tpl_parse_fail(p, "'%s' outside of a loop", type == TPL_N_BREAK ? "break" : "continue");
    return tpl_node_new(p, type);
}

static struct tpl_node *parse_break(struct tpl_parser *p)
{
    return parse_jump(p, TPL_N_BREAK);
}

static struct tpl_node *parse_continue(struct tpl_parser *p)
{
    return parse_jump(p, TPL_N_CONTINUE);
}

static struct tpl_node *parse_print(struct tpl_parser *p)
{
    struct tpl_node *scope = tpl_node_new(p, TPL_N_IF), **last;

    scope->a = tpl_node_new(p, TPL_N_BRANCH);
    last = &scope->a->d;
    while (p->status == SL_OK && p->token->type != TPL_T_BLOCK_END) {
        if (scope->a->d != NULL)
            tpl_expect(p, ",");
        *last = tpl_node_new(p, TPL_N_OUTPUT);
        (*last)->a = tpl_parse_expression(p, true);
        last = &(*last)->next;
    }
    return scope;
}

static struct tpl_node *parse_statement(struct tpl_parser *p)
{
    static const struct {
        const char *word;
        struct tpl_node *(*parse)(struct tpl_parser *p); /* NULL: not supported */
    } rows[] = {
        {"for", parse_for},     {"if", parse_if},
        {"set", parse_set},     {"with", parse_with},
        {"macro", parse_macro}, {"call", parse_call},
        {"print", parse_print}, {"filter", parse_filter_block},
        {"break", parse_break}, {"generation", parse_generation},
        {"include", NULL},      {"continue", parse_continue},
        {"import", NULL},       {"autoescape", NULL},
        {"from", NULL},         {"extends", NULL},
        {"block", NULL},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        if (!tpl_at_name(p, rows[i].word))
            continue;
        if (rows[i].parse == NULL) {
            tpl_parse_fail(p, "tag '%s' is not supported in chat templates", rows[i].word);
            break;
        }
        tpl_next(p);
        return rows[i].parse(p);
    }
    if (p->token->type == TPL_T_NAME)
        tpl_parse_fail(p, "unknown tag '%.*s'", (int)(p->token->n < 60 ? p->token->n : 60),
                       p->token->text);
    else
        tpl_parse_fail(p, "tag name expected");
    return tpl_node_new(p, TPL_N_CONST);
}

sl_status tpl_parse(const char *what, struct tpl_source *source)
{
    sl_status status = tpl_lex(what, source);

    if (status != SL_OK)
        return status;
    struct tpl_parser p = {.what = what, .source = source, .token = source->tokens};
    source->body = parse_nodes(&p, NULL);
    return p.status;
}

/* Expressions of a template: recursive descent in the order of precedence of jinja2's parser.
 *
 *   x if c else y  <  or  <  and  <  not  <  compare, in  <  + -  <  ~  <  * / // %  <  **
 *   <  unary + -  <  .name [key] (call)  <  |filter, is test
 *
 * Chains of one level (a + b - c, a ~ b, a and b) are one node with many operands, so that a long
 * chain is not a deep tree. The first error ends the stream of tokens: everybody then returns. */
#include "text/template_parts.h"

#include "text/template.h"

#include <stdarg.h>
#include <stdio.h>

static const struct tpl_token end_token = {.type = TPL_T_END};

void tpl_parse_fail(struct tpl_parser *p, const char *fmt, ...)
{
    char sentence[256];
    va_list args;

    if (p->status != SL_OK)
        return;
    va_start(args, fmt);
    vsnprintf(sentence, sizeof(sentence), fmt, args);
    va_end(args);
    p->status = sl_fail(SL_INVALID, "%s, line %u: %s", p->what, p->token->line, sentence);
    p->token = &end_token;
}

struct tpl_node *tpl_node_new(struct tpl_parser *p, enum tpl_node_type type)
{
    struct tpl_node *node =
        p->status != SL_OK ? NULL : sl_arena_try_alloc(&p->source->arena, 1, sizeof(*node));

    if (node == NULL) {
        if (p->status == SL_OK)
            p->status = sl_fail(SL_NO_MEMORY, "%s: syntax tree", p->what);
        p->token = &end_token;
        node = &p->nothing; /* everybody returns now, and the tree is thrown away */
        *node = (struct tpl_node){0};
    }
    node->type = (uint8_t)type;
    node->line = p->token->line;
    return node;
}

bool tpl_parse_enter(struct tpl_parser *p)
{
    if (p->nested >= TEXT_TEMPLATE_NESTED_MAX) {
        tpl_parse_fail(p, "more than %u levels", TEXT_TEMPLATE_NESTED_MAX);
        return false;
    }
    p->nested++;
    return true;
}

void tpl_next(struct tpl_parser *p)
{
    if (p->token->type != TPL_T_END)
        p->token++;
}

static bool is(const struct tpl_token *token, enum tpl_token_type type, const char *text)
{
    return token->type == type && token->n == strlen(text) &&
           memcmp(token->text, text, token->n) == 0;
}

bool tpl_at(const struct tpl_parser *p, const char *operator_)
{
    return is(p->token, TPL_T_OPERATOR, operator_);
}

bool tpl_at_name(const struct tpl_parser *p, const char *name)
{
    return is(p->token, TPL_T_NAME, name);
}

bool tpl_skip(struct tpl_parser *p, const char *operator_)
{
    bool there = tpl_at(p, operator_);

    if (there)
        tpl_next(p);
    return there;
}

bool tpl_skip_name(struct tpl_parser *p, const char *name)
{
    bool there = tpl_at_name(p, name);

    if (there)
        tpl_next(p);
    return there;
}

/* "…, got X". */
static void fail_at_token(struct tpl_parser *p, const char *want)
{
    static const char *const names[] = {
        [TPL_T_END] = "the end of the template",
        [TPL_T_DATA] = "text",
        [TPL_T_VARIABLE_BEGIN] = "'{{'",
        [TPL_T_VARIABLE_END] = "'}}'",
        [TPL_T_BLOCK_BEGIN] = "'{%'",
        [TPL_T_BLOCK_END] = "'%}'",
        [TPL_T_STRING] = "a string",
        [TPL_T_INT] = "a number",
        [TPL_T_FLOAT] = "a number",
    };
    const struct tpl_token *t = p->token;

    if (t->type == TPL_T_NAME || t->type == TPL_T_OPERATOR)
        tpl_parse_fail(p, "expected %s, got '%.*s'", want, (int)(t->n < 60 ? t->n : 60), t->text);
    else
        tpl_parse_fail(p, "expected %s, got %s", want, names[t->type]);
}

void tpl_expect(struct tpl_parser *p, const char *operator_)
{
    char want[8];

    if (tpl_skip(p, operator_))
        return;
    snprintf(want, sizeof(want), "'%s'", operator_);
    fail_at_token(p, want);
}

const struct tpl_name *tpl_expect_name(struct tpl_parser *p)
{
    if (p->token->type != TPL_T_NAME) {
        fail_at_token(p, "a name");
        return NULL;
    }
    const struct tpl_name *name = tpl_name_find(p->source, p->token->text, p->token->n);
    tpl_next(p);
    return name;
}

static struct tpl_node *parse_string(struct tpl_parser *p)
{
    struct tpl_node *node = tpl_node_new(p, TPL_N_CONST);
    size_t n = 0, at = 0;
    const struct tpl_token *first = p->token;

    for (; p->token->type == TPL_T_STRING; tpl_next(p))
        n += p->token->n;
    if (p->token == first + 1) {
        node->value = tpl_string(first->text, first->n);
        return node;
    }
    char *text = sl_arena_try_alloc(&p->source->arena, 1, n + 1);
    if (text == NULL) {
        if (p->status == SL_OK)
            p->status = sl_fail(SL_NO_MEMORY, "%s: strings", p->what);
        p->token = &end_token;
        return node;
    }
    for (const struct tpl_token *t = first; at < n; t++) {
        memcpy(text + at, t->text, t->n);
        at += t->n;
    }
    node->value = tpl_string(text, n);
    return node;
}

static struct tpl_node *parse_name(struct tpl_parser *p, bool with_namespace)
{
    static const char *const constants[] = {"true", "True", "false", "False", "none", "None"};
    struct tpl_node *node = tpl_node_new(p, TPL_N_NAME);

    for (int i = 0; i < 6; i++)
        if (tpl_skip_name(p, constants[i])) {
            node->type = TPL_N_CONST;
            node->value = i < 4 ? tpl_bool(i < 2) : tpl_none();
            return node;
        }
    if (tpl_at_name(p, "caller"))
        p->uses |= TPL_USES_CALLER;
    if (tpl_at_name(p, "kwargs"))
        p->uses |= TPL_USES_KWARGS;
    if (tpl_at_name(p, "varargs"))
        p->uses |= TPL_USES_VARARGS;
    node->name = tpl_expect_name(p);
    if (node->name != NULL)
        node->native = tpl_global_find(node->name->text, node->name->n);
    if (with_namespace && tpl_skip(p, ".")) {
        node->type = TPL_N_NSREF;
        node->attr = tpl_expect_name(p);
    }
    return node;
}

/* [items] or {key: value}, behind the opening bracket. */
static struct tpl_node *parse_display(struct tpl_parser *p, enum tpl_node_type type,
                                      const char *close)
{
    struct tpl_node *node = tpl_node_new(p, type);
    struct tpl_node **last = &node->a;

    while (p->status == SL_OK && !tpl_at(p, close)) {
        if (node->a != NULL)
            tpl_expect(p, ",");
        if (tpl_at(p, close))
            break;
        *last = tpl_parse_expression(p, true);
        last = &(*last)->next;
        if (type != TPL_N_DICT)
            continue;
        tpl_expect(p, ":");
        *last = tpl_parse_expression(p, true);
        last = &(*last)->next;
    }
    tpl_expect(p, close);
    return node;
}

static struct tpl_node *parse_primary(struct tpl_parser *p, bool with_namespace)
{
    struct tpl_node *node;

    if (p->token->type == TPL_T_NAME)
        return parse_name(p, with_namespace);
    if (p->token->type == TPL_T_STRING)
        return parse_string(p);
    if (p->token->type == TPL_T_INT || p->token->type == TPL_T_FLOAT) {
        node = tpl_node_new(p, TPL_N_CONST);
        node->value = p->token->value;
        tpl_next(p);
        return node;
    }
    if (tpl_skip(p, "(")) {
        node = tpl_parse_tuple(p, true, NULL, true);
        tpl_expect(p, ")");
        return node;
    }
    if (tpl_skip(p, "["))
        return parse_display(p, TPL_N_LIST, "]");
    if (tpl_skip(p, "{"))
        return parse_display(p, TPL_N_DICT, "}");
    fail_at_token(p, "an expression");
    return tpl_node_new(p, TPL_N_CONST);
}

static bool at_slice_end(const struct tpl_parser *p)
{
    return tpl_at(p, ":") || tpl_at(p, "]") || tpl_at(p, ",");
}

/* What stands between brackets: an expression or a slice. */
static struct tpl_node *parse_subscribed(struct tpl_parser *p)
{
    struct tpl_node *slice = tpl_node_new(p, TPL_N_SLICE);

    if (!tpl_at(p, ":")) {
        struct tpl_node *node = tpl_parse_expression(p, true);
        if (!tpl_at(p, ":"))
            return node;
        slice->a = node;
    }
    tpl_expect(p, ":");
    if (!at_slice_end(p))
        slice->b = tpl_parse_expression(p, true);
    if (tpl_skip(p, ":") && !at_slice_end(p))
        slice->c = tpl_parse_expression(p, true);
    return slice;
}

static struct tpl_node *parse_subscript(struct tpl_parser *p, struct tpl_node *object)
{
    struct tpl_node *node = tpl_node_new(p, TPL_N_ITEM);

    node->a = object;
    if (tpl_skip(p, ".")) {
        if (p->token->type == TPL_T_INT) {
            node->b = parse_primary(p, false);
            return node;
        }
        node->type = TPL_N_ATTR;
        node->name = tpl_expect_name(p);
        return node;
    }
    tpl_expect(p, "[");
    struct tpl_node *tuple = tpl_node_new(p, TPL_N_TUPLE), **last = &tuple->a;
    while (p->status == SL_OK && !tpl_at(p, "]")) {
        if (tuple->a != NULL)
            tpl_expect(p, ",");
        *last = parse_subscribed(p);
        last = &(*last)->next;
    }
    tpl_expect(p, "]");
    node->b = tuple->a != NULL && tuple->a->next == NULL ? tuple->a : tuple;
    return node;
}

/* (arguments), from the bracket on. */
static struct tpl_node *parse_call_args(struct tpl_parser *p)
{
    struct tpl_node *first = NULL, **last = &first;
    int stage =
        0; /* 0: positional, 1: keywords, 2: *rest, 3: **rest: none may follow a later one */

    tpl_expect(p, "(");
    while (p->status == SL_OK && !tpl_at(p, ")")) {
        if (first != NULL)
            tpl_expect(p, ",");
        if (tpl_at(p, ")"))
            break;
        struct tpl_node *arg = tpl_node_new(p, TPL_N_ARG);
        bool keyword = p->token->type == TPL_T_NAME && is(p->token + 1, TPL_T_OPERATOR, "=");
        if (tpl_skip(p, "*"))
            arg->op = 2;
        else if (tpl_skip(p, "**"))
            arg->op = 3;
        else if (keyword)
            arg->name = tpl_expect_name(p);
        if (keyword)
            tpl_next(p);
        int kind = keyword ? 1 : arg->op;
        if (arg->op >= 2 ? stage >= arg->op : keyword ? stage == 3 : stage > 0)
            tpl_parse_fail(p, "invalid syntax for function call expression");
        stage = kind > stage ? kind : stage;
        arg->a = tpl_parse_expression(p, true);
        *last = arg;
        last = &arg->next;
    }
    tpl_expect(p, ")");
    return first;
}

static struct tpl_node *parse_postfix(struct tpl_parser *p, struct tpl_node *node)
{
    while (p->status == SL_OK) {
        if (tpl_at(p, ".") || tpl_at(p, "[")) {
            node = parse_subscript(p, node);
        } else if (tpl_at(p, "(")) {
            struct tpl_node *call = tpl_node_new(p, TPL_N_CALL);
            call->a = node;
            call->b = parse_call_args(p);
            node = call;
        } else {
            break;
        }
    }
    return node;
}

struct tpl_node *tpl_parse_filters(struct tpl_parser *p, struct tpl_node *node, bool inline_)
{
    while (p->status == SL_OK && (inline_ || tpl_skip(p, "|"))) {
        struct tpl_node *filter = tpl_node_new(p, TPL_N_FILTER);
        inline_ = false;
        filter->a = node;
        filter->name = tpl_expect_name(p);
        if (filter->name != NULL)
            filter->native = tpl_filter_find(filter->name->text, filter->name->n);
        if (tpl_at(p, "."))
            tpl_parse_fail(p, "no filter has a '.' in its name");
        if (tpl_at(p, "("))
            filter->b = parse_call_args(p);
        node = filter;
    }
    return node;
}

static bool at_test_argument(const struct tpl_parser *p)
{
    if (p->token->type == TPL_T_NAME)
        return !tpl_at_name(p, "else") && !tpl_at_name(p, "or") && !tpl_at_name(p, "and");
    return p->token->type == TPL_T_STRING || p->token->type == TPL_T_INT ||
           p->token->type == TPL_T_FLOAT || tpl_at(p, "[") || tpl_at(p, "{");
}

/* From "is" on. */
static struct tpl_node *parse_test(struct tpl_parser *p, struct tpl_node *node)
{
    struct tpl_node *test = tpl_node_new(p, TPL_N_TEST);

    tpl_next(p);
    bool negated = tpl_skip_name(p, "not");
    test->a = node;
    test->name = tpl_expect_name(p);
    if (test->name != NULL)
        test->native = tpl_test_find(test->name->text, test->name->n);
    if (tpl_at(p, "(")) {
        test->b = parse_call_args(p);
    } else if (at_test_argument(p)) {
        if (tpl_at_name(p, "is"))
            tpl_parse_fail(p, "You cannot chain multiple tests with is");
        test->b = tpl_node_new(p, TPL_N_ARG);
        test->b->a = parse_postfix(p, parse_primary(p, false));
    }
    if (!negated)
        return test;
    struct tpl_node *not = tpl_node_new(p, TPL_N_NOT);
    not ->a = test;
    return not ;
}

static struct tpl_node *parse_filter_expr(struct tpl_parser *p, struct tpl_node *node)
{
    while (p->status == SL_OK) {
        if (tpl_at(p, "|")) {
            node = tpl_parse_filters(p, node, false);
        } else if (tpl_at_name(p, "is")) {
            node = parse_test(p, node);
        } else if (tpl_at(p, "(")) {
            struct tpl_node *call = tpl_node_new(p, TPL_N_CALL);
            call->a = node;
            call->b = parse_call_args(p);
            node = call;
        } else {
            break;
        }
    }
    return node;
}

static struct tpl_node *parse_unary(struct tpl_parser *p, bool with_filter)
{
    struct tpl_node *node;
    bool minus = tpl_at(p, "-");

    if (minus || tpl_at(p, "+")) {
        node = tpl_node_new(p, minus ? TPL_N_NEG : TPL_N_POS);
        tpl_next(p);
        if (!tpl_parse_enter(p))
            return node;
        node->a = parse_unary(p, false);
        p->nested--;
    } else {
        node = parse_primary(p, false);
    }
    node = parse_postfix(p, node);
    return with_filter ? parse_filter_expr(p, node) : node;
}

struct operator_row {
    const char *text;
    enum tpl_op op;
};

/* left (op operand)*, of the operators of one level (the list ends with NULL). */
static struct tpl_node *parse_chain(struct tpl_parser *p, const struct operator_row *operators,
                                    struct tpl_node *(*operand)(struct tpl_parser *p))
{
    struct tpl_node *left = operand(p), *chain = NULL, **last = NULL;

    while (p->status == SL_OK) {
        const struct operator_row *row = operators;
        while (row->text != NULL && !tpl_at(p, row->text))
            row++;
        if (row->text == NULL)
            break;
        if (chain == NULL) {
            chain = tpl_node_new(p, TPL_N_BINARY);
            chain->a = left;
            last = &chain->b;
        }
        struct tpl_node *node = tpl_node_new(p, TPL_N_OPERAND);
        tpl_next(p);
        node->op = (uint8_t)row->op;
        node->a = operand(p);
        *last = node;
        last = &node->next;
    }
    return chain != NULL ? chain : left;
}

static struct tpl_node *parse_plain_unary(struct tpl_parser *p)
{
    return parse_unary(p, true);
}

static struct tpl_node *parse_pow(struct tpl_parser *p)
{
    static const struct operator_row rows[] = {{"**", TPL_POW}, {NULL, TPL_POW}};
    return parse_chain(p, rows, parse_plain_unary);
}

static struct tpl_node *parse_math2(struct tpl_parser *p)
{
    static const struct operator_row rows[] = {
        {"*", TPL_MUL}, {"/", TPL_DIV}, {"//", TPL_FLOORDIV}, {"%", TPL_MOD}, {NULL, TPL_MUL}};
    return parse_chain(p, rows, parse_pow);
}

/* first (separator operand)* as one node with all operands. */
static struct tpl_node *parse_many(struct tpl_parser *p, enum tpl_node_type type,
                                   bool (*skip)(struct tpl_parser *p, const char *text),
                                   const char *separator,
                                   struct tpl_node *(*operand)(struct tpl_parser *p))
{
    struct tpl_node *first = operand(p), *node = NULL, *last = NULL;

    while (p->status == SL_OK && skip(p, separator)) {
        if (node == NULL) {
            node = tpl_node_new(p, type);
            node->a = tpl_node_new(p, TPL_N_ARG);
            node->a->a = first;
            last = node->a;
        }
        last->next = tpl_node_new(p, TPL_N_ARG);
        last = last->next;
        last->a = operand(p);
    }
    return node != NULL ? node : first;
}

static struct tpl_node *parse_concat(struct tpl_parser *p)
{
    return parse_many(p, TPL_N_CONCAT, tpl_skip, "~", parse_math2);
}

static struct tpl_node *parse_math1(struct tpl_parser *p)
{
    static const struct operator_row rows[] = {{"+", TPL_ADD}, {"-", TPL_SUB}, {NULL, TPL_ADD}};
    return parse_chain(p, rows, parse_concat);
}

/* The comparison at the token, which it skips. */
static bool skip_comparison(struct tpl_parser *p, uint8_t *op_out)
{
    static const struct operator_row rows[] = {{"==", TPL_EQ}, {"!=", TPL_NE}, {"<=", TPL_LE},
                                               {">=", TPL_GE}, {"<", TPL_LT},  {">", TPL_GT}};

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        if (tpl_skip(p, rows[i].text)) {
            *op_out = (uint8_t)rows[i].op;
            return true;
        }
    *op_out = TPL_IN;
    if (tpl_skip_name(p, "in"))
        return true;
    if (!tpl_at_name(p, "not") || !is(p->token + 1, TPL_T_NAME, "in"))
        return false;
    tpl_next(p);
    tpl_next(p);
    *op_out = TPL_NOT_IN;
    return true;
}

static struct tpl_node *parse_compare(struct tpl_parser *p)
{
    struct tpl_node *left = parse_math1(p), *chain = NULL, **last = NULL;
    uint8_t op;

    while (p->status == SL_OK && skip_comparison(p, &op)) {
        if (chain == NULL) {
            chain = tpl_node_new(p, TPL_N_COMPARE);
            chain->a = left;
            last = &chain->b;
        }
        struct tpl_node *node = tpl_node_new(p, TPL_N_OPERAND);
        node->op = op;
        node->a = parse_math1(p);
        *last = node;
        last = &node->next;
    }
    return chain != NULL ? chain : left;
}

static struct tpl_node *parse_not(struct tpl_parser *p)
{
    if (!tpl_at_name(p, "not"))
        return parse_compare(p);
    struct tpl_node *node = tpl_node_new(p, TPL_N_NOT);
    tpl_next(p);
    if (!tpl_parse_enter(p))
        return node;
    node->a = parse_not(p);
    p->nested--;
    return node;
}

static struct tpl_node *parse_and(struct tpl_parser *p)
{
    return parse_many(p, TPL_N_AND, tpl_skip_name, "and", parse_not);
}

static struct tpl_node *parse_or(struct tpl_parser *p)
{
    return parse_many(p, TPL_N_OR, tpl_skip_name, "or", parse_and);
}

struct tpl_node *tpl_parse_expression(struct tpl_parser *p, bool with_cond)
{
    if (!tpl_parse_enter(p))
        return tpl_node_new(p, TPL_N_CONST);
    struct tpl_node *node = parse_or(p);
    while (with_cond && p->status == SL_OK && tpl_skip_name(p, "if")) {
        struct tpl_node *cond = tpl_node_new(p, TPL_N_COND);
        cond->b = node;
        cond->a = parse_or(p);
        if (tpl_skip_name(p, "else"))
            cond->c = tpl_parse_expression(p, true);
        node = cond;
    }
    p->nested--;
    return node;
}

/* Items with commas between them, by what `target` says. */
static struct tpl_node *parse_items(struct tpl_parser *p, bool target, bool flag, const char *end,
                                    bool in_brackets)
{
    struct tpl_node *tuple = tpl_node_new(p, TPL_N_TUPLE), **last = &tuple->a;
    bool is_tuple = false;

    while (p->status == SL_OK) {
        if (tuple->a != NULL)
            tpl_expect(p, ",");
        if (p->token->type == TPL_T_VARIABLE_END || p->token->type == TPL_T_BLOCK_END ||
            tpl_at(p, ")") || (end != NULL && tpl_at_name(p, end)))
            break;
        *last = target ? parse_primary(p, flag) : tpl_parse_expression(p, flag);
        last = &(*last)->next;
        if (!tpl_at(p, ","))
            break;
        is_tuple = true;
    }
    if (!is_tuple && tuple->a != NULL)
        return tuple->a;
    if (!is_tuple && !in_brackets)
        fail_at_token(p, "an expression");
    return tuple;
}

struct tpl_node *tpl_parse_tuple(struct tpl_parser *p, bool with_cond, const char *end,
                                 bool in_brackets)
{
    return parse_items(p, false, with_cond, end, in_brackets);
}

/* Names, and tuples of them, which may be nested. */
static bool can_assign(const struct tpl_node *node)
{
    if (node->type == TPL_N_NAME || node->type == TPL_N_NSREF)
        return true;
    if (node->type != TPL_N_TUPLE && node->type != TPL_N_LIST)
        return false;
    for (const struct tpl_node *item = node->a; item != NULL; item = item->next)
        if (!can_assign(item))
            return false;
    return node->type == TPL_N_TUPLE;
}

struct tpl_node *tpl_parse_target(struct tpl_parser *p, const char *end, bool with_namespace)
{
    struct tpl_node *node = parse_items(p, true, with_namespace, end, false);

    if (p->status == SL_OK && !can_assign(node))
        tpl_parse_fail(p, "cannot assign to this");
    return node;
}

/* Statements: running the body of a template.
 *
 * A scope holds what is set in it and sees what is around it. A round of a loop, a macro, a block
 * (with, call, filter, set, generation) have one of their own; "if" has none. A macro sees the scope
 * in which it was defined, as it is when the macro runs. What is written while a macro or a block runs
 * goes to a buffer of its own and becomes a string. break and continue are a signal that every
 * list of statements hands up to its loop. */
#include "text/template_parts.h"

void tpl_scope_set(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_name *name,
                   struct tpl_value value)
{
    uint64_t looked = 0;

    if (scope == NULL || name == NULL || tpl_failed(run))
        return;
    for (struct tpl_binding *b = scope->first; b != NULL; b = b->next, looked++)
        if (b->name == name) {
            b->value = value;
            tpl_step(run, looked / 16);
            return;
        }
    struct tpl_binding *binding = tpl_alloc(run, 1, sizeof(*binding));
    if (binding == NULL)
        return;
    *binding = (struct tpl_binding){name, value, scope->first};
    scope->first = binding;
    tpl_step(run, looked / 16);
}

static struct tpl_scope *scope_new(struct tpl_run *run, struct tpl_scope *parent)
{
    struct tpl_scope *scope = tpl_alloc(run, 1, sizeof(*scope));

    if (scope != NULL)
        scope->parent = parent;
    return scope;
}

/* Sets a special name ("loop", "caller", …) if the template knows it. */
static void set_special(struct tpl_run *run, struct tpl_scope *scope, const char *name,
                        struct tpl_value value)
{
    const struct tpl_name *known = tpl_name_find(run->source, name, strlen(name));

    if (known != NULL)
        tpl_scope_set(run, scope, known, value);
}

/* ns.attr = value */
static void assign_attribute(struct tpl_run *run, struct tpl_scope *scope,
                             const struct tpl_node *target, struct tpl_value value)
{
    struct tpl_node name = *target;

    name.type = TPL_N_NAME;
    struct tpl_value space = tpl_eval(run, scope, &name);
    if (tpl_failed(run))
        return;
    if (space.kind != TPL_NAMESPACE)
        tpl_fail(run, "cannot assign attribute on non-namespace object");
    else if (target->attr->text[0] == '_')
        tpl_fail(run, "a namespace cannot have the attribute '%s'", target->attr->text);
    else
        tpl_dict_set(run, space.dict, tpl_string(target->attr->text, target->attr->n), value);
}

static void assign(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *target,
                   struct tpl_value value)
{
    if (tpl_failed(run))
        return;
    if (target->type == TPL_N_NAME) {
        tpl_scope_set(run, scope, target->name, value);
        return;
    }
    if (target->type == TPL_N_NSREF) {
        assign_attribute(run, scope, target, value);
        return;
    }
    const struct tpl_list *list = tpl_items(run, value);
    size_t n = 0;
    for (const struct tpl_node *item = target->a; item != NULL; item = item->next)
        n++;
    if (list != NULL && list->n != n)
        tpl_fail(run, "%zu values to unpack, expected %zu", list->n, n);
    if (!tpl_enter(run))
        return;
    n = 0;
    for (const struct tpl_node *item = target->a; item != NULL && !tpl_failed(run);
         item = item->next)
        assign(run, scope, item, list->items[n++]);
    tpl_leave(run);
}

/* The text that a body writes. */
static struct tpl_value capture(struct tpl_run *run, struct tpl_scope *scope,
                                const struct tpl_node *body)
{
    struct sl_buf buf, *out = run->out;

    tpl_buf_init(run, &buf);
    run->out = &buf;
    tpl_exec(run, scope, body);
    run->out = out;
    return tpl_string_take(run, &buf);
}

/* The items of a loop that its "if" lets through. */
static struct tpl_list *picked(struct tpl_run *run, struct tpl_scope *scope,
                               const struct tpl_node *node, struct tpl_list *list)
{
    struct tpl_list *out = tpl_list_new(run, 0);

    for (size_t i = 0; list != NULL && i < list->n && !tpl_failed(run); i++) {
        struct tpl_scope *inner = scope_new(run, scope);
        assign(run, inner, node->a, list->items[i]);
        struct tpl_value test = tpl_eval(run, inner, node->c);
        if (tpl_truth(&test))
            tpl_list_add(run, out, list->items[i]);
    }
    return out;
}

static void exec_loop(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *node,
                      struct tpl_value iterated, uint32_t depth0)
{
    struct tpl_list *list = tpl_items(run, iterated);
    struct tpl_loop *loop = tpl_alloc(run, 1, sizeof(*loop));

    if (node->c != NULL)
        list = picked(run, scope, node, list);
    if (loop == NULL || tpl_failed(run))
        return;
    *loop = (struct tpl_loop){.node = node, .scope = scope, .list = list, .depth0 = depth0};
    for (; loop->index0 < list->n && tpl_step(run, 1); loop->index0++) {
        struct tpl_scope *inner = scope_new(run, scope);
        set_special(run, inner, "loop", (struct tpl_value){.kind = TPL_LOOP, .loop = loop});
        assign(run, inner, node->a, list->items[loop->index0]);
        tpl_exec(run, inner, node->d);
        enum tpl_signal signal = run->signal;
        run->signal = TPL_GO_ON;
        if (signal == TPL_BREAK)
            break;
    }
    if (list->n == 0)
        tpl_exec(run, scope_new(run, scope), node->e);
}

struct tpl_value tpl_call_loop(struct tpl_run *run, const struct tpl_loop *loop,
                               const struct tpl_args *args)
{
    struct sl_buf buf, *out = run->out;

    if (!loop->node->flag)
        return tpl_fail(run, "The loop must have the 'recursive' marker to be called recursively.");
    if (args->n != 1 || args->n_keywords > 0)
        return tpl_fail(run, "loop() takes one argument");
    tpl_buf_init(run, &buf);
    run->out = &buf;
    if (tpl_enter(run)) {
        exec_loop(run, loop->scope, loop->node, args->items[0], loop->depth0 + 1);
        tpl_leave(run);
    }
    run->out = out;
    return tpl_string_take(run, &buf);
}

/* A keyword argument by its name, NULL if it was not given; counts it as used. */
static const struct tpl_value *take_keyword(const struct tpl_args *args, const char *name, size_t n,
                                            size_t *used)
{
    for (size_t i = 0; i < args->n_keywords; i++)
        if (args->keywords[i].bytes == n && memcmp(args->keywords[i].name, name, n) == 0) {
            ++*used;
            return &args->keywords[i].value;
        }
    return NULL;
}

static size_t length_of(const struct tpl_node *node)
{
    size_t n = 0;

    for (; node != NULL; node = node->next)
        n++;
    return n;
}

/* What the parameters did not take: varargs, kwargs, caller, or an error. */
static void bind_rest(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *node,
                      const struct tpl_args *args, size_t n_parameters, size_t used)
{
    struct tpl_list *rest = tpl_list_new(run, 0);
    struct tpl_dict *keywords = tpl_dict_new(run, 0);
    const struct tpl_value *caller = NULL;

    if (node->uses & TPL_USES_CALLER) {
        caller = take_keyword(args, "caller", 6, &used);
        set_special(run, scope, "caller",
                    caller != NULL ? *caller : tpl_undefined("caller", 6, TPL_UNDEFINED));
    }
    for (size_t i = n_parameters; i < args->n && !tpl_failed(run); i++)
        tpl_list_add(run, rest, args->items[i]);
    for (size_t i = 0; i < args->n_keywords && !tpl_failed(run); i++) {
        const struct tpl_keyword *k = &args->keywords[i];
        bool taken = &k->value == caller;
        for (const struct tpl_node *p = node->a; p != NULL; p = p->next)
            taken =
                taken || (p->name->n == k->bytes && memcmp(p->name->text, k->name, k->bytes) == 0);
        if (!taken)
            tpl_dict_set(run, keywords, tpl_string(k->name, k->bytes), k->value);
    }
    if (tpl_failed(run))
        return;
    if (node->uses & TPL_USES_KWARGS)
        set_special(run, scope, "kwargs", tpl_of_dict(TPL_DICT, keywords));
    else if (used < args->n_keywords)
        tpl_fail(run, "the macro takes no such keyword argument");
    if (node->uses & TPL_USES_VARARGS)
        set_special(run, scope, "varargs", tpl_of_list(TPL_TUPLE, rest));
    else if (args->n > n_parameters)
        tpl_fail(run, "the macro takes not more than %zu argument(s)", n_parameters);
}

static void bind_parameters(struct tpl_run *run, struct tpl_scope *scope,
                            const struct tpl_node *node, const struct tpl_args *args)
{
    size_t n = length_of(node->a), without = n - length_of(node->b), i = 0, used = 0;
    const struct tpl_node *value = node->b;

    for (const struct tpl_node *p = node->a; p != NULL && !tpl_failed(run); p = p->next, i++) {
        const struct tpl_value *given =
            i < args->n ? &args->items[i] : take_keyword(args, p->name->text, p->name->n, &used);
        struct tpl_value v = tpl_undefined(p->name->text, p->name->n, TPL_ABSENT);
        if (given != NULL)
            v = *given;
        else if (i >= without)
            v = tpl_eval(run, scope, value);
        if (i >= without)
            value = value->next;
        tpl_scope_set(run, scope, p->name, v);
    }
    bind_rest(run, scope, node, args, n, used);
}

struct tpl_value tpl_call_macro(struct tpl_run *run, const struct tpl_macro *macro,
                                const struct tpl_args *args)
{
    struct tpl_scope *scope = scope_new(run, macro->scope);
    struct tpl_value out = tpl_none();

    if (scope == NULL || !tpl_enter(run))
        return out;
    bind_parameters(run, scope, macro->node, args);
    if (!tpl_failed(run))
        out = capture(run, scope, macro->node->d);
    tpl_leave(run);
    return tpl_failed(run) ? tpl_none() : out;
}

static struct tpl_value macro_of(struct tpl_run *run, struct tpl_scope *scope,
                                 const struct tpl_node *node)
{
    struct tpl_macro *macro = tpl_alloc(run, 1, sizeof(*macro));

    if (macro == NULL)
        return tpl_none();
    *macro = (struct tpl_macro){node, scope};
    return (struct tpl_value){.kind = TPL_MACRO, .macro = macro};
}

/* Filters from the innermost on: node->a is the filter before, NULL for the first. */
static struct tpl_value filtered(struct tpl_run *run, struct tpl_scope *scope,
                                 const struct tpl_node *filter, struct tpl_value text)
{
    if (filter == NULL || tpl_failed(run) || !tpl_enter(run))
        return text;
    text = filtered(run, scope, filter->a, text);
    if (!tpl_failed(run))
        text = tpl_apply_filter(run, scope, filter, text);
    tpl_leave(run);
    return text;
}

static void exec_call(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *node)
{
    struct tpl_value callee = tpl_eval(run, scope, node->c->a), out;
    struct tpl_args args;

    if (tpl_failed(run) || !tpl_eval_args(run, scope, node->c->b, &args))
        return;
    struct tpl_keyword *keywords = tpl_alloc(run, args.n_keywords + 1, sizeof(*keywords));
    if (keywords == NULL)
        return;
    if (args.n_keywords > 0)
        memcpy(keywords, args.keywords, args.n_keywords * sizeof(*keywords));
    keywords[args.n_keywords++] = (struct tpl_keyword){"caller", 6, macro_of(run, scope, node)};
    args.keywords = keywords;
    out = tpl_call(run, callee, &args);
    tpl_print(run, run->out, &out);
}

static void exec_if(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *node)
{
    for (const struct tpl_node *branch = node->a; branch != NULL; branch = branch->next) {
        struct tpl_value test = tpl_bool(true);
        if (branch->a != NULL) {
            run->line = branch->line;
            test = tpl_eval(run, scope, branch->a);
        }
        if (tpl_failed(run))
            return;
        if (!tpl_truth(&test))
            continue;
        tpl_exec(run, scope, branch->d);
        return;
    }
}

static void exec_with(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *node)
{
    struct tpl_scope *inner = scope_new(run, scope);
    const struct tpl_node *value = node->b;

    for (const struct tpl_node *name = node->a; name != NULL && !tpl_failed(run);
         name = name->next, value = value->next)
        tpl_scope_set(run, inner, name->name, tpl_eval(run, scope, value));
    tpl_exec(run, inner, node->d);
}

/* The statements with a body that becomes text. */
static void exec_text(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *node)
{
    struct tpl_value text = capture(run, scope_new(run, scope), node->d);

    if (node->type == TPL_N_SETBLOCK) {
        assign(run, scope, node->a, filtered(run, scope, node->b, text));
        return;
    }
    if (node->type == TPL_N_FILTERBLOCK)
        text = filtered(run, scope, node->a, text);
    if (!tpl_failed(run))
        tpl_print(run, run->out, &text);
}

static void exec_node(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *node)
{
    struct tpl_value v;

    switch (node->type) {
    case TPL_N_DATA:
        tpl_print(run, run->out, &node->value);
        break;
    case TPL_N_OUTPUT:
        v = tpl_eval(run, scope, node->a);
        tpl_print(run, run->out, &v);
        break;
    case TPL_N_FOR:
        exec_loop(run, scope, node, tpl_eval(run, scope, node->b), 0);
        break;
    case TPL_N_IF:
        exec_if(run, scope, node);
        break;
    case TPL_N_SET:
        assign(run, scope, node->a, tpl_eval(run, scope, node->b));
        break;
    case TPL_N_WITH:
        exec_with(run, scope, node);
        break;
    case TPL_N_MACRO:
        tpl_scope_set(run, scope, node->name, macro_of(run, scope, node));
        break;
    case TPL_N_CALLBLOCK:
        exec_call(run, scope, node);
        break;
    case TPL_N_SETBLOCK:
    case TPL_N_FILTERBLOCK:
    case TPL_N_SCOPE:
        exec_text(run, scope, node);
        break;
    case TPL_N_BREAK:
        run->signal = TPL_BREAK;
        break;
    case TPL_N_CONTINUE:
        run->signal = TPL_CONTINUE;
        break;
    default:
        tpl_fail(run, "this is no statement");
        break;
    }
}

void tpl_exec(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *body)
{
    if (scope == NULL || tpl_failed(run) || !tpl_enter(run))
        return;
    for (const struct tpl_node *node = body;
         node != NULL && run->signal == TPL_GO_ON && tpl_step(run, 1); node = node->next) {
        run->line = node->line;
        exec_node(run, scope, node);
    }
    tpl_leave(run);
}

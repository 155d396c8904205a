/* Expressions: from a node to a value.
 *
 * Undefined is a value as in jinja2: it prints as nothing, is false, empty and equal to itself;
 * anything else that is done with it is an error which names what was missing. An attribute is looked
 * for as a method first and as a key then; a subscript the other way round. */
#include "text/template_parts.h"

#include <stdarg.h>
#include <stdio.h>

struct tpl_value tpl_fail(struct tpl_run *run, const char *fmt, ...)
{
    char sentence[400];
    va_list args;

    if (run->status == SL_OK) {
        va_start(args, fmt);
        vsnprintf(sentence, sizeof(sentence), fmt, args);
        va_end(args);
        run->status = sl_fail(SL_INVALID, "%s, line %u: %s", run->what, run->line, sentence);
    }
    return tpl_none();
}

struct tpl_value tpl_exhausted(struct tpl_run *run, const char *what, uint64_t max)
{
    if (run->status == SL_OK)
        run->status = sl_fail(SL_EXHAUSTED, "%s, line %u: more than %llu %s", run->what, run->line,
                              (unsigned long long)max, what);
    return tpl_none();
}

bool tpl_step(struct tpl_run *run, uint64_t steps)
{
    if (steps > run->steps_max - run->steps) {
        run->steps = run->steps_max;
        tpl_exhausted(run, "steps", run->steps_max);
        return false;
    }
    run->steps += steps;
    return run->status == SL_OK;
}

bool tpl_enter(struct tpl_run *run)
{
    if (run->depth >= run->depth_max) {
        tpl_exhausted(run, "levels", run->depth_max);
        return false;
    }
    run->depth++;
    return true;
}

void tpl_leave(struct tpl_run *run)
{
    run->depth--;
}

static struct tpl_value bind_method(struct tpl_run *run, const struct tpl_native *native,
                                    struct tpl_value self)
{
    struct tpl_bound *bound = tpl_alloc(run, 1, sizeof(*bound));

    if (bound == NULL)
        return tpl_none();
    *bound = (struct tpl_bound){native, self};
    return (struct tpl_value){.kind = TPL_METHOD, .bound = bound};
}

/* What Python's getattr would find; false if nothing. */
static bool own_attribute(struct tpl_run *run, struct tpl_value self, const char *name, size_t n,
                          struct tpl_value *out)
{
    const struct tpl_native *native = tpl_method_find(&self, name, n);

    if (native != NULL) {
        *out = bind_method(run, native, self);
        return true;
    }
    if (self.kind == TPL_NAMESPACE) {
        const struct tpl_value *found = tpl_dict_find(run, self.dict, tpl_string(name, n));
        if (found != NULL)
            *out = *found;
        return found != NULL;
    }
    if (self.kind == TPL_LOOP)
        return tpl_loop_attribute(run, self, name, n, out);
    if (self.kind == TPL_CYCLER && n == 7 && memcmp(name, "current", 7) == 0) {
        *out = self.cycler->list->items[self.cycler->at];
        return true;
    }
    if (self.kind == TPL_TUPLE && self.of == TPL_TUPLE) { /* of groupby */
        bool grouper = n == 7 && memcmp(name, "grouper", 7) == 0;
        if (!grouper && !(n == 4 && memcmp(name, "list", 4) == 0))
            return false;
        *out = self.list->items[grouper ? 0 : 1];
        return true;
    }
    if (self.kind == TPL_MACRO && n == 4 && memcmp(name, "name", 4) == 0) {
        const struct tpl_name *own = self.macro->node->name;
        *out = own == NULL ? tpl_none() : tpl_string(own->text, own->n);
        return true;
    }
    return false;
}

struct tpl_value tpl_attribute(struct tpl_run *run, struct tpl_value self, const char *name,
                               size_t n)
{
    struct tpl_value out = tpl_none();

    if (tpl_failed(run))
        return out;
    if (self.kind == TPL_UNDEFINED)
        return tpl_type_error(run, "attribute", &self);
    if (own_attribute(run, self, name, n, &out))
        return out;
    if (self.kind == TPL_DICT && !tpl_is_method_name(TPL_DICT, name, n)) {
        const struct tpl_value *found = tpl_dict_find(run, self.dict, tpl_string(name, n));
        if (found != NULL)
            return *found;
    }
    return tpl_undefined(name, n, (enum tpl_kind)self.kind);
}

/* Item `at` of a sequence, counted from the end if negative; undefined outside. */
static struct tpl_value item_at(struct tpl_run *run, struct tpl_value self, int64_t at)
{
    int64_t n = tpl_length(run, &self);

    if (at < 0)
        at += n;
    if (at < 0 || at >= n)
        return tpl_undefined("item", 4, (enum tpl_kind)self.kind);
    if (self.kind == TPL_RANGE)
        return tpl_int(self.range->start + at * self.range->step);
    if (self.kind != TPL_STRING)
        return self.list->items[at];
    size_t from = tpl_char_at(self.text, self.n, (size_t)at);
    return tpl_string(self.text + from, tpl_char_at(self.text + from, self.n - from, 1));
}

struct tpl_value tpl_item(struct tpl_run *run, struct tpl_value self, struct tpl_value key)
{
    struct tpl_value out = tpl_none();
    bool integer = key.kind == TPL_INT || key.kind == TPL_BOOL;

    if (tpl_failed(run))
        return out;
    if (self.kind == TPL_UNDEFINED)
        return tpl_type_error(run, "item", &self);
    if (self.kind == TPL_DICT) {
        const struct tpl_value *found = tpl_dict_find(run, self.dict, key);
        if (found != NULL)
            return *found;
    } else if (integer && (self.kind == TPL_STRING || self.kind == TPL_LIST ||
                           self.kind == TPL_TUPLE || self.kind == TPL_RANGE)) {
        return item_at(run, self, key.kind == TPL_BOOL ? key.truth : key.integer);
    }
    if (key.kind != TPL_STRING)
        return tpl_undefined("item", 4, (enum tpl_kind)self.kind);
    if (own_attribute(run, self, key.text, key.n, &out))
        return out;
    return tpl_undefined(key.text, key.n, (enum tpl_kind)self.kind);
}

/* The position of a name in a signature, -1 if it is not there. */
static int parameter_index(const char *signature, const char *name, size_t bytes)
{
    int index = 0;

    for (const char *at = signature; *at != '\0'; index++) {
        size_t n = strcspn(at, " ");
        if (n == bytes && memcmp(at, name, n) == 0)
            return index;
        at += n + strspn(at + n, " ");
    }
    return -1;
}

static int parameter_count(const char *signature)
{
    int n = *signature != '\0';

    for (; *signature != '\0'; signature++)
        n += *signature == ' ';
    return n;
}

/* Arguments by the names of the signature. */
static bool bind(struct tpl_run *run, const struct tpl_native *native, const struct tpl_args *args,
                 struct tpl_value *a)
{
    int max = parameter_count(native->signature);

    if (args->n > (size_t)max) {
        tpl_fail(run, "%s takes at most %d argument(s), got %zu", native->name, max, args->n);
        return false;
    }
    for (size_t i = 0; i < args->n; i++)
        a[i] = args->items[i];
    for (size_t i = 0; i < args->n_keywords; i++) {
        const struct tpl_keyword *k = &args->keywords[i];
        int at = parameter_index(native->signature, k->name, k->bytes);
        if (at < 0 || a[at].kind != TPL_ABSENT) {
            tpl_fail(run, "%s got an unexpected argument '%.*s'", native->name,
                     (int)(k->bytes < 60 ? k->bytes : 60), k->name);
            return false;
        }
        a[at] = k->value;
    }
    for (int i = 0; i < native->n_required; i++)
        if (a[i].kind == TPL_ABSENT) {
            tpl_fail(run, "%s wants at least %d argument(s)", native->name, native->n_required);
            return false;
        }
    return true;
}

struct tpl_value tpl_call_native(struct tpl_run *run, const struct tpl_native *native,
                                 struct tpl_value self, const struct tpl_args *args)
{
    struct tpl_value a[TPL_ARGS_MAX], out = tpl_none();

    for (int i = 0; i < TPL_ARGS_MAX; i++)
        a[i] = (struct tpl_value){.kind = TPL_ABSENT};
    if (!tpl_step(run, 1) || !tpl_enter(run))
        return out;
    if (native->signature[0] == '*' || bind(run, native, args, a))
        out = native->call(run, self, a, args);
    tpl_leave(run);
    return tpl_failed(run) ? tpl_none() : out;
}

struct tpl_value tpl_call(struct tpl_run *run, struct tpl_value callee, const struct tpl_args *args)
{
    if (tpl_failed(run))
        return tpl_none();
    if (callee.kind == TPL_FUNCTION)
        return tpl_call_native(run, callee.native, tpl_none(), args);
    if (callee.kind == TPL_METHOD)
        return tpl_call_native(run, callee.bound->native, callee.bound->self, args);
    if (callee.kind == TPL_MACRO)
        return tpl_call_macro(run, callee.macro, args);
    if (callee.kind == TPL_LOOP)
        return tpl_call_loop(run, callee.loop, args);
    if (callee.kind == TPL_JOINER) {
        bool used = callee.joiner->used;
        callee.joiner->used = true;
        return used ? callee.joiner->separator : tpl_string("", 0);
    }
    if (callee.kind == TPL_UNDEFINED)
        return tpl_type_error(run, "call", &callee);
    return tpl_fail(run, "'%s' object is not callable", tpl_type(&callee));
}

static void add_keyword(struct tpl_run *run, struct tpl_args *args, size_t max, const char *name,
                        size_t bytes, struct tpl_value value)
{
    for (size_t i = 0; i < args->n_keywords; i++)
        if (args->keywords[i].bytes == bytes && memcmp(args->keywords[i].name, name, bytes) == 0)
            tpl_fail(run, "multiple values for keyword argument '%.*s'",
                     (int)(bytes < 60 ? bytes : 60), name);
    if (!tpl_failed(run) && args->n_keywords < max)
        args->keywords[args->n_keywords++] = (struct tpl_keyword){name, bytes, value};
}

/* Counts what an argument list gives, evaluating the starred ones into `stars`. */
static bool count_args(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *arg,
                       struct tpl_value stars[2], size_t *n, size_t *n_keywords)
{
    for (; arg != NULL && !tpl_failed(run); arg = arg->next) {
        if (arg->op == 2) {
            stars[0] = tpl_of_list(TPL_LIST, tpl_items(run, tpl_eval(run, scope, arg->a)));
            *n += tpl_failed(run) ? 0 : stars[0].list->n;
        } else if (arg->op == 3) {
            stars[1] = tpl_eval(run, scope, arg->a);
            if (stars[1].kind != TPL_DICT)
                tpl_fail(run, "argument after ** must be a mapping, not %s", tpl_type(&stars[1]));
            *n_keywords += tpl_failed(run) ? 0 : stars[1].dict->n;
        } else if (arg->name != NULL) {
            ++*n_keywords;
        } else {
            ++*n;
        }
    }
    return !tpl_failed(run);
}

bool tpl_eval_args(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *first,
                   struct tpl_args *args)
{
    struct tpl_value stars[2] = {tpl_none(), tpl_none()};
    size_t n = 0, n_keywords = 0;

    *args = (struct tpl_args){0};
    if (first == NULL)
        return true;
    if (!count_args(run, scope, first, stars, &n, &n_keywords))
        return false;
    args->items = tpl_alloc(run, n, sizeof(*args->items));
    args->keywords = tpl_alloc(run, n_keywords, sizeof(*args->keywords));
    for (const struct tpl_node *arg = first; arg != NULL && !tpl_failed(run); arg = arg->next) {
        if (arg->op == 2) {
            for (size_t i = 0; i < stars[0].list->n; i++)
                args->items[args->n++] = stars[0].list->items[i];
        } else if (arg->op == 3) {
            for (size_t i = 0; i < stars[1].dict->n && !tpl_failed(run); i++) {
                const struct tpl_pair *pair = &stars[1].dict->pairs[i];
                if (pair->key.kind != TPL_STRING)
                    tpl_fail(run, "keywords must be strings");
                else
                    add_keyword(run, args, n_keywords, pair->key.text, pair->key.n, pair->value);
            }
        } else if (arg->name != NULL) {
            struct tpl_value value = tpl_eval(run, scope, arg->a);
            add_keyword(run, args, n_keywords, arg->name->text, arg->name->n, value);
        } else {
            args->items[args->n++] = tpl_eval(run, scope, arg->a);
        }
    }
    return !tpl_failed(run);
}

struct tpl_value tpl_apply_filter(struct tpl_run *run, struct tpl_scope *scope,
                                  const struct tpl_node *filter, struct tpl_value self)
{
    struct tpl_args args;

    if (filter->native == NULL)
        return tpl_fail(run, "no filter named '%.*s'",
                        (int)(filter->name->n < 60 ? filter->name->n : 60), filter->name->text);
    if (!tpl_eval_args(run, scope, filter->b, &args))
        return tpl_none();
    return tpl_call_native(run, filter->native, self, &args);
}

static struct tpl_value eval_name(struct tpl_run *run, struct tpl_scope *scope,
                                  const struct tpl_node *node)
{
    uint64_t looked = 0;

    for (const struct tpl_scope *s = scope; s != NULL; s = s->parent)
        for (const struct tpl_binding *b = s->first; b != NULL; b = b->next, looked++)
            if (b->name == node->name) {
                tpl_step(run, looked / 16);
                return b->value;
            }
    tpl_step(run, looked / 16);
    if (node->native != NULL)
        return (struct tpl_value){.kind = TPL_FUNCTION, .native = node->native};
    return tpl_undefined(node->name->text, node->name->n, TPL_UNDEFINED);
}

static struct tpl_value eval_list(struct tpl_run *run, struct tpl_scope *scope,
                                  const struct tpl_node *node, enum tpl_kind kind)
{
    struct tpl_list *list = tpl_list_new(run, 0);

    for (const struct tpl_node *item = node->a; item != NULL && !tpl_failed(run); item = item->next)
        tpl_list_add(run, list, tpl_eval(run, scope, item));
    return list == NULL ? tpl_none() : tpl_of_list(kind, list);
}

static struct tpl_value eval_dict(struct tpl_run *run, struct tpl_scope *scope,
                                  const struct tpl_node *node)
{
    struct tpl_dict *dict = tpl_dict_new(run, 0);

    for (const struct tpl_node *key = node->a; key != NULL && !tpl_failed(run);
         key = key->next->next) {
        struct tpl_value k = tpl_eval(run, scope, key);
        tpl_dict_set(run, dict, k, tpl_eval(run, scope, key->next));
    }
    return dict == NULL ? tpl_none() : tpl_of_dict(TPL_DICT, dict);
}

static struct tpl_value eval_item(struct tpl_run *run, struct tpl_scope *scope,
                                  const struct tpl_node *node)
{
    struct tpl_value self = tpl_eval(run, scope, node->a), bounds[3];
    const struct tpl_node *const parts[] = {node->b->a, node->b->b, node->b->c};

    if (node->b->type != TPL_N_SLICE)
        return tpl_item(run, self, tpl_eval(run, scope, node->b));
    for (int i = 0; i < 3; i++)
        bounds[i] = parts[i] == NULL ? tpl_none() : tpl_eval(run, scope, parts[i]);
    if (!tpl_failed(run) && self.kind == TPL_UNDEFINED)
        return tpl_type_error(run, "slice", &self);
    return tpl_failed(run) ? tpl_none() : tpl_slice(run, self, bounds);
}

static struct tpl_value eval_call(struct tpl_run *run, struct tpl_scope *scope,
                                  const struct tpl_node *node)
{
    struct tpl_value callee = tpl_eval(run, scope, node->a);
    struct tpl_args args;

    if (tpl_failed(run) || !tpl_eval_args(run, scope, node->b, &args))
        return tpl_none();
    run->line = node->line;
    return tpl_call(run, callee, &args);
}

static struct tpl_value eval_test(struct tpl_run *run, struct tpl_scope *scope,
                                  const struct tpl_node *node)
{
    struct tpl_value self = tpl_eval(run, scope, node->a);
    struct tpl_args args;

    if (node->native == NULL)
        return tpl_fail(run, "no test named '%.*s'", (int)(node->name->n < 60 ? node->name->n : 60),
                        node->name->text);
    if (tpl_failed(run) || !tpl_eval_args(run, scope, node->b, &args))
        return tpl_none();
    struct tpl_value out = tpl_call_native(run, node->native, self, &args);
    return tpl_bool(tpl_truth(&out));
}

static struct tpl_value eval_sign(struct tpl_run *run, struct tpl_scope *scope,
                                  const struct tpl_node *node)
{
    struct tpl_value v = tpl_eval(run, scope, node->a);

    if (tpl_failed(run))
        return v;
    if (v.kind == TPL_BOOL)
        v = tpl_int(v.truth);
    if (v.kind == TPL_FLOAT)
        return node->type == TPL_N_NEG ? tpl_float(-v.number) : v;
    if (v.kind != TPL_INT)
        return tpl_type_error(run, "sign", &v);
    return node->type == TPL_N_NEG ? tpl_binary(run, TPL_SUB, tpl_int(0), v) : v;
}

static struct tpl_value eval_logic(struct tpl_run *run, struct tpl_scope *scope,
                                   const struct tpl_node *node)
{
    struct tpl_value v = tpl_none();

    for (const struct tpl_node *operand = node->a; operand != NULL; operand = operand->next) {
        v = tpl_eval(run, scope, operand->a);
        if (tpl_failed(run) || tpl_truth(&v) == (node->type == TPL_N_OR))
            break;
    }
    return v;
}

static struct tpl_value eval_concat(struct tpl_run *run, struct tpl_scope *scope,
                                    const struct tpl_node *node)
{
    struct sl_buf out;

    tpl_buf_init(run, &out);
    for (const struct tpl_node *operand = node->a; operand != NULL && !tpl_failed(run);
         operand = operand->next) {
        struct tpl_value v = tpl_eval(run, scope, operand->a);
        tpl_print(run, &out, &v);
    }
    return tpl_string_take(run, &out);
}

static struct tpl_value eval_binary(struct tpl_run *run, struct tpl_scope *scope,
                                    const struct tpl_node *node)
{
    struct tpl_value left = tpl_eval(run, scope, node->a);

    for (const struct tpl_node *operand = node->b; operand != NULL && !tpl_failed(run);
         operand = operand->next) {
        struct tpl_value right = tpl_eval(run, scope, operand->a);
        left = tpl_binary(run, (enum tpl_op)operand->op, left, right);
    }
    return left;
}

static struct tpl_value eval_compare(struct tpl_run *run, struct tpl_scope *scope,
                                     const struct tpl_node *node)
{
    struct tpl_value left = tpl_eval(run, scope, node->a), out = tpl_bool(true);

    for (const struct tpl_node *operand = node->b; operand != NULL && !tpl_failed(run);
         operand = operand->next) {
        struct tpl_value right = tpl_eval(run, scope, operand->a);
        out = tpl_binary(run, (enum tpl_op)operand->op, left, right);
        if (!tpl_truth(&out))
            break;
        left = right;
    }
    return out;
}

static struct tpl_value eval_cond(struct tpl_run *run, struct tpl_scope *scope,
                                  const struct tpl_node *node)
{
    struct tpl_value test = tpl_eval(run, scope, node->a);

    if (tpl_failed(run))
        return test;
    if (tpl_truth(&test))
        return tpl_eval(run, scope, node->b);
    if (node->c != NULL)
        return tpl_eval(run, scope, node->c);
    return tpl_undefined("if without else", 15, TPL_UNDEFINED);
}

static struct tpl_value eval_node(struct tpl_run *run, struct tpl_scope *scope,
                                  const struct tpl_node *node)
{
    struct tpl_value v;

    switch (node->type) {
    case TPL_N_CONST:
        return node->value;
    case TPL_N_NAME:
        return eval_name(run, scope, node);
    case TPL_N_LIST:
        return eval_list(run, scope, node, TPL_LIST);
    case TPL_N_TUPLE:
        return eval_list(run, scope, node, TPL_TUPLE);
    case TPL_N_DICT:
        return eval_dict(run, scope, node);
    case TPL_N_ATTR:
        v = tpl_eval(run, scope, node->a);
        run->line = node->line;
        return tpl_attribute(run, v, node->name->text, node->name->n);
    case TPL_N_ITEM:
        return eval_item(run, scope, node);
    case TPL_N_SLICE:
        return tpl_fail(run, "a slice among other keys");
    case TPL_N_CALL:
        return eval_call(run, scope, node);
    case TPL_N_FILTER:
        v = tpl_eval(run, scope, node->a);
        return tpl_failed(run) ? v : tpl_apply_filter(run, scope, node, v);
    case TPL_N_TEST:
        return eval_test(run, scope, node);
    case TPL_N_NOT:
        v = tpl_eval(run, scope, node->a);
        return tpl_bool(!tpl_truth(&v));
    case TPL_N_NEG:
    case TPL_N_POS:
        return eval_sign(run, scope, node);
    case TPL_N_AND:
    case TPL_N_OR:
        return eval_logic(run, scope, node);
    case TPL_N_CONCAT:
        return eval_concat(run, scope, node);
    case TPL_N_BINARY:
        return eval_binary(run, scope, node);
    case TPL_N_COMPARE:
        return eval_compare(run, scope, node);
    case TPL_N_COND:
        return eval_cond(run, scope, node);
    default:
        return tpl_fail(run, "this is no expression");
    }
}

struct tpl_value tpl_eval(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *node)
{
    if (!tpl_step(run, 1) || !tpl_enter(run))
        return tpl_none();
    struct tpl_value v = eval_node(run, scope, node);
    tpl_leave(run);
    return tpl_failed(run) ? tpl_none() : v;
}

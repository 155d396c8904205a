/* Tests ("is …") and global functions. */
#include "text/template_natives.h"

NATIVE(is_defined)
{
    UNUSED();
    return tpl_bool(self.kind != TPL_UNDEFINED);
}

NATIVE(is_undefined)
{
    UNUSED();
    return tpl_bool(self.kind == TPL_UNDEFINED);
}

NATIVE(is_none)
{
    UNUSED();
    return tpl_bool(self.kind == TPL_NONE);
}

NATIVE(is_string)
{
    UNUSED();
    return tpl_bool(self.kind == TPL_STRING);
}

NATIVE(is_mapping)
{
    UNUSED();
    return tpl_bool(self.kind == TPL_DICT);
}

/* Has a length and items by index; Python's dict passes, and so does Undefined. */
NATIVE(is_sequence)
{
    UNUSED();
    return tpl_bool(self.kind == TPL_STRING || self.kind == TPL_LIST || self.kind == TPL_TUPLE ||
                    self.kind == TPL_DICT || self.kind == TPL_RANGE || self.kind == TPL_UNDEFINED);
}

NATIVE(is_iterable)
{
    UNUSED();
    return tpl_bool(tpl_iterable(&self));
}

NATIVE(is_number)
{
    UNUSED();
    return tpl_bool(self.kind == TPL_INT || self.kind == TPL_FLOAT || self.kind == TPL_BOOL);
}

NATIVE(is_integer)
{
    UNUSED();
    return tpl_bool(self.kind == TPL_INT);
}

NATIVE(is_float)
{
    UNUSED();
    return tpl_bool(self.kind == TPL_FLOAT);
}

NATIVE(is_boolean)
{
    UNUSED();
    return tpl_bool(self.kind == TPL_BOOL);
}

NATIVE(is_true)
{
    UNUSED();
    return tpl_bool(self.kind == TPL_BOOL && self.truth);
}

NATIVE(is_false)
{
    UNUSED();
    return tpl_bool(self.kind == TPL_BOOL && !self.truth);
}

static struct tpl_value remainder_is(struct tpl_run *run, struct tpl_value self,
                                     struct tpl_value divisor, int64_t wanted)
{
    struct tpl_value rest = tpl_binary(run, TPL_MOD, self, divisor), want = tpl_int(wanted);
    return tpl_bool(!tpl_failed(run) && tpl_equal(run, &rest, &want));
}

NATIVE(is_odd)
{
    UNUSED();
    return remainder_is(run, self, tpl_int(2), 1);
}

NATIVE(is_even)
{
    UNUSED();
    return remainder_is(run, self, tpl_int(2), 0);
}

NATIVE(is_divisibleby)
{
    UNUSED();
    return remainder_is(run, self, a[0], 0);
}

NATIVE(is_eq)
{
    UNUSED();
    return tpl_bool(tpl_equal(run, &self, &a[0]));
}

NATIVE(is_ne)
{
    UNUSED();
    return tpl_bool(!tpl_equal(run, &self, &a[0]));
}

NATIVE(is_lt)
{
    UNUSED();
    return tpl_binary(run, TPL_LT, self, a[0]);
}

NATIVE(is_le)
{
    UNUSED();
    return tpl_binary(run, TPL_LE, self, a[0]);
}

NATIVE(is_gt)
{
    UNUSED();
    return tpl_binary(run, TPL_GT, self, a[0]);
}

NATIVE(is_ge)
{
    UNUSED();
    return tpl_binary(run, TPL_GE, self, a[0]);
}

NATIVE(is_in)
{
    UNUSED();
    return tpl_bool(tpl_contains(run, &a[0], &self));
}

NATIVE(is_callable)
{
    UNUSED();
    return tpl_bool(self.kind == TPL_MACRO || self.kind == TPL_FUNCTION ||
                    self.kind == TPL_METHOD || self.kind == TPL_LOOP || self.kind == TPL_JOINER ||
                    self.kind == TPL_UNDEFINED);
}

/* Identity: of constants and small values it is equality. */
NATIVE(is_sameas)
{
    UNUSED();
    bool object = self.kind >= TPL_LIST;
    return tpl_bool(self.kind == a[0].kind &&
                    (object ? self.list == a[0].list : tpl_equal(run, &self, &a[0])));
}

NATIVE(is_lower)
{
    UNUSED();
    struct tpl_value text = tpl_to_string(run, self);
    struct tpl_args none = {0};
    return tpl_failed(run)
               ? text
               : tpl_call_native(run, tpl_method_find(&text, "islower", 7), text, &none);
}

NATIVE(is_upper)
{
    UNUSED();
    struct tpl_value text = tpl_to_string(run, self);
    struct tpl_args none = {0};
    return tpl_failed(run)
               ? text
               : tpl_call_native(run, tpl_method_find(&text, "isupper", 7), text, &none);
}

NATIVE(is_escaped)
{
    UNUSED();
    return tpl_bool(self.kind == TPL_STRING && self.safe);
}

NATIVE(is_filter)
{
    UNUSED();
    return tpl_bool(self.kind == TPL_STRING && tpl_filter_find(self.text, self.n) != NULL);
}

NATIVE(is_test)
{
    UNUSED();
    return tpl_bool(self.kind == TPL_STRING && tpl_test_find(self.text, self.n) != NULL);
}

static const struct tpl_native tests[] = {
    {"defined", is_defined, "", 0},
    {"undefined", is_undefined, "", 0},
    {"none", is_none, "", 0},
    {"string", is_string, "", 0},
    {"mapping", is_mapping, "", 0},
    {"sequence", is_sequence, "", 0},
    {"iterable", is_iterable, "", 0},
    {"number", is_number, "", 0},
    {"integer", is_integer, "", 0},
    {"float", is_float, "", 0},
    {"boolean", is_boolean, "", 0},
    {"true", is_true, "", 0},
    {"false", is_false, "", 0},
    {"odd", is_odd, "", 0},
    {"even", is_even, "", 0},
    {"divisibleby", is_divisibleby, "num", 1},
    {"eq", is_eq, "b", 1},
    {"equalto", is_eq, "b", 1},
    {"==", is_eq, "b", 1},
    {"ne", is_ne, "b", 1},
    {"!=", is_ne, "b", 1},
    {"lt", is_lt, "b", 1},
    {"lessthan", is_lt, "b", 1},
    {"<", is_lt, "b", 1},
    {"le", is_le, "b", 1},
    {"<=", is_le, "b", 1},
    {"gt", is_gt, "b", 1},
    {"greaterthan", is_gt, "b", 1},
    {">", is_gt, "b", 1},
    {"ge", is_ge, "b", 1},
    {">=", is_ge, "b", 1},
    {"in", is_in, "seq", 1},
    {"callable", is_callable, "", 0},
    {"sameas", is_sameas, "other", 1},
    {"lower", is_lower, "", 0},
    {"upper", is_upper, "", 0},
    {"escaped", is_escaped, "", 0},
    {"filter", is_filter, "", 0},
    {"test", is_test, "", 0},
    {NULL, NULL, NULL, 0},
};

const struct tpl_native *tpl_test_find(const char *name, size_t n)
{
    return tpl_row_find(tests, name, n);
}

NATIVE(global_range)
{
    UNUSED();
    struct tpl_range *range = tpl_alloc(run, 1, sizeof(*range));
    bool one = a[1].kind == TPL_ABSENT;

    for (int i = 0; i < 3; i++)
        if (a[i].kind != TPL_INT && a[i].kind != TPL_BOOL && a[i].kind != TPL_ABSENT)
            return tpl_type_error(run, "range", &a[i]);
    int64_t start = one ? 0 : tpl_int_arg(run, "range", &a[0], 0);
    int64_t stop = tpl_int_arg(run, "range", one ? &a[0] : &a[1], 0);
    int64_t step = tpl_int_arg(run, "range", &a[2], 1);
    uint64_t distance =
        step > 0 ? (uint64_t)stop - (uint64_t)start : (uint64_t)start - (uint64_t)stop;
    uint64_t stride = step > 0 ? (uint64_t)step : -(uint64_t)step, n = 0;
    if (step == 0)
        return tpl_fail(run, "range() arg 3 must not be zero");
    if (step > 0 ? start < stop : start > stop)
        n = (distance - 1) / stride + 1;
    if (n > TPL_RANGE_MAX)
        return tpl_fail(run, "range too big: at most %d numbers", TPL_RANGE_MAX);
    if (range == NULL)
        return tpl_none();
    *range = (struct tpl_range){start, stop, step, (int64_t)n};
    return (struct tpl_value){.kind = TPL_RANGE, .range = range};
}

/* dict(…): of a dictionary or of pairs, and keywords. */
static struct tpl_dict *dict_of(struct tpl_run *run, const struct tpl_args *args)
{
    struct tpl_dict *dict = tpl_dict_new(run, args->n_keywords);

    if (args->n > 1)
        tpl_fail(run, "dict expected at most 1 argument, got %zu", args->n);
    if (args->n == 1 && args->items[0].kind == TPL_DICT) {
        const struct tpl_dict *from = args->items[0].dict;
        for (size_t i = 0; i < from->n && !tpl_failed(run); i++)
            tpl_dict_set(run, dict, from->pairs[i].key, from->pairs[i].value);
    } else if (args->n == 1) {
        const struct tpl_list *list = tpl_items(run, args->items[0]);
        for (size_t i = 0; list != NULL && i < list->n && !tpl_failed(run); i++) {
            const struct tpl_list *pair = tpl_items(run, list->items[i]);
            if (pair != NULL && pair->n != 2)
                tpl_fail(run, "dict: element %zu has length %zu; 2 is required", i, pair->n);
            else if (pair != NULL)
                tpl_dict_set(run, dict, pair->items[0], pair->items[1]);
        }
    }
    for (size_t i = 0; i < args->n_keywords && !tpl_failed(run); i++)
        tpl_dict_set(run, dict, tpl_string(args->keywords[i].name, args->keywords[i].bytes),
                     args->keywords[i].value);
    return tpl_failed(run) ? NULL : dict;
}

NATIVE(global_dict)
{
    UNUSED();
    struct tpl_dict *dict = dict_of(run, args);
    return dict == NULL ? tpl_none() : tpl_of_dict(TPL_DICT, dict);
}

NATIVE(global_namespace)
{
    UNUSED();
    struct tpl_dict *dict = dict_of(run, args);

    for (size_t i = 0; dict != NULL && i < dict->n; i++) {
        const struct tpl_value *key = &dict->pairs[i].key;
        if (key->kind == TPL_STRING && key->n > 0 && key->text[0] == '_')
            return tpl_fail(run, "a namespace cannot have the attribute '%.*s'",
                            (int)(key->n < 60 ? key->n : 60), key->text);
    }
    return dict == NULL ? tpl_none() : tpl_of_dict(TPL_NAMESPACE, dict);
}

/* The template refuses the conversation: its sentence as it is. */
NATIVE(global_raise_exception)
{
    UNUSED();
    struct tpl_value text = tpl_to_string(run, a[0]);

    if (!tpl_failed(run))
        run->status =
            sl_fail(SL_INVALID, "%.*s",
                    (int)(text.n < SL_ERROR_BYTES_MAX ? text.n : SL_ERROR_BYTES_MAX), text.text);
    return tpl_none();
}

NATIVE(global_strftime_now)
{
    UNUSED();
    return tpl_strftime(run, &a[0]);
}

NATIVE(global_joiner)
{
    UNUSED();
    struct tpl_joiner *joiner = tpl_alloc(run, 1, sizeof(*joiner));

    if (joiner == NULL)
        return tpl_none();
    joiner->separator = a[0].kind == TPL_ABSENT ? tpl_string(", ", 2) : a[0];
    return (struct tpl_value){.kind = TPL_JOINER, .joiner = joiner};
}

NATIVE(global_cycler)
{
    UNUSED();
    struct tpl_cycler *cycler = tpl_alloc(run, 1, sizeof(*cycler));

    if (args->n == 0)
        return tpl_fail(run, "at least one item has to be provided");
    if (cycler == NULL)
        return tpl_none();
    cycler->list = tpl_list_new(run, args->n);
    for (size_t i = 0; i < args->n; i++)
        tpl_list_add(run, cycler->list, args->items[i]);
    return (struct tpl_value){.kind = TPL_CYCLER, .cycler = cycler};
}

static const struct tpl_native globals[] = {
    {"range", global_range, "start stop step", 1},
    {"dict", global_dict, "*", 0},
    {"namespace", global_namespace, "*", 0},
    {"raise_exception", global_raise_exception, "message", 1},
    {"strftime_now", global_strftime_now, "format", 1},
    {"joiner", global_joiner, "sep", 0},
    {"cycler", global_cycler, "*", 0},
    {NULL, NULL, NULL, 0},
};

const struct tpl_native *tpl_global_find(const char *name, size_t n)
{
    return tpl_row_find(globals, name, n);
}

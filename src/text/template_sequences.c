/* Filters of sequences and dictionaries.
 *
 * Where jinja2 gives a generator (map, select, batch …) the items are computed at once, and the value
 * is an iterator that can be read once. Sorting is a stable merge; text without regard to case unless
 * case_sensitive is given, as in jinja2. */
#include "text/template_natives.h"

static struct tpl_value list_or_none(struct tpl_run *run, struct tpl_list *list)
{
    return tpl_failed(run) || list == NULL ? tpl_none() : tpl_of_list(TPL_LIST, list);
}

NATIVE(filter_length)
{
    UNUSED();
    int64_t n = tpl_length(run, &self);
    return n < 0 ? tpl_fail(run, "object of type '%s' has no len()", tpl_type(&self)) : tpl_int(n);
}

NATIVE(filter_first)
{
    UNUSED();
    if (self.kind == TPL_STRING && self.n > 0)
        return tpl_string(self.text, tpl_char_at(self.text, self.n, 1));
    if (self.kind == TPL_ITER && self.iter->at < self.iter->list->n)
        return self.iter->list->items[self.iter->at++];
    const struct tpl_list *list = tpl_items(run, self);
    if (list == NULL || list->n == 0)
        return tpl_undefined("first", 5, (enum tpl_kind)self.kind);
    return list->items[0];
}

NATIVE(filter_last)
{
    UNUSED();
    const struct tpl_list *list;

    if (self.kind == TPL_ITER)
        return tpl_fail(run, "'generator' object is not reversible");
    list = tpl_items(run, self);
    if (list == NULL || list->n == 0)
        return tpl_undefined("last", 4, (enum tpl_kind)self.kind);
    return list->items[list->n - 1];
}

NATIVE(filter_list)
{
    UNUSED();
    return list_or_none(run, tpl_items(run, self));
}

/* What an attribute argument says of an item: "a.b", "0.c", 3. */
static struct tpl_value attribute_of(struct tpl_run *run, struct tpl_value item,
                                     const struct tpl_value *attribute,
                                     const struct tpl_value *missing)
{
    struct tpl_value text = *attribute;

    if (attribute->kind == TPL_INT)
        item = tpl_item(run, item, *attribute);
    for (size_t at = 0; attribute->kind == TPL_STRING && at <= text.n && !tpl_failed(run);) {
        const char *dot = memchr(text.text + at, '.', text.n - at);
        size_t end = dot == NULL ? text.n : (size_t)(dot - text.text);
        struct tpl_value key = tpl_string(text.text + at, end - at);
        int64_t number = 0;
        bool digits = end > at && end - at < 10;
        for (size_t i = at; i < end; i++) {
            digits = digits && text.text[i] >= '0' && text.text[i] <= '9';
            number = digits ? number * 10 + (text.text[i] - '0') : 0;
        }
        item = tpl_item(run, item, digits ? tpl_int(number) : key);
        if (item.kind == TPL_UNDEFINED && missing != NULL && tpl_given(missing))
            item = *missing;
        at = end + 1;
    }
    return item;
}

static const struct tpl_value *keyword(const struct tpl_args *args, const char *name)
{
    for (size_t i = 0; i < args->n_keywords; i++)
        if (args->keywords[i].bytes == strlen(name) &&
            memcmp(args->keywords[i].name, name, args->keywords[i].bytes) == 0)
            return &args->keywords[i].value;
    return NULL;
}

/* Arguments without the first n. */
static struct tpl_args behind(const struct tpl_args *args, size_t n)
{
    struct tpl_args rest = *args;

    rest.items += n;
    rest.n -= n;
    return rest;
}

NATIVE(filter_map)
{
    UNUSED();
    const struct tpl_value *attribute = keyword(args, "attribute");
    const struct tpl_native *native = NULL;
    struct tpl_args rest = *args;
    struct tpl_list *out = tpl_list_new(run, 0), *list;

    if (args->n > 0) {
        if (!tpl_text_arg(run, "map", &args->items[0]))
            return tpl_none();
        native = tpl_filter_find(args->items[0].text, args->items[0].n);
        if (native == NULL)
            return tpl_fail(run, "no filter named '%.*s'", (int)(args->items[0].n & 63),
                            args->items[0].text);
        rest = behind(args, 1);
    } else if (attribute == NULL) {
        return tpl_fail(run, "map requires a filter argument");
    }
    list = tpl_items(run, self);
    for (size_t i = 0; list != NULL && i < list->n && !tpl_failed(run); i++)
        tpl_list_add(run, out,
                     native != NULL
                         ? tpl_call_native(run, native, list->items[i], &rest)
                         : attribute_of(run, list->items[i], attribute, keyword(args, "default")));
    return tpl_iter_of(run, out);
}

/* select, reject, selectattr, rejectattr */
static struct tpl_value pick(struct tpl_run *run, struct tpl_value self,
                             const struct tpl_args *args, bool by_attribute, bool wanted)
{
    struct tpl_args rest = *args;
    const struct tpl_native *native = NULL;
    const struct tpl_value *attribute = NULL;
    struct tpl_list *out = tpl_list_new(run, 0), *list = tpl_items(run, self);

    if (by_attribute && rest.n == 0)
        return tpl_fail(run, "Missing parameter for attribute name");
    if (by_attribute) {
        attribute = &rest.items[0];
        rest = behind(&rest, 1);
    }
    if (rest.n > 0) {
        const struct tpl_value *name = &rest.items[0];
        if (!tpl_text_arg(run, "select: name of a test", name))
            return tpl_none();
        native = tpl_test_find(name->text, name->n);
        if (native == NULL)
            return tpl_fail(run, "no test named '%.*s'", (int)(name->n & 63), name->text);
        rest = behind(&rest, 1);
    }
    for (size_t i = 0; list != NULL && i < list->n && !tpl_failed(run); i++) {
        struct tpl_value v = list->items[i];
        if (attribute != NULL)
            v = attribute_of(run, v, attribute, NULL);
        if (native != NULL)
            v = tpl_call_native(run, native, v, &rest);
        if (tpl_truth(&v) == wanted)
            tpl_list_add(run, out, list->items[i]);
    }
    return tpl_iter_of(run, out);
}

NATIVE(filter_select)
{
    UNUSED();
    return pick(run, self, args, false, true);
}

NATIVE(filter_reject)
{
    UNUSED();
    return pick(run, self, args, false, false);
}

NATIVE(filter_selectattr)
{
    UNUSED();
    return pick(run, self, args, true, true);
}

NATIVE(filter_rejectattr)
{
    UNUSED();
    return pick(run, self, args, true, false);
}

NATIVE(filter_join)
{
    UNUSED();
    struct tpl_list *list = tpl_items(run, self), *parts;
    struct tpl_value separator =
        a[0].kind == TPL_ABSENT ? tpl_string("", 0) : tpl_to_string(run, a[0]);

    if (tpl_failed(run) || list == NULL)
        return tpl_none();
    if (!tpl_given(&a[1]))
        return tpl_join(run, separator, list, false);
    parts = tpl_list_new(run, list->n);
    for (size_t i = 0; i < list->n && parts != NULL; i++)
        tpl_list_add(run, parts, attribute_of(run, list->items[i], &a[1], NULL));
    return tpl_join(run, separator, parts, false);
}

/* One item with what it is ordered by. */
struct keyed {
    struct tpl_value key, item;
};

static struct tpl_value sort_key(struct tpl_run *run, struct tpl_value v, bool case_sensitive)
{
    return v.kind == TPL_STRING && !case_sensitive ? tpl_case(run, v, TPL_LOWER) : v;
}

/* What a filter orders by; all zero: the items themselves, without regard to case. */
struct order {
    const struct tpl_value *attribute;
    const struct tpl_value *missing; /* stands for an attribute that is not there; may be NULL */
    bool case_sensitive;
    bool several; /* the attribute may be a list with commas */
};

static struct tpl_value key_of(struct tpl_run *run, struct tpl_value item,
                               const struct order *order)
{
    const struct tpl_value *attribute = order->attribute;

    if (!tpl_given(attribute))
        return sort_key(run, item, order->case_sensitive);
    if (!order->several || attribute->kind != TPL_STRING ||
        memchr(attribute->text, ',', attribute->n) == NULL)
        return sort_key(run, attribute_of(run, item, attribute, order->missing),
                        order->case_sensitive);
    struct tpl_list *list = tpl_list_new(run, 0);
    for (size_t at = 0; at <= attribute->n && list != NULL && !tpl_failed(run);) {
        const char *comma = memchr(attribute->text + at, ',', attribute->n - at);
        size_t end = comma == NULL ? attribute->n : (size_t)(comma - attribute->text);
        struct tpl_value part = tpl_string(attribute->text + at, end - at);
        tpl_list_add(run, list,
                     sort_key(run, attribute_of(run, item, &part, NULL), order->case_sensitive));
        at = end + 1;
    }
    return list == NULL ? tpl_none() : tpl_of_list(TPL_LIST, list);
}

static struct keyed *keys_of(struct tpl_run *run, const struct tpl_list *list,
                             const struct order *order)
{
    struct keyed *all = list == NULL ? NULL : tpl_alloc(run, list->n, sizeof(*all));

    for (size_t i = 0; all != NULL && i < list->n && !tpl_failed(run); i++)
        all[i] = (struct keyed){key_of(run, list->items[i], order), list->items[i]};
    return all;
}

/* Stable merge sort from `from` with `spare` of the same size; the result is in `from`. */
static void merge_sort(struct tpl_run *run, struct keyed *from, struct keyed *spare, size_t n,
                       bool reverse)
{
    for (size_t width = 1; width < n && !tpl_failed(run); width *= 2) {
        for (size_t start = 0; start < n && !tpl_failed(run); start += 2 * width) {
            size_t middle = start + width < n ? start + width : n;
            size_t end = start + 2 * width < n ? start + 2 * width : n;
            size_t i = start, j = middle;
            for (size_t k = start; k < end; k++) {
                bool second = i >= middle;
                if (i < middle && j < end) {
                    int order = tpl_compare(run, &from[j].key, &from[i].key);
                    second = order != 2 && (reverse ? order > 0 : order < 0);
                }
                spare[k] = second ? from[j++] : from[i++];
            }
        }
        memcpy(from, spare, n * sizeof(*from));
    }
}

/* Sorts in place; false when that failed. */
static bool sort_keyed(struct tpl_run *run, struct keyed *all, size_t n, bool reverse)
{
    struct keyed *spare = tpl_alloc(run, n, sizeof(*spare));

    if (all == NULL || spare == NULL)
        return false;
    merge_sort(run, all, spare, n, reverse);
    return !tpl_failed(run);
}

static struct tpl_value sorted(struct tpl_run *run, struct keyed *all, size_t n, bool reverse)
{
    struct tpl_list *out = tpl_list_new(run, n);

    if (out == NULL || !sort_keyed(run, all, n, reverse))
        return tpl_none();
    for (size_t i = 0; i < n; i++)
        tpl_list_add(run, out, all[i].item);
    return list_or_none(run, out);
}

NATIVE(filter_sort)
{
    UNUSED();
    struct tpl_list *list = tpl_items(run, self);
    struct order order = {.attribute = &a[2], .case_sensitive = tpl_truth(&a[1]), .several = true};
    struct keyed *all = keys_of(run, list, &order);

    return all == NULL ? tpl_none() : sorted(run, all, list->n, tpl_truth(&a[0]));
}

NATIVE(filter_dictsort)
{
    UNUSED();
    const struct tpl_native *items;
    struct tpl_args none = {0};
    struct tpl_value by_key = tpl_int(0), by_value = tpl_int(1);
    bool value = a[1].kind == TPL_STRING && a[1].n == 5;

    if (self.kind != TPL_DICT)
        return tpl_type_error(run, "dictsort", &self);
    if (a[1].kind != TPL_ABSENT && !value && !(a[1].kind == TPL_STRING && a[1].n == 3))
        return tpl_fail(run, "You can only sort by either \"key\" or \"value\"");
    items = tpl_method_find(&self, "items", 5);
    struct tpl_value view = tpl_call_native(run, items, self, &none);
    if (tpl_failed(run))
        return view;
    struct order order = {.attribute = value ? &by_value : &by_key,
                          .case_sensitive = tpl_truth(&a[0])};
    struct keyed *all = keys_of(run, view.list, &order);
    return all == NULL ? tpl_none() : sorted(run, all, view.list->n, tpl_truth(&a[2]));
}

/* (grouper, list), whose halves have these names too. Without regard to case the grouper is what the
 * first item of the group says, not what was compared. */
static struct tpl_value group_of(struct tpl_run *run, const struct keyed *first,
                                 struct tpl_list *items, const struct order *order)
{
    struct order own = *order;
    struct tpl_list *pair = tpl_list_new(run, 2);

    own.case_sensitive = true;
    if (pair == NULL)
        return tpl_none();
    tpl_list_add(run, pair, key_of(run, first->item, &own));
    tpl_list_add(run, pair, tpl_of_list(TPL_LIST, items));
    struct tpl_value group = tpl_of_list(TPL_TUPLE, pair);
    group.of = TPL_TUPLE;
    return group;
}

NATIVE(filter_groupby)
{
    UNUSED();
    struct tpl_list *list = tpl_items(run, self), *out = tpl_list_new(run, 0), *items = NULL;
    struct order order = {.attribute = &a[0], .missing = &a[1], .case_sensitive = tpl_truth(&a[2])};
    struct keyed *all = keys_of(run, list, &order);

    if (list == NULL || !sort_keyed(run, all, list->n, false))
        return tpl_none();
    for (size_t i = 0; i < list->n && !tpl_failed(run); i++) {
        if (items == NULL || !tpl_equal(run, &all[i - 1].key, &all[i].key)) {
            items = tpl_list_new(run, 0);
            tpl_list_add(run, out, group_of(run, &all[i], items, &order));
        }
        tpl_list_add(run, items, all[i].item);
    }
    return list_or_none(run, out);
}

NATIVE(filter_unique)
{
    UNUSED();
    struct tpl_list *list = tpl_items(run, self), *out = tpl_list_new(run, 0);
    struct order order = {.attribute = &a[1], .case_sensitive = tpl_truth(&a[0])};
    struct keyed *all = keys_of(run, list, &order);
    struct tpl_dict *seen = tpl_dict_new(run, 0);

    for (size_t i = 0; all != NULL && i < list->n && !tpl_failed(run); i++) {
        if (tpl_dict_find(run, seen, all[i].key) != NULL)
            continue;
        tpl_dict_set(run, seen, all[i].key, tpl_none());
        tpl_list_add(run, out, all[i].item);
    }
    return tpl_iter_of(run, out);
}

static struct tpl_value extreme(struct tpl_run *run, struct tpl_value self,
                                const struct tpl_value *a, int sign)
{
    struct tpl_list *list = tpl_items(run, self);
    struct order order = {.attribute = &a[1], .case_sensitive = tpl_truth(&a[0])};
    struct keyed *all = keys_of(run, list, &order);
    size_t best = 0;

    if (all == NULL || list->n == 0)
        return tpl_undefined("item", 4, (enum tpl_kind)self.kind);
    for (size_t i = 1; i < list->n && !tpl_failed(run); i++) {
        int compared = tpl_compare(run, &all[i].key, &all[best].key);
        if (compared != 2 && compared * sign > 0)
            best = i;
    }
    return all[best].item;
}

NATIVE(filter_min)
{
    UNUSED();
    return extreme(run, self, a, -1);
}

NATIVE(filter_max)
{
    UNUSED();
    return extreme(run, self, a, 1);
}

NATIVE(filter_sum)
{
    UNUSED();
    struct tpl_list *list = tpl_items(run, self);
    struct tpl_value sum = a[1].kind == TPL_ABSENT ? tpl_int(0) : a[1];

    if (sum.kind == TPL_STRING)
        return tpl_fail(run, "sum: strings are joined with join");
    for (size_t i = 0; list != NULL && i < list->n && !tpl_failed(run); i++) {
        struct tpl_value v = list->items[i];
        if (tpl_given(&a[0]))
            v = attribute_of(run, v, &a[0], NULL);
        sum = tpl_binary(run, TPL_ADD, sum, v);
    }
    return sum;
}

NATIVE(filter_reverse)
{
    UNUSED();
    if (self.kind == TPL_STRING) {
        const struct tpl_value bounds[] = {tpl_none(), tpl_none(), tpl_int(-1)};
        return tpl_slice(run, self, bounds);
    }
    struct tpl_list *list = tpl_items(run, self);
    struct tpl_list *out = list == NULL ? NULL : tpl_list_new(run, list->n);
    for (size_t i = 0; out != NULL && i < list->n; i++)
        tpl_list_add(run, out, list->items[list->n - 1 - i]);
    return tpl_iter_of(run, out);
}

NATIVE(filter_items)
{
    UNUSED();
    struct tpl_args none = {0};

    if (self.kind == TPL_UNDEFINED)
        return tpl_iter_of(run, tpl_list_new(run, 0));
    if (self.kind != TPL_DICT)
        return tpl_fail(run, "Can only get item pairs from a mapping.");
    struct tpl_value view = tpl_call_native(run, tpl_method_find(&self, "items", 5), self, &none);
    return tpl_failed(run) ? view : tpl_iter_of(run, view.list);
}

NATIVE(filter_batch)
{
    UNUSED();
    struct tpl_list *list = tpl_items(run, self), *out = tpl_list_new(run, 0), *row = NULL;
    int64_t width = tpl_int_arg(run, "batch: linecount", &a[0], 0);

    if (width <= 0)
        return tpl_fail(run, "batch: linecount must be positive");
    for (size_t i = 0; list != NULL && i < list->n && !tpl_failed(run); i++) {
        if (i % (size_t)width == 0) {
            row = tpl_list_new(run, 0);
            tpl_list_add(run, out, tpl_of_list(TPL_LIST, row));
        }
        tpl_list_add(run, row, list->items[i]);
    }
    while (row != NULL && tpl_given(&a[1]) && row->n < (size_t)width && !tpl_failed(run))
        tpl_list_add(run, row, a[1]);
    return tpl_iter_of(run, out);
}

NATIVE(filter_slice)
{
    UNUSED();
    struct tpl_list *list = tpl_items(run, self), *out = tpl_list_new(run, 0);
    int64_t slices = tpl_int_arg(run, "slice: slices", &a[0], 0);

    if (slices <= 0 || list == NULL || out == NULL)
        return tpl_fail(run, "slice: slices must be positive");
    size_t n = (size_t)slices, each = list->n / n, longer = list->n % n, at = 0;
    for (size_t i = 0; i < n && !tpl_failed(run); i++) {
        struct tpl_list *row = tpl_list_new(run, 0);
        for (size_t j = 0; j < each + (i < longer); j++)
            tpl_list_add(run, row, list->items[at++]);
        if (tpl_given(&a[1]) && i >= longer)
            tpl_list_add(run, row, a[1]);
        tpl_list_add(run, out, tpl_of_list(TPL_LIST, row));
    }
    return tpl_iter_of(run, out);
}

static const struct tpl_native filters[] = {
    {"length", filter_length, "", 0},
    {"count", filter_length, "", 0},
    {"first", filter_first, "", 0},
    {"last", filter_last, "", 0},
    {"list", filter_list, "", 0},
    {"map", filter_map, "*", 0},
    {"select", filter_select, "*", 0},
    {"reject", filter_reject, "*", 0},
    {"selectattr", filter_selectattr, "*", 0},
    {"rejectattr", filter_rejectattr, "*", 0},
    {"join", filter_join, "d attribute", 0},
    {"sort", filter_sort, "reverse case_sensitive attribute", 0},
    {"dictsort", filter_dictsort, "case_sensitive by reverse", 0},
    {"groupby", filter_groupby, "attribute default case_sensitive", 1},
    {"unique", filter_unique, "case_sensitive attribute", 0},
    {"min", filter_min, "case_sensitive attribute", 0},
    {"max", filter_max, "case_sensitive attribute", 0},
    {"sum", filter_sum, "attribute start", 0},
    {"reverse", filter_reverse, "", 0},
    {"items", filter_items, "", 0},
    {"batch", filter_batch, "linecount fill_with", 1},
    {"slice", filter_slice, "slices fill_with", 1},
    {NULL, NULL, NULL, 0},
};

const struct tpl_native *tpl_sequence_filter_find(const char *name, size_t n)
{
    return tpl_row_find(filters, name, n);
}

/* Values of a rendering: making, comparing, iterating; Python's rules.
 *
 * Lists and dictionaries are complete when a template first sees them (the sandbox of jinja2 lets no
 * template change them), so values can share them, and text can point into the JSON or into other
 * text. Everything lives in the arena of the rendering and ends with it. Dictionaries are short and
 * are searched from the start; each look counts as work. */
#include "text/template_parts.h"

#include "base/utf8.h"
#include "text/chars.h"

#include <math.h>

void *tpl_alloc(struct tpl_run *run, size_t n, size_t bytes)
{
    if (tpl_failed(run) || !tpl_step(run, n * bytes / 64))
        return NULL;
    void *p = sl_arena_try_alloc(&run->arena, n, bytes);
    if (p == NULL && run->arena.bytes_max - run->arena.used_bytes < n * bytes + 64)
        tpl_exhausted(run, "bytes of memory", run->arena.bytes_max);
    else if (p == NULL)
        run->status = sl_fail(SL_NO_MEMORY, "%s: %zu bytes", run->what, n * bytes);
    return p;
}

struct tpl_list *tpl_list_new(struct tpl_run *run, size_t capacity)
{
    struct tpl_list *list = tpl_alloc(run, 1, sizeof(*list));

    if (list == NULL || capacity == 0)
        return list;
    list->items = tpl_alloc(run, capacity, sizeof(*list->items));
    list->capacity = list->items == NULL ? 0 : capacity;
    return list->items == NULL ? NULL : list;
}

void tpl_list_add(struct tpl_run *run, struct tpl_list *list, struct tpl_value value)
{
    if (list == NULL || tpl_failed(run))
        return;
    if (list->n == list->capacity) {
        size_t capacity = list->capacity == 0 ? 8 : list->capacity * 2;
        struct tpl_value *items = tpl_alloc(run, capacity, sizeof(*items));
        if (items == NULL)
            return;
        if (list->n > 0)
            memcpy(items, list->items, list->n * sizeof(*items));
        list->items = items;
        list->capacity = capacity;
    }
    list->items[list->n++] = value;
}

struct tpl_dict *tpl_dict_new(struct tpl_run *run, size_t capacity)
{
    struct tpl_dict *dict = tpl_alloc(run, 1, sizeof(*dict));

    if (dict == NULL || capacity == 0)
        return dict;
    dict->pairs = tpl_alloc(run, capacity, sizeof(*dict->pairs));
    dict->capacity = dict->pairs == NULL ? 0 : capacity;
    return dict->pairs == NULL ? NULL : dict;
}

static void dict_add(struct tpl_run *run, struct tpl_dict *dict, struct tpl_value key,
                     struct tpl_value value)
{
    if (dict == NULL || tpl_failed(run))
        return;
    if (dict->n == dict->capacity) {
        size_t capacity = dict->capacity == 0 ? 8 : dict->capacity * 2;
        struct tpl_pair *pairs = tpl_alloc(run, capacity, sizeof(*pairs));
        if (pairs == NULL)
            return;
        if (dict->n > 0)
            memcpy(pairs, dict->pairs, dict->n * sizeof(*pairs));
        dict->pairs = pairs;
        dict->capacity = capacity;
    }
    dict->pairs[dict->n++] = (struct tpl_pair){key, value};
}

static bool hashable(const struct tpl_value *key)
{
    if (key->kind == TPL_TUPLE)
        for (size_t i = 0; i < key->list->n; i++)
            if (!hashable(&key->list->items[i]))
                return false;
    return key->kind != TPL_LIST && key->kind != TPL_DICT && key->kind != TPL_VIEW;
}

struct tpl_value *tpl_dict_find(struct tpl_run *run, const struct tpl_dict *dict,
                                struct tpl_value key)
{
    if (dict == NULL || !tpl_step(run, 1 + dict->n / 8))
        return NULL;
    for (size_t i = 0; i < dict->n; i++) {
        const struct tpl_value *at = &dict->pairs[i].key;
        if (key.kind == TPL_STRING && at->kind == TPL_STRING
                ? key.n == at->n && memcmp(key.text, at->text, key.n) == 0
                : tpl_equal(run, at, &key))
            return &dict->pairs[i].value;
    }
    return NULL;
}

void tpl_dict_set(struct tpl_run *run, struct tpl_dict *dict, struct tpl_value key,
                  struct tpl_value value)
{
    if (!hashable(&key)) {
        tpl_fail(run, "unhashable type: '%s'", tpl_type(&key));
        return;
    }
    struct tpl_value *found = tpl_dict_find(run, dict, key);
    if (found != NULL)
        *found = value;
    else
        dict_add(run, dict, key, value);
}

struct tpl_value tpl_string_copy(struct tpl_run *run, const char *text, size_t bytes)
{
    char *copy = tpl_alloc(run, 1, bytes + 1);

    if (copy == NULL)
        return tpl_undefined("", 0, TPL_UNDEFINED);
    if (bytes > 0)
        memcpy(copy, text, bytes);
    return tpl_string(copy, bytes);
}

void tpl_buf_init(struct tpl_run *run, struct sl_buf *buf)
{
    sl_buf_init(buf, run->output_bytes_max);
}

struct tpl_value tpl_string_take(struct tpl_run *run, struct sl_buf *buf)
{
    struct tpl_value value = tpl_undefined("", 0, TPL_UNDEFINED);

    if (buf->failed && buf->bytes < buf->bytes_max / 2 && !tpl_failed(run))
        run->status = sl_fail(SL_NO_MEMORY, "%s: text of %zu bytes", run->what, buf->bytes);
    if (buf->failed)
        tpl_exhausted(run, "bytes of text", buf->bytes_max);
    else
        value = tpl_string_copy(run, buf->data == NULL ? "" : buf->data, buf->bytes);
    sl_buf_fini(buf);
    return value;
}

static struct tpl_value from_array(struct tpl_run *run, const json_t *json)
{
    size_t n = json_array_size(json);
    struct tpl_list *list = tpl_list_new(run, n);

    for (size_t i = 0; i < n && !tpl_failed(run); i++)
        tpl_list_add(run, list, tpl_from_json(run, json_array_get(json, i)));
    return tpl_failed(run) ? tpl_none() : tpl_of_list(TPL_LIST, list);
}

static struct tpl_value from_object(struct tpl_run *run, const json_t *json)
{
    struct tpl_dict *dict = tpl_dict_new(run, json_object_size(json));
    json_t *object; /* jansson's iterators take no const */

    memcpy(&object, &json, sizeof(object));
    for (void *i = json_object_iter(object); i != NULL && !tpl_failed(run);
         i = json_object_iter_next(object, i)) {
        const char *key = json_object_iter_key(i);
        dict_add(run, dict, tpl_string(key, strlen(key)),
                 tpl_from_json(run, json_object_iter_value(i)));
    }
    return tpl_failed(run) ? tpl_none() : tpl_of_dict(TPL_DICT, dict);
}

struct tpl_value tpl_from_json(struct tpl_run *run, const json_t *json)
{
    struct tpl_value value = tpl_none();

    if (json == NULL)
        return value;
    switch (json_typeof(json)) {
    case JSON_STRING:
        return tpl_string(json_string_value(json), json_string_length(json));
    case JSON_INTEGER:
        return tpl_int(json_integer_value(json));
    case JSON_REAL:
        return tpl_float(json_real_value(json));
    case JSON_TRUE:
    case JSON_FALSE:
        return tpl_bool(json_is_true(json));
    case JSON_NULL:
        return value;
    case JSON_ARRAY:
    case JSON_OBJECT:
        break;
    }
    if (!tpl_enter(run))
        return value;
    value = json_is_array(json) ? from_array(run, json) : from_object(run, json);
    tpl_leave(run);
    return value;
}

struct tpl_value tpl_iter_of(struct tpl_run *run, struct tpl_list *list)
{
    struct tpl_iter *iter = tpl_alloc(run, 1, sizeof(*iter));

    if (iter == NULL || list == NULL)
        return tpl_none();
    iter->list = list;
    return (struct tpl_value){.kind = TPL_ITER, .iter = iter};
}

bool tpl_truth(const struct tpl_value *v)
{
    switch ((enum tpl_kind)v->kind) {
    case TPL_UNDEFINED:
    case TPL_ABSENT:
    case TPL_NONE:
        return false;
    case TPL_BOOL:
        return v->truth;
    case TPL_INT:
        return v->integer != 0;
    case TPL_FLOAT:
        return v->number < 0 || v->number > 0 || isnan(v->number);
    case TPL_STRING:
        return v->n > 0;
    case TPL_LIST:
    case TPL_TUPLE:
    case TPL_VIEW:
        return v->list->n > 0;
    case TPL_DICT:
        return v->dict->n > 0;
    case TPL_RANGE:
        return v->range->n > 0;
    case TPL_LOOP:
        return v->loop->list->n > 0;
    case TPL_NAMESPACE:
    case TPL_ITER:
    case TPL_MACRO:
    case TPL_FUNCTION:
    case TPL_METHOD:
    case TPL_CYCLER:
    case TPL_JOINER:
    case TPL_KINDS:
        break;
    }
    return true;
}

static bool is_number(const struct tpl_value *v)
{
    return v->kind == TPL_BOOL || v->kind == TPL_INT || v->kind == TPL_FLOAT;
}

static int64_t integer_of(const struct tpl_value *v)
{
    return v->kind == TPL_BOOL ? v->truth : v->integer;
}

/* Exact, also between an integer and a float; 2 when one is not a number. */
static int compare_numbers(const struct tpl_value *a, const struct tpl_value *b)
{
    if (a->kind != TPL_FLOAT && b->kind != TPL_FLOAT) {
        int64_t x = integer_of(a), y = integer_of(b);
        return (x > y) - (x < y);
    }
    long double x = a->kind == TPL_FLOAT ? (long double)a->number : (long double)integer_of(a);
    long double y = b->kind == TPL_FLOAT ? (long double)b->number : (long double)integer_of(b);
    if (isnan(x) || isnan(y))
        return 2;
    return (x > y) - (x < y);
}

static bool equal_lists(struct tpl_run *run, const struct tpl_list *a, const struct tpl_list *b)
{
    bool equal = a->n == b->n;

    if (!tpl_enter(run))
        return false;
    for (size_t i = 0; equal && i < a->n && !tpl_failed(run); i++)
        equal = tpl_equal(run, &a->items[i], &b->items[i]);
    tpl_leave(run);
    return equal;
}

static bool equal_dicts(struct tpl_run *run, const struct tpl_dict *a, const struct tpl_dict *b)
{
    bool equal = a->n == b->n;

    if (!tpl_enter(run))
        return false;
    for (size_t i = 0; equal && i < a->n && !tpl_failed(run); i++) {
        const struct tpl_value *other = tpl_dict_find(run, b, a->pairs[i].key);
        equal = other != NULL && tpl_equal(run, &a->pairs[i].value, other);
    }
    tpl_leave(run);
    return equal;
}

bool tpl_equal(struct tpl_run *run, const struct tpl_value *a, const struct tpl_value *b)
{
    if (!tpl_step(run, 1))
        return false;
    if (is_number(a) && is_number(b))
        return compare_numbers(a, b) == 0;
    if (a->kind != b->kind)
        return false;
    switch ((enum tpl_kind)a->kind) {
    case TPL_UNDEFINED:
    case TPL_NONE:
        return true;
    case TPL_STRING:
        return a->n == b->n && tpl_step(run, a->n / 64) && memcmp(a->text, b->text, a->n) == 0;
    case TPL_LIST:
    case TPL_TUPLE:
        return equal_lists(run, a->list, b->list);
    case TPL_VIEW:
        return a->n == b->n && equal_lists(run, a->list, b->list);
    case TPL_DICT:
        return equal_dicts(run, a->dict, b->dict);
    case TPL_RANGE:
        return a->range->n == b->range->n &&
               (a->range->n == 0 || a->range->start == b->range->start) &&
               (a->range->n <= 1 || a->range->step == b->range->step);
    case TPL_METHOD:
        return a->bound->native == b->bound->native &&
               tpl_equal(run, &a->bound->self, &b->bound->self);
    case TPL_ABSENT:
    case TPL_BOOL:
    case TPL_INT:
    case TPL_FLOAT:
    case TPL_NAMESPACE:
    case TPL_ITER:
    case TPL_MACRO:
    case TPL_FUNCTION:
    case TPL_LOOP:
    case TPL_CYCLER:
    case TPL_JOINER:
    case TPL_KINDS:
        break;
    }
    return a->dict == b->dict; /* the same object */
}

int tpl_compare(struct tpl_run *run, const struct tpl_value *a, const struct tpl_value *b)
{
    if (!tpl_step(run, 1))
        return 0;
    if (is_number(a) && is_number(b))
        return compare_numbers(a, b);
    if (a->kind == TPL_STRING && b->kind == TPL_STRING) {
        size_t n = a->n < b->n ? a->n : b->n;
        int order = n == 0 ? 0 : memcmp(a->text, b->text, n);
        tpl_step(run, n / 64);
        return order != 0 ? order : (a->n > b->n) - (a->n < b->n);
    }
    if (a->kind == b->kind && (a->kind == TPL_LIST || a->kind == TPL_TUPLE)) {
        size_t n = a->list->n < b->list->n ? a->list->n : b->list->n, i = 0;
        int order = 0;
        if (!tpl_enter(run))
            return 0;
        while (i < n && tpl_equal(run, &a->list->items[i], &b->list->items[i]))
            i++;
        if (i < n)
            order = tpl_compare(run, &a->list->items[i], &b->list->items[i]);
        tpl_leave(run);
        return i < n ? order : (a->list->n > b->list->n) - (a->list->n < b->list->n);
    }
    if (a->kind == TPL_UNDEFINED || b->kind == TPL_UNDEFINED)
        tpl_type_error(run, "comparison", a->kind == TPL_UNDEFINED ? a : b);
    else
        tpl_fail(run, "no order between '%s' and '%s'", tpl_type(a), tpl_type(b));
    return 0;
}

bool tpl_contains(struct tpl_run *run, const struct tpl_value *in, const struct tpl_value *item)
{
    if (in->kind == TPL_STRING) {
        if (item->kind != TPL_STRING) {
            tpl_fail(run, "'in <string>' requires string as left operand, not %s", tpl_type(item));
            return false;
        }
        return tpl_find(run, in->text, 0, in->n, item->text, item->n, false) != SIZE_MAX;
    }
    if (in->kind == TPL_DICT) {
        if (!hashable(item))
            tpl_fail(run, "unhashable type: '%s'", tpl_type(item));
        return tpl_dict_find(run, in->dict, *item) != NULL;
    }
    const struct tpl_list *list = tpl_items(run, *in);
    for (size_t i = 0; list != NULL && i < list->n && !tpl_failed(run); i++)
        if (tpl_equal(run, &list->items[i], item))
            return true;
    return false;
}

int64_t tpl_length(struct tpl_run *run, const struct tpl_value *v)
{
    switch ((enum tpl_kind)v->kind) {
    case TPL_UNDEFINED:
        return 0;
    case TPL_STRING:
        tpl_step(run, v->n / 64);
        return (int64_t)tpl_count_chars(v->text, v->n);
    case TPL_LIST:
    case TPL_TUPLE:
    case TPL_VIEW:
        return (int64_t)v->list->n;
    case TPL_DICT:
        return (int64_t)v->dict->n;
    case TPL_RANGE:
        return v->range->n;
    case TPL_LOOP:
        return (int64_t)v->loop->list->n;
    case TPL_ABSENT:
    case TPL_NONE:
    case TPL_BOOL:
    case TPL_INT:
    case TPL_FLOAT:
    case TPL_NAMESPACE:
    case TPL_ITER:
    case TPL_MACRO:
    case TPL_FUNCTION:
    case TPL_METHOD:
    case TPL_CYCLER:
    case TPL_JOINER:
    case TPL_KINDS:
        break;
    }
    return -1;
}

bool tpl_iterable(const struct tpl_value *v)
{
    return v->kind == TPL_UNDEFINED || v->kind == TPL_STRING || v->kind == TPL_LIST ||
           v->kind == TPL_TUPLE || v->kind == TPL_DICT || v->kind == TPL_RANGE ||
           v->kind == TPL_VIEW || v->kind == TPL_ITER || v->kind == TPL_LOOP;
}

static struct tpl_list *chars_of(struct tpl_run *run, const struct tpl_value *v)
{
    struct tpl_list *list = tpl_list_new(run, tpl_count_chars(v->text, v->n));

    for (size_t at = 0; at < v->n && list != NULL;) {
        uint32_t code;
        int n = sl_utf8_next(v->text + at, v->n - at, &code);
        size_t bytes = n > 0 ? (size_t)n : 1;
        tpl_list_add(run, list, tpl_string(v->text + at, bytes));
        at += bytes;
    }
    return list;
}

/* What an iterator or a loop still has. */
static struct tpl_list *rest_of(struct tpl_run *run, struct tpl_list *from, size_t *at)
{
    struct tpl_list *list = tpl_list_new(run, from->n - *at);

    while (list != NULL && *at < from->n)
        tpl_list_add(run, list, from->items[(*at)++]);
    return list;
}

struct tpl_list *tpl_items(struct tpl_run *run, struct tpl_value v)
{
    struct tpl_list *list;

    if (tpl_failed(run))
        return NULL;
    switch ((enum tpl_kind)v.kind) {
    case TPL_UNDEFINED:
        return tpl_list_new(run, 0);
    case TPL_STRING:
        return chars_of(run, &v);
    case TPL_LIST:
    case TPL_TUPLE:
    case TPL_VIEW:
        return tpl_step(run, v.list->n / 8) ? v.list : NULL;
    case TPL_DICT:
        list = tpl_list_new(run, v.dict->n);
        for (size_t i = 0; i < v.dict->n; i++)
            tpl_list_add(run, list, v.dict->pairs[i].key);
        return list;
    case TPL_RANGE:
        list = tpl_list_new(run, (size_t)v.range->n);
        for (int64_t i = 0; i < v.range->n && list != NULL; i++)
            tpl_list_add(run, list, tpl_int(v.range->start + i * v.range->step));
        return list;
    case TPL_ITER:
        return rest_of(run, v.iter->list, &v.iter->at);
    case TPL_LOOP:
        v.loop->index0++;
        list = rest_of(run, v.loop->list, &v.loop->index0);
        v.loop->index0--;
        return list;
    case TPL_ABSENT:
    case TPL_NONE:
    case TPL_BOOL:
    case TPL_INT:
    case TPL_FLOAT:
    case TPL_NAMESPACE:
    case TPL_MACRO:
    case TPL_FUNCTION:
    case TPL_METHOD:
    case TPL_CYCLER:
    case TPL_JOINER:
    case TPL_KINDS:
        break;
    }
    tpl_fail(run, "'%s' object is not iterable", tpl_type(&v));
    return NULL;
}

const char *tpl_type(const struct tpl_value *v)
{
    static const char *const names[TPL_KINDS] = {
        "Undefined", "nothing",  "NoneType", "bool",        "int",    "float",     "str",
        "list",      "tuple",    "dict",     "Namespace",   "range",  "dict view", "generator",
        "Macro",     "function", "method",   "LoopContext", "Cycler", "Joiner",
    };

    return names[v->kind];
}

struct tpl_value tpl_type_error(struct tpl_run *run, const char *what, const struct tpl_value *v)
{
    int n = (int)(v->n < 100 ? v->n : 100);

    if (v->kind != TPL_UNDEFINED)
        return tpl_fail(run, "%s of a value of type '%s'", what, tpl_type(v));
    if (v->of == TPL_ABSENT)
        return tpl_fail(run, "parameter '%.*s' was not provided", n, v->text);
    if (v->of == TPL_NONE)
        return tpl_fail(run, "'None' has no attribute '%.*s'", n, v->text);
    if (v->of != TPL_UNDEFINED) {
        const struct tpl_value owner = {.kind = v->of};
        return tpl_fail(run, "'%s object' has no attribute '%.*s'", tpl_type(&owner), n, v->text);
    }
    return tpl_fail(run, "'%.*s' is undefined", n, v->text == NULL ? "" : v->text);
}

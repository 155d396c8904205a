/* What the files of the template engine share; nobody else includes it. Names begin with tpl_.
 *
 * A rendering is one tpl_run. Its first error is kept in it (run->status, the sentence is in
 * sl_error()); functions that give a value give "undefined" then, and loops ask tpl_failed(). */
#ifndef SL_TEXT_TEMPLATE_PARTS_H
#define SL_TEXT_TEMPLATE_PARTS_H

#include "base/arena.h"
#include "base/buf.h"
#include "base/json.h"
#include "base/status.h"
#include "text/template_nodes.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define TPL_ARGS_MAX  10
#define TPL_DEPTH_MAX 400    /* nested expressions, blocks and calls */
#define TPL_RANGE_MAX 100000 /* jinja2's sandbox: more numbers are an error */

struct tpl_list {
    struct tpl_value *items;
    size_t n, capacity;
};
struct tpl_pair {
    struct tpl_value key, value;
};
struct tpl_dict { /* in order of insertion */
    struct tpl_pair *pairs;
    size_t n, capacity;
};
struct tpl_range {
    int64_t start, stop, step, n;
};
struct tpl_iter { /* what Python gives as an iterator: can be read once */
    struct tpl_list *list;
    size_t at;
};
struct tpl_cycler {
    struct tpl_list *list;
    size_t at;
};
struct tpl_joiner {
    struct tpl_value separator;
    bool used;
};
struct tpl_binding {
    const struct tpl_name *name;
    struct tpl_value value;
    struct tpl_binding *next;
};
struct tpl_scope {
    struct tpl_scope *parent;
    struct tpl_binding *first;
};
struct tpl_macro {
    const struct tpl_node *node; /* a macro, or a call block */
    struct tpl_scope *scope;     /* where it was defined */
};
struct tpl_loop {
    const struct tpl_node *node;
    struct tpl_scope *scope; /* around the loop */
    struct tpl_list *list;
    size_t index0;
    uint32_t depth0;
    struct tpl_list *changed; /* arguments of the last changed() */
};

struct tpl_keyword {
    const char *name;
    size_t bytes;
    struct tpl_value value;
};
struct tpl_args {
    struct tpl_value *items;
    size_t n;
    struct tpl_keyword *keywords;
    size_t n_keywords;
};

/* Which end of a loop round is asked for. */
enum tpl_signal { TPL_GO_ON, TPL_BREAK, TPL_CONTINUE };

struct tpl_run {
    const char *what; /* names the template in sentences */
    const struct tpl_source *source;
    struct sl_arena arena;
    struct sl_buf *out;
    uint64_t steps, steps_max;
    uint32_t depth, depth_max;
    size_t output_bytes_max;
    uint32_t line; /* of the statement or expression at work */
    enum tpl_signal signal;
    sl_status status;
    double now;
};

/* A function, filter, test or method of ours. `a` are the arguments by the names in `signature`
 * (kind TPL_ABSENT where not given); args are all, for those with the signature "*". */
struct tpl_native {
    const char *name;
    struct tpl_value (*call)(struct tpl_run *run, struct tpl_value self, const struct tpl_value *a,
                             const struct tpl_args *args);
    const char *signature; /* names with a blank between */
    int n_required;
};
struct tpl_bound {
    const struct tpl_native *native;
    struct tpl_value self;
};

/* template.c, template_eval.c: errors and bounds */
static inline bool tpl_failed(const struct tpl_run *run)
{
    return run->status != SL_OK;
}
/* Keeps the first error; gives undefined. */
struct tpl_value tpl_fail(struct tpl_run *run, const char *fmt, ...) SL_PRINTF(2, 3);
/* Passing a bound. */
struct tpl_value tpl_exhausted(struct tpl_run *run, const char *what, uint64_t max);
/* Counts work; false when that was too much, or something failed before. */
bool tpl_step(struct tpl_run *run, uint64_t steps);
bool tpl_enter(struct tpl_run *run);
void tpl_leave(struct tpl_run *run);

/* template_value.c: making and looking at values. NULL or undefined, and run->status, on failure. */
void *tpl_alloc(struct tpl_run *run, size_t n, size_t bytes);
struct tpl_list *tpl_list_new(struct tpl_run *run, size_t capacity);
void tpl_list_add(struct tpl_run *run, struct tpl_list *list, struct tpl_value value);
struct tpl_dict *tpl_dict_new(struct tpl_run *run, size_t capacity);
/* Replaces the value of a key that is there. */
void tpl_dict_set(struct tpl_run *run, struct tpl_dict *dict, struct tpl_value key,
                  struct tpl_value value);
/* Borrowed; NULL if not there. */
struct tpl_value *tpl_dict_find(struct tpl_run *run, const struct tpl_dict *dict,
                                struct tpl_value key);
struct tpl_value tpl_string_copy(struct tpl_run *run, const char *text, size_t bytes);
/* Ends a buffer: its content as a string, and its memory given back. */
struct tpl_value tpl_string_take(struct tpl_run *run, struct sl_buf *buf);
void tpl_buf_init(struct tpl_run *run, struct sl_buf *buf);
struct tpl_value tpl_from_json(struct tpl_run *run, const json_t *json);
struct tpl_value tpl_iter_of(struct tpl_run *run, struct tpl_list *list);
bool tpl_truth(const struct tpl_value *value);
bool tpl_equal(struct tpl_run *run, const struct tpl_value *a, const struct tpl_value *b);
/* <0, 0, >0; an error where Python has no order. */
int tpl_compare(struct tpl_run *run, const struct tpl_value *a, const struct tpl_value *b);
bool tpl_contains(struct tpl_run *run, const struct tpl_value *in, const struct tpl_value *item);
/* Length, -1 if the value has none. */
int64_t tpl_length(struct tpl_run *run, const struct tpl_value *value);
bool tpl_iterable(const struct tpl_value *value);
/* All items of what can be iterated (an iterator is empty then); NULL and an error otherwise. */
struct tpl_list *tpl_items(struct tpl_run *run, struct tpl_value value);
/* Python's name of the type, for sentences. */
const char *tpl_type(const struct tpl_value *value);
/* The error of using what is undefined, or of a wrong type: "what: …". */
struct tpl_value tpl_type_error(struct tpl_run *run, const char *what, const struct tpl_value *v);

/* template_print.c: text of values */
void tpl_print(struct tpl_run *run, struct sl_buf *out, const struct tpl_value *value);
void tpl_repr(struct tpl_run *run, struct sl_buf *out, const struct tpl_value *value);
/* str(value): strings as they are. */
struct tpl_value tpl_to_string(struct tpl_run *run, struct tpl_value value);
void tpl_print_float(struct sl_buf *out, double value);
struct tpl_value tpl_tojson(struct tpl_run *run, struct tpl_value self, const struct tpl_value *a,
                            const struct tpl_args *args);
void tpl_escape(struct sl_buf *out, const char *text, size_t bytes);

/* template_format.c: "%" and str.format */
struct tpl_value tpl_percent(struct tpl_run *run, struct tpl_value format, struct tpl_value values);
struct tpl_value tpl_str_format(struct tpl_run *run, struct tpl_value self,
                                const struct tpl_value *a, const struct tpl_args *args);
struct tpl_value tpl_strftime(struct tpl_run *run, const struct tpl_value *format);

/* template_text.c: characters */
bool tpl_is_space(uint32_t code);
/* str.isalpha, str.isdecimal, str.isalnum of one character. */
bool tpl_is_alpha(uint32_t code);
bool tpl_is_decimal(uint32_t code);
bool tpl_is_alnum(uint32_t code);
size_t tpl_count_chars(const char *text, size_t bytes);
/* Byte where character `index` begins, or the end. */
size_t tpl_char_at(const char *text, size_t bytes, size_t index);
/* "strip" of both ends as chosen; chars absent or None: white space. */
struct tpl_value tpl_strip(struct tpl_run *run, struct tpl_value self,
                           const struct tpl_value *chars, bool left, bool right);
struct tpl_value tpl_case(struct tpl_run *run, struct tpl_value self, enum tpl_case_kind kind);
struct tpl_value tpl_replace(struct tpl_run *run, struct tpl_value self, struct tpl_value old,
                             struct tpl_value new, int64_t count);
/* Byte of the first (or last) occurrence within from..to; SIZE_MAX if there is none. */
size_t tpl_find(struct tpl_run *run, const char *text, size_t from, size_t to, const char *part,
                size_t bytes, bool last);
struct tpl_value tpl_slice(struct tpl_run *run, struct tpl_value self, const struct tpl_value *b);
struct tpl_value tpl_join(struct tpl_run *run, struct tpl_value separator, struct tpl_list *list,
                          bool strict);

/* template_methods.c, template_objects.c, template_filters.c, template_layout.c, template_sequences.c */
const struct tpl_native *tpl_method_find(const struct tpl_value *self, const char *name, size_t n);
bool tpl_is_method_name(enum tpl_kind kind, const char *name, size_t n);
/* A filter of any of the files. */
const struct tpl_native *tpl_filter_find(const char *name, size_t n);
const struct tpl_native *tpl_layout_filter_find(const char *name, size_t n);
const struct tpl_native *tpl_sequence_filter_find(const char *name, size_t n);
const struct tpl_native *tpl_test_find(const char *name, size_t n);
const struct tpl_native *tpl_global_find(const char *name, size_t n);
/* loop.index …; false if there is no such attribute. */
bool tpl_loop_attribute(struct tpl_run *run, struct tpl_value self, const char *name, size_t n,
                        struct tpl_value *value_out);

/* template_eval.c */
struct tpl_value tpl_attribute(struct tpl_run *run, struct tpl_value self, const char *name,
                               size_t n);
struct tpl_value tpl_item(struct tpl_run *run, struct tpl_value self, struct tpl_value key);
struct tpl_value tpl_eval(struct tpl_run *run, struct tpl_scope *scope,
                          const struct tpl_node *node);
struct tpl_value tpl_call(struct tpl_run *run, struct tpl_value callee,
                          const struct tpl_args *args);
struct tpl_value tpl_call_native(struct tpl_run *run, const struct tpl_native *native,
                                 struct tpl_value self, const struct tpl_args *args);
bool tpl_eval_args(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *call,
                   struct tpl_args *args);
struct tpl_value tpl_apply_filter(struct tpl_run *run, struct tpl_scope *scope,
                                  const struct tpl_node *filter, struct tpl_value self);
struct tpl_value tpl_binary(struct tpl_run *run, enum tpl_op op, struct tpl_value a,
                            struct tpl_value b);

/* template_exec.c */
void tpl_scope_set(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_name *name,
                   struct tpl_value value);
void tpl_exec(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *body);
struct tpl_value tpl_call_macro(struct tpl_run *run, const struct tpl_macro *macro,
                                const struct tpl_args *args);
struct tpl_value tpl_call_loop(struct tpl_run *run, const struct tpl_loop *loop,
                               const struct tpl_args *args);

/* template_look.c: whether the template goes through the parts of a content. */
bool tpl_takes_parts(const struct tpl_source *source);

#endif

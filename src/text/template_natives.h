/* Frame of the functions that templates can call: filters, tests, methods, globals. Only for the
 * template_*.c files that define tables of them. */
#ifndef SL_TEXT_TEMPLATE_NATIVES_H
#define SL_TEXT_TEMPLATE_NATIVES_H

#include "text/template_parts.h"

#define NATIVE(name)                                                                               \
    static struct tpl_value name(struct tpl_run *run, struct tpl_value self,                       \
                                 const struct tpl_value *a, const struct tpl_args *args)
/* Methods that are defined in another file than their table. */
#define NATIVE_OF(name)                                                                            \
    struct tpl_value name(struct tpl_run *run, struct tpl_value self, const struct tpl_value *a,   \
                          const struct tpl_args *args)
NATIVE_OF(tpl_str_center); /* template_layout.c */
NATIVE_OF(tpl_str_ljust);
NATIVE_OF(tpl_str_rjust);
NATIVE_OF(tpl_str_zfill);
NATIVE_OF(tpl_str_expandtabs);

/* A function need not look at all it gets. */
#define UNUSED() ((void)run, (void)self, (void)a, (void)args)

/* Whether an argument was given, and is not None. */
static inline bool tpl_given(const struct tpl_value *v)
{
    return v->kind != TPL_ABSENT && v->kind != TPL_NONE;
}

/* An argument that must be text. */
static inline bool tpl_text_arg(struct tpl_run *run, const char *what, const struct tpl_value *v)
{
    if (v->kind != TPL_STRING)
        tpl_type_error(run, what, v);
    return v->kind == TPL_STRING;
}

/* An argument that must be an integer, or its default. */
static inline int64_t tpl_int_arg(struct tpl_run *run, const char *what, const struct tpl_value *v,
                                  int64_t absent)
{
    if (v->kind == TPL_INT)
        return v->integer;
    if (v->kind == TPL_BOOL)
        return v->truth;
    if (tpl_given(v))
        tpl_type_error(run, what, v);
    return absent;
}

static inline const struct tpl_native *tpl_row_find(const struct tpl_native *row, const char *name,
                                                    size_t n)
{
    for (; row != NULL && row->name != NULL; row++)
        if (strlen(row->name) == n && memcmp(row->name, name, n) == 0)
            return row;
    return NULL;
}

#endif

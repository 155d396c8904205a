/* Operators between two values: Python's arithmetic on 64-bit integers and doubles (an integer beyond
 * 64 bits is an error, where Python goes on), text and lists. */
#include "text/template_parts.h"

#include <math.h>

static bool is_number(const struct tpl_value *v)
{
    return v->kind == TPL_INT || v->kind == TPL_FLOAT || v->kind == TPL_BOOL;
}

static double number_of(const struct tpl_value *v)
{
    return v->kind == TPL_FLOAT ? v->number : v->kind == TPL_BOOL ? v->truth : (double)v->integer;
}

static struct tpl_value too_big(struct tpl_run *run)
{
    return tpl_fail(run, "an integer beyond 64 bits");
}

static struct tpl_value int_pow(struct tpl_run *run, int64_t base, int64_t exponent)
{
    int64_t result = 1;

    if (base == 0 || base == 1 || base == -1)
        return tpl_int(exponent == 0 || base == 1 ? 1 : base == 0 ? 0 : exponent % 2 != 0 ? -1 : 1);
    for (; exponent > 0; exponent--)
        if (__builtin_mul_overflow(result, base, &result))
            return too_big(run);
    return tpl_int(result);
}

static struct tpl_value int_binary(struct tpl_run *run, enum tpl_op op, int64_t x, int64_t y)
{
    int64_t result = 0;
    bool over = false;

    if (op == TPL_ADD)
        over = __builtin_add_overflow(x, y, &result);
    else if (op == TPL_SUB)
        over = __builtin_sub_overflow(x, y, &result);
    else if (op == TPL_MUL)
        over = __builtin_mul_overflow(x, y, &result);
    else if (op == TPL_POW)
        return int_pow(run, x, y);
    else if (y == 0)
        return tpl_fail(run, "division by zero");
    else if (y == -1)
        over = op == TPL_FLOORDIV && __builtin_sub_overflow(0, x, &result);
    else if (op == TPL_FLOORDIV)
        result = x / y - ((x % y != 0) && ((x < 0) != (y < 0)));
    else
        result = x % y + ((x % y != 0) && ((x < 0) != (y < 0)) ? y : 0);
    return over ? too_big(run) : tpl_int(result);
}

static struct tpl_value float_pow(struct tpl_run *run, double x, double y)
{
    double result = pow(x, y);

    if (!(x < 0 || x > 0) && y < 0)
        return tpl_fail(run, "0.0 cannot be raised to a negative power");
    if (isfinite(x) && isfinite(y) && !isfinite(result))
        return tpl_fail(run, isnan(result) ? "complex numbers are not supported"
                                           : "numerical result out of range");
    return tpl_float(result);
}

static struct tpl_value float_binary(struct tpl_run *run, enum tpl_op op, double x, double y)
{
    if (op == TPL_ADD)
        return tpl_float(x + y);
    if (op == TPL_SUB)
        return tpl_float(x - y);
    if (op == TPL_MUL)
        return tpl_float(x * y);
    if (op == TPL_POW)
        return float_pow(run, x, y);
    if (!(y < 0 || y > 0) && !isnan(y))
        return tpl_fail(run, "division by zero");
    if (op == TPL_DIV)
        return tpl_float(x / y);
    double rest = fmod(x, y);
    if (rest < 0 || rest > 0) {
        if ((y < 0) != (rest < 0))
            rest += y;
    } else {
        rest = copysign(0.0, y);
    }
    if (op == TPL_MOD)
        return tpl_float(rest);
    double quotient = (x - rest) / y, whole = floor(quotient);
    return tpl_float(quotient - whole > 0.5 ? whole + 1 : whole);
}

static struct tpl_value repeat(struct tpl_run *run, struct tpl_value what,
                               const struct tpl_value *n)
{
    int64_t times = n->kind == TPL_BOOL ? n->truth : n->integer;
    struct tpl_list *list;
    struct sl_buf out;

    if (what.kind == TPL_STRING) {
        tpl_buf_init(run, &out);
        for (int64_t i = 0; i < times && what.n > 0 && tpl_step(run, 1) && !out.failed; i++)
            sl_buf_add(&out, what.text, what.n);
        return tpl_string_take(run, &out);
    }
    list = tpl_list_new(run, 0);
    for (int64_t i = 0; i < times && what.list->n > 0 && tpl_step(run, 1); i++)
        for (size_t j = 0; j < what.list->n && !tpl_failed(run); j++)
            tpl_list_add(run, list, what.list->items[j]);
    return tpl_failed(run) ? tpl_none() : tpl_of_list((enum tpl_kind)what.kind, list);
}

static bool is_repeatable(const struct tpl_value *v)
{
    return v->kind == TPL_STRING || v->kind == TPL_LIST || v->kind == TPL_TUPLE;
}

static struct tpl_value add_strings(struct tpl_run *run, struct tpl_value a, struct tpl_value b)
{
    struct sl_buf out;
    bool safe = a.safe || b.safe;

    if (b.n == 0 && !safe)
        return a;
    if (a.n == 0 && !safe)
        return b;
    tpl_buf_init(run, &out);
    if (safe && !a.safe)
        tpl_escape(&out, a.text, a.n);
    else
        tpl_print(run, &out, &a);
    if (safe && !b.safe)
        tpl_escape(&out, b.text, b.n);
    else
        tpl_print(run, &out, &b);
    a = tpl_string_take(run, &out);
    a.safe = safe;
    return a;
}

static struct tpl_value add_lists(struct tpl_run *run, struct tpl_value a, struct tpl_value b)
{
    struct tpl_list *list = tpl_list_new(run, a.list->n + b.list->n);

    for (size_t i = 0; i < a.list->n && list != NULL; i++)
        tpl_list_add(run, list, a.list->items[i]);
    for (size_t i = 0; i < b.list->n && list != NULL; i++)
        tpl_list_add(run, list, b.list->items[i]);
    return list == NULL ? tpl_none() : tpl_of_list((enum tpl_kind)a.kind, list);
}

static struct tpl_value comparison(struct tpl_run *run, enum tpl_op op, const struct tpl_value *a,
                                   const struct tpl_value *b)
{
    if (op == TPL_EQ || op == TPL_NE)
        return tpl_bool(tpl_equal(run, a, b) == (op == TPL_EQ));
    if (op == TPL_IN || op == TPL_NOT_IN)
        return tpl_bool(tpl_contains(run, b, a) == (op == TPL_IN));
    int order = tpl_compare(run, a, b);
    if (order == 2 && is_number(a)) /* not a number */
        return tpl_bool(false);
    return tpl_bool(op == TPL_LT   ? order < 0
                    : op == TPL_LE ? order <= 0
                    : op == TPL_GT ? order > 0
                                   : order >= 0);
}

static struct tpl_value numbers(struct tpl_run *run, enum tpl_op op, const struct tpl_value *a,
                                const struct tpl_value *b)
{
    bool ints = a->kind != TPL_FLOAT && b->kind != TPL_FLOAT && op != TPL_DIV;
    int64_t x = a->kind == TPL_BOOL ? a->truth : a->integer;
    int64_t y = b->kind == TPL_BOOL ? b->truth : b->integer;

    if (ints && !(op == TPL_POW && y < 0))
        return int_binary(run, op, x, y);
    return float_binary(run, op, number_of(a), number_of(b));
}

struct tpl_value tpl_binary(struct tpl_run *run, enum tpl_op op, struct tpl_value a,
                            struct tpl_value b)
{
    static const char *const signs[] = {"+", "-", "*", "/", "//", "%", "**"};

    if (tpl_failed(run))
        return tpl_none();
    if (op >= TPL_EQ)
        return comparison(run, op, &a, &b);
    if (is_number(&a) && is_number(&b))
        return numbers(run, op, &a, &b);
    if (a.kind == TPL_UNDEFINED || b.kind == TPL_UNDEFINED) {
        if (!(a.kind == TPL_STRING && op == TPL_MOD))
            return tpl_type_error(run, "operation", a.kind == TPL_UNDEFINED ? &a : &b);
    }
    if (op == TPL_ADD && a.kind == TPL_STRING && b.kind == TPL_STRING)
        return add_strings(run, a, b);
    if (op == TPL_ADD && a.kind == b.kind && (a.kind == TPL_LIST || a.kind == TPL_TUPLE))
        return add_lists(run, a, b);
    if (op == TPL_MOD && a.kind == TPL_STRING)
        return tpl_percent(run, a, b);
    if (op == TPL_MUL && is_repeatable(&a) && (b.kind == TPL_INT || b.kind == TPL_BOOL))
        return repeat(run, a, &b);
    if (op == TPL_MUL && is_repeatable(&b) && (a.kind == TPL_INT || a.kind == TPL_BOOL))
        return repeat(run, b, &a);
    return tpl_fail(run, "unsupported operand type(s) for %s: '%s' and '%s'", signs[op],
                    tpl_type(&a), tpl_type(&b));
}

/* Values, tokens and the syntax tree of a template; shared by the reader and the evaluator. */
#ifndef SL_TEXT_TEMPLATE_NODES_H
#define SL_TEXT_TEMPLATE_NODES_H

#include "base/arena.h"
#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum tpl_kind {
    TPL_UNDEFINED, /* text, n: its name; `of`: the kind of what lacks it, 0 for a variable */
    TPL_ABSENT,    /* only for arguments that were not given */
    TPL_NONE,
    TPL_BOOL,
    TPL_INT,
    TPL_FLOAT,
    TPL_STRING,
    TPL_LIST,
    TPL_TUPLE, /* `of` TPL_TUPLE: a group of groupby, whose items have names */
    TPL_DICT,
    TPL_NAMESPACE,
    TPL_RANGE,
    TPL_VIEW, /* keys, values, items of a dict: n says which */
    TPL_ITER,
    TPL_MACRO,
    TPL_FUNCTION,
    TPL_METHOD,
    TPL_LOOP,
    TPL_CYCLER,
    TPL_JOINER,
    TPL_KINDS
};

enum tpl_case_kind { TPL_UPPER, TPL_LOWER, TPL_CAPITALIZE, TPL_TITLE, TPL_SWAPCASE };

/* 24 bytes, passed by value. Nothing that it points to changes, but for namespaces, iterators,
 * cyclers, joiners and loops. Text is UTF-8, borrowed from the JSON, the template or the arena. */
struct tpl_value {
    uint8_t kind;
    uint8_t of;
    bool safe; /* text: is not escaped again */
    size_t n;  /* text: bytes */
    union {
        bool truth;
        int64_t integer;
        double number;
        const char *text;
        struct tpl_list *list; /* also of a view */
        struct tpl_dict *dict; /* also of a namespace */
        struct tpl_range *range;
        struct tpl_iter *iter;
        struct tpl_macro *macro;
        const struct tpl_native *native;
        struct tpl_bound *bound;
        struct tpl_loop *loop;
        struct tpl_cycler *cycler;
        struct tpl_joiner *joiner;
    };
};

static inline struct tpl_value tpl_undefined(const char *name, size_t n, enum tpl_kind of)
{
    return (struct tpl_value){.kind = TPL_UNDEFINED, .of = (uint8_t)of, .n = n, .text = name};
}
static inline struct tpl_value tpl_none(void)
{
    return (struct tpl_value){.kind = TPL_NONE};
}
static inline struct tpl_value tpl_bool(bool truth)
{
    return (struct tpl_value){.kind = TPL_BOOL, .truth = truth};
}
static inline struct tpl_value tpl_int(int64_t integer)
{
    return (struct tpl_value){.kind = TPL_INT, .integer = integer};
}
static inline struct tpl_value tpl_float(double number)
{
    return (struct tpl_value){.kind = TPL_FLOAT, .number = number};
}
static inline struct tpl_value tpl_string(const char *text, size_t n)
{
    return (struct tpl_value){.kind = TPL_STRING, .n = n, .text = text};
}
static inline struct tpl_value tpl_of_list(enum tpl_kind kind, struct tpl_list *list)
{
    return (struct tpl_value){.kind = (uint8_t)kind, .list = list};
}
static inline struct tpl_value tpl_of_dict(enum tpl_kind kind, struct tpl_dict *dict)
{
    return (struct tpl_value){.kind = (uint8_t)kind, .dict = dict};
}

enum tpl_token_type {
    TPL_T_END,
    TPL_T_DATA,
    TPL_T_VARIABLE_BEGIN,
    TPL_T_VARIABLE_END,
    TPL_T_BLOCK_BEGIN,
    TPL_T_BLOCK_END,
    TPL_T_NAME,
    TPL_T_STRING,
    TPL_T_INT,
    TPL_T_FLOAT,
    TPL_T_OPERATOR, /* text: one or two characters */
};

struct tpl_token {
    enum tpl_token_type type;
    uint32_t line;
    const char *text; /* content of a string, a name, data */
    size_t n;
    struct tpl_value value; /* of a number */
};

enum tpl_op {
    TPL_ADD,
    TPL_SUB,
    TPL_MUL,
    TPL_DIV,
    TPL_FLOORDIV,
    TPL_MOD,
    TPL_POW,
    TPL_EQ,
    TPL_NE,
    TPL_LT,
    TPL_LE,
    TPL_GT,
    TPL_GE,
    TPL_IN,
    TPL_NOT_IN,
};

/* A name of the source; equal names are one object. */
struct tpl_name {
    const char *text;
    size_t n;
    struct tpl_name *next; /* of its bucket */
};

/*                     a            b           c           d          others */
enum tpl_node_type {
    TPL_N_CONST,     /*                                                 value */
    TPL_N_NAME,      /*                                                 name */
    TPL_N_LIST,      /* items…                                                       */
    TPL_N_TUPLE,     /* items…                                                       */
    TPL_N_DICT,      /* key, value, …                                                */
    TPL_N_ATTR,      /* object                                          name         */
    TPL_N_ITEM,      /* object       key                                             */
    TPL_N_SLICE,     /* start        stop        step                                */
    TPL_N_CALL,      /* callee       arguments…                                      */
    TPL_N_ARG,       /* expression                                      name: keyword; op: stars */
    TPL_N_FILTER,    /* operand      arguments…                         name, native */
    TPL_N_TEST,      /* operand      arguments…                         name, native */
    TPL_N_NOT,       /* operand                                                      */
    TPL_N_NEG,       /* operand                                                      */
    TPL_N_POS,       /* operand                                                      */
    TPL_N_AND,       /* operands…                                                    */
    TPL_N_OR,        /* operands…                                                    */
    TPL_N_CONCAT,    /* operands…                                                    */
    TPL_N_BINARY,    /* left         operands…                          each operand's op */
    TPL_N_COMPARE,   /* left         operands…                          each operand's op */
    TPL_N_OPERAND,   /* expression                                      op           */
    TPL_N_COND,      /* test         then        else                                */
    TPL_N_NSREF,     /*                                                 name, attr   */
    TPL_N_DATA,      /*                                                 value        */
    TPL_N_OUTPUT,    /* expression                                                   */
    TPL_N_FOR,       /* target       iterated    if          body       e: else; flag: recursive */
    TPL_N_IF,        /* branches…                                                    */
    TPL_N_BRANCH,    /* test (NULL: else)                    body                    */
    TPL_N_SET,       /* target       expression                                      */
    TPL_N_SETBLOCK,  /* target       filter                  body                    */
    TPL_N_WITH,      /* targets…     expressions…            body                    */
    TPL_N_MACRO,     /* parameters…  defaults…               body       name, uses   */
    TPL_N_CALLBLOCK, /* parameters…  defaults…   call        body       uses         */
    TPL_N_FILTERBLOCK, /* filter                            body                    */
    TPL_N_SCOPE,       /*                                      body       generation   */
    TPL_N_BREAK,
    TPL_N_CONTINUE,
};

#define TPL_USES_CALLER  1u
#define TPL_USES_KWARGS  2u
#define TPL_USES_VARARGS 4u

struct tpl_node {
    uint8_t type;
    uint8_t op;
    uint8_t uses; /* which special names the body of a macro reads */
    bool flag;
    uint32_t line;
    struct tpl_node *next; /* of a list "…" */
    struct tpl_node *a, *b, *c, *d, *e;
    const struct tpl_name *name, *attr;
    const struct tpl_native *native; /* NULL: unknown, an error when it is reached */
    struct tpl_value value;
};

#define TPL_BUCKETS 1024u

/* One parsed template. */
struct tpl_source {
    struct sl_arena arena;
    struct tpl_token *tokens; /* only while it is read */
    size_t n_tokens;
    struct tpl_name *buckets[TPL_BUCKETS];
    struct tpl_node *body;
    const char *text; /* for looking whether it names a field */
    size_t bytes;
};

/* template_lex.c. Tokens end with TPL_T_END. */
sl_status tpl_lex(const char *what, struct tpl_source *source) SL_MUST_USE;
const struct tpl_name *tpl_intern(struct tpl_source *source, const char *text, size_t n);
/* The name if the source has it, NULL otherwise. */
const struct tpl_name *tpl_name_find(const struct tpl_source *source, const char *text, size_t n);

/* template_parse.c, template_statements.c */
struct tpl_parser {
    const char *what;
    struct tpl_source *source;
    const struct tpl_token *token;
    sl_status status; /* the first error; the token is TPL_T_END then */
    uint32_t nested;
    uint32_t loops; /* around here, within the macro */
    uint8_t uses;   /* special names read since the macro began */
    struct tpl_node nothing;
};
sl_status tpl_parse(const char *what, struct tpl_source *source) SL_MUST_USE;
struct tpl_node *tpl_node_new(struct tpl_parser *p, enum tpl_node_type type);
void tpl_parse_fail(struct tpl_parser *p, const char *fmt, ...) SL_PRINTF(2, 3);
bool tpl_parse_enter(struct tpl_parser *p);
bool tpl_at(const struct tpl_parser *p, const char *operator_);
bool tpl_at_name(const struct tpl_parser *p, const char *name);
bool tpl_skip(struct tpl_parser *p, const char *operator_);
bool tpl_skip_name(struct tpl_parser *p, const char *name);
void tpl_next(struct tpl_parser *p);
void tpl_expect(struct tpl_parser *p, const char *operator_);
const struct tpl_name *tpl_expect_name(struct tpl_parser *p);
struct tpl_node *tpl_parse_expression(struct tpl_parser *p, bool with_cond);
/* One expression, or several with commas: a tuple. `end` (may be NULL) is a name that ends it. */
struct tpl_node *tpl_parse_tuple(struct tpl_parser *p, bool with_cond, const char *end,
                                 bool in_brackets);
struct tpl_node *tpl_parse_target(struct tpl_parser *p, const char *end, bool with_namespace);
/* Filters behind `node`; `inline_` when the first has no bar in front. */
struct tpl_node *tpl_parse_filters(struct tpl_parser *p, struct tpl_node *node, bool inline_);

#endif

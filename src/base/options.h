/* Option tables. One row gives flag (--kv-blocks), environment (SLUICE_KV_BLOCKS), file key
 * (kv-blocks = 512), --help, and --print-config with the origin of each value.
 * Flag over environment over file over default. getenv is used only here. */
#ifndef SL_BASE_OPTIONS_H
#define SL_BASE_OPTIONS_H

#include "base/buf.h"
#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum sl_option_type {
    SL_OPTION_TEXT,    /* char * (owned by the sl_options); NULL when empty and no default */
    SL_OPTION_UINT,    /* uint64_t, min..max */
    SL_OPTION_BYTES,   /* uint64_t, min..max; accepts k, m, g (1024) */
    SL_OPTION_NUMBER,  /* double, min..max */
    SL_OPTION_BOOL,    /* bool; --flag, --flag=false, --no-flag */
    SL_OPTION_CHOICE,  /* uint32_t index into choices */
    SL_OPTION_ADDRESS, /* char *, as TEXT: host:port or [v6]:port; port at least min */
};

struct sl_option {
    const char *name; /* "kv-blocks" */
    enum sl_option_type type;
    size_t offset;            /* of the value in the configuration struct */
    const char *value_name;   /* for --help: "N", "HOST:PORT"; NULL for BOOL */
    const char *default_text; /* parsed like a flag; NULL: zero value, or required */
    bool required;
    double min, max;            /* for numbers; both 0: any */
    const char *const *choices; /* NULL-terminated, for CHOICE */
    const char *help;           /* the default and limits are appended; NULL: hidden */
    const char *group;          /* heading in --help */
};

enum sl_option_origin { SL_ORIGIN_DEFAULT, SL_ORIGIN_FILE, SL_ORIGIN_ENVIRONMENT, SL_ORIGIN_FLAG };

/* Owns the strings of a parsed configuration; borrows the tables, which are static. */
struct sl_options;

struct sl_options_args {
    const char *program;                   /* "sluice-decode" */
    const char *summary;                   /* what it does, for --help */
    const struct sl_option *const *tables; /* NULL-terminated list of tables … */
    const size_t *table_counts;            /* … and the rows of each */
    int argc;
    char **argv;
    void *config; /* filled; must outlive nothing (strings: options) */
};

/* Parses everything, --config FILE included. --help, --version and --print-config print to stdout
 * and set *done_out (the program then exits 0). SL_INVALID names option, value, origin and limit;
 * an unknown flag or file key is an error with the closest known name. Unknown SLUICE_* variables
 * are ignored with a warning. An empty variable, or `name =` in the file, leaves the value unset. */
sl_status sl_options_parse(const struct sl_options_args *args, struct sl_options **options_out,
                           bool *done_out) SL_MUST_USE;
void sl_options_destroy(struct sl_options *options);
/* Origin of one option's value; the name must exist. */
enum sl_option_origin sl_options_origin(const struct sl_options *options, const char *name);
/* name = value # origin, one a line (what --print-config prints). */
void sl_options_print(const struct sl_options *options, struct sl_buf *out);
/* The value as text, as it would be given on a command line; for handing options on to a child. */
void sl_options_text(const struct sl_options *options, const char *name, struct sl_buf *out);

#endif

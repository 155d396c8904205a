/* What options.c (parsing) and options_text.c (help, printing) share; private to base. */
#ifndef SL_BASE_OPTIONS_IMPL_H
#define SL_BASE_OPTIONS_IMPL_H

#include "base/options.h"

struct option_value {
    const struct sl_option *row; /* borrowed: tables are static */
    char *text;                  /* as given; NULL: not set */
    enum sl_option_origin origin;
};

struct sl_options {
    struct option_value *values; /* [n_values], in the order of the tables */
    uint32_t n_values;
};

/* The built-in flags, in --help's last group. */
#define OPTION_CONFIG       "config"
#define OPTION_PRINT_CONFIG "print-config"
#define OPTION_HELP         "help"
#define OPTION_VERSION      "version"

/* "1..65536", "at least 1" or "" into text. */
void option_limits(const struct sl_option *row, char *text, size_t bytes);
/* "cpu, ref or fake" */
void option_choices(const struct sl_option *row, struct sl_buf *out);
void option_help(const struct sl_options_args *args, struct sl_buf *out);

#endif

/* The texts of an option table: --help, and the values as a configuration file.
 *
 * What sl_options_print() writes can be read back with --config: an option without a value stands as
 * "name =", which a file may say and which changes nothing. Pure; any thread. */
#include "base/options_impl.h"

#include <stdio.h>
#include <string.h>

#define HELP_COLUMNS 100
#define HELP_INDENT  34
#define EXACT_MAX    9007199254740992.0 /* 2^53: a limit beyond it is "any" */

static void number_text(const struct sl_option *row, double value, char *text, size_t bytes)
{
    static const struct {
        double unit;
        char letter;
    } units[] = {{1073741824.0, 'g'}, {1048576.0, 'm'}, {1024.0, 'k'}};
    for (size_t i = 0; i < 3 && row->type == SL_OPTION_BYTES && value > 0; i++) {
        double count = value / units[i].unit;
        if (count >= 1 && count < EXACT_MAX && count == (double)(uint64_t)count) {
            snprintf(text, bytes, "%.15g%c", count, units[i].letter);
            return;
        }
    }
    snprintf(text, bytes, "%.15g", value);
}

void option_limits(const struct sl_option *row, char *text, size_t bytes)
{
    bool number = row->type == SL_OPTION_UINT || row->type == SL_OPTION_BYTES ||
                  row->type == SL_OPTION_NUMBER;
    char min[32], max[32];
    text[0] = '\0';
    if (!number || (row->min == 0 && row->max == 0))
        return;
    number_text(row, row->min, min, sizeof(min));
    number_text(row, row->max, max, sizeof(max));
    if (row->max >= EXACT_MAX)
        snprintf(text, bytes, "at least %s", min);
    else
        snprintf(text, bytes, "%s..%s", min, max);
}

void option_choices(const struct sl_option *row, struct sl_buf *out)
{
    for (uint32_t i = 0; row->choices[i] != NULL; i++) {
        if (i > 0)
            sl_buf_add_text(out, row->choices[i + 1] == NULL ? " or " : ", ");
        sl_buf_add_text(out, row->choices[i]);
    }
}

/* Adds words from column `column` on, in lines that begin at `indent`. */
static void add_wrapped(struct sl_buf *out, const char *text, size_t column, size_t indent)
{
    bool first = true;
    for (const char *p = text + strspn(text, " "); *p != '\0'; p += strspn(p, " ")) {
        size_t word = strcspn(p, " ");
        if (!first && column + 1 + word > HELP_COLUMNS) {
            sl_buf_add_format(out, "\n%*s", (int)indent, "");
            column = indent;
            first = true;
        }
        sl_buf_add_format(out, "%s%.*s", first ? "" : " ", (int)word, p);
        column += word + (first ? 0 : 1);
        first = false;
        p += word;
    }
    sl_buf_add_text(out, "\n");
}

static void add_entry(struct sl_buf *out, const char *flag, const char *value_name,
                      const char *description)
{
    size_t start = out->bytes;
    sl_buf_add_format(out, "  --%s", flag);
    if (value_name != NULL)
        sl_buf_add_format(out, " %s", value_name);
    size_t width = out->bytes - start;
    if (width + 2 > HELP_INDENT) {
        sl_buf_add_text(out, "\n");
        width = 0;
    }
    sl_buf_add_format(out, "%*s", (int)(HELP_INDENT - width), "");
    add_wrapped(out, description, HELP_INDENT, HELP_INDENT);
}

/* help (1..8, default 4), help (this or that, default this) */
static void describe(const struct sl_option *row, struct sl_buf *out)
{
    char limits[80];
    bool choice = row->type == SL_OPTION_CHOICE;
    sl_buf_add_text(out, row->help);
    option_limits(row, limits, sizeof(limits));
    bool given = row->default_text != NULL && row->default_text[0] != '\0';
    if (!choice && limits[0] == '\0' && !given && !row->required)
        return;
    sl_buf_add_format(out, " (%s", limits);
    if (choice)
        option_choices(row, out);
    if ((choice || limits[0] != '\0') && (given || row->required))
        sl_buf_add_text(out, ", ");
    if (row->required)
        sl_buf_add_text(out, "required");
    else if (given)
        sl_buf_add_format(out, "default %s", row->default_text);
    sl_buf_add_text(out, ")");
}

/* Every row of one group, wherever in the tables it stands. */
static void add_group(const struct sl_options_args *args, const char *group, struct sl_buf *out)
{
    sl_buf_add_format(out, "\n%s:\n", group);
    for (uint32_t t = 0; args->tables[t] != NULL; t++) {
        for (size_t i = 0; i < args->table_counts[t]; i++) {
            const struct sl_option *row = &args->tables[t][i];
            if (row->help == NULL || strcmp(row->group, group) != 0)
                continue;
            struct sl_buf description;
            sl_buf_init(&description, 4096);
            describe(row, &description);
            add_entry(out, row->name, row->type == SL_OPTION_BOOL ? NULL : row->value_name,
                      description.data == NULL ? "" : description.data);
            sl_buf_fini(&description);
        }
    }
}

/* Whether an earlier row has this row's group already. */
static bool group_seen(const struct sl_options_args *args, uint32_t table, size_t index)
{
    const char *group = args->tables[table][index].group;
    for (uint32_t t = 0; t <= table; t++) {
        size_t end = t == table ? index : args->table_counts[t];
        for (size_t i = 0; i < end; i++) {
            const struct sl_option *row = &args->tables[t][i];
            if (row->help != NULL && strcmp(row->group, group) == 0)
                return true;
        }
    }
    return false;
}

void option_help(const struct sl_options_args *args, struct sl_buf *out)
{
    sl_buf_add_format(out, "Usage: %s [options]\n\n", args->program);
    add_wrapped(out, args->summary, 0, 0);
    for (uint32_t t = 0; args->tables[t] != NULL; t++) {
        for (size_t i = 0; i < args->table_counts[t]; i++) {
            if (args->tables[t][i].help != NULL && !group_seen(args, t, i))
                add_group(args, args->tables[t][i].group, out);
        }
    }
    sl_buf_add_text(out, "\nConfiguration:\n");
    add_entry(out, OPTION_CONFIG, "FILE", "read options from FILE, one \"name = value\" a line");
    add_entry(out, OPTION_PRINT_CONFIG, NULL, "print every value with its origin, and end");
    add_entry(out, OPTION_HELP, NULL, "print this, and end");
    add_entry(out, OPTION_VERSION, NULL, "print the version, and end");
    sl_buf_add_text(out, "\n");
    add_wrapped(out,
                "Every option can also be set in the environment (--some-name as "
                "SLUICE_SOME_NAME) and in the file (some-name = value). A flag wins over the "
                "environment, the environment over the file, the file over the default. Sizes in "
                "bytes take k, m and g. A switch is turned off with --no-NAME.",
                0, 0);
}

/* A value that a file would read differently stands in quotes. */
static void add_quoted(struct sl_buf *out, const char *text)
{
    size_t bytes = strlen(text);
    static const char blanks[] = " \t\r"; /* which a file's reader trims */
    bool plain = bytes > 0 && strpbrk(text, "#\"\\") == NULL && strchr(blanks, text[0]) == NULL &&
                 strchr(blanks, text[bytes - 1]) == NULL;
    if (plain) {
        sl_buf_add_text(out, text);
        return;
    }
    sl_buf_add_text(out, "\"");
    for (const char *p = text; *p != '\0'; p++) {
        if (*p == '"' || *p == '\\')
            sl_buf_add_text(out, "\\");
        sl_buf_add(out, p, 1);
    }
    sl_buf_add_text(out, "\"");
}

void sl_options_print(const struct sl_options *options, struct sl_buf *out)
{
    static const char *const origins[] = {"default", "file", "environment", "flag"};
    for (uint32_t i = 0; i < options->n_values; i++) {
        const struct option_value *value = &options->values[i];
        if (value->row->help == NULL && value->origin == SL_ORIGIN_DEFAULT)
            continue; /* hidden and not in use */
        sl_buf_add_format(out, "%s = ", value->row->name);
        if (value->text != NULL)
            add_quoted(out, value->text);
        sl_buf_add_format(out, "%s# %s\n", value->text == NULL ? "" : " ", origins[value->origin]);
    }
}

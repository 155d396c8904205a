/* Option tables: from rows to a filled configuration struct.
 *
 *   defaults ──► file (--config, SLUICE_CONFIG) ──► environment ──► flags
 *
 * Each layer sets values over those of the layer before, through one function (set_value), which
 * checks them: a wrong value is an error also where a later layer would hide it. Owns the texts; the
 * configuration's strings point at them. Called once, at start, from main; the only user of
 * getenv. An empty environment variable or file value means "not set", as container tools write it. */
#include "base/options.h"

#include "base/address.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/options_impl.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define FILE_BYTES_MAX  ((size_t)1 << 20)
#define HELP_BYTES_MAX  ((size_t)1 << 20)
#define NAME_BYTES_MAX  64
#define WHERE_BYTES_MAX 512
#define ENV_PREFIX      "SLUICE_"
#define BYTE_ORDER_MARK "\xEF\xBB\xBF" /* which some editors begin a file with */

extern char **environ;

struct parse {
    const struct sl_options_args *args;
    struct sl_options *options;
    const char *config_path; /* borrowed from argv or the environment; NULL: none */
    bool print_config, help, version;
};

static struct option_value *find_value(const struct sl_options *options, const char *name)
{
    for (uint32_t i = 0; i < options->n_values; i++) {
        if (strcmp(options->values[i].row->name, name) == 0)
            return &options->values[i];
    }
    return NULL;
}

/* Levenshtein distance; names are short. */
static uint32_t distance(const char *a, const char *b)
{
    size_t n = strlen(b);
    if (n >= NAME_BYTES_MAX || strlen(a) >= NAME_BYTES_MAX)
        return UINT32_MAX;
    uint32_t row[NAME_BYTES_MAX];
    for (uint32_t j = 0; j <= n; j++)
        row[j] = j;
    for (uint32_t i = 1; a[i - 1] != '\0'; i++) {
        uint32_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= n; j++) {
            uint32_t change = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            uint32_t least = row[j] < row[j - 1] ? row[j] + 1 : row[j - 1] + 1;
            row[j] = change < least ? change : least;
        }
    }
    return row[n];
}

/* The known name nearest to one that is unknown, NULL when none is near. `flags`: those too that are only flags. */
static const char *closest_name(const struct sl_options *options, bool flags, const char *name)
{
    static const char *const built_in[] = {OPTION_CONFIG, OPTION_PRINT_CONFIG, OPTION_HELP,
                                           OPTION_VERSION};
    uint32_t best = strlen(name) < 6 ? 3 : (uint32_t)strlen(name) / 3 + 2; /* one less is near */
    uint32_t n = options->n_values + (flags ? 4 : 0);
    const char *closest = NULL;
    for (uint32_t i = 0; i < n; i++) {
        bool ours = i >= options->n_values;
        if (!ours && options->values[i].row->help == NULL)
            continue;
        const char *known = ours ? built_in[i - options->n_values] : options->values[i].row->name;
        uint32_t d = distance(name, known);
        if (d < best) {
            best = d;
            closest = known;
        }
    }
    return closest;
}

static sl_status unknown_name(const struct sl_options *options, const char *where,
                              const char *dashes, const char *name)
{
    const char *closest = closest_name(options, dashes[0] != '\0', name);
    if (closest == NULL)
        return sl_fail(SL_INVALID, "%s: unknown option; --help lists the known ones", where);
    return sl_fail(SL_INVALID, "%s: unknown option; did you mean %s%s?", where, dashes, closest);
}

/* Digits only: strtoull alone would take signs, blanks and hexadecimal. */
static bool parse_digits(const char *text, uint64_t *value_out, const char **end_out)
{
    if (text[0] < '0' || text[0] > '9')
        return false;
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno != 0)
        return false;
    *value_out = value;
    *end_out = end;
    return true;
}

static bool parse_bytes(const char *text, uint64_t *value_out)
{
    static const char letters[] = "kKmMgG";
    const char *end;
    uint64_t value;
    if (!parse_digits(text, &value, &end))
        return false;
    const char *letter = *end == '\0' ? NULL : strchr(letters, *end);
    if (letter != NULL) {
        unsigned shift = 10u * ((unsigned)(letter - letters) / 2 + 1);
        if (value > UINT64_MAX >> shift)
            return false;
        value <<= shift;
        end++;
    }
    *value_out = value;
    return *end == '\0';
}

static bool parse_number(const char *text, double *value_out)
{
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || errno != 0 || !isfinite(value) || text[0] == ' ' ||
        strpbrk(text, "xX") != NULL)
        return false;
    *value_out = value;
    return true;
}

static bool parse_bool(const char *text, bool *value_out)
{
    static const char *const words[] = {"false", "true", "no", "yes", "off", "on", "0", "1"};
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        if (strcasecmp(text, words[i]) == 0) {
            *value_out = i % 2 == 1;
            return true;
        }
    }
    return false;
}

static bool parse_choice(const struct sl_option *row, const char *text, uint32_t *value_out)
{
    for (uint32_t i = 0; row->choices[i] != NULL; i++) {
        if (strcmp(text, row->choices[i]) == 0) {
            *value_out = i;
            return true;
        }
    }
    return false;
}

static bool within(const struct sl_option *row, double value)
{
    return (row->min == 0 && row->max == 0) || (value >= row->min && value <= row->max);
}

/* Of an address; `where` names it in the sentence. */
static sl_status check_address(const struct sl_option *row, const char *where, const char *text)
{
    char host[SL_HOST_BYTES];
    uint16_t port;
    char cut[SL_SHOWN_BYTES];
    sl_status status = sl_address_parse(where, text, host, &port);
    if (status == SL_OK && port < row->min)
        status = sl_fail(SL_INVALID, "%s: \"%s\"; port wants %.0f..%u", where, sl_shown(text, cut),
                         row->min, UINT16_MAX);
    return status;
}

/* Parses into the configuration's field; false leaves it as it was. */
static bool store(const struct sl_option *row, char *text, void *config)
{
    void *field = (char *)config + row->offset;
    uint64_t count;
    const char *end;
    double number;
    switch (row->type) {
    case SL_OPTION_ADDRESS:
    case SL_OPTION_TEXT: {
        if (row->type == SL_OPTION_TEXT && strchr(text, '\n') != NULL) /* no file could say it */
            return false;
        bool unset = text[0] == '\0' && row->default_text == NULL;
        if (row->type == SL_OPTION_ADDRESS && !unset && check_address(row, "", text) != SL_OK)
            return false;
        *(char **)field = unset ? NULL : text;
        return true;
    }
    case SL_OPTION_UINT:
        if (!parse_digits(text, &count, &end) || *end != '\0' || !within(row, (double)count))
            return false;
        *(uint64_t *)field = count;
        return true;
    case SL_OPTION_BYTES:
        if (!parse_bytes(text, &count) || !within(row, (double)count))
            return false;
        *(uint64_t *)field = count;
        return true;
    case SL_OPTION_NUMBER:
        if (!parse_number(text, &number) || !within(row, number))
            return false;
        *(double *)field = number;
        return true;
    case SL_OPTION_BOOL:
        return parse_bool(text, field);
    case SL_OPTION_CHOICE:
        return parse_choice(row, text, field);
    }
    return false;
}

static sl_status wrong_value(const struct sl_option *row, const char *where, const char *text)
{
    char limits[80], cut[SL_SHOWN_BYTES];
    const char *shown = sl_shown(text, cut);
    option_limits(row, limits, sizeof(limits));
    const char *comma = limits[0] == '\0' ? "" : ", ";
    switch (row->type) {
    case SL_OPTION_UINT:
        return sl_fail(SL_INVALID, "%s: \"%s\"; want a whole number%s%s", where, shown, comma,
                       limits);
    case SL_OPTION_BYTES:
        return sl_fail(SL_INVALID, "%s: \"%s\"; want bytes, as in 64k or 2g%s%s", where, shown,
                       comma, limits);
    case SL_OPTION_NUMBER:
        return sl_fail(SL_INVALID, "%s: \"%s\"; want a number%s%s", where, shown, comma, limits);
    case SL_OPTION_BOOL:
        return sl_fail(SL_INVALID, "%s: \"%s\"; want true or false", where, shown);
    case SL_OPTION_ADDRESS:
        return check_address(row, where, text);
    case SL_OPTION_TEXT:
        return sl_fail(SL_INVALID, "%s: \"%s\"; want a text of one line", where, shown);
    case SL_OPTION_CHOICE:
        break;
    }
    struct sl_buf choices;
    sl_buf_init(&choices, 1024);
    option_choices(row, &choices);
    sl_status status = sl_fail(SL_INVALID, "%s: \"%s\"; want %s", where, shown,
                               choices.data == NULL ? "" : choices.data);
    sl_buf_fini(&choices);
    return status;
}

/* The one way a value is set. `where` says who set it, for the error. */
static sl_status set_value(struct parse *parse, struct option_value *value, const char *text,
                           enum sl_option_origin origin, const char *where)
{
    char *copy = sl_strdup(text);
    if (!store(value->row, copy, parse->args->config)) {
        sl_free(copy);
        return wrong_value(value->row, where, text);
    }
    sl_free(value->text);
    value->text = copy;
    value->origin = origin;
    return SL_OK;
}

/* ---- the file ---- */

static char *trim(char *text)
{
    text += strspn(text, " \t\r");
    size_t bytes = strlen(text);
    while (bytes > 0 && strchr(" \t\r", text[bytes - 1]) != NULL)
        text[--bytes] = '\0';
    return text;
}

/* Cuts a comment: '#' at the start or after a blank, outside quotes. */
static void cut_comment(char *line)
{
    bool quoted = false;
    for (char *p = line; *p != '\0'; p++) {
        if (quoted && *p == '\\' && p[1] != '\0')
            p++;
        else if (*p == '"')
            quoted = !quoted;
        else if (*p == '#' && !quoted && (p == line || p[-1] == ' ' || p[-1] == '\t')) {
            *p = '\0';
            return;
        }
    }
}

/* "a \"b\"" without its quotes, in place; false when they do not close. */
static bool unquote(char **text)
{
    char *from = *text;
    if (*from != '"')
        return true;
    char *to = from++;
    *text = to;
    while (*from != '"') {
        if (*from == '\\')
            from++;
        if (*from == '\0')
            return false;
        *to++ = *from++;
    }
    *to = '\0';
    return from[1] == '\0';
}

static sl_status apply_line(struct parse *parse, const char *path, uint32_t number, char *line)
{
    char where[WHERE_BYTES_MAX];
    cut_comment(line);
    char *name = trim(line);
    if (*name == '\0')
        return SL_OK;
    char *value = strchr(name, '=');
    if (value == NULL || value == name)
        return sl_fail(SL_INVALID, "%s:%u: want \"name = value\"", path, number);
    *value++ = '\0';
    name = trim(name);
    value = trim(value);
    char cut[SL_SHOWN_BYTES];
    snprintf(where, sizeof(where), "%s:%u: %s", path, number, sl_shown(name, cut));
    struct option_value *known = find_value(parse->options, name);
    if (known == NULL)
        return unknown_name(parse->options, where, "", name);
    if (known->origin == SL_ORIGIN_FILE)
        return sl_fail(SL_INVALID, "%s: set a second time in this file", where);
    if (*value == '\0')
        return SL_OK;
    if (!unquote(&value))
        return sl_fail(SL_INVALID, "%s: the quotes do not close", where);
    return set_value(parse, known, value, SL_ORIGIN_FILE, where);
}

static sl_status read_config(const char *path, struct sl_buf *out)
{
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return sl_fail(errno == ENOENT ? SL_NOT_FOUND : SL_INVALID, "--config %s: %s", path,
                       strerror(errno));
    char block[4096];
    size_t n;
    while (!out->failed && (n = fread(block, 1, sizeof(block), file)) > 0)
        sl_buf_add(out, block, n);
    int error = ferror(file) != 0 ? errno : 0;
    fclose(file);
    if (error != 0)
        return sl_fail(SL_INVALID, "--config %s: cannot be read: %s", path, strerror(error));
    if (out->bytes > 0 && memchr(out->data, '\0', out->bytes) != NULL)
        return sl_fail(SL_INVALID, "--config %s: holds a NUL byte; want text", path);
    return sl_buf_status(out, path);
}

static sl_status apply_file(struct parse *parse)
{
    if (parse->config_path == NULL)
        return SL_OK;
    struct sl_buf text;
    sl_buf_init(&text, FILE_BYTES_MAX);
    sl_status status = read_config(parse->config_path, &text);
    char *line = text.data;
    if (text.bytes >= sizeof(BYTE_ORDER_MARK) - 1 &&
        memcmp(line, BYTE_ORDER_MARK, sizeof(BYTE_ORDER_MARK) - 1) == 0)
        line += sizeof(BYTE_ORDER_MARK) - 1;
    for (uint32_t number = 1; status == SL_OK && line != NULL; number++) {
        char *end = strchr(line, '\n');
        if (end != NULL)
            *end++ = '\0';
        status = apply_line(parse, parse->config_path, number, line);
        line = end;
    }
    sl_buf_fini(&text);
    return status;
}

/* ---- the environment ---- */

static void env_name(const char *option, char name[NAME_BYTES_MAX])
{
    snprintf(name, NAME_BYTES_MAX, ENV_PREFIX "%s", option);
    for (char *p = name; *p != '\0'; p++) {
        if (*p == '-')
            *p = '_';
        else if (*p >= 'a' && *p <= 'z')
            *p = (char)(*p - 'a' + 'A');
    }
}

/* SLUICE_ and a name that is no option's: the file, and what the test suite is told, which programs inherit. */
static bool is_other_variable(const char *name, size_t bytes)
{
    static const char *const others[] = {ENV_PREFIX "CONFIG", ENV_PREFIX "BUILD",
                                         ENV_PREFIX "SLOW"};
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
        if (strlen(others[i]) == bytes && strncmp(name, others[i], bytes) == 0)
            return true;
    return false;
}

static void warn_unknown_environment(const struct sl_options *options)
{
    for (char **entry = environ; *entry != NULL; entry++) {
        if (strncmp(*entry, ENV_PREFIX, strlen(ENV_PREFIX)) != 0)
            continue;
        char name[NAME_BYTES_MAX];
        size_t bytes = strcspn(*entry, "=");
        bool known = is_other_variable(*entry, bytes);
        for (uint32_t i = 0; i < options->n_values && !known; i++) {
            env_name(options->values[i].row->name, name);
            known = strlen(name) == bytes && strncmp(name, *entry, bytes) == 0;
        }
        if (!known)
            sl_warn("environment_unknown", "variable=%.*s", (int)bytes, *entry);
    }
}

static sl_status apply_environment(struct parse *parse)
{
    for (uint32_t i = 0; i < parse->options->n_values; i++) {
        char name[NAME_BYTES_MAX];
        env_name(parse->options->values[i].row->name, name);
        const char *text = getenv(name);
        if (text == NULL || *text == '\0')
            continue;
        sl_status status =
            set_value(parse, &parse->options->values[i], text, SL_ORIGIN_ENVIRONMENT, name);
        if (status != SL_OK)
            return status;
    }
    return SL_OK;
}

/* ---- flags ---- */

struct flag {
    char name[NAME_BYTES_MAX];  /* without dashes; "no-" cut off when it negates */
    struct option_value *value; /* NULL: a built-in */
    const char *text;           /* the value; "" for built-in switches */
};

/* What a flag's name means; negated_out: it was --no-NAME. */
static sl_status resolve_flag(const struct sl_options *options, const char *arg, struct flag *flag,
                              bool *negated_out)
{
    static const char *const built_in[] = {OPTION_CONFIG, OPTION_PRINT_CONFIG, OPTION_HELP,
                                           OPTION_VERSION};
    *negated_out = false;
    flag->value = find_value(options, flag->name);
    for (uint32_t i = 0; i < 4 && flag->value == NULL; i++) {
        if (strcmp(flag->name, built_in[i]) == 0)
            return SL_OK;
    }
    if (flag->value == NULL && strncmp(flag->name, "no-", 3) == 0) {
        struct option_value *value = find_value(options, flag->name + 3);
        if (value != NULL && value->row->type == SL_OPTION_BOOL) {
            *negated_out = true;
            flag->value = value;
        }
    }
    if (flag->value == NULL)
        return unknown_name(options, arg, "--", flag->name);
    return SL_OK;
}

/* Takes the flag at argv[*index] and its value; *index moves behind them. */
static sl_status take_flag(const struct parse *parse, int *index, struct flag *flag)
{
    int argc = parse->args->argc;
    char **argv = parse->args->argv;
    const char *arg = argv[(*index)++];
    if (strcmp(arg, "-h") == 0)
        arg = "--" OPTION_HELP;
    if (strncmp(arg, "--", 2) != 0 || arg[2] == '\0')
        return sl_fail(SL_INVALID, "\"%s\": unexpected argument; options begin with --", arg);
    const char *equals = strchr(arg, '=');
    size_t bytes = equals == NULL ? strlen(arg) - 2 : (size_t)(equals - arg) - 2;
    if (bytes >= sizeof(flag->name))
        return sl_fail(SL_INVALID, "%.60s…: unknown option", arg);
    memcpy(flag->name, arg + 2, bytes);
    flag->name[bytes] = '\0';
    bool negated;
    sl_status status = resolve_flag(parse->options, arg, flag, &negated);
    if (status != SL_OK)
        return status;
    bool is_switch = flag->value == NULL ? strcmp(flag->name, OPTION_CONFIG) != 0
                                         : flag->value->row->type == SL_OPTION_BOOL;
    if (equals != NULL && (negated || (is_switch && flag->value == NULL)))
        return sl_fail(SL_INVALID, "%s: takes no value", arg);
    if (is_switch && equals == NULL)
        flag->text = negated ? "false" : "true";
    else if (equals != NULL)
        flag->text = equals + 1;
    else if (*index < argc && strncmp(argv[*index], "--", 2) != 0)
        flag->text = argv[(*index)++];
    else
        return sl_fail(SL_INVALID, "%s: needs a value (one that begins with -- goes as %s=…)", arg,
                       arg);
    return SL_OK;
}

/* First pass: the built-in flags, and whether every flag is well-formed. */
static sl_status scan_flags(struct parse *parse)
{
    const char *path = getenv(ENV_PREFIX "CONFIG");
    parse->config_path = path != NULL && *path != '\0' ? path : NULL;
    for (int i = 1; i < parse->args->argc;) {
        struct flag flag;
        sl_status status = take_flag(parse, &i, &flag);
        if (status != SL_OK)
            return status;
        if (flag.value != NULL)
            continue;
        if (strcmp(flag.name, OPTION_CONFIG) == 0)
            parse->config_path = flag.text;
        parse->help |= strcmp(flag.name, OPTION_HELP) == 0;
        parse->version |= strcmp(flag.name, OPTION_VERSION) == 0;
        parse->print_config |= strcmp(flag.name, OPTION_PRINT_CONFIG) == 0;
    }
    return SL_OK;
}

static sl_status apply_flags(struct parse *parse)
{
    for (int i = 1; i < parse->args->argc;) {
        struct flag flag;
        char where[WHERE_BYTES_MAX];
        sl_status status = take_flag(parse, &i, &flag);
        if (status != SL_OK)
            return status;
        if (flag.value == NULL)
            continue;
        snprintf(where, sizeof(where), "--%s", flag.name);
        status = set_value(parse, flag.value, flag.text, SL_ORIGIN_FLAG, where);
        if (status != SL_OK)
            return status;
    }
    return SL_OK;
}

/* ---- all of it ---- */

static struct sl_options *options_create(const struct sl_options_args *args)
{
    struct sl_options *options = sl_zalloc(1, sizeof(*options));
    for (uint32_t t = 0; args->tables[t] != NULL; t++)
        options->n_values += (uint32_t)args->table_counts[t];
    options->values = sl_zalloc(options->n_values, sizeof(options->values[0]));
    uint32_t n = 0;
    for (uint32_t t = 0; args->tables[t] != NULL; t++) {
        for (size_t i = 0; i < args->table_counts[t]; i++) {
            SL_ASSERT(strlen(args->tables[t][i].name) + sizeof(ENV_PREFIX) <= NAME_BYTES_MAX);
            options->values[n++].row = &args->tables[t][i];
        }
    }
    return options;
}

void sl_options_destroy(struct sl_options *options)
{
    if (options == NULL)
        return;
    for (uint32_t i = 0; i < options->n_values; i++)
        sl_free(options->values[i].text);
    sl_free(options->values);
    sl_free(options);
}

static sl_status apply_defaults(struct parse *parse)
{
    for (uint32_t i = 0; i < parse->options->n_values; i++) {
        struct option_value *value = &parse->options->values[i];
        char where[WHERE_BYTES_MAX];
        if (value->row->default_text == NULL)
            continue;
        snprintf(where, sizeof(where), "default of %s", value->row->name);
        sl_status status =
            set_value(parse, value, value->row->default_text, SL_ORIGIN_DEFAULT, where);
        if (status != SL_OK)
            return status;
    }
    return SL_OK;
}

static sl_status check_required(const struct parse *parse)
{
    for (uint32_t i = 0; i < parse->options->n_values; i++) {
        const struct option_value *value = &parse->options->values[i];
        bool set = value->text != NULL && value->text[0] != '\0';
        if (!value->row->required || set)
            continue;
        char name[NAME_BYTES_MAX];
        env_name(value->row->name, name);
        return sl_fail(SL_INVALID, "--%s %s is required (or %s in the environment)",
                       value->row->name,
                       value->row->value_name == NULL ? "" : value->row->value_name, name);
    }
    return SL_OK;
}

static void print_texts(const struct parse *parse)
{
    struct sl_buf out;
    sl_buf_init(&out, HELP_BYTES_MAX);
    if (parse->help)
        option_help(parse->args, &out);
    else if (parse->version)
        sl_buf_add_format(&out, "%s %s\n", parse->args->program, SLUICE_VERSION);
    else
        sl_options_print(parse->options, &out);
    if (out.bytes > 0)
        fwrite(out.data, 1, out.bytes, stdout);
    fflush(stdout);
    sl_buf_fini(&out);
}

/* Layer over layer; whether that is all the process was started for is in *done_out. */
static sl_status apply_all(struct parse *parse, bool *done_out)
{
    sl_status status = scan_flags(parse);
    if (status != SL_OK)
        return status;
    bool done = parse->help || parse->version;
    if (!done) {
        if ((status = apply_defaults(parse)) != SL_OK || (status = apply_file(parse)) != SL_OK ||
            (status = apply_environment(parse)) != SL_OK || (status = apply_flags(parse)) != SL_OK)
            return status;
        warn_unknown_environment(parse->options);
        done = parse->print_config;
    }
    if (done)
        print_texts(parse);
    else
        status = check_required(parse);
    *done_out = done;
    return status;
}

sl_status sl_options_parse(const struct sl_options_args *args, struct sl_options **options_out,
                           bool *done_out)
{
    struct parse parse = {.args = args, .options = options_create(args)};
    bool done = false;
    sl_status status = apply_all(&parse, &done);
    if (status != SL_OK) {
        sl_options_destroy(parse.options);
        return status;
    }
    *options_out = parse.options;
    *done_out = done;
    return SL_OK;
}

enum sl_option_origin sl_options_origin(const struct sl_options *options, const char *name)
{
    const struct option_value *value = find_value(options, name);
    SL_ASSERT(value != NULL);
    return value->origin;
}

void sl_options_text(const struct sl_options *options, const char *name, struct sl_buf *out)
{
    const struct option_value *value = find_value(options, name);
    SL_ASSERT(value != NULL);
    if (value->text != NULL)
        sl_buf_add_text(out, value->text);
}

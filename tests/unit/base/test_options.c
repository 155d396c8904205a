/* Option tables: the order of the origins, strict values, what --help and --print-config say. */
#include "base/options.h"

#include "support/support.h"

#include <fcntl.h>

struct config {
    const char *model;
    const char *note;
    const char *peer;
    uint64_t kv_blocks;
    uint64_t cache_bytes;
    double ratio;
    bool verify;
    uint32_t backend;
    const char *fault;
    uint64_t seed;
    uint64_t budget;
    uint64_t layers;
};

static const char *const backends[] = {"cpu", "ref", "fake", NULL};

static const struct sl_option table_one[] = {
    {.name = "model",
     .type = SL_OPTION_TEXT,
     .offset = offsetof(struct config, model),
     .value_name = "DIR",
     .required = true,
     .help = "directory of the model",
     .group = "Model"},
    {.name = "kv-blocks",
     .type = SL_OPTION_UINT,
     .offset = offsetof(struct config, kv_blocks),
     .value_name = "N",
     .default_text = "512",
     .min = 1,
     .max = 65536,
     .help =
         "blocks of the KV pool, each of 64 tokens; a request that needs more than there are is "
         "refused at once, and one that needs more than are free waits",
     .group = "Memory"},
};
static const struct sl_option table_two[] = {
    {.name = "cache-bytes",
     .type = SL_OPTION_BYTES,
     .offset = offsetof(struct config, cache_bytes),
     .value_name = "BYTES",
     .default_text = "64k",
     .min = 4096,
     .max = 1099511627776.0,
     .help = "size of the cache",
     .group = "Memory"},
    {.name = "ratio",
     .type = SL_OPTION_NUMBER,
     .offset = offsetof(struct config, ratio),
     .value_name = "R",
     .default_text = "0.5",
     .min = 0,
     .max = 1,
     .help = "share",
     .group = "Memory"},
    {.name = "transfer-verify",
     .type = SL_OPTION_BOOL,
     .offset = offsetof(struct config, verify),
     .default_text = "false",
     .help = "check digests",
     .group = "Transfer"},
    {.name = "backend",
     .type = SL_OPTION_CHOICE,
     .offset = offsetof(struct config, backend),
     .value_name = "NAME",
     .default_text = "cpu",
     .choices = backends,
     .help = "kernels",
     .group = "Model"},
    {.name = "note",
     .type = SL_OPTION_TEXT,
     .offset = offsetof(struct config, note),
     .value_name = "TEXT",
     .help = "any text",
     .group = "Model"},
    {.name = "peer",
     .type = SL_OPTION_ADDRESS,
     .offset = offsetof(struct config, peer),
     .value_name = "HOST:PORT",
     .min = 1,
     .help = "whom to dial",
     .group = "Model"},
    {.name = "transfer-layers",
     .type = SL_OPTION_UINT,
     .offset = offsetof(struct config, layers),
     .value_name = "N",
     .default_text = "4",
     .min = 1,
     .max = 9007199254740992.0,
     .help = "layers of a piece",
     .group = "Transfer"},
    {.name = "seed", /* of any size */
     .type = SL_OPTION_UINT,
     .offset = offsetof(struct config, seed),
     .group = "Tests"},
    {.name = "budget",
     .type = SL_OPTION_BYTES,
     .offset = offsetof(struct config, budget),
     .group = "Tests"},
    {.name = "fault",
     .type = SL_OPTION_TEXT,
     .offset = offsetof(struct config, fault),
     .value_name = "SPEC",
     .group = "Tests"},
};
static const struct sl_option *const tables[] = {table_one, table_two, NULL};
static const size_t counts[] = {sizeof(table_one) / sizeof(table_one[0]),
                                sizeof(table_two) / sizeof(table_two[0])};

static struct config config;
static struct sl_options *options;
static bool done;

/* Whatever this program was started with, or a test has set. */
static void clear_environment(void)
{
    char **entry = environ;
    while (*entry != NULL) {
        char name[64];
        size_t bytes = strcspn(*entry, "=");
        if (strncmp(*entry, "SLUICE_", 7) != 0 || bytes >= sizeof(name)) {
            entry++;
            continue;
        }
        snprintf(name, sizeof(name), "%.*s", (int)bytes, *entry);
        unsetenv(name); /* moves the next one here */
    }
}

/* Parses "--a b --c" as a command line. */
static sl_status parse(const char *line)
{
    static char text[1024];
    char *argv[32] = {text};
    int argc = 1;
    sl_options_destroy(options);
    options = NULL;
    done = false;
    memset(&config, 0, sizeof(config));
    snprintf(text, sizeof(text), "prog %s", line);
    for (char *p = strchr(text, ' '); p != NULL; p = strchr(p, ' ')) {
        *p++ = '\0';
        if (*p != '\0')
            argv[argc++] = p;
    }
    struct sl_options_args args = {.program = "sluice-test",
                                   .summary = "Tests options.",
                                   .tables = tables,
                                   .table_counts = counts,
                                   .argc = argc,
                                   .argv = argv,
                                   .config = &config};
    return sl_options_parse(&args, &options, &done);
}

/* The same, with standard output or error caught. */
static char *parse_caught(const char *line, int stream, bool *done_out)
{
    static char out[16384];
    char *dir = test_dir_create();
    char *path = test_path(dir, "out");
    fflush(NULL);
    int saved = dup(stream);
    int file = open(path, O_RDWR | O_CREAT, 0600);
    dup2(file, stream);
    sl_status status = parse(line);
    fflush(NULL);
    dup2(saved, stream);
    close(saved);
    assert_int_equal(status, SL_OK);
    *done_out = done;
    ssize_t n = pread(file, out, sizeof(out) - 1, 0);
    assert_true(n >= 0);
    out[n] = '\0';
    close(file);
    sl_free(path);
    test_dir_remove(dir);
    return out;
}

static char *parse_printing(const char *line)
{
    bool ended;
    char *text = parse_caught(line, STDOUT_FILENO, &ended);
    assert_true(ended);
    return text;
}

static void test_defaults(void **state)
{
    (void)state;
    assert_ok(parse("--model m"));
    assert_false(done);
    assert_string_equal(config.model, "m");
    assert_null(config.note);
    assert_int_equal(config.kv_blocks, 512);
    assert_int_equal(config.cache_bytes, 65536);
    assert_true(config.ratio == 0.5);
    assert_false(config.verify);
    assert_int_equal(config.backend, 0);
    assert_int_equal(sl_options_origin(options, "model"), SL_ORIGIN_FLAG);
    assert_int_equal(sl_options_origin(options, "kv-blocks"), SL_ORIGIN_DEFAULT);
}

static void test_forms_of_flags(void **state)
{
    (void)state;
    assert_ok(parse("--model=a=b --kv-blocks=7 --cache-bytes 2m --transfer-verify --backend ref "
                    "--ratio 1e-1 --kv-blocks 9"));
    assert_string_equal(config.model, "a=b");
    assert_int_equal(config.kv_blocks, 9); /* the last one counts */
    assert_int_equal(config.cache_bytes, 2 << 20);
    assert_true(config.verify);
    assert_int_equal(config.backend, 1);
    assert_true(config.ratio == 0.1);
    assert_ok(parse("--model m --transfer-verify --no-transfer-verify"));
    assert_false(config.verify);
    assert_ok(parse("--model m --transfer-verify=true --transfer-verify=off"));
    assert_false(config.verify);
    assert_ok(parse("--model m --note="));
    assert_null(config.note);
}

/* Limits are values that may be given. */
static void test_limits_are_inside(void **state)
{
    (void)state;
    assert_ok(parse("--model m --kv-blocks 1 --ratio 0 --cache-bytes 4k"));
    assert_int_equal(config.kv_blocks, 1);
    assert_int_equal(config.cache_bytes, 4096);
    assert_true(config.ratio == 0);
    assert_ok(parse("--model m --kv-blocks 65536 --ratio 1 --cache-bytes 1024g"));
    assert_int_equal(config.kv_blocks, 65536);
    assert_int_equal(config.cache_bytes, 1ull << 40);
    assert_true(config.ratio == 1);
    assert_ok(parse("--model m --seed 18446744073709551615 --budget 17179869183G"));
    assert_true(config.seed == UINT64_MAX);
    assert_true(config.budget == 17179869183ull << 30);
}

static void test_refuses(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"", "--model DIR is required (or SLUICE_MODEL in the environment)"},
        {"--model=", "--model DIR is required"},
        {"--model m --kv-block 3", "did you mean --kv-blocks?"},
        {"--model m --kv-blokcs=3", "did you mean --kv-blocks?"},
        {"--model m --modle x", "did you mean --model?"},
        {"--model m --hepl", "did you mean --help?"},
        {"--model m --zebra-crossing", "--help lists"},
        {"--model m --no-ratio", "unknown option"},
        {"--model m --faults x", "--help lists"}, /* the hidden ones are not told */
        {"--model m x", "unexpected argument"},
        {"--model m --", "unexpected argument"},
        {"--model m -k", "unexpected argument"},
        {"--model", "--model: needs a value"},
        {"--model --ratio 1", "--model: needs a value"},
        {"--model m --kv-blocks 0", "--kv-blocks: \"0\"; want a whole number, 1..65536"},
        {"--model m --kv-blocks 65537", "1..65536"},
        {"--model m --kv-blocks 0x10", "whole number"},
        {"--model m --kv-blocks 3.0", "whole number"},
        {"--model m --kv-blocks +3", "whole number"},
        {"--model m --kv-blocks -3", "whole number"},
        {"--model m --kv-blocks 3k", "whole number"},
        {"--model m --kv-blocks=", "whole number"},
        {"--model m --kv-blocks 18446744073709551617", "whole number"},
        {"--model m --seed 18446744073709551616", "whole number"},
        {"--model m --budget 17179869184g", "want bytes"},
        {"--model m --help --kv-block 3", "did you mean --kv-blocks?"}, /* help hides no error */
        {"--model m --x234567890123456789012345678901234567890123456789012345678901234",
         "--x234567890123456789012345678901234567890123456789012345678…: unknown option"},
        {"--model m --cache-bytes 1",
         "--cache-bytes: \"1\"; want bytes, as in 64k or 2g, 4k..1024g"},
        {"--model m --cache-bytes 99999999999g", "want bytes"},
        {"--model m --cache-bytes 4kk", "want bytes"},
        {"--model m --ratio 1.5", "want a number, 0..1"},
        {"--model m --ratio nan", "want a number"},
        {"--model m --ratio 0x1", "want a number"},
        {"--model m --ratio .5x", "want a number"},
        {"--model m --transfer-verify=maybe", "want true or false"},
        {"--model m --no-transfer-verify=true", "takes no value"},
        {"--model m --help=yes", "takes no value"},
        {"--model m --backend gpu", "--backend: \"gpu\"; want cpu, ref or fake"},
        {"--model m --peer nowhere", "--peer: \"nowhere\"; want HOST:PORT"},
        {"--model m --peer :80", "--peer: \":80\"; the host is missing"},
        {"--model m --peer a:65536", "--peer: \"a:65536\"; port wants 0..65535"},
        {"--model m --peer a:0", "--peer: \"a:0\"; port wants 1..65535"},
        {"--model m --config /nonexistent/x", "/nonexistent/x"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        sl_status status = parse(cases[i][0]);
        bool no_file = strstr(cases[i][0], "--config") != NULL;
        if (status != (no_file ? SL_NOT_FOUND : SL_INVALID) ||
            strstr(sl_error(), cases[i][1]) == NULL)
            fail_msg("%s: \"%s\" does not say \"%s\"", cases[i][0], sl_error(), cases[i][1]);
    }
}

static void test_order_of_origins(void **state)
{
    (void)state;
    char *dir = test_dir_create();
    test_write_text(dir, "c",
                    "# a comment\n\n model = from-file # why\nkv-blocks=10\n"
                    "note = \"a # \\\"b\\\" \"\nratio = 0.25\ncache-bytes =\r\n");
    char *line = sl_asprintf("--config %s/c --ratio 0.75", dir);
    setenv("SLUICE_KV_BLOCKS", "11", 1);
    setenv("SLUICE_RATIO", "0.1", 1);
    setenv("SLUICE_BACKEND", "", 1); /* empty: not set */
    assert_ok(parse(line));
    assert_string_equal(config.model, "from-file");
    assert_string_equal(config.note, "a # \"b\" ");
    assert_int_equal(config.kv_blocks, 11);
    assert_true(config.ratio == 0.75);
    assert_int_equal(config.cache_bytes, 65536);
    assert_int_equal(config.backend, 0);
    assert_int_equal(sl_options_origin(options, "model"), SL_ORIGIN_FILE);
    assert_int_equal(sl_options_origin(options, "kv-blocks"), SL_ORIGIN_ENVIRONMENT);
    assert_int_equal(sl_options_origin(options, "ratio"), SL_ORIGIN_FLAG);
    assert_int_equal(sl_options_origin(options, "cache-bytes"), SL_ORIGIN_DEFAULT);
    setenv("SLUICE_KV_BLOCKS", "no", 1);
    assert_fails(parse(line), SL_INVALID, "SLUICE_KV_BLOCKS: \"no\"; want a whole number");
    unsetenv("SLUICE_KV_BLOCKS");
    unsetenv("SLUICE_RATIO");
    unsetenv("SLUICE_BACKEND");

    char *path = test_path(dir, "c"); /* the file may come from the environment, too */
    setenv("SLUICE_CONFIG", path, 1);
    assert_ok(parse(""));
    assert_int_equal(config.kv_blocks, 10);
    unsetenv("SLUICE_CONFIG");
    sl_free(path);
    sl_free(line);
    test_dir_remove(dir);
}

static void test_environment_alone(void **state)
{
    (void)state;
    setenv("SLUICE_MODEL", "m", 1);
    setenv("SLUICE_CACHE_BYTES", "128k", 1);
    setenv("SLUICE_RATIO", "0.1", 1);
    assert_ok(parse(""));
    assert_string_equal(config.model, "m");
    assert_int_equal(config.cache_bytes, 128 << 10);
    assert_true(config.ratio == 0.1);
    assert_int_equal(sl_options_origin(options, "cache-bytes"), SL_ORIGIN_ENVIRONMENT);
    /* Of what is not ours nothing is said, of what looks like ours and is not, that it is not. */
    bool ended;
    setenv("SLUICE_CONFIG", "", 1);
    setenv("SLUICE_BUILD", "/elsewhere", 1); /* for the test suite */
    setenv("SLUICE_SLOW", "1", 1);
    assert_string_equal(parse_caught("", STDERR_FILENO, &ended), "");
    assert_false(ended);
    setenv("SLUICE_KV_BLOCK", "3", 1);
    setenv("SLUICE_CONFIGS", "x", 1);
    setenv("SLUICE_SLO", "1", 1);
    const char *text = parse_caught("", STDERR_FILENO, &ended);
    assert_non_null(strstr(text, "variable=SLUICE_KV_BLOCK\n"));
    assert_non_null(strstr(text, "variable=SLUICE_CONFIGS\n"));
    assert_non_null(strstr(text, "variable=SLUICE_SLO\n"));
    assert_null(strstr(text, "SLUICE_MODEL"));
    clear_environment();
}

/* As some editors write it. */
static void test_file_with_byte_order_mark(void **state)
{
    (void)state;
    char *dir = test_dir_create();
    char *line = sl_asprintf("--config %s/c", dir);
    test_write_text(dir, "c", "\xEF\xBB\xBFmodel = m\r\n# \xC3\xBC\r\nkv-blocks = 7\r\n");
    assert_ok(parse(line));
    assert_string_equal(config.model, "m");
    assert_int_equal(config.kv_blocks, 7);
    sl_free(line);
    test_dir_remove(dir);
}

/* What is wrong with a value is said behind it. */
static void test_long_values(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"kv-blocks", "...\"; want a whole number, 1..65536"},
        {"ratio", "...\"; want a number, 0..1"},
        {"cache-bytes", "...\"; want bytes, as in 64k or 2g, 4k..1024g"},
        {"transfer-verify", "...\"; want true or false"},
        {"backend", "...\"; want cpu, ref or fake"},
        {"peer", "...\"; want HOST:PORT"},
    };
    char value[700] = {0};
    memset(value, 'x', sizeof(value) - 1);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char *line = sl_asprintf("--model m --%s=%s", cases[i][0], value);
        assert_fails(parse(line), SL_INVALID, cases[i][1]);
        sl_free(line);
    }
    char *line = sl_asprintf("--model m --peer=%s:80", value);
    assert_fails(parse(line), SL_INVALID, "...\"; host longer than 255 bytes");
    sl_free(line);
}

static void test_wrong_files(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"\nkv-block = 1\n", "c:2: kv-block: unknown option; did you mean kv-blocks?"},
        {"model = x\nkv-blocks = 0", "c:2: kv-blocks: \"0\"; want a whole number, 1..65536"},
        {"model", "c:1: want \"name = value\""},
        {"model = \"x", "c:1: model: the quotes do not close"},
        {"model = \"x\" y", "the quotes do not close"},
        {" = 1", "c:1: want \"name = value\""},
        {"model = m\nkv-blocks = 1\nkv-blocks = 2",
         "c:3: kv-blocks: set a second time in this file"},
        {"config = x",
         "c:1: config: unknown option; --help lists the known ones"}, /* a flag only */
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char *dir = test_dir_create();
        char *line = sl_asprintf("--config %s/c", dir);
        test_write_text(dir, "c", cases[i][0]);
        assert_fails(parse(line), SL_INVALID, cases[i][1]);
        sl_free(line);
        test_dir_remove(dir);
    }
    char *dir = test_dir_create();
    char *line = sl_asprintf("--config %s/c", dir);
    test_write_file(dir, "c", "model = m\n\0kv-blocks = 9\n", 25); /* the rest would be ignored */
    assert_fails(parse(line), SL_INVALID, "holds a NUL byte");
    sl_free(line);
    test_dir_remove(dir);
    assert_fails(parse("--config /tmp"), SL_INVALID,
                 "--config /tmp: cannot be read: Is a directory");
    assert_fails(parse("--config /dev/zero"), SL_INVALID, "/dev/zero"); /* it has no end */
}

static void test_help(void **state)
{
    (void)state;
    char *text = parse_printing("--help");
    assert_non_null(strstr(text, "Usage: sluice-test [options]\n\nTests options.\n\nModel:\n"));
    assert_non_null(strstr(text, "  --model DIR                     directory of the model "
                                 "(required)\n"));
    assert_non_null(strstr(text, "kernels (cpu, ref or fake, default cpu)\n"));
    assert_non_null(strstr(text, "(1..65536, default 512)\n"));
    assert_non_null(
        strstr(text, "  --transfer-verify               check digests (default false)"));
    assert_null(strstr(text, "--fault")); /* hidden */
    const char *first = strstr(text, "\n  --kv-blocks N");
    assert_true(first != NULL && strstr(first + 3, "  --kv-blocks N") == NULL); /* in one group */
    /* Lines are full, and no word passes column 100. */
    assert_non_null(strstr(text, "\n  --kv-blocks N                   blocks of the KV pool, each "
                                 "of 64 tokens; a request that "
                                 "needs\n                                  more than there are is "
                                 "refused at once, and one that "
                                 "needs more\n                                  than are free "
                                 "waits (1..65536, default 512)\n"));
    assert_non_null(strstr(text, "layers of a piece (at least 1, default 4)\n"));
    const char *transfer = strstr(text, "\nTransfer:\n");
    assert_true(transfer != NULL && strstr(transfer + 1, "\nTransfer:\n") == NULL);
    assert_non_null(strstr(text, " any text\n")); /* nothing in brackets */
    assert_non_null(strstr(text, "  --help "));
    assert_non_null(strstr(text, "  --print-config "));
    assert_non_null(strstr(text, "  --version "));
    assert_non_null(strstr(text, "  --config FILE "));
    char *model = strstr(text, "\nModel:"), *memory = strstr(text, "\nMemory:");
    assert_true(model != NULL && memory != NULL && model < memory);
    assert_true(strstr(text, "--backend") < memory); /* groups gather rows of all tables */
    assert_null(strstr(model + 1, "\nModel:"));
    for (char *line = text; *line != '\0'; line += strcspn(line, "\n") + 1)
        assert_in_range(strcspn(line, "\n"), 0, 100);
}

static void test_addresses(void **state)
{
    (void)state;
    assert_ok(parse("--model m"));
    assert_null(config.peer);
    assert_ok(parse("--model m --peer="));
    assert_null(config.peer);
    assert_ok(parse("--model m --peer [::1]:65535"));
    assert_string_equal(config.peer, "[::1]:65535");
}

static void test_version(void **state)
{
    (void)state;
    assert_string_equal(parse_printing("--version"), "sluice-test " SLUICE_VERSION "\n");
}

static void test_print_config_can_be_read_back(void **state)
{
    (void)state;
    char *text = parse_printing("--print-config --kv-blocks 3 --fault a=always");
    assert_string_equal(text, "model = # default\n"
                              "kv-blocks = 3 # flag\n"
                              "cache-bytes = 64k # default\n"
                              "ratio = 0.5 # default\n"
                              "transfer-verify = false # default\n"
                              "backend = cpu # default\n"
                              "note = # default\n"
                              "peer = # default\n"
                              "transfer-layers = 4 # default\n"
                              "fault = a=always # flag\n");
    char *dir = test_dir_create();
    char *line = sl_asprintf("--model m --config %s/c", dir);
    test_write_text(dir, "c", text);
    assert_ok(parse(line));
    assert_int_equal(config.kv_blocks, 3);
    assert_int_equal(sl_options_origin(options, "cache-bytes"), SL_ORIGIN_FILE);
    sl_free(line);
    test_dir_remove(dir);
}

/* … whatever a value holds. */
static void test_quoting(void **state)
{
    (void)state;
    static const char *const texts[] = {"a # b", "say \"no\"", "C:\\dir\\", " front",
                                        "back ", "\tfront",    "back\t",    "#",
                                        "\"",    "\\",         "a=b",       "x"};
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        setenv("SLUICE_NOTE", texts[i], 1);
        char *text = parse_printing("--model m --print-config");
        unsetenv("SLUICE_NOTE");
        char *dir = test_dir_create();
        char *line = sl_asprintf("--config %s/c", dir);
        test_write_text(dir, "c", text);
        assert_ok(parse(line));
        assert_string_equal(config.note, texts[i]);
        sl_free(line);
        test_dir_remove(dir);
    }
    assert_non_null(
        strstr(parse_printing("--model m --note= --print-config"), "\nnote = \"\" # flag\n"));
    setenv("SLUICE_NOTE", "two\nlines", 1);
    assert_fails(parse("--model m"), SL_INVALID, "want a text of one line");
    unsetenv("SLUICE_NOTE");
}

static void test_text_for_a_child(void **state)
{
    (void)state;
    struct sl_buf buf;
    sl_buf_init(&buf, 100);
    assert_ok(parse("--model m --cache-bytes 2m"));
    sl_options_text(options, "cache-bytes", &buf);
    sl_options_text(options, "note", &buf);
    sl_options_text(options, "transfer-verify", &buf);
    assert_string_equal(buf.data, "2mfalse");
    sl_buf_fini(&buf);
}

int main(void)
{
    clear_environment();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_forms_of_flags),
        cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_order_of_origins),
        cmocka_unit_test(test_environment_alone),
        cmocka_unit_test(test_limits_are_inside),
        cmocka_unit_test(test_file_with_byte_order_mark),
        cmocka_unit_test(test_long_values),
        cmocka_unit_test(test_wrong_files),
        cmocka_unit_test(test_help),
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_version),
        cmocka_unit_test(test_print_config_can_be_read_back),
        cmocka_unit_test(test_quoting),
        cmocka_unit_test(test_text_for_a_child),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    sl_options_destroy(options);
    return failed;
}

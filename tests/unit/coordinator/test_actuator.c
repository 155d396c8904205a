/* The local actuator with real processes: scripts in place of workers. */
#include "coordinator/actuator.h"

#include "support/support.h"

#include "base/clock.h"
#include "base/log.h"

#include <sched.h>
#include <signal.h>

struct fixture {
    char *dir;
    char *sleeper, *failer;
    struct actuator *actuator;
};

static char *write_script(const char *dir, const char *name, const char *text)
{
    test_write_text(dir, name, text);
    char *path = test_path(dir, name);
    assert_int_equal(chmod(path, 0700), 0);
    return path;
}

/* Each start leaves its arguments and its pid in the directory. */
static int setup(void **state)
{
    struct fixture *f = sl_zalloc(1, sizeof(*f));
    sl_log_set_level(getenv("VERBOSE") != NULL ? SL_LOG_DEBUG : SL_LOG_ERROR);
    f->dir = test_dir_create();
    char *script = sl_asprintf("#!/bin/sh\nid=${1#--id=}\necho \"$@\" > %s/$id.args\n"
                               "echo $$ > %s/$id.new && mv %s/$id.new %s/$id.pid\n"
                               "exec sleep 1000\n",
                               f->dir, f->dir, f->dir, f->dir);
    f->sleeper = write_script(f->dir, "sleeper", script);
    sl_free(script);
    script = sl_asprintf("#!/bin/sh\necho x >> %s/fails\n"
                         "printf 'the weights are damaged' >&3\nexit 3\n",
                         f->dir);
    f->failer = write_script(f->dir, "failer", script);
    sl_free(script);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    actuator_destroy(f->actuator, 1000000);
    test_dir_remove(f->dir);
    sl_free(f->sleeper);
    sl_free(f->failer);
    sl_free(f);
    return 0;
}

static void start(struct fixture *f, const char *prefill, const char *decode)
{
    static const char *const options[] = {"--kv-blocks=7", "--backend=ref"};
    struct actuator_args args = {.prefill_path = prefill,
                                 .decode_path = decode,
                                 .n_prefill = 1,
                                 .n_decode = 1,
                                 .options = options,
                                 .n_options = 2,
                                 .share_cpus = true};
    assert_ok(actuator_create(&args, "127.0.0.1:5", &f->actuator));
}

static char *read_text(struct fixture *f, const char *name)
{
    static char text[256];
    char *path = test_path(f->dir, name);
    FILE *file = fopen(path, "re");
    sl_free(path);
    if (file == NULL)
        return NULL;
    size_t n = fread(text, 1, sizeof(text) - 1, file);
    text[n] = '\0';
    fclose(file);
    return text;
}

/* Ticks until the worker has written a pid other than `not`; at one instant, or by the clock (0). */
static pid_t await_pid_at(struct fixture *f, const char *id, pid_t not, uint64_t now_us,
                          uint32_t ms)
{
    char name[32];
    snprintf(name, sizeof(name), "%s.pid", id);
    uint64_t end = sl_real_us() + ms * 1000ull;
    while (sl_real_us() < end) {
        actuator_tick(f->actuator, now_us > 0 ? now_us : sl_now_us());
        const char *text = read_text(f, name);
        pid_t pid = text != NULL ? (pid_t)strtol(text, NULL, 10) : 0;
        if (pid > 0 && pid != not )
            return pid;
        sl_sleep_us(5000);
    }
    return 0;
}

static pid_t await_pid(struct fixture *f, const char *id, pid_t not, uint32_t ms)
{
    return await_pid_at(f, id, not, 0, ms);
}

static void starts_and_restarts(void **state)
{
    struct fixture *f = *state;
    start(f, f->sleeper, f->sleeper);
    pid_t p = await_pid(f, "p0", 0, 3000), d = await_pid(f, "d0", 0, 3000);
    assert_true(p > 0 && d > 0 && p != d);
    assert_int_equal(getpgid(p), p); /* Ctrl-C of the terminal does not reach it */
    assert_string_equal(read_text(f, "d0.args"),
                        "--id=d0 --coordinator=127.0.0.1:5 --admin=127.0.0.1:0 --report-fd=3 "
                        "--kv-blocks=7 --backend=ref\n");
    kill(d, SIGKILL);
    uint64_t from = sl_real_us();
    pid_t again = await_pid(f, "d0", d, 3000);
    assert_true(again > 0);
    assert_true(sl_real_us() - from >= 100000);     /* the back-off */
    assert_int_equal(await_pid(f, "p0", p, 50), 0); /* the other one is left alone */
    assert_int_equal(kill(p, 0), 0);
    /* A hung one: killed and started again at once, though it is stopped. */
    kill(again, SIGSTOP);
    assert_false(actuator_kill(f->actuator, "d0", d));
    assert_false(actuator_kill(f->actuator, "d7", again));
    assert_true(actuator_kill(f->actuator, "d0", again));
    pid_t third = await_pid(f, "d0", again, 3000);
    assert_true(third > 0);
    assert_int_equal(kill(again, 0), -1);
    kill(third, SIGSTOP);
    actuator_destroy(f->actuator, 2000000);
    f->actuator = NULL;
    assert_int_equal(kill(third, 0), -1);
    assert_int_equal(kill(p, 0), -1);
}

static void backs_off(void **state)
{
    struct fixture *f = *state;
    start(f, f->failer, f->sleeper);
    uint64_t end = sl_real_us() + 1000000;
    while (sl_real_us() < end) {
        actuator_tick(f->actuator, sl_now_us());
        sl_sleep_us(5000);
    }
    /* At 0, 0.1, 0.3 and 0.7 s, and what starting takes. */
    assert_in_range(strlen(read_text(f, "fails")) / 2, 2, 4);
}

/* Ticks at one instant until p0 has ended n times in a row, as `out` says then. */
static void await_ends(struct fixture *f, uint32_t n, uint64_t now_us, char out[600])
{
    char part[40];
    snprintf(part, sizeof(part), "p0 has ended %u times in a row", n);
    uint64_t end = sl_real_us() + 5000000;
    do {
        actuator_tick(f->actuator, now_us);
        sl_sleep_us(2000);
        (void)actuator_failing(f->actuator, out, 600);
    } while (strstr(out, part) == NULL && sl_real_us() < end);
    if (strstr(out, part) == NULL)
        fail_msg("want %s: %s", part, out);
}

/* By a clock of the test's own: up to the longest wait, and never given up. */
static void says_why_it_fails(void **state)
{
    struct fixture *f = *state;
    char text[600];
    uint64_t now = 1000;
    start(f, f->failer, f->sleeper);
    assert_int_equal(actuator_failing(f->actuator, text, sizeof(text)), 0);
    assert_string_equal(text, "");
    for (uint32_t n = 1; n <= 9; n++) {
        await_ends(f, n, now, text);
        assert_string_equal(strchr(text, ';') + 1 + strlen(" p0 has ended 1 times in a row"),
                            " and is started again, the last error: the weights are damaged");
        assert_int_equal(actuator_failing(f->actuator, text, sizeof(text)), 1);
        assert_memory_equal(text, "1 of 2 workers fail; ", 21);
        uint64_t wait = n < 7 ? 100000u << (n - 1) : 5000000;
        actuator_tick(f->actuator, now + wait - 1);
        sl_sleep_us(20000);
        assert_int_equal(strlen(read_text(f, "fails")) / 2, n);
        now += wait;
    }
}

/* A life counts from when it was ready on: it ends a row of ends, once it was long enough. */
static void lives_of_workers(void **state)
{
    struct fixture *f = *state;
    static const struct {
        uint64_t ready_us; /* how long before its end it was; 0: never */
        uint32_t ends;     /* in a row then */
    } lives[] = {{0, 1}, {0, 2}, {19999999, 3}, {20000000, 1}, {0, 2}};
    char text[600];
    uint64_t now = 1000;
    pid_t pid = 0;
    start(f, f->sleeper, f->sleeper);
    for (size_t i = 0; i < sizeof(lives) / sizeof(lives[0]); i++) {
        pid = await_pid_at(f, "p0", pid, now, 3000);
        assert_true(pid > 0);
        actuator_ready(f->actuator, "p0", pid + 1, now); /* another one's */
        if (lives[i].ready_us > 0)
            actuator_ready(f->actuator, "p0", pid, now);
        now += lives[i].ready_us > 0 ? lives[i].ready_us : 100000000;
        actuator_ready(f->actuator, "d0", pid, now);
        if (lives[i].ready_us > 0) {
            assert_int_equal(actuator_failing(f->actuator, text, sizeof(text)), 0);
            actuator_ready(f->actuator, "p0", pid, now); /* said again: no other instant */
        }
        kill(pid, SIGTERM);
        await_ends(f, lives[i].ends, now, text);
        assert_non_null(strstr(text, "the last error: SIGTERM"));
        now += 5000000;
    }
}

static void programs_that_are_not_there(void **state)
{
    struct fixture *f = *state;
    start(f, "/nonexistent/worker", f->sleeper);
    for (int i = 0; i < 20; i++) {
        actuator_tick(f->actuator, sl_now_us());
        sl_sleep_us(5000);
    }
    assert_true(await_pid(f, "d0", 0, 3000) > 0);
    struct actuator *other;
    struct actuator_args args = {.prefill_path = "a", .decode_path = "b", .n_decode = 65};
    assert_fails(actuator_create(&args, "x", &other), SL_INVALID, "65 decode");
    args.n_decode = 0;
    assert_fails(actuator_create(&args, "x", &other), SL_INVALID, "at least one");
    args.n_prefill = 65;
    assert_fails(actuator_create(&args, "x", &other), SL_INVALID, "65 prefill");
    args.n_prefill = 0;
    args.n_options = ACTUATOR_OPTIONS_MAX + 1;
    assert_fails(actuator_create(&args, "x", &other), SL_INVALID, "options for the workers");
    args.n_options = 0;
    args.n_decode = 1;
    static const char *const wrong[] = {"0-",  "",       "a",    "1,", ",1", "0,,1",
                                        "3-2", "0-1024", "1024", "1x", "-1", "0 1"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        args.cpu_list = wrong[i];
        assert_fails(actuator_create(&args, "x", &other), SL_INVALID,
                     "; want numbers and ranges below 1024, as in 0-3,8");
    }
}

/* Each of two workers gets its part of the list, or both the whole when they are told to share. */
static void cpu_lists(void **state)
{
    struct fixture *f = *state;
    static const char *const wanted[][2] = {{"--cpus=0-1,5 ", "--cpus=7-9 "},
                                            {"--cpus=0-1,5,7-9 ", "--cpus=0-1,5,7-9 "}};
    for (int share = 0; share < 2; share++) {
        struct actuator_args args = {.prefill_path = f->sleeper,
                                     .decode_path = f->sleeper,
                                     .n_prefill = 1,
                                     .n_decode = 1,
                                     .cpu_list = "0-1,5,7-9",
                                     .share_cpus = share == 1};
        assert_ok(actuator_create(&args, "127.0.0.1:5", &f->actuator));
        assert_true(await_pid(f, "p0", 0, 3000) > 0 && await_pid(f, "d0", 0, 3000) > 0);
        char *text = read_text(f, "p0.args");
        text[strlen(text) - 1] = ' ';
        assert_non_null(strstr(text, wanted[share][0]));
        text = read_text(f, "d0.args");
        text[strlen(text) - 1] = ' ';
        assert_non_null(strstr(text, wanted[share][1]));
        actuator_destroy(f->actuator, 2000000);
        f->actuator = NULL;
        for (const char *const *name = (const char *const[]){"p0.pid", "d0.pid", NULL};
             *name != NULL; name++) {
            char *path = test_path(f->dir, *name);
            (void)unlink(path);
            sl_free(path);
        }
    }
}

/* Without a list, the CPUs that this process may use are divided. */
static void own_cpus(void **state)
{
    struct fixture *f = *state;
    cpu_set_t set;
    uint16_t cpus[CPU_SETSIZE];
    uint32_t n = 0;
    assert_int_equal(sched_getaffinity(0, sizeof(set), &set), 0);
    for (uint16_t i = 0; i < CPU_SETSIZE; i++)
        if (CPU_ISSET(i, &set))
            cpus[n++] = i;
    if (n < 2) {
        print_message("skip: one CPU cannot be divided\n");
        skip();
    }
    char lists[2][64];
    assert_true(actuator_divide_cpus(cpus, n, 2, 0, lists));
    struct actuator_args args = {
        .prefill_path = f->sleeper, .decode_path = f->sleeper, .n_prefill = 1, .n_decode = 1};
    assert_ok(actuator_create(&args, "127.0.0.1:5", &f->actuator));
    assert_true(await_pid(f, "p0", 0, 3000) > 0 && await_pid(f, "d0", 0, 3000) > 0);
    char *wanted = sl_asprintf(" --cpus=%s\n", lists[0]);
    assert_non_null(strstr(read_text(f, "p0.args"), wanted));
    sl_free(wanted);
    wanted = sl_asprintf(" --cpus=%s\n", lists[1]);
    assert_non_null(strstr(read_text(f, "d0.args"), wanted));
    sl_free(wanted);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(starts_and_restarts, setup, teardown),
        cmocka_unit_test_setup_teardown(backs_off, setup, teardown),
        cmocka_unit_test_setup_teardown(says_why_it_fails, setup, teardown),
        cmocka_unit_test_setup_teardown(lives_of_workers, setup, teardown),
        cmocka_unit_test_setup_teardown(programs_that_are_not_there, setup, teardown),
        cmocka_unit_test_setup_teardown(cpu_lists, setup, teardown),
        cmocka_unit_test_setup_teardown(own_cpus, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

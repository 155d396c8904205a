/* Signals, drain and spawning, seen from outside: the test runs itself as a child in a few roles. */
#include "serve/serve.h"

#include "base/clock.h"
#include "base/log.h"
#include "support/support.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

#define SELF "/proc/self/exe"

/* ---- roles of the child ---- */

static void say(const char *word)
{
    printf("%s\n", word);
    fflush(stdout);
}

/* Waits for the drain and finishes it. */
static int drain_main(bool finish)
{
    struct serve_config config = {.log_level = SL_LOG_ERROR, .drain_seconds = 5.0};
    sl_status status = serve_start(&config, "t0");
    if (status != SL_OK)
        return serve_exit_code("child", status);
    raise(SIGPIPE); /* ignored */
    if (serve_draining() || serve_drain_deadline_us() != UINT64_MAX || serve_wait(1000))
        return 90;
    say("up");
    if (!serve_wait(UINT64_MAX) || !serve_draining())
        return 91;
    if (!serve_wait(0)) /* for good */
        return 92;
    uint64_t left = serve_drain_deadline_us() - sl_real_us();
    if (left > 5 * SL_SECOND_US || left < 4 * SL_SECOND_US)
        return 93;
    serve_drain("again", SL_SECOND_US); /* only shortens */
    if (serve_drain_deadline_us() - sl_real_us() > SL_SECOND_US)
        return 94;
    say("draining");
    if (!finish)
        sl_sleep_us(20 * SL_SECOND_US);
    serve_stop();
    return serve_exit_code("child", SL_OK);
}

static int group_main(void)
{
    sigset_t mask;
    sigprocmask(SIG_SETMASK, NULL, &mask);
    bool clean = !sigismember(&mask, SIGTERM) && !sigismember(&mask, SIGINT);
    bool closed = fcntl(77, F_GETFD) < 0 && errno == EBADF;
    bool no_options = getenv("SLUICE_CONFIG") == NULL && getenv("SLUICE_LISTEN") == NULL;
    bool kept = getenv("SLUICE_FAULT") != NULL && getenv("NOT_SLUICE_LISTEN") != NULL;
    return clean && closed && no_options && kept && getpgrp() == getpid() ? 7 : 8;
}

/* Starts a grandchild that would live long, names it, and hangs. */
static int parent_main(void)
{
    char role[] = "sleep", self[] = SELF;
    char *argv[] = {self, role, NULL};
    pid_t pid;
    if (serve_spawn(argv, -1, &pid) != SL_OK)
        return 1;
    printf("%d\n", (int)pid);
    fflush(stdout);
    sl_sleep_us(20 * SL_SECOND_US);
    return 0;
}

/* Fails, and says why to who has started it, too. */
static int report_main(void)
{
    struct serve_config config = {
        .log_level = SL_LOG_ERROR, .drain_seconds = 5.0, .report_fd = SERVE_REPORT_FD};
    if (fcntl(SERVE_REPORT_FD + 1, F_GETFD) >= 0 || serve_start(&config, "t0") != SL_OK)
        return 90;
    serve_stop();
    return serve_exit_code("child", sl_fail(SL_CORRUPT, "tensor 7 is damaged"));
}

static int role_main(const char *role)
{
    if (strcmp(role, "report") == 0)
        return report_main();
    if (strcmp(role, "drain") == 0)
        return drain_main(true);
    if (strcmp(role, "hang") == 0)
        return drain_main(false);
    if (strcmp(role, "group") == 0)
        return group_main();
    if (strcmp(role, "parent") == 0)
        return parent_main();
    sl_sleep_us(20 * SL_SECOND_US);
    return 0;
}

/* ---- the tests ---- */

struct child {
    pid_t pid;
    FILE *output;
};

static struct child child_start(const char *role)
{
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        dup2(fds[1], STDOUT_FILENO);
        close(fds[0]);
        close(fds[1]);
        execl(SELF, SELF, role, (char *)NULL);
        _exit(99);
    }
    close(fds[1]);
    return (struct child){.pid = pid, .output = fdopen(fds[0], "r")};
}

static void child_says(struct child *child, char line_out[64])
{
    assert_non_null(fgets(line_out, 64, child->output));
    line_out[strcspn(line_out, "\n")] = '\0';
}

static void child_must_say(struct child *child, const char *word)
{
    char line[64];
    child_says(child, line);
    assert_string_equal(line, word);
}

static int child_end(struct child *child)
{
    int status;
    fclose(child->output);
    assert_int_equal(waitpid(child->pid, &status, 0), child->pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

/* One that has got the signal, and said so. */
static struct child child_that_drains(const char *role, int signal_number)
{
    struct child child = child_start(role);
    child_must_say(&child, "up");
    assert_int_equal(kill(child.pid, signal_number), 0);
    child_must_say(&child, "draining");
    return child;
}

static void test_signal_begins_the_drain(void **state)
{
    (void)state;
    static const int signals[] = {SIGTERM, SIGINT};
    for (int i = 0; i < 2; i++) {
        struct child child = child_that_drains("drain", signals[i]);
        assert_int_equal(child_end(&child), SERVE_EXIT_OK);
    }
}

static void test_second_signal_ends_at_once(void **state)
{
    (void)state;
    struct child child = child_that_drains("hang", SIGTERM);
    uint64_t before = sl_real_us();
    assert_int_equal(kill(child.pid, SIGINT), 0);
    assert_int_equal(child_end(&child), 128 + SIGINT);
    assert_true(sl_real_us() - before < 5 * SL_SECOND_US);
}

/* Its drain has 1 s; it then does what no signal interrupts. */
static void test_a_drain_that_overruns_is_ended(void **state)
{
    (void)state;
    struct child child = child_that_drains("hang", SIGTERM);
    uint64_t before = sl_real_us();
    assert_int_equal(child_end(&child), SERVE_EXIT_FAILED);
    uint64_t took_us = sl_real_us() - before;
    assert_true(took_us > 9 * SL_SECOND_US && took_us < 18 * SL_SECOND_US);
}

static void test_spawned_child_is_clean(void **state)
{
    (void)state;
    sigset_t set, before;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, &before);
    assert_int_equal(dup2(STDERR_FILENO, 77), 77);
    setenv("SLUICE_CONFIG", "/nowhere", 1);
    setenv("SLUICE_LISTEN", "127.0.0.1:1", 1);
    setenv("SLUICE_FAULT", "", 1);
    setenv("NOT_SLUICE_LISTEN", "1", 1);
    char role[] = "group", self[] = SELF;
    char *argv[] = {self, role, NULL};
    pid_t pid;
    assert_ok(serve_spawn(argv, -1, &pid));
    sigprocmask(SIG_SETMASK, &before, NULL);
    close(77);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 7);
}

static void test_spawn_of_nothing_fails(void **state)
{
    (void)state;
    char path[] = "/nonexistent/sluice";
    char *argv[] = {path, NULL};
    pid_t pid = -5;
    assert_fails(serve_spawn(argv, -1, &pid), SL_DEVICE, "/nonexistent/sluice");
    assert_int_equal(pid, -5);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* no zombie */
}

/* Whatever numbers the pipe has here. */
static void test_last_words(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        int fds[2], status;
        assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
        /* High numbers, then the child's own and the next one, which serve_spawn's pipe may get. */
        int high = fcntl(fds[0], F_DUPFD_CLOEXEC, 100);
        int end = fcntl(fds[1], F_DUPFD_CLOEXEC, i == 0 ? 101 : SERVE_REPORT_FD);
        close(fds[0]);
        close(fds[1]);
        fds[0] = high;
        fds[1] = end;
        char role[] = "report", self[] = SELF, text[64] = "";
        char *argv[] = {self, role, NULL};
        pid_t pid;
        assert_ok(serve_spawn(argv, fds[1], &pid));
        close(fds[1]);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(WEXITSTATUS(status), SERVE_EXIT_FAILED);
        assert_true(read(fds[0], text, sizeof(text) - 1) > 0);
        assert_string_equal(text, "tensor 7 is damaged");
        assert_int_equal(read(fds[0], text, sizeof(text)), 0);
        close(fds[0]);
    }
}

static void test_child_dies_with_its_parent(void **state)
{
    (void)state;
    struct child parent = child_start("parent");
    char line[64];
    child_says(&parent, line);
    int pid = 0;
    assert_int_equal(sscanf(line, "%d", &pid), 1);
    assert_int_equal(kill(pid, 0), 0);
    assert_int_equal(kill(parent.pid, SIGKILL), 0);
    assert_int_equal(waitpid(parent.pid, NULL, 0), parent.pid);
    fclose(parent.output);
    uint64_t until = sl_real_us() + 5 * SL_SECOND_US;
    /* It may stay a zombie where nobody reaps orphans. */
    char path[64], stat[256] = "";
    snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    bool gone = false;
    while (!gone && sl_real_us() < until) {
        FILE *file = fopen(path, "r");
        gone =
            file == NULL || fgets(stat, sizeof(stat), file) == NULL || strstr(stat, ") Z") != NULL;
        if (file != NULL)
            fclose(file);
        sl_sleep_us(2000);
    }
    assert_true(gone);
}

static void test_exit_codes(void **state)
{
    (void)state;
    assert_int_equal(serve_exit_code("x", SL_OK), 0);
    assert_int_equal(serve_exit_code("x", SL_CANCELLED), 0);
    assert_int_equal(serve_exit_code("x", sl_fail(SL_INVALID, "bad")), 2);
    assert_int_equal(serve_exit_code("x", sl_fail(SL_NOT_FOUND, "none")), 2);
    assert_int_equal(serve_exit_code("x", sl_fail(SL_DEVICE, "taken")), 1);
}

static void test_random_ids_differ(void **state)
{
    (void)state;
    uint64_t a = serve_random_id(), b = serve_random_id();
    assert_true(a != 0 && b != 0 && a != b);
}

int main(int argc, char **argv)
{
    if (argc == 2)
        return role_main(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_signal_begins_the_drain),
        cmocka_unit_test(test_second_signal_ends_at_once),
        cmocka_unit_test(test_a_drain_that_overruns_is_ended),
        cmocka_unit_test(test_spawned_child_is_clean),
        cmocka_unit_test(test_spawn_of_nothing_fails),
        cmocka_unit_test(test_last_words),
        cmocka_unit_test(test_child_dies_with_its_parent),
        cmocka_unit_test(test_exit_codes),
        cmocka_unit_test(test_random_ids_differ),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

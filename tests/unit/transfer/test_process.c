/* Who is gone and who is not, shown with real processes: running, stopped, killed but not reaped, reaped,
 * a leader that has ended while a thread of it goes on, and one that may not be looked at. */
#include "base/clock.h"
#include "support/support.h"
#include "transfer/process.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static struct process self;

static void *outlive(void *arg)
{
    (void)arg;
    for (;;)
        pause();
    return NULL;
}

enum threads {
    ALONE,      /* one thread */
    TWO,        /* a second one beside it */
    LEADERLESS, /* of the two the first has ended */
};

/* A child that waits for a signal. Its name is one that fields of its state would be taken for. */
static pid_t spawn(enum threads threads, struct process *process_out)
{
    int fds[2];
    uint8_t bytes[PROCESS_BYTES];
    assert_int_equal(pipe(fds), 0);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        prctl(PR_SET_NAME, "x) Z");
        alarm(60);
        struct process process;
        process_self(&process);
        process_pack(&process, bytes);
        pthread_t thread;
        if ((threads != ALONE && pthread_create(&thread, NULL, outlive, NULL) != 0) ||
            write(fds[1], bytes, sizeof(bytes)) != sizeof(bytes))
            _exit(1);
        if (threads == LEADERLESS)
            pthread_exit(NULL);
        outlive(NULL);
    }
    close(fds[1]);
    assert_int_equal(read(fds[0], bytes, sizeof(bytes)), sizeof(bytes));
    close(fds[0]);
    assert_ok(process_unpack(bytes, sizeof(bytes), process_out));
    assert_int_equal(process_out->pid, pid);
    return pid;
}

/* A signal takes its time; true once it is gone. */
static bool goes(const struct process *process, uint64_t within_us)
{
    uint64_t begun = sl_real_us();
    while (!process_is_gone(&self, process)) {
        if (sl_real_us() - begun > within_us)
            return false;
        sl_sleep_us(SL_MS_US);
    }
    return true;
}

static void test_life(void **state)
{
    (void)state;
    for (enum threads threads = ALONE; threads <= TWO; threads++) {
        struct process process;
        pid_t pid = spawn(threads, &process);
        assert_false(process_is_gone(&self, &process));
        kill(pid, SIGSTOP);
        assert_false(goes(&process, 100 * SL_MS_US));
        kill(pid, SIGKILL);
        assert_true(goes(&process, 10 * SL_SECOND_US)); /* a zombie: nobody has waited for it */
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        assert_true(process_is_gone(&self, &process));
    }
}

static void test_leader_ends_first(void **state)
{
    (void)state;
    struct process process;
    pid_t pid = spawn(LEADERLESS, &process);
    assert_false(goes(&process, 100 * SL_MS_US));
    kill(pid, SIGKILL);
    assert_true(goes(&process, 10 * SL_SECOND_US));
    assert_int_equal(waitpid(pid, NULL, 0), pid);
}

/* What cannot be looked at from here is alive; a pid that is used again is another process. */
static void test_others(void **state)
{
    (void)state;
    struct process gone, other;
    pid_t pid = spawn(ALONE, &gone);
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_true(process_is_gone(&self, &gone));
    other = gone;
    other.boot[3] ^= 1;
    assert_false(process_is_gone(&self, &other));
    other = gone;
    other.pids++;
    assert_false(process_is_gone(&self, &other));
    other = gone;
    other.started = 0;
    assert_false(process_is_gone(&self, &other));
    struct process blind = self;
    memset(blind.boot, 0, sizeof(blind.boot));
    other = gone;
    memset(other.boot, 0, sizeof(other.boot));
    assert_false(process_is_gone(&blind, &other));

    other = self;
    assert_false(process_is_gone(&self, &other));
    other.started--;
    assert_true(process_is_gone(&self, &other));
}

/* Of a child that looks: 0, or the number of the look that was wrong. First without a /proc, then as
 * another user too, whom the kernel only tells whether there is a process of that pid. */
static int look_without_proc(const char *empty, const struct process *gone)
{
    if (chroot(empty) != 0 || chdir("/") != 0)
        return 9;
    for (int i = 0; i < 2; i++) {
        if (process_is_gone(&self, &self))
            return 2 * i + 1;
        if (!process_is_gone(&self, gone))
            return 2 * i + 2;
        if (setuid(65534) != 0)
            return 9;
    }
    return 0;
}

static void test_hidden(void **state)
{
    (void)state;
    if (geteuid() != 0) {
        print_message("skipped: only root can hide /proc from a child\n");
        skip();
    }
    struct process gone;
    pid_t pid = spawn(ALONE, &gone);
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    char *empty = test_dir_create();
    int status;
    pid = fork();
    if (pid == 0)
        _exit(look_without_proc(empty, &gone));
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    test_dir_remove(empty);
}

/* The boot as the kernel writes it, digit by digit. */
static void test_boot(void **state)
{
    (void)state;
    char text[64] = "", digits[64];
    uint32_t n = 0;
    FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");
    assert_true(file != NULL && fgets(text, sizeof(text), file) != NULL);
    (void)fclose(file);
    for (const char *c = text; *c != '\0'; c++)
        if (*c != '-')
            digits[n++] = *c;
    assert_true(n >= 32);
    for (uint32_t i = 0; i < 16; i++) {
        char byte[3];
        snprintf(byte, sizeof(byte), "%02x", self.boot[i]);
        assert_memory_equal(byte, digits + 2 * i, 2);
    }
}

static void test_bytes(void **state)
{
    (void)state;
    uint8_t bytes[PROCESS_BYTES + 3], again[PROCESS_BYTES];
    struct process process;
    process_pack(&self, bytes);
    assert_ok(process_unpack(bytes, sizeof(bytes), &process));
    process_pack(&process, again);
    assert_memory_equal(bytes, again, sizeof(again));
    assert_int_equal(process.pid, getpid());
    assert_true(process.started != 0 && process.pids != 0);

    struct process untouched = process;
    assert_fails(process_unpack(bytes, PROCESS_BYTES - 1, &process), SL_INVALID, "39 bytes");
    bytes[0] ^= 1;
    assert_fails(process_unpack(bytes, sizeof(bytes), &process), SL_INVALID,
                 "begins with 31504c52");
    bytes[0] ^= 1;
    memset(bytes + 4, 0, 4);
    assert_fails(process_unpack(bytes, sizeof(bytes), &process), SL_INVALID, "process 0;");
    memset(bytes + 4, 0xff, 4); /* kill(-1) is everybody */
    assert_fails(process_unpack(bytes, sizeof(bytes), &process), SL_INVALID, "4294967295");
    assert_memory_equal(&untouched, &process, sizeof(process));
}

int main(void)
{
    process_self(&self);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_life),   cmocka_unit_test(test_leader_ends_first),
        cmocka_unit_test(test_others), cmocka_unit_test(test_hidden),
        cmocka_unit_test(test_boot),   cmocka_unit_test(test_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

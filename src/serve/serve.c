/* Signals, drain, spawning.
 *
 *   RUNNING ── SIGTERM, SIGINT, serve_drain ──► DRAINING ── second signal ──► _exit(128 + signal)
 *                                                        └─ 10 s over the bound ──► _exit(1)
 *
 * The stop signals are blocked in every thread and taken by one that waits for them; no code runs in
 * signal context. The state is two atomics (draining, deadline) and an eventfd that is written once
 * and never read, so that any number of waiters can poll it. A signal thread was preferred to
 * signalfd in the main loop, since the second signal must end a process whose main thread hangs. So
 * must the bound: what cannot be interrupted (the kernel hands out the pages of a large pool) does not
 * hold up the end. The seconds over it are counted as they pass here: a stopped process has none.
 *
 * One per process, hence file statics. */
#include "serve/serve.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define OVERRUN_SECONDS 10u

const struct sl_option serve_options[] = {
    {.name = "log-level",
     .type = SL_OPTION_CHOICE,
     .offset = offsetof(struct serve_config, log_level),
     .value_name = "LEVEL",
     .default_text = "info",
     .choices = sl_log_levels,
     .help = "log lines above this level are left out",
     .group = "Process"},
    {.name = "drain-seconds",
     .type = SL_OPTION_NUMBER,
     .offset = offsetof(struct serve_config, drain_seconds),
     .value_name = "S",
     .default_text = "30",
     .min = 0.0,
     .max = 86400.0,
     .help = "longest time that work in flight has to finish after SIGTERM",
     .group = "Process"},
    {.name = "fault",
     .type = SL_OPTION_TEXT,
     .offset = offsetof(struct serve_config, fault),
     .value_name = "SPEC", /* no help: hidden, for tests only */
     .group = "Process"},
    {.name = "report-fd",
     .type = SL_OPTION_UINT,
     .offset = offsetof(struct serve_config, report_fd),
     .value_name = "FD", /* hidden: for who starts the process */
     .default_text = "0",
     .min = 0,
     .max = 1 << 20,
     .group = "Process"},
};
const size_t serve_option_count = sizeof(serve_options) / sizeof(serve_options[0]);

const struct sl_option serve_admin_options[] = {
    {.name = "admin",
     .type = SL_OPTION_ADDRESS,
     .offset = offsetof(struct serve_config, admin),
     .value_name = "HOST:PORT",
     .default_text = "127.0.0.1:0",
     .help = "where /health, /ready, /metrics and /version are served; port 0 takes a free one",
     .group = "Process"},
};
const size_t serve_admin_option_count =
    sizeof(serve_admin_options) / sizeof(serve_admin_options[0]);

static struct sl_thread signal_thread;
static _Atomic bool started;
static _Atomic bool draining;
static _Atomic bool stopping;
static _Atomic uint64_t deadline_us = UINT64_MAX;
static _Atomic uint64_t drain_us;
static int drain_fd = -1;
static int report_fd = -1;

static void begin_drain(uint64_t bound_us)
{
    uint64_t wanted = sl_real_us() + bound_us;
    uint64_t now = atomic_load(&deadline_us);
    while (wanted < now && !atomic_compare_exchange_weak(&deadline_us, &now, wanted)) {
    }
    if (atomic_exchange(&draining, true))
        return;
    uint64_t one = 1;
    ssize_t written = write(drain_fd, &one, sizeof(one));
    SL_ASSERT(written == (ssize_t)sizeof(one));
}

static void on_signal(int signal_number, bool seen)
{
    if (seen) {
        sl_warn("stopped_at_once", "signal=%d", signal_number);
        _exit(128 + signal_number);
    }
    sl_info("drain", "why=%s bound_ms=%llu", signal_number == SIGINT ? "SIGINT" : "SIGTERM",
            (unsigned long long)atomic_load(&drain_us) / SL_MS_US);
    begin_drain(atomic_load(&drain_us));
}

static void signal_main(void *arg)
{
    (void)arg;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    static const struct timespec second = {.tv_sec = 1};
    bool seen = false;
    for (uint32_t n_over = 0; n_over < OVERRUN_SECONDS;) {
        int signal_number = sigtimedwait(&set, NULL, &second);
        if (atomic_load(&stopping))
            return;
        if (signal_number > 0) {
            on_signal(signal_number, seen);
            seen = true;
        } else if (errno == EAGAIN && sl_real_us() > atomic_load(&deadline_us)) {
            n_over++;
        }
    }
    sl_error_log("drain_overrun", "error=\"still there %u s after the end of the drain\"",
                 OVERRUN_SECONDS);
    _exit(SERVE_EXIT_FAILED);
}

static sl_status block_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    if (pthread_sigmask(SIG_BLOCK, &set, NULL) != 0 || sigaction(SIGPIPE, &ignore, NULL) != 0)
        return sl_fail(SL_DEVICE, "signals: %s", strerror(errno));
    return SL_OK;
}

sl_status serve_start(const struct serve_config *config, const char *node)
{
    SL_ASSERT(!atomic_load(&started));
    sl_log_set_level((enum sl_log_level)config->log_level);
    report_fd = config->report_fd > 0 ? (int)config->report_fd : -1;
    if (node != NULL)
        sl_log_set_node(node);
    if (config->fault != NULL && config->fault[0] != '\0') {
        sl_status status = sl_fault_configure(config->fault);
        if (status != SL_OK)
            return status;
    }
    sl_status status = block_signals();
    if (status != SL_OK)
        return status;
    drain_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (drain_fd < 0)
        return sl_fail(SL_DEVICE, "eventfd: %s", strerror(errno));
    atomic_store(&drain_us, (uint64_t)(config->drain_seconds * 1e6));
    atomic_store(&deadline_us, UINT64_MAX);
    atomic_store(&draining, false);
    atomic_store(&stopping, false);
    status = sl_thread_start(&signal_thread, "signals", signal_main, NULL);
    if (status != SL_OK) {
        close(drain_fd);
        drain_fd = -1;
        return status;
    }
    atomic_store(&started, true);
    return SL_OK;
}

void serve_stop(void)
{
    if (!atomic_exchange(&started, false))
        return;
    atomic_store(&stopping, true);
    pthread_kill(signal_thread.handle, SIGTERM);
    sl_thread_join(&signal_thread);
    close(drain_fd);
    drain_fd = -1;
}

bool serve_wait(uint64_t timeout_us)
{
    uint64_t until = timeout_us > UINT64_MAX / 2 ? UINT64_MAX : sl_real_us() + timeout_us;
    while (!atomic_load(&draining)) {
        uint64_t now = sl_real_us();
        if (now >= until)
            return false;
        uint64_t left_ms = (until - now + SL_MS_US - 1) / SL_MS_US;
        struct pollfd poll_fd = {.fd = drain_fd, .events = POLLIN};
        poll(&poll_fd, 1, left_ms > 60000 ? 60000 : (int)left_ms);
    }
    return true;
}

bool serve_draining(void)
{
    return atomic_load(&draining);
}

void serve_drain(const char *why, uint64_t bound_us)
{
    uint64_t bound = atomic_load(&drain_us);
    if (bound_us != 0 && bound_us < bound)
        bound = bound_us;
    if (!atomic_load(&draining))
        sl_info("drain", "why=\"%s\" bound_ms=%llu", why, (unsigned long long)bound / SL_MS_US);
    begin_drain(bound);
}

uint64_t serve_drain_deadline_us(void)
{
    return atomic_load(&deadline_us);
}

int serve_exit_code(const char *program, sl_status status)
{
    if (status == SL_OK || status == SL_CANCELLED)
        return SERVE_EXIT_OK;
    fprintf(stderr, "%s: %s\n", program, sl_error());
    if (report_fd >= 0 && write(report_fd, sl_error(), strlen(sl_error())) < 0)
        sl_debug("report", "error=\"%s\"", strerror(errno));
    return status == SL_INVALID || status == SL_NOT_FOUND ? SERVE_EXIT_USAGE : SERVE_EXIT_FAILED;
}

/* Gives `fd` the number SERVE_REPORT_FD, which `*error_fd` makes free first. */
static bool place_report(int fd, int *error_fd)
{
    int moved = fcntl(*error_fd, F_DUPFD_CLOEXEC, SERVE_REPORT_FD + 1);
    if (moved < 0)
        return false;
    *error_fd = moved;
    return fd == SERVE_REPORT_FD ? fcntl(fd, F_SETFD, 0) == 0 : dup2(fd, SERVE_REPORT_FD) >= 0;
}

/* Between fork and exec: only async-signal-safe calls. Writes errno to `error_fd` and exits on failure;
 * a successful exec closes it. */
static void child_main(char *const argv[], char *const envp[], pid_t parent, int error_fd,
                       int report)
{
    sigset_t none;
    sigemptyset(&none);
    struct sigaction usual = {.sa_handler = SIG_DFL};
    int error = 0;
    if (report >= 0 && !place_report(report, &error_fd))
        error = errno;
    else if (setpgid(0, 0) != 0 || prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 ||
             sigaction(SIGPIPE, &usual, NULL) != 0 || sigprocmask(SIG_SETMASK, &none, NULL) != 0)
        error = errno;
    else if (getppid() != parent) /* it died before the prctl */
        _exit(SERVE_EXIT_FAILED);
    if (error == 0) {
        /* What libraries left open across exec is not the child's. */
        unsigned from = report >= 0 ? SERVE_REPORT_FD + 1 : SERVE_REPORT_FD;
        syscall(SYS_close_range, from, ~0u, 1u << 2 /* CLOSE_RANGE_CLOEXEC */);
        execve(argv[0], argv, envp);
        error = errno;
    }
    ssize_t written = write(error_fd, &error, sizeof(error));
    _exit(written == (ssize_t)sizeof(error) ? SERVE_EXIT_FAILED : SERVE_EXIT_USAGE);
}

static bool begins(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

/* The environment without the options in it: many are not the child's, and those that are become its flags.
 * Fault points are set in all processes. Strings are borrowed; sl_free the list. */
static char **child_environment(void)
{
    size_t n = 0, kept = 0;
    while (environ[n] != NULL)
        n++;
    char **envp = sl_zalloc(n + 1, sizeof(*envp));
    for (size_t i = 0; i < n; i++) {
        if (!begins(environ[i], "SLUICE_") || begins(environ[i], "SLUICE_FAULT="))
            envp[kept++] = environ[i];
    }
    return envp;
}

sl_status serve_spawn(char *const argv[], int report, pid_t *pid_out)
{
    int failure[2];
    if (pipe2(failure, O_CLOEXEC) != 0)
        return sl_fail(SL_DEVICE, "spawn %s: pipe: %s", argv[0], strerror(errno));
    char **envp = child_environment();
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid == 0)
        child_main(argv, envp, parent, failure[1], report);
    int fork_error = errno;
    sl_free(envp);
    close(failure[1]);
    if (pid < 0) {
        close(failure[0]);
        return sl_fail(SL_DEVICE, "spawn %s: fork: %s", argv[0], strerror(fork_error));
    }
    int error = 0;
    ssize_t n;
    do {
        n = read(failure[0], &error, sizeof(error));
    } while (n < 0 && errno == EINTR);
    close(failure[0]);
    if (n == (ssize_t)sizeof(error)) {
        waitpid(pid, NULL, 0);
        return sl_fail(SL_DEVICE, "spawn %s: %s", argv[0], strerror(error));
    }
    *pid_out = pid;
    return SL_OK;
}

uint64_t serve_random_id(void)
{
    uint64_t id = 0;
    while (id == 0) {
        ssize_t n = getrandom(&id, sizeof(id), 0);
        SL_ASSERT(n == (ssize_t)sizeof(id) || (n < 0 && errno == EINTR));
    }
    return id;
}

/* Threads, wake-ups, processor sets.
 *
 * Threads start with all signals blocked: the process's one signal handler belongs to the main
 * thread. A wake-up is a non-blocking eventfd, which poll loops (UCX, epoll) can watch as well.
 * Deadlines of waits go by the real clock. */
#include "base/thread.h"

#include "base/clock.h"
#include "base/mem.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define NAME_BYTES   16
#define PATH_BYTES   512
#define CGROUP_ROOT  "/sys/fs/cgroup"
#define CPU_LIST_MAX 256 /* parts of a list */

struct start {
    void (*run)(void *arg);
    void *arg;
    char name[NAME_BYTES];
};

static void *thread_main(void *arg)
{
    struct start start = *(struct start *)arg;
    sl_free(arg);
    pthread_setname_np(pthread_self(), start.name);
    start.run(start.arg);
    return NULL;
}

sl_status sl_thread_start(struct sl_thread *thread, const char *name, void (*run)(void *arg),
                          void *arg)
{
    struct start *start = sl_zalloc(1, sizeof(*start));
    start->run = run;
    start->arg = arg;
    snprintf(start->name, sizeof(start->name), "%.15s", name);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&thread->handle, NULL, thread_main, start);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error != 0) {
        sl_free(start);
        return sl_fail(SL_DEVICE, "thread %s: %s", name, strerror(error));
    }
    thread->started = true;
    return SL_OK;
}

void sl_thread_join(struct sl_thread *thread)
{
    if (!thread->started)
        return;
    pthread_join(thread->handle, NULL);
    thread->started = false;
}

sl_status sl_wake_init(struct sl_wake *wake)
{
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (fd < 0)
        return sl_fail(SL_DEVICE, "eventfd: %s", strerror(errno));
    wake->fd = fd;
    return SL_OK;
}

void sl_wake_fini(struct sl_wake *wake)
{
    if (wake->fd > 0)
        close(wake->fd);
    wake->fd = 0;
}

void sl_wake_signal(const struct sl_wake *wake)
{
    int before = errno; /* a signal handler must not change it */
    uint64_t one = 1;
    ssize_t n = write(wake->fd, &one, sizeof(one));
    (void)n; /* EAGAIN: the counter is full, so the waiter wakes anyway */
    errno = before;
}

void sl_wake_clear(const struct sl_wake *wake)
{
    uint64_t count;
    ssize_t n = read(wake->fd, &count, sizeof(count));
    (void)n; /* EAGAIN: was not signalled */
}

bool sl_wake_wait(const struct sl_wake *wake, uint64_t timeout_us)
{
    uint64_t now = sl_real_us();
    uint64_t deadline = timeout_us > UINT64_MAX - now ? UINT64_MAX : now + timeout_us;
    for (;;) {
        uint64_t left = deadline > now ? deadline - now : 0;
        if (left > 3600 * SL_SECOND_US)
            left = 3600 * SL_SECOND_US; /* what a time_t surely holds; the loop goes on */
        struct timespec timeout = {.tv_sec = (time_t)(left / SL_SECOND_US),
                                   .tv_nsec = (long)(left % SL_SECOND_US) * 1000};
        struct pollfd pfd = {.fd = wake->fd, .events = POLLIN};
        if (ppoll(&pfd, 1, &timeout, NULL) > 0) {
            sl_wake_clear(wake);
            return true;
        }
        now = sl_real_us();
        if (now >= deadline)
            return false;
    }
}

/* Reads the first line of a small file; false if there is none. */
static bool read_line(const char *path, char *line, size_t bytes)
{
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return false;
    bool ok = fgets(line, (int)bytes, file) != NULL;
    fclose(file);
    if (ok)
        line[strcspn(line, "\n")] = '\0';
    return ok;
}

/* CPUs that "QUOTA PERIOD" allows; 0 for "max" and what is not understood. */
static uint32_t quota_cpus(const char *quota_text, const char *period_text)
{
    char *end;
    long long quota = strtoll(quota_text, &end, 10);
    if (end == quota_text || quota <= 0)
        return 0;
    long long period = strtoll(period_text, NULL, 10);
    if (period <= 0)
        return 0;
    long long cpus = quota / period;
    return cpus < 1 ? 1 : cpus > UINT16_MAX ? 0 : (uint32_t)cpus;
}

static void tighten(uint32_t *cpus, uint32_t bound)
{
    if (bound != 0 && bound < *cpus)
        *cpus = bound;
}

/* cgroup v2: the own group and each above it may have a quota. */
static void apply_cgroup_v2(uint32_t *cpus)
{
    char line[PATH_BYTES], path[2 * PATH_BYTES];
    if (!read_line("/proc/self/cgroup", line, sizeof(line)) || strncmp(line, "0::/", 4) != 0)
        return;
    char *group = line + 3;
    for (;;) {
        char value[64];
        snprintf(path, sizeof(path), CGROUP_ROOT "%s/cpu.max", group);
        if (read_line(path, value, sizeof(value))) {
            char *space = strchr(value, ' ');
            tighten(cpus, quota_cpus(value, space == NULL ? "100000" : space + 1));
        }
        char *slash = strrchr(group, '/');
        if (slash == NULL)
            return;
        *slash = '\0';
    }
}

static void apply_cgroup_v1(uint32_t *cpus)
{
    char quota[64], period[64];
    if (read_line(CGROUP_ROOT "/cpu/cpu.cfs_quota_us", quota, sizeof(quota)) &&
        read_line(CGROUP_ROOT "/cpu/cpu.cfs_period_us", period, sizeof(period)))
        tighten(cpus, quota_cpus(quota, period));
}

uint32_t sl_cpu_count(void)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    uint32_t cpus = 1;
    if (sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) > 0)
        cpus = (uint32_t)CPU_COUNT(&set);
    apply_cgroup_v2(&cpus);
    apply_cgroup_v1(&cpus);
    return cpus;
}

/* A CPU number at *text, which moves behind it. */
static bool take_cpu(const char **text, uint32_t *cpu_out)
{
    uint32_t cpu = 0;
    const char *p = *text;
    while (*p >= '0' && *p <= '9' && cpu < CPU_SETSIZE)
        cpu = cpu * 10 + (uint32_t)(*p++ - '0');
    if (p == *text || cpu >= CPU_SETSIZE)
        return false;
    *text = p;
    *cpu_out = cpu;
    return true;
}

static bool parse_cpu_list(const char *list, cpu_set_t *set)
{
    CPU_ZERO(set);
    const char *p = list;
    for (int i = 0; i < CPU_LIST_MAX; i++) {
        uint32_t first, last;
        if (!take_cpu(&p, &first))
            return false;
        last = first;
        if (*p == '-' && (p++, !take_cpu(&p, &last)))
            return false;
        if (last < first)
            return false;
        for (uint32_t cpu = first; cpu <= last; cpu++)
            CPU_SET(cpu, set);
        if (*p == '\0')
            return true;
        if (*p++ != ',')
            return false;
    }
    return false;
}

sl_status sl_cpu_bind(const char *cpu_list)
{
    cpu_set_t set;
    if (!parse_cpu_list(cpu_list, &set))
        return sl_fail(SL_INVALID, "CPU list \"%s\"; want numbers and ranges below %d, as in 0-3,8",
                       cpu_list, CPU_SETSIZE);
    if (sched_setaffinity(0, sizeof(set), &set) != 0)
        return sl_fail(errno == EINVAL ? SL_INVALID : SL_DEVICE, "CPU list \"%s\": %s", cpu_list,
                       errno == EINVAL ? "none of them is there for this process"
                                       : strerror(errno));
    return SL_OK;
}

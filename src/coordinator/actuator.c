/* The local actuator.
 *
 *   worker: DOWN ── due ──► started ── ends (waitpid) ──► DOWN, due after a back-off
 *                              └── actuator_kill (it hangs) ──► SIGKILL, then as above, at once
 *
 * The back-off grows with the ends in a row, and is forgotten after STEADY_US as a ready node: a worker that
 * takes a minute to find its weights damaged has not lived. It is never given up, since what it fails at may
 * be repaired. One that was killed because it hung is not punished. Every end is logged with its signal or
 * exit code, since this is often the only place that knows, and with the worker's last sentence, which it
 * leaves in a pipe (serve_spawn); /ready repeats it. Workers die with this process. */
#include "coordinator/actuator.h"

#include "base/address.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "serve/serve.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define POLL_US         (50 * SL_MS_US)
#define BACKOFF_MIN_US  (100 * SL_MS_US)
#define BACKOFF_MAX_US  (5 * SL_SECOND_US)
#define STEADY_US       (20 * SL_SECOND_US)
#define CPUS_MAX        1024u
#define FIXED_ARGUMENTS 8u

struct worker {
    char id[16];
    const char *path;
    char cpus[64];
    bool has_cpus;
    pid_t pid; /* 0: not running */
    uint64_t due_us;
    uint64_t ready_us;              /* as a node; 0: not yet */
    uint32_t ends;                  /* in a row */
    bool killed;                    /* by us, because it hung */
    int report_fd;                  /* what it says at its end; -1 */
    char error[SL_ERROR_BYTES_MAX]; /* of the last end */
};

struct actuator {
    char *prefill_path, *decode_path;
    char *nodes_address;
    char admin_host[SL_HOST_BYTES];
    uint16_t admin_port; /* of the first worker; 0: each takes a free one */
    char *options[ACTUATOR_OPTIONS_MAX];
    uint32_t n_options;
    struct worker workers[2 * ACTUATOR_WORKERS_MAX];
    uint32_t n_workers;
};

uint64_t actuator_backoff_us(uint32_t ends)
{
    uint64_t us = BACKOFF_MIN_US;
    for (uint32_t i = 1; i < ends && us < BACKOFF_MAX_US; i++)
        us *= 2;
    return us < BACKOFF_MAX_US ? us : BACKOFF_MAX_US;
}

/* ---- CPU sets ---- */

static void write_list(const uint16_t *cpus, uint32_t n, char *out, size_t bytes)
{
    size_t used = 0;
    for (uint32_t i = 0; i < n && used + 16 < bytes;) {
        uint32_t last = i;
        while (last + 1 < n && cpus[last + 1] == cpus[last] + 1)
            last++;
        const char *comma = used > 0 ? "," : "";
        int more = last > i
                       ? snprintf(out + used, bytes - used, "%s%u-%u", comma, cpus[i], cpus[last])
                       : snprintf(out + used, bytes - used, "%s%u", comma, cpus[i]);
        used += (size_t)more;
        i = last + 1;
    }
}

bool actuator_divide_cpus(const uint16_t *cpus, uint32_t n_cpus, uint32_t n_workers, uint32_t need,
                          char (*lists_out)[64])
{
    if (n_workers == 0)
        return false;
    uint32_t each = need > 0 ? need : n_cpus / n_workers;
    if (each == 0 || (uint64_t)each * n_workers > n_cpus)
        return false;
    for (uint32_t i = 0; i < n_workers; i++)
        write_list(cpus + (size_t)i * each, each, lists_out[i], sizeof(lists_out[i]));
    return true;
}

/* "0-3,8"; 0 when it is not a list. */
static uint32_t read_list(const char *list, uint16_t *cpus)
{
    uint32_t n = 0;
    const char *p = list;
    while (*p != '\0') {
        char *end;
        if (!isdigit((unsigned char)*p))
            return 0;
        unsigned long first = strtoul(p, &end, 10), last = first;
        if (*end == '-') {
            p = end + 1;
            if (!isdigit((unsigned char)*p))
                return 0;
            last = strtoul(p, &end, 10);
        }
        if (last >= CPUS_MAX || last < first || (*end != ',' && *end != '\0') ||
            (*end == ',' && end[1] == '\0')) /* which a worker would refuse */
            return 0;
        for (; first <= last && n < CPUS_MAX; first++)
            cpus[n++] = (uint16_t)first;
        p = *end == ',' ? end + 1 : end;
    }
    return n;
}

static uint32_t own_cpus(uint16_t *cpus)
{
    cpu_set_t set;
    uint32_t n = 0;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof(set), &set) != 0)
        return 0;
    for (uint16_t i = 0; i < CPU_SETSIZE && n < CPUS_MAX; i++)
        if (CPU_ISSET(i, &set))
            cpus[n++] = i;
    return n;
}

static sl_status assign_ports(struct actuator *actuator, const char *admin)
{
    sl_status status = sl_address_parse("--admin", admin != NULL ? admin : "127.0.0.1:0",
                                        actuator->admin_host, &actuator->admin_port);
    if (status == SL_OK && actuator->admin_port + actuator->n_workers - 1 > UINT16_MAX)
        status = sl_fail(SL_INVALID, "--admin: \"%s\"; with %u workers the port wants 0..%u", admin,
                         actuator->n_workers, UINT16_MAX + 1 - actuator->n_workers);
    return status;
}

static sl_status assign_cpus(struct actuator *actuator, const struct actuator_args *args)
{
    static uint16_t cpus[CPUS_MAX]; /* the loop's thread only, at start */
    char(*lists)[64] = sl_zalloc(2 * ACTUATOR_WORKERS_MAX, sizeof(*lists));
    uint32_t n = args->cpu_list != NULL ? read_list(args->cpu_list, cpus) : own_cpus(cpus);
    if (args->cpu_list != NULL && n == 0) {
        sl_free(lists);
        return sl_fail(SL_INVALID, "--cpus: \"%s\"; want numbers and ranges below %u, as in 0-3,8",
                       args->cpu_list, CPUS_MAX);
    }
    bool divided = !args->share_cpus &&
                   actuator_divide_cpus(cpus, n, actuator->n_workers, args->threads, lists);
    if (!divided && !args->share_cpus && actuator->n_workers > 1)
        sl_warn("cpus_shared", "cpus=%u workers=%u threads_each=%u", n, actuator->n_workers,
                args->threads);
    for (uint32_t i = 0; i < actuator->n_workers; i++) {
        struct worker *worker = &actuator->workers[i];
        worker->has_cpus = divided || args->cpu_list != NULL;
        snprintf(worker->cpus, sizeof(worker->cpus), "%s",
                 divided                  ? lists[i]
                 : args->cpu_list != NULL ? args->cpu_list
                                          : "");
    }
    sl_free(lists);
    return SL_OK;
}

/* ---- workers ---- */

static void add_worker(struct actuator *actuator, char letter, uint32_t number, const char *path)
{
    struct worker *worker = &actuator->workers[actuator->n_workers++];
    snprintf(worker->id, sizeof(worker->id), "%c%u", letter, number);
    worker->path = path;
    worker->report_fd = -1;
}

sl_status actuator_create(const struct actuator_args *args, const char *nodes_address,
                          struct actuator **actuator_out)
{
    if (args->n_prefill > ACTUATOR_WORKERS_MAX || args->n_decode > ACTUATOR_WORKERS_MAX)
        return sl_fail(SL_INVALID, "%u prefill and %u decode workers; at most %u of each",
                       args->n_prefill, args->n_decode, ACTUATOR_WORKERS_MAX);
    if (args->n_options > ACTUATOR_OPTIONS_MAX)
        return sl_fail(SL_INVALID, "%u options for the workers; at most %u", args->n_options,
                       ACTUATOR_OPTIONS_MAX);
    if (args->n_prefill + args->n_decode == 0)
        return sl_fail(SL_INVALID, "--prefill 0 and --decode 0; want at least one worker");
    struct actuator *actuator = sl_zalloc(1, sizeof(*actuator));
    actuator->prefill_path = sl_strdup(args->prefill_path);
    actuator->decode_path = sl_strdup(args->decode_path);
    actuator->nodes_address = sl_strdup(nodes_address);
    for (uint32_t i = 0; i < args->n_options; i++)
        actuator->options[actuator->n_options++] = sl_strdup(args->options[i]);
    for (uint32_t i = 0; i < args->n_prefill; i++)
        add_worker(actuator, 'p', i, actuator->prefill_path);
    for (uint32_t i = 0; i < args->n_decode; i++)
        add_worker(actuator, 'd', i, actuator->decode_path);
    sl_status status = assign_ports(actuator, args->admin);
    if (status == SL_OK)
        status = assign_cpus(actuator, args);
    if (status != SL_OK) {
        actuator_destroy(actuator, 0);
        return status;
    }
    *actuator_out = actuator;
    return SL_OK;
}

static void fail_start(struct worker *worker, uint64_t now_us)
{
    worker->ends++;
    worker->due_us = now_us + actuator_backoff_us(worker->ends);
    snprintf(worker->error, sizeof(worker->error), "%s", sl_error());
    sl_error_log("worker_start", "id=%s in_a_row=%u again_ms=%llu error=\"%s\"", worker->id,
                 worker->ends, (unsigned long long)(worker->due_us - now_us) / 1000, worker->error);
}

/* With a pipe for its last sentence, if there is one. */
static sl_status spawn(struct worker *worker, char *const argv[])
{
    int ends[2] = {-1, -1};
    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0)
        return sl_fail(SL_DEVICE, "start %s: pipe: %s", worker->id, strerror(errno));
    sl_status status = serve_spawn(argv, ends[1], &worker->pid);
    close(ends[1]);
    if (status == SL_OK)
        worker->report_fd = ends[0];
    else
        close(ends[0]);
    return status;
}

static char *admin_option(const struct actuator *actuator, uint32_t index)
{
    char address[SL_ADDRESS_BYTES];
    uint16_t port = (uint16_t)(actuator->admin_port == 0 ? 0 : actuator->admin_port + index);
    sl_address_format(actuator->admin_host, port, address);
    return sl_asprintf("--admin=%s", address);
}

static void start_worker(struct actuator *actuator, struct worker *worker, uint64_t now_us)
{
    char *argv[FIXED_ARGUMENTS + ACTUATOR_OPTIONS_MAX + 1] = {NULL};
    char *made[FIXED_ARGUMENTS];
    uint32_t n = 0, n_made = 0;
    made[n_made++] = sl_strdup(worker->path);
    made[n_made++] = sl_asprintf("--id=%s", worker->id);
    made[n_made++] = sl_asprintf("--coordinator=%s", actuator->nodes_address);
    made[n_made++] = admin_option(actuator, (uint32_t)(worker - actuator->workers));
    made[n_made++] = sl_asprintf("--report-fd=%d", SERVE_REPORT_FD);
    if (worker->has_cpus)
        made[n_made++] = sl_asprintf("--cpus=%s", worker->cpus);
    for (uint32_t i = 0; i < n_made; i++)
        argv[n++] = made[i];
    for (uint32_t i = 0; i < actuator->n_options; i++)
        argv[n++] = actuator->options[i];
    worker->killed = false;
    worker->ready_us = 0;
    sl_status status = spawn(worker, argv);
    for (uint32_t i = 0; i < n_made; i++)
        sl_free(made[i]);
    if (status != SL_OK) {
        worker->pid = 0;
        fail_start(worker, now_us);
        return;
    }
    sl_info("worker_started", "id=%s pid=%d ends=%u cpus=%s", worker->id, (int)worker->pid,
            worker->ends, worker->has_cpus ? worker->cpus : "shared");
}

/* Why it has ended: the signal, or its own words, or where these may be found. */
static void read_error(struct worker *worker, int status)
{
    char *text = worker->error;
    ssize_t n = read(worker->report_fd, text, sizeof(worker->error) - 1);
    text[n > 0 ? n : 0] = '\0';
    close(worker->report_fd);
    worker->report_fd = -1;
    if (WIFSIGNALED(status)) {
        const char *name = sigabbrev_np(WTERMSIG(status));
        snprintf(text, sizeof(worker->error), "%sSIG%s", worker->killed ? "it hung: " : "",
                 name != NULL ? name : "?");
    } else if (WEXITSTATUS(status) == SERVE_EXIT_OK) {
        snprintf(text, sizeof(worker->error), "none, it was asked to end");
    } else if (text[0] == '\0') {
        snprintf(text, sizeof(worker->error), "exit %d, of which its log lines may say more",
                 WEXITSTATUS(status));
    }
}

static void reap(struct worker *worker, uint64_t now_us)
{
    int status = 0;
    pid_t pid = waitpid(worker->pid, &status, WNOHANG);
    if (pid == 0 || (pid < 0 && errno == EINTR))
        return;
    bool steady = worker->ready_us != 0 && now_us - worker->ready_us >= STEADY_US;
    worker->ends = steady || worker->killed ? 1 : worker->ends + 1;
    uint64_t wait_us = worker->killed ? 0 : actuator_backoff_us(worker->ends);
    worker->ready_us = 0;
    read_error(worker, status);
    char how[24];
    const char *name = WIFSIGNALED(status) ? sigabbrev_np(WTERMSIG(status)) : NULL;
    if (WIFSIGNALED(status))
        snprintf(how, sizeof(how), "signal=SIG%s", name != NULL ? name : "?");
    else
        snprintf(how, sizeof(how), "exit=%d", WEXITSTATUS(status));
    sl_error_log("worker_died", "id=%s pid=%d %s in_a_row=%u again_ms=%llu error=\"%s\"",
                 worker->id, (int)worker->pid, how, worker->ends,
                 (unsigned long long)wait_us / 1000, worker->error);
    worker->due_us = now_us + wait_us;
    worker->pid = 0;
}

uint64_t actuator_tick(struct actuator *actuator, uint64_t now_us)
{
    for (uint32_t i = 0; i < actuator->n_workers; i++) {
        struct worker *worker = &actuator->workers[i];
        if (worker->pid != 0)
            reap(worker, now_us);
        if (worker->pid == 0 && now_us >= worker->due_us)
            start_worker(actuator, worker, now_us);
    }
    return now_us + POLL_US;
}

static struct worker *find(struct actuator *actuator, const char *id, pid_t pid)
{
    for (uint32_t i = 0; i < actuator->n_workers; i++) {
        struct worker *worker = &actuator->workers[i];
        if (strcmp(worker->id, id) == 0 && worker->pid != 0 && worker->pid == pid)
            return worker;
    }
    return NULL;
}

void actuator_ready(struct actuator *actuator, const char *id, pid_t pid, uint64_t now_us)
{
    struct worker *worker = find(actuator, id, pid);
    if (worker != NULL && worker->ready_us == 0)
        worker->ready_us = now_us;
}

bool actuator_kill(struct actuator *actuator, const char *id, pid_t pid)
{
    struct worker *worker = find(actuator, id, pid);
    if (worker == NULL)
        return false;
    sl_warn("worker_kill", "id=%s pid=%d reason=hung", id, (int)pid);
    worker->killed = true;
    kill(worker->pid, SIGKILL);
    return true;
}

uint32_t actuator_failing(const struct actuator *actuator, char *out, size_t bytes)
{
    uint32_t n = 0;
    const struct worker *worst = NULL;
    for (uint32_t i = 0; i < actuator->n_workers; i++) {
        const struct worker *worker = &actuator->workers[i];
        if (worker->ready_us != 0 || worker->ends == 0)
            continue;
        n++;
        worst = worst == NULL || worker->ends > worst->ends ? worker : worst;
    }
    out[0] = '\0';
    if (worst != NULL)
        snprintf(out, bytes,
                 "%u of %u workers fail; %s has ended %u times in a row and is started again, the "
                 "last error: %s",
                 n, actuator->n_workers, worst->id, worst->ends, worst->error);
    return n;
}

static uint32_t wait_all(struct actuator *actuator, uint64_t until_us)
{
    uint32_t left;
    do {
        left = 0;
        for (uint32_t i = 0; i < actuator->n_workers; i++) {
            struct worker *worker = &actuator->workers[i];
            if (worker->pid != 0 && waitpid(worker->pid, NULL, WNOHANG) != 0)
                worker->pid = 0;
            left += worker->pid != 0;
        }
        if (left > 0)
            sl_sleep_us(5 * SL_MS_US);
    } while (left > 0 && sl_real_us() < until_us);
    return left;
}

static void signal_all(const struct actuator *actuator, int number)
{
    for (uint32_t i = 0; i < actuator->n_workers; i++)
        if (actuator->workers[i].pid != 0)
            kill(actuator->workers[i].pid, number);
}

void actuator_destroy(struct actuator *actuator, uint64_t grace_us)
{
    if (actuator == NULL)
        return;
    signal_all(actuator, SIGTERM);
    signal_all(actuator, SIGCONT); /* a stopped one cannot die of SIGTERM */
    if (wait_all(actuator, sl_real_us() + grace_us) > 0) {
        sl_warn("workers_kill", "reason=\"still there after %llu ms\"",
                (unsigned long long)grace_us / 1000);
        signal_all(actuator, SIGKILL);
        wait_all(actuator, UINT64_MAX);
    }
    for (uint32_t i = 0; i < actuator->n_workers; i++)
        if (actuator->workers[i].report_fd >= 0)
            close(actuator->workers[i].report_fd);
    for (uint32_t i = 0; i < actuator->n_options; i++)
        sl_free(actuator->options[i]);
    sl_free(actuator->prefill_path);
    sl_free(actuator->decode_path);
    sl_free(actuator->nodes_address);
    sl_free(actuator);
}

/* The end of a process as others on its machine see it.
 *
 * A process is known by its boot, its pid namespace, its pid and the instant of its start: a pid alone
 * comes back. It is gone when the kernel has no process of that pid, or one that was started at another
 * time, or a zombie whose last thread has ended: its parent may take as long as it likes to reap it,
 * but it executes nothing more. Whatever cannot be looked at counts as alive: another machine, another
 * namespace, a /proc that hides the processes of other users (so kill() is asked first, which does not).
 *
 * A stopped process is alive. Any thread. */
#include "transfer/process.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC           0x31504c53u /* "SLP1" */
#define STAT_BYTES_MAX  1024
#define FIELD_STATE     3 /* numbers of proc(5) */
#define FIELD_THREADS   20
#define FIELD_STARTED   22
#define BOOT_TEXT_BYTES 37 /* 8-4-4-4-12 hexadecimal digits, and a line break */

/* The start of a small file, as text; 0: it cannot be read. */
static size_t read_text(const char *path, char *text_out, size_t bytes)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    size_t n = 0;
    while (n < bytes - 1) {
        ssize_t more = read(fd, text_out + n, bytes - 1 - n);
        if (more < 0 && errno == EINTR)
            continue;
        if (more <= 0)
            break;
        n += (size_t)more;
    }
    close(fd);
    text_out[n] = '\0';
    return n;
}

struct stat_line {
    char state;
    uint64_t n_threads, started;
};

/* The fields behind the name, which is in parentheses and may hold anything, also parentheses. */
static bool read_stat(uint32_t pid, struct stat_line *line_out)
{
    char path[32], text[STAT_BYTES_MAX];
    snprintf(path, sizeof(path), "/proc/%" PRIu32 "/stat", pid);
    if (read_text(path, text, sizeof(text)) == 0)
        return false;
    char *at = strrchr(text, ')');
    for (int field = FIELD_STATE; at != NULL && field <= FIELD_STARTED; field++) {
        at = strchr(at, ' ');
        if (at == NULL)
            return false;
        at++;
        if (field == FIELD_STATE)
            line_out->state = *at;
        else if (field == FIELD_THREADS)
            line_out->n_threads = strtoull(at, NULL, 10);
        else if (field == FIELD_STARTED)
            line_out->started = strtoull(at, NULL, 10);
    }
    return at != NULL;
}

static int digit_of(char c)
{
    static const char digits[] = "0123456789abcdef";
    const char *at = c == '\0' ? NULL : strchr(digits, c);
    return at == NULL ? -1 : (int)(at - digits);
}

static void read_boot(uint8_t boot_out[16])
{
    char text[BOOT_TEXT_BYTES + 1];
    uint8_t boot[16] = {0};
    uint32_t n = 0;
    if (read_text("/proc/sys/kernel/random/boot_id", text, sizeof(text)) == 0)
        return;
    for (const char *c = text; *c != '\0' && n < 32; c++) {
        int digit = digit_of(*c);
        if (digit < 0)
            continue;
        boot[n / 2] = (uint8_t)(boot[n / 2] << 4 | digit);
        n++;
    }
    if (n == 32)
        memcpy(boot_out, boot, sizeof(boot));
}

void process_self(struct process *process_out)
{
    struct stat_line line;
    struct stat pids;
    *process_out = (struct process){.pid = (uint32_t)getpid()};
    if (!read_stat(process_out->pid, &line) || stat("/proc/self/ns/pid", &pids) != 0)
        return;
    process_out->started = line.started;
    process_out->pids = pids.st_ino;
    read_boot(process_out->boot);
}

static void put(uint8_t **at, uint64_t value, uint32_t bytes)
{
    for (uint32_t i = 0; i < bytes; i++)
        *(*at)++ = (uint8_t)(value >> (8 * i));
}

static uint64_t take(const uint8_t **at, uint32_t bytes)
{
    uint64_t value = 0;
    for (uint32_t i = 0; i < bytes; i++)
        value |= (uint64_t) * (*at)++ << (8 * i);
    return value;
}

void process_pack(const struct process *process, uint8_t bytes[PROCESS_BYTES])
{
    uint8_t *at = bytes;
    put(&at, MAGIC, 4);
    put(&at, process->pid, 4);
    put(&at, process->started, 8);
    put(&at, process->pids, 8);
    memcpy(at, process->boot, sizeof(process->boot));
}

sl_status process_unpack(const void *bytes, size_t n, struct process *process_out)
{
    if (n < PROCESS_BYTES)
        return sl_fail(SL_INVALID, "address of %zu bytes; at least %d name its process", n,
                       PROCESS_BYTES);
    const uint8_t *at = bytes;
    uint32_t magic = (uint32_t)take(&at, 4);
    if (magic != MAGIC)
        return sl_fail(SL_INVALID, "address begins with %08" PRIx32 "; want %08x", magic, MAGIC);
    struct process process = {.pid = (uint32_t)take(&at, 4)};
    process.started = take(&at, 8);
    process.pids = take(&at, 8);
    memcpy(process.boot, at, sizeof(process.boot));
    if (process.pid == 0 || process.pid > INT32_MAX) /* kill() takes others for groups */
        return sl_fail(SL_INVALID, "address of process %" PRIu32 "; want 1..%d", process.pid,
                       INT32_MAX);
    *process_out = process;
    return SL_OK;
}

bool process_is_beside(const struct process *self, const struct process *process)
{
    static const uint8_t unknown[16];
    return memcmp(self->boot, unknown, sizeof(unknown)) != 0 &&
           memcmp(self->boot, process->boot, sizeof(self->boot)) == 0 &&
           self->pids == process->pids && process->started != 0;
}

bool process_is_gone(const struct process *self, const struct process *process)
{
    struct stat_line line = {.state = 'R'};
    if (!process_is_beside(self, process))
        return false;
    if (kill((pid_t)process->pid, 0) != 0 && errno == ESRCH)
        return true;
    if (!read_stat(process->pid, &line))
        return false; /* hidden, or gone just now: the next look tells */
    if (line.started != process->started)
        return true;
    return (line.state == 'Z' || line.state == 'X') && line.n_threads <= 1;
}

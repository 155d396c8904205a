/* logfmt lines on standard error.
 *
 * A line is built on the stack and leaves in one write(), so lines of threads and processes that
 * share the stream do not mix. One lock guards the call sites' counters and the node name. Line
 * breaks in values become spaces: a value from outside cannot forge a line. Quotes inside of a quoted value
 * (an error that quotes what was wrong) become apostrophes, or readers of logfmt would end it there. The rate
 * window goes by wall time, which a test's fake clock does not stop. Any thread; not async-signal-safe. */
#include "base/log.h"

#include "base/clock.h"

#include <ctype.h>
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LINE_BYTES_MAX 4096
#define NODE_BYTES_MAX 64

_Atomic(enum sl_log_level) sl_log_level_now = SL_LOG_INFO;
const char *const sl_log_levels[] = {"error", "warn", "info", "debug", "trace", NULL};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char node_name[NODE_BYTES_MAX];

void sl_log_set_level(enum sl_log_level level)
{
    sl_log_level_now = level;
}

void sl_log_set_node(const char *name)
{
    pthread_mutex_lock(&lock);
    snprintf(node_name, sizeof(node_name), "%s", name);
    pthread_mutex_unlock(&lock);
}

/* Whether the site may write now; *suppressed_out is what it left out before. Under the lock. */
static bool site_admits(struct sl_log_site *site, double wall, uint32_t *suppressed_out)
{
    uint64_t now_us = (uint64_t)(wall * 1e6);
    if (now_us - site->window_us >= SL_SECOND_US) { /* also when the wall clock stepped back */
        site->window_us = now_us;
        site->lines = 0;
    }
    if (site->lines >= SL_LOG_RATE_MAX) {
        site->suppressed++;
        return false;
    }
    site->lines++;
    *suppressed_out = site->suppressed;
    site->suppressed = 0;
    return true;
}

struct line {
    char text[LINE_BYTES_MAX];
    size_t bytes; /* at most sizeof(text) - 1: what does not fit is cut */
};

static void line_addv(struct line *line, const char *fmt, va_list args) SL_PRINTF(2, 0);
static void line_addv(struct line *line, const char *fmt, va_list args)
{
    size_t space = sizeof(line->text) - line->bytes;
    int n = vsnprintf(line->text + line->bytes, space, fmt, args);
    if (n > 0)
        line->bytes += (size_t)n < space ? (size_t)n : space - 1;
}

static void line_add(struct line *line, const char *fmt, ...) SL_PRINTF(2, 3);
static void line_add(struct line *line, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    line_addv(line, fmt, args);
    va_end(args);
}

static void line_add_head(struct line *line, double wall, enum sl_log_level level,
                          const char *event)
{
    time_t seconds = (time_t)wall;
    struct tm utc;
    gmtime_r(&seconds, &utc);
    char stamp[32];
    strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &utc);
    unsigned micros = (unsigned)((wall - (double)seconds) * 1e6);
    line_add(line, "ts=%s.%06uZ level=%s event=%s", stamp, micros, sl_log_levels[level], event);
}

/* Whether a value may end in front of this: at the end of the line, or of the next key. */
static bool ends_value(const char *text, const char *end)
{
    if (text == end)
        return true;
    const char *key = text + 1;
    while (text[0] == ' ' && key < end && (isalnum((unsigned char)*key) || *key == '_'))
        key++;
    return key > text + 1 && key < end && *key == '=';
}

/* Of the line from `from` on: the quotes that do not end their value. */
static void line_quote(struct line *line, size_t from)
{
    bool inside = false;
    char *end = line->text + line->bytes;
    for (char *p = line->text + from; p < end; p++) {
        if (*p != '"')
            continue;
        if (!inside)
            inside = p > line->text && p[-1] == '=';
        else if (ends_value(p + 1, end))
            inside = false;
        else if (p[-1] != '\\')
            *p = '\'';
    }
}

static void line_write(struct line *line)
{
    for (size_t i = 0; i < line->bytes; i++) {
        if (line->text[i] == '\n' || line->text[i] == '\r')
            line->text[i] = ' ';
    }
    if (line->bytes == sizeof(line->text) - 1)
        memcpy(line->text + line->bytes - 4, "...", 3);
    else
        line->bytes++;
    line->text[line->bytes - 1] = '\n';
    size_t done = 0;
    while (done < line->bytes) {
        ssize_t n = write(STDERR_FILENO, line->text + done, line->bytes - done);
        if (n < 0 && errno != EINTR)
            return; /* nowhere to tell it */
        done += n > 0 ? (size_t)n : 0;
    }
}

void sl_log_write(struct sl_log_site *site, enum sl_log_level level, const char *event,
                  const char *fmt, ...)
{
    double wall = sl_wall_seconds();
    struct line line;
    line.bytes = 0;
    uint32_t suppressed = 0;
    pthread_mutex_lock(&lock);
    bool admitted = site_admits(site, wall, &suppressed);
    if (admitted) {
        line_add_head(&line, wall, level, event);
        if (node_name[0] != '\0')
            line_add(&line, " node=%s", node_name);
    }
    pthread_mutex_unlock(&lock);
    if (!admitted)
        return;
    if (suppressed > 0)
        line_add(&line, " suppressed=%u", suppressed);
    if (fmt[0] != '\0') {
        line_add(&line, " ");
        va_list args;
        va_start(args, fmt);
        size_t from = line.bytes;
        line_addv(&line, fmt, args);
        va_end(args);
        line_quote(&line, from);
    }
    line_write(&line);
}

/* Named fault points: a small table under one lock, asked only while something is armed.
 *
 * A hit looks at every row of its name (and index), counts it, and acts outside the lock: delays and
 * holds must not stop other points. The torture count is over all hits of all threads; scenarios that
 * want the nth hit to be the same each time run on one thread or on seeded ones. sl_fault_clear()
 * also lets go of who is held. */
#include "base/fault.h"

#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define POINTS_MAX   32
#define NAME_BYTES   48
#define PATH_BYTES   256
#define PART_BYTES   (NAME_BYTES + PATH_BYTES + 64)
#define DELAY_MAX_US (60 * SL_SECOND_US)
#define HOLD_MAX_US  (60 * SL_SECOND_US)
#define HOLD_POLL_US (2 * SL_MS_US)

enum action { ACTION_FAIL, ACTION_ALWAYS, ACTION_DELAY, ACTION_HOLD };

struct point {
    char name[NAME_BYTES];
    int64_t arg; /* -1: any */
    enum action action;
    uint64_t value; /* fail: which hit; delay: microseconds */
    uint64_t hits;
    char path[PATH_BYTES]; /* hold */
};

_Atomic bool sl_fault_active;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct point points[POINTS_MAX];
static uint32_t n_points;
static uint64_t torture_nth; /* 0: off */
static uint64_t torture_hits;
static bool torture_fired;
static _Atomic uint64_t generation; /* moves with every clear */

static void update_active(void)
{
    atomic_store_explicit(&sl_fault_active, n_points > 0 || torture_nth > 0, memory_order_relaxed);
}

static void hold(const char *name, int64_t arg, const char *path, uint64_t at_generation)
{
    sl_info("fault_hold", "point=%s arg=%" PRId64 " until=%s", name, arg, path);
    uint64_t deadline = sl_real_us() + HOLD_MAX_US;
    while (access(path, F_OK) != 0 && sl_real_us() < deadline && generation == at_generation)
        sl_sleep_us(HOLD_POLL_US);
    sl_info("fault_released", "point=%s arg=%" PRId64, name, arg);
}

/* What one hit has to do, gathered under the lock. */
struct verdict {
    bool fail;
    uint64_t delay_us;
    char hold_path[PATH_BYTES];
};

static void apply_point(struct point *point, struct verdict *verdict)
{
    point->hits++;
    switch (point->action) {
    case ACTION_FAIL:
        verdict->fail |= point->hits == point->value;
        break;
    case ACTION_ALWAYS:
        verdict->fail = true;
        break;
    case ACTION_DELAY:
        verdict->delay_us += point->value;
        break;
    case ACTION_HOLD:
        memcpy(verdict->hold_path, point->path, sizeof(verdict->hold_path));
        break;
    }
}

bool sl_fault_hit_slow(const char *name, int64_t arg)
{
    struct verdict verdict = {0};
    pthread_mutex_lock(&lock);
    uint64_t at_generation = generation;
    for (uint32_t i = 0; i < n_points; i++) {
        if ((points[i].arg == -1 || points[i].arg == arg) && strcmp(points[i].name, name) == 0)
            apply_point(&points[i], &verdict);
    }
    if (torture_nth > 0 && ++torture_hits == torture_nth) {
        torture_fired = true;
        verdict.fail = true;
    }
    pthread_mutex_unlock(&lock);
    if (verdict.delay_us > 0)
        sl_sleep_us(verdict.delay_us);
    if (verdict.hold_path[0] != '\0')
        hold(name, arg, verdict.hold_path, at_generation);
    return verdict.fail;
}

static bool parse_number(const char *text, uint64_t min, uint64_t max, uint64_t *value_out)
{
    if (text[0] < '0' || text[0] > '9')
        return false;
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno != 0 || *end != '\0' || value < min || value > max)
        return false;
    *value_out = value;
    return true;
}

/* "name" or "name@arg"; the text is cut in place. */
static bool parse_name(char *text, struct point *point)
{
    point->arg = -1;
    char *at = strchr(text, '@');
    if (at != NULL) {
        uint64_t arg;
        *at = '\0';
        if (!parse_number(at + 1, 0, INT64_MAX, &arg))
            return false;
        point->arg = (int64_t)arg;
    }
    size_t bytes = strlen(text);
    if (bytes == 0 || bytes >= sizeof(point->name))
        return false;
    memcpy(point->name, text, bytes + 1);
    return true;
}

/* "action" or "action:value"; the text is cut in place. */
static bool parse_action(char *text, struct point *point)
{
    char *value = strchr(text, ':');
    if (value != NULL)
        *value++ = '\0';
    if (strcmp(text, "always") == 0) {
        point->action = ACTION_ALWAYS;
        return value == NULL;
    }
    if (value == NULL)
        return false;
    if (strcmp(text, "fail") == 0) {
        point->action = ACTION_FAIL;
        return parse_number(value, 1, UINT64_MAX, &point->value);
    }
    if (strcmp(text, "delay") == 0) {
        point->action = ACTION_DELAY;
        return parse_number(value, 0, DELAY_MAX_US, &point->value);
    }
    point->action = ACTION_HOLD;
    size_t bytes = strlen(value);
    if (strcmp(text, "hold") != 0 || bytes == 0 || bytes >= sizeof(point->path))
        return false;
    memcpy(point->path, value, bytes + 1);
    return true;
}

static bool parse_part(char *text, struct point *point)
{
    char *equals = strchr(text, '=');
    if (equals == NULL)
        return false;
    *equals = '\0';
    return parse_name(text, point) && parse_action(equals + 1, point);
}

sl_status sl_fault_configure(const char *specification)
{
    struct point parsed[POINTS_MAX];
    uint32_t n = 0;
    for (const char *p = specification; *p != '\0';) {
        int bytes = (int)strcspn(p, ",");
        char part[PART_BYTES];
        struct point point = {0};
        if (n == POINTS_MAX)
            return sl_fail(SL_INVALID, "more than %d fault points", POINTS_MAX);
        snprintf(part, sizeof(part), "%.*s", bytes, p);
        if ((size_t)bytes >= sizeof(part) || !parse_part(part, &point))
            return sl_fail(SL_INVALID,
                           "fault point \"%.*s\"; want name[@index]= and fail:N, always, delay:US "
                           "or hold:FILE",
                           bytes, p);
        parsed[n++] = point;
        p += bytes;
        p += *p == ',';
    }
    pthread_mutex_lock(&lock);
    bool fits = n <= POINTS_MAX - n_points;
    if (fits && n > 0) {
        memcpy(points + n_points, parsed, n * sizeof(parsed[0]));
        n_points += n;
    }
    update_active();
    pthread_mutex_unlock(&lock);
    if (!fits)
        return sl_fail(SL_INVALID, "more than %d fault points", POINTS_MAX);
    return SL_OK;
}

void sl_fault_clear(void)
{
    pthread_mutex_lock(&lock);
    n_points = 0;
    torture_nth = 0;
    torture_fired = false;
    generation++;
    update_active();
    pthread_mutex_unlock(&lock);
}

void sl_fault_torture(uint64_t nth)
{
    pthread_mutex_lock(&lock);
    torture_nth = nth;
    torture_hits = 0;
    if (nth > 0)
        torture_fired = false; /* the end of a run leaves the answer to be asked for */
    update_active();
    pthread_mutex_unlock(&lock);
}

bool sl_fault_fired(void)
{
    pthread_mutex_lock(&lock);
    bool fired = torture_fired;
    pthread_mutex_unlock(&lock);
    return fired;
}

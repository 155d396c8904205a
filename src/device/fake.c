/* The fake device: a GPU's asynchrony over ordinary memory, so that a missing synchronisation shows
 * on a machine without one.
 *
 *   caller ──launch, copy, record──► queue (QUEUE_MAX) ──► the stream's thread: pause, run, pause
 *                                                               │
 *   event: recorded = 3, done = 2  ◄──── done = 3 ──────────────┘
 *
 * Within a stream work runs in order; streams run against each other as the seed's pauses decide.
 * Every command waits a little before it runs, and an event is complete only some time after it was
 * reached. Memory begins as junk that is a NaN; a copy writes junk over its target first, waits, and
 * then writes the bytes: who reads too early sees what is not there yet, and TSan sees the race.
 *
 * Invariants: submitted - finished commands lie in the queue, at most QUEUE_MAX; a caller that finds
 * it full waits, as a driver does. An event is kept by who created it and by every record still in a
 * queue. A record completes its own number: when an event is recorded again on another stream, the
 * older number that arrives late changes nothing.
 * Tried: a junk fill when the copy is submitted. It spoils programs that are right, which may chain
 * copies through one host buffer without waiting in between. */
#include "device/backend.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/thread.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define PAGE_BYTES   4096
#define QUEUE_MAX    256 /* power of two */
#define PAUSE_MAX_US 40  /* before a command; mostly none */
#define COPY_MAX_US  60  /* between junk and bytes */
#define EVENT_MAX_US 150 /* between reaching a record and its event */

struct fake_device {
    struct device base;
    uint64_t seed;
    _Atomic uint64_t n_streams; /* ever created: gives each its own order */
};

struct fake_event {
    struct device_event base;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint64_t recorded; /* number of the last record */
    uint64_t done;     /* highest number that is complete */
    uint32_t refs;
};

enum command_kind { COMMAND_LAUNCH, COMMAND_COPY, COMMAND_RECORD };

struct command {
    enum command_kind kind;
    void (*fn)(void *args); /* launch */
    _Alignas(64) unsigned char args[DEVICE_ARGS_BYTES_MAX];
    void *to; /* copy */
    const void *from;
    size_t bytes;
    struct fake_event *event; /* record */
    uint64_t number;
};

struct fake_stream {
    struct device_stream base;
    struct sl_thread thread;
    pthread_mutex_t lock;
    pthread_cond_t changed; /* either count moved, or stop */
    struct command *queue;  /* [QUEUE_MAX] */
    uint64_t submitted;
    uint64_t finished;
    bool stop;
    uint64_t random; /* the thread's */
};

static struct fake_stream *fake_stream_of(struct device_stream *stream)
{
    return (struct fake_stream *)stream;
}

static struct fake_event *fake_event_of(struct device_event *event)
{
    return (struct fake_event *)event;
}

/* splitmix64 */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

/* One command in eight pauses: enough for every order to come up, cheap enough for whole models. */
static void pause_sometimes(struct fake_stream *stream)
{
    uint64_t random = next_random(&stream->random);
    if (random % 8 == 0)
        sl_sleep_us((random >> 32) % PAUSE_MAX_US);
}

static void event_unref(struct fake_event *event)
{
    pthread_mutex_lock(&event->lock);
    bool last = --event->refs == 0;
    pthread_mutex_unlock(&event->lock);
    if (!last)
        return;
    pthread_cond_destroy(&event->changed);
    pthread_mutex_destroy(&event->lock);
    sl_free(event);
}

static void run_copy(struct fake_stream *stream, const struct command *command)
{
    memset(command->to, DEVICE_FAKE_JUNK, command->bytes);
    sl_sleep_us(next_random(&stream->random) % COPY_MAX_US);
    memcpy(command->to, command->from, command->bytes);
}

static void run_record(struct fake_stream *stream, const struct command *command)
{
    struct fake_event *event = command->event;
    sl_sleep_us(next_random(&stream->random) % EVENT_MAX_US);
    pthread_mutex_lock(&event->lock);
    if (command->number > event->done)
        event->done = command->number;
    pthread_cond_broadcast(&event->changed);
    pthread_mutex_unlock(&event->lock);
    event_unref(event);
}

static void run_command(struct fake_stream *stream, struct command *command)
{
    pause_sometimes(stream);
    switch (command->kind) {
    case COMMAND_LAUNCH:
        command->fn(command->args);
        break;
    case COMMAND_COPY:
        run_copy(stream, command);
        break;
    case COMMAND_RECORD:
        run_record(stream, command);
        break;
    }
}

/* Waits for a command; NULL at the end. It stays in the queue, and the caller's, until finished. */
static struct command *next_command(struct fake_stream *stream)
{
    pthread_mutex_lock(&stream->lock);
    while (stream->submitted == stream->finished && !stream->stop)
        pthread_cond_wait(&stream->changed, &stream->lock);
    bool any = stream->submitted != stream->finished;
    pthread_mutex_unlock(&stream->lock);
    return any ? &stream->queue[stream->finished % QUEUE_MAX] : NULL;
}

static void stream_run(void *arg)
{
    struct fake_stream *stream = arg;
    struct command *command;
    while ((command = next_command(stream)) != NULL) {
        run_command(stream, command);
        pthread_mutex_lock(&stream->lock);
        stream->finished++;
        pthread_cond_broadcast(&stream->changed);
        pthread_mutex_unlock(&stream->lock);
    }
}

/* The next free slot, with the lock held; waits while there is none. */
static struct command *begin_submit(struct fake_stream *stream)
{
    pthread_mutex_lock(&stream->lock);
    while (stream->submitted - stream->finished == QUEUE_MAX)
        pthread_cond_wait(&stream->changed, &stream->lock);
    return &stream->queue[stream->submitted % QUEUE_MAX];
}

static void end_submit(struct fake_stream *stream)
{
    stream->submitted++;
    pthread_cond_broadcast(&stream->changed);
    pthread_mutex_unlock(&stream->lock);
}

static void fake_close(struct device *device)
{
    sl_free(device);
}

static sl_status fake_alloc(struct device *device, size_t bytes, void **address_out)
{
    void *address = sl_try_aligned(PAGE_BYTES, bytes);
    if (address == NULL)
        return sl_fail(SL_NO_MEMORY, "%s: %zu bytes", device->name, bytes);
    memset(address, DEVICE_FAKE_JUNK, bytes);
    *address_out = address;
    return SL_OK;
}

static void fake_free(struct device *device, void *address)
{
    (void)device;
    sl_free(address);
}

static void fake_stream_destroy(struct device_stream *base)
{
    struct fake_stream *stream = fake_stream_of(base);
    pthread_mutex_lock(&stream->lock);
    stream->stop = true; /* the thread ends when its queue is empty */
    pthread_cond_broadcast(&stream->changed);
    pthread_mutex_unlock(&stream->lock);
    sl_thread_join(&stream->thread);
    pthread_cond_destroy(&stream->changed);
    pthread_mutex_destroy(&stream->lock);
    sl_free(stream->queue);
    sl_free(stream);
}

static sl_status fake_stream_create(struct device *base, const char *name,
                                    struct device_stream **stream_out)
{
    struct fake_device *device = (struct fake_device *)base;
    sl_status status;
    struct fake_stream *stream = sl_zalloc(1, sizeof(*stream));
    stream->base.device = base;
    stream->random = device->seed ^ (++device->n_streams << 40);
    pthread_mutex_init(&stream->lock, NULL);
    pthread_cond_init(&stream->changed, NULL);
    size_t bytes = QUEUE_MAX * sizeof(stream->queue[0]);
    stream->queue = sl_try_aligned(64, bytes);
    if (stream->queue == NULL) {
        status = sl_fail(SL_NO_MEMORY, "%s: queue of stream %s", base->name, name);
        goto fail;
    }
    status = sl_thread_start(&stream->thread, name, stream_run, stream);
    if (status != SL_OK)
        goto fail;
    *stream_out = &stream->base;
    return SL_OK;
fail:
    fake_stream_destroy(&stream->base);
    return status;
}

static sl_status fake_stream_wait(struct device_stream *base)
{
    struct fake_stream *stream = fake_stream_of(base);
    pthread_mutex_lock(&stream->lock);
    uint64_t until = stream->submitted;
    while (stream->finished < until)
        pthread_cond_wait(&stream->changed, &stream->lock);
    pthread_mutex_unlock(&stream->lock);
    return SL_OK;
}

static void *fake_stream_native(struct device_stream *stream)
{
    (void)stream;
    return NULL;
}

static void fake_launch(struct device_stream *base, void (*fn)(void *args), const void *args,
                        size_t args_bytes)
{
    struct fake_stream *stream = fake_stream_of(base);
    struct command *command = begin_submit(stream);
    command->kind = COMMAND_LAUNCH;
    command->fn = fn;
    if (args_bytes > 0)
        memcpy(command->args, args, args_bytes);
    end_submit(stream);
}

static void fake_copy(struct device_stream *base, void *to, const void *from, size_t bytes)
{
    struct fake_stream *stream = fake_stream_of(base);
    struct command *command = begin_submit(stream);
    command->kind = COMMAND_COPY;
    command->to = to;
    command->from = from;
    command->bytes = bytes;
    end_submit(stream);
}

static sl_status fake_event_create(struct device *device, struct device_event **event_out)
{
    struct fake_event *event = sl_zalloc(1, sizeof(*event));
    event->base.device = device;
    event->refs = 1;
    pthread_mutex_init(&event->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&event->changed, &attr);
    pthread_condattr_destroy(&attr);
    *event_out = &event->base;
    return SL_OK;
}

static void fake_event_destroy(struct device_event *event)
{
    event_unref(fake_event_of(event));
}

static void fake_event_record(struct device_event *base, struct device_stream *stream_base)
{
    struct fake_event *event = fake_event_of(base);
    pthread_mutex_lock(&event->lock);
    event->refs++;
    uint64_t number = ++event->recorded;
    pthread_mutex_unlock(&event->lock);
    struct fake_stream *stream = fake_stream_of(stream_base);
    struct command *command = begin_submit(stream);
    command->kind = COMMAND_RECORD;
    command->event = event;
    command->number = number;
    end_submit(stream);
}

static bool fake_event_done(struct device_event *base)
{
    struct fake_event *event = fake_event_of(base);
    pthread_mutex_lock(&event->lock);
    bool done = event->done == event->recorded;
    pthread_mutex_unlock(&event->lock);
    return done;
}

static sl_status fake_event_wait(struct device_event *base, uint64_t timeout_us)
{
    struct fake_event *event = fake_event_of(base);
    if (timeout_us > 3600 * SL_SECOND_US)
        timeout_us = 3600 * SL_SECOND_US; /* an event of this device takes microseconds */
    uint64_t until_us = sl_real_us() + timeout_us;
    struct timespec until = {.tv_sec = (time_t)(until_us / SL_SECOND_US),
                             .tv_nsec = (long)(until_us % SL_SECOND_US) * 1000};
    int error = 0;
    pthread_mutex_lock(&event->lock);
    while (event->done != event->recorded && error != ETIMEDOUT)
        error = pthread_cond_timedwait(&event->changed, &event->lock, &until);
    bool done = event->done == event->recorded;
    pthread_mutex_unlock(&event->lock);
    if (!done)
        return sl_fail(SL_DEADLINE, "%s: event not complete after %" PRIu64 " us",
                       base->device->name, timeout_us);
    return SL_OK;
}

static const struct device_ops fake_ops = {
    .close = fake_close,
    .alloc = fake_alloc,
    .free = fake_free,
    .stream_create = fake_stream_create,
    .stream_destroy = fake_stream_destroy,
    .stream_wait = fake_stream_wait,
    .stream_native = fake_stream_native,
    .launch = fake_launch,
    .copy = fake_copy,
    .event_create = fake_event_create,
    .event_destroy = fake_event_destroy,
    .event_record = fake_event_record,
    .event_done = fake_event_done,
    .event_wait = fake_event_wait,
};

sl_status device_fake_open(uint64_t seed, struct device **device_out)
{
    struct fake_device *device = sl_zalloc(1, sizeof(*device));
    device->base.ops = &fake_ops;
    device->base.kind = DEVICE_FAKE;
    device->seed = seed;
    snprintf(device->base.name, sizeof(device->base.name), "fake");
    *device_out = &device->base;
    return SL_OK;
}

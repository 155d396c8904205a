/* The host device: ordinary memory, and streams that run everything at once on the calling thread.
 * An event is therefore complete whenever it can be asked; that also holds for one that was never
 * recorded, as with CUDA. Thread-safe, having no state. */
#include "device/backend.h"

#include "base/mem.h"

#include <stdio.h>
#include <string.h>

#define PAGE_BYTES 4096

static void host_close(struct device *device)
{
    sl_free(device);
}

static sl_status host_alloc(struct device *device, size_t bytes, void **address_out)
{
    void *address = sl_try_aligned(PAGE_BYTES, bytes);
    if (address == NULL)
        return sl_fail(SL_NO_MEMORY, "%s: %zu bytes", device->name, bytes);
    *address_out = address;
    return SL_OK;
}

static void host_free(struct device *device, void *address)
{
    (void)device;
    sl_free(address);
}

static sl_status host_stream_create(struct device *device, const char *name,
                                    struct device_stream **stream_out)
{
    (void)name;
    struct device_stream *stream = sl_zalloc(1, sizeof(*stream));
    stream->device = device;
    *stream_out = stream;
    return SL_OK;
}

static void host_stream_destroy(struct device_stream *stream)
{
    sl_free(stream);
}

static sl_status host_stream_wait(struct device_stream *stream)
{
    (void)stream;
    return SL_OK;
}

static void *host_stream_native(struct device_stream *stream)
{
    (void)stream;
    return NULL;
}

static void host_launch(struct device_stream *stream, void (*fn)(void *args), const void *args,
                        size_t args_bytes)
{
    (void)stream;
    _Alignas(64) unsigned char copy[DEVICE_ARGS_BYTES_MAX];
    if (args_bytes > 0)
        memcpy(copy, args, args_bytes);
    fn(copy);
}

static void host_copy(struct device_stream *stream, void *to, const void *from, size_t bytes)
{
    (void)stream;
    memcpy(to, from, bytes);
}

static sl_status host_event_create(struct device *device, struct device_event **event_out)
{
    struct device_event *event = sl_zalloc(1, sizeof(*event));
    event->device = device;
    *event_out = event;
    return SL_OK;
}

static void host_event_destroy(struct device_event *event)
{
    sl_free(event);
}

static void host_event_record(struct device_event *event, struct device_stream *stream)
{
    (void)event;
    (void)stream;
}

static bool host_event_done(struct device_event *event)
{
    (void)event;
    return true;
}

static sl_status host_event_wait(struct device_event *event, uint64_t timeout_us)
{
    (void)event;
    (void)timeout_us;
    return SL_OK;
}

static const struct device_ops host_ops = {
    .close = host_close,
    .alloc = host_alloc,
    .free = host_free,
    .stream_create = host_stream_create,
    .stream_destroy = host_stream_destroy,
    .stream_wait = host_stream_wait,
    .stream_native = host_stream_native,
    .launch = host_launch,
    .copy = host_copy,
    .event_create = host_event_create,
    .event_destroy = host_event_destroy,
    .event_record = host_event_record,
    .event_done = host_event_done,
    .event_wait = host_event_wait,
};

sl_status device_host_open(struct device **device_out)
{
    struct device *device = sl_zalloc(1, sizeof(*device));
    device->ops = &host_ops;
    device->kind = DEVICE_HOST;
    snprintf(device->name, sizeof(device->name), "host");
    *device_out = device;
    return SL_OK;
}

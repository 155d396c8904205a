/* The dispatch over kinds of device: arguments are checked and lifetimes counted here, once, so that
 * a mistake shows on every kind in the same way. Thread-safe. */
#include "device/device.h"

#include "base/fault.h"
#include "device/backend.h"

#ifndef SLUICE_CUDA
sl_status device_cuda_open(uint32_t index, struct device **device_out)
{
    (void)device_out;
    return sl_fail(SL_UNSUPPORTED, "cuda device %u: this build has no CUDA (SLUICE_CUDA=OFF)",
                   index);
}
#endif

sl_status device_create(enum device_kind kind, uint32_t index, uint64_t seed,
                        struct device **device_out)
{
    switch (kind) {
    case DEVICE_HOST:
        return device_host_open(device_out);
    case DEVICE_FAKE:
        return device_fake_open(seed, device_out);
    case DEVICE_CUDA:
        return device_cuda_open(index, device_out);
    }
    return sl_fail(SL_INVALID, "device kind %d", (int)kind);
}

void device_destroy(struct device *device)
{
    if (device == NULL)
        return;
    SL_ASSERT(device->n_alive == 0);
    device->ops->close(device);
}

enum device_kind device_kind(const struct device *device)
{
    return device->kind;
}

const char *device_name(const struct device *device)
{
    return device->name;
}

sl_status device_alloc(struct device *device, size_t bytes, struct device_memory *memory_out)
{
    if (bytes == 0)
        return sl_fail(SL_INVALID, "%s: memory of no bytes", device->name);
    if (sl_fault_hit("device_alloc", -1))
        return sl_fail(SL_NO_MEMORY, "%s: %zu bytes (fault point)", device->name, bytes);
    void *address = NULL;
    sl_status status = device->ops->alloc(device, bytes, &address);
    if (status != SL_OK)
        return status;
    device->n_alive++;
    *memory_out = (struct device_memory){.device = device, .address = address, .bytes = bytes};
    return SL_OK;
}

void device_free(struct device_memory *memory)
{
    if (memory->address == NULL)
        return;
    memory->device->ops->free(memory->device, memory->address);
    memory->device->n_alive--;
    *memory = (struct device_memory){0};
}

sl_status device_stream_create(struct device *device, const char *name,
                               struct device_stream **stream_out)
{
    sl_status status = device->ops->stream_create(device, name, stream_out);
    if (status == SL_OK)
        device->n_alive++;
    return status;
}

void device_stream_destroy(struct device_stream *stream)
{
    if (stream == NULL)
        return;
    struct device *device = stream->device;
    device->ops->stream_destroy(stream);
    device->n_alive--;
}

void device_launch(struct device_stream *stream, void (*fn)(void *args), const void *args,
                   size_t args_bytes)
{
    SL_ASSERT(args_bytes <= DEVICE_ARGS_BYTES_MAX);
    SL_ASSERT(stream->device->ops->launch != NULL); /* cuda: see device.h */
    stream->device->ops->launch(stream, fn, args, args_bytes);
}

void *device_stream_native(struct device_stream *stream)
{
    return stream->device->ops->stream_native(stream);
}

sl_status device_stream_wait(struct device_stream *stream)
{
    return stream->device->ops->stream_wait(stream);
}

/* The address of bytes that lie inside the memory; anything else is our own bug. */
static unsigned char *inside(const struct device_memory *memory, size_t offset, size_t bytes)
{
    SL_ASSERT(memory->address != NULL);
    SL_ASSERT(offset <= memory->bytes && bytes <= memory->bytes - offset);
    return (unsigned char *)memory->address + offset;
}

void device_copy_in(struct device_stream *stream, const struct device_memory *to, size_t to_offset,
                    const void *from, size_t bytes)
{
    SL_ASSERT(to->device == stream->device);
    void *address = inside(to, to_offset, bytes);
    if (bytes > 0)
        stream->device->ops->copy(stream, address, from, bytes);
}

void device_copy_out(struct device_stream *stream, void *to, const struct device_memory *from,
                     size_t from_offset, size_t bytes)
{
    SL_ASSERT(from->device == stream->device);
    const void *address = inside(from, from_offset, bytes);
    if (bytes > 0)
        stream->device->ops->copy(stream, to, address, bytes);
}

void device_copy(struct device_stream *stream, const struct device_memory *to, size_t to_offset,
                 const struct device_memory *from, size_t from_offset, size_t bytes)
{
    SL_ASSERT(to->device == stream->device && from->device == stream->device);
    unsigned char *target = inside(to, to_offset, bytes);
    const unsigned char *source = inside(from, from_offset, bytes);
    SL_ASSERT(target + bytes <= source || source + bytes <= target);
    if (bytes > 0)
        stream->device->ops->copy(stream, target, source, bytes);
}

sl_status device_event_create(struct device *device, struct device_event **event_out)
{
    sl_status status = device->ops->event_create(device, event_out);
    if (status == SL_OK)
        device->n_alive++;
    return status;
}

void device_event_destroy(struct device_event *event)
{
    if (event == NULL)
        return;
    struct device *device = event->device;
    device->ops->event_destroy(event);
    device->n_alive--;
}

void device_event_record(struct device_event *event, struct device_stream *stream)
{
    SL_ASSERT(event->device == stream->device);
    event->device->ops->event_record(event, stream);
}

bool device_event_done(struct device_event *event)
{
    return event->device->ops->event_done(event);
}

sl_status device_event_wait(struct device_event *event, uint64_t timeout_us)
{
    return event->device->ops->event_wait(event, timeout_us);
}

void *device_export(const struct device_memory *memory, size_t offset, size_t bytes)
{
    return inside(memory, offset, bytes);
}

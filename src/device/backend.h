/* What a kind of device implements; private to this folder. device.c checks arguments and counts
 * what is alive, then calls through this table. */
#ifndef SL_DEVICE_BACKEND_H
#define SL_DEVICE_BACKEND_H

#include "device/device.h"

#include <stdatomic.h>

#define DEVICE_NAME_BYTES_MAX 300

struct device_ops {
    /* Gives back what open() took; the struct device itself too. */
    void (*close)(struct device *device);
    /* Memory as device_alloc() promises; sl_fail() has been called on failure. */
    sl_status (*alloc)(struct device *device, size_t bytes, void **address_out);
    void (*free)(struct device *device, void *address);
    /* *stream_out begins with struct device_stream, *event_out with struct device_event. */
    sl_status (*stream_create)(struct device *device, const char *name,
                               struct device_stream **stream_out);
    void (*stream_destroy)(struct device_stream *stream);
    sl_status (*stream_wait)(struct device_stream *stream);
    void *(*stream_native)(struct device_stream *stream);
    void (*launch)(struct device_stream *stream, void (*fn)(void *args), const void *args,
                   size_t args_bytes);
    void (*copy)(struct device_stream *stream, void *to, const void *from, size_t bytes);
    sl_status (*event_create)(struct device *device, struct device_event **event_out);
    void (*event_destroy)(struct device_event *event);
    void (*event_record)(struct device_event *event, struct device_stream *stream);
    bool (*event_done)(struct device_event *event);
    sl_status (*event_wait)(struct device_event *event, uint64_t timeout_us);
};

struct device {
    const struct device_ops *ops;
    enum device_kind kind;
    char name[DEVICE_NAME_BYTES_MAX];
    _Atomic int64_t n_alive; /* memories, streams and events */
};

struct device_stream {
    struct device *device;
};

struct device_event {
    struct device *device;
};

sl_status device_host_open(struct device **device_out) SL_MUST_USE;
sl_status device_fake_open(uint64_t seed, struct device **device_out) SL_MUST_USE;
/* SL_UNSUPPORTED in a build without SLUICE_CUDA. */
sl_status device_cuda_open(uint32_t index, struct device **device_out) SL_MUST_USE;

#endif

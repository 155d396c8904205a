/* The CUDA device: cudaMalloc, cudaStream, cudaEvent behind device.h. It needs the runtime's C API
 * only, so it is C like the rest; kernels are launched by kernels/cuda on device_stream_native().
 *
 * Streams are non-blocking: they do not wait for the default stream, which nobody uses. A call that
 * enqueues has no status to return, so a stream keeps the first error it met and reports it at the
 * next wait; CUDA's own errors are sticky in the same way. An event whose device has failed is never
 * done: who waits for it learns why from device_event_wait().
 *
 * The current device is a property of each thread, therefore every entry sets it (a comparison, when
 * it is set already). cudaMalloc promises 256 bytes of alignment; ours is 4096, so it asks for a page
 * more and keeps both addresses in a list. */
#include "device/backend.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

#include <cuda_runtime_api.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>

#define PAGE_BYTES 4096u
#define SPIN_US    20 /* of an event's wait, before it sleeps between looks */
#define LOOK_US    50

struct allocation {
    struct allocation *next;
    void *address; /* aligned */
    void *base;    /* as cudaMalloc gave it */
};

struct cuda_device {
    struct device base;
    int index;
    pthread_mutex_t lock;
    struct allocation *allocations;
};

struct cuda_stream {
    struct device_stream base;
    cudaStream_t handle;
    _Atomic int error; /* the first cudaError_t of an enqueue; 0: none */
};

struct cuda_event {
    struct device_event base;
    cudaEvent_t handle;
};

static struct cuda_device *cuda_device_of(struct device *device)
{
    return (struct cuda_device *)device;
}

static struct cuda_stream *cuda_stream_of(struct device_stream *stream)
{
    return (struct cuda_stream *)stream;
}

static struct cuda_event *cuda_event_of(struct device_event *event)
{
    return (struct cuda_event *)event;
}

static sl_status cuda_failed(const struct device *device, const char *what, cudaError_t error)
{
    sl_status code = error == cudaErrorMemoryAllocation ? SL_NO_MEMORY : SL_DEVICE;
    return sl_fail(code, "%s: %s: %s", device->name, what, cudaGetErrorString(error));
}

static void enter(struct device *device)
{
    (void)cudaSetDevice(cuda_device_of(device)->index); /* it was fine at open */
}

static void keep_error(struct cuda_stream *stream, cudaError_t error)
{
    int none = 0;
    if (error != cudaSuccess)
        atomic_compare_exchange_strong(&stream->error, &none, (int)error);
}

static void cuda_close(struct device *device)
{
    struct cuda_device *cuda = cuda_device_of(device);
    pthread_mutex_destroy(&cuda->lock);
    sl_free(cuda);
}

static sl_status cuda_alloc(struct device *device, size_t bytes, void **address_out)
{
    struct cuda_device *cuda = cuda_device_of(device);
    if (bytes > SIZE_MAX - PAGE_BYTES)
        return sl_fail(SL_NO_MEMORY, "%s: %zu bytes", device->name, bytes);
    enter(device);
    void *base = NULL;
    cudaError_t error = cudaMalloc(&base, bytes + PAGE_BYTES);
    if (error != cudaSuccess)
        return cuda_failed(device, "cudaMalloc", error);
    uintptr_t aligned = ((uintptr_t)base + PAGE_BYTES - 1) & ~(uintptr_t)(PAGE_BYTES - 1);
    void *address = (unsigned char *)base + (aligned - (uintptr_t)base);
    error = cudaMemset(address, 0, bytes);
    if (error == cudaSuccess)
        error = cudaDeviceSynchronize(); /* our streams would not wait for it */
    if (error != cudaSuccess) {
        (void)cudaFree(base);
        return cuda_failed(device, "cudaMemset", error);
    }
    struct allocation *allocation = sl_zalloc(1, sizeof(*allocation));
    allocation->address = address;
    allocation->base = base;
    pthread_mutex_lock(&cuda->lock);
    allocation->next = cuda->allocations;
    cuda->allocations = allocation;
    pthread_mutex_unlock(&cuda->lock);
    *address_out = address;
    return SL_OK;
}

static void cuda_free(struct device *device, void *address)
{
    struct cuda_device *cuda = cuda_device_of(device);
    pthread_mutex_lock(&cuda->lock);
    struct allocation **link = &cuda->allocations;
    while (*link != NULL && (*link)->address != address)
        link = &(*link)->next;
    struct allocation *found = *link;
    SL_ASSERT(found != NULL);
    *link = found->next;
    pthread_mutex_unlock(&cuda->lock);
    enter(device);
    (void)cudaFree(found->base); /* reports errors of earlier work only */
    sl_free(found);
}

static sl_status cuda_stream_create(struct device *device, const char *name,
                                    struct device_stream **stream_out)
{
    enter(device);
    cudaStream_t handle;
    cudaError_t error = cudaStreamCreateWithFlags(&handle, cudaStreamNonBlocking);
    if (error != cudaSuccess)
        return cuda_failed(device, name, error);
    struct cuda_stream *stream = sl_zalloc(1, sizeof(*stream));
    stream->base.device = device;
    stream->handle = handle;
    *stream_out = &stream->base;
    return SL_OK;
}

static sl_status cuda_stream_wait(struct device_stream *base)
{
    struct cuda_stream *stream = cuda_stream_of(base);
    enter(base->device);
    keep_error(stream, cudaStreamSynchronize(stream->handle));
    int error = stream->error;
    if (error != cudaSuccess)
        return cuda_failed(base->device, "stream", (cudaError_t)error);
    return SL_OK;
}

static void cuda_stream_destroy(struct device_stream *base)
{
    struct cuda_stream *stream = cuda_stream_of(base);
    if (cuda_stream_wait(base) != SL_OK)
        sl_warn("device_stream_failed", "error=\"%s\"", sl_error());
    (void)cudaStreamDestroy(stream->handle);
    sl_free(stream);
}

static void *cuda_stream_native(struct device_stream *stream)
{
    return cuda_stream_of(stream)->handle;
}

static void cuda_copy(struct device_stream *base, void *to, const void *from, size_t bytes)
{
    struct cuda_stream *stream = cuda_stream_of(base);
    enter(base->device);
    keep_error(stream, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream->handle));
}

static sl_status cuda_event_create(struct device *device, struct device_event **event_out)
{
    enter(device);
    cudaEvent_t handle;
    cudaError_t error = cudaEventCreateWithFlags(&handle, cudaEventDisableTiming);
    if (error != cudaSuccess)
        return cuda_failed(device, "event", error);
    struct cuda_event *event = sl_zalloc(1, sizeof(*event));
    event->base.device = device;
    event->handle = handle;
    *event_out = &event->base;
    return SL_OK;
}

static void cuda_event_destroy(struct device_event *base)
{
    struct cuda_event *event = cuda_event_of(base);
    enter(base->device);
    (void)cudaEventDestroy(event->handle); /* CUDA keeps it until a pending record is through */
    sl_free(event);
}

static void cuda_event_record(struct device_event *event, struct device_stream *base)
{
    struct cuda_stream *stream = cuda_stream_of(base);
    enter(base->device);
    keep_error(stream, cudaEventRecord(cuda_event_of(event)->handle, stream->handle));
}

static bool cuda_event_done(struct device_event *base)
{
    enter(base->device);
    cudaError_t error = cudaEventQuery(cuda_event_of(base)->handle);
    if (error != cudaSuccess && error != cudaErrorNotReady)
        sl_error_log("device_event_failed", "device=\"%s\" error=\"%s\"", base->device->name,
                     cudaGetErrorString(error));
    return error == cudaSuccess;
}

static sl_status cuda_event_wait(struct device_event *base, uint64_t timeout_us)
{
    struct cuda_event *event = cuda_event_of(base);
    enter(base->device);
    uint64_t start = sl_real_us();
    for (;;) {
        cudaError_t error = cudaEventQuery(event->handle);
        uint64_t waited = sl_real_us() - start;
        if (error == cudaSuccess)
            return SL_OK;
        if (error != cudaErrorNotReady)
            return cuda_failed(base->device, "event", error);
        if (waited >= timeout_us)
            return sl_fail(SL_DEADLINE, "%s: event not complete after %" PRIu64 " us",
                           base->device->name, timeout_us);
        if (waited >= SPIN_US)
            sl_sleep_us(LOOK_US);
    }
}

static const struct device_ops cuda_ops = {
    .close = cuda_close,
    .alloc = cuda_alloc,
    .free = cuda_free,
    .stream_create = cuda_stream_create,
    .stream_destroy = cuda_stream_destroy,
    .stream_wait = cuda_stream_wait,
    .stream_native = cuda_stream_native,
    .launch = NULL, /* host functions do not run there */
    .copy = cuda_copy,
    .event_create = cuda_event_create,
    .event_destroy = cuda_event_destroy,
    .event_record = cuda_event_record,
    .event_done = cuda_event_done,
    .event_wait = cuda_event_wait,
};

sl_status device_cuda_open(uint32_t index, struct device **device_out)
{
    int n_devices = 0;
    struct cudaDeviceProp properties;
    cudaError_t error = cudaGetDeviceCount(&n_devices);
    if (error != cudaSuccess)
        return sl_fail(SL_DEVICE, "cuda device %u: %s", index, cudaGetErrorString(error));
    if (index >= (uint32_t)n_devices)
        return sl_fail(SL_NOT_FOUND, "cuda device %u; this machine has %d", index, n_devices);
    error = cudaGetDeviceProperties(&properties, (int)index);
    if (error == cudaSuccess)
        error = cudaSetDevice((int)index);
    if (error != cudaSuccess)
        return sl_fail(SL_DEVICE, "cuda device %u: %s", index, cudaGetErrorString(error));
    struct cuda_device *cuda = sl_zalloc(1, sizeof(*cuda));
    cuda->base.ops = &cuda_ops;
    cuda->base.kind = DEVICE_CUDA;
    cuda->index = (int)index;
    pthread_mutex_init(&cuda->lock, NULL);
    snprintf(cuda->base.name, sizeof(cuda->base.name), "cuda:%u %.255s", index, properties.name);
    *device_out = &cuda->base;
    return SL_OK;
}

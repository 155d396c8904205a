/* Memory of a kind, and the order in which work on it happens.
 *
 *   host   ordinary memory; a stream runs what is launched at once, an event is complete when recorded
 *   fake   ordinary memory that only copies and launched work may touch; a thread runs each stream's
 *          work later, in order within a stream, streams against each other in any order (seeded);
 *          events complete late. It shows a missing synchronisation on a machine without a GPU.
 *   cuda   cudaMalloc, cudaStream, cudaEvent (build with SLUICE_CUDA)
 *
 * Thread-safe except where said. No CUDA type leaves device/. */
#ifndef SL_DEVICE_DEVICE_H
#define SL_DEVICE_DEVICE_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum device_kind { DEVICE_HOST, DEVICE_FAKE, DEVICE_CUDA };

struct device;
struct device_stream;
struct device_event;

struct device_memory {
    struct device *device;
    void *address; /* device address; the host dereferences it only for DEVICE_HOST */
    size_t bytes;
};

#define DEVICE_ARGS_BYTES_MAX 1024 /* of one launch */

/* index: which GPU; seed: order and delays of fake. SL_UNSUPPORTED when not built in, SL_DEVICE. */
sl_status device_create(enum device_kind kind, uint32_t index, uint64_t seed,
                        struct device **device_out) SL_MUST_USE;
void device_destroy(struct device *device); /* every stream and memory freed before */
enum device_kind device_kind(const struct device *device);
/* "host", "fake", "cuda:0 NVIDIA …" */
const char *device_name(const struct device *device);

/* Aligned to 4096 (2 MiB pages advised). host and cuda zero it; fake fills it with
 * DEVICE_FAKE_JUNK (a NaN in bf16 and f32), so nobody may read what was never written. SL_NO_MEMORY,
 * fault point "device_alloc". */
#define DEVICE_FAKE_JUNK 0xFF
sl_status device_alloc(struct device *device, size_t bytes,
                       struct device_memory *memory_out) SL_MUST_USE;
void device_free(struct device_memory *memory);

sl_status device_stream_create(struct device *device, const char *name,
                               struct device_stream **stream_out) SL_MUST_USE;
void device_stream_destroy(struct device_stream *stream); /* waits until it is empty */
/* Runs fn(args copy) in the stream's order; args_bytes <= DEVICE_ARGS_BYTES_MAX. host and fake only:
 * cuda kernels are launched by kernels/cuda on device_stream_native(). */
void device_launch(struct device_stream *stream, void (*fn)(void *args), const void *args,
                   size_t args_bytes);
/* cudaStream_t for cuda, else NULL. */
void *device_stream_native(struct device_stream *stream);
/* Waits until everything launched so far has run. SL_DEVICE. */
sl_status device_stream_wait(struct device_stream *stream) SL_MUST_USE;

/* In the stream's order; host buffers must live until an event recorded after is complete. Bounds
 * are asserted against the memory. */
void device_copy_in(struct device_stream *stream, const struct device_memory *to, size_t to_offset,
                    const void *from, size_t bytes);
void device_copy_out(struct device_stream *stream, void *to, const struct device_memory *from,
                     size_t from_offset, size_t bytes);
void device_copy(struct device_stream *stream, const struct device_memory *to, size_t to_offset,
                 const struct device_memory *from, size_t from_offset, size_t bytes);

sl_status device_event_create(struct device *device, struct device_event **event_out) SL_MUST_USE;
void device_event_destroy(struct device_event *event);
void device_event_record(struct device_event *event, struct device_stream *stream);
/* True once everything launched before the last record has run. */
bool device_event_done(struct device_event *event);
/* SL_DEADLINE after timeout_us. */
sl_status device_event_wait(struct device_event *event, uint64_t timeout_us) SL_MUST_USE;

/* What a transport (NIC, DMA) is given: an address it may read or write by itself, while the owner
 * of the bytes has said that no launched work touches them. */
void *device_export(const struct device_memory *memory, size_t offset, size_t bytes);

#endif

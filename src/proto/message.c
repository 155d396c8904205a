/* Unpacking into one arena.
 *
 *   box ── arena ─► [root prefix: box | root message | strings, arrays, sub-messages, scratch …]
 *    ▲                     │
 *    └─────────────────────┘   rpc_*_message_free finds the box in front of the root
 *
 * protobuf-c allocates the root first, so the first allocation of an unpack gets the prefix. Its
 * frees (scratch while parsing) do nothing; all goes with the arena. The bound matters because a
 * sub-message of two bytes on the wire becomes a struct of a hundred: without it 256 KiB could turn
 * into 30 MB. Unpacking needs one chunk in the usual case, where protobuf-c's own allocator makes a
 * call per string and array. Any thread; a message belongs to one thread at a time. */
#include "proto/message.h"

#include "base/arena.h"
#include "base/mem.h"
#include "proto/check.h"

#include <string.h>

#define BOX_MAGIC 0x736c756963656d73ull

struct box {
    struct sl_arena arena;
    bool root_given;
    bool starved; /* an allocation failed */
    void (*freed)(void *arg, uint32_t bytes);
    void *arg;
    uint32_t bytes;
};

struct prefix {
    _Alignas(16) struct box *box;
    uint64_t magic;
};

static void *box_alloc(void *arg, size_t bytes)
{
    struct box *box = arg;
    bool root = !box->root_given;
    box->root_given = true;
    struct prefix *prefix =
        sl_arena_try_alloc(&box->arena, 1, root ? sizeof(*prefix) + bytes : bytes);
    box->starved |= prefix == NULL;
    if (prefix == NULL || !root)
        return prefix;
    *prefix = (struct prefix){.box = box, .magic = BOX_MAGIC};
    return prefix + 1;
}

static void box_free(void *arg, void *p)
{
    (void)arg;
    (void)p;
}

static void box_destroy(struct box *box)
{
    sl_arena_fini(&box->arena);
    sl_free(box);
}

static struct box *box_of(ProtobufCMessage *message)
{
    struct prefix *prefix = (struct prefix *)(void *)message - 1;
    SL_ASSERT(prefix->magic == BOX_MAGIC);
    return prefix->box;
}

static sl_status unpack(const ProtobufCMessageDescriptor *descriptor, const uint8_t *bytes,
                        size_t n, ProtobufCMessage **message_out)
{
    if (n > RPC_MESSAGE_BYTES_MAX)
        return sl_fail(SL_INVALID, "%s of %zu bytes; at most %u", descriptor->short_name, n,
                       RPC_MESSAGE_BYTES_MAX);
    struct box *box = sl_try_zalloc(1, sizeof(*box));
    if (box == NULL)
        return sl_fail(SL_NO_MEMORY, "no memory for a message");
    sl_arena_init(&box->arena, 1024 + 2 * n, RPC_MESSAGE_MEMORY_MAX);
    ProtobufCAllocator allocator = {.alloc = box_alloc, .free = box_free, .allocator_data = box};
    ProtobufCMessage *message = protobuf_c_message_unpack(descriptor, &allocator, n, bytes);
    if (message == NULL) {
        sl_status status =
            box->starved
                ? sl_fail(SL_NO_MEMORY, "%s of %zu bytes needs over %u to unpack",
                          descriptor->short_name, n, RPC_MESSAGE_MEMORY_MAX)
                : sl_fail(SL_INVALID, "malformed %s of %zu bytes", descriptor->short_name, n);
        box_destroy(box);
        return status;
    }
    *message_out = message;
    return SL_OK;
}

sl_status rpc_node_message_unpack(const uint8_t *bytes, size_t n, Sluice__NodeMessage **message_out)
{
    ProtobufCMessage *base = NULL;
    sl_status status = unpack(&sluice__node_message__descriptor, bytes, n, &base);
    if (status != SL_OK)
        return status;
    Sluice__NodeMessage *message = (Sluice__NodeMessage *)base;
    status = rpc_check_node_message(message);
    if (status != SL_OK) {
        rpc_node_message_free(message);
        return status;
    }
    *message_out = message;
    return SL_OK;
}

sl_status rpc_coordinator_message_unpack(const uint8_t *bytes, size_t n,
                                         Sluice__CoordinatorMessage **message_out)
{
    ProtobufCMessage *base = NULL;
    sl_status status = unpack(&sluice__coordinator_message__descriptor, bytes, n, &base);
    if (status != SL_OK)
        return status;
    Sluice__CoordinatorMessage *message = (Sluice__CoordinatorMessage *)base;
    status = rpc_check_coordinator_message(message);
    if (status != SL_OK) {
        rpc_coordinator_message_free(message);
        return status;
    }
    *message_out = message;
    return SL_OK;
}

static void message_free(ProtobufCMessage *message)
{
    if (message == NULL)
        return;
    struct box *box = box_of(message);
    if (box->freed != NULL)
        box->freed(box->arg, box->bytes);
    box_destroy(box);
}

void rpc_node_message_free(Sluice__NodeMessage *message)
{
    message_free((ProtobufCMessage *)message);
}

void rpc_coordinator_message_free(Sluice__CoordinatorMessage *message)
{
    message_free((ProtobufCMessage *)message);
}

void rpc_message_on_free(ProtobufCMessage *message, void (*freed)(void *arg, uint32_t bytes),
                         void *arg, uint32_t bytes)
{
    struct box *box = box_of(message);
    box->freed = freed;
    box->arg = arg;
    box->bytes = bytes;
}

bool rpc_node_message_counted(const Sluice__NodeMessage *message)
{
    return message->body_case == SLUICE__NODE_MESSAGE__BODY_CACHE_EVENTS ||
           message->body_case == SLUICE__NODE_MESSAGE__BODY_CACHE_SNAPSHOT;
}

bool rpc_coordinator_message_counted(const Sluice__CoordinatorMessage *message)
{
    return message->body_case == SLUICE__COORDINATOR_MESSAGE__BODY_SUBMIT ||
           message->body_case == SLUICE__COORDINATOR_MESSAGE__BODY_SUBMIT_PART;
}

const char *rpc_reason_name(Sluice__Reason reason)
{
    static const char *const names[] = {
        "none",     "unknown",     "cancelled", "deadline",   "full",
        "mismatch", "incarnation", "draining",  "misbehaved", "lost",
        "corrupt",  "too_large",   "invalid",   "internal",   "preempted",
    };
    return (size_t)reason < sizeof(names) / sizeof(names[0]) ? names[reason] : "other";
}

const char *rpc_finish_name(Sluice__Finish finish)
{
    static const char *const names[] = {"none", "stop", "length", "cancelled", "error", "sent"};
    return (size_t)finish < sizeof(names) / sizeof(names[0]) ? names[finish] : "other";
}

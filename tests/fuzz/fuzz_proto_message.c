/* Messages of the node stream on any bytes; the first byte chooses who is speaking. What is accepted must
 * obey the limits that its reader counts on, and can be packed again; unknown fields may make that more
 * than a message, or malformed. */
#include "base/mem.h"
#include "proto/check.h"
#include "proto/message.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_node(const Sluice__NodeMessage *message)
{
    if (message->body_case == SLUICE__NODE_MESSAGE__BODY_HELLO) {
        const Sluice__Hello *hello = message->hello;
        SL_ASSERT(hello->node_id[0] != '\0' && strlen(hello->node_id) <= RPC_NODE_ID_BYTES_MAX);
        SL_ASSERT(!hello->ready || (hello->identity.len == RPC_HASH_BYTES && hello->n_ranks > 0));
    } else if (message->body_case == SLUICE__NODE_MESSAGE__BODY_HEARTBEAT) {
        SL_ASSERT(message->heartbeat->load != NULL);
        SL_ASSERT(message->heartbeat->n_samples <= RPC_SAMPLES_MAX);
    } else if (message->body_case == SLUICE__NODE_MESSAGE__BODY_CACHE_EVENTS) {
        for (size_t i = 0; i < message->cache_events->n_events; i++)
            SL_ASSERT(message->cache_events->events[i]->hash.len == RPC_HASH_BYTES);
    } else if (message->body_case == SLUICE__NODE_MESSAGE__BODY_FINISHED) {
        SL_ASSERT(message->finished->times != NULL && message->finished->request != 0);
    }
}

static void check_coordinator(const Sluice__CoordinatorMessage *message)
{
    if (message->body_case != SLUICE__COORDINATOR_MESSAGE__BODY_SUBMIT)
        return;
    const Sluice__Submit *submit = message->submit;
    SL_ASSERT(submit->sampling != NULL && submit->prompt_tokens <= submit->total_tokens);
    SL_ASSERT(submit->n_tokens >= 1 && submit->n_tokens <= submit->total_tokens);
    SL_ASSERT(submit->max_tokens > submit->first_index);
    SL_ASSERT(submit->mode == SLUICE__MODE__MODE_LOCAL || submit->peer->n_ranks > 0);
}

static uint8_t *packed(const ProtobufCMessage *message, size_t *n_out)
{
    *n_out = protobuf_c_message_get_packed_size(message);
    uint8_t *bytes = sl_try_zalloc(*n_out, 1);
    SL_ASSERT(bytes != NULL);
    protobuf_c_message_pack(message, bytes);
    return bytes;
}

static void run_node(const uint8_t *data, size_t size)
{
    Sluice__NodeMessage *message, *again;
    if (rpc_node_message_unpack(data, size, &message) != SL_OK) {
        SL_ASSERT(sl_error()[0] != '\0');
        return;
    }
    check_node(message);
    size_t n;
    uint8_t *bytes = packed(&message->base, &n);
    if (rpc_node_message_unpack(bytes, n, &again) == SL_OK) {
        SL_ASSERT(again->body_case == message->body_case);
        rpc_node_message_free(again);
    }
    sl_free(bytes);
    rpc_node_message_free(message);
}

static void run_coordinator(const uint8_t *data, size_t size)
{
    Sluice__CoordinatorMessage *message, *again;
    if (rpc_coordinator_message_unpack(data, size, &message) != SL_OK) {
        SL_ASSERT(sl_error()[0] != '\0');
        return;
    }
    check_coordinator(message);
    size_t n;
    uint8_t *bytes = packed(&message->base, &n);
    if (rpc_coordinator_message_unpack(bytes, n, &again) == SL_OK) {
        SL_ASSERT(again->body_case == message->body_case);
        rpc_coordinator_message_free(again);
    }
    sl_free(bytes);
    rpc_coordinator_message_free(message);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    if (data[0] & 1)
        run_node(data + 1, size - 1);
    else
        run_coordinator(data + 1, size - 1);
    return 0;
}

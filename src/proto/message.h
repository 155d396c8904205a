/* Messages of the node stream as bytes and as protobuf-c structs. An unpacked message lives in one
 * arena with a bound, has been checked (check.h), and is freed with rpc_*_message_free (rpc.h),
 * whoever unpacked it. For the wire, for tests and for simulations without a wire. */
#ifndef SL_PROTO_MESSAGE_H
#define SL_PROTO_MESSAGE_H

#include "base/status.h"
#include "proto/rpc.h"

#include <stddef.h>
#include <stdint.h>

/* Memory of one unpacked message, the bound for bytes that unpack to much more than themselves. */
#define RPC_MESSAGE_MEMORY_MAX (8u << 20)

/* SL_INVALID malformed or refused by check.h; SL_UNSUPPORTED another protocol version;
 * SL_NO_MEMORY the bound above, or no memory. */
sl_status rpc_node_message_unpack(const uint8_t *bytes, size_t n,
                                  Sluice__NodeMessage **message_out) SL_MUST_USE;
sl_status rpc_coordinator_message_unpack(const uint8_t *bytes, size_t n,
                                         Sluice__CoordinatorMessage **message_out) SL_MUST_USE;

/* Whether flow control counts a message of this kind: submits with their parts, cache events and
 * snapshots. All others are urgent and small. */
bool rpc_node_message_counted(const Sluice__NodeMessage *message);
bool rpc_coordinator_message_counted(const Sluice__CoordinatorMessage *message);

/* As logs and metric labels name them: "deadline", "length"; "other" for a value that this version
 * lacks. */
const char *rpc_reason_name(Sluice__Reason reason);
const char *rpc_finish_name(Sluice__Finish finish);

/* `freed` runs once, in the free call and on its thread: how flow control learns of consumption. */
void rpc_message_on_free(ProtobufCMessage *message, void (*freed)(void *arg, uint32_t bytes),
                         void *arg, uint32_t bytes);

#endif

/* What a message must be before anybody acts on it: every string UTF-8 and bounded, enum values
 * known, hashes 16 bytes, counts and numbers in range, required parts present, and the fields of
 * one message in agreement. protobuf-c itself checks only that the bytes can be parsed. */
#ifndef SL_PROTO_CHECK_H
#define SL_PROTO_CHECK_H

#include "base/status.h"
#include "proto/node.pb-c.h"

#include <stdbool.h>

#define RPC_PROTOCOL            1u
#define RPC_NODE_ID_BYTES_MAX   15u
#define RPC_HASH_BYTES          16u
#define RPC_SALT_BYTES_MAX      32u
#define RPC_TEXT_BYTES_MAX      1024u /* strings without a narrower limit */
#define RPC_RANKS_MAX           64u
#define RPC_ADDRESS_BYTES_MAX   4096u
#define RPC_EOS_IDS_MAX         64u
#define RPC_STOP_IDS_MAX        256u
#define RPC_VOCAB_MAX           (1u << 24)
#define RPC_CONTEXT_MAX         (1u << 24)
#define RPC_BLOCKS_MAX          (1u << 30)
#define RPC_SEQS_MAX            65536u
#define RPC_LOGPROBS_MAX        20u
#define RPC_SCORES_MAX          1024u /* in one PromptScores: under 256 KiB */
#define RPC_BIASES_MAX          1024u
#define RPC_BIAS_MAX            100.0
#define RPC_WORDS_MAX           512u
#define RPC_WORD_IDS_MAX        4096u
#define RPC_REPETITION_MAX      100.0
#define RPC_PENALTY_MAX         2.0
#define RPC_SAMPLES_MAX         32u
#define RPC_TRANSFER_TOTALS_MAX 512u
#define RPC_SNAPSHOT_PARTS_MAX  65536u
#define RPC_DURATION_US_MAX     (7ull * 24 * 3600 * 1000000) /* a week */
#define RPC_TEMPERATURE_MAX     100.0

/* SL_INVALID names message.field, the value and the limit. SL_UNSUPPORTED: a Hello or Welcome of
 * another protocol version. */
sl_status rpc_check_node_message(const Sluice__NodeMessage *message) SL_MUST_USE;
sl_status rpc_check_coordinator_message(const Sluice__CoordinatorMessage *message) SL_MUST_USE;

/* What a node may be called: 1 to 15 letters, digits and -_. (it becomes a label, and is logged); `field`
 * names it. */
sl_status rpc_check_node_id(const char *field, const char *id) SL_MUST_USE;

/* Whether a field has a limit of its own; a test asks it of every list and every bytes field. */
bool rpc_check_limits(const ProtobufCMessageDescriptor *message,
                      const ProtobufCFieldDescriptor *field);

#endif

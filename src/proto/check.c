/* Checks by table, over protobuf-c's own description of each message.
 *
 *   rule of a message = limits of its fields + one function for what must agree between fields
 *
 * The walk visits every field that is set, sub-messages too; its depth is that of the schema, which
 * has no recursion. A field without a row has the default of its type: numbers any (floating point:
 * finite), strings and bytes at most RPC_TEXT_BYTES_MAX, lists at most one element, enums a known
 * value, sub-messages optional. Strings never hold control characters, so that what a peer says can
 * be logged. A unit test sees to it that each list has a row.
 *
 * Limits here bound memory and arithmetic; whether a value makes sense on this fleet (an identity, a
 * token id below the vocabulary) is for those who know the fleet. */
#include "proto/check.h"

#include "base/utf8.h"
#include "proto/rpc.h"

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Of a number: its range. Of a string or bytes: its length. Of a list: its count, and each_max for
 * its elements (0: the default). Of a sub-message: min 1 makes it required. */
struct limit {
    size_t offset;
    double min, max;
    double each_max;
};

struct rule {
    const ProtobufCMessageDescriptor *descriptor;
    const struct limit *limits;
    size_t n_limits;
    sl_status (*agree)(const ProtobufCMessage *message); /* NULL: nothing more */
};

#define LIMIT(type, field, lo, hi)                                                                 \
    {                                                                                              \
        .offset = offsetof(type, field), .min = (double)(lo), .max = (double)(hi)                  \
    }
#define LIST(type, field, lo, hi, each)                                                            \
    {                                                                                              \
        .offset = offsetof(type, field), .min = (double)(lo), .max = (double)(hi),                 \
        .each_max = (double)(each)                                                                 \
    }
#define NEEDED(type, field) LIMIT(type, field, 1, 1)
#define ANY_ID              0x1p64
#define ID_MAX              (RPC_VOCAB_MAX - 1)

static const struct limit hello_limits[] = {
    LIMIT(Sluice__Hello, node_id, 1, RPC_NODE_ID_BYTES_MAX),
    LIMIT(Sluice__Hello, role, 1, 2),
    LIMIT(Sluice__Hello, incarnation, 1, ANY_ID),
    LIMIT(Sluice__Hello, identity, 0, RPC_HASH_BYTES),
    LIMIT(Sluice__Hello, layout, 0, RPC_HASH_BYTES),
    LIMIT(Sluice__Hello, numerics_id, 0, 128),
    LIMIT(Sluice__Hello, vocab, 0, RPC_VOCAB_MAX),
    LIMIT(Sluice__Hello, context_max, 0, RPC_CONTEXT_MAX),
    LIST(Sluice__Hello, eos_ids, 0, RPC_EOS_IDS_MAX, ID_MAX),
    LIMIT(Sluice__Hello, block_tokens, 0, 4096),
    LIMIT(Sluice__Hello, block_bytes, 0, 1ull << 40),
    LIMIT(Sluice__Hello, blocks_total, 0, RPC_BLOCKS_MAX),
    LIST(Sluice__Hello, ranks, 0, RPC_RANKS_MAX, 0),
    LIMIT(Sluice__Hello, transport, 0, 15),
    LIMIT(Sluice__Hello, admin, 0, 255),
    LIMIT(Sluice__Hello, version, 0, 64),
    LIMIT(Sluice__Hello, request_blocks_max, 0, RPC_BLOCKS_MAX),
    LIMIT(Sluice__Hello, window_block_bytes, 0, 1ull << 40),
    LIMIT(Sluice__Hello, window_tokens, 0, RPC_CONTEXT_MAX),
};
static const struct limit rank_limits[] = {
    LIMIT(Sluice__Rank, address, 1, RPC_ADDRESS_BYTES_MAX),
};
static const struct limit heartbeat_limits[] = {
    NEEDED(Sluice__Heartbeat, load),
    LIST(Sluice__Heartbeat, samples, 0, RPC_SAMPLES_MAX, 0),
    LIST(Sluice__Heartbeat, transfers, 0, RPC_TRANSFER_TOTALS_MAX, 0),
};
static const struct limit load_limits[] = {
    LIMIT(Sluice__Load, running, 0, RPC_SEQS_MAX),
    LIMIT(Sluice__Load, blocks_total, 0, RPC_BLOCKS_MAX),
    LIMIT(Sluice__Load, blocks_free, 0, RPC_BLOCKS_MAX),
    LIMIT(Sluice__Load, blocks_cached, 0, RPC_BLOCKS_MAX),
    LIMIT(Sluice__Load, blocks_used, 0, RPC_BLOCKS_MAX),
    LIMIT(Sluice__Load, blocks_landing, 0, RPC_BLOCKS_MAX),
};
static const struct limit sample_limits[] = {
    LIMIT(Sluice__StepSample, compute_us, 0, RPC_DURATION_US_MAX),
};
static const struct limit transfer_limits[] = {
    LIMIT(Sluice__TransferTotals, src, 1, RPC_NODE_ID_BYTES_MAX),
    LIMIT(Sluice__TransferTotals, dst, 1, RPC_NODE_ID_BYTES_MAX),
    LIMIT(Sluice__TransferTotals, transport, 0, 15),
    LIST(Sluice__TransferTotals, failures, 0, 32, ANY_ID),
};
static const struct limit logprob_limits[] = {
    LIST(Sluice__Logprob, top_ids, 0, RPC_LOGPROBS_MAX, ID_MAX),
    LIST(Sluice__Logprob, top, 0, RPC_LOGPROBS_MAX, 1e30),
    LIMIT(Sluice__Logprob, rank, 0, RPC_VOCAB_MAX),
};
static const struct limit scores_limits[] = {
    LIMIT(Sluice__PromptScores, request, 1, ANY_ID),
    LIMIT(Sluice__PromptScores, first_position, 1, RPC_CONTEXT_MAX),
    LIST(Sluice__PromptScores, scores, 1, RPC_SCORES_MAX, 0),
};
static const struct limit runs_limits[] = {
    LIST(Sluice__TokenRuns, runs, 1, RPC_SEQS_MAX, 0),
};
static const struct limit run_limits[] = {
    LIMIT(Sluice__TokenRun, request, 1, ANY_ID),
    LIMIT(Sluice__TokenRun, first_index, 0, RPC_CONTEXT_MAX),
    LIST(Sluice__TokenRun, tokens, 1, 4096, ID_MAX),
    LIST(Sluice__TokenRun, logprobs, 0, 4096, 0),
};
static const struct limit admitted_limits[] = {
    LIMIT(Sluice__Admitted, request, 1, ANY_ID),
    LIMIT(Sluice__Admitted, cached_tokens, 0, RPC_CONTEXT_MAX),
};
static const struct limit refused_limits[] = {
    LIMIT(Sluice__Refused, request, 1, ANY_ID),
    LIMIT(Sluice__Refused, reason, 1, 1000),
};
static const struct limit stream_failed_limits[] = {
    LIMIT(Sluice__StreamFailed, request, 1, ANY_ID),
    LIMIT(Sluice__StreamFailed, reason, 1, 1000),
};
static const struct limit finished_limits[] = {
    LIMIT(Sluice__Finished, request, 1, ANY_ID),
    LIMIT(Sluice__Finished, finish, 1, 1000),
    NEEDED(Sluice__Finished, times),
    LIMIT(Sluice__Finished, computed_tokens, 0, RPC_CONTEXT_MAX),
    LIMIT(Sluice__Finished, cached_tokens, 0, RPC_CONTEXT_MAX),
    LIMIT(Sluice__Finished, destination, 0, RPC_NODE_ID_BYTES_MAX),
};
static const struct limit times_limits[] = {
    LIMIT(Sluice__StageTimes, handover_us, 0, RPC_DURATION_US_MAX),
    LIMIT(Sluice__StageTimes, transfer_busy_us, 0, RPC_DURATION_US_MAX),
};
static const struct limit events_limits[] = {
    LIMIT(Sluice__CacheEvents, first_seq, 1, ANY_ID),
    LIST(Sluice__CacheEvents, events, 1, 16384, 0),
};
static const struct limit event_limits[] = {
    LIMIT(Sluice__CacheEvent, hash, RPC_HASH_BYTES, RPC_HASH_BYTES),
};
static const struct limit snapshot_limits[] = {
    LIMIT(Sluice__CacheSnapshot, n_parts, 1, RPC_SNAPSHOT_PARTS_MAX),
    LIMIT(Sluice__CacheSnapshot, hashes, 0, RPC_MESSAGE_BYTES_MAX),
};
static const struct limit welcome_limits[] = {
    LIMIT(Sluice__Welcome, coordinator, 1, ANY_ID),
    LIMIT(Sluice__Welcome, heartbeat_us, 10000, 60000000),
    LIMIT(Sluice__Welcome, dead_us, 20000, 600000000),
};
static const struct limit sampling_limits[] = {
    LIMIT(Sluice__Sampling, temperature, 0, RPC_TEMPERATURE_MAX),
    LIMIT(Sluice__Sampling, top_k, 0, RPC_VOCAB_MAX),
    LIMIT(Sluice__Sampling, top_p, 0, 1),
    LIMIT(Sluice__Sampling, min_p, 0, 1),
    LIMIT(Sluice__Sampling, logprobs, -1, RPC_LOGPROBS_MAX),
    LIMIT(Sluice__Sampling, min_tokens, 0, RPC_CONTEXT_MAX),
    LIST(Sluice__Sampling, stop_ids, 0, RPC_STOP_IDS_MAX, ID_MAX),
    LIST(Sluice__Sampling, masked_ids, 0, RPC_STOP_IDS_MAX, ID_MAX),
    LIMIT(Sluice__Sampling, repetition_penalty, 0, RPC_REPETITION_MAX),
    LIMIT(Sluice__Sampling, presence_penalty, -RPC_PENALTY_MAX, RPC_PENALTY_MAX),
    LIMIT(Sluice__Sampling, frequency_penalty, -RPC_PENALTY_MAX, RPC_PENALTY_MAX),
    LIST(Sluice__Sampling, bias_ids, 0, RPC_BIASES_MAX, ID_MAX),
    LIST(Sluice__Sampling, biases, 0, RPC_BIASES_MAX, RPC_BIAS_MAX),
    LIST(Sluice__Sampling, word_lengths, 0, RPC_WORDS_MAX, RPC_WORD_IDS_MAX),
    LIST(Sluice__Sampling, word_ids, 0, RPC_WORD_IDS_MAX, ID_MAX),
    LIMIT(Sluice__Sampling, prompt_logprobs, 0, 1 + RPC_LOGPROBS_MAX),
};
static const struct limit peer_limits[] = {
    LIMIT(Sluice__Peer, node_id, 1, RPC_NODE_ID_BYTES_MAX),
    LIMIT(Sluice__Peer, incarnation, 1, ANY_ID),
    LIST(Sluice__Peer, ranks, 1, RPC_RANKS_MAX, 0),
};
static const struct limit submit_limits[] = {
    LIMIT(Sluice__Submit, incarnation, 1, ANY_ID),
    LIMIT(Sluice__Submit, request, 1, ANY_ID),
    LIMIT(Sluice__Submit, mode, 1, 3),
    LIMIT(Sluice__Submit, deadline_us, 0, RPC_DURATION_US_MAX),
    LIMIT(Sluice__Submit, admission_us, 0, RPC_DURATION_US_MAX),
    LIMIT(Sluice__Submit, salt, 0, RPC_SALT_BYTES_MAX),
    NEEDED(Sluice__Submit, sampling),
    LIMIT(Sluice__Submit, prompt_tokens, 1, RPC_CONTEXT_MAX),
    LIMIT(Sluice__Submit, total_tokens, 1, RPC_CONTEXT_MAX),
    LIST(Sluice__Submit, tokens, 1, RPC_SUBMIT_TOKENS_MAX, ID_MAX),
    LIMIT(Sluice__Submit, n_parts, 0, RPC_SUBMIT_PARTS_MAX),
    LIMIT(Sluice__Submit, first_index, 0, RPC_CONTEXT_MAX),
    LIMIT(Sluice__Submit, max_tokens, 1, RPC_CONTEXT_MAX),
};
static const struct limit part_limits[] = {
    LIMIT(Sluice__SubmitPart, request, 1, ANY_ID),
    LIMIT(Sluice__SubmitPart, part, 0, RPC_SUBMIT_PARTS_MAX - 1),
    LIST(Sluice__SubmitPart, tokens, 1, RPC_SUBMIT_TOKENS_MAX, ID_MAX),
};
static const struct limit cancel_limits[] = {
    LIMIT(Sluice__Cancel, request, 1, ANY_ID),
};
static const struct limit redirect_limits[] = {
    LIMIT(Sluice__Redirect, request, 1, ANY_ID),
    LIMIT(Sluice__Redirect, stream_key, 1, ANY_ID),
    NEEDED(Sluice__Redirect, peer),
};
static const struct limit release_limits[] = {
    LIMIT(Sluice__Release, request, 1, ANY_ID),
};
static const struct limit drain_limits[] = {
    LIMIT(Sluice__Drain, bound_us, 0, RPC_DURATION_US_MAX),
};

/* ---- agreement between fields ---- */

sl_status rpc_check_node_id(const char *field, const char *id)
{
    size_t n = strlen(id);
    if (n < 1 || n > RPC_NODE_ID_BYTES_MAX)
        return sl_fail(SL_INVALID, "%s \"%s\"; want 1 to %u bytes", field, id,
                       RPC_NODE_ID_BYTES_MAX);
    for (const char *c = id; *c != '\0'; c++) {
        bool fine = (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') ||
                    (*c >= '0' && *c <= '9') || *c == '-' || *c == '_' || *c == '.';
        if (!fine)
            return sl_fail(SL_INVALID, "%s \"%s\"; want letters, digits and -_.", field, id);
    }
    return SL_OK;
}

static sl_status hello_agree(const ProtobufCMessage *base)
{
    const Sluice__Hello *hello = (const Sluice__Hello *)base;
    sl_status status = rpc_check_node_id("Hello.node_id", hello->node_id);
    if (status != SL_OK || !hello->ready)
        return status;
    if (hello->identity.len != RPC_HASH_BYTES || hello->layout.len != RPC_HASH_BYTES)
        return sl_fail(SL_INVALID,
                       "Hello.identity of %zu bytes, Hello.layout of %zu; a ready node has %u",
                       hello->identity.len, hello->layout.len, RPC_HASH_BYTES);
    if (hello->vocab == 0 || hello->context_max == 0 || hello->block_tokens == 0 ||
        hello->block_bytes == 0 || hello->blocks_total == 0 || hello->n_ranks == 0)
        return sl_fail(SL_INVALID,
                       "Hello of a ready node lacks vocab %u, context_max %u, block_tokens %u, "
                       "block_bytes %" PRIu64 ", blocks_total %u or ranks %zu; want all above 0",
                       hello->vocab, hello->context_max, hello->block_tokens, hello->block_bytes,
                       hello->blocks_total, hello->n_ranks);
    if (hello->window_block_bytes > hello->block_bytes)
        return sl_fail(SL_INVALID,
                       "Hello.window_block_bytes %" PRIu64 "; they are of block_bytes %" PRIu64,
                       hello->window_block_bytes, hello->block_bytes);
    return SL_OK;
}

static sl_status transfer_agree(const ProtobufCMessage *base)
{
    const Sluice__TransferTotals *totals = (const Sluice__TransferTotals *)base;
    sl_status status = rpc_check_node_id("TransferTotals.src", totals->src);
    return status == SL_OK ? rpc_check_node_id("TransferTotals.dst", totals->dst) : status;
}

static sl_status logprob_agree(const ProtobufCMessage *base)
{
    const Sluice__Logprob *logprob = (const Sluice__Logprob *)base;
    if (logprob->n_top_ids != logprob->n_top)
        return sl_fail(SL_INVALID, "Logprob.top_ids has %zu entries, Logprob.top %zu; want as many",
                       logprob->n_top_ids, logprob->n_top);
    return SL_OK;
}

static sl_status run_agree(const ProtobufCMessage *base)
{
    const Sluice__TokenRun *run = (const Sluice__TokenRun *)base;
    if (run->n_logprobs != 0 && run->n_logprobs != run->n_tokens)
        return sl_fail(SL_INVALID, "TokenRun.logprobs has %zu entries; want none or %zu",
                       run->n_logprobs, run->n_tokens);
    return SL_OK;
}

static sl_status events_agree(const ProtobufCMessage *base)
{
    const Sluice__CacheEvents *events = (const Sluice__CacheEvents *)base;
    if (events->first_seq > UINT64_MAX - events->n_events)
        return sl_fail(SL_INVALID, "CacheEvents.first_seq %" PRIu64 " overflows with %zu events",
                       events->first_seq, events->n_events);
    return SL_OK;
}

static sl_status snapshot_agree(const ProtobufCMessage *base)
{
    const Sluice__CacheSnapshot *snapshot = (const Sluice__CacheSnapshot *)base;
    if (snapshot->part >= snapshot->n_parts)
        return sl_fail(SL_INVALID, "CacheSnapshot.part %u; want below n_parts %u", snapshot->part,
                       snapshot->n_parts);
    if (snapshot->hashes.len % RPC_HASH_BYTES != 0)
        return sl_fail(SL_INVALID, "CacheSnapshot.hashes of %zu bytes; want a multiple of %u",
                       snapshot->hashes.len, RPC_HASH_BYTES);
    return SL_OK;
}

static sl_status welcome_agree(const ProtobufCMessage *base)
{
    const Sluice__Welcome *welcome = (const Sluice__Welcome *)base;
    if (welcome->dead_us < 2 * welcome->heartbeat_us)
        return sl_fail(SL_INVALID,
                       "Welcome.dead_us %" PRIu64 "; want at least two heartbeats of %" PRIu64,
                       welcome->dead_us, welcome->heartbeat_us);
    return SL_OK;
}

static sl_status peer_agree(const ProtobufCMessage *base)
{
    return rpc_check_node_id("Peer.node_id", ((const Sluice__Peer *)base)->node_id);
}

static sl_status sampling_agree(const ProtobufCMessage *base)
{
    const Sluice__Sampling *sampling = (const Sluice__Sampling *)base;
    uint64_t n_ids = 0;
    if (sampling->n_bias_ids != sampling->n_biases)
        return sl_fail(SL_INVALID,
                       "Sampling.bias_ids has %zu entries, Sampling.biases %zu; want as many",
                       sampling->n_bias_ids, sampling->n_biases);
    for (size_t i = 0; i < sampling->n_word_lengths; i++) {
        if (sampling->word_lengths[i] == 0)
            return sl_fail(SL_INVALID, "Sampling.word_lengths[%zu] is 0; want at least 1", i);
        n_ids += sampling->word_lengths[i];
    }
    if (n_ids != sampling->n_word_ids)
        return sl_fail(SL_INVALID,
                       "Sampling.word_lengths add up to %" PRIu64
                       ", Sampling.word_ids has %zu entries",
                       n_ids, sampling->n_word_ids);
    return SL_OK;
}

static sl_status submit_list_agree(const Sluice__Submit *submit)
{
    uint64_t first = submit->n_tokens, total = submit->total_tokens, parts = submit->n_parts;
    if (first + parts > total || first + parts * RPC_SUBMIT_TOKENS_MAX < total ||
        (parts == 0 && first != total))
        return sl_fail(SL_INVALID,
                       "Submit.tokens has %" PRIu64 " entries, Submit.n_parts %" PRIu64
                       "; these cannot make total_tokens %" PRIu64,
                       first, parts, total);
    return SL_OK;
}

static sl_status submit_agree(const ProtobufCMessage *base)
{
    const Sluice__Submit *submit = (const Sluice__Submit *)base;
    if (submit->prompt_tokens > submit->total_tokens)
        return sl_fail(SL_INVALID, "Submit.prompt_tokens %u; at most total_tokens %u",
                       submit->prompt_tokens, submit->total_tokens);
    if (submit->first_index != submit->total_tokens - submit->prompt_tokens)
        return sl_fail(SL_INVALID,
                       "Submit.first_index %u; want total_tokens - prompt_tokens = %u - %u",
                       submit->first_index, submit->total_tokens, submit->prompt_tokens);
    if (submit->max_tokens <= submit->first_index)
        return sl_fail(SL_INVALID, "Submit.max_tokens %u; want above first_index %u",
                       submit->max_tokens, submit->first_index);
    if (submit->mode != SLUICE__MODE__MODE_LOCAL &&
        (submit->stream_key == 0 || submit->peer == NULL))
        return sl_fail(SL_INVALID, "Submit.mode %d needs stream_key and peer; %s is missing",
                       (int)submit->mode, submit->peer == NULL ? "peer" : "stream_key");
    return submit_list_agree(submit);
}

#define RULE(message, limits, agree)                                                               \
    {                                                                                              \
        &sluice__##message##__descriptor, limits, sizeof(limits) / sizeof(limits[0]), agree        \
    }
static const struct rule rules[] = {
    RULE(token_run, run_limits, run_agree),
    RULE(logprob, logprob_limits, logprob_agree),
    RULE(prompt_scores, scores_limits, NULL),
    RULE(cache_event, event_limits, NULL),
    RULE(token_runs, runs_limits, NULL),
    RULE(submit, submit_limits, submit_agree),
    RULE(submit_part, part_limits, NULL),
    RULE(sampling, sampling_limits, sampling_agree),
    RULE(peer, peer_limits, peer_agree),
    RULE(rank, rank_limits, NULL),
    RULE(admitted, admitted_limits, NULL),
    RULE(refused, refused_limits, NULL),
    RULE(stream_failed, stream_failed_limits, NULL),
    RULE(finished, finished_limits, NULL),
    RULE(stage_times, times_limits, NULL),
    RULE(cancel, cancel_limits, NULL),
    RULE(redirect, redirect_limits, NULL),
    RULE(release, release_limits, NULL),
    RULE(drain, drain_limits, NULL),
    RULE(heartbeat, heartbeat_limits, NULL),
    RULE(load, load_limits, NULL),
    RULE(step_sample, sample_limits, NULL),
    RULE(transfer_totals, transfer_limits, transfer_agree),
    RULE(cache_events, events_limits, events_agree),
    RULE(cache_snapshot, snapshot_limits, snapshot_agree),
    RULE(welcome, welcome_limits, welcome_agree),
    RULE(hello, hello_limits, hello_agree),
};

/* ---- the walk ---- */

static const struct rule *rule_of(const ProtobufCMessageDescriptor *descriptor)
{
    for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]); i++) {
        if (rules[i].descriptor == descriptor)
            return &rules[i];
    }
    return NULL;
}

static const struct limit *limit_of(const struct rule *rule, size_t offset)
{
    for (size_t i = 0; rule != NULL && i < rule->n_limits; i++) {
        if (rule->limits[i].offset == offset)
            return &rule->limits[i];
    }
    return NULL;
}

bool rpc_check_limits(const ProtobufCMessageDescriptor *message,
                      const ProtobufCFieldDescriptor *field)
{
    return limit_of(rule_of(message), field->offset) != NULL;
}

/* A field in its message, for the sentence of a failure. */
struct place {
    const ProtobufCMessageDescriptor *message;
    const ProtobufCFieldDescriptor *field;
};

static sl_status refuse_number(const struct place *place, double value, double min, double max)
{
    return sl_fail(SL_INVALID, "%s.%s %.10g; want %.10g..%.10g", place->message->short_name,
                   place->field->name, value, min, max);
}

/* UTF-8 without control characters. */
static bool text_fine(const char *text, size_t bytes)
{
    while (bytes > 0) {
        uint32_t code;
        int n = sl_utf8_next(text, bytes, &code);
        if (n <= 0 || code < 0x20 || (code >= 0x7f && code < 0xa0))
            return false;
        text += n;
        bytes -= (size_t)n;
    }
    return true;
}

static sl_status check_text(const struct place *place, const char *text, const struct limit *limit)
{
    size_t bytes = text == NULL ? 0 : strlen(text);
    size_t min = limit == NULL ? 0 : (size_t)limit->min;
    size_t max = limit == NULL ? RPC_TEXT_BYTES_MAX : (size_t)limit->max;
    if (bytes < min || bytes > max)
        return sl_fail(SL_INVALID, "%s.%s of %zu bytes; want %zu..%zu", place->message->short_name,
                       place->field->name, bytes, min, max);
    if (bytes > 0 && !text_fine(text, bytes))
        return sl_fail(SL_INVALID, "%s.%s is not UTF-8, or holds control characters",
                       place->message->short_name, place->field->name);
    return SL_OK;
}

static sl_status check_bytes(const struct place *place, const ProtobufCBinaryData *bytes,
                             const struct limit *limit)
{
    size_t min = limit == NULL ? 0 : (size_t)limit->min;
    size_t max = limit == NULL ? RPC_TEXT_BYTES_MAX : (size_t)limit->max;
    if (bytes->len < min || bytes->len > max)
        return sl_fail(SL_INVALID, "%s.%s of %zu bytes; want %zu..%zu", place->message->short_name,
                       place->field->name, bytes->len, min, max);
    return SL_OK;
}

static sl_status check_enum(const struct place *place, int32_t value, const struct limit *limit)
{
    const ProtobufCEnumDescriptor *known = place->field->descriptor;
    if (protobuf_c_enum_descriptor_get_value(known, value) == NULL)
        return sl_fail(SL_INVALID, "%s.%s %d is no value of %s", place->message->short_name,
                       place->field->name, value, known->short_name);
    if (limit != NULL && (value < limit->min || value > limit->max))
        return sl_fail(SL_INVALID, "%s.%s is missing", place->message->short_name,
                       place->field->name);
    return SL_OK;
}

static double number_at(const ProtobufCFieldDescriptor *field, const void *at)
{
    switch (field->type) {
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_SFIXED32:
        return *(const int32_t *)at;
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32:
        return *(const uint32_t *)at;
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
        return (double)*(const int64_t *)at;
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
        return (double)*(const uint64_t *)at;
    case PROTOBUF_C_TYPE_FLOAT:
        return (double)*(const float *)at;
    case PROTOBUF_C_TYPE_DOUBLE:
        return *(const double *)at;
    case PROTOBUF_C_TYPE_BOOL:
        return *(const protobuf_c_boolean *)at != 0;
    case PROTOBUF_C_TYPE_ENUM:
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_BYTES:
    case PROTOBUF_C_TYPE_MESSAGE:
    default:
        SL_ASSERT(false);
        return 0.0;
    }
}

static bool is_float(const ProtobufCFieldDescriptor *field)
{
    return field->type == PROTOBUF_C_TYPE_FLOAT || field->type == PROTOBUF_C_TYPE_DOUBLE;
}

static sl_status check_number(const struct place *place, const void *at, const struct limit *limit)
{
    double value = number_at(place->field, at);
    if (is_float(place->field) && !isfinite(value))
        return sl_fail(SL_INVALID, "%s.%s is not a finite number", place->message->short_name,
                       place->field->name);
    if (limit != NULL && !(value >= limit->min && value <= limit->max))
        return refuse_number(place, value, limit->min, limit->max);
    return SL_OK;
}

static sl_status check_message(const ProtobufCMessage *message);

static sl_status check_value(const struct place *place, const void *at, const struct limit *limit)
{
    switch (place->field->type) {
    case PROTOBUF_C_TYPE_STRING:
        return check_text(place, *(const char *const *)at, limit);
    case PROTOBUF_C_TYPE_BYTES:
        return check_bytes(place, at, limit);
    case PROTOBUF_C_TYPE_ENUM:
        return check_enum(place, *(const int32_t *)at, limit);
    case PROTOBUF_C_TYPE_MESSAGE: {
        const ProtobufCMessage *message = *(const ProtobufCMessage *const *)at;
        if (message != NULL)
            return check_message(message);
        if (limit == NULL && (place->field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) == 0)
            return SL_OK;
        return sl_fail(SL_INVALID, "%s.%s is missing", place->message->short_name,
                       place->field->name);
    }
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_SFIXED32:
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_FLOAT:
    case PROTOBUF_C_TYPE_DOUBLE:
    case PROTOBUF_C_TYPE_BOOL:
    default:
        return check_number(place, at, limit);
    }
}

static size_t element_bytes(const ProtobufCFieldDescriptor *field)
{
    switch (field->type) {
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_DOUBLE:
        return 8;
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_MESSAGE:
        return sizeof(void *);
    case PROTOBUF_C_TYPE_BYTES:
        return sizeof(ProtobufCBinaryData);
    case PROTOBUF_C_TYPE_BOOL:
        return sizeof(protobuf_c_boolean);
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_SFIXED32:
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_FLOAT:
    case PROTOBUF_C_TYPE_ENUM:
    default:
        return 4;
    }
}

static sl_status check_list(const struct place *place, const ProtobufCMessage *message,
                            const struct limit *limit)
{
    const char *base = (const char *)message;
    size_t n = *(const size_t *)(const void *)(base + place->field->quantifier_offset);
    size_t min = limit == NULL ? 0 : (size_t)limit->min;
    size_t max = limit == NULL ? 1 : (size_t)limit->max;
    if (n < min || n > max)
        return sl_fail(SL_INVALID, "%s.%s has %zu entries; want %zu..%zu",
                       place->message->short_name, place->field->name, n, min, max);
    const char *list = *(char *const *)(const void *)(base + place->field->offset);
    struct limit each = {.min = limit == NULL ? 0 : -limit->each_max,
                         .max = limit == NULL ? 0 : limit->each_max};
    bool limited = limit != NULL && limit->each_max > 0;
    size_t bytes = element_bytes(place->field);
    for (size_t i = 0; i < n; i++) {
        sl_status status = check_value(place, list + i * bytes, limited ? &each : NULL);
        if (status != SL_OK)
            return status;
    }
    return SL_OK;
}

static bool is_set(const ProtobufCFieldDescriptor *field, const ProtobufCMessage *message)
{
    if ((field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) == 0)
        return true;
    const char *base = (const char *)message;
    return *(const uint32_t *)(const void *)(base + field->quantifier_offset) == field->id;
}

static sl_status check_message(const ProtobufCMessage *message)
{
    const ProtobufCMessageDescriptor *descriptor = message->descriptor;
    const struct rule *rule = rule_of(descriptor);
    for (unsigned i = 0; i < descriptor->n_fields; i++) {
        struct place place = {.message = descriptor, .field = &descriptor->fields[i]};
        if (!is_set(place.field, message))
            continue;
        const struct limit *limit = limit_of(rule, place.field->offset);
        const void *at = (const char *)message + place.field->offset;
        sl_status status = place.field->label == PROTOBUF_C_LABEL_REPEATED
                               ? check_list(&place, message, limit)
                               : check_value(&place, at, limit);
        if (status != SL_OK)
            return status;
    }
    return rule == NULL || rule->agree == NULL ? SL_OK : rule->agree(message);
}

static sl_status check_protocol(const char *field, uint32_t protocol)
{
    if (protocol != RPC_PROTOCOL)
        return sl_fail(SL_UNSUPPORTED, "%s %u; this version speaks %u", field, protocol,
                       RPC_PROTOCOL);
    return SL_OK;
}

sl_status rpc_check_node_message(const Sluice__NodeMessage *message)
{
    if (message->body_case == SLUICE__NODE_MESSAGE__BODY__NOT_SET)
        return sl_fail(SL_INVALID, "NodeMessage.body is missing or of a kind unknown here");
    if (message->body_case == SLUICE__NODE_MESSAGE__BODY_HELLO && message->hello != NULL) {
        sl_status status = check_protocol("Hello.protocol", message->hello->protocol);
        if (status != SL_OK)
            return status;
    }
    return check_message(&message->base);
}

sl_status rpc_check_coordinator_message(const Sluice__CoordinatorMessage *message)
{
    if (message->body_case == SLUICE__COORDINATOR_MESSAGE__BODY__NOT_SET)
        return sl_fail(SL_INVALID, "CoordinatorMessage.body is missing or of a kind unknown here");
    if (message->body_case == SLUICE__COORDINATOR_MESSAGE__BODY_WELCOME &&
        message->welcome != NULL) {
        sl_status status = check_protocol("Welcome.protocol", message->welcome->protocol);
        if (status != SL_OK)
            return status;
    }
    return check_message(&message->base);
}

/* Checks of messages: each rule is broken once, starting from a message that passes; what bytes can
 * say wrong that structs cannot; and random bytes. */
#include "proto/check.h"

#include "proto/message.h"
#include "support/support.h"
#include "support/torture.h"

#include <math.h>

#define NAN_F ((float)NAN)

/* ---- a valid message of each kind that has rules between fields ---- */

static uint8_t hash_bytes[RPC_HASH_BYTES];
static uint8_t address_bytes[] = {1, 2, 3};
static char node_id[] = "p0";

struct sample {
    Sluice__Rank rank;
    Sluice__Rank *ranks[2];
    Sluice__Hello hello;
    Sluice__Load load;
    Sluice__StepSample step;
    Sluice__StepSample *steps[1];
    uint64_t failures[16];
    Sluice__TransferTotals totals;
    Sluice__TransferTotals *totals_list[1];
    Sluice__Heartbeat heartbeat;
    uint32_t ids[4];
    float tops[2];
    uint32_t top_ids[2];
    Sluice__Logprob logprob;
    Sluice__Logprob *logprobs[4];
    Sluice__TokenRun run;
    Sluice__TokenRun *runs[1];
    Sluice__TokenRuns token_runs;
    Sluice__StageTimes times;
    Sluice__Finished finished;
    Sluice__CacheEvent event;
    Sluice__CacheEvent *events[1];
    Sluice__CacheEvents cache_events;
    uint8_t hashes[3 * RPC_HASH_BYTES];
    Sluice__CacheSnapshot snapshot;
    Sluice__Welcome welcome;
    Sluice__Sampling sampling;
    Sluice__Peer peer;
    Sluice__Submit submit;
    Sluice__SubmitPart part;
    Sluice__Redirect redirect;
    Sluice__NodeMessage up;
    Sluice__CoordinatorMessage down;
};

static ProtobufCBinaryData bytes_of(uint8_t *bytes, size_t n)
{
    return (ProtobufCBinaryData){.len = n, .data = bytes};
}

static void fill_up(struct sample *s)
{
    sluice__rank__init(&s->rank);
    s->rank.address = bytes_of(address_bytes, sizeof(address_bytes));
    s->ranks[0] = s->ranks[1] = &s->rank;
    sluice__hello__init(&s->hello);
    s->hello.protocol = RPC_PROTOCOL;
    s->hello.node_id = node_id;
    s->hello.role = SLUICE__ROLE__ROLE_DECODE;
    s->hello.incarnation = 9;
    s->hello.ready = true;
    s->hello.identity = s->hello.layout = bytes_of(hash_bytes, RPC_HASH_BYTES);
    s->hello.vocab = s->hello.context_max = s->hello.blocks_total = s->hello.seqs_max = 1000;
    s->hello.block_tokens = s->hello.chunk_tokens = 64;
    s->hello.block_bytes = 65536;
    s->hello.ranks = s->ranks;
    s->hello.n_ranks = 2;
    sluice__load__init(&s->load);
    sluice__step_sample__init(&s->step);
    s->steps[0] = &s->step;
    sluice__transfer_totals__init(&s->totals);
    s->totals.src = s->totals.dst = node_id;
    s->totals.failures = s->failures;
    s->totals.n_failures = 16;
    s->totals_list[0] = &s->totals;
    sluice__heartbeat__init(&s->heartbeat);
    s->heartbeat.load = &s->load;
    s->heartbeat.samples = s->steps;
    s->heartbeat.n_samples = 1;
    s->heartbeat.transfers = s->totals_list;
    s->heartbeat.n_transfers = 1;
    sluice__logprob__init(&s->logprob);
    s->logprob.top = s->tops;
    s->logprob.top_ids = s->top_ids;
    s->logprob.n_top = s->logprob.n_top_ids = 2;
    for (int i = 0; i < 4; i++)
        s->logprobs[i] = &s->logprob;
    sluice__token_run__init(&s->run);
    s->run.request = 1;
    s->run.tokens = s->ids;
    s->run.n_tokens = 4;
    s->run.logprobs = s->logprobs;
    s->run.n_logprobs = 4;
    s->runs[0] = &s->run;
    sluice__token_runs__init(&s->token_runs);
    s->token_runs.runs = s->runs;
    s->token_runs.n_runs = 1;
}

static void fill_rest(struct sample *s)
{
    sluice__stage_times__init(&s->times);
    sluice__finished__init(&s->finished);
    s->finished.request = 1;
    s->finished.finish = SLUICE__FINISH__FINISH_STOP;
    s->finished.times = &s->times;
    sluice__cache_event__init(&s->event);
    s->event.hash = bytes_of(hash_bytes, RPC_HASH_BYTES);
    s->events[0] = &s->event;
    sluice__cache_events__init(&s->cache_events);
    s->cache_events.first_seq = 1;
    s->cache_events.events = s->events;
    s->cache_events.n_events = 1;
    sluice__cache_snapshot__init(&s->snapshot);
    s->snapshot.n_parts = 2;
    s->snapshot.part = 1;
    s->snapshot.hashes = bytes_of(s->hashes, sizeof(s->hashes));
    sluice__welcome__init(&s->welcome);
    s->welcome.protocol = RPC_PROTOCOL;
    s->welcome.coordinator = 1;
    s->welcome.heartbeat_us = 1000000;
    s->welcome.dead_us = 5000000;
    sluice__sampling__init(&s->sampling);
    sluice__peer__init(&s->peer);
    s->peer.node_id = node_id;
    s->peer.incarnation = 3;
    s->peer.ranks = s->ranks;
    s->peer.n_ranks = 1;
    sluice__submit__init(&s->submit);
    s->submit.incarnation = s->submit.request = 1;
    s->submit.mode = SLUICE__MODE__MODE_PREFILL;
    s->submit.sampling = &s->sampling;
    s->submit.peer = &s->peer;
    s->submit.stream_key = 5;
    s->submit.tokens = s->ids;
    s->submit.n_tokens = s->submit.total_tokens = 4;
    s->submit.prompt_tokens = 3;
    s->submit.first_index = 1;
    s->submit.max_tokens = 2;
    sluice__submit_part__init(&s->part);
    s->part.request = 1;
    s->part.tokens = s->ids;
    s->part.n_tokens = 4;
    sluice__redirect__init(&s->redirect);
    s->redirect.request = s->redirect.stream_key = s->redirect.attempt = 1;
    s->redirect.peer = &s->peer;
}

static void sample_fill(struct sample *s)
{
    memset(s, 0, sizeof(*s));
    fill_up(s);
    fill_rest(s);
    sluice__node_message__init(&s->up);
    sluice__coordinator_message__init(&s->down);
}

#define UP(s, kind, member)                                                                        \
    ((s)->up.body_case = SLUICE__NODE_MESSAGE__BODY_##kind, (s)->up.member = &(s)->member)
#define DOWN(s, kind, member)                                                                      \
    ((s)->down.body_case = SLUICE__COORDINATOR_MESSAGE__BODY_##kind,                               \
     (s)->down.member = &(s)->member)

static sl_status check_hello(struct sample *s)
{
    UP(s, HELLO, hello);
    return rpc_check_node_message(&s->up);
}
static sl_status check_heartbeat(struct sample *s)
{
    UP(s, HEARTBEAT, heartbeat);
    return rpc_check_node_message(&s->up);
}
static sl_status check_tokens(struct sample *s)
{
    s->up.body_case = SLUICE__NODE_MESSAGE__BODY_TOKENS;
    s->up.tokens = &s->token_runs;
    return rpc_check_node_message(&s->up);
}
static sl_status check_finished(struct sample *s)
{
    UP(s, FINISHED, finished);
    return rpc_check_node_message(&s->up);
}
static sl_status check_events(struct sample *s)
{
    UP(s, CACHE_EVENTS, cache_events);
    return rpc_check_node_message(&s->up);
}
static sl_status check_snapshot(struct sample *s)
{
    s->up.body_case = SLUICE__NODE_MESSAGE__BODY_CACHE_SNAPSHOT;
    s->up.cache_snapshot = &s->snapshot;
    return rpc_check_node_message(&s->up);
}
static sl_status check_welcome(struct sample *s)
{
    DOWN(s, WELCOME, welcome);
    return rpc_check_coordinator_message(&s->down);
}
static sl_status check_submit(struct sample *s)
{
    DOWN(s, SUBMIT, submit);
    return rpc_check_coordinator_message(&s->down);
}
static sl_status check_part(struct sample *s)
{
    s->down.body_case = SLUICE__COORDINATOR_MESSAGE__BODY_SUBMIT_PART;
    s->down.submit_part = &s->part;
    return rpc_check_coordinator_message(&s->down);
}
static sl_status check_redirect(struct sample *s)
{
    DOWN(s, REDIRECT, redirect);
    return rpc_check_coordinator_message(&s->down);
}

/* After `change`, `check` refuses with a sentence that has `part`; before it, it passes. */
#define REFUSED(check, part, change)                                                               \
    do {                                                                                           \
        struct sample s_, *s = &s_;                                                                \
        sample_fill(s);                                                                            \
        assert_ok(check(s));                                                                       \
        change;                                                                                    \
        assert_fails(check(s), SL_INVALID, part);                                                  \
    } while (0)

static void test_hello(void **state)
{
    (void)state;
    static char long_id[] = "0123456789abcdef", spaced[] = "p 0", broken[] = "p\xff", empty[] = "",
                control[] = "a\nb", surrogate[] = "\xed\xa0\x80", overlong[] = "\xc0\xaf",
                cut[] = "\xe2\x82";
    REFUSED(check_hello, "Hello.node_id of 16 bytes; want 1..15", s->hello.node_id = long_id);
    REFUSED(check_hello, "Hello.node_id of 0 bytes", s->hello.node_id = empty);
    REFUSED(check_hello, "Hello.node_id \"p 0\"", s->hello.node_id = spaced);
    REFUSED(check_hello, "Hello.node_id is not UTF-8", s->hello.node_id = broken);
    REFUSED(check_hello, "Hello.version is not UTF-8", s->hello.version = control);
    REFUSED(check_hello, "Hello.version is not UTF-8", s->hello.version = surrogate);
    REFUSED(check_hello, "Hello.version is not UTF-8", s->hello.version = overlong);
    REFUSED(check_hello, "Hello.version is not UTF-8", s->hello.version = cut);
    REFUSED(check_hello, "Hello.role is missing", s->hello.role = SLUICE__ROLE__ROLE_NONE);
    REFUSED(check_hello, "Hello.role 7 is no value of Role", s->hello.role = (Sluice__Role)7);
    REFUSED(check_hello, "Hello.incarnation 0", s->hello.incarnation = 0);
    REFUSED(check_hello, "Hello.identity of 15", s->hello.identity.len = 15);
    REFUSED(check_hello, "Hello.layout of 0", s->hello.layout.len = 0);
    REFUSED(check_hello, "Hello.identity of 17 bytes; want 0..16", s->hello.identity.len = 17);
    REFUSED(check_hello, "lacks vocab 0", s->hello.vocab = 0);
    REFUSED(check_hello, "Hello.vocab 16777217; want 0..16777216",
            s->hello.vocab = RPC_VOCAB_MAX + 1);
    REFUSED(check_hello, "ranks 0", s->hello.n_ranks = 0);
    REFUSED(check_hello, "Hello.ranks has 65 entries; want 0..64", s->hello.n_ranks = 65);
    REFUSED(check_hello, "Rank.address of 0 bytes", s->rank.address.len = 0);
    REFUSED(check_hello, "Rank.address of 4097", s->rank.address.len = 4097);
    struct sample s;
    sample_fill(&s);
    s.hello.ready = false; /* then the model is not known yet */
    s.hello.vocab = s.hello.blocks_total = 0;
    s.hello.n_ranks = s.hello.identity.len = 0;
    assert_ok(check_hello(&s));
    s.hello.protocol = 2;
    s.hello.node_id = long_id; /* another protocol comes first */
    assert_fails(check_hello(&s), SL_UNSUPPORTED, "Hello.protocol 2; this version speaks 1");
}

static void test_heartbeat(void **state)
{
    (void)state;
    static char slash[] = "a/b";
    REFUSED(check_heartbeat, "Heartbeat.load is missing", s->heartbeat.load = NULL);
    REFUSED(check_heartbeat, "Heartbeat.samples has 33", s->heartbeat.n_samples = 33);
    REFUSED(check_heartbeat, "Heartbeat.transfers has 513", s->heartbeat.n_transfers = 513);
    REFUSED(check_heartbeat, "TransferTotals.dst \"a/b\"", s->totals.dst = slash);
    REFUSED(check_heartbeat, "TransferTotals.failures has 33", s->totals.n_failures = 33);
    REFUSED(check_heartbeat, "StepSample.compute_us", s->step.compute_us = UINT64_MAX);
    REFUSED(check_heartbeat, "Load.blocks_free", s->load.blocks_free = UINT32_MAX);
}

static void test_tokens(void **state)
{
    (void)state;
    REFUSED(check_tokens, "TokenRuns.runs has 0", s->token_runs.n_runs = 0);
    REFUSED(check_tokens, "TokenRun.request 0", s->run.request = 0);
    REFUSED(check_tokens, "TokenRun.tokens has 0", s->run.n_tokens = 0);
    REFUSED(check_tokens, "TokenRun.tokens 4294967295", s->ids[2] = UINT32_MAX);
    REFUSED(check_tokens, "TokenRun.logprobs has 3 entries; want none or 4", s->run.n_logprobs = 3);
    REFUSED(check_tokens, "Logprob.top_ids has 1 entries, Logprob.top 2", s->logprob.n_top_ids = 1);
    REFUSED(check_tokens, "Logprob.sampled is not a finite", s->logprob.sampled = NAN_F);
    REFUSED(check_tokens, "Logprob.top is not a finite", s->tops[1] = -(float)INFINITY);
    REFUSED(check_tokens, "Logprob.top has 21", s->logprob.n_top = 21);
    struct sample s;
    sample_fill(&s);
    s.run.n_logprobs = 0;
    assert_ok(check_tokens(&s));
}

static void test_ends_and_cache(void **state)
{
    (void)state;
    REFUSED(check_finished, "Finished.times is missing", s->finished.times = NULL);
    REFUSED(check_finished, "Finished.finish is missing", s->finished.finish = 0);
    REFUSED(check_finished, "Finished.finish 6", s->finished.finish = (Sluice__Finish)6);
    REFUSED(check_finished, "StageTimes.decode_us", s->times.decode_us = UINT64_MAX);
    REFUSED(check_events, "CacheEvent.hash of 15 bytes; want 16..16", s->event.hash.len = 15);
    REFUSED(check_events, "CacheEvents.first_seq 0", s->cache_events.first_seq = 0);
    REFUSED(check_events, "overflows", s->cache_events.first_seq = UINT64_MAX);
    REFUSED(check_events, "CacheEvents.events has 0", s->cache_events.n_events = 0);
    REFUSED(check_snapshot, "CacheSnapshot.part 2; want below n_parts 2", s->snapshot.part = 2);
    REFUSED(check_snapshot, "CacheSnapshot.hashes of 47", s->snapshot.hashes.len = 47);
    REFUSED(check_snapshot, "CacheSnapshot.n_parts 0", s->snapshot.n_parts = 0);
}

/* Lists of a Sampling that must agree with each other. */
static void adjustments(void)
{
    static uint32_t ids[RPC_WORD_IDS_MAX + 1], lengths[] = {2, 1};
    static float biases[RPC_BIASES_MAX + 1] = {-100, 100};
    struct sample s;
    sample_fill(&s);
    s.sampling.bias_ids = s.sampling.word_ids = ids;
    s.sampling.biases = biases;
    s.sampling.word_lengths = lengths;
    s.sampling.n_bias_ids = s.sampling.n_biases = 2;
    s.sampling.n_word_lengths = 2;
    s.sampling.n_word_ids = 3;
    assert_ok(check_submit(&s));
    s.sampling.n_biases = 1;
    assert_fails(check_submit(&s), SL_INVALID, "bias_ids has 2 entries, Sampling.biases 1");
    s.sampling.n_bias_ids = s.sampling.n_biases = RPC_BIASES_MAX + 1;
    assert_fails(check_submit(&s), SL_INVALID, "bias_ids has 1025 entries; want 0..1024");
    s.sampling.n_bias_ids = s.sampling.n_biases = 2;
    biases[1] = 100.5f;
    assert_fails(check_submit(&s), SL_INVALID, "Sampling.biases 100.5; want -100..100");
    biases[1] = 100;
    ids[0] = RPC_VOCAB_MAX;
    assert_fails(check_submit(&s), SL_INVALID, "Sampling.bias_ids 16777216");
    ids[0] = 0;
    s.sampling.n_word_ids = 4;
    assert_fails(check_submit(&s), SL_INVALID, "word_lengths add up to 3");
    s.sampling.n_word_ids = 2;
    lengths[1] = 0;
    assert_fails(check_submit(&s), SL_INVALID, "word_lengths[1] is 0");
    lengths[1] = 1;
}

static void test_submit(void **state)
{
    (void)state;
    REFUSED(check_submit, "Submit.prompt_tokens 5; at most total_tokens 4",
            s->submit.prompt_tokens = 5);
    REFUSED(check_submit, "Submit.first_index 0; want", s->submit.first_index = 0);
    REFUSED(check_submit, "Submit.max_tokens 1; want above first_index 1",
            s->submit.max_tokens = 1);
    REFUSED(check_submit, "peer is missing", s->submit.peer = NULL);
    REFUSED(check_submit, "stream_key is missing", s->submit.stream_key = 0);
    REFUSED(check_submit, "Submit.sampling is missing", s->submit.sampling = NULL);
    REFUSED(check_submit, "Submit.mode is missing", s->submit.mode = SLUICE__MODE__MODE_NONE);
    REFUSED(check_submit, "Submit.tokens has 0", s->submit.n_tokens = 0);
    REFUSED(check_submit, "cannot make total_tokens 4", s->submit.n_tokens = 3);
    REFUSED(check_submit, "cannot make total_tokens 4", s->submit.n_parts = 1);
    REFUSED(check_submit, "Submit.n_parts 513", s->submit.n_parts = 513);
    REFUSED(check_submit, "Submit.salt of 33", s->submit.salt.len = 33);
    REFUSED(check_submit, "Sampling.temperature is not", s->sampling.temperature = NAN_F);
    REFUSED(check_submit, "Sampling.temperature -1", s->sampling.temperature = -1.0f);
    REFUSED(check_submit, "Sampling.top_p 1.5; want 0..1", s->sampling.top_p = 1.5f);
    REFUSED(check_submit, "Sampling.logprobs -2; want -1..20", s->sampling.logprobs = -2);
    REFUSED(check_submit, "Sampling.stop_ids has 257", s->sampling.n_stop_ids = 257);
    REFUSED(check_submit, "Sampling.repetition_penalty -1; want 0..100",
            s->sampling.repetition_penalty = -1);
    REFUSED(check_submit, "Sampling.presence_penalty 2.5; want -2..2",
            s->sampling.presence_penalty = 2.5f);
    REFUSED(check_submit, "Sampling.frequency_penalty is not",
            s->sampling.frequency_penalty = NAN_F);
    REFUSED(check_submit, "Peer.ranks has 0", s->peer.n_ranks = 0);
    REFUSED(check_submit, "Peer.incarnation 0", s->peer.incarnation = 0);
    adjustments();
    struct sample s;
    sample_fill(&s);
    s.submit.mode = SLUICE__MODE__MODE_LOCAL;
    s.submit.peer = NULL;
    s.submit.stream_key = 0;
    assert_ok(check_submit(&s));
    s.submit.n_parts = 2; /* 4 here, and between 2 and 65536 more */
    s.submit.total_tokens = 6;
    s.submit.first_index = 3;
    s.submit.max_tokens = 4;
    assert_ok(check_submit(&s));
    s.submit.total_tokens = 4 + 2 * RPC_SUBMIT_TOKENS_MAX + 1;
    s.submit.prompt_tokens = s.submit.total_tokens;
    s.submit.first_index = 0;
    assert_fails(check_submit(&s), SL_INVALID, "cannot make");
}

static void test_other_coordinator_messages(void **state)
{
    (void)state;
    REFUSED(check_part, "SubmitPart.tokens has 0", s->part.n_tokens = 0);
    REFUSED(check_part, "SubmitPart.part 512", s->part.part = 512);
    REFUSED(check_redirect, "Redirect.attempt 1; want above old_attempt 1",
            s->redirect.old_attempt = 1);
    REFUSED(check_redirect, "Redirect.peer is missing", s->redirect.peer = NULL);
    REFUSED(check_redirect, "Redirect.stream_key 0", s->redirect.stream_key = 0);
    REFUSED(check_welcome, "Welcome.dead_us 1500000; want at least two",
            s->welcome.dead_us = 1500000);
    REFUSED(check_welcome, "Welcome.heartbeat_us 0", s->welcome.heartbeat_us = 0);
    struct sample s;
    sample_fill(&s);
    s.welcome.protocol = 0;
    assert_fails(check_welcome(&s), SL_UNSUPPORTED, "Welcome.protocol 0");
    Sluice__CoordinatorMessage none = SLUICE__COORDINATOR_MESSAGE__INIT;
    assert_fails(rpc_check_coordinator_message(&none), SL_INVALID, "body is missing");
}

/* Lists and bytes without a limit would fall to the default of one element. */
static void visit(const ProtobufCMessageDescriptor *message)
{
    for (unsigned i = 0; i < message->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &message->fields[i];
        bool wants =
            field->label == PROTOBUF_C_LABEL_REPEATED || field->type == PROTOBUF_C_TYPE_BYTES;
        if (wants && !rpc_check_limits(message, field))
            fail_msg("%s.%s has no limit", message->short_name, field->name);
        if (field->type == PROTOBUF_C_TYPE_MESSAGE)
            visit(field->descriptor);
    }
}

static void test_every_list_has_a_limit(void **state)
{
    (void)state;
    visit(&sluice__node_message__descriptor);
    visit(&sluice__coordinator_message__descriptor);
}

/* ---- bytes ---- */

static size_t pack(const struct sample *s, uint8_t *bytes, size_t max)
{
    size_t n = protobuf_c_message_get_packed_size(&s->up.base);
    assert_true(n <= max);
    protobuf_c_message_pack(&s->up.base, bytes);
    return n;
}

static void test_round_trip_and_every_cut(void **state)
{
    (void)state;
    struct sample s;
    sample_fill(&s);
    UP(&s, HELLO, hello);
    uint8_t bytes[512];
    size_t n = pack(&s, bytes, sizeof(bytes));
    Sluice__NodeMessage *message;
    assert_ok(rpc_node_message_unpack(bytes, n, &message));
    assert_string_equal(message->hello->node_id, "p0");
    assert_int_equal(message->hello->n_ranks, 2);
    assert_memory_equal(message->hello->ranks[1]->address.data, address_bytes, 3);
    rpc_node_message_free(message);
    for (size_t cut = 0; cut < n; cut++) {
        uint8_t *exact = sl_try_zalloc(1, cut); /* so that ASan sees a read past the end */
        memcpy(exact, bytes, cut);
        assert_int_equal(rpc_node_message_unpack(exact, cut, &message), SL_INVALID);
        sl_free(exact);
    }
}

static void test_unknown_kind_and_oversize(void **state)
{
    (void)state;
    Sluice__NodeMessage *message;
    const uint8_t unknown[] = {0xfa, 0x01, 0x00}; /* field 31, empty */
    assert_fails(rpc_node_message_unpack(unknown, sizeof(unknown), &message), SL_INVALID,
                 "body is missing or of a kind unknown");
    static uint8_t large[RPC_MESSAGE_BYTES_MAX + 1];
    assert_fails(rpc_node_message_unpack(large, sizeof(large), &message), SL_INVALID,
                 "at most 262144");
}

/* Two bytes on the wire for each of 100,000 empty events. */
static void test_memory_bomb(void **state)
{
    (void)state;
    enum { N = 120000, INNER = 2 * N };
    uint8_t *bytes = sl_try_zalloc(1, INNER + 8);
    size_t n = 0;
    bytes[n++] = 0x42; /* cache_events */
    bytes[n++] = (uint8_t)(INNER & 0x7f) | 0x80;
    bytes[n++] = (uint8_t)(INNER >> 7 & 0x7f) | 0x80;
    bytes[n++] = (uint8_t)(INNER >> 14);
    for (int i = 0; i < N; i++) {
        bytes[n++] = 0x12; /* events */
        bytes[n++] = 0x00;
    }
    Sluice__NodeMessage *message;
    assert_fails(rpc_node_message_unpack(bytes, n, &message), SL_NO_MEMORY, "to unpack");
    sl_free(bytes);
}

static void test_random_bytes(void **state)
{
    (void)state;
    struct sample s;
    uint64_t random = 1;
    uint8_t bytes[1024];
    uint32_t passed = 0;
    for (int round = 0; round < 20000; round++) {
        sample_fill(&s);
        switch (round % 4) {
        case 0:
            UP(&s, HELLO, hello);
            break;
        case 1:
            UP(&s, HEARTBEAT, heartbeat);
            break;
        case 2:
            UP(&s, FINISHED, finished);
            break;
        default:
            s.up.body_case = SLUICE__NODE_MESSAGE__BODY_TOKENS;
            s.up.tokens = &s.token_runs;
            break;
        }
        size_t n = pack(&s, bytes, sizeof(bytes));
        for (int flips = 0; flips < 3; flips++) {
            random = random * 6364136223846793005ull + 1442695040888963407ull;
            bytes[(random >> 33) % n] ^= (uint8_t)(1u << (random >> 60 & 7));
        }
        Sluice__NodeMessage *message;
        sl_status status = rpc_node_message_unpack(bytes, n, &message);
        if (status == SL_OK) {
            passed++;
            assert_true(rpc_check_node_message(message) == SL_OK);
            rpc_node_message_free(message);
        } else {
            assert_true(status == SL_INVALID || status == SL_UNSUPPORTED || status == SL_NO_MEMORY);
        }
    }
    assert_true(passed > 100 && passed < 19000);
}

static sl_status unpack_scenario(void *arg)
{
    (void)arg;
    struct sample s;
    sample_fill(&s);
    UP(&s, HEARTBEAT, heartbeat);
    uint8_t bytes[512];
    size_t n = pack(&s, bytes, sizeof(bytes));
    Sluice__NodeMessage *message;
    sl_status status = rpc_node_message_unpack(bytes, n, &message);
    if (status == SL_OK)
        rpc_node_message_free(message);
    else
        assert_int_equal(status, SL_NO_MEMORY);
    return status;
}

static void test_unpack_torture(void **state)
{
    (void)state;
    torture_run("unpack", unpack_scenario, NULL, NULL, 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hello),
        cmocka_unit_test(test_heartbeat),
        cmocka_unit_test(test_tokens),
        cmocka_unit_test(test_ends_and_cache),
        cmocka_unit_test(test_submit),
        cmocka_unit_test(test_other_coordinator_messages),
        cmocka_unit_test(test_every_list_has_a_limit),
        cmocka_unit_test(test_round_trip_and_every_cut),
        cmocka_unit_test(test_unknown_kind_and_oversize),
        cmocka_unit_test(test_memory_bomb),
        cmocka_unit_test(test_random_bytes),
        cmocka_unit_test(test_unpack_torture),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

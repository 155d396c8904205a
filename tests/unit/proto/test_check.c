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
    Sluice__PromptScores scores;
    Sluice__StageTimes times;
    Sluice__Finished finished;
    Sluice__CacheEvent event;
    Sluice__CacheEvent *events[2];
    Sluice__CacheEvents cache_events;
    uint8_t hashes[3 * RPC_HASH_BYTES];
    Sluice__CacheSnapshot snapshot;
    Sluice__Welcome welcome;
    Sluice__Sampling sampling;
    Sluice__Peer peer;
    Sluice__Submit submit;
    Sluice__SubmitPart part;
    Sluice__Redirect redirect;
    Sluice__Admitted admitted;
    Sluice__Refused refused;
    Sluice__StreamFailed failed;
    Sluice__Beat beat;
    Sluice__Cancel cancel;
    Sluice__Release release;
    Sluice__Drain drain;
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
    s->hello.vocab = s->hello.context_max = s->hello.blocks_total = 1000;
    s->hello.block_tokens = 64;
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
    sluice__prompt_scores__init(&s->scores);
    s->scores.request = s->scores.first_position = 1;
    s->scores.scores = s->logprobs;
    s->scores.n_scores = 4;
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
    s->events[0] = s->events[1] = &s->event;
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

static void fill_short_ones(struct sample *s)
{
    sluice__admitted__init(&s->admitted);
    sluice__refused__init(&s->refused);
    sluice__stream_failed__init(&s->failed);
    sluice__beat__init(&s->beat);
    sluice__cancel__init(&s->cancel);
    sluice__release__init(&s->release);
    sluice__drain__init(&s->drain);
    s->admitted.request = s->refused.request = s->failed.request = 1;
    s->cancel.request = s->release.request = 1;
    s->refused.reason = s->failed.reason = SLUICE__REASON__REASON_FULL;
}

static void sample_fill(struct sample *s)
{
    memset(s, 0, sizeof(*s));
    fill_up(s);
    fill_rest(s);
    fill_short_ones(s);
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
static sl_status check_scores(struct sample *s)
{
    s->up.body_case = SLUICE__NODE_MESSAGE__BODY_PROMPT_SCORES;
    s->up.prompt_scores = &s->scores;
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

#define CHECK_UP(name, kind, member)                                                               \
    static sl_status check_##name(struct sample *s)                                                \
    {                                                                                              \
        s->up.body_case = SLUICE__NODE_MESSAGE__BODY_##kind;                                       \
        s->up.member = &s->name;                                                                   \
        return rpc_check_node_message(&s->up);                                                     \
    }
#define CHECK_DOWN(name, kind, member)                                                             \
    static sl_status check_##name(struct sample *s)                                                \
    {                                                                                              \
        s->down.body_case = SLUICE__COORDINATOR_MESSAGE__BODY_##kind;                              \
        s->down.member = &s->name;                                                                 \
        return rpc_check_coordinator_message(&s->down);                                            \
    }
CHECK_UP(admitted, ADMITTED, admitted)
CHECK_UP(refused, REFUSED, refused)
CHECK_UP(failed, STREAM_FAILED, stream_failed)
CHECK_DOWN(cancel, CANCEL, cancel)
CHECK_DOWN(release, RELEASE, release)
CHECK_DOWN(drain, DRAIN, drain)

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
    REFUSED(check_hello, "context_max 0", s->hello.context_max = 0);
    REFUSED(check_hello, "block_tokens 0", s->hello.block_tokens = 0);
    REFUSED(check_hello, "block_bytes 0", s->hello.block_bytes = 0);
    REFUSED(check_hello, "Hello.window_block_bytes 65537; they are of block_bytes 65536",
            s->hello.window_block_bytes = 65537);
    REFUSED(check_hello, "blocks_total 0", s->hello.blocks_total = 0);
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

static void test_characters(void **state)
{
    (void)state;
    struct sample s;
    sample_fill(&s);
    char id[2] = "";
    s.hello.node_id = id;
    for (int c = 1; c < 128; c++) {
        id[0] = (char)c;
        bool fine =
            strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.", c) != NULL;
        assert_int_equal(check_hello(&s), fine ? SL_OK : SL_INVALID);
    }
    s.hello.node_id = node_id;
    char text[8];
    s.hello.version = text;
    static const char *const fine[] = {" ",
                                       "~",
                                       "\xc2\xa0",
                                       "\xdf\xbf",
                                       "\xe0\xa0\x80",
                                       "\xed\x9f\xbf",
                                       "\xee\x80\x80",
                                       "\xef\xbf\xbf",
                                       "\xf0\x90\x80\x80",
                                       "\xf4\x8f\xbf\xbf",
                                       "a\xc3\xa9z"};
    for (size_t i = 0; i < sizeof(fine) / sizeof(fine[0]); i++) {
        snprintf(text, sizeof(text), "%s", fine[i]);
        assert_ok(check_hello(&s));
    }
    static const char *const wrong[] = {"\x1f",
                                        "\x7f",
                                        "\xc2\x80",
                                        "\xc2\x9f",
                                        "\xc1\xbf",
                                        "\x80",
                                        "\xe0\x9f\xbf",
                                        "\xed\xa0\x80",
                                        "\xed\xbf\xbf",
                                        "\xf0\x8f\xbf\xbf",
                                        "\xf4\x90\x80\x80",
                                        "\xf5\x80\x80\x80",
                                        "\xe2\x82z",
                                        "\xc3\xc3"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        snprintf(text, sizeof(text), "%s", wrong[i]);
        assert_fails(check_hello(&s), SL_INVALID, "Hello.version is not UTF-8");
    }
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
    REFUSED(check_scores, "PromptScores.request 0", s->scores.request = 0);
    REFUSED(check_scores, "PromptScores.first_position 0", s->scores.first_position = 0);
    REFUSED(check_scores, "PromptScores.scores has 0", s->scores.n_scores = 0);
    REFUSED(check_scores, "PromptScores.scores has 1025", s->scores.n_scores = 1025);
    REFUSED(check_scores, "Logprob.rank", s->logprob.rank = RPC_VOCAB_MAX + 1);
    REFUSED(check_scores, "Logprob.top_ids has 1 entries, Logprob.top 2", s->logprob.n_top_ids = 1);
    REFUSED(check_submit, "Sampling.prompt_logprobs 22; want 0..21",
            s->sampling.prompt_logprobs = 22);
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
    static char long_id[] = "0123456789abcdef";
    REFUSED(check_finished, "Finished.times is missing", s->finished.times = NULL);
    REFUSED(check_finished, "Finished.finish is missing", s->finished.finish = 0);
    REFUSED(check_finished, "Finished.finish 6", s->finished.finish = (Sluice__Finish)6);
    REFUSED(check_finished, "Finished.destination of 16 bytes; want 0..15",
            s->finished.destination = long_id);
    REFUSED(check_finished, "StageTimes.handover_us", s->times.handover_us = UINT64_MAX);
    REFUSED(check_events, "CacheEvent.hash of 15 bytes; want 16..16", s->event.hash.len = 15);
    REFUSED(check_events, "CacheEvents.first_seq 0", s->cache_events.first_seq = 0);
    REFUSED(check_events, "overflows", s->cache_events.first_seq = UINT64_MAX);
    REFUSED(check_events, "overflows",
            (s->cache_events.first_seq = UINT64_MAX - 1, s->cache_events.n_events = 2));
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
    REFUSED(check_redirect, "Redirect.peer is missing", s->redirect.peer = NULL);
    REFUSED(check_redirect, "Redirect.stream_key 0", s->redirect.stream_key = 0);
    REFUSED(check_welcome, "Welcome.dead_us 1500000; want at least two",
            s->welcome.dead_us = 1500000);
    REFUSED(check_welcome, "Welcome.heartbeat_us 0", s->welcome.heartbeat_us = 0);
    struct sample s;
    sample_fill(&s);
    s.welcome.dead_us = 2000000; /* two heartbeats are enough */
    assert_ok(check_welcome(&s));
    s.welcome.protocol = 0;
    assert_fails(check_welcome(&s), SL_UNSUPPORTED, "Welcome.protocol 0");
    Sluice__CoordinatorMessage none = SLUICE__COORDINATOR_MESSAGE__INIT;
    assert_fails(rpc_check_coordinator_message(&none), SL_INVALID, "body is missing");
}

/* ---- every limit of the tables, from both sides ---- */

struct bound {
    sl_status (*check)(struct sample *s);
    const char *field; /* as sentences name it */
    size_t offset, bytes;
    uint64_t limit;
};

#define FIELD(check, name, member) check, name, offsetof(struct sample, member)
#define NUMBER(check, name, member, limit)                                                         \
    {                                                                                              \
        FIELD(check, name, member), sizeof(((struct sample *)0)->member), limit                    \
    }

static void set_number(struct sample *s, const struct bound *bound, uint64_t value)
{
    char *at = (char *)s + bound->offset;
    uint32_t narrow = (uint32_t)value;
    if (bound->bytes == 4)
        memcpy(at, &narrow, 4);
    else
        memcpy(at, &value, 8);
}

static void assert_names(const struct bound *bound, sl_status status)
{
    char wanted[64];
    snprintf(wanted, sizeof(wanted), "%s ", bound->field);
    if (status != SL_INVALID || strncmp(sl_error(), wanted, strlen(wanted)) != 0)
        fail_msg("%s: %s %s", bound->field, sl_status_name(status), sl_error());
}

static void test_numbers_have_a_limit(void **state)
{
    (void)state;
    static const struct bound bounds[] = {
        NUMBER(check_hello, "Hello.vocab", hello.vocab, RPC_VOCAB_MAX),
        NUMBER(check_hello, "Hello.context_max", hello.context_max, RPC_CONTEXT_MAX),
        NUMBER(check_hello, "Hello.block_tokens", hello.block_tokens, 4096),
        NUMBER(check_hello, "Hello.block_bytes", hello.block_bytes, 1ull << 40),
        NUMBER(check_hello, "Hello.blocks_total", hello.blocks_total, RPC_BLOCKS_MAX),
        NUMBER(check_hello, "Hello.request_blocks_max", hello.request_blocks_max, RPC_BLOCKS_MAX),
        NUMBER(check_hello, "Hello.window_tokens", hello.window_tokens, RPC_CONTEXT_MAX),
        NUMBER(check_heartbeat, "Load.running", load.running, RPC_SEQS_MAX),
        NUMBER(check_heartbeat, "Load.blocks_total", load.blocks_total, RPC_BLOCKS_MAX),
        NUMBER(check_heartbeat, "Load.blocks_free", load.blocks_free, RPC_BLOCKS_MAX),
        NUMBER(check_heartbeat, "Load.blocks_cached", load.blocks_cached, RPC_BLOCKS_MAX),
        NUMBER(check_heartbeat, "Load.blocks_used", load.blocks_used, RPC_BLOCKS_MAX),
        NUMBER(check_heartbeat, "Load.blocks_landing", load.blocks_landing, RPC_BLOCKS_MAX),
        NUMBER(check_heartbeat, "StepSample.compute_us", step.compute_us, RPC_DURATION_US_MAX),
        NUMBER(check_tokens, "TokenRun.first_index", run.first_index, RPC_CONTEXT_MAX),
        NUMBER(check_tokens, "TokenRun.tokens", ids[3], RPC_VOCAB_MAX - 1),
        NUMBER(check_tokens, "Logprob.top_ids", top_ids[1], RPC_VOCAB_MAX - 1),
        NUMBER(check_admitted, "Admitted.cached_tokens", admitted.cached_tokens, RPC_CONTEXT_MAX),
        NUMBER(check_finished, "Finished.computed_tokens", finished.computed_tokens,
               RPC_CONTEXT_MAX),
        NUMBER(check_finished, "Finished.cached_tokens", finished.cached_tokens, RPC_CONTEXT_MAX),
        NUMBER(check_finished, "StageTimes.handover_us", times.handover_us, RPC_DURATION_US_MAX),
        NUMBER(check_finished, "StageTimes.transfer_busy_us", times.transfer_busy_us,
               RPC_DURATION_US_MAX),
        NUMBER(check_snapshot, "CacheSnapshot.n_parts", snapshot.n_parts, RPC_SNAPSHOT_PARTS_MAX),
        NUMBER(check_welcome, "Welcome.dead_us", welcome.dead_us, 600000000),
        NUMBER(check_submit, "Submit.deadline_us", submit.deadline_us, RPC_DURATION_US_MAX),
        NUMBER(check_submit, "Submit.admission_us", submit.admission_us, RPC_DURATION_US_MAX),
        NUMBER(check_submit, "Submit.max_tokens", submit.max_tokens, RPC_CONTEXT_MAX),
        NUMBER(check_submit, "Submit.tokens", ids[0], RPC_VOCAB_MAX - 1),
        NUMBER(check_submit, "Sampling.top_k", sampling.top_k, RPC_VOCAB_MAX),
        NUMBER(check_submit, "Sampling.logprobs", sampling.logprobs, RPC_LOGPROBS_MAX),
        NUMBER(check_submit, "Sampling.min_tokens", sampling.min_tokens, RPC_CONTEXT_MAX),
        NUMBER(check_part, "SubmitPart.part", part.part, RPC_SUBMIT_PARTS_MAX - 1),
        NUMBER(check_part, "SubmitPart.tokens", ids[3], RPC_VOCAB_MAX - 1),
        NUMBER(check_drain, "Drain.bound_us", drain.bound_us, RPC_DURATION_US_MAX),
    };
    for (size_t i = 0; i < sizeof(bounds) / sizeof(bounds[0]); i++) {
        struct sample s;
        sample_fill(&s);
        set_number(&s, &bounds[i], bounds[i].limit);
        assert_ok(bounds[i].check(&s));
        set_number(&s, &bounds[i], bounds[i].limit + 1);
        assert_names(&bounds[i], bounds[i].check(&s));
    }
}

static void test_what_is_never_zero(void **state)
{
    (void)state;
    static const struct bound bounds[] = {
        NUMBER(check_hello, "Hello.incarnation", hello.incarnation, 1),
        NUMBER(check_tokens, "TokenRun.request", run.request, 1),
        NUMBER(check_admitted, "Admitted.request", admitted.request, 1),
        NUMBER(check_refused, "Refused.request", refused.request, 1),
        NUMBER(check_refused, "Refused.reason", refused.reason, 1),
        NUMBER(check_failed, "StreamFailed.request", failed.request, 1),
        NUMBER(check_failed, "StreamFailed.reason", failed.reason, 1),
        NUMBER(check_finished, "Finished.request", finished.request, 1),
        NUMBER(check_finished, "Finished.finish", finished.finish, 1),
        NUMBER(check_events, "CacheEvents.first_seq", cache_events.first_seq, 1),
        NUMBER(check_snapshot, "CacheSnapshot.n_parts", snapshot.n_parts, 2),
        NUMBER(check_welcome, "Welcome.coordinator", welcome.coordinator, 1),
        NUMBER(check_welcome, "Welcome.heartbeat_us", welcome.heartbeat_us, 10000),
        NUMBER(check_submit, "Submit.incarnation", submit.incarnation, 1),
        NUMBER(check_submit, "Submit.request", submit.request, 1),
        NUMBER(check_submit, "Submit.mode", submit.mode, 1),
        NUMBER(check_submit, "Submit.max_tokens", submit.max_tokens, 2),
        NUMBER(check_part, "SubmitPart.request", part.request, 1),
        NUMBER(check_cancel, "Cancel.request", cancel.request, 1),
        NUMBER(check_redirect, "Redirect.request", redirect.request, 1),
        NUMBER(check_redirect, "Redirect.stream_key", redirect.stream_key, 1),
        NUMBER(check_redirect, "Peer.incarnation", peer.incarnation, 1),
        NUMBER(check_release, "Release.request", release.request, 1),
    };
    for (size_t i = 0; i < sizeof(bounds) / sizeof(bounds[0]); i++) {
        struct sample s;
        sample_fill(&s);
        set_number(&s, &bounds[i], bounds[i].limit);
        assert_ok(bounds[i].check(&s));
        set_number(&s, &bounds[i], 0);
        assert_names(&bounds[i], bounds[i].check(&s));
    }
}

static void test_texts_have_a_length(void **state)
{
    (void)state;
    static const struct bound bounds[] = {
        {FIELD(check_hello, "Hello.node_id", hello.node_id), 0, RPC_NODE_ID_BYTES_MAX},
        {FIELD(check_hello, "Hello.numerics_id", hello.numerics_id), 0, 128},
        {FIELD(check_hello, "Hello.transport", hello.transport), 0, 15},
        {FIELD(check_hello, "Hello.admin", hello.admin), 0, 255},
        {FIELD(check_hello, "Hello.version", hello.version), 0, 64},
        {FIELD(check_heartbeat, "TransferTotals.src", totals.src), 0, RPC_NODE_ID_BYTES_MAX},
        {FIELD(check_heartbeat, "TransferTotals.dst", totals.dst), 0, RPC_NODE_ID_BYTES_MAX},
        {FIELD(check_heartbeat, "TransferTotals.transport", totals.transport), 0, 15},
        {FIELD(check_refused, "Refused.message", refused.message), 0, RPC_TEXT_BYTES_MAX},
        {FIELD(check_submit, "Peer.node_id", peer.node_id), 0, RPC_NODE_ID_BYTES_MAX},
    };
    for (size_t i = 0; i < sizeof(bounds) / sizeof(bounds[0]); i++) {
        struct sample s;
        char text[RPC_TEXT_BYTES_MAX + 2] = "", *p = text;
        sample_fill(&s);
        memcpy((char *)&s + bounds[i].offset, &p, sizeof(p));
        memset(text, 'a', bounds[i].limit);
        assert_ok(bounds[i].check(&s));
        text[bounds[i].limit] = 'a';
        assert_names(&bounds[i], bounds[i].check(&s));
        text[1] = '/';
        text[2] = '\0';
        bool is_id = bounds[i].limit == RPC_NODE_ID_BYTES_MAX &&
                     strstr(bounds[i].field, "transport") == NULL;
        if (is_id)
            assert_names(&bounds[i], bounds[i].check(&s));
        else
            assert_ok(bounds[i].check(&s));
    }
}

/* Lists of ids: their count, and each of them. */
static void test_lists_have_a_count(void **state)
{
    (void)state;
    static uint32_t many[RPC_SUBMIT_TOKENS_MAX + 1];
    static const struct bound bounds[] = {
        NUMBER(check_hello, "Hello.eos_ids", hello.n_eos_ids, RPC_EOS_IDS_MAX),
        NUMBER(check_submit, "Sampling.stop_ids", sampling.n_stop_ids, RPC_STOP_IDS_MAX),
        NUMBER(check_submit, "Sampling.masked_ids", sampling.n_masked_ids, RPC_STOP_IDS_MAX),
        NUMBER(check_tokens, "TokenRun.tokens", run.n_tokens, 4096),
        NUMBER(check_part, "SubmitPart.tokens", part.n_tokens, RPC_SUBMIT_TOKENS_MAX),
    };
    for (size_t i = 0; i < sizeof(bounds) / sizeof(bounds[0]); i++) {
        struct sample s;
        sample_fill(&s);
        s.run.n_logprobs = 0;
        s.hello.eos_ids = s.sampling.stop_ids = s.sampling.masked_ids = many;
        s.run.tokens = s.part.tokens = many;
        set_number(&s, &bounds[i], bounds[i].limit);
        assert_ok(bounds[i].check(&s));
        many[bounds[i].limit - 1] = RPC_VOCAB_MAX; /* the last one counts, too */
        assert_names(&bounds[i], bounds[i].check(&s));
        many[bounds[i].limit - 1] = 0;
        set_number(&s, &bounds[i], bounds[i].limit + 1);
        assert_names(&bounds[i], bounds[i].check(&s));
    }
    REFUSED(check_tokens, "TokenRuns.runs has 65537", s->token_runs.n_runs = RPC_SEQS_MAX + 1);
    REFUSED(check_tokens, "TokenRun.logprobs has 4097", s->run.n_logprobs = 4097);
    REFUSED(check_tokens, "Logprob.top_ids has 21", s->logprob.n_top_ids = 21);
    REFUSED(check_events, "CacheEvents.events has 16385", s->cache_events.n_events = 16385);
    REFUSED(check_submit, "Submit.tokens has 32769",
            s->submit.n_tokens = RPC_SUBMIT_TOKENS_MAX + 1);
    REFUSED(check_submit, "Peer.ranks has 65", s->peer.n_ranks = 65);
    REFUSED(check_submit, "Sampling.min_p 1.5; want 0..1", s->sampling.min_p = 1.5f);
    REFUSED(check_submit, "Sampling.temperature 101", s->sampling.temperature = 101.0f);
    REFUSED(check_submit, "Submit.total_tokens 0", s->submit.total_tokens = 0);
    REFUSED(check_submit, "Submit.prompt_tokens 0", s->submit.prompt_tokens = 0);
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

/* The largest message there may be, to the byte. */
static void test_largest_message(void **state)
{
    (void)state;
    static uint8_t hashes[RPC_MESSAGE_BYTES_MAX], bytes[RPC_MESSAGE_BYTES_MAX];
    struct sample s;
    sample_fill(&s);
    s.up.body_case = SLUICE__NODE_MESSAGE__BODY_CACHE_SNAPSHOT;
    s.up.cache_snapshot = &s.snapshot;
    s.snapshot.hashes = bytes_of(hashes, RPC_MESSAGE_BYTES_MAX - 16);
    for (s.snapshot.seq = 1; s.snapshot.seq < 1ull << 62; s.snapshot.seq <<= 7)
        if (protobuf_c_message_get_packed_size(&s.up.base) == RPC_MESSAGE_BYTES_MAX)
            break;
    assert_int_equal(pack(&s, bytes, sizeof(bytes)), RPC_MESSAGE_BYTES_MAX);
    Sluice__NodeMessage *message;
    assert_ok(rpc_node_message_unpack(bytes, sizeof(bytes), &message));
    assert_int_equal(message->cache_snapshot->hashes.len, RPC_MESSAGE_BYTES_MAX - 16);
    rpc_node_message_free(message);
}

static void note_freed(void *arg, uint32_t bytes)
{
    uint32_t *seen = arg;
    seen[0]++;
    seen[1] += bytes;
}

static void test_coordinator_message(void **state)
{
    (void)state;
    static uint32_t tokens[RPC_SUBMIT_TOKENS_MAX];
    static uint8_t bytes[RPC_MESSAGE_BYTES_MAX];
    struct sample s;
    sample_fill(&s);
    tokens[RPC_SUBMIT_TOKENS_MAX - 1] = 77;
    s.part.tokens = tokens;
    s.part.n_tokens = RPC_SUBMIT_TOKENS_MAX;
    assert_ok(check_part(&s));
    size_t n = protobuf_c_message_pack(&s.down.base, bytes);
    Sluice__CoordinatorMessage *message = NULL;
    assert_ok(rpc_coordinator_message_unpack(bytes, n, &message));
    assert_int_equal(message->submit_part->n_tokens, RPC_SUBMIT_TOKENS_MAX);
    assert_int_equal(message->submit_part->tokens[RPC_SUBMIT_TOKENS_MAX - 1], 77);
    uint32_t seen[2] = {0};
    rpc_message_on_free(&message->base, note_freed, seen, 123);
    rpc_coordinator_message_free(message);
    assert_int_equal(seen[0], 1);
    assert_int_equal(seen[1], 123);
    rpc_coordinator_message_free(NULL);
    rpc_node_message_free(NULL);
    message = NULL;
    s.part.request = 0; /* well-formed, and refused by its check */
    n = protobuf_c_message_pack(&s.down.base, bytes);
    assert_fails(rpc_coordinator_message_unpack(bytes, n, &message), SL_INVALID,
                 "SubmitPart.request 0");
    assert_fails(rpc_coordinator_message_unpack(bytes, n - 1, &message), SL_INVALID, "malformed");
    assert_null(message);
}

/* What flow control counts; all else is urgent and must never wait for a window. */
static void test_counted_kinds(void **state)
{
    (void)state;
    Sluice__NodeMessage up = SLUICE__NODE_MESSAGE__INIT;
    Sluice__CoordinatorMessage down = SLUICE__COORDINATOR_MESSAGE__INIT;
    uint32_t n_up = 0, n_down = 0;
    for (int kind = 0; kind < 32; kind++) {
        up.body_case = (Sluice__NodeMessage__BodyCase)kind;
        down.body_case = (Sluice__CoordinatorMessage__BodyCase)kind;
        n_up += rpc_node_message_counted(&up);
        n_down += rpc_coordinator_message_counted(&down);
    }
    assert_int_equal(n_up, 2);
    assert_int_equal(n_down, 2);
    up.body_case = SLUICE__NODE_MESSAGE__BODY_CACHE_EVENTS;
    assert_true(rpc_node_message_counted(&up));
    up.body_case = SLUICE__NODE_MESSAGE__BODY_CACHE_SNAPSHOT;
    assert_true(rpc_node_message_counted(&up));
    down.body_case = SLUICE__COORDINATOR_MESSAGE__BODY_SUBMIT;
    assert_true(rpc_coordinator_message_counted(&down));
    down.body_case = SLUICE__COORDINATOR_MESSAGE__BODY_SUBMIT_PART;
    assert_true(rpc_coordinator_message_counted(&down));
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

static void test_names(void **state)
{
    (void)state;
    /* Every value of the schema has its own name, in small letters. */
    const ProtobufCEnumDescriptor *reasons = &sluice__reason__descriptor;
    for (unsigned i = 0; i < reasons->n_values; i++)
        assert_int_equal(strcasecmp(reasons->values[i].name + strlen("REASON_"),
                                    rpc_reason_name((Sluice__Reason)reasons->values[i].value)),
                         0);
    const ProtobufCEnumDescriptor *finishes = &sluice__finish__descriptor;
    for (unsigned i = 0; i < finishes->n_values; i++)
        assert_int_equal(strcasecmp(finishes->values[i].name + strlen("FINISH_"),
                                    rpc_finish_name((Sluice__Finish)finishes->values[i].value)),
                         0);
    assert_string_equal(rpc_reason_name(SLUICE__REASON__REASON_TOO_LARGE), "too_large");
    assert_string_equal(rpc_reason_name((Sluice__Reason)15), "other");
    assert_string_equal(rpc_reason_name((Sluice__Reason)-1), "other");
    assert_string_equal(rpc_finish_name((Sluice__Finish)6), "other");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hello),
        cmocka_unit_test(test_characters),
        cmocka_unit_test(test_heartbeat),
        cmocka_unit_test(test_tokens),
        cmocka_unit_test(test_ends_and_cache),
        cmocka_unit_test(test_submit),
        cmocka_unit_test(test_other_coordinator_messages),
        cmocka_unit_test(test_numbers_have_a_limit),
        cmocka_unit_test(test_what_is_never_zero),
        cmocka_unit_test(test_texts_have_a_length),
        cmocka_unit_test(test_lists_have_a_count),
        cmocka_unit_test(test_every_list_has_a_limit),
        cmocka_unit_test(test_round_trip_and_every_cut),
        cmocka_unit_test(test_unknown_kind_and_oversize),
        cmocka_unit_test(test_largest_message),
        cmocka_unit_test(test_coordinator_message),
        cmocka_unit_test(test_counted_kinds),
        cmocka_unit_test(test_memory_bomb),
        cmocka_unit_test(test_random_bytes),
        cmocka_unit_test(test_unpack_torture),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

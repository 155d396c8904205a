/* What the worker's tests share: a small model made here, nodes with real engines (ref or fake) joined
 * by the loop transport, and a coordinator that keeps the rules of the node stream and records what
 * it is told. A direct drive of one engine gives the tokens to compare with. */
#ifndef TESTS_WORKER_FIXTURE_H
#define TESTS_WORKER_FIXTURE_H

#include "support/support.h"

#include "base/fault.h"
#include "base/metrics.h"
#include "base/thread.h"
#include "kv/hash.h"
#include "model/engine.h"
#include "transfer/loop.h"
#include "transfer/transfer.h"
#include "worker/worker.h"

#include <pthread.h>

#define FX_BLOCK        16u
#define FX_NODES_MAX    4u
#define FX_REQUESTS_MAX 64u
#define FX_TOKENS_MAX   1024u
#define FX_VOCAB        256u
#define FX_SCORES_MAX   200u

#define FX_MIXED_SUBMITS 16u

struct fx_node {
    bool live;
    char id[16];
    const struct worker_policy *policy;
    uint64_t incarnation;
    struct sl_metrics *metrics;
    struct sl_wake wake;
    struct model_engine *engine;
    struct transfer *transfer;
    struct worker *worker;
    struct sl_thread thread;
    struct serve_pulse pulse;
    struct fx *fx;
    uint64_t seq;        /* of the last cache event */
    uint32_t n_events;   /* stored less evicted */
    uint32_t n_snapshot; /* hashes of the last snapshot */
    uint64_t snapshot_seq;
};

/* One request as the coordinator sees it. */
struct fx_request {
    uint64_t id;
    uint32_t attempt;
    uint32_t tokens[FX_TOKENS_MAX];
    bool wants_logprobs;                      /* then every token comes with them */
    struct model_token logprobs[8];           /* of the first ones */
    struct model_token scores[FX_SCORES_MAX]; /* of the prompt, by position; rank 0: none came */
    uint32_t n_scores;                        /* messages' entries, repeated ones too */
    uint32_t n;                               /* tokens accepted */
    uint32_t n_repeated, n_stale, n_gaps, n_wrong;
    uint32_t n_admitted, cached; /* of the last Admitted */
    uint32_t n_finished;
    Sluice__Finish finish; /* of the last token's node */
    Sluice__Finish sent;   /* FINISH_SENT seen */
    Sluice__Reason refused, failed, finish_reason;
    char refused_text[160];
    bool failed_source, failed_held;
    uint32_t n_failed;
    uint32_t computed; /* sum over Finished */
    uint64_t transfer_bytes;
    char destination[16]; /* … that its source names */
};

struct fx {
    struct transfer_loop *loop;
    struct fx_node nodes[FX_NODES_MAX];
    uint32_t n_nodes;
    pthread_mutex_t lock; /* of the records below, in threaded runs */
    struct fx_request requests[FX_REQUESTS_MAX];
    uint32_t n_requests;
    uint64_t next_key;
    bool threaded;
    bool deaf; /* the coordinator is lost: sends fail */
};

/* The models: every layer looks at everything; every layer has a window of FX_WINDOW tokens; all but
 * the first have (two KV classes). */
enum fx_model { FX_FULL, FX_SLIDING, FX_MIXED, FX_MODELS };
#define FX_WINDOW 40u

struct fx_args {
    enum fx_model model;
    const char *backend; /* default "ref" */
    uint32_t n_prefill, n_decode;
    uint32_t n_blocks, chunk_tokens, seqs_max; /* defaults 64, 64, 16 */
    uint32_t layers_per_group;                 /* default 1 */
    bool threaded, verify;
    struct worker_limits limits; /* all zero: the default */
    struct transfer_loop_args loop;
};

/* The model's directory, made once per process. */
const char *fx_model(enum fx_model model);
/* All that were made; teardown of a group. */
int fx_models_remove(void **state);

void fx_open(struct fx *fx, const struct fx_args *args);
/* As fx_open, but with the first failure's status, after which nothing is open. */
sl_status fx_try_open(struct fx *fx, const struct fx_args *args);
/* Everything has ended before, else the worker's blocks are checked in vain. */
void fx_close(struct fx *fx);
/* The process dies: nothing of it answers any more. */
void fx_kill(struct fx *fx, uint32_t node);

struct fx_submit {
    uint64_t id;
    uint32_t attempt; /* default 1 */
    const uint32_t *tokens;
    uint32_t n_tokens, prompt_tokens; /* prompt_tokens default n_tokens */
    uint32_t max_tokens;
    int32_t priority;
    float temperature;
    uint64_t seed;
    uint32_t stop_ids[4], n_stop_ids, min_tokens;
    int32_t logprobs;                  /* 0: none; n + 1 asks for n */
    uint32_t prompt_logprobs;          /* as in Sampling */
    const struct model_adjust *adjust; /* parameters and lists; NULL: none */
    uint64_t deadline_us, admission_us;
    uint32_t part_tokens; /* 0: all in the Submit */
    uint64_t incarnation; /* 0: the node's */
    uint64_t key;         /* set by fx_pair */
};
/* Records it, or its new attempt, and sends it to the node; peer: node of the other side. */
struct fx_request *fx_send(struct fx *fx, uint32_t node, Sluice__Mode mode,
                           const struct fx_submit *submit, uint32_t peer);
struct fx_request *fx_local(struct fx *fx, uint32_t node, const struct fx_submit *submit);
/* To both; key_out may be NULL. */
struct fx_request *fx_pair(struct fx *fx, uint32_t prefill, uint32_t decode,
                           const struct fx_submit *submit);
void fx_cancel(struct fx *fx, uint32_t node, uint64_t id, uint32_t attempt);
void fx_redirect(struct fx *fx, uint32_t prefill, const struct fx_submit *submit, uint32_t decode);
void fx_release(struct fx *fx, uint32_t node, uint64_t id, uint32_t attempt);
void fx_snapshot_request(struct fx *fx, uint32_t node);

/* One turn of every node and its transfer; true if something happened. */
bool fx_turn(struct fx *fx);
/* Turns until the condition holds; fails the test after two minutes. */
void fx_until(struct fx *fx, bool (*condition)(struct fx *fx, void *arg), void *arg);
/* Until the request has its last token. */
void fx_wait(struct fx *fx, struct fx_request *request);
/* And until its source has sent all that its destination lacked. */
void fx_wait_sent(struct fx *fx, struct fx_request *request);
/* Nothing is in work anywhere, all blocks are free or cached, no token was lost or doubled. */
void fx_settled(struct fx *fx);
double fx_metric(struct fx *fx, uint32_t node, const char *line);

/* One engine of the model that was opened last, driven directly: the prompt in one batch, then token by
 * token, and no block is ever let go. */
void fx_reference(const struct fx_submit *submit, uint32_t *tokens_out, uint32_t *n_out);
void fx_expect(const struct fx_request *request, const struct fx_submit *submit);
/* The first n requests have their last tokens; and those of these submits. */
void fx_wait_all(struct fx *fx, uint32_t n);
void fx_expect_all(const struct fx *fx, const struct fx_submit *submits, uint32_t n);
/* All scores of the prompt have come, and are those that the reference's logits give. */
void fx_expect_scores(const struct fx_request *request, const struct fx_submit *submit);
/* Seeded token ids of no particular meaning. */
void fx_prompt(uint32_t *tokens, uint32_t n, uint64_t seed);
/* Submits of ids 1, 2, …, each prompt seven tokens longer than the one before, every third sampled. */
void fx_mixed(struct fx_submit submits[FX_MIXED_SUBMITS], uint32_t max_tokens, uint64_t seed);

#endif

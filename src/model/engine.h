/* The engine: a model's weights, the bytes of its KV pool, and the steps over them.
 *
 * One thread (the scheduler) submits batches and polls events; the engine's compute thread runs them
 * in order. `kv` owns block ids, the engine only the bytes behind them. Blocks named by a batch may be
 * reused only after its ticket has retired.
 *
 *   submit(batch) ──► ticket ──► LAYERS_READY (layers [0, layer_end) of the batch's KV are final)* ──► RETIRED
 *
 * At most MODEL_TICKETS_MAX batches are in the engine; submit says SL_AGAIN beyond. */
#ifndef SL_MODEL_ENGINE_H
#define SL_MODEL_ENGINE_H

#include "base/status.h"
#include "device/device.h"
#include "kv/geometry.h"
#include "model/sampler.h"

#include <stdbool.h>
#include <stdint.h>

#define MODEL_ROWS_MAX       8192u
#define MODEL_TICKETS_MAX    2
#define MODEL_SEQS_MAX       256
#define MODEL_EOS_IDS_MAX    16
#define MODEL_TOKEN_PREVIOUS UINT32_MAX

struct model_engine;

struct model_engine_args {
    const char *directory;     /* Hugging Face model */
    const char *backend;       /* "cpu", "ref", "fake" (ref on the fake device), "cuda" */
    uint32_t n_threads;        /* compute team; 0: as many as CPUs */
    uint32_t n_blocks;         /* KV pool of class 0; the others' follow from it (model_info) */
    uint32_t block_tokens;     /* 64 */
    uint32_t context_max;      /* tokens of a sequence; 0: as many as the model takes */
    const char *kv_type;       /* "bf16", "f32" */
    uint32_t rows_max;         /* new tokens in one batch; at most MODEL_ROWS_MAX */
    uint32_t seqs_max;         /* sequences in one batch, at most MODEL_SEQS_MAX */
    uint32_t layers_per_group; /* granularity of LAYERS_READY; 0: about a quarter of the layers */
    uint64_t seed;             /* of the fake device */
    void (*notify)(void *arg); /* from the compute thread, after an event was queued; may be NULL */
    void *notify_arg;
    bool (*progress)(void *arg, uint64_t bytes_done,
                     uint64_t bytes_total); /* loading; false: stop; may be NULL */
    void *progress_arg;
    const char
        *digest_cache; /* directory for weights digests; NULL: beside the model, if writable */
};

/* What others need to know of a loaded model. */
struct model_info {
    char family[32];      /* "llama", "qwen2", "qwen3" */
    uint8_t identity[16]; /* weights digest, config, KV type, block tokens */
    char numerics_id[64];
    uint32_t vocab;
    uint32_t context_max; /* max_position_embeddings, or what is served of it */
    uint32_t n_layers;
    uint32_t layers_per_group;
    uint32_t n_eos_ids;
    uint32_t eos_ids[MODEL_EOS_IDS_MAX]; /* generation_config.json and config.json */
    uint64_t weight_bytes;               /* as stored */
    uint64_t n_parameters;
    struct kv_geometry geometry;
    uint32_t n_blocks[KV_CLASSES_MAX];     /* of each class's pool */
    uint8_t class_of_layer[KV_LAYERS_MAX]; /* whose KV is in which class, in ascending order */
};

enum model_logits { MODEL_LOGITS_NONE, MODEL_LOGITS_LAST, MODEL_LOGITS_ALL };

/* One sequence's part of a batch. */
struct model_run {
    uint64_t user;          /* given back in the result */
    uint32_t slot;          /* 0..seqs_max-1: names the sequence for MODEL_TOKEN_PREVIOUS */
    const uint32_t *tokens; /* [n_tokens]; MODEL_TOKEN_PREVIOUS: what this slot sampled last */
    uint32_t n_tokens;      /* 1 when decoding, a chunk when prefilling */
    uint32_t first_position;
    /* Of each class; covers first_position + n_tokens. Entries in front of kv_window_first(class,
     * first_position) are not looked at. */
    const kv_block_id *block_tables[KV_CLASSES_MAX];
    uint32_t n_blocks;              /* of every table */
    enum model_logits logits;       /* LAST: a token is sampled after the last one */
    uint32_t n_scored;              /* so many first tokens are asked what they say … */
    const uint32_t *scored;         /* … of the token that follows each; [n_scored] */
    uint32_t n_scored_top;          /* with so many likeliest, at most MODEL_LOGPROBS_MAX */
    struct model_sampling sampling; /* used with LAST */
};

/* Copied by submit, tables and tokens included, but for sampling.adjust, which is borrowed until the batch retires
 * and must not take tokens before. Sum of n_tokens <= rows_max. ALL is for one run of a
 * batch at most; its logits are read with model_engine_logits, and its tokens are not scored. */
struct model_batch {
    const struct model_run *runs;
    uint32_t n_runs;
};

struct model_result {
    uint64_t user;
    sl_status status; /* of this run alone: SL_CORRUPT its logits are no numbers, SL_CANCELLED its
                         slot had no previous token; the others of the batch are valid */
    bool sampled;     /* logits LAST, and status SL_OK */
    struct model_token token;
    uint32_t n_scores;                /* one for each scored token, with status SL_OK */
    const struct model_token *scores; /* until the next submit */
};

enum model_event_type { MODEL_EVENT_LAYERS_READY, MODEL_EVENT_RETIRED };

struct model_event {
    enum model_event_type type;
    uint64_t ticket;
    uint32_t layer_end; /* LAYERS_READY */
    sl_status status;   /* RETIRED; other than SL_OK: nothing of the batch is valid … */
    char error[SL_ERROR_BYTES_MAX];     /* … and this says why */
    uint32_t n_results;                 /* RETIRED: one per run, in the batch's order */
    const struct model_result *results; /* until the next poll */
    uint64_t compute_us;                /* RETIRED: from start to end of the step's compute */
};

/* Loads the model (minutes for large ones; progress is called). SL_NOT_FOUND, SL_INVALID,
 * SL_UNSUPPORTED, SL_CORRUPT name file and field; SL_NO_MEMORY what was too large; SL_CANCELLED progress
 * said so. */
sl_status model_engine_open(const struct model_engine_args *args,
                            struct model_engine **engine_out) SL_MUST_USE;
void model_engine_close(struct model_engine *engine); /* waits for the running batch */
const struct model_info *model_engine_info(const struct model_engine *engine);
/* The pool's memory of a class, for the transfer layer. */
const struct device_memory *model_engine_kv(const struct model_engine *engine,
                                            uint32_t class_index);

/* SL_AGAIN: too many in flight; SL_INVALID: our caller's mistake, named. Tickets count up from 1. */
sl_status model_engine_submit(struct model_engine *engine, const struct model_batch *batch,
                              uint64_t *ticket_out) SL_MUST_USE;
/* The next event; false when there is none now. Same thread as submit. */
bool model_engine_poll(struct model_engine *engine, struct model_event *event_out);
/* Enqueues a copy of a whole block (all layers of class_index) before the next batch; after what is
 * in the engine. SL_EXHAUSTED beyond 256 that wait for one batch. */
sl_status model_engine_copy_block(struct model_engine *engine, uint32_t class_index, kv_block_id to,
                                  kv_block_id from) SL_MUST_USE;
/* Logits of the last retired batch with an ALL run: f32 [n_tokens][vocab]; valid until the next submit. */
const float *model_engine_logits(const struct model_engine *engine, uint32_t *n_rows_out);
/* Batches retired, and microseconds since the compute thread last made progress on a batch that is in
 * the engine (0 when idle): for /health. Any thread. */
uint64_t model_engine_steps(const struct model_engine *engine);
uint64_t model_engine_stalled_us(const struct model_engine *engine);

#endif

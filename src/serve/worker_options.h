/* The options that the workers have, and that the coordinator with `--pools local` hands on to the
 * workers it starts. One configuration struct for both, so that one table serves both. */
#ifndef SL_SERVE_WORKER_OPTIONS_H
#define SL_SERVE_WORKER_OPTIONS_H

#include "base/options.h"
#include "serve/serve.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SERVE_STEP_TOKENS_MAX 8192u /* --chunk-tokens and --max-seqs together */
#define SERVE_ADVERTISE_BYTES 240u  /* with a port it fits a Hello */

enum serve_backend { SERVE_BACKEND_CPU, SERVE_BACKEND_REF, SERVE_BACKEND_FAKE };
enum serve_kv_type { SERVE_KV_BF16, SERVE_KV_F32 };
extern const char *const serve_backend_names[]; /* NULL-terminated; as model/engine.h wants them */
extern const char *const serve_kv_type_names[];

/* Must be the first member of the program's configuration struct, or be it: the tables hold offsets
 * from its start. */
struct serve_worker_config {
    struct serve_config serve; /* first */
    char *model;
    uint64_t kv_blocks;
    uint32_t kv_type; /* enum serve_kv_type */
    uint64_t block_tokens;
    uint64_t context_tokens; /* 0: as many as the model takes */
    uint64_t threads;        /* 0: as many as CPUs */
    uint64_t chunk_tokens;
    uint64_t max_seqs;
    uint64_t transfer_layers; /* 0: the engine's choice */
    bool transfer_verify;
    uint64_t transfer_probe_bytes;
    uint32_t backend; /* enum serve_backend */
    uint64_t local_prefill_max_tokens;
    char *cpus; /* "0-3,8"; NULL: any */
    char *bind;
    char *advertise;
    /* Only of a worker itself: serve_node_options. */
    char *coordinator;
    char *id;
};

/* Handed on: --model --kv-blocks --kv-type --block-tokens --context-tokens --threads --chunk-tokens --max-seqs
 * --transfer-layers --transfer-verify --transfer-probe-bytes --backend --local-prefill-max-tokens --cpus --bind
 * --advertise. */
extern const struct sl_option serve_worker_options[];
extern const size_t serve_worker_option_count;
/* --coordinator --id: for the workers only. */
extern const struct sl_option serve_node_options[];
extern const size_t serve_node_option_count;

/* What every worker would end with, once it has loaded its model: options that are right each for itself.
 * SL_INVALID names them. */
sl_status serve_worker_check(const struct serve_worker_config *config) SL_MUST_USE;

#endif

/* A node of a transfer test: a transfer, a pool with an owner for each block, and the least scheduler
 * that can run streams over it. It checks as it goes: what comes back was given, no block is given
 * twice, a sealed stream's bytes are the source's. */
#ifndef SL_TESTS_TRANSFER_RIG_H
#define SL_TESTS_TRANSFER_RIG_H

#include "device/device.h"
#include "transfer/transfer.h"

#include <stdbool.h>
#include <stdint.h>

#define RIG_BLOCKS_MAX 512
#define RIG_JOBS_MAX   64
#define RIG_STREAM_MAX 256 /* blocks of one stream */

enum rig_side { RIG_NO_SIDE, RIG_SOURCE, RIG_DESTINATION };

/* One stream as one node sees it. */
struct rig_job {
    enum rig_side side;
    uint64_t key;
    uint32_t attempt, n_blocks, n_tokens;
    uint32_t sent_from[TRANSFER_CLASSES_MAX];   /* what the stream is about */
    uint32_t first_block[TRANSFER_CLASSES_MAX]; /* what the destination lacks of it */
    /* source: its ids; destination: taken, by index */
    uint32_t blocks[TRANSFER_CLASSES_MAX][RIG_STREAM_MAX];
    uint32_t next_block, next_class; /* destination: to be given */
    uint32_t n_out;                  /* destination: ids given and not back */
    uint32_t n_given, n_taken, n_landed;
    bool released;
    bool expected, opened, admitted;
    bool wanted, acked, sealed, ended, failed, hold_refill;
    enum transfer_reason reason;
    uint32_t token, token_index;
    bool eos;
    struct transfer_stats stats;
};

struct rig_node {
    struct transfer *transfer;
    struct device *device;
    struct device_memory pools[TRANSFER_CLASSES_MAX];
    struct device_stream *stream;
    struct sl_metrics *metrics;
    struct transfer_args args;
    char name[16];
    uint64_t owner[TRANSFER_CLASSES_MAX][RIG_BLOCKS_MAX]; /* key, 0: free */
    struct rig_job jobs[RIG_JOBS_MAX];
    uint32_t n_jobs;
    uint8_t prompt; /* goes into the prefix hashes of its streams */
    bool dead;
    _Atomic bool deaf; /* it has said so; else the end of the rig checks that it is not */
    bool canary;       /* free blocks hold a pattern that nobody may change */
    /* Of the streams that begin now, class c sends from here on. */
    uint32_t sent_from[TRANSFER_CLASSES_MAX];
};

/* Defaults: one class of 4 layers of 4096 bytes, 64 blocks, host memory, one layer a piece, manual. */
struct rig_options {
    const char *transport;
    struct transfer_loop *loop;
    const char *name;
    uint64_t incarnation;
    enum device_kind kind;
    uint32_t n_blocks, n_layers, layers_per_piece, n_classes;
    size_t layer_bytes;
    uint64_t probe_bytes;
    bool threaded, verify, canary;
    uint8_t identity;
    const struct transfer_limits *limits;
    void (*notify)(void *arg);
    void *notify_arg;
};

/* The first failure's status; rig_stop() accepts what it leaves. */
sl_status rig_try_start(struct rig_node *node, const struct rig_options *options) SL_MUST_USE;
void rig_start(struct rig_node *node, const struct rig_options *options);
void rig_stop(struct rig_node *node);
struct transfer_peer rig_peer(const struct rig_node *node);
uint32_t rig_free_blocks(const struct rig_node *node);
/* The content of a source's block: a function of key, index and class, so that both sides know it. */
void rig_fill(struct rig_node *node, uint64_t key, uint32_t c, uint32_t block_index,
              uint32_t block_id);
bool rig_equal(struct rig_node *node, uint64_t key, uint32_t c, uint32_t block_index,
               uint32_t block_id);
/* For transfer_send_ready: n layers of every class. */
#define RIG_LAYERS(n) ((const uint32_t[TRANSFER_CLASSES_MAX]){(n), (n), (n), (n)})

struct rig_job *rig_job(struct rig_node *node, uint64_t key);
/* Takes blocks, fills them, opens the stream; what is ready and the token come separately. */
struct rig_job *rig_send(struct rig_node *node, const struct transfer_peer *to, uint64_t key,
                         uint32_t n_tokens);
struct rig_job *rig_expect(struct rig_node *node, const struct transfer_peer *from, uint64_t key,
                           uint32_t n_tokens);
/* Admits with as many ids as the ring and the pool give (at most ids_max); of each class what comes
 * before first_block is not lacking. */
void rig_admit(struct rig_node *node, struct rig_job *job, uint32_t first_block, uint32_t ids_max);
/* Tops the ring up with what the pool has (TAKEN does it too, one for one). */
void rig_refill(struct rig_node *node, struct rig_job *job);
/* A sealed stream's blocks go back to the pool; their bytes must still be the source's. */
void rig_release(struct rig_node *node, struct rig_job *job);
/* Blocks that admitted streams may still take or hold. */
uint32_t rig_promised(const struct rig_node *node);
/* Every free block still holds the canary. */
void rig_check_canaries(struct rig_node *node);
void rig_ready_all(struct rig_node *node, struct rig_job *job);
void rig_token(struct rig_node *node, struct rig_job *job, uint32_t token);
/* Handles all events; one turn of a manual transfer first. True if something happened. */
bool rig_turn(struct rig_node *node);
/* Turns of both nodes until done(arg) or timeout; false on timeout. */
bool rig_run(struct rig_node **nodes, uint32_t n, bool (*done)(void *arg), void *arg,
             uint64_t timeout_us);
/* Sum of a counter's series with this name, over the rendered page; label may be NULL. */
double rig_metric(struct rig_node *node, const char *name, const char *label);

#endif

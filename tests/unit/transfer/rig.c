/* The rig's pools are plain: owner[class][id] is the key of the stream that has the block, 0 when it is free.
 * Source blocks are released at SEND_ENDED; a destination's at BLOCK_BACK, or when the test releases a
 * sealed stream. Every assertion here is an invariant of docs/transfer.md: I1 (bytes only in blocks of
 * the stream), I2 (sealed: all there), I3 (all blocks return). */
#include "rig.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/metrics.h"
#include "transfer/loop.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define BLOCK_TOKENS 16
#define FREE         0
#define CANARY       0xC5

static size_t block_bytes(const struct rig_node *node, uint32_t c)
{
    return node->args.classes[c].n_layers * node->args.classes[c].layer_bytes;
}

static void set_canary(struct rig_node *node, uint32_t c, uint32_t id)
{
    if (!node->canary)
        return;
    size_t n = block_bytes(node, c);
    uint8_t *bytes = sl_zalloc(1, n);
    memset(bytes, CANARY, n);
    device_copy_in(node->stream, &node->pools[c], id * n, bytes, n);
    assert_int_equal(device_stream_wait(node->stream), SL_OK);
    sl_free(bytes);
}

static void check_canary(struct rig_node *node, uint32_t c, uint32_t id)
{
    if (!node->canary)
        return;
    size_t n = block_bytes(node, c);
    uint8_t *bytes = sl_zalloc(1, n);
    device_copy_out(node->stream, bytes, &node->pools[c], id * n, n);
    assert_int_equal(device_stream_wait(node->stream), SL_OK);
    for (size_t i = 0; i < n; i++) {
        if (bytes[i] != CANARY)
            fail_msg("%s: block %u of class %u was written at %zu while it was free", node->name,
                     id, c, i);
    }
    sl_free(bytes);
}

void rig_check_canaries(struct rig_node *node)
{
    for (uint32_t c = 0; c < node->args.n_classes; c++) {
        for (uint32_t id = 0; id < node->args.classes[c].n_blocks; id++) {
            if (node->owner[c][id] == FREE)
                check_canary(node, c, id);
        }
    }
}

static void on_deaf(void *arg, const char *why)
{
    (void)why;
    atomic_store((_Atomic bool *)arg, true);
}

static void set_args(struct rig_node *node, const struct rig_options *options)
{
    snprintf(node->name, sizeof(node->name), "%s", options->name);
    node->args = (struct transfer_args){
        .transport = options->transport,
        .loop = options->loop,
        .node_id = node->name,
        .incarnation = options->incarnation,
        .identity = {options->identity},
        .block_tokens = BLOCK_TOKENS,
        .n_classes = options->n_classes > 0 ? options->n_classes : 1,
        .layers_per_piece = options->layers_per_piece > 0 ? options->layers_per_piece : 1,
        .verify = options->verify,
        .probe_bytes = options->probe_bytes,
        .metrics = node->metrics,
        .notify = options->notify,
        .notify_arg = options->notify_arg,
        .deaf = on_deaf,
        .deaf_arg = &node->deaf,
        .manual = !options->threaded,
    };
    if (options->limits != NULL)
        node->args.limits = *options->limits;
    else
        transfer_limits_default(&node->args.limits);
    for (uint32_t c = 0; c < node->args.n_classes; c++)
        node->args.classes[c] = (struct transfer_class){
            .pool = &node->pools[c],
            .n_blocks = options->n_blocks > 0 ? options->n_blocks : 64,
            .n_layers = (options->n_layers > 0 ? options->n_layers : 4) + c,
            .layer_bytes = options->layer_bytes > 0 ? options->layer_bytes : 4096,
        };
}

sl_status rig_try_start(struct rig_node *node, const struct rig_options *options)
{
    memset(node, 0, sizeof(*node));
    node->metrics = sl_metrics_create();
    set_args(node, options);
    sl_status status = device_create(options->kind, 0, 7, &node->device);
    if (status == SL_OK)
        status = device_stream_create(node->device, "rig", &node->stream);
    uint32_t n_blocks = node->args.classes[0].n_blocks;
    for (uint32_t c = 0; status == SL_OK && c < node->args.n_classes; c++)
        status = device_alloc(node->device, n_blocks * block_bytes(node, c), &node->pools[c]);
    if (status != SL_OK)
        return status;
    node->canary = options->canary;
    for (uint32_t c = 0; c < node->args.n_classes; c++) {
        for (uint32_t id = 0; id < n_blocks; id++)
            set_canary(node, c, id);
    }
    return transfer_create(&node->args, &node->transfer);
}

void rig_start(struct rig_node *node, const struct rig_options *options)
{
    if (rig_try_start(node, options) != SL_OK)
        fail_msg("a node cannot start: %s", sl_error());
}

void rig_stop(struct rig_node *node)
{
    transfer_destroy(node->transfer);
    assert_false(node->deaf);
    for (uint32_t c = 0; c < node->args.n_classes; c++) {
        if (node->pools[c].address != NULL)
            device_free(&node->pools[c]);
    }
    if (node->stream != NULL)
        device_stream_destroy(node->stream);
    if (node->device != NULL)
        device_destroy(node->device);
    sl_metrics_destroy(node->metrics);
    memset(node, 0, sizeof(*node));
}

struct transfer_peer rig_peer(const struct rig_node *node)
{
    struct transfer_peer peer = {.node_id = node->name, .incarnation = node->args.incarnation};
    transfer_address(node->transfer, &peer.address, &peer.address_bytes);
    return peer;
}

static uint32_t take_block(struct rig_node *node, uint64_t key, uint32_t c)
{
    for (uint32_t i = 0; i < node->args.classes[c].n_blocks; i++) {
        if (node->owner[c][i] == FREE) {
            check_canary(node, c, i);
            node->owner[c][i] = key;
            return i;
        }
    }
    return UINT32_MAX;
}

static void give_block(struct rig_node *node, uint64_t key, uint32_t c, uint32_t id)
{
    assert_true(c < node->args.n_classes && id < node->args.classes[c].n_blocks);
    assert_int_equal(node->owner[c][id], key);
    set_canary(node, c, id);
    node->owner[c][id] = FREE;
}

uint32_t rig_free_blocks(const struct rig_node *node)
{
    uint32_t least = UINT32_MAX;
    for (uint32_t c = 0; c < node->args.n_classes; c++) {
        uint32_t n = 0;
        for (uint32_t i = 0; i < node->args.classes[c].n_blocks; i++)
            n += node->owner[c][i] == FREE;
        least = n < least ? n : least;
    }
    return least;
}

/* ---- content ---- */

static void pattern(uint64_t key, uint32_t block_index, uint32_t class_index, uint8_t *bytes,
                    size_t n)
{
    uint64_t x = key * 0x9E3779B97F4A7C15ull + block_index * 0xC2B2AE3D27D4EB4Full + class_index;
    for (size_t i = 0; i < n; i++) {
        x = x * 6364136223846793005ull + 1442695040888963407ull;
        bytes[i] = (uint8_t)(x >> 56);
    }
}

void rig_fill(struct rig_node *node, uint64_t key, uint32_t c, uint32_t block_index,
              uint32_t block_id)
{
    size_t n = block_bytes(node, c);
    uint8_t *bytes = sl_zalloc(1, n);
    pattern(key, block_index, c, bytes, n);
    device_copy_in(node->stream, &node->pools[c], block_id * n, bytes, n);
    assert_int_equal(device_stream_wait(node->stream), SL_OK);
    sl_free(bytes);
}

bool rig_equal(struct rig_node *node, uint64_t key, uint32_t c, uint32_t block_index,
               uint32_t block_id)
{
    size_t n = block_bytes(node, c);
    uint8_t *wanted = sl_zalloc(1, n), *is = sl_zalloc(1, n);
    pattern(key, block_index, c, wanted, n);
    device_copy_out(node->stream, is, &node->pools[c], block_id * n, n);
    assert_int_equal(device_stream_wait(node->stream), SL_OK);
    bool equal = memcmp(wanted, is, n) == 0;
    sl_free(wanted);
    sl_free(is);
    return equal;
}

/* ---- jobs ---- */

struct rig_job *rig_job(struct rig_node *node, uint64_t key)
{
    for (uint32_t i = 0; i < node->n_jobs; i++) {
        if (node->jobs[i].key == key)
            return &node->jobs[i];
    }
    return NULL;
}

static struct rig_job *new_job(struct rig_node *node, enum rig_side side, uint64_t key)
{
    assert_true(node->n_jobs < RIG_JOBS_MAX);
    struct rig_job *job = &node->jobs[node->n_jobs++];
    *job = (struct rig_job){.side = side, .key = key, .attempt = 1};
    memcpy(job->sent_from, node->sent_from, sizeof(job->sent_from));
    return job;
}

struct rig_job *rig_send(struct rig_node *node, const struct transfer_peer *to, uint64_t key,
                         uint32_t n_tokens)
{
    struct rig_job *job = new_job(node, RIG_SOURCE, key);
    job->n_tokens = n_tokens;
    job->n_blocks = (n_tokens + BLOCK_TOKENS - 1) / BLOCK_TOKENS;
    assert_true(job->n_blocks <= RIG_STREAM_MAX);
    struct transfer_send_args args = {.key = key,
                                      .attempt = job->attempt,
                                      .peer = *to,
                                      .n_blocks = job->n_blocks,
                                      .n_tokens = n_tokens,
                                      .prefix_hash = {node->prompt}};
    for (uint32_t c = 0; c < node->args.n_classes; c++) {
        for (uint32_t i = 0; i < job->n_blocks; i++)
            job->blocks[c][i] = UINT32_MAX; /* never looked at where the class does not send */
        for (uint32_t i = job->sent_from[c]; i < job->n_blocks; i++) {
            job->blocks[c][i] = take_block(node, key, c);
            assert_int_not_equal(job->blocks[c][i], UINT32_MAX);
            rig_fill(node, key, c, i, job->blocks[c][i]);
        }
        args.first_block[c] = job->sent_from[c];
        args.blocks[c] = job->blocks[c];
    }
    assert_int_equal(transfer_send_open(node->transfer, &args), SL_OK);
    return job;
}

struct rig_job *rig_expect(struct rig_node *node, const struct transfer_peer *from, uint64_t key,
                           uint32_t n_tokens)
{
    struct rig_job *job = rig_job(node, key); /* its open may have come already */
    if (job == NULL)
        job = new_job(node, RIG_DESTINATION, key);
    memcpy(job->sent_from, node->sent_from, sizeof(job->sent_from));
    job->expected = true;
    job->n_tokens = n_tokens;
    job->n_blocks = (n_tokens + BLOCK_TOKENS - 1) / BLOCK_TOKENS;
    struct transfer_recv_args args = {.key = key,
                                      .attempt = job->attempt,
                                      .peer = *from,
                                      .n_blocks = job->n_blocks,
                                      .n_tokens = n_tokens,
                                      .prefix_hash = {node->prompt}};
    memcpy(args.first_block, job->sent_from, sizeof(args.first_block));
    assert_int_equal(transfer_recv_expect(node->transfer, &args), SL_OK);
    return job;
}

/* Blocks that the destination lacks, over all classes. */
static uint32_t lacking(const struct rig_node *node, const struct rig_job *job)
{
    uint32_t n = 0;
    for (uint32_t c = 0; c < node->args.n_classes; c++)
        n += job->n_blocks - job->first_block[c];
    return n;
}

/* Blocks for the ring: as many as the stream still lacks, the pools have, and `max` allows. */
static uint32_t gather(struct rig_node *node, struct rig_job *job, struct transfer_block *blocks,
                       uint32_t max)
{
    uint32_t n = 0;
    while (n < max && job->next_block < job->n_blocks) {
        uint32_t c = job->next_class;
        if (job->next_block >= job->first_block[c]) {
            uint32_t id = take_block(node, job->key, c);
            if (id == UINT32_MAX)
                break;
            blocks[n++] = (struct transfer_block){.class_index = c, .id = id};
            job->n_given++;
            job->n_out++;
        }
        job->next_class = (c + 1) % node->args.n_classes;
        job->next_block += job->next_class == 0;
    }
    return n;
}

void rig_admit(struct rig_node *node, struct rig_job *job, uint32_t first_block, uint32_t ids_max)
{
    struct transfer_block blocks[TRANSFER_RING_BLOCKS_MAX];
    job->admitted = true;
    for (uint32_t c = 0; c < node->args.n_classes; c++) {
        job->first_block[c] = first_block > job->sent_from[c] ? first_block : job->sent_from[c];
        for (uint32_t i = 0; i < RIG_STREAM_MAX; i++)
            job->blocks[c][i] = UINT32_MAX;
    }
    uint32_t n = gather(node, job, blocks, ids_max);
    assert_int_equal(transfer_recv_admit(node->transfer, job->key, job->first_block, blocks, n),
                     SL_OK);
}

void rig_refill(struct rig_node *node, struct rig_job *job)
{
    struct transfer_block blocks[TRANSFER_RING_BLOCKS_MAX];
    if (!job->admitted || job->sealed || job->failed || job->ended)
        return;
    uint32_t in_ring = job->n_given - job->n_taken;
    uint32_t n = gather(node, job, blocks, TRANSFER_RING_BLOCKS_MAX - in_ring);
    if (n > 0)
        assert_int_equal(transfer_recv_refill(node->transfer, job->key, blocks, n), SL_OK);
}

void rig_release(struct rig_node *node, struct rig_job *job)
{
    assert_true(job->sealed && !job->released);
    job->released = true;
    for (uint32_t c = 0; c < node->args.n_classes; c++) {
        for (uint32_t i = job->first_block[c]; i < job->n_blocks; i++) {
            assert_true(rig_equal(node, job->key, c, i, job->blocks[c][i]));
            give_block(node, job->key, c, job->blocks[c][i]);
        }
    }
}

uint32_t rig_promised(const struct rig_node *node)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < node->n_jobs; i++) {
        const struct rig_job *job = &node->jobs[i];
        bool holds = job->sealed ? !job->released : !job->ended || job->n_out > 0;
        if (job->side == RIG_SOURCE ? !job->ended : job->admitted && holds)
            n += job->n_blocks - (job->side == RIG_SOURCE ? 0 : job->first_block[0]);
    }
    return n;
}

/* What goes along with the token of a stream: nothing, something, or as much as may. */
static void rig_note(uint64_t key, struct transfer_note *note)
{
    const uint32_t sizes[] = {0, 9, TRANSFER_NOTE_BYTES_MAX};
    note->n_bytes = sizes[key % 3];
    for (uint32_t i = 0; i < note->n_bytes; i++)
        note->bytes[i] = (uint8_t)(key + i);
}

void rig_ready_all(struct rig_node *node, struct rig_job *job)
{
    assert_int_equal(
        transfer_send_ready(node->transfer, job->key, 0, job->n_blocks, RIG_LAYERS(1000)), SL_OK);
}

void rig_token(struct rig_node *node, struct rig_job *job, uint32_t token)
{
    struct transfer_token what = {
        .id = token, .index = 5, .eos = token == 2, .compute_end_us = sl_now_us()};
    rig_note(job->key, &what.note);
    assert_int_equal(transfer_send_token(node->transfer, job->key, &what), SL_OK);
}

/* ---- events ---- */

static void on_taken(struct rig_node *node, struct rig_job *job, const struct transfer_event *event)
{
    uint32_t *block = &job->blocks[event->class_index][event->block_index];
    assert_int_equal(node->owner[event->class_index][event->block_id], job->key);
    assert_int_equal(*block, UINT32_MAX);
    *block = event->block_id;
    job->n_taken++;
    struct transfer_block blocks[1];
    if (job->hold_refill || gather(node, job, blocks, 1) == 0)
        return;
    assert_int_equal(transfer_recv_refill(node->transfer, job->key, blocks, 1), SL_OK);
}

static void on_sealed(struct rig_node *node, struct rig_job *job,
                      const struct transfer_event *event)
{
    assert_false(job->sealed || job->failed || job->ended);
    job->sealed = true;
    job->token = event->token;
    job->token_index = event->token_index;
    job->eos = event->eos;
    job->stats = event->stats;
    struct transfer_note note;
    rig_note(job->key, &note);
    assert_int_equal(event->note.n_bytes, note.n_bytes);
    assert_memory_equal(event->note.bytes, note.bytes, note.n_bytes);
    assert_int_equal(job->n_landed, lacking(node, job));
    for (uint32_t c = 0; c < node->args.n_classes; c++) {
        for (uint32_t i = job->first_block[c]; i < job->n_blocks; i++) {
            assert_int_not_equal(job->blocks[c][i], UINT32_MAX);
            assert_int_equal(node->owner[c][job->blocks[c][i]], job->key);
        }
    }
}

static void on_ended(struct rig_node *node, struct rig_job *job, const struct transfer_event *event)
{
    assert_false(job->ended);
    job->ended = true;
    job->stats = event->stats;
    if (job->side != RIG_SOURCE)
        return;
    for (uint32_t c = 0; c < node->args.n_classes; c++) {
        for (uint32_t i = job->sent_from[c]; i < job->n_blocks; i++)
            give_block(node, job->key, c, job->blocks[c][i]);
    }
}

static void on_event(struct rig_node *node, const struct transfer_event *event)
{
    struct rig_job *job = rig_job(node, event->key);
    if (event->type == TRANSFER_EVENT_OPENED && job == NULL)
        job = new_job(node, RIG_DESTINATION, event->key);
    assert_non_null(job);
    switch (event->type) {
    case TRANSFER_EVENT_WANTED:
        assert_false(job->wanted);
        job->wanted = true;
        memcpy(job->first_block, event->first_block, sizeof(job->first_block));
        break;
    case TRANSFER_EVENT_ACKED:
        assert_false(job->acked || job->failed);
        job->acked = true;
        break;
    case TRANSFER_EVENT_OPENED:
        assert_false(job->opened);
        job->opened = true;
        job->attempt = event->attempt;
        break;
    case TRANSFER_EVENT_TAKEN:
        on_taken(node, job, event);
        break;
    case TRANSFER_EVENT_LANDED:
        assert_int_equal(job->blocks[event->class_index][event->block_index], event->block_id);
        job->n_landed++;
        break;
    case TRANSFER_EVENT_SEALED:
        on_sealed(node, job, event);
        break;
    case TRANSFER_EVENT_BLOCK_BACK:
        assert_false(job->sealed);
        assert_true(job->n_out > 0);
        job->n_out--;
        give_block(node, job->key, event->class_index, event->block_id);
        break;
    case TRANSFER_EVENT_FAILED:
        assert_false(job->failed || job->acked || job->sealed);
        job->failed = true;
        job->reason = event->reason;
        break;
    case TRANSFER_EVENT_SEND_ENDED:
    case TRANSFER_EVENT_RECV_ENDED:
        on_ended(node, job, event);
        break;
    case TRANSFER_EVENT_SENT:
        break;
    }
}

bool rig_turn(struct rig_node *node)
{
    bool moved = node->args.manual && !node->dead && transfer_progress(node->transfer);
    struct transfer_event event;
    while (transfer_poll(node->transfer, &event)) {
        on_event(node, &event);
        moved = true;
    }
    return moved;
}

bool rig_run(struct rig_node **nodes, uint32_t n, bool (*done)(void *arg), void *arg,
             uint64_t timeout_us)
{
    uint64_t begun = sl_real_us();
    while (!done(arg)) {
        bool moved = false;
        for (uint32_t i = 0; i < n; i++)
            moved |= rig_turn(nodes[i]);
        if (!moved)
            sl_sleep_us(20);
        if (sl_real_us() - begun > timeout_us)
            return false;
    }
    return true;
}

double rig_metric(struct rig_node *node, const char *name, const char *label)
{
    struct sl_buf buf;
    sl_buf_init(&buf, (size_t)4 << 20);
    sl_metrics_render(node->metrics, &buf);
    char full[128];
    snprintf(full, sizeof(full), "\nsluice_%s", name);
    double sum = 0;
    size_t n = strlen(full);
    for (const char *at = buf.data; (at = strstr(at, full)) != NULL; at += n) {
        if (at[n] != '{' && at[n] != ' ')
            continue;
        const char *end = strchr(at + 1, '\n');
        const char *value = end;
        while (value[-1] != ' ')
            value--;
        char line[512];
        snprintf(line, sizeof(line), "%.*s", (int)(end - at - 1), at + 1);
        if (label == NULL || strstr(line, label) != NULL)
            sum += strtod(value, NULL);
    }
    sl_buf_fini(&buf);
    return sum;
}

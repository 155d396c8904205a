/* A node's process, from its options to its exit.
 *
 *   options ─► signals ─► admin pages ─► join (hello, not ready) ─► load the model ─► transport
 *   ─► worker ─► scheduler thread ─► hello, ready ─► wait for the drain ─► finish work ─► exit
 *
 * It joins and answers /health before the model is loaded, which takes minutes for large ones; the
 * coordinator sees progress and gives it no work. Messages that come before there is a worker are
 * dropped: nothing was promised.
 *
 * Threads: main (this file's top half), control and heartbeat threads of serve (callbacks below),
 * the admin server's, the scheduler. `worker` is published to the callbacks once, by an atomic store,
 * and taken back only when the threads that read it have ended.
 *
 * A process that transfers do not reach any more (transfer/canary.c) drains by itself, and fails.
 *
 * The drain: new requests are refused, what is in work finishes within the bound, the rest is ended
 * with an error that lets the coordinator place it elsewhere. Then connections are given a moment to
 * carry the last tokens away. */
#include "worker/node.h"

#include "base/address.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"
#include "kv/hash.h"
#include "proto/check.h"
#include "serve/admin.h"
#include "serve/join.h"
#include "serve/serve.h"
#include "serve/worker_options.h"
#include "worker/worker.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define DRAIN_POLL_US  (20 * SL_MS_US)
#define DROP_GRACE_US  (2 * SL_SECOND_US)
#define HUNG_US        (10 * SL_SECOND_US) /* /health: a step loop without a beat for so long */
#define STEP_HUNG_US   (60 * SL_SECOND_US) /* /health: a batch without any progress */
#define LAYOUT_VERSION 2                   /* 1: the words of one class as they were */

_Static_assert(SERVE_STEP_TOKENS_MAX <= MODEL_ROWS_MAX, "the engine takes what the options allow");

struct node {
    struct serve_worker_config config;
    const struct worker_policy *policy;
    struct transfer_loop *loop; /* NULL: UCX */
    uint64_t incarnation;
    struct sl_metrics *metrics;
    struct sl_wake wake;
    struct serve_pulse pulse;
    struct serve_admin *admin;
    struct serve_join *join;
    struct model_engine *engine;
    struct transfer *transfer;
    struct sl_thread scheduler;
    _Atomic(struct worker *) worker; /* NULL until it may be used */
    _Atomic uint64_t bytes_done, bytes_total;
    _Atomic bool loading;
    _Atomic bool deaf; /* transfers do not reach this process any more */
    char advertised[SL_ADDRESS_BYTES];
    uint8_t layout[16];
    Sluice__Rank rank, *ranks[1];
};

static void wake_up(void *arg)
{
    sl_wake_signal(arg);
}

/* Nothing is in work yet: a drain now ends the loading, and the node. */
static bool load_progress(void *arg, uint64_t bytes_done, uint64_t bytes_total)
{
    struct node *node = arg;
    atomic_store(&node->bytes_done, bytes_done);
    atomic_store(&node->bytes_total, bytes_total);
    if (serve_draining())
        sl_info("loading_ended", "bytes=%" PRIu64 " of=%" PRIu64, bytes_done, bytes_total);
    return !serve_draining();
}

/* ---- what serve asks for; on its threads ---- */

static void fill_geometry(const struct node *node, const struct model_info *info,
                          Sluice__Hello *hello)
{
    const struct kv_geometry *geometry = &info->geometry;
    hello->block_tokens = geometry->block_tokens;
    for (uint32_t c = 0; c < geometry->n_classes; c++) {
        uint32_t window = geometry->classes[c].window;
        hello->block_bytes += kv_block_bytes(geometry, c);
        hello->window_block_bytes += window > 0 ? kv_block_bytes(geometry, c) : 0;
        hello->window_tokens = window > hello->window_tokens ? window : hello->window_tokens;
    }
    if (geometry->classes[0].window > 0)
        hello->request_blocks_max =
            kv_window_blocks(geometry, 0, info->context_max, (uint32_t)node->config.chunk_tokens);
}

static void on_hello(void *arg, Sluice__Hello *hello)
{
    struct node *node = arg;
    hello->node_id = node->config.id;
    hello->role = node->policy->role;
    hello->incarnation = node->incarnation;
    hello->admin = node->advertised;
    if (atomic_load(&node->worker) == NULL)
        return;
    const struct model_info *info = model_engine_info(node->engine);
    hello->ready = true;
    hello->identity.data = (uint8_t *)(uintptr_t)info->identity;
    hello->identity.len = sizeof(info->identity);
    hello->layout.data = node->layout;
    hello->layout.len = sizeof(node->layout);
    hello->numerics_id = (char *)(uintptr_t)info->numerics_id;
    hello->vocab = info->vocab;
    hello->context_max = info->context_max;
    hello->n_eos_ids = info->n_eos_ids;
    hello->eos_ids = (uint32_t *)(uintptr_t)info->eos_ids;
    fill_geometry(node, info, hello);
    hello->blocks_total = (uint32_t)node->config.kv_blocks;
    hello->n_ranks = 1;
    hello->ranks = node->ranks;
    hello->transport = (char *)(uintptr_t)transfer_transport(node->transfer);
}

static bool on_loading(void *arg, Sluice__LoadProgress *progress)
{
    struct node *node = arg;
    if (!atomic_load(&node->loading))
        return false;
    progress->bytes_done = atomic_load(&node->bytes_done);
    progress->bytes_total = atomic_load(&node->bytes_total);
    return true;
}

static void fill_load(const struct worker_snapshot *now, Sluice__Load *load)
{
    load->running = now->running;
    load->waiting = now->waiting;
    load->blocks_total = now->blocks.total;
    load->blocks_free = now->blocks.free;
    load->blocks_cached = now->blocks.cached;
    load->blocks_used = now->blocks.used;
    load->blocks_landing = now->blocks.landing + now->blocks.quarantined;
    load->queued_tokens = now->queued_tokens;
    load->promised_blocks = now->blocks.promised;
}

static void fill_samples(struct worker *worker, struct serve_heartbeat *heartbeat)
{
    struct worker_sample samples[RPC_SAMPLES_MAX];
    uint32_t n = worker_samples(worker, samples, RPC_SAMPLES_MAX);
    for (uint32_t i = 0; i < n; i++) {
        heartbeat->samples[i].tokens = samples[i].tokens;
        heartbeat->samples[i].context_tokens = samples[i].context_tokens;
        heartbeat->samples[i].compute_us = samples[i].compute_us;
    }
    heartbeat->message.n_samples = n;
}

static void fill_transfers(struct node *node, struct serve_heartbeat *heartbeat)
{
    struct transfer_totals totals[SERVE_TRANSFERS_MAX];
    uint32_t n = transfer_totals_read(node->transfer, totals, SERVE_TRANSFERS_MAX);
    if (n > SERVE_TRANSFERS_MAX)
        n = SERVE_TRANSFERS_MAX;
    for (uint32_t i = 0; i < n; i++) {
        Sluice__TransferTotals *to = &heartbeat->transfers[i];
        memcpy(heartbeat->names[i][0], totals[i].src, sizeof(totals[i].src));
        memcpy(heartbeat->names[i][1], totals[i].dst, sizeof(totals[i].dst));
        to->send = totals[i].send;
        to->bytes = totals[i].bytes;
        to->pieces = totals[i].pieces;
        to->streams = totals[i].streams;
        to->busy_us = totals[i].busy_us;
        to->exposed_us = totals[i].exposed_us;
        to->transport = (char *)(uintptr_t)transfer_transport(node->transfer);
        to->n_failures = TRANSFER_REASON_COUNT;
        for (uint32_t r = 0; r < TRANSFER_REASON_COUNT; r++)
            heartbeat->failures[i][r] = totals[i].failures[r];
    }
    heartbeat->message.n_transfers = n;
}

static void on_heartbeat(void *arg, struct serve_heartbeat *heartbeat)
{
    struct node *node = arg;
    struct worker *worker = atomic_load(&node->worker);
    heartbeat->message.draining = serve_draining();
    if (worker == NULL)
        return;
    struct worker_snapshot now;
    worker_snapshot(worker, &now);
    heartbeat->message.step = model_engine_steps(node->engine);
    heartbeat->message.stalled_us = model_engine_stalled_us(node->engine);
    heartbeat->message.preemptions = now.preemptions;
    fill_load(&now, &heartbeat->load);
    fill_samples(worker, heartbeat);
    fill_transfers(node, heartbeat);
}

static void on_joined(void *arg, uint64_t coordinator, uint64_t lost_us, bool restarted)
{
    struct node *node = arg;
    (void)coordinator;
    sl_info("coordinator_joined", "coordinator=%s admin=%s lost_ms=%llu restarted=%s",
            node->config.coordinator, node->advertised, lost_us / SL_MS_US,
            restarted ? "yes" : "no");
    struct worker *worker = atomic_load(&node->worker);
    if (worker != NULL)
        worker_joined(worker);
}

static void on_lost(void *arg, sl_status why, const char *text)
{
    struct node *node = arg;
    if (!serve_draining() && why != SL_CANCELLED) /* else it is this node that goes */
        sl_warn("coordinator_lost", "why=%s text=\"%s\"", sl_status_name(why), text);
    struct worker *worker = atomic_load(&node->worker);
    if (worker != NULL)
        worker_lost(worker);
}

static void on_message(void *arg, Sluice__CoordinatorMessage *message)
{
    struct node *node = arg;
    struct worker *worker = atomic_load(&node->worker);
    if (message->body_case == SLUICE__COORDINATOR_MESSAGE__BODY_DRAIN)
        serve_drain("the coordinator asks for it", message->drain->bound_us);
    if (worker == NULL)
        rpc_coordinator_message_free(message);
    else
        worker_deliver(worker, message);
}

static sl_status on_send(void *arg, enum rpc_class class, const Sluice__NodeMessage *message)
{
    struct node *node = arg;
    return serve_join_send(node->join, class, message);
}

static void on_changed(void *arg)
{
    struct node *node = arg;
    serve_join_beat(node->join);
}

static void health_of_worker(struct node *node, struct serve_health *health)
{
    uint64_t beat_us = serve_pulse_stalled_us(&node->pulse);
    uint64_t stalled_us = model_engine_stalled_us(node->engine);
    health->step = model_engine_steps(node->engine);
    health->stalled_us = stalled_us;
    health->state = serve_draining() ? SERVE_DRAINING : SERVE_READY;
    if (beat_us > HUNG_US) {
        health->ok = false;
        (void)snprintf(health->reason, sizeof(health->reason),
                       "the step loop has not turned for %" PRIu64 " ms", beat_us / 1000);
    } else if (stalled_us > STEP_HUNG_US) {
        health->ok = false;
        (void)snprintf(health->reason, sizeof(health->reason),
                       "the running step has made no progress for %" PRIu64 " ms",
                       stalled_us / 1000);
    } else if (serve_join_lost_us(node->join) > 0) {
        health->state = SERVE_UNAVAILABLE;
        (void)snprintf(health->reason, sizeof(health->reason), "no coordinator for %" PRIu64 " ms",
                       serve_join_lost_us(node->join) / 1000);
    }
}

static void on_health(void *arg, struct serve_health *health)
{
    struct node *node = arg;
    health->ok = true;
    if (atomic_load(&node->worker) != NULL) {
        health_of_worker(node, health);
        return;
    }
    health->state = SERVE_LOADING;
    health->bytes_done = atomic_load(&node->bytes_done);
    health->bytes_total = atomic_load(&node->bytes_total);
    (void)snprintf(health->reason, sizeof(health->reason), "the model is loading");
}

/* ---- building it up ---- */

/* host:port under which others reach the admin pages; a coordinator puts its own view in the place of "any". */
static sl_status set_advertised(struct node *node)
{
    char host[SL_HOST_BYTES];
    uint16_t port;
    sl_status status = sl_address_parse("--admin", node->config.serve.admin, host, &port);
    if (status != SL_OK)
        return status;
    const char *name = node->config.advertise != NULL ? node->config.advertise : host;
    sl_address_format(name, serve_admin_port(node->admin), node->advertised);
    return SL_OK;
}

static sl_status start_serving(struct node *node)
{
    struct serve_admin_args admin = {
        .listen = node->config.serve.admin,
        .node = node->config.id,
        .metrics = node->metrics,
        .health = on_health,
        .arg = node,
    };
    sl_status status = serve_admin_start(&admin, &node->admin);
    if (status == SL_OK)
        status = set_advertised(node);
    if (status != SL_OK)
        return status;
    struct serve_join_args join = {
        .coordinator = node->config.coordinator,
        .hello = on_hello,
        .heartbeat = on_heartbeat,
        .loading = on_loading,
        .joined = on_joined,
        .lost = on_lost,
        .message = on_message,
        .arg = node,
    };
    return serve_join_start(&join, &node->join);
}

static sl_status load(struct node *node)
{
    const struct serve_worker_config *config = &node->config;
    struct model_engine_args args = {
        .directory = config->model,
        .backend = serve_backend_names[config->backend],
        .n_threads = (uint32_t)config->threads,
        .n_blocks = (uint32_t)config->kv_blocks,
        .block_tokens = (uint32_t)config->block_tokens,
        .context_max = (uint32_t)config->context_tokens,
        .kv_type = serve_kv_type_names[config->kv_type],
        .rows_max = worker_rows_max((uint32_t)config->chunk_tokens, (uint32_t)config->max_seqs),
        .seqs_max = (uint32_t)config->max_seqs,
        .layers_per_group = (uint32_t)config->transfer_layers,
        .seed = node->incarnation,
        .notify = wake_up,
        .notify_arg = &node->wake,
        .progress = load_progress,
        .progress_arg = node,
    };
    atomic_store(&node->loading, true);
    sl_status status = model_engine_open(&args, &node->engine);
    atomic_store(&node->loading, false);
    return status;
}

/* What two nodes must share besides the identity for blocks to travel as they are: one rank with all
 * heads, plain tiles, this geometry. */
static void set_layout(struct node *node, const struct kv_geometry *geometry)
{
    const struct kv_hash root = {{LAYOUT_VERSION}};
    uint32_t words[2 + 8 * KV_CLASSES_MAX] = {geometry->block_tokens, geometry->n_classes};
    uint32_t n = 2;
    for (uint32_t c = 0; c < geometry->n_classes; c++) {
        const struct kv_class *class = &geometry->classes[c];
        const uint32_t fields[8] = {class->n_layers,    class->n_kv_heads, class->k_dim,
                                    class->v_dim,       class->element,    class->window,
                                    class->scale_bytes, class->tile_format};
        memcpy(words + n, fields, sizeof(fields));
        n += 8;
    }
    struct kv_hash hash = kv_hash_block(&root, words, n);
    memcpy(node->layout, hash.bytes, sizeof(node->layout));
}

/* What decodes goes on to its end; then another process takes this one's place. */
static void on_deaf(void *arg, const char *why)
{
    struct node *node = arg;
    atomic_store(&node->deaf, true);
    serve_drain(why, 0);
}

static sl_status start_transfer(struct node *node)
{
    const struct model_info *info = model_engine_info(node->engine);
    set_layout(node, &info->geometry);
    struct transfer_args args = {
        .transport = node->loop != NULL ? "loop" : "ucx",
        .loop = node->loop,
        .node_id = node->config.id,
        .incarnation = node->incarnation,
        .block_tokens = info->geometry.block_tokens,
        .n_classes = info->geometry.n_classes,
        .layers_per_piece = info->layers_per_group,
        .verify = node->config.transfer_verify,
        .probe_bytes = node->config.transfer_probe_bytes,
        .bind = node->config.bind,
        .metrics = node->metrics,
        .notify = wake_up,
        .notify_arg = &node->wake,
        .deaf = on_deaf,
        .deaf_arg = node,
    };
    for (uint32_t c = 0; c < args.n_classes; c++)
        args.classes[c] = (struct transfer_class){
            .pool = model_engine_kv(node->engine, c),
            .n_blocks = info->n_blocks[c],
            .n_layers = info->geometry.classes[c].n_layers,
            .layer_bytes = kv_layer_bytes(&info->geometry, c),
        };
    memcpy(args.identity, info->identity, sizeof(args.identity));
    memcpy(args.layout, node->layout, sizeof(args.layout));
    transfer_limits_default(&args.limits);
    sl_status status = transfer_create(&args, &node->transfer);
    if (status != SL_OK)
        return status;
    const void *address;
    size_t bytes;
    sluice__rank__init(&node->rank);
    transfer_address(node->transfer, &address, &bytes);
    node->rank.address.data = (uint8_t *)(uintptr_t)address;
    node->rank.address.len = bytes;
    node->ranks[0] = &node->rank;
    return SL_OK;
}

static void run_scheduler(void *arg)
{
    struct node *node = arg;
    worker_run(atomic_load(&node->worker), &node->pulse);
}

static sl_status start_worker(struct node *node)
{
    struct worker_args args = {
        .policy = node->policy,
        .incarnation = node->incarnation,
        .engine = node->engine,
        .transfer = node->transfer,
        .metrics = node->metrics,
        .wake = &node->wake,
        .chunk_tokens = (uint32_t)node->config.chunk_tokens,
        .seqs_max = (uint32_t)node->config.max_seqs,
        .send = on_send,
        .send_arg = node,
        .changed = on_changed,
        .changed_arg = node,
    };
    worker_limits_default(&args.limits);
    struct worker *worker;
    sl_status status = worker_create(&args, &worker);
    if (status != SL_OK)
        return status;
    atomic_store(&node->worker, worker);
    status = sl_thread_start(&node->scheduler, "scheduler", run_scheduler, node);
    if (status != SL_OK)
        return status;
    serve_join_announce(node->join);
    const struct model_info *info = model_engine_info(node->engine);
    sl_info("ready", "model=%s family=%s context=%u blocks=%" PRIu64 " numerics=%s",
            node->config.model, info->family, info->context_max, node->config.kv_blocks,
            info->numerics_id);
    return SL_OK;
}

static sl_status build(struct node *node)
{
    sl_status status = sl_wake_init(&node->wake);
    if (status == SL_OK && node->config.cpus != NULL)
        status = sl_cpu_bind(node->config.cpus);
    if (status == SL_OK)
        status = start_serving(node);
    if (status == SL_OK)
        status = load(node);
    if (status == SL_OK)
        status = start_transfer(node);
    return status == SL_OK ? start_worker(node) : status;
}

/* ---- and down ---- */

/* True when nothing is left before the instant (real time). */
static bool wait_drained(struct worker *worker, uint64_t until_us)
{
    while (!worker_drained(worker)) {
        if (sl_real_us() >= until_us)
            return false;
        sl_sleep_us(DRAIN_POLL_US);
    }
    return true;
}

static void drain(struct node *node)
{
    struct worker *worker = atomic_load(&node->worker);
    worker_drain(worker);
    serve_join_announce(node->join);
    serve_join_beat(node->join);
    if (wait_drained(worker, serve_drain_deadline_us()))
        return;
    worker_drop_all(worker);
    (void)wait_drained(worker, sl_real_us() + DROP_GRACE_US);
}

static void tear_down(struct node *node)
{
    struct worker *worker = atomic_load(&node->worker);
    if (worker != NULL)
        worker_stop(worker);
    sl_thread_join(&node->scheduler);
    serve_join_stop(node->join);
    serve_admin_stop(node->admin);
    atomic_store(&node->worker, NULL);
    transfer_destroy(node->transfer);
    model_engine_close(node->engine);
    worker_destroy(worker);
    sl_wake_fini(&node->wake);
}

static sl_status run(struct node *node)
{
    sl_status status = build(node);
    if (status == SL_OK) {
        (void)serve_wait(UINT64_MAX);
        drain(node);
    }
    tear_down(node);
    if (status == SL_OK && atomic_load(&node->deaf))
        return sl_fail(SL_DEVICE, "transfers did not reach this process any more; start it again");
    return status;
}

sl_status worker_node_run(const struct worker_policy *policy,
                          const struct serve_worker_config *config, struct transfer_loop *loop)
{
    sl_status status = rpc_check_node_id("--id", config->id);
    if (status == SL_OK)
        status = serve_worker_check(config);
    if (status != SL_OK)
        return status; /* else found out after minutes of loading, or by every coordinator again and again */
    struct node *node = sl_zalloc(1, sizeof(*node));
    node->config = *config;
    node->policy = policy;
    node->loop = loop;
    node->incarnation = serve_random_id();
    node->metrics = sl_metrics_create();
    status = run(node);
    sl_metrics_destroy(node->metrics);
    sl_free(node);
    return status;
}

int worker_main(const struct worker_policy *policy, const char *program, const char *summary,
                int argc, char **argv)
{
    struct serve_worker_config config = {0};
    const struct sl_option *const tables[] = {serve_node_options, serve_worker_options,
                                              serve_admin_options, serve_options, NULL};
    const size_t counts[] = {serve_node_option_count, serve_worker_option_count,
                             serve_admin_option_count, serve_option_count};
    struct sl_options_args args = {
        .program = program,
        .summary = summary,
        .tables = tables,
        .table_counts = counts,
        .argc = argc,
        .argv = argv,
        .config = &config,
    };
    struct sl_options *options = NULL;
    bool done = false;
    sl_status status = sl_options_parse(&args, &options, &done);
    if (status == SL_OK && !done)
        status = serve_start(&config.serve, config.id);
    if (status == SL_OK && !done) {
        status = worker_node_run(policy, &config, NULL);
        serve_stop();
    }
    int code = serve_exit_code(program, status);
    sl_options_destroy(options);
    return code;
}

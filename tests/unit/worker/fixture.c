/* The model has three layers of random weights: large enough that every layer group, head and position
 * matters for the next token, small enough that a test computes thousands of tokens in a second.
 * Blocks are of 16 tokens, so short prompts have many. */
#include "fixture.h"

#include "base/clock.h"
#include "decode/policy.h"
#include "prefill/policy.h"
#include "proto/message.h"

#include <math.h>

#define HIDDEN   64u
#define LAYERS   3u
#define HEADS    2u
#define KV_HEADS 1u
#define HEAD_DIM 64u
#define MLP      96u
#define CONTEXT  2048u
#define WAIT_US  (120 * SL_SECOND_US) /* sanitizers on a busy machine */

static char *model_directories[FX_MODELS];
static struct model_engine
    *references[FX_MODELS];  /* stay open: loading takes longer than most tests */
static enum fx_model opened; /* last */

/* ---- the model ---- */

struct tensor {
    char name[64];
    uint32_t dims[2];
    uint32_t n_dims;
    float size; /* uniform within +-size; 0: ones */
};

static uint32_t list_tensors(enum fx_model model, struct tensor *tensors)
{
    static const struct {
        const char *name;
        uint32_t rows, columns;
    } per_layer[] = {
        {"self_attn.q_proj", HEADS * HEAD_DIM, HIDDEN},
        {"self_attn.k_proj", KV_HEADS * HEAD_DIM, HIDDEN},
        {"self_attn.v_proj", KV_HEADS * HEAD_DIM, HIDDEN},
        {"self_attn.o_proj", HIDDEN, HEADS * HEAD_DIM},
        {"mlp.gate_proj", MLP, HIDDEN},
        {"mlp.up_proj", MLP, HIDDEN},
        {"mlp.down_proj", HIDDEN, MLP},
        {"input_layernorm", HIDDEN, 0},
        {"post_attention_layernorm", HIDDEN, 0},
    };
    uint32_t n = 0;
    tensors[n++] = (struct tensor){"model.embed_tokens.weight", {FX_VOCAB, HIDDEN}, 2, 1.0f};
    tensors[n++] = (struct tensor){"lm_head.weight", {FX_VOCAB, HIDDEN}, 2, 0.4f};
    tensors[n++] = (struct tensor){"model.norm.weight", {HIDDEN, 0}, 1, 0.0f};
    for (uint32_t layer = 0; layer < LAYERS; layer++)
        for (size_t i = 0; i < sizeof(per_layer) / sizeof(per_layer[0]); i++) {
            struct tensor *t = &tensors[n++];
            *t = (struct tensor){.dims = {per_layer[i].rows, per_layer[i].columns}};
            t->n_dims = per_layer[i].columns == 0 ? 1 : 2;
            t->size = t->n_dims == 1 ? 0.0f : sqrtf(3.0f / (float)per_layer[i].columns);
            (void)snprintf(t->name, sizeof(t->name), "model.layers.%u.%s.weight", layer,
                           per_layer[i].name);
            if (model != FX_MIXED || i > 2) /* q, k, v of Qwen2 have biases */
                continue;
            t = &tensors[n++];
            *t = (struct tensor){.dims = {per_layer[i].rows, 0}, .n_dims = 1, .size = 0.2f};
            (void)snprintf(t->name, sizeof(t->name), "model.layers.%u.%s.bias", layer,
                           per_layer[i].name);
        }
    return n;
}

static void write_weights(enum fx_model model, const char *directory)
{
    struct tensor tensors[64];
    uint32_t n = list_tensors(model, tensors);
    char header[8192];
    size_t length = (size_t)snprintf(header, sizeof(header), "{");
    size_t offset = 0;
    for (uint32_t i = 0; i < n; i++) {
        size_t count = tensors[i].dims[0] * (tensors[i].n_dims == 2 ? tensors[i].dims[1] : 1);
        char shape[32];
        if (tensors[i].n_dims == 2)
            (void)snprintf(shape, sizeof(shape), "%u,%u", tensors[i].dims[0], tensors[i].dims[1]);
        else
            (void)snprintf(shape, sizeof(shape), "%u", tensors[i].dims[0]);
        length += (size_t)snprintf(
            header + length, sizeof(header) - length,
            "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
            i == 0 ? "" : ",", tensors[i].name, shape, offset, offset + count * 4);
        offset += count * 4;
    }
    length += (size_t)snprintf(header + length, sizeof(header) - length, "}");
    uint8_t *file = sl_zalloc(1, 8 + length + offset);
    uint64_t header_bytes = length;
    memcpy(file, &header_bytes, 8);
    memcpy(file + 8, header, length);
    uint64_t random = 42;
    size_t at = 8 + length;
    for (uint32_t i = 0; i < n; i++) {
        size_t count = tensors[i].dims[0] * (tensors[i].n_dims == 2 ? tensors[i].dims[1] : 1);
        for (size_t k = 0; k < count; k++, at += 4) {
            float unit = (float)(test_random(&random) >> 40) / (float)(1 << 24);
            float value = tensors[i].size > 0.0f ? (2.0f * unit - 1.0f) * tensors[i].size : 1.0f;
            memcpy(file + at, &value, 4);
        }
    }
    test_write_file(directory, "model.safetensors", file, at);
    sl_free(file);
}

const char *fx_model(enum fx_model model)
{
    static const char *const variants[FX_MODELS] = {
        "\"LlamaForCausalLM\"],\"model_type\":\"llama\"",
        "\"MistralForCausalLM\"],\"model_type\":\"mistral\",\"sliding_window\":40",
        "\"Qwen2ForCausalLM\"],\"model_type\":\"qwen2\",\"use_sliding_window\":true,"
        "\"sliding_window\":40,\"max_window_layers\":1"};
    char **directory = &model_directories[model];
    if (*directory != NULL)
        return *directory;
    *directory = test_dir_create();
    char config[1024];
    (void)snprintf(config, sizeof(config),
                   "{\"architectures\":[%s,"
                   "\"vocab_size\":%u,\"hidden_size\":%u,\"head_dim\":%u,\"intermediate_size\":%u,"
                   "\"num_hidden_layers\":%u,\"num_attention_heads\":%u,"
                   "\"num_key_value_heads\":%u,\"hidden_act\":\"silu\",\"rms_norm_eps\":1e-6,"
                   "\"max_position_embeddings\":%u,\"tie_word_embeddings\":false,"
                   "\"bos_token_id\":0,\"eos_token_id\":1,\"rope_theta\":10000.0,"
                   "\"torch_dtype\":\"float32\"}",
                   variants[model], FX_VOCAB, HIDDEN, HEAD_DIM, MLP, LAYERS, HEADS, KV_HEADS,
                   CONTEXT);
    test_write_text(*directory, "config.json", config);
    write_weights(model, *directory);
    return *directory;
}

int fx_models_remove(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < FX_MODELS; i++) {
        model_engine_close(references[i]);
        references[i] = NULL;
        if (model_directories[i] != NULL)
            test_dir_remove(model_directories[i]);
        model_directories[i] = NULL;
    }
    return 0;
}

/* ---- what the coordinator is told ---- */

static struct fx_request *find(struct fx *fx, uint64_t id)
{
    for (uint32_t i = 0; i < fx->n_requests; i++)
        if (fx->requests[i].id == id)
            return &fx->requests[i];
    return NULL;
}

static struct model_token token_of(uint32_t id, const Sluice__Logprob *from)
{
    struct model_token token = {.id = id, .logprob = from->sampled, .rank = from->rank};
    token.n_top = (uint32_t)from->n_top;
    for (size_t k = 0; k < from->n_top && k < MODEL_LOGPROBS_MAX; k++) {
        token.top_ids[k] = from->top_ids[k];
        token.top_logprobs[k] = from->top[k];
    }
    return token;
}

static void take_scores(struct fx *fx, const Sluice__PromptScores *part)
{
    struct fx_request *r = find(fx, part->request);
    if (r == NULL || part->attempt != r->attempt)
        return;
    assert_int_equal(r->n, 0); /* before the first token */
    for (size_t i = 0; i < part->n_scores; i++) {
        uint32_t position = part->first_position + (uint32_t)i;
        assert_true(position < FX_SCORES_MAX && part->scores[i]->rank > 0);
        r->scores[position] = token_of(0, part->scores[i]);
        r->n_scores++;
    }
}

static void take_run(struct fx *fx, const Sluice__TokenRun *run)
{
    struct fx_request *r = find(fx, run->request);
    if (r == NULL || run->attempt != r->attempt) {
        if (r != NULL)
            r->n_stale++;
        return;
    }
    assert_int_equal(run->n_logprobs, r->wants_logprobs ? run->n_tokens : 0);
    for (size_t i = 0; i < run->n_tokens; i++) {
        uint32_t index = run->first_index + (uint32_t)i;
        struct model_token token = {.id = run->tokens[i]};
        if (r->wants_logprobs)
            token = token_of(run->tokens[i], run->logprobs[i]);
        if (index < r->n) {
            r->n_repeated++;
            r->n_wrong += r->tokens[index] != run->tokens[i];
            r->n_wrong += index < 8 && memcmp(&r->logprobs[index], &token, sizeof(token)) != 0;
        } else if (index > r->n || index == FX_TOKENS_MAX) {
            r->n_gaps++;
        } else {
            if (index < 8)
                r->logprobs[index] = token;
            r->tokens[r->n++] = run->tokens[i];
        }
    }
}

static void take_finished(struct fx *fx, const Sluice__Finished *finished)
{
    struct fx_request *r = find(fx, finished->request);
    if (r == NULL || finished->attempt != r->attempt)
        return;
    r->n_finished++;
    r->computed += finished->computed_tokens;
    if (finished->finish == SLUICE__FINISH__FINISH_SENT) {
        r->sent = finished->finish;
        r->transfer_bytes += finished->times->transfer_bytes;
        snprintf(r->destination, sizeof(r->destination), "%s", finished->destination);
        return;
    }
    r->finish = finished->finish;
    r->finish_reason = finished->reason;
}

static void take_failed(struct fx *fx, const Sluice__StreamFailed *failed)
{
    struct fx_request *r = find(fx, failed->request);
    if (r == NULL || failed->attempt != r->attempt)
        return;
    r->n_failed++;
    r->failed = failed->reason;
    r->failed_source |= failed->source;
    r->failed_held |= failed->held;
}

static void take_events(struct fx_node *node, const Sluice__CacheEvents *events)
{
    if (events->first_seq != node->seq + 1)
        fail_msg("cache events from %lu on, after %lu", (unsigned long)events->first_seq,
                 (unsigned long)node->seq);
    node->seq += events->n_events;
    for (size_t i = 0; i < events->n_events; i++)
        node->n_events += events->events[i]->evicted ? UINT32_MAX : 1;
}

static void take(struct fx_node *node, const Sluice__NodeMessage *message)
{
    struct fx *fx = node->fx;
    struct fx_request *r;
    switch ((int)message->body_case) {
    case SLUICE__NODE_MESSAGE__BODY_TOKENS:
        for (size_t i = 0; i < message->tokens->n_runs; i++)
            take_run(fx, message->tokens->runs[i]);
        break;
    case SLUICE__NODE_MESSAGE__BODY_PROMPT_SCORES:
        take_scores(fx, message->prompt_scores);
        break;
    case SLUICE__NODE_MESSAGE__BODY_ADMITTED:
        r = find(fx, message->admitted->request);
        if (r != NULL && r->attempt == message->admitted->attempt) {
            r->n_admitted++;
            r->cached = message->admitted->cached_tokens;
        }
        break;
    case SLUICE__NODE_MESSAGE__BODY_REFUSED:
        r = find(fx, message->refused->request);
        if (r != NULL && r->attempt == message->refused->attempt) {
            r->refused = message->refused->reason;
            snprintf(r->refused_text, sizeof(r->refused_text), "%s", message->refused->message);
        }
        break;
    case SLUICE__NODE_MESSAGE__BODY_FINISHED:
        take_finished(fx, message->finished);
        break;
    case SLUICE__NODE_MESSAGE__BODY_STREAM_FAILED:
        take_failed(fx, message->stream_failed);
        break;
    case SLUICE__NODE_MESSAGE__BODY_CACHE_EVENTS:
        take_events(node, message->cache_events);
        break;
    case SLUICE__NODE_MESSAGE__BODY_CACHE_SNAPSHOT:
        if (message->cache_snapshot->part == 0)
            node->n_snapshot = 0;
        node->n_snapshot += (uint32_t)(message->cache_snapshot->hashes.len / KV_HASH_BYTES);
        node->snapshot_seq = node->seq = message->cache_snapshot->seq;
        break;
    default:
        fail_msg("a worker sent message %d", (int)message->body_case);
    }
}

/* As over the wire: packed, unpacked, checked. */
static sl_status on_send(void *arg, enum rpc_class class, const Sluice__NodeMessage *message)
{
    struct fx_node *node = arg;
    (void)class;
    if (node->fx->deaf)
        return sl_fail(SL_PEER, "not joined");
    size_t n = sluice__node_message__get_packed_size(message);
    uint8_t *bytes = sl_zalloc(1, n + 1);
    (void)sluice__node_message__pack(message, bytes);
    Sluice__NodeMessage *copy;
    bool torture = atomic_exchange(&sl_fault_active, false); /* not the fixture's faults */
    sl_status status = rpc_node_message_unpack(bytes, n, &copy);
    sl_fault_active = torture;
    sl_free(bytes);
    if (status != SL_OK)
        fail_msg("the worker's message is refused: %s", sl_error());
    (void)pthread_mutex_lock(&node->fx->lock);
    take(node, copy);
    (void)pthread_mutex_unlock(&node->fx->lock);
    rpc_node_message_free(copy);
    return SL_OK;
}

/* ---- nodes ---- */

static void wake_up(void *arg)
{
    sl_wake_signal(arg);
}

static sl_status open_engine(const struct fx_args *args, struct fx_node *node,
                             struct model_engine **engine_out)
{
    struct model_engine_args engine = {
        .directory = fx_model(args->model),
        .backend = args->backend,
        .n_threads = 1,
        .n_blocks = args->n_blocks,
        .block_tokens = FX_BLOCK,
        .kv_type = "bf16",
        .rows_max = worker_rows_max(args->chunk_tokens, args->seqs_max),
        .seqs_max = args->seqs_max,
        .layers_per_group = args->layers_per_group,
        .seed = 7,
    };
    if (node != NULL) {
        engine.notify = wake_up;
        engine.notify_arg = &node->wake;
    }
    return model_engine_open(&engine, engine_out);
}

static sl_status open_transfer(struct fx *fx, const struct fx_args *args, struct fx_node *node)
{
    const struct model_info *info = model_engine_info(node->engine);
    struct transfer_args transfer = {
        .transport = "loop",
        .loop = fx->loop,
        .node_id = node->id,
        .incarnation = node->incarnation,
        .block_tokens = FX_BLOCK,
        .n_classes = info->geometry.n_classes,
        .layers_per_piece = info->layers_per_group,
        .verify = args->verify,
        .metrics = node->metrics,
        .notify = wake_up,
        .notify_arg = &node->wake,
        .manual = !args->threaded,
    };
    for (uint32_t c = 0; c < transfer.n_classes; c++)
        transfer.classes[c] =
            (struct transfer_class){.pool = model_engine_kv(node->engine, c),
                                    .n_blocks = info->n_blocks[c],
                                    .n_layers = info->geometry.classes[c].n_layers,
                                    .layer_bytes = kv_layer_bytes(&info->geometry, c)};
    memcpy(transfer.identity, info->identity, sizeof(transfer.identity));
    transfer_limits_default(&transfer.limits);
    return transfer_create(&transfer, &node->transfer);
}

static void run_node(void *arg)
{
    struct fx_node *node = arg;
    worker_run(node->worker, &node->pulse);
}

static sl_status open_node(struct fx *fx, const struct fx_args *args, struct fx_node *node,
                           uint32_t index)
{
    bool prefill = index < args->n_prefill;
    node->fx = fx;
    node->live = true;
    node->policy = prefill ? &prefill_policy : &decode_policy;
    node->incarnation = 1000 + index;
    (void)snprintf(node->id, sizeof(node->id), "%c%u", prefill ? 'p' : 'd',
                   prefill ? index : index - args->n_prefill);
    node->metrics = sl_metrics_create();
    sl_status status = sl_wake_init(&node->wake);
    if (status == SL_OK)
        status = open_engine(args, node, &node->engine);
    if (status == SL_OK)
        status = open_transfer(fx, args, node);
    if (status != SL_OK)
        return status;
    struct worker_args worker = {
        .policy = node->policy,
        .incarnation = node->incarnation,
        .engine = node->engine,
        .transfer = node->transfer,
        .metrics = node->metrics,
        .wake = &node->wake,
        .chunk_tokens = args->chunk_tokens,
        .seqs_max = args->seqs_max,
        .limits = args->limits,
        .send = on_send,
        .send_arg = node,
    };
    status = worker_create(&worker, &node->worker);
    if (status == SL_OK && args->threaded)
        status = sl_thread_start(&node->thread, "scheduler", run_node, node);
    return status;
}

static void close_node(struct fx_node *node)
{
    if (!node->live)
        return;
    node->live = false;
    if (node->thread.started)
        worker_stop(node->worker);
    sl_thread_join(&node->thread);
    transfer_destroy(node->transfer);
    model_engine_close(node->engine);
    worker_destroy(node->worker);
    sl_metrics_destroy(node->metrics);
    sl_wake_fini(&node->wake);
}

sl_status fx_try_open(struct fx *fx, const struct fx_args *given)
{
    struct fx_args args = *given;
    args.backend = args.backend != NULL ? args.backend : "ref";
    args.n_blocks = args.n_blocks != 0 ? args.n_blocks : 64;
    args.chunk_tokens = args.chunk_tokens != 0 ? args.chunk_tokens : 64;
    args.seqs_max = args.seqs_max != 0 ? args.seqs_max : 16;
    args.layers_per_group = args.layers_per_group != 0 ? args.layers_per_group : 1;
    if (args.limits.hold_us == 0)
        worker_limits_default(&args.limits);
    (void)fx_model(args.model);
    opened = args.model;
    *fx = (struct fx){.threaded = args.threaded, .next_key = 77};
    (void)pthread_mutex_init(&fx->lock, NULL);
    sl_status status = transfer_loop_create(&args.loop, &fx->loop);
    for (uint32_t i = 0; status == SL_OK && i < args.n_prefill + args.n_decode; i++) {
        fx->n_nodes++;
        status = open_node(fx, &args, &fx->nodes[i], i);
    }
    if (status != SL_OK)
        fx_close(fx);
    return status;
}

void fx_open(struct fx *fx, const struct fx_args *args)
{
    assert_ok(fx_try_open(fx, args));
}

void fx_close(struct fx *fx)
{
    for (uint32_t i = 0; i < fx->n_nodes; i++)
        close_node(&fx->nodes[i]);
    transfer_loop_destroy(fx->loop);
    (void)pthread_mutex_destroy(&fx->lock);
}

void fx_kill(struct fx *fx, uint32_t node)
{
    transfer_loop_kill(fx->loop, fx->nodes[node].incarnation);
    close_node(&fx->nodes[node]);
}

/* ---- messages to nodes ---- */

/* As over the wire. */
static void deliver(struct fx *fx, uint32_t node, const Sluice__CoordinatorMessage *message)
{
    size_t n = sluice__coordinator_message__get_packed_size(message);
    uint8_t *bytes = sl_zalloc(1, n + 1);
    (void)sluice__coordinator_message__pack(message, bytes);
    Sluice__CoordinatorMessage *copy;
    bool torture = atomic_exchange(&sl_fault_active, false);
    sl_status status = rpc_coordinator_message_unpack(bytes, n, &copy);
    sl_fault_active = torture;
    sl_free(bytes);
    if (status != SL_OK)
        fail_msg("the test's own message is refused: %s", sl_error());
    worker_deliver(fx->nodes[node].worker, copy);
}

static struct fx_request *record(struct fx *fx, const struct fx_submit *submit)
{
    (void)pthread_mutex_lock(&fx->lock);
    struct fx_request *r = find(fx, submit->id);
    if (r == NULL) {
        assert_true(fx->n_requests < FX_REQUESTS_MAX);
        r = &fx->requests[fx->n_requests++];
        *r = (struct fx_request){.id = submit->id};
    }
    r->attempt = submit->attempt != 0 ? submit->attempt : 1;
    r->wants_logprobs = submit->logprobs > 0;
    (void)pthread_mutex_unlock(&fx->lock);
    return r;
}

static void set_peer(struct fx *fx, uint32_t node, Sluice__Peer *peer, Sluice__Rank *rank,
                     Sluice__Rank **ranks)
{
    const void *address;
    sluice__peer__init(peer);
    sluice__rank__init(rank);
    transfer_address(fx->nodes[node].transfer, &address, &rank->address.len);
    rank->address.data = (uint8_t *)(uintptr_t)address;
    ranks[0] = rank;
    peer->node_id = fx->nodes[node].id;
    peer->incarnation = fx->nodes[node].incarnation;
    peer->n_ranks = 1;
    peer->ranks = ranks;
}

static void set_sampling(const struct fx_submit *submit, Sluice__Sampling *sampling)
{
    sluice__sampling__init(sampling);
    sampling->temperature = submit->temperature;
    sampling->top_p = 1.0f;
    sampling->seed = submit->seed;
    sampling->logprobs = submit->logprobs - 1;
    sampling->min_tokens = submit->min_tokens;
    sampling->n_stop_ids = submit->n_stop_ids;
    sampling->stop_ids = (uint32_t *)(uintptr_t)submit->stop_ids;
    sampling->prompt_logprobs = submit->prompt_logprobs;
    const struct model_adjust *adjust = submit->adjust;
    if (adjust == NULL)
        return;
    sampling->repetition_penalty = adjust->repetition;
    sampling->presence_penalty = adjust->presence;
    sampling->frequency_penalty = adjust->frequency;
    sampling->n_bias_ids = sampling->n_biases = adjust->n_biases;
    sampling->bias_ids = (uint32_t *)(uintptr_t)adjust->bias_ids;
    sampling->biases = (float *)(uintptr_t)adjust->biases;
    sampling->n_word_lengths = adjust->n_words;
    sampling->word_lengths = (uint32_t *)(uintptr_t)adjust->word_lengths;
    for (uint32_t i = 0; i < adjust->n_words; i++)
        sampling->n_word_ids += adjust->word_lengths[i];
    sampling->word_ids = (uint32_t *)(uintptr_t)adjust->word_ids;
}

static void send_parts(struct fx *fx, uint32_t node, const struct fx_submit *submit,
                       const Sluice__Submit *first)
{
    uint32_t at = (uint32_t)first->n_tokens;
    for (uint32_t part = 0; at < submit->n_tokens; part++) {
        Sluice__SubmitPart message = SLUICE__SUBMIT_PART__INIT;
        message.request = first->request;
        message.attempt = first->attempt;
        message.part = part;
        message.n_tokens = submit->n_tokens - at;
        if (message.n_tokens > submit->part_tokens)
            message.n_tokens = submit->part_tokens;
        message.tokens = (uint32_t *)(uintptr_t)(submit->tokens + at);
        at += (uint32_t)message.n_tokens;
        Sluice__CoordinatorMessage out = SLUICE__COORDINATOR_MESSAGE__INIT;
        out.body_case = SLUICE__COORDINATOR_MESSAGE__BODY_SUBMIT_PART;
        out.submit_part = &message;
        deliver(fx, node, &out);
    }
}

struct fx_request *fx_send(struct fx *fx, uint32_t node, Sluice__Mode mode,
                           const struct fx_submit *submit, uint32_t peer)
{
    struct fx_request *r = record(fx, submit);
    Sluice__Sampling sampling;
    Sluice__Peer to;
    Sluice__Rank rank, *ranks[1];
    Sluice__Submit message = SLUICE__SUBMIT__INIT;
    set_sampling(submit, &sampling);
    message.incarnation =
        submit->incarnation != 0 ? submit->incarnation : fx->nodes[node].incarnation;
    message.request = submit->id;
    message.attempt = r->attempt;
    message.mode = mode;
    message.deadline_us = submit->deadline_us != 0 ? submit->deadline_us : 100 * SL_SECOND_US;
    message.admission_us = submit->admission_us != 0 ? submit->admission_us : 10 * SL_SECOND_US;
    message.sampling = &sampling;
    message.prompt_tokens = submit->prompt_tokens != 0 ? submit->prompt_tokens : submit->n_tokens;
    message.total_tokens = submit->n_tokens;
    message.first_index = submit->n_tokens - message.prompt_tokens;
    message.max_tokens = submit->max_tokens;
    message.priority = submit->priority;
    message.n_tokens = submit->n_tokens;
    message.tokens = (uint32_t *)(uintptr_t)submit->tokens;
    if (submit->part_tokens != 0 && submit->part_tokens < submit->n_tokens) {
        message.n_tokens = submit->part_tokens;
        message.n_parts = (submit->n_tokens - 1) / submit->part_tokens;
    }
    if (mode != SLUICE__MODE__MODE_LOCAL) {
        set_peer(fx, peer, &to, &rank, ranks);
        message.stream_key = submit->key;
        message.peer = &to;
    }
    Sluice__CoordinatorMessage out = SLUICE__COORDINATOR_MESSAGE__INIT;
    out.body_case = SLUICE__COORDINATOR_MESSAGE__BODY_SUBMIT;
    out.submit = &message;
    deliver(fx, node, &out);
    send_parts(fx, node, submit, &message);
    return r;
}

struct fx_request *fx_local(struct fx *fx, uint32_t node, const struct fx_submit *submit)
{
    return fx_send(fx, node, SLUICE__MODE__MODE_LOCAL, submit, 0);
}

struct fx_request *fx_pair(struct fx *fx, uint32_t prefill, uint32_t decode,
                           const struct fx_submit *submit)
{
    struct fx_submit keyed = *submit;
    keyed.key = fx->next_key++;
    (void)fx_send(fx, decode, SLUICE__MODE__MODE_DECODE, &keyed, prefill);
    return fx_send(fx, prefill, SLUICE__MODE__MODE_PREFILL, &keyed, decode);
}

void fx_cancel(struct fx *fx, uint32_t node, uint64_t id, uint32_t attempt)
{
    Sluice__Cancel cancel = SLUICE__CANCEL__INIT;
    cancel.request = id;
    cancel.attempt = attempt;
    cancel.reason = SLUICE__REASON__REASON_CANCELLED;
    Sluice__CoordinatorMessage out = SLUICE__COORDINATOR_MESSAGE__INIT;
    out.body_case = SLUICE__COORDINATOR_MESSAGE__BODY_CANCEL;
    out.cancel = &cancel;
    deliver(fx, node, &out);
}

void fx_release(struct fx *fx, uint32_t node, uint64_t id, uint32_t attempt)
{
    Sluice__Release release = SLUICE__RELEASE__INIT;
    release.request = id;
    release.attempt = attempt;
    Sluice__CoordinatorMessage out = SLUICE__COORDINATOR_MESSAGE__INIT;
    out.body_case = SLUICE__COORDINATOR_MESSAGE__BODY_RELEASE;
    out.release = &release;
    deliver(fx, node, &out);
}

void fx_redirect(struct fx *fx, uint32_t prefill, const struct fx_submit *submit, uint32_t decode)
{
    struct fx_submit keyed = *submit;
    keyed.key = fx->next_key++;
    (void)fx_send(fx, decode, SLUICE__MODE__MODE_DECODE, &keyed, prefill);
    Sluice__Peer to;
    Sluice__Rank rank, *ranks[1];
    set_peer(fx, decode, &to, &rank, ranks);
    Sluice__Redirect redirect = SLUICE__REDIRECT__INIT;
    redirect.request = submit->id;
    redirect.attempt = submit->attempt;
    redirect.stream_key = keyed.key;
    redirect.peer = &to;
    Sluice__CoordinatorMessage out = SLUICE__COORDINATOR_MESSAGE__INIT;
    out.body_case = SLUICE__COORDINATOR_MESSAGE__BODY_REDIRECT;
    out.redirect = &redirect;
    deliver(fx, prefill, &out);
}

void fx_snapshot_request(struct fx *fx, uint32_t node)
{
    Sluice__SnapshotRequest request = SLUICE__SNAPSHOT_REQUEST__INIT;
    Sluice__CoordinatorMessage out = SLUICE__COORDINATOR_MESSAGE__INIT;
    out.body_case = SLUICE__COORDINATOR_MESSAGE__BODY_SNAPSHOT_REQUEST;
    out.snapshot_request = &request;
    deliver(fx, node, &out);
}

/* ---- turning ---- */

bool fx_turn(struct fx *fx)
{
    bool some = false;
    for (uint32_t i = 0; i < fx->n_nodes; i++) {
        struct fx_node *node = &fx->nodes[i];
        if (!node->live || fx->threaded)
            continue;
        some |= worker_tick(node->worker);
        some |= transfer_progress(node->transfer);
    }
    return some;
}

void fx_until(struct fx *fx, bool (*condition)(struct fx *fx, void *arg), void *arg)
{
    uint64_t deadline = sl_real_us() + WAIT_US;
    for (;;) {
        (void)pthread_mutex_lock(&fx->lock);
        bool done = condition(fx, arg);
        (void)pthread_mutex_unlock(&fx->lock);
        if (done)
            return;
        if (sl_real_us() > deadline)
            fail_msg("the wait is over");
        if (!fx_turn(fx))
            sl_sleep_us(50);
    }
}

static bool has_ended(struct fx *fx, void *arg)
{
    (void)fx;
    const struct fx_request *r = arg;
    return r->finish != SLUICE__FINISH__FINISH_NONE || r->refused != SLUICE__REASON__REASON_NONE;
}

void fx_wait(struct fx *fx, struct fx_request *request)
{
    fx_until(fx, has_ended, request);
}

static bool is_sent(struct fx *fx, void *arg)
{
    (void)fx;
    return ((const struct fx_request *)arg)->sent == SLUICE__FINISH__FINISH_SENT;
}

void fx_wait_sent(struct fx *fx, struct fx_request *request)
{
    fx_wait(fx, request);
    fx_until(fx, is_sent, request);
}

static bool nothing_left(struct fx *fx, void *arg)
{
    (void)arg;
    for (uint32_t i = 0; i < fx->n_nodes; i++) {
        struct worker_snapshot now;
        if (!fx->nodes[i].live)
            continue;
        worker_snapshot(fx->nodes[i].worker, &now);
        if (now.requests != 0)
            return false;
    }
    return true;
}

void fx_settled(struct fx *fx)
{
    fx_until(fx, nothing_left, NULL);
    for (uint32_t i = 0; i < fx->n_nodes; i++) {
        struct worker_snapshot now;
        if (!fx->nodes[i].live)
            continue;
        worker_snapshot(fx->nodes[i].worker, &now);
        assert_int_equal(now.blocks.free + now.blocks.cached, now.blocks.total);
        assert_int_equal(now.blocks.promised, 0);
        assert_int_equal(now.window_blocks.free + now.window_blocks.cached,
                         now.window_blocks.total);
        assert_int_equal(now.window_blocks.promised, 0);
    }
    for (uint32_t i = 0; i < fx->n_requests; i++) {
        assert_int_equal(fx->requests[i].n_wrong, 0);
        assert_int_equal(fx->requests[i].n_gaps, 0);
    }
}

double fx_metric(struct fx *fx, uint32_t node, const char *line)
{
    struct sl_buf page;
    sl_buf_init(&page, 1u << 20);
    sl_metrics_render(fx->nodes[node].metrics, &page);
    char *start = sl_asprintf("\n%s", line);
    const char *at = strstr(page.data, start);
    double value = at != NULL ? strtod(at + strlen(start), NULL) : -1.0;
    sl_free(start);
    sl_buf_fini(&page);
    return value;
}

/* ---- the reference ---- */

static struct model_token run_alone(struct model_engine *engine, const struct model_run *run)
{
    struct model_batch batch = {.runs = run, .n_runs = 1};
    uint64_t ticket;
    assert_ok(model_engine_submit(engine, &batch, &ticket));
    struct model_event event;
    for (;;) {
        if (!model_engine_poll(engine, &event)) {
            sl_sleep_us(20);
            continue;
        }
        if (event.type == MODEL_EVENT_RETIRED) {
            assert_int_equal(event.status, SL_OK);
            return event.results[0].token;
        }
    }
}

static struct model_engine *reference_engine(void)
{
    struct model_engine **reference = &references[opened];
    const struct fx_args args = {.model = opened,
                                 .backend = "ref",
                                 .n_blocks = CONTEXT / FX_BLOCK,
                                 .chunk_tokens = CONTEXT,
                                 .seqs_max = 1,
                                 .layers_per_group = LAYERS};
    if (*reference == NULL)
        assert_ok(open_engine(&args, NULL, reference));
    return *reference;
}

/* The adjustments of a submit, for the tokens of the reference's run. */
static struct model_adjust *reference_adjust(const struct fx_submit *submit, uint32_t prompt,
                                             const uint32_t *tokens)
{
    static struct model_adjust adjust;
    static struct model_count counts[FX_VOCAB];
    static uint32_t slots[2 * FX_VOCAB];
    if (submit->adjust == NULL)
        return NULL;
    adjust = *submit->adjust;
    adjust.n_prompt = prompt;
    adjust.tokens = tokens;
    memset(slots, 0, sizeof(slots));
    model_adjust_init(&adjust, counts, FX_VOCAB, slots, 2 * FX_VOCAB);
    return &adjust;
}

void fx_reference(const struct fx_submit *submit, uint32_t *tokens_out, uint32_t *n_out)
{
    struct model_engine *engine = reference_engine();
    uint32_t prompt = submit->prompt_tokens != 0 ? submit->prompt_tokens : submit->n_tokens;
    static uint32_t tokens[CONTEXT];
    static kv_block_id table[CONTEXT / FX_BLOCK];
    memcpy(tokens, submit->tokens, submit->n_tokens * sizeof(*tokens));
    for (uint32_t i = 0; i < CONTEXT / FX_BLOCK; i++)
        table[i] = i;
    uint32_t n = submit->n_tokens, computed = 0;
    struct model_adjust *adjust = reference_adjust(submit, prompt, tokens);
    *n_out = 0;
    for (bool stop = false; !stop && n - prompt < submit->max_tokens;) {
        struct model_run run = {.tokens = tokens + computed,
                                .n_tokens = n - computed,
                                .first_position = computed,
                                .block_tables = {table, table},
                                .n_blocks = CONTEXT / FX_BLOCK,
                                .logits = MODEL_LOGITS_LAST};
        run.sampling = (struct model_sampling){.temperature = submit->temperature,
                                               .top_p = 1.0f,
                                               .seed = submit->seed,
                                               .n_logprobs = -1,
                                               .min_position = prompt + submit->min_tokens,
                                               .n_stop_ids = submit->n_stop_ids};
        memcpy(run.sampling.stop_ids, submit->stop_ids, sizeof(submit->stop_ids));
        run.sampling.adjust = adjust;
        if (adjust != NULL)
            model_adjust_take(adjust, n);
        computed = n;
        tokens[n] = run_alone(engine, &run).id;
        tokens_out[(*n_out)++] = tokens[n];
        for (uint32_t i = 0; i < submit->n_stop_ids; i++)
            stop |= submit->stop_ids[i] == tokens[n];
        n++;
    }
}

/* That many tokens are equal says little where they repeat themselves. */
static void assert_varied(const uint32_t *tokens, uint32_t n)
{
    uint32_t n_distinct = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t k = 0;
        while (tokens[k] != tokens[i])
            k++;
        n_distinct += k == i;
    }
    assert_true(n > 0 && (n < 20 || n_distinct >= 8));
}

void fx_expect(const struct fx_request *request, const struct fx_submit *submit)
{
    static uint32_t tokens[FX_TOKENS_MAX];
    uint32_t n;
    uint32_t prompt = submit->prompt_tokens != 0 ? submit->prompt_tokens : submit->n_tokens;
    fx_reference(submit, tokens, &n);
    assert_varied(tokens, n);
    uint32_t first = submit->n_tokens - prompt;
    assert_int_equal(request->n, first + n);
    assert_memory_equal(request->tokens + first, tokens, n * sizeof(*tokens));
}

void fx_wait_all(struct fx *fx, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        fx_wait(fx, &fx->requests[i]);
}

void fx_expect_all(const struct fx *fx, const struct fx_submit *submits, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        fx_expect(&fx->requests[i], &submits[i]);
}

void fx_expect_scores(const struct fx_request *request, const struct fx_submit *submit)
{
    struct model_engine *engine = reference_engine();
    static kv_block_id table[CONTEXT / FX_BLOCK];
    for (uint32_t i = 0; i < CONTEXT / FX_BLOCK; i++)
        table[i] = i;
    const struct model_run run = {.tokens = submit->tokens,
                                  .n_tokens = submit->n_tokens,
                                  .block_tables = {table},
                                  .n_blocks = CONTEXT / FX_BLOCK,
                                  .logits = MODEL_LOGITS_ALL};
    (void)run_alone(engine, &run);
    uint32_t n_rows;
    const float *logits = model_engine_logits(engine, &n_rows);
    assert_int_equal(n_rows, submit->n_tokens);
    assert_true(request->n_scores >= submit->n_tokens - 1);
    for (uint32_t i = 1; i < submit->n_tokens; i++, logits += FX_VOCAB) {
        const struct model_token *score = &request->scores[i];
        double sum = 0, own = (double)logits[submit->tokens[i]];
        uint32_t rank = 1;
        for (uint32_t k = 0; k < FX_VOCAB; k++) {
            sum += exp((double)logits[k]);
            rank += (double)logits[k] > own || ((double)logits[k] == own && k < submit->tokens[i]);
        }
        assert_int_equal(score->rank, rank);
        assert_true(fabs((double)score->logprob - (own - log(sum))) < 1e-5);
        assert_int_equal(score->n_top, submit->prompt_logprobs - 1);
        for (uint32_t k = 0; k < score->n_top; k++)
            assert_true(fabs((double)score->top_logprobs[k] -
                             ((double)logits[score->top_ids[k]] - log(sum))) < 1e-5);
    }
}

void fx_prompt(uint32_t *tokens, uint32_t n, uint64_t seed)
{
    for (uint32_t i = 0; i < n; i++)
        tokens[i] = 2 + (uint32_t)(test_random(&seed) % (FX_VOCAB - 2));
}

void fx_mixed(struct fx_submit submits[FX_MIXED_SUBMITS], uint32_t max_tokens, uint64_t seed)
{
    static uint32_t prompts[FX_MIXED_SUBMITS][128];
    for (uint32_t i = 0; i < FX_MIXED_SUBMITS; i++) {
        fx_prompt(prompts[i], 128, seed + i);
        submits[i] = (struct fx_submit){.id = 1 + i,
                                        .tokens = prompts[i],
                                        .n_tokens = 3 + 7 * i,
                                        .max_tokens = max_tokens,
                                        .temperature = i % 3 == 0 ? 0.8f : 0.0f,
                                        .seed = i};
    }
}

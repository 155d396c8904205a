/* A node by script. Its thread takes messages from a list that the control thread fills, sends
 * heartbeats every 50 ms and one token of each sequence when its time has come. */
#include "unit/coordinator/fake_node.h"

#include "support/support.h"

#include "base/clock.h"
#include "base/thread.h"
#include "kv/hash.h"
#include "text/tokenizer.h"

#include <netinet/in.h>
#include <poll.h>
#include <stdatomic.h>
#include <sys/socket.h>

#define SEQUENCES_MAX 256
#define MESSAGES_MAX  1024

struct sequence {
    bool used;
    uint64_t request;
    uint32_t attempt, next, max;
    bool prefill; /* token 0 only, then SENT */
    int32_t logprobs;
    uint64_t due_us;
    uint32_t token_us;
};

struct fake_node {
    struct fake_args args;
    struct rpc_client *client;
    struct sl_thread thread;
    pthread_mutex_t mutex;
    struct rpc_stream *stream;
    Sluice__CoordinatorMessage *messages[MESSAGES_MAX];
    uint32_t n_messages;
    struct sequence sequences[SEQUENCES_MAX];
    uint64_t beat_us;
    atomic_bool stopping, frozen, draining;
    atomic_int behaviour;
    atomic_uint submits, cancels, redirects, running;
    struct fake_submit last; /* the mutex guards it, and the seeds */
    uint64_t seeds[FAKE_SEEDS];
    uint64_t incarnation;
};

static void send_message(struct fake_node *node, const Sluice__NodeMessage *message)
{
    pthread_mutex_lock(&node->mutex);
    struct rpc_stream *stream = node->stream != NULL ? rpc_stream_acquire(node->stream) : NULL;
    pthread_mutex_unlock(&node->mutex);
    if (stream == NULL)
        return;
    bool counted = message->body_case == SLUICE__NODE_MESSAGE__BODY_CACHE_EVENTS ||
                   message->body_case == SLUICE__NODE_MESSAGE__BODY_CACHE_SNAPSHOT;
    (void)!rpc_send_to_coordinator(stream, counted ? RPC_BULK : RPC_URGENT, message);
    rpc_stream_release(stream);
}

void fake_node_send(struct fake_node *node, const Sluice__NodeMessage *message)
{
    send_message(node, message);
}

static void send_hello(struct fake_node *node)
{
    uint8_t bytes[16], layout[16] = {1};
    uint32_t eos[] = {FAKE_EOS};
    uint8_t address[] = "address";
    Sluice__Rank rank = SLUICE__RANK__INIT, *ranks[] = {&rank};
    rank.address.data = address;
    rank.address.len = sizeof(address);
    memset(bytes, node->args.identity, sizeof(bytes));
    Sluice__Hello hello = SLUICE__HELLO__INIT;
    char id[16], text[] = "fake", transport[] = "loop", admin[] = "127.0.0.1:1";
    char version[] = "9.8 \"beta\"";
    snprintf(id, sizeof(id), "%s", node->args.id);
    hello.protocol = 1;
    hello.node_id = id;
    hello.role = node->args.prefill ? SLUICE__ROLE__ROLE_PREFILL : SLUICE__ROLE__ROLE_DECODE;
    hello.incarnation = node->incarnation;
    hello.ready = !node->args.loading;
    hello.identity = (ProtobufCBinaryData){16, bytes};
    hello.layout = (ProtobufCBinaryData){16, layout};
    hello.numerics_id = text;
    hello.vocab = node->args.vocab > 0 ? node->args.vocab : FAKE_VOCAB;
    hello.context_max = 4096;
    hello.eos_ids = eos;
    hello.n_eos_ids = 1;
    hello.block_tokens = FAKE_BLOCK_TOKENS;
    hello.block_bytes = 4096;
    hello.blocks_total = node->args.blocks > 0 ? node->args.blocks : 1000;
    hello.ranks = ranks;
    hello.n_ranks = 1;
    hello.transport = transport;
    hello.admin = node->args.admin != NULL ? node->args.admin : admin;
    hello.pid = 1234;
    hello.version = version;
    Sluice__NodeMessage message = SLUICE__NODE_MESSAGE__INIT;
    message.body_case = SLUICE__NODE_MESSAGE__BODY_HELLO;
    message.hello = &hello;
    send_message(node, &message);
}

static void on_opened(void *arg, struct rpc_stream *stream)
{
    struct fake_node *node = arg;
    pthread_mutex_lock(&node->mutex);
    node->stream = rpc_stream_acquire(stream);
    pthread_mutex_unlock(&node->mutex);
    send_hello(node);
}

static void on_message(void *arg, struct rpc_stream *stream, Sluice__CoordinatorMessage *message)
{
    (void)stream;
    struct fake_node *node = arg;
    pthread_mutex_lock(&node->mutex);
    bool fits = node->n_messages < MESSAGES_MAX;
    if (fits)
        node->messages[node->n_messages++] = message;
    pthread_mutex_unlock(&node->mutex);
    if (!fits)
        rpc_coordinator_message_free(message);
}

static void on_closed(void *arg, struct rpc_stream *stream, sl_status why, const char *text)
{
    (void)why;
    (void)text;
    struct fake_node *node = arg;
    pthread_mutex_lock(&node->mutex);
    if (node->stream == stream) {
        rpc_stream_release(node->stream);
        node->stream = NULL;
    }
    memset(node->sequences, 0, sizeof(node->sequences));
    pthread_mutex_unlock(&node->mutex);
}

static void send_admitted(struct fake_node *node, const Sluice__Submit *submit)
{
    Sluice__Admitted admitted = SLUICE__ADMITTED__INIT;
    admitted.request = submit->request;
    admitted.attempt = submit->attempt;
    admitted.cached_tokens = node->args.cached_tokens;
    Sluice__NodeMessage message = SLUICE__NODE_MESSAGE__INIT;
    message.body_case = SLUICE__NODE_MESSAGE__BODY_ADMITTED;
    message.admitted = &admitted;
    send_message(node, &message);
}

static void send_refused(struct fake_node *node, const Sluice__Submit *submit)
{
    char text[] = "no blocks";
    Sluice__Refused refused = SLUICE__REFUSED__INIT;
    refused.request = submit->request;
    refused.attempt = submit->attempt;
    refused.reason = SLUICE__REASON__REASON_FULL;
    refused.message = text;
    Sluice__NodeMessage message = SLUICE__NODE_MESSAGE__INIT;
    message.body_case = SLUICE__NODE_MESSAGE__BODY_REFUSED;
    message.refused = &refused;
    send_message(node, &message);
}

static void send_stream_failed(struct fake_node *node, uint64_t request, uint32_t attempt)
{
    Sluice__StreamFailed failed = SLUICE__STREAM_FAILED__INIT;
    failed.request = request;
    failed.attempt = attempt;
    failed.reason = SLUICE__REASON__REASON_LOST;
    failed.held = true;
    failed.source = true;
    Sluice__NodeMessage message = SLUICE__NODE_MESSAGE__INIT;
    message.body_case = SLUICE__NODE_MESSAGE__BODY_STREAM_FAILED;
    message.stream_failed = &failed;
    send_message(node, &message);
}

static void add_sequence(struct fake_node *node, uint64_t request, uint32_t attempt, uint32_t next,
                         uint32_t max, bool prefill, int32_t logprobs)
{
    for (int i = 0; i < SEQUENCES_MAX; i++) {
        struct sequence *s = &node->sequences[i];
        if (s->used)
            continue;
        *s = (struct sequence){.used = true,
                               .request = request,
                               .attempt = attempt,
                               .next = next,
                               .max = max,
                               .prefill = prefill,
                               .logprobs = logprobs,
                               .token_us = node->args.token_us};
        if (node->args.slowing)
            s->token_us *= atomic_load(&node->submits);
        return;
    }
}

/* Of each token of the prompt but the first: logprob -position / 4, and the letter after it as likelier. */
static void send_scores(struct fake_node *node, const Sluice__Submit *submit)
{
    bool lost = atomic_load(&node->submits) <= node->args.scores_lost;
    for (uint32_t position = 1; position < (lost ? 2 : submit->prompt_tokens); position++) {
        uint32_t top_ids[2] = {submit->tokens[position] + 1, submit->tokens[position]};
        float top[2] = {-0.125f, -0.25f * (float)position};
        Sluice__Logprob score = SLUICE__LOGPROB__INIT, *scores[] = {&score};
        score.sampled = top[1];
        score.rank = 2;
        score.top_ids = top_ids;
        score.top = top;
        score.n_top_ids = score.n_top = submit->sampling->prompt_logprobs - 1;
        if (score.n_top > 2)
            score.n_top_ids = score.n_top = 2;
        Sluice__PromptScores part = SLUICE__PROMPT_SCORES__INIT;
        part.request = submit->request;
        part.attempt = submit->attempt;
        part.first_position = position;
        part.scores = scores;
        part.n_scores = 1;
        Sluice__NodeMessage message = SLUICE__NODE_MESSAGE__INIT;
        message.body_case = SLUICE__NODE_MESSAGE__BODY_PROMPT_SCORES;
        message.prompt_scores = &part;
        send_message(node, &message);
    }
}

static void remember_submit(struct fake_node *node, const Sluice__Submit *submit)
{
    struct fake_submit now = {
        .mode = submit->mode,
        .total_tokens = submit->total_tokens,
        .first_index = submit->first_index,
        .priority = submit->priority,
        .salt_bytes = (uint32_t)submit->salt.len,
    };
    if (submit->salt.len > 0)
        memcpy(now.salt, submit->salt.data, submit->salt.len);
    pthread_mutex_lock(&node->mutex);
    node->last = now;
    node->seeds[atomic_fetch_add(&node->submits, 1) % FAKE_SEEDS] = submit->sampling->seed;
    pthread_mutex_unlock(&node->mutex);
}

static void take_submit(struct fake_node *node, const Sluice__Submit *submit)
{
    remember_submit(node, submit);
    enum fake_behaviour behaviour = (enum fake_behaviour)atomic_load(&node->behaviour);
    bool prefill = submit->mode == SLUICE__MODE__MODE_PREFILL;
    if (behaviour == FAKE_REFUSES_FULL) {
        send_refused(node, submit);
        return;
    }
    if (behaviour == FAKE_SILENT || (behaviour == FAKE_NEVER_ADMITS && !prefill))
        return;
    send_admitted(node, submit);
    if (behaviour == FAKE_FAILS_STREAMS && prefill) {
        send_stream_failed(node, submit->request, submit->attempt);
        return;
    }
    if (submit->sampling->prompt_logprobs > 0)
        send_scores(node, submit);
    add_sequence(node, submit->request, submit->attempt, submit->first_index, submit->max_tokens,
                 prefill, submit->sampling->logprobs);
}

static void take_message(struct fake_node *node, const Sluice__CoordinatorMessage *message)
{
    if (message->body_case == SLUICE__COORDINATOR_MESSAGE__BODY_SUBMIT) {
        take_submit(node, message->submit);
    } else if (message->body_case == SLUICE__COORDINATOR_MESSAGE__BODY_REDIRECT) {
        atomic_fetch_add(&node->redirects, 1);
        if (atomic_load(&node->behaviour) == FAKE_FAILS_STREAMS)
            send_stream_failed(node, message->redirect->request, message->redirect->attempt);
    } else if (message->body_case == SLUICE__COORDINATOR_MESSAGE__BODY_CANCEL) {
        atomic_fetch_add(&node->cancels, 1);
        for (int i = 0; i < SEQUENCES_MAX; i++)
            if (node->sequences[i].request == message->cancel->request &&
                node->sequences[i].attempt == message->cancel->attempt)
                node->sequences[i].used = false;
    }
}

static void send_finished(struct fake_node *node, const struct sequence *s, Sluice__Finish finish)
{
    char text[] = "";
    Sluice__Finished finished = SLUICE__FINISHED__INIT;
    finished.request = s->request;
    finished.attempt = s->attempt;
    finished.finish = finish;
    finished.message = text;
    Sluice__StageTimes times = SLUICE__STAGE_TIMES__INIT;
    finished.times = &times;
    Sluice__NodeMessage message = SLUICE__NODE_MESSAGE__INIT;
    message.body_case = SLUICE__NODE_MESSAGE__BODY_FINISHED;
    message.finished = &finished;
    send_message(node, &message);
}

static void emit(struct fake_node *node, struct sequence *s)
{
    uint32_t n_text = (uint32_t)strlen(node->args.text);
    uint32_t token = s->next < n_text ? (uint8_t)node->args.text[s->next] : FAKE_EOS;
    uint32_t top_ids[5] = {token, 'b', 'c', 'd', 'e'};
    float top[5] = {-0.5f, -1, -2, -3, -4};
    Sluice__Logprob logprob = SLUICE__LOGPROB__INIT, *logprobs[] = {&logprob};
    logprob.sampled = -0.5f;
    logprob.top_ids = top_ids;
    logprob.top = top;
    logprob.n_top_ids = logprob.n_top = s->logprobs > 0 ? (size_t)s->logprobs : 0;
    Sluice__TokenRun run = SLUICE__TOKEN_RUN__INIT, *runs[] = {&run};
    run.request = s->request;
    run.attempt = s->attempt;
    run.first_index = s->next;
    run.tokens = &token;
    run.n_tokens = 1;
    if (s->logprobs >= 0) {
        run.logprobs = logprobs;
        run.n_logprobs = 1;
    }
    Sluice__TokenRuns tokens = SLUICE__TOKEN_RUNS__INIT;
    tokens.runs = runs;
    tokens.n_runs = 1;
    Sluice__NodeMessage message = SLUICE__NODE_MESSAGE__INIT;
    message.body_case = SLUICE__NODE_MESSAGE__BODY_TOKENS;
    message.tokens = &tokens;
    send_message(node, &message);
    s->next++;
    s->used = false;
    if (token == FAKE_EOS)
        send_finished(node, s, SLUICE__FINISH__FINISH_STOP);
    else if (s->prefill && atomic_load(&node->behaviour) == FAKE_HOLDS)
        return;
    else if (s->prefill)
        send_finished(node, s, SLUICE__FINISH__FINISH_SENT);
    else if (s->next >= s->max)
        send_finished(node, s, SLUICE__FINISH__FINISH_LENGTH);
    else
        s->used = true;
}

static void send_heartbeat(struct fake_node *node, uint32_t running)
{
    Sluice__Load load = SLUICE__LOAD__INIT;
    load.blocks_total = node->args.blocks > 0 ? node->args.blocks : 1000;
    load.blocks_free = load.blocks_total;
    load.running = running;
    Sluice__Heartbeat heartbeat = SLUICE__HEARTBEAT__INIT;
    heartbeat.load = &load;
    heartbeat.draining = atomic_load(&node->draining);
    Sluice__NodeMessage message = SLUICE__NODE_MESSAGE__INIT;
    message.body_case = SLUICE__NODE_MESSAGE__BODY_HEARTBEAT;
    message.heartbeat = &heartbeat;
    send_message(node, &message);
}

static void take_messages(struct fake_node *node)
{
    static _Thread_local Sluice__CoordinatorMessage *messages[MESSAGES_MAX];
    pthread_mutex_lock(&node->mutex);
    uint32_t n = node->n_messages;
    memcpy(messages, node->messages, n * sizeof(messages[0]));
    node->n_messages = 0;
    pthread_mutex_unlock(&node->mutex);
    for (uint32_t i = 0; i < n; i++) {
        take_message(node, messages[i]);
        rpc_coordinator_message_free(messages[i]);
    }
}

static void run(void *arg)
{
    struct fake_node *node = arg;
    while (!atomic_load(&node->stopping)) {
        sl_sleep_us(500);
        if (atomic_load(&node->frozen))
            continue;
        take_messages(node);
        uint64_t now = sl_real_us();
        uint32_t running = 0;
        for (int i = 0; i < SEQUENCES_MAX; i++) {
            struct sequence *s = &node->sequences[i];
            if (s->used && now >= s->due_us) {
                s->due_us = now + s->token_us;
                emit(node, s);
            }
            running += s->used;
        }
        atomic_store(&node->running, running);
        if (now >= node->beat_us) {
            node->beat_us = now + 50000;
            send_heartbeat(node, running);
        }
    }
}

struct fake_node *fake_node_start(const struct fake_args *args)
{
    static atomic_uint incarnations = 1000;
    struct fake_node *node = sl_zalloc(1, sizeof(*node));
    node->args = *args;
    node->incarnation = atomic_fetch_add(&incarnations, 1);
    atomic_init(&node->behaviour, (int)args->behaviour);
    pthread_mutex_init(&node->mutex, NULL);
    struct rpc_client_handler handler = {on_opened, on_message, on_closed, node};
    char target[32];
    snprintf(target, sizeof(target), "127.0.0.1:%u", args->port);
    assert_ok(rpc_client_start(target, &handler, &node->client));
    assert_ok(sl_thread_start(&node->thread, "fake", run, node));
    return node;
}

void fake_node_stop(struct fake_node *node)
{
    if (node == NULL)
        return;
    atomic_store(&node->stopping, true);
    sl_thread_join(&node->thread);
    rpc_client_stop(node->client);
    for (uint32_t i = 0; i < node->n_messages; i++)
        rpc_coordinator_message_free(node->messages[i]);
    if (node->stream != NULL)
        rpc_stream_release(node->stream);
    pthread_mutex_destroy(&node->mutex);
    sl_free(node);
}

void fake_node_freeze(struct fake_node *node, bool frozen)
{
    atomic_store(&node->frozen, frozen);
}

void fake_node_behave(struct fake_node *node, enum fake_behaviour behaviour)
{
    atomic_store(&node->behaviour, (int)behaviour);
}

void fake_node_drain(struct fake_node *node)
{
    atomic_store(&node->draining, true);
}

uint32_t fake_node_submits(struct fake_node *node)
{
    return atomic_load(&node->submits);
}

uint32_t fake_node_cancels(struct fake_node *node)
{
    return atomic_load(&node->cancels);
}

uint32_t fake_node_redirects(struct fake_node *node)
{
    return atomic_load(&node->redirects);
}

uint32_t fake_node_running(struct fake_node *node)
{
    return atomic_load(&node->running);
}

struct fake_submit fake_node_last(struct fake_node *node)
{
    pthread_mutex_lock(&node->mutex);
    struct fake_submit last = node->last;
    pthread_mutex_unlock(&node->mutex);
    return last;
}

uint64_t fake_node_seed(struct fake_node *node, uint32_t back)
{
    pthread_mutex_lock(&node->mutex);
    uint64_t seed = node->seeds[(atomic_load(&node->submits) - 1 - back) % FAKE_SEEDS];
    pthread_mutex_unlock(&node->mutex);
    return seed;
}

void fake_node_store(struct fake_node *node, uint64_t first_seq, const uint32_t *tokens,
                     uint32_t n_tokens)
{
    uint8_t identity[16];
    struct kv_hash hashes[64];
    Sluice__CacheEvent events[64], *list[64];
    memset(identity, node->args.identity, sizeof(identity));
    struct kv_hash root = kv_hash_root(identity, NULL, 0);
    uint32_t n = n_tokens / FAKE_BLOCK_TOKENS;
    kv_hash_chain(&root, tokens, FAKE_BLOCK_TOKENS, 0, n, hashes);
    for (uint32_t i = 0; i < n; i++) {
        sluice__cache_event__init(&events[i]);
        events[i].hash = (ProtobufCBinaryData){KV_HASH_BYTES, hashes[i].bytes};
        list[i] = &events[i];
    }
    Sluice__CacheEvents message_events = SLUICE__CACHE_EVENTS__INIT;
    message_events.first_seq = first_seq;
    message_events.events = list;
    message_events.n_events = n;
    Sluice__NodeMessage message = SLUICE__NODE_MESSAGE__INIT;
    message.body_case = SLUICE__NODE_MESSAGE__BODY_CACHE_EVENTS;
    message.cache_events = &message_events;
    send_message(node, &message);
}

/* ---- a model of one token for each byte ---- */

/* The character that byte-level BPE writes for a byte, as UTF-8. */
static void byte_character(uint32_t byte, struct sl_buf *out)
{
    bool plain = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    uint32_t code = byte;
    if (!plain)
        code = byte <= 32 ? 256 + byte : byte <= 160 ? 256 + 33 + (byte - 127) : 323;
    char text[3] = {(char)code, 0, 0};
    if (code >= 128) {
        text[0] = (char)(0xc0 | (code >> 6));
        text[1] = (char)(0x80 | (code & 63));
    }
    sl_buf_add_json_string(out, text, strlen(text));
}

char *fake_model_create(void)
{
    char *dir = test_dir_create();
    test_write_text(dir, "config.json",
                    "{\"model_type\":\"llama\",\"vocab_size\":257,"
                    "\"max_position_embeddings\":1024,\"eos_token_id\":256}");
    struct sl_buf json;
    sl_buf_init(&json, 1 << 20);
    sl_buf_add_text(&json,
                    "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[{"
                    "\"id\":256,\"content\":\"<|end|>\",\"single_word\":false,\"lstrip\":false,"
                    "\"rstrip\":false,\"normalized\":false,\"special\":true}],\"normalizer\":null,"
                    "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
                    "\"trim_offsets\":true,\"use_regex\":true},\"post_processor\":{\"type\":"
                    "\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":false,\"use_regex\":"
                    "true},\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,"
                    "\"trim_offsets\":true,\"use_regex\":true},\"model\":{\"type\":\"BPE\","
                    "\"dropout\":null,\"unk_token\":null,\"continuing_subword_prefix\":null,"
                    "\"end_of_word_suffix\":null,\"fuse_unk\":false,\"byte_fallback\":false,"
                    "\"ignore_merges\":false,\"vocab\":{");
    for (uint32_t i = 0; i < 256; i++) {
        byte_character(i, &json);
        sl_buf_add_format(&json, ":%u,", i);
    }
    json.bytes--; /* the last comma */
    sl_buf_add_text(&json, "},\"merges\":[]}}");
    test_write_text(dir, "tokenizer.json", json.data);
    sl_buf_fini(&json);
    return dir;
}

void fake_model_remove(char *dir)
{
    test_dir_remove(dir);
}

struct text_tokenizer *fake_tokenizer;

int fake_tokenizer_open(void **state)
{
    (void)state;
    char *dir = fake_model_create();
    assert_ok(text_tokenizer_open(dir, &fake_tokenizer));
    fake_model_remove(dir);
    return 0;
}

int fake_tokenizer_close(void **state)
{
    (void)state;
    text_tokenizer_destroy(fake_tokenizer);
    return 0;
}

/* ---- the client ---- */

int client_connect(uint16_t port)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0)
        fail_msg("cannot connect to port %u", port);
    return fd;
}

void client_send(int fd, const char *text)
{
    size_t n = strlen(text), sent = 0;
    while (sent < n) {
        ssize_t more = send(fd, text + sent, n - sent, MSG_NOSIGNAL);
        if (more <= 0)
            return;
        sent += (size_t)more;
    }
}

void client_post(int fd, const char *path, const char *body)
{
    char head[256];
    snprintf(head, sizeof(head),
             "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
             "Content-Length: %zu\r\n\r\n",
             path, strlen(body));
    client_send(fd, head);
    client_send(fd, body);
}

bool client_read(int fd, struct sl_buf *out, const char *until, uint32_t ms)
{
    uint64_t end = sl_real_us() + ms * 1000ull;
    size_t seen = 0; /* without it */
    for (;;) {
        if (until != NULL && out->bytes > 0 && strstr(out->data + seen, until) != NULL)
            return true;
        seen = out->bytes > 64 ? out->bytes - 64 : 0; /* `until` is shorter */
        uint64_t now = sl_real_us();
        struct pollfd poller = {.fd = fd, .events = POLLIN};
        if (now >= end || poll(&poller, 1, (int)((end - now) / 1000) + 1) <= 0)
            return false;
        char bytes[4096];
        ssize_t n = recv(fd, bytes, sizeof(bytes), 0);
        if (n <= 0)
            return until == NULL;
        sl_buf_add(out, bytes, (size_t)n);
    }
}

char *client_request_within(uint16_t port, const char *method, const char *path, const char *body,
                            uint32_t ms)
{
    int fd = client_connect(port);
    struct sl_buf answer;
    sl_buf_init(&answer, 64 << 20);
    char head[512];
    snprintf(
        head, sizeof(head),
        "%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n",
        method, path, body != NULL ? strlen(body) : 0);
    client_send(fd, head);
    if (body != NULL)
        client_send(fd, body);
    client_read(fd, &answer, NULL, ms);
    close(fd);
    char *text = sl_strdup(answer.bytes > 0 ? answer.data : "");
    sl_buf_fini(&answer);
    return text;
}

char *client_request(uint16_t port, const char *method, const char *path, const char *body)
{
    return client_request_within(port, method, path, body, 20000);
}

int client_status(const char *answer)
{
    return strlen(answer) > 12 ? (int)strtol(answer + 9, NULL, 10) : 0;
}

const char *client_body(const char *answer)
{
    const char *body = strstr(answer, "\r\n\r\n");
    return body != NULL ? body + 4 : "";
}

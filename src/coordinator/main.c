/* sluice-coordinator: options, the local pools, a banner, the drain. Everything else is coordinator.c.
 *
 *   options ─► coordinator_start ─► banner ─► serve_wait ─► drain ─► coordinator_stop (workers too)
 *
 * Worker options are the workers' own table (serve/worker_options.h): with --pools local every row that
 * was set is handed on as it was given. */
#include "base/address.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "coordinator/coordinator.h"
#include "serve/serve.h"
#include "serve/worker_options.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define PROGRAM     "sluice-coordinator"
#define PATH_BYTES  4096
#define WAIT_US     (20 * SL_MS_US)
#define OPTION_TEXT 4096
/* Continued by a model that only repeats, too. */
#define EXAMPLE "\"The code of the blue door is 4821. The code of the blue door is\""

enum pools { POOLS_LOCAL, POOLS_NONE };
static const char *const pool_names[] = {"local", "none", NULL};
enum from_model { FROM_MODEL_AUTO, FROM_MODEL_NONE };
static const char *const from_model_names[] = {"auto", "none", NULL};

struct config {
    struct serve_worker_config worker; /* first */
    char *served_model_name;
    char *listen;
    char *nodes_listen;
    char *allow_origin;
    uint64_t max_model_len;
    uint32_t reasoning, generation_config;
    uint32_t pools;
    uint64_t n_prefill, n_decode;
    bool share_cpus;
    uint64_t max_body_bytes, max_held_bytes;
    uint64_t http_threads, text_threads;
    uint64_t max_connections, max_requests;
    uint64_t queue_requests, queue_tokens;
    double queue_seconds, request_seconds;
};

#define AT(field) offsetof(struct config, field)

static const struct sl_option coordinator_options[] = {
    {.name = "listen",
     .type = SL_OPTION_ADDRESS,
     .offset = AT(listen),
     .value_name = "HOST:PORT",
     .default_text = "127.0.0.1:8000",
     .help = "address of the HTTP API",
     .group = "Coordinator"},
    {.name = "nodes-listen",
     .type = SL_OPTION_ADDRESS,
     .offset = AT(nodes_listen),
     .value_name = "HOST:PORT",
     .help = "address where nodes join; default: 127.0.0.1, a free port with --pools local, else "
             "7000",
     .group = "Coordinator"},
    {.name = "allow-origin",
     .type = SL_OPTION_TEXT,
     .offset = AT(allow_origin),
     .value_name = "LIST",
     .help = "web pages of others that may talk to the HTTP API, as "
             "https://chat.example.com,http://localhost:5173, or * for all; their hosts are also "
             "names of this machine where the API listens on loopback",
     .group = "Coordinator"},
    {.name = "served-model-name",
     .type = SL_OPTION_TEXT,
     .offset = AT(served_model_name),
     .value_name = "NAME",
     .help = "the model's id in the API; default: the name of its directory",
     .group = "Coordinator"},
    {.name = "max-model-len",
     .type = SL_OPTION_UINT,
     .offset = AT(max_model_len),
     .value_name = "N",
     .default_text = "0",
     .min = 0,
     .max = 1 << 24,
     .help = "longest prompt and answer together, in tokens; 0: what the model allows",
     .group = "Coordinator"},
    {.name = "reasoning",
     .type = SL_OPTION_CHOICE,
     .offset = AT(reasoning),
     .value_name = "HOW",
     .default_text = "auto",
     .choices = from_model_names,
     .help = "auto: chats of models that mark their reasoning have it in reasoning_content; none: "
             "it stays in the content",
     .group = "Coordinator"},
    {.name = "generation-config",
     .type = SL_OPTION_CHOICE,
     .offset = AT(generation_config),
     .value_name = "HOW",
     .default_text = "auto",
     .choices = from_model_names,
     .help = "auto: sampling parameters that a request does not name are those of the model's "
             "generation_config.json; none: temperature 1 and no cut",
     .group = "Coordinator"},
    {.name = "pools",
     .type = SL_OPTION_CHOICE,
     .offset = AT(pools),
     .value_name = "WHERE",
     .default_text = "none",
     .choices = pool_names,
     .help = "who starts workers: the coordinator, on this machine, or somebody else",
     .group = "Coordinator"},
    {.name = "prefill",
     .type = SL_OPTION_UINT,
     .offset = AT(n_prefill),
     .value_name = "N",
     .default_text = "1",
     .min = 0,
     .max = ACTUATOR_WORKERS_MAX,
     .help = "prefill workers of --pools local; 0: decode workers prefill for themselves",
     .group = "Coordinator"},
    {.name = "decode",
     .type = SL_OPTION_UINT,
     .offset = AT(n_decode),
     .value_name = "N",
     .default_text = "1",
     .min = 0,
     .max = ACTUATOR_WORKERS_MAX,
     .help = "decode workers of --pools local; 0: prefill workers generate too",
     .group = "Coordinator"},
    {.name = "share-cpus",
     .type = SL_OPTION_BOOL,
     .offset = AT(share_cpus),
     .default_text = "false",
     .help = "let all workers of --pools local run on all CPUs; else each gets its own while there "
             "are enough",
     .group = "Coordinator"},
    {.name = "admin",
     .type = SL_OPTION_ADDRESS,
     .offset = AT(worker.serve.admin),
     .value_name = "HOST:PORT",
     .default_text = "127.0.0.1:0",
     .help = "where the first worker of --pools local serves its /health, /ready, /metrics and "
             "/version; "
             "each further one at the next port; port 0 takes free ones",
     .group = "Coordinator"},
    {.name = "queue-requests",
     .type = SL_OPTION_UINT,
     .offset = AT(queue_requests),
     .value_name = "N",
     .default_text = "1024",
     .min = 1,
     .max = COORDINATOR_REQUESTS_MAX,
     .help = "requests that may wait for admission; more get 429",
     .group = "Limits"},
    {.name = "queue-tokens",
     .type = SL_OPTION_UINT,
     .offset = AT(queue_tokens),
     .value_name = "N",
     .default_text = "8388608",
     .min = 1,
     .max = 1e12,
     .help = "prompt tokens of requests that may wait for admission",
     .group = "Limits"},
    {.name = "queue-seconds",
     .type = SL_OPTION_NUMBER,
     .offset = AT(queue_seconds),
     .value_name = "S",
     .default_text = "10",
     .min = 0.01,
     .max = 3600,
     .help = "longest wait for admission, then 429",
     .group = "Limits"},
    {.name = "request-seconds",
     .type = SL_OPTION_NUMBER,
     .offset = AT(request_seconds),
     .value_name = "S",
     .default_text = "600",
     .min = 1,
     .max = 86400,
     .help = "longest life of a request",
     .group = "Limits"},
    {.name = "max-body-bytes",
     .type = SL_OPTION_BYTES,
     .offset = AT(max_body_bytes),
     .value_name = "BYTES",
     .default_text = "4m",
     .min = 1024,
     .max = 1 << 30,
     .help = "longest request body; longer ones get 413",
     .group = "Limits"},
    {.name = "max-held-bytes",
     .type = SL_OPTION_BYTES,
     .offset = AT(max_held_bytes),
     .value_name = "BYTES",
     .default_text = "1g",
     .min = 1 << 20,
     .max = 1ull << 40,
     .help =
         "bodies and answers held at once, of all requests; from half of it on new requests get "
         "429",
     .group = "Limits"},
    {.name = "max-connections",
     .type = SL_OPTION_UINT,
     .offset = AT(max_connections),
     .value_name = "N",
     .default_text = "4096",
     .min = 64,
     .max = 65536,
     .help = "HTTP connections at once",
     .group = "Limits"},
    {.name = "max-requests",
     .type = SL_OPTION_UINT,
     .offset = AT(max_requests),
     .value_name = "N",
     .default_text = "4096",
     .min = 1,
     .max = COORDINATOR_REQUESTS_MAX,
     .help = "requests open at once, running and waiting",
     .group = "Limits"},
    {.name = "http-threads",
     .type = SL_OPTION_UINT,
     .offset = AT(http_threads),
     .value_name = "N",
     .default_text = "2",
     .min = 1,
     .max = 64,
     .help = "threads that move bytes of the HTTP API",
     .group = "Limits"},
    {.name = "text-threads",
     .type = SL_OPTION_UINT,
     .offset = AT(text_threads),
     .value_name = "N",
     .default_text = "2",
     .min = 1,
     .max = 16,
     .help = "threads that parse and tokenize requests",
     .group = "Limits"},
};

/* Path of a program beside this one. */
static sl_status beside(const char *name, char *out, size_t bytes)
{
    char self[PATH_BYTES];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    if (n <= 0)
        return sl_fail(SL_DEVICE, "cannot read /proc/self/exe");
    self[n] = '\0';
    char *slash = strrchr(self, '/');
    if (slash == NULL ||
        (size_t)snprintf(out, bytes, "%.*s/%s", (int)(slash - self), self, name) >= bytes)
        return sl_fail(SL_INVALID, "path of %s is too long", name);
    if (access(out, X_OK) != 0)
        return sl_fail(SL_NOT_FOUND, "--pools local needs %s, and it is not there", out);
    return SL_OK;
}

/* What every worker of --pools local would end with, again and again. */
static sl_status check_model(const char *directory)
{
    static const char *const wanted[][2] = {{"config.json", "config.json"},
                                            {"model.safetensors", "model.safetensors.index.json"}};
    struct stat found;
    if (stat(directory, &found) != 0 || !S_ISDIR(found.st_mode))
        return sl_fail(SL_NOT_FOUND, "--model %s: no such directory", directory);
    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
        char *path = sl_asprintf("%s/%s", directory, wanted[i][0]);
        char *other = sl_asprintf("%s/%s", directory, wanted[i][1]);
        int error = access(path, R_OK) == 0 ? 0 : errno;
        if (error == ENOENT)
            error = access(other, R_OK) == 0 ? 0 : errno;
        sl_free(path);
        sl_free(other);
        if (error != 0 && error != ENOENT)
            return sl_fail(SL_INVALID, "--model %s: %s: %s", directory, wanted[i][0],
                           strerror(error));
        if (error == ENOENT)
            return sl_fail(SL_NOT_FOUND,
                           "--model %s: no %s in it; want a directory in Hugging Face format",
                           directory, wanted[i][0]);
    }
    return SL_OK;
}

struct handed_on {
    char *texts[ACTUATOR_OPTIONS_MAX];
    uint32_t n;
};

static void hand_on_row(const struct sl_options *options, const char *name, struct handed_on *out)
{
    if (sl_options_origin(options, name) == SL_ORIGIN_DEFAULT || out->n == ACTUATOR_OPTIONS_MAX)
        return;
    struct sl_buf value;
    sl_buf_init(&value, OPTION_TEXT);
    sl_options_text(options, name, &value);
    out->texts[out->n++] = sl_asprintf("--%s=%s", name, value.data != NULL ? value.data : "");
    sl_buf_fini(&value);
}

/* Worker options that were set; --cpus is divided instead. */
static void hand_on(const struct sl_options *options, struct handed_on *out)
{
    for (size_t i = 0; i < serve_worker_option_count; i++)
        if (strcmp(serve_worker_options[i].name, "cpus") != 0)
            hand_on_row(options, serve_worker_options[i].name, out);
    hand_on_row(options, "log-level", out);
    hand_on_row(options, "drain-seconds", out);
}

static void free_handed_on(struct handed_on *handed)
{
    for (uint32_t i = 0; i < handed->n; i++)
        sl_free(handed->texts[i]);
}

static void fill(const struct config *config, struct coordinator_config *out)
{
    coordinator_config_init(out);
    bool local = config->pools == POOLS_LOCAL;
    out->model_dir = config->worker.model;
    out->served_name = config->served_model_name;
    out->listen = config->listen;
    out->allow_origin = config->allow_origin;
    out->nodes_listen = config->nodes_listen != NULL ? config->nodes_listen
                        : local                      ? "127.0.0.1:0"
                                                     : "127.0.0.1:7000";
    out->model_len_max = (uint32_t)config->max_model_len;
    out->split_reasoning = config->reasoning == FROM_MODEL_AUTO;
    out->model_defaults = config->generation_config == FROM_MODEL_AUTO;
    out->local_prefill_max_tokens = (uint32_t)config->worker.local_prefill_max_tokens;
    out->body_bytes_max = config->max_body_bytes;
    out->held_bytes_max = config->max_held_bytes;
    out->http_threads = (uint32_t)config->http_threads;
    out->text_threads = (uint32_t)config->text_threads;
    out->connections_max = (uint32_t)config->max_connections;
    out->requests_max = (uint32_t)config->max_requests;
    out->queue_requests_max = (uint32_t)config->queue_requests;
    out->queue_tokens_max = config->queue_tokens;
    out->queue_us = (uint64_t)(config->queue_seconds * SL_SECOND_US);
    out->request_us = (uint64_t)(config->request_seconds * SL_SECOND_US);
}

static void banner(const struct config *config, const struct coordinator *c)
{
    char host[SL_HOST_BYTES] = "";
    uint16_t port = 0;
    sl_status status = sl_address_parse("--listen", config->listen, host, &port);
    SL_ASSERT(status == SL_OK); /* the option was checked */
    char at[SL_ADDRESS_BYTES];
    sl_address_format(sl_address_reach(host), coordinator_http_port(c), at);
    bool chats = coordinator_chats(c);
    fprintf(stderr,
            "\n  sluice " SLUICE_VERSION "  model %s, context %u tokens\n"
            "  API    http://%s/v1   (once /ready says so; see also /cluster /metrics)\n"
            "  page   http://%s/     to try the model with\n"
            "  nodes  port %u, %s\n\n"
            "  curl http://%s/v1/%s -H 'Content-Type: application/json' \\\n"
            "    -d '{%s" EXAMPLE "%s, \"max_tokens\": 32}'\n\n"
            "  Ctrl-C or SIGTERM ends it.\n\n",
            coordinator_model(c), coordinator_model_len_max(c), at, at, coordinator_nodes_port(c),
            config->pools == POOLS_LOCAL ? "workers are started here"
                                         : "workers join by themselves",
            at, chats ? "chat/completions" : "completions",
            chats ? "\"messages\": [{\"role\": \"user\", \"content\": " : "\"prompt\": ",
            chats ? "}]" : "");
}

static void drain(struct coordinator *c)
{
    coordinator_drain(c);
    sl_info("drain_begun", "open=%u", coordinator_open(c));
    while (coordinator_open(c) > 0 && sl_real_us() < serve_drain_deadline_us())
        sl_sleep_us(WAIT_US);
    if (coordinator_open(c) > 0)
        sl_warn("drain_bound", "open=%u", coordinator_open(c));
}

/* Every connection and every worker takes descriptors; the usual soft limit of 1,024 is too low. */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
        sl_warn("descriptors", "soft_limit=%llu", (unsigned long long)limit.rlim_cur);
}

static sl_status run(const struct config *config, const struct sl_options *options)
{
    char prefill[PATH_BYTES], decode[PATH_BYTES];
    struct coordinator_config coordinator_config;
    struct handed_on handed = {.n = 0};
    raise_descriptor_limit();
    fill(config, &coordinator_config);
    struct actuator_args actuator = {.prefill_path = prefill,
                                     .decode_path = decode,
                                     .n_prefill = (uint32_t)config->n_prefill,
                                     .n_decode = (uint32_t)config->n_decode,
                                     .threads = (uint32_t)config->worker.threads,
                                     .cpu_list = config->worker.cpus,
                                     .share_cpus = config->share_cpus,
                                     .admin = config->worker.serve.admin};
    if (config->pools == POOLS_LOCAL) {
        sl_status status = check_model(config->worker.model);
        if (status == SL_OK)
            status = serve_worker_check(&config->worker);
        if (status == SL_OK)
            status = beside("sluice-prefill", prefill, sizeof(prefill));
        if (status == SL_OK)
            status = beside("sluice-decode", decode, sizeof(decode));
        if (status != SL_OK)
            return status;
        hand_on(options, &handed);
        actuator.options = (const char *const *)handed.texts;
        actuator.n_options = handed.n;
        coordinator_config.actuator = &actuator;
    }
    struct coordinator *c = NULL;
    sl_status status = coordinator_start(&coordinator_config, &c);
    free_handed_on(&handed);
    if (status != SL_OK)
        return status;
    banner(config, c);
    serve_wait(UINT64_MAX);
    drain(c);
    coordinator_stop(c);
    sl_info("stopped", "pools=%s", pool_names[config->pools]);
    return SL_OK;
}

int main(int argc, char **argv)
{
    struct config config = {.pools = POOLS_NONE};
    const struct sl_option *const tables[] = {coordinator_options, serve_worker_options,
                                              serve_options, NULL};
    const size_t counts[] = {sizeof(coordinator_options) / sizeof(coordinator_options[0]),
                             serve_worker_option_count, serve_option_count};
    struct sl_options_args args = {.program = PROGRAM,
                                   .summary = "Serves the OpenAI API, and decides which prefill "
                                              "and which decode node a request gets.",
                                   .tables = tables,
                                   .table_counts = counts,
                                   .argc = argc,
                                   .argv = argv,
                                   .config = &config};
    struct sl_options *options = NULL;
    bool done = false;
    sl_status status = sl_options_parse(&args, &options, &done);
    if (status == SL_OK && !done)
        status = serve_start(&config.worker.serve, "coordinator");
    if (status == SL_OK && !done) {
        status = run(&config, options);
        serve_stop();
    }
    sl_options_destroy(options);
    return serve_exit_code(PROGRAM, status);
}

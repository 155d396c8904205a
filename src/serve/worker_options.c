/* Rows of the workers' options. The coordinator lists serve_worker_options among its own tables and
 * hands every row whose origin is not the default on to the workers that it starts; ids and the
 * coordinator's address differ from worker to worker and stay in a table of their own. */
#include "serve/worker_options.h"

#include "base/address.h"

#include <net/if.h>
#include <string.h>

#define AT(field) offsetof(struct serve_worker_config, field)

const char *const serve_backend_names[] = {"cpu", "ref", "fake", NULL};
const char *const serve_kv_type_names[] = {"bf16", "f32", NULL};

const struct sl_option serve_worker_options[] = {
    {.name = "model",
     .type = SL_OPTION_TEXT,
     .offset = AT(model),
     .value_name = "DIR",
     .required = true,
     .help = "model in Hugging Face format",
     .group = "Worker"},
    {.name = "backend",
     .type = SL_OPTION_CHOICE,
     .offset = AT(backend),
     .value_name = "NAME",
     .default_text = "cpu",
     .choices = serve_backend_names,
     .help = "kernels; ref are plain loops, fake is ref on a device that shows missing waits",
     .group = "Worker"},
    {.name = "kv-blocks",
     .type = SL_OPTION_UINT,
     .offset = AT(kv_blocks),
     .value_name = "N",
     .default_text = "512",
     .min = 2,
     .max = 1 << 26,
     .help = "blocks of KV memory of one worker",
     .group = "Worker"},
    {.name = "kv-type",
     .type = SL_OPTION_CHOICE,
     .offset = AT(kv_type),
     .value_name = "TYPE",
     .default_text = "bf16",
     .choices = serve_kv_type_names,
     .help = "element type of KV memory",
     .group = "Worker"},
    {.name = "block-tokens",
     .type = SL_OPTION_UINT,
     .offset = AT(block_tokens),
     .value_name = "N",
     .default_text = "64",
     .min = 16,
     .max = 128,
     .help = "tokens of one KV block: 16, 32, 64, 128",
     .group = "Worker"},
    {.name = "context-tokens",
     .type = SL_OPTION_UINT,
     .offset = AT(context_tokens),
     .value_name = "N",
     .default_text = "0",
     .min = 0,
     .max = 1 << 24,
     .help = "longest prompt and answer together, in tokens; 0: as long as the model takes",
     .group = "Worker"},
    {.name = "threads",
     .type = SL_OPTION_UINT,
     .offset = AT(threads),
     .value_name = "N",
     .default_text = "0",
     .min = 0,
     .max = 256,
     .help = "compute threads; 0: as many as CPUs",
     .group = "Worker"},
    {.name = "cpus",
     .type = SL_OPTION_TEXT,
     .offset = AT(cpus),
     .value_name = "LIST",
     .help = "CPUs the worker may use, like 0-3,8",
     .group = "Worker"},
    {.name = "chunk-tokens",
     .type = SL_OPTION_UINT,
     .offset = AT(chunk_tokens),
     .value_name = "N",
     .default_text = "512",
     .min = 1,
     .max = SERVE_STEP_TOKENS_MAX - 1,
     .help = "new tokens of prompts in one step; with --max-seqs at most 8192",
     .group = "Worker"},
    {.name = "max-seqs",
     .type = SL_OPTION_UINT,
     .offset = AT(max_seqs),
     .value_name = "N",
     .default_text = "64",
     .min = 1,
     .max = 256,
     .help = "sequences in work at once",
     .group = "Worker"},
    {.name = "local-prefill-max-tokens",
     .type = SL_OPTION_UINT,
     .offset = AT(local_prefill_max_tokens),
     .value_name = "N",
     .default_text = "64",
     .min = 0,
     .max = 1 << 24,
     .help = "uncached prompt tokens up to which the router leaves the prompt to the decode node",
     .group = "Worker"},
    {.name = "transfer-layers",
     .type = SL_OPTION_UINT,
     .offset = AT(transfer_layers),
     .value_name = "N",
     .default_text = "0",
     .min = 0,
     .max = 256,
     .help = "layers of a block that travel together; 0: about a quarter of the model",
     .group = "Transfer"},
    {.name = "transfer-verify",
     .type = SL_OPTION_BOOL,
     .offset = AT(transfer_verify),
     .default_text = "false",
     .help = "check digests of what was transferred",
     .group = "Transfer"},
    {.name = "transfer-probe-bytes",
     .type = SL_OPTION_BYTES,
     .offset = AT(transfer_probe_bytes),
     .value_name = "BYTES",
     .default_text = "4m",
     .min = 0,
     .max = 16 << 20,
     .help = "bytes that measure a link when it opens; 0: only its traffic does",
     .group = "Transfer"},
    {.name = "bind",
     .type = SL_OPTION_TEXT,
     .offset = AT(bind),
     .value_name = "ADDRESS",
     .help = "IP address or interface that block transfers use; default: any",
     .group = "Transfer"},
    {.name = "advertise",
     .type = SL_OPTION_TEXT,
     .offset = AT(advertise),
     .value_name = "HOST",
     .help = "host under which others reach this worker's pages; default: that of --admin, or "
             "where a coordinator sees it call from when that is 0.0.0.0 or [::]",
     .group = "Transfer"},
};
const size_t serve_worker_option_count =
    sizeof(serve_worker_options) / sizeof(serve_worker_options[0]);

const struct sl_option serve_node_options[] = {
    {.name = "coordinator",
     .type = SL_OPTION_ADDRESS,
     .offset = AT(coordinator),
     .value_name = "HOST:PORT",
     .required = true,
     .min = 1,
     .help = "where the coordinator listens for nodes",
     .group = "Worker"},
    {.name = "id",
     .type = SL_OPTION_TEXT,
     .offset = AT(id),
     .value_name = "NAME",
     .required = true,
     .help = "name of this worker in the fleet, at most 15 bytes",
     .group = "Worker"},
};
const size_t serve_node_option_count = sizeof(serve_node_options) / sizeof(serve_node_options[0]);

sl_status serve_worker_check(const struct serve_worker_config *config)
{
    unsigned long long block = config->block_tokens, chunk = config->chunk_tokens;
    char name[IF_NAMESIZE], cut[SL_SHOWN_BYTES];
    if (block != 16 && block != 32 && block != 64 && block != 128)
        return sl_fail(SL_INVALID, "--block-tokens: \"%llu\"; want 16, 32, 64 or 128", block);
    if (chunk + config->max_seqs > SERVE_STEP_TOKENS_MAX)
        return sl_fail(SL_INVALID,
                       "--chunk-tokens %llu and --max-seqs %llu; want at most %u together", chunk,
                       (unsigned long long)config->max_seqs, SERVE_STEP_TOKENS_MAX);
    if (config->advertise != NULL && !sl_address_is_host(config->advertise, SERVE_ADVERTISE_BYTES))
        return sl_fail(SL_INVALID,
                       "--advertise: \"%s\"; want a name or an address without a port, at most %u "
                       "bytes",
                       sl_shown(config->advertise, cut), SERVE_ADVERTISE_BYTES);
    return sl_address_interface("--bind", config->bind, name, sizeof(name));
}

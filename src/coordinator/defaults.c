/* generation_config.json, as servers of such models read it: its parameters of sampling are the defaults
 * of the API, do_sample is not looked at, and max_new_tokens is how long a chat's answer may become
 * when the request does not say. End tokens of that file are the nodes' affair: they come with their
 * hello. */
#include "coordinator/defaults.h"

#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"

#define FILE_BYTES_MAX (4u << 20)

static sl_status read_fields(const json_t *json, const char *path, struct api_defaults *out)
{
    double top_k = 0; /* -1 is written for "all" too */
    uint64_t max_tokens = 0;
    sl_status status = sl_json_number(json, path, "temperature", out->temperature, 0,
                                      API_TEMPERATURE_MAX, &out->temperature);
    if (status == SL_OK)
        status = sl_json_number(json, path, "top_p", out->top_p, 0, 1, &out->top_p);
    if (status == SL_OK)
        status = sl_json_number(json, path, "min_p", out->min_p, 0, 1, &out->min_p);
    if (status == SL_OK)
        status = sl_json_number(json, path, "repetition_penalty", out->repetition_penalty,
                                API_REPETITION_MIN, API_REPETITION_MAX, &out->repetition_penalty);
    if (status == SL_OK)
        status = sl_json_number(json, path, "top_k", 0, -1, INT32_MAX, &top_k);
    if (status == SL_OK)
        status = sl_json_uint(json, path, "max_new_tokens", 0, 0, API_TOKENS_MAX, &max_tokens);
    out->top_k = top_k > 0 ? (uint32_t)top_k : 0;
    out->max_tokens = (uint32_t)max_tokens;
    return status;
}

sl_status defaults_read(const char *model_dir, struct api_defaults *defaults_out)
{
    struct api_defaults defaults = API_DEFAULTS;
    char *path = sl_asprintf("%s/generation_config.json", model_dir);
    json_t *json = NULL;
    sl_status status = sl_json_load(path, FILE_BYTES_MAX, &json);
    if (status == SL_OK)
        status = read_fields(json, path, &defaults);
    json_decref(json);
    sl_free(path);
    if (status != SL_OK && status != SL_NOT_FOUND)
        return status;
    *defaults_out = defaults;
    sl_info("sampling_defaults",
            "temperature=%g top_p=%g top_k=%u min_p=%g repetition_penalty=%g max_tokens=%u",
            defaults.temperature, defaults.top_p, defaults.top_k, defaults.min_p,
            defaults.repetition_penalty, defaults.max_tokens);
    return SL_OK;
}

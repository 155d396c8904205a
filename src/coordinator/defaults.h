/* Sampling parameters of requests that do not name them: those of the model's makers. */
#ifndef SL_COORDINATOR_DEFAULTS_H
#define SL_COORDINATOR_DEFAULTS_H

#include "base/status.h"
#include "coordinator/api.h"

/* Reads DIR/generation_config.json: temperature, top_p, top_k, min_p, repetition_penalty,
 * max_new_tokens. What it does not name keeps its neutral value, also without such a file.
 * SL_INVALID names file, field, value and limit. */
sl_status defaults_read(const char *model_dir, struct api_defaults *defaults_out) SL_MUST_USE;

#endif

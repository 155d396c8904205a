/* The parameters that completions and chat completions share: lengths, sampling, stops, what the
 * answer shows. Pure; any thread. */
#ifndef SL_COORDINATOR_PARAMS_H
#define SL_COORDINATOR_PARAMS_H

#include "coordinator/api.h"

/* Reads them all from *out's body into *out, whose `chat` says which of the two it is. SL_OK, or a
 * refusal in *error. */
sl_status params_read(struct api_completion *out, const struct api_defaults *defaults,
                      struct api_error *error) SL_MUST_USE;
/* Calls `found` with the name of every member of the body that means nothing here. */
void params_unknown(const struct api_completion *params, void (*found)(void *arg, const char *name),
                    void *arg);

#endif

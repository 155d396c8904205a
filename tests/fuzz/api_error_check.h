/* What every refusal of a body must be: an HTTP status, a sentence, a well-formed error object. */
#ifndef TESTS_FUZZ_API_ERROR_CHECK_H
#define TESTS_FUZZ_API_ERROR_CHECK_H

#include "base/buf.h"
#include "coordinator/api.h"

static inline void check_error(const struct api_error *error)
{
    struct sl_buf body;
    json_t *json = NULL;
    SL_ASSERT(error->http_status >= 400 && error->http_status < 600);
    SL_ASSERT(error->message[0] != '\0' && error->type != NULL);
    sl_buf_init(&body, 1 << 16);
    api_error_body(error, &body);
    sl_status status = sl_json_parse("error", body.data, body.bytes, 1 << 16, &json);
    SL_ASSERT(status == SL_OK);
    json_decref(json);
    sl_buf_fini(&body);
}

#endif

/* The coordinator: HTTP in front, the nodes' streams behind, one thread in the middle that owns every
 * request. Usable inside a test program as well as from main. */
#ifndef SL_COORDINATOR_COORDINATOR_H
#define SL_COORDINATOR_COORDINATOR_H

#include "base/status.h"
#include "coordinator/actuator.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define COORDINATOR_REQUESTS_MAX 65536u

struct coordinator_config {
    const char *model_dir;
    const char *served_name;  /* NULL: the directory's name */
    const char *listen;       /* HTTP, "host:port"; port 0 takes a free one */
    const char *nodes_listen; /* the nodes' streams */
    const char *allow_origin; /* pages of others that may talk to it: origin.h; NULL: none */
    uint32_t model_len_max;   /* 0: what the model says */
    bool split_reasoning;     /* of models that mark it */
    bool model_defaults;      /* sampling parameters of generation_config.json */
    uint32_t local_prefill_max_tokens;
    size_t body_bytes_max;
    size_t
        held_bytes_max; /* of bodies and answers at once; from half of it on new requests get 429 */
    uint32_t http_threads;
    uint32_t text_threads; /* parse and tokenize */
    uint32_t connections_max;
    uint32_t requests_max; /* open at once: 1..COORDINATOR_REQUESTS_MAX */
    uint32_t queue_requests_max;
    uint64_t queue_tokens_max;
    uint64_t queue_us;   /* longest wait for admission, then 429 */
    uint64_t lost_us;    /* longest wait for a node to take over, then an error */
    uint64_t request_us; /* longest life of a request */
    uint64_t heartbeat_us, suspect_us, dead_us, stalled_us;
    const struct actuator_args
        *actuator; /* NULL: nodes come by themselves. Borrowed for the start */
};

/* The defaults of everything but the names. */
void coordinator_config_init(struct coordinator_config *config);

struct coordinator;

/* Opens the tokenizer and both ports. SL_INVALID, SL_NOT_FOUND: the model; SL_DEVICE: a port. */
sl_status coordinator_start(const struct coordinator_config *config,
                            struct coordinator **coordinator_out) SL_MUST_USE;
uint16_t coordinator_http_port(const struct coordinator *coordinator);
uint16_t coordinator_nodes_port(const struct coordinator *coordinator);
/* No new requests (503) from now on. Any thread. */
void coordinator_drain(struct coordinator *coordinator);
/* Requests that are not answered in full. Any thread. */
uint32_t coordinator_open(const struct coordinator *coordinator);
/* Whether the model has a chat template that can be used. */
bool coordinator_chats(const struct coordinator *coordinator);
/* The served name; max_model_len. */
const char *coordinator_model(const struct coordinator *coordinator);
uint32_t coordinator_model_len_max(const struct coordinator *coordinator);
/* Ends open streams with an error, stops the workers it started, joins everything. NULL is fine. */
void coordinator_stop(struct coordinator *coordinator);

#endif

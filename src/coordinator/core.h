/* Inside of the coordinator: what its files share. Everything here but the parts marked otherwise
 * belongs to the loop's thread. */
#ifndef SL_COORDINATOR_CORE_H
#define SL_COORDINATOR_CORE_H

#include "base/clock.h"
#include "base/thread.h"
#include "coordinator/admission.h"
#include "coordinator/api.h"
#include "coordinator/chat.h"
#include "coordinator/coordinator.h"
#include "coordinator/flow.h"
#include "coordinator/http.h"
#include "coordinator/inbox.h"
#include "coordinator/meters.h"
#include "coordinator/output.h"
#include "coordinator/prefix_index.h"
#include "coordinator/registry.h"
#include "coordinator/router.h"
#include "coordinator/stages.h"
#include "kv/hash.h"
#include "proto/rpc.h"
#include "serve/admin.h"
#include "text/tokenizer.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define CORE_END_IDS_MAX  16u
#define CORE_NODE_ITEMS   65536u /* messages from nodes that wait for the loop */
#define CORE_UNADMITTED   32u    /* requests without a promise that one node may have */
#define CORE_TICK_US      (50 * SL_MS_US)
#define CORE_RETRY_US     (100 * SL_MS_US) /* before a request that no node took looks for another */
#define CORE_KEEPALIVE_US (15 * SL_SECOND_US)

enum route_id {
    ROUTE_COMPLETIONS,
    ROUTE_CHAT,
    ROUTE_MODELS,
    ROUTE_MODEL,    /* /v1/models/ and the served name … */
    ROUTE_NO_MODEL, /* … and another one */
    ROUTE_TOKENIZE,
    ROUTE_DETOKENIZE,
    ROUTE_HEALTH,
    ROUTE_READY,
    ROUTE_VERSION,
    ROUTE_METRICS,
    ROUTE_CLUSTER,
    ROUTE_PLAYGROUND,
    ROUTE_LATER, /* known to clients, served by a later version */
};

struct links {
    struct request *previous, *next;
    bool in;
};

struct list {
    struct request *first, *last;
    uint32_t n;
};

/* One HTTP request: n choices of each of its prompts, in the order of their indices. Made by a text thread, then
 * the loop's. It ends as a whole: with the last choice, or with the first that fails. */
struct group {
    struct http_exchange *exchange;
    struct api_completion params; /* without its body */
    bool has_salt;
    struct kv_hash salt;   /* of the prompts' blocks, derived from what the client gave */
    uint64_t arrival_us;   /* of its head; the body may come slowly */
    uint64_t tokenized_us; /* since then it waits for a place */
    uint64_t sent_us;
    bool begun;          /* a node has admitted one of the choices: headers have left, or may */
    uint64_t kept_bytes; /* of what has been said, where it is kept until all is: no stream */
    uint32_t n_choices, n_open;
    struct request *choices[API_CHOICES_MAX]; /* [n_choices] */
};

/* One choice. The first of each prompt goes ahead; the others follow when a node holds the prompt's blocks, and
 * compute nothing of it but what is in no full block. */
struct request {
    uint64_t id;
    uint32_t index; /* in the table of open requests */
    struct group *group;
    struct request *leader; /* the first choice of the same prompt; may be itself */
    flow_node holder;       /* who held the prompt's blocks when it was let go; 0: nobody yet */
    bool closed;            /* its last token has come, nobody works on it */
    struct output output;
    struct output *echo;    /* of a leader: what is said of its prompt; NULL: nothing */
    struct text_ids tokens; /* prompt, then what was generated */
    uint32_t n_prompt, max_tokens;
    uint64_t seed;

    struct flow flow;
    struct links waiting;  /* list of those never admitted, by arrival */
    struct links unplaced; /* queue for the router */
    bool counted;          /* by admission */
    bool admitted;         /* once; headers have left, or may */
    struct stages stages;
    uint64_t first_us, last_us;
    uint64_t retry_at_us;
    uint64_t lost_us; /* since when no node could take it over; 0 */
    uint32_t cached_tokens;
    bool cached_known;

    /* Accounts at the nodes of the present placement. */
    flow_node at_compute, at_decode;
    uint32_t compute_tokens, pending_blocks;
    bool counted_running;
    /* What the placement began with, and still goes on from when it is redirected. */
    uint32_t placed_tokens, placed_index;
    char prefill_id[16], decode_id[16]; /* of the present or last placement; "-": none */

    struct kv_hash *hashes; /* of full blocks of `tokens`, as far as computed */
    uint32_t n_hashes;
    uint8_t hashes_identity[16];
    uint32_t hashes_block_tokens;
};

enum http_event_kind { HTTP_EVENT_COMPLETION, HTTP_EVENT_PAGE, HTTP_EVENT_GONE };
struct http_event {
    enum http_event_kind kind;
    struct http_exchange *exchange; /* a reference */
    struct group *group;            /* COMPLETION: the loop's from here */
};

enum node_event_kind { NODE_EVENT_MESSAGE, NODE_EVENT_CLOSED };
struct node_event {
    enum node_event_kind kind;
    struct rpc_stream *stream; /* a reference */
    Sluice__NodeMessage *message;
    bool ended; /* CLOSED: by the node itself, all that it sent has come */
    char text[96];
};

struct prepare; /* text threads */

struct coordinator {
    struct coordinator_config config;
    char *model_name;
    char *model_path;          /* /v1/models/ and that name */
    struct http_route *routes; /* those that are fixed, and that path */
    char *model_dir;
    uint64_t created; /* of the model, as /v1/models shows it */
    struct text_tokenizer *tokenizer;
    struct chat_model chat;
    struct api_defaults defaults;
    uint32_t n_end_ids; /* of the nodes' model; what output borrows: constant once set */
    uint32_t end_ids[CORE_END_IDS_MAX];
    uint64_t incarnation;

    /* Any thread. */
    struct serve_pulse pulse;
    struct sl_wake wake;
    struct inbox http_inbox, node_inbox;
    atomic_bool draining, stopping;
    atomic_uint n_open;
    atomic_uint model_len_max;
    atomic_uint vocab;
    struct http_server *http;
    struct rpc_server *rpc;
    struct prepare *prepare;
    struct sl_thread loop;

    struct registry registry;
    struct prefix_index *index;
    struct admission admission;
    struct meters meters;
    struct actuator *actuator;
    uint32_t want_prefill, want_decode; /* /ready waits for so many at first … */
    bool was_ready;                     /* … and later for one node */
    struct request **requests;          /* [requests_max] */
    uint32_t *free_requests;
    uint32_t n_free_requests;
    uint64_t request_serial;
    struct list waiting, unplaced;
    uint32_t n_running;
    bool place_again; /* something changed that may let the queue move */
    uint64_t next_sweep_us, next_second_us, next_beat_us, actuator_us;
    uint64_t rotation;
    struct sl_buf scratch;
};

/* prepare.c: text threads. Takes completions, /tokenize and /detokenize; false when their queue is
 * full. The exchange is acquired. */
sl_status prepare_start(struct coordinator *c, struct prepare **prepare_out) SL_MUST_USE;
void prepare_stop(struct prepare *prepare);
bool prepare_push(struct prepare *prepare, struct http_exchange *exchange);
void group_destroy(struct group *group);
/* Answers with an error object. Any thread. */
void reply_error(struct http_exchange *exchange, const struct api_error *error);
/* The same, and counts it among the rejected by its code. */
void reply_refusal(struct coordinator *c, struct http_exchange *exchange,
                   const struct api_error *error);

/* requests.c: the life of a request. */
void requests_admit(struct coordinator *c, struct group *group, uint64_t now_us);
void requests_gone(struct coordinator *c, struct http_exchange *exchange);
void requests_tick(struct coordinator *c, uint64_t now_us);
void requests_place_queue(struct coordinator *c, uint64_t now_us);
struct request *requests_find(struct coordinator *c, uint64_t id);
/* The prompt's tokens are still to be scored. */
bool requests_lacks_scores(const struct request *request);
void requests_scores(struct coordinator *c, struct registry_node *node,
                     const Sluice__PromptScores *scores);
void requests_tokens(struct coordinator *c, struct registry_node *node,
                     const Sluice__TokenRuns *runs, uint64_t now_us);
/* Carries out what the state machine said of an event. `refused`: the node's reason and words, for
 * FLOW_REFUSE, else NULL. */
void requests_step(struct coordinator *c, struct request *request, enum flow_step step,
                   const char *why, const char *refused, uint64_t now_us);
void requests_note_cached(struct request *request, uint32_t cached_tokens);
void requests_node_lost(struct coordinator *c, flow_node node, uint64_t now_us);
/* Ends every open request with an error. */
void requests_fail_all(struct coordinator *c, const char *why);

/* nodes.c: what nodes say. */
void nodes_event(struct coordinator *c, struct node_event *event, uint64_t now_us);
void nodes_tick(struct coordinator *c, uint64_t now_us);
void nodes_beat(struct coordinator *c);

/* pages.c: /ready, /cluster, /metrics, /v1/models, /version. */
void pages_answer(struct coordinator *c, struct http_exchange *exchange);
/* Says why nothing can be served now; "" when something can. */
void pages_not_ready(struct coordinator *c, char *out, size_t bytes);

#endif

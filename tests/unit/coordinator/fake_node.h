/* A node without a model: dials the coordinator over the real stream and behaves by a script. Tokens
 * are the bytes of a text, one token each, at a pace. And a blocking HTTP client. */
#ifndef TESTS_UNIT_COORDINATOR_FAKE_NODE_H
#define TESTS_UNIT_COORDINATOR_FAKE_NODE_H

#include "base/buf.h"
#include "proto/check.h"
#include "proto/rpc.h"

#include <stdbool.h>
#include <stdint.h>

#define FAKE_VOCAB        257u
#define FAKE_EOS          256u
#define FAKE_BLOCK_TOKENS 16u
#define FAKE_SEEDS        16u

struct fake_node;

enum fake_behaviour {
    FAKE_SERVES,
    FAKE_SILENT,        /* takes submits, says nothing of them */
    FAKE_REFUSES_FULL,  /* Refused(FULL) at once */
    FAKE_NEVER_ADMITS,  /* as silent, but prefill nodes send token 0 */
    FAKE_FAILS_STREAMS, /* a prefill node: StreamFailed(held) */
    FAKE_HOLDS,         /* a prefill node: sends token 0, and keeps the blocks */
};

struct fake_args {
    uint16_t port;
    const char *id;
    bool prefill;
    bool loading;           /* hello says not ready */
    uint8_t identity;       /* fills all 16 bytes */
    uint32_t vocab;         /* 0: FAKE_VOCAB */
    char *admin;            /* NULL: 127.0.0.1:1 */
    uint32_t blocks;        /* 0: 1000 */
    const char *text;       /* what it generates; then the end token */
    uint32_t token_us;      /* between two tokens of a sequence */
    bool slowing;           /* … of the n-th sequence n times as long */
    uint32_t cached_tokens; /* what Admitted says */
    uint32_t scores_lost;   /* so many submits get but the first of the scores that they want */
    bool logprobs_constant; /* sends logprobs where asked for */
    enum fake_behaviour behaviour;
};

/* What a Submit said. */
struct fake_submit {
    Sluice__Mode mode;
    uint32_t total_tokens, first_index;
    int32_t priority;
    uint32_t salt_bytes;
    uint8_t salt[RPC_SALT_BYTES_MAX];
};

struct fake_node *fake_node_start(const struct fake_args *args);
void fake_node_stop(struct fake_node *node);
/* Heartbeats and answers stop, the connection stays: as after SIGSTOP. */
void fake_node_freeze(struct fake_node *node, bool frozen);
void fake_node_behave(struct fake_node *node, enum fake_behaviour behaviour);
void fake_node_drain(struct fake_node *node);
uint32_t fake_node_submits(struct fake_node *node);
uint32_t fake_node_cancels(struct fake_node *node);
uint32_t fake_node_redirects(struct fake_node *node);
/* Live sequences. */
uint32_t fake_node_running(struct fake_node *node);
/* The last Submit; all 0 before the first. */
struct fake_submit fake_node_last(struct fake_node *node);
/* Of the submit that came so many before the last one, below FAKE_SEEDS. */
uint64_t fake_node_seed(struct fake_node *node, uint32_t back);
/* Sends cache events: n blocks of the given tokens, stored, numbered from first_seq. */
void fake_node_store(struct fake_node *node, uint64_t first_seq, const uint32_t *tokens,
                     uint32_t n_tokens);
void fake_node_send(struct fake_node *node, const Sluice__NodeMessage *message);

/* A directory with config.json and a tokenizer of one token for each byte. */
char *fake_model_create(void);
void fake_model_remove(char *dir);
/* That tokenizer, between setup and teardown of a group. */
extern struct text_tokenizer *fake_tokenizer;
int fake_tokenizer_open(void **state);
int fake_tokenizer_close(void **state);

/* A connected socket, or -1. */
int client_connect(uint16_t port);
void client_send(int fd, const char *text);
/* POST with a JSON body. */
void client_post(int fd, const char *path, const char *body);
/* Appends what comes until `until` is in the answer, the end, or the time; returns whether it came.
 * until NULL: until the end. */
bool client_read(int fd, struct sl_buf *out, const char *until, uint32_t ms);
/* One exchange on a connection of its own; the answer with its head, NUL-terminated, to be freed. */
char *client_request(uint16_t port, const char *method, const char *path, const char *body);
/* What has come of the answer after so long. */
char *client_request_within(uint16_t port, const char *method, const char *path, const char *body,
                            uint32_t ms);
int client_status(const char *answer);
const char *client_body(const char *answer);

#endif

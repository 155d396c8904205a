/* A coordinator whole, over its real sockets: what its tests share. Names of its own are short, as they are
 * in every line. */
#ifndef TESTS_UNIT_COORDINATOR_FIXTURE_H
#define TESTS_UNIT_COORDINATOR_FIXTURE_H

#include "coordinator/coordinator.h"

#include "support/support.h"
#include "unit/coordinator/fake_node.h"

#include "base/clock.h"
#include "base/log.h"

#include <jansson.h>

#define HELLO_TEXT "hello world, how are you?"
#define CHOICES    6 /* whose texts are told from each other */

#define LONG_PROMPT                                                                                \
    "\"a prompt that is longer than the sixty-four tokens which a decode node may prefill by "     \
    "itself, each byte being one\""
/* Bodies whose streams say HELLO_TEXT. */
#define SHORT_STREAM "{\"prompt\":\"abc\",\"max_tokens\":100,\"stream\":true}"
#define LONG_STREAM  "{\"prompt\":" LONG_PROMPT ",\"max_tokens\":100,\"stream\":true}"

struct fixture {
    char *model;
    struct coordinator *c;
    uint16_t port, nodes_port;
};

/* One stream, read to its end; the text of its chunks. */
struct stream_result {
    struct sl_buf raw, text;
    struct sl_buf texts[CHOICES]; /* by index */
    uint32_t n_finished;
    uint32_t n_chunks;
    bool done, error;
    char finish[16];
    json_t *usage;
};

int setup(void **state);
/* Requests may wait for a place as long as a slow machine takes. */
int setup_patient(void **state);
/* Three requests may wait, four be open. */
int setup_short_queue(void **state);
/* Bodies and answers may have 100,000 bytes in all. */
int setup_short_memory(void **state);
/* With a chat template, and an end token that only the tokenizer names: the comma. */
int setup_chat(void **state);
int teardown(void **state);
struct fake_node *start_node(struct fixture *f, const char *id, bool prefill);
/* The decode node d0, ready, with no other beside it. */
struct fake_node *start_decode(struct fixture *f);
/* Waits until /ready lists so many of each. */
void await(struct fixture *f, uint32_t prefill, uint32_t decode);
/* Until every request is answered, or its client gone. */
void await_closed(struct fixture *f, uint32_t ms);
/* Until the node has been given so many in all; no more have come then. */
void await_submits(struct fake_node *node, uint32_t n);
/* The page has this status and, somewhere, this part. */
void expect_page(struct fixture *f, const char *path, int status, const char *part);
/* The same of what a POST is answered. */
void expect_answer(struct fixture *f, const char *path, const char *body, int status,
                   const char *part);
/* The body of the answer, which must have this status. */
json_t *post_json(struct fixture *f, const char *path, const char *body, int status);
const char *text_of(json_t *json);
json_int_t usage_of(json_t *json, const char *field);
void stream_init(struct stream_result *r);
void stream_fini(struct stream_result *r);
/* Undoes the chunking of an answer and takes its events apart. */
void stream_events(const struct sl_buf *raw, void (*take)(void *arg, const char *event, size_t n),
                   void *arg);
/* The same of r->raw, into r. */
void parse_stream(struct stream_result *r);
int open_stream(struct fixture *f, const char *body);
/* The same, read into `r` until its events have so many letters of text, of an answer that has more. */
int begin_stream(struct fixture *f, struct stream_result *r, const char *body, size_t n_letters);
/* Reads to the end of the stream: the last chunk of zero bytes, or the connection's end. */
void finish_stream(int fd, struct stream_result *r);
/* A whole stream into `r`. */
void read_stream(struct fixture *f, struct stream_result *r, const char *body);
void expect_hello(struct stream_result *r);
/* The rest of a stream that says HELLO_TEXT; nothing is left of `r`. */
void finish_hello(int fd, struct stream_result *r);
/* Its tokens come at a pace at which streams can be disturbed. */
struct fake_node *start_slow(struct fixture *f, const char *id, bool prefill);
/* Nodes die, hang, refuse and come back at random while streams of these bodies run, so many choices each: each
 * stream ends with the whole texts or an error, and what came before an error is the beginning of the texts. */
void run_random_faults(struct fixture *f, const char *const bodies[3], uint32_t n_choices);

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif

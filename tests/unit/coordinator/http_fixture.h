/* The HTTP server alone, over real sockets: what its tests share. Names of its own are short, as they are in
 * every line. */
#ifndef TESTS_UNIT_COORDINATOR_HTTP_FIXTURE_H
#define TESTS_UNIT_COORDINATOR_HTTP_FIXTURE_H

#include "coordinator/http.h"

#include "support/support.h"
#include "unit/coordinator/fake_node.h"

#include "base/clock.h"

#include <arpa/inet.h>
#include <stdatomic.h>
#include <sys/socket.h>

#define BODY_MAX 10000u
#define HELD_MAX (512u << 20)

struct fixture {
    struct http_server *server;
    uint16_t port;
    atomic_uint gone;
    _Atomic(struct http_exchange *) held;
    atomic_uint n_blocked;
    atomic_bool unblock;
};

/* Its paths: POST /echo; POST /hold, whose exchange is kept in `held`; GET /page (429); GET /v1/block. */
struct http_args args_of(struct fixture *f, const char *listen, uint32_t threads);
int setup_args(void **state, uint32_t threads, uint32_t stall_seconds);
/* Two threads. */
int setup(void **state);
int teardown(void **state);

/* Sends raw bytes, reads the answer until the connection ends or `until` came. To be freed. */
char *raw(struct fixture *f, const char *bytes, const char *until, uint32_t ms);
/* At once: a busy machine may take a second now and then, a timeout always does. */
void expect_refusal(struct fixture *f, const char *bytes, int status);
void expect_sentence(struct fixture *f, const char *bytes, const char *sentence);
struct http_exchange *await_held(struct fixture *f);
/* A request that the handler keeps, also in `held`. */
struct http_exchange *begin_held(struct fixture *f, int *fd_out);
/* The stream of a client that does not read; the sizes of sockets are fixed. */
struct http_exchange *begin_unread(struct fixture *f, int *fd_out);

#endif

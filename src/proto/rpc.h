/* The node stream (node.proto) over gRPC C-core: a server for the coordinator, a client for a node.
 * Messages are protobuf-c structs; what comes in has been checked (check.h) before a callback sees it.
 *
 * One control thread per server or client runs all callbacks; they must not block. Sending is from any
 * thread: three queues per stream (urgent overtakes submit overtakes bulk), each bounded; submit and
 * bulk also wait for the peer's window (flow control of our own). */
#ifndef SL_PROTO_RPC_H
#define SL_PROTO_RPC_H

#include "base/status.h"
#include "proto/node.pb-c.h"

#include <stdbool.h>
#include <stdint.h>

#define RPC_MESSAGE_BYTES_MAX (256u << 10)
#define RPC_SUBMIT_TOKENS_MAX 32768u /* token ids in one Submit or SubmitPart */
#define RPC_SUBMIT_PARTS_MAX  64u
#define RPC_QUEUE_BYTES_MAX   (64u << 20) /* per stream and class */
#define RPC_WINDOW_BYTES      (4u << 20)
#define RPC_STREAMS_MAX       1024u

enum rpc_class { RPC_URGENT, RPC_SUBMIT, RPC_BULK, RPC_CLASS_COUNT };

struct rpc_server;
struct rpc_client;
struct rpc_stream; /* one live connection, counted by reference */

/* `message` is the callee's from then on: rpc_message_free(). why: SL_PEER, SL_CANCELLED, … */
struct rpc_server_handler {
    void (*opened)(void *arg, struct rpc_stream *stream);
    void (*message)(void *arg, struct rpc_stream *stream, Sluice__NodeMessage *message);
    void (*closed)(void *arg, struct rpc_stream *stream, sl_status why, const char *text);
    void *arg;
};
struct rpc_client_handler {
    void (*opened)(void *arg, struct rpc_stream *stream);
    void (*message)(void *arg, struct rpc_stream *stream, Sluice__CoordinatorMessage *message);
    void (*closed)(void *arg, struct rpc_stream *stream, sl_status why, const char *text);
    void *arg;
};

/* listen "host:port"; port 0 takes a free one, read with rpc_server_port. SL_DEVICE if it is taken. */
sl_status rpc_server_start(const char *listen, const struct rpc_server_handler *handler,
                           struct rpc_server **server_out) SL_MUST_USE;
uint16_t rpc_server_port(const struct rpc_server *server);
/* Closes every stream (closed is called), joins the thread. */
void rpc_server_stop(struct rpc_server *server);

/* Dials target "host:port" and stays: after a close it dials again, 0.1 s doubling to 5 s. */
sl_status rpc_client_start(const char *target, const struct rpc_client_handler *handler,
                           struct rpc_client **client_out) SL_MUST_USE;
void rpc_client_stop(struct rpc_client *client);

struct rpc_stream *rpc_stream_acquire(struct rpc_stream *stream);
void rpc_stream_release(struct rpc_stream *stream);
void rpc_stream_set_user(struct rpc_stream *stream, void *user);
void *rpc_stream_user(const struct rpc_stream *stream);
/* Copies (packs) the message. SL_EXHAUSTED: queue full; SL_PEER: closed; SL_INVALID: too long. */
sl_status rpc_send_to_node(struct rpc_stream *stream, enum rpc_class class,
                           const Sluice__CoordinatorMessage *message) SL_MUST_USE;
sl_status rpc_send_to_coordinator(struct rpc_stream *stream, enum rpc_class class,
                                  const Sluice__NodeMessage *message) SL_MUST_USE;
/* The consumer of a submit- or bulk-class message says it is done with it; opens the window. Called
 * by rpc_message_free. Ends the stream; closed follows. */
void rpc_stream_close(struct rpc_stream *stream);
void rpc_node_message_free(Sluice__NodeMessage *message);
void rpc_coordinator_message_free(Sluice__CoordinatorMessage *message);

/* Sends a Submit whose token list may be long: a Submit and as many SubmitParts as it takes, in order. */
sl_status rpc_send_submit(struct rpc_stream *stream, const Sluice__Submit *submit) SL_MUST_USE;

#endif

/* The node stream (node.proto) over gRPC C-core: a server for the coordinator, a client for a node.
 * Messages are protobuf-c structs; what comes in has been checked (check.h) before a callback sees it.
 * A message that is refused closes the stream with the reason.
 *
 * One control thread per server or client runs all callbacks; they must not block, and must not stop
 * their own server or client. Sending is from any thread, never blocks, and is ordered within a
 * class. Three queues per stream (urgent overtakes submit overtakes bulk), each bounded; submits with
 * their parts, cache events and snapshots also wait for the peer's window (flow control of our own:
 * at most RPC_WINDOW_BYTES of them are on the way and not yet freed by the receiver). Since urgent
 * overtakes, a Cancel may arrive before the Submit it is about. */
#ifndef SL_PROTO_RPC_H
#define SL_PROTO_RPC_H

#include "base/address.h"
#include "base/status.h"
#include "proto/node.pb-c.h"

#include <stdbool.h>
#include <stdint.h>

#define RPC_MESSAGE_BYTES_MAX (256u << 10)
#define RPC_SUBMIT_TOKENS_MAX 32768u      /* token ids in one Submit or SubmitPart */
#define RPC_SUBMIT_PARTS_MAX  512u        /* SubmitParts of one Submit */
#define RPC_QUEUE_BYTES_MAX   (64u << 20) /* per stream and class */
#define RPC_WINDOW_BYTES      (4u << 20)
#define RPC_STREAMS_MAX       1024u

enum rpc_class { RPC_URGENT, RPC_SUBMIT, RPC_BULK, RPC_CLASS_COUNT };

struct rpc_server;
struct rpc_client;
struct rpc_stream; /* one live connection, counted by reference */

/* opened and closed come once each per stream, message only between them. `stream` is borrowed:
 * acquire what you keep. `message` is the callee's from then on: rpc_*_message_free(), which for a
 * counted kind also opens the peer's window, so free it when the work it stands for is taken in.
 * why: SL_OK (servers) the node has ended the stream, and all that it sent has come; SL_PEER the
 * connection or the peer ended, SL_INVALID or SL_UNSUPPORTED a message was refused, SL_CANCELLED closed
 * here. */
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

/* listen "host:port"; port 0 takes a free one, read with rpc_server_port. SL_DEVICE if it is taken.
 * More than RPC_STREAMS_MAX streams are refused. */
sl_status rpc_server_start(const char *listen, const struct rpc_server_handler *handler,
                           struct rpc_server **server_out) SL_MUST_USE;
uint16_t rpc_server_port(const struct rpc_server *server);
/* Gives queued messages up to a second to leave, closes every stream (closed is called), joins the
 * thread. At most about 3 s. NULL is fine. */
void rpc_server_stop(struct rpc_server *server);

/* Dials target "host:port" and stays: after a close it dials again, 0.1 s doubling to 5 s (from the
 * start again once a stream has lived for 5 s). Failed dials call nothing. */
sl_status rpc_client_start(const char *target, const struct rpc_client_handler *handler,
                           struct rpc_client **client_out) SL_MUST_USE;
/* As rpc_server_stop. */
void rpc_client_stop(struct rpc_client *client);

/* Any thread. A stream may be kept, and sent to in vain, after its server or client is gone. */
struct rpc_stream *rpc_stream_acquire(struct rpc_stream *stream);
void rpc_stream_release(struct rpc_stream *stream);
/* Address of the other end as gRPC prints it, "ipv4:10.0.0.1:4711"; lives with the stream. */
const char *rpc_stream_peer(const struct rpc_stream *stream);
/* The IP address in such a text, without brackets; false: there is none. */
bool rpc_peer_host(const char *peer, char host_out[SL_HOST_BYTES]);

/* Copies (packs) the message. SL_EXHAUSTED: queue full; SL_PEER: closed; SL_INVALID: too long, or a
 * counted kind as urgent. */
sl_status rpc_send_to_node(struct rpc_stream *stream, enum rpc_class class,
                           const Sluice__CoordinatorMessage *message) SL_MUST_USE;
sl_status rpc_send_to_coordinator(struct rpc_stream *stream, enum rpc_class class,
                                  const Sluice__NodeMessage *message) SL_MUST_USE;
/* Sends a Submit whose token list may be long: a Submit and as many SubmitParts as it takes, in order,
 * all of them or none. n_parts and total_tokens are set here, from n_tokens of the list. SL_INVALID: the
 * node would refuse it, and with it the stream, which carries everybody's requests. */
sl_status rpc_send_submit(struct rpc_stream *stream, const Sluice__Submit *submit) SL_MUST_USE;

/* Ends the stream at once, without waiting for queued messages; closed follows on the control
 * thread. reason (NULL for none) reaches a node that the coordinator closes; the other way only
 * the log. Any thread. */
void rpc_stream_close(struct rpc_stream *stream, const char *reason);

void rpc_node_message_free(Sluice__NodeMessage *message);
void rpc_coordinator_message_free(Sluice__CoordinatorMessage *message);

#endif

/* One stream between rpc.c (servers and clients) and gRPC; private to proto. */
#ifndef SL_PROTO_RPC_STREAM_H
#define SL_PROTO_RPC_STREAM_H

#include "proto/outbox.h"
#include "proto/rpc.h"

#include <grpc/grpc.h>
#include <pthread.h>
#include <stdatomic.h>

#define STREAM_TEXT_BYTES_MAX 256
#define STREAM_PEER_BYTES_MAX 96

/* A completion-queue tag: one per kind of batch that can be outstanding. */
struct rpc_tag {
    void (*run)(void *owner, bool ok);
    void *owner;
};

/* The owner's side: rpc_server_handler and rpc_client_handler behind one face. `message` is a
 * Sluice__NodeMessage on a server, a Sluice__CoordinatorMessage on a client. */
struct rpc_events {
    void (*opened)(void *arg, struct rpc_stream *stream);
    void (*message)(void *arg, struct rpc_stream *stream, ProtobufCMessage *message);
    void (*closed)(void *arg, struct rpc_stream *stream, sl_status why, const char *text);
    /* After closed, or instead of it when the stream never opened: the call is gone. */
    void (*gone)(void *arg, struct rpc_stream *stream);
    void *arg;
};

struct rpc_stream {
    _Atomic uint32_t refs;
    bool is_server;
    struct rpc_events events;
    char peer[STREAM_PEER_BYTES_MAX];

    pthread_mutex_t mutex; /* covers what follows, down to the control thread's part */
    grpc_call *call;       /* NULL once gone */
    uint32_t starters;     /* senders inside the start of a write */
    pthread_cond_t started;
    uint32_t pending; /* batches in gRPC's hands */
    bool writable;    /* initial metadata has gone through, nothing has ended the stream */
    bool writing;
    bool ending; /* half-closed or status sent: no more writes */
    bool broken; /* cancelled here */
    bool over;   /* gRPC has reported the end */
    /* SL_OK until something else than its peer's own end ends it. Once `over`, neither why nor text
     * changes any more: closed() and gone() read them without the lock. */
    sl_status why;
    char text[STREAM_TEXT_BYTES_MAX];
    struct outbox outbox;
    struct stream_item *in_flight;

    /* Control thread only. */
    bool opened;
    bool greeted; /* server: a Hello has come */
    uint64_t born_us;
    struct rpc_stream *next, *prev; /* server's list */
    grpc_byte_buffer *incoming;
    grpc_metadata_array received_metadata, trailing_metadata;
    grpc_metadata open_metadata;
    int cancelled;
    grpc_status_code status;
    grpc_slice details;
    gpr_timespec deadline;
    struct rpc_tag accept_tag, open_tag, read_tag, write_tag, end_tag, over_tag;
};

/* One reference, held for gRPC until gone. */
struct rpc_stream *rpc_stream_create(bool is_server, const struct rpc_events *events);
/* Client: starts the batches of a call that stream->call holds. */
void rpc_stream_start_client(struct rpc_stream *stream);
/* Server: the call has been accepted. refuse: text of RESOURCE_EXHAUSTED, NULL to take it. */
void rpc_stream_start_server(struct rpc_stream *stream, const char *refuse);
/* Ends the stream if all queued has been written, with a status (server) or by half-closing (client);
 * called again until it returns true. */
bool rpc_stream_finish(struct rpc_stream *stream, const char *text);
/* Cancels at once; the first reason counts. */
void rpc_stream_fail(struct rpc_stream *stream, sl_status why, const char *text);

#endif

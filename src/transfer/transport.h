/* What carries bytes between two nodes: `ucx` and `loop`. Everything runs on the transfer thread;
 * the sink is called only from progress(), never from connect, send or close.
 *
 * A connection is one way: each side opens its own and the sessions above pair them (session.c). What
 * comes in is told apart by its `route`, the sender's connection as this side sees it: 0 is none. */
#ifndef SL_TRANSFER_TRANSPORT_H
#define SL_TRANSFER_TRANSPORT_H

#include "transfer/transfer.h"

struct transport;
struct transport_connection;

struct transport_sink {
    void *arg;
    /* A control message; data: the sender's address, with a hello, else 0 bytes. */
    void (*control)(void *arg, uint64_t route, const uint8_t *frame, size_t frame_bytes,
                    const void *data, size_t data_bytes);
    /* An offer. 0: accepted, the receive is posted to *to_out and ends in landed(*op_out). */
    enum transfer_reason (*offer)(void *arg, uint64_t route, const uint8_t *frame,
                                  size_t frame_bytes, size_t length, bool rendezvous, void **to_out,
                                  void **op_out);
    /* Nothing will write a posted receive's block any more: its callback has run, or the process that
     * sends to it is gone and all it had sent is read. reason 0: landed. */
    void (*landed)(void *arg, void *op, enum transfer_reason reason);
    /* A data send has completed, locally; reason 0: OK, else refused or failed. */
    void (*sent)(void *arg, void *op, enum transfer_reason reason);
    /* The connection is broken; close it. */
    void (*lost)(void *arg, void *user, const char *why);
    /* After close: every send and receive has been told. */
    void (*closed)(void *arg, void *user);
    /* Nothing will come in any more, from whomever, for as long as this process lives. Once. */
    void (*deaf)(void *arg, const char *why);
};

struct transport_args {
    struct transport_sink sink;
    const struct transfer_args *transfer;
};

struct transport_target {
    const void *address; /* borrowed for the call */
    size_t address_bytes;
    void *user;
    uint64_t route;
    uint32_t tries;
};

struct transport_ops {
    const char *name;
    uint32_t frame_bit;                           /* FRAME_TRANSPORT_* */
    void (*destroy)(struct transport *transport); /* every connection closed before */
    void (*address)(struct transport *transport, const void **address_out, size_t *bytes_out);
    /* route: the peer's connection as it came in, 0: none came. A transport that pairs the two by
     * count makes up to `tries` connections until one is the pair of it; *made_out of them. */
    sl_status (*connect)(struct transport *transport, const struct transport_target *target,
                         uint32_t *made_out, struct transport_connection **connection_out);
    /* Whether what comes by the bound route ends with this connection. */
    bool (*paired)(const struct transport_connection *connection);
    /* What comes by `route` belongs to this connection: closing it ends its receives as well. */
    void (*bind)(struct transport_connection *connection, uint64_t route);
    /* Frame and data are copied. SL_PEER: the connection is broken (lost follows or has come). */
    sl_status (*send_control)(struct transport_connection *connection, const uint8_t *frame,
                              size_t frame_bytes, const void *data, size_t data_bytes);
    /* The frame is copied, the data must live until sent(op). SL_PEER: no sent follows. */
    sl_status (*send_data)(struct transport_connection *connection, const uint8_t *frame,
                           size_t frame_bytes, const void *data, size_t data_bytes, void *op);
    /* By force; once. sent, landed and at last closed follow. */
    void (*close)(struct transport_connection *connection);
    /* True if something happened. */
    bool (*progress)(struct transport *transport);
    /* A file descriptor that turns readable when progress has something to do; -1: none. */
    int (*fd)(struct transport *transport);
    /* Before sleeping on fd. False: there is something to do already. */
    bool (*arm)(struct transport *transport);
    /* Microseconds until something is due by the clock; UINT64_MAX: nothing. */
    uint64_t (*due_us)(struct transport *transport);
};

/* First member of every transport. */
struct transport {
    const struct transport_ops *ops;
};

sl_status transport_ucx_create(const struct transport_args *args,
                               struct transport **transport_out) SL_MUST_USE;
sl_status transport_loop_create(const struct transport_args *args,
                                struct transport **transport_out) SL_MUST_USE;

#endif

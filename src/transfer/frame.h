/* Messages between two nodes as bytes: docs/transfer.md section 5. Little-endian, of fixed size; every
 * size, version, flag and reserved field is checked when unpacking, and nothing else is known here. */
#ifndef SL_TRANSFER_FRAME_H
#define SL_TRANSFER_FRAME_H

#include "base/status.h"
#include "transfer/transfer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FRAME_VERSION        2 /* 1: one first block for all classes */
#define FRAME_HEADER_BYTES   32
#define FRAME_BYTES_MAX      128
#define FRAME_PIECE_STREAM   UINT32_MAX /* refuse: the stream, not one piece */
#define FRAME_NODE_ID_BYTES  16
#define FRAME_FLAG_DIGEST    1u /* open: offers and seal carry digests; offer, seal: this one does */
#define FRAME_SEAL_EOS       1u
#define FRAME_TRANSPORT_UCX  1u
#define FRAME_TRANSPORT_NCCL 2u
#define FRAME_TRANSPORT_LOOP 4u
#define FRAME_TAKES_PROBES   0x80000000u /* among the transports of a hello */

enum frame_type {
    FRAME_HELLO = 1,
    FRAME_BEAT,
    FRAME_OPEN,
    FRAME_WANT,
    FRAME_GRANT,
    FRAME_OFFER,
    FRAME_REFUSE,
    FRAME_SEAL,
    FRAME_SEAL_ACK,
    FRAME_CANCEL,
    FRAME_CANCELLED,
    FRAME_PROBE, /* only to those that take probes */
    FRAME_TYPE_COUNT
};

/* key of the header: the sender's number of this connection. */
struct frame_hello {
    char node_id[FRAME_NODE_ID_BYTES]; /* NUL-terminated */
    uint64_t incarnation;
    uint8_t identity[16];
    uint8_t layout[16];
    uint32_t block_tokens;
    uint16_t n_classes;
    uint64_t block_bytes;  /* over all classes */
    uint64_t classes_hash; /* of (layers, bytes of a layer) of each class */
    uint32_t transports;   /* FRAME_TRANSPORT_* that the sender can, FRAME_TAKES_PROBES */
    uint16_t offers_per_lane, offers_per_session;
    uint64_t answers; /* the number in the hello that this one answers; 0: none seen */
};

struct frame_beat {
    uint64_t incarnation, step;
};

struct frame_open {
    uint32_t n_blocks, n_tokens;
    uint16_t n_classes, n_lanes, layers_per_piece, heads_per_piece; /* heads: 0 = all */
    uint32_t transport;
    uint8_t prefix_hash[TRANSFER_PREFIX_BYTES];
    uint32_t first_block[TRANSFER_CLASSES_MAX]; /* that a class sends; 0 beyond n_classes */
};

struct frame_want {
    uint32_t first_block[TRANSFER_CLASSES_MAX]; /* that the destination lacks; 0 beyond n_classes */
    uint32_t credit, offers_max;
};

struct frame_grant {
    uint32_t credit, sequence, piece;
};

struct frame_offer {
    uint16_t class_index, first_layer, n_layers, first_head, n_heads, flags; /* n_heads: 0 = all */
    uint32_t block, piece, bytes;
    uint64_t digest;
};

struct frame_refuse {
    uint16_t reason;
    uint32_t piece;
};

struct frame_seal {
    uint32_t n_tokens, n_blocks, n_pieces, token, token_index, flags;
    uint64_t digest[2];
};

/* With bytes, or the answer to such a one. key of the header: the source's number of its connection. */
struct frame_probe {
    uint32_t number, count, bytes;
    uint64_t timed_bytes, busy_us; /* in an answer: all that was timed so far */
};

struct frame {
    enum frame_type type;
    uint16_t flags;
    uint32_t lane;
    uint64_t key;
    uint64_t incarnation; /* of the node this message is for */
    uint32_t attempt;
    union {
        struct frame_hello hello;
        struct frame_beat beat;
        struct frame_open open;
        struct frame_want want;
        struct frame_grant grant;
        struct frame_offer offer;
        struct frame_refuse refuse;
        struct frame_seal seal;
        struct frame_probe probe;
        uint16_t cancel_reason;
        bool quiet; /* cancelled */
    };
    const void *data; /* that came along with it: no part of the frame; borrowed for the call */
    uint32_t data_bytes;
};

/* "hello", "open", …; "?" for what is none. */
const char *frame_type_name(unsigned type);
/* Bytes of a message of this type, 0 for what is none. */
size_t frame_bytes(unsigned type);
/* Writes frame_bytes(frame->type) bytes and returns their number. */
size_t frame_pack(const struct frame *frame, uint8_t bytes_out[FRAME_BYTES_MAX]);
/* SL_INVALID names what is wrong: size, version, type, flags, a reserved field, a value that no
 * version of the protocol sends. Fields that depend on a stream are checked by its state machine. */
sl_status frame_unpack(const uint8_t *bytes, size_t n, struct frame *frame_out) SL_MUST_USE;

#endif

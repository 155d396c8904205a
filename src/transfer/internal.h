/* What the files of the transfer thread share: the transfer object, peers with their sessions, and the
 * streams of both directions. Only that thread touches any of it. */
#ifndef SL_TRANSFER_INTERNAL_H
#define SL_TRANSFER_INTERNAL_H

#include "base/ring.h"
#include "base/thread.h"
#include "transfer/destination.h"
#include "transfer/frame.h"
#include "transfer/meter.h"
#include "transfer/probe.h"
#include "transfer/shape.h"
#include "transfer/source.h"
#include "transfer/stream.h"
#include "transfer/transport.h"

#define PEERS_MAX         256
#define STREAM_BUCKETS    4096
#define TOMBSTONES_MAX    4096
#define MISBEHAVIOURS_MAX 3 /* in a session; then it is closed */

enum session_state {
    SESSION_IDLE,
    SESSION_CONNECTING, /* our hello is out */
    SESSION_UP,         /* the peer's hello answers ours */
    SESSION_CLOSING     /* callbacks are still to come */
};

struct peer {
    char node_id[FRAME_NODE_ID_BYTES];
    uint64_t incarnation;
    void *address;
    size_t address_bytes;
    enum session_state session;
    struct transport_connection *connection;
    uint32_t made;        /* connections to it so far */
    uint64_t number;      /* of our connection */
    uint64_t peer_number; /* of the peer's connection, from its hello; 0: none seen */
    uint64_t peer_route;  /* that hello came by it */
    bool answered;        /* we have sent a hello that answers peer_number */
    bool answer_wanted;   /* the peer waits for a hello: connect though no stream needs it */
    bool mismatch;        /* the two nodes cannot exchange blocks */
    bool suspect;         /* silent for suspect_us: no new streams */
    bool takes_probes;    /* its hello says so */
    uint32_t misbehaviours;
    uint32_t offers_per_lane, offers_per_session;
    uint32_t n_sends, n_receives; /* outstanding */
    uint64_t bytes_in_flight;
    uint64_t session_since_us, heard_us, beat_us;
    uint64_t retry_us, backoff_us;
    struct send_stream *sends;
    struct recv_stream *receives;
    struct send_stream *turn; /* whose offer is next */
    uint32_t n_parked;
    struct meter_link *send_link, *recv_link;
    struct probe probe; /* of the session it has now */
    struct peer *next;
};

enum command_type {
    COMMAND_SEND_OPEN,
    COMMAND_SEND_READY,
    COMMAND_SEND_TOKEN,
    COMMAND_SEND_CANCEL,
    COMMAND_RECV_EXPECT,
    COMMAND_RECV_ADMIT,
    COMMAND_RECV_REFILL,
    COMMAND_RECV_CANCEL,
};

struct command_peer {
    char node_id[FRAME_NODE_ID_BYTES];
    uint64_t incarnation;
    void *address; /* owned by the command */
    size_t address_bytes;
};

struct command {
    enum command_type type;
    uint64_t key;
    union {
        struct {
            struct command_peer peer;
            uint32_t attempt, n_blocks, n_tokens;
            uint32_t first_block[TRANSFER_CLASSES_MAX];
            uint8_t prefix_hash[TRANSFER_PREFIX_BYTES];
            const uint32_t *blocks[TRANSFER_CLASSES_MAX];
        } open; /* SEND_OPEN, RECV_EXPECT */
        struct {
            uint32_t first_block, end_block;
            uint32_t layer_ends[TRANSFER_CLASSES_MAX];
        } ready;
        struct transfer_token token;
        struct {
            uint32_t first_blocks[TRANSFER_CLASSES_MAX]; /* RECV_ADMIT */
            uint32_t n;
            struct transfer_block list[TRANSFER_RING_BLOCKS_MAX];
        } blocks; /* RECV_ADMIT, RECV_REFILL */
        enum transfer_reason reason;
    };
};

struct transfer {
    struct transfer_args args; /* pointers in it are not kept beyond create, but see pools */
    char node_id[FRAME_NODE_ID_BYTES];
    struct device_memory pools[TRANSFER_CLASSES_MAX];
    struct shape shape;
    struct transport *transport;
    struct meter *meter;
    struct sl_ring *commands, *events;
    struct transfer_event *backlog; /* events for which the ring had no space, oldest first */
    uint32_t backlog_count, backlog_capacity;
    struct sl_wake wake;
    struct sl_thread thread;
    int epoll;
    _Atomic bool stop;
    _Atomic uint64_t step; /* the engine's, for beats */
    _Atomic bool sleeping;
    bool notify_wanted;

    uint64_t now_us; /* of this turn */
    uint64_t swept_us;
    uint64_t connections; /* made so far */
    struct peer *peers;
    uint32_t n_peers;
    uint32_t n_sends, n_receives, n_parked; /* streams */
    struct send_stream *sends[STREAM_BUCKETS];
    struct recv_stream *receives[STREAM_BUCKETS];
    struct send_stream *dead_sends; /* freed at the end of the turn */
    struct recv_stream *dead_receives;
    struct tombstone *tombstones; /* a ring of TOMBSTONES_MAX */
    uint32_t tombstone_next, tombstone_oldest;
    uint32_t tombstone_heads[STREAM_BUCKETS]; /* index + 1 */
    struct transfer_op *free_ops;
    struct transfer_op_slab *op_slabs;
    uint8_t *probe_buffer; /* probe.c; NULL: no probes */
};

/* ---- transfer.c ---- */
void transfer_emit(struct transfer *transfer, const struct transfer_event *event);
struct transfer_op *transfer_op_take(struct transfer *transfer);
void transfer_op_give(struct transfer *transfer, struct transfer_op *op);
/* Address of a piece in a class's pool: the one place where block ids become addresses. */
void *transfer_piece_address(const struct transfer *transfer, const struct piece *piece,
                             uint32_t block_id);
uint32_t stream_bucket(uint64_t key);
/* A second stream under the key of one that lives: said and counted, and the first goes on. Keys come
 * from the coordinator; the scheduler has compared them, so it is told nothing: the events of a key are
 * those of its stream. */
void transfer_refuse_key(struct transfer *transfer, const struct command *command,
                         uint32_t attempt);
/* A message of a key that nobody here knows. */
void transfer_count_unknown(struct transfer *transfer, const struct peer *peer,
                            const struct frame *frame);

/* ---- session.c ---- */
struct peer *peer_by_route(struct transfer *transfer, uint64_t route);
/* Finds or makes; NULL (sentence set) when there are too many peers or the record contradicts. */
struct peer *peer_get(struct transfer *transfer, const char *node_id, uint64_t incarnation,
                      const void *address, size_t address_bytes);
/* False when the session is not up; the message is lost with the session anyway. */
bool peer_send(struct transfer *transfer, struct peer *peer, struct frame *frame);
bool peer_send_note(struct transfer *transfer, struct peer *peer, struct frame *frame,
                    const struct transfer_note *note);
void peer_refuse(struct transfer *transfer, struct peer *peer, uint64_t key, uint32_t attempt,
                 enum transfer_reason reason);
void peer_misbehaved(struct transfer *transfer, struct peer *peer, const char *what);
/* Breaks the session by force; streams bound to it are lost. Nothing if it is closing already. */
void peer_lose(struct transfer *transfer, struct peer *peer, enum transfer_reason reason,
               const char *why);
/* What came shows that the peer's side of the session is up. */
void session_proven(struct transfer *transfer, struct peer *peer);
void session_closed(struct peer *peer);
void session_control(struct transfer *transfer, uint64_t route, const uint8_t *bytes,
                     size_t n_bytes, const void *data, size_t data_bytes);
/* Beats, deadlines of sessions, connections that are due. */
void session_sweep(struct transfer *transfer);
void session_destroy_all(struct transfer *transfer);

/* ---- sending.c: the source's side ---- */
struct send_stream *send_find(struct transfer *transfer, uint64_t key);
void send_command(struct transfer *transfer, const struct command *command);
void send_message(struct transfer *transfer, struct peer *peer, const struct frame *frame);
void send_lost(struct transfer *transfer, struct send_stream *stream, enum transfer_reason reason);
void send_refused(struct transfer *transfer, struct send_stream *stream,
                  enum transfer_reason reason);
void send_session_up(struct transfer *transfer, struct peer *peer);
void send_completed(struct transfer *transfer, struct transfer_op *op, enum transfer_reason reason);
/* Offers of all streams of a peer, in turn, while the window is open. True if something left. */
bool send_pump(struct transfer *transfer, struct peer *peer);
void send_sweep(struct transfer *transfer, struct send_stream *stream);
void send_reap(struct transfer *transfer);

/* ---- receiving.c: the destination's side ---- */
struct recv_stream *recv_find(struct transfer *transfer, uint64_t key);
void recv_command(struct transfer *transfer, const struct command *command);
void recv_message(struct transfer *transfer, struct peer *peer, const struct frame *frame);
enum transfer_reason recv_offer(struct transfer *transfer, uint64_t route, const uint8_t *bytes,
                                size_t n_bytes, size_t length, bool rendezvous, void **to_out,
                                void **op_out);
void recv_completed(struct transfer *transfer, struct transfer_op *op, enum transfer_reason reason);
void recv_lost(struct transfer *transfer, struct recv_stream *stream, enum transfer_reason reason);
void recv_sweep(struct transfer *transfer, struct recv_stream *stream);
void recv_sweep_tombstones(struct transfer *transfer);
void recv_reap(struct transfer *transfer);

#endif

/* The source's half of a stream: its state table as a pure function, and the record of what may be
 * offered, is on the way and has completed. No I/O, no clock: sending.c carries the actions out. */
#ifndef SL_TRANSFER_SOURCE_H
#define SL_TRANSFER_SOURCE_H

#include "transfer/shape.h"

enum source_state {
    SOURCE_OPEN, /* `open` sent, or about to be */
    SOURCE_SENDING,
    SOURCE_SEALED,
    SOURCE_DONE,
    SOURCE_FAILING, /* no new send starts; outstanding ones must still complete */
    SOURCE_ENDED,
    SOURCE_STATE_COUNT
};

enum source_event {
    SOURCE_ON_WANT,
    SOURCE_ON_GRANT,
    SOURCE_ON_FINAL, /* layers of some blocks became final */
    SOURCE_ON_SENT,
    SOURCE_ON_TOKEN,
    SOURCE_ON_SEND_FAILED, /* failed or refused */
    SOURCE_ON_SEAL_ACK,
    SOURCE_ON_PEER_REFUSE,
    SOURCE_ON_PEER_CANCEL,
    SOURCE_ON_LOST,     /* session lost or peer dead */
    SOURCE_ON_DEADLINE, /* of the state: open_us, seal_us, drain_us */
    SOURCE_ON_CANCEL,   /* by this node's scheduler */
    SOURCE_EVENT_COUNT
};

/* What the table asks for, in the order in which it is carried out. */
enum source_action {
    SOURCE_DO_WANTED = 1u << 0,    /* note first block and credit; tell the scheduler */
    SOURCE_DO_CREDIT = 1u << 1,    /* raise the credit */
    SOURCE_DO_OFFER = 1u << 2,     /* offer what may be offered, lowest block first */
    SOURCE_DO_SEAL = 1u << 3,      /* send the seal */
    SOURCE_DO_ACKED = 1u << 4,     /* tell the scheduler; release the blocks */
    SOURCE_DO_CANCEL = 1u << 5,    /* send cancel */
    SOURCE_DO_CANCELLED = 1u << 6, /* send cancelled, quiet if nothing is outstanding */
    SOURCE_DO_TELL = 1u << 7,      /* tell the scheduler that the stream failed */
    SOURCE_DO_CLOSE = 1u << 8,     /* close the session by force */
    SOURCE_DO_MISBEHAVED = 1u << 9,
    SOURCE_DO_BUG = 1u << 10 /* impossible: this process contradicts itself */
};

/* What the table has to know beyond state and event; all as they are after the event. */
struct source_facts {
    bool complete; /* wanted, every piece of every lane sent OK, and the token sampled */
    bool idle;     /* no send is outstanding */
};

struct source_step {
    enum source_state next;
    uint32_t actions;
};

struct source_step source_next(enum source_state state, enum source_event event,
                               struct source_facts facts);
const char *source_state_name(enum source_state state);

/* What may be offered. Owned by the transfer thread. */
struct source {
    enum source_state state;
    struct shape shape;
    uint32_t n_blocks;
    /* Of each class: the first block that it sends; once wanted, the first that the destination lacks. */
    uint32_t first_block[TRANSFER_CLASSES_MAX];
    uint32_t credit; /* blocks below may be offered */
    bool wanted, token_known;
    uint16_t *layer_end; /* [n_blocks][n_classes] layers below are final in memory */
    uint16_t *next_run;  /* [n_blocks][n_classes] runs offered so far */
    uint32_t ready_end;  /* blocks below may have final layers */
    uint32_t scan;       /* no block below has a piece that may be offered now */
    uint32_t n_sent, n_outstanding, n_pieces; /* n_pieces: valid once wanted */
};

/* first_blocks [n_classes]. SL_INVALID n_blocks outside 1..TRANSFER_STREAM_BLOCKS_MAX, or a first block
 * beyond; SL_NO_MEMORY. */
sl_status source_init(struct source *source, const struct shape *shape, uint32_t n_blocks,
                      const uint32_t *first_blocks) SL_MUST_USE;
void source_fini(struct source *source);
/* Layers [0, layer_ends[class]) of blocks [first, end) are final; parts outside the stream are ignored. */
void source_final(struct source *source, uint32_t first, uint32_t end, const uint32_t *layer_ends);
/* first_blocks [TRANSFER_CLASSES_MAX]. False if one of them or the credit lie outside the stream (the
 * peer misbehaves; nothing changes). */
bool source_want(struct source *source, const uint32_t *first_blocks, uint32_t credit);
/* The same for a grant; a lower credit than before is stale and changes nothing. */
bool source_grant(struct source *source, uint32_t credit);
/* The next piece that is final and has credit, lowest block first; false if there is none. The
 * piece counts as offered and outstanding. */
bool source_take(struct source *source, struct piece *piece_out);
/* Whether a final piece waits for credit only. */
bool source_lacks_credit(const struct source *source);
/* Whether a piece may be offered now. */
bool source_can_offer(struct source *source);
/* A send that source_take gave out has ended. */
void source_sent(struct source *source, bool ok);
struct source_facts source_facts(const struct source *source);

#endif

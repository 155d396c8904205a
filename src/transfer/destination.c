/* The destination's state table and its record of blocks and pieces.
 *
 *             open               Submit               promise                  seal, not full
 *   NONE ───────────► PARKED ───────────► QUEUED ───────────► LANDING ──────────────────► HELD
 *     └────────── Submit ───────────────────▲  │                │  │ seal, full              │ full
 *                                              │                │  └───────► RUNNING ◄───────┘
 *                    cancel, lost, deadline    │                │ cancel, lost, deadline, misbehaviour,
 *                                              ▼                ▼ receive failed (HELD too)
 *                                            FREED ◄──────── DRAINING
 *                                       (tombstone)   no receive is posted any more
 *
 * The table is the one of docs/transfer.md section 7, cell by cell; tests/unit/transfer/
 * test_destination.c holds it a second time. Where the page is silent: a stream that the scheduler
 * knows and that ends otherwise than by the scheduler's own word is always told; a bad open ends a
 * QUEUED stream, since its source will not come again; commands that crossed the stream's end on their
 * way here (admit, refill) give their ids back.
 *
 * Invariants of the record
 *   a block id is in exactly one of: the ring, a block's entry, the scheduler's hands
 *   posted ⊇ landed; n_outstanding = receives whose callback has not run
 *   a block's id leaves its entry only with n_posted == 0, or to the scheduler as a whole when sealed */
#include "transfer/destination.h"

#include "base/mem.h"

static const char *const state_names[DESTINATION_STATE_COUNT] = {
    "NONE", "PARKED", "QUEUED", "LANDING", "HELD", "RUNNING", "DRAINING", "FREED"};

const char *destination_state_name(enum destination_state state)
{
    SL_ASSERT(state < DESTINATION_STATE_COUNT);
    return state_names[state];
}

#define REFUSE_BAD (DESTINATION_DO_REFUSE | DESTINATION_DO_MISBEHAVED)

static struct destination_step stay(enum destination_state state, uint32_t actions)
{
    return (struct destination_step){.next = state, .actions = actions};
}

/* Into DRAINING, which ends at once when nothing is posted. */
static struct destination_step drain(struct destination_facts facts, uint32_t actions)
{
    return stay(facts.idle ? DESTINATION_FREED : DESTINATION_DRAINING,
                actions | DESTINATION_DO_BACK);
}

static struct destination_step free_with(uint32_t actions)
{
    return stay(DESTINATION_FREED, actions);
}

static struct destination_step next_none(enum destination_event event)
{
    switch ((int)event) {
    case DESTINATION_ON_SUBMIT:
        return stay(DESTINATION_QUEUED, 0);
    case DESTINATION_ON_OPEN:
        return stay(DESTINATION_PARKED, DESTINATION_DO_OPENED);
    case DESTINATION_ON_OPEN_BAD:
    case DESTINATION_ON_OFFER:
    case DESTINATION_ON_SEAL:
        return stay(DESTINATION_NONE, DESTINATION_DO_REFUSE);
    case DESTINATION_ON_OFFER_BAD:
        return stay(DESTINATION_NONE, REFUSE_BAD);
    case DESTINATION_ON_PEER_CANCEL:
        return stay(DESTINATION_NONE, DESTINATION_DO_CANCELLED);
    case DESTINATION_ON_PROMISE:
    case DESTINATION_ON_REFILL:
        return stay(DESTINATION_NONE, DESTINATION_DO_BACK); /* forgotten meanwhile */
    case DESTINATION_ON_LANDED:
    case DESTINATION_ON_RECEIVE_FAILED:
        return stay(DESTINATION_NONE, DESTINATION_DO_BUG);
    default:
        return stay(DESTINATION_NONE, 0);
    }
}

static struct destination_step next_parked(enum destination_event event)
{
    switch ((int)event) {
    case DESTINATION_ON_SUBMIT:
        return stay(DESTINATION_QUEUED, 0);
    case DESTINATION_ON_SUBMIT_BAD:
        return free_with(DESTINATION_DO_REFUSE | DESTINATION_DO_TELL);
    case DESTINATION_ON_OPEN:
        return stay(DESTINATION_PARKED, DESTINATION_DO_MISBEHAVED);
    case DESTINATION_ON_OPEN_BAD:
    case DESTINATION_ON_OFFER_BAD:
        return stay(DESTINATION_PARKED, REFUSE_BAD);
    case DESTINATION_ON_OFFER:
    case DESTINATION_ON_SEAL:
        return stay(DESTINATION_PARKED, DESTINATION_DO_REFUSE);
    case DESTINATION_ON_PEER_CANCEL:
        return free_with(DESTINATION_DO_CANCELLED);
    case DESTINATION_ON_CANCEL:
    case DESTINATION_ON_DEADLINE:
        return free_with(DESTINATION_DO_REFUSE);
    case DESTINATION_ON_LOST:
        return free_with(0);
    default:
        return stay(DESTINATION_PARKED, DESTINATION_DO_BUG);
    }
}

static struct destination_step cancel_queued(struct destination_facts facts)
{
    if (!facts.opened)
        return free_with(0);
    return free_with(facts.refusing ? DESTINATION_DO_REFUSE : DESTINATION_DO_CANCEL);
}

static struct destination_step next_queued(enum destination_event event,
                                           struct destination_facts facts)
{
    switch ((int)event) {
    case DESTINATION_ON_SUBMIT:
    case DESTINATION_ON_SUBMIT_BAD:
        return stay(DESTINATION_QUEUED, DESTINATION_DO_MISBEHAVED);
    case DESTINATION_ON_OPEN:
        return stay(DESTINATION_QUEUED, DESTINATION_DO_OPENED);
    case DESTINATION_ON_OPEN_BAD:
        return free_with(DESTINATION_DO_REFUSE | DESTINATION_DO_TELL);
    case DESTINATION_ON_PROMISE:
        return stay(DESTINATION_LANDING, facts.opened ? DESTINATION_DO_WANT : 0);
    case DESTINATION_ON_OFFER:
    case DESTINATION_ON_SEAL:
        return stay(DESTINATION_QUEUED, DESTINATION_DO_REFUSE);
    case DESTINATION_ON_OFFER_BAD:
        return stay(DESTINATION_QUEUED, REFUSE_BAD);
    case DESTINATION_ON_PEER_CANCEL:
        return free_with(DESTINATION_DO_CANCELLED | DESTINATION_DO_TELL);
    case DESTINATION_ON_CANCEL:
        return cancel_queued(facts);
    case DESTINATION_ON_LOST:
        return facts.opened ? free_with(DESTINATION_DO_TELL) : stay(DESTINATION_QUEUED, 0);
    case DESTINATION_ON_DEADLINE:
        return free_with(DESTINATION_DO_TELL | (facts.opened ? DESTINATION_DO_REFUSE : 0));
    default:
        return stay(DESTINATION_QUEUED, DESTINATION_DO_BUG);
    }
}

/* What LANDING and HELD have in common. */
static struct destination_step next_receiving(enum destination_state state,
                                              enum destination_event event,
                                              struct destination_facts facts)
{
    switch ((int)event) {
    case DESTINATION_ON_SUBMIT:
    case DESTINATION_ON_SUBMIT_BAD:
        return stay(state, DESTINATION_DO_MISBEHAVED);
    case DESTINATION_ON_RECEIVE_FAILED:
    case DESTINATION_ON_DEADLINE:
        return drain(facts, DESTINATION_DO_CANCEL | DESTINATION_DO_TELL);
    case DESTINATION_ON_PEER_CANCEL:
        return drain(facts, DESTINATION_DO_CANCELLED | DESTINATION_DO_TELL);
    case DESTINATION_ON_CANCEL:
        return drain(facts, DESTINATION_DO_CANCEL);
    case DESTINATION_ON_LOST:
        return drain(facts, DESTINATION_DO_CLOSE | DESTINATION_DO_TELL);
    default:
        return stay(state, DESTINATION_DO_BUG);
    }
}

static struct destination_step seal_landing(struct destination_facts facts)
{
    if (!facts.all_posted)
        return drain(facts, REFUSE_BAD | DESTINATION_DO_TELL);
    if (facts.full)
        return stay(DESTINATION_RUNNING, DESTINATION_DO_SEALED | DESTINATION_DO_SEAL_ACK);
    return stay(DESTINATION_HELD, 0);
}

static struct destination_step next_landing(enum destination_event event,
                                            struct destination_facts facts)
{
    switch ((int)event) {
    case DESTINATION_ON_OPEN:
        return facts.opened
                   ? stay(DESTINATION_LANDING, DESTINATION_DO_MISBEHAVED)
                   : stay(DESTINATION_LANDING, DESTINATION_DO_OPENED | DESTINATION_DO_WANT);
    case DESTINATION_ON_OPEN_BAD:
        return drain(facts, DESTINATION_DO_REFUSE | DESTINATION_DO_TELL);
    case DESTINATION_ON_REFILL:
        return stay(DESTINATION_LANDING, facts.opened ? DESTINATION_DO_GRANT : 0);
    case DESTINATION_ON_OFFER:
        return stay(DESTINATION_LANDING, DESTINATION_DO_POST);
    case DESTINATION_ON_OFFER_BAD:
        return drain(facts, REFUSE_BAD | DESTINATION_DO_TELL);
    case DESTINATION_ON_LANDED:
        return stay(DESTINATION_LANDING, 0);
    case DESTINATION_ON_SEAL:
        return seal_landing(facts);
    default:
        return next_receiving(DESTINATION_LANDING, event, facts);
    }
}

static struct destination_step next_held(enum destination_event event,
                                         struct destination_facts facts)
{
    switch ((int)event) {
    case DESTINATION_ON_OPEN:
    case DESTINATION_ON_SEAL:
        return stay(DESTINATION_HELD, DESTINATION_DO_MISBEHAVED);
    case DESTINATION_ON_OPEN_BAD:
    case DESTINATION_ON_OFFER:
    case DESTINATION_ON_OFFER_BAD:
        return stay(DESTINATION_HELD, REFUSE_BAD);
    case DESTINATION_ON_REFILL:
        return stay(DESTINATION_HELD, DESTINATION_DO_BACK); /* crossed: nothing is lacking */
    case DESTINATION_ON_LANDED:
        return facts.full
                   ? stay(DESTINATION_RUNNING, DESTINATION_DO_SEALED | DESTINATION_DO_SEAL_ACK)
                   : stay(DESTINATION_HELD, 0);
    default:
        return next_receiving(DESTINATION_HELD, event, facts);
    }
}

static struct destination_step next_running(enum destination_event event)
{
    switch ((int)event) {
    case DESTINATION_ON_SUBMIT:
    case DESTINATION_ON_SUBMIT_BAD:
    case DESTINATION_ON_OPEN:
        return stay(DESTINATION_RUNNING, DESTINATION_DO_MISBEHAVED);
    case DESTINATION_ON_OPEN_BAD:
    case DESTINATION_ON_OFFER:
    case DESTINATION_ON_OFFER_BAD:
        return stay(DESTINATION_RUNNING, REFUSE_BAD);
    case DESTINATION_ON_REFILL:
        return stay(DESTINATION_RUNNING, DESTINATION_DO_BACK);
    case DESTINATION_ON_SEAL:
        return stay(DESTINATION_RUNNING, DESTINATION_DO_SEAL_ACK);
    case DESTINATION_ON_CANCEL:
        return free_with(0);
    case DESTINATION_ON_PROMISE:
    case DESTINATION_ON_LANDED:
    case DESTINATION_ON_RECEIVE_FAILED:
        return stay(DESTINATION_RUNNING, DESTINATION_DO_BUG);
    case DESTINATION_ON_DEADLINE:
        return free_with(DESTINATION_DO_FORGET);
    default:
        return stay(DESTINATION_RUNNING, 0);
    }
}

static struct destination_step next_draining(enum destination_event event,
                                             struct destination_facts facts)
{
    switch ((int)event) {
    case DESTINATION_ON_SUBMIT:
    case DESTINATION_ON_SUBMIT_BAD:
        return stay(DESTINATION_DRAINING, DESTINATION_DO_MISBEHAVED);
    case DESTINATION_ON_OPEN:
    case DESTINATION_ON_OPEN_BAD:
    case DESTINATION_ON_OFFER:
    case DESTINATION_ON_SEAL:
        return stay(DESTINATION_DRAINING, DESTINATION_DO_REFUSE);
    case DESTINATION_ON_OFFER_BAD:
        return stay(DESTINATION_DRAINING, REFUSE_BAD);
    case DESTINATION_ON_PROMISE:
    case DESTINATION_ON_REFILL:
        return stay(DESTINATION_DRAINING, DESTINATION_DO_BACK);
    case DESTINATION_ON_LANDED:
    case DESTINATION_ON_RECEIVE_FAILED:
        return drain(facts, 0);
    case DESTINATION_ON_PEER_CANCEL:
        return stay(DESTINATION_DRAINING, DESTINATION_DO_CANCELLED);
    case DESTINATION_ON_LOST:
    case DESTINATION_ON_DEADLINE:
        return stay(DESTINATION_DRAINING, DESTINATION_DO_CLOSE); /* the callbacks end it */
    default:
        return stay(DESTINATION_DRAINING, 0);
    }
}

static struct destination_step next_freed(enum destination_event event,
                                          struct destination_facts facts)
{
    switch ((int)event) {
    case DESTINATION_ON_SUBMIT:
    case DESTINATION_ON_SUBMIT_BAD:
        return free_with(DESTINATION_DO_TELL); /* its open was refused before */
    case DESTINATION_ON_OPEN:
    case DESTINATION_ON_OPEN_BAD:
    case DESTINATION_ON_OFFER:
        return free_with(DESTINATION_DO_REFUSE);
    case DESTINATION_ON_SEAL:
        return free_with(facts.sealed ? DESTINATION_DO_SEAL_ACK : DESTINATION_DO_REFUSE);
    case DESTINATION_ON_OFFER_BAD:
        return free_with(REFUSE_BAD);
    case DESTINATION_ON_PROMISE:
    case DESTINATION_ON_REFILL:
        return free_with(DESTINATION_DO_BACK);
    case DESTINATION_ON_PEER_CANCEL:
        return free_with(DESTINATION_DO_CANCELLED);
    case DESTINATION_ON_LANDED:
    case DESTINATION_ON_RECEIVE_FAILED:
        return free_with(DESTINATION_DO_BUG);
    case DESTINATION_ON_DEADLINE:
        return free_with(DESTINATION_DO_FORGET);
    default:
        return free_with(0);
    }
}

struct destination_step destination_next(enum destination_state state, enum destination_event event,
                                         struct destination_facts facts)
{
    switch (state) {
    case DESTINATION_NONE:
        return next_none(event);
    case DESTINATION_PARKED:
        return next_parked(event);
    case DESTINATION_QUEUED:
        return next_queued(event, facts);
    case DESTINATION_LANDING:
        return next_landing(event, facts);
    case DESTINATION_HELD:
        return next_held(event, facts);
    case DESTINATION_RUNNING:
        return next_running(event);
    case DESTINATION_DRAINING:
        return next_draining(event, facts);
    case DESTINATION_FREED:
    case DESTINATION_STATE_COUNT:
        break;
    }
    return next_freed(event, facts);
}

/* ---- the record ---- */

void destination_init(struct destination *destination, uint32_t n_blocks, uint32_t n_tokens,
                      uint32_t n_classes, const uint32_t *sent_from)
{
    *destination =
        (struct destination){.n_blocks = n_blocks, .n_tokens = n_tokens, .n_classes = n_classes};
    for (uint32_t c = 0; c < n_classes; c++)
        destination->classes[c].sent_from = sent_from[c];
}

void destination_fini(struct destination *destination)
{
    for (uint32_t c = 0; c < destination->n_classes; c++) {
        sl_free(destination->classes[c].blocks);
        destination->classes[c].blocks = NULL;
    }
    sl_free(destination->posted);
    sl_free(destination->landed);
    destination->posted = NULL;
    destination->landed = NULL;
}

static bool first_blocks_fit(const struct frame_open *open)
{
    for (uint32_t c = 0; c < TRANSFER_CLASSES_MAX; c++)
        if (open->first_block[c] > (c < open->n_classes ? open->n_blocks : 0))
            return false;
    return true;
}

bool destination_open_fits(const struct shape *own, const struct frame_open *open,
                           uint32_t block_tokens, struct shape *shape_out)
{
    if (open->n_blocks == 0 || open->n_blocks > TRANSFER_STREAM_BLOCKS_MAX || open->n_tokens == 0)
        return false;
    if ((open->n_tokens - 1) / block_tokens + 1 != open->n_blocks)
        return false;
    if (open->n_classes != own->n_classes || open->n_lanes != 1 || open->heads_per_piece != 0)
        return false;
    return first_blocks_fit(open) && shape_recut(own, open->layers_per_piece, shape_out);
}

/* Bitmaps once both the cut and the blocks that are lacking are known. */
static sl_status make_bitmaps(struct destination *destination)
{
    if (!destination->opened || !destination->promised)
        return SL_OK;
    const struct shape *shape = &destination->shape;
    destination->lowest = destination->n_blocks;
    destination->n_pieces = 0;
    for (uint32_t c = 0; c < destination->n_classes; c++) {
        uint32_t first = destination->classes[c].first_block;
        destination->n_pieces += (destination->n_blocks - first) * shape->classes[c].n_runs;
        if (first < destination->lowest)
            destination->lowest = first;
    }
    uint32_t n_bits = (destination->n_blocks - destination->lowest) * shape->pieces_per_block;
    size_t words = ((size_t)n_bits + 63) / 64;
    destination->posted = sl_try_zalloc(words, sizeof(uint64_t));
    destination->landed = sl_try_zalloc(words, sizeof(uint64_t));
    if (destination->posted == NULL || destination->landed == NULL)
        return sl_fail(SL_NO_MEMORY, "stream of %u pieces", destination->n_pieces);
    return SL_OK;
}

sl_status destination_open(struct destination *destination, const struct shape *shape)
{
    destination->shape = *shape;
    destination->opened = true;
    return make_bitmaps(destination);
}

/* The source may offer a block once every class that lacks it has an id for it. */
static void set_credit(struct destination *destination)
{
    destination->credit = destination->n_blocks;
    for (uint32_t c = 0; c < destination->n_classes; c++)
        if (destination->classes[c].given_end < destination->credit)
            destination->credit = destination->classes[c].given_end;
}

sl_status destination_promise(struct destination *destination, const uint32_t *first_blocks)
{
    if (destination->promised)
        return sl_fail(SL_INVALID, "stream of %u blocks admitted a second time",
                       destination->n_blocks);
    for (uint32_t c = 0; c < destination->n_classes; c++) {
        struct destination_class *class = &destination->classes[c];
        if (first_blocks[c] < class->sent_from || first_blocks[c] > destination->n_blocks)
            return sl_fail(SL_INVALID, "stream admitted from block %u of class %u; want %u..%u",
                           first_blocks[c], c, class->sent_from, destination->n_blocks);
    }
    for (uint32_t c = 0; c < destination->n_classes; c++) {
        struct destination_class *class = &destination->classes[c];
        uint32_t n_blocks = destination->n_blocks - first_blocks[c];
        class->blocks = sl_try_zalloc(n_blocks, sizeof(*class->blocks));
        if (class->blocks == NULL)
            return sl_fail(SL_NO_MEMORY, "stream of %u blocks", n_blocks);
        for (uint32_t i = 0; i < n_blocks; i++)
            class->blocks[i].id = DESTINATION_NO_BLOCK;
        class->first_block = class->given_end = first_blocks[c];
    }
    set_credit(destination);
    destination->promised = true;
    return make_bitmaps(destination);
}

bool destination_give(struct destination *destination, const struct transfer_block *block)
{
    SL_ASSERT(block->class_index < destination->n_classes);
    struct destination_class *class = &destination->classes[block->class_index];
    if (!destination->promised || class->ring_count == TRANSFER_RING_BLOCKS_MAX ||
        class->given_end == destination->n_blocks)
        return false;
    class->ring[(class->ring_head + class->ring_count) % TRANSFER_RING_BLOCKS_MAX] = block->id;
    class->ring_count++;
    class->given_end++;
    set_credit(destination);
    return true;
}

static uint32_t take_id(struct destination_class *class)
{
    SL_ASSERT(class->ring_count > 0);
    uint32_t id = class->ring[class->ring_head];
    class->ring_head = (class->ring_head + 1) % TRANSFER_RING_BLOCKS_MAX;
    class->ring_count--;
    return id;
}

static bool bit(const uint64_t *bits, uint32_t i)
{
    return (bits[i / 64] >> (i % 64) & 1) != 0;
}

static void set_bit(uint64_t *bits, uint32_t i)
{
    bits[i / 64] |= (uint64_t)1 << (i % 64);
}

static uint32_t index_of(const struct destination *destination, uint32_t piece_number)
{
    return piece_number - destination->lowest * destination->shape.pieces_per_block;
}

static bool piece_is(const struct piece *piece, const struct frame_offer *offer)
{
    return offer->block == piece->block && offer->class_index == piece->class_index &&
           offer->first_layer == piece->first_layer && offer->n_layers == piece->n_layers &&
           offer->bytes == piece->bytes && offer->first_head == 0 && offer->n_heads == 0;
}

bool destination_offer_fits(const struct destination *destination, const struct frame_offer *offer,
                            size_t length, struct piece *piece_out)
{
    if (destination->posted == NULL || offer->block < destination->lowest ||
        offer->block >= destination->credit)
        return false;
    uint64_t number = offer->piece;
    if (number / destination->shape.pieces_per_block != offer->block)
        return false;
    shape_piece(&destination->shape, offer->piece, piece_out);
    return piece_is(piece_out, offer) && length == piece_out->bytes &&
           offer->block >= destination->classes[piece_out->class_index].first_block &&
           !bit(destination->posted, index_of(destination, offer->piece));
}

static struct destination_block *block_of(struct destination *destination,
                                          const struct piece *piece)
{
    struct destination_class *class = &destination->classes[piece->class_index];
    return &class->blocks[piece->block - class->first_block];
}

uint32_t destination_post(struct destination *destination, const struct piece *piece,
                          bool *taken_out)
{
    struct destination_block *block = block_of(destination, piece);
    *taken_out = block->id == DESTINATION_NO_BLOCK;
    if (*taken_out)
        block->id = take_id(&destination->classes[piece->class_index]);
    set_bit(destination->posted, index_of(destination, piece->number));
    block->n_posted++;
    destination->n_posted++;
    destination->n_outstanding++;
    return block->id;
}

struct destination_block *destination_landed(struct destination *destination,
                                             const struct piece *piece, bool ok, bool *complete_out)
{
    struct destination_block *block = block_of(destination, piece);
    uint32_t i = index_of(destination, piece->number);
    SL_ASSERT(block->n_posted > 0 && bit(destination->posted, i) && !bit(destination->landed, i));
    block->n_posted--;
    destination->n_outstanding--;
    if (ok) {
        set_bit(destination->landed, i);
        block->n_landed++;
        destination->n_landed++;
    }
    *complete_out = ok && block->n_landed == destination->shape.classes[piece->class_index].n_runs;
    return block;
}

/* Out of one class; *cursor counts its blocks. */
static bool class_back(struct destination_class *class, uint32_t n_blocks, uint32_t *cursor,
                       uint32_t *id_out, uint32_t *index_out)
{
    if (class->ring_count > 0) {
        *id_out = take_id(class);
        *index_out = DESTINATION_NO_BLOCK;
        return true;
    }
    while (*cursor < n_blocks) {
        struct destination_block *block = &class->blocks[*cursor];
        ++*cursor;
        if (block->id == DESTINATION_NO_BLOCK || block->n_posted > 0)
            continue;
        *id_out = block->id;
        *index_out = class->first_block + *cursor - 1;
        block->id = DESTINATION_NO_BLOCK;
        return true;
    }
    return false;
}

bool destination_back(struct destination *destination, uint32_t *cursor,
                      struct transfer_block *block_out, uint32_t *index_out)
{
    uint32_t before = 0; /* the cursor runs over the blocks of all classes */
    for (uint32_t c = 0; c < destination->n_classes; c++) {
        struct destination_class *class = &destination->classes[c];
        uint32_t n_blocks = class->blocks == NULL ? 0 : destination->n_blocks - class->first_block;
        uint32_t at = *cursor > before ? *cursor - before : 0;
        block_out->class_index = c;
        if (class_back(class, n_blocks, &at, &block_out->id, index_out)) {
            *cursor = before + at;
            return true;
        }
        before += n_blocks;
    }
    return false;
}

struct destination_facts destination_facts(const struct destination *destination)
{
    return (struct destination_facts){
        .opened = destination->opened,
        .all_posted = destination->posted != NULL && destination->n_posted == destination->n_pieces,
        .full = destination->posted != NULL && destination->n_landed == destination->n_pieces,
        .idle = destination->n_outstanding == 0,
    };
}

/* The source's state table and its record of pieces.
 *
 *            want              all sent OK, token          seal_ack
 *   OPEN ─────────► SENDING ───────────────────► SEALED ─────────────► DONE
 *     │                │                           │
 *     │ refuse, cancel, session lost, deadline, send failed (SENDING only)
 *     ▼                ▼                           ▼        last outstanding send has completed
 *   FAILING ◄──────────┴───────────────────────────┘ ─────────────────────────────────────────► ENDED
 *
 * The table is the one of docs/transfer.md section 6, cell by cell; tests/unit/transfer/test_source.c
 * holds it a second time. Two additions to the page: a stream that fails for a reason of this side
 * (a send that failed here, a deadline) sends `cancel`, so that the destination drains now and does not
 * wait for its own deadline; and a stream that lacks nothing and whose token is known when `want` comes
 * seals there.
 *
 * Pieces leave lowest block first, and within a block in the order of their numbers, so one counter
 * per (block, class) says what has been offered. `scan` is the lowest block that could have something
 * to offer: a search starts there, and whatever makes a piece final lowers it. */
#include "transfer/source.h"

#include "base/mem.h"

static const char *const state_names[SOURCE_STATE_COUNT] = {"OPEN", "SENDING", "SEALED",
                                                            "DONE", "FAILING", "ENDED"};

const char *source_state_name(enum source_state state)
{
    SL_ASSERT(state < SOURCE_STATE_COUNT);
    return state_names[state];
}

static struct source_step stay(enum source_state state, uint32_t actions)
{
    return (struct source_step){.next = state, .actions = actions};
}

/* Into FAILING, which ends at once when nothing is outstanding. */
static struct source_step fail_with(struct source_facts facts, uint32_t actions)
{
    return stay(facts.idle ? SOURCE_ENDED : SOURCE_FAILING, actions);
}

static struct source_step try_seal(struct source_facts facts, uint32_t actions)
{
    if (facts.complete)
        return stay(SOURCE_SEALED, actions | SOURCE_DO_SEAL);
    return stay(SOURCE_SENDING, actions | SOURCE_DO_OFFER);
}

/* What OPEN, SENDING and SEALED have in common: the ways to fail. */
static struct source_step next_live(enum source_state state, enum source_event event,
                                    struct source_facts facts)
{
    switch ((int)event) {
    case SOURCE_ON_PEER_REFUSE:
        return fail_with(facts, SOURCE_DO_TELL);
    case SOURCE_ON_PEER_CANCEL:
        return fail_with(facts, SOURCE_DO_TELL | (facts.idle ? SOURCE_DO_CANCELLED : 0));
    case SOURCE_ON_LOST:
        return fail_with(facts, SOURCE_DO_TELL | SOURCE_DO_CLOSE);
    case SOURCE_ON_DEADLINE:
        return fail_with(facts, SOURCE_DO_TELL | SOURCE_DO_CANCEL);
    case SOURCE_ON_CANCEL:
        return fail_with(facts, SOURCE_DO_CANCEL);
    default:
        return stay(state, SOURCE_DO_BUG);
    }
}

static struct source_step next_open(enum source_event event, struct source_facts facts)
{
    switch ((int)event) {
    case SOURCE_ON_WANT:
        return try_seal(facts, SOURCE_DO_WANTED);
    case SOURCE_ON_GRANT:
    case SOURCE_ON_SEAL_ACK:
        return stay(SOURCE_OPEN, SOURCE_DO_MISBEHAVED);
    case SOURCE_ON_FINAL:
    case SOURCE_ON_TOKEN:
        return stay(SOURCE_OPEN, 0); /* noted in the record */
    default:
        return next_live(SOURCE_OPEN, event, facts);
    }
}

static struct source_step next_sending(enum source_event event, struct source_facts facts)
{
    switch ((int)event) {
    case SOURCE_ON_WANT:
    case SOURCE_ON_SEAL_ACK:
        return stay(SOURCE_SENDING, SOURCE_DO_MISBEHAVED);
    case SOURCE_ON_GRANT:
        return stay(SOURCE_SENDING, SOURCE_DO_CREDIT | SOURCE_DO_OFFER);
    case SOURCE_ON_FINAL:
        return stay(SOURCE_SENDING, SOURCE_DO_OFFER);
    case SOURCE_ON_SENT:
    case SOURCE_ON_TOKEN:
        return try_seal(facts, 0);
    case SOURCE_ON_SEND_FAILED:
        return fail_with(facts, SOURCE_DO_TELL | SOURCE_DO_CANCEL);
    default:
        return next_live(SOURCE_SENDING, event, facts);
    }
}

static struct source_step next_sealed(enum source_event event, struct source_facts facts)
{
    switch ((int)event) {
    case SOURCE_ON_WANT:
        return stay(SOURCE_SEALED, SOURCE_DO_MISBEHAVED);
    case SOURCE_ON_GRANT:
        return stay(SOURCE_SEALED, 0);
    case SOURCE_ON_SEAL_ACK:
        return stay(SOURCE_DONE, SOURCE_DO_ACKED);
    default:
        return next_live(SOURCE_SEALED, event, facts);
    }
}

static struct source_step next_failing(enum source_event event, struct source_facts facts)
{
    switch ((int)event) {
    case SOURCE_ON_SENT:
        return facts.idle ? stay(SOURCE_ENDED, SOURCE_DO_CANCELLED) : stay(SOURCE_FAILING, 0);
    case SOURCE_ON_SEND_FAILED:
        return stay(facts.idle ? SOURCE_ENDED : SOURCE_FAILING, 0);
    case SOURCE_ON_LOST:
    case SOURCE_ON_DEADLINE:
        return stay(SOURCE_FAILING, SOURCE_DO_CLOSE); /* the callbacks end it */
    default:
        return stay(SOURCE_FAILING, 0);
    }
}

/* DONE and ENDED: nothing is outstanding, so a completion would be a lie of our own. */
static struct source_step next_over(enum source_state state, enum source_event event)
{
    switch ((int)event) {
    case SOURCE_ON_SENT:
    case SOURCE_ON_SEND_FAILED:
        return stay(state, SOURCE_DO_BUG);
    case SOURCE_ON_FINAL:
    case SOURCE_ON_TOKEN:
        return stay(state, state == SOURCE_DONE ? SOURCE_DO_BUG : 0);
    case SOURCE_ON_PEER_REFUSE:
    case SOURCE_ON_PEER_CANCEL:
        return stay(state, state == SOURCE_ENDED ? SOURCE_DO_CANCELLED : 0);
    default:
        return stay(state, 0);
    }
}

struct source_step source_next(enum source_state state, enum source_event event,
                               struct source_facts facts)
{
    switch (state) {
    case SOURCE_OPEN:
        return next_open(event, facts);
    case SOURCE_SENDING:
        return next_sending(event, facts);
    case SOURCE_SEALED:
        return next_sealed(event, facts);
    case SOURCE_FAILING:
        return next_failing(event, facts);
    case SOURCE_DONE:
    case SOURCE_ENDED:
    case SOURCE_STATE_COUNT:
        break;
    }
    return next_over(state, event);
}

/* ---- the record ---- */

sl_status source_init(struct source *source, const struct shape *shape, uint32_t n_blocks,
                      const uint32_t *first_blocks)
{
    if (n_blocks == 0 || n_blocks > TRANSFER_STREAM_BLOCKS_MAX)
        return sl_fail(SL_INVALID, "stream of %u blocks; want 1..%d", n_blocks,
                       TRANSFER_STREAM_BLOCKS_MAX);
    *source = (struct source){.state = SOURCE_OPEN, .shape = *shape, .n_blocks = n_blocks};
    for (uint32_t c = 0; c < shape->n_classes; c++) {
        if (first_blocks[c] > n_blocks)
            return sl_fail(SL_INVALID, "stream of %u blocks sends class %u from block %u on",
                           n_blocks, c, first_blocks[c]);
        source->first_block[c] = first_blocks[c];
    }
    size_t n = (size_t)n_blocks * shape->n_classes;
    source->layer_end = sl_try_zalloc(n, sizeof(*source->layer_end));
    source->next_run = sl_try_zalloc(n, sizeof(*source->next_run));
    if (source->layer_end == NULL || source->next_run == NULL) {
        source_fini(source);
        return sl_fail(SL_NO_MEMORY, "stream of %u blocks", n_blocks);
    }
    return SL_OK;
}

void source_fini(struct source *source)
{
    sl_free(source->layer_end);
    sl_free(source->next_run);
    source->layer_end = NULL;
    source->next_run = NULL;
}

void source_final(struct source *source, uint32_t first, uint32_t end, const uint32_t *layer_ends)
{
    const uint32_t n_classes = source->shape.n_classes;
    if (end > source->n_blocks)
        end = source->n_blocks;
    for (uint32_t block = first; block < end; block++) {
        for (uint32_t c = 0; c < n_classes; c++) {
            uint16_t *at = &source->layer_end[(size_t)block * n_classes + c];
            uint32_t layer_end = layer_ends[c] < UINT16_MAX ? layer_ends[c] : UINT16_MAX;
            if (*at < layer_end)
                *at = (uint16_t)layer_end;
        }
    }
    if (first < end && first < source->scan)
        source->scan = first;
    if (first < end && end > source->ready_end)
        source->ready_end = end;
}

bool source_want(struct source *source, const uint32_t *first_blocks, uint32_t credit)
{
    const struct shape *shape = &source->shape;
    uint32_t lowest = source->n_blocks, n_pieces = 0;
    for (uint32_t c = 0; c < TRANSFER_CLASSES_MAX; c++) {
        if (c >= shape->n_classes && first_blocks[c] != 0)
            return false;
        if (c >= shape->n_classes)
            continue;
        if (first_blocks[c] < source->first_block[c] || first_blocks[c] > source->n_blocks)
            return false;
        if (first_blocks[c] < lowest)
            lowest = first_blocks[c];
        n_pieces += (source->n_blocks - first_blocks[c]) * shape->classes[c].n_runs;
    }
    if (credit < lowest || credit > source->n_blocks)
        return false;
    for (uint32_t c = 0; c < shape->n_classes; c++)
        source->first_block[c] = first_blocks[c];
    source->credit = credit;
    source->scan = lowest;
    source->n_pieces = n_pieces;
    source->wanted = true;
    return true;
}

bool source_grant(struct source *source, uint32_t credit)
{
    if (credit > source->n_blocks)
        return false;
    if (credit > source->credit)
        source->credit = credit;
    return true;
}

/* The first run of a block that is final and was not offered. */
static bool next_in_block(const struct source *source, uint32_t block, struct piece *piece_out)
{
    const struct shape *shape = &source->shape;
    for (uint32_t c = 0; c < shape->n_classes; c++) {
        size_t at = (size_t)block * shape->n_classes + c;
        uint32_t run = source->next_run[at];
        if (block < source->first_block[c] || run == shape->classes[c].n_runs)
            continue;
        shape_run(shape, block, c, run, piece_out);
        if (piece_out->first_layer + piece_out->n_layers <= source->layer_end[at])
            return true;
    }
    return false;
}

static bool find(struct source *source, struct piece *piece_out)
{
    if (!source->wanted)
        return false;
    uint32_t end = source->credit < source->ready_end ? source->credit : source->ready_end;
    uint32_t block = source->scan;
    for (; block < end; block++) {
        if (next_in_block(source, block, piece_out))
            break;
    }
    source->scan = block;
    return block < end;
}

bool source_can_offer(struct source *source)
{
    struct piece piece;
    return find(source, &piece);
}

bool source_take(struct source *source, struct piece *piece_out)
{
    if (!find(source, piece_out))
        return false;
    source->next_run[(size_t)piece_out->block * source->shape.n_classes + piece_out->class_index]++;
    source->n_outstanding++;
    return true;
}

bool source_lacks_credit(const struct source *source)
{
    struct piece piece;
    return source->wanted && source->credit < source->ready_end &&
           next_in_block(source, source->credit, &piece);
}

void source_sent(struct source *source, bool ok)
{
    SL_ASSERT(source->n_outstanding > 0);
    source->n_outstanding--;
    source->n_sent += ok;
}

struct source_facts source_facts(const struct source *source)
{
    return (struct source_facts){
        .complete = source->wanted && source->token_known && source->n_sent == source->n_pieces,
        .idle = source->n_outstanding == 0,
    };
}

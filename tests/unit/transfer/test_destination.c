/* The destination's table, each cell of docs/transfer.md section 7 written out a second time, and its
 * record of blocks and pieces: what fits, what is taken, what comes back. */
#include "transfer/destination.h"

#include "base/fault.h"
#include "support/support.h"

static const char states[] =
    "NPQLHRDF"; /* NONE PARKED QUEUED LANDING HELD RUNNING DRAINING FREED */
static const char actions[] = "owgprsaxdtbkMf!";

struct row {
    enum destination_event event;
    const char *cells[DESTINATION_STATE_COUNT];
};

/* Opened, receives posted, neither all posted nor all landed. */
static const struct row table[] = {
    {DESTINATION_ON_SUBMIT, {"Q", "Q", "QM", "LM", "HM", "RM", "DM", "Ft"}},
    {DESTINATION_ON_SUBMIT_BAD, {"N", "Frt", "QM", "LM", "HM", "RM", "DM", "Ft"}},
    {DESTINATION_ON_OPEN, {"Po", "PM", "Qo", "LM", "HM", "RM", "Dr", "Fr"}},
    {DESTINATION_ON_OPEN_BAD, {"Nr", "PrM", "Frt", "Drtb", "HrM", "RrM", "Dr", "Fr"}},
    {DESTINATION_ON_PROMISE, {"Nb", "P!", "Lw", "L!", "H!", "R!", "Db", "Fb"}},
    {DESTINATION_ON_REFILL, {"Nb", "P!", "Q!", "Lg", "Hb", "Rb", "Db", "Fb"}},
    {DESTINATION_ON_OFFER, {"Nr", "Pr", "Qr", "Lp", "HrM", "RrM", "Dr", "Fr"}},
    {DESTINATION_ON_OFFER_BAD, {"NrM", "PrM", "QrM", "DrMtb", "HrM", "RrM", "DrM", "FrM"}},
    {DESTINATION_ON_LANDED, {"N!", "P!", "Q!", "L", "H", "R!", "Db", "F!"}},
    {DESTINATION_ON_RECEIVE_FAILED, {"N!", "P!", "Q!", "Dxtb", "Dxtb", "R!", "Db", "F!"}},
    {DESTINATION_ON_SEAL, {"Nr", "Pr", "Qr", "DrMtb", "HM", "Ra", "Dr", "Fr"}},
    {DESTINATION_ON_PEER_CANCEL, {"Nd", "Fd", "Fdt", "Ddtb", "Ddtb", "R", "Dd", "Fd"}},
    {DESTINATION_ON_CANCEL, {"N", "Fr", "Fx", "Dxb", "Dxb", "F", "D", "F"}},
    {DESTINATION_ON_LOST, {"N", "F", "Ft", "Dktb", "Dktb", "R", "Dk", "F"}},
    {DESTINATION_ON_DEADLINE, {"N", "Fr", "Frt", "Dxtb", "Dxtb", "Ff", "Dk", "Ff"}},
};

/* No receive is posted (any more): DRAINING ends at once. */
static const struct row table_idle[] = {
    {DESTINATION_ON_OFFER_BAD, {"NrM", "PrM", "QrM", "FrMtb", "HrM", "RrM", "DrM", "FrM"}},
    {DESTINATION_ON_LANDED, {"N!", "P!", "Q!", "L", "H", "R!", "Fb", "F!"}},
    {DESTINATION_ON_RECEIVE_FAILED, {"N!", "P!", "Q!", "Fxtb", "Fxtb", "R!", "Fb", "F!"}},
    {DESTINATION_ON_PEER_CANCEL, {"Nd", "Fd", "Fdt", "Fdtb", "Fdtb", "R", "Dd", "Fd"}},
    {DESTINATION_ON_CANCEL, {"N", "Fr", "Fx", "Fxb", "Fxb", "F", "D", "F"}},
    {DESTINATION_ON_LOST, {"N", "F", "Ft", "Fktb", "Fktb", "R", "Dk", "F"}},
    {DESTINATION_ON_DEADLINE, {"N", "Fr", "Frt", "Fxtb", "Fxtb", "Ff", "Dk", "Ff"}},
};

/* All posted, the last one still on its way. */
static const struct row table_posted[] = {
    {DESTINATION_ON_SEAL, {"Nr", "Pr", "Qr", "H", "HM", "Ra", "Dr", "Fr"}},
    {DESTINATION_ON_LANDED, {"N!", "P!", "Q!", "L", "H", "R!", "Db", "F!"}},
};

/* All landed. */
static const struct row table_full[] = {
    {DESTINATION_ON_SEAL, {"Nr", "Pr", "Qr", "Rsa", "HM", "Ra", "Dr", "Fr"}},
    {DESTINATION_ON_LANDED, {"N!", "P!", "Q!", "L", "Rsa", "R!", "Fb", "F!"}},
};

/* Not opened yet. */
static const struct row table_unopened[] = {
    {DESTINATION_ON_OPEN, {"Po", "PM", "Qo", "Low", "HM", "RM", "Dr", "Fr"}},
    {DESTINATION_ON_PROMISE, {"Nb", "P!", "L", "L!", "H!", "R!", "Db", "Fb"}},
    {DESTINATION_ON_REFILL, {"Nb", "P!", "Q!", "L", "Hb", "Rb", "Db", "Fb"}},
    {DESTINATION_ON_CANCEL, {"N", "Fr", "F", "Fxb", "Fxb", "F", "D", "F"}},
    {DESTINATION_ON_LOST, {"N", "F", "Q", "Fktb", "Fktb", "R", "Dk", "F"}},
    {DESTINATION_ON_DEADLINE, {"N", "Fr", "Ft", "Fxtb", "Fxtb", "Ff", "Dk", "Ff"}},
};

/* Cancelled for a reason that is said as a refusal; and a seal repeated to a stream that ran. */
static const struct row table_refusing[] = {
    {DESTINATION_ON_CANCEL, {"N", "Fr", "Fr", "Fxb", "Fxb", "F", "D", "F"}},
    {DESTINATION_ON_SEAL, {"Nr", "Pr", "Qr", "FrMtb", "HM", "Ra", "Dr", "Fa"}},
};

static void check(const char *name, const struct row *rows, size_t n,
                  struct destination_facts facts)
{
    for (size_t i = 0; i < n; i++) {
        for (uint32_t s = 0; s < DESTINATION_STATE_COUNT; s++) {
            const char *cell = rows[i].cells[s];
            struct destination_step step =
                destination_next((enum destination_state)s, rows[i].event, facts);
            uint32_t wanted = 0;
            for (const char *c = cell + 1; *c != '\0'; c++)
                wanted |= 1u << (strchr(actions, *c) - actions);
            if (states[step.next] != cell[0] || step.actions != wanted)
                fail_msg("%s: event %u in %s: %c 0x%x, want %s", name, rows[i].event,
                         destination_state_name((enum destination_state)s), states[step.next],
                         step.actions, cell);
        }
    }
}

#define ROWS(table) (table), sizeof(table) / sizeof((table)[0])

static void test_table(void **state)
{
    (void)state;
    assert_int_equal(sizeof(table) / sizeof(table[0]), DESTINATION_EVENT_COUNT);
    struct destination_facts facts = {.opened = true};
    check("table", ROWS(table), facts);
    facts.idle = true;
    check("idle", ROWS(table_idle), facts);
    facts.all_posted = true;
    facts.idle = false;
    check("posted", ROWS(table_posted), facts);
    facts.full = facts.idle = true;
    check("full", ROWS(table_full), facts);
    facts = (struct destination_facts){.opened = false, .idle = true};
    check("unopened", ROWS(table_unopened), facts);
    facts =
        (struct destination_facts){.opened = true, .idle = true, .refusing = true, .sealed = true};
    check("refusing", ROWS(table_refusing), facts);
}

/* I1: a receive is posted in LANDING and nowhere else. I2: only a full stream is sealed. */
static void test_post_and_seal(void **state)
{
    (void)state;
    for (uint32_t s = 0; s < DESTINATION_STATE_COUNT; s++) {
        for (uint32_t event = 0; event < DESTINATION_EVENT_COUNT; event++) {
            for (uint32_t bits = 0; bits < 64; bits++) {
                struct destination_facts facts = {.opened = (bits & 1) != 0,
                                                  .all_posted = (bits & 2) != 0,
                                                  .full = (bits & 6) == 6,
                                                  .idle = (bits & 8) != 0,
                                                  .sealed = (bits & 16) != 0,
                                                  .refusing = (bits & 32) != 0};
                struct destination_step step = destination_next(
                    (enum destination_state)s, (enum destination_event)event, facts);
                if (step.actions & DESTINATION_DO_POST)
                    assert_int_equal(s, DESTINATION_LANDING);
                if (step.next == DESTINATION_RUNNING && s != DESTINATION_RUNNING)
                    assert_true(facts.full && (step.actions & DESTINATION_DO_SEALED));
                if (step.actions & DESTINATION_DO_SEALED)
                    assert_int_equal(step.next, DESTINATION_RUNNING);
            }
        }
    }
}

static const uint32_t all[TRANSFER_CLASSES_MAX]; /* sent from the first block on */

static struct shape two_layers(void)
{
    struct transfer_class class = {.n_layers = 4, .layer_bytes = 64, .n_blocks = 100};
    struct shape shape;
    assert_ok(shape_init(&shape, &class, 1, 2));
    return shape;
}

static struct frame_offer offer_of(const struct shape *shape, uint32_t number)
{
    struct piece piece;
    shape_piece(shape, number, &piece);
    return (struct frame_offer){.class_index = (uint16_t)piece.class_index,
                                .first_layer = (uint16_t)piece.first_layer,
                                .n_layers = (uint16_t)piece.n_layers,
                                .block = piece.block,
                                .piece = number,
                                .bytes = (uint32_t)piece.bytes};
}

static void test_offers(void **state)
{
    (void)state;
    struct shape shape = two_layers();
    struct destination destination;
    struct piece piece;
    destination_init(&destination, 5, 300, 1, all);
    struct frame_offer offer = offer_of(&shape, 2);
    assert_false(destination_offer_fits(&destination, &offer, 128, &piece)); /* nothing promised */
    assert_ok(destination_promise(&destination, &(uint32_t){1}));
    assert_false(destination_offer_fits(&destination, &offer, 128, &piece)); /* not opened */
    assert_ok(destination_open(&destination, &shape));
    assert_false(destination_offer_fits(&destination, &offer, 128, &piece)); /* no credit */
    assert_true(destination_give(&destination, &(struct transfer_block){0, 70}));
    assert_int_equal(destination.credit, 2);
    assert_true(destination_offer_fits(&destination, &offer, 128, &piece));
    assert_false(destination_offer_fits(&destination, &offer, 127, &piece));
    assert_false(destination_offer_fits(&destination, &offer, 129, &piece));
    assert_false(destination_offer_fits(&destination, &offer, 0, &piece));
    struct frame_offer other = offer_of(&shape, 1); /* a block that is not lacking */
    assert_false(destination_offer_fits(&destination, &other, 128, &piece));
    other = offer_of(&shape, 4); /* beyond the credit */
    assert_false(destination_offer_fits(&destination, &other, 128, &piece));
#define BAD(field, value)                                                                          \
    other = offer;                                                                                 \
    other.field = (value);                                                                         \
    assert_false(destination_offer_fits(&destination, &other, 128, &piece))
    BAD(class_index, 1);
    BAD(first_layer, 1);
    BAD(n_layers, 1);
    BAD(first_head, 1);
    BAD(n_heads, 1);
    BAD(block, 2);
    BAD(block, UINT32_MAX);
    BAD(piece, 3);
    BAD(piece, UINT32_MAX);
    BAD(bytes, 64);
    bool taken;
    assert_true(destination_offer_fits(&destination, &offer, 128, &piece));
    assert_int_equal(destination_post(&destination, &piece, &taken), 70);
    assert_true(taken);
    assert_false(destination_offer_fits(&destination, &offer, 128, &piece)); /* duplicate */
    offer = offer_of(&shape, 3);
    assert_true(destination_offer_fits(&destination, &offer, 128, &piece));
    assert_int_equal(destination_post(&destination, &piece, &taken), 70);
    assert_false(taken);
    bool complete;
    assert_non_null(destination_landed(&destination, &piece, true, &complete));
    assert_false(complete);
    uint32_t cursor = 0, index;
    struct transfer_block block;
    assert_false(destination_back(&destination, &cursor, &block, &index)); /* piece 2 is posted */
    shape_piece(&shape, 2, &piece);
    assert_non_null(destination_landed(&destination, &piece, true, &complete));
    assert_true(complete);
    cursor = 0;
    assert_true(destination_back(&destination, &cursor, &block, &index));
    assert_int_equal(block.id, 70);
    assert_int_equal(index, 1);
    assert_false(destination_back(&destination, &cursor, &block, &index));
    destination_fini(&destination);
}

static void test_ring(void **state)
{
    (void)state;
    struct shape shape = two_layers();
    struct destination destination;
    destination_init(&destination, 50, 50 * 64, 1, all);
    assert_false(destination_give(&destination, &(struct transfer_block){0, 1}));
    assert_fails(destination_promise(&destination, &(uint32_t){51}), SL_INVALID, "from block 51");
    assert_ok(destination_promise(&destination, &(uint32_t){10}));
    assert_fails(destination_promise(&destination, &(uint32_t){10}), SL_INVALID, "second time");
    assert_ok(destination_open(&destination, &shape));
    for (uint32_t i = 0; i < TRANSFER_RING_BLOCKS_MAX; i++)
        assert_true(destination_give(&destination, &(struct transfer_block){0, 100 + i}));
    assert_false(
        destination_give(&destination, &(struct transfer_block){0, 999})); /* the ring is full */
    struct piece piece;
    bool taken;
    struct frame_offer offer = offer_of(&shape, 20);
    assert_true(destination_offer_fits(&destination, &offer, 128, &piece));
    assert_int_equal(destination_post(&destination, &piece, &taken), 100);
    for (uint32_t i = 0; i < 40 - TRANSFER_RING_BLOCKS_MAX; i++) {
        offer = offer_of(&shape, 22 + 2 * i);
        assert_true(destination_give(&destination, &(struct transfer_block){0, 200 + i}));
        assert_true(destination_offer_fits(&destination, &offer, 128, &piece));
        assert_int_equal(destination_post(&destination, &piece, &taken), 101 + i);
    }
    assert_int_equal(destination.credit, 50);
    assert_false(destination_give(&destination,
                                  &(struct transfer_block){0, 999})); /* nothing more is lacking */
    destination_fini(&destination);
}

/* When a stream is cut off, every id comes back: those that wait, those that a receive has left, and the
 * last ones when their receives are over. */
static void test_ids_come_back(void **state)
{
    (void)state;
    struct shape shape = two_layers();
    struct destination destination;
    destination_init(&destination, 5, 300, 1, all);
    assert_ok(destination_promise(&destination, &(uint32_t){0}));
    assert_ok(destination_open(&destination, &shape));
    for (uint32_t i = 0; i < 5; i++)
        assert_true(destination_give(&destination, &(struct transfer_block){0, 70 + i}));
    assert_true(destination_facts(&destination).idle);
    struct piece pieces[2];
    for (uint32_t i = 0; i < 2; i++) { /* one of block 2, one of block 4: 0, 1 and 3 have no id */
        struct frame_offer offer = offer_of(&shape, 4 * (i + 1));
        bool taken;
        assert_true(destination_offer_fits(&destination, &offer, 128, &pieces[i]));
        assert_int_equal(destination_post(&destination, &pieces[i], &taken), 70 + i);
        assert_true(taken);
        assert_int_equal(destination.n_outstanding, i + 1);
        assert_false(destination_facts(&destination).idle);
    }
    bool complete;
    destination_landed(&destination, &pieces[1], false, &complete); /* it failed */
    assert_false(complete);
    assert_int_equal(destination.n_landed, 0);
    uint32_t cursor = 0, index;
    struct transfer_block block;
    for (uint32_t i = 0; i < 3; i++) {
        assert_true(destination_back(&destination, &cursor, &block, &index));
        assert_int_equal(block.id, 72 + i);
        assert_int_equal(block.class_index, 0);
        assert_int_equal(index, DESTINATION_NO_BLOCK);
    }
    assert_true(destination_back(&destination, &cursor, &block, &index));
    assert_int_equal(block.id, 71);
    assert_int_equal(index, 4);
    assert_false(
        destination_back(&destination, &cursor, &block, &index)); /* 70 may be written to */
    destination_landed(&destination, &pieces[0], true, &complete);
    assert_true(destination_facts(&destination).idle);
    cursor = 0;
    assert_true(destination_back(&destination, &cursor, &block, &index));
    assert_int_equal(block.id, 70);
    assert_int_equal(index, 2);
    assert_false(destination_back(&destination, &cursor, &block, &index)); /* each one once */
    destination_fini(&destination);
}

static void test_open_fits(void **state)
{
    (void)state;
    struct shape shape = two_layers(), cut;
    struct frame_open open = {
        .n_blocks = 5, .n_tokens = 300, .n_classes = 1, .n_lanes = 1, .layers_per_piece = 3};
    assert_true(destination_open_fits(&shape, &open, 64, &cut));
    assert_int_equal(cut.pieces_per_block, 2);
#define BAD_OPEN(field, value)                                                                     \
    do {                                                                                           \
        struct frame_open bad = open;                                                              \
        bad.field = (value);                                                                       \
        assert_false(destination_open_fits(&shape, &bad, 64, &cut));                               \
    } while (0)
    BAD_OPEN(n_blocks, 0);
    BAD_OPEN(n_blocks, 4);
    BAD_OPEN(n_blocks, 6);
    BAD_OPEN(n_blocks, TRANSFER_STREAM_BLOCKS_MAX + 1);
    BAD_OPEN(n_tokens, 0);
    BAD_OPEN(n_tokens, 321);
    BAD_OPEN(n_tokens, UINT32_MAX);
    BAD_OPEN(n_classes, 0);
    BAD_OPEN(n_classes, 2);
    BAD_OPEN(n_lanes, 0);
    BAD_OPEN(n_lanes, 2);
    BAD_OPEN(layers_per_piece, 0);
    BAD_OPEN(layers_per_piece, 5);
    BAD_OPEN(heads_per_piece, 1);
    BAD_OPEN(first_block[0], 6);
    BAD_OPEN(first_block[1], 1); /* of a class that is none */
    static const uint32_t fits[][2] = {{257, 5}, {320, 5}, {64, 1}, {1, 1}}; /* tokens, blocks */
    for (size_t i = 0; i < sizeof(fits) / sizeof(fits[0]); i++) {
        open.n_tokens = fits[i][0];
        open.n_blocks = fits[i][1];
        assert_true(destination_open_fits(&shape, &open, 64, &cut));
    }
    open.n_tokens = TRANSFER_STREAM_BLOCKS_MAX * 64u;
    open.n_blocks = TRANSFER_STREAM_BLOCKS_MAX;
    assert_true(destination_open_fits(&shape, &open, 64, &cut));
    open.n_tokens = 300;
    open.n_blocks = 5;
    BAD_OPEN(n_tokens, 256);
    open.first_block[0] = 5; /* its window has passed everything */
    assert_true(destination_open_fits(&shape, &open, 64, &cut));
}

/* Each allocation may fail: a status, and destination_fini takes what is left. */
static void test_no_memory(void **state)
{
    (void)state;
    struct shape shape = two_layers();
    uint32_t n_failed = 0;
    for (uint64_t nth = 1;; nth++) {
        struct destination destination;
        destination_init(&destination, 5, 300, 1, all);
        sl_fault_torture(nth);
        sl_status status = destination_promise(&destination, &(uint32_t){1});
        if (status == SL_OK)
            status = destination_open(&destination, &shape);
        bool fired = sl_fault_fired();
        sl_fault_torture(0);
        assert_int_equal(status, fired ? SL_NO_MEMORY : SL_OK);
        destination_fini(&destination);
        if (!fired)
            break;
        n_failed++;
    }
    assert_int_equal(n_failed, 3); /* the blocks, and two bitmaps */
}

/* Two classes, of which the second sends from block 3 on: a block's credit waits for both ids, offers of
 * what a class does not send are refused, and the stream is full without it. */
static void test_classes(void **state)
{
    (void)state;
    struct transfer_class classes[2] = {{.n_layers = 4, .layer_bytes = 64, .n_blocks = 100},
                                        {.n_layers = 2, .layer_bytes = 32, .n_blocks = 100}};
    struct shape shape;
    assert_ok(shape_init(&shape, classes, 2, 2)); /* pieces of a block: two, and one */
    static const uint32_t sent_from[2] = {0, 3}, too_early[2] = {1, 2}, lacking[2] = {1, 3};
    struct destination destination;
    destination_init(&destination, 5, 300, 2, sent_from);
    assert_fails(destination_promise(&destination, too_early), SL_INVALID,
                 "block 2 of class 1; want 3..5");
    assert_ok(destination_promise(&destination, lacking));
    assert_ok(destination_open(&destination, &shape));
    assert_int_equal(destination.n_pieces, 4 * 2 + 2);
    static const uint32_t credits[] = {2, 3, 3, 4, 4, 5}; /* after each id */
    static const uint32_t class_of[] = {0, 0, 0, 1, 0, 1};
    assert_int_equal(destination.credit, 1);
    for (uint32_t i = 0; i < 6; i++) {
        const struct transfer_block block = {class_of[i], 50 + i};
        assert_true(destination_give(&destination, &block));
        assert_int_equal(destination.credit, credits[i]);
    }
    assert_false(destination_give(&destination, &(struct transfer_block){1, 99}));
    struct piece piece;
    uint32_t n = 0;
    for (uint32_t number = 0; number < 15; number++) {
        struct frame_offer offer = offer_of(&shape, number);
        uint32_t block = number / 3, c = number % 3 == 2;
        size_t bytes = c == 1 ? 64 : 128;
        bool fits = block >= lacking[c];
        assert_int_equal(destination_offer_fits(&destination, &offer, bytes, &piece), fits);
        if (!fits)
            continue;
        bool taken, complete;
        uint32_t id = destination_post(&destination, &piece, &taken);
        assert_int_equal(taken, number % 3 != 1);
        assert_int_equal(id, c == 1 ? block == 3 ? 53 : 55 : block < 4 ? 49 + block : 54);
        assert_non_null(destination_landed(&destination, &piece, true, &complete));
        assert_int_equal(complete, number % 3 != 0);
        assert_int_equal(destination_facts(&destination).full, ++n == 10);
    }
    uint32_t cursor = 0, index, n_back[2] = {0, 0};
    struct transfer_block block;
    while (destination_back(&destination, &cursor, &block, &index)) {
        assert_int_equal(index, lacking[block.class_index] + n_back[block.class_index]++);
        assert_true(block.class_index == 1 ? block.id == 53 || block.id == 55 : block.id != 53);
    }
    assert_true(n_back[0] == 4 && n_back[1] == 2);
    destination_fini(&destination);
}

/* A stream that lacks nothing is full as soon as it is opened and promised, in either order. */
static void test_empty(void **state)
{
    (void)state;
    struct shape shape = two_layers();
    for (uint32_t order = 0; order < 2; order++) {
        struct destination destination;
        destination_init(&destination, 5, 300, 1, all);
        if (order == 0)
            assert_ok(destination_open(&destination, &shape));
        assert_false(destination_facts(&destination).full);
        assert_false(destination_facts(&destination).all_posted);
        assert_ok(destination_promise(&destination, &(uint32_t){5}));
        if (order == 1)
            assert_ok(destination_open(&destination, &shape));
        assert_true(destination_facts(&destination).full);
        assert_true(destination_facts(&destination).all_posted);
        destination_fini(&destination);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),         cmocka_unit_test(test_post_and_seal),
        cmocka_unit_test(test_offers),        cmocka_unit_test(test_ring),
        cmocka_unit_test(test_open_fits),     cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_ids_come_back), cmocka_unit_test(test_empty),
        cmocka_unit_test(test_classes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The source's table, each cell of docs/transfer.md section 6 written out a second time, and its record
 * of pieces against a naive model. */
#include "transfer/source.h"

#include "support/support.h"

/* Next state, then actions, in the letters below. */
static const char states[] = "OSEDFN"; /* OPEN SENDING sEaled DONE FAILING eNded */
static const char actions[] = "wcosaxdtkM!";

struct row {
    enum source_event event;
    const char *cells[SOURCE_STATE_COUNT];
};

/* Sends outstanding, stream not complete. */
static const struct row table[] = {
    {SOURCE_ON_WANT, {"Swo", "SM", "EM", "D", "F", "N"}},
    {SOURCE_ON_GRANT, {"OM", "Sco", "E", "D", "F", "N"}},
    {SOURCE_ON_FINAL, {"O", "So", "E!", "D!", "F", "N"}},
    {SOURCE_ON_SENT, {"O!", "So", "E!", "D!", "F", "N!"}},
    {SOURCE_ON_TOKEN, {"O", "So", "E!", "D!", "F", "N"}},
    {SOURCE_ON_SEND_FAILED, {"O!", "Fxt", "E!", "D!", "F", "N!"}},
    {SOURCE_ON_SEAL_ACK, {"OM", "SM", "Da", "D", "F", "N"}},
    {SOURCE_ON_PEER_REFUSE, {"Ft", "Ft", "Ft", "D", "F", "Nd"}},
    {SOURCE_ON_PEER_CANCEL, {"Ft", "Ft", "Ft", "D", "F", "Nd"}},
    {SOURCE_ON_LOST, {"Ftk", "Ftk", "Ftk", "D", "Fk", "N"}},
    {SOURCE_ON_DEADLINE, {"Fxt", "Fxt", "Fxt", "D", "Fk", "N"}},
    {SOURCE_ON_CANCEL, {"Fx", "Fx", "Fx", "D", "F", "N"}},
};

/* What is different when nothing is outstanding (any more): FAILING ends at once. */
static const struct row table_idle[] = {
    {SOURCE_ON_WANT, {"Swo", "SM", "EM", "D", "F", "N"}},
    {SOURCE_ON_SENT, {"O!", "So", "E!", "D!", "Nd", "N!"}},
    {SOURCE_ON_SEND_FAILED, {"O!", "Nxt", "E!", "D!", "N", "N!"}},
    {SOURCE_ON_PEER_REFUSE, {"Nt", "Nt", "Nt", "D", "F", "Nd"}},
    {SOURCE_ON_PEER_CANCEL, {"Ndt", "Ndt", "Ndt", "D", "F", "Nd"}},
    {SOURCE_ON_LOST, {"Ntk", "Ntk", "Ntk", "D", "Fk", "N"}},
    {SOURCE_ON_DEADLINE, {"Nxt", "Nxt", "Nxt", "D", "Fk", "N"}},
    {SOURCE_ON_CANCEL, {"Nx", "Nx", "Nx", "D", "F", "N"}},
};

/* Everything sent and the token sampled. */
static const struct row table_complete[] = {
    {SOURCE_ON_WANT, {"Ews", "SM", "EM", "D", "F", "N"}}, /* lacks nothing */
    {SOURCE_ON_SENT, {"O!", "Es", "E!", "D!", "Nd", "N!"}},
    {SOURCE_ON_TOKEN, {"O", "Es", "E!", "D!", "F", "N"}},
};

static void check(const struct row *rows, size_t n, struct source_facts facts)
{
    for (size_t i = 0; i < n; i++) {
        for (uint32_t s = 0; s < SOURCE_STATE_COUNT; s++) {
            const char *cell = rows[i].cells[s];
            struct source_step step = source_next((enum source_state)s, rows[i].event, facts);
            uint32_t wanted = 0;
            for (const char *c = cell + 1; *c != '\0'; c++)
                wanted |= 1u << (strchr(actions, *c) - actions);
            if (states[step.next] != cell[0] || step.actions != wanted)
                fail_msg("event %u in %s: %c 0x%x, want %s", rows[i].event,
                         source_state_name((enum source_state)s), states[step.next], step.actions,
                         cell);
        }
    }
}

static void test_table(void **state)
{
    (void)state;
    assert_int_equal(sizeof(table) / sizeof(table[0]), SOURCE_EVENT_COUNT);
    check(table, SOURCE_EVENT_COUNT, (struct source_facts){.idle = false});
    check(table_idle, sizeof(table_idle) / sizeof(table_idle[0]),
          (struct source_facts){.idle = true});
    check(table_complete, sizeof(table_complete) / sizeof(table_complete[0]),
          (struct source_facts){.idle = true, .complete = true});
}

/* I5: no sequence of events leads from a failed send to a seal. */
static void test_failed_is_never_sealed(void **state)
{
    (void)state;
    for (enum source_state s = SOURCE_FAILING; s <= SOURCE_ENDED; s++) {
        for (enum source_event event = 0; event < SOURCE_EVENT_COUNT; event++) {
            for (uint32_t facts = 0; facts < 4; facts++) {
                struct source_step step = source_next(
                    s, event,
                    (struct source_facts){.complete = (facts & 1) != 0, .idle = facts > 1});
                assert_true(step.next == SOURCE_FAILING || step.next == SOURCE_ENDED);
                assert_true((step.actions & (SOURCE_DO_SEAL | SOURCE_DO_OFFER)) == 0);
            }
        }
    }
}

static struct shape make_shape(uint32_t n_classes, uint32_t layers_per_piece)
{
    struct transfer_class classes[2] = {{.n_layers = 5, .layer_bytes = 100, .n_blocks = 8},
                                        {.n_layers = 3, .layer_bytes = 40, .n_blocks = 8}};
    struct shape shape;
    assert_ok(shape_init(&shape, classes, n_classes, layers_per_piece));
    return shape;
}

static void test_shape(void **state)
{
    (void)state;
    struct shape shape = make_shape(2, 2);
    assert_int_equal(shape.pieces_per_block, 3 + 2);
    assert_int_equal(shape_block_bytes(&shape), 5 * 100 + 3 * 40);
    size_t bytes = 0;
    for (uint32_t number = 5; number < 10; number++) {
        struct piece piece;
        shape_piece(&shape, number, &piece);
        assert_int_equal(piece.number, number);
        assert_int_equal(piece.block, 1);
        assert_int_equal(piece.class_index, number < 8 ? 0 : 1);
        assert_int_equal(piece.offset, piece.first_layer * (number < 8 ? 100u : 40u));
        bytes += piece.bytes;
    }
    assert_int_equal(bytes, shape_block_bytes(&shape));
    struct shape all = make_shape(2, 0), other;
    assert_int_equal(all.pieces_per_block, 2);
    assert_true(shape_hash(&all) ==
                shape_hash(&shape)); /* the cut is the stream's, not the class's */
    assert_true(shape_recut(&shape, 5, &other));
    assert_int_equal(other.pieces_per_block, 2);
    assert_false(shape_recut(&shape, 0, &other));
    assert_false(shape_recut(&shape, 6, &other));
    struct transfer_class bad = {.n_layers = 0, .layer_bytes = 1};
    assert_fails(shape_init(&shape, &bad, 1, 1), SL_INVALID, "0 layers");
    bad = (struct transfer_class){.n_layers = 4, .layer_bytes = (size_t)1 << 31};
    assert_fails(shape_init(&shape, &bad, 1, 2), SL_INVALID, "2^31");
    assert_fails(shape_init(&shape, &bad, 0, 2), SL_INVALID, "0 KV classes");
}

#define BLOCKS 7
/* A naive model: which layers are final, which pieces were taken. */
struct model {
    uint32_t final[BLOCKS][2], credit, first[TRANSFER_CLASSES_MAX];
    bool taken[BLOCKS * 8];
};

static bool model_next(const struct model *model, const struct shape *shape, uint32_t *number_out)
{
    for (uint32_t number = 0; number < BLOCKS * shape->pieces_per_block; number++) {
        struct piece piece;
        shape_piece(shape, number, &piece);
        bool final =
            piece.first_layer + piece.n_layers <= model->final[piece.block][piece.class_index];
        bool allowed =
            piece.block >= model->first[piece.class_index] && piece.block < model->credit;
        if (!model->taken[number] && final && allowed) {
            *number_out = number;
            return true;
        }
    }
    return false;
}

static void run_model(uint64_t seed)
{
    struct shape shape = make_shape(1 + (uint32_t)(seed % 2), (uint32_t)(seed % 4));
    struct source source;
    struct model model = {0};
    uint32_t sent_from[2], n_pieces = 0;
    model.credit = BLOCKS;
    for (uint32_t c = 0; c < shape.n_classes; c++) {
        sent_from[c] = (uint32_t)(test_random(&seed) % (BLOCKS + 1));
        model.first[c] =
            sent_from[c] + (uint32_t)(test_random(&seed) % (BLOCKS + 1 - sent_from[c]));
        model.credit = model.first[c] < model.credit ? model.first[c] : model.credit;
        n_pieces += (BLOCKS - model.first[c]) * shape.classes[c].n_runs;
    }
    assert_ok(source_init(&source, &shape, BLOCKS, sent_from));
    bool wanted = false;
    for (uint32_t step = 0; step < 400; step++) {
        uint64_t dice = test_random(&seed) % 4;
        if (dice == 0 && !wanted) {
            wanted = source_want(&source, model.first, model.credit);
            assert_true(wanted);
        } else if (dice == 1 && wanted && model.credit < BLOCKS) {
            model.credit++;
            assert_true(source_grant(&source, model.credit));
        } else if (dice == 2) {
            uint32_t a = (uint32_t)(test_random(&seed) % BLOCKS);
            uint32_t b = a + (uint32_t)(test_random(&seed) % (BLOCKS + 2 - a));
            uint32_t layers[2] = {(uint32_t)(test_random(&seed) % 7),
                                  (uint32_t)(test_random(&seed) % 5)};
            source_final(&source, a, b, layers);
            for (uint32_t i = a; i < b && i < BLOCKS; i++)
                for (uint32_t c = 0; c < 2; c++)
                    model.final[i][c] =
                        model.final[i][c] < layers[c] ? layers[c] : model.final[i][c];
        } else if (dice == 3) {
            uint32_t number;
            struct piece piece;
            bool is = wanted && model_next(&model, &shape, &number);
            assert_int_equal(source_can_offer(&source), is);
            assert_int_equal(source_take(&source, &piece), is);
            if (!is)
                continue;
            assert_int_equal(piece.number, number);
            model.taken[number] = true;
            source_sent(&source, true);
        }
    }
    source_final(&source, 0, BLOCKS, (const uint32_t[2]){99, 100000});
    if (!wanted)
        assert_true(source_want(&source, model.first, model.credit));
    assert_true(source_grant(&source, BLOCKS));
    struct piece piece;
    while (source_take(&source, &piece))
        source_sent(&source, true);
    source.token_known = true;
    assert_true(source_facts(&source).complete && source_facts(&source).idle);
    assert_int_equal(source.n_sent, n_pieces);
    source_fini(&source);
}

static void test_record(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 300; seed++)
        run_model(seed);
}

static void test_bad_want(void **state)
{
    (void)state;
    struct shape shape = make_shape(1, 1);
    struct source source;
    static const uint32_t from[2] = {1, 0}, far[2] = {5, 0};
    assert_fails(source_init(&source, &shape, 0, from), SL_INVALID, "0 blocks");
    assert_fails(source_init(&source, &shape, TRANSFER_STREAM_BLOCKS_MAX + 1, from), SL_INVALID,
                 "65537");
    assert_fails(source_init(&source, &shape, 4, far), SL_INVALID, "class 0 from block 5");
    assert_ok(source_init(&source, &shape, 4, from));
    assert_false(source_want(&source, (const uint32_t[4]){5}, 5));
    assert_false(source_want(&source, (const uint32_t[4]){0}, 1)); /* not what is sent */
    assert_false(source_want(&source, (const uint32_t[4]){2}, 1));
    assert_false(source_want(&source, (const uint32_t[4]){2}, 5));
    assert_false(source_want(&source, (const uint32_t[4]){2, 1}, 3)); /* a class that is none */
    assert_false(source_want(&source, (const uint32_t[4]){2, 0, 0, 1}, 3));
    assert_true(source_want(&source, (const uint32_t[4]){2}, 3));
    assert_false(source_grant(&source, 5));
    assert_true(source_grant(&source, 4));
    assert_true(source_grant(&source, 1)); /* stale: a grant may be repeated */
    assert_int_equal(source.credit, 4);
    source_fini(&source);
}

static void test_lacks_credit(void **state)
{
    (void)state;
    struct shape shape = make_shape(1, 1);
    struct source source;
    static const uint32_t none[TRANSFER_CLASSES_MAX] = {0}, one[1] = {1};
    assert_ok(source_init(&source, &shape, 4, none));
    assert_true(source_want(&source, none, 1));
    assert_false(source_lacks_credit(&source));
    source_final(&source, 1, 2, one); /* of block 1, which has no credit */
    assert_true(source_lacks_credit(&source));
    assert_false(source_can_offer(&source));
    assert_true(source_grant(&source, 2));
    assert_true(source_can_offer(&source));
    source_fini(&source);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),    cmocka_unit_test(test_failed_is_never_sealed),
        cmocka_unit_test(test_shape),    cmocka_unit_test(test_record),
        cmocka_unit_test(test_bad_want), cmocka_unit_test(test_lacks_credit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

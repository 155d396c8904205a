/* How a block is cut into pieces: every byte of every class in exactly one piece, numbers and places
 * that agree, and the limits. */
#include "transfer/shape.h"

#include "support/support.h"

#define GIB ((size_t)1 << 30)

static struct shape made(const struct transfer_class *classes, uint32_t n, uint32_t layers)
{
    struct shape shape;
    assert_ok(shape_init(&shape, classes, n, layers));
    return shape;
}

/* Each piece of two blocks, by its number and by its run. */
static void check_cover(const struct shape *shape)
{
    uint32_t number = 0;
    for (uint32_t block = 0; block < 2; block++) {
        for (uint32_t c = 0; c < shape->n_classes; c++) {
            const struct shape_class *class = &shape->classes[c];
            size_t offset = 0;
            uint32_t layer = 0;
            for (uint32_t run = 0; run < class->n_runs; run++, number++) {
                struct piece piece, again;
                shape_piece(shape, number, &piece);
                shape_run(shape, block, c, run, &again);
                assert_memory_equal(&piece, &again, sizeof(piece));
                assert_int_equal(piece.number, number);
                assert_int_equal(piece.block, block);
                assert_int_equal(piece.class_index, c);
                assert_int_equal(piece.run, run);
                assert_int_equal(piece.first_layer, layer);
                assert_int_equal(piece.offset, offset);
                assert_in_range(piece.n_layers, 1, shape->layers_per_piece);
                assert_int_equal(piece.bytes, piece.n_layers * class->layer_bytes);
                layer += piece.n_layers;
                offset += piece.bytes;
            }
            assert_int_equal(layer, class->n_layers);
        }
    }
    assert_int_equal(number, 2 * shape->pieces_per_block);
}

static void test_cuts(void **state)
{
    (void)state;
    static const struct transfer_class classes[3] = {{.n_layers = 7, .layer_bytes = 96},
                                                     {.n_layers = 1, .layer_bytes = 32},
                                                     {.n_layers = 4, .layer_bytes = 64}};
    static const uint32_t pieces[] = {12, 7, 6, 4, 4, 4, 3}; /* of a block, one layer each, two … */
    for (uint32_t layers = 1; layers <= 7; layers++) {
        struct shape shape = made(classes, 3, layers);
        assert_int_equal(shape.layers_per_piece, layers);
        assert_int_equal(shape.pieces_per_block, pieces[layers - 1]);
        assert_int_equal(shape_block_bytes(&shape), 7 * 96 + 32 + 4 * 64);
        check_cover(&shape);
    }
    assert_int_equal(made(classes, 3, 0).layers_per_piece, 7); /* none said, or too many: all */
    assert_int_equal(made(classes, 3, 8).layers_per_piece, 7);
}

static void test_recut(void **state)
{
    (void)state;
    static const struct transfer_class classes[2] = {{.n_layers = 2, .layer_bytes = 96},
                                                     {.n_layers = 5, .layer_bytes = 32}};
    struct shape shape = made(classes, 2, 5), cut = {0};
    assert_false(shape_recut(&shape, 0, &cut));
    assert_false(shape_recut(&shape, 6, &cut));
    assert_int_equal(cut.n_classes, 0); /* set only on success */
    for (uint32_t layers = 1; layers <= 5; layers++) {
        assert_true(shape_recut(&shape, layers, &cut));
        struct shape direct = made(classes, 2, layers);
        assert_int_equal(cut.pieces_per_block, direct.pieces_per_block);
        check_cover(&cut);
        assert_true(shape_hash(&cut) == shape_hash(&shape)); /* the cut is no part of it */
    }
}

static void test_limits(void **state)
{
    (void)state;
    struct shape shape = {0};
    struct transfer_class classes[TRANSFER_CLASSES_MAX + 1];
    for (uint32_t c = 0; c <= TRANSFER_CLASSES_MAX; c++)
        classes[c] = (struct transfer_class){.n_layers = 2, .layer_bytes = 64};
    assert_fails(shape_init(&shape, classes, 0, 1), SL_INVALID, "of 0 KV classes");
    assert_fails(shape_init(&shape, classes, TRANSFER_CLASSES_MAX + 1, 1), SL_INVALID, "want 1..");
    assert_ok(shape_init(&shape, classes, TRANSFER_CLASSES_MAX, 1));
    classes[1].n_layers = 0;
    assert_fails(shape_init(&shape, classes, 2, 1), SL_INVALID, "KV class 1: 0 layers");
    classes[1].n_layers = 4097;
    assert_fails(shape_init(&shape, classes, 2, 1), SL_INVALID, "4097 layers");
    classes[1].n_layers = 4096;
    assert_ok(shape_init(&shape, classes, 2, 1));
    classes[1] = (struct transfer_class){.n_layers = 3, .layer_bytes = 0};
    assert_fails(shape_init(&shape, classes, 2, 1), SL_INVALID, "of 0 bytes");
    classes[1].layer_bytes = 2 * GIB + 1;
    assert_fails(shape_init(&shape, classes, 2, 1), SL_INVALID, "2147483649 bytes");
    /* A piece's bytes are 32 bits on the wire, and at most 2^31. */
    classes[1].layer_bytes = GIB;
    assert_ok(shape_init(&shape, classes, 2, 1));
    struct shape kept = shape;
    assert_false(shape_recut(&shape, 3, &shape));
    assert_memory_equal(&shape, &kept, sizeof(kept));
    assert_fails(shape_init(&shape, classes, 2, 3), SL_INVALID, "pieces of 3 layers pass 2^31");
}

static void test_hash(void **state)
{
    (void)state;
    struct transfer_class classes[2] = {{.n_layers = 4, .layer_bytes = 64},
                                        {.n_layers = 2, .layer_bytes = 32}};
    struct transfer_class swapped[2] = {classes[1], classes[0]};
    struct shape both = made(classes, 2, 1), one = made(classes, 1, 1), other = made(swapped, 2, 1);
    assert_true(shape_hash(&both) != shape_hash(&one));
    assert_true(shape_hash(&both) != shape_hash(&other));
    classes[1].layer_bytes = 33;
    other = made(classes, 2, 1);
    assert_true(shape_hash(&both) != shape_hash(&other));
    classes[1] = (struct transfer_class){.n_layers = 3, .layer_bytes = 32};
    other = made(classes, 2, 1);
    assert_true(shape_hash(&both) != shape_hash(&other));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_cuts), cmocka_unit_test(test_recut),
                                       cmocka_unit_test(test_limits), cmocka_unit_test(test_hash)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

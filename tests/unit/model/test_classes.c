/* Layers into KV classes, and how many blocks each class gets. */
#include "model/classes.h"

#include "support/support.h"

static struct model_config config_of(const uint32_t *windows, uint32_t n_layers)
{
    struct model_config config = {
        .n_layers = n_layers, .n_heads = 4, .n_kv_heads = 2, .head_dim = 64, .context_max = 8192};
    memcpy(config.windows, windows, n_layers * sizeof(*windows));
    return config;
}

/* The layers without a window first, then the windows in the order in which layers name them; every
 * layer has its own place in its class. */
static void test_order(void **state)
{
    (void)state;
    static const uint32_t windows[] = {512, 512, 0, 128, 512, 0, 128};
    static const uint32_t class_of[] = {1, 1, 0, 2, 1, 0, 2}, index_of[] = {0, 1, 0, 0, 2, 1, 1};
    struct model_config config = config_of(windows, 7);
    struct model_classes classes;
    assert_ok(model_classes_make(&config, 64, KV_BF16, &classes));
    assert_int_equal(classes.geometry.n_classes, 3);
    static const uint32_t window_of[] = {0, 512, 128}, n_layers[] = {2, 3, 2};
    for (uint32_t c = 0; c < 3; c++) {
        const struct kv_class *class = &classes.geometry.classes[c];
        assert_true(class->window == window_of[c] && class->n_layers == n_layers[c]);
        assert_true(class->n_kv_heads == 2 && class->k_dim == 64 && class->v_dim == 64);
        assert_int_equal(class->element, KV_BF16);
    }
    for (uint32_t layer = 0; layer < 7; layer++) {
        assert_int_equal(classes.class_of[layer], class_of[layer]);
        assert_int_equal(classes.index_of[layer], index_of[layer]);
    }
}

static void test_refused(void **state)
{
    (void)state;
    static const uint32_t many[] = {0, 1, 2, 3, 4};
    struct model_config config = config_of(many, 5);
    struct model_classes classes = {.geometry = {.block_tokens = 7}};
    assert_fails(model_classes_make(&config, 64, KV_BF16, &classes), SL_UNSUPPORTED,
                 "layer 4: window 4");
    config = config_of(many, 4);
    assert_fails(model_classes_make(&config, 48, KV_BF16, &classes), SL_INVALID, "block_tokens 48");
    assert_int_equal(classes.geometry.block_tokens, 7); /* set only on success */
    assert_ok(model_classes_make(&config, 64, KV_BF16, &classes));
}

/* What is given to class 0 stays; another class has room for all sequences at work, never more than
 * class 0, and whatever fits class 0 fits it. */
static void test_blocks(void **state)
{
    (void)state;
    static const uint32_t mixed[] = {0, 100}, sliding[] = {100, 100};
    struct model_classes classes;
    struct model_config config = config_of(sliding, 2);
    uint32_t blocks[KV_CLASSES_MAX];
    assert_ok(model_classes_make(&config, 16, KV_F32, &classes));
    model_classes_blocks(&classes, 50, 64, 128, blocks);
    assert_true(blocks[0] == 50 && blocks[1] == 0);
    model_classes_blocks(&classes, 4000, 1, 64, blocks);
    assert_int_equal(blocks[0], 4000);
    config = config_of(mixed, 2);
    assert_ok(model_classes_make(&config, 16, KV_F32, &classes));
    for (uint32_t n_blocks = 1; n_blocks < 4000; n_blocks += 37)
        for (uint32_t seqs = 1; seqs < 40; seqs += 13) {
            const uint32_t rows = 64;
            model_classes_blocks(&classes, n_blocks, seqs, rows, blocks);
            assert_int_equal(blocks[0], n_blocks);
            assert_true(blocks[1] >= 1 && blocks[1] <= n_blocks);
            uint32_t each = kv_window_blocks(&classes.geometry, 1, n_blocks * 16, rows);
            assert_true(blocks[1] >= each); /* the largest request of class 0 */
            assert_true(blocks[1] == n_blocks || blocks[1] >= seqs * each);
        }
    model_classes_blocks(&classes, 4000, 8, 64, blocks);
    assert_int_equal(blocks[1], 8 * ((100 + 64 + 16 - 3) / 16 + 1) + 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Geometry against a walk over the layout [layer][kv_head][K|V][token][dim], element by element. */
#include "kv/geometry.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

static struct kv_geometry geometry_of(uint32_t block, uint32_t layers, uint32_t heads,
                                      uint32_t k_dim, uint32_t v_dim, uint32_t element)
{
    return (struct kv_geometry){
        .block_tokens = block,
        .n_classes = 1,
        .classes = {{.n_layers = layers,
                     .n_kv_heads = heads,
                     .k_dim = k_dim,
                     .v_dim = v_dim,
                     .element = element}},
    };
}

/* The offset of every tile is what a counter says that walks the block in order. */
static void walk(const struct kv_geometry *g)
{
    const struct kv_class *class = &g->classes[0];
    size_t element = class->element == KV_F32 ? 4 : 2;
    size_t at = 0;
    for (uint32_t layer = 0; layer < class->n_layers; layer++) {
        assert_int_equal(at, layer * kv_layer_bytes(g, 0));
        for (uint32_t head = 0; head < class->n_kv_heads; head++) {
            assert_int_equal(kv_k_offset(g, 0, layer, head), at);
            for (uint32_t token = 0; token < g->block_tokens; token++)
                at += class->k_dim * element;
            assert_int_equal(kv_v_offset(g, 0, layer, head), at);
            for (uint32_t token = 0; token < g->block_tokens; token++)
                at += class->v_dim * element;
        }
    }
    assert_int_equal(at, kv_block_bytes(g, 0));
}

static void test_offsets(void **state)
{
    (void)state;
    static const uint32_t dims[] = {64, 80, 96, 128, 256};
    for (size_t i = 0; i < sizeof(dims) / sizeof(dims[0]); i++)
        for (uint32_t element = KV_F32; element <= KV_BF16; element++) {
            struct kv_geometry g = geometry_of(64, 3, 5, dims[i], dims[i], element);
            assert_int_equal(kv_geometry_check(&g), SL_OK);
            walk(&g);
        }
    struct kv_geometry g = geometry_of(16, 2, 1, 192, 128, KV_BF16);
    walk(&g);
}

/* Llama 3.2 1B in bf16: 16 layers of 8 heads of 64, so a token is 32 KiB and a block 2 MiB. */
static void test_known_size(void **state)
{
    (void)state;
    struct kv_geometry g = geometry_of(64, 16, 8, 64, 64, KV_BF16);
    assert_int_equal(kv_block_bytes(&g, 0), 2u << 20);
}

static void test_blocks_of(void **state)
{
    (void)state;
    struct kv_geometry g = geometry_of(64, 1, 1, 64, 64, KV_BF16);
    static const uint32_t cases[][2] = {{0, 0}, {1, 1}, {63, 1}, {64, 1}, {65, 2}, {1000, 16}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_int_equal(kv_blocks_of(&g, cases[i][0]), cases[i][1]);
    assert_int_equal(kv_blocks_of(&g, UINT32_MAX), 1u << 26);
}

/* The first block that a token reads, from its keys; and the most that a sequence holds at once, from
 * every place at which a step can begin. */
static void test_window(void **state)
{
    (void)state;
    struct kv_geometry g = geometry_of(16, 1, 1, 64, 64, KV_BF16);
    static const uint32_t windows[] = {1, 2, 15, 16, 17, 33, 64, 100}, chunks[] = {1, 7, 16, 40};
    for (size_t w = 0; w < sizeof(windows) / sizeof(windows[0]); w++) {
        uint32_t window = g.classes[0].window = windows[w];
        for (uint32_t position = 0; position < 300; position++) {
            uint32_t key = position;
            while (key > 0 && position - (key - 1) < window)
                key--;
            assert_int_equal(kv_window_first(&g, 0, position), key / 16);
        }
        for (size_t c = 0; c < sizeof(chunks) / sizeof(chunks[0]); c++) {
            uint32_t most = 0;
            for (uint32_t n = 1; n < 300; n++) {
                for (uint32_t at = 0; at < n; at++) {
                    uint32_t end = at + chunks[c] < n ? at + chunks[c] : n;
                    uint32_t held = kv_blocks_of(&g, end) - kv_window_first(&g, 0, at);
                    most = held > most ? held : most;
                    assert_true(held <= kv_window_blocks(&g, 0, n, chunks[c]));
                }
            }
            assert_int_equal(kv_window_blocks(&g, 0, 299, chunks[c]), most); /* and no more */
        }
    }
    g.classes[0].window = 0;
    assert_int_equal(kv_window_first(&g, 0, 100000), 0);
    assert_int_equal(kv_window_blocks(&g, 0, 299, 1), 19);
    g.classes[0].window = UINT32_MAX;
    assert_int_equal(kv_window_first(&g, 0, UINT32_MAX - 1), 0);
    assert_int_equal(kv_window_blocks(&g, 0, UINT32_MAX, UINT32_MAX), 1u << 28);
}

static void test_refused(void **state)
{
    (void)state;
    const struct kv_geometry good = geometry_of(64, 2, 2, 64, 64, KV_BF16);
    struct kv_geometry bad[10];
    for (size_t i = 0; i < 10; i++)
        bad[i] = good;
    bad[0].block_tokens = 48;
    bad[1].block_tokens = 8;
    bad[2].block_tokens = 256;
    bad[3].n_classes = 0;
    bad[4].n_classes = KV_CLASSES_MAX + 1;
    bad[5].classes[0].n_layers = KV_LAYERS_MAX + 1;
    bad[6].classes[0].n_kv_heads = 0;
    bad[7].classes[0].k_dim = 61;
    bad[8].classes[0].element = 2;
    bad[9].classes[0].tile_format = 1;
    static const char *const words[10] = {
        "block_tokens", "block_tokens", "block_tokens", "n_classes", "n_classes",
        "n_layers",     "n_kv_heads",   "k_dim",        "element",   "tile_format"};
    assert_int_equal(kv_geometry_check(&good), SL_OK);
    for (size_t i = 0; i < 10; i++) {
        assert_int_equal(kv_geometry_check(&bad[i]), SL_INVALID);
        assert_non_null(strstr(sl_error(), words[i]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_offsets),   cmocka_unit_test(test_known_size),
        cmocka_unit_test(test_blocks_of), cmocka_unit_test(test_window),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

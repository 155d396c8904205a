/* The one geometry of KV blocks: kernels, pool, wire and index all compute from it.
 *
 * A class's pool is one allocation: [block][layer][kv_head][K|V][token][dim]. So one (block, layer,
 * head) is a contiguous K tile and V tile, any run of layers of a block is contiguous, a block is
 * contiguous. Sizes are in bytes, ranges of layers are [first, end) within the class. */
#ifndef SL_KV_GEOMETRY_H
#define SL_KV_GEOMETRY_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

#define KV_CLASSES_MAX      4
#define KV_LAYERS_MAX       256
#define KV_BLOCK_TOKENS_MAX 128

typedef uint32_t kv_block_id;
#define KV_BLOCK_NONE UINT32_MAX

enum kv_element { KV_F32 = 0, KV_BF16 = 1 };
enum kv_tile_format { KV_TILE_PLAIN = 0 };

struct kv_class {
    uint32_t n_layers;
    uint32_t n_kv_heads;
    uint32_t k_dim, v_dim; /* elements of one head of one token */
    uint32_t element;      /* enum kv_element */
    uint32_t window;       /* tokens a layer looks back; 0: all */
    uint32_t scale_bytes;  /* per token and head; 0: none */
    uint32_t tile_format;  /* enum kv_tile_format */
};

struct kv_geometry {
    uint32_t block_tokens; /* 16, 32, 64, 128 */
    uint32_t n_classes;
    struct kv_class classes[KV_CLASSES_MAX];
};

/* SL_INVALID names the field, the value and the limit. */
sl_status kv_geometry_check(const struct kv_geometry *geometry) SL_MUST_USE;

size_t kv_element_bytes(uint32_t element);
/* Bytes of one layer of one block (all heads, K and V), and of one block (all layers). */
size_t kv_layer_bytes(const struct kv_geometry *geometry, uint32_t class_index);
size_t kv_block_bytes(const struct kv_geometry *geometry, uint32_t class_index);
/* Offset within a block of the K tile [token][k_dim] and the V tile [token][v_dim] of a head. */
size_t kv_k_offset(const struct kv_geometry *geometry, uint32_t class_index, uint32_t layer,
                   uint32_t kv_head);
size_t kv_v_offset(const struct kv_geometry *geometry, uint32_t class_index, uint32_t layer,
                   uint32_t kv_head);
/* Blocks that n_tokens fill, the last one perhaps partly. */
uint32_t kv_blocks_of(const struct kv_geometry *geometry, uint32_t n_tokens);
/* The first block that the token at `position` reads in a class: those before it lie outside its
 * window, and outside that of every later token. 0 without a window. */
uint32_t kv_window_first(const struct kv_geometry *geometry, uint32_t class_index,
                         uint32_t position);
/* The most blocks of a class that a sequence of n_tokens has to hold at once while at most
 * chunk_tokens (>= 1) are computed in a step. */
uint32_t kv_window_blocks(const struct kv_geometry *geometry, uint32_t class_index,
                          uint32_t n_tokens, uint32_t chunk_tokens);

#endif

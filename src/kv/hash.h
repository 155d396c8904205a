/* Block hashes: SHA-256(parent, tokens, salt) cut to 128 bits, chained from the identity. */
#ifndef SL_KV_HASH_H
#define SL_KV_HASH_H

#include <stdbool.h>
#include <stdint.h>

#define KV_HASH_BYTES 16

struct kv_hash {
    uint8_t bytes[KV_HASH_BYTES];
};

/* Parent of the first block: of the model's identity (weights digest, config, KV type, block tokens,
 * adapter) and the tenant's salt. */
struct kv_hash kv_hash_root(const uint8_t identity[16], const void *salt, uint32_t salt_bytes);
/* Hash of a full block of n_tokens whose predecessor has hash *parent. */
struct kv_hash kv_hash_block(const struct kv_hash *parent, const uint32_t *tokens,
                             uint32_t n_tokens);
/* Continues the hashes of a token list, [n_blocks], of which the first n_known are there already.
 * tokens: [n_blocks * block_tokens]. */
void kv_hash_chain(const struct kv_hash *root, const uint32_t *tokens, uint32_t block_tokens,
                   uint32_t n_known, uint32_t n_blocks, struct kv_hash *hashes);
bool kv_hash_equal(const struct kv_hash *a, const struct kv_hash *b);

#endif

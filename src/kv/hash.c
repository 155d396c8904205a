/* Block hashes. What goes into SHA-256, so that two implementations agree:
 *
 *   root   "sluice-kv-root-1" (16 bytes), identity (16), salt length u32 LE, salt
 *   block  "sluice-kv-block1" (16 bytes), parent hash (16), token count u32 LE, token ids u32 LE
 *
 * and the first 16 bytes come out. The salt enters once, in the root, and reaches every block through
 * its parent. OpenSSL's EVP interface is used with one context per call; the digest is fetched once,
 * because a fetch costs more than hashing a block. Pure; any thread. */
#include "kv/hash.h"

#include "base/status.h"

#include <openssl/evp.h>
#include <pthread.h>
#include <string.h>

#define DIGEST_BYTES  32
#define LABEL_BYTES   16
#define TOKENS_A_TIME 64 /* turned into bytes at once */

static const char label_root[LABEL_BYTES + 1] = "sluice-kv-root-1";
static const char label_block[LABEL_BYTES + 1] = "sluice-kv-block1";

static EVP_MD *sha256;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void fetch(void)
{
    sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    SL_ASSERT(sha256 != NULL); /* part of every OpenSSL 3 */
}

static EVP_MD_CTX *begin(const char *label)
{
    pthread_once(&once, fetch);
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    SL_ASSERT(context != NULL && EVP_DigestInit_ex2(context, sha256, NULL) == 1);
    SL_ASSERT(EVP_DigestUpdate(context, label, LABEL_BYTES) == 1);
    return context;
}

static void add(EVP_MD_CTX *context, const void *bytes, size_t n)
{
    SL_ASSERT(EVP_DigestUpdate(context, bytes, n) == 1);
}

static void put_u32(uint8_t *to, uint32_t value)
{
    to[0] = (uint8_t)value;
    to[1] = (uint8_t)(value >> 8);
    to[2] = (uint8_t)(value >> 16);
    to[3] = (uint8_t)(value >> 24);
}

static void add_u32(EVP_MD_CTX *context, uint32_t value)
{
    uint8_t bytes[4];
    put_u32(bytes, value);
    add(context, bytes, sizeof(bytes));
}

static struct kv_hash end(EVP_MD_CTX *context)
{
    uint8_t digest[DIGEST_BYTES];
    SL_ASSERT(EVP_DigestFinal_ex(context, digest, NULL) == 1);
    EVP_MD_CTX_free(context);
    struct kv_hash hash;
    memcpy(hash.bytes, digest, KV_HASH_BYTES);
    return hash;
}

struct kv_hash kv_hash_root(const uint8_t identity[16], const void *salt, uint32_t salt_bytes)
{
    EVP_MD_CTX *context = begin(label_root);
    add(context, identity, 16);
    add_u32(context, salt_bytes);
    if (salt_bytes > 0)
        add(context, salt, salt_bytes);
    return end(context);
}

struct kv_hash kv_hash_block(const struct kv_hash *parent, const uint32_t *tokens,
                             uint32_t n_tokens)
{
    EVP_MD_CTX *context = begin(label_block);
    add(context, parent->bytes, KV_HASH_BYTES);
    add_u32(context, n_tokens);
    for (uint32_t i = 0; i < n_tokens;) {
        uint8_t bytes[TOKENS_A_TIME * 4];
        uint32_t n = 0;
        for (; n < TOKENS_A_TIME && i < n_tokens; n++, i++)
            put_u32(bytes + n * 4, tokens[i]);
        add(context, bytes, n * 4);
    }
    return end(context);
}

void kv_hash_chain(const struct kv_hash *root, const uint32_t *tokens, uint32_t block_tokens,
                   uint32_t n_known, uint32_t n_blocks, struct kv_hash *hashes)
{
    for (uint32_t i = n_known; i < n_blocks; i++)
        hashes[i] = kv_hash_block(i == 0 ? root : &hashes[i - 1], tokens + (size_t)i * block_tokens,
                                  block_tokens);
}

bool kv_hash_equal(const struct kv_hash *a, const struct kv_hash *b)
{
    return memcmp(a->bytes, b->bytes, KV_HASH_BYTES) == 0;
}

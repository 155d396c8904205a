/* SHA-256 by libcrypto's EVP, which uses the processor's SHA instructions. libcrypto fails here only
 * when memory is gone or the library is broken, so a failure aborts. Any thread. */
#include "model/sha256.h"

#include "base/status.h"

#include <openssl/evp.h>

/* struct model_sha256 is an EVP_MD_CTX under another name. */
static EVP_MD_CTX *context_of(struct model_sha256 *sha)
{
    return (EVP_MD_CTX *)(void *)sha;
}

struct model_sha256 *model_sha256_create(void)
{
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    SL_ASSERT(context != NULL && EVP_DigestInit_ex(context, EVP_sha256(), NULL) == 1);
    return (struct model_sha256 *)(void *)context;
}

void model_sha256_add(struct model_sha256 *sha, const void *bytes, size_t n)
{
    SL_ASSERT(EVP_DigestUpdate(context_of(sha), bytes, n) == 1);
}

void model_sha256_finish(struct model_sha256 *sha, uint8_t digest_out[MODEL_SHA256_BYTES])
{
    SL_ASSERT(EVP_DigestFinal_ex(context_of(sha), digest_out, NULL) == 1);
    EVP_MD_CTX_free(context_of(sha));
}

void model_sha256(const void *bytes, size_t n, uint8_t digest_out[MODEL_SHA256_BYTES])
{
    struct model_sha256 *sha = model_sha256_create();
    model_sha256_add(sha, bytes, n);
    model_sha256_finish(sha, digest_out);
}

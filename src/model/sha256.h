/* SHA-256 over libcrypto. */
#ifndef SL_MODEL_SHA256_H
#define SL_MODEL_SHA256_H

#include <stddef.h>
#include <stdint.h>

#define MODEL_SHA256_BYTES 32

struct model_sha256; /* a digest in the making */

struct model_sha256 *model_sha256_create(void);
void model_sha256_add(struct model_sha256 *sha, const void *bytes, size_t n);
/* Gives the digest and frees `sha`. */
void model_sha256_finish(struct model_sha256 *sha, uint8_t digest_out[MODEL_SHA256_BYTES]);
/* In one call. */
void model_sha256(const void *bytes, size_t n, uint8_t digest_out[MODEL_SHA256_BYTES]);

#endif

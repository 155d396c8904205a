/* The digest of a model's weights, kept beside them. */
#ifndef SL_MODEL_DIGEST_H
#define SL_MODEL_DIGEST_H

#include "base/status.h"
#include "model/safetensors.h"
#include "model/sha256.h"

/* SHA-256 over the files' sizes and SHA-256s, in the order of their names. A manifest remembers each
 * file's digest with its size, mtime and inode, so that it is computed once: in cache_directory
 * under a name made from the model's real path, or, if that is NULL, as DIR/.sluice-manifest.json. A
 * manifest that cannot be written is only logged; one that cannot be read counts as none. */
sl_status model_digest(const struct model_tensors *tensors, const char *directory,
                       const char *cache_directory,
                       uint8_t digest_out[MODEL_SHA256_BYTES]) SL_MUST_USE;

#endif

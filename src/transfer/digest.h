/* Digests that find corrupted bytes (a bad link, a wrong block), not forged ones: 64 bits of a piece,
 * 128 bits of a stream that do not depend on the order in which its pieces come. */
#ifndef SL_TRANSFER_DIGEST_H
#define SL_TRANSFER_DIGEST_H

#include <stddef.h>
#include <stdint.h>

/* XXH64 of the bytes. */
uint64_t digest_bytes(const void *bytes, size_t n, uint64_t seed);
/* Adds one piece to the stream's digest (start from zeros). */
void digest_add(uint64_t stream[2], uint32_t piece, uint64_t piece_digest);

#endif

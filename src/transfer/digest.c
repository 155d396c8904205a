/* XXH64 (Y. Collet, "xxHash fast digest algorithm", the published description), and a sum of mixed
 * (number, digest) pairs modulo 2^64, twice with different mixes: pieces land in any order, and
 * keeping all their digests until the seal would cost memory for nothing. Pure. */
#include "transfer/digest.h"

#include <string.h>

#define PRIME_1 0x9E3779B185EBCA87ull
#define PRIME_2 0xC2B2AE3D27D4EB4Full
#define PRIME_3 0x165667B19E3779F9ull
#define PRIME_4 0x85EBCA77C2B2AE63ull
#define PRIME_5 0x27D4EB2F165667C5ull

static uint64_t rotate(uint64_t x, unsigned n)
{
    return (x << n) | (x >> (64 - n));
}

static uint64_t read64(const uint8_t *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof(value)); /* little-endian machines only, as everything here */
    return value;
}

static uint64_t read32(const uint8_t *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof(value));
    return value;
}

static uint64_t round_of(uint64_t lane, uint64_t input)
{
    return rotate(lane + input * PRIME_2, 31) * PRIME_1;
}

static uint64_t merge(uint64_t hash, uint64_t lane)
{
    return (hash ^ round_of(0, lane)) * PRIME_1 + PRIME_4;
}

static uint64_t avalanche(uint64_t hash)
{
    hash = (hash ^ (hash >> 33)) * PRIME_2;
    hash = (hash ^ (hash >> 29)) * PRIME_3;
    return hash ^ (hash >> 32);
}

/* The four lanes over all whole stripes of 32 bytes; *at moves behind them. */
static uint64_t stripes(const uint8_t **at, const uint8_t *end, uint64_t seed)
{
    uint64_t a = seed + PRIME_1 + PRIME_2, b = seed + PRIME_2, c = seed, d = seed - PRIME_1;
    const uint8_t *p = *at;
    for (; end - p >= 32; p += 32) {
        a = round_of(a, read64(p));
        b = round_of(b, read64(p + 8));
        c = round_of(c, read64(p + 16));
        d = round_of(d, read64(p + 24));
    }
    *at = p;
    uint64_t hash = rotate(a, 1) + rotate(b, 7) + rotate(c, 12) + rotate(d, 18);
    return merge(merge(merge(merge(hash, a), b), c), d);
}

uint64_t digest_bytes(const void *bytes, size_t n, uint64_t seed)
{
    const uint8_t *p = bytes, *end = p + n;
    uint64_t hash = n >= 32 ? stripes(&p, end, seed) : seed + PRIME_5;
    hash += n;
    for (; end - p >= 8; p += 8)
        hash = rotate(hash ^ round_of(0, read64(p)), 27) * PRIME_1 + PRIME_4;
    for (; end - p >= 4; p += 4)
        hash = rotate(hash ^ (read32(p) * PRIME_1), 23) * PRIME_2 + PRIME_3;
    for (; p < end; p++)
        hash = rotate(hash ^ (*p * PRIME_5), 11) * PRIME_1;
    return avalanche(hash);
}

void digest_add(uint64_t stream[2], uint32_t piece, uint64_t piece_digest)
{
    stream[0] += avalanche(piece_digest + PRIME_1 * (uint64_t)piece);
    stream[1] += avalanche(rotate(piece_digest, 32) ^ (PRIME_4 * ((uint64_t)piece + 1)));
}

/* Map from byte strings to token ids.
 *
 * Open addressing with linear probing, at most half full; a slot carries 32 bits of the hash, so
 * that a probe touches a key's bytes only when they are almost surely equal. Keys are packed into
 * one block of memory and never removed. The hash takes eight bytes a step: vocabularies have short
 * keys, and encoding asks once per word. Built by the thread that opens a tokenizer, then read by
 * any. */
#include "text/strmap.h"

#include "base/mem.h"

#include <string.h>

#define STRMAP_SLOTS_MIN 64u
#define STRMAP_SLOTS_MAX (1u << 30)
#define PROBES_MAX       4096u /* of a key; chance makes some fifty, a file that means it millions */

__extension__ typedef unsigned __int128 uint128;

static uint64_t mix(uint64_t a, uint64_t b)
{
    uint128 product = (uint128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static uint32_t hash_bytes(const char *key, size_t bytes)
{
    uint64_t hash = 0x9e3779b97f4a7c15ull ^ bytes;
    uint64_t word;

    while (bytes >= 8) {
        memcpy(&word, key, 8);
        hash = mix(hash ^ word, 0xd6e8feb86659fd93ull);
        key += 8;
        bytes -= 8;
    }
    word = 0;
    if (bytes >= 4) { /* two reads that overlap cover 4..7 bytes */
        uint32_t first, last;
        memcpy(&first, key, 4);
        memcpy(&last, key + bytes - 4, 4);
        word = (uint64_t)first << 32 | last;
    } else if (bytes > 0) {
        word = (uint64_t)(uint8_t)key[0] << 16 | (uint64_t)(uint8_t)key[bytes / 2] << 8 |
               (uint8_t)key[bytes - 1];
    }
    hash = mix(hash ^ word, 0xa0761d6478bd642full);
    return (uint32_t)(hash >> 32);
}

void text_strmap_fini(struct text_strmap *map)
{
    sl_free(map->slots);
    sl_free(map->bytes);
    *map = (struct text_strmap){0};
}

/* The slot that has the key, or the free one where it belongs. */
static struct text_strmap_slot *probe(const struct text_strmap *map, uint32_t hash, const char *key,
                                      size_t bytes)
{
    uint32_t mask = map->n_slots - 1;

    for (uint32_t i = hash & mask;; i = (i + 1) & mask) {
        struct text_strmap_slot *slot = &map->slots[i];
        if (slot->n == 0)
            return slot;
        if (slot->hash == hash && slot->n == bytes + 1 &&
            (bytes == 0 || memcmp(map->bytes + slot->offset, key, bytes) == 0))
            return slot;
    }
}

static sl_status resize(struct text_strmap *map, uint32_t n_slots)
{
    struct text_strmap_slot *slots = sl_try_zalloc(n_slots, sizeof(*slots));

    if (slots == NULL)
        return sl_fail(SL_NO_MEMORY, "tokenizer: %u slots of a string table", n_slots);
    for (uint32_t i = 0; i < map->n_slots; i++) {
        if (map->slots[i].n == 0)
            continue;
        uint32_t at = map->slots[i].hash & (n_slots - 1);
        while (slots[at].n != 0)
            at = (at + 1) & (n_slots - 1);
        slots[at] = map->slots[i];
    }
    sl_free(map->slots);
    map->slots = slots;
    map->n_slots = n_slots;
    return SL_OK;
}

sl_status text_strmap_reserve(struct text_strmap *map, size_t n_keys)
{
    uint32_t n_slots = STRMAP_SLOTS_MIN;

    while (n_slots < STRMAP_SLOTS_MAX && n_slots / 2 < n_keys)
        n_slots *= 2;
    return n_slots > map->n_slots ? resize(map, n_slots) : SL_OK;
}

sl_status text_strmap_add(struct text_strmap *map, const char *key, size_t bytes, uint32_t id,
                          bool *added_out)
{
    if (map->n_keys >= map->n_slots / 2) {
        if (map->n_slots >= STRMAP_SLOTS_MAX)
            return sl_fail(SL_EXHAUSTED, "tokenizer: string table beyond %u keys", map->n_keys);
        sl_status status = resize(map, map->n_slots == 0 ? STRMAP_SLOTS_MIN : map->n_slots * 2);
        if (status != SL_OK)
            return status;
    }
    uint32_t hash = hash_bytes(key, bytes);
    struct text_strmap_slot *slot = probe(map, hash, key, bytes);
    *added_out = slot->n == 0;
    if (slot->n != 0)
        return SL_OK;
    if ((((uint32_t)(slot - map->slots) - hash) & (map->n_slots - 1)) > PROBES_MAX)
        return sl_fail(SL_UNSUPPORTED,
                       "tokenizer: more than %u tokens that a table cannot tell apart", PROBES_MAX);

    if (bytes >= UINT32_MAX - map->n_bytes)
        return sl_fail(SL_EXHAUSTED, "tokenizer: string table beyond 4 GiB");
    if (map->n_bytes + bytes > map->bytes_capacity) {
        size_t capacity = map->bytes_capacity * 2 + bytes + 4096;
        char *grown = sl_try_realloc(map->bytes, capacity, 1);
        if (grown == NULL)
            return sl_fail(SL_NO_MEMORY, "tokenizer: %zu bytes of a string table", capacity);
        map->bytes = grown;
        map->bytes_capacity = capacity;
    }
    if (bytes != 0)
        memcpy(map->bytes + map->n_bytes, key, bytes);
    *slot = (struct text_strmap_slot){hash, id, (uint32_t)map->n_bytes, (uint32_t)bytes + 1};
    map->n_bytes += bytes;
    map->n_keys++;
    return SL_OK;
}

bool text_strmap_find(const struct text_strmap *map, const char *key, size_t bytes,
                      uint32_t *id_out)
{
    if (map->n_slots == 0)
        return false;
    const struct text_strmap_slot *slot = probe(map, hash_bytes(key, bytes), key, bytes);
    if (slot->n == 0)
        return false;
    *id_out = slot->id;
    return true;
}

/* Map from byte strings to token ids, for tables that are built once and then only read. */
#ifndef SL_TEXT_STRMAP_H
#define SL_TEXT_STRMAP_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct text_strmap_slot {
    uint32_t hash;
    uint32_t id;
    uint32_t offset; /* of the key in `bytes` */
    uint32_t n;      /* length of the key + 1; 0: free */
};

/* In the caller's storage; all zero is an empty map. */
struct text_strmap {
    struct text_strmap_slot *slots; /* [n_slots], a power of two, at most half full */
    uint32_t n_slots;
    uint32_t n_keys;
    char *bytes; /* the keys, one behind the other */
    size_t n_bytes;
    size_t bytes_capacity;
};

void text_strmap_fini(struct text_strmap *map);
/* Room for n_keys keys without growing. SL_NO_MEMORY. */
sl_status text_strmap_reserve(struct text_strmap *map, size_t n_keys) SL_MUST_USE;
/* Adds a key (copied). A key that is there already keeps its id and *added_out is false.
 * SL_NO_MEMORY; SL_EXHAUSTED beyond 4 GiB of keys. */
sl_status text_strmap_add(struct text_strmap *map, const char *key, size_t bytes, uint32_t id,
                          bool *added_out) SL_MUST_USE;
/* False if the key is not there. */
bool text_strmap_find(const struct text_strmap *map, const char *key, size_t bytes,
                      uint32_t *id_out);

#endif

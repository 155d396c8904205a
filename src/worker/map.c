/* Open addressing with linear probing, at most half full, deletion by shifting back: no tombstones
 * gather in a process that lives for months. Keys come from elsewhere (request ids may count up), so
 * they are mixed (the finaliser of splitmix64). One thread. */
#include "worker/map.h"

#include "base/mem.h"

#include <stddef.h>

struct slot {
    uint64_t key;
    void *value; /* NULL: empty */
};

struct worker_map {
    struct slot *slots;
    uint32_t mask;
    uint32_t n, n_max;
};

sl_status worker_map_create(uint32_t n_max, struct worker_map **map_out)
{
    uint32_t n_slots = 16;
    while (n_slots < 2 * n_max)
        n_slots *= 2;
    struct worker_map *map = sl_zalloc(1, sizeof(*map));
    map->slots = sl_try_zalloc(n_slots, sizeof(*map->slots));
    if (map->slots == NULL) {
        sl_free(map);
        return sl_fail(SL_NO_MEMORY, "map of %u entries", n_max);
    }
    map->mask = n_slots - 1;
    map->n_max = n_max;
    *map_out = map;
    return SL_OK;
}

void worker_map_destroy(struct worker_map *map)
{
    if (map == NULL)
        return;
    sl_free(map->slots);
    sl_free(map);
}

static uint32_t home_of(const struct worker_map *map, uint64_t key)
{
    key = (key ^ (key >> 30)) * 0xbf58476d1ce4e5b9ull;
    key = (key ^ (key >> 27)) * 0x94d049bb133111ebull;
    return (uint32_t)(key ^ (key >> 31)) & map->mask;
}

/* The key's slot, or the empty one where it would go. */
static uint32_t slot_of(const struct worker_map *map, uint64_t key)
{
    uint32_t at = home_of(map, key);
    while (map->slots[at].value != NULL && map->slots[at].key != key)
        at = (at + 1) & map->mask;
    return at;
}

void *worker_map_get(const struct worker_map *map, uint64_t key)
{
    return map->slots[slot_of(map, key)].value;
}

bool worker_map_put(struct worker_map *map, uint64_t key, void *value)
{
    if (map->n == map->n_max)
        return false;
    uint32_t at = slot_of(map, key);
    SL_ASSERT(map->slots[at].value == NULL && value != NULL);
    map->slots[at] = (struct slot){.key = key, .value = value};
    map->n++;
    return true;
}

void worker_map_remove(struct worker_map *map, uint64_t key)
{
    uint32_t hole = slot_of(map, key);
    if (map->slots[hole].value == NULL)
        return;
    map->n--;
    for (uint32_t next = (hole + 1) & map->mask; map->slots[next].value != NULL;
         next = (next + 1) & map->mask) {
        uint32_t home = home_of(map, map->slots[next].key);
        if (((next - home) & map->mask) >= ((next - hole) & map->mask)) {
            map->slots[hole] = map->slots[next];
            hole = next;
        }
    }
    map->slots[hole].value = NULL;
}

/* Map from 64-bit keys (request ids, stream keys) to pointers; bounded, no memory after creation. */
#ifndef SL_WORKER_MAP_H
#define SL_WORKER_MAP_H

#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>

struct worker_map;

/* Holds at most n_max entries. SL_NO_MEMORY. */
sl_status worker_map_create(uint32_t n_max, struct worker_map **map_out) SL_MUST_USE;
void worker_map_destroy(struct worker_map *map);
void *worker_map_get(const struct worker_map *map, uint64_t key);
/* The key is not in it; false when the map is full. */
bool worker_map_put(struct worker_map *map, uint64_t key, void *value);
/* Does nothing for a key that is not in it. */
void worker_map_remove(struct worker_map *map, uint64_t key);

#endif

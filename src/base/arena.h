/* Arena: many small allocations with one lifetime (a request, a message, a rendering). Not
 * thread-safe. */
#ifndef SL_BASE_ARENA_H
#define SL_BASE_ARENA_H

#include <stddef.h>

struct sl_arena_chunk;
struct sl_arena {
    struct sl_arena_chunk *chunks; /* newest first */
    size_t chunk_bytes;
    size_t used_bytes; /* over all chunks */
    size_t bytes_max;  /* sl_arena_try_alloc returns NULL beyond */
};

/* First chunk is taken on the first allocation. */
void sl_arena_init(struct sl_arena *arena, size_t chunk_bytes, size_t bytes_max);
void sl_arena_fini(struct sl_arena *arena);
/* Zeroed, aligned to 16. NULL when bytes_max would be passed or memory is gone. */
void *sl_arena_try_alloc(struct sl_arena *arena, size_t n, size_t bytes);
/* NULL as above. The copy is NUL-terminated. */
char *sl_arena_try_strndup(struct sl_arena *arena, const char *text, size_t bytes);

#endif

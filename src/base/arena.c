/* Arena: a list of chunks, newest first; allocation moves a mark up in the newest one.
 *
 *   chunks ─► [head|aaaa|bb|....free....] ─► [head|cccccccc] ─► NULL
 *
 * Invariants: used_bytes is the sum of the chunks' used bytes and never passes bytes_max; every
 * pointer is aligned to 16. A request larger than chunk_bytes gets a chunk of its own size.
 * Under ASan what is free is poisoned, and a gap follows each allocation. One thread at a time. */
#include "base/arena.h"

#include "base/mem.h"
#include "base/status.h"

#include <stdint.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__)
#define ARENA_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ARENA_ASAN 1
#endif
#endif

#ifdef ARENA_ASAN
#include <sanitizer/asan_interface.h>
#define POISON(p, n)   ASAN_POISON_MEMORY_REGION((p), (n))
#define UNPOISON(p, n) ASAN_UNPOISON_MEMORY_REGION((p), (n))
#define GAP_BYTES      16
#else
#define POISON(p, n)   ((void)(p), (void)(n))
#define UNPOISON(p, n) ((void)(p), (void)(n))
#define GAP_BYTES      0
#endif

#define ALIGNMENT 16

struct sl_arena_chunk {
    _Alignas(ALIGNMENT) struct sl_arena_chunk *next;
    size_t bytes; /* behind the header */
    size_t used;
    _Alignas(ALIGNMENT) unsigned char data[];
};

void sl_arena_init(struct sl_arena *arena, size_t chunk_bytes, size_t bytes_max)
{
    SL_ASSERT(chunk_bytes >= ALIGNMENT);
    *arena = (struct sl_arena){.chunk_bytes = chunk_bytes, .bytes_max = bytes_max};
}

void sl_arena_fini(struct sl_arena *arena)
{
    while (arena->chunks != NULL) {
        struct sl_arena_chunk *next = arena->chunks->next;
        UNPOISON(arena->chunks->data, arena->chunks->bytes);
        sl_free(arena->chunks);
        arena->chunks = next;
    }
    arena->used_bytes = 0;
}

/* Puts a chunk of at least `bytes` in front; NULL without memory. */
static struct sl_arena_chunk *chunk_add(struct sl_arena *arena, size_t bytes)
{
    size_t size = bytes > arena->chunk_bytes ? bytes : arena->chunk_bytes;
    struct sl_arena_chunk *chunk = sl_try_realloc(NULL, 1, sizeof(*chunk) + size);
    if (chunk == NULL)
        return NULL;
    *chunk = (struct sl_arena_chunk){.next = arena->chunks, .bytes = size};
    POISON(chunk->data, size);
    arena->chunks = chunk;
    return chunk;
}

void *sl_arena_try_alloc(struct sl_arena *arena, size_t n, size_t bytes)
{
    size_t total;
    if (__builtin_mul_overflow(n, bytes, &total) || total > SIZE_MAX / 2)
        return NULL;
    size_t rounded = (total + GAP_BYTES + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1);
    if (rounded == 0)
        rounded = ALIGNMENT; /* a pointer of its own, also for nothing */
    if (rounded > arena->bytes_max || arena->used_bytes > arena->bytes_max - rounded)
        return NULL;
    struct sl_arena_chunk *chunk = arena->chunks;
    if (chunk == NULL || chunk->bytes - chunk->used < rounded)
        chunk = chunk_add(arena, rounded);
    if (chunk == NULL)
        return NULL;
    void *p = chunk->data + chunk->used;
    chunk->used += rounded;
    arena->used_bytes += rounded;
    UNPOISON(p, total);
    memset(p, 0, total);
    return p;
}

char *sl_arena_try_strndup(struct sl_arena *arena, const char *text, size_t bytes)
{
    if (bytes == SIZE_MAX)
        return NULL;
    char *copy = sl_arena_try_alloc(arena, 1, bytes + 1);
    if (copy != NULL && bytes > 0)
        memcpy(copy, text, bytes);
    return copy;
}

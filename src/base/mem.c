/* Allocation over the C library's heap; the only file that calls it.
 *
 * sl_try_* ask fault point "mem" first, so a torture run reaches every place that claims to survive
 * without memory. sl_zalloc and the string copies are for small things: a process that cannot have a
 * hundred bytes cannot report it either, and aborts. Any thread.
 *
 * Aligned memory of 2 MiB and more is aligned to 2 MiB, else the advice for huge pages would miss
 * the first and last of them; it is zeroed by touching it, so the pages are there before the first
 * request is. */
#include "base/mem.h"

#include "base/fault.h"
#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define HUGE_PAGE_BYTES ((size_t)2 << 20)

static void abort_without_memory(size_t n, size_t bytes)
{
    fprintf(stderr, "level=error event=out_of_memory n=%zu bytes=%zu\n", n, bytes);
    abort();
}

void *sl_zalloc(size_t n, size_t bytes)
{
    void *p = n == 0 || bytes == 0 ? calloc(1, 1) : calloc(n, bytes);
    if (p == NULL)
        abort_without_memory(n, bytes);
    return p;
}

void *sl_try_zalloc(size_t n, size_t bytes)
{
    size_t total; /* asked here, since the sanitizers' calloc ends the process instead */
    if (sl_fault_hit("mem", -1) || __builtin_mul_overflow(n, bytes, &total))
        return NULL;
    return n == 0 || bytes == 0 ? calloc(1, 1) : calloc(n, bytes);
}

void *sl_try_realloc(void *p, size_t n, size_t bytes)
{
    size_t total;
    if (sl_fault_hit("mem", -1) || __builtin_mul_overflow(n, bytes, &total))
        return NULL;
    return realloc(p, total == 0 ? 1 : total);
}

void *sl_try_aligned(size_t alignment, size_t bytes)
{
    SL_ASSERT(alignment >= 64 && (alignment & (alignment - 1)) == 0);
    if (sl_fault_hit("mem", -1))
        return NULL;
    if (bytes >= HUGE_PAGE_BYTES && alignment < HUGE_PAGE_BYTES)
        alignment = HUGE_PAGE_BYTES;
    void *p = NULL;
    if (posix_memalign(&p, alignment, bytes == 0 ? 1 : bytes) != 0)
        return NULL;
    if (bytes >= HUGE_PAGE_BYTES)
        (void)madvise(p, bytes & ~(HUGE_PAGE_BYTES - 1), MADV_HUGEPAGE); /* only advice */
    memset(p, 0, bytes);
    return p;
}

void sl_free(void *p)
{
    free(p);
}

char *sl_strdup(const char *text)
{
    size_t bytes = strlen(text) + 1;
    char *copy = sl_zalloc(1, bytes);
    memcpy(copy, text, bytes);
    return copy;
}

char *sl_asprintf(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    va_list again;
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    SL_ASSERT(n >= 0);
    char *text = sl_zalloc(1, (size_t)n + 1);
    vsnprintf(text, (size_t)n + 1, fmt, again);
    va_end(again);
    return text;
}

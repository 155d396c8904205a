/* Allocation. Small things abort when memory is gone; what input or configuration sizes may fail.
 * malloc and free are used only here. */
#ifndef SL_BASE_MEM_H
#define SL_BASE_MEM_H

#include <stddef.h>

/* Zeroed; never NULL: aborts with a message. For sizes known when the program is written. */
void *sl_zalloc(size_t n, size_t bytes);
/* Zeroed; NULL when memory is gone, n*bytes overflows, or fault point "mem" fires.
 * n * bytes == 0 gives a unique pointer. */
void *sl_try_zalloc(size_t n, size_t bytes);
/* Like realloc(p, n*bytes): grows or shrinks, new bytes undefined; NULL leaves p as it was. */
void *sl_try_realloc(void *p, size_t n, size_t bytes);
/* Aligned (power of two >= 64), zeroed, huge pages advised from 2 MiB on; NULL on failure. */
void *sl_try_aligned(size_t alignment, size_t bytes);
/* Any of the above; NULL is fine. */
void sl_free(void *p);
/* Copy of a string; never NULL. */
char *sl_strdup(const char *text);
/* Formatted copy; never NULL. */
char *sl_asprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif

/* Helpers that cmocka tests share. Brings cmocka and what it needs. */
#ifndef TESTS_SUPPORT_SUPPORT_H
#define TESTS_SUPPORT_SUPPORT_H

#include "base/mem.h"
#include "base/status.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

/* The thread sanitizer looks at every load and store, which makes arithmetic some fifty times slower and
 * shows nothing about it. Tests that mostly compute run fewer cases there, and say which. */
#ifdef __SANITIZE_THREAD__
#define TEST_TSAN true
#else
#define TEST_TSAN false
#endif
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define TEST_SLOW true
#else
#define TEST_SLOW false
#endif

/* The call succeeds; else the test fails with the sentence. */
#define assert_ok(call)                                                                            \
    do {                                                                                           \
        sl_status status_ = (call);                                                                \
        if (status_ != SL_OK)                                                                      \
            fail_msg("%s: %s %s", #call, sl_status_name(status_), sl_error());                     \
    } while (0)

/* The call fails with this code, and its sentence contains the part. */
#define assert_fails(call, code, part)                                                             \
    do {                                                                                           \
        sl_status status_ = (call);                                                                \
        if (status_ != (code))                                                                     \
            fail_msg("%s: %s, want %s (%s)", #call, sl_status_name(status_), sl_status_name(code), \
                     sl_error());                                                                  \
        if (strstr(sl_error(), (part)) == NULL)                                                    \
            fail_msg("%s: \"%s\" does not say \"%s\"", #call, sl_error(), (part));                 \
    } while (0)

/* A new empty directory; free with test_dir_remove(). */
static inline char *test_dir_create(void)
{
    const char *base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    char *path = sl_asprintf("%s/sluice-test-XXXXXX", base);
    if (mkdtemp(path) == NULL)
        fail_msg("mkdtemp %s", path);
    return path;
}

static inline char *test_path(const char *dir, const char *name)
{
    return sl_asprintf("%s/%s", dir, name);
}

static inline void test_write_file(const char *dir, const char *name, const void *bytes, size_t n)
{
    char *path = test_path(dir, name);
    FILE *file = fopen(path, "we");
    if (file == NULL || fwrite(bytes, 1, n, file) != n || fclose(file) != 0)
        fail_msg("cannot write %s", path);
    sl_free(path);
}

static inline void test_write_text(const char *dir, const char *name, const char *text)
{
    test_write_file(dir, name, text, strlen(text));
}

/* Removes the files in it, and it; no directories inside. */
static inline void test_dir_remove(char *dir)
{
    DIR *handle = opendir(dir);
    for (struct dirent *e; handle != NULL && (e = readdir(handle)) != NULL;) {
        char *path = test_path(dir, e->d_name);
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            (void)unlink(path);
        sl_free(path);
    }
    if (handle != NULL)
        closedir(handle);
    (void)rmdir(dir);
    sl_free(dir);
}

/* splitmix64: the tests' random numbers, the same on every machine. */
static inline uint64_t test_random(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

#endif

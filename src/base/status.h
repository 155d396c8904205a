/* Status codes and the sentence that goes with a failure.
 *
 * Every function that can fail returns sl_status. The first to detect a failure writes the sentence
 * with sl_fail(); callers pass the code on in silence. The sentence is thread-local: a completion
 * that runs on another thread copies it. */
#ifndef SL_BASE_STATUS_H
#define SL_BASE_STATUS_H

#define SL_MUST_USE     __attribute__((warn_unused_result))
#define SL_PRINTF(f, a) __attribute__((format(printf, f, a)))

#define SL_ERROR_BYTES_MAX 512 /* longer sentences are cut, and end in "..." */

/* Codes say what the caller can do. */
typedef enum sl_status {
    SL_OK = 0,
    SL_AGAIN,       /* not now; the same call may succeed later */
    SL_INVALID,     /* the argument, request or file is wrong; never retry unchanged */
    SL_NOT_FOUND,   /* the named thing does not exist */
    SL_EXHAUSTED,   /* a bound is reached: queue, pool, quota */
    SL_CANCELLED,   /* somebody asked for the end */
    SL_DEADLINE,    /* time ran out */
    SL_PEER,        /* the other process is gone or misbehaves */
    SL_DEVICE,      /* accelerator or operating system call failed */
    SL_CORRUPT,     /* stored or received bytes contradict themselves */
    SL_NO_MEMORY,   /* an allocation sized by input or configuration failed */
    SL_UNSUPPORTED, /* understood, but this build or version cannot */
    SL_STATUS_COUNT
} sl_status;

/* Writes the sentence of this thread's failure and returns `code` (which must not be SL_OK). */
sl_status sl_fail(sl_status code, const char *fmt, ...) SL_PRINTF(2, 3);

/* The sentence of the last sl_fail() on this thread; "" if none. Valid until the next sl_fail(). */
const char *sl_error(void);

/* "INVALID" for SL_INVALID, …: used in logs, metrics labels and error bodies. */
const char *sl_status_name(sl_status status);

/* A foreign text for a sentence: itself, or of a long one the beginning and "..." in `out`, so that what stands
 * behind it is not cut off. */
#define SL_SHOWN_BYTES 128
const char *sl_shown(const char *text, char out[SL_SHOWN_BYTES]);

/* gRPC status code (3, 5, 8, …) of a code. */
int sl_status_grpc(sl_status status);

/* Our own bug: prints expression, file and line, and aborts. Also in release builds. */
#define SL_ASSERT(cond)                                                                            \
    do {                                                                                           \
        if (__builtin_expect(!(cond), 0))                                                          \
            sl_assert_failed(#cond, __FILE__, __LINE__);                                           \
    } while (0)
void sl_assert_failed(const char *expression, const char *file, int line) __attribute__((noreturn));

#endif

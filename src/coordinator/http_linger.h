/* Sockets of refused uploads, after their connections are done: part of http.c. */
#ifndef SL_COORDINATOR_HTTP_LINGER_H
#define SL_COORDINATOR_HTTP_LINGER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define HTTP_LINGERS_MAX 64u          /* further ones are closed at once */
#define HTTP_LINGER_TAG  (1ull << 63) /* in the user data of their epoll events */

struct http_lingerer {
    int fd; /* -1: free */
    uint64_t deadline_us;
};

struct http_lingers {
    int watch_fd;
    pthread_mutex_t mutex;
    struct http_lingerer list[HTTP_LINGERS_MAX];
};

/* watch_fd: the epoll instance that tells of them; borrowed. */
void http_lingers_init(struct http_lingers *lingers, int watch_fd);
/* Closes all. */
void http_lingers_fini(struct http_lingers *lingers);
/* A duplicate of the socket. Any thread. */
void http_lingers_add(struct http_lingers *lingers, int fd);
/* What came for the one with this tag. The watcher. */
void http_lingers_read(struct http_lingers *lingers, uint64_t tag);
/* Closes those whose time is over. The watcher. */
void http_lingers_sweep(struct http_lingers *lingers);

#endif

/* A close with unread bytes resets the connection, and the reset overtakes the answer. A refused upload therefore
 * *lingers*: a duplicate of its descriptor is read to the end, for at most LINGER_US, so that its client gets to
 * read why. The watcher of http.c reads, and HTTP threads add; the mutex covers the list. */
#include "coordinator/http_linger.h"

#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define LINGER_US (2 * SL_SECOND_US)

void http_lingers_init(struct http_lingers *lingers, int watch_fd)
{
    lingers->watch_fd = watch_fd;
    pthread_mutex_init(&lingers->mutex, NULL);
    for (uint32_t i = 0; i < HTTP_LINGERS_MAX; i++)
        lingers->list[i].fd = -1;
}

static void end(struct http_lingers *lingers, struct http_lingerer *linger)
{
    epoll_ctl(lingers->watch_fd, EPOLL_CTL_DEL, linger->fd, NULL);
    close(linger->fd);
    linger->fd = -1;
}

void http_lingers_fini(struct http_lingers *lingers)
{
    for (uint32_t i = 0; i < HTTP_LINGERS_MAX; i++)
        if (lingers->list[i].fd >= 0)
            end(lingers, &lingers->list[i]);
    pthread_mutex_destroy(&lingers->mutex);
}

void http_lingers_add(struct http_lingers *lingers, int fd)
{
    pthread_mutex_lock(&lingers->mutex);
    for (uint32_t i = 0; i < HTTP_LINGERS_MAX; i++) {
        struct http_lingerer *linger = &lingers->list[i];
        if (linger->fd >= 0)
            continue;
        linger->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
        if (linger->fd < 0)
            break;
        linger->deadline_us = sl_real_us() + LINGER_US;
        struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP,
                                    .data.u64 = HTTP_LINGER_TAG | i};
        if (epoll_ctl(lingers->watch_fd, EPOLL_CTL_ADD, linger->fd, &event) != 0) {
            close(linger->fd);
            linger->fd = -1;
        }
        break;
    }
    pthread_mutex_unlock(&lingers->mutex);
}

void http_lingers_read(struct http_lingers *lingers, uint64_t tag)
{
    char junk[16384];
    pthread_mutex_lock(&lingers->mutex);
    struct http_lingerer *linger = &lingers->list[(uint32_t)tag];
    for (int i = 0; i < 16 && linger->fd >= 0; i++) {
        ssize_t n = recv(linger->fd, junk, sizeof(junk), MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            break;
        if (n <= 0)
            end(lingers, linger);
    }
    pthread_mutex_unlock(&lingers->mutex);
}

void http_lingers_sweep(struct http_lingers *lingers)
{
    uint64_t now = sl_real_us();
    pthread_mutex_lock(&lingers->mutex);
    for (uint32_t i = 0; i < HTTP_LINGERS_MAX; i++)
        if (lingers->list[i].fd >= 0 && now >= lingers->list[i].deadline_us)
            end(lingers, &lingers->list[i]);
    pthread_mutex_unlock(&lingers->mutex);
}

/* What the transfer of KV blocks reaches between two processes of this machine, by piece size: over UCX
 * with tcp and with shared memory, beside what bounds it here, in the same run: memcpy and a plain TCP
 * socket that is written and read in pieces of the same size.
 *
 *   bench-transfer [SECONDS]        a row for each piece size; GB/s = 1e9 bytes a second
 *
 * UCX reads its environment once, so each transport runs in a process of its own (this program with
 * another first argument), and the destination in a child of that. A figure is the bytes of whole
 * streams (open to acknowledgement, digests off) over the time they took, one stream at a time. */
#include "transfer/transfer.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"
#include "device/device.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define LAYERS       4u
#define POOL_BYTES   ((size_t)64 << 20)
#define BLOCK_TOKENS 16u

static const size_t sizes[] = {4096, 16384, 65536, 262144, 1048576, 4194304};
#define N_SIZES (sizeof(sizes) / sizeof(sizes[0]))
static const char *const transports[] = {"tcp,self", "sysv,posix,self"};
#define N_TRANSPORTS (sizeof(transports) / sizeof(transports[0]))

static double seconds = 0.5; /* of each figure */

static void die(const char *what)
{
    fprintf(stderr, "bench-transfer: %s: %s %s\n", what, strerror(errno), sl_error());
    exit(1);
}

static void write_all(int fd, const void *from, size_t n)
{
    for (size_t at = 0; at < n;) {
        ssize_t w = write(fd, (const uint8_t *)from + at, n - at);
        if (w <= 0)
            die("write");
        at += (size_t)w;
    }
}

/* False at the end of the stream. */
static bool read_all(int fd, void *to, size_t n)
{
    for (size_t at = 0; at < n;) {
        ssize_t r = read(fd, (uint8_t *)to + at, n - at);
        if (r <= 0)
            return false;
        at += (size_t)r;
    }
    return true;
}

/* ---- the bounds ---- */

static double run_memcpy(size_t piece)
{
    uint8_t *from = sl_try_aligned(4096, POOL_BYTES), *to = sl_try_aligned(4096, POOL_BYTES);
    if (from == NULL || to == NULL)
        die("memory");
    memset(from, 1, POOL_BYTES);
    memset(to, 2, POOL_BYTES);
    uint64_t begun = sl_real_us(), bytes = 0;
    while ((double)(sl_real_us() - begun) < seconds * 1e6) {
        for (size_t at = 0; at < POOL_BYTES; at += piece)
            memcpy(to + at, from + at, piece);
        bytes += POOL_BYTES;
    }
    double rate = (double)bytes / (double)(sl_real_us() - begun) / 1e3;
    sl_free(from);
    sl_free(to);
    return rate;
}

static void socket_reader(int fd, size_t piece)
{
    uint8_t *to = sl_try_aligned(4096, POOL_BYTES);
    size_t at = 0;
    while (read_all(fd, to + at, piece))
        at = (at + piece) % POOL_BYTES;
    _exit(0);
}

static int connected_pair(int *other_out)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof(address);
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0), fd = socket(AF_INET, SOCK_STREAM, 0);
    if (listener < 0 || fd < 0 || bind(listener, (struct sockaddr *)&address, n) != 0 ||
        listen(listener, 1) != 0 || getsockname(listener, (struct sockaddr *)&address, &n) != 0 ||
        connect(fd, (struct sockaddr *)&address, n) != 0)
        die("socket");
    *other_out = accept(listener, NULL, NULL);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    close(listener);
    return fd;
}

static double run_socket(size_t piece)
{
    int other, fd = connected_pair(&other);
    pid_t pid = fork();
    if (pid == 0) {
        close(fd);
        socket_reader(other, piece);
    }
    close(other);
    uint8_t *from = sl_try_aligned(4096, POOL_BYTES);
    memset(from, 1, POOL_BYTES);
    uint64_t begun = sl_real_us(), bytes = 0;
    while ((double)(sl_real_us() - begun) < seconds * 1e6) {
        for (size_t at = 0; at < POOL_BYTES; at += piece)
            write_all(fd, from + at, piece);
        bytes += POOL_BYTES;
    }
    shutdown(fd, SHUT_WR);
    waitpid(pid, NULL, 0); /* the reader has read all */
    double rate = (double)bytes / (double)(sl_real_us() - begun) / 1e3;
    close(fd);
    sl_free(from);
    return rate;
}

/* ---- the transfer ---- */

struct node {
    struct device *device;
    struct device_memory pool;
    struct transfer *transfer;
    uint32_t n_blocks;
};

static void start_node(struct node *node, const char *name, uint64_t incarnation, size_t piece)
{
    node->n_blocks = (uint32_t)(POOL_BYTES / (LAYERS * piece));
    if (device_create(DEVICE_HOST, 0, 0, &node->device) != SL_OK ||
        device_alloc(node->device, POOL_BYTES, &node->pool) != SL_OK)
        die("device");
    memset(node->pool.address, 1, POOL_BYTES);
    struct transfer_args args = {
        .transport = "ucx",
        .node_id = name,
        .incarnation = incarnation,
        .block_tokens = BLOCK_TOKENS,
        .n_classes = 1,
        .classes = {{.pool = &node->pool,
                     .n_blocks = node->n_blocks,
                     .n_layers = LAYERS,
                     .layer_bytes = piece}},
        .layers_per_piece = 1,
    };
    transfer_limits_default(&args.limits);
    if (transfer_create(&args, &node->transfer) != SL_OK)
        die("transfer_create");
}

static void stop_node(struct node *node)
{
    transfer_destroy(node->transfer);
    device_free(&node->pool);
    device_destroy(node->device);
}

static void send_address(int fd, const struct node *node)
{
    const void *address;
    size_t bytes;
    transfer_address(node->transfer, &address, &bytes);
    write_all(fd, &bytes, sizeof(bytes));
    write_all(fd, address, bytes);
}

static uint8_t peer_address[TRANSFER_ADDRESS_BYTES_MAX];

static struct transfer_peer receive_address(int fd, const char *name, uint64_t incarnation)
{
    size_t bytes;
    if (!read_all(fd, &bytes, sizeof(bytes)) || bytes > sizeof(peer_address) ||
        !read_all(fd, peer_address, bytes))
        die("address");
    return (struct transfer_peer){.node_id = name,
                                  .incarnation = incarnation,
                                  .address = peer_address,
                                  .address_bytes = bytes};
}

static void check(sl_status status)
{
    if (status != SL_OK)
        die("transfer");
}

/* Admits every stream that is opened, and gives each block as the ring has space for it. */
static void destination(int in, int out, size_t piece, uint64_t incarnation)
{
    struct node node;
    start_node(&node, "d0", incarnation + 1, piece);
    struct transfer_peer from = receive_address(in, "p0", incarnation);
    send_address(out, &node);
    uint32_t next = 0;
    struct transfer_block ids[TRANSFER_RING_BLOCKS_MAX];
    struct transfer_event event;
    while (getppid() != 1) {
        if (!transfer_poll(node.transfer, &event)) {
            sl_sleep_us(20);
            continue;
        }
        if (event.type == TRANSFER_EVENT_OPENED) {
            struct transfer_recv_args args = {.key = event.key,
                                              .attempt = 1,
                                              .peer = from,
                                              .n_blocks = node.n_blocks,
                                              .n_tokens = node.n_blocks * BLOCK_TOKENS};
            uint32_t n =
                node.n_blocks < TRANSFER_RING_BLOCKS_MAX ? node.n_blocks : TRANSFER_RING_BLOCKS_MAX;
            for (next = 0; next < n; next++)
                ids[next] = (struct transfer_block){0, next};
            check(transfer_recv_expect(node.transfer, &args));
            check(transfer_recv_admit(node.transfer, event.key, args.first_block, ids, n));
        } else if (event.type == TRANSFER_EVENT_TAKEN && next < node.n_blocks) {
            ids[0] = (struct transfer_block){0, next++};
            check(transfer_recv_refill(node.transfer, event.key, ids, 1));
        }
    }
    _exit(0);
}

static void one_stream(struct node *node, const struct transfer_peer *to, const uint32_t *blocks,
                       uint64_t key)
{
    struct transfer_send_args args = {.key = key,
                                      .attempt = 1,
                                      .peer = *to,
                                      .n_blocks = node->n_blocks,
                                      .n_tokens = node->n_blocks * BLOCK_TOKENS,
                                      .blocks = {blocks}};
    const uint32_t layers[1] = {LAYERS};
    check(transfer_send_open(node->transfer, &args));
    check(transfer_send_ready(node->transfer, key, 0, node->n_blocks, layers));
    const struct transfer_token token = {.id = 1, .index = 1, .compute_end_us = sl_now_us()};
    check(transfer_send_token(node->transfer, key, &token));
    struct transfer_event event = {0};
    while (event.type != TRANSFER_EVENT_SEND_ENDED) {
        if (!transfer_poll(node->transfer, &event))
            sl_sleep_us(20);
        else if (event.type == TRANSFER_EVENT_FAILED)
            die(transfer_reason_name(event.reason));
    }
}

static double run_transfer(size_t piece, uint64_t incarnation)
{
    int to[2], from[2];
    if (pipe(to) != 0 || pipe(from) != 0)
        die("pipe");
    pid_t pid = fork(); /* before this process has started UCX */
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        destination(to[0], from[1], piece, incarnation);
    }
    struct node node;
    start_node(&node, "p0", incarnation, piece);
    send_address(to[1], &node);
    struct transfer_peer peer = receive_address(from[0], "d0", incarnation + 1);
    uint32_t *blocks = sl_zalloc(node.n_blocks, sizeof(*blocks));
    for (uint32_t i = 0; i < node.n_blocks; i++)
        blocks[i] = i;
    one_stream(&node, &peer, blocks, 1); /* makes the session */
    uint64_t begun = sl_real_us(), bytes = 0, key = 2;
    while ((double)(sl_real_us() - begun) < seconds * 1e6) {
        one_stream(&node, &peer, blocks, key++);
        bytes += POOL_BYTES;
    }
    double rate = (double)bytes / (double)(sl_real_us() - begun) / 1e3;
    stop_node(&node);
    sl_free(blocks);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    return rate;
}

/* ---- one figure in a process of its own ---- */

static double run_apart(const char *self, const char *tls, size_t piece)
{
    int result[2];
    char size[24], time[24], fd[16];
    if (pipe(result) != 0)
        die("pipe");
    snprintf(size, sizeof(size), "%zu", piece);
    snprintf(time, sizeof(time), "%f", seconds);
    snprintf(fd, sizeof(fd), "%d", result[1]);
    pid_t pid = fork();
    if (pid == 0) {
        setenv("UCX_TLS", tls, 1);
        execl(self, self, "one", size, time, fd, (char *)NULL);
        _exit(127);
    }
    close(result[1]);
    double rate = 0;
    if (!read_all(result[0], &rate, sizeof(rate)))
        rate = 0; /* printed as 0: the reason is on standard error */
    close(result[0]);
    waitpid(pid, NULL, 0);
    return rate;
}

int main(int argc, char **argv)
{
    sl_log_set_level(SL_LOG_ERROR);
    signal(SIGPIPE, SIG_IGN);
    if (argc == 5 && strcmp(argv[1], "one") == 0) {
        seconds = strtod(argv[3], NULL);
        double rate = run_transfer((size_t)strtoull(argv[2], NULL, 10), 1000);
        write_all((int)strtol(argv[4], NULL, 10), &rate, sizeof(rate));
        return 0;
    }
    if (argc > 1)
        seconds = strtod(argv[1], NULL);
    static char self[512];
    if (seconds <= 0 || readlink("/proc/self/exe", self, sizeof(self) - 1) <= 0)
        die("usage: bench-transfer [SECONDS]");
    printf("GB/s; %u MiB a stream; %u CPUs\n", (unsigned)(POOL_BYTES >> 20), sl_cpu_count());
    printf("%10s %10s %10s %10s %10s\n", "piece KiB", "memcpy", "socket", "ucx tcp", "ucx shm");
    for (size_t i = 0; i < N_SIZES; i++) {
        printf("%10zu %10.2f %10.2f", sizes[i] / 1024, run_memcpy(sizes[i]), run_socket(sizes[i]));
        fflush(stdout);
        for (size_t t = 0; t < N_TRANSPORTS; t++)
            printf(" %10.2f", run_apart(self, transports[t], sizes[i]));
        printf("\n");
    }
    return 0;
}

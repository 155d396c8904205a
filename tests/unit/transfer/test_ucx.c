/* Two transfers over real UCX, in one process and in two. UCX reads its environment once, so each case
 * runs in a process of its own: this program starts itself with the case's name and a UCX_TLS, for tcp
 * and for shared memory. The receive is watched by a wrapper around UCX's own function (linked with
 * --wrap): that it is called at all shows the rendezvous path, and its arguments say where bytes go. */
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "rig.h"
#include "support/torture.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <ucp/api/ucp.h>
#include <unistd.h>

#include <cmocka.h>

#ifdef __SANITIZE_ADDRESS__
#define SLOW 4
#else
#define SLOW 1
#endif
#define WAIT_US     (8 * SLOW * SL_SECOND_US)
#define SIGNAL_KEY  UINT64_MAX /* less a signal: the key of no stream */
#define LAYERS      4u
#define LARGE_LAYER ((size_t)256 << 10)
#define BLOCK       ((size_t)LAYERS * layer_bytes)
#define RING        "8" /* entries of a ring in shared memory, for the cases that fill it */
#define PROBE       ((uint64_t)4 << 20)
#define OFFERS      4 /* after which the stopping source stops */

static struct rig_node a, b;
static struct rig_node *both[] = {&a, &b};
static const char *self_path;
static size_t layer_bytes = 4096;

/* ---- the watched receive ---- */

struct receive {
    const void *to;
    size_t bytes;
};
static struct receive receives[4096];
static _Atomic uint32_t n_receives;
static _Atomic bool send_eagerly;
static _Atomic uint32_t
    stop_after; /* this process stops itself in the nth data call from now; 0: never */

static void maybe_stop(void)
{
    uint32_t left = stop_after;
    if (left == 0)
        return;
    stop_after = left - 1;
    if (left == 1)
        raise(SIGSTOP);
}

void *__real_ucp_am_recv_data_nbx(ucp_worker_h worker, void *data_desc, void *buffer, size_t count,
                                  const ucp_request_param_t *param);
void *__wrap_ucp_am_recv_data_nbx(ucp_worker_h worker, void *data_desc, void *buffer, size_t count,
                                  const ucp_request_param_t *param);
void *__wrap_ucp_am_recv_data_nbx(ucp_worker_h worker, void *data_desc, void *buffer, size_t count,
                                  const ucp_request_param_t *param)
{
    uint32_t i = n_receives++;
    if (i < sizeof(receives) / sizeof(receives[0]))
        receives[i] = (struct receive){.to = buffer, .bytes = count};
    void *result = __real_ucp_am_recv_data_nbx(worker, data_desc, buffer, count, param);
    maybe_stop(); /* a source never comes here */
    return result;
}

void *__real_ucp_am_send_nbx(ucp_ep_h ep, unsigned id, const void *header, size_t header_length,
                             const void *buffer, size_t count, const ucp_request_param_t *param);
void *__wrap_ucp_am_send_nbx(ucp_ep_h ep, unsigned id, const void *header, size_t header_length,
                             const void *buffer, size_t count, const ucp_request_param_t *param);
/* A peer that breaks the rule: its offers are eager. Or one that stops behind an offer. */
void *__wrap_ucp_am_send_nbx(ucp_ep_h ep, unsigned id, const void *header, size_t header_length,
                             const void *buffer, size_t count, const ucp_request_param_t *param)
{
    ucp_request_param_t changed = *param;
    if (send_eagerly && (param->flags & UCP_AM_SEND_FLAG_RNDV))
        changed.flags = (param->flags & ~(uint32_t)UCP_AM_SEND_FLAG_RNDV) | UCP_AM_SEND_FLAG_EAGER;
    void *result = __real_ucp_am_send_nbx(ep, id, header, header_length, buffer, count, &changed);
    if (param->flags & UCP_AM_SEND_FLAG_RNDV)
        maybe_stop();
    return result;
}

/* ---- helpers ---- */

struct pair {
    struct rig_job *send, *recv;
};

/* Ids of a refill that crossed the end come back after it. */
static bool job_over(void *arg)
{
    struct rig_job *job = arg;
    return job->ended && (job->side == RIG_SOURCE || job->sealed || job->n_out == 0);
}

static bool pair_over(void *arg)
{
    struct pair *pair = arg;
    return job_over(pair->send) && job_over(pair->recv);
}

static bool send_wanted(void *arg)
{
    struct rig_job *job = arg;
    return job->wanted || job->failed;
}

static bool all_taken(void *arg)
{
    struct rig_job *job = arg;
    return job->n_taken == job->n_blocks;
}

static bool recv_some(void *arg)
{
    struct rig_job *job = arg;
    return job->n_landed > 0 || job->failed;
}

static bool recv_failed(void *arg)
{
    return ((struct rig_job *)arg)->failed;
}

static bool never(void *arg)
{
    (void)arg;
    return false;
}

static void quick_limits(struct transfer_limits *limits)
{
    transfer_limits_default(limits);
    limits->beat_us = 50 * SL_MS_US;
    limits->suspect_us = 200 * SLOW * SL_MS_US;
    limits->dead_us = 400 * SLOW * SL_MS_US;
    limits->open_us = 3 * SLOW * SL_SECOND_US;
    limits->reconnect_min_us = 20 * SL_MS_US;
    limits->drain_us = SL_SECOND_US;
}

static bool patient; /* the default limits */
static uint64_t probe_bytes;

static struct rig_options options_of(const char *name, uint64_t incarnation)
{
    static struct transfer_limits limits;
    quick_limits(&limits);
    if (patient)
        transfer_limits_default(&limits);
    return (struct rig_options){.transport = "ucx",
                                .name = name,
                                .incarnation = incarnation,
                                .n_layers = LAYERS,
                                .layer_bytes = layer_bytes,
                                .threaded = true,
                                .probe_bytes = probe_bytes,
                                .limits = &limits};
}

static void start_pair(bool verify)
{
    struct rig_options options = options_of("p0", 0x1111);
    options.verify = verify;
    rig_start(&a, &options);
    options = options_of("d0", 0x2222);
    options.verify = verify;
    rig_start(&b, &options);
}

static void stop_pair(void)
{
    assert_int_equal(rig_free_blocks(&a), 64);
    assert_int_equal(rig_free_blocks(&b), 64);
    rig_stop(&a);
    rig_stop(&b);
}

static struct pair begin(uint64_t key, uint32_t n_tokens, uint32_t first)
{
    struct transfer_peer pa = rig_peer(&a), pb = rig_peer(&b);
    struct pair pair;
    pair.recv = rig_expect(&b, &pa, key, n_tokens);
    pair.send = rig_send(&a, &pb, key, n_tokens);
    rig_admit(&b, pair.recv, first, 4);
    return pair;
}

static void run_to_end(struct pair *pair)
{
    rig_ready_all(&a, pair->send);
    rig_token(&a, pair->send, 99);
    assert_true(rig_run(both, 2, pair_over, pair, WAIT_US));
}

static void whole_stream(uint64_t key, uint32_t n_tokens, uint32_t first)
{
    struct pair pair = begin(key, n_tokens, first);
    run_to_end(&pair);
    assert_true(pair.send->acked && pair.recv->sealed);
    assert_int_equal(pair.recv->token, 99);
    assert_int_equal(pair.recv->token_index, 5);
    assert_int_equal(pair.send->stats.bytes, pair.recv->stats.bytes);
    assert_int_equal(pair.recv->stats.bytes, (pair.recv->n_blocks - first) * BLOCK);
    rig_release(&b, pair.recv);
}

/* ---- cases: one process ---- */

static bool contains(uint64_t from, uint64_t bytes, const void *to)
{
    return (uint64_t)(uintptr_t)to >= from && (uint64_t)(uintptr_t)to < from + bytes;
}

/* Each receive goes to one layer of one of the stream's blocks, and all of them are there. */
static void check_receives(const struct rig_job *job)
{
    uint64_t pool = (uint64_t)(uintptr_t)b.pools[0].address;
    assert_int_equal(n_receives, (job->n_blocks - job->first_block[0]) * LAYERS);
    uint32_t seen[RIG_STREAM_MAX][LAYERS] = {{0}};
    for (uint32_t i = 0; i < n_receives; i++) {
        assert_true(contains(pool, b.pools[0].bytes, receives[i].to));
        uint64_t offset = (uint64_t)(uintptr_t)receives[i].to - pool;
        assert_int_equal(offset % layer_bytes, 0);
        assert_int_equal(receives[i].bytes, layer_bytes);
        uint32_t id = (uint32_t)(offset / BLOCK), layer = (uint32_t)(offset % BLOCK / layer_bytes);
        uint32_t index = job->first_block[0];
        while (index < job->n_blocks && job->blocks[0][index] != id)
            index++;
        assert_true(index < job->n_blocks);
        seen[index][layer]++;
    }
    for (uint32_t index = job->first_block[0]; index < job->n_blocks; index++) {
        for (uint32_t layer = 0; layer < LAYERS; layer++)
            assert_int_equal(seen[index][layer], 1);
    }
}

static void case_stream(void **state)
{
    (void)state;
    start_pair(true);
    struct pair pair = begin(77, 16 * 40, 2);
    run_to_end(&pair);
    assert_true(pair.recv->sealed);
    check_receives(pair.recv);
    rig_release(&b, pair.recv);
    whole_stream(78, 1, 0);
    whole_stream(79, 160, 10); /* lacks nothing */
    whole_stream(80, 1000, 0);
    assert_true(rig_metric(&a, "kv_transfer_bytes_total", "side=\"send\"") ==
                rig_metric(&b, "kv_transfer_bytes_total", "side=\"recv\""));
    struct transfer_totals totals[4];
    assert_int_equal(transfer_totals_read(b.transfer, totals, 4), 2);
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(totals[i].streams, totals[i].send ? 0 : 4);
        assert_int_equal(totals[i].bytes, totals[i].send ? 0 : (38 + 1 + 63) * BLOCK);
    }
    stop_pair();
}

static double limit_of(struct rig_node *node, const char *side)
{
    return rig_metric(node, "kv_link_limit_bytes_per_second", side);
}

static bool is_probed(void *arg)
{
    (void)arg;
    return limit_of(&a, "side=\"send\"") > 0;
}

/* The link is probed while the stream that opened it waits; both ends say the same, and what the probe
 * carried counts as no piece. */
static void case_probe(void **state)
{
    (void)state;
    patient = true;
    probe_bytes = PROBE;
    struct rig_options options = options_of("p0", 0x1111);
    rig_start(&a, &options);
    probe_bytes = 1; /* takes what is larger all the same */
    options = options_of("d0", 0x2222);
    rig_start(&b, &options);
    struct transfer_peer from = rig_peer(&a), to = rig_peer(&b);
    struct pair pair = {.recv = rig_expect(&b, &from, 5, 90)};
    pair.send = rig_send(&a, &to, 5, 90);
    assert_true(rig_run(both, 2, is_probed, NULL, WAIT_US));
    assert_false(pair.send->wanted);
    double limit = limit_of(&a, "side=\"send\"");
    assert_true(limit == limit_of(&b, "side=\"recv\"") && limit > 1e6);
    assert_true(limit_of(&a, "side=\"recv\"") == 0);
    assert_int_equal(n_receives, 5);
    for (uint32_t i = 0; i < 5; i++) {
        assert_int_equal(receives[i].bytes, i == 0 ? 64 << 10 : 1 << 20);
        assert_ptr_equal(receives[i].to, receives[0].to);
    }
    rig_admit(&b, pair.recv, 0, 6);
    run_to_end(&pair);
    assert_true(pair.recv->sealed);
    rig_release(&b, pair.recv);
    whole_stream(6, 90, 0);
    assert_true(rig_metric(&b, "kv_transfer_bytes_total", NULL) == (double)(12 * BLOCK));
    stop_pair();
}

/* Pools that only the transport and the device's own copies may touch. */
static void case_fake_memory(void **state)
{
    (void)state;
    struct rig_options options = options_of("p0", 0x1111);
    options.kind = DEVICE_FAKE;
    rig_start(&a, &options);
    options = options_of("d0", 0x2222);
    options.kind = DEVICE_FAKE;
    rig_start(&b, &options);
    whole_stream(3, 90, 1);
    stop_pair();
}

static void case_layers_overlap(void **state)
{
    (void)state;
    start_pair(false);
    struct pair pair = begin(5, 16 * 40, 0);
    /* With only the first two layers final, exactly they land, of every block. */
    assert_int_equal(transfer_send_ready(a.transfer, 5, 0, 40, RIG_LAYERS(2)), SL_OK);
    uint64_t begun = sl_real_us();
    while (rig_metric(&b, "kv_transfer_pieces_total", "side=\"recv\"") < 80 &&
           sl_real_us() - begun < WAIT_US) {
        (void)rig_turn(&a);
        (void)rig_turn(&b);
    }
    assert_true(rig_metric(&b, "kv_transfer_pieces_total", "side=\"recv\"") == 80);
    assert_true(rig_run(both, 2, all_taken, pair.recv, WAIT_US));
    assert_int_equal(pair.recv->n_landed, 0);
    run_to_end(&pair);
    assert_true(pair.recv->sealed);
    rig_release(&b, pair.recv);
    stop_pair();
}

static void case_cancel(void **state)
{
    (void)state;
    start_pair(false);
    for (uint64_t key = 1; key <= 6; key++) {
        struct pair pair = begin(key, 16 * 30, 0);
        if (key % 3 != 0)
            assert_int_equal(transfer_send_ready(a.transfer, key, 0, 20, RIG_LAYERS(2)), SL_OK);
        if (key % 3 == 1)
            assert_true(rig_run(both, 2, send_wanted, pair.send, WAIT_US));
        if (key % 2 == 0)
            assert_int_equal(transfer_send_cancel(a.transfer, key, TRANSFER_CANCELLED), SL_OK);
        else
            assert_int_equal(transfer_recv_cancel(b.transfer, key, TRANSFER_CANCELLED), SL_OK);
        assert_true(rig_run(both, 2, pair_over, &pair, WAIT_US));
        assert_false(pair.recv->sealed);
    }
    whole_stream(50, 333, 0);
    stop_pair();
}

static void case_spoilt(void **state)
{
    (void)state;
    for (uint32_t verify = 0; verify < 2; verify++) {
        start_pair(verify == 1);
        assert_int_equal(sl_fault_configure("transfer_spoil@3=always"), SL_OK);
        struct pair pair = begin(9, 16 * 6, 0);
        run_to_end(&pair);
        sl_fault_clear();
        assert_int_equal(pair.recv->sealed, verify == 0);
        if (verify == 1) {
            assert_int_equal(pair.recv->reason, TRANSFER_CORRUPT);
            assert_int_equal(pair.send->reason, TRANSFER_CORRUPT);
        } else {
            assert_false(rig_equal(&b, 9, 0, 3, pair.recv->blocks[0][3]));
            rig_fill(&b, 9, 0, 3, pair.recv->blocks[0][3]);
            rig_release(&b, pair.recv);
        }
        stop_pair();
    }
}

static void case_send_fails(void **state)
{
    (void)state;
    start_pair(false);
    assert_int_equal(sl_fault_configure("transfer_send@4=always"), SL_OK);
    struct pair pair = begin(9, 16 * 6, 0);
    run_to_end(&pair);
    sl_fault_clear();
    assert_false(pair.recv->sealed);
    assert_int_equal(pair.send->reason, TRANSFER_LOST);
    whole_stream(10, 100, 0);
    stop_pair();
}

static void case_mismatch(void **state)
{
    (void)state;
    struct rig_options options = options_of("p0", 0x1111);
    rig_start(&a, &options);
    options = options_of("d0", 0x2222);
    options.identity = 1;
    rig_start(&b, &options);
    struct pair pair = begin(9, 16 * 6, 0);
    assert_true(rig_run(both, 2, job_over, pair.send, WAIT_US));
    assert_int_equal(pair.send->reason, TRANSFER_MISMATCH);
    assert_int_equal(transfer_recv_cancel(b.transfer, 9, TRANSFER_DEADLINE), SL_OK);
    assert_true(rig_run(both, 2, pair_over, &pair, WAIT_US));
    stop_pair();
}

static void case_eager(void **state)
{
    (void)state;
    probe_bytes = PROBE;
    start_pair(false);
    send_eagerly = true;
    struct pair pair = begin(9, 16 * 6, 0);
    run_to_end(&pair);
    assert_false(pair.recv->sealed);
    assert_int_equal(pair.recv->reason, TRANSFER_MISBEHAVED);
    assert_int_equal(n_receives, 0);
    assert_true(rig_metric(&b, "kv_transfer_misbehaviour_total", NULL) > 0);
    send_eagerly = false;
    stop_pair();
}

/* A stream that begins while the two sides still make up may be lost with a session that one of them
 * gave up; a new attempt soon succeeds. */
static void stream_again(uint64_t key)
{
    for (uint64_t attempt = 0; attempt < 8; attempt++) {
        struct pair pair = begin(key + 1000 * attempt, 200, 0);
        rig_ready_all(&a, pair.send);
        rig_token(&a, pair.send, 99);
        assert_true(rig_run(both, 2, job_over, pair.send, WAIT_US));
        if (!pair.send->acked)
            assert_int_equal(transfer_recv_cancel(b.transfer, pair.recv->key, TRANSFER_CANCELLED),
                             SL_OK);
        assert_true(rig_run(both, 2, pair_over, &pair, WAIT_US));
        if (pair.recv->sealed)
            rig_release(&b, pair.recv);
        if (pair.send->acked)
            return;
    }
    fail_msg("no stream succeeds any more");
}

/* Beats stop, both sides give the session up, and the next stream makes a new one; again and again. */
static void case_reconnect(void **state)
{
    (void)state;
    start_pair(true);
    whole_stream(1, 200, 0);
    for (uint64_t key = 2; key < 4; key++) {
        double before = rig_metric(&a, "kv_transfer_sessions_lost_total", NULL) +
                        rig_metric(&b, "kv_transfer_sessions_lost_total", NULL);
        struct pair pair = begin(key * 100, 16 * 30, 0);
        assert_int_equal(transfer_send_ready(a.transfer, key * 100, 0, 20, RIG_LAYERS(2)), SL_OK);
        assert_int_equal(sl_fault_configure("transfer_beat=always"), SL_OK);
        assert_true(rig_run(both, 2, pair_over, &pair, WAIT_US));
        assert_int_equal(pair.send->reason, TRANSFER_LOST);
        sl_fault_clear();
        assert_true(rig_metric(&a, "kv_transfer_sessions_lost_total", NULL) +
                        rig_metric(&b, "kv_transfer_sessions_lost_total", NULL) >
                    before);
        stream_again(key);
    }
    stop_pair();
}

/* By the fake clock, so that a machine that does not run this process takes no time: slowly as long as
 * things go well, then in steps that reach every deadline. */
static bool turn_until(bool (*done)(void *arg), void *arg)
{
    for (uint32_t i = 0; i < 12000; i++) {
        bool moved = rig_turn(&a);
        moved |= rig_turn(&b);
        if (done(arg))
            return true;
        if (!moved)
            sl_sleep_us(50);
        sl_clock_advance(i < 8000 ? 100 : 5 * SL_MS_US);
    }
    return false;
}

static bool try_stream(uint64_t key)
{
    struct pair pair = begin(key, 200, 1);
    rig_ready_all(&a, pair.send);
    rig_token(&a, pair.send, 99);
    if (!turn_until(pair_over, &pair)) {
        /* What the coordinator does at the request's deadline. */
        assert_int_equal(transfer_recv_cancel(b.transfer, key, TRANSFER_DEADLINE), SL_OK);
        assert_int_equal(transfer_send_cancel(a.transfer, key, TRANSFER_DEADLINE), SL_OK);
        assert_true(turn_until(pair_over, &pair));
    }
    bool sealed = pair.recv->sealed;
    assert_true(sealed || !pair.send->acked);
    if (sealed)
        rig_release(&b, pair.recv);
    assert_int_equal(rig_free_blocks(&a), 64);
    assert_int_equal(rig_free_blocks(&b), 64);
    a.n_jobs = b.n_jobs = 0; /* a rig has room for few */
    return sealed;
}

/* A stream with the nth fault point that it reaches failing, over the same two nodes again and again: it
 * ends, its blocks return, and one of the next succeeds. */
static sl_status tortured_stream(void *arg)
{
    uint64_t *key = arg;
    return try_stream(++*key) ? SL_OK : sl_fail(SL_PEER, "the stream failed");
}

static void after_torture(void *arg)
{
    uint64_t *key = arg;
    for (uint32_t attempt = 0; attempt < 8; attempt++) {
        if (try_stream(++*key))
            return;
    }
    fail_msg("no stream succeeds any more");
}

static void case_torture(void **state)
{
    (void)state;
    uint64_t key = 0;
    patient = true;
    sl_clock_fake(SL_SECOND_US);
    struct rig_options options = options_of("p0", 0x1111);
    options.verify = true;
    options.threaded = false;
    rig_start(&a, &options);
    options = options_of("d0", 0x2222);
    options.verify = true;
    options.threaded = false;
    rig_start(&b, &options);
    (void)torture_run("a stream over UCX", tortured_stream, after_torture, &key, 2000);
    sl_clock_real();
    stop_pair();
}

/* ---- cases: two processes ---- */

struct child {
    pid_t pid;
    int in, out; /* of this side */
};

static void read_all(int fd, void *to, size_t n)
{
    for (size_t at = 0; at < n;) {
        ssize_t r = read(fd, (uint8_t *)to + at, n - at);
        if (r <= 0)
            fail_msg("the other process is gone: %s", strerror(errno));
        at += (size_t)r;
    }
}

static void write_all(int fd, const void *from, size_t n)
{
    assert_int_equal(write(fd, from, n), (ssize_t)n);
}

static void send_address(int fd, const struct rig_node *node)
{
    struct transfer_peer peer = rig_peer(node);
    uint64_t head[2] = {peer.incarnation, peer.address_bytes};
    write_all(fd, head, sizeof(head));
    write_all(fd, peer.address, peer.address_bytes);
}

static uint8_t peer_address[TRANSFER_ADDRESS_BYTES_MAX];

static struct transfer_peer receive_address(int fd, const char *name)
{
    uint64_t head[2];
    read_all(fd, head, sizeof(head));
    assert_true(head[1] <= sizeof(peer_address));
    read_all(fd, peer_address, head[1]);
    return (struct transfer_peer){
        .node_id = name, .incarnation = head[0], .address = peer_address, .address_bytes = head[1]};
}

static struct child spawn(const char *role)
{
    int to[2], from[2];
    assert_int_equal(pipe2(to, O_CLOEXEC), 0);
    assert_int_equal(pipe2(from, O_CLOEXEC), 0);
    struct child child = {.in = from[0], .out = to[1]};
    child.pid = fork(); /* before this process has started UCX */
    if (child.pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(to[0], 10);
        dup2(from[1], 11);
        execl(self_path, self_path, role, (char *)NULL);
        _exit(127);
    }
    close(to[0]);
    close(from[1]);
    return child;
}

/* This process as the source of streams to another one. */
static struct child start_source(const char *role, struct transfer_peer *to_out)
{
    struct child child = spawn(role);
    struct rig_options options = options_of("p0", 0x1111);
    rig_start(&a, &options);
    send_address(child.out, &a);
    *to_out = receive_address(child.in, "d0");
    return child;
}

/* As the destination. */
static struct child start_destination(const char *role, bool canary, struct transfer_peer *from_out)
{
    struct child child = spawn(role);
    struct rig_options options = options_of("d0", 0x2222);
    options.canary = canary;
    rig_start(&b, &options);
    *from_out = receive_address(child.in, "p0");
    send_address(child.out, &b);
    return child;
}

static void reap(struct child *child)
{
    kill(child->pid, SIGKILL);
    waitpid(child->pid, NULL, 0);
    close(child->in);
    close(child->out);
}

static bool stops_itself; /* in its second stream, at the moment that the case is about */

/* A signal that the source raises between two turns: one from outside may leave a write into our ring half done. */
static void stop_between_turns(const struct child *child, int signal_number)
{
    uint64_t key = SIGNAL_KEY - (uint64_t)signal_number;
    write_all(child->out, &key, sizeof(key));
}

/* The other process as the destination: takes whatever is opened, until it is killed. */
static int role_destination(void)
{
    struct rig_options options = options_of("d0", 0x2222);
    if (probe_bytes > 0)
        stop_after = 1; /* behind the first message of the probe */
    rig_start(&b, &options);
    struct transfer_peer from = receive_address(10, "p0");
    send_address(11, &b);
    while (getppid() != 1) {
        if (!rig_turn(&b))
            sl_sleep_us(50);
        for (uint32_t i = 0; i < b.n_jobs; i++) {
            struct rig_job *job = &b.jobs[i];
            if (job->opened && !job->expected) {
                if (stops_itself && job->key >> 16 != 0)
                    stop_after = 1;
                (void)rig_expect(&b, &from, job->key, (uint32_t)(job->key & 0xffff));
                rig_admit(&b, job, 0, 8);
            }
            if (job->sealed && !job->released)
                rig_release(&b, job);
            if (job->ended && !job->hold_refill) {
                job->hold_refill = true; /* said once */
                write_all(11, &job->key, sizeof(job->key));
            }
        }
    }
    return 0;
}

/* The other process as the source: streams whose key says their length; the last never ends. */
static int role_source(void)
{
    struct rig_options options = options_of("p0", 0x11110000u + (uint32_t)getpid());
    rig_start(&a, &options);
    send_address(11, &a);
    struct transfer_peer to = receive_address(10, "d0");
    fcntl(10, F_SETFL, O_NONBLOCK);
    while (getppid() != 1) {
        uint64_t key;
        if (!rig_turn(&a))
            sl_sleep_us(50);
        if (read(10, &key, sizeof(key)) != sizeof(key))
            continue;
        if (key >= SIGNAL_KEY - NSIG && raise((int)(SIGNAL_KEY - key)) == 0)
            continue;
        if (stops_itself && key >> 32 != 0)
            stop_after = OFFERS;
        struct rig_job *job = rig_send(&a, &to, key, (uint32_t)(key & 0xffff));
        if (key >> 32 == 0) {
            rig_ready_all(&a, job);
            rig_token(&a, job, 99);
        } else {
            assert_int_equal(transfer_send_ready(a.transfer, key, 0, job->n_blocks, RIG_LAYERS(2)),
                             SL_OK);
            assert_int_equal(transfer_send_ready(a.transfer, key, 0, 3, RIG_LAYERS(LAYERS)), SL_OK);
        }
    }
    return 0;
}

static struct rig_job *send_to(const struct transfer_peer *to, uint64_t key, bool whole)
{
    struct rig_job *job = rig_send(&a, to, key, (uint32_t)(key & 0xffff));
    if (whole) {
        rig_ready_all(&a, job);
        rig_token(&a, job, 99);
    } else {
        assert_int_equal(transfer_send_ready(a.transfer, key, 0, job->n_blocks, RIG_LAYERS(2)),
                         SL_OK);
    }
    return job;
}

static struct rig_node *only_a[] = {&a}, *only_b[] = {&b};

/* The job of `only` ends within so many seconds, and all of that node's blocks are free. */
static void ends_soon(struct rig_node **only, struct rig_job *job, uint32_t seconds)
{
    uint64_t begun = sl_real_us();
    assert_true(rig_run(only, 1, job_over, job, WAIT_US));
    assert_true(sl_real_us() - begun < seconds * SLOW * SL_SECOND_US);
    assert_int_equal(rig_free_blocks(only[0]), 64);
}

/* A whole stream. The limits are short, and a machine that does not run one of the two for so long costs a
 * session: then it is tried again, a token shorter. */
static void send_whole(const struct transfer_peer *to, uint64_t key)
{
    for (uint64_t attempt = 0; attempt < 8; attempt++) {
        struct rig_job *job = send_to(to, key - attempt, true);
        assert_true(rig_run(only_a, 1, job_over, job, WAIT_US));
        if (job->acked)
            return;
    }
    fail_msg("no stream succeeds");
}

static void case_destination_dies(void **state)
{
    (void)state;
    struct transfer_peer to;
    struct child child = start_source("role_destination", &to);
    send_whole(&to, 16 * 20);

    /* Stopped in the middle of a stream, then going on: a new session, and late data is refused. */
    struct rig_job *job = send_to(&to, 0x10000 + 16 * 20, false);
    assert_true(rig_run(only_a, 1, send_wanted, job, WAIT_US));
    kill(child.pid, SIGSTOP);
    assert_int_equal(transfer_send_ready(a.transfer, job->key, 0, job->n_blocks, RIG_LAYERS(3)),
                     SL_OK);
    ends_soon(only_a, job, 3);
    assert_int_equal(job->reason, TRANSFER_LOST);
    kill(child.pid, SIGCONT);
    send_whole(&to, 0x20000 + 16 * 20);

    job = send_to(&to, 0x30000 + 16 * 20, false);
    assert_true(rig_run(only_a, 1, send_wanted, job, WAIT_US));
    kill(child.pid, SIGKILL);
    ends_soon(only_a, job, 3);
    assert_true(job->failed);
    job = send_to(&to, 0x40000 + 16 * 20, true); /* nobody is there any more */
    assert_true(rig_run(only_a, 1, job_over, job, WAIT_US));
    assert_true(job->failed);
    rig_stop(&a);
    reap(&child);
}

/* With the default limits, whose beats are far apart: neither the first stream nor one after a pause
 * may wait for a timer. A wake-up that is lost would cost up to a quarter of a second. */
static void case_wakes(void **state)
{
    (void)state;
    patient = true;
    struct transfer_peer to;
    struct child child = start_source("role_patient", &to);
    uint64_t worst = 0, best = UINT64_MAX;
    for (uint64_t i = 1; i < 7; i++) {
        sl_sleep_us(i % 2 == 0 ? 350 * SL_MS_US : 10 * SL_MS_US);
        uint64_t begun = sl_real_us();
        struct rig_job *job = send_to(&to, (i << 16) + 16 * 20, true);
        assert_true(rig_run(only_a, 1, job_over, job, WAIT_US));
        assert_true(job->acked);
        uint64_t took = sl_real_us() - begun;
        printf("stream %d: %d us\n", (int)i, (int)took);
        worst = took > worst ? took : worst;
        best = took < best ? took : best;
    }
    assert_true(best < 100 * SLOW * SL_MS_US); /* others' load may hit some, not all */
    (void)worst;
    rig_stop(&a);
    reap(&child);
}

static void wait_stopped(const struct child *child)
{
    uint64_t begun = sl_real_us();
    int status = 0;
    pid_t pid = 0;
    while (pid == 0 && sl_real_us() - begun < WAIT_US) {
        pid = waitpid(child->pid, &status, WUNTRACED | WNOHANG);
        sl_sleep_us(SL_MS_US);
    }
    assert_int_equal(pid, child->pid);
    assert_true(WIFSTOPPED(status));
}

/* The other process dies; this side, the source, stops without waiting for it. */
static void stop_without(struct child *child)
{
    kill(child->pid, SIGKILL);
    uint64_t begun = sl_real_us();
    rig_stop(&a);
    assert_true(sl_real_us() - begun < 6 * SLOW * SL_SECOND_US);
    reap(child);
}

/* The destination stops with a message of the probe on its way to it. The session is given up like any
 * other; when the process goes on, what is late lands where nobody reads, and the next session is probed
 * again. Then it dies, and this side stops without waiting for it. */
static void case_full_probe(void **state)
{
    (void)state;
    probe_bytes = PROBE;
    struct transfer_peer to;
    struct child child = start_source("role_probed", &to);
    struct rig_job *job = send_to(&to, (1 << 16) + 16 * 20, false);
    wait_stopped(&child);
    assert_true(rig_run(only_a, 1, job_over, job, WAIT_US));
    assert_int_equal(job->reason, TRANSFER_LOST);
    assert_true(job->wanted || limit_of(&a, NULL) == 0);
    assert_int_equal(rig_free_blocks(&a), 64);
    kill(child.pid, SIGCONT);
    send_whole(&to, (2 << 16) + 16 * 20);
    assert_true(rig_run(only_a, 1, is_probed, NULL, WAIT_US));
    assert_int_equal(rig_free_blocks(&a), 64);
    stop_without(&child);
}

/* The destination stops as soon as it has asked for the bytes of a piece: these are many times what the
 * ring in shared memory holds (RING entries), so the ring is full and stays so. It is killed without
 * ever going on. UCX gives none of the sends back (transport: abandon); the blocks return all the
 * same, and a stop of this side is not hung. */
static void case_full_and_stopped(void **state)
{
    (void)state;
    layer_bytes = LARGE_LAYER;
    struct transfer_peer to;
    struct child child = start_source("role_large_destination", &to);
    send_whole(&to, 16 * 20);

    struct rig_job *job = send_to(&to, (1 << 16) + 16 * 60, false);
    wait_stopped(&child);
    ends_soon(only_a, job, 4);
    assert_true(job->failed);
    stop_without(&child);
}

/* Streams with the numbers from first on, before end, until one succeeds. */
static void send_until_acked(const struct transfer_peer *to, uint64_t first, uint64_t end)
{
    for (uint64_t i = first; i < end; i++) {
        struct rig_job *job = send_to(to, (i << 16) + 16 * 20, true);
        assert_true(rig_run(only_a, 1, job_over, job, WAIT_US));
        if (job->acked)
            return;
    }
    fail_msg("no stream succeeds any more");
}

/* Whether the destination in the other process says in time that a stream is over there. */
static bool ended_there(struct child *child, uint64_t key, uint64_t within_us)
{
    uint64_t begun = sl_real_us();
    struct pollfd pfd = {.fd = child->in, .events = POLLIN};
    while (sl_real_us() - begun < within_us) {
        uint64_t ended;
        if (poll(&pfd, 1, 20) != 1)
            continue;
        read_all(child->in, &ended, sizeof(ended));
        if (ended == key)
            return true;
    }
    return false;
}

/* Stopped for so long that the source makes several connections in vain: the two sides' numbers of
 * connections then differ, which is where UCX pairs endpoints by count. */
static void case_long_stop(void **state)
{
    (void)state;
    struct transfer_peer to;
    struct child child = start_source("role_destination", &to);
    send_whole(&to, 16 * 20);
    kill(child.pid, SIGSTOP);
    struct rig_job *job = NULL;
    for (uint64_t i = 1; i < 4; i++) {
        job = send_to(&to, (i << 16) + 16 * 20, true);
        assert_true(rig_run(only_a, 1, job_over, job, WAIT_US));
        assert_true(job->failed);
    }
    kill(child.pid, SIGCONT);
    uint64_t begun = sl_real_us();
    send_until_acked(&to, 4, 20);
    assert_true(sl_real_us() - begun < 4 * SLOW * SL_SECOND_US);
    assert_int_equal(rig_free_blocks(&a), 64);

    /* In such a session, with receives posted that this side does not serve, the other side must be
     * able to end them: else it would stay in CLOSING, and no stream would succeed any more. */
    char go[] = "/tmp/test_ucx_go_XXXXXX", fault[128];
    assert_true(mkdtemp(go) != NULL);
    snprintf(fault, sizeof(fault), "transfer_send@1=hold:%s/go", go);
    assert_int_equal(sl_fault_configure(fault), SL_OK);
    job = send_to(&to, (30 << 16) + 16 * 20, true);
    assert_true(ended_there(&child, job->key, 2 * SLOW * SL_SECOND_US));
    sl_fault_clear(); /* lets go as well */
    rmdir(go);
    assert_true(rig_run(only_a, 1, job_over, job, WAIT_US));
    assert_false(job->acked);
    send_until_acked(&to, 31, 50);
    assert_int_equal(rig_free_blocks(&a), 64);
    rig_stop(&a);
    reap(&child);
}

static struct rig_job *receive_from(struct child *child, const struct transfer_peer *from,
                                    uint64_t key)
{
    struct rig_job *job = rig_expect(&b, from, key, (uint32_t)(key & 0xffff));
    rig_admit(&b, job, 0, 8);
    write_all(child->out, &key, sizeof(key));
    return job;
}

/* A whole stream with that key; false if there is none within the time. */
static bool receive_whole(struct child *child, const struct transfer_peer *from, uint64_t key,
                          uint64_t within_us)
{
    struct rig_job *job = receive_from(child, from, key);
    if (!rig_run(only_b, 1, job_over, job, within_us)) {
        assert_int_equal(transfer_recv_cancel(b.transfer, job->key, TRANSFER_DEADLINE), SL_OK);
        assert_true(rig_run(only_b, 1, job_over, job, WAIT_US));
    }
    if (job->sealed)
        rig_release(&b, job);
    return job->sealed;
}

/* The source still believes in the old session when it goes on: what it opens there is lost with it,
 * and a new attempt must soon succeed. */
static void receive_again(struct child *child, const struct transfer_peer *from)
{
    uint64_t begun = sl_real_us();
    for (uint64_t attempt = 2; attempt < 10; attempt++) {
        uint64_t key = (attempt << 16) + 16 * 20;
        if (!receive_whole(child, from, key, 300 * SLOW * SL_MS_US))
            continue;
        assert_true(sl_real_us() - begun < 3 * SLOW * SL_SECOND_US);
        return;
    }
    fail_msg("no stream succeeds after the source went on");
}

/* As send_whole. */
static void receive_first(struct child *child, const struct transfer_peer *from)
{
    for (uint64_t attempt = 0; attempt < 8; attempt++)
        if (receive_whole(child, from, 16 * 20 - attempt, WAIT_US / 4))
            return;
    fail_msg("no stream succeeds");
}

static void case_source_dies(void **state)
{
    (void)state;
    struct transfer_peer from;
    struct child child = start_destination("role_source", false, &from);
    receive_first(&child, &from);

    struct rig_job *job = receive_from(&child, &from, ((uint64_t)1 << 32) + 16 * 20);
    assert_true(rig_run(only_b, 1, recv_some, job, WAIT_US));
    stop_between_turns(&child, SIGSTOP);
    assert_true(rig_run(only_b, 1, job_over, job, WAIT_US));
    assert_int_equal(job->reason, TRANSFER_LOST);
    assert_int_equal(rig_free_blocks(&b), 64);
    kill(child.pid, SIGCONT);
    receive_again(&child, &from);

    job = receive_from(&child, &from, ((uint64_t)2 << 32) + 16 * 20);
    assert_true(rig_run(only_b, 1, recv_some, job, WAIT_US));
    stop_between_turns(&child, SIGKILL);
    ends_soon(only_b, job, 3);
    rig_stop(&b);
    reap(&child);
}

/* Takes a place in every ring that is mapped here, and never fills it: what remains of a process that was
 * killed while it wrote. The count of places taken is the first word of a ring. Returns how many rings. */
static uint32_t break_rings(void)
{
    char line[256], permissions[8];
    unsigned long from, to;
    uint32_t n = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    assert_non_null(maps);
    while (fgets(line, sizeof(line), maps) != NULL) {
        if (sscanf(line, "%lx-%lx %7s", &from, &to, permissions) != 3 ||
            strcmp(permissions, "rw-s") != 0 || to - from > (64ul << 10) ||
            (strstr(line, "ucx_shm") == NULL && strstr(line, "/SYSV") == NULL))
            continue;
        atomic_fetch_add((_Atomic uint64_t *)from, 1);
        n++;
    }
    fclose(maps);
    return n;
}

static bool is_deaf(void *arg)
{
    return ((struct rig_node *)arg)->deaf;
}

/* One source is killed and leaves the ring whole; another one leaves it so that nothing is read any more. */
static void case_ring_breaks(void **state)
{
    (void)state;
    struct child children[2] = {spawn("role_source"), spawn("role_source")};
    struct rig_options options = options_of("d0", 0x2222);
    rig_start(&b, &options);
    for (int i = 0; i < 2; i++) {
        struct transfer_peer from = receive_address(children[i].in, "p0");
        send_address(children[i].out, &b);
        receive_first(&children[i], &from);
        uint32_t n_rings = i == 1 ? break_rings() : 0;
        kill(children[i].pid, SIGKILL);
        bool deaf = rig_run(only_b, 1, is_deaf, &b, (i == 1 ? 8 : 4) * SLOW * SL_SECOND_US);
        assert_int_equal(deaf, n_rings > 0);
        assert_int_equal(n_rings > 0, i == 1 && strstr(getenv("UCX_TLS"), "posix") != NULL);
        reap(&children[i]);
        b.n_jobs = 0;
    }
    b.deaf = false;
    rig_stop(&b);
}

/* A source that stops behind its offers: receives are posted, and what asks for their bytes fills the ring
 * that leads to it, beats behind it. As long as it is only stopped the receives stay: it may go on and
 * write. Once it is killed they end, though UCX never calls them back, and nothing is written later. */
static void case_full_way_back(void **state)
{
    (void)state;
    bool shared = strstr(getenv("UCX_TLS"), "posix") != NULL; /* tcp's close ends them at once */
    struct transfer_peer from;
    struct child child = start_destination("role_stopping_source", true, &from);
    receive_first(&child, &from);

    uint32_t n_before = n_receives;
    struct rig_job *job = receive_from(&child, &from, ((uint64_t)1 << 32) + 16 * 20);
    assert_true(rig_run(only_b, 1, recv_failed, job, WAIT_US)); /* silent, given up */
    wait_stopped(&child);
    assert_true(n_receives > n_before);
    assert_int_equal(rig_run(only_b, 1, job_over, job, 3 * SL_SECOND_US), !shared);
    kill(child.pid, SIGKILL); /* and not reaped yet: a zombie is gone as well */
    ends_soon(only_b, job, 3);
    assert_int_equal(job->reason, TRANSFER_LOST);
    (void)rig_run(only_b, 1, never, NULL, SL_SECOND_US / 2);
    rig_check_canaries(&b);
    rig_stop(&b);
    reap(&child);
}

/* ---- the cases as processes ---- */

static const struct CMUnitTest cases[] = {
    cmocka_unit_test(case_fake_memory),
    cmocka_unit_test(case_stream),
    cmocka_unit_test(case_layers_overlap),
    cmocka_unit_test(case_cancel),
    cmocka_unit_test(case_spoilt),
    cmocka_unit_test(case_send_fails),
    cmocka_unit_test(case_mismatch),
    cmocka_unit_test(case_eager),
    cmocka_unit_test(case_reconnect),
    cmocka_unit_test(case_torture),
    cmocka_unit_test(case_destination_dies),
    cmocka_unit_test(case_source_dies),
    cmocka_unit_test(case_ring_breaks),
    cmocka_unit_test(case_long_stop),
    cmocka_unit_test(case_wakes),
    cmocka_unit_test(case_full_and_stopped),
    cmocka_unit_test(case_full_way_back),
    cmocka_unit_test(case_probe),
    cmocka_unit_test(case_full_probe),
};
#define N_CASES (sizeof(cases) / sizeof(cases[0]))

static int run_case(const char *name)
{
    patient = strcmp(name, "role_patient") == 0;
    stops_itself = strcmp(name, "role_stopping_source") == 0;
    if (strcmp(name, "role_large_destination") == 0) {
        layer_bytes = LARGE_LAYER;
        stops_itself = true;
    }
    if (strcmp(name, "role_probed") == 0)
        probe_bytes = PROBE;
    if (strcmp(name, "role_destination") == 0 || probe_bytes > 0 || layer_bytes == LARGE_LAYER ||
        patient)
        return role_destination();
    if (strcmp(name, "role_source") == 0 || stops_itself)
        return role_source();
    for (size_t i = 0; i < N_CASES; i++) {
        if (strcmp(name, cases[i].name) == 0) {
            const struct CMUnitTest one[] = {cases[i]};
            return cmocka_run_group_tests_name(name, one, NULL, NULL);
        }
    }
    fprintf(stderr, "no case %s\n", name);
    return 2;
}

static const char *const transports[] = {"tcp,self", "sysv,posix,self"};
#define N_TRANSPORTS (sizeof(transports) / sizeof(transports[0]))

static pid_t start_case(const char *name, const char *tls)
{
    pid_t pid = fork();
    if (pid == 0) {
        setenv("UCX_TLS", tls, 1);
        if (strncmp(name, "case_full", strlen("case_full")) == 0) {
            setenv("UCX_POSIX_FIFO_SIZE", RING, 1);
            setenv("UCX_SYSV_FIFO_SIZE", RING, 1);
        }
        execl(self_path, self_path, name, (char *)NULL);
        _exit(127);
    }
    return pid;
}

/* Each case is one test here, over both transports at the same time. */
static void test_case(void **state)
{
    const char *name = *state;
    pid_t pids[N_TRANSPORTS];
    for (size_t i = 0; i < N_TRANSPORTS; i++)
        pids[i] = start_case(name, transports[i]);
    for (size_t i = 0; i < N_TRANSPORTS; i++) {
        int status;
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
            fail_msg("%s over %s: status %d", name, transports[i], status);
    }
}

int main(int argc, char **argv)
{
    static char path[512];
    ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 1);
    self_path = n > 0 ? path : argv[0];
    signal(SIGPIPE, SIG_IGN);
    sl_log_set_level(getenv("TEST_LOG") != NULL ? SL_LOG_DEBUG : SL_LOG_ERROR);
    if (argc > 1)
        return run_case(argv[1]);
    struct CMUnitTest tests[N_CASES];
    for (size_t i = 0; i < N_CASES; i++)
        tests[i] = (struct CMUnitTest){.name = cases[i].name,
                                       .test_func = test_case,
                                       .initial_state = (void *)(uintptr_t)cases[i].name};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

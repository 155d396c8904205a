/* Two transfers over real UCX. The parent runs each case in a child process with its own UCX_TLS: UCX
 * reads its environment once, and tcp and shared memory must both be shown. */
#include "base/clock.h"
#include "rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct rig_node a, b;
static struct rig_node *both[] = {&a, &b};

struct pair {
    struct rig_job *send, *recv;
};

static bool pair_over(void *arg)
{
    struct pair *pair = arg;
    return pair->send->ended && pair->recv->ended;
}

static void start_pair(bool threaded, bool verify)
{
    struct rig_options options = {
        .transport = "ucx", .name = "p0", .incarnation = 0x1111, .threaded = threaded};
    options.verify = verify;
    rig_start(&a, &options);
    options.name = "d0";
    options.incarnation = 0x2222;
    rig_start(&b, &options);
}

static void stop_pair(void)
{
    rig_stop(&a);
    rig_stop(&b);
}

static void release(struct rig_node *node, struct rig_job *job)
{
    for (uint32_t i = job->first_block; i < job->n_blocks; i++)
        node->owner[job->blocks[i]] = 0;
}

static void one_stream(uint64_t key, uint32_t n_tokens, uint32_t first)
{
    struct transfer_peer pa = rig_peer(&a), pb = rig_peer(&b);
    struct pair pair;
    pair.recv = rig_expect(&b, &pa, key, n_tokens);
    pair.send = rig_send(&a, &pb, key, n_tokens);
    rig_admit(&b, pair.recv, first, 4);
    rig_ready_all(&a, pair.send);
    rig_token(&a, pair.send, 99);
    assert_true(rig_run(both, 2, pair_over, &pair, 5 * SL_SECOND_US));
    assert_true(pair.send->acked && pair.recv->sealed);
    assert_int_equal(pair.recv->token, 99);
    for (uint32_t i = first; i < pair.recv->n_blocks; i++)
        assert_true(rig_equal(&b, key, i, pair.recv->blocks[i]));
    assert_int_equal(pair.send->stats.bytes, pair.recv->stats.bytes);
    assert_int_equal(pair.recv->stats.bytes, (pair.recv->n_blocks - first) * 4u * 4096u);
    release(&b, pair.recv);
}

static void test_stream(void **state)
{
    (void)state;
    start_pair(true, true);
    uint64_t begun = sl_real_us();
    one_stream(77, 100, 0);
    printf("first %llu us\n", (unsigned long long)(sl_real_us() - begun));
    begun = sl_real_us();
    one_stream(78, 500, 3);
    printf("second %llu us\n", (unsigned long long)(sl_real_us() - begun));
    one_stream(79, 160, 10);
    assert_int_equal(rig_free_blocks(&a), 64);
    assert_int_equal(rig_free_blocks(&b), 64);
    stop_pair();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stream),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* What options of a worker say together, and what no table's row can. */
#include "serve/worker_options.h"

#include "support/support.h"

static struct serve_worker_config usual(void)
{
    return (struct serve_worker_config){.block_tokens = 64, .chunk_tokens = 512, .max_seqs = 64};
}

static void test_right(void **state)
{
    (void)state;
    static char hosts[][20] = {"h", "node-1.example.com", "10.0.0.1", "::1", "fe80::1"};
    static char binds[][20] = {"", "0.0.0.0", "::", "lo", "127.0.0.1"};
    struct serve_worker_config none = usual();
    assert_ok(serve_worker_check(&none));
    for (size_t i = 0; i < sizeof(hosts) / sizeof(hosts[0]); i++) {
        struct serve_worker_config config = usual();
        config.advertise = hosts[i];
        config.bind = binds[i];
        config.block_tokens = 16u << (i % 4);
        assert_ok(serve_worker_check(&config));
    }
    struct serve_worker_config config = usual();
    config.chunk_tokens = SERVE_STEP_TOKENS_MAX - config.max_seqs;
    assert_ok(serve_worker_check(&config));
}

static void test_wrong(void **state)
{
    (void)state;
    char long_name[SERVE_ADVERTISE_BYTES + 2] = {0};
    memset(long_name, 'h', SERVE_ADVERTISE_BYTES);
    struct serve_worker_config config = usual();
    config.advertise = long_name;
    assert_ok(serve_worker_check(&config));
    long_name[SERVE_ADVERTISE_BYTES] = 'h';
    char hosts[][20] = {"", "a b", "host:8101", "http://host", "[::1]"};
    for (size_t i = 0; i <= sizeof(hosts) / sizeof(hosts[0]); i++) {
        config.advertise = i < sizeof(hosts) / sizeof(hosts[0]) ? hosts[i] : long_name;
        assert_fails(serve_worker_check(&config), SL_INVALID, "--advertise: \"");
        assert_non_null(strstr(sl_error(), "without a port, at most 240 bytes"));
    }
    char bind[] = "nosuch0";
    config = usual();
    config.bind = bind;
    assert_fails(serve_worker_check(&config), SL_INVALID,
                 "--bind: \"nosuch0\"; no interface has this name or address");
    config = usual();
    config.block_tokens = 48;
    assert_fails(serve_worker_check(&config), SL_INVALID,
                 "--block-tokens: \"48\"; want 16, 32, 64 or 128");
    config = usual();
    config.chunk_tokens = SERVE_STEP_TOKENS_MAX - config.max_seqs + 1;
    assert_fails(serve_worker_check(&config), SL_INVALID,
                 "--chunk-tokens 8129 and --max-seqs 64; want at most 8192 together");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_right), cmocka_unit_test(test_wrong)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Block hashes against Python's hashlib over the bytes that hash.c says:
 *   sha256(b"sluice-kv-root-1" + identity + pack("<I", len(salt)) + salt)[:16]
 *   sha256(b"sluice-kv-block1" + parent + pack("<I", n) + pack("<%dI" % n, *tokens))[:16] */
#include "kv/hash.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

static uint8_t identity[16];
static uint32_t tokens[100];

static int setup(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 16; i++)
        identity[i] = (uint8_t)i;
    for (uint64_t i = 0; i < 100; i++)
        tokens[i] = (uint32_t)(i * 2654435761u % 128256u);
    return 0;
}

static void expect(const struct kv_hash *hash, const char *hex)
{
    char text[2 * KV_HASH_BYTES + 1];
    for (size_t i = 0; i < KV_HASH_BYTES; i++)
        (void)snprintf(text + 2 * i, 3, "%02x", hash->bytes[i]);
    assert_string_equal(text, hex);
}

static void test_root(void **state)
{
    (void)state;
    struct kv_hash salted = kv_hash_root(identity, "tenant-a", 8);
    struct kv_hash plain = kv_hash_root(identity, NULL, 0);
    expect(&salted, "ee5d131767f296a6ce8061d8c07c48f5");
    expect(&plain, "d27102e0f2f6fc53fb10b7b90ab3201d");
    assert_false(kv_hash_equal(&salted, &plain));
}

static void test_chain(void **state)
{
    (void)state;
    static const char *const hex[6] = {
        "58d5ee1e28b847303fb22a4f39a536fa", "456ba7b889892d0d7614f60f2ebc0383",
        "38851f97a11e78c1ec9e1d68c93ba55b", "cd5776926c3d7dc87c0e3fea74e317c7",
        "54349dafee598b2873bbabc4b37dc5af", "c04c15976d0d947136c018201b656a50"};
    struct kv_hash root = kv_hash_root(identity, "tenant-a", 8);
    struct kv_hash chain[6];
    kv_hash_chain(&root, tokens, 16, 0, 2, chain);
    kv_hash_chain(&root, tokens, 16, 2, 6, chain);
    for (size_t i = 0; i < 6; i++)
        expect(&chain[i], hex[i]);
    static const uint32_t wide[3] = {0x01020304, 0xfffefdfc, 0x80000000}; /* every byte counts */
    root = kv_hash_root(identity, NULL, 0);
    kv_hash_chain(&root, wide, 3, 0, 1, chain);
    expect(&chain[0], "013ff4d0f589c7bdf6e71f0717d082e1");
}

static void test_long_block(void **state)
{
    (void)state;
    struct kv_hash root = kv_hash_root(identity, "tenant-a", 8);
    struct kv_hash hash = kv_hash_block(&root, tokens, 100);
    expect(&hash, "9e63dbf575f3c3b8df3d8dc762f86fc0");
}

/* Another token, parent, salt or length is another hash. */
static void test_sensitive(void **state)
{
    (void)state;
    struct kv_hash root = kv_hash_root(identity, "tenant-a", 8);
    struct kv_hash hash = kv_hash_block(&root, tokens, 64);
    struct kv_hash other = kv_hash_block(&root, tokens, 63);
    assert_false(kv_hash_equal(&hash, &other));
    tokens[63]++;
    other = kv_hash_block(&root, tokens, 64);
    tokens[63]--;
    assert_false(kv_hash_equal(&hash, &other));
    struct kv_hash root_b = kv_hash_root(identity, "tenant-b", 8);
    other = kv_hash_block(&root_b, tokens, 64);
    assert_false(kv_hash_equal(&hash, &other));
    other = kv_hash_block(&root, tokens, 64);
    assert_true(kv_hash_equal(&hash, &other));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_root),
        cmocka_unit_test(test_chain),
        cmocka_unit_test(test_long_block),
        cmocka_unit_test(test_sensitive),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}

/* Messages as bytes: sizes and places are those of docs/transfer.md section 5, every bad field is
 * refused, and digests are those that XXH64's description gives. */
#include "transfer/digest.h"
#include "transfer/frame.h"
#include "transfer/transfer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static struct frame sample(enum frame_type type)
{
    struct frame frame = {.type = type,
                          .lane = 0,
                          .key = 0x1122334455667788ull,
                          .incarnation = 0x99aabbccddeeff00ull,
                          .attempt = 3};
    switch ((int)type) {
    case FRAME_HELLO:
        frame.hello = (struct frame_hello){.node_id = "p0",
                                           .incarnation = 7,
                                           .identity = {1, 2, 3},
                                           .layout = {4, 5},
                                           .block_tokens = 64,
                                           .n_classes = 1,
                                           .block_bytes = 1 << 20,
                                           .classes_hash = 0xabcdef,
                                           .transports = FRAME_TRANSPORT_UCX,
                                           .offers_per_lane = 8,
                                           .offers_per_session = 64,
                                           .answers = 0x55};
        break;
    case FRAME_BEAT:
        frame.beat = (struct frame_beat){.incarnation = 7, .step = 99};
        break;
    case FRAME_OPEN:
        frame.flags = FRAME_FLAG_DIGEST;
        frame.open = (struct frame_open){.n_blocks = 5,
                                         .n_tokens = 300,
                                         .n_classes = 1,
                                         .n_lanes = 1,
                                         .layers_per_piece = 4,
                                         .transport = FRAME_TRANSPORT_UCX,
                                         .prefix_hash = {9, 8, 7},
                                         .first_block = {0x0a0b, 3, 0, 5}};
        break;
    case FRAME_WANT:
        frame.want =
            (struct frame_want){.first_block = {2, 0x0102, 0, 1}, .credit = 4, .offers_max = 8};
        break;
    case FRAME_GRANT:
        frame.grant = (struct frame_grant){.credit = 5, .sequence = 6, .piece = 7};
        break;
    case FRAME_OFFER:
        frame.offer = (struct frame_offer){.class_index = 0,
                                           .first_layer = 4,
                                           .n_layers = 4,
                                           .flags = FRAME_FLAG_DIGEST,
                                           .block = 3,
                                           .piece = 13,
                                           .bytes = 65536,
                                           .digest = 0x0102030405060708ull};
        break;
    case FRAME_REFUSE:
        frame.refuse = (struct frame_refuse){.reason = TRANSFER_FULL, .piece = FRAME_PIECE_STREAM};
        break;
    case FRAME_SEAL:
        frame.seal = (struct frame_seal){.n_tokens = 300,
                                         .n_blocks = 5,
                                         .n_pieces = 15,
                                         .token = 42,
                                         .token_index = 1,
                                         .flags = FRAME_SEAL_EOS,
                                         .digest = {11, 12}};
        break;
    case FRAME_CANCEL:
        frame.cancel_reason = TRANSFER_CANCELLED;
        break;
    case FRAME_CANCELLED:
        frame.quiet = true;
        break;
    default:
        break;
    }
    return frame;
}

static void test_round_trip(void **state)
{
    (void)state;
    static const size_t bytes_of[FRAME_TYPE_COUNT] = {
        [FRAME_HELLO] = 128,   [FRAME_BEAT] = 48,   [FRAME_OPEN] = 80,     [FRAME_WANT] = 64,
        [FRAME_GRANT] = 48,    [FRAME_OFFER] = 64,  [FRAME_REFUSE] = 48,   [FRAME_SEAL] = 80,
        [FRAME_SEAL_ACK] = 32, [FRAME_CANCEL] = 48, [FRAME_CANCELLED] = 48};
    for (unsigned type = 1; type < FRAME_TYPE_COUNT; type++) {
        struct frame frame = sample((enum frame_type)type), back;
        uint8_t bytes[FRAME_BYTES_MAX], again[FRAME_BYTES_MAX];
        size_t n = frame_pack(&frame, bytes);
        assert_int_equal(n, bytes_of[type]);
        assert_int_equal(frame_bytes(type), n);
        assert_int_equal(frame_unpack(bytes, n, &back), SL_OK);
        assert_int_equal(back.type, frame.type);
        assert_int_equal(back.key, frame.key);
        assert_int_equal(back.incarnation, frame.incarnation);
        assert_int_equal(back.attempt, frame.attempt);
        assert_int_equal(frame_pack(&back, again), n);
        assert_memory_equal(bytes, again, n);
    }
}

/* Bytes written out by hand, so that both ends cannot be wrong together. */
static void test_layout(void **state)
{
    (void)state;
    struct frame frame = sample(FRAME_OFFER);
    uint8_t bytes[FRAME_BYTES_MAX];
    static const uint8_t offer[64] = {
        2,    6,    0,    0,    0,    0,    0,    0,    0x88, 0x77, 0x66, 0x55, 0x44,
        0x33, 0x22, 0x11, 0x00, 0xff, 0xee, 0xdd, 0xcc, 0xbb, 0xaa, 0x99, 3,    0,
        0,    0,    0,    0,    0,    0,    0,    0,    4,    0,    4,    0,    0,
        0,    0,    0,    1,    0,    3,    0,    0,    0,    13,   0,    0,    0,
        0,    0,    1,    0,    8,    7,    6,    5,    4,    3,    2,    1};
    assert_int_equal(frame_pack(&frame, bytes), sizeof(offer));
    assert_memory_equal(bytes, offer, sizeof(offer));

    frame = sample(FRAME_WANT);
    static const uint8_t want[32] = {2, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0,
                                     4, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    assert_int_equal(frame_pack(&frame, bytes), 32 + sizeof(want));
    assert_memory_equal(bytes + 32, want, sizeof(want));

    frame = sample(FRAME_OPEN); /* its first blocks come last */
    static const uint8_t first_blocks[16] = {0x0b, 0x0a, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0};
    assert_int_equal(frame_pack(&frame, bytes), 80);
    assert_memory_equal(bytes + 64, first_blocks, sizeof(first_blocks));
}

static void refused(const uint8_t *bytes, size_t n)
{
    struct frame frame;
    assert_int_equal(frame_unpack(bytes, n, &frame), SL_INVALID);
}

static void test_bad_header(void **state)
{
    (void)state;
    for (unsigned type = 1; type < FRAME_TYPE_COUNT; type++) {
        struct frame frame = sample((enum frame_type)type);
        uint8_t bytes[FRAME_BYTES_MAX + 1] = {0};
        size_t n = frame_pack(&frame, bytes);
        for (size_t size = 0; size <= FRAME_BYTES_MAX + 1; size++) {
            if (size != n)
                refused(bytes, size);
        }
        static const struct {
            size_t at;
            uint8_t value;
        } bad[] = {{0, 0},   {0, 1},  {1, 0},   {1, FRAME_TYPE_COUNT},
                   {1, 255}, {2, 2},  {3, 1},   {28, 1},
                   {29, 1},  {30, 1}, {31, 128}};
        for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
            uint8_t kept = bytes[bad[i].at];
            bytes[bad[i].at] = bad[i].value;
            refused(bytes, n);
            bytes[bad[i].at] = kept;
        }
        if (type != FRAME_OPEN && type != FRAME_SEAL) {
            bytes[2] = FRAME_FLAG_DIGEST;
            refused(bytes, n);
        }
    }
}

/* A byte of a message that no honest peer sets, or a value that none sends. */
static void test_bad_fields(void **state)
{
    (void)state;
    static const struct {
        enum frame_type type;
        size_t at;
        uint8_t value;
    } rows[] = {
        {FRAME_HELLO, 32, 0}, /* empty node id */
        {FRAME_HELLO, 33, ' '},   {FRAME_HELLO, 33, 0x7f},
        {FRAME_HELLO, 33, '"'},   {FRAME_HELLO, 33, '\\'},
        {FRAME_HELLO, 33, '\n'},  {FRAME_HELLO, 40, 'x'}, /* after NUL */
        {FRAME_HELLO, 94, 1},     {FRAME_HELLO, 95, 1},   /* reserved */
        {FRAME_WANT, 56, 1},      {FRAME_WANT, 63, 1},
        {FRAME_GRANT, 44, 1},     {FRAME_GRANT, 47, 1},
        {FRAME_OFFER, 42, 2},     {FRAME_OFFER, 43, 1}, /* flags */
        {FRAME_REFUSE, 32, 0},    {FRAME_REFUSE, 32, TRANSFER_REASON_COUNT},
        {FRAME_REFUSE, 33, 1},    {FRAME_REFUSE, 34, 1},
        {FRAME_REFUSE, 40, 1},    {FRAME_REFUSE, 47, 1},
        {FRAME_SEAL, 52, 2},      {FRAME_SEAL, 55, 1},
        {FRAME_SEAL, 72, 1},      {FRAME_SEAL, 79, 1},
        {FRAME_CANCEL, 32, 0},    {FRAME_CANCEL, 32, TRANSFER_REASON_COUNT},
        {FRAME_CANCEL, 33, 1},    {FRAME_CANCEL, 34, 1},
        {FRAME_CANCEL, 47, 1},    {FRAME_CANCELLED, 32, 2},
        {FRAME_CANCELLED, 33, 1}, {FRAME_CANCELLED, 34, 1},
        {FRAME_CANCELLED, 47, 1},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct frame frame = sample(rows[i].type);
        uint8_t bytes[FRAME_BYTES_MAX];
        size_t n = frame_pack(&frame, bytes);
        assert_int_not_equal(bytes[rows[i].at], rows[i].value);
        bytes[rows[i].at] = rows[i].value;
        struct frame out;
        if (frame_unpack(bytes, n, &out) != SL_INVALID)
            fail_msg("row %zu: %s with byte %zu = %u is accepted", i, frame_type_name(rows[i].type),
                     rows[i].at, rows[i].value);
    }
    struct frame full = sample(FRAME_HELLO);
    uint8_t bytes[FRAME_BYTES_MAX];
    size_t n = frame_pack(&full, bytes);
    memset(bytes + 32, 'x', 16); /* a node id without its NUL */
    refused(bytes, n);
}

static void test_names(void **state)
{
    (void)state;
    assert_string_equal(frame_type_name(FRAME_SEAL_ACK), "seal_ack");
    assert_string_equal(frame_type_name(0), "?");
    assert_string_equal(frame_type_name(200), "?");
    assert_int_equal(frame_bytes(0), 0);
    assert_string_equal(transfer_reason_name(TRANSFER_CORRUPT), "corrupt");
    assert_string_equal(transfer_reason_name((enum transfer_reason)99), "?");
}

/* Values of the reference implementation (python3-xxhash, xxh64). */
static void test_digest(void **state)
{
    (void)state;
    uint8_t bytes[101];
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)(i * 7 + 1);
    assert_true(digest_bytes("", 0, 0) == 0xEF46DB3751D8E999ull);
    assert_true(digest_bytes("a", 1, 0) == 0xD24EC4F1A98C6E5Bull);
    assert_true(digest_bytes("abc", 3, 0) == 0x44BC2CF5AD770999ull);
    assert_true(digest_bytes(bytes, sizeof(bytes), 0) == 0x6BF452176F29BC13ull);
    assert_true(digest_bytes(bytes, sizeof(bytes), 2026) == 0xA37116425F41F140ull);
    assert_true(digest_bytes(bytes, 32, 1) == 0xA4339581310EDCC0ull);
}

static void test_stream_digest(void **state)
{
    (void)state;
    uint64_t one[2] = {0}, other[2] = {0}, swapped[2] = {0};
    digest_add(one, 1, 100);
    digest_add(one, 2, 200);
    digest_add(other, 2, 200); /* in any order */
    digest_add(other, 1, 100);
    assert_memory_equal(one, other, sizeof(one));
    digest_add(swapped, 1, 200); /* but each at its place */
    digest_add(swapped, 2, 100);
    assert_true(one[0] != swapped[0] && one[1] != swapped[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),    cmocka_unit_test(test_layout),
        cmocka_unit_test(test_bad_header),    cmocka_unit_test(test_bad_fields),
        cmocka_unit_test(test_names),         cmocka_unit_test(test_digest),
        cmocka_unit_test(test_stream_digest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

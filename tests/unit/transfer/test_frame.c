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
    case FRAME_PROBE:
        frame.probe = (struct frame_probe){
            .number = 3, .count = 5, .bytes = 1 << 20, .timed_bytes = 3 << 20, .busy_us = 0x0102};
        break;
    default:
        break;
    }
    return frame;
}

/* No field is zero, none is that of another, and each comes out as it went in. */
static struct frame full_sample(enum frame_type type)
{
    struct frame frame = sample(type);
    frame.lane = 5;
    if (type == FRAME_OPEN) {
        frame.open.n_classes = 2;
        frame.open.n_lanes = 6;
        frame.open.heads_per_piece = 9;
        frame.open.first_block[2] = 7;
    } else if (type == FRAME_OFFER) {
        frame.offer.class_index = 1;
        frame.offer.n_layers = 8;
        frame.offer.first_head = 2;
        frame.offer.n_heads = 3;
    } else if (type == FRAME_WANT) {
        frame.want.first_block[2] = 9;
    }
    return frame;
}

static void assert_same_open(const struct frame_open *a, const struct frame_open *b)
{
    assert_int_equal(a->n_blocks, b->n_blocks);
    assert_int_equal(a->n_tokens, b->n_tokens);
    assert_int_equal(a->n_classes, b->n_classes);
    assert_int_equal(a->n_lanes, b->n_lanes);
    assert_int_equal(a->layers_per_piece, b->layers_per_piece);
    assert_int_equal(a->heads_per_piece, b->heads_per_piece);
    assert_int_equal(a->transport, b->transport);
    assert_memory_equal(a->prefix_hash, b->prefix_hash, sizeof(a->prefix_hash));
    assert_memory_equal(a->first_block, b->first_block, sizeof(a->first_block));
}

static void assert_same_offer(const struct frame_offer *a, const struct frame_offer *b)
{
    assert_int_equal(a->class_index, b->class_index);
    assert_int_equal(a->first_layer, b->first_layer);
    assert_int_equal(a->n_layers, b->n_layers);
    assert_int_equal(a->first_head, b->first_head);
    assert_int_equal(a->n_heads, b->n_heads);
    assert_int_equal(a->flags, b->flags);
    assert_int_equal(a->block, b->block);
    assert_int_equal(a->piece, b->piece);
    assert_int_equal(a->bytes, b->bytes);
    assert_true(a->digest == b->digest);
}

static void assert_same_hello(const struct frame_hello *a, const struct frame_hello *b)
{
    assert_string_equal(a->node_id, b->node_id);
    assert_true(a->incarnation == b->incarnation);
    assert_memory_equal(a->identity, b->identity, sizeof(a->identity));
    assert_memory_equal(a->layout, b->layout, sizeof(a->layout));
    assert_int_equal(a->block_tokens, b->block_tokens);
    assert_int_equal(a->n_classes, b->n_classes);
    assert_true(a->block_bytes == b->block_bytes && a->classes_hash == b->classes_hash);
    assert_int_equal(a->transports, b->transports);
    assert_int_equal(a->offers_per_lane, b->offers_per_lane);
    assert_int_equal(a->offers_per_session, b->offers_per_session);
    assert_true(a->answers == b->answers);
}

static void assert_same_seal(const struct frame_seal *a, const struct frame_seal *b)
{
    assert_int_equal(a->n_tokens, b->n_tokens);
    assert_int_equal(a->n_blocks, b->n_blocks);
    assert_int_equal(a->n_pieces, b->n_pieces);
    assert_int_equal(a->token, b->token);
    assert_int_equal(a->token_index, b->token_index);
    assert_int_equal(a->flags, b->flags);
    assert_true(a->digest[0] == b->digest[0] && a->digest[1] == b->digest[1]);
}

static void assert_same_probe(const struct frame_probe *a, const struct frame_probe *b)
{
    assert_int_equal(a->number, b->number);
    assert_int_equal(a->count, b->count);
    assert_int_equal(a->bytes, b->bytes);
    assert_true(a->timed_bytes == b->timed_bytes && a->busy_us == b->busy_us);
}

static void assert_same(const struct frame *a, const struct frame *b)
{
    assert_int_equal(a->type, b->type);
    assert_int_equal(a->flags, b->flags);
    assert_int_equal(a->lane, b->lane);
    assert_true(a->key == b->key && a->incarnation == b->incarnation);
    assert_int_equal(a->attempt, b->attempt);
    if (a->type == FRAME_HELLO)
        assert_same_hello(&a->hello, &b->hello);
    else if (a->type == FRAME_BEAT)
        assert_true(a->beat.incarnation == b->beat.incarnation && a->beat.step == b->beat.step);
    else if (a->type == FRAME_OPEN)
        assert_same_open(&a->open, &b->open);
    else if (a->type == FRAME_WANT)
        assert_memory_equal(&a->want, &b->want, sizeof(a->want));
    else if (a->type == FRAME_GRANT)
        assert_memory_equal(&a->grant, &b->grant, sizeof(a->grant));
    else if (a->type == FRAME_OFFER)
        assert_same_offer(&a->offer, &b->offer);
    else if (a->type == FRAME_REFUSE)
        assert_true(a->refuse.reason == b->refuse.reason && a->refuse.piece == b->refuse.piece);
    else if (a->type == FRAME_SEAL)
        assert_same_seal(&a->seal, &b->seal);
    else if (a->type == FRAME_CANCEL)
        assert_int_equal(a->cancel_reason, b->cancel_reason);
    else if (a->type == FRAME_CANCELLED)
        assert_int_equal(a->quiet, b->quiet);
    else if (a->type == FRAME_PROBE)
        assert_same_probe(&a->probe, &b->probe);
}

static void test_round_trip(void **state)
{
    (void)state;
    static const size_t bytes_of[FRAME_TYPE_COUNT] = {
        [FRAME_HELLO] = 128,   [FRAME_BEAT] = 48,   [FRAME_OPEN] = 80,      [FRAME_WANT] = 64,
        [FRAME_GRANT] = 48,    [FRAME_OFFER] = 64,  [FRAME_REFUSE] = 48,    [FRAME_SEAL] = 80,
        [FRAME_SEAL_ACK] = 32, [FRAME_CANCEL] = 48, [FRAME_CANCELLED] = 48, [FRAME_PROBE] = 64};
    for (unsigned type = 1; type < FRAME_TYPE_COUNT; type++) {
        struct frame frame = full_sample((enum frame_type)type), back;
        uint8_t bytes[FRAME_BYTES_MAX], again[FRAME_BYTES_MAX];
        size_t n = frame_pack(&frame, bytes);
        assert_int_equal(n, bytes_of[type]);
        assert_int_equal(frame_bytes(type), n);
        assert_int_equal(frame_unpack(bytes, n, &back), SL_OK);
        assert_same(&back, &frame);
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

    frame = sample(FRAME_PROBE);
    static const uint8_t probe[32] = {3, 0, 0,  0, 5, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0,
                                      0, 0, 48, 0, 0, 0, 0, 0, 2, 1, 0,  0, 0, 0, 0, 0};
    assert_int_equal(frame_pack(&frame, bytes), 32 + sizeof(probe));
    assert_memory_equal(bytes + 32, probe, sizeof(probe));

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
        {FRAME_CANCELLED, 47, 1}, {FRAME_PROBE, 44, 1},
        {FRAME_PROBE, 47, 1},
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
    assert_string_equal(frame_type_name(FRAME_TYPE_COUNT), "?");
    assert_int_equal(frame_bytes(FRAME_TYPE_COUNT), 0);
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

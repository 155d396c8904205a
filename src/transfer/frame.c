/* Messages as bytes.
 *
 *   0        1      2        4       8              16                       24         28          32
 *   | version | type | flags  | lane  | key          | incarnation it is for  | attempt  | reserved  | fields …
 *
 * A cursor walks the bytes in both directions with the same few functions; a message's size is a row
 * of the table, so that neither side can read or write past it. Reserved bytes are written as zero
 * and refused otherwise: a later version can give them a meaning. No thread of its own, no state. */
#include "transfer/frame.h"

#include <string.h>

struct row {
    const char *name;
    uint16_t bytes;
    uint16_t flags; /* that may be set in the header */
};

static const struct row rows[FRAME_TYPE_COUNT] = {
    [FRAME_HELLO] = {"hello", 128, 0},
    [FRAME_BEAT] = {"beat", 48, 0},
    [FRAME_OPEN] = {"open", 80, FRAME_FLAG_DIGEST},
    [FRAME_WANT] = {"want", 64, 0},
    [FRAME_GRANT] = {"grant", 48, 0},
    [FRAME_OFFER] = {"offer", 64, 0},
    [FRAME_REFUSE] = {"refuse", 48, 0},
    [FRAME_SEAL] = {"seal", 80, FRAME_FLAG_DIGEST},
    [FRAME_SEAL_ACK] = {"seal_ack", 32, 0},
    [FRAME_CANCEL] = {"cancel", 48, 0},
    [FRAME_CANCELLED] = {"cancelled", 48, 0},
    [FRAME_PROBE] = {"probe", 64, 0},
};

const char *frame_type_name(unsigned type)
{
    return type > 0 && type < FRAME_TYPE_COUNT ? rows[type].name : "?";
}

size_t frame_bytes(unsigned type)
{
    return type > 0 && type < FRAME_TYPE_COUNT ? rows[type].bytes : 0;
}

/* ---- writing ---- */

struct writer {
    uint8_t *at;
};

static void put(struct writer *writer, uint64_t value, size_t n)
{
    for (size_t i = 0; i < n; i++)
        *writer->at++ = (uint8_t)(value >> (8 * i));
}

static void put_bytes(struct writer *writer, const void *bytes, size_t n)
{
    memcpy(writer->at, bytes, n);
    writer->at += n;
}

static void put_hello(struct writer *w, const struct frame_hello *hello)
{
    put_bytes(w, hello->node_id, sizeof(hello->node_id));
    put(w, hello->incarnation, 8);
    put_bytes(w, hello->identity, sizeof(hello->identity));
    put_bytes(w, hello->layout, sizeof(hello->layout));
    put(w, hello->block_tokens, 4);
    put(w, hello->n_classes, 2);
    put(w, 0, 2);
    put(w, hello->block_bytes, 8);
    put(w, hello->classes_hash, 8);
    put(w, hello->transports, 4);
    put(w, hello->offers_per_lane, 2);
    put(w, hello->offers_per_session, 2);
    put(w, hello->answers, 8);
}

static void put_first_blocks(struct writer *w, const uint32_t first_block[TRANSFER_CLASSES_MAX])
{
    for (uint32_t c = 0; c < TRANSFER_CLASSES_MAX; c++)
        put(w, first_block[c], 4);
}

static void put_open(struct writer *w, const struct frame_open *open)
{
    put(w, open->n_blocks, 4);
    put(w, open->n_tokens, 4);
    put(w, open->n_classes, 2);
    put(w, open->n_lanes, 2);
    put(w, open->layers_per_piece, 2);
    put(w, open->heads_per_piece, 2);
    put(w, open->transport, 4);
    put_bytes(w, open->prefix_hash, sizeof(open->prefix_hash));
    put_first_blocks(w, open->first_block);
}

static void put_offer(struct writer *w, const struct frame_offer *offer)
{
    put(w, offer->class_index, 2);
    put(w, offer->first_layer, 2);
    put(w, offer->n_layers, 2);
    put(w, offer->first_head, 2);
    put(w, offer->n_heads, 2);
    put(w, offer->flags, 2);
    put(w, offer->block, 4);
    put(w, offer->piece, 4);
    put(w, offer->bytes, 4);
    put(w, offer->digest, 8);
}

static void put_seal(struct writer *w, const struct frame_seal *seal)
{
    put(w, seal->n_tokens, 4);
    put(w, seal->n_blocks, 4);
    put(w, seal->n_pieces, 4);
    put(w, seal->token, 4);
    put(w, seal->token_index, 4);
    put(w, seal->flags, 4);
    put(w, seal->digest[0], 8);
    put(w, seal->digest[1], 8);
}

static void put_probe(struct writer *w, const struct frame_probe *probe)
{
    put(w, probe->number, 4);
    put(w, probe->count, 4);
    put(w, probe->bytes, 4);
    put(w, 0, 4);
    put(w, probe->timed_bytes, 8);
    put(w, probe->busy_us, 8);
}

static void put_fields(struct writer *w, const struct frame *frame)
{
    switch (frame->type) {
    case FRAME_HELLO:
        put_hello(w, &frame->hello);
        break;
    case FRAME_BEAT:
        put(w, frame->beat.incarnation, 8);
        put(w, frame->beat.step, 8);
        break;
    case FRAME_OPEN:
        put_open(w, &frame->open);
        break;
    case FRAME_WANT:
        put_first_blocks(w, frame->want.first_block);
        put(w, frame->want.credit, 4);
        put(w, frame->want.offers_max, 4);
        break;
    case FRAME_GRANT:
        put(w, frame->grant.credit, 4);
        put(w, frame->grant.sequence, 4);
        put(w, frame->grant.piece, 4);
        break;
    case FRAME_OFFER:
        put_offer(w, &frame->offer);
        break;
    case FRAME_REFUSE:
        put(w, frame->refuse.reason, 2);
        put(w, 0, 2);
        put(w, frame->refuse.piece, 4);
        break;
    case FRAME_SEAL:
        put_seal(w, &frame->seal);
        break;
    case FRAME_CANCEL:
        put(w, frame->cancel_reason, 2);
        break;
    case FRAME_CANCELLED:
        put(w, frame->quiet, 2);
        break;
    case FRAME_PROBE:
        put_probe(w, &frame->probe);
        break;
    case FRAME_SEAL_ACK:
    case FRAME_TYPE_COUNT:
        break;
    }
}

size_t frame_pack(const struct frame *frame, uint8_t bytes_out[FRAME_BYTES_MAX])
{
    size_t n = frame_bytes(frame->type);
    SL_ASSERT(n >= FRAME_HEADER_BYTES && n <= FRAME_BYTES_MAX);
    struct writer writer = {.at = bytes_out};
    put(&writer, FRAME_VERSION, 1);
    put(&writer, frame->type, 1);
    put(&writer, frame->flags, 2);
    put(&writer, frame->lane, 4);
    put(&writer, frame->key, 8);
    put(&writer, frame->incarnation, 8);
    put(&writer, frame->attempt, 4);
    put(&writer, 0, 4);
    put_fields(&writer, frame);
    size_t written = (size_t)(writer.at - bytes_out);
    SL_ASSERT(written <= n);
    memset(writer.at, 0, n - written);
    return n;
}

/* ---- reading ---- */

struct reader {
    const uint8_t *at, *end;
    bool reserved_set; /* a reserved byte was not zero */
};

static uint64_t get(struct reader *reader, size_t n)
{
    SL_ASSERT(reader->end - reader->at >= (ptrdiff_t)n); /* sizes come from our own table */
    uint64_t value = 0;
    for (size_t i = 0; i < n; i++)
        value |= (uint64_t)reader->at[i] << (8 * i);
    reader->at += n;
    return value;
}

static uint32_t get32(struct reader *reader)
{
    return (uint32_t)get(reader, 4);
}

static uint16_t get16(struct reader *reader)
{
    return (uint16_t)get(reader, 2);
}

static void get_bytes(struct reader *reader, void *out, size_t n)
{
    SL_ASSERT(reader->end - reader->at >= (ptrdiff_t)n);
    memcpy(out, reader->at, n);
    reader->at += n;
}

static void get_reserved(struct reader *reader, size_t n)
{
    if (get(reader, n) != 0)
        reader->reserved_set = true;
}

static bool node_id_is_valid(const char id[FRAME_NODE_ID_BYTES])
{
    size_t n = strnlen(id, FRAME_NODE_ID_BYTES);
    if (n == 0 || n == FRAME_NODE_ID_BYTES)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (id[i] <= ' ' || id[i] > '~' || id[i] == '"' || id[i] == '\\')
            return false; /* it becomes a label and a log value */
    }
    for (size_t i = n; i < FRAME_NODE_ID_BYTES; i++) {
        if (id[i] != '\0')
            return false;
    }
    return true;
}

static sl_status get_hello(struct reader *r, struct frame_hello *hello)
{
    get_bytes(r, hello->node_id, sizeof(hello->node_id));
    hello->incarnation = get(r, 8);
    get_bytes(r, hello->identity, sizeof(hello->identity));
    get_bytes(r, hello->layout, sizeof(hello->layout));
    hello->block_tokens = get32(r);
    hello->n_classes = get16(r);
    get_reserved(r, 2);
    hello->block_bytes = get(r, 8);
    hello->classes_hash = get(r, 8);
    hello->transports = get32(r);
    hello->offers_per_lane = get16(r);
    hello->offers_per_session = get16(r);
    hello->answers = get(r, 8);
    if (!node_id_is_valid(hello->node_id))
        return sl_fail(SL_INVALID, "hello: node id is not 1..15 printable bytes");
    return SL_OK;
}

static void get_first_blocks(struct reader *r, uint32_t first_block[TRANSFER_CLASSES_MAX])
{
    for (uint32_t c = 0; c < TRANSFER_CLASSES_MAX; c++)
        first_block[c] = get32(r);
}

static void get_open(struct reader *r, struct frame_open *open)
{
    open->n_blocks = get32(r);
    open->n_tokens = get32(r);
    open->n_classes = get16(r);
    open->n_lanes = get16(r);
    open->layers_per_piece = get16(r);
    open->heads_per_piece = get16(r);
    open->transport = get32(r);
    get_bytes(r, open->prefix_hash, sizeof(open->prefix_hash));
    get_first_blocks(r, open->first_block);
}

static sl_status get_offer(struct reader *r, struct frame_offer *offer)
{
    offer->class_index = get16(r);
    offer->first_layer = get16(r);
    offer->n_layers = get16(r);
    offer->first_head = get16(r);
    offer->n_heads = get16(r);
    offer->flags = get16(r);
    offer->block = get32(r);
    offer->piece = get32(r);
    offer->bytes = get32(r);
    offer->digest = get(r, 8);
    if ((offer->flags & ~FRAME_FLAG_DIGEST) != 0)
        return sl_fail(SL_INVALID, "offer: unknown flags 0x%x", offer->flags);
    return SL_OK;
}

static sl_status get_seal(struct reader *r, struct frame_seal *seal)
{
    seal->n_tokens = get32(r);
    seal->n_blocks = get32(r);
    seal->n_pieces = get32(r);
    seal->token = get32(r);
    seal->token_index = get32(r);
    seal->flags = get32(r);
    seal->digest[0] = get(r, 8);
    seal->digest[1] = get(r, 8);
    if ((seal->flags & ~FRAME_SEAL_EOS) != 0)
        return sl_fail(SL_INVALID, "seal: unknown flags 0x%x", seal->flags);
    return SL_OK;
}

static sl_status get_reason(struct reader *r, const char *what, uint16_t *reason_out)
{
    uint16_t reason = get16(r);
    if (reason == 0 || reason >= TRANSFER_REASON_COUNT)
        return sl_fail(SL_INVALID, "%s: reason %u; want 1..%d", what, reason,
                       TRANSFER_REASON_COUNT - 1);
    *reason_out = reason;
    return SL_OK;
}

static sl_status get_refuse(struct reader *r, struct frame_refuse *refuse)
{
    sl_status status = get_reason(r, "refuse", &refuse->reason);
    if (status != SL_OK)
        return status;
    get_reserved(r, 2);
    refuse->piece = get32(r);
    return SL_OK;
}

static sl_status get_quiet(struct reader *r, bool *quiet_out)
{
    uint16_t quiet = get16(r);
    if (quiet > 1)
        return sl_fail(SL_INVALID, "cancelled: quiet is %u; want 0 or 1", quiet);
    *quiet_out = quiet == 1;
    return SL_OK;
}

static void get_probe(struct reader *r, struct frame_probe *probe)
{
    probe->number = get32(r);
    probe->count = get32(r);
    probe->bytes = get32(r);
    get_reserved(r, 4);
    probe->timed_bytes = get(r, 8);
    probe->busy_us = get(r, 8);
}

static sl_status get_fields(struct reader *r, struct frame *frame)
{
    switch (frame->type) {
    case FRAME_HELLO:
        return get_hello(r, &frame->hello);
    case FRAME_BEAT:
        frame->beat.incarnation = get(r, 8);
        frame->beat.step = get(r, 8);
        return SL_OK;
    case FRAME_OPEN:
        get_open(r, &frame->open);
        return SL_OK;
    case FRAME_WANT:
        get_first_blocks(r, frame->want.first_block);
        frame->want.credit = get32(r);
        frame->want.offers_max = get32(r);
        return SL_OK;
    case FRAME_GRANT:
        frame->grant.credit = get32(r);
        frame->grant.sequence = get32(r);
        frame->grant.piece = get32(r);
        return SL_OK;
    case FRAME_OFFER:
        return get_offer(r, &frame->offer);
    case FRAME_REFUSE:
        return get_refuse(r, &frame->refuse);
    case FRAME_SEAL:
        return get_seal(r, &frame->seal);
    case FRAME_CANCEL:
        return get_reason(r, "cancel", &frame->cancel_reason);
    case FRAME_CANCELLED:
        return get_quiet(r, &frame->quiet);
    case FRAME_PROBE:
        get_probe(r, &frame->probe);
        return SL_OK;
    case FRAME_SEAL_ACK:
    case FRAME_TYPE_COUNT:
        break;
    }
    return SL_OK;
}

static sl_status get_header(struct reader *r, size_t n, struct frame *frame)
{
    unsigned version = (unsigned)get(r, 1);
    unsigned type = (unsigned)get(r, 1);
    if (version != FRAME_VERSION)
        return sl_fail(SL_INVALID, "frame of version %u; want %d", version, FRAME_VERSION);
    if (frame_bytes(type) == 0)
        return sl_fail(SL_INVALID, "frame of unknown type %u", type);
    if (frame_bytes(type) != n)
        return sl_fail(SL_INVALID, "%s of %zu bytes; want %zu", frame_type_name(type), n,
                       frame_bytes(type));
    frame->type = (enum frame_type)type;
    frame->flags = get16(r);
    if ((frame->flags & ~rows[type].flags) != 0)
        return sl_fail(SL_INVALID, "%s: unknown flags 0x%x", frame_type_name(type), frame->flags);
    frame->lane = get32(r);
    frame->key = get(r, 8);
    frame->incarnation = get(r, 8);
    frame->attempt = get32(r);
    get_reserved(r, 4);
    return SL_OK;
}

sl_status frame_unpack(const uint8_t *bytes, size_t n, struct frame *frame_out)
{
    if (n < FRAME_HEADER_BYTES || n > FRAME_BYTES_MAX)
        return sl_fail(SL_INVALID, "frame of %zu bytes; want %d..%d", n, FRAME_HEADER_BYTES,
                       FRAME_BYTES_MAX);
    struct reader reader = {.at = bytes, .end = bytes + n};
    struct frame frame = {0};
    sl_status status = get_header(&reader, n, &frame);
    if (status == SL_OK)
        status = get_fields(&reader, &frame);
    if (status != SL_OK)
        return status;
    while (reader.at < reader.end)
        get_reserved(&reader, 1);
    if (reader.reserved_set)
        return sl_fail(SL_INVALID, "%s: a reserved field is not zero", frame_type_name(frame.type));
    *frame_out = frame;
    return SL_OK;
}

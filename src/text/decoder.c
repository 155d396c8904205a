/* Decoders.
 *
 * What a token stands for is worked out once per token, at load (text_decoder_token); what depends
 * on neighbours, UTF-8 across tokens, runs of fallback bytes, the space that is stripped at the
 * start, is the detokenizer's. The order of a Sequence is checked: Replace before ByteFallback
 * before Fuse before Strip is what every published file has, and another order means another thing.
 *
 * Immutable after load, any thread. */
#include "text/decoder.h"

#include "base/mem.h"
#include "base/utf8.h"
#include "text/bpe.h"
#include "text/chars.h"

#include <string.h>

#define METASPACE "\xe2\x96\x81" /* U+2581 */

static sl_status load_replace(struct text_decoder *decoder, const char *what, const json_t *value)
{
    const char *pattern, *content;

    sl_status status =
        sl_json_text(json_object_get(value, "pattern"), what, "String", NULL, &pattern);
    if (status == SL_OK)
        status = sl_json_text(value, what, "content", "", &content);
    if (status != SL_OK)
        return status;
    if (pattern == NULL || pattern[0] == '\0' || decoder->n_replaces == TEXT_REPLACES_MAX)
        return sl_fail(SL_UNSUPPORTED,
                       "%s: decoder Replace without a String, or more than %u of them", what,
                       TEXT_REPLACES_MAX);
    decoder->replace[decoder->n_replaces][0] = sl_strdup(pattern);
    decoder->replace[decoder->n_replaces++][1] = sl_strdup(content);
    return SL_OK;
}

static sl_status load_strip(struct text_decoder *decoder, const char *what, const json_t *value)
{
    const char *content;
    uint64_t start, stop;

    sl_status status = sl_json_text(value, what, "content", "", &content);
    if (status == SL_OK)
        status = sl_json_uint(value, what, "start", 0, 0, 1024, &start);
    if (status == SL_OK)
        status = sl_json_uint(value, what, "stop", 0, 0, 1024, &stop);
    if (status != SL_OK)
        return status;
    uint32_t code;
    size_t bytes = strlen(content);
    if (bytes == 0 || sl_utf8_next(content, bytes, &code) != (int)bytes)
        return sl_fail(SL_INVALID, "%s: decoder Strip: content is not one character", what);
    if (stop != 0 || !decoder->fused)
        return sl_fail(SL_UNSUPPORTED,
                       "%s: decoder Strip of the end, or of single tokens, is not supported", what);
    memcpy(decoder->strip, content, bytes + 1);
    decoder->strip_count = (uint32_t)start;
    return SL_OK;
}

/* One member of a chain; rank says how far the order has come. */
static sl_status load_member(struct text_decoder *decoder, const char *what, const json_t *value,
                             int *rank)
{
    static const char *const order[] = {"Replace", "ByteFallback", "Fuse", "Strip"};
    const char *type;
    int mine = 0;

    sl_status status = sl_json_text(value, what, "type", "", &type);
    if (status != SL_OK)
        return status;
    while (mine < 4 && strcmp(type, order[mine]) != 0)
        mine++;
    if (mine == 4)
        return sl_fail(SL_UNSUPPORTED, "%s: decoder \"%.64s\" in a Sequence is not supported", what,
                       type);
    if (mine < *rank || (mine == *rank && mine == 3))
        return sl_fail(SL_UNSUPPORTED, "%s: decoder Sequence in this order is not supported", what);
    *rank = mine;
    switch (mine) {
    case 0:
        return load_replace(decoder, what, value);
    case 1:
        decoder->byte_fallback = true;
        return SL_OK;
    case 2:
        decoder->fused = true;
        return SL_OK;
    default:
        return load_strip(decoder, what, value);
    }
}

static sl_status load_metaspace(struct text_decoder *decoder, const char *what, const json_t *value)
{
    const char *replacement, *scheme;
    bool prefix;

    sl_status status = sl_json_text(value, what, "replacement", METASPACE, &replacement);
    if (status == SL_OK)
        status = sl_json_bool(value, what, "add_prefix_space", true, &prefix);
    if (status == SL_OK)
        status = sl_json_text(value, what, "prepend_scheme", prefix ? "always" : "never", &scheme);
    if (status != SL_OK)
        return status;
    if (strcmp(replacement, METASPACE) != 0)
        return sl_fail(SL_UNSUPPORTED,
                       "%s: decoder Metaspace with replacement \"%.16s\" is not supported", what,
                       replacement);
    decoder->kind = TEXT_DECODE_METASPACE;
    decoder->drop_first = strcmp(scheme, "never") != 0;
    return SL_OK;
}

sl_status text_decoder_load(struct text_decoder *decoder, const char *what, const json_t *value)
{
    const char *type;
    int rank = 0;

    *decoder = (struct text_decoder){.kind = TEXT_DECODE_PLAIN};
    if (value == NULL || json_is_null(value))
        return SL_OK;
    sl_status status = sl_json_text(value, what, "type", "", &type);
    if (status != SL_OK)
        return status;
    if (strcmp(type, "ByteLevel") == 0) {
        decoder->kind = TEXT_DECODE_BYTE_LEVEL;
        return SL_OK;
    }
    if (strcmp(type, "Metaspace") == 0)
        return load_metaspace(decoder, what, value);
    decoder->kind = TEXT_DECODE_CHAIN;
    if (strcmp(type, "Sequence") != 0)
        return load_member(decoder, what, value, &rank);
    const json_t *list = json_object_get(value, "decoders");
    if (!json_is_array(list))
        return sl_fail(SL_INVALID, "%s: decoder Sequence has no decoders", what);
    if (json_array_size(list) == 1) /* as some exporters write a single one */
        return text_decoder_load(decoder, what, json_array_get(list, 0));
    for (size_t i = 0; status == SL_OK && i < json_array_size(list); i++)
        status = load_member(decoder, what, json_array_get(list, i), &rank);
    return status;
}

void text_decoder_fini(struct text_decoder *decoder)
{
    for (uint32_t i = 0; i < decoder->n_replaces; i++) {
        sl_free(decoder->replace[i][0]);
        sl_free(decoder->replace[i][1]);
    }
    *decoder = (struct text_decoder){0};
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Appends text with every `from` as `to`. */
static void replace_all(const char *text, size_t bytes, const char *from, const char *to,
                        struct sl_buf *out)
{
    size_t n = strlen(from);

    while (bytes > 0) {
        const char *found = memmem(text, bytes, from, n);
        size_t before = found == NULL ? bytes : (size_t)(found - text);
        sl_buf_add(out, text, before);
        if (found == NULL)
            return;
        sl_buf_add_text(out, to);
        text = found + n;
        bytes -= before + n;
    }
}

static bool chain_token(const struct text_decoder *decoder, const char *written, size_t bytes,
                        struct sl_buf *out)
{
    struct sl_buf turns[2];
    const char *text = written;
    bool is_byte = false;

    sl_buf_init(&turns[0], SIZE_MAX / 8);
    sl_buf_init(&turns[1], SIZE_MAX / 8);
    for (uint32_t i = 0; i < decoder->n_replaces; i++) {
        struct sl_buf *to = &turns[i % 2];
        sl_buf_reset(to);
        replace_all(text, bytes, decoder->replace[i][0], decoder->replace[i][1], to);
        text = to->data != NULL ? to->data : "";
        bytes = to->bytes;
    }
    if (decoder->byte_fallback && bytes == 6 && memcmp(text, "<0x", 3) == 0 && text[5] == '>') {
        int high = hex_value(text[3]), low = hex_value(text[4]);
        if (high >= 0 && low >= 0) {
            char byte = (char)(high * 16 + low);
            sl_buf_add(out, &byte, 1);
            is_byte = true;
        }
    }
    if (!is_byte)
        sl_buf_add(out, text, bytes);
    out->failed = out->failed || turns[0].failed || turns[1].failed;
    sl_buf_fini(&turns[0]);
    sl_buf_fini(&turns[1]);
    return is_byte;
}

bool text_decoder_token(const struct text_decoder *decoder, const char *written, size_t bytes,
                        struct sl_buf *out)
{
    char unmapped[TEXT_TOKEN_BYTES_MAX];
    size_t n;

    if (decoder->kind == TEXT_DECODE_CHAIN)
        return chain_token(decoder, written, bytes, out);
    if (decoder->kind == TEXT_DECODE_BYTE_LEVEL && bytes <= sizeof(unmapped) &&
        text_bpe_unmap(written, bytes, unmapped, &n))
        sl_buf_add(out, unmapped, n);
    else
        sl_buf_add(out, written, bytes);
    return false;
}

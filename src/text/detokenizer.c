/* Detokenizer.
 *
 * Holds back what cannot be shown yet and nothing else:
 *   byte level  the bytes of a character that has begun and is not complete, at most three;
 *   fallback    a run of byte tokens, because whether they are text or U+FFFD is decided over the
 *               whole run (one for each byte if the run is not UTF-8).
 * text_tokenizer_decode() is this very machine run over all ids, so that pieces and whole cannot
 * differ; tests compare both with `tokenizers`.
 *
 * One thread at a time; the tokenizer is shared. */
#include "text/detokenizer.h"

#include "base/utf8.h"
#include "text/chars.h"
#include "text/tokenizer_parts.h"

#include <string.h>

void text_detokenizer_init(struct text_detokenizer *detokenizer,
                           const struct text_tokenizer *tokenizer, bool skip_special)
{
    *detokenizer = (struct text_detokenizer){
        .tokenizer = tokenizer,
        .skip_special = skip_special,
        .strip_left = tokenizer->decoder.strip_count,
    };
    sl_buf_init(&detokenizer->run, SIZE_MAX / 8); /* one byte per token pushed */
}

void text_detokenizer_fini(struct text_detokenizer *detokenizer)
{
    sl_buf_fini(&detokenizer->run);
}

/* Gives out whole characters, without those that are stripped at the start of the text. */
static void give(struct text_detokenizer *detokenizer, const char *text, size_t bytes,
                 struct sl_buf *out)
{
    const char *strip = detokenizer->tokenizer->decoder.strip;
    size_t strip_bytes = strlen(strip);

    while (detokenizer->strip_left > 0 && bytes > 0) {
        if (bytes < strip_bytes || memcmp(text, strip, strip_bytes) != 0) {
            detokenizer->strip_left = 0;
            break;
        }
        text += strip_bytes;
        bytes -= strip_bytes;
        detokenizer->strip_left--;
    }
    sl_buf_add(out, text, bytes);
    detokenizer->out_bytes += bytes;
    for (size_t i = 0; i < bytes; i++)
        detokenizer->out_chars += ((uint8_t)text[i] & 0xc0u) != 0x80u;
}

/* Bytes that are a part of UTF-8 text: whole characters go out, broken ones as U+FFFD. */
static void push_bytes(struct text_detokenizer *detokenizer, const char *bytes, size_t n,
                       struct sl_buf *out)
{
    uint32_t code;

    /* complete what is held, byte by byte: it has at most three */
    while (n > 0 && detokenizer->n_held > 0) {
        char *held = detokenizer->held;
        held[detokenizer->n_held] = *bytes;
        int length = sl_utf8_next(held, detokenizer->n_held + 1u, &code);
        if (length < 0) { /* the new byte does not belong to it */
            give(detokenizer, TEXT_REPLACEMENT, TEXT_REPLACEMENT_BYTES, out);
            detokenizer->n_held = 0;
            break;
        }
        bytes++;
        n--;
        detokenizer->n_held++;
        if (length > 0) {
            give(detokenizer, held, (size_t)length, out);
            detokenizer->n_held = 0;
        }
    }
    size_t start = 0, at = 0;
    while (at < n) {
        int length = sl_utf8_next(bytes + at, n - at, &code);
        if (length > 0) {
            at += (size_t)length;
            continue;
        }
        give(detokenizer, bytes + start, at - start, out);
        if (length == 0) {
            detokenizer->n_held = (uint8_t)(n - at);
            memcpy(detokenizer->held, bytes + at, n - at);
            return;
        }
        give(detokenizer, TEXT_REPLACEMENT, TEXT_REPLACEMENT_BYTES, out);
        at += (size_t)-length;
        start = at;
    }
    give(detokenizer, bytes + start, at - start, out);
}

/* The end of a run of fallback bytes. */
static void end_run(struct text_detokenizer *detokenizer, struct sl_buf *out)
{
    struct sl_buf *run = &detokenizer->run;

    if (run->failed)
        out->failed = true;
    if (run->bytes == 0)
        return;
    if (text_utf8_valid(run->data, run->bytes, NULL))
        give(detokenizer, run->data, run->bytes, out);
    else
        for (size_t i = 0; i < run->bytes; i++)
            give(detokenizer, TEXT_REPLACEMENT, TEXT_REPLACEMENT_BYTES, out);
    sl_buf_reset(run);
}

/* Metaspaces are spaces, and nothing in the first token. */
static void push_metaspace(struct text_detokenizer *detokenizer, const char *text, size_t bytes,
                           struct sl_buf *out)
{
    bool drop = !detokenizer->started && detokenizer->tokenizer->decoder.drop_first;
    size_t start = 0;

    for (size_t at = 0; at < bytes;) {
        uint32_t code;
        int n = sl_utf8_next(text + at, bytes - at, &code);
        SL_ASSERT(n > 0); /* the file is UTF-8 */
        if (code == 0x2581) {
            give(detokenizer, text + start, at - start, out);
            if (!drop)
                give(detokenizer, " ", 1, out);
            start = at + (size_t)n;
        }
        at += (size_t)n;
    }
    give(detokenizer, text + start, bytes - start, out);
}

void text_detokenizer_push(struct text_detokenizer *detokenizer, uint32_t id, struct sl_buf *out,
                           struct text_offset *offset_out)
{
    const struct text_tokenizer *tokenizer = detokenizer->tokenizer;
    const struct text_token *token = text_token_of(tokenizer, id);

    if (offset_out != NULL)
        *offset_out = (struct text_offset){detokenizer->out_bytes, detokenizer->out_chars};
    if (token == NULL || (detokenizer->skip_special && token->special))
        return;
    const char *text = token->n == 0 ? "" : tokenizer->token_bytes.data + token->offset;
    switch (tokenizer->decoder.kind) {
    case TEXT_DECODE_PLAIN:
        if (detokenizer->started)
            give(detokenizer, " ", 1, out);
        give(detokenizer, text, token->n, out);
        break;
    case TEXT_DECODE_BYTE_LEVEL:
        push_bytes(detokenizer, text, token->n, out);
        break;
    case TEXT_DECODE_CHAIN:
        if (token->is_byte) {
            sl_buf_add(&detokenizer->run, text, token->n);
            break;
        }
        end_run(detokenizer, out);
        give(detokenizer, text, token->n, out);
        break;
    case TEXT_DECODE_METASPACE:
        push_metaspace(detokenizer, text, token->n, out);
        break;
    }
    detokenizer->started = true;
}

void text_detokenizer_flush(struct text_detokenizer *detokenizer, struct sl_buf *out)
{
    if (detokenizer->n_held > 0)
        give(detokenizer, TEXT_REPLACEMENT, TEXT_REPLACEMENT_BYTES, out);
    end_run(detokenizer, out);
    detokenizer->n_held = 0;
    detokenizer->started = false;
    detokenizer->strip_left = detokenizer->tokenizer->decoder.strip_count;
    detokenizer->out_bytes = detokenizer->out_chars = 0;
}

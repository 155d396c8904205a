/* A tokenizer.json of any bytes, then a text of any bytes with it: the file up to the first NUL, the
 * text behind it. What loads must encode valid UTF-8, decode any of its ids to valid UTF-8, and say
 * the same piece by piece. */
#include "text/chars.h"
#include "text/detokenizer.h"
#include "text/tokenizer.h"

#include <string.h>

#define IDS_MAX  65536u
#define TEXT_MAX (16u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void decode(const struct text_tokenizer *tokenizer, const struct text_ids *ids, bool skip)
{
    struct sl_buf whole, pieces;
    struct text_detokenizer detokenizer;

    sl_buf_init(&whole, TEXT_MAX);
    sl_buf_init(&pieces, TEXT_MAX);
    text_tokenizer_decode(tokenizer, ids->ids, ids->n_ids, skip, &whole);
    SL_ASSERT(whole.failed || text_utf8_valid(whole.data, whole.bytes, NULL));
    text_detokenizer_init(&detokenizer, tokenizer, skip);
    for (size_t i = 0; i < ids->n_ids; i++)
        text_detokenizer_push(&detokenizer, ids->ids[i], &pieces, NULL);
    text_detokenizer_flush(&detokenizer, &pieces);
    SL_ASSERT(whole.failed ||
              (whole.bytes == pieces.bytes &&
               (whole.bytes == 0 || memcmp(whole.data, pieces.data, whole.bytes) == 0)));
    text_detokenizer_fini(&detokenizer);
    sl_buf_fini(&whole);
    sl_buf_fini(&pieces);
}

static void encode(const struct text_tokenizer *tokenizer, const char *text, size_t bytes)
{
    struct text_ids ids;

    text_ids_init(&ids, IDS_MAX);
    sl_status status = text_tokenizer_encode(tokenizer, text, bytes, true, &ids);
    SL_ASSERT(status == SL_OK || sl_error()[0] != '\0');
    SL_ASSERT(status != SL_OK || text_utf8_valid(text, bytes, NULL));
    for (size_t i = 0; i < ids.n_ids; i++) {
        size_t n;
        SL_ASSERT(text_tokenizer_token_bytes(tokenizer, ids.ids[i], &n) != NULL);
    }
    ids.n_ids = 0;
    for (size_t i = 0; i < bytes && i < 256 && status == SL_OK; i++) /* ids out of the bytes */
        status = text_ids_add(&ids, (uint8_t)text[i]);
    decode(tokenizer, &ids, false);
    decode(tokenizer, &ids, true);
    text_ids_fini(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct text_tokenizer *tokenizer = NULL;
    const uint8_t *nul = size == 0 ? NULL : memchr(data, '\0', size);
    size_t json_bytes = nul == NULL ? size : (size_t)(nul - data);
    static const char sample[] = "It's 12345 caf\u00e9 e\u0301 \u4eca\u65e5 <s>a b\n\n  x";

    if (text_tokenizer_parse("fuzz", (const char *)data, json_bytes, &tokenizer) != SL_OK) {
        SL_ASSERT(sl_error()[0] != '\0' && tokenizer == NULL);
        return 0;
    }
    encode(tokenizer, sample, sizeof(sample) - 1);
    if (nul != NULL)
        encode(tokenizer, (const char *)nul + 1, size - json_bytes - 1);
    text_tokenizer_destroy(tokenizer);
    return 0;
}

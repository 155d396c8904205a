/* tokenize DIR: a filter for tools/compare_tokenizer.py. Not a test.
 *
 * Reads records from standard input, each one letter, a little-endian u32 length, and that many
 * bytes; writes one answer each, a u32 count and that many items:
 *   E, S   a text without, with special tokens     → ids (u32)
 *   D, K   ids (u32) keeping, skipping special ones → text (bytes), by the whole
 *   P, Q   the same, by the detokenizer token by token
 * A failure is answered with UINT32_MAX, and the sentence goes to standard error. */
#include "base/mem.h"
#include "text/detokenizer.h"
#include "text/tokenizer.h"

#include <stdio.h>
#include <string.h>

#define RECORD_BYTES_MAX (256u << 20)
#define ANSWER_MAX       (64u << 20)

static void answer(const void *items, uint32_t n, size_t item_bytes)
{
    fwrite(&n, sizeof(n), 1, stdout);
    if (n > 0)
        fwrite(items, item_bytes, n, stdout);
    fflush(stdout);
}

static void refuse(void)
{
    uint32_t n = UINT32_MAX;
    fprintf(stderr, "%s\n", sl_error());
    fwrite(&n, sizeof(n), 1, stdout);
    fflush(stdout);
}

static void encode(const struct text_tokenizer *tokenizer, const char *text, uint32_t bytes,
                   bool special)
{
    struct text_ids ids;

    text_ids_init(&ids, ANSWER_MAX);
    if (text_tokenizer_encode(tokenizer, text, bytes, special, &ids) == SL_OK)
        answer(ids.ids, (uint32_t)ids.n_ids, sizeof(*ids.ids));
    else
        refuse();
    text_ids_fini(&ids);
}

static void decode(const struct text_tokenizer *tokenizer, const uint32_t *ids, uint32_t n,
                   bool skip, bool in_pieces)
{
    struct sl_buf out;
    struct text_detokenizer detokenizer;

    sl_buf_init(&out, ANSWER_MAX);
    text_detokenizer_init(&detokenizer, tokenizer, skip);
    if (in_pieces) {
        for (uint32_t i = 0; i < n; i++)
            text_detokenizer_push(&detokenizer, ids[i], &out, NULL);
        text_detokenizer_flush(&detokenizer, &out);
    } else {
        text_tokenizer_decode(tokenizer, ids, n, skip, &out);
    }
    answer(out.data, (uint32_t)out.bytes, 1);
    text_detokenizer_fini(&detokenizer);
    sl_buf_fini(&out);
}

int main(int argc, char **argv)
{
    struct text_tokenizer *tokenizer;
    char *record = NULL;
    char letter;
    uint32_t n;

    if (argc != 2) {
        fprintf(stderr, "usage: tokenize DIR < records > answers\n");
        return 2;
    }
    if (text_tokenizer_open(argv[1], &tokenizer) != SL_OK) {
        fprintf(stderr, "%s\n", sl_error());
        return 1;
    }
    while (fread(&letter, 1, 1, stdin) == 1 && fread(&n, sizeof(n), 1, stdin) == 1 &&
           n <= RECORD_BYTES_MAX) {
        record = sl_try_realloc(record, n + 8u, 1);
        if (record == NULL || fread(record, 1, n, stdin) != n)
            break;
        if (letter == 'E' || letter == 'S')
            encode(tokenizer, record, n, letter == 'S');
        else
            decode(tokenizer, (const uint32_t *)(const void *)record, n / 4,
                   letter == 'K' || letter == 'Q', letter == 'P' || letter == 'Q');
    }
    sl_free(record);
    text_tokenizer_destroy(tokenizer);
    return 0;
}

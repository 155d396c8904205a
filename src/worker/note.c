/* Packs and unpacks what is said of the first token; the header has the bytes. */
#include "worker/note.h"

#include <math.h>
#include <string.h>

#define OWN_BYTES 4u
#define TOP_BYTES 8u

_Static_assert(OWN_BYTES + TOP_BYTES * MODEL_LOGPROBS_MAX <= TRANSFER_NOTE_BYTES_MAX,
               "the longest note fits");

static void put(struct transfer_note *note, uint32_t word)
{
    for (uint32_t i = 0; i < 4; i++)
        note->bytes[note->n_bytes++] = (uint8_t)(word >> (8 * i));
}

static void put_number(struct transfer_note *note, float number)
{
    uint32_t word;
    memcpy(&word, &number, sizeof(word));
    put(note, word);
}

static uint32_t word_at(const struct transfer_note *note, uint32_t at)
{
    uint32_t word = 0;
    for (uint32_t i = 0; i < 4; i++)
        word |= (uint32_t)note->bytes[at + i] << (8 * i);
    return word;
}

static bool number_at(const struct transfer_note *note, uint32_t at, float *number_out)
{
    uint32_t word = word_at(note, at);
    memcpy(number_out, &word, sizeof(*number_out));
    return !isnan(*number_out);
}

void worker_note_pack(const struct model_token *token, struct transfer_note *note_out)
{
    note_out->n_bytes = 0;
    put_number(note_out, token->logprob);
    for (uint32_t i = 0; i < token->n_top; i++) {
        put(note_out, token->top_ids[i]);
        put_number(note_out, token->top_logprobs[i]);
    }
}

sl_status worker_note_unpack(const struct transfer_note *note, uint32_t n_top_max, uint32_t vocab,
                             struct model_token *token)
{
    uint32_t n = note->n_bytes;
    if (n < OWN_BYTES || (n - OWN_BYTES) % TOP_BYTES != 0 ||
        (n - OWN_BYTES) / TOP_BYTES > n_top_max)
        return sl_fail(SL_INVALID, "note of %u bytes; want %u and at most %u times %u", n,
                       OWN_BYTES, n_top_max, TOP_BYTES);
    struct model_token read = {.id = token->id, .n_top = (n - OWN_BYTES) / TOP_BYTES};
    bool numbers = number_at(note, 0, &read.logprob);
    for (uint32_t i = 0; i < read.n_top; i++) {
        uint32_t at = OWN_BYTES + TOP_BYTES * i;
        read.top_ids[i] = word_at(note, at);
        numbers &= number_at(note, at + 4, &read.top_logprobs[i]);
        if (read.top_ids[i] >= vocab)
            return sl_fail(SL_INVALID, "note: token %u of a vocabulary of %u", read.top_ids[i],
                           vocab);
    }
    if (!numbers)
        return sl_fail(SL_INVALID, "note: a logprob is not a number");
    *token = read;
    return SL_OK;
}

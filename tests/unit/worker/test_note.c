/* What goes with the first token: back as it was, and nothing else is taken. */
#include "worker/note.h"

#include "support/support.h"

#include <math.h>
#include <string.h>

#define VOCAB 1000u

static struct model_token some(uint32_t n_top)
{
    struct model_token token = {.id = 7, .logprob = -0.25f, .n_top = n_top};
    for (uint32_t i = 0; i < n_top; i++) {
        token.top_ids[i] = VOCAB - 1 - i;
        token.top_logprobs[i] = i == 3 ? -INFINITY : -0.5f * (float)i;
    }
    return token;
}

static void round_trip(void **state)
{
    (void)state;
    for (uint32_t n = 0; n <= MODEL_LOGPROBS_MAX; n++) {
        struct model_token token = some(n), back = {.id = 7};
        struct transfer_note note = {0};
        worker_note_pack(&token, &note);
        assert_int_equal(note.n_bytes, 4 + 8 * n);
        assert_ok(worker_note_unpack(&note, n, VOCAB, &back));
        assert_memory_equal(&back, &token, sizeof(back));
    }
}

static void foreign_bytes(void **state)
{
    (void)state;
    struct model_token token = some(5), back = {.id = 7}, before = back;
    struct transfer_note note = {0};
    worker_note_pack(&token, &note);
    for (uint32_t n = 0; n <= TRANSFER_NOTE_BYTES_MAX; n++) {
        struct transfer_note cut = note;
        cut.n_bytes = n;
        struct model_token read = before;
        bool whole = n >= 4 && n % 8 == 4 && n <= 4 + 8 * 5;
        assert_int_equal(worker_note_unpack(&cut, 5, VOCAB, &read), whole ? SL_OK : SL_INVALID);
    }
    assert_fails(worker_note_unpack(&note, 4, VOCAB, &back), SL_INVALID, "at most 4 times 8");
    assert_fails(worker_note_unpack(&note, 5, VOCAB - 1, &back), SL_INVALID,
                 "token 999 of a vocabulary of 999");
    struct transfer_note odd = note;
    memset(odd.bytes + 4 + 8 + 4, 0xff, 4);
    assert_fails(worker_note_unpack(&odd, 5, VOCAB, &back), SL_INVALID, "not a number");
    odd = note;
    memset(odd.bytes, 0xff, 4);
    assert_fails(worker_note_unpack(&odd, 5, VOCAB, &back), SL_INVALID, "not a number");
    assert_memory_equal(&back, &before, sizeof(back));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),
        cmocka_unit_test(foreign_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

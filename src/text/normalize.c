/* Normalizers.
 *
 * A list of steps, Sequences flattened, each reading one buffer and writing the other; a step that
 * leaves a text as it is hands it on without a copy. Adding a kind: a row in `kinds`, a loader and
 * an apply function.
 *
 * Immutable after load, any thread; a run is one text's, and bounds what is written for it. */
#include "text/normalize.h"

#include "base/mem.h"
#include "base/utf8.h"
#include "text/chars.h"
#include "text/nfc.h"

#include <stdint.h>
#include <string.h>

typedef sl_status (*load_fn)(struct text_normalizer_step *step, const char *what,
                             const json_t *value);

static sl_status load_nothing(struct text_normalizer_step *step, const char *what,
                              const json_t *value)
{
    (void)step;
    (void)what;
    (void)value;
    return SL_OK;
}

static sl_status load_form(struct text_normalizer_step *step, const char *what, const json_t *value)
{
    static const char *const names[] = {"NFC", "NFD", "NFKC", "NFKD"};
    const char *type;
    sl_status status = sl_json_text(value, what, "type", "", &type);

    for (int i = 0; status == SL_OK && i < 4; i++)
        if (strcmp(type, names[i]) == 0)
            step->form = (enum text_normal_form)i;
    return status;
}

static sl_status load_prepend(struct text_normalizer_step *step, const char *what,
                              const json_t *value)
{
    const char *text;
    sl_status status = sl_json_text(value, what, "prepend", "", &text);

    if (status == SL_OK)
        step->text = sl_strdup(text);
    return status;
}

static sl_status load_replace(struct text_normalizer_step *step, const char *what,
                              const json_t *value)
{
    const char *text, *literal, *regex;
    const json_t *pattern = json_object_get(value, "pattern");

    if (!json_is_object(pattern))
        return sl_fail(SL_INVALID, "%s: normalizer Replace has no pattern", what);
    sl_status status = sl_json_text(value, what, "content", "", &text);
    if (status == SL_OK)
        status = sl_json_text(pattern, what, "String", NULL, &literal);
    if (status == SL_OK)
        status = sl_json_text(pattern, what, "Regex", NULL, &regex);
    if (status != SL_OK)
        return status;
    uint32_t code;
    step->text = sl_strdup(text);
    step->one_char = literal != NULL && literal[0] != '\0' &&
                     sl_utf8_next(literal, strlen(literal), &code) == (int)strlen(literal);
    if (literal != NULL)
        return text_regex_literal(what, "normalizer Replace", literal, &step->regex);
    if (regex != NULL)
        return text_regex_compile(what, "normalizer Replace", regex, &step->regex);
    return sl_fail(SL_INVALID, "%s: normalizer Replace: neither String nor Regex", what);
}

static sl_status load_strip(struct text_normalizer_step *step, const char *what,
                            const json_t *value)
{
    sl_status status = sl_json_bool(value, what, "strip_left", true, &step->left);

    if (status == SL_OK)
        status = sl_json_bool(value, what, "strip_right", true, &step->right);
    return status;
}

static const struct {
    const char *type;
    enum text_normalizer_kind kind;
    load_fn load;
} kinds[] = {
    {"NFC", TEXT_NORMALIZE_FORM, load_form},
    {"NFD", TEXT_NORMALIZE_FORM, load_form},
    {"NFKC", TEXT_NORMALIZE_FORM, load_form},
    {"NFKD", TEXT_NORMALIZE_FORM, load_form},
    {"Lowercase", TEXT_NORMALIZE_LOWERCASE, load_nothing},
    {"Prepend", TEXT_NORMALIZE_PREPEND, load_prepend},
    {"Replace", TEXT_NORMALIZE_REPLACE, load_replace},
    {"Strip", TEXT_NORMALIZE_STRIP, load_strip},
};

static sl_status load_sequence(struct text_normalizer *normalizer, const char *what,
                               const json_t *list, int depth);

static sl_status load_one(struct text_normalizer *normalizer, const char *what, const json_t *value,
                          int depth)
{
    const char *type;

    if (!json_is_object(value))
        return sl_fail(SL_INVALID, "%s: a normalizer is not an object", what);
    sl_status status = sl_json_text(value, what, "type", "", &type);
    if (status != SL_OK)
        return status;
    if (strcmp(type, "Sequence") == 0)
        return load_sequence(normalizer, what, json_object_get(value, "normalizers"), depth + 1);
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (strcmp(type, kinds[i].type) != 0)
            continue;
        if (normalizer->n_steps == TEXT_NORMALIZERS_MAX)
            return sl_fail(SL_UNSUPPORTED, "%s: more than %u normalizers", what,
                           TEXT_NORMALIZERS_MAX);
        struct text_normalizer_step *step = &normalizer->steps[normalizer->n_steps++];
        step->kind = kinds[i].kind;
        return kinds[i].load(step, what, value);
    }
    return sl_fail(SL_UNSUPPORTED, "%s: normalizer \"%.64s\" is not supported", what, type);
}

static sl_status load_sequence(struct text_normalizer *normalizer, const char *what,
                               const json_t *list, int depth)
{
    if (!json_is_array(list) || depth > (int)TEXT_NORMALIZERS_MAX)
        return sl_fail(SL_INVALID, "%s: normalizer Sequence has no list, or is nested too deep",
                       what);
    for (size_t i = 0; i < json_array_size(list); i++) {
        sl_status status = load_one(normalizer, what, json_array_get(list, i), depth);
        if (status != SL_OK)
            return status;
    }
    return SL_OK;
}

sl_status text_normalizer_load(struct text_normalizer *normalizer, const char *what,
                               const json_t *value)
{
    *normalizer = (struct text_normalizer){0};
    if (value == NULL || json_is_null(value))
        return SL_OK;
    return load_one(normalizer, what, value, 0);
}

void text_normalizer_fini(struct text_normalizer *normalizer)
{
    for (uint32_t i = 0; i < normalizer->n_steps; i++) {
        sl_free(normalizer->steps[i].text);
        text_regex_destroy(normalizer->steps[i].regex);
    }
    *normalizer = (struct text_normalizer){0};
}

/* ---- apply ---- */

static sl_status replace(const struct text_normalizer_step *step, struct text_regex_match *match,
                         const char *text, size_t bytes, struct sl_buf *out, bool *at_start)
{
    size_t copied = 0, from = 0, replacement = strlen(step->text);

    while (from <= bytes) {
        bool found;
        size_t start, end;
        sl_status status =
            text_regex_find(step->regex, match, text, bytes, from, &found, &start, &end);
        if (status != SL_OK)
            return status;
        if (!found)
            break;
        if (start == end) { /* replaces nothing; go on behind the character */
            uint32_t code;
            if (start == bytes)
                break;
            from = start + (size_t)sl_utf8_next(text + start, bytes - start, &code);
            continue;
        }
        if (start == 0 && replacement == 0)
            *at_start = false;
        sl_buf_add(out, text + copied, start - copied);
        sl_buf_add(out, step->text, replacement);
        copied = from = end;
    }
    sl_buf_add(out, text + copied, bytes - copied);
    return SL_OK;
}

static void strip(const struct text_normalizer_step *step, const char **text, size_t *bytes,
                  bool *at_start)
{
    uint32_t code;

    while (step->left && *bytes > 0) {
        int n = sl_utf8_next(*text, *bytes, &code);
        if (!text_char_is_space(code))
            break;
        *text += n;
        *bytes -= (size_t)n;
        *at_start = false;
    }
    while (step->right && *bytes > 0) {
        size_t start = text_char_before(*text, *bytes, &code);
        if (!text_char_is_space(code))
            break;
        *bytes = start;
    }
}

static void lower(const char *text, size_t bytes, struct sl_buf *out)
{
    for (size_t at = 0; at < bytes;) {
        uint32_t code;
        char utf8[4];
        at += (size_t)sl_utf8_next(text + at, bytes - at, &code);
        sl_buf_add(out, utf8, text_char_put(text_char_lower(code), utf8));
        if (code == 0x130) /* the one that becomes two: i with its dot */
            sl_buf_add_text(out, "\u0307");
    }
}

/* One step from *text to *text, through `out` if something changes. */
static sl_status apply(const struct text_normalizer_step *step, struct text_normalizer_run *run,
                       const char **text, size_t *bytes, struct sl_buf *out, bool *at_start)
{
    sl_status status = SL_OK;

    sl_buf_reset(out);
    out->bytes_max = run->bytes_left;
    switch (step->kind) {
    case TEXT_NORMALIZE_FORM:
        if (text_normal_is_plain(step->form, *text, *bytes))
            return SL_OK;
        status = text_normal_append(step->form, *text, *bytes, out);
        break;
    case TEXT_NORMALIZE_LOWERCASE:
        lower(*text, *bytes, out);
        break;
    case TEXT_NORMALIZE_PREPEND:
        if (*bytes == 0)
            return SL_OK;
        sl_buf_add_text(out, step->text);
        sl_buf_add(out, *text, *bytes);
        break;
    case TEXT_NORMALIZE_REPLACE:
        status = replace(step, run->match, *text, *bytes, out, at_start);
        break;
    case TEXT_NORMALIZE_STRIP:
        strip(step, text, bytes, at_start);
        return SL_OK;
    }
    if (status == SL_OK && out->failed)
        status =
            sl_fail(SL_EXHAUSTED,
                    "tokenizer: the normalizer makes too much of this text, or memory is gone");
    if (status != SL_OK)
        return status;
    run->bytes_left -= out->bytes;
    *text = out->data != NULL ? out->data : "";
    *bytes = out->bytes;
    return SL_OK;
}

void text_normalizer_run_init(struct text_normalizer_run *run, struct text_regex_match *match,
                              size_t bytes_max)
{
    *run = (struct text_normalizer_run){.match = match, .bytes_left = bytes_max};
    sl_buf_init(&run->buffers[0], bytes_max);
    sl_buf_init(&run->buffers[1], bytes_max);
}

void text_normalizer_run_fini(struct text_normalizer_run *run)
{
    sl_buf_fini(&run->buffers[0]);
    sl_buf_fini(&run->buffers[1]);
}

sl_status text_normalizer_apply(const struct text_normalizer *normalizer,
                                struct text_normalizer_run *run, const char *text, size_t bytes,
                                const char **text_out, size_t *bytes_out, bool *at_start)
{
    int turn = 0;

    for (uint32_t i = 0; i < normalizer->n_steps; i++) {
        struct sl_buf *out = &run->buffers[turn];
        sl_status status = apply(&normalizer->steps[i], run, &text, &bytes, out, at_start);
        if (status != SL_OK)
            return status;
        if (text == out->data) /* the next step must not write over what it reads */
            turn ^= 1;
    }
    *text_out = text;
    *bytes_out = bytes;
    return SL_OK;
}

/* Pre-tokenizers.
 *
 * Every kind of a tokenizer.json comes down to the same step: perhaps change the text (spaces to
 * the metaspace character, a prefix in front), then cut it at matches of a pattern or a class of
 * characters, with one of five behaviours. Steps are nested, not run one after the other over a
 * list of pieces: a piece of step k goes to step k + 1 at once, and out of the last step to the
 * model. So no list of pieces is ever built, and memory does not grow with their number.
 *
 *   text ──step 0──► piece ──step 1──► piece ──► take()
 *
 * Behaviours look at most one span ahead: a span that may still grow is held until the next one
 * shows whether it does.
 *
 * Immutable after load; a run belongs to one thread. */
#include "text/pretokenize.h"

#include "base/utf8.h"
#include "text/chars.h"

#include <string.h>

/* The pattern that ByteLevel has built in (Radford et al. 2019, GPT-2's encoder.py). */
static const char gpt2_pattern[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}"
                                   "\\p{N}]+|\\s+(?!\\S)|\\s+";
#define METASPACE "\xe2\x96\x81" /* U+2581 */
#define DEPTH_MAX 8

/* ---- load ---- */

typedef sl_status (*load_fn)(struct text_pretokenizer_step *step, const char *what,
                             const json_t *value);

static sl_status load_behavior(struct text_pretokenizer_step *step, const char *what,
                               const json_t *value, const char *fallback)
{
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious",
                                        "MergedWithNext", "Contiguous"};
    const char *name;
    sl_status status = sl_json_text(value, what, "behavior", fallback, &name);

    if (status != SL_OK)
        return status;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (name != NULL && strcmp(name, names[i]) == 0) {
            step->behavior = (enum text_split_behavior)i;
            return SL_OK;
        }
    }
    return sl_fail(SL_INVALID, "%s: pre_tokenizer behavior \"%.32s\" is not known", what,
                   name == NULL ? "" : name);
}

static sl_status load_split(struct text_pretokenizer_step *step, const char *what,
                            const json_t *value)
{
    static const char field[] = "pre_tokenizer Split";
    const json_t *pattern = json_object_get(value, "pattern");
    const char *literal, *regex;

    if (!json_is_object(pattern))
        return sl_fail(SL_INVALID, "%s: %s has no pattern", what, field);
    step->splits = true;
    sl_status status = load_behavior(step, what, value, NULL);
    if (status == SL_OK)
        status = sl_json_bool(value, what, "invert", false, &step->invert);
    if (status == SL_OK)
        status = sl_json_text(pattern, what, "String", NULL, &literal);
    if (status == SL_OK)
        status = sl_json_text(pattern, what, "Regex", NULL, &regex);
    if (status != SL_OK)
        return status;
    if (literal != NULL)
        return text_regex_literal(what, field, literal, &step->regex);
    if (regex != NULL)
        return text_regex_compile(what, field, regex, &step->regex);
    return sl_fail(SL_INVALID, "%s: %s: neither String nor Regex", what, field);
}

static sl_status load_byte_level(struct text_pretokenizer_step *step, const char *what,
                                 const json_t *value)
{
    bool prefix, use_regex;
    sl_status status = sl_json_bool(value, what, "add_prefix_space", true, &prefix);

    if (status == SL_OK)
        status = sl_json_bool(value, what, "use_regex", true, &use_regex);
    if (status != SL_OK)
        return status;
    step->prepend = prefix ? TEXT_PREPEND_ALWAYS : TEXT_PREPEND_NEVER;
    step->prefix[0] = ' ';
    step->behavior = TEXT_SPLIT_ISOLATED;
    step->splits = use_regex;
    if (!use_regex)
        return SL_OK;
    return text_regex_compile(what, "pre_tokenizer ByteLevel", gpt2_pattern, &step->regex);
}

static sl_status load_digits(struct text_pretokenizer_step *step, const char *what,
                             const json_t *value)
{
    bool individual;
    sl_status status = sl_json_bool(value, what, "individual_digits", false, &individual);

    step->splits = true;
    step->is_match = text_char_is_numeric;
    step->behavior = individual ? TEXT_SPLIT_ISOLATED : TEXT_SPLIT_CONTIGUOUS;
    return status;
}

static sl_status load_punctuation(struct text_pretokenizer_step *step, const char *what,
                                  const json_t *value)
{
    step->splits = true;
    step->is_match = text_char_is_punctuation;
    return load_behavior(step, what, value, "Isolated");
}

static sl_status load_whitespace_split(struct text_pretokenizer_step *step, const char *what,
                                       const json_t *value)
{
    (void)what;
    (void)value;
    step->splits = true;
    step->is_match = text_char_is_space;
    step->behavior = TEXT_SPLIT_REMOVED;
    return SL_OK;
}

/* The second half of Whitespace: words, and what is neither word nor space. */
static sl_status load_words(struct text_pretokenizer_step *step, const char *what,
                            const json_t *value)
{
    (void)what;
    (void)value;
    step->splits = true;
    step->is_match = text_char_is_word;
    step->behavior = TEXT_SPLIT_CONTIGUOUS;
    return SL_OK;
}

static bool is_metaspace(uint32_t code)
{
    return code == 0x2581;
}

/* `prepend_scheme` is today's name; files of before have `add_prefix_space`. */
static sl_status load_metaspace(struct text_pretokenizer_step *step, const char *what,
                                const json_t *value)
{
    const char *replacement, *scheme;
    bool split, prefix;
    sl_status status = sl_json_text(value, what, "replacement", METASPACE, &replacement);

    if (status == SL_OK)
        status = sl_json_bool(value, what, "add_prefix_space", true, &prefix);
    if (status == SL_OK)
        status = sl_json_text(value, what, "prepend_scheme", prefix ? "always" : "never", &scheme);
    if (status == SL_OK)
        status = sl_json_bool(value, what, "split", true, &split);
    if (status != SL_OK)
        return status;
    if (strcmp(replacement, METASPACE) != 0)
        return sl_fail(SL_UNSUPPORTED,
                       "%s: pre_tokenizer Metaspace with replacement \"%.16s\" is not supported",
                       what, replacement);
    if (strcmp(scheme, "always") == 0)
        step->prepend = TEXT_PREPEND_ALWAYS;
    else if (strcmp(scheme, "first") == 0)
        step->prepend = TEXT_PREPEND_FIRST;
    else if (strcmp(scheme, "never") != 0)
        return sl_fail(SL_INVALID, "%s: prepend_scheme \"%.16s\" is not known", what, scheme);
    memcpy(step->prefix, METASPACE, sizeof(METASPACE));
    step->metaspace = true;
    step->splits = split;
    step->is_match = is_metaspace;
    step->behavior = TEXT_SPLIT_MERGED_WITH_NEXT;
    return SL_OK;
}

static const struct {
    const char *type;
    load_fn load[2]; /* one step each */
} kinds[] = {
    {"Split", {load_split, NULL}},
    {"ByteLevel", {load_byte_level, NULL}},
    {"Digits", {load_digits, NULL}},
    {"Punctuation", {load_punctuation, NULL}},
    {"Whitespace", {load_whitespace_split, load_words}},
    {"WhitespaceSplit", {load_whitespace_split, NULL}},
    {"Metaspace", {load_metaspace, NULL}},
};

static sl_status load_steps(struct text_pretokenizer *pretokenizer, const char *what,
                            const json_t *value, const load_fn load[2])
{
    sl_status status = SL_OK;

    for (int i = 0; status == SL_OK && i < 2 && load[i] != NULL; i++) {
        if (pretokenizer->n_steps == TEXT_PRETOKENIZERS_MAX)
            return sl_fail(SL_UNSUPPORTED, "%s: more than %u pre_tokenizers", what,
                           TEXT_PRETOKENIZERS_MAX);
        status = load[i](&pretokenizer->steps[pretokenizer->n_steps++], what, value);
    }
    return status;
}

static sl_status load_one(struct text_pretokenizer *pretokenizer, const char *what,
                          const json_t *value, int depth)
{
    const char *type;

    if (!json_is_object(value) || depth > DEPTH_MAX)
        return sl_fail(SL_INVALID, "%s: a pre_tokenizer is not an object, or is nested too deep",
                       what);
    sl_status status = sl_json_text(value, what, "type", "", &type);
    if (status != SL_OK)
        return status;
    if (strcmp(type, "Sequence") == 0) {
        const json_t *list = json_object_get(value, "pretokenizers");
        if (!json_is_array(list))
            return sl_fail(SL_INVALID, "%s: pre_tokenizer Sequence has no pretokenizers", what);
        for (size_t i = 0; status == SL_OK && i < json_array_size(list); i++)
            status = load_one(pretokenizer, what, json_array_get(list, i), depth + 1);
        return status;
    }
    if (pretokenizer->byte_level)
        return sl_fail(SL_UNSUPPORTED,
                       "%s: pre_tokenizer \"%.64s\" behind ByteLevel is not supported", what, type);
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (strcmp(type, kinds[i].type) != 0)
            continue;
        pretokenizer->byte_level = strcmp(type, "ByteLevel") == 0;
        return load_steps(pretokenizer, what, value, kinds[i].load);
    }
    return sl_fail(SL_UNSUPPORTED, "%s: pre_tokenizer \"%.64s\" is not supported", what, type);
}

sl_status text_pretokenizer_load(struct text_pretokenizer *pretokenizer, const char *what,
                                 const json_t *value)
{
    *pretokenizer = (struct text_pretokenizer){0};
    if (value == NULL || json_is_null(value))
        return SL_OK;
    return load_one(pretokenizer, what, value, 0);
}

void text_pretokenizer_fini(struct text_pretokenizer *pretokenizer)
{
    for (uint32_t i = 0; i < pretokenizer->n_steps; i++)
        text_regex_destroy(pretokenizer->steps[i].regex);
    *pretokenizer = (struct text_pretokenizer){0};
}

/* ---- run ---- */

void text_pretokenizer_run_init(struct text_pretokenizer_run *run,
                                const struct text_pretokenizer *pretokenizer,
                                struct text_regex_match *match, text_piece_fn take, void *arg)
{
    *run = (struct text_pretokenizer_run){
        .pretokenizer = pretokenizer, .match = match, .take = take, .arg = arg};
    for (uint32_t i = 0; i < pretokenizer->n_steps; i++)
        sl_buf_init(&run->buffers[i], SIZE_MAX / 8); /* bounded by the text */
}

void text_pretokenizer_run_fini(struct text_pretokenizer_run *run)
{
    for (uint32_t i = 0; i < run->pretokenizer->n_steps; i++)
        sl_buf_fini(&run->buffers[i]);
}

/* The cutting of one stretch: spans come in, in order and without gaps; pieces go to the next
 * step. */
struct cut {
    struct text_pretokenizer_run *run;
    uint32_t level; /* of the step that takes the pieces */
    const char *text;
    bool at_start;
    bool holds; /* a span that may grow */
    bool held_is_match;
    size_t held_start, held_end;
};

static sl_status step_apply(struct text_pretokenizer_run *run, uint32_t level, const char *text,
                            size_t bytes, bool at_start);

static sl_status emit(struct cut *cut, size_t start, size_t end)
{
    if (start == end)
        return SL_OK;
    return step_apply(cut->run, cut->level, cut->text + start, end - start,
                      cut->at_start && start == 0);
}

static sl_status emit_held(struct cut *cut)
{
    if (!cut->holds)
        return SL_OK;
    cut->holds = false;
    return emit(cut, cut->held_start, cut->held_end);
}

/* Sends on what is held and holds this span, or lets what is held grow by it. */
static sl_status hold(struct cut *cut, size_t start, size_t end, bool is_match, bool joins)
{
    if (cut->holds && joins) {
        cut->held_end = end;
        cut->held_is_match = is_match;
        return SL_OK;
    }
    sl_status status = emit_held(cut);
    cut->holds = true;
    cut->held_is_match = is_match;
    cut->held_start = start;
    cut->held_end = end;
    return status;
}

static sl_status span(struct cut *cut, enum text_split_behavior behavior, size_t start, size_t end,
                      bool is_match)
{
    bool held_is_match = cut->holds && cut->held_is_match;

    switch (behavior) {
    case TEXT_SPLIT_REMOVED:
        return is_match ? SL_OK : emit(cut, start, end);
    case TEXT_SPLIT_ISOLATED:
        return emit(cut, start, end);
    case TEXT_SPLIT_MERGED_WITH_PREVIOUS:
        return hold(cut, start, end, is_match, is_match && !held_is_match);
    case TEXT_SPLIT_MERGED_WITH_NEXT:
        return hold(cut, start, end, is_match, !is_match && held_is_match);
    case TEXT_SPLIT_CONTIGUOUS:
        return hold(cut, start, end, is_match, is_match == held_is_match);
    }
    return SL_OK;
}

/* The next match at or behind `from`. */
static sl_status next_match(const struct text_pretokenizer_step *step,
                            struct text_pretokenizer_run *run, const char *text, size_t bytes,
                            size_t from, bool *found_out, size_t *start_out, size_t *end_out)
{
    if (step->regex != NULL)
        return text_regex_find(step->regex, run->match, text, bytes, from, found_out, start_out,
                               end_out);
    *found_out = false;
    while (from < bytes) {
        uint32_t code;
        int n = sl_utf8_next(text + from, bytes - from, &code);
        SL_ASSERT(n > 0); /* the whole text was checked */
        if (step->is_match(code)) {
            *found_out = true;
            *start_out = from;
            *end_out = from + (size_t)n;
            return SL_OK;
        }
        from += (size_t)n;
    }
    return SL_OK;
}

static sl_status cut_text(const struct text_pretokenizer_step *step, struct cut *cut, size_t bytes)
{
    size_t done = 0, from = 0, last_end = SIZE_MAX;
    sl_status status = SL_OK;

    while (status == SL_OK && from <= bytes) {
        bool found;
        size_t start, end;
        status = next_match(step, cut->run, cut->text, bytes, from, &found, &start, &end);
        if (status != SL_OK || !found)
            break;
        if (start == end && start == last_end) { /* nothing right behind a match is no match */
            uint32_t code;
            if (from == bytes)
                break;
            from += (size_t)sl_utf8_next(cut->text + from, bytes - from, &code);
            continue;
        }
        if (done < start)
            status = span(cut, step->behavior, done, start, step->invert);
        if (status == SL_OK)
            status = span(cut, step->behavior, start, end, !step->invert);
        done = from = last_end = end;
    }
    if (status == SL_OK && done < bytes)
        status = span(cut, step->behavior, done, bytes, step->invert);
    return status == SL_OK ? emit_held(cut) : status;
}

/* The text with its prefix, and with spaces replaced; NULL if it stays as it is. */
static struct sl_buf *change_text(const struct text_pretokenizer_step *step,
                                  struct text_pretokenizer_run *run, uint32_t level,
                                  const char *text, size_t bytes, bool at_start)
{
    struct sl_buf *buf = &run->buffers[level];
    size_t prefix_bytes = strlen(step->prefix);
    bool starts = bytes >= prefix_bytes && memcmp(text, step->prefix, prefix_bytes) == 0;
    bool prepends =
        step->prepend == TEXT_PREPEND_ALWAYS || (step->prepend == TEXT_PREPEND_FIRST && at_start);

    if (step->metaspace && text[0] == ' ')
        starts = true;
    prepends = prepends && !starts;
    if (!prepends && !(step->metaspace && memchr(text, ' ', bytes) != NULL))
        return NULL;
    sl_buf_reset(buf);
    if (prepends)
        sl_buf_add(buf, step->prefix, prefix_bytes);
    while (step->metaspace && bytes > 0) {
        const char *space = memchr(text, ' ', bytes);
        size_t n = space == NULL ? bytes : (size_t)(space - text);
        sl_buf_add(buf, text, n);
        if (space == NULL)
            return buf;
        sl_buf_add(buf, step->prefix, prefix_bytes);
        text += n + 1;
        bytes -= n + 1;
    }
    sl_buf_add(buf, text, bytes);
    return buf;
}

/* Recursive over the steps, of which there are at most TEXT_PRETOKENIZERS_MAX. */
static sl_status step_apply(struct text_pretokenizer_run *run, uint32_t level, const char *text,
                            size_t bytes, bool at_start)
{
    if (level == run->pretokenizer->n_steps)
        return run->take(run->arg, text, bytes);

    const struct text_pretokenizer_step *step = &run->pretokenizer->steps[level];
    if (step->metaspace || step->prepend != TEXT_PREPEND_NEVER) {
        const struct sl_buf *changed = change_text(step, run, level, text, bytes, at_start);
        if (changed != NULL) {
            sl_status status = sl_buf_status(changed, "text with prefix");
            if (status != SL_OK)
                return status;
            text = changed->data;
            bytes = changed->bytes;
        }
    }
    if (!step->splits)
        return step_apply(run, level + 1, text, bytes, at_start);
    struct cut cut = {.run = run, .level = level + 1, .text = text, .at_start = at_start};
    return cut_text(step, &cut, bytes);
}

sl_status text_pretokenizer_apply(struct text_pretokenizer_run *run, const char *text, size_t bytes,
                                  bool at_start)
{
    return bytes == 0 ? SL_OK : step_apply(run, 0, text, bytes, at_start);
}

/* Added tokens.
 *
 * Two tries of contents, one for the text as it comes and one for the normalized text. The text is
 * scanned byte by byte; where the first byte of some token stands, the trie is walked for the
 * longest match. Most bytes cost one look into a table of 256; a full automaton was not worth its
 * size. What a file with long tokens could make of that is bounded: so many steps a byte, no more.
 *
 * What happens around a match (single_word, lstrip, rstrip) follows `tokenizers`: white space that
 * a token takes to its left is at most what is left of the token before it; a token that is white
 * space itself is found also in what the one before it took; a match that is
 * discarded because a word touches it is not searched again inside. A normalized token also decodes
 * to its normalized form. (There `tokenizers` then forgets that it is special; we do not.)
 *
 * Immutable after load, any thread. */
#include "text/added.h"

#include "base/mem.h"
#include "base/utf8.h"
#include "text/chars.h"
#include "text/strmap.h"

#include <stdio.h>

#define NORMALIZED_BYTES_MAX (16u << 20) /* all tokens of a file together */
#define STEPS_MIN            65536u      /* of looking for tokens in a stretch of text … */
#define STEPS_PER_BYTE       64u         /* … and for each of its bytes */

static sl_status node_add(struct text_trie *trie, uint8_t byte, uint32_t *node_out)
{
    if (trie->n_nodes + 1 >= trie->capacity) {
        uint32_t capacity = trie->capacity * 2 + 256;
        void *grown = sl_try_realloc(trie->nodes, capacity, sizeof(*trie->nodes));
        if (grown == NULL)
            return sl_fail(SL_NO_MEMORY, "tokenizer: %u nodes of added tokens", capacity);
        trie->nodes = grown;
        trie->capacity = capacity;
        if (trie->n_nodes == 0)
            trie->n_nodes = 1;
    }
    *node_out = trie->n_nodes++;
    trie->nodes[*node_out] = (struct text_trie_node){.byte = byte};
    return SL_OK;
}

static uint32_t child_of(const struct text_trie *trie, uint32_t node, uint8_t byte)
{
    uint32_t child = trie->nodes[node].child;

    while (child != 0 && trie->nodes[child].byte != byte)
        child = trie->nodes[child].sibling;
    return child;
}

/* The first of two equal contents counts. */
static sl_status trie_add(struct text_trie *trie, const char *content, size_t bytes, uint32_t token)
{
    uint32_t node = 0;

    for (size_t i = 0; i < bytes; i++) {
        uint8_t byte = (uint8_t)content[i];
        uint32_t next = i == 0 ? trie->roots[byte] : child_of(trie, node, byte);
        if (next == 0) {
            sl_status status = node_add(trie, byte, &next);
            if (status != SL_OK)
                return status;
            if (i == 0) {
                trie->roots[byte] = next;
            } else {
                trie->nodes[next].sibling = trie->nodes[node].child;
                trie->nodes[node].child = next;
            }
        }
        node = next;
    }
    if (node != 0 && trie->nodes[node].token == 0)
        trie->nodes[node].token = token + 1;
    return SL_OK;
}

/* ---- load ---- */

static sl_status load_token(struct text_added_token *token, const char *what, size_t index,
                            const json_t *value)
{
    uint64_t id;
    char name[48];

    snprintf(name, sizeof(name), "added_tokens[%zu]", index);
    const json_t *content = json_object_get(value, "content");
    if (!json_is_string(content) || json_string_length(content) == 0 ||
        json_string_length(content) > TEXT_TOKEN_BYTES_MAX)
        return sl_fail(SL_INVALID, "%s: %s.content is not a text of 1..%u bytes", what, name,
                       TEXT_TOKEN_BYTES_MAX);
    if (!json_is_integer(json_object_get(value, "id")))
        return sl_fail(SL_INVALID, "%s: %s.id is not a number", what, name);
    token->n = (uint32_t)json_string_length(content);
    token->content = sl_strdup(json_string_value(content));

    sl_status status = sl_json_uint(value, what, "id", 0, 0, TEXT_IDS_MAX - 1, &id);
    if (status == SL_OK)
        status = sl_json_bool(value, what, "single_word", false, &token->single_word);
    if (status == SL_OK)
        status = sl_json_bool(value, what, "lstrip", false, &token->lstrip);
    if (status == SL_OK)
        status = sl_json_bool(value, what, "rstrip", false, &token->rstrip);
    if (status == SL_OK)
        status = sl_json_bool(value, what, "special", false, &token->special);
    if (status == SL_OK)
        status = sl_json_bool(value, what, "normalized", !token->special, &token->normalized);
    if (status == SL_OK)
        token->id = (uint32_t)id;
    return status;
}

static sl_status index_token(struct text_added *added, uint32_t index, const char *what,
                             const struct text_normalizer *normalizer,
                             struct text_normalizer_run *run)
{
    struct text_added_token *token = &added->tokens[index];
    const char *text = token->content;
    size_t bytes = token->n;
    bool at_start = true;

    token->shown = sl_strdup(text);
    token->n_shown = token->n;
    if (!token->normalized)
        return trie_add(&added->raw, text, bytes, index);
    sl_status status =
        text_normalizer_apply(normalizer, run, text, bytes, &text, &bytes, &at_start);
    if (status != SL_OK)
        return status;
    if (bytes == 0)
        return sl_fail(SL_UNSUPPORTED, "%s: added_tokens[%u] is nothing when normalized", what,
                       index);
    sl_free(token->shown);
    token->shown = sl_asprintf("%.*s", (int)bytes, text);
    token->n_shown = (uint32_t)bytes;
    return trie_add(&added->normalized, text, bytes, index);
}

/* Special tokens first: of two that are normalized to the same, the first counts. */
static sl_status index_tokens(struct text_added *added, const char *what,
                              const struct text_normalizer *normalizer)
{
    struct text_normalizer_run run;
    struct text_regex_match *match = NULL;
    sl_status status = text_regex_match_create(TEXT_HARD_STEPS_MAX, &match);

    text_normalizer_run_init(&run, match, NORMALIZED_BYTES_MAX);
    for (int special = 1; special >= 0; special--)
        for (uint32_t i = 0; status == SL_OK && i < added->n_tokens; i++)
            if (added->tokens[i].special == (special == 1))
                status = index_token(added, i, what, normalizer, &run);
    text_normalizer_run_fini(&run);
    text_regex_match_destroy(match);
    return status;
}

static sl_status refuse_duplicates(const struct text_added *added, const char *what)
{
    struct text_strmap contents = {0};
    sl_status status = SL_OK;

    for (uint32_t i = 0; status == SL_OK && i < added->n_tokens; i++) {
        bool is_new = true;
        status =
            text_strmap_add(&contents, added->tokens[i].content, added->tokens[i].n, i, &is_new);
        if (status == SL_OK && !is_new)
            status = sl_fail(SL_CORRUPT, "%s: added_tokens[%u] \"%.64s\" is there twice", what, i,
                             added->tokens[i].content);
    }
    text_strmap_fini(&contents);
    return status;
}

sl_status text_added_load(struct text_added *added, const char *what, const json_t *value,
                          const struct text_normalizer *normalizer)
{
    *added = (struct text_added){0};
    if (value == NULL || json_is_null(value))
        return SL_OK;
    if (!json_is_array(value) || json_array_size(value) > TEXT_ADDED_MAX)
        return sl_fail(SL_INVALID, "%s: added_tokens is not a list of at most %u", what,
                       TEXT_ADDED_MAX);
    size_t n = json_array_size(value);
    added->tokens = sl_try_zalloc(n, sizeof(*added->tokens));
    if (added->tokens == NULL)
        return sl_fail(SL_NO_MEMORY, "%s: %zu added tokens", what, n);
    for (size_t i = 0; i < n; i++) {
        added->n_tokens++; /* fini frees what a failed one has */
        sl_status status = load_token(&added->tokens[i], what, i, json_array_get(value, i));
        if (status != SL_OK)
            return status;
    }
    sl_status status = refuse_duplicates(added, what);
    return status == SL_OK ? index_tokens(added, what, normalizer) : status;
}

void text_added_fini(struct text_added *added)
{
    for (uint32_t i = 0; i < added->n_tokens; i++) {
        sl_free(added->tokens[i].content);
        sl_free(added->tokens[i].shown);
    }
    sl_free(added->tokens);
    sl_free(added->raw.nodes);
    sl_free(added->normalized.nodes);
    *added = (struct text_added){0};
}

/* ---- split ---- */

/* The longest token that begins at text[at]; 0: none, else index + 1. *steps grows by what it took. */
static uint32_t longest_at(const struct text_trie *trie, const char *text, size_t bytes, size_t at,
                           size_t *end_out, uint64_t *steps)
{
    uint32_t node = trie->roots[(uint8_t)text[at]], token = 0;

    for (size_t i = at + 1; node != 0; i++) {
        if (trie->nodes[node].token != 0) {
            token = trie->nodes[node].token;
            *end_out = i;
        }
        if (i == bytes)
            break;
        node = trie->nodes[node].child;
        for (; node != 0 && trie->nodes[node].byte != (uint8_t)text[i]; (*steps)++)
            node = trie->nodes[node].sibling;
        (*steps)++;
    }
    return token;
}

/* Whether a word character touches text[start..end). */
static bool touches_word(const char *text, size_t bytes, size_t start, size_t end)
{
    uint32_t code;

    if (start > 0) {
        text_char_before(text, start, &code);
        if (text_char_is_word(code))
            return true;
    }
    return end < bytes && sl_utf8_next(text + end, bytes - end, &code) > 0 &&
           text_char_is_word(code);
}

static size_t skip_space_left(const char *text, size_t at, size_t limit)
{
    while (at > limit) {
        uint32_t code;
        size_t before = text_char_before(text, at, &code);
        if (!text_char_is_space(code))
            break;
        at = before;
    }
    return at;
}

static size_t skip_space_right(const char *text, size_t bytes, size_t at)
{
    while (at < bytes) {
        uint32_t code;
        int n = sl_utf8_next(text + at, bytes - at, &code);
        if (n <= 0 || !text_char_is_space(code))
            break;
        at += (size_t)n;
    }
    return at;
}

sl_status text_added_split(const struct text_added *added, const struct text_trie *trie,
                           const char *text, size_t bytes, bool at_start, text_added_fn take,
                           void *arg)
{
    size_t done = 0, at = trie->n_nodes == 0 ? bytes : 0;
    uint64_t steps = 0, steps_max = STEPS_MIN + (uint64_t)bytes * STEPS_PER_BYTE;
    sl_status status = SL_OK;

    while (at < bytes) {
        size_t start = at, end = at;
        uint32_t index = longest_at(trie, text, bytes, at, &end, &steps);
        if (steps > steps_max)
            return sl_fail(
                SL_EXHAUSTED,
                "tokenizer: the added tokens take more than %u steps a byte on this text",
                STEPS_PER_BYTE);
        if (index == 0) {
            at++;
            continue;
        }
        const struct text_added_token *token = &added->tokens[index - 1];
        at = end;
        if (token->single_word && touches_word(text, bytes, start, end))
            continue;
        if (token->lstrip)
            start = start > done ? skip_space_left(text, start, done) : done;
        if (token->rstrip)
            end = skip_space_right(text, bytes, end);
        if (start >= end) /* the token before took all of it */
            continue;
        if (done < start)
            status = take(arg, NULL, text + done, start - done, at_start && done == 0);
        if (status == SL_OK)
            status = take(arg, token, text + start, end - start, false);
        if (status != SL_OK)
            return status;
        done = end;
    }
    if (done < bytes)
        status = take(arg, NULL, text + done, bytes - done, at_start && done == 0);
    return status;
}

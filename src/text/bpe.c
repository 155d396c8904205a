/* Byte-pair encoding.
 *
 * Owns the vocabulary and the merges. A piece is cut into one symbol per character (byte level: per
 * byte), then the adjacent pair with the lowest rank is merged, the leftmost first among equals,
 * until no pair has a merge.
 *
 *   symbols   h  e  l  l  o          ranks of the pairs   (h,e) 4   (l,l) 2   (ll,o) 9 …
 *             h  e  ll    o          (l,l) first,
 *             he    ll    o          then (h,e),
 *             he    llo              then (ll,o)
 *
 * Three ways, fastest first, with one result:
 *   - The piece is a token whose own text is known to encode as that token (`whole`, computed for
 *     all tokens at load, or true for all with ignore_merges): one table look-up. On natural text
 *     this answers most pieces, and it is what other implementations have a locked cache for.
 *   - Short pieces: an array of ranks, searched for its minimum. O(n^2), but n is small and it
 *     stays in the first cache level.
 *   - Long pieces: symbols in a linked list and a binary heap of (rank, position). A merge makes the
 *     entries of its neighbours stale; a popped entry counts only if the pair that is now at its
 *     position has its rank. Every merge adds at most two entries: O(n log n), whatever the text.
 *
 * Immutable after load, any thread; the working memory is the caller's. */
#include "text/bpe.h"

#include "base/mem.h"
#include "base/utf8.h"
#include "text/chars.h"

#include <string.h>

#define SHORT_SYMBOLS_MAX 48u
#define MERGE_SLOTS_MIN   64u
#define PROBES_MAX        4096u /* of a merge; chance makes some fifty */
#define NIL               UINT32_MAX

void text_bpe_scratch_fini(struct text_bpe_scratch *scratch)
{
    sl_free(scratch->symbols);
    sl_free(scratch->links);
    sl_free(scratch->heap);
    *scratch = (struct text_bpe_scratch){0};
}

void text_bpe_fini(struct text_bpe *bpe)
{
    text_strmap_fini(&bpe->vocab);
    text_strmap_fini(&bpe->words);
    sl_free(bpe->whole);
    sl_free(bpe->merges);
    *bpe = (struct text_bpe){0};
}

bool text_bpe_unmap(const char *written, size_t bytes, char *out, size_t *n_out)
{
    size_t at = 0, n = 0;

    while (at < bytes) {
        uint32_t code;
        int length = sl_utf8_next(written + at, bytes - at, &code);
        int byte = length > 0 ? text_char_to_byte(code) : -1;
        if (byte < 0)
            return false;
        out[n++] = (char)byte;
        at += (size_t)length;
    }
    *n_out = n;
    return true;
}

/* ---- merges ---- */

static uint32_t pair_hash(uint64_t pair)
{
    pair *= 0x9e3779b97f4a7c15ull;
    return (uint32_t)(pair >> 32) ^ (uint32_t)(pair >> 51);
}

/* The slot of a pair, or the free one where it belongs. */
static struct text_merge *merge_slot(const struct text_bpe *bpe, uint64_t pair)
{
    uint32_t mask = bpe->n_merge_slots - 1;

    for (uint32_t i = pair_hash(pair) & mask;; i = (i + 1) & mask) {
        struct text_merge *merge = &bpe->merges[i];
        if (merge->pair == pair || merge->rank == TEXT_ID_NONE)
            return merge;
    }
}

/* Rank TEXT_ID_NONE if the two do not merge. */
static inline const struct text_merge *merge_find(const struct text_bpe *bpe, uint32_t a,
                                                  uint32_t b)
{
    return merge_slot(bpe, (uint64_t)a << 32 | b);
}

/* ---- symbols ---- */

static sl_status grow(void **array, size_t *capacity, size_t wanted, size_t item_bytes)
{
    if (wanted <= *capacity)
        return SL_OK;
    size_t larger = *capacity * 2 > wanted ? *capacity * 2 : wanted + 64;
    void *grown = sl_try_realloc(*array, larger, item_bytes);
    if (grown == NULL)
        return sl_fail(SL_NO_MEMORY, "tokenizer: %zu symbols of one word", larger);
    *array = grown;
    *capacity = larger;
    return SL_OK;
}

static sl_status reserve_symbols(struct text_bpe_scratch *scratch, size_t n)
{
    void *array = scratch->symbols;
    sl_status status = grow(&array, &scratch->symbols_capacity, n, sizeof(uint32_t));
    scratch->symbols = array;
    return status;
}

/* What a character without a token becomes, while symbols are collected. */
struct pending {
    bool unk; /* an unknown character waits: more may join it, or it is written before the next */
};

/* One character that is not in the vocabulary. Order as in `tokenizers`: bytes of the fallback are
 * written even before an unknown one that waits. */
static void add_unknown(const struct text_bpe *bpe, struct text_bpe_scratch *scratch,
                        const char *written, size_t n, struct pending *pending)
{
    static const char hex[] = "0123456789ABCDEF";
    uint32_t fallback[4];
    size_t n_found = 0;

    if (bpe->byte_fallback) {
        for (; n_found < n; n_found++) {
            uint8_t byte = (uint8_t)written[n_found];
            char name[6] = {'<', '0', 'x', hex[byte >> 4], hex[byte & 15], '>'};
            if (!text_strmap_find(&bpe->vocab, name, sizeof(name), &fallback[n_found]))
                break;
        }
        if (n_found == n) {
            for (size_t i = 0; i < n; i++)
                scratch->symbols[scratch->n_symbols++] = fallback[i];
            return;
        }
    }
    if (bpe->unk_id == TEXT_ID_NONE)
        return;
    if (pending->unk && !bpe->fuse_unk)
        scratch->symbols[scratch->n_symbols++] = bpe->unk_id;
    pending->unk = true;
}

static void add_known(const struct text_bpe *bpe, struct text_bpe_scratch *scratch, uint32_t id,
                      struct pending *pending)
{
    if (pending->unk)
        scratch->symbols[scratch->n_symbols++] = bpe->unk_id;
    pending->unk = false;
    scratch->symbols[scratch->n_symbols++] = id;
}

/* Fills scratch->symbols. A byte of the piece becomes at most two symbols: byte level, where the
 * fallback spells the two bytes of the character that stands for it. */
static sl_status collect(const struct text_bpe *bpe, struct text_bpe_scratch *scratch,
                         const char *piece, size_t bytes)
{
    struct pending pending = {false};
    sl_status status = reserve_symbols(scratch, bytes * 2 + 1);

    if (status != SL_OK)
        return status;
    scratch->n_symbols = 0;
    if (bpe->byte_level) {
        for (size_t i = 0; i < bytes; i++) {
            uint32_t id = bpe->byte_ids[(uint8_t)piece[i]];
            if (id != TEXT_ID_NONE) {
                add_known(bpe, scratch, id, &pending);
            } else {
                char written[4];
                unsigned n = text_char_put(text_byte_to_char((uint8_t)piece[i]), written);
                add_unknown(bpe, scratch, written, n, &pending);
            }
        }
    } else {
        for (size_t at = 0; at < bytes;) {
            uint32_t code, id;
            int n = sl_utf8_next(piece + at, bytes - at, &code);
            SL_ASSERT(n > 0); /* the whole text was checked */
            if (text_strmap_find(&bpe->vocab, piece + at, (size_t)n, &id))
                add_known(bpe, scratch, id, &pending);
            else
                add_unknown(bpe, scratch, piece + at, (size_t)n, &pending);
            at += (size_t)n;
        }
    }
    if (pending.unk)
        scratch->symbols[scratch->n_symbols++] = bpe->unk_id;
    return SL_OK;
}

/* ---- merging ---- */

static size_t merge_short(const struct text_bpe *bpe, uint32_t *symbols, size_t n)
{
    const struct text_merge *pairs[SHORT_SYMBOLS_MAX];

    for (size_t i = 0; i + 1 < n; i++)
        pairs[i] = merge_find(bpe, symbols[i], symbols[i + 1]);
    while (n > 1) {
        size_t best = 0;
        uint32_t rank = pairs[0]->rank;
        for (size_t i = 1; i + 1 < n; i++) {
            if (pairs[i]->rank < rank) {
                rank = pairs[i]->rank;
                best = i;
            }
        }
        if (rank == TEXT_ID_NONE)
            break;
        symbols[best] = pairs[best]->id;
        n--;
        for (size_t i = best + 1; i < n; i++) {
            symbols[i] = symbols[i + 1];
            pairs[i - 1] = pairs[i];
        }
        if (best > 0)
            pairs[best - 1] = merge_find(bpe, symbols[best - 1], symbols[best]);
        if (best + 1 < n)
            pairs[best] = merge_find(bpe, symbols[best], symbols[best + 1]);
    }
    return n;
}

static void heap_push(struct text_bpe_scratch *scratch, uint64_t entry)
{
    uint64_t *heap = scratch->heap;
    size_t at = scratch->n_heap++;

    while (at > 0 && heap[(at - 1) / 2] > entry) {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = entry;
}

static uint64_t heap_pop(struct text_bpe_scratch *scratch)
{
    uint64_t *heap = scratch->heap;
    uint64_t top = heap[0], last = heap[--scratch->n_heap];
    size_t at = 0, n = scratch->n_heap;

    for (;;) {
        size_t child = at * 2 + 1;
        if (child >= n)
            break;
        if (child + 1 < n && heap[child + 1] < heap[child])
            child++;
        if (heap[child] >= last)
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = last;
    return top;
}

/* Room for one more round: the pairs left and right of a merge. */
static sl_status heap_reserve(struct text_bpe_scratch *scratch, size_t more)
{
    void *array = scratch->heap;
    sl_status status =
        grow(&array, &scratch->heap_capacity, scratch->n_heap + more, sizeof(uint64_t));
    scratch->heap = array;
    return status;
}

static void push_pair(const struct text_bpe *bpe, struct text_bpe_scratch *scratch, uint32_t at,
                      uint32_t after)
{
    const struct text_merge *merge = merge_find(bpe, scratch->symbols[at], scratch->symbols[after]);
    if (merge->rank != TEXT_ID_NONE)
        heap_push(scratch, (uint64_t)merge->rank << 32 | at);
}

static sl_status links_init(struct text_bpe_scratch *scratch, uint32_t n)
{
    void *array = scratch->links;
    sl_status status = grow(&array, &scratch->links_capacity, n, 2 * sizeof(uint32_t));

    scratch->links = array;
    if (status != SL_OK)
        return status;
    for (uint32_t i = 0; i < n; i++) {
        scratch->links[2 * i] = i == 0 ? NIL : i - 1;
        scratch->links[2 * i + 1] = i + 1 == n ? NIL : i + 1;
    }
    return SL_OK;
}

/* Leaves the result packed at the start of scratch->symbols. A symbol that was merged into the one
 * before it is marked by TEXT_ID_NONE. */
static sl_status merge_long(const struct text_bpe *bpe, struct text_bpe_scratch *scratch)
{
    uint32_t n = (uint32_t)scratch->n_symbols;
    sl_status status = links_init(scratch, n);
    uint32_t *symbols = scratch->symbols, *links = scratch->links;

    if (status != SL_OK)
        return status;
    scratch->n_heap = 0;
    status = heap_reserve(scratch, n);
    if (status != SL_OK)
        return status;
    for (uint32_t i = 0; i + 1 < n; i++)
        push_pair(bpe, scratch, i, i + 1);

    while (scratch->n_heap > 0) {
        uint64_t top = heap_pop(scratch);
        uint32_t at = (uint32_t)top;
        if (symbols[at] == TEXT_ID_NONE || links[2 * at + 1] == NIL)
            continue;
        uint32_t after = links[2 * at + 1];
        const struct text_merge *merge = merge_find(bpe, symbols[at], symbols[after]);
        if (merge->rank != (uint32_t)(top >> 32))
            continue; /* stale */
        symbols[at] = merge->id;
        symbols[after] = TEXT_ID_NONE;
        after = links[2 * after + 1];
        links[2 * at + 1] = after;
        status = heap_reserve(scratch, 2);
        if (status != SL_OK)
            return status;
        if (after != NIL) {
            links[2 * after] = at;
            push_pair(bpe, scratch, at, after);
        }
        if (links[2 * at] != NIL)
            push_pair(bpe, scratch, links[2 * at], at);
    }
    size_t kept = 0;
    for (uint32_t i = 0; i < n; i++)
        if (symbols[i] != TEXT_ID_NONE)
            symbols[kept++] = symbols[i];
    scratch->n_symbols = kept;
    return SL_OK;
}

static sl_status encode_symbols(const struct text_bpe *bpe, struct text_bpe_scratch *scratch,
                                const char *piece, size_t bytes)
{
    sl_status status = collect(bpe, scratch, piece, bytes);

    if (status != SL_OK || scratch->n_symbols < 2)
        return status;
    if (scratch->n_symbols > SHORT_SYMBOLS_MAX)
        return merge_long(bpe, scratch);
    scratch->n_symbols = merge_short(bpe, scratch->symbols, scratch->n_symbols);
    return SL_OK;
}

sl_status text_bpe_encode(const struct text_bpe *bpe, struct text_bpe_scratch *scratch,
                          const char *piece, size_t bytes, struct text_ids *ids)
{
    uint32_t id;

    if (bytes <= bpe->key_bytes_max &&
        text_strmap_find(bpe->byte_level ? &bpe->words : &bpe->vocab, piece, bytes, &id) &&
        (bpe->ignore_merges || bpe->whole[id]))
        return text_ids_add(ids, id);

    sl_status status = encode_symbols(bpe, scratch, piece, bytes);
    for (size_t i = 0; status == SL_OK && i < scratch->n_symbols; i++)
        status = text_ids_add(ids, scratch->symbols[i]);
    return status;
}

/* ---- load ---- */

static sl_status load_vocab(struct text_bpe *bpe, const char *what, const json_t *vocab)
{
    if (!json_is_object(vocab))
        return sl_fail(SL_INVALID, "%s: model.vocab is not an object", what);
    size_t n_keys = json_object_size(vocab);
    if (n_keys == 0 || n_keys > TEXT_IDS_MAX)
        return sl_fail(SL_INVALID, "%s: model.vocab has %zu tokens; want 1..%u", what, n_keys,
                       TEXT_IDS_MAX);
    sl_status status = text_strmap_reserve(&bpe->vocab, n_keys);
    if (status != SL_OK)
        return status;

    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)vocab, key, value)
    {
        size_t bytes = strlen(key);
        bool added;
        if (bytes > TEXT_TOKEN_BYTES_MAX)
            return sl_fail(SL_INVALID, "%s: a token of model.vocab has %zu bytes; at most %u", what,
                           bytes, TEXT_TOKEN_BYTES_MAX);
        if (!json_is_integer(value) || json_integer_value(value) < 0 ||
            json_integer_value(value) >= TEXT_IDS_MAX)
            return sl_fail(SL_INVALID, "%s: model.vocab[\"%.64s\"] is not an id in 0..%u", what,
                           key, TEXT_IDS_MAX - 1);
        uint32_t id = (uint32_t)json_integer_value(value);
        status = text_strmap_add(&bpe->vocab, key, bytes, id, &added);
        if (status != SL_OK)
            return status;
        if (id >= bpe->n_ids)
            bpe->n_ids = id + 1;
    }
    return SL_OK;
}

/* No id twice; byte level: the table of tokens as bytes. */
static sl_status index_vocab(struct text_bpe *bpe, const char *what)
{
    char word[TEXT_TOKEN_BYTES_MAX];

    bpe->whole = sl_try_zalloc(bpe->n_ids, 1);
    if (bpe->whole == NULL)
        return sl_fail(SL_NO_MEMORY, "%s: %u ids", what, bpe->n_ids);
    for (uint32_t i = 0; i < bpe->vocab.n_slots; i++) {
        const struct text_strmap_slot *slot = &bpe->vocab.slots[i];
        const char *key = bpe->vocab.bytes + slot->offset;
        size_t n;
        bool added;
        if (slot->n == 0)
            continue;
        if (bpe->whole[slot->id] != 0)
            return sl_fail(SL_CORRUPT, "%s: model.vocab has id %u twice (\"%.*s\")", what, slot->id,
                           (int)(slot->n > 64 ? 64 : slot->n - 1), key);
        bpe->whole[slot->id] = 1;
        if (!bpe->byte_level) {
            if (slot->n - 1 > bpe->key_bytes_max)
                bpe->key_bytes_max = slot->n - 1;
            continue;
        }
        if (!text_bpe_unmap(key, slot->n - 1, word, &n))
            continue;
        sl_status status = text_strmap_add(&bpe->words, word, n, slot->id, &added);
        if (status != SL_OK)
            return status;
        if (n > bpe->key_bytes_max)
            bpe->key_bytes_max = n;
        if (n == 1)
            bpe->byte_ids[(uint8_t)word[0]] = slot->id;
    }
    memset(bpe->whole, 0, bpe->n_ids);
    return SL_OK;
}

/* One merge, "a b" or ["a", "b"], into its two halves (borrowed). False: it is neither. */
static bool merge_halves(const json_t *merge, const char **a, size_t *a_bytes, const char **b,
                         size_t *b_bytes)
{
    if (json_is_string(merge)) {
        const char *text = json_string_value(merge);
        const char *space = strchr(text, ' ');
        if (space == NULL || strchr(space + 1, ' ') != NULL)
            return false;
        *a = text;
        *a_bytes = (size_t)(space - text);
        *b = space + 1;
        *b_bytes = json_string_length(merge) - *a_bytes - 1;
        return true;
    }
    const json_t *first = json_array_get(merge, 0), *second = json_array_get(merge, 1);
    if (json_array_size(merge) != 2 || !json_is_string(first) || !json_is_string(second))
        return false;
    *a = json_string_value(first);
    *a_bytes = json_string_length(first);
    *b = json_string_value(second);
    *b_bytes = json_string_length(second);
    return true;
}

static sl_status load_merge(struct text_bpe *bpe, const char *what, size_t index, uint32_t rank,
                            const json_t *merge)
{
    const char *a, *b;
    size_t a_bytes, b_bytes;
    uint32_t a_id, b_id, id;
    char joined[2 * TEXT_TOKEN_BYTES_MAX];

    if (!merge_halves(merge, &a, &a_bytes, &b, &b_bytes))
        return sl_fail(SL_INVALID, "%s: model.merges[%zu] is neither \"a b\" nor [\"a\", \"b\"]",
                       what, index);
    if (!text_strmap_find(&bpe->vocab, a, a_bytes, &a_id) ||
        !text_strmap_find(&bpe->vocab, b, b_bytes, &b_id))
        return sl_fail(SL_CORRUPT, "%s: model.merges[%zu] has a token that is not in model.vocab",
                       what, index);
    memcpy(joined, a, a_bytes); /* both are keys, so they fit */
    memcpy(joined + a_bytes, b, b_bytes);
    if (!text_strmap_find(&bpe->vocab, joined, a_bytes + b_bytes, &id))
        return sl_fail(SL_CORRUPT, "%s: model.merges[%zu] makes a token that is not in model.vocab",
                       what, index);
    uint64_t pair = (uint64_t)a_id << 32 | b_id;
    struct text_merge *slot = merge_slot(bpe, pair);
    if ((((uint32_t)(slot - bpe->merges) - pair_hash(pair)) & (bpe->n_merge_slots - 1)) >
        PROBES_MAX)
        return sl_fail(SL_UNSUPPORTED,
                       "%s: more than %u model.merges that a table cannot tell apart", what,
                       PROBES_MAX);
    *slot = (struct text_merge){pair, rank, id}; /* the last one counts */
    return SL_OK;
}

static sl_status load_merges(struct text_bpe *bpe, const char *what, const json_t *merges)
{
    if (!json_is_array(merges))
        return sl_fail(SL_INVALID, "%s: model.merges is not a list", what);
    size_t n = json_array_size(merges);
    if (n > TEXT_MERGES_MAX)
        return sl_fail(SL_INVALID, "%s: model.merges has %zu entries; at most %u", what, n,
                       TEXT_MERGES_MAX);
    bpe->n_merge_slots = MERGE_SLOTS_MIN;
    while (bpe->n_merge_slots / 2 < n)
        bpe->n_merge_slots *= 2;
    bpe->merges = sl_try_zalloc(bpe->n_merge_slots, sizeof(*bpe->merges));
    if (bpe->merges == NULL)
        return sl_fail(SL_NO_MEMORY, "%s: %zu merges", what, n);
    for (uint32_t i = 0; i < bpe->n_merge_slots; i++)
        bpe->merges[i] = (struct text_merge){UINT64_MAX, TEXT_ID_NONE, TEXT_ID_NONE};

    uint32_t rank = 0;
    for (size_t i = 0; i < n; i++) {
        const json_t *merge = json_array_get(merges, i);
        if (json_is_string(merge) && strncmp(json_string_value(merge), "#version", 8) == 0)
            continue;
        if (json_typeof(merge) != json_typeof(json_array_get(merges, 0)))
            return sl_fail(SL_INVALID, "%s: model.merges[%zu] is written unlike the first", what,
                           i);
        sl_status status = load_merge(bpe, what, i, rank++, merge);
        if (status != SL_OK)
            return status;
    }
    return SL_OK;
}

/* Which tokens their own text encodes to. */
static sl_status find_whole(struct text_bpe *bpe)
{
    const struct text_strmap *map = bpe->byte_level ? &bpe->words : &bpe->vocab;
    struct text_bpe_scratch scratch = {0};
    sl_status status = SL_OK;

    for (uint32_t i = 0; status == SL_OK && i < map->n_slots; i++) {
        const struct text_strmap_slot *slot = &map->slots[i];
        if (slot->n <= 1)
            continue;
        status = encode_symbols(bpe, &scratch, map->bytes + slot->offset, slot->n - 1);
        if (status == SL_OK)
            bpe->whole[slot->id] = scratch.n_symbols == 1 && scratch.symbols[0] == slot->id;
    }
    text_bpe_scratch_fini(&scratch);
    return status;
}

/* Things that change the result and that no supported model uses. */
static sl_status refuse_unsupported(const char *what, const json_t *model)
{
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    double dropout;
    sl_status status = sl_json_number(model, what, "dropout", 0, 0, 1, &dropout);

    if (status != SL_OK)
        return status;
    if (dropout > 0)
        return sl_fail(SL_UNSUPPORTED, "%s: model.dropout is not supported", what);
    for (size_t i = 0; i < sizeof(affixes) / sizeof(affixes[0]); i++) {
        const char *affix;
        status = sl_json_text(model, what, affixes[i], "", &affix);
        if (status != SL_OK)
            return status;
        if (affix[0] != '\0')
            return sl_fail(SL_UNSUPPORTED, "%s: model.%s is not supported", what, affixes[i]);
    }
    return SL_OK;
}

static sl_status load_flags(struct text_bpe *bpe, const char *what, const json_t *model)
{
    const char *unk;
    sl_status status = refuse_unsupported(what, model);

    if (status == SL_OK)
        status = sl_json_bool(model, what, "ignore_merges", false, &bpe->ignore_merges);
    if (status == SL_OK)
        status = sl_json_bool(model, what, "fuse_unk", false, &bpe->fuse_unk);
    if (status == SL_OK)
        status = sl_json_bool(model, what, "byte_fallback", false, &bpe->byte_fallback);
    if (status == SL_OK)
        status = sl_json_text(model, what, "unk_token", NULL, &unk);
    if (status == SL_OK && unk != NULL &&
        !text_strmap_find(&bpe->vocab, unk, strlen(unk), &bpe->unk_id))
        return sl_fail(SL_CORRUPT, "%s: model.unk_token \"%.64s\" is not in model.vocab", what,
                       unk);
    return status;
}

sl_status text_bpe_load(struct text_bpe *bpe, const char *what, const json_t *model,
                        bool byte_level)
{
    *bpe = (struct text_bpe){.unk_id = TEXT_ID_NONE, .byte_level = byte_level};
    memset(bpe->byte_ids, 0xff, sizeof(bpe->byte_ids));

    if (!json_is_object(model))
        return sl_fail(SL_INVALID, "%s: model is not an object", what);
    const char *type;
    sl_status status = sl_json_text(model, what, "type", "BPE", &type);
    if (status != SL_OK)
        return status;
    if (strcmp(type, "BPE") != 0)
        return sl_fail(SL_UNSUPPORTED, "%s: model.type \"%.64s\" is not supported", what, type);
    status = load_vocab(bpe, what, json_object_get(model, "vocab"));
    if (status == SL_OK)
        status = index_vocab(bpe, what);
    if (status == SL_OK)
        status = load_flags(bpe, what, model);
    if (status == SL_OK)
        status = load_merges(bpe, what, json_object_get(model, "merges"));
    if (status == SL_OK)
        status = find_whole(bpe);
    return status;
}

/* Tokenizer: the pipeline of a tokenizer.json.
 *
 *   text ─► added tokens ─► normalizer ─► added tokens ─► pre-tokenizer ─► BPE ─► ids
 *           (as it comes)                 (normalized)                            post-processor
 *
 * Owns the parts and the table of tokens by id. Encoding is one walk that hands stretches of text
 * from each stage to the next (callbacks, no lists of pieces), with working memory that lives as
 * long as the call. Nothing is cached between calls, so nothing is shared and nothing locked; what
 * a cache is for, the common words, the model's `whole` table answers.
 *
 * Checked at load, so that nothing else can meet them later: ids in range, none twice, every merge
 * and every id of the post-processor known. Immutable after open; any thread. */
#include "text/tokenizer.h"

#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "text/chars.h"
#include "text/detokenizer.h"
#include "text/tokenizer_parts.h"

#include <string.h>

#define CONFIG_BYTES_MAX      (16u << 20)
#define NORMALIZED_GROWTH_MAX 32u /* all that the steps of a normalizer write, for each byte */
#define NORMALIZED_BYTES_MIN  65536u

/* ---- lists of ids ---- */

void text_ids_init(struct text_ids *ids, size_t n_ids_max)
{
    *ids = (struct text_ids){.n_ids_max = n_ids_max};
}

void text_ids_fini(struct text_ids *ids)
{
    sl_free(ids->ids);
    *ids = (struct text_ids){.n_ids_max = ids->n_ids_max};
}

sl_status text_ids_add(struct text_ids *ids, uint32_t id)
{
    if (ids->n_ids == ids->n_ids_max)
        return sl_fail(SL_EXHAUSTED, "the text has more than %zu tokens", ids->n_ids_max);
    if (ids->n_ids == ids->capacity) {
        size_t capacity = ids->capacity == 0 ? 64 : ids->capacity * 2;
        if (capacity > ids->n_ids_max)
            capacity = ids->n_ids_max;
        uint32_t *grown = sl_try_realloc(ids->ids, capacity, sizeof(*grown));
        if (grown == NULL)
            return sl_fail(SL_NO_MEMORY, "list of %zu token ids", capacity);
        ids->ids = grown;
        ids->capacity = capacity;
    }
    ids->ids[ids->n_ids++] = id;
    return SL_OK;
}

/* ---- load ---- */

/* A token of the file enters the table by id. */
static sl_status add_token(struct text_tokenizer *tokenizer, const char *what, uint32_t id,
                           const char *written, size_t bytes, bool special)
{
    struct text_token *token = &tokenizer->tokens[id];
    size_t offset = tokenizer->token_bytes.bytes;

    token->is_byte =
        text_decoder_token(&tokenizer->decoder, written, bytes, &tokenizer->token_bytes);
    if (tokenizer->token_bytes.failed)
        return sl_fail(SL_NO_MEMORY, "%s: tokens of %zu bytes", what, offset);
    token->offset = (uint32_t)offset;
    token->n = (uint32_t)(tokenizer->token_bytes.bytes - offset);
    token->exists = true;
    token->special = special;
    return SL_OK;
}

/* `tokenizers` numbers added tokens by itself: those of the model keep their id, others follow on
 * the greatest. A file that says otherwise was meant for something else. */
static sl_status add_added(struct text_tokenizer *tokenizer, const char *what, uint32_t index,
                           uint32_t *next_id)
{
    const struct text_added_token *added = &tokenizer->added.tokens[index];
    struct text_token *token = &tokenizer->tokens[added->id];
    uint32_t id = *next_id;
    bool known = text_strmap_find(&tokenizer->bpe.vocab, added->content, added->n, &id);

    if (id != added->id)
        return sl_fail(SL_CORRUPT, "%s: added_tokens[%u] \"%.64s\" has id %u; %s %u", what, index,
                       added->content, added->id, known ? "in model.vocab it is" : "its turn is",
                       id);
    if (!known && token->exists)
        return sl_fail(SL_CORRUPT, "%s: added_tokens[%u] \"%.64s\" has id %u of another token",
                       what, index, added->content, added->id);
    if (id >= *next_id)
        *next_id = id + 1;
    if (known && added->n_shown == added->n &&
        memcmp(added->shown, added->content, added->n) == 0) {
        token->special = added->special;
        return SL_OK;
    }
    return add_token(tokenizer, what, id, added->shown, added->n_shown, added->special);
}

static sl_status build_tokens(struct text_tokenizer *tokenizer, const char *what)
{
    tokenizer->n_ids = tokenizer->bpe.n_ids;
    for (uint32_t i = 0; i < tokenizer->added.n_tokens; i++)
        if (tokenizer->added.tokens[i].id >= tokenizer->n_ids)
            tokenizer->n_ids = tokenizer->added.tokens[i].id + 1;
    tokenizer->tokens = sl_try_zalloc(tokenizer->n_ids, sizeof(*tokenizer->tokens));
    if (tokenizer->tokens == NULL)
        return sl_fail(SL_NO_MEMORY, "%s: table of %u tokens", what, tokenizer->n_ids);

    const struct text_strmap *vocab = &tokenizer->bpe.vocab;
    sl_status status = SL_OK;
    for (uint32_t i = 0; status == SL_OK && i < vocab->n_slots; i++) {
        const struct text_strmap_slot *slot = &vocab->slots[i];
        if (slot->n != 0)
            status = add_token(tokenizer, what, slot->id, vocab->bytes + slot->offset, slot->n - 1,
                               false);
    }
    uint32_t next_id = vocab->n_keys;
    for (uint32_t i = 0; status == SL_OK && i < tokenizer->added.n_tokens; i++)
        status = add_added(tokenizer, what, i, &next_id);
    return status;
}

static sl_status check_post(const struct text_tokenizer *tokenizer, const char *what)
{
    const struct text_post *post = &tokenizer->post;

    for (uint32_t i = 0; i < post->n_before + post->n_after; i++) {
        uint32_t id = i < post->n_before ? post->before[i] : post->after[i - post->n_before];
        if (text_token_of(tokenizer, id) == NULL)
            return sl_fail(SL_CORRUPT, "%s: post_processor has id %u, which no token has", what,
                           id);
    }
    return SL_OK;
}

/* Fields that say nothing about a single text are let pass; `version` must be the one we know. */
static sl_status check_head(const char *what, const json_t *root)
{
    const char *version;

    if (!json_is_object(root))
        return sl_fail(SL_INVALID, "%s: not an object", what);
    sl_status status = sl_json_text(root, what, "version", "1.0", &version);
    if (status == SL_OK && strcmp(version, "1.0") != 0)
        return sl_fail(SL_UNSUPPORTED, "%s: version \"%.16s\" is not supported", what, version);
    if (json_object_get(root, "model") == NULL)
        return sl_fail(SL_INVALID, "%s: no model", what);
    return status;
}

/* What is `first` behind these would need to know where each character came from. */
static sl_status check_metaspace(const struct text_tokenizer *tokenizer, const char *what)
{
    bool moves = false, first = false;

    for (uint32_t i = 0; i < tokenizer->normalizer.n_steps; i++) {
        const struct text_normalizer_step *step = &tokenizer->normalizer.steps[i];
        moves |= step->kind == TEXT_NORMALIZE_PREPEND ||
                 (step->kind == TEXT_NORMALIZE_REPLACE && !step->one_char);
    }
    for (uint32_t i = 0; i < tokenizer->pretokenizer.n_steps; i++)
        first |= tokenizer->pretokenizer.steps[i].prepend == TEXT_PREPEND_FIRST;
    if (moves && first)
        return sl_fail(SL_UNSUPPORTED,
                       "%s: pre_tokenizer Metaspace with prepend_scheme \"first\" behind a "
                       "normalizer Prepend or Replace is not supported",
                       what);
    return SL_OK;
}

static sl_status load(struct text_tokenizer *tokenizer, const char *what, const json_t *root)
{
    sl_status status = check_head(what, root);

    if (status == SL_OK)
        status =
            text_normalizer_load(&tokenizer->normalizer, what, json_object_get(root, "normalizer"));
    if (status == SL_OK)
        status = text_pretokenizer_load(&tokenizer->pretokenizer, what,
                                        json_object_get(root, "pre_tokenizer"));
    if (status == SL_OK)
        status = check_metaspace(tokenizer, what);
    if (status == SL_OK)
        status = text_decoder_load(&tokenizer->decoder, what, json_object_get(root, "decoder"));
    if (status == SL_OK)
        status = text_post_load(&tokenizer->post, what, json_object_get(root, "post_processor"));
    if (status == SL_OK)
        status = text_added_load(&tokenizer->added, what, json_object_get(root, "added_tokens"),
                                 &tokenizer->normalizer);
    if (status == SL_OK)
        status = text_bpe_load(&tokenizer->bpe, what, json_object_get(root, "model"),
                               tokenizer->pretokenizer.byte_level);
    if (status == SL_OK)
        status = build_tokens(tokenizer, what);
    return status == SL_OK ? check_post(tokenizer, what) : status;
}

static sl_status create(const char *what, const json_t *root, struct text_tokenizer **tokenizer_out)
{
    struct text_tokenizer *tokenizer = sl_zalloc(1, sizeof(*tokenizer));

    tokenizer->eos_id = tokenizer->bos_id = TEXT_ID_NONE;
    sl_buf_init(&tokenizer->token_bytes, (size_t)TEXT_FILE_BYTES_MAX * 4);
    sl_status status = load(tokenizer, what, root);
    if (status != SL_OK) {
        text_tokenizer_destroy(tokenizer);
        return status;
    }
    *tokenizer_out = tokenizer;
    return SL_OK;
}

/* eos_token and bos_token are a text or an added token; a name that no token has is as none. */
static void read_config_token(const struct text_tokenizer *tokenizer, const json_t *config,
                              const char *field, uint32_t *id_out)
{
    const json_t *value = json_object_get(config, field);

    if (json_is_object(value))
        value = json_object_get(value, "content");
    if (!json_is_string(value))
        return;
    if (!text_tokenizer_find(tokenizer, json_string_value(value), json_string_length(value),
                             id_out))
        sl_warn("tokenizer_config_token_unknown", "field=%s token=\"%.64s\"", field,
                json_string_value(value));
}

static sl_status load_config(struct text_tokenizer *tokenizer, const char *dir)
{
    char *path = sl_asprintf("%s/tokenizer_config.json", dir);
    json_t *config = NULL;
    sl_status status = sl_json_load(path, CONFIG_BYTES_MAX, &config);

    sl_free(path);
    if (status == SL_NOT_FOUND)
        return SL_OK;
    if (status != SL_OK)
        return status;
    read_config_token(tokenizer, config, "eos_token", &tokenizer->eos_id);
    read_config_token(tokenizer, config, "bos_token", &tokenizer->bos_id);
    json_decref(config);
    return SL_OK;
}

sl_status text_tokenizer_open(const char *dir, struct text_tokenizer **tokenizer_out)
{
    struct text_tokenizer *tokenizer = NULL;
    char *path = sl_asprintf("%s/tokenizer.json", dir);
    json_t *root = NULL;
    sl_status status = sl_json_load(path, TEXT_FILE_BYTES_MAX, &root);

    if (status == SL_OK)
        status = create(path, root, &tokenizer);
    if (root != NULL)
        json_decref(root);
    sl_free(path);
    if (status == SL_OK)
        status = load_config(tokenizer, dir);
    if (status != SL_OK) {
        text_tokenizer_destroy(tokenizer);
        return status;
    }
    *tokenizer_out = tokenizer;
    return SL_OK;
}

sl_status text_tokenizer_parse(const char *what, const char *json, size_t bytes,
                               struct text_tokenizer **tokenizer_out)
{
    json_t *root = NULL;
    sl_status status = sl_json_parse(what, json, bytes, TEXT_FILE_BYTES_MAX, &root);

    if (status == SL_OK)
        status = create(what, root, tokenizer_out);
    if (root != NULL)
        json_decref(root);
    return status;
}

void text_tokenizer_destroy(struct text_tokenizer *tokenizer)
{
    if (tokenizer == NULL)
        return;
    text_added_fini(&tokenizer->added);
    text_normalizer_fini(&tokenizer->normalizer);
    text_pretokenizer_fini(&tokenizer->pretokenizer);
    text_bpe_fini(&tokenizer->bpe);
    text_decoder_fini(&tokenizer->decoder);
    sl_free(tokenizer->tokens);
    sl_buf_fini(&tokenizer->token_bytes);
    sl_free(tokenizer);
}

/* ---- encode ---- */

struct encode {
    const struct text_tokenizer *tokenizer;
    struct text_ids *ids;
    struct text_regex_match *match;
    struct text_pretokenizer_run run;
    struct text_bpe_scratch scratch;
    struct text_normalizer_run normalizer;
};

static sl_status take_piece(void *arg, const char *piece, size_t bytes)
{
    struct encode *encode = arg;

    return text_bpe_encode(&encode->tokenizer->bpe, &encode->scratch, piece, bytes, encode->ids);
}

static sl_status take_normalized(void *arg, const struct text_added_token *token, const char *text,
                                 size_t bytes, bool at_start)
{
    struct encode *encode = arg;

    if (token != NULL)
        return text_ids_add(encode->ids, token->id);
    return text_pretokenizer_apply(&encode->run, text, bytes, at_start);
}

static sl_status take_raw(void *arg, const struct text_added_token *token, const char *text,
                          size_t bytes, bool at_start)
{
    struct encode *encode = arg;
    const struct text_tokenizer *tokenizer = encode->tokenizer;

    if (token != NULL)
        return text_ids_add(encode->ids, token->id);
    sl_status status = text_normalizer_apply(&tokenizer->normalizer, &encode->normalizer, text,
                                             bytes, &text, &bytes, &at_start);
    if (status != SL_OK)
        return status;
    return text_added_split(&tokenizer->added, &tokenizer->added.normalized, text, bytes, at_start,
                            take_normalized, encode);
}

static sl_status add_ids(struct text_ids *ids, const uint32_t *more, uint32_t n)
{
    sl_status status = SL_OK;

    for (uint32_t i = 0; status == SL_OK && i < n; i++)
        status = text_ids_add(ids, more[i]);
    return status;
}

static sl_status encode_text(struct encode *encode, const char *text, size_t bytes,
                             bool add_special)
{
    const struct text_tokenizer *tokenizer = encode->tokenizer;
    const struct text_post *post = &tokenizer->post;
    sl_status status = add_ids(encode->ids, post->before, add_special ? post->n_before : 0);

    if (status == SL_OK)
        status = text_added_split(&tokenizer->added, &tokenizer->added.raw, text, bytes, true,
                                  take_raw, encode);
    if (status == SL_OK)
        status = add_ids(encode->ids, post->after, add_special ? post->n_after : 0);
    return status;
}

sl_status text_tokenizer_encode(const struct text_tokenizer *tokenizer, const char *text,
                                size_t bytes, bool add_special_tokens, struct text_ids *ids)
{
    struct encode encode = {.tokenizer = tokenizer, .ids = ids};
    size_t error_at;

    if (bytes > TEXT_INPUT_BYTES_MAX)
        return sl_fail(SL_INVALID, "a text of %zu bytes to tokenize; at most %u", bytes,
                       TEXT_INPUT_BYTES_MAX);
    if (!text_utf8_valid(text, bytes, &error_at))
        return sl_fail(SL_INVALID, "the text is not UTF-8 at byte %zu", error_at);
    sl_status status = text_regex_match_create(TEXT_HARD_STEPS_MAX, &encode.match);
    if (status != SL_OK)
        return status;
    text_normalizer_run_init(&encode.normalizer, encode.match,
                             bytes * NORMALIZED_GROWTH_MAX + NORMALIZED_BYTES_MIN);
    text_pretokenizer_run_init(&encode.run, &tokenizer->pretokenizer, encode.match, take_piece,
                               &encode);
    status = encode_text(&encode, text, bytes, add_special_tokens);
    text_pretokenizer_run_fini(&encode.run);
    text_bpe_scratch_fini(&encode.scratch);
    text_normalizer_run_fini(&encode.normalizer);
    text_regex_match_destroy(encode.match);
    return status;
}

/* ---- decode, and the table of tokens ---- */

void text_tokenizer_decode(const struct text_tokenizer *tokenizer, const uint32_t *ids,
                           size_t n_ids, bool skip_special_tokens, struct sl_buf *out)
{
    struct text_detokenizer detokenizer;

    text_detokenizer_init(&detokenizer, tokenizer, skip_special_tokens);
    for (size_t i = 0; i < n_ids; i++)
        text_detokenizer_push(&detokenizer, ids[i], out, NULL);
    text_detokenizer_flush(&detokenizer, out);
    text_detokenizer_fini(&detokenizer);
}

uint32_t text_tokenizer_n_ids(const struct text_tokenizer *tokenizer)
{
    return tokenizer->n_ids;
}

const char *text_tokenizer_token_bytes(const struct text_tokenizer *tokenizer, uint32_t id,
                                       size_t *bytes_out)
{
    const struct text_token *token = text_token_of(tokenizer, id);

    if (token == NULL)
        return NULL;
    *bytes_out = token->n;
    return token->n == 0 ? "" : tokenizer->token_bytes.data + token->offset;
}

bool text_tokenizer_is_special(const struct text_tokenizer *tokenizer, uint32_t id)
{
    const struct text_token *token = text_token_of(tokenizer, id);

    return token != NULL && token->special;
}

bool text_tokenizer_find(const struct text_tokenizer *tokenizer, const char *token, size_t bytes,
                         uint32_t *id_out)
{
    for (uint32_t i = 0; i < tokenizer->added.n_tokens; i++) {
        const struct text_added_token *added = &tokenizer->added.tokens[i];
        if (added->n == bytes && memcmp(added->content, token, bytes) == 0) {
            *id_out = added->id;
            return true;
        }
    }
    return text_strmap_find(&tokenizer->bpe.vocab, token, bytes, id_out);
}

bool text_tokenizer_eos(const struct text_tokenizer *tokenizer, uint32_t *id_out)
{
    if (tokenizer->eos_id == TEXT_ID_NONE)
        return false;
    *id_out = tokenizer->eos_id;
    return true;
}

bool text_tokenizer_bos(const struct text_tokenizer *tokenizer, uint32_t *id_out)
{
    if (tokenizer->bos_id == TEXT_ID_NONE)
        return false;
    *id_out = tokenizer->bos_id;
    return true;
}

void text_tokenizer_token_name(const struct text_tokenizer *tokenizer, uint32_t id, bool as_bytes,
                               struct sl_buf *out)
{
    size_t bytes;
    const char *text = text_tokenizer_token_bytes(tokenizer, id, &bytes);

    if (text == NULL) {
        sl_buf_add_format(out, "token_id:%u", id);
        return;
    }
    if (!as_bytes && text_utf8_valid(text, bytes, NULL)) {
        sl_buf_add(out, text, bytes);
        return;
    }
    sl_buf_add_text(out, "bytes:");
    for (size_t i = 0; i < bytes; i++)
        sl_buf_add_format(out, "\\x%02x", (unsigned)(uint8_t)text[i]);
}

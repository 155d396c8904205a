/* Post-processors.
 *
 * For one text (no pairs), every post-processor comes down to ids in front and ids behind; those of
 * a Sequence go around each other, the first innermost. ByteLevel only moves offsets, which we do
 * not have. Pure; the loading thread. */
#include "text/post.h"

#include <string.h>

#define DEPTH_MAX 8

static sl_status too_many(const char *what)
{
    return sl_fail(SL_UNSUPPORTED, "%s: post_processor adds more than %u tokens on a side", what,
                   TEXT_AROUND_MAX);
}

/* Outside of what is there already. */
static sl_status add_around(struct text_post *post, const char *what, const uint32_t *before,
                            uint32_t n_before, const uint32_t *after, uint32_t n_after)
{
    if (post->n_before + n_before > TEXT_AROUND_MAX || post->n_after + n_after > TEXT_AROUND_MAX)
        return too_many(what);
    memmove(post->before + n_before, post->before, post->n_before * sizeof(uint32_t));
    memcpy(post->before, before, n_before * sizeof(uint32_t));
    memcpy(post->after + post->n_after, after, n_after * sizeof(uint32_t));
    post->n_before += n_before;
    post->n_after += n_after;
    return SL_OK;
}

/* Appends the ids that special_tokens[name] stands for. */
static sl_status template_ids(const json_t *value, const char *what, const char *name,
                              uint32_t *ids, uint32_t *n_ids)
{
    const json_t *entry = json_object_get(json_object_get(value, "special_tokens"), name);
    const json_t *list = json_object_get(entry, "ids");

    if (!json_is_array(list))
        return sl_fail(SL_INVALID,
                       "%s: post_processor TemplateProcessing: special_tokens has no ids of "
                       "\"%.64s\"",
                       what, name);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *id = json_array_get(list, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) >= TEXT_IDS_MAX)
            return sl_fail(SL_INVALID,
                           "%s: post_processor TemplateProcessing: an id of \"%.64s\" is not in "
                           "0..%u",
                           what, name, TEXT_IDS_MAX - 1);
        if (*n_ids == TEXT_AROUND_MAX)
            return too_many(what);
        ids[(*n_ids)++] = (uint32_t)json_integer_value(id);
    }
    return SL_OK;
}

static sl_status load_template(struct text_post *post, const char *what, const json_t *value)
{
    static const char field[] = "post_processor TemplateProcessing";
    const json_t *single = json_object_get(value, "single");
    uint32_t ids[2][TEXT_AROUND_MAX], n_ids[2] = {0, 0};
    int side = 0;

    if (!json_is_array(single))
        return sl_fail(SL_INVALID, "%s: %s: single is not a list", what, field);
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *piece = json_array_get(single, i);
        const json_t *sequence = json_object_get(piece, "Sequence");
        const char *name = json_string_value(json_object_get(
            sequence != NULL ? sequence : json_object_get(piece, "SpecialToken"), "id"));
        if (name == NULL)
            return sl_fail(SL_INVALID, "%s: %s: single[%zu] is neither SpecialToken nor Sequence",
                           what, field, i);
        if (sequence != NULL) {
            if (strcmp(name, "A") != 0 || side != 0)
                return sl_fail(SL_UNSUPPORTED, "%s: %s: single is more than one Sequence A", what,
                               field);
            side = 1;
            continue;
        }
        sl_status status = template_ids(value, what, name, ids[side], &n_ids[side]);
        if (status != SL_OK)
            return status;
    }
    if (side == 0)
        return sl_fail(SL_UNSUPPORTED, "%s: %s: single has no Sequence A", what, field);
    return add_around(post, what, ids[0], n_ids[0], ids[1], n_ids[1]);
}

/* BertProcessing and RobertaProcessing: ["text", id] of cls in front and sep behind. */
static sl_status load_cls_sep(struct text_post *post, const char *what, const json_t *value)
{
    uint32_t ids[2];

    for (int i = 0; i < 2; i++) {
        const char *field = i == 0 ? "cls" : "sep";
        const json_t *id = json_array_get(json_object_get(value, field), 1);
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) >= TEXT_IDS_MAX)
            return sl_fail(SL_INVALID, "%s: post_processor.%s has no id", what, field);
        ids[i] = (uint32_t)json_integer_value(id);
    }
    return add_around(post, what, &ids[0], 1, &ids[1], 1);
}

static sl_status load_one(struct text_post *post, const char *what, const json_t *value, int depth)
{
    const char *type;

    if (!json_is_object(value) || depth > DEPTH_MAX)
        return sl_fail(SL_INVALID, "%s: a post_processor is not an object, or is nested too deep",
                       what);
    sl_status status = sl_json_text(value, what, "type", "", &type);
    if (status != SL_OK || strcmp(type, "ByteLevel") == 0)
        return status;
    if (strcmp(type, "TemplateProcessing") == 0)
        return load_template(post, what, value);
    if (strcmp(type, "BertProcessing") == 0 || strcmp(type, "RobertaProcessing") == 0)
        return load_cls_sep(post, what, value);
    if (strcmp(type, "Sequence") != 0)
        return sl_fail(SL_UNSUPPORTED, "%s: post_processor \"%.64s\" is not supported", what, type);

    const json_t *list = json_object_get(value, "processors");
    if (!json_is_array(list))
        return sl_fail(SL_INVALID, "%s: post_processor Sequence has no processors", what);
    for (size_t i = 0; status == SL_OK && i < json_array_size(list); i++)
        status = load_one(post, what, json_array_get(list, i), depth + 1);
    return status;
}

sl_status text_post_load(struct text_post *post, const char *what, const json_t *value)
{
    *post = (struct text_post){0};
    if (value == NULL || json_is_null(value))
        return SL_OK;
    return load_one(post, what, value, 0);
}

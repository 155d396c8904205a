/* Reader of tests/golden/tokenizers/<name>/cases.tsv (see tools/make_tokenizer_goldens.py). */
#ifndef TESTS_TEXT_GOLDEN_H
#define TESTS_TEXT_GOLDEN_H

#include "support/support.h"
#include "text/tokenizer.h"

#include <stdbool.h>

#define GOLDEN_ROOT       "tests/golden/tokenizers"
#define GOLDEN_FIELDS_MAX 4

struct golden_line {
    char *fields[GOLDEN_FIELDS_MAX]; /* unescaped in place */
    size_t bytes[GOLDEN_FIELDS_MAX];
    int n_fields;
};

struct golden_file {
    char *data, *next;
};

static inline void golden_open(const char *name, struct golden_file *file)
{
    char *path = sl_asprintf(GOLDEN_ROOT "/%s/cases.tsv", name);
    FILE *handle = fopen(path, "re");

    if (handle == NULL)
        fail_msg("%s is missing", path);
    fseek(handle, 0, SEEK_END);
    size_t bytes = (size_t)ftell(handle);
    rewind(handle);
    file->data = file->next = sl_zalloc(bytes + 1, 1);
    assert_int_equal(fread(file->data, 1, bytes, handle), bytes);
    fclose(handle);
    sl_free(path);
}

static inline void golden_close(struct golden_file *file)
{
    sl_free(file->data);
}

/* \xNN in place; returns the length. */
static inline size_t golden_unescape(char *text)
{
    char *to = text;

    for (const char *from = text; *from != '\0';) {
        if (from[0] == '\\') {
            char hex[3] = {from[2], from[3], '\0'};
            *to++ = (char)strtoul(hex, NULL, 16);
            from += 4;
        } else {
            *to++ = *from++;
        }
    }
    *to = '\0';
    return (size_t)(to - text);
}

/* False at the end. */
static inline bool golden_next(struct golden_file *file, struct golden_line *line)
{
    char *end = strchr(file->next, '\n');

    if (end == NULL)
        return false;
    *end = '\0';
    line->n_fields = 0;
    for (char *field = file->next; field != NULL && line->n_fields < GOLDEN_FIELDS_MAX;) {
        char *tab = strchr(field, '\t');
        if (tab != NULL)
            *tab = '\0';
        line->fields[line->n_fields] = field;
        line->bytes[line->n_fields++] = golden_unescape(field);
        field = tab == NULL ? NULL : tab + 1;
    }
    file->next = end + 1;
    return true;
}

static inline void golden_ids(const char *text, struct text_ids *ids)
{
    char *end;

    ids->n_ids = 0;
    while (*text != '\0') {
        assert_ok(text_ids_add(ids, (uint32_t)strtoul(text, &end, 10)));
        text = *end == ' ' ? end + 1 : end;
    }
}

static inline struct text_tokenizer *golden_tokenizer(const char *name)
{
    struct text_tokenizer *tokenizer = NULL;
    char *dir = sl_asprintf(GOLDEN_ROOT "/%s", name);

    assert_ok(text_tokenizer_open(dir, &tokenizer));
    sl_free(dir);
    return tokenizer;
}

#endif

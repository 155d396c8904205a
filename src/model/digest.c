/* The weights' digest and its manifest.
 *
 *   {"format": 1, "files": {"model.safetensors": {"bytes": …, "mtime_ns": …, "inode": …,
 *                                                 "sha256": "…"}}}
 *
 * Hashing runs at the processor's SHA speed, one to two GB/s, which is too slow for every start
 * of an 8B model and fast enough for the first. The manifest is written under a name of its own and
 * renamed, so that workers that start together do not read halves. Nothing but time is lost when it is
 * missing. It trusts whoever may write into its directory: they could as well change the weights.
 *
 * Runs on the thread that opens the engine. */
#include "model/digest.h"

#include "base/buf.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MANIFEST_BYTES_MAX (4u << 20)
#define MANIFEST_FORMAT    1
#define HASH_STEP_BYTES    (16u << 20)

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash == NULL ? path : slash + 1;
}

static void to_hex(const uint8_t *bytes, size_t n, char *out)
{
    for (size_t i = 0; i < n; i++)
        snprintf(out + 2 * i, 3, "%02x", bytes[i]);
}

static bool from_hex(const char *text, uint8_t *out, size_t n)
{
    if (strlen(text) != 2 * n || strspn(text, "0123456789abcdef") != 2 * n)
        return false;
    for (size_t i = 0; i < n; i++) {
        const char pair[3] = {text[2 * i], text[2 * i + 1], '\0'};
        out[i] = (uint8_t)strtoul(pair, NULL, 16);
    }
    return true;
}

/* Owned by the caller. */
static char *manifest_path(const char *directory, const char *cache_directory)
{
    if (cache_directory == NULL)
        return sl_asprintf("%s/.sluice-manifest.json", directory);
    char *real = realpath(directory, NULL);
    const char *text = real == NULL ? directory : real;
    uint8_t digest[MODEL_SHA256_BYTES];
    char hex[2 * MODEL_SHA256_BYTES + 1];
    model_sha256(text, strlen(text), digest);
    to_hex(digest, sizeof(digest), hex);
    (free)(real); /* realpath's own */
    return sl_asprintf("%s/%.32s.json", cache_directory, hex);
}

/* Whether the manifest has this very file; gives its digest. */
static bool manifest_has(const json_t *manifest, const struct model_file *file,
                         uint8_t sha_out[MODEL_SHA256_BYTES])
{
    const json_t *entry =
        json_object_get(json_object_get(manifest, "files"), base_name(file->path));
    const char *sha = json_string_value(json_object_get(entry, "sha256"));
    return json_integer_value(json_object_get(manifest, "format")) == MANIFEST_FORMAT &&
           sha != NULL &&
           json_integer_value(json_object_get(entry, "bytes")) == (json_int_t)file->bytes &&
           json_integer_value(json_object_get(entry, "mtime_ns")) == file->mtime_ns &&
           json_integer_value(json_object_get(entry, "inode")) == (json_int_t)(file->inode >> 1) &&
           from_hex(sha, sha_out, MODEL_SHA256_BYTES);
}

static void hash_file(const struct model_file *file, uint8_t sha_out[MODEL_SHA256_BYTES])
{
    struct model_sha256 *sha = model_sha256_create();
    for (uint64_t at = 0; at < file->bytes; at += HASH_STEP_BYTES) {
        uint64_t left = file->bytes - at;
        model_sha256_add(sha, file->map + at, left < HASH_STEP_BYTES ? left : HASH_STEP_BYTES);
    }
    model_sha256_finish(sha, sha_out);
}

static void write_manifest(const char *path, const struct sl_buf *text)
{
    char *temporary = sl_asprintf("%s.%ld", path, (long)getpid());
    FILE *file = fopen(temporary, "we");
    bool written = file != NULL && fwrite(text->data, 1, text->bytes, file) == text->bytes;
    if (file != NULL && fclose(file) != 0)
        written = false;
    if (written && rename(temporary, path) != 0)
        written = false;
    if (!written) {
        sl_info("weights_manifest_not_written", "path=%s error=\"%s\"", path, strerror(errno));
        if (file != NULL)
            (void)unlink(temporary);
    }
    sl_free(temporary);
}

static void add_entry(struct sl_buf *text, const struct model_file *file,
                      const uint8_t sha[MODEL_SHA256_BYTES], bool first)
{
    char hex[2 * MODEL_SHA256_BYTES + 1];
    const char *name = base_name(file->path);
    to_hex(sha, MODEL_SHA256_BYTES, hex);
    sl_buf_add_text(text, first ? "\n  " : ",\n  ");
    sl_buf_add_json_string(text, name, strlen(name));
    /* Half the inode: jansson's integers are signed. */
    sl_buf_add_format(text,
                      ": {\"bytes\": %" PRIu64 ", \"mtime_ns\": %" PRId64 ", \"inode\": %" PRIu64
                      ", \"sha256\": \"%s\"}",
                      file->bytes, file->mtime_ns, file->inode >> 1, hex);
}

static int by_path(const void *a, const void *b)
{
    const struct model_file *const *x = a, *const *y = b;
    return strcmp((*x)->path, (*y)->path);
}

sl_status model_digest(const struct model_tensors *tensors, const char *directory,
                       const char *cache_directory, uint8_t digest_out[MODEL_SHA256_BYTES])
{
    const struct model_file *files;
    uint32_t n = model_tensors_files(tensors, &files);
    const struct model_file **sorted = sl_try_zalloc(n, sizeof(*sorted));
    if (sorted == NULL)
        return sl_fail(SL_NO_MEMORY, "weights digest of %u files", n);
    for (uint32_t i = 0; i < n; i++)
        sorted[i] = &files[i];
    qsort(sorted, n, sizeof(*sorted), by_path);

    char *path = manifest_path(directory, cache_directory);
    json_t *manifest = NULL;
    if (sl_json_load(path, MANIFEST_BYTES_MAX, &manifest) != SL_OK)
        manifest = NULL;
    struct sl_buf text;
    sl_buf_init(&text, MANIFEST_BYTES_MAX);
    sl_buf_add_format(&text, "{\"format\": %d, \"files\": {", MANIFEST_FORMAT);
    struct model_sha256 *whole = model_sha256_create();
    bool changed = false;
    for (uint32_t i = 0; i < n; i++) {
        uint8_t sha[MODEL_SHA256_BYTES];
        if (!manifest_has(manifest, sorted[i], sha)) {
            hash_file(sorted[i], sha);
            changed = true;
        }
        model_sha256_add(whole, &sorted[i]->bytes, sizeof(sorted[i]->bytes));
        model_sha256_add(whole, sha, sizeof(sha));
        add_entry(&text, sorted[i], sha, i == 0);
    }
    sl_buf_add_text(&text, "\n}}\n");
    model_sha256_finish(whole, digest_out);
    if (changed && !text.failed)
        write_manifest(path, &text);
    sl_buf_fini(&text);
    json_decref(manifest);
    sl_free(path);
    sl_free(sorted);
    return SL_OK;
}

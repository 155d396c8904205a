/* safetensors: 8 bytes of header length, a JSON object name -> {dtype, shape, data_offsets}, data.
 *
 * Every number in the header is foreign. A file passes when: the header lies inside the file and is
 * at most 100 MB; each shape's product times its element size is data_offsets' difference, computed
 * without overflow; and the tensors, sorted by offset, cover the data from its first to its last byte
 * with neither overlap nor hole. So a truncated file, a file with something appended, and one whose
 * header points at other tensors' bytes are all refused before a weight is read.
 *
 * Files are mapped, not read: weights go straight from the page cache into the backend's packed
 * form. A file that somebody truncates while it is mapped ends the process with SIGBUS; models are
 * replaced by renaming, as every downloader does.
 *
 * One thread at a time; after the open everything but the close is read-only. */
#include "model/safetensors.h"

#include "base/json.h"
#include "base/mem.h"
#include "kernels/kernels.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define LENGTH_BYTES 8

/* ---- header ---- */

static const struct element_type {
    const char *name;
    uint32_t element;
    uint32_t bits;
} element_types[] = {
    {"F32", KERNEL_F32, 32},
    {"BF16", KERNEL_BF16, 16},
    {"F16", KERNEL_F16, 16},
    {"F64", MODEL_TENSOR_NO_ELEMENT, 64},
    {"I64", MODEL_TENSOR_NO_ELEMENT, 64},
    {"U64", MODEL_TENSOR_NO_ELEMENT, 64},
    {"I32", MODEL_TENSOR_NO_ELEMENT, 32},
    {"U32", MODEL_TENSOR_NO_ELEMENT, 32},
    {"I16", MODEL_TENSOR_NO_ELEMENT, 16},
    {"U16", MODEL_TENSOR_NO_ELEMENT, 16},
    {"I8", MODEL_TENSOR_NO_ELEMENT, 8},
    {"U8", MODEL_TENSOR_NO_ELEMENT, 8},
    {"BOOL", MODEL_TENSOR_NO_ELEMENT, 8},
    {"F8_E4M3", MODEL_TENSOR_NO_ELEMENT, 8},
    {"F8_E5M2", MODEL_TENSOR_NO_ELEMENT, 8},
};

static const struct element_type *find_type(const char *name)
{
    for (size_t i = 0; i < sizeof(element_types) / sizeof(element_types[0]); i++)
        if (strcmp(element_types[i].name, name) == 0)
            return &element_types[i];
    return NULL;
}

static sl_status parse_shape(const char *what, const json_t *shape, struct model_tensor *tensor,
                             uint64_t *count_out)
{
    if (!json_is_array(shape) || json_array_size(shape) > MODEL_TENSOR_DIMS_MAX)
        return sl_fail(SL_CORRUPT, "%s: %s: shape must be a list of at most %d numbers", what,
                       tensor->name, MODEL_TENSOR_DIMS_MAX);
    uint64_t count = 1;
    tensor->n_dims = (uint32_t)json_array_size(shape);
    for (uint32_t i = 0; i < tensor->n_dims; i++) {
        const json_t *dim = json_array_get(shape, i);
        if (!json_is_integer(dim) || json_integer_value(dim) < 0)
            return sl_fail(SL_CORRUPT, "%s: %s: shape[%u] is no number of elements", what,
                           tensor->name, i);
        tensor->dims[i] = (uint64_t)json_integer_value(dim);
        if (__builtin_mul_overflow(count, tensor->dims[i], &count))
            return sl_fail(SL_CORRUPT, "%s: %s: shape has more than 2^64 elements", what,
                           tensor->name);
    }
    *count_out = count;
    return SL_OK;
}

static sl_status parse_offsets(const char *what, const json_t *offsets, uint64_t data_bytes,
                               struct model_tensor *tensor)
{
    const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end))
        return sl_fail(SL_CORRUPT, "%s: %s: data_offsets must be two numbers", what, tensor->name);
    json_int_t first = json_integer_value(begin), last = json_integer_value(end);
    if (first < 0 || last < first || (uint64_t)last > data_bytes)
        return sl_fail(SL_CORRUPT,
                       "%s: %s: data_offsets %" JSON_INTEGER_FORMAT "..%" JSON_INTEGER_FORMAT
                       " do not lie in the %" PRIu64 " bytes of data (truncated file?)",
                       what, tensor->name, first, last, data_bytes);
    tensor->offset = (uint64_t)first;
    tensor->bytes = (uint64_t)(last - first);
    return SL_OK;
}

/* `tensor` has its name already. */
static sl_status parse_tensor(const char *what, const json_t *entry, uint64_t data_bytes,
                              struct model_tensor *tensor)
{
    const char *type_name;
    uint64_t count = 0, bits;
    if (!json_is_object(entry))
        return sl_fail(SL_CORRUPT, "%s: %s: not an object", what, tensor->name);
    type_name = json_string_value(json_object_get(entry, "dtype"));
    if (type_name == NULL)
        return sl_fail(SL_CORRUPT, "%s: %s: dtype is missing", what, tensor->name);
    const struct element_type *type = find_type(type_name);
    if (type == NULL)
        return sl_fail(SL_UNSUPPORTED, "%s: %s: dtype is '%.32s', which is unknown here", what,
                       tensor->name, type_name);
    tensor->element = type->element;
    snprintf(tensor->type, sizeof(tensor->type), "%s", type->name);

    sl_status status = parse_shape(what, json_object_get(entry, "shape"), tensor, &count);
    if (status == SL_OK)
        status = parse_offsets(what, json_object_get(entry, "data_offsets"), data_bytes, tensor);
    if (status != SL_OK)
        return status;
    if (__builtin_mul_overflow(count, (uint64_t)type->bits, &bits) || bits / 8 != tensor->bytes)
        return sl_fail(SL_CORRUPT,
                       "%s: %s: %" PRIu64 " elements of %s do not fill the %" PRIu64
                       " bytes of data_offsets",
                       what, tensor->name, count, type->name, tensor->bytes);
    return SL_OK;
}

static int by_offset(const void *a, const void *b)
{
    const struct model_tensor *x = a, *y = b;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    return x->bytes == y->bytes ? strcmp(x->name, y->name) : x->bytes < y->bytes ? -1 : 1;
}

/* Sorted tensors must follow each other without overlap or hole up to the end of the data. */
static sl_status check_cover(const char *what, const struct model_tensor *tensors, uint32_t n,
                             uint64_t data_bytes)
{
    uint64_t end = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (tensors[i].offset < end)
            return sl_fail(SL_CORRUPT, "%s: %s and %s overlap", what, tensors[i - 1].name,
                           tensors[i].name);
        if (tensors[i].offset > end)
            return sl_fail(SL_CORRUPT, "%s: %" PRIu64 " bytes before %s belong to no tensor", what,
                           tensors[i].offset - end, tensors[i].name);
        end += tensors[i].bytes;
    }
    if (end != data_bytes)
        return sl_fail(SL_CORRUPT, "%s: %" PRIu64 " bytes at the end belong to no tensor", what,
                       data_bytes - end);
    return SL_OK;
}

void model_safetensors_free(struct model_tensor *tensors, uint32_t n)
{
    if (tensors == NULL)
        return;
    for (uint32_t i = 0; i < n; i++)
        sl_free(tensors[i].name);
    sl_free(tensors);
}

static sl_status parse_root(const char *what, json_t *root, uint64_t data_bytes,
                            struct model_tensor **tensors_out, uint32_t *n_out)
{
    if (!json_is_object(root))
        return sl_fail(SL_CORRUPT, "%s: the header is no object", what);
    size_t n_entries = json_object_size(root);
    if (n_entries > MODEL_TENSORS_MAX)
        return sl_fail(SL_CORRUPT, "%s: %zu tensors; at most %u", what, n_entries,
                       MODEL_TENSORS_MAX);
    struct model_tensor *tensors = sl_try_zalloc(n_entries, sizeof(*tensors));
    if (tensors == NULL)
        return sl_fail(SL_NO_MEMORY, "%s: %zu tensors", what, n_entries);

    uint32_t n = 0;
    sl_status status;
    const char *name;
    json_t *entry;
    json_object_foreach(root, name, entry)
    {
        if (strcmp(name, "__metadata__") == 0)
            continue;
        if (strlen(name) > MODEL_TENSOR_NAME_MAX) {
            status = sl_fail(SL_CORRUPT, "%s: a tensor's name has more than %u bytes", what,
                             MODEL_TENSOR_NAME_MAX);
            goto fail;
        }
        tensors[n].name = sl_strdup(name);
        status = parse_tensor(what, entry, data_bytes, &tensors[n++]);
        if (status != SL_OK)
            goto fail;
    }
    qsort(tensors, n, sizeof(*tensors), by_offset);
    status = check_cover(what, tensors, n, data_bytes);
    if (status != SL_OK)
        goto fail;
    *tensors_out = tensors;
    *n_out = n;
    return SL_OK;
fail:
    model_safetensors_free(tensors, n);
    return status;
}

sl_status model_safetensors_parse(const char *what, const char *header, size_t header_bytes,
                                  uint64_t data_bytes, struct model_tensor **tensors_out,
                                  uint32_t *n_out)
{
    json_t *root;
    sl_status status = sl_json_parse(what, header, header_bytes, MODEL_HEADER_BYTES_MAX, &root);
    if (status != SL_OK)
        return status == SL_INVALID ? SL_CORRUPT : status;
    status = parse_root(what, root, data_bytes, tensors_out, n_out);
    json_decref(root);
    return status;
}

/* ---- files ---- */

struct model_tensors {
    uint32_t n_files;
    struct model_file *files;
    uint32_t n;
    struct model_tensor *all; /* by name */
};

static sl_status map_file(struct model_file *file)
{
    struct stat info;
    int fd = open(file->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return sl_fail(errno == ENOENT ? SL_NOT_FOUND : SL_INVALID, "%s: %s", file->path,
                       strerror(errno));
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
        close(fd);
        return sl_fail(SL_INVALID, "%s: not a regular file", file->path);
    }
    file->bytes = (uint64_t)info.st_size;
    file->mtime_ns = (int64_t)info.st_mtim.tv_sec * 1000000000 + info.st_mtim.tv_nsec;
    file->inode = info.st_ino;
    file->device = info.st_dev;
    void *map = file->bytes == 0 ? NULL : mmap(NULL, file->bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    int error = errno;
    close(fd);
    if (map == MAP_FAILED)
        return sl_fail(SL_NO_MEMORY, "%s: mapping %" PRIu64 " bytes: %s", file->path, file->bytes,
                       strerror(error));
    file->map = map;
    return SL_OK;
}

/* Maps file `index` and gives its tensors, with data set. */
static sl_status open_file(struct model_tensors *model, uint32_t index,
                           struct model_tensor **tensors_out, uint32_t *n_out)
{
    struct model_file *file = &model->files[index];
    sl_status status = map_file(file);
    if (status != SL_OK)
        return status;
    if (file->bytes < LENGTH_BYTES)
        return sl_fail(SL_CORRUPT, "%s: %" PRIu64 " bytes hold no header", file->path, file->bytes);
    uint64_t header_bytes = 0;
    for (uint32_t i = 0; i < LENGTH_BYTES; i++)
        header_bytes |= (uint64_t)file->map[i] << (8 * i);
    if (header_bytes > MODEL_HEADER_BYTES_MAX)
        return sl_fail(SL_CORRUPT, "%s: a header of %" PRIu64 " bytes; at most %u", file->path,
                       header_bytes, MODEL_HEADER_BYTES_MAX);
    if (header_bytes > file->bytes - LENGTH_BYTES)
        return sl_fail(SL_CORRUPT, "%s: a header of %" PRIu64 " bytes in a file of %" PRIu64,
                       file->path, header_bytes, file->bytes);
    uint64_t data_bytes = file->bytes - LENGTH_BYTES - header_bytes;
    status = model_safetensors_parse(file->path, (const char *)file->map + LENGTH_BYTES,
                                     header_bytes, data_bytes, tensors_out, n_out);
    if (status != SL_OK)
        return status;
    for (uint32_t i = 0; i < *n_out; i++) {
        (*tensors_out)[i].data = file->map + LENGTH_BYTES + header_bytes + (*tensors_out)[i].offset;
        (*tensors_out)[i].file = index;
    }
    return SL_OK;
}

static int by_name(const void *a, const void *b)
{
    const struct model_tensor *x = a, *y = b;
    return strcmp(x->name, y->name);
}

/* Appends a file's tensors, taking their names. */
static sl_status append(struct model_tensors *model, struct model_tensor *tensors, uint32_t n)
{
    if (n > MODEL_TENSORS_MAX - model->n)
        return sl_fail(SL_CORRUPT, "more than %u tensors in one model", MODEL_TENSORS_MAX);
    struct model_tensor *all =
        sl_try_realloc(model->all, (size_t)model->n + n + 1, sizeof(*model->all));
    if (all == NULL)
        return sl_fail(SL_NO_MEMORY, "%u tensors", model->n + n);
    model->all = all;
    for (uint32_t i = 0; i < n; i++) {
        all[model->n + i] = tensors[i];
        tensors[i].name = NULL;
    }
    model->n += n;
    return SL_OK;
}

static sl_status open_all(struct model_tensors *model)
{
    for (uint32_t i = 0; i < model->n_files; i++) {
        struct model_tensor *tensors;
        uint32_t n;
        sl_status status = open_file(model, i, &tensors, &n);
        if (status != SL_OK)
            return status;
        status = append(model, tensors, n);
        model_safetensors_free(tensors, n);
        if (status != SL_OK)
            return status;
    }
    if (model->n == 0)
        return sl_fail(SL_CORRUPT, "%s: no tensors", model->files[0].path);
    qsort(model->all, model->n, sizeof(*model->all), by_name);
    for (uint32_t i = 1; i < model->n; i++)
        if (strcmp(model->all[i - 1].name, model->all[i].name) == 0)
            return sl_fail(SL_CORRUPT, "%s: %s is in %s too", model->files[model->all[i].file].path,
                           model->all[i].name, model->files[model->all[i - 1].file].path);
    return SL_OK;
}

/* ---- index ---- */

static sl_status add_file(struct model_tensors *model, const char *directory, const char *name,
                          uint32_t *index_out)
{
    char *path = sl_asprintf("%s/%s", directory, name);
    for (uint32_t i = 0; i < model->n_files; i++)
        if (strcmp(model->files[i].path, path) == 0) {
            sl_free(path);
            *index_out = i;
            return SL_OK;
        }
    if (model->n_files == MODEL_FILES_MAX) {
        sl_free(path);
        return sl_fail(SL_CORRUPT, "%s: weights in more than %u files", directory, MODEL_FILES_MAX);
    }
    *index_out = model->n_files;
    model->files[model->n_files++] = (struct model_file){.path = path};
    return SL_OK;
}

/* A plain name in the model's directory. */
static bool is_plain(const char *name)
{
    return name[0] != '\0' && name[0] != '.' && strchr(name, '/') == NULL &&
           strlen(name) <= MODEL_TENSOR_NAME_MAX;
}

static sl_status add_files(struct model_tensors *model, const char *directory, const char *what,
                           const json_t *map)
{
    const char *name;
    json_t *value;
    if (!json_is_object(map) || json_object_size(map) == 0)
        return sl_fail(SL_CORRUPT, "%s: weight_map is missing", what);
    json_object_foreach((json_t *)(uintptr_t)map, name, value)
    {
        const char *file = json_string_value(value);
        uint32_t index;
        if (file == NULL || !is_plain(file))
            return sl_fail(SL_CORRUPT, "%s: weight_map: %.200s: not the name of a file", what,
                           name);
        sl_status status = add_file(model, directory, file, &index);
        if (status != SL_OK)
            return status;
    }
    return SL_OK;
}

static sl_status check_map(const struct model_tensors *model, const char *directory,
                           const char *what, const json_t *map)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)map, name, value)
    {
        const struct model_tensor *tensor = model_tensors_find(model, name);
        const char *file = json_string_value(value);
        if (tensor == NULL)
            return sl_fail(SL_CORRUPT, "%s: weight_map: %s is not in %s", what, name, file);
        const char *path = model->files[tensor->file].path;
        if (strcmp(path + strlen(directory) + 1, file) != 0)
            return sl_fail(SL_CORRUPT, "%s: weight_map: %s is in %s, not in %s", what, name, path,
                           file);
    }
    return SL_OK;
}

sl_status model_tensors_open(const char *directory, struct model_tensors **tensors_out)
{
    struct model_tensors *model = sl_zalloc(1, sizeof(*model));
    char *index_path = sl_asprintf("%s/model.safetensors.index.json", directory);
    json_t *index = NULL;
    const json_t *map = NULL;
    uint32_t ignored;
    model->files = sl_zalloc(MODEL_FILES_MAX, sizeof(*model->files));

    sl_status status = sl_json_load(index_path, MODEL_INDEX_BYTES_MAX, &index);
    if (status == SL_OK) {
        map = json_object_get(index, "weight_map");
        status = add_files(model, directory, index_path, map);
    } else if (status == SL_NOT_FOUND) {
        status = add_file(model, directory, "model.safetensors", &ignored);
    }
    if (status == SL_OK)
        status = open_all(model);
    if (status == SL_OK && map != NULL)
        status = check_map(model, directory, index_path, map);
    if (status == SL_OK)
        *tensors_out = model;
    else
        model_tensors_close(model);
    json_decref(index);
    sl_free(index_path);
    return status;
}

void model_tensors_close(struct model_tensors *model)
{
    if (model == NULL)
        return;
    model_safetensors_free(model->all, model->n);
    for (uint32_t i = 0; i < model->n_files; i++) {
        if (model->files[i].map != NULL)
            munmap((void *)(uintptr_t)model->files[i].map, model->files[i].bytes);
        sl_free(model->files[i].path);
    }
    sl_free(model->files);
    sl_free(model);
}

const struct model_tensor *model_tensors_find(const struct model_tensors *model, const char *name)
{
    uint32_t low = 0, high = model->n;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        int order = strcmp(name, model->all[middle].name);
        if (order == 0)
            return &model->all[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

uint32_t model_tensors_count(const struct model_tensors *model)
{
    return model->n;
}

uint64_t model_tensors_bytes(const struct model_tensors *model)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < model->n_files; i++)
        bytes += model->files[i].bytes;
    return bytes;
}

void model_tensor_drop(const struct model_tensor *tensor)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t first = ((uintptr_t)tensor->data + page - 1) & ~(page - 1);
    uintptr_t last = ((uintptr_t)tensor->data + tensor->bytes) & ~(page - 1);
    if (first < last)
        (void)madvise((void *)first, last - first, MADV_DONTNEED); /* advice: may be refused */
}

uint32_t model_tensors_files(const struct model_tensors *model, const struct model_file **files_out)
{
    *files_out = model->files;
    return model->n_files;
}

/* safetensors files: header checks, and a model's tensors over one or several mapped files. */
#ifndef SL_MODEL_SAFETENSORS_H
#define SL_MODEL_SAFETENSORS_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

#define MODEL_TENSOR_DIMS_MAX   8
#define MODEL_HEADER_BYTES_MAX  100000000u /* as the format's own limit */
#define MODEL_TENSORS_MAX       200000u    /* of one model */
#define MODEL_FILES_MAX         1000u
#define MODEL_INDEX_BYTES_MAX   (64u << 20) /* of model.safetensors.index.json */
#define MODEL_TENSOR_NAME_MAX   512u
#define MODEL_TENSOR_NO_ELEMENT UINT32_MAX

struct model_tensor {
    char *name;
    uint32_t element; /* enum kernel_element; MODEL_TENSOR_NO_ELEMENT for other types */
    char type[12];    /* as written: "BF16" */
    uint32_t n_dims;
    uint64_t dims[MODEL_TENSOR_DIMS_MAX];
    uint64_t offset, bytes; /* within the file's data */
    const uint8_t *data;    /* mapped; not aligned to anything */
    uint32_t file;
};

/* Parses and checks a header (the JSON text after the length), given the bytes that follow it:
 * known types, products and sums checked, offsets inside the data, no overlap, no hole. SL_CORRUPT
 * names `what` and the tensor. tensors_out: heap array sorted by offset, `data` not set; freed with
 * model_safetensors_free. */
sl_status model_safetensors_parse(const char *what, const char *header, size_t header_bytes,
                                  uint64_t data_bytes, struct model_tensor **tensors_out,
                                  uint32_t *n_out) SL_MUST_USE;
void model_safetensors_free(struct model_tensor *tensors, uint32_t n);

struct model_tensors; /* of one model directory */

/* DIR/model.safetensors.index.json with its files, or DIR/model.safetensors. SL_NOT_FOUND,
 * SL_CORRUPT, SL_INVALID. The files stay mapped until the close. */
sl_status model_tensors_open(const char *directory, struct model_tensors **tensors_out) SL_MUST_USE;
void model_tensors_close(struct model_tensors *tensors);
/* NULL when there is none. */
const struct model_tensor *model_tensors_find(const struct model_tensors *tensors,
                                              const char *name);
uint32_t model_tensors_count(const struct model_tensors *tensors);
/* Sum of the files' sizes. */
uint64_t model_tensors_bytes(const struct model_tensors *tensors);
/* Tells the kernel that the pages of a tensor are not needed any more. */
void model_tensor_drop(const struct model_tensor *tensor);

/* A file of the model, for its digest: path, size, mapping. */
struct model_file {
    char *path;
    uint64_t bytes;
    int64_t mtime_ns;
    uint64_t inode, device;
    const uint8_t *map; /* NULL when empty */
};
uint32_t model_tensors_files(const struct model_tensors *tensors,
                             const struct model_file **files_out);

#endif

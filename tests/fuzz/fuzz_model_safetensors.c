/* The header of a safetensors file on any bytes; the first four say how much data follows. What is
 * accepted must cover the data exactly. */
#include "model/safetensors.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint32_t data_bytes;
    struct model_tensor *tensors;
    uint32_t n;
    if (size < sizeof(data_bytes))
        return 0;
    memcpy(&data_bytes, data, sizeof(data_bytes));
    sl_status status = model_safetensors_parse("file", (const char *)data + sizeof(data_bytes),
                                               size - sizeof(data_bytes), data_bytes, &tensors, &n);
    if (status != SL_OK) {
        SL_ASSERT(sl_error()[0] != '\0');
        return 0;
    }
    uint64_t end = 0;
    for (uint32_t i = 0; i < n; i++) {
        SL_ASSERT(tensors[i].offset == end && tensors[i].n_dims <= MODEL_TENSOR_DIMS_MAX);
        end += tensors[i].bytes;
    }
    SL_ASSERT(end == data_bytes);
    model_safetensors_free(tensors, n);
    return 0;
}

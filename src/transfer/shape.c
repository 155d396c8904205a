/* Piece numbering. Pure; no state. See shape.h for the drawing. */
#include "transfer/shape.h"

#include "transfer/digest.h"

#define PIECE_BYTES_MAX ((size_t)1 << 31)
#define LAYERS_MAX      4096
#define LAYER_BYTES_MAX ((size_t)1 << 31)

static void cut(struct shape *shape, uint32_t layers_per_piece)
{
    shape->layers_per_piece = layers_per_piece;
    shape->pieces_per_block = 0;
    for (uint32_t c = 0; c < shape->n_classes; c++) {
        struct shape_class *class = &shape->classes[c];
        class->first_piece = shape->pieces_per_block;
        class->n_runs = (class->n_layers + layers_per_piece - 1) / layers_per_piece;
        shape->pieces_per_block += class->n_runs;
    }
}

static bool pieces_fit(const struct shape *shape)
{
    for (uint32_t c = 0; c < shape->n_classes; c++) {
        const struct shape_class *class = &shape->classes[c];
        uint32_t layers =
            class->n_layers < shape->layers_per_piece ? class->n_layers : shape->layers_per_piece;
        if (class->layer_bytes * layers > PIECE_BYTES_MAX)
            return false;
    }
    return true;
}

static uint32_t layers_most(const struct shape *shape)
{
    uint32_t most = 1;
    for (uint32_t c = 0; c < shape->n_classes; c++) {
        if (shape->classes[c].n_layers > most)
            most = shape->classes[c].n_layers;
    }
    return most;
}

sl_status shape_init(struct shape *shape, const struct transfer_class *classes, uint32_t n_classes,
                     uint32_t layers_per_piece)
{
    if (n_classes == 0 || n_classes > TRANSFER_CLASSES_MAX)
        return sl_fail(SL_INVALID, "transfer of %u KV classes; want 1..%d", n_classes,
                       TRANSFER_CLASSES_MAX);
    struct shape made = {.n_classes = n_classes};
    for (uint32_t c = 0; c < n_classes; c++) {
        if (classes[c].n_layers == 0 || classes[c].n_layers > LAYERS_MAX ||
            classes[c].layer_bytes == 0 || classes[c].layer_bytes > LAYER_BYTES_MAX)
            return sl_fail(SL_INVALID, "KV class %u: %u layers of %zu bytes; want 1..%d of 1..2^31",
                           c, classes[c].n_layers, classes[c].layer_bytes, LAYERS_MAX);
        made.classes[c].n_layers = classes[c].n_layers;
        made.classes[c].layer_bytes = classes[c].layer_bytes;
    }
    if (layers_per_piece == 0 || layers_per_piece > layers_most(&made))
        layers_per_piece = layers_most(&made);
    cut(&made, layers_per_piece);
    if (!pieces_fit(&made))
        return sl_fail(SL_INVALID, "pieces of %u layers pass 2^31 bytes; want fewer layers",
                       layers_per_piece);
    *shape = made;
    return SL_OK;
}

bool shape_recut(const struct shape *shape, uint32_t layers_per_piece, struct shape *shape_out)
{
    if (layers_per_piece == 0 || layers_per_piece > layers_most(shape))
        return false;
    struct shape made = *shape;
    cut(&made, layers_per_piece);
    if (!pieces_fit(&made))
        return false;
    *shape_out = made;
    return true;
}

void shape_run(const struct shape *shape, uint32_t block, uint32_t class_index, uint32_t run,
               struct piece *piece_out)
{
    const struct shape_class *class = &shape->classes[class_index];
    uint32_t first_layer = run * shape->layers_per_piece;
    uint32_t n_layers = class->n_layers - first_layer;
    if (n_layers > shape->layers_per_piece)
        n_layers = shape->layers_per_piece;
    *piece_out = (struct piece){
        .number = block * shape->pieces_per_block + class->first_piece + run,
        .block = block,
        .class_index = class_index,
        .run = run,
        .first_layer = first_layer,
        .n_layers = n_layers,
        .bytes = n_layers * class->layer_bytes,
        .offset = first_layer * class->layer_bytes,
    };
}

void shape_piece(const struct shape *shape, uint32_t number, struct piece *piece_out)
{
    uint32_t in_block = number % shape->pieces_per_block;
    uint32_t c = shape->n_classes - 1;
    while (shape->classes[c].first_piece > in_block)
        c--;
    shape_run(shape, number / shape->pieces_per_block, c, in_block - shape->classes[c].first_piece,
              piece_out);
}

size_t shape_block_bytes(const struct shape *shape)
{
    size_t bytes = 0;
    for (uint32_t c = 0; c < shape->n_classes; c++)
        bytes += shape->classes[c].n_layers * shape->classes[c].layer_bytes;
    return bytes;
}

uint64_t shape_hash(const struct shape *shape)
{
    uint64_t words[2 * TRANSFER_CLASSES_MAX] = {0};
    for (uint32_t c = 0; c < shape->n_classes; c++) {
        words[2 * c] = shape->classes[c].n_layers;
        words[2 * c + 1] = shape->classes[c].layer_bytes;
    }
    return digest_bytes(words, sizeof(words), shape->n_classes);
}

/* How a stream's blocks are cut into pieces: fixed at open, equal at both ends. A piece is a run of
 * layers of one block of one class; within a block classes follow each other, and runs within a class.
 *
 *   number = (block index in the stream) * pieces_per_block + classes[c].first_piece + run */
#ifndef SL_TRANSFER_SHAPE_H
#define SL_TRANSFER_SHAPE_H

#include "transfer/transfer.h"

struct shape_class {
    uint32_t n_layers, n_runs, first_piece;
    size_t layer_bytes;
};

struct shape {
    uint32_t n_classes;
    uint32_t layers_per_piece;
    uint32_t pieces_per_block;
    struct shape_class classes[TRANSFER_CLASSES_MAX];
};

struct piece {
    uint32_t number;
    uint32_t block; /* index in the stream */
    uint32_t class_index, run;
    uint32_t first_layer, n_layers;
    size_t bytes;
    size_t offset; /* in the class's block */
};

/* layers_per_piece 0: all. SL_INVALID when a piece would pass 2^31 bytes or a count is zero. */
sl_status shape_init(struct shape *shape, const struct transfer_class *classes, uint32_t n_classes,
                     uint32_t layers_per_piece) SL_MUST_USE;
/* The same classes cut another way (what a peer's open says); false when that is no valid cut. */
bool shape_recut(const struct shape *shape, uint32_t layers_per_piece, struct shape *shape_out);
/* number < n_blocks * pieces_per_block. */
void shape_piece(const struct shape *shape, uint32_t number, struct piece *piece_out);
/* Run `run` of a class in one block. */
void shape_run(const struct shape *shape, uint32_t block, uint32_t class_index, uint32_t run,
               struct piece *piece_out);
/* Bytes of one block over all classes. */
size_t shape_block_bytes(const struct shape *shape);
/* Hash of the classes, for hello. */
uint64_t shape_hash(const struct shape *shape);

#endif

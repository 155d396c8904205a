/* What the files that are compiled once per path see: their vectors, and names with the path's
 * suffix (CPU_PATH is avx512, avx2 or portable, from the build). */
#ifndef SL_KERNELS_CPU_PATH_H
#define SL_KERNELS_CPU_PATH_H

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/simd.h"

#define CPU_PASTE_(name, path) name##_##path
#define CPU_PASTE(name, path)  CPU_PASTE_(name, path)
#define CPU_NAME(name)         CPU_PASTE(name, CPU_PATH)

#define CPU_PANEL     (2 * CPU_VL)      /* columns of a panel: two vectors */
#define CPU_TILE_ROWS (CPU_ACC_MAX / 2) /* rows of a register tile over one panel */

_Static_assert(CPU_PANEL <= CPU_PANEL_MAX && CPU_TILE_ROWS <= CPU_TILE_ROWS_MAX, "limits of cpu.h");

/* gemm.c */
void CPU_NAME(cpu_gemm)(const struct cpu_rows *rows, uint32_t first_tile, uint32_t n_tiles,
                        const struct kernel_weight *weight, uint32_t first_panel, uint32_t n_panels,
                        float *c, size_t c_stride, float *wide);
void CPU_NAME(cpu_pack_tile)(const float *x, size_t stride, uint32_t n, uint32_t k, float *out);
/* skinny.c */
void CPU_NAME(cpu_skinny)(const struct cpu_rows *rows, const struct kernel_weight *weight,
                          uint32_t first_panel, uint32_t n_panels, float *c, size_t c_stride);
/* attention.c */
size_t CPU_NAME(cpu_attend_floats)(uint32_t n_queries, uint32_t dim);
void CPU_NAME(cpu_attend)(const struct cpu_attention_unit *unit, uint32_t first, uint32_t end,
                          float *partials, float *scratch);
void CPU_NAME(cpu_attend_start)(float *total, uint32_t n, uint32_t dim);
void CPU_NAME(cpu_attend_fold)(float *total, const float *part, uint32_t n, uint32_t dim);
void CPU_NAME(cpu_attend_finish)(const float *total, const struct cpu_attention_unit *unit);

#endif

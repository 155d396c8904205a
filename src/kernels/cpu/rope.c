/* Angles of the rotary embedding. The angle is position * inv_freq rounded to f32, as Hugging Face
 * computes it; its cosine and sine come from a fixed evaluation in double (error below 1e-10, so
 * nearly always the correctly rounded f32), because libm's differ between versions and processors,
 * and two nodes with one numerics id must agree. Sources: Su et al. 2021; Cody and Waite 1980. */
#include "kernels/cpu/cpu.h"

#include <math.h>

#define HALF_PI_HIGH 0x1.921fb544p+0 /* 33 bits: n * HIGH is exact for n < 2^20 */
#define HALF_PI_LOW  0x1.0b4611a626331p-34
#define TWO_OVER_PI  0.63661977236758134308

/* Taylor series on |r| <= pi/4; the first term left out is below 5e-17. */
static double sine_of(double r)
{
    double s = r * r;
    double p = -1.0 / 1307674368000.0;
    p = p * s + 1.0 / 6227020800.0;
    p = p * s - 1.0 / 39916800.0;
    p = p * s + 1.0 / 362880.0;
    p = p * s - 1.0 / 5040.0;
    p = p * s + 1.0 / 120.0;
    p = p * s - 1.0 / 6.0;
    return r + r * s * p;
}

static double cosine_of(double r)
{
    double s = r * r;
    double p = 1.0 / 20922789888000.0;
    p = p * s - 1.0 / 87178291200.0;
    p = p * s + 1.0 / 479001600.0;
    p = p * s - 1.0 / 3628800.0;
    p = p * s + 1.0 / 40320.0;
    p = p * s - 1.0 / 720.0;
    p = p * s + 1.0 / 24.0;
    p = p * s - 0.5;
    return 1.0 + s * p;
}

void cpu_rope_row(const struct kernel_rope *rope, uint32_t position, float *cosine, float *sine)
{
    for (uint32_t i = 0; i < rope->rotary_dim / 2; i++) {
        double angle = (double)((float)position * rope->inv_freq[i]);
        double n = floor(angle * TWO_OVER_PI + 0.5);
        double r = (angle - n * HALF_PI_HIGH) - n * HALF_PI_LOW;
        double s = sine_of(r), c = cosine_of(r);
        uint32_t quadrant = (uint32_t)((int64_t)n & 3);
        double sin_angle = quadrant & 1 ? c : s, cos_angle = quadrant & 1 ? s : c;
        if (quadrant >= 2)
            sin_angle = -sin_angle;
        if (quadrant == 1 || quadrant == 2)
            cos_angle = -cos_angle;
        cosine[i] = (float)cos_angle * rope->scale;
        sine[i] = (float)sin_angle * rope->scale;
    }
}

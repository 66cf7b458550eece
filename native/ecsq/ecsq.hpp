// Integers of entropy-coded scalar quantization: the sign of x times floor(|x| / step + 1/2), 0 where |x| / step < 0.56.
//
// Columns come in classes, each with its own largest |id|; ids of a class lie in an array of their own, from 0 on. Sums run over
// 16 lanes in a fixed order, so results do not depend on the instruction set or the threads.
#pragma once
#include <cstddef>
#include <cstdint>

namespace compand::ecsq {

struct Class {
    size_t first, last;  // columns
    int reach;           // ids from -reach to reach, stored + reach
    void *ids;           // (n, last - first), uint8 if reach < 128, else uint16
};

// Levels v + 1/2 of half the spacing, of which the row's state allows every second one (Marcellin & Fischer 1990; Ungerboeck 1982, the code of
// 32 states, 45 and 10 in octal): id = v / 2 where v is even, (-v - 1) / 2 where it is odd. Of each row the sequence with the least sum of
// weight * (x * inverse - level)^2 + price * |level|.
struct Column {
    float inverse, weight, price, factor;  // x * inverse is in levels; factor: what a level decodes to
    float shrink;                          // price / (2 weight): how far the best real number is from x * inverse
    int reach;                             // v from -2 reach to 2 reach - 1: ids from -reach to reach - 1, stored + reach
};

#define COMPAND_ECSQ_FUNCTIONS                                                                                       \
    /* n rows of d values from row `from` on; dots[i] = <x, factors * id>, squares[i] = |x|^2 */                     \
    void encode(const float *x, size_t n, size_t d, size_t from, const float *factors, float inverse, const Class *classes, \
                size_t count, float *dots, float *squares);                                                          \
    /* the same of trellis-coded levels; ids are uint8 if reach <= 128; scratch of so many bytes */                  \
    size_t trellis_scratch(size_t d);                                                                                \
    void trellis(const float *x, size_t n, size_t d, size_t from, const Column *columns, const Class *classes, size_t count, \
                 void *scratch, float *dots, float *squares);
namespace scalar {
COMPAND_ECSQ_FUNCTIONS
}
namespace avx2 {
COMPAND_ECSQ_FUNCTIONS
}
namespace avx512 {
COMPAND_ECSQ_FUNCTIONS
}
#undef COMPAND_ECSQ_FUNCTIONS

// v of rows of trellis-coded ids (n, width of each class), to out (n, d); or (v + 1/2) * factors (d).
void levels(const Class *classes, size_t count, size_t n, size_t d, int16_t *out);
void values(const Class *classes, size_t count, size_t n, size_t d, const float *factors, float *out);

}  // namespace compand::ecsq

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

#define COMPAND_ECSQ_FUNCTIONS                                                                                       \
    /* n rows of d values from row `from` on; dots[i] = <x, factors * id>, squares[i] = |x|^2 */                     \
    void encode(const float *x, size_t n, size_t d, size_t from, const float *factors, float inverse, const Class *classes, \
                size_t count, float *dots, float *squares);
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

}  // namespace compand::ecsq

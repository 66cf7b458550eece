// Orthonormal Hadamard transform of blocks, natural order: butterflies of distance 1, 2, 4, ..., then one multiplication by
// float32(1 / sqrt(block)). The additions of an element have one order, so the bits are the same everywhere.
#pragma once
#include <cstddef>

namespace compand::hadamard {

// out (d) from x (d), d a multiple of block, block a power of two; before and after (d) multiply each element, may be null.
#define COMPAND_HADAMARD_FUNCTIONS \
    void row(const float *x, size_t d, size_t block, const float *before, const float *after, float *out);
namespace scalar {
COMPAND_HADAMARD_FUNCTIONS
}
namespace avx2 {
COMPAND_HADAMARD_FUNCTIONS
}
namespace avx512 {
COMPAND_HADAMARD_FUNCTIONS
}
#undef COMPAND_HADAMARD_FUNCTIONS

}  // namespace compand::hadamard

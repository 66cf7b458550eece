// Scales of uniform grids by least squared error, and ids: x_hat = s * (id + z), id in [0, k), one s for each group of a row.
//
// The same steps as compand.fit.scale.fixed_zero: the range that covers all values, shrunken ranges, and twice the
// least-squares step of the best so far; each is rounded as it will be stored before it is judged. Sums run over 16 lanes in
// a fixed order, so results do not depend on the instruction set or the threads.
#pragma once
#include <cstddef>
#include <cstdint>

namespace compand::grid {

struct Plan {
    float z;               // -k/2: zero is a level; -(k-1)/2: none is
    int k;                 // 2 to 256
    const float *ratios;   // shrunken ranges to try
    size_t tries;
    int digits;            // leading bits a stored scale keeps: 8 bfloat16, 11 float16, 24 float32
    float smallest, largest;  // range of stored magnitudes; smaller becomes 0
    bool search;           // false: only the range that covers all values
};

#define COMPAND_GRID_FUNCTIONS                                                                       \
    /* one row of d values in groups of `group` (the last may be shorter) */                         \
    void encode(const Plan &plan, const float *x, size_t d, size_t group, uint8_t *ids, float *scales);
namespace scalar {
COMPAND_GRID_FUNCTIONS
}
namespace avx2 {
COMPAND_GRID_FUNCTIONS
}
namespace avx512 {
COMPAND_GRID_FUNCTIONS
}
#undef COMPAND_GRID_FUNCTIONS

}  // namespace compand::grid

// Vectors on small grids, one for each dimension, as mixed-radix numbers: level = round(x / s - z) within the grid,
// id = sum of level_j * unit_j, y = (level + z) * s. Quotients, differences and products are those of IEEE single precision, one by
// one, so every level and thread gives the same bits.
#pragma once
#include <cstddef>
#include <cstdint>

namespace compand::radix {

struct Grid {
    size_t m;              // dimensions of a vector, 1 to kMost
    const float *s, *z;    // (m,) step, place of level 0 in steps
    const uint32_t *k;     // (m,) levels, 1 to 65536
    const uint64_t *unit;  // (m,) the product of the levels before
};
constexpr size_t kMost = 64;  // levels of 2 or more whose product is at most 2^64

#define COMPAND_RADIX_FUNCTIONS                                                                       \
    /* n vectors x (n, m) -> ids (n,), and y (n, m) unless it is null; a step of 0 counts as 1 */      \
    void encode(const Grid &grid, const float *x, size_t n, uint32_t *ids, float *y);                 \
    void encode(const Grid &grid, const float *x, size_t n, uint64_t *ids, float *y);                 \
    /* ids (n,), any numbers -> y (n, m) */                                                           \
    void decode(const Grid &grid, const uint32_t *ids, size_t n, float *y);                           \
    void decode(const Grid &grid, const uint64_t *ids, size_t n, float *y);
namespace scalar {
COMPAND_RADIX_FUNCTIONS
}
namespace avx2 {
COMPAND_RADIX_FUNCTIONS
}
namespace avx512 {
COMPAND_RADIX_FUNCTIONS
}
#undef COMPAND_RADIX_FUNCTIONS

}  // namespace compand::radix

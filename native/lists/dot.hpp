// Inner products of one vector with some rows of a matrix.
#pragma once
#include <cstddef>
#include <cstdint>

namespace compand::lists {

#define COMPAND_LISTS_FUNCTIONS                                                                                    \
    /* out[i] = <x, rows[ids[i]]>, of d values: 64 partial sums, joined pairwise; products rounded */              \
    void dots(const float *x, const float *rows, const uint32_t *ids, size_t count, size_t d, float *out);
namespace scalar {
COMPAND_LISTS_FUNCTIONS
}
namespace avx2 {
COMPAND_LISTS_FUNCTIONS
}
namespace avx512 {
COMPAND_LISTS_FUNCTIONS
}
#undef COMPAND_LISTS_FUNCTIONS

}  // namespace compand::lists

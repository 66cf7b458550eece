// Body of dot.hpp. All levels give the same sums.
#include <cstring>

#include "lists/dot.hpp"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"  // vectors that registers of this level do not hold stay within this file
#endif

namespace compand::lists::ISA {

void dots(const float *x, const float *rows, const uint32_t *ids, size_t count, size_t d, float *out) {
    typedef float Line __attribute__((vector_size(64)));
    constexpr size_t lines = 4, width = lines * 16;
    for (size_t i = 0; i < count; ++i) {
        const float *row = rows + ids[i] * d;
        Line sums[lines] = {};
        size_t j = 0;
        for (; j + width <= d; j += width)
            for (size_t l = 0; l < lines; ++l) {
                Line a, b;
                std::memcpy(&a, x + j + 16 * l, sizeof a);
                std::memcpy(&b, row + j + 16 * l, sizeof b);
                sums[l] += a * b;
            }
        float lanes[width];
        std::memcpy(lanes, sums, sizeof lanes);
        for (; j < d; ++j) lanes[j % width] += x[j] * row[j];
        for (size_t half = width / 2; half; half /= 2)
            for (size_t l = 0; l < half; ++l) lanes[l] += lanes[l + half];
        out[i] = lanes[0];
    }
}

}  // namespace compand::lists::ISA

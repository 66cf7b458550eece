// A linear map of queries. Products and sums are rounded one by one, columns of x rising, so all levels give the same.
#pragma once
#include <cstring>

#include "scan/rows_impl.hpp"

namespace compand::scan::ISA {
namespace {

// R rows of x by C * 16 columns of the matrix from `from` on.
template <size_t R, size_t C> void turn_tile(const float *x, size_t d, const float *matrix, size_t k, float *out) {
    Floats sums[R][C] = {};
    for (size_t j = 0; j < d; ++j)
        for (size_t c = 0; c < C; ++c) {
            Floats m;
            std::memcpy(&m, matrix + j * k + c * kLanes, sizeof m);
            for (size_t r = 0; r < R; ++r) sums[r][c] += x[r * d + j] * m;
        }
    for (size_t r = 0; r < R; ++r) std::memcpy(out + r * k, sums[r], sizeof sums[r]);
}

template <size_t R> void turn_rows(const float *x, size_t d, const float *matrix, size_t k, size_t first, size_t last, float *out) {
    size_t c = first;
    for (; c + 4 * kLanes <= last; c += 4 * kLanes) turn_tile<R, 4>(x, d, matrix + c, k, out + c);
    for (; c + kLanes <= last; c += kLanes) turn_tile<R, 1>(x, d, matrix + c, k, out + c);
    for (; last - c < 4 && c < last; ++c)
        for (size_t r = 0; r < R; ++r) {
            float sum = 0;
            for (size_t j = 0; j < d; ++j) sum += x[r * d + j] * matrix[j * k + c];
            out[r * k + c] = sum;
        }
    if (c == last) return;
    Floats sums[R] = {};
    for (size_t j = 0; j < d; ++j) {
        Floats m = {};
        std::memcpy(&m, matrix + j * k + c, (last - c) * sizeof(float));
        for (size_t r = 0; r < R; ++r) sums[r] += x[r * d + j] * m;
    }
    for (size_t r = 0; r < R; ++r) std::memcpy(out + r * k + c, &sums[r], (last - c) * sizeof(float));
}

}  // namespace

void turn(const float *x, size_t n, size_t d, const float *matrix, size_t k, size_t first, size_t last, float *out) {
    size_t r = 0;
    for (; r + 4 <= n; r += 4) turn_rows<4>(x + r * d, d, matrix, k, first, last, out + r * k);
    for (; r < n; ++r) turn_rows<1>(x + r * d, d, matrix, k, first, last, out + r * k);
}

}  // namespace compand::scan::ISA

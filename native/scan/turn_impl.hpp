// A linear map of rows. Each product is added with one rounding, columns of x rising, so all levels and both ways give the same.
#pragma once
#include <cstring>
#include <vector>

#include "scan/rows_impl.hpp"

namespace compand::scan::ISA {
namespace {

inline void add_product(float a, const Floats &b, Floats &sum) {  // a * b + sum, rounded once
#if LEVEL == 2
    sum = (Floats)_mm512_fmadd_ps(_mm512_set1_ps(a), (__m512)b, (__m512)sum);
#elif LEVEL == 1
    __m256 x[2], y[2];
    std::memcpy(x, &b, sizeof b);
    std::memcpy(y, &sum, sizeof sum);
    for (int h = 0; h < 2; ++h) y[h] = _mm256_fmadd_ps(_mm256_set1_ps(a), x[h], y[h]);
    std::memcpy(&sum, y, sizeof sum);
#else
    for (size_t l = 0; l < kLanes; ++l) sum[l] = __builtin_fmaf(a, b[l], sum[l]);
#endif
}

// R rows of x by C lines of the matrix, k apart.
template <size_t R, size_t C> void turn_tile(const float *x, size_t d, const float *matrix, size_t k, float *out) {
    Floats sums[R][C] = {};
    for (size_t j = 0; j < d; ++j)
        for (size_t c = 0; c < C; ++c) {
            Floats m;
            std::memcpy(&m, matrix + j * k + c * kLanes, sizeof m);
            for (size_t r = 0; r < R; ++r) add_product(x[r * d + j], m, sums[r][c]);
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
            for (size_t j = 0; j < d; ++j) sum = __builtin_fmaf(x[r * d + j], matrix[j * k + c], sum);
            out[r * k + c] = sum;
        }
    if (c == last) return;
    Floats sums[R] = {};
    for (size_t j = 0; j < d; ++j) {
        Floats m = {};
        std::memcpy(&m, matrix + j * k + c, (last - c) * sizeof(float));
        for (size_t r = 0; r < R; ++r) add_product(x[r * d + j], m, sums[r]);
    }
    for (size_t r = 0; r < R; ++r) std::memcpy(out + r * k + c, &sums[r], (last - c) * sizeof(float));
}

// Rows and lines of columns whose sums the registers of this level hold.
#if LEVEL == 2
constexpr size_t kTileRows = 12, kTileLines = 2;
#elif LEVEL == 1
constexpr size_t kTileRows = 3, kTileLines = 2;
#else
constexpr size_t kTileRows = 2, kTileLines = 1;
#endif
static_assert(kTurnRows % kTileRows == 0 && kTurnLines % kTileLines == 0);

// Adds what `depth` columns of R rows, kTurnDepth apart, give with C lines of a panel, kTurnLines wide, to sums that are kTurnRoom apart.
template <size_t R, size_t C> void turn_panel(const float *x, const float *panel, size_t depth, float *sums) {
    constexpr size_t apart = kTurnLines * kLanes;
    Floats own[R][C], m[C];
#pragma GCC unroll 16
    for (size_t r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (size_t c = 0; c < C; ++c) std::memcpy(&own[r][c], sums + r * apart + c * kLanes, sizeof(Floats));
    for (size_t j = 0; j < depth; ++j) {
#pragma GCC unroll 2
        for (size_t c = 0; c < C; ++c) std::memcpy(&m[c], panel + j * apart + c * kLanes, sizeof(Floats));
#pragma GCC unroll 16
        for (size_t r = 0; r < R; ++r)
#pragma GCC unroll 2
            for (size_t c = 0; c < C; ++c) add_product(x[r * kTurnDepth + j], m[c], own[r][c]);
    }
#pragma GCC unroll 16
    for (size_t r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (size_t c = 0; c < C; ++c) std::memcpy(sums + r * apart + c * kLanes, &own[r][c], sizeof(Floats));
}

}  // namespace

void turn(const float *x, size_t n, size_t d, const float *matrix, size_t k, size_t first, size_t last, float *out) {
    size_t r = 0;
    for (; r + 4 <= n; r += 4) turn_rows<4>(x + r * d, d, matrix, k, first, last, out + r * k);
    for (; r < n; ++r) turn_rows<1>(x + r * d, d, matrix, k, first, last, out + r * k);
}

void turn_packed(const float *x, size_t n, size_t d, const float *panels, size_t k, const float *mean, const float *scale, float *out) {
    constexpr size_t width = kTurnLines * kLanes;
    alignas(64) float rows[kTurnRows * kTurnDepth];
    const size_t count = (k + width - 1) / width;
    std::vector<Floats> room(count * kTurnRows * kTurnLines);
    auto *sums = reinterpret_cast<float *>(room.data());
    std::memset(sums, 0, room.size() * sizeof(Floats));
    const size_t padded = (n + kTileRows - 1) / kTileRows * kTileRows;
    if (padded > n) std::memset(rows + n * kTurnDepth, 0, (padded - n) * kTurnDepth * sizeof(float));
    for (size_t at = 0; at < d; at += kTurnDepth) {
        const size_t depth = d - at < kTurnDepth ? d - at : kTurnDepth;
        for (size_t r = 0; r < n; ++r)
            for (size_t j = 0; j < depth; ++j) rows[r * kTurnDepth + j] = mean ? x[r * d + at + j] - mean[at + j] : x[r * d + at + j];
        for (size_t p = 0; p < count; ++p) {
            const float *panel = panels + (p * d + at) * width;
            float *own = sums + p * kTurnRows * width;
            const bool narrow = kTileLines == 2 && p * width + kLanes >= k;  // the last panel, if one line holds its columns
            for (size_t r = 0; r < padded; r += kTileRows)
                for (size_t c = 0; c < kTurnLines; c += kTileLines) {
                    if (narrow)
                        turn_panel<kTileRows, 1>(rows + r * kTurnDepth, panel, depth, own + r * width);
                    else
                        turn_panel<kTileRows, kTileLines>(rows + r * kTurnDepth, panel + c * kLanes, depth, own + r * width + c * kLanes);
                }
        }
    }
    for (size_t r = 0; r < n; ++r)
        for (size_t p = 0; p < count; ++p) {
            const size_t first = p * width, some = k - first < width ? k - first : width;
            const float *own = sums + (p * kTurnRows + r) * width;
            for (size_t c = 0; c < some; ++c) out[r * k + first + c] = scale ? own[c] * scale[first + c] : own[c];
        }
}

}  // namespace compand::scan::ISA

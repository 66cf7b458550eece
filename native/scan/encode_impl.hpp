// Tables of queries from codebooks, and the nearest codeword of each group of a row.
#pragma once
#include <algorithm>
#include <cstring>
#if LEVEL
#include <immintrin.h>
#endif

#include "scan/rows_impl.hpp"

namespace compand::scan::ISA {
namespace {
template <size_t K> void products_of(const float *x, const float *table, size_t d, float *out) {  // sums stay in registers
    typedef float Line __attribute__((vector_size(64)));
    Line sums[K / 16] = {};
    for (size_t j = 0; j < d; ++j)
        for (size_t c = 0; c < K / 16; ++c) {
            Line words;
            std::memcpy(&words, table + j * K + c * 16, sizeof words);
            sums[c] += x[j] * words;
        }
    std::memcpy(out, sums, sizeof sums);
}
}  // namespace

void products(const float *x, const float *table, size_t d, size_t k, float *out) {
    if (k == 16) return products_of<16>(x, table, d, out);
    if (k == 64) return products_of<64>(x, table, d, out);
    if (k == 256) return products_of<256>(x, table, d, out);
    for (size_t c = 0; c < k; ++c) out[c] = 0;
    for (size_t j = 0; j < d; ++j)
        for (size_t c = 0; c < k; ++c) out[c] += x[j] * table[j * k + c];
}

namespace {
// Least and largest of k values, k a multiple of 16.
inline void bounds(const float *table, size_t k, float *least, float *most) {
    typedef float Line __attribute__((vector_size(64)));
    Line low, high, next, other;
    std::memcpy(&low, table, sizeof low);
    high = low;
    for (size_t c = 16; c + 16 <= k; c += 16) {
        std::memcpy(&next, table + c, sizeof next);
        low = next < low ? next : low;
        high = next > high ? next : high;
    }
#define COMPAND_HALVE(...)                                    \
    other = __builtin_shufflevector(low, low, __VA_ARGS__);   \
    low = other < low ? other : low;                          \
    other = __builtin_shufflevector(high, high, __VA_ARGS__); \
    high = other > high ? other : high;
    COMPAND_HALVE(8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15)
    COMPAND_HALVE(4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7)
    COMPAND_HALVE(2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3)
    COMPAND_HALVE(1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1)
#undef COMPAND_HALVE
    *least = low[0], *most = high[0];
}

inline void round(const float *table, size_t k, float least, float scale, float most, uint8_t *out) {
    for (size_t c = 0; c < k; ++c) {
        float v = (table[c] - least) * scale + 0.5f;
        v = v < most ? v : most;
        out[c] = static_cast<uint8_t>(static_cast<int32_t>(v));
    }
}

}  // namespace

void products_of_groups(const float *const *x, size_t count, const float *values, const size_t *starts, const size_t *offsets, size_t groups,
                        size_t k, float *const *out, float *const *least, float *const *most) {
    for (size_t g = 0; g < groups; ++g)  // the values of a group are in the nearest cache for all but the first x
        for (size_t i = 0; i < count; ++i) {
            products(x[i] + starts[g], values + offsets[g], starts[g + 1] - starts[g], k, out[i] + g * k);
            if (least) bounds(out[i] + g * k, k, least[i] + g, most[i] + g);
        }
}

float largest(const float *x, size_t n) {
    Floats top = {};
    size_t j = 0;
    for (; j + kLanes <= n; j += kLanes) {
        Floats v;
        std::memcpy(&v, x + j, sizeof v);
        v = v < 0 ? -v : v;
        top = v > top ? v : top;
    }
    float most = 0;
    for (size_t l = 0; l < kLanes; ++l) most = top[l] > most ? top[l] : most;
    for (; j < n; ++j) {
        const float v = x[j] < 0 ? -x[j] : x[j];
        most = v > most ? v : most;
    }
    return most;
}

int32_t round_columns(const float *x, size_t n, float scale, int8_t *out) {
    constexpr float whole = 12582912;  // 1.5 * 2^23: a small number added to it is rounded to an integer
    int32_t sum = 0;
    for (size_t j = 0; j < n; ++j) {
        const auto w = static_cast<int32_t>((x[j] * scale + whole) - whole);
        out[j] = static_cast<int8_t>(w);
        sum += w;
    }
    return sum;
}

void round_groups(const float *tables, size_t groups, size_t k, const float *least, const float *scale, float most, uint8_t *out) {
    for (size_t g = 0; g < groups; ++g) round(tables + g * k, k, least[g], scale[g], most, out + g * k);
}

namespace {
// The best of `from` lanes into the lower half of them, equal scores by the lower id.
#define COMPAND_HALVE(...)                                                                   \
    {                                                                                        \
        const Floats other = __builtin_shufflevector(top, top, __VA_ARGS__);                 \
        const Ints their = __builtin_shufflevector(row, row, __VA_ARGS__);                   \
        const Ints take = (other > top) | ((other == top) & (their < row));                  \
        top = take ? other : top;                                                            \
        row = take ? their : row;                                                            \
    }

template <size_t K> void nearest_of(const float *x, size_t n, size_t stride, const float *table, const float *half, size_t d, uint8_t *ids,
                                    size_t ids_stride, float *dots) {
    constexpr size_t many = K / kLanes;
    const Ints lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    Floats start[many];
    std::memcpy(start, half, sizeof start);
    for (size_t c = 0; c < many; ++c) start[c] = -start[c];
    for (size_t i = 0; i < n; ++i, x += stride, ids += ids_stride) {
        Floats scores[many];
        for (size_t c = 0; c < many; ++c) scores[c] = start[c];
        for (size_t j = 0; j < d; ++j)
            for (size_t c = 0; c < many; ++c) {
                Floats words;
                std::memcpy(&words, table + j * K + c * kLanes, sizeof words);
                scores[c] += x[j] * words;
            }
        Floats top = scores[0];
        Ints row = lane;
        for (size_t c = 1; c < many; ++c) {
            const Ints take = scores[c] > top;
            top = take ? scores[c] : top;
            row = take ? lane + static_cast<int32_t>(c * kLanes) : row;
        }
        COMPAND_HALVE(8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15)
        COMPAND_HALVE(4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7)
        COMPAND_HALVE(2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3)
        COMPAND_HALVE(1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1)
        *ids = static_cast<uint8_t>(row[0] & static_cast<int32_t>(K - 1));
        dots[i] += top[0] + half[*ids];
    }
}
#undef COMPAND_HALVE
}  // namespace

void nearest(const float *x, size_t n, size_t stride, const float *table, const float *half, size_t d, size_t k, uint8_t *ids,
             size_t ids_stride, float *dots) {
    if (k == 16) return nearest_of<16>(x, n, stride, table, half, d, ids, ids_stride, dots);
    if (k == 64) return nearest_of<64>(x, n, stride, table, half, d, ids, ids_stride, dots);
    if (k == 256) return nearest_of<256>(x, n, stride, table, half, d, ids, ids_stride, dots);
    for (size_t i = 0; i < n; ++i, x += stride, ids += ids_stride) {
        size_t id = 0;
        float top = 0;
        for (size_t c = 0; c < k; ++c) {
            float score = -half[c];
            for (size_t j = 0; j < d; ++j) score += x[j] * table[j * k + c];
            if (c == 0 || score > top) id = c, top = score;
        }
        *ids = static_cast<uint8_t>(id);
        dots[i] += top + half[id];
    }
}

void squares(const float *x, size_t n, size_t d, float *out) {
    for (size_t i = 0; i < n; ++i, x += d) {
        Floats sums[2] = {};
        size_t j = 0;
        for (; j + 2 * kLanes <= d; j += 2 * kLanes)
            for (size_t c = 0; c < 2; ++c) {
                Floats v;
                std::memcpy(&v, x + j + c * kLanes, sizeof v);
                sums[c] += v * v;
            }
        const Floats both = sums[0] + sums[1];
        float lane[kLanes];
        std::memcpy(lane, &both, sizeof lane);
        for (; j < d; ++j) lane[j % kLanes] += x[j] * x[j];
        for (size_t half = kLanes / 2; half; half /= 2)
            for (size_t l = 0; l < half; ++l) lane[l] += lane[l + half];
        out[i] = lane[0];
    }
}

}  // namespace compand::scan::ISA

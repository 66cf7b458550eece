// One row of 8-bit ids at a time: scores in float32 and in integers, and what a bound leaves possible.
#pragma once
#include <algorithm>
#include <cstring>
#if LEVEL
#include <immintrin.h>
#endif

#include "scan/scan.hpp"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 warns about its own _mm512_undefined
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

namespace compand::scan::ISA {
namespace {

constexpr size_t kLanes = 16;
typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));

inline void widen(const uint8_t *ids, Floats &out) {
#if LEVEL == 2
    const __m512 f = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(ids))));
    std::memcpy(&out, &f, sizeof out);
#else
    for (size_t j = 0; j < kLanes; ++j) out[j] = static_cast<float>(ids[j]);
#endif
}

// sum_j query[j] * (row[j] + zero) over a multiple of 64 columns: 64 partial sums, joined pairwise; products rounded.
float inner(const float *query, const uint8_t *row, size_t columns, float zero) {
    Floats sums[4] = {};
    for (size_t at = 0; at < columns; at += 4 * kLanes)
        for (size_t c = 0; c < 4; ++c) {
            Floats q, ids;
            widen(row + at + c * kLanes, ids);
            std::memcpy(&q, query + at + c * kLanes, sizeof q);
            sums[c] += q * (ids + zero);
        }
    const Floats all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    float lane[kLanes];
    std::memcpy(lane, &all, sizeof lane);
    for (size_t half = kLanes / 2; half; half /= 2)
        for (size_t j = 0; j < half; ++j) lane[j] += lane[j + half];
    return lane[0];
}

int32_t inner_rounded(const int8_t *weights, const uint8_t *row, size_t columns) {
#if LEVEL == 2
    __m512i sum = _mm512_setzero_si512();
    for (size_t at = 0; at < columns; at += 64) sum = _mm512_dpbusd_epi32(sum, _mm512_loadu_si512(row + at), _mm512_loadu_si512(weights + at));
    return _mm512_reduce_add_epi32(sum);
#else
    int32_t sum = 0;
    for (size_t j = 0; j < columns; ++j) sum += weights[j] * row[j];
    return sum;
#endif
}

// What a bound of a vector must pass to be worth a look: the k-th best score or the floor, less what rounding may have taken, in steps.
inline void set_cut(const Store &store, Query &query) {
    const Asked &asked = *query.asked;
    const float *most = store.bounds->most;
    const float score = std::max(query.best->threshold, query.floor) * asked.inverse, slack = score < 0 ? score * -1e-6f : score * 1e-6f;
    query.cut = (slack < 3e38f ? score - slack : score) - (asked.first_error * most[0] + asked.one * most[1] + asked.term * most[2]);
}

// The row of a vector, 64 bytes more than its columns readable.
inline const uint8_t *whole_row(const Bounds &b, uint32_t id, uint8_t *room) {
    const uint8_t *row = b.rows + static_cast<size_t>(id) * b.stride;
    if ((b.n - id) * b.stride >= b.columns + 128) return row;
    std::memset(room, 0, b.columns + 128);
    std::memcpy(room, row, b.columns);
    return room;
}

__attribute__((noinline)) void offer_exact(const Store &store, uint32_t id, Query &query) {
    const Bounds &b = *store.bounds;
    alignas(64) uint8_t room[kMaxGroups + 128];
    float score = inner(query.asked->query, whole_row(b, id, room), (b.columns + 63) / 64 * 64, b.zero) * store.gain[id];
    if (store.term) score = score + query.asked->factor * store.term[id];
    if (!(score >= query.best->threshold)) return;
    query.best->push(score, id);
    set_cut(store, query);
}

// Whether all columns, in integers, leave a vector possible whose first `done` columns gave `sum`.
inline bool possible(const Store &store, uint32_t id, int32_t sum, size_t done, const uint8_t *row, const Query &query) {
    const Bounds &b = *store.bounds;
    const Asked &asked = *query.asked;
    sum += inner_rounded(asked.weights + done, row + done, b.columns - done);
    float f = (static_cast<float>(sum) + asked.bias) * store.gain[id] + asked.error * (b.most[0] + b.rest[id]);
    if (store.term) f += query.factor * store.term[id];
    return f > query.cut;
}

}  // namespace

void sums_of(const float *query, const uint8_t *rows, size_t n, size_t columns, float zero, const int64_t *ids, size_t m, float *out) {
    const Bounds all{rows, columns, n, columns, 0, 0, nullptr, nullptr, nullptr, {}, zero};
    const size_t padded = (columns + 63) / 64 * 64;
    alignas(64) uint8_t room[kMaxGroups + 128];
    alignas(64) float whole[kMaxGroups];
    std::memset(whole, 0, padded * sizeof(float));
    std::memcpy(whole, query, columns * sizeof(float));
    for (size_t i = 0; i < m; ++i) {
        constexpr size_t ahead = 8;
        if (i + ahead < m)
            for (size_t j = 0; j < columns; j += 64) __builtin_prefetch(rows + static_cast<size_t>(ids[i + ahead]) * columns + j);
        out[i] = inner(whole, whole_row(all, static_cast<uint32_t>(ids[i]), room), padded, zero);
    }
}

float length(const uint8_t *row, const float *units, size_t columns, float zero) {
    Floats sums = {};
    float total = 0;
    size_t j = 0;
    for (; j + kLanes <= columns; j += kLanes) {
        Floats unit, ids;
        widen(row + j, ids);
        std::memcpy(&unit, units + j, sizeof unit);
        const Floats v = unit * (ids + zero);
        sums += v * v;
    }
    for (; j < columns; ++j) {
        const float v = units[j] * (static_cast<float>(row[j]) + zero);
        total += v * v;
    }
    for (size_t l = 0; l < kLanes; ++l) total += sums[l];
    return __builtin_sqrtf(total) * 1.00001f;
}

}  // namespace compand::scan::ISA

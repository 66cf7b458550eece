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
inline void set_cut(Query &query) {
    const Asked &asked = *query.asked;
    const float score = std::max(query.best->threshold, query.floor) * asked.inverse, more = ((score < 0 ? -score : score) + asked.slack) * 2e-6f;
    query.cut = (more < 3e38f ? score - more : score) - asked.slack;
}

// What a vector may score whose first columns gave s, in steps.
inline float may_score(float s, float rest, const Hope &hope) {
    const float more = __builtin_fmaf(s, hope.slope, hope.least);
    return __builtin_fmaf(rest, more > hope.least ? more : hope.least, s);
}

// A vector that the first columns and the bound leave possible for a query.
struct Candidate {
    uint32_t id, query;
    int32_t sum;
    float most;  // the least bound of its score, in steps
};

// Whether the columns up to `middle`, which give `sum`, leave a vector possible.
inline bool possible_again(const Store &store, Candidate &c, const Query &query) {
    const Bounds &b = *store.bounds;
    const Asked &asked = *query.asked;
    float f = may_score(static_cast<float>(c.sum) * store.gain[c.id], b.far[c.id], asked.far) + asked.error * (b.most[0] + b.rest[c.id] + b.most[3]);
    if (store.term) f = __builtin_fmaf(query.factor, store.term[c.id], f);
    c.most = c.most < f ? c.most : f;
    return f > query.cut;
}

// The row of a vector, 64 bytes more than its columns readable.
inline const uint8_t *whole_row(const Bounds &b, uint32_t id, uint8_t *room) {
    const uint8_t *row = b.rows + static_cast<size_t>(id) * b.stride;
    if ((b.n - id) * b.stride >= b.columns + 128) return row;
    std::memset(room, 0, b.columns + 128);
    std::memcpy(room, row, b.columns);
    return room;
}

// Offers the least of a vector's score and its bounds.
__attribute__((noinline)) void offer_exact(const Store &store, const Candidate &c, Query &query) {
    const Bounds &b = *store.bounds;
    const Asked &asked = *query.asked;
    alignas(64) uint8_t room[kMaxGroups + 128];
    float score = inner(asked.query, whole_row(b, c.id, room), (b.columns + 63) / 64 * 64, b.zero) * store.gain[c.id];
    if (store.term) score = score + asked.factor * store.term[c.id];
    const float most = (c.most + asked.slack) * asked.step;
    score = most < score ? most : score;
    if (!(score >= query.best->threshold)) return;
    query.best->push(score, c.id);
    set_cut(query);
}

// Whether all columns, in integers, leave a vector possible whose first ones, up to `middle` if there is one, gave c.sum.
inline bool possible(const Store &store, Candidate &c, const uint8_t *row, const Query &query) {
    const Bounds &b = *store.bounds;
    const Asked &asked = *query.asked;
    const size_t done = b.middle ? b.middle : b.lead;
    const int32_t sum = c.sum + asked.all - (b.middle ? asked.middle : asked.first) + inner_rounded(asked.weights + done, row + done, b.columns - done);
    float f = static_cast<float>(sum) * store.gain[c.id] + asked.error * (b.most[0] + b.rest[c.id] + b.most[3]);
    if (store.term) f = __builtin_fmaf(query.factor, store.term[c.id], f);
    c.most = c.most < f ? c.most : f;
    return f > query.cut;
}

}  // namespace

void sums_of(const float *query, const uint8_t *rows, size_t n, size_t columns, float zero, const int64_t *ids, size_t m, float *out) {
    Bounds all{};
    all.rows = rows, all.stride = columns, all.n = n, all.columns = columns;
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

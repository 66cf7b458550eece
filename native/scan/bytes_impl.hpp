// AVX-512: scan of 8-bit ids by dot products of bytes.
#pragma once
#include <bit>
#include <vector>
#include <cstring>
#if LEVEL
#include <immintrin.h>
#endif

#include "scan/tables_impl.hpp"

namespace compand::scan::ISA {
namespace {

struct Four {
    __m512i a, b, c, d;
};

inline __attribute__((always_inline)) void add_dots(__m512i &sum, __m512i ids, __m512i weights) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(ids), "v"(weights));  // the compiler would copy sums at each step
}

// Sums of 64 vectors for each query, added to `start`. Every sum has a name, for the same reason.
template <size_t Q>
inline __attribute__((always_inline)) void sums8(const uint8_t *at, const Query *queries, size_t quads, const int32_t (&start)[4], __m512i (&sums)[Q][4]) {
    const auto from = [&](size_t q) __attribute__((always_inline)) {
        const __m512i all = _mm512_set1_epi32(start[q]);
        return Four{all, all, all, all};
    };
    Four one = from(0), two = from(1), three = from(2), four = from(3);
    const int8_t *weights[4];
    for (size_t q = 0; q < 4; ++q) weights[q] = queries[q < Q ? q : 0].weights;
    for (size_t quad = 0; quad < quads; ++quad, at += 256) {
        const __m512i a = _mm512_loadu_si512(at), b = _mm512_loadu_si512(at + 64), c = _mm512_loadu_si512(at + 128), d = _mm512_loadu_si512(at + 192);
        const auto step = [&](Four &sum, const int8_t *from) __attribute__((always_inline)) {
            int32_t bytes;
            std::memcpy(&bytes, from + quad * 4, 4);
            const __m512i w = _mm512_set1_epi32(bytes);
            add_dots(sum.a, a, w);
            add_dots(sum.b, b, w);
            add_dots(sum.c, c, w);
            add_dots(sum.d, d, w);
        };
        step(one, weights[0]);
        if constexpr (Q > 1) step(two, weights[1]);
        if constexpr (Q > 2) step(three, weights[2]);
        if constexpr (Q > 3) step(four, weights[3]);
    }
    const auto keep = [&](size_t q, const Four &sum) { sums[q][0] = sum.a, sums[q][1] = sum.b, sums[q][2] = sum.c, sums[q][3] = sum.d; };
    keep(0, one);
    if constexpr (Q > 1) keep(1, two);
    if constexpr (Q > 2) keep(2, three);
    if constexpr (Q > 3) keep(3, four);
}

template <size_t Q> void scan8(const Store &store, size_t first, size_t last, const Query *queries, size_t groups) {
    const size_t size = block_bytes(store.groups, 8), quads = (groups + 3) / 4;
    for (size_t block = first; block < last; ++block) {
        if (!store.allow[block]) continue;
        __m512i sums[Q][4];
        sums8<Q>(store.codes + block * size, queries, quads, {0, 0, 0, 0}, sums);
        offer_all<Q>(store, block, queries, sums);
    }
}

// Sums of 64 vectors for Q queries from `from` on; those that are possible go to `out`, which has room for one more.
template <size_t Q> inline size_t sift(const Store &store, size_t block, const Query *queries, size_t from, size_t quads, Candidate *out) {
    const Bounds &b = *store.bounds;
    const float *gains = store.gain + block * kBlock, *rests = b.rest + block * kBlock, *terms = store.term ? store.term + block * kBlock : nullptr;
    __m512i sums[Q][4];
    int32_t start[4] = {};
    for (size_t q = 0; q < Q; ++q) start[q] = queries[from + q].asked->first;
    sums8<Q>(store.codes + block * block_bytes(store.groups, 8), queries + from, quads, start, sums);
    size_t count = 0;
#pragma GCC unroll 4
    for (size_t q = 0; q < Q; ++q) {
        const Query &query = queries[from + q];
        const __m512 slope = _mm512_set1_ps(query.asked->rest.slope), least = _mm512_set1_ps(query.asked->rest.least), cut = _mm512_set1_ps(query.cut);
        __mmask16 found[4];
        __m512 f[4];
        for (size_t s = 0; s < 4; ++s) {  // may_score
            const __m512 first = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[q][s]), _mm512_loadu_ps(gains + 16 * s));
            const __m512 more = _mm512_max_ps(_mm512_fmadd_ps(first, slope, least), least);
            f[s] = _mm512_fmadd_ps(_mm512_loadu_ps(rests + 16 * s), more, first);
            if (terms) f[s] = _mm512_fmadd_ps(_mm512_set1_ps(query.factor), _mm512_loadu_ps(terms + 16 * s), f[s]);
            found[s] = _mm512_cmp_ps_mask(f[s], cut, _CMP_GT_OQ);
        }
        uint64_t bits = _mm512_kunpackd(_mm512_kunpackw(found[3], found[2]), _mm512_kunpackw(found[1], found[0])) & store.allow[block];
        if (!bits) continue;
        alignas(64) int32_t sum[kBlock];
        alignas(64) float most[kBlock];
        for (size_t s = 0; s < 4; ++s) _mm512_store_si512(sum + 16 * s, sums[q][s]), _mm512_store_ps(most + 16 * s, f[s]);
        for (; bits; bits &= bits - 1) {
            const auto v = static_cast<size_t>(std::countr_zero(bits));
            out[count++] = {static_cast<uint32_t>(block * kBlock + v), static_cast<uint32_t>(from + q), sum[v], most[v]};
        }
    }
    return count;
}

// Adds the columns up to `middle` to the sums of candidates and keeps those that are still possible. No branch depends on that: the
// answer comes late, and waiting for it is dearer than a step too many.
inline size_t sift_again(const Store &store, const Query *queries, Candidate *candidates, size_t many) {
    const Bounds &b = *store.bounds;
    size_t count = 0;
    for (size_t j = 0; j < many; ++j) {
        Candidate c = candidates[j];
        const Query &query = queries[c.query];
        const Asked &asked = *query.asked;
        const uint8_t *ids = b.nearer + size_t{c.id} * kMiddle;
        __m512i dots = _mm512_setzero_si512();
        for (size_t at = 0; at < kMiddle; at += 64) dots = _mm512_dpbusd_epi32(dots, _mm512_loadu_si512(ids + at), _mm512_loadu_si512(query.weights + b.lead + at));
        c.sum += _mm512_reduce_add_epi32(dots) + asked.middle - asked.first;
        const bool found = possible_again(store, c, query);
        candidates[count] = c;
        count += found;
    }
    return count;
}

// With bounds, any number of queries: all pass over a block while it is in the nearest cache. What a block leaves possible is
// looked at after the next block, when its rows have come from memory.
inline void scan8_bounded(const Store &store, size_t first, size_t last, Query *queries, size_t count, size_t groups) {
    const Bounds &b = *store.bounds;
    const size_t quads = (groups + 3) / 4, done = b.middle ? b.middle : b.lead;
    thread_local std::vector<Candidate> candidates[2];
    for (auto &c : candidates) c.resize(std::max(c.size(), count * kBlock));
    size_t many[2] = {};
    alignas(64) uint8_t room[kMaxGroups + 128];
    for (size_t i = first; i <= last; ++i) {
        const size_t turn = i & 1, block = store.start + i * store.step % store.length;
        size_t &own = many[turn] = 0;
        if (i < last && store.allow[block]) {
            Candidate *out = candidates[turn].data();
            // the next block comes from memory meanwhile
            const size_t next = store.start + (i + 1) * store.step % store.length, bytes = block_bytes(store.groups, 8), near_bytes = b.middle ? kBlock * kMiddle : 0;
            const uint8_t *codes = store.codes + next * bytes, *near = b.nearer + next * near_bytes;
            const size_t share = (bytes + near_bytes) / 64 * 4 / count + 1;  // lines for each 4 queries
            size_t q = 0, line = 0;
            for (; q + 4 <= count; q += 4) {
                for (size_t end = line + share; line < end; ++line) {
                    const size_t at = line * 64;
                    _mm_prefetch(reinterpret_cast<const char *>(at < bytes ? codes + at : near + std::min(at - bytes, near_bytes)), _MM_HINT_T1);
                }
                own += sift<4>(store, block, queries, q, quads, out + own);
            }
            if (count - q == 1) own += sift<1>(store, block, queries, q, quads, out + own);
            if (count - q == 2) own += sift<2>(store, block, queries, q, quads, out + own);
            if (count - q == 3) own += sift<3>(store, block, queries, q, quads, out + own);
            if (b.middle) own = sift_again(store, queries, out, own);
            for (size_t j = 0; j < own; ++j) {
                const uint8_t *row = b.rows + out[j].id * b.stride;
                for (size_t column = done & ~size_t{63}; column < b.columns; column += 64) _mm_prefetch(reinterpret_cast<const char *>(row + column), _MM_HINT_T0);
            }
        }
        for (size_t j = 0; j < many[turn ^ 1]; ++j) {
            Candidate &c = candidates[turn ^ 1][j];
            Query &query = queries[c.query];
            if (possible(store, c, whole_row(b, c.id, room), query)) offer_exact(store, c, query);
        }
    }
}

}  // namespace

}  // namespace compand::scan::ISA

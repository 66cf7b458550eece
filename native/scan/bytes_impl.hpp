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

// Sums of 64 vectors for each query. Every sum has a name: arrays of them the compiler copies at each step.
template <size_t Q>
inline __attribute__((always_inline)) void sums8(const uint8_t *at, const Query *queries, size_t quads, __m512i (&sums)[Q][4]) {
    const __m512i zero = _mm512_setzero_si512();
    Four one{zero, zero, zero, zero}, two = one, three = one, four = one;
    const int8_t *weights[4];
    for (size_t q = 0; q < 4; ++q) weights[q] = queries[q < Q ? q : 0].weights;
    for (size_t quad = 0; quad < quads; ++quad, at += 256) {
        const __m512i a = _mm512_loadu_si512(at), b = _mm512_loadu_si512(at + 64), c = _mm512_loadu_si512(at + 128), d = _mm512_loadu_si512(at + 192);
        const auto step = [&](Four &sum, const int8_t *from) __attribute__((always_inline)) {
            int32_t bytes;
            std::memcpy(&bytes, from + quad * 4, 4);
            const __m512i w = _mm512_set1_epi32(bytes);
            sum.a = _mm512_dpbusd_epi32(sum.a, a, w);
            sum.b = _mm512_dpbusd_epi32(sum.b, b, w);
            sum.c = _mm512_dpbusd_epi32(sum.c, c, w);
            sum.d = _mm512_dpbusd_epi32(sum.d, d, w);
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
        sums8<Q>(store.codes + block * size, queries, quads, sums);
        offer_sums<Q>(store, block, queries, sums);
    }
}

// A vector that the first columns and the bound leave possible for a query.
struct Candidate {
    uint32_t id, query;
    int32_t sum;
};

// Sums of 64 vectors for Q queries from `from` on; those that are possible go to `out`, their rows are asked for from memory.
template <size_t Q>
inline size_t sift(const Store &store, size_t block, const Query *queries, size_t from, size_t quads, Candidate *out) {
    const Bounds &b = *store.bounds;
    __m512i sums[Q][4];
    sums8<Q>(store.codes + block * block_bytes(store.groups, 8), queries + from, quads, sums);
    __m512 bias[Q], far[Q], factor[Q], lowest[Q];
    __mmask16 found[Q][4];
    for (size_t q = 0; q < Q; ++q) {
        const Query &query = queries[from + q];
        bias[q] = _mm512_set1_ps(query.bias), far[q] = _mm512_set1_ps(query.asked->rest), factor[q] = _mm512_set1_ps(query.factor);
        lowest[q] = _mm512_set1_ps(least(query) - margin(store, block, *query.asked));
    }
    for (size_t s = 0; s < 4; ++s) {
        const __m512 gain = _mm512_loadu_ps(store.gain + block * kBlock + 16 * s), rest = _mm512_loadu_ps(b.rest + block * kBlock + 16 * s);
        for (size_t q = 0; q < Q; ++q) {
            __m512 f = _mm512_fmadd_ps(far[q], rest, _mm512_mul_ps(_mm512_add_ps(_mm512_cvtepi32_ps(sums[q][s]), bias[q]), gain));
            if (store.term) f = _mm512_fmadd_ps(factor[q], _mm512_loadu_ps(store.term + block * kBlock + 16 * s), f);
            found[q][s] = _mm512_cmp_ps_mask(f, lowest[q], _CMP_GT_OQ);
        }
    }
    size_t count = 0;
    for (size_t q = 0; q < Q; ++q) {
        uint64_t bits = _mm512_kunpackd(_mm512_kunpackw(found[q][3], found[q][2]), _mm512_kunpackw(found[q][1], found[q][0])) & store.allow[block];
        if (!bits) continue;
        alignas(64) int32_t sum[kBlock];
        for (size_t s = 0; s < 4; ++s) _mm512_store_si512(sum + 16 * s, sums[q][s]);
        for (; bits; bits &= bits - 1) {
            const auto v = static_cast<size_t>(std::countr_zero(bits));
            const size_t id = block * kBlock + v;
            const uint8_t *row = b.rows + id * b.stride;
            for (size_t j = b.lead & ~size_t{63}; j < b.columns; j += 64) _mm_prefetch(reinterpret_cast<const char *>(row + j), _MM_HINT_T0);
            out[count++] = {static_cast<uint32_t>(id), static_cast<uint32_t>(from + q), sum[v]};
        }
    }
    return count;
}

// With bounds, any number of queries: all pass over a block while it is in the nearest cache. What a block leaves possible is
// looked at after the next block, when its rows have come from memory.
inline void scan8_bounded(const Store &store, size_t first, size_t last, const Query *queries, size_t count, size_t groups) {
    const Bounds &b = *store.bounds;
    const size_t quads = (groups + 3) / 4;
    std::vector<Candidate> candidates[2];
    for (auto &c : candidates) c.resize(count * kBlock);
    size_t many[2] = {};
    alignas(64) uint8_t room[kMaxGroups + 128];
    for (size_t block = first; block <= last; ++block) {
        const size_t turn = block & 1;
        size_t &own = many[turn];
        own = 0;
        if (block < last && store.allow[block]) {
            size_t q = 0;
            for (; q + 4 <= count; q += 4) own += sift<4>(store, block, queries, q, quads, candidates[turn].data() + own);
            if (count - q == 1) own += sift<1>(store, block, queries, q, quads, candidates[turn].data() + own);
            if (count - q == 2) own += sift<2>(store, block, queries, q, quads, candidates[turn].data() + own);
            if (count - q == 3) own += sift<3>(store, block, queries, q, quads, candidates[turn].data() + own);
        }
        for (size_t i = 0; i < many[turn ^ 1]; ++i) {
            const Candidate &c = candidates[turn ^ 1][i];
            const Query &query = queries[c.query];
            if (possible(store, c.id, c.sum, whole_row(b, c.id, room), query, least(query) - margin(store, block - 1, *query.asked)))
                offer_exact(store, c.id, query);
        }
    }
}

}  // namespace

}  // namespace compand::scan::ISA

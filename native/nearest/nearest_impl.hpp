// Body of nearest.hpp. A tile of `kTile` queries x 4 blocks of codewords is held in registers; a query's four scores of a lane
// are reduced to their maximum first, so that keeping best, second and group costs two operations a block.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#if LEVEL
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // false in GCC's own intrinsics (GCC bug 105593)
#endif
#include <immintrin.h>
#endif

#include "nearest/nearest.hpp"

namespace compand::nearest::ISA {
namespace {

#define INLINE inline __attribute__((always_inline))

#if LEVEL == 2
constexpr size_t kWidth = 16, kTile = 4;
using F = __m512;
using I = __m512i;
INLINE F load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void store(float *p, F v) { _mm512_storeu_ps(p, v); }
INLINE F splat(float v) { return _mm512_set1_ps(v); }
INLINE F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
INLINE F max(F a, F b) { return _mm512_max_ps(a, b); }
INLINE F min(F a, F b) { return _mm512_min_ps(a, b); }
INLINE I load(const int32_t *p) { return _mm512_loadu_si512(p); }
INLINE void store(int32_t *p, I v) { _mm512_storeu_si512(p, v); }
INLINE I splat(int32_t v) { return _mm512_set1_epi32(v); }
INLINE I pick(F a, F above, I yes, I no) { return _mm512_mask_mov_epi32(no, _mm512_cmp_ps_mask(a, above, _CMP_GT_OQ), yes); }
#elif LEVEL == 1
constexpr size_t kWidth = 8, kTile = 2;
using F = __m256;
using I = __m256i;
INLINE F load(const float *p) { return _mm256_loadu_ps(p); }
INLINE void store(float *p, F v) { _mm256_storeu_ps(p, v); }
INLINE F splat(float v) { return _mm256_set1_ps(v); }
INLINE F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
INLINE F max(F a, F b) { return _mm256_max_ps(a, b); }
INLINE F min(F a, F b) { return _mm256_min_ps(a, b); }
INLINE I load(const int32_t *p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)); }
INLINE void store(int32_t *p, I v) { _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), v); }
INLINE I splat(int32_t v) { return _mm256_set1_epi32(v); }
INLINE I pick(F a, F above, I yes, I no) {
    return _mm256_blendv_epi8(no, yes, _mm256_castps_si256(_mm256_cmp_ps(a, above, _CMP_GT_OQ)));
}
#else
constexpr size_t kWidth = 4, kTile = 2;
typedef float F __attribute__((vector_size(16)));
typedef int32_t I __attribute__((vector_size(16)));
INLINE F load(const float *p) {
    F v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
INLINE void store(float *p, F v) { std::memcpy(p, &v, sizeof v); }
INLINE F splat(float v) { return F{v, v, v, v}; }
INLINE F fma(F a, F b, F c) { return a * b + c; }
INLINE F max(F a, F b) { return a > b ? a : b; }
INLINE F min(F a, F b) { return a < b ? a : b; }
INLINE I load(const int32_t *p) {
    I v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
INLINE void store(int32_t *p, I v) { std::memcpy(p, &v, sizeof v); }
INLINE I splat(int32_t v) { return I{v, v, v, v}; }
INLINE I pick(F a, F above, I yes, I no) { return a > above ? yes : no; }
#endif

// D: dimensions known at compile time, 0: not known. Q queries, groups [first, last), `part`: which kWidth of the 16 lanes.
template <size_t D, size_t Q>
INLINE void scan_tile(const Packed &packed, size_t first, size_t last, size_t part, const float *x, State *states) {
    const size_t d = D ? D : packed.d, lane = part * kWidth;
    F best[Q], second[Q];
    I group[Q];
    for (size_t q = 0; q < Q; ++q) {
        best[q] = load(states[q].best + lane);
        second[q] = load(states[q].second + lane);
        group[q] = load(states[q].group + lane);
    }
    for (size_t g = first; g < last; ++g) {
        const float *c = packed.codewords + g * kGroup * d + lane, *h = packed.minus_half + g * kGroup + lane;
        F score[Q][kBlocks];
        for (size_t b = 0; b < kBlocks; ++b)
            for (size_t q = 0; q < Q; ++q) score[q][b] = load(h + b * kLanes);
        for (size_t j = 0; j < d; ++j) {
            F codeword[kBlocks];
            for (size_t b = 0; b < kBlocks; ++b) codeword[b] = load(c + (b * d + j) * kLanes);
            for (size_t q = 0; q < Q; ++q) {
                const F value = splat(x[q * d + j]);
                for (size_t b = 0; b < kBlocks; ++b) score[q][b] = fma(value, codeword[b], score[q][b]);
            }
        }
        const I here = splat(static_cast<int32_t>(g));
        for (size_t q = 0; q < Q; ++q) {
            const F top = max(max(score[q][0], score[q][1]), max(score[q][2], score[q][3]));
            group[q] = pick(top, best[q], here, group[q]);
            second[q] = max(second[q], min(top, best[q]));
            best[q] = max(best[q], top);
        }
    }
    for (size_t q = 0; q < Q; ++q) {
        store(states[q].best + lane, best[q]);
        store(states[q].second + lane, second[q]);
        store(states[q].group + lane, group[q]);
    }
}

template <size_t D> void scan_all(const Packed &packed, size_t first, size_t last, const float *x, size_t n, State *states) {
    const size_t d = D ? D : packed.d;
    const size_t step = std::max<size_t>(1, 16384 / (kGroup * sizeof(float) * d));  // groups that stay in the first cache
    for (size_t g = first; g < last; g += step) {
        const size_t end = std::min(last, g + step);
        for (size_t part = 0; part < kLanes / kWidth; ++part) {
            size_t q = 0;
            for (; q + kTile <= n; q += kTile) scan_tile<D, kTile>(packed, g, end, part, x + q * d, states + q);
            for (; q < n; ++q) scan_tile<D, 1>(packed, g, end, part, x + q * d, states + q);
        }
    }
}

}  // namespace

void scan(const Packed &packed, size_t first, size_t last, const float *x, size_t n, State *states) {
    switch (packed.d) {
#define COMPAND_NEAREST_CASE(D) \
    case D: return scan_all<D>(packed, first, last, x, n, states)
        COMPAND_NEAREST_CASE(2);
        COMPAND_NEAREST_CASE(3);
        COMPAND_NEAREST_CASE(4);
        COMPAND_NEAREST_CASE(5);
        COMPAND_NEAREST_CASE(6);
        COMPAND_NEAREST_CASE(8);
        COMPAND_NEAREST_CASE(12);
        COMPAND_NEAREST_CASE(16);
#undef COMPAND_NEAREST_CASE
        default: return scan_all<0>(packed, first, last, x, n, states);
    }
}

void judge(const State *states, const double *slacks, size_t n, float *least, uint32_t *near, uint32_t *crowded) {
    for (size_t i = 0; i < n; ++i) {
        const State &state = states[i];
#if LEVEL == 2
        const __m512 best = _mm512_load_ps(state.best);
        const float top = _mm512_reduce_max_ps(best);
#else
        float top = state.best[0];
        for (size_t l = 1; l < kLanes; ++l) top = state.best[l] > top ? state.best[l] : top;
#endif
        const double exact = static_cast<double>(top) - 2 * slacks[i];
        least[i] = static_cast<float>(exact - std::fabs(exact) * 0x1p-22 - 0x1p-148);
#if LEVEL == 2
        const __m512 limit = _mm512_set1_ps(least[i]);
        near[i] = _mm512_cmp_ps_mask(best, limit, _CMP_GE_OQ);
        crowded[i] = _mm512_cmp_ps_mask(_mm512_load_ps(state.second), limit, _CMP_GE_OQ);
#else
        near[i] = crowded[i] = 0;
        for (size_t l = 0; l < kLanes; ++l) {
            near[i] |= static_cast<uint32_t>(state.best[l] >= least[i]) << l;
            crowded[i] |= static_cast<uint32_t>(state.second[l] >= least[i]) << l;
        }
#endif
    }
}

size_t collect(const Packed &packed, const float *x, float least, uint32_t *ids) {
    const size_t d = packed.d;
    size_t count = 0;
    for (size_t block = 0; block < packed.groups * kBlocks; ++block) {
        const float *c = packed.codewords + block * kLanes * d;
        float score[kLanes];
        std::memcpy(score, packed.minus_half + block * kLanes, sizeof score);
        for (size_t part = 0; part < kLanes; part += kWidth) {
            F sum = load(score + part);
            for (size_t j = 0; j < d; ++j) sum = fma(splat(x[j]), load(c + j * kLanes + part), sum);
            store(score + part, sum);
        }
        unsigned hits = 0;
        for (size_t lane = 0; lane < kLanes; ++lane) hits |= static_cast<unsigned>(score[lane] >= least) << lane;
        for (; hits; hits &= hits - 1) ids[count++] = static_cast<uint32_t>(block * kLanes + __builtin_ctz(hits));
    }
    return count;
}

void place(const float *thresholds, unsigned depth, const float *x, size_t stride, size_t n, uint32_t *place) {
    constexpr size_t piece = 64;
    const float infinity = std::numeric_limits<float>::infinity();
    for (size_t at = 0; at < n; at += piece) {
        const size_t m = std::min(piece, n - at);
        float value[piece] = {};
        uint32_t *out = place + at;
        if (stride == 1) std::memcpy(value, x + at, m * sizeof(float));
        else
            for (size_t i = 0; i < m; ++i) value[i] = x[(at + i) * stride];
        uint32_t found[piece] = {};
#if LEVEL == 2
        // The first four halvings look into one register, the others gather.
        const unsigned top = depth < 4 ? depth : 4, rest = depth - top;
        alignas(64) float heads[16];
        for (uint32_t t = 0; t < 16; ++t) heads[t] = t + 1 < 1u << top ? thresholds[((t + 1) << rest) - 1] : infinity;
        const __m512 table = _mm512_load_ps(heads);
        const __m512i one = _mm512_set1_epi32(1);
        for (size_t i = 0; i < m; i += 16) {
            const __m512 v = _mm512_loadu_ps(value + i);
            __m512i at16 = _mm512_setzero_si512();
            for (int step = 8; step; step >>= 1) {
                const __m512i next = _mm512_add_epi32(at16, _mm512_set1_epi32(step));
                const __m512 probe = _mm512_permutexvar_ps(_mm512_sub_epi32(next, one), table);
                at16 = _mm512_mask_mov_epi32(at16, _mm512_cmp_ps_mask(v, probe, _CMP_GE_OQ), next);
            }
            at16 = _mm512_sllv_epi32(at16, _mm512_set1_epi32(static_cast<int>(rest)));
            for (int step = rest ? 1 << (rest - 1) : 0; step; step >>= 1) {
                const __m512i next = _mm512_add_epi32(at16, _mm512_set1_epi32(step));
                const __m512 probe = _mm512_i32gather_ps(_mm512_sub_epi32(next, one), thresholds, 4);
                at16 = _mm512_mask_mov_epi32(at16, _mm512_cmp_ps_mask(v, probe, _CMP_GE_OQ), next);
            }
            const __mmask16 finite = _mm512_cmp_ps_mask(_mm512_abs_ps(v), _mm512_set1_ps(infinity), _CMP_LT_OQ);
            _mm512_storeu_si512(found + i, _mm512_mask_mov_epi32(_mm512_set1_epi32(1 << depth), finite, at16));
        }
        std::memcpy(out, found, m * sizeof(uint32_t));
        continue;
#endif
        if (depth <= 4) {
            for (uint32_t t = 0; t + 1 < 1u << depth; ++t) {
                const float threshold = thresholds[t];
                for (size_t i = 0; i < piece; ++i) found[i] += value[i] >= threshold;
            }
        } else {
            for (uint32_t step = 1u << (depth - 1); step; step >>= 1)
                for (size_t i = 0; i < piece; ++i) found[i] += step & -static_cast<uint32_t>(value[i] >= thresholds[found[i] + step - 1]);
        }
        for (size_t i = 0; i < piece; ++i) found[i] = std::fabs(value[i]) < infinity ? found[i] : 1u << depth;
        std::memcpy(out, found, m * sizeof(uint32_t));
    }
}

#undef INLINE

}  // namespace compand::nearest::ISA

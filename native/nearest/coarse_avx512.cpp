#if COMPAND_X86
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // false in GCC's own intrinsics (GCC bug 105593)
#endif
#include <immintrin.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "nearest/aligned.hpp"
#include "nearest/coarse.hpp"

namespace compand::nearest::avx512 {
namespace {

#define INLINE inline __attribute__((always_inline))

constexpr size_t kMost = 64, kSegment = 32;  // rows and groups worked on at once: their best scores stay in the second cache
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Query {
    float scale, norm, rest;
    int32_t start;  // -128 sum q, as codewords are stored with 128 added
};

INLINE __mmask16 mask_of(size_t left) { return left >= 16 ? 0xffff : static_cast<__mmask16>((1u << left) - 1); }

// int8 copies (n, 4 quads) of centred rows; zeros for rows that are not finite. Sums of
// squares are float32: (d + 4) u is their relative error, d 2^-126 what underflow takes.
void quantise(const float *x, const double *slacks, size_t n, size_t d, size_t quads, int8_t *out, Query *queries) {
    const float wide = 1 + static_cast<float>(d + 16) * 0x1p-22f, tiny = static_cast<float>(d) * 0x1p-120f;
    std::memset(out, 0, n * quads * 4);
    for (size_t i = 0; i < n; ++i) {
        const float *row = x + i * d;
        __m512 most = _mm512_setzero_ps(), squares = most, missed = most;
        for (size_t j = 0; j < d; j += 16) {
            const __m512 v = _mm512_maskz_loadu_ps(mask_of(d - j), row + j);
            most = _mm512_max_ps(most, _mm512_abs_ps(v));
            squares = _mm512_fmadd_ps(v, v, squares);
        }
        const float top = _mm512_reduce_max_ps(most);
        const bool usable = std::isfinite(slacks[i]) && top > 1e-30f && top < 1e30f;
        const float scale = usable ? top / 127 : 0, inverse = usable ? 127 / top : 0;
        __m512i sum = _mm512_setzero_si512();
        for (size_t j = 0; j < d; j += 16) {
            const __mmask16 mask = mask_of(d - j);
            const __m512 v = _mm512_maskz_loadu_ps(mask, row + j);
            const __m512i q = usable ? _mm512_cvtps_epi32(_mm512_mul_ps(v, _mm512_set1_ps(inverse))) : _mm512_setzero_si512();
            const __m512 off = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(q), _mm512_set1_ps(scale), v);
            missed = _mm512_fmadd_ps(off, off, missed);
            sum = _mm512_add_epi32(sum, q);
            _mm512_mask_cvtepi32_storeu_epi8(out + i * quads * 4 + j, mask, q);
        }
        queries[i] = {scale, std::sqrt(_mm512_reduce_add_ps(squares) * wide + tiny) * wide,
                      std::sqrt(_mm512_reduce_add_ps(missed) * wide + tiny) * wide, -128 * _mm512_reduce_add_epi32(sum)};
        queries[i].norm += queries[i].rest;  // bounds |X^|; |X| is below too
    }
}

// tops (n, kSegment, 16): for each group and lane the best of four scores
template <size_t Quads, size_t Q>
INLINE void scan_tile(const Coarse &coarse, size_t first, size_t last, const int8_t *codes, const Query *queries, float *tops) {
    const size_t quads = Quads ? Quads : coarse.quads;
    for (size_t g = first; g < last; ++g, tops += 16) {
        const uint8_t *c = coarse.codewords + g * quads * 256;
        __m512i sum[Q][4];
        for (size_t q = 0; q < Q; ++q)
            for (size_t b = 0; b < 4; ++b) sum[q][b] = _mm512_set1_epi32(queries[q].start);
        for (size_t j = 0; j < quads; ++j) {
            __m512i codeword[4];
            for (size_t b = 0; b < 4; ++b) codeword[b] = _mm512_loadu_si512(c + (j * 4 + b) * 64);
            for (size_t q = 0; q < Q; ++q) {
                int32_t four;
                std::memcpy(&four, codes + (q * quads + j) * 4, 4);
                const __m512i value = _mm512_set1_epi32(four);
                for (size_t b = 0; b < 4; ++b) sum[q][b] = _mm512_dpbusd_epi32(sum[q][b], codeword[b], value);
            }
        }
        __m512 top[Q];
        for (size_t b = 0; b < 4; ++b) {
            const __m512 scale = _mm512_loadu_ps(coarse.scale + g * 64 + b * 16);
            const __m512 half = _mm512_loadu_ps(coarse.minus_half + g * 64 + b * 16);
            for (size_t q = 0; q < Q; ++q) {
                const __m512 dot = _mm512_mul_ps(_mm512_cvtepi32_ps(sum[q][b]), scale);
                const __m512 score = _mm512_fmadd_ps(dot, _mm512_set1_ps(queries[q].scale), half);
                top[q] = b ? _mm512_max_ps(top[q], score) : score;
            }
        }
        for (size_t q = 0; q < Q; ++q) _mm512_storeu_ps(tops + q * kSegment * 16, top[q]);
    }
}

template <size_t Quads>
void scan_rows(const Coarse &coarse, size_t first, size_t last, const int8_t *codes, const Query *queries, size_t n, float *tops) {
    const size_t row = 4 * coarse.quads, step = std::bit_ceil(std::max<size_t>(1, 8192 / (64 * row)));  // stays in the first cache
    for (size_t g = first; g < last; g += step) {
        const size_t end = std::min(last, g + step);
        float *to = tops + (g - first) * 16;
        size_t q = 0;
        for (; q + 4 <= n; q += 4) scan_tile<Quads, 4>(coarse, g, end, codes + q * row, queries + q, to + q * kSegment * 16);
        for (; q < n; ++q) scan_tile<Quads, 1>(coarse, g, end, codes + q * row, queries + q, to + q * kSegment * 16);
    }
}

float least_of(float best, double slack) {
    const double exact = static_cast<double>(best) - 2 * slack;
    return static_cast<float>(exact - std::fabs(exact) * 0x1p-22 - 0x1p-148);
}

void drop(Shortlist &list) {
    uint32_t kept = 0;
    for (uint32_t t = 0; t < list.count; ++t)
        if (list.scores[t] >= list.least) {
            list.ids[kept] = list.ids[t];
            list.scores[kept++] = list.scores[t];
        }
    list.count = kept;
}

// float32 scores of codewords id to id + 3
INLINE void rescore(const Coarse &coarse, size_t id, const float *x, double slack, Shortlist &list) {
    const size_t d = coarse.d;
    const float *row = coarse.rows + id * d;
    __m512 sum[4];
    for (size_t b = 0; b < 4; ++b) sum[b] = _mm512_setzero_ps();
    for (size_t j = 0; j < d; j += 16) {
        const __mmask16 mask = mask_of(d - j);
        const __m512 value = _mm512_maskz_loadu_ps(mask, x + j), mean = _mm512_maskz_loadu_ps(mask, coarse.mean + j);
        for (size_t b = 0; b < 4; ++b)
            sum[b] = _mm512_fmadd_ps(value, _mm512_sub_ps(_mm512_maskz_loadu_ps(mask, row + b * d + j), mean), sum[b]);
    }
    const __m512 a = _mm512_add_ps(_mm512_unpacklo_ps(sum[0], sum[1]), _mm512_unpackhi_ps(sum[0], sum[1]));
    const __m512 b = _mm512_add_ps(_mm512_unpacklo_ps(sum[2], sum[3]), _mm512_unpackhi_ps(sum[2], sum[3]));
    const __m512 quarters = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b))),
                                          _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b))));
    const __m256 halves = _mm256_add_ps(_mm512_castps512_ps256(quarters), _mm512_extractf32x8_ps(quarters, 1));
    const __m128 dots = _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1));
    alignas(16) float score[4];
    const __m128 scores = _mm_add_ps(dots, _mm_loadu_ps(coarse.halves + id));
    _mm_store_ps(score, scores);
    unsigned hits = _mm_cmp_ps_mask(scores, _mm_set1_ps(list.least), _CMP_GE_OQ) &
                    _mm_cmp_ps_mask(scores, _mm_set1_ps(-kInfinity), _CMP_GT_OQ);
    for (; hits; hits &= hits - 1) {
        const unsigned t = static_cast<unsigned>(__builtin_ctz(hits));
        if (score[t] > list.best) {
            list.best = score[t];
            list.least = least_of(score[t], slack);
        }
        if (list.count == kShort) drop(list);
        if (list.count >= kShort) {
            list.count = kShort + 1;
            continue;
        }
        list.ids[list.count] = static_cast<uint32_t>(id + t);
        list.scores[list.count++] = score[t];
    }
}

// Looks at what one row's scores of a segment leave possible; returns the number of lanes it had to score again.
size_t refine(const Coarse &coarse, size_t first, size_t count, const float *x, const Query &query, double slack,
              const float *tops, Shortlist &list) {
    __m512 best = _mm512_loadu_ps(tops);
    __m512i where = _mm512_setzero_si512();
    for (size_t g = 1; g < count; ++g) {
        const __m512 top = _mm512_loadu_ps(tops + g * 16);
        where = _mm512_mask_mov_epi32(where, _mm512_cmp_ps_mask(top, best, _CMP_GT_OQ), _mm512_set1_epi32(static_cast<int>(g)));
        best = _mm512_max_ps(best, top);
    }
    const float highest = _mm512_reduce_max_ps(best);
    if (!(highest > -kInfinity)) return 0;
    const unsigned lane = static_cast<unsigned>(
        __builtin_ctz(_mm512_cmp_ps_mask(best, _mm512_set1_ps(highest), _CMP_EQ_OQ)));
    alignas(64) int32_t groups[16];
    _mm512_store_si512(groups, where);
    const size_t group = static_cast<size_t>(groups[lane]);
    rescore(coarse, (first + group) * 64 + lane * 4, x, slack, list);
    // bounds are sums of rounded-up numbers; rounding top + bound is monotone, so it cannot fall below a float32 threshold
    const __m512 norm = _mm512_set1_ps(query.norm * (1 + 0x1p-20f)), rest = _mm512_set1_ps(query.rest * (1 + 0x1p-20f));
    const __m512 least = _mm512_set1_ps(list.least);
    uint16_t masks[kSegment];
    uint32_t any = 0;
    for (size_t g = 0; g < count; ++g) {
        const float *norms = coarse.norm + (first + g) * 16, *rests = coarse.rest + (first + g) * 16;
        const __m512 bound = _mm512_fmadd_ps(rest, _mm512_loadu_ps(norms), _mm512_mul_ps(norm, _mm512_loadu_ps(rests)));
        const unsigned mask = _mm512_cmp_ps_mask(_mm512_add_ps(_mm512_loadu_ps(tops + g * 16), bound), least, _CMP_GE_OQ);
        masks[g] = static_cast<uint16_t>(mask);
        any |= static_cast<uint32_t>(mask != 0) << g;
    }
    masks[group] = static_cast<uint16_t>(masks[group] & ~(1u << lane));
    size_t lanes = 1;
    for (; any; any &= any - 1) {
        const size_t g = static_cast<size_t>(__builtin_ctz(any));
        for (unsigned mask = masks[g]; mask; mask &= mask - 1, ++lanes)
            rescore(coarse, (first + g) * 64 + static_cast<size_t>(__builtin_ctz(mask)) * 4, x, slack, list);
    }
    return lanes;
}

}  // namespace

bool sieve(const Coarse &coarse, size_t first, size_t last, const float *x, const double *slacks, size_t n, Shortlist *lists) {
    const Aligned<int8_t> codes(kMost * coarse.quads * 4);
    const Aligned<float> tops(kMost * kSegment * 16);
    Query queries[kMost];
    quantise(x, slacks, n, coarse.d, coarse.quads, codes.data(), queries);
    for (size_t i = 0; i < n; ++i) {
        lists[i].best = lists[i].least = -kInfinity;
        lists[i].count = 0;
    }
    size_t spent = 0;
    for (size_t g = first; g < last; g += kSegment) {
        const size_t end = std::min(last, g + kSegment);
        switch (coarse.quads) {
#define COMPAND_COARSE_CASE(QUADS)                                                       \
    case QUADS:                                                                          \
        scan_rows<QUADS>(coarse, g, end, codes.data(), queries, n, tops.data()); \
        break
            COMPAND_COARSE_CASE(4);
            COMPAND_COARSE_CASE(8);
            COMPAND_COARSE_CASE(16);
#undef COMPAND_COARSE_CASE
            default: scan_rows<0>(coarse, g, end, codes.data(), queries, n, tops.data());
        }
        // A lane scored again costs about as much as 50 codewords of the float32 scan: an eighth of all lanes is too many.
        const size_t allowed = n * (8 + 2 * (end - first));
        for (size_t i = 0; i < n; ++i) {
            if (!std::isfinite(slacks[i])) continue;
            spent += refine(coarse, g, end - g, x + i * coarse.d, queries[i], slacks[i], tops.data() + i * kSegment * 16, lists[i]);
            if (spent > allowed) return false;
        }
    }
    for (size_t i = 0; i < n; ++i)
        if (lists[i].count <= kShort) drop(lists[i]);
    return true;
}

#undef INLINE

}  // namespace compand::nearest::avx512
#endif

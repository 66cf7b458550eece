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

#include "nearest/coarse.hpp"

namespace compand::nearest::avx512 {
namespace {

#define INLINE inline __attribute__((always_inline))

constexpr size_t kMost = 64;
constexpr size_t kFew = 4;  // quads up to which the values of a tile's rows stay in registers
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Rows' int8 copies X^ = scale q; all else is in units of scale.
struct Queries {
    alignas(64) float inverse[kMost];                 // 1 / scale
    alignas(64) float norm[kMost], rest[kMost];       // upper bounds of |X^| and |X - X^|
    alignas(64) float slack[kMost];                   // upper bound of 2 E
    alignas(64) float least[kMost];                   // what a float32 score must reach
    alignas(64) float error[kMost];                   // E, not in units
    alignas(64) int32_t start[kMost];                 // -128 sum q, as codewords are stored with 128 added
    uint64_t finite;                                  // rows whose slack is
};

INLINE __mmask16 mask_of(size_t left) { return left >= 16 ? 0xffff : static_cast<__mmask16>((1u << left) - 1); }

// The lanes of each of eight vectors taken together by an operation.
template <class Operation> INLINE __m256 across(const __m512 *v, Operation op) {
    __m256 half[8], quarter[4], eighth[2];
    for (size_t i = 0; i < 8; ++i) half[i] = op(_mm512_castps512_ps256(v[i]), _mm512_extractf32x8_ps(v[i], 1));
    for (size_t i = 0; i < 4; ++i)
        quarter[i] = op(_mm256_unpacklo_ps(half[2 * i], half[2 * i + 1]), _mm256_unpackhi_ps(half[2 * i], half[2 * i + 1]));
    for (size_t i = 0; i < 2; ++i) {
        const __m256d a = _mm256_castps_pd(quarter[2 * i]), b = _mm256_castps_pd(quarter[2 * i + 1]);
        eighth[i] = op(_mm256_castpd_ps(_mm256_unpacklo_pd(a, b)), _mm256_castpd_ps(_mm256_unpackhi_pd(a, b)));
    }
    return op(_mm256_permute2f128_ps(eighth[0], eighth[1], 0x20), _mm256_permute2f128_ps(eighth[0], eighth[1], 0x31));
}

INLINE __m256 most_of(__m256 a, __m256 b) { return _mm256_max_ps(a, b); }
INLINE __m256 sum_of(__m256 a, __m256 b) { return _mm256_add_ps(a, b); }
INLINE __m256 count_of(__m256 a, __m256 b) {
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b)));
}

// Values a row of copies takes: whole vectors, so that what is stored is read again without masks.
INLINE size_t width_of(size_t d) { return (d + 15) / 16 * 16; }

// Centres rows of x (n, d) and makes int8 copies of them, both (n, width_of(d)), `tile` of which share a scale; zeros for rows whose slack
// is not finite, and up to a multiple of eight rows. Sums of squares are float32: (d + 4) u is their relative error, d 2^-126 what
// underflow takes.
void quantise(const Coarse &coarse, const Words &words, const float *x, size_t stride, size_t n, size_t tile, float *centred, int8_t *out,
              Queries &queries) {
    const size_t d = coarse.d, width = width_of(d);
    const __mmask16 tail = mask_of(d - (width - 16));
    const __m256 wide = _mm256_set1_ps(1 + static_cast<float>(d + 16) * 0x1p-22f), tiny = _mm256_set1_ps(static_cast<float>(d) * 0x1p-120f);
    const __m256 longest = _mm256_set1_ps(static_cast<float>(words.longest) * (1 + 0x1p-20f));
    const auto length = [&](__m256 squares) { return _mm256_mul_ps(_mm256_sqrt_ps(_mm256_fmadd_ps(squares, wide, tiny)), wide); };
    queries.finite = 0;
    for (size_t at = 0; at < n; at += 8, x += 8 * stride, centred += 8 * width, out += 8 * width) {
        const size_t m = std::min<size_t>(8, n - at);
        __m512 most[8], squares[8], missed[8], sum[8];
        for (size_t i = 0; i < 8; ++i) most[i] = squares[i] = missed[i] = sum[i] = _mm512_setzero_ps();
        for (size_t i = 0; i < m; ++i) {
            const float *from = x + i * stride;
            const auto take = [&](size_t j, __m512 value, __m512 mean) __attribute__((always_inline)) {
                const __m512 v = _mm512_sub_ps(value, mean);
                _mm512_storeu_ps(centred + i * width + j, v);
                most[i] = _mm512_max_ps(most[i], _mm512_abs_ps(v));
                squares[i] = _mm512_fmadd_ps(v, v, squares[i]);
            };
            size_t j = 0;
            for (; j + 16 < width; j += 16) take(j, _mm512_loadu_ps(from + j), _mm512_loadu_ps(words.mean + j));
            take(j, _mm512_maskz_loadu_ps(tail, from + j), _mm512_maskz_loadu_ps(tail, words.mean + j));
        }
        // `slack` of nearest.cpp; 1.01 is 1.02 here for the roundings of float32
        const __m256 norm = length(across(squares, sum_of)), reach = _mm256_add_ps(norm, longest), scaled = _mm256_mul_ps(reach, reach);
        const float rounds = static_cast<float>(d + 8), share = rounds * 0x1p-24f / (1 - rounds * 0x1p-24f);
        const __m256 single = _mm256_mul_ps(longest, _mm256_fmadd_ps(longest, _mm256_set1_ps(0.5f), norm));
        const __m256 slack = _mm256_mul_ps(
            _mm256_set1_ps(1.02f),
            _mm256_fmadd_ps(single, _mm256_set1_ps(share),
                            _mm256_fmadd_ps(scaled, _mm256_set1_ps(rounds * 0x1p-52f),
                                            _mm256_mul_ps(_mm256_add_ps(reach, _mm256_set1_ps(2)), _mm256_set1_ps(rounds * 0x1p-125f)))));
        const __mmask8 finite = _mm256_mask_cmp_ps_mask(static_cast<__mmask8>((1u << m) - 1), scaled, _mm256_set1_ps(1e37f), _CMP_LT_OQ);
        queries.finite |= static_cast<uint64_t>(finite) << at;
        __m256 peak = _mm256_maskz_mov_ps(finite, across(most, most_of));
        peak = _mm256_max_ps(peak, _mm256_permute_ps(peak, 0x4e));
        peak = _mm256_max_ps(peak, _mm256_permute_ps(peak, 0xb1));
        if (tile == 8) peak = _mm256_max_ps(peak, _mm256_permute2f128_ps(peak, peak, 1));
        const __m256 scale = _mm256_max_ps(_mm256_mul_ps(peak, _mm256_set1_ps(1 / 127.0f)), _mm256_set1_ps(coarse.finest));
        const __m256 inverse = _mm256_div_ps(_mm256_set1_ps(1), scale);
        alignas(32) float scales[8], inverses[8];
        _mm256_store_ps(scales, scale);
        _mm256_store_ps(inverses, inverse);
        for (size_t i = 0; i < 8; ++i) {
            if (!(finite >> i & 1)) {
                std::memset(out + i * width, 0, width);
                continue;
            }
            for (size_t j = 0; j < width; j += 16) {
                const __m512 v = _mm512_loadu_ps(centred + i * width + j);
                const __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(v, _mm512_set1_ps(inverses[i])));
                const __m512 off = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(q), _mm512_set1_ps(scales[i]), v);
                missed[i] = _mm512_fmadd_ps(off, off, missed[i]);
                sum[i] = _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(sum[i]), q));
                _mm_storeu_si128(reinterpret_cast<__m128i *>(out + i * width + j), _mm512_cvtepi32_epi8(q));
            }
        }
        const __m256 rest = length(across(missed, sum_of)), unit = _mm256_mul_ps(inverse, wide);
        const auto keep = [&](float *to, __m256 v) { _mm256_store_ps(to + at, _mm256_maskz_mov_ps(finite, v)); };
        _mm256_store_ps(queries.inverse + at, inverse);
        _mm256_store_ps(queries.error + at, slack);
        _mm256_store_ps(queries.least + at, _mm256_set1_ps(-kInfinity));
        keep(queries.norm, _mm256_mul_ps(_mm256_add_ps(norm, rest), unit));
        keep(queries.rest, _mm256_mul_ps(rest, unit));
        keep(queries.slack, _mm256_mul_ps(_mm256_mul_ps(slack, unit), _mm256_set1_ps(2)));
        _mm256_store_si256(reinterpret_cast<__m256i *>(queries.start + at),
                           _mm256_slli_epi32(_mm256_sub_epi32(_mm256_setzero_si256(), _mm256_castps_si256(across(sum, count_of))), 7));
    }
}

// A group's best scores of a row in its lanes, in units of the row's scale; their last four bits are the group's place in the segment.
INLINE __m512 tagged(__m512i top, int32_t start, __m512 scale, __m512i place) {
    const __m512 score = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_add_epi32(top, _mm512_set1_epi32(start))), scale);
    return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(_mm512_castps_si512(score), _mm512_set1_epi32(-16), place, 0xea));
}

INLINE __m512i halves_of(const Coarse &coarse, size_t block, __m512 inverse) {
    return _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_load_ps(coarse.halves.data() + block * 16), inverse));
}

// tops (Q, kSegment, 16), for groups [first, last) of a segment; codes (Q, width_of(d))
template <size_t Quads, size_t Q>
INLINE void scan_tile(const Coarse &coarse, size_t first, size_t last, const int8_t *codes, const Queries &queries, size_t at,
                      float *tops) {
    const size_t quads = Quads ? Quads : coarse.quads, width = width_of(4 * quads);
    const __m512 inverse = _mm512_set1_ps(queries.inverse[at]);
    const auto value = [&](size_t q, size_t j) __attribute__((always_inline)) {
        int32_t four;
        std::memcpy(&four, codes + q * width + j * 4, 4);
        return _mm512_set1_epi32(four);
    };
    constexpr bool few = Quads && Quads <= kFew;
    __m512i held[Q][few ? Quads : 1];
    if constexpr (few)
        for (size_t q = 0; q < Q; ++q)
            for (size_t j = 0; j < Quads; ++j) held[q][j] = value(q, j);
    for (size_t g = first; g < last; ++g) {
        const uint8_t *c = coarse.codewords.data() + g * quads * 256;
        __m512i top[Q];
        if constexpr (few) {
            for (size_t b = 0; b < 4; ++b) {
                const __m512i half = halves_of(coarse, g * 4 + b, inverse);
                __m512i codeword[Quads];
                for (size_t j = 0; j < Quads; ++j) codeword[j] = _mm512_load_si512(c + (j * 4 + b) * 64);
                for (size_t q = 0; q < Q; ++q) {
                    __m512i sum = half;
                    for (size_t j = 0; j < Quads; ++j) sum = _mm512_dpbusd_epi32(sum, codeword[j], held[q][j]);
                    top[q] = b ? _mm512_max_epi32(top[q], sum) : sum;
                }
            }
        } else {
            __m512i sum[Q][4];
            for (size_t b = 0; b < 4; ++b) {
                const __m512i half = halves_of(coarse, g * 4 + b, inverse);
                for (size_t q = 0; q < Q; ++q) sum[q][b] = half;
            }
            for (size_t j = 0; j < quads; ++j) {
                __m512i codeword[4];
                for (size_t b = 0; b < 4; ++b) codeword[b] = _mm512_load_si512(c + (j * 4 + b) * 64);
                for (size_t q = 0; q < Q; ++q) {
                    const __m512i four = value(q, j);
                    for (size_t b = 0; b < 4; ++b) sum[q][b] = _mm512_dpbusd_epi32(sum[q][b], codeword[b], four);
                }
            }
            for (size_t q = 0; q < Q; ++q)
                top[q] = _mm512_max_epi32(_mm512_max_epi32(sum[q][0], sum[q][1]), _mm512_max_epi32(sum[q][2], sum[q][3]));
        }
        const __m512 scale = _mm512_set1_ps(coarse.scale.data()[g]);
        const __m512i place = _mm512_set1_epi32(static_cast<int>(g % kSegment));
        for (size_t q = 0; q < Q; ++q)
            _mm512_store_ps(tops + (q * kSegment + g % kSegment) * 16, tagged(top[q], queries.start[at + q], scale, place));
    }
}

// Rows beyond n up to the next multiple of a tile may be read, and their tops written.
template <size_t Quads>
void scan_rows(const Coarse &coarse, size_t first, size_t last, const int8_t *codes, const Queries &queries, size_t at, size_t n,
               float *tops) {
    constexpr size_t Q = Quads == 0 || Quads > 2 ? 4 : 8;
    const size_t row = width_of(coarse.d), step = std::bit_ceil(std::max<size_t>(1, 8192 / (256 * coarse.quads)));  // stays in the first cache
    for (size_t g = first; g < last; g += step) {
        const size_t end = std::min(last, g + step);
        for (size_t q = 0; q < n; q += Q) {
            float *to = tops + q * kSegment * 16;
            if (q + 1 == n) scan_tile<Quads, 1>(coarse, g, end, codes + (at + q) * row, queries, at + q, to);
            else if (Q == 8 && q + 4 >= n) scan_tile<Quads, 4>(coarse, g, end, codes + (at + q) * row, queries, at + q, to);
            else scan_tile<Quads, Q>(coarse, g, end, codes + (at + q) * row, queries, at + q, to);
        }
    }
}

float least_of(float best, double slack) {
    const double exact = static_cast<double>(best) - 2 * slack;
    return static_cast<float>(exact - std::fabs(exact) * 0x1p-22 - 0x1p-148);
}

// The lanes of each of four vectors summed.
INLINE __m128 sums(__m256 a, __m256 b, __m256 c, __m256 d) {
    const __m256 ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
    const __m256 cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
    const __m256d low = _mm256_unpacklo_pd(_mm256_castps_pd(ab), _mm256_castps_pd(cd));
    const __m256d high = _mm256_unpackhi_pd(_mm256_castps_pd(ab), _mm256_castps_pd(cd));
    const __m256 both = _mm256_add_ps(_mm256_castpd_ps(low), _mm256_castpd_ps(high));
    return _mm_add_ps(_mm256_castps256_ps128(both), _mm256_extractf128_ps(both, 1));
}

// float32 scores of four codewords; x (width_of(d),)
INLINE __m128 rescore(const Words &words, const uint32_t *ids, const float *x, size_t d) {
    const __m128 halves = _mm_setr_ps(words.halves[ids[0]], words.halves[ids[1]], words.halves[ids[2]], words.halves[ids[3]]);
    if (d <= 8) {
        const __mmask8 mask = static_cast<__mmask8>((1u << d) - 1);
        const __m256 value = _mm256_loadu_ps(x), mean = _mm256_maskz_loadu_ps(mask, words.mean);
        __m256 product[4];
        for (size_t b = 0; b < 4; ++b)
            product[b] = _mm256_mul_ps(value, _mm256_sub_ps(_mm256_maskz_loadu_ps(mask, words.rows + ids[b] * d), mean));
        return _mm_add_ps(sums(product[0], product[1], product[2], product[3]), halves);
    }
    __m512 sum[4];
    for (size_t b = 0; b < 4; ++b) sum[b] = _mm512_setzero_ps();
    size_t j = 0;
    for (; j + 16 <= d; j += 16) {
        const __m512 value = _mm512_loadu_ps(x + j), mean = _mm512_loadu_ps(words.mean + j);
        for (size_t b = 0; b < 4; ++b)
            sum[b] = _mm512_fmadd_ps(value, _mm512_sub_ps(_mm512_loadu_ps(words.rows + ids[b] * d + j), mean), sum[b]);
    }
    if (j < d) {
        const __mmask16 mask = mask_of(d - j);
        const __m512 value = _mm512_loadu_ps(x + j), mean = _mm512_maskz_loadu_ps(mask, words.mean + j);
        for (size_t b = 0; b < 4; ++b)
            sum[b] = _mm512_fmadd_ps(value, _mm512_sub_ps(_mm512_maskz_loadu_ps(mask, words.rows + ids[b] * d + j), mean), sum[b]);
    }
    const auto half = [&](size_t b) { return _mm256_add_ps(_mm512_castps512_ps256(sum[b]), _mm512_extractf32x8_ps(sum[b], 1)); };
    return _mm_add_ps(sums(half(0), half(1), half(2), half(3)), halves);
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

// A little below a score: more than the roundings and the last four bits of scores take.
INLINE __m256 below(__m256 v) { return _mm256_fnmadd_ps(_mm256_andnot_ps(_mm256_set1_ps(-0.0f), v), _mm256_set1_ps(0x1p-18f), v); }

// Marks in hits (8, kSegment) the lanes that codewords which can still be nearest to rows at, ..., at + 7 are in, given their scores of
// the segment that starts at group `first`; returns those rows, a bit each.
unsigned reach(const Coarse &coarse, size_t first, const Queries &queries, size_t at, const float *tops, uint16_t *hits) {
    __m512 best[8];
    for (size_t i = 0; i < 8; ++i) {
        const float *own = tops + i * kSegment * 16;
        best[i] = _mm512_max_ps(_mm512_load_ps(own), _mm512_load_ps(own + 16));
        for (size_t g = 2; g < kSegment; ++g) best[i] = _mm512_max_ps(best[i], _mm512_load_ps(own + g * 16));
    }
    const __m256 highest = across(best, most_of), wide = _mm256_set1_ps(1 + 0x1p-20f);
    const __m256 norm = _mm256_mul_ps(_mm256_loadu_ps(queries.norm + at), wide);
    const __m256 rest = _mm256_mul_ps(_mm256_loadu_ps(queries.rest + at), wide);
    // |X.C - X^.C^| is at most rest * norm of the group + norm * rest of the group; rounding halves to integers takes half a unit.
    const auto bound = [&](__m256 norms, __m256 rests, __m256 scales) {
        return _mm256_fmadd_ps(rest, norms, _mm256_fmadd_ps(norm, rests, scales));
    };
    const __m256 known = _mm256_loadu_ps(queries.least + at);
    const Coarse::Bounds &most = coarse.most[first / kSegment];
    const __m256 widest = bound(_mm256_set1_ps(most.norm), _mm256_set1_ps(most.rest), _mm256_set1_ps(most.scale));
    const unsigned rows = _mm256_cmp_ps_mask(highest, below(_mm256_sub_ps(known, widest)), _CMP_GE_OQ) &
                          static_cast<unsigned>(queries.finite >> at & 0xff);
    if (!rows) return 0;
    const __m512 norms = _mm512_load_ps(coarse.norm.data() + first), rests = _mm512_load_ps(coarse.rest.data() + first);
    const __m512 scales = _mm512_load_ps(coarse.scale.data() + first);
    const __m512i group = _mm512_castsi256_si512(_mm256_castps_si256(highest));  // its last four bits
    const auto of = [&](__m512 v) { return _mm512_castps512_ps256(_mm512_permutexvar_ps(group, v)); };
    const __m256 sure = below(_mm256_sub_ps(below(highest), bound(of(norms), of(rests), of(scales))));
    alignas(32) float least[8], row_norm[8], row_rest[8];
    _mm256_store_ps(least, _mm256_max_ps(known, _mm256_sub_ps(sure, _mm256_loadu_ps(queries.slack + at))));
    _mm256_store_ps(row_norm, norm);
    _mm256_store_ps(row_rest, rest);
    for (size_t i = 0; i < 8; ++i, hits += kSegment) {
        if (!(rows >> i & 1)) {
            _mm256_store_si256(reinterpret_cast<__m256i *>(hits), _mm256_setzero_si256());
            continue;
        }
        const __m512 bounds = _mm512_fmadd_ps(_mm512_set1_ps(row_rest[i]), norms,
                                              _mm512_fmadd_ps(_mm512_set1_ps(row_norm[i]), rests, scales));
        const __m512 t = _mm512_sub_ps(_mm512_set1_ps(least[i]), bounds);
        alignas(64) float limits[kSegment];
        _mm512_store_ps(limits, _mm512_fnmadd_ps(_mm512_abs_ps(t), _mm512_set1_ps(0x1p-18f), t));
        const float *own = tops + i * kSegment * 16;
        for (size_t g = 0; g < kSegment; ++g)
            hits[g] = _mm512_cmp_ps_mask(_mm512_load_ps(own + g * 16), _mm512_set1_ps(limits[g]), _CMP_GE_OQ);
    }
    return rows;
}

// Scores again what `hits` leaves possible; returns the number of lanes.
size_t refine(const Coarse &coarse, const Words &words, size_t first, const float *x, Queries &queries, size_t at, unsigned rows,
              const uint16_t *hits, Shortlist *lists) {
    constexpr size_t most = 32;  // lanes at once
    alignas(64) float scores[most][4];
    const uint32_t *ids[most];
    uint8_t row[most];
    size_t total = 0, filled = 0;
    const auto flush = [&] {
        total += filled;
        for (size_t t = 0; t < filled; ++t) {
            Shortlist &list = lists[row[t]];
            const __m128 four = _mm_load_ps(scores[t]), two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            list.latest = std::max(list.latest, _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two))));
        }
        for (unsigned left = rows; left; left &= left - 1) {
            const size_t i = static_cast<size_t>(__builtin_ctz(left));
            Shortlist &list = lists[i];
            if (!(list.latest > list.best)) continue;
            list.best = list.latest;
            list.least = least_of(list.best, queries.error[at + i]);
            queries.least[at + i] = list.least * queries.inverse[at + i];
            if (list.count && list.count <= kShort) drop(list);
        }
        for (size_t t = 0; t < filled; ++t) {
            Shortlist &list = lists[row[t]];
            const __m128 four = _mm_load_ps(scores[t]);
            const __mmask8 near = _mm_cmp_ps_mask(four, _mm_set1_ps(list.least), _CMP_GE_OQ);
            if (list.count > kShort) continue;
            _mm_storeu_ps(list.scores + list.count, _mm_maskz_compress_ps(near, four));
            _mm_storeu_si128(reinterpret_cast<__m128i *>(list.ids + list.count),
                             _mm_maskz_compress_epi32(near, _mm_load_si128(reinterpret_cast<const __m128i *>(ids[t]))));
            list.count += static_cast<uint32_t>(__builtin_popcount(near));
        }
        filled = 0;
    };
    for (size_t part = 0; part < 8 * kSegment / 32; ++part) {
        const __m512i words16 = _mm512_load_si512(hits + part * 32);
        for (uint32_t groups = _mm512_test_epi16_mask(words16, words16); groups; groups &= groups - 1) {
            const size_t place = part * 32 + static_cast<size_t>(__builtin_ctz(groups)), i = place / kSegment, g = place % kSegment;
            for (unsigned left = hits[place]; left; left &= left - 1) {
                ids[filled] = coarse.ids.data() + (first + g) * 64 + static_cast<size_t>(__builtin_ctz(left)) * 4;
                row[filled] = static_cast<uint8_t>(i);
                _mm_store_ps(scores[filled], rescore(words, ids[filled], x + i * width_of(coarse.d), coarse.d));
                if (++filled == most) flush();
            }
        }
    }
    flush();
    return total;
}

}  // namespace

bool sieve(const Coarse &coarse, const Words &words, size_t first, size_t last, const float *x, size_t stride, size_t n, Shortlist *lists) {
    const size_t together = coarse.quads <= kFew ? 8 : (n + 7) / 8 * 8;  // rows whose scores of a segment are kept
    alignas(64) int8_t codes[kMost * 256];
    const size_t width = width_of(coarse.d), length = together * kSegment * 16, all = length + (n + 7) / 8 * 8 * width;
    alignas(64) float small[4096];
    const Aligned<float> large = all > 4096 ? Aligned<float>(all) : Aligned<float>();
    float *tops = all > 4096 ? large.data() : small, *centred = tops + length;
    Queries queries;
    quantise(coarse, words, x, stride, n, coarse.quads > 2 ? 4 : 8, centred, codes, queries);
    for (size_t i = 0; i < n; ++i) {
        lists[i].best = lists[i].least = lists[i].latest = -kInfinity;
        lists[i].count = queries.finite >> i & 1 ? 0 : kShort + 1;
    }
    alignas(64) uint16_t hits[8 * kSegment];
    // Segments of codewords as long as the first rows come first: they likely hold near ones, which leave little in the others.
    const size_t begin = first / kSegment, segments = (last + kSegment - 1) / kSegment - begin;
    size_t start = 0;
    while (start + 1 < segments && coarse.most[begin + start].scale * queries.inverse[0] < 1) ++start;
    size_t spent = 0;
    for (size_t s = 0; s < segments; ++s) {
        const size_t g = (begin + (start + s) % segments) * kSegment, end = std::min(last, g + kSegment);
        // A lane scored again costs about as much as 64 codewords of 8 dimensions in the float32 scan.
        const size_t allowed = n * (8 + (s + 1) * kSegment * std::min<size_t>(coarse.d, 64) / 32);
        if (end - g < kSegment)
            for (size_t i = 0; i < together; ++i)
                std::fill(tops + (i * kSegment + (end - g)) * 16, tops + (i + 1) * kSegment * 16, -kInfinity);
        for (size_t at = 0; at < n; at += together) {
            const size_t m = std::min(together, n - at);
            switch (coarse.quads) {
#define COMPAND_COARSE_CASE(QUADS) \
    case QUADS: scan_rows<QUADS>(coarse, g, end, codes, queries, at, m, tops); break
                COMPAND_COARSE_CASE(1);
                COMPAND_COARSE_CASE(2);
                COMPAND_COARSE_CASE(3);
                COMPAND_COARSE_CASE(4);
                COMPAND_COARSE_CASE(8);
                COMPAND_COARSE_CASE(16);
#undef COMPAND_COARSE_CASE
                default: scan_rows<0>(coarse, g, end, codes, queries, at, m, tops);
            }
            for (size_t i = at; i < at + m; i += 8)
                if (const unsigned rows = reach(coarse, g, queries, i, tops + (i - at) * kSegment * 16, hits))
                    spent += refine(coarse, words, g, centred + i * width, queries, i, rows, hits, lists + i);
            if (spent > allowed) return false;
        }
    }
    return true;
}

#undef INLINE

}  // namespace compand::nearest::avx512
#endif

// Body of signs.hpp. LEVEL 2: VPOPCNTDQ; 1: AVX2, counts of nibbles by byte shuffles; 0: plain C++. All give the same hits.
#include <algorithm>
#include <bit>
#if LEVEL
#include <immintrin.h>
#endif

#include "signs/signs.hpp"

namespace compand::signs::ISA {
namespace {

// out (lines, 64): how many of the signs of 64 rows differ from each of L lines of queries.
template <size_t L> void differ(const uint32_t *rows, size_t words, const uint32_t *const *lines, int32_t *out) {
#if LEVEL == 2
    for (size_t s = 0; s < 4; ++s) {
        __m512i sums[L] = {};
        for (size_t w = 0; w < words; ++w) {
            const __m512i row = _mm512_loadu_si512(rows + w * kBlock + 16 * s);
            for (size_t i = 0; i < L; ++i)
                sums[i] = _mm512_add_epi32(sums[i], _mm512_popcnt_epi32(_mm512_xor_si512(row, _mm512_set1_epi32(static_cast<int>(lines[i][w])))));
        }
        for (size_t i = 0; i < L; ++i) _mm512_storeu_si512(out + i * kBlock + 16 * s, sums[i]);
    }
#elif LEVEL == 1
    const __m256i counts = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi8(1), one = _mm256_set1_epi16(1);
    constexpr size_t most = 31;  // words whose counts of 8 fit a byte
    for (size_t s = 0; s < 8; ++s) {
        __m256i sums[L] = {};
        for (size_t from = 0; from < words; from += most) {
            __m256i bytes[L] = {};
            for (size_t w = from; w < std::min(words, from + most); ++w) {
                const __m256i row = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(rows + w * kBlock + 8 * s));
                for (size_t i = 0; i < L; ++i) {
                    const __m256i x = _mm256_xor_si256(row, _mm256_set1_epi32(static_cast<int>(lines[i][w])));
                    const __m256i a = _mm256_shuffle_epi8(counts, _mm256_and_si256(x, low));
                    const __m256i b = _mm256_shuffle_epi8(counts, _mm256_and_si256(_mm256_srli_epi16(x, 4), low));
                    bytes[i] = _mm256_add_epi8(bytes[i], _mm256_add_epi8(a, b));
                }
            }
            for (size_t i = 0; i < L; ++i) sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(_mm256_maddubs_epi16(bytes[i], ones), one));
        }
        for (size_t i = 0; i < L; ++i) _mm256_storeu_si256(reinterpret_cast<__m256i *>(out + i * kBlock + 8 * s), sums[i]);
    }
#else
    for (size_t i = 0; i < L; ++i, out += kBlock) {
        std::fill_n(out, kBlock, 0);
        for (size_t w = 0; w < words; ++w)
            for (size_t v = 0; v < kBlock; ++v) out[v] += std::popcount(rows[w * kBlock + v] ^ lines[i][w]);
    }
#endif
}

void offer(const Store &store, size_t block, Query &query, float *scores) {
    if (store.term) {
        const float *term = store.term + block * kBlock;
        for (size_t v = 0; v < kBlock; ++v) scores[v] = scores[v] + query.factor * term[v];
    }
    const float least = query.best->threshold;
    uint32_t any = 0;
    for (size_t v = 0; v < kBlock; ++v) any |= scores[v] > least ? 1 : 0;
    if (!any) return;
    for (uint64_t left = store.allow[block]; left; left &= left - 1) {
        const auto v = static_cast<size_t>(std::countr_zero(left));
        if (scores[v] > query.best->threshold) query.best->push(scores[v], static_cast<uint32_t>(block * kBlock + v));
    }
}

}  // namespace

void scan(const Store &store, size_t first, size_t last, Query *queries, size_t count, size_t planes) {
    constexpr size_t together = LEVEL ? 8 : 1;
    const size_t tile = std::max<size_t>(1, kLines / planes);
    alignas(64) int32_t apart[kLines * kBlock];
    alignas(64) float scores[kLines][kBlock];
    const uint32_t *lines[kLines];
    for (size_t q = 0; q < count; q += tile) {
        const size_t some = std::min(tile, count - q), total = some * planes;
        for (size_t i = 0; i < total; ++i) lines[i] = queries[q + i / planes].words + i % planes * store.line;
        for (size_t block = first; block < last; ++block) {
            if (!store.allow[block]) continue;
            for (size_t t = 0; t < store.terms; ++t) {
                const uint32_t *rows = store.words + (block * store.terms + t) * store.line * kBlock;
                const float *gain = store.gain + (block * store.terms + t) * kBlock;
                size_t i = 0;
                for (; i + together <= total; i += together) differ<together>(rows, store.line, lines + i, apart + i * kBlock);
                for (; i < total; ++i) differ<1>(rows, store.line, lines + i, apart + i * kBlock);
                for (size_t j = 0; j < some; ++j) {
                    const int32_t *own = apart + j * planes * kBlock;
                    const float *weights = queries[q + j].weights;
                    alignas(64) float sums[kBlock];
                    for (size_t v = 0; v < kBlock; ++v) sums[v] = weights[0] * static_cast<float>(store.bits - 2 * own[v]);
                    for (size_t p = 1; p < planes; ++p)
                        for (size_t v = 0; v < kBlock; ++v) sums[v] = sums[v] + weights[p] * static_cast<float>(store.bits - 2 * own[p * kBlock + v]);
                    if (t == 0)
                        for (size_t v = 0; v < kBlock; ++v) scores[j][v] = gain[v] * sums[v];
                    else
                        for (size_t v = 0; v < kBlock; ++v) scores[j][v] = scores[j][v] + gain[v] * sums[v];
                }
            }
            for (size_t j = 0; j < some; ++j) offer(store, block, queries[q + j], scores[j]);
        }
    }
}

}  // namespace compand::signs::ISA

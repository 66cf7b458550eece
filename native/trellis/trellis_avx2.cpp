#if COMPAND_X86
#include <immintrin.h>

#include "trellis/trellis.hpp"

#define ISA avx2
namespace compand::trellis::avx2 {
namespace {

struct Lanes {
    using Words = __m256i;
    static constexpr size_t count = 16;
    static Words all(int v) { return _mm256_set1_epi16(static_cast<short>(v)); }
    static Words load(const int16_t *p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)); }
    static void store(uint16_t *p, Words v) { _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), v); }
    static void store_bytes(uint8_t *p, Words v) {
        _mm_storeu_si128(reinterpret_cast<__m128i *>(p), _mm_packus_epi16(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)));
    }
    template <int K> static Words spread(const uint16_t *cost, size_t s) {  // each of 16 >> K costs 2^K times
        static constexpr auto b = [](int i) { return static_cast<char>((i / 2 >> K) * 2 + (i & 1)); };
        const __m256i at = _mm256_setr_epi8(b(0), b(1), b(2), b(3), b(4), b(5), b(6), b(7), b(8), b(9), b(10), b(11), b(12), b(13),
                                            b(14), b(15), b(16), b(17), b(18), b(19), b(20), b(21), b(22), b(23), b(24), b(25),
                                            b(26), b(27), b(28), b(29), b(30), b(31));
        const __m128i few = _mm_loadu_si128(reinterpret_cast<const __m128i *>(cost + (s >> K)));
        return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(few), at);
    }
    static Words reach(Words cost, Words level, Words target) {
        const Words e = _mm256_subs_epi16(level, target);
        return _mm256_adds_epu16(cost, _mm256_mulhrs_epi16(e, e));
    }
    static void improve(Words &best, Words &which, Words v, int j) {
        const Words low = _mm256_min_epu16(best, v), keep = _mm256_cmpeq_epi16(low, best);
        which = _mm256_blendv_epi8(all(j), which, keep);
        best = low;
    }
    static Words lower(Words a, Words b) { return _mm256_min_epu16(a, b); }
    static uint16_t lowest(Words v) {
        const __m128i half = _mm_min_epu16(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
        return static_cast<uint16_t>(_mm_cvtsi128_si32(_mm_minpos_epu16(half)));
    }
};

}  // namespace
}  // namespace compand::trellis::avx2
#include "trellis/trellis_impl.hpp"
#endif

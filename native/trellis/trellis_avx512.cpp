#if COMPAND_X86
#include <immintrin.h>

#include "trellis/trellis.hpp"

#define ISA avx512
namespace compand::trellis::avx512 {
namespace {

struct Lanes {
    using Words = __m512i;
    static constexpr size_t count = 32;
    static Words all(int v) { return _mm512_set1_epi16(static_cast<short>(v)); }
    static Words load(const int16_t *p) { return _mm512_loadu_si512(p); }
    static void store(uint16_t *p, Words v) { _mm512_storeu_si512(p, v); }
    static void store_bytes(uint8_t *p, Words v) {
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), _mm512_maskz_cvtepi16_epi8(~__mmask32{0}, v));
    }
    template <int K> static Words spread(const uint16_t *cost, size_t s) {  // each of 32 >> K costs 2^K times
        alignas(64) static constexpr uint16_t lane[32] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15,
                                                          16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31};
        return _mm512_permutexvar_epi16(_mm512_srli_epi16(_mm512_load_si512(lane), K), _mm512_loadu_si512(cost + (s >> K)));
    }
    static Words reach(Words cost, Words level, Words target) {
        const Words e = _mm512_subs_epi16(level, target);
        return _mm512_adds_epu16(cost, _mm512_mulhrs_epi16(e, e));
    }
    static void improve(Words &best, Words &which, Words v, int j) {
        which = _mm512_mask_mov_epi16(which, _mm512_cmplt_epu16_mask(v, best), all(j));
        best = _mm512_min_epu16(best, v);
    }
    static Words lower(Words a, Words b) { return _mm512_min_epu16(a, b); }
    static uint16_t lowest(Words v) {
        alignas(64) uint16_t w[32];
        _mm512_store_si512(w, v);
        uint16_t least = w[0];
        for (uint16_t x : w) least = x < least ? x : least;
        return least;
    }
};

}  // namespace
}  // namespace compand::trellis::avx512
#include "trellis/trellis_impl.hpp"
#endif

// States of 32 lanes as vectors of their low and high halves: 16-bit multiplications, and one expansion refills 32 lanes.
// For *_avx512.cpp only.
#pragma once
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12 warns about its own intrinsics (GCC bug 105593)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include "rans.hpp"

namespace compand::rans::avx512 {
namespace {

struct Halves {
    __m512i low, high;
};

struct Orders {
    alignas(64) uint16_t even[32], odd[32], front[32], back[32], reversed[32], even_reversed[32], odd_reversed[32];
    alignas(64) uint32_t reversed_dwords[16], even_dwords[16], odd_dwords[16];
    alignas(64) uint8_t bytes[64], reversed_bytes[64], packed_bytes[64];  // packed: low bytes of words as packus gives them
    alignas(64) uint64_t linear_qwords[8];                                // back from that order
    constexpr Orders() : even(), odd(), front(), back(), reversed(), even_reversed(), odd_reversed(), reversed_dwords(), even_dwords(), odd_dwords(), bytes(), reversed_bytes(), packed_bytes(), linear_qwords() {
        for (int i = 0; i < 32; ++i) {
            even[i] = static_cast<uint16_t>(2 * i);
            odd[i] = static_cast<uint16_t>(2 * i + 1);
            front[i] = static_cast<uint16_t>(i / 2 + 32 * (i % 2));
            back[i] = static_cast<uint16_t>(i / 2 + 32 * (i % 2) + 16);
            reversed[i] = static_cast<uint16_t>(31 - i);
            even_reversed[i] = static_cast<uint16_t>(62 - 2 * i);
            odd_reversed[i] = static_cast<uint16_t>(63 - 2 * i);
            reversed_dwords[i / 2] = static_cast<uint32_t>(15 - i / 2);
            even_dwords[i / 2] = static_cast<uint32_t>(i / 2 * 2);
            odd_dwords[i / 2] = static_cast<uint32_t>(i / 2 * 2 + 1);
        }
        for (int i = 0; i < 64; ++i) {
            bytes[i] = static_cast<uint8_t>(2 * i);
            reversed_bytes[i] = static_cast<uint8_t>(63 - i);
            packed_bytes[i] = static_cast<uint8_t>(i / 16 * 16 + i % 8 * 2 + (i % 16 < 8 ? 0 : 64));
            linear_qwords[i / 8] = static_cast<uint64_t>(i / 8 % 4 * 2 + i / 32);
        }
    }
};
constexpr Orders kOrders;

inline __m512i order(const void *of) { return _mm512_load_si512(of); }

// Low and high halves of 32 dwords.
inline __m512i lows(__m512i a, __m512i b) { return _mm512_permutex2var_epi16(a, order(kOrders.even), b); }
inline __m512i highs(__m512i a, __m512i b) { return _mm512_permutex2var_epi16(a, order(kOrders.odd), b); }

inline Halves load(const uint32_t *x) {
    const __m512i a = _mm512_loadu_si512(x), b = _mm512_loadu_si512(x + 16);
    return {lows(a, b), highs(a, b)};
}

inline void store(Halves x, uint32_t *to) {
    _mm512_storeu_si512(to, _mm512_permutex2var_epi16(x.low, order(kOrders.front), x.high));
    _mm512_storeu_si512(to + 16, _mm512_permutex2var_epi16(x.low, order(kOrders.back), x.high));
}

// Each lane below 2^16 takes the next word, in lane order. Reads 64 bytes.
inline Halves refill(Halves x, const uint8_t *&at) {
    const __mmask32 few = _mm512_testn_epi16_mask(x.high, x.high);
    const __m512i words = _mm512_loadu_si512(at);
    at += 2 * static_cast<size_t>(__builtin_popcount(few));
    return {_mm512_mask_expand_epi16(x.low, few, words), _mm512_mask_mov_epi16(x.high, few, x.low)};
}

// f * (rest, 32 bits) + bias: a state after a symbol of frequency f is taken; rest = state >> p.
inline Halves step(__m512i rest_low, __m512i rest_high, __m512i f, __m512i bias) {
    const __m512i product = _mm512_mullo_epi16(f, rest_low), low = _mm512_add_epi16(product, bias);
    const __m512i high = _mm512_add_epi16(_mm512_mulhi_epu16(f, rest_low), _mm512_mullo_epi16(f, rest_high));
    const __mmask32 carry = _mm512_cmplt_epu16_mask(low, bias);
    return {low, _mm512_mask_sub_epi16(high, carry, high, _mm512_set1_epi16(-1))};
}

}  // namespace
}  // namespace compand::rans::avx512

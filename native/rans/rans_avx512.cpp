#if COMPAND_X86
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12 warns about its own intrinsics (GCC bug 105593)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#define COMPAND_RANS_ISA avx512
#define COMPAND_RANS_OWN_ENCODE
#define COMPAND_RANS_OWN_NARROW
#define COMPAND_RANS_OWN_SMALL
#define COMPAND_RANS_OWN_LARGE
#define COMPAND_RANS_OWN_ORDER1
#include "rans_impl.hpp"

namespace compand::rans::avx512 {
namespace {

// Each lane below 2^16 takes the next word, in lane order. Reads 32 bytes.
inline __m512i refill(__m512i x, const uint8_t *&at) {
    const __mmask16 low = _mm512_cmplt_epu32_mask(x, _mm512_set1_epi32(static_cast<int>(kLow)));
    const __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(at)));
    at += 2 * static_cast<size_t>(__builtin_popcount(low));
    return _mm512_mask_or_epi32(x, low, _mm512_slli_epi32(x, 16), _mm512_maskz_expand_epi32(low, words));
}

inline __m512i advance(__m512i x, __m512i e) {
    const __m512i f = _mm512_srli_epi32(e, 20), bias = _mm512_and_si512(_mm512_srli_epi32(e, 8), _mm512_set1_epi32(0xfff));
    return _mm512_add_epi32(_mm512_mullo_epi32(f, _mm512_srli_epi32(x, kNarrowBits)), bias);
}

inline void patch(uint8_t *out, uint64_t hits, Escapes &escapes) {
    for (; hits; hits &= hits - 1) {
        if (escapes.at == escapes.end) {
            escapes.missing = true;
            return;
        }
        out[__builtin_ctzll(hits)] = *escapes.at++;
    }
}

// Pushes lanes at or above the bound out of x: their low words go below `out`, in lane order.
inline __m512i spill(__m512i x, __mmask16 full, uint16_t *&out) {
    const __m256i words = _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(full, x));
    const int count = __builtin_popcount(full);
    out -= count;
    _mm256_mask_storeu_epi16(out, static_cast<__mmask16>((1u << count) - 1), words);
    return _mm512_mask_srli_epi32(x, full, x, 16);
}

template <bool kRaws>
inline uint16_t *encode_groups(const uint32_t *steps, const uint32_t *raws, size_t groups, int p, uint32_t *state, uint16_t *out) {
    const __m128i shift = _mm_cvtsi32_si128(p), drop = _mm_cvtsi32_si128(32 - p);
    const __m512i one = _mm512_set1_epi32(1), low16 = _mm512_set1_epi32(0xffff);
    __m512i x[4];
    for (int v = 0; v < 4; ++v) x[v] = _mm512_loadu_si512(state + 16 * v);
    for (size_t g = groups; g-- > 0;) {
        for (int v = 3; v >= 0; --v) {
            __m512i s = x[v];
            if (kRaws) {
                const __m512i raw = _mm512_loadu_si512(raws + g * kLanes + 16 * static_cast<size_t>(v));
                const __m512i bits = _mm512_srli_epi32(raw, 16);
                const __m512i over = _mm512_srlv_epi32(s, _mm512_sub_epi32(_mm512_set1_epi32(32), bits));
                s = spill(s, _mm512_test_epi32_mask(over, over), out);
                s = _mm512_or_si512(_mm512_sllv_epi32(s, bits), _mm512_and_si512(raw, low16));
            }
            const __m512i step = _mm512_loadu_si512(steps + g * kLanes + 16 * static_cast<size_t>(v));
            const __m512i f = _mm512_add_epi32(_mm512_srli_epi32(step, 16), one);
            s = spill(s, _mm512_cmpge_epu32_mask(_mm512_srl_epi32(s, drop), f), out);
            // floor(s / f) from a float quotient (within 1 for p >= 10), made exact by its remainder
            __m512i q = _mm512_cvttps_epi32(_mm512_div_ps(_mm512_cvtepu32_ps(s), _mm512_cvtepi32_ps(f)));
            __m512i r = _mm512_sub_epi32(s, _mm512_mullo_epi32(q, f));
            const __mmask16 below = _mm512_movepi32_mask(r);
            q = _mm512_mask_sub_epi32(q, below, q, one);
            r = _mm512_mask_add_epi32(r, below, r, f);
            const __mmask16 above = _mm512_cmpge_epi32_mask(r, f);
            q = _mm512_mask_add_epi32(q, above, q, one);
            r = _mm512_mask_sub_epi32(r, above, r, f);
            x[v] = _mm512_add_epi32(_mm512_sll_epi32(q, shift), _mm512_add_epi32(r, _mm512_and_si512(step, low16)));
        }
    }
    for (int v = 0; v < 4; ++v) _mm512_storeu_si512(state + 16 * v, x[v]);
    return out;
}

}  // namespace

uint16_t *encode(const uint32_t *steps, const uint32_t *raws, size_t groups, int p, uint32_t *x, uint16_t *out) {
    return raws ? encode_groups<true>(steps, raws, groups, p, x, out) : encode_groups<false>(steps, raws, groups, p, x, out);
}

size_t decode_narrow(Lanes &lanes, const uint32_t *table, uint8_t *out, size_t groups, Escapes &escapes) {
    __m512i x[4];
    for (int v = 0; v < 4; ++v) x[v] = _mm512_loadu_si512(lanes.x + 16 * v);
    const __m512i mask = _mm512_set1_epi32(0xfff), mark = _mm512_set1_epi8(static_cast<char>(escapes.mark));
    const bool marked = escapes.mark >= 0;
    const uint8_t *at = lanes.at;
    size_t g = 0;
    for (; g < groups && lanes.end - at >= 128; ++g, out += kLanes) {
        __m512i e[4];
        for (int v = 0; v < 4; ++v) e[v] = _mm512_i32gather_epi32(_mm512_and_si512(x[v], mask), table, 4);
        for (int v = 0; v < 4; ++v) {
            _mm_storeu_si128(reinterpret_cast<__m128i *>(out + 16 * v), _mm512_cvtepi32_epi8(e[v]));
            x[v] = refill(advance(x[v], e[v]), at);
        }
        if (marked) {
            if (const uint64_t hits = _mm512_cmpeq_epi8_mask(_mm512_loadu_si512(out), mark)) {
                patch(out, hits, escapes);
                if (escapes.missing) break;
            }
        }
    }
    lanes.at = at;
    for (int v = 0; v < 4; ++v) _mm512_storeu_si512(lanes.x + 16 * v, x[v]);
    return g;
}

size_t decode_small(Lanes &lanes, const Small &model, uint8_t *out, size_t groups, Escapes &escapes) {
    __m512i x[4], bound[16];
    for (int v = 0; v < 4; ++v) x[v] = _mm512_loadu_si512(lanes.x + 16 * v);
    for (int j = 1; j < 16; ++j) bound[j] = _mm512_set1_epi16(static_cast<short>(model.bounds[j]));
    const __m512i entry = _mm512_loadu_si512(model.entry), zero = _mm512_setzero_si512();
    const __m512i id = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i *>(model.id)));
    const __m512i mask = _mm512_set1_epi32((1 << model.p) - 1), low16 = _mm512_set1_epi32(0xffff);
    const __m512i mark = _mm512_set1_epi8(static_cast<char>(escapes.mark)), one = _mm512_set1_epi16(1);
    // packus works within 128-bit quarters; this puts the 64 bytes back in order
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m128i p = _mm_cvtsi32_si128(model.p);
    const bool marked = escapes.mark >= 0;
    const uint8_t *at = lanes.at;
    const int count = model.count;
    size_t g = 0;
    for (; g < groups && lanes.end - at >= 128; ++g, out += kLanes) {
        __m512i symbol[2];
        for (int h = 0; h < 2; ++h) {
            const __m512i a = _mm512_and_si512(x[2 * h], mask), b = _mm512_and_si512(x[2 * h + 1], mask);
            const __m512i slot = _mm512_packus_epi32(a, b);
            __m512i s = zero;
            if (count > 8) {
                for (int j = 1; j < 16; ++j) s = _mm512_mask_add_epi16(s, _mm512_cmpge_epu16_mask(slot, bound[j]), s, one);
            } else if (count > 4) {
                for (int j = 1; j < 8; ++j) s = _mm512_mask_add_epi16(s, _mm512_cmpge_epu16_mask(slot, bound[j]), s, one);
            } else {
                for (int j = 1; j < 4; ++j) s = _mm512_mask_add_epi16(s, _mm512_cmpge_epu16_mask(slot, bound[j]), s, one);
            }
            symbol[h] = s;
            const __m512i ea = _mm512_permutexvar_epi32(_mm512_unpacklo_epi16(s, zero), entry);
            const __m512i eb = _mm512_permutexvar_epi32(_mm512_unpackhi_epi16(s, zero), entry);
            const __m512i xa = _mm512_add_epi32(_mm512_mullo_epi32(_mm512_srli_epi32(ea, 16), _mm512_srl_epi32(x[2 * h], p)),
                                                _mm512_sub_epi32(a, _mm512_and_si512(ea, low16)));
            const __m512i xb = _mm512_add_epi32(_mm512_mullo_epi32(_mm512_srli_epi32(eb, 16), _mm512_srl_epi32(x[2 * h + 1], p)),
                                                _mm512_sub_epi32(b, _mm512_and_si512(eb, low16)));
            x[2 * h] = refill(xa, at);
            x[2 * h + 1] = refill(xb, at);
        }
        const __m512i bytes = _mm512_permutexvar_epi32(order, _mm512_packus_epi16(symbol[0], symbol[1]));
        const __m512i ids = _mm512_shuffle_epi8(id, bytes);
        _mm512_storeu_si512(out, ids);
        if (marked) {
            if (const uint64_t hits = _mm512_cmpeq_epi8_mask(ids, mark)) {
                patch(out, hits, escapes);
                if (escapes.missing) break;
            }
        }
    }
    lanes.at = at;
    for (int v = 0; v < 4; ++v) _mm512_storeu_si512(lanes.x + 16 * v, x[v]);
    return g;
}

size_t decode_large(Lanes &lanes, const uint32_t *table, const uint32_t *info, const uint16_t *ids, uint16_t *out,
                    size_t groups) {
    __m512i x[4];
    for (int v = 0; v < 4; ++v) x[v] = _mm512_loadu_si512(lanes.x + 16 * v);
    const __m512i mask = _mm512_set1_epi32(0xfff), byte = _mm512_set1_epi32(0xff), one = _mm512_set1_epi32(1);
    const uint8_t *at = lanes.at;
    size_t g = 0;
    for (; g < groups && lanes.end - at >= 256; ++g, out += kLanes) {
        __m512i e[4], i[4];
        for (int v = 0; v < 4; ++v) e[v] = _mm512_i32gather_epi32(_mm512_and_si512(x[v], mask), table, 4);
        for (int v = 0; v < 4; ++v) i[v] = _mm512_i32gather_epi32(_mm512_and_si512(e[v], byte), info, 4);
        for (int v = 0; v < 4; ++v) {
            const __m512i bits = _mm512_and_si512(i[v], _mm512_set1_epi32(31));
            const __m512i s = refill(advance(x[v], e[v]), at);
            const __m512i value = _mm512_and_si512(s, _mm512_sub_epi32(_mm512_sllv_epi32(one, bits), one));
            const __m512i index = _mm512_add_epi32(_mm512_srli_epi32(i[v], 5), value);
            x[v] = refill(_mm512_srlv_epi32(s, bits), at);
            const __m512i id = _mm512_i32gather_epi32(index, ids, 2);
            _mm256_storeu_si256(reinterpret_cast<__m256i *>(out + 16 * v), _mm512_cvtepi32_epi16(id));
        }
    }
    lanes.at = at;
    for (int v = 0; v < 4; ++v) _mm512_storeu_si512(lanes.x + 16 * v, x[v]);
    return g;
}

size_t decode_contexts(Lanes &lanes, const uint32_t *tables, const uint8_t *which, uint8_t *out, size_t groups) {
    __m512i x[4];
    for (int v = 0; v < 4; ++v) x[v] = _mm512_loadu_si512(lanes.x + 16 * v);
    const __m512i mask = _mm512_set1_epi32(0xfff);
    const uint8_t *at = lanes.at;
    size_t g = 0;
    for (; g < groups && lanes.end - at >= 128; ++g, out += kLanes, which += kLanes) {
        __m512i e[4];
        for (int v = 0; v < 4; ++v) {
            const __m512i own = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(which + 16 * v)));
            const __m512i slot = _mm512_or_si512(_mm512_slli_epi32(own, kNarrowBits), _mm512_and_si512(x[v], mask));
            e[v] = _mm512_i32gather_epi32(slot, tables, 4);
        }
        for (int v = 0; v < 4; ++v) {
            _mm_storeu_si128(reinterpret_cast<__m128i *>(out + 16 * v), _mm512_cvtepi32_epi8(e[v]));
            x[v] = refill(advance(x[v], e[v]), at);
        }
    }
    lanes.at = at;
    for (int v = 0; v < 4; ++v) _mm512_storeu_si512(lanes.x + 16 * v, x[v]);
    return g;
}

size_t decode_order1(Lanes &lanes, const uint32_t *tables, const uint32_t *which, uint8_t *out, size_t stride, size_t from,
                     size_t groups) {
    __m512i x[4], own[4];
    for (int v = 0; v < 4; ++v) x[v] = _mm512_loadu_si512(lanes.x + 16 * v);
    uint32_t first[kLanes];
    for (size_t l = 0; l < kLanes; ++l) first[l] = which[from ? out[l * stride + from - 1] : 0];
    for (int v = 0; v < 4; ++v) own[v] = _mm512_slli_epi32(_mm512_loadu_si512(first + 16 * v), kNarrowBits);
    const __m512i mask = _mm512_set1_epi32(0xfff), byte = _mm512_set1_epi32(0xff);
    const uint8_t *at = lanes.at;
    uint8_t block[64][kLanes];  // 64 steps, then written lane by lane
    size_t g = 0;
    while (g < groups && lanes.end - at >= 128) {
        size_t have = 0;
        for (; have < 64 && g + have < groups && lanes.end - at >= 128; ++have) {
            __m512i e[4];
            for (int v = 0; v < 4; ++v) {
                e[v] = _mm512_i32gather_epi32(_mm512_or_si512(own[v], _mm512_and_si512(x[v], mask)), tables, 4);
            }
            for (int v = 0; v < 4; ++v) {
                _mm_storeu_si128(reinterpret_cast<__m128i *>(block[have] + 16 * v), _mm512_cvtepi32_epi8(e[v]));
                own[v] = _mm512_slli_epi32(_mm512_i32gather_epi32(_mm512_and_si512(e[v], byte), which, 4), kNarrowBits);
                x[v] = refill(advance(x[v], e[v]), at);
            }
        }
        for (size_t l = 0; l < kLanes; ++l) {
            uint8_t *to = out + l * stride + from + g;
            for (size_t s = 0; s < have; ++s) to[s] = block[s][l];
        }
        g += have;
    }
    lanes.at = at;
    for (int v = 0; v < 4; ++v) _mm512_storeu_si512(lanes.x + 16 * v, x[v]);
    return g;
}

}  // namespace compand::rans::avx512
#endif

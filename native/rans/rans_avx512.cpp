#if COMPAND_X86
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12 warns about its own intrinsics (GCC bug 105593)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#define COMPAND_RANS_ISA avx512
#define COMPAND_RANS_OWN_ENCODE
#define COMPAND_RANS_OWN_BOTH
#define COMPAND_RANS_OWN_NARROW
#define COMPAND_RANS_OWN_CURVES
#define COMPAND_RANS_OWN_SPREAD
#define COMPAND_RANS_OWN_SMALL
#define COMPAND_RANS_OWN_LARGE
#define COMPAND_RANS_OWN_ORDER1
#include "rans_impl.hpp"
#include "halves_avx512.hpp"

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

// base[index], base of bytes, by two 256-bit gathers: on Zen 4 they are faster than one of 512 bits.
template <int kScale> inline __m512i gather(const void *base, __m512i index) {
    const __m256i low = _mm256_i32gather_epi32(static_cast<const int *>(base), _mm512_castsi512_si256(index), kScale);
    const __m256i high = _mm256_i32gather_epi32(static_cast<const int *>(base), _mm512_extracti64x4_epi64(index, 1), kScale);
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

// The low byte of each of 64 dwords.
inline __m512i low_bytes(const __m512i *e) {
    const __m512i spread = _mm512_mullo_epi32(_mm512_cvtepu8_epi32(_mm_setr_epi8(0, 16, 32, 48, 64, 80, 96, 112, 0, 16, 32, 48, 64, 80, 96, 112)),
                                              _mm512_set1_epi32(0x01010101));
    const __m512i index = _mm512_add_epi8(_mm512_set1_epi32(0x0c080400), spread);
    const __m512i a = _mm512_permutex2var_epi8(e[0], index, e[1]), b = _mm512_permutex2var_epi8(e[2], index, e[3]);
    return _mm512_inserti64x4(a, _mm512_castsi512_si256(b), 1);
}

// Writes 64 ids, escaped ones in the place of marks; false if there are too few of those.
inline bool put_ids(uint8_t *out, __m512i ids, __m512i mark, Escapes &escapes) {
    _mm512_storeu_si512(out, ids);
    if (escapes.mark < 0) return true;
    for (uint64_t hits = _mm512_cmpeq_epi8_mask(ids, mark); hits; hits &= hits - 1) {
        if (escapes.at == escapes.end) {
            escapes.missing = true;
            return false;
        }
        out[__builtin_ctzll(hits)] = *escapes.at++;
    }
    return true;
}

}  // namespace

size_t find_marked(const uint8_t *ids, size_t n, const uint8_t *marked, uint8_t *found) {
    __m512i table[4];
    for (int q = 0; q < 4; ++q) table[q] = _mm512_loadu_si512(marked + 64 * q);
    uint8_t *const start = found;
    size_t t = 0;
    for (; t + 64 <= n; t += 64) {
        const __m512i id = _mm512_loadu_si512(ids + t);
        const __m512i low = _mm512_permutex2var_epi8(table[0], id, table[1]), high = _mm512_permutex2var_epi8(table[2], id, table[3]);
        uint64_t hits = _mm512_test_epi8_mask(_mm512_mask_blend_epi8(_mm512_movepi8_mask(id), low, high), _mm512_set1_epi8(1));
        for (; hits; hits &= hits - 1) *found++ = ids[t + static_cast<size_t>(__builtin_ctzll(hits))];
    }
    for (; t < n; ++t) {
        if (marked[ids[t]]) *found++ = ids[t];
    }
    return static_cast<size_t>(found - start);
}

size_t decode_narrow(Lanes &lanes, const uint32_t *table, uint8_t *out, size_t groups, Escapes &escapes) {
    __m512i x[4];
    for (int v = 0; v < 4; ++v) x[v] = _mm512_loadu_si512(lanes.x + 16 * v);
    const __m512i mask = _mm512_set1_epi32(0xfff), mark = _mm512_set1_epi8(static_cast<char>(escapes.mark));
    const uint8_t *at = lanes.at;
    size_t g = 0;
    for (; g < groups && lanes.end - at >= 128; ++g, out += kLanes) {
        __m512i e[4];
        for (int v = 0; v < 4; ++v) e[v] = gather<4>(table, _mm512_and_si512(x[v], mask));
        for (int v = 0; v < 4; ++v) x[v] = refill(advance(x[v], e[v]), at);
        const __m512i ids = low_bytes(e);
        if (!put_ids(out, ids, mark, escapes)) break;
    }
    lanes.at = at;
    for (int v = 0; v < 4; ++v) _mm512_storeu_si512(lanes.x + 16 * v, x[v]);
    return g;
}

namespace {

// Entries of a table of 256 bytes, or of its first 128.
struct Quarters {
    __m512i q[4];
    explicit Quarters(const uint8_t *table) : q{_mm512_loadu_si512(table), _mm512_loadu_si512(table + 64), _mm512_loadu_si512(table + 128), _mm512_loadu_si512(table + 192)} {}
    template <bool kWide> __m512i pick(__m512i at) const {
        const __m512i low = _mm512_permutex2var_epi8(q[0], at, q[1]);
        if (!kWide) return low;
        return _mm512_mask_blend_epi8(_mm512_movepi8_mask(at), low, _mm512_permutex2var_epi8(q[2], at, q[3]));
    }
};

// kWide: more than 128 symbols.
template <bool kWide> inline size_t spread_groups(Lanes &lanes, const Spread &model, uint8_t *out, size_t groups, Escapes &escapes) {
    Halves x[2] = {load(lanes.x), load(lanes.x + 32)};
    const Quarters first(model.first), edge(model.edge), id(model.id);
    const Quarters start_low(model.start[0]), start_high(model.start[1]), f_low(model.f[0]), f_high(model.f[1]);
    const __m512i twelve = _mm512_set1_epi16(0xfff), four = _mm512_set1_epi8(15), one = _mm512_set1_epi8(1);
    const __m512i mark = _mm512_set1_epi8(static_cast<char>(escapes.mark)), packed = order(kOrders.packed_bytes), linear = order(kOrders.linear_qwords);
    const uint8_t *at = lanes.at;
    size_t g = 0;
    for (; g < groups && lanes.end - at >= 128; ++g, out += kLanes) {
        // 64 lanes as bytes in the order that unpacking brings back to words
        const __m512i slot[2] = {_mm512_and_si512(x[0].low, twelve), _mm512_and_si512(x[1].low, twelve)};
        const __m512i bucket = _mm512_packus_epi16(_mm512_srli_epi16(slot[0], 4), _mm512_srli_epi16(slot[1], 4));
        const __m512i inside = _mm512_and_si512(_mm512_permutex2var_epi8(x[0].low, packed, x[1].low), four);
        __m512i rank = first.pick<true>(bucket);
        rank = _mm512_mask_add_epi8(rank, _mm512_cmpge_epu8_mask(inside, edge.pick<true>(bucket)), rank, one);
        const __m512i fl = f_low.pick<kWide>(rank), fh = f_high.pick<kWide>(rank);
        const __m512i sl = start_low.pick<kWide>(rank), sh = start_high.pick<kWide>(rank);
        for (int h = 0; h < 2; ++h) {
            const __m512i f = h ? _mm512_unpackhi_epi8(fl, fh) : _mm512_unpacklo_epi8(fl, fh);
            const __m512i bias = _mm512_sub_epi16(slot[h], h ? _mm512_unpackhi_epi8(sl, sh) : _mm512_unpacklo_epi8(sl, sh));
            x[h] = refill(step(_mm512_shrdi_epi16(x[h].low, x[h].high, kNarrowBits), _mm512_srli_epi16(x[h].high, kNarrowBits), f, bias), at);
        }
        const __m512i ids = _mm512_permutexvar_epi64(linear, id.pick<kWide>(rank));
        if (!put_ids(out, ids, mark, escapes)) break;
    }
    lanes.at = at;
    for (int h = 0; h < 2; ++h) store(x[h], lanes.x + 32 * h);
    return g;
}

// kSteps: bounds to step over after the bucket's first symbol; 15: no buckets, compare with all.
template <int kSteps>
inline size_t small_groups(Lanes &lanes, const Small &model, uint8_t *out, size_t groups, Escapes &escapes) {
    Halves x[2] = {load(lanes.x), load(lanes.x + 32)};
    __m512i bound[16], next[kSteps];  // next[j]: of each symbol s, the bound of s + 1 + j
    for (int j = 1; j < 16; ++j) bound[j] = _mm512_set1_epi16(static_cast<short>(model.bounds[j]));
    alignas(64) uint16_t start[32] = {}, f[32] = {};
    for (int s = 0; s < 16; ++s) start[s] = static_cast<uint16_t>(model.entry[s]), f[s] = static_cast<uint16_t>(model.entry[s] >> 16);
    for (int j = 0; j < kSteps && kSteps < 15; ++j) {
        alignas(64) uint16_t after[32] = {};
        for (int i = 0; i < 16; ++i) after[i] = i + j < 15 ? model.bounds[i + j + 1] : 0xffff;
        next[j] = _mm512_load_si512(after);
    }
    const __m512i bucket = _mm512_loadu_si512(model.bucket), starts = _mm512_load_si512(start), fs = _mm512_load_si512(f);
    const __m512i id = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i *>(model.id)));
    const __m512i mask = _mm512_set1_epi16(static_cast<short>((1 << model.p) - 1)), by_p = _mm512_set1_epi16(static_cast<short>(model.p));
    const __m512i mark = _mm512_set1_epi8(static_cast<char>(escapes.mark)), one = _mm512_set1_epi16(1), zero = _mm512_setzero_si512();
    const __m128i p = _mm_cvtsi32_si128(model.p), to_bucket = _mm_cvtsi32_si128(model.p - 6);
    const uint8_t *at = lanes.at;
    size_t g = 0;
    for (; g < groups && lanes.end - at >= 128; ++g, out += kLanes) {
        __m512i symbol[2];
        for (int h = 0; h < 2; ++h) {
            const __m512i slot = _mm512_and_si512(x[h].low, mask);
            __m512i s = zero;
            if (kSteps == 15) {
                for (int j = 1; j < 16; ++j) s = _mm512_mask_add_epi16(s, _mm512_cmpge_epu16_mask(slot, bound[j]), s, one);
            } else {
                const __m512i first = _mm512_maskz_permutexvar_epi8(0x5555555555555555u, _mm512_srl_epi16(slot, to_bucket), bucket);
                s = first;
                for (int j = 0; j < kSteps; ++j) {
                    s = _mm512_mask_add_epi16(s, _mm512_cmpge_epu16_mask(slot, _mm512_permutexvar_epi16(first, next[j])), s, one);
                }
            }
            symbol[h] = s;
            const __m512i bias = _mm512_sub_epi16(slot, _mm512_permutexvar_epi16(s, starts));
            x[h] = refill(step(_mm512_shrdv_epi16(x[h].low, x[h].high, by_p), _mm512_srl_epi16(x[h].high, p),
                               _mm512_permutexvar_epi16(s, fs), bias), at);
        }
        const __m512i ids = _mm512_shuffle_epi8(id, _mm512_permutex2var_epi8(symbol[0], order(kOrders.bytes), symbol[1]));
        if (!put_ids(out, ids, mark, escapes)) break;
    }
    lanes.at = at;
    for (int h = 0; h < 2; ++h) store(x[h], lanes.x + 32 * h);
    return g;
}

}  // namespace

size_t decode_spread(Lanes &lanes, const Spread &model, uint8_t *out, size_t groups, Escapes &escapes) {
    return model.count > 128 ? spread_groups<true>(lanes, model, out, groups, escapes) : spread_groups<false>(lanes, model, out, groups, escapes);
}

size_t decode_small(Lanes &lanes, const Small &model, uint8_t *out, size_t groups, Escapes &escapes) {
    switch (model.steps) {
        case 0:
        case 1: return small_groups<1>(lanes, model, out, groups, escapes);
        case 2: return small_groups<2>(lanes, model, out, groups, escapes);
        case 3: return small_groups<3>(lanes, model, out, groups, escapes);
        case 4: return small_groups<4>(lanes, model, out, groups, escapes);
        default: return small_groups<15>(lanes, model, out, groups, escapes);
    }
}

size_t decode_curves(Lanes &lanes, const Curves &curves, uint8_t *symbols, uint8_t *values, size_t groups) {
    __m512i x[4];
    for (int v = 0; v < 4; ++v) x[v] = _mm512_loadu_si512(lanes.x + 16 * v);
    const __m512i mask = _mm512_set1_epi32(0x3fff), low16 = _mm512_set1_epi32(0xffff), byte = _mm512_set1_epi32(0xff);
    const __m512i one = _mm512_set1_epi32(1);
    const uint8_t *at = lanes.at, *const firsts = curves.curves + curves.at, *const starts = curves.curves + curves.start;
    const ptrdiff_t need = curves.raws ? 256 : 128;
    size_t t = 0;
    for (; t < groups * kLanes && lanes.end - at >= need; t += kLanes) {
        __m512i slot[4], s[4], both[4];
        for (int v = 0; v < 4; ++v) {
            const __m512i place = _mm512_loadu_si512(curves.place + t + 16 * static_cast<size_t>(v));
            slot[v] = _mm512_and_si512(x[v], mask);
            s[v] = _mm512_and_si512(gather<1>(firsts, _mm512_add_epi32(place, _mm512_srli_epi32(slot[v], 8))), byte);
        }
        for (int v = 0; v < 4; ++v) {
            const __m512i place = _mm512_loadu_si512(curves.place + t + 16 * static_cast<size_t>(v));
            // start of the symbol in the low half, of the next in the high half
            both[v] = gather<1>(starts, _mm512_add_epi32(place, _mm512_slli_epi32(s[v], 1)));
            for (;;) {
                const __mmask16 later = _mm512_cmpge_epu32_mask(slot[v], _mm512_srli_epi32(both[v], 16));
                if (!later) break;
                s[v] = _mm512_mask_add_epi32(s[v], later, s[v], one);
                both[v] = _mm512_mask_i32gather_epi32(both[v], later, _mm512_add_epi32(place, _mm512_slli_epi32(s[v], 1)), starts, 1);
            }
        }
        for (int v = 0; v < 4; ++v) {
            const size_t own = t + 16 * static_cast<size_t>(v);
            const __m512i start = _mm512_and_si512(both[v], low16), f = _mm512_sub_epi32(_mm512_srli_epi32(both[v], 16), start);
            _mm_storeu_si128(reinterpret_cast<__m128i *>(symbols + own), _mm512_cvtepi32_epi8(s[v]));
            x[v] = refill(_mm512_add_epi32(_mm512_mullo_epi32(f, _mm512_srli_epi32(x[v], 14)), _mm512_sub_epi32(slot[v], start)), at);
            if (curves.raws) {
                const __m512i bits = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(curves.raws + own)));
                const __m512i value = _mm512_and_si512(x[v], _mm512_sub_epi32(_mm512_sllv_epi32(one, bits), one));
                _mm_storeu_si128(reinterpret_cast<__m128i *>(values + own), _mm512_cvtepi32_epi8(value));
                x[v] = refill(_mm512_srlv_epi32(x[v], bits), at);
            }
        }
    }
    lanes.at = at;
    for (int v = 0; v < 4; ++v) _mm512_storeu_si512(lanes.x + 16 * v, x[v]);
    return t / kLanes;
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
        for (int v = 0; v < 4; ++v) e[v] = gather<4>(table, _mm512_and_si512(x[v], mask));
        for (int v = 0; v < 4; ++v) i[v] = gather<4>(info, _mm512_and_si512(e[v], byte));
        for (int v = 0; v < 4; ++v) {
            const __m512i bits = _mm512_and_si512(i[v], _mm512_set1_epi32(31));
            const __m512i s = refill(advance(x[v], e[v]), at);
            const __m512i value = _mm512_and_si512(s, _mm512_sub_epi32(_mm512_sllv_epi32(one, bits), one));
            const __m512i index = _mm512_add_epi32(_mm512_srli_epi32(i[v], 5), value);
            x[v] = refill(_mm512_srlv_epi32(s, bits), at);
            const __m512i id = gather<2>(ids, index);
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
            e[v] = gather<4>(tables, slot);
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
                e[v] = gather<4>(tables, _mm512_or_si512(own[v], _mm512_and_si512(x[v], mask)));
            }
            for (int v = 0; v < 4; ++v) {
                _mm_storeu_si128(reinterpret_cast<__m128i *>(block[have] + 16 * v), _mm512_cvtepi32_epi8(e[v]));
                own[v] = _mm512_slli_epi32(gather<4>(which, _mm512_and_si512(e[v], byte)), kNarrowBits);
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

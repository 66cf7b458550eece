#if COMPAND_X86
#include <immintrin.h>

#define COMPAND_RANS_ISA avx2
#define COMPAND_RANS_OWN_ENCODE
#define COMPAND_RANS_OWN_NARROW
#define COMPAND_RANS_OWN_SMALL
#define COMPAND_RANS_OWN_LARGE
#include "rans_impl.hpp"

namespace compand::rans::avx2 {
namespace {

constexpr int kVectors = kLanes / 8;

// For each set of 8 lanes: spread[set][l] = rank of lane l among the set; gathered[set] = the set's lanes, at the top.
struct Moves {
    alignas(64) uint8_t spread[256][8], gathered[256][8];
    constexpr Moves() : spread(), gathered() {
        for (int set = 0; set < 256; ++set) {
            int count = 0;
            for (int l = 0; l < 8; ++l) count += set >> l & 1;
            for (int l = 0, rank = 0; l < 8; ++l) {
                spread[set][l] = static_cast<uint8_t>(rank);
                if (set >> l & 1) gathered[set][8 - count + rank++] = static_cast<uint8_t>(l);
            }
        }
    }
};
constexpr Moves kMoves;

inline __m256i moves(const uint8_t *row) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(row))); }
inline __m256i load(const void *from) { return _mm256_loadu_si256(static_cast<const __m256i *>(from)); }
inline void store(void *to, __m256i v) { _mm256_storeu_si256(static_cast<__m256i *>(to), v); }

// Each lane below 2^16 takes the next word, in lane order. Reads 16 bytes.
inline __m256i refill(__m256i x, const uint8_t *&at) {
    const __m256i low = _mm256_cmpeq_epi32(_mm256_srli_epi32(x, 16), _mm256_setzero_si256());
    const auto set = static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(low)));
    const __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(at)));
    const __m256i filled = _mm256_or_si256(_mm256_slli_epi32(x, 16), _mm256_permutevar8x32_epi32(words, moves(kMoves.spread[set])));
    at += 2 * static_cast<size_t>(__builtin_popcount(set));
    return _mm256_blendv_epi8(x, filled, low);
}

inline __m256i advance(__m256i x, __m256i e) {
    const __m256i bias = _mm256_and_si256(_mm256_srli_epi32(e, 8), _mm256_set1_epi32(0xfff));
    return _mm256_add_epi32(_mm256_mullo_epi32(_mm256_srli_epi32(e, 20), _mm256_srli_epi32(x, kNarrowBits)), bias);
}

inline __m256i gather(const uint32_t *table, __m256i index) {
    return _mm256_i32gather_epi32(reinterpret_cast<const int *>(table), index, 4);
}

// The low byte of each of 32 dwords.
inline __m256i low_bytes(const __m256i *e) {
    const __m256i byte = _mm256_set1_epi32(0xff);
    const __m256i a = _mm256_packus_epi32(_mm256_and_si256(e[0], byte), _mm256_and_si256(e[1], byte));
    const __m256i b = _mm256_packus_epi32(_mm256_and_si256(e[2], byte), _mm256_and_si256(e[3], byte));
    return _mm256_permutevar8x32_epi32(_mm256_packus_epi16(a, b), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

// Writes 64 ids, escaped ones in the place of marks; false if there are too few of those.
inline bool put_ids(uint8_t *out, __m256i low, __m256i high, __m256i mark, Escapes &escapes) {
    store(out, low);
    store(out + 32, high);
    if (escapes.mark < 0) return true;
    const __m256i hit = _mm256_or_si256(_mm256_cmpeq_epi8(low, mark), _mm256_cmpeq_epi8(high, mark));
    if (_mm256_movemask_epi8(hit)) patch(out, escapes);
    return !escapes.missing;
}

// Pushes the chosen lanes out of x: their low words go below `out`, in lane order. Writes 8 words; those too many are below.
inline __m256i spill(__m256i x, __m256i full, uint16_t *&out) {
    const auto set = static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(full)));
    const __m256i top = _mm256_and_si256(_mm256_permutevar8x32_epi32(x, moves(kMoves.gathered[set])), _mm256_set1_epi32(0xffff));
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(top), _mm256_extracti128_si256(top, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i *>(out - 8), words);
    out -= __builtin_popcount(set);
    return _mm256_blendv_epi8(x, _mm256_srli_epi32(x, 16), full);
}

// (floor(s / f) << p) + start + s % f. The float quotient is within 1 for p >= 10, and is made exact by the remainder.
inline __m256i fold(__m256i s, __m256i f, __m256i start, __m128i shift) {
    const __m256i one = _mm256_set1_epi32(1), low16 = _mm256_set1_epi32(0xffff);
    const __m256 whole = _mm256_add_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_srli_epi32(s, 16)), _mm256_set1_ps(65536.0f)),
                                       _mm256_cvtepi32_ps(_mm256_and_si256(s, low16)));
    __m256i q = _mm256_cvttps_epi32(_mm256_div_ps(whole, _mm256_cvtepi32_ps(f)));
    __m256i r = _mm256_sub_epi32(s, _mm256_mullo_epi32(q, f));
    const __m256i below = _mm256_srai_epi32(r, 31);
    q = _mm256_add_epi32(q, below);
    r = _mm256_add_epi32(r, _mm256_and_si256(below, f));
    const __m256i above = _mm256_cmpgt_epi32(r, _mm256_sub_epi32(f, one));
    q = _mm256_sub_epi32(q, above);
    r = _mm256_sub_epi32(r, _mm256_and_si256(above, f));
    return _mm256_add_epi32(_mm256_sll_epi32(q, shift), _mm256_add_epi32(r, start));
}

// steps_of(g, v): the steps of the 8 lanes of vector v in group g.
template <bool kRaws, class Steps>
inline uint16_t *encode_groups(const Steps &steps_of, const uint32_t *raws, size_t groups, int p, uint32_t *state, uint16_t *out) {
    const __m128i shift = _mm_cvtsi32_si128(p), drop = _mm_cvtsi32_si128(32 - p);
    const __m256i low16 = _mm256_set1_epi32(0xffff), one = _mm256_set1_epi32(1), ones = _mm256_set1_epi32(-1);
    __m256i x[kVectors];
    for (int v = 0; v < kVectors; ++v) x[v] = load(state + 8 * v);
    for (size_t g = groups; g-- > 0;) {
        for (int pair = kVectors - 2; pair >= 0; pair -= 2) {  // 16 lanes: first all raw bits, then all steps
            for (int v = pair + 1; kRaws && v >= pair; --v) {
                const __m256i raw = load(raws + g * kLanes + 8 * static_cast<size_t>(v)), bits = _mm256_srli_epi32(raw, 16);
                const __m256i over = _mm256_srlv_epi32(x[v], _mm256_sub_epi32(_mm256_set1_epi32(32), bits));
                const __m256i full = _mm256_xor_si256(_mm256_cmpeq_epi32(over, _mm256_setzero_si256()), ones);
                x[v] = _mm256_or_si256(_mm256_sllv_epi32(spill(x[v], full, out), bits), _mm256_and_si256(raw, low16));
            }
            for (int v = pair + 1; v >= pair; --v) {
                const __m256i step = steps_of(g, v), f = _mm256_add_epi32(_mm256_srli_epi32(step, 16), one);
                // both sides are at most 2^16
                const __m256i less = _mm256_cmpgt_epi32(f, _mm256_srl_epi32(x[v], drop));
                x[v] = fold(spill(x[v], _mm256_xor_si256(less, ones), out), f, _mm256_and_si256(step, low16), shift);
            }
        }
    }
    for (int v = 0; v < kVectors; ++v) store(state + 8 * v, x[v]);
    return out;
}

}  // namespace

uint16_t *encode(const uint32_t *steps, const uint32_t *raws, size_t groups, int p, uint32_t *x, uint16_t *out) {
    const auto from = [steps](size_t g, int v) { return load(steps + g * kLanes + 8 * static_cast<size_t>(v)); };
    return raws ? encode_groups<true>(from, raws, groups, p, x, out) : encode_groups<false>(from, raws, groups, p, x, out);
}

uint16_t *encode_bytes(const uint8_t *ids, const uint32_t *steps, size_t, size_t groups, int p, uint32_t *x, uint16_t *out) {
    const auto from = [ids, steps](size_t g, int v) {
        const auto *at = reinterpret_cast<const __m128i *>(ids + g * kLanes + 8 * static_cast<size_t>(v));
        return gather(steps, _mm256_cvtepu8_epi32(_mm_loadl_epi64(at)));
    };
    return encode_groups<false>(from, nullptr, groups, p, x, out);
}

size_t decode_narrow(Lanes &lanes, const uint32_t *table, uint8_t *out, size_t groups, Escapes &escapes) {
    __m256i x[kVectors];
    for (int v = 0; v < kVectors; ++v) x[v] = load(lanes.x + 8 * v);
    const __m256i mask = _mm256_set1_epi32(0xfff), mark = _mm256_set1_epi8(static_cast<char>(escapes.mark));
    const uint8_t *at = lanes.at;
    size_t g = 0;
    for (; g < groups && lanes.end - at >= 128; ++g, out += kLanes) {
        __m256i e[kVectors];
        for (int v = 0; v < kVectors; ++v) e[v] = gather(table, _mm256_and_si256(x[v], mask));
        for (int v = 0; v < kVectors; ++v) x[v] = refill(advance(x[v], e[v]), at);
        if (!put_ids(out, low_bytes(e), low_bytes(e + 4), mark, escapes)) break;
    }
    lanes.at = at;
    for (int v = 0; v < kVectors; ++v) store(lanes.x + 8 * v, x[v]);
    return g;
}

size_t find_marked(const uint8_t *ids, size_t n, const uint8_t *marked, uint8_t *found) {
    size_t hits = 0;
    for (size_t t = 0; t < n; ++t) {
        if (marked[ids[t]]) found[hits++] = ids[t];
    }
    return hits;
}

size_t decode_small(Lanes &lanes, const Small &model, uint8_t *out, size_t groups, Escapes &escapes) {
    __m256i x[kVectors], last[16];  // last[j]: the slot before bound j, which fits 15 bits
    for (int v = 0; v < kVectors; ++v) x[v] = load(lanes.x + 8 * v);
    for (int j = 1; j < 16; ++j) last[j] = _mm256_set1_epi16(static_cast<short>(j < model.count ? model.bounds[j] - 1 : 0x7fff));
    const __m256i low = load(model.entry), high = load(model.entry + 8), zero = _mm256_setzero_si256();
    const __m256i id = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i *>(model.id)));
    const __m256i mask = _mm256_set1_epi32((1 << model.p) - 1), low16 = _mm256_set1_epi32(0xffff), seven = _mm256_set1_epi32(7);
    const __m256i mark = _mm256_set1_epi8(static_cast<char>(escapes.mark));
    const __m128i p = _mm_cvtsi32_si128(model.p);
    const uint8_t *at = lanes.at;
    size_t g = 0;
    for (; g < groups && lanes.end - at >= 128; ++g, out += kLanes) {
        __m256i symbol[kVectors / 2];
        for (int h = 0; h < kVectors / 2; ++h) {
            const __m256i slots = _mm256_packus_epi32(_mm256_and_si256(x[2 * h], mask), _mm256_and_si256(x[2 * h + 1], mask));
            __m256i s = zero;
            for (int j = 1; j < model.count; ++j) s = _mm256_sub_epi16(s, _mm256_cmpgt_epi16(slots, last[j]));
            symbol[h] = s;
        }
        for (int v = 0; v < kVectors; ++v) {
            const __m256i both = symbol[v / 2], s = v % 2 ? _mm256_unpackhi_epi16(both, zero) : _mm256_unpacklo_epi16(both, zero);
            const __m256i e = _mm256_blendv_epi8(_mm256_permutevar8x32_epi32(low, s), _mm256_permutevar8x32_epi32(high, s),
                                                 _mm256_cmpgt_epi32(s, seven));
            const __m256i base = _mm256_sub_epi32(_mm256_and_si256(x[v], mask), _mm256_and_si256(e, low16));
            x[v] = refill(_mm256_add_epi32(_mm256_mullo_epi32(_mm256_srli_epi32(e, 16), _mm256_srl_epi32(x[v], p)), base), at);
        }
        const auto bytes = [&](int h) {
            const __m256i both = _mm256_packus_epi16(symbol[2 * h], symbol[2 * h + 1]);
            return _mm256_shuffle_epi8(id, _mm256_permutevar8x32_epi32(both, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
        };
        if (!put_ids(out, bytes(0), bytes(1), mark, escapes)) break;
    }
    lanes.at = at;
    for (int v = 0; v < kVectors; ++v) store(lanes.x + 8 * v, x[v]);
    return g;
}

size_t decode_large(Lanes &lanes, const uint32_t *table, const uint32_t *info, const uint16_t *ids, uint16_t *out,
                    size_t groups) {
    __m256i x[kVectors];
    for (int v = 0; v < kVectors; ++v) x[v] = load(lanes.x + 8 * v);
    const __m256i mask = _mm256_set1_epi32(0xfff), byte = _mm256_set1_epi32(0xff), one = _mm256_set1_epi32(1);
    const __m256i low16 = _mm256_set1_epi32(0xffff), low5 = _mm256_set1_epi32(31);
    const uint8_t *at = lanes.at;
    size_t g = 0;
    for (; g < groups && lanes.end - at >= 256; ++g, out += kLanes) {
        __m256i e[kVectors], i[kVectors];
        for (int v = 0; v < kVectors; ++v) e[v] = gather(table, _mm256_and_si256(x[v], mask));
        for (int v = 0; v < kVectors; ++v) i[v] = gather(info, _mm256_and_si256(e[v], byte));
        for (int pair = 0; pair < kVectors; pair += 2) {
            __m256i id[2];
            for (int v = pair; v < pair + 2; ++v) x[v] = refill(advance(x[v], e[v]), at);
            for (int v = pair; v < pair + 2; ++v) {
                const __m256i bits = _mm256_and_si256(i[v], low5);
                const __m256i value = _mm256_and_si256(x[v], _mm256_sub_epi32(_mm256_sllv_epi32(one, bits), one));
                const __m256i index = _mm256_add_epi32(_mm256_srli_epi32(i[v], 5), value);
                id[v - pair] = _mm256_and_si256(_mm256_i32gather_epi32(reinterpret_cast<const int *>(ids), index, 2), low16);
                x[v] = refill(_mm256_srlv_epi32(x[v], bits), at);
            }
            store(out + 8 * pair, _mm256_permute4x64_epi64(_mm256_packus_epi32(id[0], id[1]), 0xd8));
        }
    }
    lanes.at = at;
    for (int v = 0; v < kVectors; ++v) store(lanes.x + 8 * v, x[v]);
    return g;
}

}  // namespace compand::rans::avx2
#endif

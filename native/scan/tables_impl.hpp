// Sums of table look-ups over blocks of 64 vectors, and what they offer to the queries. Below LEVEL 2 sums of columns, too.
#pragma once
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#if LEVEL
#include <immintrin.h>
#endif

#include "scan/rows_impl.hpp"

namespace compand::scan::ISA {
namespace {

// Offers 64 sums of one query, vector v at sums[v].
[[maybe_unused]] void offer(const Store &store, size_t block, Query &query, const int32_t *sums) {
    const float *gain = store.gain + block * kBlock, *term = store.term ? store.term + block * kBlock : nullptr;
    for (size_t v = 0; v < kBlock; ++v) {
        if (!(store.allow[block] >> v & 1)) continue;
        const auto id = static_cast<uint32_t>(store.origin + block * kBlock + v);
        float f = (static_cast<float>(sums[v]) + query.bias) * gain[v];
        if (term) f = f + query.factor * term[v];
        f = f + query.base;
        if (f > query.best->threshold) query.best->push(f, id);
    }
}

// The same of first columns, with bounds.
[[maybe_unused]] void offer_bounded(const Store &store, size_t block, Query &query, const int32_t *sums) {
    const Bounds &b = *store.bounds;
    for (size_t v = 0; v < kBlock; ++v) {
        if (!(store.allow[block] >> v & 1)) continue;
        const size_t id = block * kBlock + v;
        const int32_t sum = sums[v] + query.asked->first;
        float f = may_score(static_cast<float>(sum) * store.gain[id], b.rest[id], query.asked->rest);
        if (store.term) f = __builtin_fmaf(query.factor, store.term[id], f);
        if (!(f > query.cut)) continue;
        alignas(64) uint8_t room[kMaxGroups + 128];
        const uint8_t *row = whole_row(b, static_cast<uint32_t>(id), room);
        Candidate c{static_cast<uint32_t>(id), 0, sum, f};
        if (b.middle) {
            c.sum += query.asked->middle - query.asked->first + inner_rounded(query.asked->weights + b.lead, row + b.lead, kMiddle);
            if (!possible_again(store, c, query)) continue;
        }
        if (possible(store, c, row, query)) offer_exact(store, c, query);
    }
}

#if LEVEL < 2
// The ids of one group of a block, in the order of vectors.
void unpack(const Store &store, const uint8_t *at, size_t group, uint8_t *ids) {
    if (store.bits == 4) {
        at += group / 8 * 256;
        for (size_t v = 0; v < kBlock; ++v) ids[v] = at[v * 4 + group % 4] >> (group % 8 / 4 * 4) & 15;
    } else if (store.bits == 6) {
        at += group * 48;
        for (size_t q = 0; q < 16; ++q, at += 3) {  // 4 fields: vectors 2q, 32 + 2q, 2q + 1, 33 + 2q
            const uint32_t word = at[0] | at[1] << 8 | static_cast<uint32_t>(at[2]) << 16;
            ids[2 * q] = word & 63;
            ids[32 + 2 * q] = word >> 6 & 63;
            ids[2 * q + 1] = word >> 12 & 63;
            ids[33 + 2 * q] = word >> 18;
        }
    } else if (store.coded) {
        std::memcpy(ids, at + group * kBlock, kBlock);
    } else {
        at += group / 4 * 256;
        for (size_t v = 0; v < kBlock; ++v) ids[v] = at[v * 4 + group % 4];
    }
}
#endif

#if LEVEL == 2
// Offers 64 sums of one query, 16 vectors each, in order.
inline void offer_sums(const Store &store, size_t block, const Query &query, const __m512i (&sums)[4]) {
    const float *gain = store.gain + block * kBlock, *term = store.term ? store.term + block * kBlock : nullptr;
    const __m512 bias = _mm512_set1_ps(query.bias), least = _mm512_set1_ps(query.best->threshold), base = _mm512_set1_ps(query.base);
    __m512 f[4];
    uint64_t found = 0;
    for (size_t s = 0; s < 4; ++s) {
        f[s] = _mm512_mul_ps(_mm512_add_ps(_mm512_cvtepi32_ps(sums[s]), bias), _mm512_loadu_ps(gain + 16 * s));
        if (term) f[s] = _mm512_add_ps(f[s], _mm512_mul_ps(_mm512_set1_ps(query.factor), _mm512_loadu_ps(term + 16 * s)));
        f[s] = _mm512_add_ps(f[s], base);
        found |= static_cast<uint64_t>(_mm512_cmp_ps_mask(f[s], least, _CMP_GT_OQ)) << 16 * s;
    }
    found &= store.allow[block];
    if (!found) return;
    alignas(64) float scores[kBlock];
    for (size_t s = 0; s < 4; ++s) _mm512_store_ps(scores + 16 * s, f[s]);
    for (; found; found &= found - 1) {
        const auto v = static_cast<size_t>(std::countr_zero(found));
        if (scores[v] > query.best->threshold) query.best->push(scores[v], static_cast<uint32_t>(store.origin + block * kBlock + v));
    }
}

// What a score must pass before the base is added, or a little less, for roundings.
inline float least_of(const Query &query) {
    const float least = query.best->threshold - query.base;
    return least - (std::fabs(least) + std::fabs(query.base)) * 1e-6f;
}

// A sum of this block that is not above this cannot pass the threshold; negative: any may.
inline float hopeless(const Store &store, size_t block, const Query &query) {
    const float least = least_of(query) * store.inverse[block] - query.bias;
    return least - (std::fabs(least) + std::fabs(query.bias)) * 1e-6f - 1;
}

template <size_t Q> void offer_all(const Store &store, size_t block, const Query *queries, const __m512i (&sums)[Q][4]) {
    for (size_t q = 0; q < Q; ++q) {
        const float none = hopeless(store, block, queries[q]);
        if (none >= 0) {
            if (none > 2e9f) continue;
            const __m512i most = _mm512_max_epi32(_mm512_max_epi32(sums[q][0], sums[q][1]), _mm512_max_epi32(sums[q][2], sums[q][3]));
            if (!_mm512_cmpgt_epi32_mask(most, _mm512_set1_epi32(static_cast<int32_t>(none)))) continue;
        }
        offer_sums(store, block, queries[q], sums[q]);
    }
}

template <size_t Q>
inline __attribute__((always_inline)) void look_up_four(const Query *queries, size_t quad, const __m512i (&ids)[4], __m512i (&sums)[Q][4]) {
    for (size_t q = 0; q < Q; ++q) {
        const __m512i table = _mm512_loadu_si512(queries[q].tables + quad * 64);
        int32_t four;
        std::memcpy(&four, queries[q].weights + quad * 4, 4);
        const __m512i weight = _mm512_set1_epi32(four);
        for (size_t s = 0; s < 4; ++s) sums[q][s] = _mm512_dpbusd_epi32(sums[q][s], _mm512_permutexvar_epi8(ids[s], table), weight);
    }
}

template <size_t Q> void scan4(const Store &store, size_t first, size_t last, const Query *queries, size_t groups) {
    const size_t size = block_bytes(store.groups, 4);
    const __m512i low = _mm512_set1_epi8(15), place = _mm512_set1_epi32(0x30201000);
    const size_t quads = (groups + 3) / 4;
    for (size_t block = first; block < last; ++block) {
        if (!store.allow[block]) continue;
        const uint8_t *at = store.codes + block * size;
        __m512i sums[Q][4] = {};
        for (size_t quad = 0; quad < quads; quad += 2, at += 256) {
            __m512i lo[4], hi[4];
            for (size_t s = 0; s < 4; ++s) {
                const __m512i line = _mm512_loadu_si512(at + 64 * s);
                lo[s] = _mm512_ternarylogic_epi32(line, low, place, 0xEA);  // (line & low) | place
                hi[s] = _mm512_ternarylogic_epi32(_mm512_srli_epi16(line, 4), low, place, 0xEA);
            }
            look_up_four<Q>(queries, quad, lo, sums);
            if (quad + 1 < quads) look_up_four<Q>(queries, quad + 1, hi, sums);
        }
        offer_all<Q>(store, block, queries, sums);
    }
}

inline __attribute__((always_inline)) __m512i six_bits(const uint8_t *at) {  // 48 bytes (64 are read) to 64 ids; upper bits are not ids
    const __m512i spread = _mm512_set_epi64(0x00002f2e2d2c2b2a, 0x0000292827262524, 0x0000232221201f1e, 0x00001d1c1b1a1918,
                                            0x0000171615141312, 0x000011100f0e0d0c, 0x00000b0a09080706, 0x0000050403020100);
    const __m512i fields = _mm512_set1_epi64(0x2a241e18120c0600);
    return _mm512_multishift_epi64_epi8(fields, _mm512_permutexvar_epi8(spread, _mm512_loadu_si512(at)));
}

// One table, in registers: 64 entries are looked up by one permute, 256 by two of 128 and the upper bit of the id.
template <unsigned Bits> struct Table {
    __m512i a, b, c, d;

    explicit inline __attribute__((always_inline)) Table(const uint8_t *from) : a(_mm512_loadu_si512(from)) {
        if constexpr (Bits == 8) {
            b = _mm512_loadu_si512(from + 64), c = _mm512_loadu_si512(from + 128), d = _mm512_loadu_si512(from + 192);
            __asm__("" : "+v"(a), "+v"(b), "+v"(c), "+v"(d));  // loaded once: the compiler would do so at each use
        }
    }
    inline __attribute__((always_inline)) __m512i operator()(__m512i ids, __mmask64 upper) const {
        if constexpr (Bits == 6) return _mm512_permutexvar_epi8(ids, a);
        return _mm512_mask_blend_epi8(upper, _mm512_permutex2var_epi8(a, ids, b), _mm512_permutex2var_epi8(c, ids, d));
    }
};

// Ids of two groups of a block.
struct Pair {
    __m512i first, second;
    __mmask64 upper_first, upper_second;
};

template <unsigned Bits> inline __attribute__((always_inline)) Pair two_groups(const uint8_t *from) {
    if constexpr (Bits == 6) return {six_bits(from), six_bits(from + 48), 0, 0};
    const __m512i a = _mm512_loadu_si512(from), b = _mm512_loadu_si512(from + 64);
    return {a, b, _mm512_movepi8_mask(a), _mm512_movepi8_mask(b)};
}

// What two groups say of 64 vectors, summed: `all` adds pairs of bytes as 16-bit words, `odd` their upper bytes, which leaves the lower
// ones. Every sum is below 2^16 (see Index::make_tables).
struct Words {
    __m512i all, odd;
};

inline __attribute__((always_inline)) void add_words(__m512i &sum, __m512i x) {
    __asm__("vpaddw %1, %0, %0" : "+v"(sum) : "v"(x));  // the compiler would copy sums at each step
}

inline __attribute__((always_inline)) void add_bytes(Words &w, __m512i bytes) {
    add_words(w.all, bytes);
    add_words(w.odd, _mm512_srli_epi16(bytes, 8));
}

// What the tables of two groups say of one or two blocks.
template <unsigned Bits, size_t B> inline __attribute__((always_inline)) void look_up_two(Words &a, Words &b, const Pair &one, const Pair &two, const uint8_t *tables) {
    const Table<Bits> first(tables);
    __m512i x = first(one.first, one.upper_first), y = x;
    if constexpr (B > 1) y = first(two.first, two.upper_first);
    const Table<Bits> second(tables + (size_t{1} << Bits));
    add_bytes(a, _mm512_add_epi8(x, second(one.second, one.upper_second)));
    if constexpr (B > 1) add_bytes(b, _mm512_add_epi8(y, second(two.second, two.upper_second)));
}

// Whether any of 64 sums, in the places of place_of, may pass: times its share of the largest gain, a little more for roundings.
inline __attribute__((always_inline)) bool hopeful(const Store &store, size_t block, const Query &query, __m512i low, __m512i high) {
    const float least = least_of(query) * store.inverse[block] - 4, none = -query.bias;
    if (!(least >= 0 && none >= 0 && none < 65535)) return true;
    if (least >= 65535) return false;
    const __m512i zero = _mm512_set1_epi16(static_cast<int16_t>(static_cast<uint16_t>(none))), most = _mm512_set1_epi16(static_cast<int16_t>(static_cast<uint16_t>(least)));
    const uint16_t *shares = store.shares + block * kBlock;
    const __m512i a = _mm512_mulhi_epu16(_mm512_subs_epu16(low, zero), _mm512_loadu_si512(shares));
    const __m512i b = _mm512_mulhi_epu16(_mm512_subs_epu16(high, zero), _mm512_loadu_si512(shares + 32));
    return _mm512_cmpgt_epu16_mask(_mm512_max_epu16(a, b), most);
}

// Codewords of 6 or 8 bits, two blocks at a time (the last may stand alone), so that a table is loaded once for 128 vectors. Ids are
// unpacked one step ahead; 64 bytes past the end of codes are readable. Every sum has a name, as in sums8.
template <unsigned Bits, size_t Q, size_t B> void scan_words(const Store &store, size_t block, const Query *queries, size_t groups) {
    constexpr size_t line = 8 * Bits, k = size_t{1} << Bits;
    const size_t size = block_bytes(store.groups, Bits), last = (groups + 1) / 2 * 2;
    const uint8_t *at = store.codes + block * size, *tables[4];
    for (size_t q = 0; q < 4; ++q) tables[q] = queries[q < Q ? q : 0].tables;
    const __m512i zero = _mm512_setzero_si512();
    __m512i low[B][Q], high[B][Q];  // of 6 bits vectors 0..31 and 32..63, of 8 bits even and odd ones
    Pair one = two_groups<Bits>(at), two = one;
    if constexpr (B > 1) two = two_groups<Bits>(at + size);
    for (size_t c = 0, g = 0; c < kClasses; ++c) {
        const size_t end = std::min(class_end(store.groups, c), last);
        Words a0{zero, zero}, a1 = a0, a2 = a0, a3 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0;
        for (; g < end; g += 2) {
            const uint8_t *ahead = at + (g + 2 < last ? g + 2 : g) * line;
            const Pair next_one = two_groups<Bits>(ahead);
            Pair next_two = next_one;
            if constexpr (B > 1) next_two = two_groups<Bits>(ahead + size);
            look_up_two<Bits, B>(a0, b0, one, two, tables[0] + g * k);
            if constexpr (Q > 1) look_up_two<Bits, B>(a1, b1, one, two, tables[1] + g * k);
            if constexpr (Q > 2) look_up_two<Bits, B>(a2, b2, one, two, tables[2] + g * k);
            if constexpr (Q > 3) look_up_two<Bits, B>(a3, b3, one, two, tables[3] + g * k);
            one = next_one, two = next_two;
        }
        const auto keep = [&](size_t b, size_t q, const Words w) __attribute__((always_inline)) {
            const __m128i shift = _mm_cvtsi32_si128(queries[q].shift[c]);
            const __m512i even = _mm512_sll_epi16(_mm512_sub_epi16(w.all, _mm512_slli_epi16(w.odd, 8)), shift), uneven = _mm512_sll_epi16(w.odd, shift);
            low[b][q] = c ? _mm512_add_epi16(low[b][q], even) : even;
            high[b][q] = c ? _mm512_add_epi16(high[b][q], uneven) : uneven;
        };
        keep(0, 0, a0);
        if constexpr (B > 1) keep(1, 0, b0);
        if constexpr (Q > 1) keep(0, 1, a1);
        if constexpr (Q > 1 && B > 1) keep(1, 1, b1);
        if constexpr (Q > 2) keep(0, 2, a2);
        if constexpr (Q > 2 && B > 1) keep(1, 2, b2);
        if constexpr (Q > 3) keep(0, 3, a3);
        if constexpr (Q > 3 && B > 1) keep(1, 3, b3);
    }
    const __m512i first = _mm512_set_epi64(11, 10, 3, 2, 9, 8, 1, 0), second = _mm512_set_epi64(15, 14, 7, 6, 13, 12, 5, 4);
    for (size_t b = 0; b < B; ++b)
        for (size_t q = 0; q < Q; ++q) {
            __m512i even = low[b][q], odd = high[b][q];
            if (!hopeful(store, block + b, queries[q], even, odd)) continue;
            if (Bits == 8) {  // back into the order of vectors: pairs within 128 bits, then 128 bits
                const __m512i a = _mm512_unpacklo_epi16(even, odd), c = _mm512_unpackhi_epi16(even, odd);
                even = _mm512_permutex2var_epi64(a, first, c), odd = _mm512_permutex2var_epi64(a, second, c);
            }
            offer_sums(store, block + b, queries[q], {_mm512_cvtepu16_epi32(_mm512_castsi512_si256(even)), _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(even, 1)),
                                                      _mm512_cvtepu16_epi32(_mm512_castsi512_si256(odd)), _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(odd, 1))});
        }
}

template <unsigned Bits, size_t Q> void scan_words(const Store &store, size_t first, size_t last, const Query *queries, size_t groups) {
    size_t block = first;
    for (; block + 2 <= last; block += 2)
        if (store.allow[block] | store.allow[block + 1]) scan_words<Bits, Q, 2>(store, block, queries, groups);
    if (block < last && store.allow[block]) scan_words<Bits, Q, 1>(store, block, queries, groups);
}

#elif LEVEL == 1
void add_bytes(__m256i bytes, __m256i weight, int32_t *sums) {  // 32 bytes times a weight of -128..127
    for (int h = 0; h < 2; ++h) {
        const __m256i wide = _mm256_cvtepu8_epi16(h ? _mm256_extracti128_si256(bytes, 1) : _mm256_castsi256_si128(bytes));
        const __m256i low = _mm256_mullo_epi16(wide, weight), high = _mm256_mulhi_epi16(wide, weight);
        const __m256i a = _mm256_unpacklo_epi16(low, high), b = _mm256_unpackhi_epi16(low, high);
        auto *out = reinterpret_cast<__m256i *>(sums + 16 * h);
        const __m256i first = _mm256_permute2x128_si256(a, b, 0x20), second = _mm256_permute2x128_si256(a, b, 0x31);
        _mm256_store_si256(out, _mm256_add_epi32(_mm256_load_si256(out), first));
        _mm256_store_si256(out + 1, _mm256_add_epi32(_mm256_load_si256(out + 1), second));
    }
}

__m256i sixteen(const uint8_t *table, __m256i ids) {
    const __m256i row = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i *>(table)));
    return _mm256_shuffle_epi8(row, ids);
}

__m256i look_up(const Store &store, const uint8_t *tables, size_t group, __m256i ids) {
    if (!store.coded) return ids;
    if (store.bits == 4) return sixteen(tables + group * 16, ids);
    const uint8_t *table = tables + group * 64;
    const __m256i low = _mm256_and_si256(ids, _mm256_set1_epi8(15));
    const __m256i bit4 = _mm256_slli_epi16(ids, 3), bit5 = _mm256_slli_epi16(ids, 2);  // to the sign of each byte
    const __m256i a = _mm256_blendv_epi8(sixteen(table, low), sixteen(table + 16, low), bit4);
    const __m256i b = _mm256_blendv_epi8(sixteen(table + 32, low), sixteen(table + 48, low), bit4);
    return _mm256_blendv_epi8(a, b, bit5);
}
#endif

#if LEVEL < 2
[[maybe_unused]] void add_entries(const uint8_t *table, int32_t weight, const uint8_t *ids, int32_t *sums) {
    for (size_t v = 0; v < kBlock; ++v) sums[v] += weight * table[ids[v]];
}

void scan_blocks(const Store &store, size_t first, size_t last, Query *queries, size_t count, size_t groups) {
    const size_t size = block_bytes(store.groups, store.bits);
    for (size_t i = first; i < last; ++i) {
        const size_t block = store.bounds ? store.start + i * store.step % store.length : i;
        if (!store.allow[block]) continue;
        alignas(64) int32_t sums[kQueries][kBlock] = {};
        for (size_t g = 0; g < groups; ++g) {
            alignas(64) uint8_t ids[kBlock];
            unpack(store, store.codes + block * size, g, ids);
            for (size_t q = 0; q < count; ++q) {
#if LEVEL == 1
                if (store.coded && store.bits == 8) {
                    add_entries(queries[q].tables + (g << 8), queries[q].weights[g], ids, sums[q]);
                    continue;
                }
                for (size_t h = 0; h < 2; ++h) {
                    const __m256i half = _mm256_load_si256(reinterpret_cast<const __m256i *>(ids) + h);
                    add_bytes(look_up(store, queries[q].tables, g, half), _mm256_set1_epi16(queries[q].weights[g]), sums[q] + 32 * h);
                }
#else
                const int32_t weight = queries[q].weights[g];
                const uint8_t *table = queries[q].tables + (g << store.bits);
                if (!store.coded)
                    for (size_t v = 0; v < kBlock; ++v) sums[q][v] += weight * ids[v];
                else
                    add_entries(table, weight, ids, sums[q]);
#endif
            }
        }
        for (size_t q = 0; q < count; ++q) store.bounds ? offer_bounded(store, block, queries[q], sums[q]) : offer(store, block, queries[q], sums[q]);
    }
}
#endif

}  // namespace

}  // namespace compand::scan::ISA

// Body of scan.hpp. LEVEL 2: AVX-512 with VBMI and VNNI; 1: AVX2; 0: plain C++. All give the same hits.
#include <algorithm>
#include <bit>
#include <cstring>
#if LEVEL
#include <immintrin.h>
#endif

#include "scan/scan.hpp"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 warns about its own _mm512_undefined
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

namespace compand::scan::ISA {
namespace {

constexpr size_t kLanes = 16;
typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));

inline void widen(const uint8_t *ids, Floats &out) {
#if LEVEL == 2
    const __m512 f = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(ids))));
    std::memcpy(&out, &f, sizeof out);
#else
    for (size_t j = 0; j < kLanes; ++j) out[j] = static_cast<float>(ids[j]);
#endif
}

// sum_j query[j] * (row[j] + zero) over a multiple of 64 columns: 64 partial sums, joined pairwise; products rounded.
float inner(const float *query, const uint8_t *row, size_t columns, float zero) {
    Floats sums[4] = {};
    for (size_t at = 0; at < columns; at += 4 * kLanes)
        for (size_t c = 0; c < 4; ++c) {
            Floats q, ids;
            widen(row + at + c * kLanes, ids);
            std::memcpy(&q, query + at + c * kLanes, sizeof q);
            sums[c] += q * (ids + zero);
        }
    const Floats all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    float lane[kLanes];
    std::memcpy(lane, &all, sizeof lane);
    for (size_t half = kLanes / 2; half; half /= 2)
        for (size_t j = 0; j < half; ++j) lane[j] += lane[j + half];
    return lane[0];
}

int32_t inner_rounded(const int8_t *weights, const uint8_t *row, size_t columns) {
#if LEVEL == 2
    __m512i sum = _mm512_setzero_si512();
    for (size_t at = 0; at < columns; at += 64) sum = _mm512_dpbusd_epi32(sum, _mm512_loadu_si512(row + at), _mm512_loadu_si512(weights + at));
    return _mm512_reduce_add_epi32(sum);
#else
    int32_t sum = 0;
    for (size_t j = 0; j < columns; ++j) sum += weights[j] * row[j];
    return sum;
#endif
}

// A bound f of a vector, with the margin of its block, is worth a look if it passes the k-th best score: both in steps.
inline float least(const Query &query) {
    const float score = query.best->threshold * query.asked->inverse, slack = score < 0 ? score * -1e-6f : score * 1e-6f;
    return slack < 3e38f ? score - slack : score;
}
inline float margin(const Store &store, size_t block, const Asked &asked) {
    const float *most = store.bounds->most + 4 * block;
    return asked.first_error * most[0] + asked.one * most[1] + asked.term * most[2];
}

// The row of a vector, 64 bytes more than its columns readable.
inline const uint8_t *whole_row(const Bounds &b, uint32_t id, uint8_t *room) {
    const uint8_t *row = b.rows + static_cast<size_t>(id) * b.stride;
    if ((b.n - id) * b.stride >= b.columns + 128) return row;
    std::memset(room, 0, b.columns + 128);
    std::memcpy(room, row, b.columns);
    return room;
}

__attribute__((noinline)) void offer_exact(const Store &store, uint32_t id, const Query &query) {
    const Bounds &b = *store.bounds;
    alignas(64) uint8_t room[kMaxGroups + 128];
    float score = inner(query.asked->query, whole_row(b, id, room), (b.columns + 63) / 64 * 64, b.zero) * store.gain[id];
    if (store.term) score = score + query.asked->factor * store.term[id];
    if (score >= query.best->threshold) query.best->push(score, id);
}

// Whether all columns, in integers, leave a vector possible whose first columns gave `sum`.
inline bool possible(const Store &store, uint32_t id, int32_t sum, const uint8_t *row, const Query &query, float most) {
    const Bounds &b = *store.bounds;
    const Asked &asked = *query.asked;
    sum += inner_rounded(asked.weights + b.lead, row + b.lead, b.columns - b.lead);
    float f = (static_cast<float>(sum) + asked.bias) * store.gain[id] + asked.error * (b.most[id / kBlock * 4] + b.rest[id]);
    if (store.term) f += query.factor * store.term[id];
    return f > most;
}

// Offers 64 sums of one query, vector v at sums[v].
[[maybe_unused]] void offer(const Store &store, size_t block, const Query &query, const int32_t *sums) {
    const float *gain = store.gain + block * kBlock, *term = store.term ? store.term + block * kBlock : nullptr;
    const float extra = store.bounds ? margin(store, block, *query.asked) : 0;
    for (size_t v = 0; v < kBlock; ++v) {
        if (!(store.allow[block] >> v & 1)) continue;
        float f = (static_cast<float>(sums[v]) + query.bias) * gain[v];
        if (term) f = f + query.factor * term[v];
        if (store.bounds) {
            const auto id = static_cast<uint32_t>(block * kBlock + v);
            alignas(64) uint8_t room[kMaxGroups + 128];
            if (f + query.asked->rest * store.bounds->rest[id] + extra > least(query) &&
                possible(store, id, sums[v], whole_row(*store.bounds, id, room), query, least(query) - extra))
                offer_exact(store, id, query);
            continue;
        }
        if (f > query.best->threshold) query.best->push(f, static_cast<uint32_t>(block * kBlock + v));
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
    } else {
        at += group / 4 * 256;
        for (size_t v = 0; v < kBlock; ++v) ids[v] = at[v * 4 + group % 4];
    }
}
#endif

#if LEVEL == 2
template <size_t Q>  // sums of 16 vectors each, in order
void offer_sums(const Store &store, size_t block, const Query *queries, const __m512i (&sums)[Q][4]) {
    const float *gain = store.gain + block * kBlock;
    for (size_t q = 0; q < Q; ++q) {
        const __m512 bias = _mm512_set1_ps(queries[q].bias), least = _mm512_set1_ps(queries[q].best->threshold);
        __m512 f[4];
        uint64_t found = 0;
        for (size_t s = 0; s < 4; ++s) {
            f[s] = _mm512_mul_ps(_mm512_add_ps(_mm512_cvtepi32_ps(sums[q][s]), bias), _mm512_loadu_ps(gain + 16 * s));
            if (store.term) {
                const __m512 term = _mm512_loadu_ps(store.term + block * kBlock + 16 * s);
                f[s] = _mm512_add_ps(f[s], _mm512_mul_ps(_mm512_set1_ps(queries[q].factor), term));
            }
            found |= static_cast<uint64_t>(_mm512_cmp_ps_mask(f[s], least, _CMP_GT_OQ)) << 16 * s;
        }
        found &= store.allow[block];
        if (!found) continue;
        alignas(64) float scores[kBlock];
        for (size_t s = 0; s < 4; ++s) _mm512_store_ps(scores + 16 * s, f[s]);
        for (; found; found &= found - 1) {
            const auto v = static_cast<size_t>(std::countr_zero(found));
            if (scores[v] > queries[q].best->threshold) queries[q].best->push(scores[v], static_cast<uint32_t>(block * kBlock + v));
        }
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
        offer_sums<Q>(store, block, queries, sums);
    }
}

struct Four {
    __m512i a, b, c, d;
};

// Sums of 64 vectors for each query. Every sum has a name: arrays of them the compiler copies at each step.
template <size_t Q>
inline __attribute__((always_inline)) void sums8(const uint8_t *at, const Query *queries, size_t quads, __m512i (&sums)[Q][4]) {
    const __m512i zero = _mm512_setzero_si512();
    Four one{zero, zero, zero, zero}, two = one, three = one, four = one;
    const int8_t *weights[4];
    for (size_t q = 0; q < 4; ++q) weights[q] = queries[q < Q ? q : 0].weights;
    for (size_t quad = 0; quad < quads; ++quad, at += 256) {
        const __m512i a = _mm512_loadu_si512(at), b = _mm512_loadu_si512(at + 64), c = _mm512_loadu_si512(at + 128), d = _mm512_loadu_si512(at + 192);
        const auto step = [&](Four &sum, const int8_t *from) __attribute__((always_inline)) {
            int32_t bytes;
            std::memcpy(&bytes, from + quad * 4, 4);
            const __m512i w = _mm512_set1_epi32(bytes);
            sum.a = _mm512_dpbusd_epi32(sum.a, a, w);
            sum.b = _mm512_dpbusd_epi32(sum.b, b, w);
            sum.c = _mm512_dpbusd_epi32(sum.c, c, w);
            sum.d = _mm512_dpbusd_epi32(sum.d, d, w);
        };
        step(one, weights[0]);
        if constexpr (Q > 1) step(two, weights[1]);
        if constexpr (Q > 2) step(three, weights[2]);
        if constexpr (Q > 3) step(four, weights[3]);
    }
    const auto keep = [&](size_t q, const Four &sum) { sums[q][0] = sum.a, sums[q][1] = sum.b, sums[q][2] = sum.c, sums[q][3] = sum.d; };
    keep(0, one);
    if constexpr (Q > 1) keep(1, two);
    if constexpr (Q > 2) keep(2, three);
    if constexpr (Q > 3) keep(3, four);
}

template <size_t Q> void scan8(const Store &store, size_t first, size_t last, const Query *queries, size_t groups) {
    const size_t size = block_bytes(store.groups, 8), quads = (groups + 3) / 4;
    for (size_t block = first; block < last; ++block) {
        if (!store.allow[block]) continue;
        __m512i sums[Q][4];
        sums8<Q>(store.codes + block * size, queries, quads, sums);
        offer_sums<Q>(store, block, queries, sums);
    }
}

// With bounds: vectors that the first columns leave possible are looked at a block later, when their rows have come from memory.
template <size_t Q> void scan8_bounded(const Store &store, size_t first, size_t last, const Query *queries, size_t groups) {
    struct Candidate {
        uint32_t id, query;
        int32_t sum;
    } candidates[2][Q * kBlock];
    const Bounds &b = *store.bounds;
    const size_t size = block_bytes(store.groups, 8), quads = (groups + 3) / 4;
    size_t count[2] = {};
    for (size_t block = first; block <= last; ++block) {
        const size_t turn = block & 1;
        count[turn] = 0;
        if (block < last && store.allow[block]) {
            __m512i sums[Q][4];
            sums8<Q>(store.codes + block * size, queries, quads, sums);
            const float *gain = store.gain + block * kBlock, *rest = b.rest + block * kBlock;
            for (size_t q = 0; q < Q; ++q) {
                const Asked &asked = *queries[q].asked;
                const __m512 bias = _mm512_set1_ps(queries[q].bias), lowest = _mm512_set1_ps(least(queries[q]) - margin(store, block, asked));
                const __m512 far = _mm512_set1_ps(asked.rest), factor = _mm512_set1_ps(queries[q].factor);
                uint64_t found = 0;
                for (size_t s = 0; s < 4; ++s) {
                    __m512 f = _mm512_mul_ps(_mm512_add_ps(_mm512_cvtepi32_ps(sums[q][s]), bias), _mm512_loadu_ps(gain + 16 * s));
                    f = _mm512_fmadd_ps(far, _mm512_loadu_ps(rest + 16 * s), f);
                    if (store.term) f = _mm512_fmadd_ps(factor, _mm512_loadu_ps(store.term + block * kBlock + 16 * s), f);
                    found |= static_cast<uint64_t>(_mm512_cmp_ps_mask(f, lowest, _CMP_GT_OQ)) << 16 * s;
                }
                found &= store.allow[block];
                if (!found) continue;
                alignas(64) int32_t sum[kBlock];
                for (size_t s = 0; s < 4; ++s) _mm512_store_si512(sum + 16 * s, sums[q][s]);
                for (; found; found &= found - 1) {
                    const auto v = static_cast<size_t>(std::countr_zero(found));
                    const size_t id = block * kBlock + v;
                    const uint8_t *row = b.rows + id * b.stride + b.lead;
                    for (size_t j = 0; j < b.columns - b.lead; j += 64) _mm_prefetch(reinterpret_cast<const char *>(row + j), _MM_HINT_T0);
                    candidates[turn][count[turn]++] = {static_cast<uint32_t>(id), static_cast<uint32_t>(q), sum[v]};
                }
            }
        }
        if (block == first) continue;
        alignas(64) uint8_t room[kMaxGroups + 128];
        for (size_t i = 0; i < count[turn ^ 1]; ++i) {
            const Candidate &c = candidates[turn ^ 1][i];
            const Query &query = queries[c.query];
            if (possible(store, c.id, c.sum, whole_row(b, c.id, room), query, least(query) - margin(store, block - 1, *query.asked)))
                offer_exact(store, c.id, query);
        }
    }
}

inline __attribute__((always_inline)) __m512i six_bits(const uint8_t *at) {  // 48 bytes (64 are read) to 64 ids; upper bits are not ids
    const __m512i spread = _mm512_set_epi64(0x00002f2e2d2c2b2a, 0x0000292827262524, 0x0000232221201f1e, 0x00001d1c1b1a1918,
                                            0x0000171615141312, 0x000011100f0e0d0c, 0x00000b0a09080706, 0x0000050403020100);
    const __m512i fields = _mm512_set1_epi64(0x2a241e18120c0600);
    return _mm512_multishift_epi64_epi8(fields, _mm512_permutexvar_epi8(spread, _mm512_loadu_si512(at)));
}

// Two blocks at a time (the last may stand alone), so that a table is loaded once for 128 vectors. Every sum is below 2^16
// (see Index::make_tables): `all` adds pairs of bytes as 16-bit words, `odd` their upper bytes, which leaves the lower ones.
template <size_t Q, size_t B> void scan6_blocks(const Store &store, size_t block, const Query *queries, size_t groups) {
    const size_t size = block_bytes(store.groups, 6), last = (groups + 1) / 2 * 2;
    const uint8_t *at = store.codes + block * size;
    __m512i low[B][Q], high[B][Q];  // vectors 0..31 and 32..63
    for (size_t c = 0, g = 0; c < kClasses; ++c) {
        const size_t end = std::min(class_end(store.groups, c), last);
        __m512i all[B][Q] = {}, odd[B][Q] = {};
        for (; g < end; g += 2) {
            __m512i ids[B][2];
            for (size_t b = 0; b < B; ++b) {
                ids[b][0] = six_bits(at + b * size + g * 48);
                ids[b][1] = six_bits(at + b * size + g * 48 + 48);
            }
            for (size_t q = 0; q < Q; ++q) {
                const __m512i one = _mm512_loadu_si512(queries[q].tables + g * 64), two = _mm512_loadu_si512(queries[q].tables + g * 64 + 64);
                for (size_t b = 0; b < B; ++b) {
                    const __m512i sum = _mm512_add_epi8(_mm512_permutexvar_epi8(ids[b][0], one), _mm512_permutexvar_epi8(ids[b][1], two));
                    all[b][q] = _mm512_add_epi16(all[b][q], sum);
                    odd[b][q] = _mm512_add_epi16(odd[b][q], _mm512_srli_epi16(sum, 8));
                }
            }
        }
        for (size_t b = 0; b < B; ++b)
            for (size_t q = 0; q < Q; ++q) {
                const __m128i shift = _mm_cvtsi32_si128(queries[q].shift[c]);
                const __m512i even = _mm512_sll_epi16(_mm512_sub_epi16(all[b][q], _mm512_slli_epi16(odd[b][q], 8)), shift);
                const __m512i upper = _mm512_sll_epi16(odd[b][q], shift);
                low[b][q] = c ? _mm512_add_epi16(low[b][q], even) : even;
                high[b][q] = c ? _mm512_add_epi16(high[b][q], upper) : upper;
            }
    }
    for (size_t b = 0; b < B; ++b) {
        __m512i sums[Q][4];
        for (size_t q = 0; q < Q; ++q) {
            sums[q][0] = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(low[b][q]));
            sums[q][1] = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(low[b][q], 1));
            sums[q][2] = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(high[b][q]));
            sums[q][3] = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(high[b][q], 1));
        }
        offer_sums<Q>(store, block + b, queries, sums);
    }
}

template <size_t Q> void scan6(const Store &store, size_t first, size_t last, const Query *queries, size_t groups) {
    size_t block = first;
    for (; block + 2 <= last; block += 2)
        if (store.allow[block] | store.allow[block + 1]) scan6_blocks<Q, 2>(store, block, queries, groups);
    if (block < last && store.allow[block]) scan6_blocks<Q, 1>(store, block, queries, groups);
}

template <size_t Q> void scan_bits(const Store &store, size_t first, size_t last, const Query *queries, size_t groups) {
    if (store.bits == 4) scan4<Q>(store, first, last, queries, groups);
    if (store.bits == 6) scan6<Q>(store, first, last, queries, groups);
    if (store.bits == 8 && !store.bounds) scan8<Q>(store, first, last, queries, groups);
    if (store.bits == 8 && store.bounds) scan8_bounded<Q>(store, first, last, queries, groups);
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
    if (store.bits == 8) return ids;
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
void scan_blocks(const Store &store, size_t first, size_t last, const Query *queries, size_t count, size_t groups) {
    const size_t size = block_bytes(store.groups, store.bits);
    for (size_t block = first; block < last; ++block) {
        if (!store.allow[block]) continue;
        alignas(64) int32_t sums[kQueries][kBlock] = {};
        for (size_t g = 0; g < groups; ++g) {
            alignas(64) uint8_t ids[kBlock];
            unpack(store, store.codes + block * size, g, ids);
            for (size_t q = 0; q < count; ++q) {
#if LEVEL == 1
                for (size_t h = 0; h < 2; ++h) {
                    const __m256i half = _mm256_load_si256(reinterpret_cast<const __m256i *>(ids) + h);
                    add_bytes(look_up(store, queries[q].tables, g, half), _mm256_set1_epi16(queries[q].weights[g]), sums[q] + 32 * h);
                }
#else
                const int32_t weight = queries[q].weights[g];
                const uint8_t *table = queries[q].tables + (g << store.bits);
                if (store.bits == 8)
                    for (size_t v = 0; v < kBlock; ++v) sums[q][v] += weight * ids[v];
                else
                    for (size_t v = 0; v < kBlock; ++v) sums[q][v] += weight * table[ids[v]];
#endif
            }
        }
        for (size_t q = 0; q < count; ++q) offer(store, block, queries[q], sums[q]);
    }
}
#endif

}  // namespace

void scan(const Store &store, size_t first, size_t last, const Query *queries, size_t count, size_t groups) {
#if LEVEL == 2
    if (count == 1) scan_bits<1>(store, first, last, queries, groups);
    if (count == 2) scan_bits<2>(store, first, last, queries, groups);
    if (count == 3) scan_bits<3>(store, first, last, queries, groups);
    if (count == 4) scan_bits<4>(store, first, last, queries, groups);
#else
    scan_blocks(store, first, last, queries, count, groups);
#endif
}

namespace {
template <size_t K> void products_of(const float *x, const float *table, size_t d, float *out) {  // sums stay in registers
    typedef float Line __attribute__((vector_size(64)));
    Line sums[K / 16] = {};
    for (size_t j = 0; j < d; ++j)
        for (size_t c = 0; c < K / 16; ++c) {
            Line words;
            std::memcpy(&words, table + j * K + c * 16, sizeof words);
            sums[c] += x[j] * words;
        }
    std::memcpy(out, sums, sizeof sums);
}
}  // namespace
void sums_of(const float *query, const uint8_t *rows, size_t n, size_t columns, float zero, const int64_t *ids, size_t m, float *out) {
    const Bounds all{rows, columns, n, columns, 0, nullptr, nullptr, zero};
    const size_t padded = (columns + 63) / 64 * 64;
    alignas(64) uint8_t room[kMaxGroups + 128];
    alignas(64) float whole[kMaxGroups];
    std::memset(whole, 0, padded * sizeof(float));
    std::memcpy(whole, query, columns * sizeof(float));
    for (size_t i = 0; i < m; ++i) {
        constexpr size_t ahead = 8;
        if (i + ahead < m)
            for (size_t j = 0; j < columns; j += 64) __builtin_prefetch(rows + static_cast<size_t>(ids[i + ahead]) * columns + j);
        out[i] = inner(whole, whole_row(all, static_cast<uint32_t>(ids[i]), room), padded, zero);
    }
}

float length(const uint8_t *row, const float *units, size_t columns, float zero) {
    Floats sums = {};
    float total = 0;
    size_t j = 0;
    for (; j + kLanes <= columns; j += kLanes) {
        Floats unit, ids;
        widen(row + j, ids);
        std::memcpy(&unit, units + j, sizeof unit);
        const Floats v = unit * (ids + zero);
        sums += v * v;
    }
    for (; j < columns; ++j) {
        const float v = units[j] * (static_cast<float>(row[j]) + zero);
        total += v * v;
    }
    for (size_t l = 0; l < kLanes; ++l) total += sums[l];
    return __builtin_sqrtf(total) * 1.00001f;
}

void products(const float *x, const float *table, size_t d, size_t k, float *out) {
    if (k == 16) return products_of<16>(x, table, d, out);
    if (k == 64) return products_of<64>(x, table, d, out);
    for (size_t c = 0; c < k; ++c) out[c] = 0;
    for (size_t j = 0; j < d; ++j)
        for (size_t c = 0; c < k; ++c) out[c] += x[j] * table[j * k + c];
}

void bounds(const float *table, size_t k, float *least, float *most) {
    constexpr size_t lanes = 16;
    alignas(64) float low[lanes], high[lanes];
    for (size_t l = 0; l < lanes; ++l) low[l] = high[l] = table[l];
    for (size_t c = lanes; c + lanes <= k; c += lanes)
        for (size_t l = 0; l < lanes; ++l) {
            low[l] = table[c + l] < low[l] ? table[c + l] : low[l];
            high[l] = table[c + l] > high[l] ? table[c + l] : high[l];
        }
    for (size_t half = lanes / 2; half; half /= 2)
        for (size_t l = 0; l < half; ++l) {
            low[l] = low[l + half] < low[l] ? low[l + half] : low[l];
            high[l] = high[l + half] > high[l] ? high[l + half] : high[l];
        }
    *least = low[0], *most = high[0];
}

void round(const float *table, size_t k, float least, float scale, float most, uint8_t *out) {
    for (size_t c = 0; c < k; ++c) {
        float v = (table[c] - least) * scale + 0.5f;
        v = v < most ? v : most;
        out[c] = static_cast<uint8_t>(static_cast<int32_t>(v));
    }
}

namespace {
// The best of `from` lanes into the lower half of them, equal scores by the lower id.
#define COMPAND_HALVE(...)                                                                   \
    {                                                                                        \
        const Floats other = __builtin_shufflevector(top, top, __VA_ARGS__);                 \
        const Ints their = __builtin_shufflevector(row, row, __VA_ARGS__);                   \
        const Ints take = (other > top) | ((other == top) & (their < row));                  \
        top = take ? other : top;                                                            \
        row = take ? their : row;                                                            \
    }

template <size_t K> void nearest_of(const float *x, size_t n, size_t stride, const float *table, const float *half, size_t d, uint8_t *ids,
                                    size_t ids_stride, float *dots) {
    constexpr size_t many = K / kLanes;
    const Ints lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    Floats start[many];
    std::memcpy(start, half, sizeof start);
    for (size_t c = 0; c < many; ++c) start[c] = -start[c];
    for (size_t i = 0; i < n; ++i, x += stride, ids += ids_stride) {
        Floats scores[many];
        for (size_t c = 0; c < many; ++c) scores[c] = start[c];
        for (size_t j = 0; j < d; ++j)
            for (size_t c = 0; c < many; ++c) {
                Floats words;
                std::memcpy(&words, table + j * K + c * kLanes, sizeof words);
                scores[c] += x[j] * words;
            }
        Floats top = scores[0];
        Ints row = lane;
        for (size_t c = 1; c < many; ++c) {
            const Ints take = scores[c] > top;
            top = take ? scores[c] : top;
            row = take ? lane + static_cast<int32_t>(c * kLanes) : row;
        }
        COMPAND_HALVE(8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15)
        COMPAND_HALVE(4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7)
        COMPAND_HALVE(2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3)
        COMPAND_HALVE(1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1)
        *ids = static_cast<uint8_t>(row[0] & static_cast<int32_t>(K - 1));
        dots[i] += top[0] + half[*ids];
    }
}
#undef COMPAND_HALVE
}  // namespace

void nearest(const float *x, size_t n, size_t stride, const float *table, const float *half, size_t d, size_t k, uint8_t *ids,
             size_t ids_stride, float *dots) {
    if (k == 16) return nearest_of<16>(x, n, stride, table, half, d, ids, ids_stride, dots);
    if (k == 64) return nearest_of<64>(x, n, stride, table, half, d, ids, ids_stride, dots);
    if (k == 256) return nearest_of<256>(x, n, stride, table, half, d, ids, ids_stride, dots);
    for (size_t i = 0; i < n; ++i, x += stride, ids += ids_stride) {
        size_t id = 0;
        float top = 0;
        for (size_t c = 0; c < k; ++c) {
            float score = -half[c];
            for (size_t j = 0; j < d; ++j) score += x[j] * table[j * k + c];
            if (c == 0 || score > top) id = c, top = score;
        }
        *ids = static_cast<uint8_t>(id);
        dots[i] += top + half[id];
    }
}

}  // namespace compand::scan::ISA

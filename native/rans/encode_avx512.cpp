#if COMPAND_X86
#include "halves_avx512.hpp"

namespace compand::rans::avx512 {
namespace {

// Words of a stream come out last first. They are kept in that order, and turned round many at a time.
constexpr size_t kWords = 4096;
struct Room {
    uint16_t words[kWords + 32];
};

inline void put(uint16_t *&at, __m512i words, __mmask32 which) {
    _mm512_storeu_si512(at, _mm512_maskz_compress_epi16(which, words));
    at += __builtin_popcount(which);
}
inline void put(uint16_t *&at, __m512i words, __mmask16 which) {  // the low halves of 16 dwords
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(at), _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(which, words)));
    at += __builtin_popcount(which);
}

__attribute__((noinline)) uint16_t *turn_round(const uint16_t *from, const uint16_t *to, uint16_t *out) {
    for (; to - from >= 32; from += 32) {
        out -= 32;
        _mm512_storeu_si512(out, _mm512_permutexvar_epi16(order(kOrders.reversed), _mm512_loadu_si512(from)));
    }
    while (from < to) *--out = *from++;
    return out;
}

// Quotients of 16 states by frequencies: exact, or 1 too small. The rounding of the machine does not matter.
template <bool kNear> inline __m512i divide(__m512i s, __m512i f) {
    const __m512 ff = _mm512_cvtepi32_ps(f);
    if (kNear) {  // quotients below 2^20: a reciprocal of 22 bits, biased down
        __m512 r = _mm512_rcp14_ps(ff);
        r = _mm512_mul_ps(r, _mm512_fnmadd_ps(ff, r, _mm512_set1_ps(2.0f - 1.0f / (1 << 21))));
        return _mm512_cvttps_epi32(_mm512_mul_ps(_mm512_cvtepu32_ps(s), r));
    }
    const __m512i q = _mm512_cvttps_epi32(_mm512_div_ps(_mm512_cvtepu32_ps(s), ff));  // within 1 for p >= 10
    return _mm512_mask_sub_epi32(q, _mm512_movepi32_mask(_mm512_sub_epi32(s, _mm512_mullo_epi32(q, f))), q, _mm512_set1_epi32(1));
}

template <bool kNear> class Folder {
public:
    explicit Folder(int p) : p_(_mm_cvtsi32_si128(p)), drop_(_mm_cvtsi32_si128(16 - p)), by_p_(_mm512_set1_epi16(static_cast<short>(p))) {}

    // Lanes that would overflow give their low halves; then each x becomes (x / f << p) + start + x % f.
    Halves operator()(Halves x, __m512i f, __m512i start, uint16_t *&at) const {
        const __mmask32 full = _mm512_cmpge_epu16_mask(_mm512_srl_epi16(x.high, drop_), f);
        put(at, x.low, full);
        x = {_mm512_mask_mov_epi16(x.low, full, x.high), _mm512_maskz_mov_epi16(~full, x.high)};
        const __m512i q0 = divide<kNear>(_mm512_permutex2var_epi16(x.low, order(kOrders.front), x.high), _mm512_cvtepu16_epi32(_mm512_castsi512_si256(f)));
        const __m512i q1 = divide<kNear>(_mm512_permutex2var_epi16(x.low, order(kOrders.back), x.high), _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(f, 1)));
        const __m512i all = _mm512_set1_epi16(-1);
        __m512i low = lows(q0, q1), high = highs(q0, q1), left = _mm512_sub_epi16(x.low, _mm512_mullo_epi16(low, f));
        const __mmask32 more = _mm512_cmpge_epu16_mask(left, f), carry = _mm512_mask_cmpeq_epi16_mask(more, low, all);
        left = _mm512_mask_sub_epi16(left, more, left, f);
        low = _mm512_mask_sub_epi16(low, more, low, all);
        high = _mm512_mask_sub_epi16(high, carry, high, all);
        return {_mm512_add_epi16(_mm512_sll_epi16(low, p_), _mm512_add_epi16(start, left)), _mm512_shldv_epi16(high, low, by_p_)};
    }

private:
    __m128i p_, drop_;
    __m512i by_p_;
};

// 64 states, the last lane first, as 2 x 32.
struct States {
    Halves x[2];
    explicit States(const uint32_t *from) {
        for (int h = 0; h < 2; ++h) {
            const Halves own = load(from + 32 * (1 - h));
            x[h] = {_mm512_permutexvar_epi16(order(kOrders.reversed), own.low), _mm512_permutexvar_epi16(order(kOrders.reversed), own.high)};
        }
    }
    void save(uint32_t *to) const {
        for (int h = 0; h < 2; ++h) {
            store({_mm512_permutexvar_epi16(order(kOrders.reversed), x[h].low), _mm512_permutexvar_epi16(order(kOrders.reversed), x[h].high)},
                  to + 32 * (1 - h));
        }
    }
};

// kTable ids' values (32, 64, 128 or 256) from registers.
template <int kTable> inline __m512i pick(const uint16_t *table, __m512i id) {
    const auto at = [&](int i) { return _mm512_load_si512(table + 32 * i); };
    if (kTable == 32) return _mm512_permutexvar_epi16(id, at(0));
    __m512i found = _mm512_permutex2var_epi16(at(0), id, at(1));
    if (kTable == 64) return found;
    const __mmask32 second = _mm512_test_epi16_mask(id, _mm512_set1_epi16(64));
    found = _mm512_mask_blend_epi16(second, found, _mm512_permutex2var_epi16(at(2), id, at(3)));
    if (kTable == 128) return found;
    const __m512i upper = _mm512_mask_blend_epi16(second, _mm512_permutex2var_epi16(at(4), id, at(5)), _mm512_permutex2var_epi16(at(6), id, at(7)));
    return _mm512_mask_blend_epi16(_mm512_test_epi16_mask(id, _mm512_set1_epi16(128)), found, upper);
}

// ids from `least` on.
template <int kTable, bool kNear>
uint16_t *encode_ids(const uint8_t *ids, size_t least, const uint32_t *steps, size_t m, size_t groups, int p, uint32_t *state, uint16_t *out) {
    alignas(64) uint16_t f[kTable] = {}, start[kTable] = {};
    const __m512i base = _mm512_set1_epi8(static_cast<char>(least));
    for (size_t s = 0; s < m; ++s) f[s] = static_cast<uint16_t>((steps[s] >> 16) + 1), start[s] = static_cast<uint16_t>(steps[s]);
    const Folder<kNear> fold(p);
    States now(state);
    Room room;
    uint16_t *at = room.words;
    for (size_t g = groups; g-- > 0;) {
        if (at - room.words > static_cast<ptrdiff_t>(kWords - 128)) out = turn_round(room.words, at, out), at = room.words;
        const __m512i id = _mm512_permutexvar_epi8(order(kOrders.reversed_bytes), _mm512_sub_epi8(_mm512_loadu_si512(ids + g * kLanes), base));
        for (int h = 0; h < 2; ++h) {
            const __m512i own = _mm512_cvtepu8_epi16(h ? _mm512_extracti64x4_epi64(id, 1) : _mm512_castsi512_si256(id));
            now.x[h] = fold(now.x[h], pick<kTable>(f, own), pick<kTable>(start, own), at);
        }
    }
    now.save(state);
    return turn_round(room.words, at, out);
}

template <bool kNear> uint16_t *encode_any_ids(const uint8_t *ids, const uint32_t *steps, size_t m, size_t groups, int p, uint32_t *x, uint16_t *out) {
    size_t least = 0;
    while (least + 1 < m && steps[least] >> 16 == 0xffff) ++least;  // frequency 0
    const auto use = [&]<int kTable>() { return encode_ids<kTable, kNear>(ids, least, steps + least, m - least, groups, p, x, out); };
    if (m - least <= 32) return use.template operator()<32>();
    if (m - least <= 64) return use.template operator()<64>();
    return m - least <= 128 ? use.template operator()<128>() : use.template operator()<256>();
}

template <bool kNear> uint16_t *encode_steps(const uint32_t *steps, size_t groups, int p, uint32_t *state, uint16_t *out) {
    const Folder<kNear> fold(p);
    States now(state);
    Room room;
    uint16_t *at = room.words;
    const __m512i one = _mm512_set1_epi16(1);
    for (size_t g = groups; g-- > 0;) {
        if (at - room.words > static_cast<ptrdiff_t>(kWords - 128)) out = turn_round(room.words, at, out), at = room.words;
        for (int h = 0; h < 2; ++h) {
            const uint32_t *own = steps + g * kLanes + 32 * static_cast<size_t>(1 - h);
            const __m512i a = _mm512_loadu_si512(own), b = _mm512_loadu_si512(own + 16);
            const __m512i f = _mm512_add_epi16(_mm512_permutex2var_epi16(a, order(kOrders.odd_reversed), b), one);
            now.x[h] = fold(now.x[h], f, _mm512_permutex2var_epi16(a, order(kOrders.even_reversed), b), at);
        }
    }
    now.save(state);
    return turn_round(room.words, at, out);
}

// 16 lanes at a time, since their raw bits go before their symbols. get(t, step, raw) gives those of lanes t to t + 15, the last first.
template <bool kNear, class Get> inline uint16_t *encode_with_raws(const Get &get, size_t groups, int p, uint32_t *state, uint16_t *out) {
    const __m128i shift = _mm_cvtsi32_si128(p), drop = _mm_cvtsi32_si128(32 - p);
    const __m512i one = _mm512_set1_epi32(1), low16 = _mm512_set1_epi32(0xffff), turned = order(kOrders.reversed_dwords);
    Room room;
    uint16_t *at = room.words;
    __m512i x[4];
    for (int v = 0; v < 4; ++v) x[v] = _mm512_permutexvar_epi32(turned, _mm512_loadu_si512(state + 16 * v));
    for (size_t g = groups; g-- > 0;) {
        if (at - room.words > static_cast<ptrdiff_t>(kWords - 128)) out = turn_round(room.words, at, out), at = room.words;
        __m512i step[4], raw[4];
        for (int v = 3; v >= 0; --v) get(g * kLanes + 16 * static_cast<size_t>(v), step[v], raw[v]);
        for (int v = 3; v >= 0; --v) {
            const __m512i bits = _mm512_srli_epi32(raw[v], 16), over = _mm512_srlv_epi32(x[v], _mm512_sub_epi32(_mm512_set1_epi32(32), bits));
            const __mmask16 first = _mm512_test_epi32_mask(over, over);
            put(at, x[v], first);
            __m512i s = _mm512_mask_srli_epi32(x[v], first, x[v], 16);
            s = _mm512_or_si512(_mm512_sllv_epi32(s, bits), _mm512_and_si512(raw[v], low16));
            const __m512i f = _mm512_add_epi32(_mm512_srli_epi32(step[v], 16), one);
            const __mmask16 second = _mm512_cmpge_epu32_mask(_mm512_srl_epi32(s, drop), f);
            put(at, s, second);
            s = _mm512_mask_srli_epi32(s, second, s, 16);
            const __m512i q = divide<kNear>(s, f), left = _mm512_sub_epi32(s, _mm512_mullo_epi32(q, f));
            const __m512i y = _mm512_add_epi32(_mm512_sll_epi32(q, shift), _mm512_add_epi32(_mm512_and_si512(step[v], low16), left));
            x[v] = _mm512_mask_add_epi32(y, _mm512_cmpge_epu32_mask(left, f), y, _mm512_sub_epi32(_mm512_set1_epi32(1 << p), f));
        }
    }
    for (int v = 0; v < 4; ++v) _mm512_storeu_si512(state + 16 * v, _mm512_permutexvar_epi32(turned, x[v]));
    return turn_round(room.words, at, out);
}

template <bool kNear>
uint16_t *encode_steps_and_raws(const uint32_t *steps, const uint32_t *raws, size_t groups, int p, uint32_t *state, uint16_t *out) {
    const __m512i turned = order(kOrders.reversed_dwords);
    return encode_with_raws<kNear>([=](size_t t, __m512i &step, __m512i &raw) {
        step = _mm512_permutexvar_epi32(turned, _mm512_loadu_si512(steps + t));
        raw = _mm512_permutexvar_epi32(turned, _mm512_loadu_si512(raws + t));
    }, groups, p, state, out);
}

}  // namespace

uint16_t *encode_bytes(const uint8_t *ids, const uint32_t *steps, size_t m, size_t groups, int p, uint32_t *x, uint16_t *out) {
    return p >= 12 ? encode_any_ids<true>(ids, steps, m, groups, p, x, out) : encode_any_ids<false>(ids, steps, m, groups, p, x, out);
}

uint16_t *encode(const uint32_t *steps, const uint32_t *raws, size_t groups, int p, uint32_t *x, uint16_t *out) {
    if (p > 15) return scalar::encode(steps, raws, groups, p, x, out);  // sums of 16 bits would not do
    if (raws) return p >= 12 ? encode_steps_and_raws<true>(steps, raws, groups, p, x, out) : encode_steps_and_raws<false>(steps, raws, groups, p, x, out);
    return p >= 12 ? encode_steps<true>(steps, groups, p, x, out) : encode_steps<false>(steps, groups, p, x, out);
}

uint16_t *encode_both(const uint16_t *ids, const uint64_t *both, size_t groups, int p, uint32_t *x, uint16_t *out) {
    const __m512i lows = order(kOrders.even_dwords), highs = order(kOrders.odd_dwords);
    const auto two = [both](const uint16_t *id) {  // loads and unpacks: fewer operations than a gather
        return _mm_unpacklo_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(both + id[1])),
                                  _mm_loadl_epi64(reinterpret_cast<const __m128i *>(both + id[0])));
    };
    const auto eight = [two](const uint16_t *id) {
        const __m256i a = _mm256_inserti128_si256(_mm256_castsi128_si256(two(id + 6)), two(id + 4), 1);
        const __m256i b = _mm256_inserti128_si256(_mm256_castsi128_si256(two(id + 2)), two(id), 1);
        return _mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1);
    };
    return encode_with_raws<true>([=](size_t t, __m512i &step, __m512i &raw) {
        const __m512i a = eight(ids + t + 8), b = eight(ids + t);
        step = _mm512_permutex2var_epi32(a, lows, b);
        raw = _mm512_permutex2var_epi32(a, highs, b);
    }, groups, p, x, out);
}

}  // namespace compand::rans::avx512
#endif

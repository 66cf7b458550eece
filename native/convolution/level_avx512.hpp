// Sixteen sums in one register.
constexpr size_t kBlocks = 4;
template <size_t blocks> constexpr size_t kTile = blocks == 4 ? 6 : blocks == 3 ? 8 : 12;  // 24 registers of sums

using Sums = __m512i;
using Quads = __m512i;
using Weights = __m512i;

inline __m512i load(const void *from) { return _mm512_loadu_si512(from); }
inline Weights weights(const int8_t *w) { return load(w); }
inline Sums start(const int32_t *from) { return load(from); }
inline Quads same(const uint8_t *x) {
    int32_t four;
    std::memcpy(&four, x, 4);
    return _mm512_set1_epi32(four);
}
inline Quads across(const uint8_t *x) {
    alignas(64) static constexpr auto order = [] {
        std::array<uint8_t, 64> a{};
        for (size_t i = 0; i < 64; ++i) a[i] = static_cast<uint8_t>(i % kQuad * kWide + i / kQuad);
        return a;
    }();
    return _mm512_permutexvar_epi8(load(order.data()), load(x));
}
inline void dot(Sums &s, const Quads &x, const Weights &w) {
#if defined(__GNUC__) && !defined(__clang__)
    asm("vpdpbusd %2, %1, %0" : "+v"(s) : "v"(x), "v"(w));  // GCC would copy sums at each step
#else
    s = _mm512_dpbusd_epi32(s, x, w);
#endif
}
inline __m512i merged(__m512i even, __m512i odd) { return _mm512_mask_shuffle_epi32(even, 0xaaaa, odd, _MM_PERM_CCAA); }
inline __m512i halves(__m512i bits) { return _mm512_srli_epi64(_mm512_sllv_epi64(_mm512_set1_epi64(1), bits), 1); }

struct Clip {
    __m512i low, high;
    explicit Clip(const Out &out) : low(_mm512_set1_epi32(out.low)), high(_mm512_set1_epi32(out.high)) {}
    void put(__m512i y, int32_t *to) const { _mm512_storeu_si512(to, _mm512_max_epi32(_mm512_min_epi32(y, high), low)); }
    void put(__m512i y, uint8_t *to) const {
        const __m512i above = _mm512_sub_epi32(_mm512_max_epi32(_mm512_min_epi32(y, high), low), low);
        _mm_storeu_si128(reinterpret_cast<__m128i *>(to), _mm512_cvtepi32_epi8(above));
    }
};

struct Rescaled : Clip {
    __m512i m, n, first, second, half, other;  // of even and odd channels
    Rescaled(const Step &step, const Out &out) : Clip(out) {
        const __m512i bits = load(step.shift);
        m = load(step.multiplier);
        n = _mm512_srli_epi64(m, 32);
        first = _mm512_and_si512(bits, _mm512_set1_epi64(0xffffffff));
        second = _mm512_srli_epi64(bits, 32);
        half = halves(first);
        other = halves(second);
    }
    __m512i of(const Sums &s) const {
        const __m512i even = _mm512_add_epi64(_mm512_mul_epi32(s, m), half), odd = _mm512_add_epi64(_mm512_mul_epi32(_mm512_srli_epi64(s, 32), n), other);
        return merged(_mm512_srav_epi64(even, first), _mm512_srav_epi64(odd, second));
    }
    template <class T> void put(const Sums &s, T *to) const { Clip::put(of(s), to); }
    // Four pixels at once, clipped as 16 bits, which packing has clipped them to before.
    void put(const Sums &a, const Sums &b, const Sums &c, const Sums &d, uint8_t *to) const {
        const __m512i least = _mm512_packs_epi32(low, low), most = _mm512_packs_epi32(high, high);
        const auto above = [&](__m512i pair) { return _mm512_sub_epi16(_mm512_max_epi16(_mm512_min_epi16(pair, most), least), least); };
        const __m512i bytes = _mm512_packus_epi16(above(_mm512_packs_epi32(of(a), of(b))), above(_mm512_packs_epi32(of(c), of(d))));
        const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        _mm512_storeu_si512(to, _mm512_permutexvar_epi32(order, bytes));
    }
};

struct Pair : Clip {
    Term a, b;
    __m512i bits, half;
    Pair(const Term &one, const Term &two, int shift, const Out &out)
        : Clip(out), a(one), b(two), bits(_mm512_set1_epi64(shift)), half(halves(bits)) {}
    static __m512i value(const Term &t, size_t i) {
        if (t.words) return load(t.words + i);
        const __m128i sixteen = _mm_loadu_si128(reinterpret_cast<const __m128i *>(t.bytes + i));
        return _mm512_add_epi32(_mm512_cvtepu8_epi32(sixteen), _mm512_set1_epi32(t.low));
    }
    template <class T> void put(size_t from, T *to) const {
        const __m512i x = value(a, from), y = value(b, from), m = _mm512_set1_epi32(a.multiplier), n = _mm512_set1_epi32(b.multiplier);
        const __m512i even = _mm512_add_epi64(_mm512_mul_epi32(x, m), _mm512_mul_epi32(y, n));
        const __m512i odd = _mm512_add_epi64(_mm512_mul_epi32(_mm512_srli_epi64(x, 32), m), _mm512_mul_epi32(_mm512_srli_epi64(y, 32), n));
        Clip::put(merged(_mm512_srav_epi64(_mm512_add_epi64(even, half), bits), _mm512_srav_epi64(_mm512_add_epi64(odd, half), bits)), to);
    }
};

// Sixteen sums in two registers. VPMADDUBSW saturates sums of two products, so that bytes of even and of odd places are multiplied apart.
constexpr size_t kBlocks = 1;
template <size_t blocks> constexpr size_t kTile = 4;

struct Sums {
    __m256i half[2];
};
struct Quads {
    __m256i half[2];
};
struct Weights {
    __m256i even[2], odd[2];
};

inline __m256i load(const void *from) { return _mm256_loadu_si256(static_cast<const __m256i *>(from)); }
inline Weights weights(const int8_t *w) {
    Weights own;
    for (size_t h = 0; h < 2; ++h) {
        const __m256i all = load(w + 32 * h), mask = _mm256_set1_epi16(0xff);
        own.even[h] = _mm256_and_si256(all, mask);
        own.odd[h] = _mm256_andnot_si256(mask, all);
    }
    return own;
}
inline Sums start(const int32_t *from) { return {{load(from), load(from + 8)}}; }
inline Quads same(const uint8_t *x) {
    int32_t four;
    std::memcpy(&four, x, 4);
    const __m256i all = _mm256_set1_epi32(four);
    return {{all, all}};
}
inline Quads across(const uint8_t *x) {
    __m128i row[4];
    for (size_t i = 0; i < 4; ++i) row[i] = _mm_loadu_si128(reinterpret_cast<const __m128i *>(x + kWide * i));
    const __m128i a = _mm_unpacklo_epi8(row[0], row[1]), b = _mm_unpacklo_epi8(row[2], row[3]);
    const __m128i c = _mm_unpackhi_epi8(row[0], row[1]), d = _mm_unpackhi_epi8(row[2], row[3]);
    return {{_mm256_set_m128i(_mm_unpackhi_epi16(a, b), _mm_unpacklo_epi16(a, b)), _mm256_set_m128i(_mm_unpackhi_epi16(c, d), _mm_unpacklo_epi16(c, d))}};
}
inline void dot(Sums &s, const Quads &x, const Weights &w) {
    const __m256i one = _mm256_set1_epi16(1);
    for (size_t h = 0; h < 2; ++h) {
        const __m256i even = _mm256_madd_epi16(_mm256_maddubs_epi16(x.half[h], w.even[h]), one);
        const __m256i odd = _mm256_madd_epi16(_mm256_maddubs_epi16(x.half[h], w.odd[h]), one);
        s.half[h] = _mm256_add_epi32(s.half[h], _mm256_add_epi32(even, odd));
    }
}
// Shifts of 64 bits with sign: those without, of numbers that are moved up by 2^63.
inline __m256i shifted(__m256i v, __m256i bits) {
    const __m256i top = _mm256_set1_epi64x(INT64_MIN);
    return _mm256_sub_epi64(_mm256_srlv_epi64(_mm256_xor_si256(v, top), bits), _mm256_srlv_epi64(top, bits));
}
inline __m256i merged(__m256i even, __m256i odd) { return _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa); }
inline __m256i halves(__m256i bits) { return _mm256_srli_epi64(_mm256_sllv_epi64(_mm256_set1_epi64x(1), bits), 1); }

struct Clip {
    __m256i low, high;
    int32_t least;
    explicit Clip(const Out &out) : low(_mm256_set1_epi32(out.low)), high(_mm256_set1_epi32(out.high)) {}
    void put(__m256i a, __m256i b, int32_t *to) const {
        const __m256i y[2] = {_mm256_max_epi32(_mm256_min_epi32(a, high), low), _mm256_max_epi32(_mm256_min_epi32(b, high), low)};
        for (size_t h = 0; h < 2; ++h) _mm256_storeu_si256(reinterpret_cast<__m256i *>(to + 8 * h), y[h]);
    }
    void put(__m256i a, __m256i b, uint8_t *to) const {
        a = _mm256_sub_epi32(_mm256_max_epi32(_mm256_min_epi32(a, high), low), low);
        b = _mm256_sub_epi32(_mm256_max_epi32(_mm256_min_epi32(b, high), low), low);
        const __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(a, b), 0xd8);
        const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i *>(to), bytes);
    }
};

struct Rescaled : Clip {
    const Step &step;
    Rescaled(const Step &own, const Out &out) : Clip(out), step(own) {}
    __m256i part(const Sums &s, size_t h) const {
        const __m256i m = load(step.multiplier + 8 * h), bits = load(step.shift + 8 * h);
        const __m256i first = _mm256_and_si256(bits, _mm256_set1_epi64x(0xffffffff)), second = _mm256_srli_epi64(bits, 32);
        const __m256i even = _mm256_mul_epi32(s.half[h], m), odd = _mm256_mul_epi32(_mm256_srli_epi64(s.half[h], 32), _mm256_srli_epi64(m, 32));
        return merged(shifted(_mm256_add_epi64(even, halves(first)), first), shifted(_mm256_add_epi64(odd, halves(second)), second));
    }
    template <class T> void put(const Sums &s, T *to) const { Clip::put(part(s, 0), part(s, 1), to); }
};

struct Pair : Clip {
    Term a, b;
    __m256i bits;
    Pair(const Term &one, const Term &two, int shift, const Out &out) : Clip(out), a(one), b(two), bits(_mm256_set1_epi64x(shift)) {}
    static __m256i value(const Term &t, size_t i) {
        if (t.words) return load(t.words + i);
        const __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i *>(t.bytes + i));
        return _mm256_add_epi32(_mm256_cvtepu8_epi32(eight), _mm256_set1_epi32(t.low));
    }
    __m256i part(size_t i) const {
        const __m256i x = value(a, i), y = value(b, i), m = _mm256_set1_epi32(a.multiplier), n = _mm256_set1_epi32(b.multiplier), half = halves(bits);
        const __m256i even = _mm256_add_epi64(_mm256_mul_epi32(x, m), _mm256_mul_epi32(y, n));
        const __m256i odd = _mm256_add_epi64(_mm256_mul_epi32(_mm256_srli_epi64(x, 32), m), _mm256_mul_epi32(_mm256_srli_epi64(y, 32), n));
        return merged(shifted(_mm256_add_epi64(even, half), bits), shifted(_mm256_add_epi64(odd, half), bits));
    }
    template <class T> void put(size_t from, T *to) const { Clip::put(part(from), part(from + 8), to); }
};

// `ranked` of matmul.hpp: bfloat16 weights put together in registers, then what `brain` does with them, sum for sum.
namespace compand::matmul::ISA {
namespace {

// The exponents of ranks, cut as a bfloat16 has them: the upper byte below the sign, the lower byte above the mantissa. Four times over.
struct Exponents {
    alignas(64) uint8_t upper[64], lower[64];
    explicit Exponents(const uint8_t *exponents) {
        for (int i = 0; i < 64; ++i) {
            upper[i] = static_cast<uint8_t>(exponents[i % 16] >> 1);
            lower[i] = static_cast<uint8_t>(exponents[i % 16] << 7);
        }
    }
};

#if LEVEL == 2
constexpr auto kWeave = [] {  // byte indices that put a lower and an upper byte together: of each half of 64 values
    std::array<std::array<uint8_t, 64>, 2> at{};
    for (size_t u = 0; u < 2; ++u)
        for (size_t i = 0; i < 32; ++i) {
            at[u][2 * i] = static_cast<uint8_t>(32 * u + i);
            at[u][2 * i + 1] = static_cast<uint8_t>(32 * u + i + 64);
        }
    return at;
}();

// What all columns need, kept in registers: GCC would make some of it again and again, on ports that the loop needs.
struct Constants {
    __m512i upper, lower, sign = _mm512_set1_epi8(-128), mantissa = _mm512_set1_epi8(127), four = _mm512_set1_epi8(15), weave[2];
    COMPAND_INLINE explicit Constants(const Exponents &e) : upper(_mm512_load_si512(e.upper)), lower(_mm512_load_si512(e.lower)) {
        for (size_t u = 0; u < 2; ++u) weave[u] = _mm512_loadu_si512(kWeave[u].data());
        asm("" : "+v"(upper), "+v"(lower), "+v"(sign), "+v"(mantissa), "+v"(four), "+v"(weave[0]), "+v"(weave[1]));
    }
};
#else
// 64 columns of a span, the second half of it or the first, one by one, escapes too. Returns the next escape.
__attribute__((noinline)) const uint8_t *one_by_one(const Exponents &e, const uint8_t *span, bool second, const uint8_t *escape, uint16_t *out) {
    for (size_t i = 0; i < 64; ++i) {
        const unsigned byte = span[64 + 64 * second + i], rank = span[i] >> (4 * second) & 15;
        const unsigned exponent = rank == 15 ? *escape++ : e.upper[rank] << 1 | e.lower[rank] >> 7;
        out[i] = static_cast<uint16_t>((byte & 128) << 8 | exponent << 7 | (byte & 127));
    }
    return escape;
}

struct Constants {
    explicit Constants(const Exponents &) {}
};
#endif

// 64 columns of a span as bfloat16, the second half of it or the first; moves over the escapes among them.
template <bool second>
COMPAND_INLINE void sixty_four([[maybe_unused]] const Exponents &e, [[maybe_unused]] const Constants &k, const uint8_t *span, const uint8_t *&escape,
                               lanes::U *v) {
#if LEVEL == 2
    const __m512i pair = _mm512_loadu_si512(span);
    __m512i byte = _mm512_loadu_si512(span + 64 + 64 * second);
    asm("" : "+v"(byte));  // read once
    const __m512i rank = _mm512_and_si512(second ? _mm512_srli_epi16(pair, 4) : pair, k.four);
    __m512i high = _mm512_ternarylogic_epi32(byte, k.sign, _mm512_shuffle_epi8(k.upper, rank), 0xea);  // (byte & sign) | upper
    __m512i low = _mm512_ternarylogic_epi32(byte, k.mantissa, _mm512_shuffle_epi8(k.lower, rank), 0xea);
    const __mmask64 escaped = _mm512_cmpeq_epi8_mask(rank, k.four);
    if (escaped) [[unlikely]] {
        const __m512i own = _mm512_maskz_expandloadu_epi8(escaped, escape);
        escape += std::popcount(escaped);
        high = _mm512_ternarylogic_epi32(_mm512_srli_epi16(own, 1), k.mantissa, high, 0xea);
        low = _mm512_ternarylogic_epi32(_mm512_slli_epi16(own, 7), k.sign, low, 0xea);
    }
    for (size_t u = 0; u < 2; ++u) v[u] = std::bit_cast<lanes::U>(_mm512_permutex2var_epi8(low, k.weave[u], high));
#else
    uint16_t own[64];
#if LEVEL == 1
    const __m128i upper = _mm_load_si128(reinterpret_cast<const __m128i *>(e.upper));
    const __m128i lower = _mm_load_si128(reinterpret_cast<const __m128i *>(e.lower));
    const __m128i four = _mm_set1_epi8(15);
    __m128i rank[4], escaped = _mm_setzero_si128();
    for (size_t u = 0; u < 4; ++u) {
        const __m128i pair = _mm_loadu_si128(reinterpret_cast<const __m128i *>(span + 16 * u));
        rank[u] = _mm_and_si128(second ? _mm_srli_epi16(pair, 4) : pair, four);
        escaped = _mm_or_si128(escaped, _mm_cmpeq_epi8(rank[u], four));
    }
    if (_mm_testz_si128(escaped, escaped)) [[likely]] {
        for (size_t u = 0; u < 4; ++u) {
            const __m128i byte = _mm_loadu_si128(reinterpret_cast<const __m128i *>(span + 64 + 64 * second + 16 * u));
            const __m128i high = _mm_or_si128(_mm_and_si128(byte, _mm_set1_epi8(-128)), _mm_shuffle_epi8(upper, rank[u]));
            const __m128i low = _mm_or_si128(_mm_and_si128(byte, _mm_set1_epi8(127)), _mm_shuffle_epi8(lower, rank[u]));
            _mm_storeu_si128(reinterpret_cast<__m128i *>(own + 16 * u), _mm_unpacklo_epi8(low, high));
            _mm_storeu_si128(reinterpret_cast<__m128i *>(own + 16 * u + 8), _mm_unpackhi_epi8(low, high));
        }
    } else
#endif
        escape = one_by_one(e, span, second, escape, own);
    for (size_t u = 0; u < 2; ++u) v[u] = lanes::load<lanes::U>(own + 32 * u);
#endif
}

// Calls use(i, c, v) for each 64 columns of R rows in turn, i being which row and v[0..1] their bfloat16; those behind the last are positive
// and finite. Two rows: the first is even. Memory's own prefetcher follows the one stream better than when it is asked for it.
template <int R, class Use> COMPAND_INLINE void each_64(const Ranked &w, const Exponents &e, const Constants &k, size_t r, Use use) {
    const size_t spans = (w.d + kSpan - 1) / kSpan, whole = (w.d + 63) / kSpan;
    const uint8_t *span = w.lines + (r / kPair * spans * kPair + r % kPair) * kSpanBytes;
    const uint8_t *escape[R];
    for (size_t i = 0; i < R; ++i) escape[i] = w.escapes + w.start[r + i];
    lanes::U v[2];
    size_t c = 0;
    for (; c < whole * kSpan; c += kSpan, span += kPair * kSpanBytes)
        for (int i = 0; i < R; ++i) {
            sixty_four<false>(e, k, span + static_cast<size_t>(i) * kSpanBytes, escape[i], v);
            use(i, c, v);
            sixty_four<true>(e, k, span + static_cast<size_t>(i) * kSpanBytes, escape[i], v);
            use(i, c + 64, v);
        }
    for (int i = 0; c < w.d && i < R; ++i) {
        sixty_four<false>(e, k, span + static_cast<size_t>(i) * kSpanBytes, escape[i], v);
        use(i, c, v);
    }
}

// R rows as bfloat16, `room` apart, up to a multiple of 64.
template <int R> void ranked_values(const Ranked &w, const Exponents &e, const Constants &k, size_t r, uint16_t *out, size_t room) {
    each_64<R>(w, e, k, r, [&](int i, size_t c, const lanes::U *v) { std::memcpy(out + static_cast<size_t>(i) * room + c, v, 128); });
}

// R rows and a line; the sums of one row need not wait for those of the other.
template <class Kind, int R>
COMPAND_INLINE void ranked_line(const Ranked &w, const Exponents &e, const Constants &k, size_t r, const uint16_t *x, float *y) {
    lanes::F sum[R] = {};
    each_64<R>(w, e, k, r, [&](int i, size_t c, const lanes::U *v) {
        sum[i] = Kind::add(sum[i], v[0], lanes::load<lanes::U>(x + c));
        sum[i] = Kind::add(sum[i], v[1], lanes::load<lanes::U>(x + c + 32));
    });
    for (int i = 0; i < R; ++i) y[i] = total_of(sum[i]);
}

// Calls use(r, 2) for pairs of rows from first to last that lie together, use(r, 1) for one alone; the number is a constant.
template <class Use> COMPAND_INLINE void in_pairs(size_t first, size_t last, Use use) {
    for (size_t r = first; r < last;) {
        if (r % kPair == 0 && r + 1 < last) use(r, std::integral_constant<int, 2>{}), r += 2;
        else use(r++, std::integral_constant<int, 1>{});
    }
}

// x: lines of `width` values, a multiple of 64
template <class Kind>
void ranked_lines(const Ranked &w, size_t first, size_t last, const uint16_t *x, size_t width, size_t count, float *y, size_t stride) {
    const Exponents e(w.exponents);
    const Constants k(e);
    if (count < kFew) {
        const auto lines = [&](size_t r, auto rows) {
            for (size_t t = 0; t < count; ++t) ranked_line<Kind, decltype(rows)::value>(w, e, k, r, x + t * width, y + t * stride + r);
        };
        return in_pairs(first, last, lines);
    }
    const size_t room = (w.d + 63) / 64 * 64;
    std::vector<uint16_t> values(std::min(kLow, last - first) * room);
    for (size_t r = first; r < last; r += kLow) {
        const size_t rows = std::min(kLow, last - r);
        in_pairs(r, r + rows, [&](size_t i, auto two) { ranked_values<decltype(two)::value>(w, e, k, i, values.data() + (i - r) * room, room); });
        tiles_of<Kind>(values.data(), room, false, w.d, 0, rows, x, width, count, y + r, stride);
    }
}

}  // namespace

void ranked(const Ranked &w, size_t first, size_t last, const uint16_t *x, size_t width, size_t count, float *y, size_t stride) {
    as_brain([&](auto kind) { ranked_lines<decltype(kind)>(w, first, last, x, width, count, y, stride); });
}

void ranked_row(const Ranked &w, size_t r, float *out) {
    const Exponents e(w.exponents);
    std::vector<uint16_t> values((w.d + 63) / 64 * 64);
    ranked_values<1>(w, e, Constants(e), r, values.data(), values.size());
    for (size_t c = 0; c < w.d; ++c) out[c] = std::bit_cast<float>(static_cast<uint32_t>(values[c]) << 16);
}

}  // namespace compand::matmul::ISA

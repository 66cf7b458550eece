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

// One row, and its next escape.
struct RankedRow {
    const uint8_t *bytes, *ranks, *escape;
    size_t halves;  // columns whose ranks lie in halves of 64
    RankedRow() = default;
    RankedRow(const Ranked &w, size_t r)
        : bytes(w.bytes + r * w.d), ranks(w.ranks + r * ((w.d + 1) / 2)), escape(w.escapes + w.start[r]), halves(w.d / 128 * 128) {}
    unsigned rank(size_t c) const {
        return c < halves ? ranks[c / 128 * 64 + c % 64] >> (c / 64 % 2 * 4) & 15 : ranks[c / 2] >> (c % 2 * 4) & 15;
    }
};

// Columns c to c + count one by one, escapes too: count <= 64, zeros behind. Returns the next escape.
__attribute__((noinline)) const uint8_t *one_by_one(const Exponents &e, const RankedRow &row, size_t c, size_t count, uint16_t *out) {
    const uint8_t *escape = row.escape;
    for (size_t i = 0; i < 64; ++i) {
        out[i] = 0;
        if (i >= count) continue;
        const unsigned byte = row.bytes[c + i], rank = row.rank(c + i);
        const unsigned exponent = rank == 15 ? *escape++ : e.upper[rank] << 1 | e.lower[rank] >> 7;
        out[i] = static_cast<uint16_t>((byte & 128) << 8 | exponent << 7 | (byte & 127));
    }
    return escape;
}

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
struct Constants {
    explicit Constants(const Exponents &) {}
};
#endif

// The ranks of 64 columns in order: of two ranks a byte the low ones, the high ones, or both of 32 bytes.
enum class Place { low, high, mixed };
#if LEVEL == 2
template <Place place> COMPAND_INLINE __m512i ranks_of(const Constants &k, const uint8_t *from) {
    if constexpr (place == Place::mixed) {
        const __m512i pair = _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(from)));
        return _mm512_and_si512(_mm512_or_si512(pair, _mm512_slli_epi16(pair, 4)), k.four);
    }
    const __m512i pair = _mm512_loadu_si512(from);
    return _mm512_and_si512(place == Place::high ? _mm512_srli_epi16(pair, 4) : pair, k.four);
}
#endif

// The 64 columns from c on as bfloat16, their ranks being at `from`; moves over the escapes among them.
template <Place place>
COMPAND_INLINE void sixty_four([[maybe_unused]] const Exponents &e, [[maybe_unused]] const Constants &k, RankedRow &row,
                               [[maybe_unused]] const uint8_t *from, size_t c, lanes::U *v) {
#if LEVEL == 2
    const __m512i rank = ranks_of<place>(k, from);
    __m512i byte = _mm512_loadu_si512(row.bytes + c);
    asm("" : "+v"(byte));  // read once
    __m512i high = _mm512_ternarylogic_epi32(byte, k.sign, _mm512_shuffle_epi8(k.upper, rank), 0xea);  // (byte & sign) | upper
    __m512i low = _mm512_ternarylogic_epi32(byte, k.mantissa, _mm512_shuffle_epi8(k.lower, rank), 0xea);
    const __mmask64 escaped = _mm512_cmpeq_epi8_mask(rank, k.four);
    if (escaped) [[unlikely]] {
        const __m512i own = _mm512_maskz_expandloadu_epi8(escaped, row.escape);
        row.escape += std::popcount(escaped);
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
        const __m128i pair = _mm_loadu_si128(reinterpret_cast<const __m128i *>(from + 16 * (place == Place::mixed ? u / 2 : u)));
        const __m128i even = _mm_and_si128(pair, four), odd = _mm_and_si128(_mm_srli_epi16(pair, 4), four);
        if constexpr (place == Place::mixed) rank[u] = u % 2 ? _mm_unpackhi_epi8(even, odd) : _mm_unpacklo_epi8(even, odd);
        else rank[u] = place == Place::low ? even : odd;
        escaped = _mm_or_si128(escaped, _mm_cmpeq_epi8(rank[u], four));
    }
    if (_mm_testz_si128(escaped, escaped)) [[likely]] {
        for (size_t u = 0; u < 4; ++u) {
            const __m128i byte = _mm_loadu_si128(reinterpret_cast<const __m128i *>(row.bytes + c + 16 * u));
            const __m128i high = _mm_or_si128(_mm_and_si128(byte, _mm_set1_epi8(-128)), _mm_shuffle_epi8(upper, rank[u]));
            const __m128i low = _mm_or_si128(_mm_and_si128(byte, _mm_set1_epi8(127)), _mm_shuffle_epi8(lower, rank[u]));
            _mm_storeu_si128(reinterpret_cast<__m128i *>(own + 16 * u), _mm_unpacklo_epi8(low, high));
            _mm_storeu_si128(reinterpret_cast<__m128i *>(own + 16 * u + 8), _mm_unpackhi_epi8(low, high));
        }
    } else
#endif
        row.escape = one_by_one(e, RankedRow(row), c, 64, own);
    for (size_t u = 0; u < 2; ++u) v[u] = lanes::load<lanes::U>(own + 32 * u);
#endif
}

// Calls use(i, c, v) for each 64 columns of R rows in turn, i being which row and v[0..1] their bfloat16, zeros behind the last.
template <int R, class Use> COMPAND_INLINE void each_64(const Ranked &w, const Exponents &e, const Constants &k, size_t r, Use use) {
    const size_t d = w.d;
    RankedRow row[R];
    for (size_t i = 0; i < R; ++i) row[i] = RankedRow(w, r + i);
    lanes::U v[2];
    size_t c = 0;
    for (; c < row[0].halves; c += 128) {
        for (int i = 0; i < R; ++i) {
            __builtin_prefetch(row[i].bytes + c + kAhead, 0, 2);
            __builtin_prefetch(row[i].bytes + c + 64 + kAhead, 0, 2);
            __builtin_prefetch(row[i].ranks + c / 2 + kAhead / 2, 0, 2);
            sixty_four<Place::low>(e, k, row[i], row[i].ranks + c / 2, c, v);
            use(i, c, v);
        }
        for (int i = 0; i < R; ++i) {
            sixty_four<Place::high>(e, k, row[i], row[i].ranks + c / 2, c + 64, v);
            use(i, c + 64, v);
        }
    }
    if (c + 64 <= d) {
        for (int i = 0; i < R; ++i) {
            sixty_four<Place::mixed>(e, k, row[i], row[i].ranks + c / 2, c, v);
            use(i, c, v);
        }
        c += 64;
    }
    for (int i = 0; c < d && i < R; ++i) {
        uint16_t tail[64];
        one_by_one(e, row[i], c, d - c, tail);
        for (size_t u = 0; u < 2; ++u) v[u] = lanes::load<lanes::U>(tail + 32 * u);
        use(i, c, v);
    }
}

// A row as bfloat16, zeros behind the last of 64.
void ranked_values(const Ranked &w, const Exponents &e, const Constants &k, size_t r, uint16_t *out) {
    each_64<1>(w, e, k, r, [&](int, size_t c, const lanes::U *v) { std::memcpy(out + c, v, 128); });
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

// x: lines of `width` values, a multiple of 64
template <class Kind>
void ranked_lines(const Ranked &w, size_t first, size_t last, const uint16_t *x, size_t width, size_t count, float *y, size_t stride) {
    const Exponents e(w.exponents);
    const Constants k(e);
    if (count < kFew) {
        for (size_t r = first; r < last; r += 2)
            for (size_t t = 0; t < count; ++t) {
                if (r + 1 < last) ranked_line<Kind, 2>(w, e, k, r, x + t * width, y + t * stride + r);
                else ranked_line<Kind, 1>(w, e, k, r, x + t * width, y + t * stride + r);
            }
        return;
    }
    const size_t room = (w.d + 63) / 64 * 64;
    std::vector<uint16_t> values(std::min(kLow, last - first) * room);
    for (size_t r = first; r < last; r += kLow) {
        const size_t rows = std::min(kLow, last - r);
        for (size_t i = 0; i < rows; ++i) ranked_values(w, e, k, r + i, values.data() + i * room);
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
    ranked_values(w, e, Constants(e), r, values.data());
    for (size_t c = 0; c < w.d; ++c) out[c] = std::bit_cast<float>(static_cast<uint32_t>(values[c]) << 16);
}

}  // namespace compand::matmul::ISA

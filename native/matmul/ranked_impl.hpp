// `ranked` of matmul.hpp: bfloat16 weights put together in registers, then what `plain` does with them, sum for sum.
namespace compand::matmul::ISA {
namespace {

constexpr size_t kNear = 512;  // columns that are asked for before they are used: two streams, which the memory system follows well

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
constexpr auto kSpread = [] {  // byte indices that give 16 float32 their upper halves: for each quarter of 64 values
    std::array<std::array<uint8_t, 64>, 4> at{};
    for (size_t u = 0; u < 4; ++u)
        for (size_t i = 0; i < 16; ++i) {
            at[u][4 * i + 2] = static_cast<uint8_t>(16 * u + i);
            at[u][4 * i + 3] = static_cast<uint8_t>(16 * u + i + 64);
        }
    return at;
}();

// What all columns need, kept in registers: GCC would make some of it again and again, on ports that the loop needs.
struct Constants {
    __m512i upper, lower, sign = _mm512_set1_epi8(-128), mantissa = _mm512_set1_epi8(127), four = _mm512_set1_epi8(15), spread[4];
    __mmask64 halves = 0xccccccccccccccccull;
    COMPAND_INLINE explicit Constants(const Exponents &e) : upper(_mm512_load_si512(e.upper)), lower(_mm512_load_si512(e.lower)) {
        for (size_t u = 0; u < 4; ++u) spread[u] = _mm512_loadu_si512(kSpread[u].data());
        asm("" : "+v"(upper), "+v"(lower), "+v"(sign), "+v"(mantissa), "+v"(four), "+k"(halves));
        asm("" : "+v"(spread[0]), "+v"(spread[1]), "+v"(spread[2]), "+v"(spread[3]));
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

// The 64 columns from c on as float32, their ranks being at `from`; moves over the escapes among them.
template <Place place>
COMPAND_INLINE void sixty_four([[maybe_unused]] const Exponents &e, [[maybe_unused]] const Constants &k, RankedRow &row,
                               [[maybe_unused]] const uint8_t *from, size_t c, lanes::F *v) {
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
    for (size_t u = 0; u < 4; ++u)
        v[u] = std::bit_cast<lanes::F>(_mm512_maskz_permutex2var_epi8(k.halves, low, k.spread[u], high));
#else
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
            const __m128i words[2] = {_mm_unpacklo_epi8(low, high), _mm_unpackhi_epi8(low, high)};
            v[u] = lanes::widen(lanes::load<lanes::H>(words));
        }
        return;
    }
#endif
    uint16_t own[64];
    row.escape = one_by_one(e, RankedRow(row), c, 64, own);
    for (size_t u = 0; u < 4; ++u) v[u] = lanes::widen(lanes::load<lanes::H>(own + 16 * u));
#endif
}

// Calls use(c, count, v) for each 64 columns in turn, v[0..3] being their float32; of the last only count are there, zeros behind.
template <class Use> COMPAND_INLINE void each_64(const Ranked &w, const Exponents &e, const Constants &k, size_t r, Use use) {
    constexpr std::integral_constant<size_t, 64> all;
    const size_t d = w.d;
    RankedRow row(w, r);
    lanes::F v[4];
    size_t c = 0;
    for (; c < row.halves; c += 128) {
        const uint8_t *ranks = row.ranks + c / 2;
        __builtin_prefetch(row.bytes + c + kNear);
        __builtin_prefetch(row.bytes + c + 64 + kNear);
        __builtin_prefetch(ranks + kNear / 2);
        sixty_four<Place::low>(e, k, row, ranks, c, v);
        use(c, all, v);
        sixty_four<Place::high>(e, k, row, ranks, c + 64, v);
        use(c + 64, all, v);
    }
    if (c + 64 <= d) {
        sixty_four<Place::mixed>(e, k, row, row.ranks + c / 2, c, v);
        use(c, all, v);
        c += 64;
    }
    if (c < d) {
        uint16_t tail[64];
        one_by_one(e, row, c, d - c, tail);
        for (size_t u = 0; u < 4; ++u) v[u] = lanes::widen(lanes::load<lanes::H>(tail + 16 * u));
        use(c, d - c, v);
    }
}

// One line of activations: the sums of `plain_tile`.
void ranked_line(const Ranked &w, const Exponents &e, const Constants &k, size_t r, const float *x, float *y) {
    using lanes::F;
    F sum[4] = {};
    each_64(w, e, k, r, [&](size_t c, auto count, const F *v) {
        if constexpr (!std::is_same_v<decltype(count), size_t>) {
            for (size_t u = 0; u < 4; ++u) sum[u] = sum[u] + v[u] * lanes::load<F>(x + c + 16 * u);
        } else {
            float own[64] = {};
            std::memcpy(own, x + c, count * sizeof(float));
            for (size_t u = 0; u < 4; ++u) sum[u] = sum[u] + v[u] * lanes::load<F>(own + 16 * u);
        }
    });
    *y = lanes::total((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

void ranked_values(const Ranked &w, const Exponents &e, const Constants &k, size_t r, float *out) {
    each_64(w, e, k, r, [&](size_t c, auto count, const lanes::F *v) { std::memcpy(out + c, v, count * sizeof(float)); });
}

}  // namespace

void ranked(const Ranked &w, size_t first, size_t last, const float *x, size_t count, float *y, size_t stride) {
    const Exponents e(w.exponents);
    const Constants k(e);
    if (count < 4) {
        for (size_t r = first; r < last; ++r)
            for (size_t t = 0; t < count; ++t) ranked_line(w, e, k, r, x + t * w.d, y + t * stride + r);
        return;
    }
    std::vector<float> room(8 * w.d);
    for (size_t r = first; r < last; r += 8) {
        const size_t rows = std::min<size_t>(8, last - r);
        for (size_t i = 0; i < rows; ++i) ranked_values(w, e, k, r + i, room.data() + i * w.d);
        plain_tiles(room.data(), w.d, 0, rows, x, count, y + r, stride);
    }
}

void ranked_row(const Ranked &w, size_t r, float *out) {
    const Exponents e(w.exponents);
    ranked_values(w, e, Constants(e), r, out);
}

}  // namespace compand::matmul::ISA

// `ranked` of matmul.hpp: bfloat16 weights put together in registers, then what `plain` does with them, sum for sum.
namespace compand::matmul::ISA {
namespace {

// The exponents of ranks, cut as a bfloat16 has them: the upper byte below the sign, the lower byte above the mantissa.
struct Exponents {
    alignas(16) uint8_t upper[16], lower[16];
    explicit Exponents(const uint8_t *exponents) {
        for (int i = 0; i < 16; ++i) {
            upper[i] = static_cast<uint8_t>(exponents[i] >> 1);
            lower[i] = static_cast<uint8_t>(exponents[i] << 7);
        }
    }
};

// One row, and its next escape.
struct RankedRow {
    const uint8_t *bytes, *ranks, *escape;
    RankedRow(const Ranked &w, size_t r)
        : bytes(w.bytes + r * w.d), ranks(w.ranks + r * ((w.d + 1) / 2)), escape(w.escapes + w.start[r]) {}
};

// Columns c to c + count one by one, escapes too: count <= 64, zeros behind; c is even.
inline void one_by_one(const Exponents &e, RankedRow &row, size_t c, size_t count, uint16_t *out) {
    for (size_t i = 0; i < 64; ++i) {
        out[i] = 0;
        if (i >= count) continue;
        const unsigned byte = row.bytes[c + i], rank = row.ranks[(c + i) / 2] >> (4 * (i & 1)) & 15;
        const unsigned exponent = rank == 15 ? *row.escape++ : e.upper[rank] << 1 | e.lower[rank] >> 7;
        out[i] = static_cast<uint16_t>((byte & 128) << 8 | exponent << 7 | (byte & 127));
    }
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
#elif LEVEL == 1
COMPAND_INLINE void widen_bytes(__m128i byte, __m128i rank, __m128i upper, __m128i lower, lanes::F &out) {
    const __m128i high = _mm_or_si128(_mm_and_si128(byte, _mm_set1_epi8(-128)), _mm_shuffle_epi8(upper, rank));
    const __m128i low = _mm_or_si128(_mm_and_si128(byte, _mm_set1_epi8(127)), _mm_shuffle_epi8(lower, rank));
    __m128i words[2] = {_mm_unpacklo_epi8(low, high), _mm_unpackhi_epi8(low, high)};
    out = lanes::widen(lanes::load<lanes::H>(words));
}
#endif

// The 64 columns from c on as float32; moves over the escapes among them.
COMPAND_INLINE void sixty_four(const Exponents &e, RankedRow &row, size_t c, lanes::F *v) {
#if LEVEL == 2
    const __m512i upper = _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i *>(e.upper)));
    const __m512i lower = _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i *>(e.lower)));
    const __m512i pair = _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(row.ranks + c / 2)));
    const __m512i rank = _mm512_and_si512(_mm512_or_si512(pair, _mm512_slli_epi16(pair, 4)), _mm512_set1_epi8(15));
    if (!_mm512_cmpeq_epi8_mask(rank, _mm512_set1_epi8(15))) {
        const __m512i byte = _mm512_loadu_si512(row.bytes + c);  // (byte & mask) | looked up
        const __m512i high = _mm512_ternarylogic_epi32(byte, _mm512_set1_epi8(-128), _mm512_shuffle_epi8(upper, rank), 0xea);
        const __m512i low = _mm512_ternarylogic_epi32(byte, _mm512_set1_epi8(127), _mm512_shuffle_epi8(lower, rank), 0xea);
        for (size_t u = 0; u < 4; ++u)
            v[u] = std::bit_cast<lanes::F>(
                _mm512_maskz_permutex2var_epi8(0xccccccccccccccccull, low, _mm512_loadu_si512(kSpread[u].data()), high));
        return;
    }
#elif LEVEL == 1
    const __m128i upper = _mm_load_si128(reinterpret_cast<const __m128i *>(e.upper));
    const __m128i lower = _mm_load_si128(reinterpret_cast<const __m128i *>(e.lower));
    const __m128i four = _mm_set1_epi8(15);
    __m128i rank[4], escaped = _mm_setzero_si128();
    for (size_t half = 0; half < 2; ++half) {
        const __m128i pair = _mm_loadu_si128(reinterpret_cast<const __m128i *>(row.ranks + c / 2 + 16 * half));
        const __m128i even = _mm_and_si128(pair, four), odd = _mm_and_si128(_mm_srli_epi16(pair, 4), four);
        escaped = _mm_or_si128(escaped, _mm_or_si128(_mm_cmpeq_epi8(even, four), _mm_cmpeq_epi8(odd, four)));
        rank[2 * half] = _mm_unpacklo_epi8(even, odd);
        rank[2 * half + 1] = _mm_unpackhi_epi8(even, odd);
    }
    if (_mm_testz_si128(escaped, escaped)) {
        for (size_t u = 0; u < 4; ++u)
            widen_bytes(_mm_loadu_si128(reinterpret_cast<const __m128i *>(row.bytes + c + 16 * u)), rank[u], upper, lower, v[u]);
        return;
    }
#endif
    uint16_t own[64];
    one_by_one(e, row, c, 64, own);
    for (size_t u = 0; u < 4; ++u) v[u] = lanes::widen(lanes::load<lanes::H>(own + 16 * u));
}

// One line: the sums of `plain_tile`.
void ranked_line(const Ranked &w, const Exponents &e, size_t r, const float *x, float *y) {
    using lanes::F;
    RankedRow row(w, r);
    F sum[4] = {}, v[4];
    size_t c = 0;
    for (; c + 64 <= w.d; c += 64) {
        __builtin_prefetch(row.bytes + c + kAhead);
        __builtin_prefetch(row.ranks + c / 2 + kAhead);
        sixty_four(e, row, c, v);
        for (size_t u = 0; u < 4; ++u) sum[u] = sum[u] + v[u] * lanes::load<F>(x + c + 16 * u);
    }
    if (c < w.d) {
        uint16_t tail[64];
        float own[64] = {};
        one_by_one(e, row, c, w.d - c, tail);
        std::memcpy(own, x + c, (w.d - c) * sizeof(float));
        for (size_t u = 0; u < 4; ++u) sum[u] = sum[u] + lanes::widen(lanes::load<lanes::H>(tail + 16 * u)) * lanes::load<F>(own + 16 * u);
    }
    *y = lanes::total((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

void ranked_values(const Ranked &w, const Exponents &e, size_t r, float *out) {
    RankedRow row(w, r);
    lanes::F v[4];
    size_t c = 0;
    for (; c + 64 <= w.d; c += 64) {
        sixty_four(e, row, c, v);
        for (size_t u = 0; u < 4; ++u) lanes::store(out + c + 16 * u, v[u]);
    }
    uint16_t tail[64];
    one_by_one(e, row, c, w.d - c, tail);
    for (size_t i = 0; c + i < w.d; ++i) out[c + i] = std::bit_cast<float>(static_cast<uint32_t>(tail[i]) << 16);
}

}  // namespace

void ranked(const Ranked &w, size_t first, size_t last, const float *x, size_t count, float *y, size_t stride) {
    const Exponents e(w.exponents);
    if (count < 4) {
        for (size_t r = first; r < last; ++r)
            for (size_t t = 0; t < count; ++t) ranked_line(w, e, r, x + t * w.d, y + t * stride + r);
        return;
    }
    std::vector<float> room(8 * w.d);
    for (size_t r = first; r < last; r += 8) {
        const size_t rows = std::min<size_t>(8, last - r);
        for (size_t i = 0; i < rows; ++i) ranked_values(w, e, r + i, room.data() + i * w.d);
        plain_tiles(room.data(), w.d, 0, rows, x, count, y + r, stride);
    }
}

void ranked_row(const Ranked &w, size_t r, float *out) { ranked_values(w, Exponents(w.exponents), r, out); }

}  // namespace compand::matmul::ISA

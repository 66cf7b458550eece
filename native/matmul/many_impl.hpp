// `rows` of kMany lines and more, AVX-512: sixteen rows laid out once for all of them.
namespace compand::matmul::ISA {
namespace {

// Columns of dwords of 16 vectors: out[j] lane r = rows[r] lane j.
COMPAND_INLINE void transpose(__m512i *v) {
    __m512i a[16];
    for (int i = 0; i < 16; i += 2) {
        a[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
        a[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        v[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
        v[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
        v[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
        v[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
    for (int i = 0; i < 4; ++i) {  // v[4 k + i], lane L: rows 4 k to 4 k + 3 of dword 4 L + i
        const __m512i x = _mm512_shuffle_i32x4(v[i], v[4 + i], 0x88), y = _mm512_shuffle_i32x4(v[8 + i], v[12 + i], 0x88);
        const __m512i z = _mm512_shuffle_i32x4(v[i], v[4 + i], 0xdd), w = _mm512_shuffle_i32x4(v[8 + i], v[12 + i], 0xdd);
        a[i] = _mm512_shuffle_i32x4(x, y, 0x88);
        a[8 + i] = _mm512_shuffle_i32x4(x, y, 0xdd);
        a[4 + i] = _mm512_shuffle_i32x4(z, w, 0x88);
        a[12 + i] = _mm512_shuffle_i32x4(z, w, 0xdd);
    }
    std::memcpy(v, a, sizeof a);
}

// Sixteen rows laid out for many lines: of each chunk 16 vectors of four columns of every row, and the scales (groups, 16).
struct Sixteen {
    std::vector<uint8_t> low, high;
    std::vector<float> scale, zero;

    explicit Sixteen(const Rows &w)
        : low(padded(chunks_of(w)) * 1024 + 64), high(w.high || w.bits > 6 ? low.size() : 0), scale(w.groups * 16 + 16), zero(w.zero ? scale.size() : 0) {}
    static uint8_t *aligned(std::vector<uint8_t> &v) { return v.data() + (64 - reinterpret_cast<uintptr_t>(v.data()) % 64) % 64; }

    // Chunks c, c + 4, c + 8... lie one behind the other.
    static size_t place(size_t c, size_t chunks) { return c % 4 * (padded(chunks) / 4) + c / 4; }

    template <int kind> void lay(const Rows &w, const Unpack &unpack, size_t r, size_t rows) {
        const size_t chunks = chunks_of(w), step = 8 * static_cast<size_t>(w.bits);
        const Table<kind == 3> table(w.levels, w.bits), above(w.high, w.bits);
        __m512i ids[16], v[16];
        for (size_t c = 0; c < chunks; ++c) {
            const __mmask64 have = ~__mmask64{0} >> (64 - std::min(step, w.row_bytes - c * step));
            for (size_t i = 0; i < 16; ++i) ids[i] = unpack(w.bytes + (r + std::min(i, rows - 1)) * w.row_bytes + c * step, have);
            for (size_t i = 0; i < 16; ++i) v[i] = kind == 0 ? ids[i] : table(ids[i]);
            transpose(v);
            std::memcpy(aligned(low) + place(c, chunks) * 1024, v, sizeof v);
            if constexpr (kind >= 2) {
                for (size_t i = 0; i < 16; ++i) v[i] = above(ids[i]);
                transpose(v);
                std::memcpy(aligned(high) + place(c, chunks) * 1024, v, sizeof v);
            }
        }
        for (size_t i = 0; i < 16; ++i) {
            const size_t at = (r + std::min(i, rows - 1)) * w.groups;
            for (size_t g = 0; g < w.groups; ++g) scale[g * 16 + i] = w.brain ? widen(w.brain[at + g]) : w.scale[at + g];
            if (w.zero)
                for (size_t g = 0; g < w.groups; ++g) zero[g * 16 + i] = w.zero[at + g];
        }
    }
};

// Sixteen rows and T lines.
template <bool two, bool small, bool zeroed, int T>
void tile(const Rows &w, Sixteen &own, const uint32_t *groups, const Line *lines, size_t rows, float *y, size_t stride) {
    const size_t chunks = chunks_of(w);
    const int8_t *q_of[T];
    const int32_t *start_of[T];
    for (int t = 0; t < T; ++t) q_of[t] = lines[t].q, start_of[t] = lines[t].start;
    __m512 part[4][T][4];
    const uint8_t *const low = Sixteen::aligned(own.low), *const above = two ? Sixteen::aligned(own.high) : nullptr;
    for (size_t k = 0; k < 4; ++k) {
        __m512 sum[T][4] = {};
        for (size_t c = k; c < chunks; c += 4) {
            const uint8_t *levels = low + Sixteen::place(c, chunks) * 1024;
            __m512 factor[T];
            if (!small)
                for (int t = 0; t < T; ++t) factor[t] = _mm512_mul_ps(_mm512_loadu_ps(own.scale.data() + 16 * groups[c]), _mm512_set1_ps(lines[t].scale[c]));
#pragma GCC unroll 4
            for (size_t quarter = 0; quarter < 4; ++quarter) {
                const size_t g = small ? std::min((c * kChunk + 16 * quarter) / w.group, w.groups - 1) : groups[c];
                __m512i dot[T], over[T];
                for (int t = 0; t < T; ++t) dot[t] = _mm512_set1_epi32(start_of[t][4 * c + quarter]);
                if (two)
                    for (int t = 0; t < T; ++t) over[t] = _mm512_setzero_si512();
#pragma GCC unroll 4
                for (size_t j = 4 * quarter; j < 4 * quarter + 4; ++j) {
                    const __m512i v = _mm512_load_si512(levels + 64 * j);
                    __m512i u;
                    if (two) u = _mm512_load_si512(above + (levels - low) + 64 * j);
                    for (int t = 0; t < T; ++t) {
                        const __m512i q = _mm512_set1_epi32(lanes::load<int32_t>(q_of[t] + c * kChunk + 4 * j));
                        dot[t] = dot_of(dot[t], v, q);
                        if (two) over[t] = dot_of(over[t], u, q);
                    }
                }
                for (int t = 0; t < T; ++t) {
                    __m512 f = _mm512_cvtepi32_ps(two ? _mm512_add_epi32(dot[t], _mm512_slli_epi32(over[t], 7)) : dot[t]);
                    if (zeroed)
                        f = _mm512_add_ps(f, _mm512_mul_ps(_mm512_loadu_ps(own.zero.data() + 16 * g),
                                                           _mm512_set1_ps(static_cast<float>(lines[t].sums[4 * c + quarter]))));
                    const __m512 by = small ? _mm512_mul_ps(_mm512_loadu_ps(own.scale.data() + 16 * g), _mm512_set1_ps(lines[t].scale[c])) : factor[t];
                    sum[t][quarter] = _mm512_add_ps(sum[t][quarter], _mm512_mul_ps(f, by));
                }
            }
        }
        for (int t = 0; t < T; ++t)
            for (int quarter = 0; quarter < 4; ++quarter) part[k][t][quarter] = sum[t][quarter];
    }
    for (int t = 0; t < T; ++t) {
        __m512 v[4];
        for (int q = 0; q < 4; ++q) v[q] = _mm512_add_ps(_mm512_add_ps(part[0][t][q], part[2][t][q]), _mm512_add_ps(part[1][t][q], part[3][t][q]));
        alignas(64) float out[16];
        _mm512_store_ps(out, _mm512_add_ps(_mm512_add_ps(v[0], v[2]), _mm512_add_ps(v[1], v[3])));
        std::memcpy(y + static_cast<size_t>(t) * stride, out, rows * sizeof(float));
    }
}

template <int kind, bool small> void many(const Rows &w, size_t first, size_t last, const uint32_t *groups, const Line *lines, size_t count, float *y, size_t stride) {
    const Unpack unpack(w.bits);
    Sixteen own(w);
    for (size_t r = first; r < last; r += 16) {
        const size_t rows = std::min<size_t>(16, last - r);
        own.lay<kind>(w, unpack, r, rows);
        size_t t = 0;
        const auto tiles = [&](auto zeroed) {
            constexpr bool zeros = decltype(zeroed)::value;
            for (; t + 4 <= count; t += 4) tile<kind >= 2, small, zeros, 4>(w, own, groups, lines + t, rows, y + t * stride + r, stride);
            for (; t < count; ++t) tile<kind >= 2, small, zeros, 1>(w, own, groups, lines + t, rows, y + t * stride + r, stride);
        };
        if (kind == 0 && w.zero) tiles(std::bool_constant<kind == 0>{});
        else tiles(std::false_type{});
    }
}

}  // namespace
}  // namespace compand::matmul::ISA

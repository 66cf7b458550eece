// `rows` of fewer than kMany lines, AVX-512: four rows at a time, as their codes lie.
namespace compand::matmul::ISA {
namespace {

// Of four rows (the last again where there are fewer) the scales or zeros as (groups, 4), zeros behind them.
void four_rows(const Rows &w, size_t r, size_t rows, bool zeros, float *out) {
    const float *wide = zeros ? w.zero : w.scale;
    const auto values = [&](size_t i, size_t g, __mmask16 have) {
        const size_t at = (r + std::min(i, rows - 1)) * w.groups + g;
        if (wide) return _mm512_maskz_loadu_ps(have, wide + at);
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(have, w.brain + at)), 16));
    };
    for (size_t g = 0; g < w.groups; g += 16) {
        const __mmask16 have = static_cast<__mmask16>(w.groups - g >= 16 ? 0xffff : (1u << (w.groups - g)) - 1);
        const __m512 a = values(0, g, have), b = values(1, g, have), c = values(2, g, have), e = values(3, g, have);
        const __m512d ab = _mm512_castps_pd(_mm512_unpacklo_ps(a, b)), ce = _mm512_castps_pd(_mm512_unpacklo_ps(c, e));
        const __m512d ba = _mm512_castps_pd(_mm512_unpackhi_ps(a, b)), ec = _mm512_castps_pd(_mm512_unpackhi_ps(c, e));
        const __m512 own[4] = {_mm512_castpd_ps(_mm512_unpacklo_pd(ab, ce)), _mm512_castpd_ps(_mm512_unpackhi_pd(ab, ce)),
                               _mm512_castpd_ps(_mm512_unpacklo_pd(ba, ec)), _mm512_castpd_ps(_mm512_unpackhi_pd(ba, ec))};
        for (size_t j = 0; j < 4; ++j) {  // the four rows of groups g + 4 k + j
            float *to = out + (g + j) * 4;
            _mm_storeu_ps(to, _mm512_castps512_ps128(own[j]));
            _mm_storeu_ps(to + 16, _mm512_extractf32x4_ps(own[j], 1));
            _mm_storeu_ps(to + 32, _mm512_extractf32x4_ps(own[j], 2));
            _mm_storeu_ps(to + 48, _mm512_extractf32x4_ps(own[j], 3));
        }
    }
}

// (groups, 4) as (chunks, 4), or (chunks, 4 quarters, 4) where groups are smaller than a chunk; times x of each chunk, if given.
template <bool small> void factors_of(const Rows &w, const uint32_t *groups, const float *from, const float *x, float *to) {
    const size_t chunks = chunks_of(w);
    const __m512i lane = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    const __m512i twice = _mm512_setr_epi32(0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7);
    if (!small && w.group == kChunk) {
        for (size_t c = 0; c < chunks; c += 4) {
            const __m512 factor = x ? _mm512_permutexvar_ps(lane, _mm512_castps128_ps512(_mm_loadu_ps(x + c))) : _mm512_set1_ps(1);
            _mm512_storeu_ps(to + 4 * c, _mm512_mul_ps(_mm512_loadu_ps(from + 4 * c), factor));
        }
        return;
    }
    for (size_t c = 0; c < chunks; ++c) {
        const float factor = x ? x[c] : 1.0f;
        if (!small) _mm_storeu_ps(to + 4 * c, _mm_mul_ps(_mm_loadu_ps(from + 4 * groups[c]), _mm_set1_ps(factor)));
        else {
            const __m512 own = w.group == 16 ? _mm512_loadu_ps(from + 16 * c)
                                             : _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(_mm256_loadu_ps(from + 8 * c)));
            _mm512_storeu_ps(to + 16 * c, _mm512_mul_ps(own, _mm512_set1_ps(factor)));
        }
    }
}

// Room for four rows: values of their groups, then of chunks.
struct Four {
    std::vector<float> groups, factors, zeros;
    explicit Four(const Rows &w)
        : groups(4 * (w.groups + 32)), factors(16 * (padded(chunks_of(w)) + 8)), zeros(w.zero ? factors.size() : 0) {}
};

// Vectors of the partial sums of four rows: of one chunk lane 4 L + r is quarter L of row r; of two chunks (4 bits, low and high halves of
// bytes at once) lane 4 L + 2 r + q is quarter 2 L + q of row r, rows 0 and 1 apart from rows 2 and 3.
COMPAND_INLINE __m512i four_of(__m512i a, __m512i b, __m512i c, __m512i e) {
    const __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    const __m512i ce = _mm512_add_epi32(_mm512_unpacklo_epi32(c, e), _mm512_unpackhi_epi32(c, e));
    return _mm512_add_epi32(_mm512_unpacklo_epi64(ab, ce), _mm512_unpackhi_epi64(ab, ce));
}
COMPAND_INLINE __m512i two_of(__m512i a, __m512i b) {
    const __m512 u = _mm512_castsi512_ps(a), v = _mm512_castsi512_ps(b);
    return _mm512_add_epi32(_mm512_castps_si512(_mm512_shuffle_ps(u, v, 0x88)), _mm512_castps_si512(_mm512_shuffle_ps(u, v, 0xdd)));
}

// Asks for rows to come while four are read: one after the other, as the memory system likes them. Four rows are read side by side, so
// that all of the next four must be there, and what is asked for later than half of `kAhead` before it is used comes too late.
struct Ahead {
    const char *next;
    Ahead(const Rows &w, size_t r)
        : next(reinterpret_cast<const char *>(w.bytes) + r * w.row_bytes + std::max(kAhead, 4 * w.row_bytes + kAhead / 2)) {}
    COMPAND_INLINE void operator()(size_t at) const { _mm_prefetch(next + at, _MM_HINT_T1); }
};

// One line and four rows, a chunk at a time.
template <int kind, bool small> void line(const Rows &w, const Unpack &unpack, size_t r, size_t rows, const Four &four, const Line &x, float *y) {
    const size_t chunks = chunks_of(w), step = 8 * static_cast<size_t>(w.bits), full = w.row_bytes / step;
    const Table<kind == 3> table(w.levels, w.bits), high(w.high, w.bits);
    const __m512i lane = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    const Ahead ahead(w, r);
    const uint8_t *from[4];
    for (size_t i = 0; i < 4; ++i) from[i] = w.bytes + (r + std::min(i, rows - 1)) * w.row_bytes;
    __m512 sum[4] = {};
    const auto add = [&](size_t c, __m512 &to, __mmask64 have) {
        const __m512i q = _mm512_loadu_si512(x.q + c * kChunk);
        for (size_t at = 4 * c * step; at < 4 * (c + 1) * step; at += 64) ahead(at);
        __m512i dot[4];
        for (size_t i = 0; i < 4; ++i) {
            const uint8_t *own = from[i] + c * step;
            const __m512i ids = w.bits == 8   ? _mm512_maskz_loadu_epi8(have, own)
                                : w.bits == 1 ? _mm512_maskz_mov_epi8(lanes::load<uint64_t>(own) & have, unpack.mask)
                                              : unpack(own, have);
            dot[i] = dots<kind>(_mm512_setzero_si512(), table, high, ids, q);
        }
        const __m512i start = _mm512_permutexvar_epi32(lane, _mm512_castsi128_si512(_mm_loadu_si128(reinterpret_cast<const __m128i *>(x.start + 4 * c))));
        __m512 f = _mm512_cvtepi32_ps(_mm512_add_epi32(four_of(dot[0], dot[1], dot[2], dot[3]), start));
        const auto of_chunk = [&](const float *all) {
            return small ? _mm512_loadu_ps(all + 16 * c) : _mm512_broadcast_f32x4(_mm_loadu_ps(all + 4 * c));
        };
        if (kind == 0 && w.zero) {
            const __m512i sums = _mm512_permutexvar_epi32(lane, _mm512_castsi128_si512(_mm_loadu_si128(reinterpret_cast<const __m128i *>(x.sums + 4 * c))));
            f = _mm512_add_ps(f, _mm512_mul_ps(of_chunk(four.zeros.data()), _mm512_cvtepi32_ps(sums)));
        }
        to = _mm512_add_ps(to, _mm512_mul_ps(f, of_chunk(four.factors.data())));
    };
    // a row's last ids may end before their chunk does
    const auto have = [&](size_t c) -> __mmask64 {
        if (w.bits == 1) return ~__mmask64{0};  // not reached
        return c < full ? ~__mmask64{0} >> (64 - step) : ~__mmask64{0} >> (64 - std::min(step, w.row_bytes - c * step));
    };
    size_t c = 0;
    if (w.bits == 1) {
        for (; c < full; ++c) add(c, sum[c % 4], ~__mmask64{0});
        if (c < chunks) {  // the last bytes of each row from a copy
            alignas(8) uint8_t last[4][8] = {};
            for (size_t i = 0; i < 4; ++i) {
                std::memcpy(last[i], from[i] + c * step, w.row_bytes - c * step);
                from[i] = last[i] - c * step;
            }
            add(c, sum[c % 4], ~__mmask64{0});
        }
    } else {
        for (; c + 4 <= full; c += 4) {
            add(c, sum[0], have(0));
            add(c + 1, sum[1], have(0));
            add(c + 2, sum[2], have(0));
            add(c + 3, sum[3], have(0));
        }
        for (; c < chunks; ++c) add(c, sum[c % 4], have(c));
    }
    const __m512 v = _mm512_add_ps(_mm512_add_ps(sum[0], sum[2]), _mm512_add_ps(sum[1], sum[3]));
    const __m256 u = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    alignas(16) float out[4];
    _mm_store_ps(out, _mm_add_ps(_mm256_castps256_ps128(u), _mm256_extractf128_ps(u, 1)));
    std::memcpy(y, out, rows * sizeof(float));
}

// The same of four bits: 64 bytes are two chunks, the activations of even and of odd columns being apart.
template <int kind, bool small> void halves(const Rows &w, size_t r, size_t rows, const Four &four, const Line &x, float *y) {
    const size_t bytes = w.row_bytes;
    const Small table(w.levels), high(w.high);
    const __m512i low = _mm512_set1_epi8(15);
    const auto at = [](auto f) {
        alignas(64) int32_t i[16];
        for (int k = 0; k < 16; ++k) i[k] = f(k / 4, k / 2 % 2, k % 2);
        return _mm512_load_si512(i);
    };
    const __m512i quarter = at([](int l, int, int q) { return 2 * l + q; });
    const __m512i first = at([](int l, int i, int q) { return small ? (2 * l + q) * 4 + i : l / 2 * 4 + i; });
    const __m512i second = at([](int l, int i, int q) { return small ? (2 * l + q) * 4 + 2 + i : l / 2 * 4 + 2 + i; });
    const Ahead ahead(w, r);
    const uint8_t *from[4];
    for (size_t i = 0; i < 4; ++i) from[i] = w.bytes + (r + std::min(i, rows - 1)) * bytes;
    __m512 sum[2][2] = {};
    const auto add = [&](size_t p, int u, __mmask64 have) {  // columns 128 p to 128 p + 127
        const __m512i even = _mm512_loadu_si512(x.spread + 128 * p), odd = _mm512_loadu_si512(x.spread + 128 * p + 64);
        __m512i dot[4];
        for (size_t i = 0; i < 4; ++i) {
            ahead(256 * p + 64 * i);
            const __m512i ids = _mm512_maskz_loadu_epi8(have, from[i] + 64 * p);
            dot[i] = dots<kind>(_mm512_setzero_si512(), table, high, _mm512_and_si512(ids, low), even);
            dot[i] = dots<kind>(dot[i], table, high, _mm512_and_si512(_mm512_srli_epi16(ids, 4), low), odd);
        }
        const __m512i start = _mm512_permutexvar_epi32(quarter, _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(x.start + 8 * p))));
        const auto of_chunks = [&](const float *all, const __m512i &which) {
            if constexpr (small) return _mm512_permutex2var_ps(_mm512_loadu_ps(all + 32 * p), which, _mm512_loadu_ps(all + 32 * p + 16));
            else return _mm512_permutexvar_ps(which, _mm512_castps256_ps512(_mm256_loadu_ps(all + 8 * p)));
        };
        __m512 f[2] = {_mm512_cvtepi32_ps(_mm512_add_epi32(two_of(dot[0], dot[1]), start)), _mm512_cvtepi32_ps(_mm512_add_epi32(two_of(dot[2], dot[3]), start))};
        if (kind == 0 && w.zero) {
            const __m512 sums = _mm512_cvtepi32_ps(_mm512_permutexvar_epi32(quarter, _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(x.sums + 8 * p)))));
            f[0] = _mm512_add_ps(f[0], _mm512_mul_ps(of_chunks(four.zeros.data(), first), sums));
            f[1] = _mm512_add_ps(f[1], _mm512_mul_ps(of_chunks(four.zeros.data(), second), sums));
        }
        sum[u][0] = _mm512_add_ps(sum[u][0], _mm512_mul_ps(f[0], of_chunks(four.factors.data(), first)));
        sum[u][1] = _mm512_add_ps(sum[u][1], _mm512_mul_ps(f[1], of_chunks(four.factors.data(), second)));
    };
    size_t p = 0;
    for (; 64 * p + 128 <= bytes; p += 2) {
        add(p, 0, ~__mmask64{0});
        add(p + 1, 1, ~__mmask64{0});
    }
    for (; 64 * p < bytes; ++p) add(p, p % 2, ~__mmask64{0} >> (64 - std::min<size_t>(64, bytes - 64 * p)));
    alignas(16) float out[4];
    for (size_t i = 0; i < 2; ++i) {  // lane 4 L + 2 r + q: halves of the 8 quarters of two chunks upon each other
        const __m512 v = _mm512_add_ps(sum[0][i], sum[1][i]);
        const __m256 u = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
        const __m128 t = _mm_add_ps(_mm256_castps256_ps128(u), _mm256_extractf128_ps(u, 1));
        const __m128 s = _mm_add_ps(t, _mm_movehdup_ps(t));
        out[2 * i] = _mm_cvtss_f32(s);
        out[2 * i + 1] = _mm_cvtss_f32(_mm_movehl_ps(s, s));
    }
    std::memcpy(y, out, rows * sizeof(float));
}

// The same of two bits and groups of whole chunks: 64 bytes are 256 columns, whose lanes are those that a row is summed in.
template <int kind> void planes(const Rows &w, size_t r, size_t rows, const Four &four, const Line &x, float *y) {
    const size_t bytes = w.row_bytes;
    alignas(16) uint8_t four_levels[2][16] = {};
    if (w.levels) std::memcpy(four_levels[0], w.levels, 4);
    if (w.high) std::memcpy(four_levels[1], w.high, 4);
    const Small table(four_levels[0]), high(four_levels[1]);
    const __m512i low = _mm512_set1_epi8(3), lane = _mm512_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12);
    const Ahead ahead(w, r);
    __m512 sum[4] = {};
    for (size_t p = 0; 64 * p < bytes; ++p) {
        const __mmask64 have = ~__mmask64{0} >> (64 - std::min<size_t>(64, bytes - 64 * p));
        const __m512i start = _mm512_loadu_si512(x.start + 16 * p);
        const __m512 factors = _mm512_loadu_ps(four.factors.data() + 16 * p);
        for (size_t i = 0; i < 4; ++i) {
            ahead(256 * p + 64 * i);
            const __m512i ids = _mm512_maskz_loadu_epi8(have, w.bytes + (r + std::min(i, rows - 1)) * bytes + 64 * p);
            const int8_t *q = x.spread + 256 * p;
            __m512i dot = dots<kind>(_mm512_setzero_si512(), table, high, _mm512_and_si512(ids, low), _mm512_loadu_si512(q));
            dot = dots<kind>(dot, table, high, _mm512_and_si512(_mm512_srli_epi16(ids, 2), low), _mm512_loadu_si512(q + 64));
            dot = dots<kind>(dot, table, high, _mm512_and_si512(_mm512_srli_epi16(ids, 4), low), _mm512_loadu_si512(q + 128));
            dot = dots<kind>(dot, table, high, _mm512_and_si512(_mm512_srli_epi16(ids, 6), low), _mm512_loadu_si512(q + 192));
            const __m512i own = _mm512_add_epi32(lane, _mm512_set1_epi32(static_cast<int>(i)));
            __m512 f = _mm512_cvtepi32_ps(_mm512_add_epi32(dot, start));
            if (kind == 0 && w.zero) {
                const __m512 zero = _mm512_permutexvar_ps(own, _mm512_loadu_ps(four.zeros.data() + 16 * p));
                f = _mm512_add_ps(f, _mm512_mul_ps(zero, _mm512_cvtepi32_ps(_mm512_loadu_si512(x.sums + 16 * p))));
            }
            sum[i] = _mm512_add_ps(sum[i], _mm512_mul_ps(f, _mm512_permutexvar_ps(own, factors)));
        }
    }
    for (size_t i = 0; i < rows; ++i) y[i] = total(sum[i]);
}

// The same of one bit, by planes: an AND and a count for each bit of the activations, whose products with 16 columns are 16-bit lanes.
// Multiplied (kind 1: by what the two levels are apart, and the first of them added) they are the integers that `line` has. ABQ-LLM (2024).
template <int kind> void counts(const Rows &w, size_t r, size_t rows, const Four &four, const Line &x, float *y) {
    const size_t bytes = w.row_bytes;
    const int first = kind == 1 ? w.levels[0] : 0, apart = kind == 1 ? w.levels[1] - first : 1;
    const __m512i lane = _mm512_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12);
    const __m512i low = _mm512_set1_epi32(first), step = _mm512_set1_epi32(apart);
    const Ahead ahead(w, r);
    for (size_t i = 0; i < rows; ++i) {
        const uint8_t *from = w.bytes + (r + i) * bytes;
        const __m512i own = _mm512_add_epi32(lane, _mm512_set1_epi32(static_cast<int>(i)));
        __m512 sum = _mm512_setzero_ps();
        for (size_t p = 0; 64 * p < bytes; ++p) {  // 512 columns
            ahead(64 * (p * rows + i));
            const __m512i ids = _mm512_maskz_loadu_epi8(~__mmask64{0} >> (64 - std::min<size_t>(64, bytes - 64 * p)), from + 64 * p);
            const auto count = [&](size_t bit) {
                return _mm512_popcnt_epi16(_mm512_and_si512(ids, _mm512_loadu_si512(x.spread + 512 * p + 64 * bit)));
            };
            __m512i dot = _mm512_sub_epi16(count(0), _mm512_slli_epi16(count(7), 7));
            dot = _mm512_add_epi16(dot, _mm512_add_epi16(_mm512_slli_epi16(count(1), 1), _mm512_slli_epi16(count(2), 2)));
            dot = _mm512_add_epi16(dot, _mm512_add_epi16(_mm512_slli_epi16(count(3), 3), _mm512_slli_epi16(count(4), 4)));
            dot = _mm512_add_epi16(dot, _mm512_add_epi16(_mm512_slli_epi16(count(5), 5), _mm512_slli_epi16(count(6), 6)));
            const auto add = [&](__m256i half, size_t at) {  // 256 columns, in the lanes that a row is summed in
                __m512i n = _mm512_cvtepi16_epi32(half);
                if (kind == 1) n = _mm512_add_epi32(_mm512_mullo_epi32(n, step), _mm512_mullo_epi32(low, _mm512_loadu_si512(x.sums + at)));
                __m512 f = _mm512_cvtepi32_ps(_mm512_add_epi32(n, _mm512_loadu_si512(x.start + at)));
                if (kind == 0 && w.zero)
                    f = _mm512_add_ps(f, _mm512_mul_ps(_mm512_permutexvar_ps(own, _mm512_loadu_ps(four.zeros.data() + at)),
                                                       _mm512_cvtepi32_ps(_mm512_loadu_si512(x.sums + at))));
                sum = _mm512_add_ps(sum, _mm512_mul_ps(f, _mm512_permutexvar_ps(own, _mm512_loadu_ps(four.factors.data() + at))));
            };
            add(_mm512_castsi512_si256(dot), 32 * p);
            add(_mm512_extracti64x4_epi64(dot, 1), 32 * p + 16);
        }
        y[i] = total(sum);
    }
}

template <int kind, bool small> void few(const Rows &w, size_t first, size_t last, const uint32_t *groups, const Line *lines, size_t count, float *y, size_t stride) {
    const Unpack unpack(w.bits);
    Four four(w);
    for (size_t r = first; r < last; r += 4) {
        const size_t rows = std::min<size_t>(4, last - r);
        if (w.zero) {
            four_rows(w, r, rows, true, four.groups.data());
            factors_of<small>(w, groups, four.groups.data(), nullptr, four.zeros.data());
        }
        four_rows(w, r, rows, false, four.groups.data());
        for (size_t t = 0; t < count; ++t) {
            factors_of<small>(w, groups, four.groups.data(), lines[t].scale, four.factors.data());
            if (!small && kind < 2 && w.bits == 1) counts<kind>(w, r, rows, four, lines[t], y + t * stride + r);
            else if (!small && w.bits == 2) planes<kind>(w, r, rows, four, lines[t], y + t * stride + r);
            else if (w.bits == 4) halves<kind, small>(w, r, rows, four, lines[t], y + t * stride + r);
            else line<kind, small>(w, unpack, r, rows, four, lines[t], y + t * stride + r);
        }
    }
}

}  // namespace
}  // namespace compand::matmul::ISA

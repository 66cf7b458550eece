// `quantize` and `rows` of matmul.hpp. A row is summed in 16 lanes: the exact integer of each 16 columns, times its scales, is added to
// lane (column / 16) mod 16; then halves of the lanes upon each other.
namespace compand::matmul::ISA {
namespace {

inline float widen(uint16_t brain) { return std::bit_cast<float>(static_cast<uint32_t>(brain) << 16); }
inline size_t chunks_of(const Rows &w) { return (w.d + kChunk - 1) / kChunk; }
inline size_t padded(size_t chunks) { return (chunks + 3) / 4 * 4; }

#if LEVEL == 2
// sum + dot products of four bytes. GCC copies sums of the intrinsic from register to register at every step of a loop.
COMPAND_INLINE __m512i dot_of(__m512i sum, __m512i level, __m512i x) {
#if defined(__GNUC__) && !defined(__clang__)
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(level), "v"(x));
    return sum;
#else
    return _mm512_dpbusd_epi32(sum, level, x);
#endif
}

COMPAND_INLINE float total(const __m512 &v) {
    const __m256 w = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    const __m128 u = _mm_add_ps(_mm256_castps256_ps128(w), _mm256_extractf128_ps(w, 1));
    const __m128 p = _mm_add_ps(u, _mm_movehl_ps(u, u));
    return _mm_cvtss_f32(_mm_add_ss(p, _mm_shuffle_ps(p, p, 1)));
}

// 64 ids of some bits each from 8 * bits bytes: those of a qword into its place, then the 8 bits at each id's first bit.
struct Unpack {
    __m512i gather, shift, mask;
    int bits;
    explicit Unpack(int bits) : bits(bits) {
        alignas(64) uint8_t at[64], by[64];
        for (int i = 0; i < 64; ++i) {
            at[i] = static_cast<uint8_t>(i / 8 * bits + i % 8);
            by[i] = static_cast<uint8_t>(i % 8 * bits);
        }
        gather = _mm512_load_si512(at);
        shift = _mm512_load_si512(by);
        mask = _mm512_set1_epi8(static_cast<char>((1 << bits) - 1));
    }
    COMPAND_INLINE __m512i operator()(const uint8_t *from, __mmask64 have) const {
        const __m512i words = _mm512_permutexvar_epi8(gather, _mm512_maskz_loadu_epi8(have, from));
        return _mm512_and_si512(_mm512_multishift_epi64_epi8(shift, words), mask);
    }
};

// What ids stand for. kind: 0 the id is the level, 1 a table, 2 two tables, 3 two tables of more than 64 levels.
template <bool wide> struct Table {  // of 64 or 256 bytes
    __m512i part[wide ? 4 : 1];
    Table(const uint8_t *levels, int bits) {
        alignas(64) uint8_t all[256] = {};
        if (levels) std::memcpy(all, levels, size_t{1} << bits);
        for (size_t i = 0; i < sizeof part / 64; ++i) part[i] = _mm512_load_si512(all + 64 * i);
    }
    COMPAND_INLINE __m512i operator()(__m512i ids) const {
        if constexpr (wide)
            return _mm512_mask_mov_epi8(_mm512_permutex2var_epi8(part[0], ids, part[1]), _mm512_movepi8_mask(ids),
                                        _mm512_permutex2var_epi8(part[2], ids, part[3]));
        else return _mm512_permutexvar_epi8(ids, part[0]);
    }
};

// sum + (what ids stand for) times q, of one or two tables
template <int kind, class Look> COMPAND_INLINE __m512i dots(__m512i sum, const Look &table, const Look &high, __m512i ids, __m512i q) {
    sum = dot_of(sum, kind == 0 ? ids : table(ids), q);
    if constexpr (kind < 2) return sum;
    return _mm512_add_epi32(sum, _mm512_slli_epi32(dot_of(_mm512_setzero_si512(), high(ids), q), 7));
}

struct Small {  // a table of 16 bytes
    __m512i part;
    explicit Small(const uint8_t *levels) {
        alignas(16) uint8_t all[16] = {};
        if (levels) std::memcpy(all, levels, 16);
        part = _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i *>(all)));
    }
    COMPAND_INLINE __m512i operator()(__m512i ids) const { return _mm512_shuffle_epi8(part, ids); }
};

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
        : groups(4 * (w.groups + 32)), factors(16 * (padded(chunks_of(w)) + 4)), zeros(w.zero ? factors.size() : 0) {}
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

// Asks for the next four rows while four are read: one after the other, as the memory system likes them, into the cache that holds them.
struct Ahead {
    const char *next;
    bool near;
    Ahead(const Rows &w, size_t r) {
        const size_t block = std::max<size_t>(4 * w.row_bytes, 2048);
        next = reinterpret_cast<const char *>(w.bytes) + r * w.row_bytes + block;
        near = block < 4096;
    }
    COMPAND_INLINE void operator()(size_t at) const {
        if (near) _mm_prefetch(next + at, _MM_HINT_T0);
        else _mm_prefetch(next + at, _MM_HINT_T1);
    }
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
            if (!small && w.bits == 2) planes<kind>(w, r, rows, four, lines[t], y + t * stride + r);
            else if (w.bits == 4) halves<kind, small>(w, r, rows, four, lines[t], y + t * stride + r);
            else line<kind, small>(w, unpack, r, rows, four, lines[t], y + t * stride + r);
        }
    }
}

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

template <bool small> void sized(const Rows &w, size_t first, size_t last, const uint32_t *groups, const Line *lines, size_t count, float *y, size_t stride) {
    const int kind = w.bits > 6 && w.levels ? 3 : w.high ? 2 : w.levels ? 1 : 0;
    using Run = void (*)(const Rows &, size_t, size_t, const uint32_t *, const Line *, size_t, float *, size_t);
    static constexpr Run all[2][4] = {{few<0, small>, few<1, small>, few<2, small>, few<3, small>},
                                      {many<0, small>, many<1, small>, many<2, small>, many<3, small>}};
    all[count >= kMany][kind](w, first, last, groups, lines, count, y, stride);
}
#else

inline void unpack(const uint8_t *from, size_t left, int bits, uint8_t *ids) {
    const size_t step = static_cast<size_t>(bits);
    uint8_t bytes[kChunk + 8] = {};
    std::memcpy(bytes, from, left < 8 * step ? left : 8 * step);
    for (size_t i = 0; i < 8; ++i) {
        uint64_t word;
        std::memcpy(&word, bytes + i * step, 8);
#if LEVEL == 1
        word = _pdep_u64(word, 0x0101010101010101ull * ((1u << bits) - 1));
        std::memcpy(ids + 8 * i, &word, 8);
#else
        for (size_t j = 0; j < 8; ++j) ids[8 * i + j] = static_cast<uint8_t>(word >> (j * step) & ((1u << bits) - 1));
#endif
    }
}

// quarters[i] += times * the dot product of bytes 16 i to 16 i + 15
inline void dot(const uint8_t *level, const int8_t *q, int times, int32_t *quarters) {
#if LEVEL == 1
    const auto sixteen = [&](size_t i) {
        return _mm256_madd_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i *>(level + 16 * i))),
                                 _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i *>(q + 16 * i))));
    };
    const __m256i all = _mm256_hadd_epi32(_mm256_hadd_epi32(sixteen(0), sixteen(1)), _mm256_hadd_epi32(sixteen(2), sixteen(3)));
    const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
    __m128i *to = reinterpret_cast<__m128i *>(quarters);
    _mm_storeu_si128(to, _mm_add_epi32(_mm_loadu_si128(to), times == 1 ? four : _mm_slli_epi32(four, 7)));
#else
    for (size_t i = 0; i < 4; ++i) {
        int sum = 0;
        for (size_t j = 16 * i; j < 16 * i + 16; ++j) sum += level[j] * q[j];
        quarters[i] += times * sum;
    }
#endif
}
#endif

}  // namespace

void quantize(const float *x, size_t d, size_t block, float unit, int8_t *q, float *scale) {
    for (size_t b = 0; b * block < d; ++b) {
        const size_t at = b * block, end = d < at + block ? d : at + block;
        uint32_t top = 0;
        for (size_t i = at; i < end; ++i) {
            uint32_t bits;
            std::memcpy(&bits, x + i, 4);
            bits &= 0x7fffffffu;
            top = bits > top ? bits : top;
        }
        const float most = std::bit_cast<float>(top);
        const bool bad = top >= 0x7f800000u;
        const float inverse = bad || most < 1e-30f ? 0.0f : 127.0f / most;
        scale[b] = bad ? std::bit_cast<float>(0x7fc00000u) : most < 1e-30f ? 0.0f : most * (1.0f / 127.0f) * unit;
        if (inverse == 0.0f) {
            std::memset(q + at, 0, block);
            continue;
        }
        for (size_t i = at; i < end; ++i) {  // rounded to nearest by the float's own last bit
            const float near = x[i] * inverse + 12582912.0f;
            int32_t bits;
            std::memcpy(&bits, &near, 4);
            q[i] = static_cast<int8_t>(bits - 0x4b400000);
        }
        std::memset(q + end, 0, at + block - end);
    }
}

void quarters(const int8_t *q, size_t d, int offset, int32_t *sums, int32_t *start) {
    for (size_t i = 0; 16 * i < d; ++i) {
        int32_t sum = 0;
        for (size_t j = 16 * i; j < 16 * i + 16; ++j) sum += q[j];
        sums[i] = sum;
        start[i] = -offset * sum;
    }
}

void spread(const int8_t *q, size_t d, size_t ways, int8_t *out) {
    for (size_t at = 0; at < d; at += 64 * ways)
        for (size_t way = 0; way < ways; ++way)
            for (size_t i = 0; i < 64; ++i) out[at + 64 * way + i] = q[at + ways * i + way];
}

void rows(const Rows &w, size_t first, size_t last, const Line *lines, size_t count, float *y, size_t stride) {
    const size_t chunks = chunks_of(w);
    std::vector<uint32_t> groups(chunks);  // of the first column of each chunk
    for (size_t c = 0; c < chunks; ++c) groups[c] = static_cast<uint32_t>(w.group >= kChunk ? c * kChunk / w.group : c);
#if LEVEL == 2
    (w.group < kChunk ? sized<true> : sized<false>)(w, first, last, groups.data(), lines, count, y, stride);
#else
    std::vector<uint8_t> ids(chunks * kChunk), level(chunks * kChunk), high(w.high ? chunks * kChunk : 0);
    std::vector<float> scale(chunks * 4), zero(w.zero ? chunks * 4 : 0);
    for (size_t r = first; r < last; ++r) {
        for (size_t c = 0; c < chunks; ++c) {
            const size_t at = c * 8 * static_cast<size_t>(w.bits);
            unpack(w.bytes + r * w.row_bytes + at, w.row_bytes - at, w.bits, ids.data() + c * kChunk);
            for (size_t i = 0; i < 4; ++i) {
                const size_t g = w.group >= kChunk ? groups[c] : (c * kChunk + 16 * i) / w.group;
                const size_t own = r * w.groups + (g < w.groups ? g : w.groups - 1);
                scale[c * 4 + i] = w.brain ? widen(w.brain[own]) : w.scale[own];
                if (w.zero) zero[c * 4 + i] = w.zero[own];
            }
        }
        const uint8_t *used = ids.data();
        if (w.levels) {
            for (size_t i = 0; i < chunks * kChunk; ++i) level[i] = w.levels[ids[i]];
            used = level.data();
        }
        if (w.high)
            for (size_t i = 0; i < chunks * kChunk; ++i) high[i] = w.high[ids[i]];
        for (size_t t = 0; t < count; ++t) {
            const Line &x = lines[t];
            float sum[16] = {};
            for (size_t c = 0; c < chunks; ++c) {
                int32_t quarters[4];
                std::memcpy(quarters, x.start + c * 4, sizeof quarters);
                dot(used + c * kChunk, x.q + c * kChunk, 1, quarters);
                if (w.high) dot(high.data() + c * kChunk, x.q + c * kChunk, 128, quarters);
                for (size_t i = 0; i < 4; ++i) {
                    float f = static_cast<float>(quarters[i]);
                    if (w.zero) f += zero[c * 4 + i] * static_cast<float>(x.sums[c * 4 + i]);
                    sum[c % 4 * 4 + i] += f * (scale[c * 4 + i] * x.scale[c]);
                }
            }
            for (size_t h = 8; h; h /= 2)
                for (size_t i = 0; i < h; ++i) sum[i] += sum[i + h];
            y[t * stride + r] = sum[0];
        }
    }
#endif
}

}  // namespace compand::matmul::ISA

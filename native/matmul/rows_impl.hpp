// `quantize` and `rows` of matmul.hpp. A row is summed in 4 x 16 lanes: chunk c adds to lanes c mod 4, lane i takes columns
// 4 i to 4 i + 3 of a chunk; then the four are added, and halves of the 16 lanes upon each other.
namespace compand::matmul::ISA {
namespace {

inline float widen(uint16_t brain) { return std::bit_cast<float>(static_cast<uint32_t>(brain) << 16); }

#if LEVEL == 2
// 64 ids of some bits each from 8 * bits bytes: those of a qword into its place, then the 8 bits at each id's first bit.
struct Unpack {
    __m512i gather, shift, mask;
    explicit Unpack(int bits) {
        alignas(64) uint8_t at[64], by[64];
        for (int i = 0; i < 64; ++i) {
            at[i] = static_cast<uint8_t>(i / 8 * bits + i % 8);
            by[i] = static_cast<uint8_t>(i % 8 * bits);
        }
        gather = _mm512_load_si512(at);
        shift = _mm512_load_si512(by);
        mask = _mm512_set1_epi8(static_cast<char>((1 << bits) - 1));
    }
    __m512i operator()(const uint8_t *from, __mmask64 have) const {
        const __m512i words = _mm512_permutexvar_epi8(gather, _mm512_maskz_loadu_epi8(have, from));
        return _mm512_and_si512(_mm512_multishift_epi64_epi8(shift, words), mask);
    }
};

template <bool wide> struct Table {  // of 64 or 256 bytes
    __m512i part[wide ? 4 : 1];
    Table(const uint8_t *levels, int bits) {
        alignas(64) uint8_t all[256] = {};
        if (levels) std::memcpy(all, levels, size_t{1} << bits);
        for (size_t i = 0; i < sizeof part / 64; ++i) part[i] = _mm512_load_si512(all + 64 * i);
    }
    __m512i operator()(__m512i ids) const {
        if constexpr (wide)
            return _mm512_mask_mov_epi8(_mm512_permutex2var_epi8(part[0], ids, part[1]), _mm512_movepi8_mask(ids),
                                        _mm512_permutex2var_epi8(part[2], ids, part[3]));
        else return _mm512_permutexvar_epi8(ids, part[0]);
    }
};

float total(const __m512 *a) {
    const __m512 v = _mm512_add_ps(_mm512_add_ps(a[0], a[1]), _mm512_add_ps(a[2], a[3]));
    const __m256 w = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    const __m128 u = _mm_add_ps(_mm256_castps256_ps128(w), _mm256_extractf128_ps(w, 1));
    const __m128 p = _mm_add_ps(u, _mm_movehl_ps(u, u));
    return _mm_cvtss_f32(_mm_add_ss(p, _mm_shuffle_ps(p, p, 1)));
}

// The scales of a chunk's lanes, of groups of 16 or 32 columns.
__m512 lanes(const float *from, size_t chunk, const Rows &w, __m512i which) {
    const size_t at = chunk * (kChunk / w.group);
    alignas(16) float some[4];
    for (size_t i = 0; i < 4; ++i) some[i] = from[std::min(at + i, w.groups - 1)];
    return _mm512_permutexvar_ps(which, _mm512_castps128_ps512(_mm_load_ps(some)));
}

// kind: 0 the id is the level, 1 a table, 2 two tables, 3 two tables of more than 64 levels. small: groups below a chunk.
// room: (T, chunks) for factors of chunks, (groups) for scales
template <int kind, bool small, int T>
void tile(const Rows &w, size_t first, size_t last, const uint32_t *groups, const Line *lines, float *room, float *y, size_t stride) {
    const size_t chunks = (w.d + kChunk - 1) / kChunk, step = 8 * static_cast<size_t>(w.bits), full = w.row_bytes / step;
    const Unpack unpack(w.bits);
    const Table<kind == 3> table(w.levels, w.bits), high(w.high, w.bits);
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i which = _mm512_srli_epi32(lane, w.group == 32 ? 3 : 2);
    const __mmask64 all = ~__mmask64{0} >> (64 - step);
    float *const scales = room + T * chunks;
    for (size_t r = first; r < last; ++r) {
        const uint8_t *bytes = w.bytes + r * w.row_bytes;
        const float *own = w.brain ? scales : w.scale + r * w.groups, *zero = w.zero ? w.zero + r * w.groups : nullptr;
        if (w.brain)
            for (size_t g = 0; g < w.groups; ++g) scales[g] = widen(w.brain[r * w.groups + g]);
        if (!small)
            for (size_t t = 0; t < T; ++t) {
                float *to = room + t * chunks;
                const float *x = lines[t].scale;
                if (w.group == kChunk)
                    for (size_t c = 0; c < chunks; ++c) to[c] = own[c] * x[c];
                else if (w.groups == 1)
                    for (size_t c = 0; c < chunks; ++c) to[c] = own[0] * x[c];
                else
                    for (size_t c = 0; c < chunks; ++c) to[c] = own[groups[c]] * x[c];
            }
        __m512 sum[T][4];
        for (auto &s : sum)
            for (__m512 &v : s) v = _mm512_setzero_ps();
        const auto add = [&](size_t c, int u, __mmask64 have) {
            _mm_prefetch(reinterpret_cast<const char *>(bytes + c * step) + kAhead, _MM_HINT_T0);
            const __m512i ids = unpack(bytes + c * step, have);
            const __m512i level = kind == 0 ? ids : table(ids);
            const __m512 s = small ? lanes(own, c, w, which) : _mm512_setzero_ps();
            for (int t = 0; t < T; ++t) {
                const __m512i q = _mm512_loadu_si512(lines[t].q + c * kChunk);
                __m512i dot = _mm512_dpbusd_epi32(_mm512_loadu_si512(lines[t].start + c * 16), level, q);
                if constexpr (kind >= 2)
                    dot = _mm512_add_epi32(dot, _mm512_slli_epi32(_mm512_dpbusd_epi32(_mm512_setzero_si512(), high(ids), q), 7));
                __m512 f = _mm512_cvtepi32_ps(dot);
                if (kind == 0 && zero) {
                    const __m512 z = small ? lanes(zero, c, w, which) : _mm512_set1_ps(zero[groups[c]]);
                    f = _mm512_add_ps(f, _mm512_mul_ps(z, _mm512_cvtepi32_ps(_mm512_loadu_si512(lines[t].sums + c * 16))));
                }
                const __m512 factor = small ? _mm512_mul_ps(s, _mm512_set1_ps(lines[t].scale[c]))
                                            : _mm512_set1_ps(room[static_cast<size_t>(t) * chunks + c]);
                sum[t][u] = _mm512_add_ps(sum[t][u], _mm512_mul_ps(f, factor));
            }
        };
        size_t c = 0;
        for (; c + 4 <= full; c += 4) {
            add(c, 0, all);
            add(c + 1, 1, all);
            add(c + 2, 2, all);
            add(c + 3, 3, all);
        }
        const auto have = [&](size_t i) { return ~__mmask64{0} >> (64 - std::min(step, w.row_bytes - i * step)); };
        if (c < chunks) add(c, 0, have(c));
        if (c + 1 < chunks) add(c + 1, 1, have(c + 1));
        if (c + 2 < chunks) add(c + 2, 2, have(c + 2));
        if (c + 3 < chunks) add(c + 3, 3, have(c + 3));
        for (int t = 0; t < T; ++t) y[static_cast<size_t>(t) * stride + r] = total(sum[t]);
    }
}

template <int kind, bool small>
void tiles(const Rows &w, size_t first, size_t last, const uint32_t *groups, const Line *lines, size_t count, float *y, size_t stride) {
    std::vector<float> room(4 * ((w.d + kChunk - 1) / kChunk) + w.groups);
    for (size_t r = first; r < last; r += 8) {  // few rows at a time, so that their codes stay near for all tiles
        const size_t end = std::min(r + 8, last);
        size_t t = 0;
        for (; t + 4 <= count; t += 4) tile<kind, small, 4>(w, r, end, groups, lines + t, room.data(), y + t * stride, stride);
        for (; t < count; ++t) tile<kind, small, 1>(w, r, end, groups, lines + t, room.data(), y + t * stride, stride);
    }
}

template <bool small>
void sized(const Rows &w, size_t first, size_t last, const uint32_t *groups, const Line *lines, size_t count, float *y, size_t stride) {
    const auto run = w.bits > 6 && w.levels ? tiles<3, small> : w.high ? tiles<2, small> : w.levels ? tiles<1, small> : tiles<0, small>;
    run(w, first, last, groups, lines, count, y, stride);
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

// lanes[i] += times * the dot product of bytes 4 i to 4 i + 3
inline void dot(const uint8_t *level, const int8_t *q, int times, int32_t *lanes) {
#if LEVEL == 1
    for (size_t h = 0; h < 2; ++h) {
        const auto half = [&](size_t i) {
            return _mm256_madd_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i *>(level + 32 * h + 16 * i))),
                                     _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i *>(q + 32 * h + 16 * i))));
        };
        const __m256i four = _mm256_permute4x64_epi64(_mm256_hadd_epi32(half(0), half(1)), 0xd8);
        __m256i *to = reinterpret_cast<__m256i *>(lanes + 8 * h);
        _mm256_storeu_si256(to, _mm256_add_epi32(_mm256_loadu_si256(to), times == 1 ? four : _mm256_slli_epi32(four, 7)));
    }
#else
    for (size_t i = 0; i < 16; ++i) {
        int sum = 0;
        for (size_t j = 4 * i; j < 4 * i + 4; ++j) sum += level[j] * q[j];
        lanes[i] += times * sum;
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

void rows(const Rows &w, size_t first, size_t last, const Line *lines, size_t count, float *y, size_t stride) {
    const size_t chunks = (w.d + kChunk - 1) / kChunk;
    std::vector<uint32_t> groups(chunks);  // of the first column of each chunk, or the chunk where it holds several
    for (size_t c = 0; c < chunks; ++c) groups[c] = static_cast<uint32_t>(w.group >= kChunk ? c * kChunk / w.group : c);
#if LEVEL == 2
    (w.group < kChunk ? sized<true> : sized<false>)(w, first, last, groups.data(), lines, count, y, stride);
#else
    std::vector<uint8_t> ids(chunks * kChunk), level(chunks * kChunk), high(w.high ? chunks * kChunk : 0);
    std::vector<float> scale(chunks * 16), zero(w.zero ? chunks * 16 : 0);
    for (size_t r = first; r < last; ++r) {
        for (size_t c = 0; c < chunks; ++c) {
            const size_t at = c * 8 * static_cast<size_t>(w.bits);
            unpack(w.bytes + r * w.row_bytes + at, w.row_bytes - at, w.bits, ids.data() + c * kChunk);
            for (size_t i = 0; i < 16; ++i) {
                const size_t g = w.group >= kChunk ? groups[c] : (c * kChunk + 4 * i) / w.group;
                const size_t own = r * w.groups + (g < w.groups ? g : w.groups - 1);
                scale[c * 16 + i] = w.brain ? widen(w.brain[own]) : w.scale[own];
                if (w.zero) zero[c * 16 + i] = w.zero[own];
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
            float sum[4][16] = {};
            for (size_t c = 0; c < chunks; ++c) {
                int32_t lanes[16];
                std::memcpy(lanes, x.start + c * 16, sizeof lanes);
                dot(used + c * kChunk, x.q + c * kChunk, 1, lanes);
                if (w.high) dot(high.data() + c * kChunk, x.q + c * kChunk, 128, lanes);
                for (size_t i = 0; i < 16; ++i) {
                    float f = static_cast<float>(lanes[i]);
                    if (w.zero) f += zero[c * 16 + i] * static_cast<float>(x.sums[c * 16 + i]);
                    sum[c & 3][i] += f * (scale[c * 16 + i] * x.scale[c]);
                }
            }
            float v[16];
            for (size_t i = 0; i < 16; ++i) v[i] = (sum[0][i] + sum[1][i]) + (sum[2][i] + sum[3][i]);
            for (size_t h = 8; h; h /= 2)
                for (size_t i = 0; i < h; ++i) v[i] += v[i + h];
            y[t * stride + r] = v[0];
        }
    }
#endif
}

}  // namespace compand::matmul::ISA

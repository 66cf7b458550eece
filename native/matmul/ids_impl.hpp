// What packed ids are read as: shared by the products of few and of many lines.
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
}  // namespace compand::matmul::ISA

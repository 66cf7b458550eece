// `strips` of matmul.hpp. A set is 32 windows in a row: 16 rows by 2 columns.
namespace compand::matmul::ISA {
namespace {

constexpr size_t kTogether = 8;  // strips that are worked on together

// A strip and its last sets, which are read from a copy that goes on with the strip's own start. The copy is made when it is needed: the
// strip's end has come near by then.
class Stream {
public:
    const uint8_t *strip;
    size_t safe;  // the first set of the copy

    Stream() = default;
    Stream(const uint8_t *from, size_t d, int k) : strip(from), bytes_(2 * d * static_cast<size_t>(k)), step_(4 * static_cast<size_t>(k)) {
        safe = bytes_ < 64 ? 0 : (bytes_ - 64) / step_ + 1;
        if (safe > d / 2) safe = d / 2;
    }
    const uint8_t *set(size_t p) {
        if (p < safe) return strip + p * step_;
        if (!copied_) copy();
        return last_ + (p - safe) * step_;
    }

private:
    void copy() {
        copied_ = true;
        size_t at = safe * step_;
        if (const size_t left = bytes_ - at; bytes_ >= 256 && left <= 128) {  // in pieces of fixed sizes, which compile to moves
            uint8_t end[256];
            std::memcpy(end, strip + bytes_ - 128, 128);
            std::memcpy(last_, end + 128 - left, 128);
            std::memcpy(last_ + left, strip, 256);
            return;
        }
        for (size_t i = 0; i < 256; ++i, ++at) last_[i] = strip[at % bytes_];
    }

    size_t bytes_, step_;  // of a strip and of a set
    bool copied_ = false;
    uint8_t last_[384];
};

inline int level(uint32_t window, const uint16_t *factors, int many) {  // with its mean
    int sum = 0;
    for (int i = 0; i < many; ++i) {
        const uint32_t p = static_cast<uint16_t>(window * factors[i]);
        sum += static_cast<int>((p & 255) + (p >> 8));
    }
    return sum;
}

// sums[r] += the products of an odd last column
inline void odd(const Strips &w, Stream &s, int q, int32_t *sums) {
    if (w.d % 2 == 0) return;
    const uint8_t *from = s.set(w.d / 2);
    for (size_t r = 0; r < kStrip; ++r) {
        const size_t bit = r * static_cast<size_t>(w.k);
        uint32_t word;
        std::memcpy(&word, from + bit / 8, 4);
        sums[r] += level(word >> (bit & 7), w.factors, w.many) * q;
    }
}

#if LEVEL == 2
// Two sets at a time: qword j of a vector has the windows of rows 2 j and 2 j + 1, low half of the first set, high half of the second.
// So one permutation serves two vectors of windows, of the even and of the odd rows, and lanes 2 j and 2 j + 1 add up to a row.
// Multiplications, dot products and multishifts wait for the same two units of Zen 4; shifts do not, so one vector is shifted.
template <int K, int many, int T>
void strip(const Strips &w, Stream &s, const float *scale, const Pairs *lines, float *y, size_t stride) {
    alignas(64) static constexpr auto gather = [] {
        std::array<uint8_t, 64> a{};
        for (int i = 0; i < 64; ++i) a[static_cast<size_t>(i)] = static_cast<uint8_t>(i % 8 / 4 * 4 * K + i / 8 * 4 * K / 8 + i % 4);
        return a;
    }();
    alignas(64) static constexpr auto shift = [] {
        std::array<uint8_t, 64> a{};
        for (int i = 0; i < 64; ++i)
            a[static_cast<size_t>(i)] = static_cast<uint8_t>(i % 8 / 4 * 32 + i / 8 * 4 * K % 8 + i % 4 / 2 * K + i % 2 * 8);
        return a;
    }();
    alignas(64) static constexpr auto down = [] {  // to the low halves: columns 0 of the odd rows
        std::array<int32_t, 16> a{};
        for (int i = 0; i < 16; ++i) a[static_cast<size_t>(i)] = i / 2 * 4 * K % 8 + 2 * K;
        return a;
    }();
    alignas(64) static constexpr auto up = [] {  // to the high halves: columns 1
        std::array<int32_t, 16> a{};
        for (int i = 0; i < 16; ++i) a[static_cast<size_t>(i)] = 16 - i / 2 * 4 * K % 8 - 3 * K;
        return a;
    }();
    const __m512i at = _mm512_load_si512(gather.data()), by = _mm512_load_si512(shift.data());
    const __m512i low = _mm512_load_si512(down.data()), high = _mm512_load_si512(up.data());
    const __m512i c = _mm512_set1_epi16(static_cast<short>(w.factors[0])), e = _mm512_set1_epi16(static_cast<short>(w.factors[many - 1]));
    constexpr int parts = 2;  // sums in turn, so that none waits for the other
    alignas(64) float out[T][16] = {};
    const size_t blocks = (w.d + w.block - 1) / w.block, pairs = w.d / 2, room = pairs_of(w.block);
    for (size_t b = 0; b < blocks; ++b) {
        __m512i sum[T][parts][2] = {};
        const size_t lo = b * w.block / 2, hi = std::min(pairs, (b + 1) * w.block / 2), middle = std::clamp(s.safe, lo, hi);
        const int32_t *x = lines->twice + b * room * T;
        const auto two = [&](const uint8_t *from, int u) {
            const __m512i data = K < 4 ? _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(from)))
                                       : _mm512_loadu_si512(from);
            const __m512i words = _mm512_permutexvar_epi8(at, data);
            const __m512i first = _mm512_multishift_epi64_epi8(by, words);
            const __m512i second = _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srlv_epi32(words, low), _mm512_sllv_epi32(words, high));
            const __m512i p = _mm512_mullo_epi16(first, c), q = _mm512_mullo_epi16(second, c);
            const __m512i r = many == 2 ? _mm512_mullo_epi16(first, e) : p, s2 = many == 2 ? _mm512_mullo_epi16(second, e) : q;
            for (int t = 0; t < T; ++t) {
                long long both;
                std::memcpy(&both, x + 2 * t, 8);
                const __m512i own = _mm512_set1_epi64(both);
                sum[t][u][0] = dot_of(sum[t][u][0], p, own);
                sum[t][u][1] = dot_of(sum[t][u][1], q, own);
                if (many == 2) {
                    sum[t][u][0] = dot_of(sum[t][u][0], r, own);
                    sum[t][u][1] = dot_of(sum[t][u][1], s2, own);
                }
            }
            x += 2 * T;
        };
        size_t p = lo;
        const uint8_t *from = s.strip + p * 4 * K;
        for (; p + 2 < middle; p += 4, from += 16 * K) {
            if constexpr (K < 4) _mm_prefetch(reinterpret_cast<const char *>(from) + kNear, _MM_HINT_T0);  // 4 bits: slower with it
            two(from, 0);
            two(from + 8 * K, 1);
        }
        for (; p < hi; p += 2) two(s.set(p), 0);
        const __m512 own = _mm512_loadu_ps(scale + b * w.block / w.group * kStrip);
        for (int t = 0; t < T; ++t) {
            const __m512i a = _mm512_add_epi32(sum[t][0][0], sum[t][1][0]), o = _mm512_add_epi32(sum[t][0][1], sum[t][1][1]);
            __m512i dot = _mm512_mask_add_epi32(_mm512_add_epi32(a, _mm512_srli_epi64(a, 32)), 0xaaaa, o, _mm512_slli_epi64(o, 32));
            dot = _mm512_add_epi32(dot, _mm512_set1_epi32(lines[t].start[b]));
            if (b + 1 == blocks && w.d % 2) {
                alignas(64) int32_t sums[16];
                _mm512_store_si512(sums, dot);
                odd(w, s, lines[t].q[w.d - 1], sums);
                dot = _mm512_load_si512(sums);
            }
            const __m512 factor = _mm512_mul_ps(own, _mm512_set1_ps(lines[t].scale[b]));
            _mm512_store_ps(out[t], _mm512_add_ps(_mm512_load_ps(out[t]), _mm512_mul_ps(_mm512_cvtepi32_ps(dot), factor)));
        }
    }
    for (int t = 0; t < T; ++t) std::memcpy(y + static_cast<size_t>(t) * stride, out[t], sizeof out[t]);
}

// Tiles of sixteen lines and some strips, a block of columns for all of them, so that its activations stay near. The products of windows
// of a block are made once for all tiles: byte pairs of 16 rows by 2 columns.
template <int K, int many>
void wide(const Strips &w, Stream *s, size_t strips, const float *scale, const Pairs *lines, size_t tiles, float *y, size_t stride) {
    alignas(64) static constexpr auto gather = [] {
        std::array<uint8_t, 64> a{};
        for (int i = 0; i < 64; ++i) a[static_cast<size_t>(i)] = static_cast<uint8_t>(i / 8 * 4 * K / 8 + i % 8);
        return a;
    }();
    alignas(64) static constexpr auto shift = [] {
        std::array<uint8_t, 64> a{};
        for (int i = 0; i < 64; ++i) a[static_cast<size_t>(i)] = static_cast<uint8_t>(i / 8 * 4 * K % 8 + i % 8 / 2 * K + i % 2 * 8);
        return a;
    }();
    const __m512i at = _mm512_load_si512(gather.data()), by = _mm512_load_si512(shift.data());
    const __m512i c = _mm512_set1_epi16(static_cast<short>(w.factors[0])), e = _mm512_set1_epi16(static_cast<short>(w.factors[many - 1]));
    const size_t blocks = (w.d + w.block - 1) / w.block, pairs = w.d / 2, room = pairs_of(w.block);
    std::vector<float> out(strips * tiles * 256);
    struct Product {
        __m512i bytes;
    };
    std::vector<Product> products(room * many);
    for (size_t i = 0; i < blocks * strips; ++i) {
        const size_t b = i / strips, own_strip = i % strips, lo = b * w.block / 2, hi = std::min(pairs, (b + 1) * w.block / 2);
        Stream &from = s[own_strip];
        Product *made = products.data();
        const auto make = [&](const uint8_t *set) {
            const __m512i data = _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(set)));
            const __m512i windows = _mm512_multishift_epi64_epi8(by, _mm512_permutexvar_epi8(at, data));
            made[0].bytes = _mm512_mullo_epi16(windows, c);
            if (many == 2) made[1].bytes = _mm512_mullo_epi16(windows, e);
            made += many;
        };
        size_t p = lo;
        const uint8_t *set = from.strip + lo * 4 * K;
        for (const size_t middle = std::clamp(from.safe, lo, hi); p < middle; ++p, set += 4 * K) {
            if (p % 4 == 0) _mm_prefetch(reinterpret_cast<const char *>(set + (hi - lo) * 4 * K), _MM_HINT_T0);  // what the next block needs
            make(set);
        }
        for (; p < hi; ++p) make(from.set(p));
        const __m512 own = _mm512_loadu_ps(scale + (own_strip * w.groups + b * w.block / w.group) * kStrip);
        for (size_t tile = 0; tile < tiles; ++tile) {
            const Pairs *x = lines + 16 * tile;
            __m512i sum[16];
            for (int t = 0; t < 16; ++t) sum[t] = _mm512_set1_epi32(x[t].start[b]);
            const int32_t *q = x->twice + b * room * 16;
            for (const Product *p = products.data(), *end = p + (hi - lo) * many; p != end; p += many, q += 16)
                for (int t = 0; t < 16; ++t) {
                    const __m512i both = _mm512_set1_epi32(q[t]);
                    sum[t] = dot_of(sum[t], p[0].bytes, both);
                    if (many == 2) sum[t] = dot_of(sum[t], p[1].bytes, both);
                }
            if (b + 1 == blocks && w.d % 2)
                for (int t = 0; t < 16; ++t) {
                    alignas(64) int32_t sums[16];
                    _mm512_store_si512(sums, sum[t]);
                    odd(w, from, x[t].q[w.d - 1], sums);
                    sum[t] = _mm512_load_si512(sums);
                }
            float *const to = out.data() + (own_strip * tiles + tile) * 256;
#pragma GCC unroll 16
            for (int t = 0; t < 16; ++t) {
                const __m512 factor = _mm512_mul_ps(own, _mm512_set1_ps(x[t].scale[b]));
                _mm512_storeu_ps(to + 16 * t, _mm512_add_ps(_mm512_loadu_ps(to + 16 * t), _mm512_mul_ps(_mm512_cvtepi32_ps(sum[t]), factor)));
            }
        }
    }
    for (size_t i = 0; i < strips; ++i)
        for (size_t t = 0; t < 16 * tiles; ++t) std::memcpy(y + t * stride + i * kStrip, out.data() + (i * tiles * 16 + t) * 16, 64);
}

template <int K, int many>
void run(const Strips &w, Stream *s, size_t strips, const float *scale, const Pairs *lines, size_t count, float *y, size_t stride) {
    size_t t = count / 16 * 16;
    if (t) wide<K, many>(w, s, strips, scale, lines, t / 16, y, stride);
    for (size_t own; t < count; t += own) {
        own = tile_of(count - t);
        const auto part = own == 4 ? strip<K, many, 4> : strip<K, many, 1>;
        for (size_t i = 0; i < strips; ++i) part(w, s[i], scale + i * w.groups * kStrip, lines + t, y + t * stride + i * kStrip, stride);
    }
}
#else

// levels[2 r + c] of row r and column c of a set, with their mean
template <int K> void decode(const uint8_t *from, const uint16_t *factors, int many, int32_t *levels) {
#if LEVEL == 1
    for (int i = 0; i < 4; ++i) {  // eight windows, each in 32 bits
        uint64_t word;
        std::memcpy(&word, from + i * K, 8);
        const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), bit = _mm256_mullo_epi32(lane, _mm256_set1_epi32(K));
        const __m256i byte = _mm256_add_epi32(_mm256_mullo_epi32(_mm256_srli_epi32(bit, 3), _mm256_set1_epi32(0x01010101)),
                                              _mm256_set1_epi32(0x03020100));
        const __m256i words = _mm256_shuffle_epi8(_mm256_set1_epi64x(static_cast<long long>(word)), byte);
        const __m256i windows = _mm256_srlv_epi32(words, _mm256_and_si256(bit, _mm256_set1_epi32(7)));
        __m256i sum = _mm256_setzero_si256();
        for (int f = 0; f < many; ++f) {
            const __m256i p = _mm256_and_si256(_mm256_mullo_epi16(windows, _mm256_set1_epi32(factors[f])), _mm256_set1_epi32(0xffff));
            sum = _mm256_add_epi32(sum, _mm256_maddubs_epi16(p, _mm256_set1_epi8(1)));
        }
        _mm256_store_si256(reinterpret_cast<__m256i *>(levels + 8 * i), sum);
    }
#else
    for (size_t i = 0; i < 32; ++i) {
        const size_t bit = i * K;
        uint32_t word;
        std::memcpy(&word, from + bit / 8, 4);
        levels[i] = level(word >> (bit & 7), factors, many);
    }
#endif
}

template <int K, int T>
void strip(const Strips &w, Stream &s, const float *scale, const Pairs *lines, float *y, size_t stride) {
    float out[T][16] = {};
    const size_t blocks = (w.d + w.block - 1) / w.block, pairs = w.d / 2;
    for (size_t b = 0; b < blocks; ++b) {
        alignas(32) int32_t sum[T][32] = {}, levels[32];  // of rows and the two columns
        for (size_t p = b * w.block / 2; p < std::min(pairs, (b + 1) * w.block / 2); ++p) {
            decode<K>(s.set(p), w.factors, w.many, levels);
            for (size_t t = 0; t < T; ++t) {
                const int32_t first = lines[t].q[2 * p], second = lines[t].q[2 * p + 1];
#if LEVEL == 1
                const __m256i x = _mm256_setr_epi32(first, second, first, second, first, second, first, second);
                for (size_t i = 0; i < 32; i += 8) {
                    __m256i *to = reinterpret_cast<__m256i *>(sum[t] + i);
                    const __m256i l = _mm256_load_si256(reinterpret_cast<const __m256i *>(levels + i));
                    _mm256_store_si256(to, _mm256_add_epi32(_mm256_load_si256(to), _mm256_madd_epi16(l, x)));
                }
#else
                for (size_t i = 0; i < 32; i += 2) {
                    sum[t][i] += levels[i] * first;
                    sum[t][i + 1] += levels[i + 1] * second;
                }
#endif
            }
        }
        for (size_t t = 0; t < T; ++t) {
            int32_t dot[16];
            for (size_t r = 0; r < 16; ++r) dot[r] = lines[t].start[b] + sum[t][2 * r] + sum[t][2 * r + 1];
            if (b + 1 == blocks) odd(w, s, lines[t].q[w.d - 1], dot);
            const float *own = scale + b * w.block / w.group * kStrip;
            for (size_t r = 0; r < 16; ++r) out[t][r] += static_cast<float>(dot[r]) * (own[r] * lines[t].scale[b]);
        }
    }
    for (size_t t = 0; t < T; ++t) std::memcpy(y + t * stride, out[t], sizeof out[t]);
}

template <int K, int many>
void run(const Strips &w, Stream *s, size_t strips, const float *scale, const Pairs *lines, size_t count, float *y, size_t stride) {
    for (size_t i = 0; i < strips; ++i, scale += w.groups * kStrip, y += kStrip) {
        size_t t = 0;
        for (; t + 4 <= count; t += 4) strip<K, 4>(w, s[i], scale, lines + t, y + t * stride, stride);
        for (; t < count; ++t) strip<K, 1>(w, s[i], scale, lines + t, y + t * stride, stride);
    }
}
#endif

template <int K> void all(const Strips &w, size_t first, size_t last, const Pairs *lines, size_t count, float *y, size_t stride) {
    const size_t bytes = 2 * w.d * static_cast<size_t>(w.k);
    for (size_t i = first; i < last; i += kTogether) {
        const size_t strips = std::min(kTogether, last - i);
        Stream s[kTogether];
        for (size_t j = 0; j < strips; ++j) s[j] = Stream(w.bits + (i + j) * bytes, w.d, w.k);
        const float *scale = w.scale + i * w.groups * kStrip;
        if (w.many == 1) run<K, 1>(w, s, strips, scale, lines, count, y + i * kStrip, stride);
        else run<K, 2>(w, s, strips, scale, lines, count, y + i * kStrip, stride);
    }
}

}  // namespace

void strips(const Strips &w, size_t first, size_t last, const Pairs *lines, size_t count, float *y, size_t stride) {
    switch (w.k) {
    case 1: return all<1>(w, first, last, lines, count, y, stride);
    case 2: return all<2>(w, first, last, lines, count, y, stride);
    case 3: return all<3>(w, first, last, lines, count, y, stride);
    default: return all<4>(w, first, last, lines, count, y, stride);
    }
}

}  // namespace compand::matmul::ISA

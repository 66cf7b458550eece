// `quantize` and `rows` of matmul.hpp. A row is summed in 16 lanes: the exact integer of each 16 columns, times its scales, is added to
// lane (column / 16) mod 16; then halves of the lanes upon each other.
#include "matmul/ids_impl.hpp"
#if LEVEL == 2
#include "matmul/few_impl.hpp"
#include "matmul/many_impl.hpp"

namespace compand::matmul::ISA {
namespace {

template <bool small> void sized(const Rows &w, size_t first, size_t last, const uint32_t *groups, const Line *lines, size_t count, float *y, size_t stride) {
    const int kind = w.bits > 6 && w.levels ? 3 : w.high ? 2 : w.levels ? 1 : 0;
    using Run = void (*)(const Rows &, size_t, size_t, const uint32_t *, const Line *, size_t, float *, size_t);
    static constexpr Run all[2][4] = {{few<0, small>, few<1, small>, few<2, small>, few<3, small>},
                                      {many<0, small>, many<1, small>, many<2, small>, many<3, small>}};
    all[count >= kMany][kind](w, first, last, groups, lines, count, y, stride);
}

}  // namespace
}  // namespace compand::matmul::ISA
#endif

namespace compand::matmul::ISA {

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
    if (ways == 8) {
#if LEVEL == 2
        for (size_t at = 0; at < d; at += 64) {
            const __m512i v = _mm512_loadu_si512(q + at);
            int8_t *const to = out + at / 512 * 512 + at % 512 / 8;
            const auto plane = [&](auto bit) {
                constexpr int n = decltype(bit)::value;
                const uint64_t own = _mm512_movepi8_mask(_mm512_slli_epi16(v, 7 - n));  // bits that cross into the next byte are below its sign
                std::memcpy(to + 64 * n, &own, 8);
            };
            [&]<int... n>(std::integer_sequence<int, n...>) { (plane(std::integral_constant<int, n>{}), ...); }(std::make_integer_sequence<int, 8>{});
        }
        return;
#endif
        std::memset(out, 0, d);
        for (size_t at = 0; at < d; at += 512)
            for (size_t i = 0; i < 512; ++i)
                for (size_t bit = 0; bit < 8; ++bit)
                    out[at + 64 * bit + i / 8] = static_cast<int8_t>(out[at + 64 * bit + i / 8] | (static_cast<uint8_t>(q[at + i]) >> bit & 1) << i % 8);
        return;
    }
    for (size_t at = 0; at < d; at += 64 * ways)
        for (size_t way = 0; way < ways; ++way)
            for (size_t i = 0; i < 64; ++i) out[at + 64 * way + i] = q[at + ways * i + way];
}

int32_t pairs(const int8_t *q, size_t block, size_t pairs, size_t tile, int32_t *to) {
    const auto both = [&](size_t p) {
        uint16_t two;
        std::memcpy(&two, q + 2 * p, 2);
        const uint32_t a = std::endian::native == std::endian::little ? two & 255u : two >> 8, b = (two & 255u) + (two >> 8) - a;
        return static_cast<int32_t>(a * 0x101u | b * 0x1010000u);
    };
    if (tile == 1)
        for (size_t p = 0; p < pairs; ++p) to[p] = both(p);
    else if (tile == 16)
        for (size_t p = 0; p < pairs; ++p) to[16 * p] = both(p);
    else
        for (size_t p = 0; p < pairs; ++p) to[p / 2 * 2 * tile + p % 2] = both(p);
    int32_t sum = 0;
    for (size_t c = 0; c < block; ++c) sum += q[c];
    return sum;
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

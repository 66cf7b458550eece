// Body of raster.hpp: rows of a tile in vectors of 16, 8 or 4 pixels, by GCC's vector extensions. No operation crosses lanes but
// the sums of weights, which are taken in the order of the pixels.
#if LEVEL
#include <immintrin.h>
#endif

#include <cstring>

#include "raster/raster.hpp"
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

namespace compand::raster::ISA {
namespace {

constexpr size_t kLanes = LEVEL == 2 ? 16 : LEVEL == 1 ? 8 : 4;
using F = float __attribute__((vector_size(kLanes * 4)));
using I = int32_t __attribute__((vector_size(kLanes * 4)));

inline F load(const float *from) {
    F v;
    std::memcpy(&v, from, sizeof v);
    return v;
}
inline void store(float *to, F v) { std::memcpy(to, &v, sizeof v); }

inline bool any(I mask) {
#if LEVEL == 2
    return _mm512_movepi32_mask(reinterpret_cast<__m512i>(mask)) != 0;
#elif LEVEL == 1
    return _mm256_movemask_ps(reinterpret_cast<__m256>(mask)) != 0;
#else
    int32_t lanes[4];
    std::memcpy(lanes, &mask, sizeof lanes);
    return (lanes[0] | lanes[1] | lanes[2] | lanes[3]) != 0;
#endif
}

// e^x for -80 <= x <= 0, to 2e-7 of it
inline F exponential_of(F x) {
    const F turns = x * 1.44269504f;
    const F whole = (turns + 12582912.0f) - 12582912.0f;
    const F r = turns - whole;  // 2^r by its Taylor series in r ln 2, |r| <= 1/2
    F p = r * 1.5403530e-4f + 1.3333558e-3f;
    p = p * r + 9.6181291e-3f;
    p = p * r + 5.5504109e-2f;
    p = p * r + 2.4022651e-1f;
    p = p * r + 6.9314718e-1f;
    p = p * r + 1.0f;
    const I exponent = (__builtin_convertvector(whole, I) + 127) << 23;
    return p * reinterpret_cast<F>(exponent);
}

inline size_t down(float v) { return v > 0 ? (v < static_cast<float>(kTile) ? static_cast<size_t>(v) : kTile) : 0; }
inline size_t up(float v) {
    const size_t whole = down(v);
    return whole < kTile && static_cast<float>(whole) < v ? whole + 1 : whole;
}

}  // namespace

void blend(const Drawn *drawn, const uint32_t *list, size_t count, Tile &tile, float *weights) {
    alignas(64) float lane[kTile];
    for (size_t i = 0; i < kTile; ++i) lane[i] = tile.x + 0.5f + static_cast<float>(i);
    const auto row_open = [&](size_t row) {
        bool still = false;
        for (size_t i = 0; i < kTile; i += kLanes) still |= any(load(tile.t + row * kTile + i) > 0.0f);
        return still;
    };
    uint32_t open = 0;  // rows with a pixel that is not closed
    for (size_t row = 0; row < kTile; ++row) open |= static_cast<uint32_t>(row_open(row)) << row;
    for (size_t at = 0; at < count && open; ++at) {
        if (at + 8 < count) __builtin_prefetch(drawn + list[at + 8]);
        const Drawn &s = drawn[list[at]];
        // pixels whose centres, at i + 0.5, lie in the box around the footprint
        const float x = s.x - tile.x, y = s.y - tile.y;
        const size_t first = up(y - s.ry - 0.5f), last = down(y + s.ry + 0.5f);
        const size_t from = up(x - s.rx - 0.5f) / kLanes * kLanes, to = down(x + s.rx + 0.5f);
        const F opacity = F{} + s.opacity, cut = F{} + s.cut;
        alignas(64) float sums[kTile] = {};
        for (size_t column = from; column < to; column += kLanes) {
            const F dx = s.x - load(lane + column);
            const F square = dx * dx * (-0.5f * s.a), cross = dx * s.b;
            for (size_t row = first; row < last; ++row) {
                if (!(open >> row & 1)) continue;
                const float dy = s.y - (tile.y + 0.5f + static_cast<float>(row));
                F power = square - (cross + 0.5f * s.c * dy) * dy;
                I in = (power >= cut) & (power <= 0.0f);
                if (!any(in)) continue;
                const size_t pixel = row * kTile + column;
                const F t = load(tile.t + pixel);
                power = in ? power : F{};
                F alpha = opacity * exponential_of(power);
                alpha = alpha < kMost ? alpha : F{} + kMost;
                in &= (alpha >= kLeast) & (t > 0.0f);
                if (!any(in)) continue;
                const F next = t * (1.0f - alpha);
                const I closing = in & (next < kClosed);
                in &= ~closing;
                F w = alpha * t;
                w = in ? w : F{};
                for (size_t c = 0; c < 3; ++c) store(tile.rgb[c] + pixel, load(tile.rgb[c] + pixel) + w * s.rgb[c]);
                F left_over = in ? next : t;
                left_over = closing ? -t : left_over;
                store(tile.t + pixel, left_over);
                if (weights) store(sums + column, load(sums + column) + w);
                if (any(closing) && !row_open(row)) open &= ~(1u << row);
            }
        }
        if (weights) {
            float sum = 0;
            for (size_t i = 0; i < kTile; ++i) sum += sums[i];
            weights[at] = sum;
        }
    }
}

}  // namespace compand::raster::ISA
#undef ISA
#undef LEVEL

#include <algorithm>
#include <cstring>

#include "isa.hpp"
#include "matmul/floats.hpp"
#include "matmul/weights.hpp"

namespace compand::matmul {
namespace {

// Lines of activations as `Strips` wants them.
struct PairLines : Prepared {
    size_t m, blocks, width;
    std::vector<int8_t> q;
    std::vector<float> scale;
    std::vector<int32_t> twice, start;
    std::vector<Pairs> lines;

    PairLines(const float *x, size_t m, size_t d, size_t block, size_t many)
        : m(m), blocks(ceil(d, block)), width(blocks * block), q(m * width), scale(m * blocks), twice(m * blocks * pairs_of(block)), start(m * blocks),
          lines(m) {
        const size_t room = pairs_of(block);
        for (size_t first = 0; first < m; first += tile_of(m - first))
            for (size_t t = first; t < first + tile_of(m - first); ++t)
                lines[t] = {q.data() + t * width, twice.data() + first * blocks * room, scale.data() + t * blocks, start.data() + t * blocks};
        const int32_t mean = -255 * static_cast<int32_t>(many);
        pieces(m, width, ceil(kAlone, block) * block, [&](size_t t, size_t from, size_t to) {
            const size_t first = tile_start(t, m), tile = tile_of(m - first), own = std::min(d, to) - std::min(d, from);
            int8_t *line = q.data() + t * width;
            COMPAND_DISPATCH(quantize, x + t * d + from, own, block, 1.0f, line + from, scale.data() + t * blocks + from / block);
            for (size_t b = from / block; b < to / block; ++b) {
                int32_t *into = twice.data() + first * blocks * room + b * room * tile + (t - first) * (tile == 16 ? 1 : 2);
                const size_t count = std::min(block / 2, d / 2 - std::min(d / 2, b * block / 2));
                start[t * blocks + b] = mean * COMPAND_DISPATCH(pairs, line + b * block, block, count, tile, into);
            }
        });
    }

private:
    static size_t tile_start(size_t t, size_t m) {
        size_t first = 0;
        while (first + tile_of(m - first) <= t) first += tile_of(m - first);
        return first;
    }
};

}  // namespace

Trellis::Trellis(size_t d, Input<uint8_t, 1> bits, int k, Input<uint16_t, 1> factors, size_t block, size_t group, Input<float, 3> scale,
                 Input<int16_t, 2> rest, Input<float, 2> rest_scale)
    : Matrix(scale.shape(0) * kStrip + rest.shape(0), d), bits_(bits), factors_(factors), scale_(scale), rest_(rest), rest_scale_(rest_scale) {
    const size_t strips = scale.shape(0), groups = scale.shape(1), left = rest.shape(0);
    size_t need = 0;
    if (k < 1 || k > 4 || d == 0 || d > size_t{1} << 28 || !checked_mul(strips, 2 * d * static_cast<size_t>(k), need) || bits.shape(0) < need ||
        factors.shape(0) < 1 || factors.shape(0) > 2)
        throw nb::value_error("the bits do not fit the width");
    if (block == 0 || block % 2 || block > 4096 || group == 0 || (group % block && groups > 1) || groups != ceil(d, group) ||
        scale.shape(2) != kStrip || left >= kStrip || (left && rest.shape(1) != d) || rest_scale.shape(0) != left ||
        (left && rest_scale.shape(1) != groups))
        throw nb::value_error("the scales do not fit the strips; a group is a multiple of the block");
    strips_ = {bits.data(), d, k, factors.data(), static_cast<int>(factors.shape(0)), scale.data(), groups, group, block};
}

std::unique_ptr<Prepared> Trellis::prepare(const float *x, size_t m) const {
    return std::make_unique<PairLines>(x, m, d, strips_.block, static_cast<size_t>(strips_.many));
}

bool Trellis::shares(const Matrix &other) const {
    const Trellis *o = dynamic_cast<const Trellis *>(&other);
    return o && o->d == d && o->strips_.block == strips_.block && o->strips_.many == strips_.many;
}

void Trellis::range(size_t first, size_t last, const Prepared &x, float *y, size_t stride) const {
    const PairLines &a = static_cast<const PairLines &>(x);
    Strips w = strips_;
    if (const uint8_t *copied = copied_.load(std::memory_order_acquire)) w.bits = copied;
    const size_t whole = n / kStrip, own = std::min(last / kStrip, whole);
    if (first / kStrip < own) COMPAND_DISPATCH(strips, w, first / kStrip, own, a.lines.data(), a.m, y, stride);
    for (size_t r = std::max(first, whole * kStrip); r < last; ++r) {  // the rows of a last strip that is not whole, by their levels
        const size_t i = r - whole * kStrip;
        for (size_t t = 0; t < a.m; ++t) {
            float sum = 0;
            for (size_t b = 0; b < a.blocks; ++b) {
                int32_t dot = 0;
                for (size_t c = b * strips_.block; c < std::min(d, (b + 1) * strips_.block); ++c) dot += rest_.data()[i * d + c] * a.lines[t].q[c];
                sum += static_cast<float>(dot) * (rest_scale_.data()[i * strips_.groups + b * strips_.block / strips_.group] * a.lines[t].scale[b]);
            }
            y[t * stride + r] = sum;
        }
    }
}

void Trellis::copy_codes() {
    if (copied_) return;
    const size_t bytes = n / kStrip * 2 * d * static_cast<size_t>(strips_.k);
    pages_ = Pages(bytes);
    std::memcpy(pages_.data(), strips_.bits, bytes);
    copied_.store(pages_.data(), std::memory_order_release);
}

void Trellis::row(size_t i, float *out) const {
    const Strips &w = strips_;
    const size_t s = i / kStrip, r = i % kStrip;
    if (s == n / kStrip) {
        for (size_t c = 0; c < d; ++c) out[c] = rest_.data()[r * d + c] * rest_scale_.data()[r * w.groups + c / w.group];
        return;
    }
    const size_t k = static_cast<size_t>(w.k), bytes = 2 * d * k;
    const uint8_t *strip = w.bits + s * bytes;
    for (size_t c = 0, group = w.group, g = 0; c < d; ++c, --group) {
        if (group == 0) group = w.group, ++g;
        const size_t value = c == d - 1 && d % 2 ? c / 2 * 32 + r : c / 2 * 32 + 2 * r + c % 2, bit = value * k, at = bit / 8;
        uint32_t window = 0;  // wraps around
        if (at + 3 <= bytes) window = strip[at] | static_cast<uint32_t>(strip[at + 1]) << 8 | static_cast<uint32_t>(strip[at + 2]) << 16;
        else
            for (size_t j = 0; j < 3; ++j) window |= static_cast<uint32_t>(strip[(at + j) % bytes]) << (8 * j);
        window >>= bit & 7;
        int level = 0;
        for (int f = 0; f < w.many; ++f) {
            const uint32_t p = static_cast<uint16_t>(window * w.factors[f]);
            level += static_cast<int>((p & 255) + (p >> 8)) - 255;
        }
        out[c] = static_cast<float>(level) * w.scale[(s * w.groups + g) * kStrip + r];
    }
}

}  // namespace compand::matmul

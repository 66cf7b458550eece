#include <algorithm>
#include <cstring>

#include "isa.hpp"
#include "matmul/floats.hpp"
#include "matmul/weights.hpp"

namespace compand::matmul {
namespace {

// Lines of activations as `Rows` wants them.
struct Lines : Prepared {
    size_t m, width;
    std::vector<int8_t> q, spread;
    std::vector<float> scale;
    std::vector<int32_t> sums, start;
    std::vector<Line> lines;

    Lines(const float *x, size_t m, size_t d, float unit, int offset, size_t ways)
        : m(m), width(ceil(d, 512) * 512), q(m * width), spread(m < kMany && ways > 1 ? q.size() : 0), scale(q.size() / kChunk), sums(q.size() / 16),
          start(sums.size()), lines(m) {
        for (size_t t = 0; t < m; ++t)
            lines[t] = {q.data() + t * width, spread.empty() ? nullptr : spread.data() + t * width, scale.data() + t * (width / kChunk),
                        start.data() + t * (width / 16), sums.data() + t * (width / 16)};
        pieces(m, width, kAlone, [&](size_t t, size_t from, size_t to) {
            const size_t at = t * width + from, own = std::min(d, to) - std::min(d, from);
            COMPAND_DISPATCH(quantize, x + t * d + from, own, kChunk, unit, q.data() + at, scale.data() + at / kChunk);
            COMPAND_DISPATCH(quarters, q.data() + at, own, offset, sums.data() + at / 16, start.data() + at / 16);
            if (!spread.empty()) COMPAND_DISPATCH(spread, q.data() + at, to - from, ways, spread.data() + at);
        });
    }
};

}  // namespace

Ids::Ids(size_t d, Input<uint8_t, 2> bytes, int bits, int offset, float unit, size_t group, Brain brain, Scales scale, Bytes levels, Bytes high,
         Scales zero)
    : Matrix(bytes.shape(0), d), bytes_(bytes), levels_(levels), high_(high), brain_(brain), scale_(scale), zero_(zero), offset_(offset),
      unit_(unit) {
    if (bits < 1 || bits > 8 || d == 0 || d > size_t{1} << 28 || bytes.shape(1) != ceil(d * static_cast<size_t>(bits), 8) ||
        offset < -65535 || offset > 65535)
        throw nb::value_error("the ids do not fit the width");
    const size_t groups = brain ? brain->shape(1) : scale ? scale->shape(1) : 0;
    if (groups == 0 || (brain && scale) || (group != 16 && group != 32 && (group == 0 || group % kChunk)) || groups != ceil(d, group) ||
        (brain ? brain->shape(0) : scale->shape(0)) != n || (zero && (zero->shape(0) != n || zero->shape(1) != groups)))
        throw nb::value_error("the scales do not fit the ids; groups are of 16, 32 or a multiple of 64 columns");
    const size_t k = size_t{1} << bits;
    if ((levels && levels->shape(0) != k) || (high && (!levels || high->shape(0) != k)) || (zero && levels))
        throw nb::value_error("levels have one byte for each id, and no zero points");
    rows_ = {bytes.data(), bytes.shape(1), d, bits, levels ? levels->data() : nullptr, high ? high->data() : nullptr,
             brain ? brain->data() : nullptr, scale ? scale->data() : nullptr, zero ? zero->data() : nullptr, groups, group};
}

std::unique_ptr<Prepared> Ids::prepare(const float *x, size_t m) const { return std::make_unique<Lines>(x, m, d, unit_, offset_, ways_of(rows_.bits)); }

bool Ids::shares(const Matrix &other) const {
    const Ids *o = dynamic_cast<const Ids *>(&other);
    return o && o->d == d && o->unit_ == unit_ && o->offset_ == offset_ && ways_of(o->rows_.bits) == ways_of(rows_.bits);
}

void Ids::range(size_t first, size_t last, const Prepared &x, float *y, size_t stride) const {
    const Lines &a = static_cast<const Lines &>(x);
    Rows w = rows_;
    if (const uint8_t *copied = copied_.load(std::memory_order_acquire)) w.bytes = copied;
    COMPAND_DISPATCH(rows, w, first, last, a.lines.data(), a.m, y, stride);
}

void Ids::copy_codes() {
    if (copied_) return;
    const size_t bytes = n * rows_.row_bytes;
    pages_ = Pages(bytes);
    std::memcpy(pages_.data(), rows_.bytes, bytes);
    copied_.store(pages_.data(), std::memory_order_release);
}

void Ids::row(size_t i, float *out) const {
    const Rows &w = rows_;
    const uint8_t *from = w.bytes + i * w.row_bytes;
    for (size_t c = 0; c < d; ++c) {
        const size_t bit = c * static_cast<size_t>(w.bits), at = bit / 8, own = i * w.groups + c / w.group;
        const unsigned word = from[at] | (at + 1 < w.row_bytes ? from[at + 1] << 8 : 0);
        const unsigned id = word >> (bit & 7) & ((1u << w.bits) - 1);
        const int level = (w.levels ? w.levels[id] + (w.high ? 128 * w.high[id] : 0) : static_cast<int>(id)) - offset_;
        out[c] = (static_cast<float>(level) + (w.zero ? w.zero[own] : 0.0f)) * unit_ * (w.brain ? widen(w.brain[own]) : w.scale[own]);
    }
}

}  // namespace compand::matmul

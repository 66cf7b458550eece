#include "matmul/weights.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <tuple>

#include "hadamard/hadamard.hpp"
#include "isa.hpp"
#include "matmul/floats.hpp"
#include "threads.hpp"

namespace compand::hadamard {
namespace {

void any_row(const float *x, size_t d, size_t block, const float *before, const float *after, float *out) {
    COMPAND_DISPATCH(row, x, d, block, before, after, out);
}

}  // namespace
}  // namespace compand::hadamard

namespace compand::matmul {
namespace {

float widen(uint16_t brain) { return std::bit_cast<float>(static_cast<uint32_t>(brain) << 16); }

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

// -- ids -----------------------------------------------------------------------------------------------------------------------
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
    COMPAND_DISPATCH(rows, rows_, first, last, a.lines.data(), a.m, y, stride);
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

// -- trellis -------------------------------------------------------------------------------------------------------------------
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
    const size_t whole = n / kStrip, own = std::min(last / kStrip, whole);
    if (first / kStrip < own) COMPAND_DISPATCH(strips, strips_, first / kStrip, own, a.lines.data(), a.m, y, stride);
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

// -- plain ---------------------------------------------------------------------------------------------------------------------
std::unique_ptr<Prepared> Plain::prepare(const float *x, size_t m) const {
    if (wide_) return std::make_unique<Padded<float>>(x, m, d);
    return std::make_unique<Padded<uint16_t>>(x, m, d);
}

bool Plain::shares(const Matrix &other) const {
    if (other.d != d) return false;
    const Plain *o = dynamic_cast<const Plain *>(&other);
    return o ? bool(o->wide_) == bool(wide_) : !wide_ && dynamic_cast<const Ranks *>(&other);
}

void Plain::range(size_t first, size_t last, const Prepared &x, float *y, size_t stride) const {
    if (wide_) {
        const auto &a = static_cast<const Padded<float> &>(x);
        COMPAND_DISPATCH(plain, wide_->data(), d, first, last, a.x.data(), a.width, a.m, y, stride);
    } else {
        const auto &a = static_cast<const Padded<uint16_t> &>(x);
        COMPAND_DISPATCH(brain, brain_->data(), d, first, last, a.x.data(), a.width, a.m, y, stride);
    }
}

void Plain::row(size_t i, float *out) const {
    if (wide_) std::memcpy(out, wide_->data() + i * d, d * sizeof(float));
    else
        for (size_t c = 0; c < d; ++c) out[c] = widen(brain_->data()[i * d + c]);
}

// -- ranks ---------------------------------------------------------------------------------------------------------------------
namespace {

size_t rows_of(const std::vector<Ranks::Given> &blocks) {
    size_t n = 0;
    for (const Ranks::Given &b : blocks) n += std::get<0>(b).shape(0);
    return n;
}

size_t escapes_of(const uint8_t *ranks, size_t d) {
    size_t found = 0;
    for (size_t i = 0; i < d / 2; ++i) found += static_cast<size_t>((ranks[i] & 15) == 15) + static_cast<size_t>(ranks[i] >= 0xf0);
    return found + (d % 2 && (ranks[d / 2] & 15) == 15);
}

}  // namespace

Ranks::Ranks(size_t d, const std::vector<Given> &blocks) : Matrix(rows_of(blocks), d), given_(blocks), blocks_(blocks.size()) {
    const size_t half = d / 2 + d % 2;
    size_t begin = 0;
    for (size_t i = 0; i < blocks.size(); ++i) {
        const auto &[bytes, ranks, counts, escapes, exponents] = given_[i];
        const size_t rows = bytes.shape(0);
        if (bytes.shape(1) != d || ranks.shape(0) != rows || ranks.shape(1) != half || counts.shape(0) != rows || exponents.shape(0) != 15 ||
            escapes.shape(0) > UINT32_MAX)
            throw nb::value_error("the ranks do not fit the bytes");
        Block &b = blocks_[i];
        b.begin = begin;
        b.end = begin += rows;
        std::memcpy(b.exponents, exponents.data(), 15);
        b.start.resize(rows);
        size_t at = 0;
        for (size_t r = 0; r < rows; ++r) {
            b.start[r] = static_cast<uint32_t>(at);
            at += counts.data()[r];
            if (at > escapes.shape(0)) break;
        }
        std::vector<uint8_t> wrong(ceil(rows, 256));
        parallel_for(wrong.size(), [&](size_t job) {
            for (size_t r = 256 * job; r < std::min(rows, 256 * job + 256); ++r)
                wrong[job] |= escapes_of(ranks.data() + r * half, d) != counts.data()[r];
        });
        if (at != escapes.shape(0) || std::find(wrong.begin(), wrong.end(), 1) != wrong.end())
            throw nb::value_error("the escapes are not as many as the ranks say");
        b.ranked = {bytes.data(), ranks.data(), b.exponents, escapes.data(), b.start.data(), d};
    }
}

std::unique_ptr<Prepared> Ranks::prepare(const float *x, size_t m) const { return std::make_unique<Padded<uint16_t>>(x, m, d); }

bool Ranks::shares(const Matrix &other) const { return dynamic_cast<const Ranks *>(&other) && other.d == d; }

void Ranks::range(size_t first, size_t last, const Prepared &x, float *y, size_t stride) const {
    const auto &a = static_cast<const Padded<uint16_t> &>(x);
    for (const Block &b : blocks_) {
        const size_t from = std::max(first, b.begin), to = std::min(last, b.end);
        if (from < to) COMPAND_DISPATCH(ranked, b.ranked, from - b.begin, to - b.begin, a.x.data(), a.width, a.m, y + b.begin, stride);
    }
}

void Ranks::row(size_t i, float *out) const {
    for (const Block &b : blocks_)
        if (b.begin <= i && i < b.end) COMPAND_DISPATCH(ranked_row, b.ranked, i - b.begin, out);
}

// -- rotated -------------------------------------------------------------------------------------------------------------------
namespace {

struct Turned : Prepared {
    std::vector<float> x;
    std::unique_ptr<Prepared> inner;
};

void transform(const Round &round, const float *x, float *out, bool inverse) {
    size_t at = round.at;
    for (size_t i = 0; i < round.size.size();) {
        size_t same = i;
        while (same < round.size.size() && round.size[same] == round.size[i]) ++same;
        const size_t width = (same - i) * round.size[i];
        const float *signs = round.signs.data() + (at - round.at);
        hadamard::any_row(x + at, width, round.size[i], inverse ? nullptr : signs, inverse ? signs : nullptr, out + at);
        at += width;
        i = same;
    }
}

}  // namespace

Rotated::Rotated(nb::object inner, size_t d, const std::vector<std::tuple<size_t, Input<float, 1>, std::vector<size_t>>> &rounds)
    : Matrix(nb::cast<const Matrix &>(inner).n, d), keep_(inner), inner_(nb::cast<const Matrix &>(inner)) {
    if (d > inner_.d) throw nb::value_error("more columns than the weights have");
    for (const auto &[at, signs, sizes] : rounds) {
        size_t end = std::min(at, inner_.d + 1);
        for (size_t size : sizes) {
            if (size == 0 || (size & (size - 1)) || size > inner_.d || end > inner_.d) throw nb::value_error("blocks are powers of two");
            end += size;
        }
        if (end > inner_.d || signs.shape(0) != end - at) throw nb::value_error("the blocks do not fit the weights");
        rounds_.push_back({at, signs, sizes});
    }
}

void Rotated::forward(const float *x, float *a, float *b) const {  // the result is in a
    std::memcpy(a, x, d * sizeof(float));
    std::fill(a + d, a + inner_.d, 0.0f);
    for (const Round &round : rounds_) {
        std::memcpy(b, a, inner_.d * sizeof(float));
        transform(round, b, a, false);
    }
}

std::unique_ptr<Prepared> Rotated::prepare(const float *x, size_t m) const {
    auto p = std::make_unique<Turned>();
    p->x.resize(m * inner_.d);
    parallel_for(ceil(m, 4), [&](size_t i) {
        std::vector<float> room(inner_.d);
        for (size_t t = 4 * i; t < std::min(m, 4 * i + 4); ++t) forward(x + t * d, p->x.data() + t * inner_.d, room.data());
    });
    p->inner = inner_.prepare(p->x.data(), m);
    return p;
}

bool Rotated::shares(const Matrix &other) const {
    const Rotated *o = dynamic_cast<const Rotated *>(&other);
    if (!o || o->d != d || o->inner_.d != inner_.d || o->rounds_.size() != rounds_.size() || !inner_.shares(o->inner_)) return false;
    for (size_t i = 0; i < rounds_.size(); ++i) {
        const Round &a = rounds_[i], &b = o->rounds_[i];
        if (a.at != b.at || a.size != b.size) return false;
        if (a.signs.data() != b.signs.data() && std::memcmp(a.signs.data(), b.signs.data(), a.signs.shape(0) * sizeof(float))) return false;
    }
    return true;
}

void Rotated::range(size_t first, size_t last, const Prepared &x, float *y, size_t stride) const {
    inner_.range(first, last, *static_cast<const Turned &>(x).inner, y, stride);
}

void Rotated::row(size_t i, float *out) const {
    std::vector<float> a(inner_.d), b(inner_.d);
    inner_.row(i, a.data());
    for (size_t k = rounds_.size(); k-- > 0;) {
        std::memcpy(b.data(), a.data(), inner_.d * sizeof(float));
        transform(rounds_[k], b.data(), a.data(), true);
    }
    std::memcpy(out, a.data(), d * sizeof(float));
}

// -- behind others -------------------------------------------------------------------------------------------------------------
Behind::Behind(nb::object inner, nb::object before)
    : Matrix(nb::cast<const Matrix &>(inner).n, nb::cast<const Matrix &>(before).d), keep_{inner, before}, inner_(nb::cast<const Matrix &>(inner)),
      before_(nb::cast<const Matrix &>(before)) {
    if (inner_.d != before_.n) throw nb::value_error("the weights before have a row for each column of those behind");
}

std::unique_ptr<Prepared> Behind::prepare(const float *x, size_t m) const {
    auto p = std::make_unique<Turned>();
    p->x.resize(m * inner_.d);
    multiply({&before_}, x, m, {p->x.data()});
    p->inner = inner_.prepare(p->x.data(), m);
    return p;
}

bool Behind::shares(const Matrix &other) const {
    const Behind *o = dynamic_cast<const Behind *>(&other);
    return o && &o->before_ == &before_ && inner_.shares(o->inner_);
}

void Behind::range(size_t first, size_t last, const Prepared &x, float *y, size_t stride) const {
    inner_.range(first, last, *static_cast<const Turned &>(x).inner, y, stride);
}

void Behind::row(size_t i, float *out) const {
    std::vector<float> own(inner_.d), line(d);
    inner_.row(i, own.data());
    std::fill(out, out + d, 0.0f);
    for (size_t k = 0; k < own.size(); ++k) {
        before_.row(k, line.data());
        for (size_t c = 0; c < d; ++c) out[c] += own[k] * line[c];
    }
}

// -- sums ----------------------------------------------------------------------------------------------------------------------
namespace {

struct Several : Prepared {
    size_t m;
    std::vector<std::unique_ptr<Prepared>> own;
};

}  // namespace

Added::Added(std::vector<nb::object> terms)
    : Matrix(terms.empty() ? 0 : nb::cast<const Matrix &>(terms[0]).n, terms.empty() ? 0 : nb::cast<const Matrix &>(terms[0]).d), keep_(terms) {
    for (const nb::object &t : terms) {
        terms_.push_back(&nb::cast<const Matrix &>(t));
        if (terms_.back()->n != n || terms_.back()->d != d) throw nb::value_error("terms of a sum have the same shape");
    }
}

std::unique_ptr<Prepared> Added::prepare(const float *x, size_t m) const {
    auto p = std::make_unique<Several>();
    p->m = m;
    for (const Matrix *t : terms_) p->own.push_back(t->prepare(x, m));
    return p;
}

bool Added::shares(const Matrix &other) const {
    const Added *o = dynamic_cast<const Added *>(&other);
    if (!o || o->terms_.size() != terms_.size()) return false;
    for (size_t i = 0; i < terms_.size(); ++i)
        if (!terms_[i]->shares(*o->terms_[i])) return false;
    return true;
}

void Added::range(size_t first, size_t last, const Prepared &x, float *y, size_t stride) const {
    const Several &p = static_cast<const Several &>(x);
    terms_[0]->range(first, last, *p.own[0], y, stride);
    const size_t width = last - first;
    std::vector<float> room(p.m * width);
    for (size_t i = 1; i < terms_.size(); ++i) {
        terms_[i]->range(first, last, *p.own[i], room.data() - first, width);
        for (size_t t = 0; t < p.m; ++t)
            for (size_t r = 0; r < width; ++r) y[t * stride + first + r] += room[t * width + r];
    }
}

void Added::row(size_t i, float *out) const {
    std::vector<float> room(d);
    terms_[0]->row(i, out);
    for (size_t k = 1; k < terms_.size(); ++k) {
        terms_[k]->row(i, room.data());
        for (size_t c = 0; c < d; ++c) out[c] += room[c];
    }
}

// -- some rows -----------------------------------------------------------------------------------------------------------------
Some::Some(nb::object inner, size_t n, Input<int64_t, 1> rows)
    : Matrix(n, nb::cast<const Matrix &>(inner).d), keep_(inner), inner_(nb::cast<const Matrix &>(inner)), rows_(rows) {
    if (rows.shape(0) != inner_.n) throw nb::value_error("a number for each row");
    for (size_t i = 0; i < inner_.n; ++i)
        if (rows.data()[i] < (i ? rows.data()[i - 1] + 1 : 0) || static_cast<size_t>(rows.data()[i]) >= n) throw nb::value_error("rows must rise, below n");
}

std::unique_ptr<Prepared> Some::prepare(const float *x, size_t m) const {
    auto p = std::make_unique<Several>();
    p->m = m;
    p->own.push_back(inner_.prepare(x, m));
    return p;
}

bool Some::shares(const Matrix &other) const {
    const Some *o = dynamic_cast<const Some *>(&other);
    return o && inner_.shares(o->inner_);
}

void Some::range(size_t first, size_t last, const Prepared &x, float *y, size_t stride) const {
    const Several &p = static_cast<const Several &>(x);
    for (size_t t = 0; t < p.m; ++t) std::fill(y + t * stride + first, y + t * stride + last, 0.0f);
    const int64_t *rows = rows_.data(), *end = rows + inner_.n;
    const size_t lo = std::lower_bound(rows, end, static_cast<int64_t>(first)) - rows, hi = std::lower_bound(rows, end, static_cast<int64_t>(last)) - rows;
    if (lo == hi) return;
    const size_t from = lo / kUnit * kUnit, to = std::min(inner_.n, (hi + kUnit - 1) / kUnit * kUnit), width = to - from;
    std::vector<float> room(p.m * width);
    inner_.range(from, to, *p.own[0], room.data() - from, width);
    for (size_t t = 0; t < p.m; ++t)
        for (size_t r = lo; r < hi; ++r) y[t * stride + rows[r]] = room[t * width + r - from];
}

void Some::row(size_t i, float *out) const {
    const int64_t *rows = rows_.data(), *end = rows + inner_.n, *at = std::lower_bound(rows, end, static_cast<int64_t>(i));
    if (at != end && *at == static_cast<int64_t>(i)) inner_.row(at - rows, out);
    else std::fill(out, out + d, 0.0f);
}

// -- few values ----------------------------------------------------------------------------------------------------------------
namespace {

// Fewer than kMany lines as they are, else tiles of sixteen: see `cells` in matmul.hpp.
struct Tiles : Prepared {
    size_t m;
    std::vector<float> x;

    Tiles(const float *from, size_t m, size_t d) : m(m), x((m < kMany ? m : ceil(m, 16) * 16) * d) {
        if (m < kMany) std::memcpy(x.data(), from, x.size() * sizeof(float));
        else parallel_for(ceil(d, kAlone), [&](size_t piece) {
            for (size_t t = 0; t < m; ++t)
                for (size_t c = piece * kAlone; c < std::min(d, (piece + 1) * kAlone); ++c) x[(t / 16 * d + c) * 16 + t % 16] = from[t * d + c];
        });
    }
};

}  // namespace

Sparse::Sparse(size_t d, Input<int64_t, 1> start, Input<uint32_t, 1> columns, Input<float, 1> values)
    : Matrix(start.shape(0) ? start.shape(0) - 1 : 0, d), start_(start), columns_(columns), values_(values),
      cells_{start.data(), columns.data(), values.data(), d} {
    const int64_t *at = start.data();
    if (start.shape(0) == 0 || at[0] != 0 || static_cast<size_t>(at[n]) != columns.shape(0) || columns.shape(0) != values.shape(0) ||
        !std::is_sorted(at, at + n + 1))
        throw nb::value_error("the rows do not fit the values");
    if (std::any_of(columns.data(), columns.data() + columns.shape(0), [d](uint32_t c) { return c >= d; }))
        throw nb::value_error("columns are below the width");
}

std::unique_ptr<Prepared> Sparse::prepare(const float *x, size_t m) const { return std::make_unique<Tiles>(x, m, d); }

bool Sparse::shares(const Matrix &other) const { return dynamic_cast<const Sparse *>(&other) && other.d == d; }

void Sparse::range(size_t first, size_t last, const Prepared &x, float *y, size_t stride) const {
    const Tiles &a = static_cast<const Tiles &>(x);
    COMPAND_DISPATCH(cells, cells_, first, last, a.x.data(), a.m, y, stride);
}

void Sparse::row(size_t i, float *out) const {
    std::fill(out, out + d, 0.0f);
    for (int64_t at = start_.data()[i]; at < start_.data()[i + 1]; ++at) out[columns_.data()[at]] += values_.data()[at];
}

// -- products in Python --------------------------------------------------------------------------------------------------------
namespace {

struct Results : Prepared {
    size_t m;
    std::vector<float> y;
};

}  // namespace

std::unique_ptr<Prepared> Called::prepare(const float *x, size_t m) const {
    auto p = std::make_unique<Results>();
    p->m = m;
    p->y.resize(m * n);
    nb::gil_scoped_acquire gil;
    const size_t shape[2] = {m, d};
    nb::ndarray<nb::numpy, const float> lines(x, 2, shape, nb::handle());
    const auto y = nb::cast<Input<float, 2>>(product_(nb::cast(lines, nb::rv_policy::copy)));
    if (y.shape(0) != m || y.shape(1) != n) throw nb::value_error("a product has another shape than its weights");
    std::memcpy(p->y.data(), y.data(), p->y.size() * sizeof(float));
    return p;
}

void Called::range(size_t first, size_t last, const Prepared &x, float *y, size_t stride) const {
    const Results &p = static_cast<const Results &>(x);
    for (size_t t = 0; t < p.m; ++t) std::memcpy(y + t * stride + first, p.y.data() + t * n + first, (last - first) * sizeof(float));
}

void Called::row(size_t i, float *out) const {
    nb::gil_scoped_acquire gil;
    const auto x = nb::cast<Input<float, 1>>(rows_(i));
    if (x.shape(0) != d) throw nb::value_error("a row has another width than its weights");
    std::memcpy(out, x.data(), d * sizeof(float));
}

}  // namespace compand::matmul

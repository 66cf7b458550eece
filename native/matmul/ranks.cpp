#include <algorithm>
#include <cstring>

#include "checked.hpp"
#include "isa.hpp"
#include "matmul/floats.hpp"
#include "matmul/weights.hpp"

namespace compand::matmul {
namespace {

size_t rows_of(const std::vector<Ranks::Given> &blocks) {
    size_t n = 0;
    for (const Ranks::Given &b : blocks) n += std::get<0>(b).shape(0);
    return n;
}

// A row as `Ranked` has it, into zeros. Returns its escapes.
size_t lay(const uint8_t *bytes, const uint8_t *ranks, size_t d, uint8_t *to) {
    size_t escapes = 0;
    for (size_t c = 0; c < d; c += kSpan, to += kPair * kSpanBytes) {
        const size_t own = std::min(kSpan, d - c);
        std::memcpy(to + kSpan / 2, bytes + c, own);
        if (own == kSpan) std::memcpy(to, ranks + c / 2, kSpan / 2);
        else
            for (size_t i = 0; i < own; ++i)  // neighbours share a byte
                to[i % 64] = static_cast<uint8_t>(to[i % 64] | (ranks[(c + i) / 2] >> (i % 2 * 4) & 15) << (i / 64 * 4));
        for (size_t i = 0; i < 64; ++i) escapes += static_cast<size_t>((to[i] & 15) == 15) + static_cast<size_t>(to[i] >= 0xf0);
    }
    return escapes;
}

}  // namespace

Ranks::Ranks(size_t d, const std::vector<Given> &blocks) : Matrix(rows_of(blocks), d), blocks_(blocks.size()) {
    const size_t half = d / 2 + d % 2, wide = ceil(d, kSpan) * kPair * kSpanBytes;
    size_t all = 0, room = 0, begin = 0;
    for (const Given &given : blocks) {
        if (std::get<0>(given).shape(1) != d) throw nb::value_error("the ranks are of another width");
        all += ceil(std::get<0>(given).shape(0), kPair);
    }
    if (d > size_t{1} << 28 || !checked_mul(all, wide, room)) throw nb::value_error("the ranks do not fit in memory");
    lines_ = Pages(room);
    uint8_t *lines = lines_.data();
    for (size_t i = 0; i < blocks.size(); ++i) {
        const auto &[bytes, ranks, counts, escapes, exponents] = blocks[i];
        const size_t rows = bytes.shape(0);
        if (ranks.shape(0) != rows || ranks.shape(1) != half || counts.shape(0) != rows ||
            exponents.shape(0) != 15 || exponents.data()[0] == 255 || escapes.shape(0) > UINT32_MAX)
            throw nb::value_error("the ranks do not fit the bytes");
        Block &b = blocks_[i];
        b.begin = begin;
        b.end = begin += rows;
        std::memcpy(b.exponents, exponents.data(), 15);
        b.escapes = escapes;
        b.start.resize(rows + 1);
        size_t at = 0;
        for (size_t r = 0; r < rows && at <= escapes.shape(0); b.start[++r] = static_cast<uint32_t>(at)) at += counts.data()[r];
        if (at != escapes.shape(0)) throw nb::value_error("the escapes are not as many as the ranks say");
        std::vector<uint8_t> wrong(ceil(rows, 256));
        parallel_for(wrong.size(), [&, &bytes = bytes, &ranks = ranks, &counts = counts](size_t job) {
            for (size_t r = 256 * job; r < std::min(rows, 256 * job + 256); ++r) {
                uint8_t *const to = lines + r / kPair * wide + r % kPair * kSpanBytes;
                wrong[job] |= lay(bytes.data() + r * d, ranks.data() + r * half, d, to) != counts.data()[r];
            }
        });
        if (std::find(wrong.begin(), wrong.end(), 1) != wrong.end()) throw nb::value_error("the escapes are not as many as the ranks say");
        b.ranked = {lines, b.exponents, escapes.data(), b.start.data(), d};
        lines += ceil(rows, kPair) * wide;
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

}  // namespace compand::matmul

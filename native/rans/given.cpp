#include "given.hpp"

#include <algorithm>

namespace compand::rans {
namespace {

constexpr int kLeast = 10;  // the encode kernel's least precision; smaller tables are scaled up

bool good_row(const uint32_t *row, size_t k, int p) {
    bool good = row[0] == 0 && row[k] == 1u << p;
    for (size_t s = 0; s < k; ++s) good &= row[s] <= row[s + 1];
    return good;
}

}  // namespace

Row given_steps(const uint32_t *cdf, const uint32_t *ids, size_t m, size_t k, int p, uint32_t *steps, size_t *at) {
    const int up = std::max(0, kLeast - p);
    for (size_t i = 0; i < m; ++i, cdf += k + 1) {
        *at = i;
        if (!good_row(cdf, k, p)) return Row::bad_table;
        if (ids[i] >= k || cdf[ids[i]] == cdf[ids[i] + 1]) return Row::bad_id;
        const uint32_t start = cdf[ids[i]] << up, f = (cdf[ids[i] + 1] << up) - start;
        steps[i] = (f - 1) << 16 | start;
    }
    return Row::good;
}

Bytes encode_given(const uint32_t *steps, size_t n, int p) {
    Bytes out;
    out.push_back(static_cast<uint8_t>(p));
    put_varint(out, n);
    const Fill fill = [=](size_t from, size_t count, size_t, uint32_t *to, uint32_t *) { std::copy(steps + from, steps + from + count, to); };
    write_lanes(fill, n, std::max(p, kLeast), false, n >= (1u << 14), out);
    return out;
}

GivenReader::GivenReader(const uint8_t *data, size_t size) : data_(data, data + size) {
    Reader in(data_.data(), data_.size());
    p_ = in.get<uint8_t>();
    const uint64_t n = in.varint();
    if (in.ok() && p_ >= 1 && p_ <= 16) valid_ = lanes_.open(in.at(), in.left(), static_cast<size_t>(n));
}

Row GivenReader::decode(const uint32_t *cdf, uint32_t *ids, size_t m, size_t k, size_t *at) {
    const int p = std::max(p_, kLeast), up = p - p_;
    for (size_t i = 0; i < m; ++i, cdf += k + 1) {
        *at = i;
        if (!good_row(cdf, k, p_)) return Row::bad_table;
        if (!lanes_.more() || lanes_.bad()) return Row::ended;
        const uint32_t x = lanes_.state(), slot = x & ((1u << p) - 1);
        const auto s = static_cast<size_t>(std::upper_bound(cdf, cdf + k + 1, slot >> up) - cdf) - 1;
        const uint32_t start = cdf[s] << up, f = (cdf[s + 1] << up) - start;
        ids[i] = static_cast<uint32_t>(s);
        lanes_.advance(f * (x >> p) + slot - start);
        lanes_.next();
    }
    return lanes_.bad() ? Row::ended : Row::good;
}

}  // namespace compand::rans

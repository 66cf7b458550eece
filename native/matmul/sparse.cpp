#include <algorithm>
#include <cstring>

#include "isa.hpp"
#include "matmul/floats.hpp"
#include "matmul/weights.hpp"

namespace compand::matmul {
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

}  // namespace compand::matmul

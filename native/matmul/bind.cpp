#include <algorithm>
#include <optional>
#include <vector>

#include <nanobind/stl/optional.h>

#include "arrays.hpp"
#include "isa.hpp"
#include "matmul/matmul.hpp"
#include "threads.hpp"

namespace nb = nanobind;

namespace compand::matmul {
namespace {

constexpr size_t kJob = size_t{1} << 18;  // weights of a job

size_t ceil(size_t a, size_t b) { return a / b + (a % b != 0); }

// Lines of activations as int8, in blocks.
struct Activations {
    size_t m, d, blocks, width;
    std::vector<int8_t> q;
    std::vector<float> scale;

    Activations(const float *x, size_t m, size_t d, size_t block, float unit)
        : m(m), d(d), blocks(ceil(d, block)), width(blocks * block), q(m * width), scale(m * blocks) {
        parallel_for(ceil(m, 4), [&](size_t i) {
            for (size_t t = 4 * i; t < std::min(m, 4 * i + 4); ++t)
                COMPAND_DISPATCH(quantize, x + t * d, d, block, unit, q.data() + t * width, scale.data() + t * blocks);
        });
    }
};

using Bytes = std::optional<Input<uint8_t, 1>>;

Output<float> bind_rows(Input<float, 2> x, Input<uint8_t, 2> bytes, int bits, int offset, float unit, size_t group,
                        std::optional<Input<uint16_t, 2>> brain, std::optional<Input<float, 2>> scale, Bytes levels, Bytes high,
                        std::optional<Input<float, 2>> zero) {
    const size_t m = x.shape(0), d = x.shape(1), n = bytes.shape(0);
    if (bits < 1 || bits > 8 || d == 0 || d > size_t{1} << 28 || bytes.shape(1) != ceil(d * static_cast<size_t>(bits), 8) ||
        offset < -65535 || offset > 65535)
        throw nb::value_error("the ids do not fit the width of x");
    const size_t groups = brain ? brain->shape(1) : scale ? scale->shape(1) : 0;
    if (groups == 0 || (brain && scale) || (group != 16 && group != 32 && (group == 0 || group % kChunk)) || groups != ceil(d, group) ||
        (brain ? brain->shape(0) : scale->shape(0)) != n || (zero && (zero->shape(0) != n || zero->shape(1) != groups)))
        throw nb::value_error("the scales do not fit the ids; groups are of 16, 32 or a multiple of 64 columns");
    const size_t k = size_t{1} << bits;
    if ((levels && levels->shape(0) != k) || (high && (!levels || high->shape(0) != k)) || (zero && levels))
        throw nb::value_error("levels have one byte for each id, and no zero points");
    Fresh<float> y({m, n});
    if (m && n) {
        nb::gil_scoped_release release;
        const Activations a(x.data(), m, d, kChunk, unit);
        std::vector<int32_t> sums(m * a.blocks * 16), start(sums.size());
        for (size_t i = 0; i < sums.size(); ++i) {
            for (size_t j = 4 * i; j < 4 * i + 4; ++j) sums[i] += a.q[j];
            start[i] = -offset * sums[i];
        }
        std::vector<Line> lines(m);
        for (size_t t = 0; t < m; ++t)
            lines[t] = {a.q.data() + t * a.width, a.scale.data() + t * a.blocks, start.data() + t * a.blocks * 16,
                        sums.data() + t * a.blocks * 16};
        const Rows w{bytes.data(), bytes.shape(1), d, bits, levels ? levels->data() : nullptr, high ? high->data() : nullptr,
               brain ? brain->data() : nullptr, scale ? scale->data() : nullptr, zero ? zero->data() : nullptr, groups, group};
        const size_t step = std::max<size_t>(1, kJob / d);
        parallel_for(ceil(n, step), [&](size_t i) {
            COMPAND_DISPATCH(rows, w, i * step, std::min(n, (i + 1) * step), lines.data(), m, y.data(), n);
        });
    }
    return y.release();
}

Output<float> bind_strips(Input<float, 2> x, Input<uint8_t, 1> bits, int k, Input<uint16_t, 1> factors, size_t block, size_t group,
                          Input<float, 3> scale, Input<int16_t, 2> rest, Input<float, 2> rest_scale) {
    const size_t m = x.shape(0), d = x.shape(1), strips = scale.shape(0), groups = scale.shape(1), left = rest.shape(0);
    size_t need = 0;
    if (k < 1 || k > 4 || d == 0 || d > size_t{1} << 28 || !checked_mul(strips, 2 * d * static_cast<size_t>(k), need) || bits.shape(0) < need ||
        factors.shape(0) < 1 || factors.shape(0) > 2)
        throw nb::value_error("the bits do not fit the width of x");
    if (block == 0 || block % 2 || block > 4096 || group == 0 || (group % block && groups > 1) || groups != ceil(d, group) ||
        scale.shape(2) != kStrip || left >= kStrip || (left && rest.shape(1) != d) || rest_scale.shape(0) != left ||
        (left && rest_scale.shape(1) != groups))
        throw nb::value_error("the scales do not fit the strips; a group is a multiple of the block");
    const size_t n = strips * kStrip + left;
    Fresh<float> y({m, n});
    if (m && n) {
        nb::gil_scoped_release release;
        const Activations a(x.data(), m, d, block, 1.0f);
        std::vector<int32_t> twice(m * (a.width / 2)), start(m * a.blocks);
        std::vector<Pairs> lines(m);
        const int32_t mean = -255 * static_cast<int32_t>(factors.shape(0));
        for (size_t t = 0, first = 0, tile = tile_of(m); t < m; ++t) {
            if (t == first + tile) first = t, tile = tile_of(m - t);
            const int8_t *q = a.q.data() + t * a.width;
            int32_t *own = twice.data() + first * (a.width / 2) + t - first, *begin = start.data() + t * a.blocks;
            for (size_t p = 0; p < a.width / 2; ++p)
                own[p * tile] = static_cast<int32_t>(static_cast<uint8_t>(q[2 * p]) * 0x101u | static_cast<uint8_t>(q[2 * p + 1]) * 0x1010000u);
            for (size_t b = 0; b < a.blocks; ++b) {
                int32_t sum = 0;
                for (size_t i = b * block; i < (b + 1) * block; ++i) sum += q[i];
                begin[b] = mean * sum;
            }
            lines[t] = {q, own, a.scale.data() + t * a.blocks, begin};
        }
        const Strips w{bits.data(), d, k, factors.data(), static_cast<int>(factors.shape(0)), scale.data(), groups, group, block};
        const size_t step = std::max<size_t>(1, kJob / (d * kStrip));
        parallel_for(ceil(strips, step), [&](size_t i) {
            COMPAND_DISPATCH(strips, w, i * step, std::min(strips, (i + 1) * step), lines.data(), m, y.data(), n);
        });
        for (size_t r = 0; r < left; ++r)  // the rows of a last strip that is not whole, by their levels
            for (size_t t = 0; t < m; ++t) {
                float sum = 0;
                for (size_t b = 0; b < a.blocks; ++b) {
                    int32_t dot = 0;
                    for (size_t i = b * block; i < std::min(d, (b + 1) * block); ++i) dot += rest.data()[r * d + i] * lines[t].q[i];
                    sum += static_cast<float>(dot) * (rest_scale.data()[r * groups + b * block / group] * lines[t].scale[b]);
                }
                y.data()[t * n + strips * kStrip + r] = sum;
            }
    }
    return y.release();
}

}  // namespace
}  // namespace compand::matmul

void bind_matmul(nb::module_ &m) {
    using namespace nb::literals;
    m.def("matmul_rows", &compand::matmul::bind_rows, "x"_a.noconvert(), "bytes"_a.noconvert(), "bits"_a, "offset"_a, "unit"_a, "group"_a,
          "brain"_a.noconvert() = nb::none(), "scale"_a.noconvert() = nb::none(), "levels"_a.noconvert() = nb::none(),
          "high"_a.noconvert() = nb::none(), "zero"_a.noconvert() = nb::none(),
          "x (m, d) float32 as int8 times packed ids (n, row bytes) -> (m, n): weight = unit (level - offset + zero) scale; see matmul.hpp.");
    m.def("matmul_strips", &compand::matmul::bind_strips, "x"_a.noconvert(), "bits"_a.noconvert(), "k"_a, "factors"_a.noconvert(), "block"_a,
          "group"_a, "scale"_a.noconvert(), "rest"_a.noconvert(), "rest_scale"_a.noconvert(),
          "x (m, d) float32 as int8 times the strips of a trellis code -> (m, 16 strips + rest); see matmul.hpp.");
}

#include "nearest/coarse.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

namespace compand::nearest {

Coarse::Coarse(const float *rows, const float *mean, const float *all_halves, size_t k, size_t dimensions)
    : d(dimensions), quads((dimensions + 3) / 4) {
    // Sorted by the first 12 bits of the largest value (exponent and 4 bits more), ids ascending.
    std::vector<float> longest(k);
    std::vector<uint32_t> start(4097), order;
    const auto key = [&](size_t i) { return std::bit_cast<uint32_t>(longest[i]) >> 19; };
    for (size_t i = 0; i < k; ++i) {
        if (!(all_halves[i] >= -3e38f)) continue;
        for (size_t j = 0; j < d; ++j) longest[i] = std::max(longest[i], std::fabs(rows[i * d + j] - mean[j]));
        ++start[key(i) + 1];
    }
    for (size_t t = 0; t < 4096; ++t) start[t + 1] += start[t];
    const size_t live = start[4096];
    groups = (live + 63) / 64;
    order.resize(groups * 64);
    for (size_t i = 0; i < k; ++i)
        if (all_halves[i] >= -3e38f) order[start[key(i)]++] = static_cast<uint32_t>(i);
    std::fill(order.begin() + static_cast<std::ptrdiff_t>(live), order.end(), order[live - 1]);

    const size_t padded = (groups + kSegment - 1) / kSegment * kSegment;
    codewords = Aligned<uint8_t>(groups * 64 * quads * 4);
    ids = Aligned<uint32_t>(groups * 64);
    halves = Aligned<float>(groups * 64);
    scale = Aligned<float>(padded);
    norm = Aligned<float>(padded);
    rest = Aligned<float>(padded);
    std::fill_n(codewords.data(), groups * 64 * quads * 4, uint8_t{128});
    std::copy_n(order.data(), groups * 64, ids.data());
    finest = 1e-32f;
    for (Aligned<float> *part : {&scale, &norm, &rest}) std::fill_n(part->data(), padded, 0.0f);
    most.resize(padded / kSegment);
    for (size_t g = 0; g < groups; ++g) {
        float widest = 1e-30f;
        for (size_t t = 0; t < 64; ++t) widest = std::max(widest, longest[order[g * 64 + t]]);
        const float step = widest / 127, inverse = 127 / widest;
        scale.data()[g] = step;
        for (size_t t = 0; t < 64; ++t) {
            const size_t id = order[g * 64 + t], place = t % 4 * 16 + t / 4;
            uint8_t *to = codewords.data() + g * 64 * quads * 4 + place * 4;
            double squares = 0, missed = 0;
            for (size_t j = 0; j < d; ++j) {
                const float c = rows[id * d + j] - mean[j];
                const int q = std::clamp(static_cast<int>(c * inverse + std::copysign(0.5f, c)), -127, 127);
                const double off = static_cast<double>(c) - static_cast<double>(step) * q;
                to[j / 4 * 256 + j % 4] = static_cast<uint8_t>(q + 128);
                squares += static_cast<double>(c) * static_cast<double>(c);
                missed += off * off;
            }
            norm.data()[g] = std::max(norm.data()[g], static_cast<float>(std::sqrt(squares) * (1 + 0x1p-20)));
            rest.data()[g] = std::max(rest.data()[g], static_cast<float>(std::sqrt(missed) * (1 + 0x1p-20)));
            const float half = all_halves[id] / step;
            halves.data()[g * 64 + place] = half;
            finest = std::max(finest, -half * 0x1p-29f);
        }
        Bounds &all = most[g / kSegment];
        all = {std::max(all.scale, step), std::max(all.norm, norm.data()[g]), std::max(all.rest, rest.data()[g])};
    }
}

}  // namespace compand::nearest

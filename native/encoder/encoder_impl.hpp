// Body of encoder.hpp. Sums run in 16 lanes of a fixed order, so every instruction set gives the same bits.
#include <cmath>

#include "encoder/encoder.hpp"
#include "sixteens.hpp"

namespace compand::encoder::ISA {
namespace {

using lanes::F;
using lanes::kLanes;
using lanes::put;
using lanes::sixteens;
using lanes::some;

COMPAND_INLINE F magnitude(const F &x) { return std::bit_cast<F>(std::bit_cast<lanes::U>(x) & 0x7fffffffu); }

// erf within 1.5e-7. Abramowitz and Stegun, 7.1.26.
COMPAND_INLINE F error_function(const F &x) {
    const F a = magnitude(x), t = 1.0f / (1.0f + 0.3275911f * a);
    F p = lanes::all(1.061405429f);
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    const F y = 1.0f - p * t * lanes::exponential(-a * a);
    return x < F{} ? -y : y;
}

}  // namespace

void center(float *x, const float *y, const float *weight, const float *bias, size_t d, float eps) {
    F sum = {};
    sixteens(d, [&](size_t i, size_t count) {
        F v = some(x + i, count);
        if (y) put(x + i, v = v + some(y + i, count), count);
        sum = sum + v;
    });
    const float mean = lanes::total(sum) / static_cast<float>(d);
    F squares = {};
    sixteens(d, [&](size_t i, size_t count) {
        F v = some(x + i, count) - mean;
        if (count < kLanes) {
            const lanes::I lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
            v = lane < static_cast<int32_t>(count) ? v : F{};
        }
        squares = squares + v * v;
    });
    const float inverse = 1.0f / std::sqrt(lanes::total(squares) / static_cast<float>(d) + eps);
    sixteens(d, [&](size_t i, size_t count) {
        put(x + i, (some(x + i, count) - mean) * inverse * some(weight + i, count) + some(bias + i, count), count);
    });
}

void soften(float *x, const float *bias, size_t d, bool tanh) {
    sixteens(d, [&](size_t i, size_t count) {
        F v = some(x + i, count);
        if (bias) v = v + some(bias + i, count);
        const F f = tanh ? lanes::hyperbolic(0.7978845608028654f * (v + 0.044715f * (v * v * v))) : error_function(v * 0.7071067811865476f);
        put(x + i, 0.5f * v * (1.0f + f), count);
    });
}

}  // namespace compand::encoder::ISA

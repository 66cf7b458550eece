// Body of grid.hpp: plain loops over 16 lanes, which the compiler turns into vectors of the level's width.
#include <cstring>

#include "grid/grid.hpp"

namespace compand::grid::ISA {
namespace {

constexpr size_t kLanes = 16;
constexpr size_t kBlock = 2048;  // values whose float sums are kept before they go to double

inline float magnitude(float v) { return v < 0 ? -v : v; }

// v, |v| < 2^22, rounded to an integer, ties to even
inline float nearest(float v) { return (v + 12582912.0f) - 12582912.0f; }

inline float clip(float v, float low, float high) {
    v = v < low ? low : v;
    return v > high ? high : v;
}

float stored(const Plan &plan, double exact, bool up) {
    const bool minus = exact < 0;
    double a = minus ? -exact : exact;
    if (!(a >= plan.smallest)) return 0.0f;
    if (a > plan.largest) a = plan.largest;
    const float f = static_cast<float>(a);
    uint32_t bits;
    std::memcpy(&bits, &f, 4);
    const int drop = 24 - plan.digits;
    if (drop > 0) {
        const uint32_t unit = uint32_t{1} << drop, half = unit >> 1;
        bits = (bits + half - 1 + ((bits >> drop) & 1)) & ~(unit - 1);
        float r;
        std::memcpy(&r, &bits, 4);
        if (up && r < a) bits += unit;
    }
    float r;
    std::memcpy(&r, &bits, 4);
    if (r > plan.largest) r = plan.largest;
    return minus ? -r : r;
}

struct Sums {
    double error = 0, cross = 0, square = 0;  // in steps: |t - level|^2, t * level, level^2
};

double total(const float *lane) {
    double sum = 0;
    for (size_t j = 0; j < kLanes; ++j) sum += lane[j];
    return sum;
}

Sums judge(const Plan &plan, const float *x, size_t g, float s) {
    const float inverse = 1.0f / s, low = plan.z, high = plan.z + static_cast<float>(plan.k - 1), z = plan.z;
    Sums sums;
    for (size_t at = 0; at < g; at += kBlock) {
        const size_t end = g - at < kBlock ? g : at + kBlock;
        float error[kLanes] = {}, cross[kLanes] = {}, square[kLanes] = {};
        size_t i = at;
        for (; i + kLanes <= end; i += kLanes)
            for (size_t j = 0; j < kLanes; ++j) {
                const float t = x[i + j] * inverse;
                const float level = nearest(clip(t, low, high) - z) + z;
                const float e = t - level;
                error[j] += e * e;
                cross[j] += t * level;
                square[j] += level * level;
            }
        for (size_t j = 0; i + j < end; ++j) {
            const float t = x[i + j] * inverse;
            const float level = nearest(clip(t, low, high) - z) + z;
            const float e = t - level;
            error[j] += e * e;
            cross[j] += t * level;
            square[j] += level * level;
        }
        sums.error += total(error);
        sums.cross += total(cross);
        sums.square += total(square);
    }
    return sums;
}

void quantize(const Plan &plan, const float *x, size_t g, float s, uint8_t *ids) {
    const float low = plan.z, high = plan.z + static_cast<float>(plan.k - 1), z = plan.z;
    const float by = s == 0 ? 3.4e38f : s;
    for (size_t i = 0; i < g; ++i) ids[i] = static_cast<uint8_t>(static_cast<int32_t>(nearest(clip(x[i] / by, low, high) - z)));
}

float find(const Plan &plan, const float *x, size_t g) {
    float lane[kLanes] = {}, above[kLanes] = {};
    size_t i = 0;
    for (; i + kLanes <= g; i += kLanes)
        for (size_t j = 0; j < kLanes; ++j) {
            const float v = x[i + j], m = magnitude(v);
            lane[j] = m > lane[j] ? m : lane[j];
            above[j] = v > above[j] ? v : above[j];
        }
    float a = 0, most = 0;
    for (; i < g; ++i) {
        const float m = magnitude(x[i]);
        a = m > a ? m : a;
        most = x[i] > most ? x[i] : most;
    }
    for (size_t j = 0; j < kLanes; ++j) {
        a = lane[j] > a ? lane[j] : a;
        most = above[j] > most ? above[j] : most;
    }
    if (a == 0) return 0.0f;
    const double top = static_cast<double>(plan.k - 1) + plan.z;
    const float first = stored(plan, a / top, true);
    if (!plan.search || first == 0) return first;
    const bool uneven = plan.z + top != 0;
    const double sign = uneven && most == a ? -1.0 : 1.0;  // the extra level goes to the longer side
    const double widest = plan.k > 2 ? -static_cast<double>(plan.z) : top;
    float best = 0, last = 0;
    double least = 0;
    Sums kept;
    const auto consider = [&](float s) {
        if (s == 0 || s == last) return;
        last = s;
        const Sums sums = judge(plan, x, g, s);
        const double unit = static_cast<double>(s) / a, error = sums.error * unit * unit;
        if (best == 0 || error < least) {
            best = s;
            least = error;
            kept = sums;
        }
    };
    consider(first);
    for (size_t t = 0; t < plan.tries; ++t) consider(stored(plan, sign * a * (plan.ratios[t] / widest), false));
    for (int turn = 0; turn < 2; ++turn)
        if (kept.square > 0) consider(stored(plan, best * (kept.cross / kept.square), false));
    return best;
}

}  // namespace

void encode(const Plan &plan, const float *x, size_t d, size_t group, uint8_t *ids, float *scales) {
    for (size_t at = 0; at < d; at += group) {
        const size_t g = d - at < group ? d - at : group;
        const float s = find(plan, x + at, g);
        quantize(plan, x + at, g, s, ids + at);
        *scales++ = s;
    }
}

}  // namespace compand::grid::ISA
#undef ISA

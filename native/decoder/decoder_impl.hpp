// Body of decoder.hpp. Sums run in 16 lanes of a fixed order, so every instruction set gives the same bits.
#include <algorithm>
#include <cmath>
#include <limits>

#include "decoder/decoder.hpp"
#include "lanes.hpp"

namespace compand::decoder::ISA {
namespace {

using lanes::F;
using lanes::kLanes;

// f(i, count) for each 16 elements; the last have fewer.
template <class G> COMPAND_INLINE void sixteens(size_t d, const G &f) {
    size_t i = 0;
    for (; i + kLanes <= d; i += kLanes) f(i, kLanes);
    if (i < d) f(i, d - i);
}
COMPAND_INLINE F some(const float *from, size_t count) {
    if (count == kLanes) return lanes::load<F>(from);
    float room[kLanes] = {};
    std::memcpy(room, from, count * sizeof(float));
    return lanes::load<F>(room);
}
COMPAND_INLINE void put(float *to, const F &v, size_t count) {
    if (count == kLanes) return lanes::store(to, v);
    float room[kLanes];
    lanes::store(room, v);
    std::memcpy(to, room, count * sizeof(float));
}

template <class S> COMPAND_INLINE F values(const S *from) {
    if constexpr (sizeof(S) == 4) return lanes::load<F>(from);
    else return lanes::widen(lanes::load<lanes::H>(from));
}
template <class S> COMPAND_INLINE S stored(float x) {
    if constexpr (sizeof(S) == 4) return x;
    else return lanes::narrow(x);
}

template <class S> void keep_as(const Cache &c, size_t position, const float *key, const float *value) {
    S *k = static_cast<S *>(c.keys) + position / kBlock * c.width * kBlock + position % kBlock;
    S *v = static_cast<S *>(c.values) + position * c.width;
    for (size_t i = 0; i < c.width; ++i) {
        k[i * kBlock] = stored<S>(key[i]);
        v[i] = stored<S>(value[i]);
    }
}

template <class S, int H> void attend_as(const Cache &c, const Queries &q, float *room) {
    const size_t first = q.start / kBlock, last = (q.end + kBlock - 1) / kBlock, width = c.width, span = (last - first) * kBlock;
    const S *keys = static_cast<const S *>(c.keys), *own = static_cast<const S *>(c.values);
    F most[H];
    for (F &m : most) m = lanes::all(-std::numeric_limits<float>::infinity());
    const lanes::I lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    for (size_t b = first; b < last; ++b) {
        const S *k = keys + b * width * kBlock;
        F even[H] = {}, odd[H] = {};
        for (size_t i = 0; i < width; i += 2) {
            const F a = values(k + i * kBlock), e = values(k + (i + 1) * kBlock);
            for (int h = 0; h < H; ++h) {
                even[h] = even[h] + a * q.q[static_cast<size_t>(h) * width + i];
                odd[h] = odd[h] + e * q.q[static_cast<size_t>(h) * width + i + 1];
            }
        }
        const lanes::I at = lane + static_cast<int32_t>(b * kBlock);
        const lanes::I seen = (at >= static_cast<int32_t>(q.start)) & (at < static_cast<int32_t>(q.end));
        for (int h = 0; h < H; ++h) {
            F s = (even[h] + odd[h]) * q.scale;
            if (q.cap != 0.0f) s = lanes::hyperbolic(s / q.cap) * q.cap;
            s = seen ? s : lanes::all(-std::numeric_limits<float>::infinity());
            most[h] = lanes::larger(most[h], s);
            lanes::store(room + static_cast<size_t>(h) * span + (b - first) * kBlock, s);
        }
    }
    float inverse[H];
    for (int h = 0; h < H; ++h) {
        float *s = room + static_cast<size_t>(h) * span;
        const F top = lanes::all(lanes::greatest(most[h]));
        F sum = {};
        for (size_t i = 0; i < span; i += kBlock) {
            const F e = lanes::exponential(lanes::load<F>(s + i) - top);
            sum = sum + e;
            lanes::store(s + i, e);
        }
        inverse[h] = 1.0f / lanes::total(sum);
    }
    for (size_t v = 0; v < width; v += 2 * kLanes) {  // width is a multiple of 16
        const bool two = v + kLanes < width;
        F sum[H][2] = {};
        for (size_t j = q.start; j < q.end; ++j) {
            const S *from = own + j * width + v;
            const F a = values(from), e = two ? values(from + kLanes) : F{};
            for (int h = 0; h < H; ++h) {
                const float p = room[static_cast<size_t>(h) * span + j - first * kBlock];
                sum[h][0] = sum[h][0] + a * p;
                sum[h][1] = sum[h][1] + e * p;
            }
        }
        for (int h = 0; h < H; ++h) {
            float *to = q.out + static_cast<size_t>(h) * width + v;
            lanes::store(to, sum[h][0] * inverse[h]);
            if (two) lanes::store(to + kLanes, sum[h][1] * inverse[h]);
        }
    }
}

}  // namespace

void normalize(const float *x, const float *weight, size_t d, float eps, float *out) {
    F sum = {};
    sixteens(d, [&](size_t i, size_t count) {
        const F v = some(x + i, count);
        sum = sum + v * v;
    });
    const float inverse = 1.0f / std::sqrt(lanes::total(sum) / static_cast<float>(d) + eps);
    sixteens(d, [&](size_t i, size_t count) { put(out + i, some(x + i, count) * inverse * some(weight + i, count), count); });
}

void turn(float *x, size_t half, const float *cos, const float *sin) {
    sixteens(half, [&](size_t i, size_t count) {
        const F a = some(x + i, count), b = some(x + half + i, count), c = some(cos + i, count), s = some(sin + i, count);
        put(x + i, a * c - b * s, count);
        put(x + half + i, b * c + a * s, count);
    });
}

void activate(float *gate, const float *up, size_t d, bool gelu) {
    sixteens(d, [&](size_t i, size_t count) {
        const F x = some(gate + i, count);
        const F f = gelu ? 0.5f * x * (1.0f + lanes::hyperbolic(0.7978845608028654f * (x + 0.044715f * (x * x * x))))
                         : x / (1.0f + lanes::exponential(-x));
        put(gate + i, f * some(up + i, count), count);
    });
}

void add(float *x, const float *y, size_t d) {
    for (size_t i = 0; i < d; ++i) x[i] += y[i];
}

void cap(float *x, size_t d, float cap) {
    sixteens(d, [&](size_t i, size_t count) { put(x + i, lanes::hyperbolic(some(x + i, count) / cap) * cap, count); });
}

void keep(const Cache &c, size_t position, const float *key, const float *value) {
    if (c.brain) keep_as<uint16_t>(c, position, key, value);
    else keep_as<float>(c, position, key, value);
}

void attend(const Cache &c, const Queries &q, float *room) {
    const auto run = c.brain ? (q.heads == 2 ? attend_as<uint16_t, 2> : attend_as<uint16_t, 1>)
                             : (q.heads == 2 ? attend_as<float, 2> : attend_as<float, 1>);
    run(c, q, room);
}

}  // namespace compand::decoder::ISA

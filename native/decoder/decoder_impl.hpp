// Body of decoder.hpp. Sums run in 16 lanes of a fixed order, so every instruction set gives the same bits.
#include <algorithm>
#include <cmath>
#include <limits>

#include "decoder/decoder.hpp"
#include "sixteens.hpp"

namespace compand::decoder::ISA {
namespace {

using lanes::F;
using lanes::kLanes;
using lanes::put;
using lanes::sixteens;
using lanes::some;

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

// e^(s - top) of the scores (H, span) in room, span a multiple of 16; gives 1 / sum of each.
template <int H> COMPAND_INLINE void exponentials(float *room, size_t span, const F (&most)[H], float (&inverse)[H]) {
    for (int h = 0; h < H; ++h) {
        float *s = room + static_cast<size_t>(h) * span;
        const F top = lanes::all(lanes::greatest(most[h]));
        F sum = {};
        for (size_t i = 0; i < span; i += kLanes) {
            const F e = lanes::exponential(lanes::load<F>(s + i) - top);
            sum = sum + e;
            lanes::store(s + i, e);
        }
        inverse[h] = 1.0f / lanes::total(sum);
    }
}
// out (H, width) = sums of count values, a step apart, times p (H, span).
template <class S, int H>
COMPAND_INLINE void weighted(const S *values_at, size_t step, size_t width, size_t count, const float *p, size_t span, const float (&inverse)[H], float *out) {
    for (size_t v = 0; v < width; v += 2 * kLanes) {  // width is a multiple of 16
        const bool two = v + kLanes < width;
        F sum[H][2] = {};
        for (size_t j = 0; j < count; ++j) {
            const S *from = values_at + j * step + v;
            const F a = values(from), e = two ? values(from + kLanes) : F{};
            for (int h = 0; h < H; ++h) {
                const float own = p[static_cast<size_t>(h) * span + j];
                sum[h][0] = sum[h][0] + a * own;
                sum[h][1] = sum[h][1] + e * own;
            }
        }
        for (int h = 0; h < H; ++h) {
            float *to = out + static_cast<size_t>(h) * width + v;
            lanes::store(to, sum[h][0] * inverse[h]);
            if (two) lanes::store(to + kLanes, sum[h][1] * inverse[h]);
        }
    }
}
COMPAND_INLINE F scored(F s, const Queries &q) {
    s = s * q.scale;
    return q.cap != 0.0f ? lanes::hyperbolic(s / q.cap) * q.cap : s;
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
            F s = scored(even[h] + odd[h], q);
            s = seen ? s : lanes::all(-std::numeric_limits<float>::infinity());
            most[h] = lanes::larger(most[h], s);
            lanes::store(room + static_cast<size_t>(h) * span + (b - first) * kBlock, s);
        }
    }
    float inverse[H];
    exponentials(room, span, most, inverse);
    weighted<S, H>(own + q.start * width, width, width, q.end - q.start, room + (q.start - first * kBlock), span, inverse, q.out);
}

template <class S, int H> void attend_rows_as(const Rows &c, const Queries &q, float *room) {
    const size_t count = q.end - q.start, span = (count + kLanes - 1) / kLanes * kLanes, width = c.width;
    const S *keys = static_cast<const S *>(c.keys) + q.start * c.key_step, *own = static_cast<const S *>(c.values) + q.start * c.value_step;
    for (size_t j = 0; j < count; ++j) {
        F sum[H] = {};
        for (size_t i = 0; i < width; i += kLanes) {
            const F k = values(keys + j * c.key_step + i);
            for (int h = 0; h < H; ++h) sum[h] = sum[h] + k * lanes::load<F>(q.q + static_cast<size_t>(h) * width + i);
        }
        for (int h = 0; h < H; ++h) room[static_cast<size_t>(h) * span + j] = lanes::total(sum[h]);
    }
    F most[H];
    const F never = lanes::all(-std::numeric_limits<float>::infinity());
    for (int h = 0; h < H; ++h) {
        float *s = room + static_cast<size_t>(h) * span;
        std::fill(s + count, s + span, 0.0f);
        most[h] = never;
        for (size_t i = 0; i < span; i += kLanes) {
            const F v = scored(lanes::load<F>(s + i), q);
            lanes::store(s + i, v);
            if (i + kLanes > count) std::fill(s + count, s + span, -std::numeric_limits<float>::infinity());
            most[h] = lanes::larger(most[h], lanes::load<F>(s + i));
        }
    }
    float inverse[H];
    exponentials(room, span, most, inverse);
    weighted<S, H>(own, c.value_step, width, count, room, span, inverse, q.out);
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

void attend_rows(const Rows &c, const Queries &q, float *room) {
    const auto run = c.brain ? (q.heads == 4 ? attend_rows_as<uint16_t, 4> : q.heads == 2 ? attend_rows_as<uint16_t, 2> : attend_rows_as<uint16_t, 1>)
                             : (q.heads == 4 ? attend_rows_as<float, 4> : q.heads == 2 ? attend_rows_as<float, 2> : attend_rows_as<float, 1>);
    run(c, q, room);
}

void round(const float *x, size_t d, uint16_t *out) {
    for (size_t i = 0; i < d; ++i) out[i] = lanes::narrow(x[i]);
}

}  // namespace compand::decoder::ISA

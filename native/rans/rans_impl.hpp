// The portable bodies; COMPAND_RANS_ISA is the namespace to put them in.
#include <cstring>

#include "rans.hpp"

namespace compand::rans::COMPAND_RANS_ISA {
namespace {

inline uint32_t word(const uint8_t *at) {
    uint16_t w;
    std::memcpy(&w, at, 2);
    return w;
}

inline uint32_t refill(uint32_t x, const uint8_t *&at) {
    const bool low = x < kLow;
    const uint32_t filled = x << 16 | word(at);
    at += low ? 2 : 0;
    return low ? filled : x;
}

inline uint32_t advance(uint32_t x, uint32_t e) {
    return (e >> 20) * (x >> kNarrowBits) + (e >> 8 & 0xfff);
}

inline void patch(uint8_t *out, Escapes &escapes) {
    for (size_t l = 0; l < kLanes; ++l) {
        if (out[l] != escapes.mark) continue;
        if (escapes.at == escapes.end) {
            escapes.missing = true;
            return;
        }
        out[l] = *escapes.at++;
    }
}

}  // namespace

#ifndef COMPAND_RANS_OWN_ENCODE
uint16_t *encode(const uint32_t *steps, const uint32_t *raws, size_t groups, int p, uint32_t *x, uint16_t *out) {
    for (size_t run = groups * kLanes; run > 0; run -= kRun) {
        for (size_t t = run; raws && t-- > run - kRun;) {
            uint32_t &s = x[t % kLanes];
            const uint32_t bits = raws[t] >> 16, value = raws[t] & 0xffff;
            if (static_cast<uint64_t>(s) << bits >> 32) {
                *--out = static_cast<uint16_t>(s);
                s >>= 16;
            }
            s = s << bits | value;
        }
        for (size_t t = run; t-- > run - kRun;) {
            uint32_t s = x[t % kLanes];
            const uint32_t f = (steps[t] >> 16) + 1, start = steps[t] & 0xffff;
            if (s >> (32 - p) >= f) {
                *--out = static_cast<uint16_t>(s);
                s >>= 16;
            }
            const uint32_t q = s / f;
            x[t % kLanes] = (q << p) + start + (s - q * f);
        }
    }
    return out;
}

uint16_t *encode_bytes(const uint8_t *ids, const uint32_t *steps, size_t, size_t groups, int p, uint32_t *x, uint16_t *out) {
    for (size_t t = groups * kLanes; t-- > 0;) {
        uint32_t s = x[t % kLanes];
        const uint32_t step = steps[ids[t]], f = (step >> 16) + 1;
        if (s >> (32 - p) >= f) {
            *--out = static_cast<uint16_t>(s);
            s >>= 16;
        }
        const uint32_t q = s / f;
        x[t % kLanes] = (q << p) + (step & 0xffff) + (s - q * f);
    }
    return out;
}
#endif

#ifndef COMPAND_RANS_OWN_BOTH
uint16_t *encode_both(const uint16_t *ids, const uint64_t *both, size_t groups, int p, uint32_t *x, uint16_t *out) {
    constexpr size_t kMost = 16;
    uint32_t steps[kMost * kLanes], raws[kMost * kLanes];
    while (groups > 0) {
        const size_t own = groups < kMost ? groups : kMost;
        groups -= own;
        for (size_t i = 0; i < own * kLanes; ++i) {
            const uint64_t v = both[ids[groups * kLanes + i]];
            steps[i] = static_cast<uint32_t>(v);
            raws[i] = static_cast<uint32_t>(v >> 32);
        }
        out = encode(steps, raws, own, p, x, out);
    }
    return out;
}
#endif

void place_values(const int32_t *mean, const uint8_t *scale, size_t n, size_t stride, bool raws, uint32_t *place, uint8_t *bits,
                  int32_t *base) {
    const auto step = static_cast<uint32_t>(stride);
    if (!raws) {
        for (size_t i = 0; i < n; ++i) {
            place[i] = ((scale[i] & 63u) * 16 + (static_cast<uint32_t>(mean[i]) & 15)) * step;
            base[i] = mean[i] >> 4;
        }
        return;
    }
    for (size_t i = 0; i < n; ++i) {
        const int s = scale[i] & 63, j = raw_bits(s);
        const int64_t m = (static_cast<int64_t>(mean[i]) - 8 * ((1 << j) - 1) + ((1 << j) >> 1)) >> j;
        place[i] = (static_cast<uint32_t>(s - 6 * j) * 16 + (static_cast<uint32_t>(m) & 15)) * step;
        bits[i] = static_cast<uint8_t>(j);
        base[i] = static_cast<int32_t>(m >> 4);
    }
}

void join_values(const int32_t *base, const uint8_t *symbols, int reach, const uint8_t *bits, const uint8_t *values, size_t n,
                 int32_t *x) {
    if (!bits) {
        for (size_t i = 0; i < n; ++i) x[i] = base[i] + symbols[i] - reach;
        return;
    }
    for (size_t i = 0; i < n; ++i) {
        x[i] = static_cast<int32_t>(static_cast<uint32_t>(base[i] + symbols[i] - reach) << bits[i] | values[i]);
    }
}

#ifndef COMPAND_RANS_OWN_CURVES
size_t decode_curves(Lanes &lanes, const Curves &curves, uint8_t *symbols, uint8_t *values, size_t groups) {
    uint32_t x[kLanes];
    std::memcpy(x, lanes.x, sizeof x);
    const uint8_t *at = lanes.at;
    const ptrdiff_t need = curves.raws ? 256 : 128;
    size_t t = 0;
    for (; t < groups * kLanes && lanes.end - at >= need; t += kLanes) {
        for (size_t run = 0; run < kLanes; run += kRun) {
            for (size_t l = 0; l < kRun; ++l) {
                const uint8_t *const curve = curves.curves + curves.place[t + run + l];
                const uint32_t v = x[run + l], slot = v & 0x3fff;
                uint32_t s = curve[curves.at + (slot >> 8)];
                uint16_t start, end;
                for (;; ++s) {
                    std::memcpy(&start, curve + curves.start + 2 * s, 2);
                    std::memcpy(&end, curve + curves.start + 2 * s + 2, 2);
                    if (slot < end) break;
                }
                symbols[t + run + l] = static_cast<uint8_t>(s);
                x[run + l] = refill(static_cast<uint32_t>(end - start) * (v >> 14) + slot - start, at);
            }
            for (size_t l = 0; curves.raws && l < kRun; ++l) {
                const uint32_t v = x[run + l], bits = curves.raws[t + run + l];
                values[t + run + l] = static_cast<uint8_t>(v & ((1u << bits) - 1));
                x[run + l] = refill(v >> bits, at);
            }
        }
    }
    lanes.at = at;
    std::memcpy(lanes.x, x, sizeof x);
    return t / kLanes;
}
#endif

#ifndef COMPAND_RANS_OWN_NARROW
size_t find_marked(const uint8_t *ids, size_t n, const uint8_t *marked, uint8_t *found) {
    size_t hits = 0;
    for (size_t t = 0; t < n; ++t) {
        if (marked[ids[t]]) found[hits++] = ids[t];
    }
    return hits;
}

size_t decode_narrow(Lanes &lanes, const uint32_t *table, uint8_t *out, size_t groups, Escapes &escapes) {
    uint32_t x[kLanes];
    std::memcpy(x, lanes.x, sizeof x);
    const uint8_t *at = lanes.at;
    size_t g = 0;
    for (; g < groups && lanes.end - at >= 128; ++g, out += kLanes) {
        for (size_t l = 0; l < kLanes; ++l) {
            const uint32_t e = table[x[l] & 0xfff];
            out[l] = static_cast<uint8_t>(e);
            x[l] = refill(advance(x[l], e), at);
        }
        if (escapes.mark >= 0) patch(out, escapes);
        if (escapes.missing) break;
    }
    lanes.at = at;
    std::memcpy(lanes.x, x, sizeof x);
    return g;
}
#endif

#ifndef COMPAND_RANS_OWN_SPREAD
size_t decode_spread(Lanes &lanes, const Spread &model, uint8_t *out, size_t groups, Escapes &escapes) {
    return decode_narrow(lanes, model.table.data(), out, groups, escapes);
}
#endif

#ifndef COMPAND_RANS_OWN_SMALL
size_t decode_small(Lanes &lanes, const Small &model, uint8_t *out, size_t groups, Escapes &escapes) {
    uint32_t x[kLanes];
    std::memcpy(x, lanes.x, sizeof x);
    const uint8_t *at = lanes.at;
    const uint32_t mask = (1u << model.p) - 1;
    size_t g = 0;
    for (; g < groups && lanes.end - at >= 128; ++g, out += kLanes) {
        for (size_t l = 0; l < kLanes; ++l) {
            const uint32_t slot = x[l] & mask;
            uint32_t s = 0;
            for (int j = 1; j < 16; ++j) s += slot >= model.bounds[j];
            const uint32_t e = model.entry[s];
            out[l] = model.id[s];
            x[l] = refill((e >> 16) * (x[l] >> model.p) + slot - (e & 0xffff), at);
        }
        if (escapes.mark >= 0) patch(out, escapes);
        if (escapes.missing) break;
    }
    lanes.at = at;
    std::memcpy(lanes.x, x, sizeof x);
    return g;
}
#endif

#ifndef COMPAND_RANS_OWN_LARGE
size_t decode_large(Lanes &lanes, const uint32_t *table, const uint32_t *info, const uint16_t *ids, uint16_t *out,
                    size_t groups) {
    uint32_t x[kLanes];
    std::memcpy(x, lanes.x, sizeof x);
    const uint8_t *at = lanes.at;
    size_t g = 0;
    for (; g < groups && lanes.end - at >= 256; ++g, out += kLanes) {
        for (size_t run = 0; run < kLanes; run += kRun) {
            uint32_t i[kRun];
            for (size_t l = 0; l < kRun; ++l) {
                const uint32_t e = table[x[run + l] & 0xfff];
                i[l] = info[e & 0xff];
                x[run + l] = refill(advance(x[run + l], e), at);
            }
            for (size_t l = 0; l < kRun; ++l) {
                const uint32_t s = x[run + l], bits = i[l] & 31;
                out[run + l] = ids[(i[l] >> 5) + (s & ((1u << bits) - 1))];
                x[run + l] = refill(s >> bits, at);
            }
        }
    }
    lanes.at = at;
    std::memcpy(lanes.x, x, sizeof x);
    return g;
}
#endif

#ifndef COMPAND_RANS_OWN_ORDER1
size_t decode_order1(Lanes &lanes, const uint32_t *tables, const uint32_t *which, uint8_t *out, size_t stride, size_t from,
                     size_t groups) {
    uint32_t x[kLanes], own[kLanes];
    std::memcpy(x, lanes.x, sizeof x);
    for (size_t l = 0; l < kLanes; ++l) own[l] = which[from ? out[l * stride + from - 1] : 0];
    const uint8_t *at = lanes.at;
    size_t g = 0;
    for (; g < groups && lanes.end - at >= 128; ++g) {
        for (size_t l = 0; l < kLanes; ++l) {
            const uint32_t e = tables[own[l] << kNarrowBits | (x[l] & 0xfff)];
            out[l * stride + from + g] = static_cast<uint8_t>(e);
            own[l] = which[e & 0xff];
            x[l] = refill(advance(x[l], e), at);
        }
    }
    lanes.at = at;
    std::memcpy(lanes.x, x, sizeof x);
    return g;
}

size_t decode_contexts(Lanes &lanes, const uint32_t *tables, const uint8_t *which, uint8_t *out, size_t groups) {
    uint32_t x[kLanes];
    std::memcpy(x, lanes.x, sizeof x);
    const uint8_t *at = lanes.at;
    size_t g = 0;
    for (; g < groups && lanes.end - at >= 128; ++g, out += kLanes, which += kLanes) {
        for (size_t l = 0; l < kLanes; ++l) {
            const uint32_t e = tables[static_cast<uint32_t>(which[l]) << kNarrowBits | (x[l] & 0xfff)];
            out[l] = static_cast<uint8_t>(e);
            x[l] = refill(advance(x[l], e), at);
        }
    }
    lanes.at = at;
    std::memcpy(lanes.x, x, sizeof x);
    return g;
}
#endif

}  // namespace compand::rans::COMPAND_RANS_ISA

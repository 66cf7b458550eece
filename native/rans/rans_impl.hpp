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
#endif

#ifndef COMPAND_RANS_OWN_NARROW
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

#include "parametric.hpp"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <memory>
#include <mutex>

#include "blocks.hpp"
#include "lanes.hpp"
#include "model.hpp"

namespace compand::rans {
namespace {

#include "curves.inc"

constexpr int kBits = 14, kFractions = 16, kReach = 120;
constexpr size_t kBlock = size_t{1} << 20;

// Symbol s of a curve is bin s - kReach; those outside its first..last bins have no slots. The last symbol is the escape.
constexpr uint32_t kEscape = 2 * kReach + 2;
struct Curve {
    uint8_t at[64];         // symbol at slots 256 i
    uint16_t start[kEscape + 2];
};

struct CurveSet {
    Curve of[kBaseScales][kFractions];
};

// 2^32 (1 - F(z)) at z = v / 2^16, v >= 0, by linear interpolation.
uint64_t tail(int family, uint64_t v) {
    static const uint32_t *const tables[] = {k_gaussian, k_laplace, k_logistic};
    static const size_t lengths[] = {std::size(k_gaussian), std::size(k_laplace), std::size(k_logistic)};
    const uint64_t i = v >> 9, part = v & 511;  // 128 entries a unit
    if (i + 1 >= lengths[family]) return 0;
    const uint64_t a = tables[family][i], b = tables[family][i + 1];
    return (a * (512 - part) + b * part) >> 9;
}

// 2^32 F at (edge / 32) scale units, edge in 1/32 of a bin.
uint64_t below(int family, int scale, int64_t edge) {
    const uint64_t z = (static_cast<uint64_t>(edge < 0 ? -edge : edge) * k_inverse_scale[scale]) >> 21;  // 5 + 16 bits
    const uint64_t t = tail(family, z);
    return edge < 0 ? t : (uint64_t{1} << 32) - t;
}

void make(Curve &c, int family, int scale, int fraction) {
    Counts counts(2 * kReach + 2);
    uint64_t inside = 0;
    size_t from = counts.size(), to = 0;
    for (int d = -kReach; d <= kReach + 1; ++d) {
        const int64_t left = 32 * d - 16 - 2 * fraction;
        const uint64_t mass = below(family, scale, left + 32) - below(family, scale, left);
        const auto s = static_cast<size_t>(d + kReach);
        counts[s] = mass;
        if (mass >> (32 - kBits - 1)) {  // at least half a slot
            from = std::min(from, s);
            to = s + 1;
        }
    }
    Counts kept(counts.begin() + static_cast<ptrdiff_t>(from), counts.begin() + static_cast<ptrdiff_t>(to));
    for (uint64_t &v : kept) {
        v = std::max<uint64_t>(v, 1);
        inside += v;
    }
    const uint64_t whole = uint64_t{1} << 32;
    kept.push_back(std::max<uint64_t>(whole > inside ? whole - inside : 0, 1));
    const Frequencies f = normalise(kept, kBits);
    uint32_t start = 0;
    for (size_t s = 0; s < std::size(c.start); ++s) {
        c.start[s] = static_cast<uint16_t>(start);
        if (s == kEscape) start += f.back();
        else if (s >= from && s < to) start += f[s - from];
    }
    size_t s = 0;
    for (uint32_t i = 0; i < 64; ++i) {
        while (c.start[s + 1] <= i << (kBits - 6)) ++s;
        c.at[i] = static_cast<uint8_t>(s);
    }
}

const CurveSet &curves(int family) {
    static std::once_flag once[kFamilies];
    static CurveSet *made[kFamilies];
    std::call_once(once[family], [&] {
        made[family] = new CurveSet;
        parallel_for(kBaseScales * kFractions, [&](size_t i) {
            make(made[family]->of[i / kFractions][i % kFractions], family, static_cast<int>(i / kFractions), static_cast<int>(i % kFractions));
        });
    });
    return *made[family];
}

// Where a mean and a scale lead: the curve, the raw bits, and the bin of the curve's 0.
struct Place {
    const Curve *curve;
    int bits;
    int64_t base;
};

inline Place place(const CurveSet &all, int32_t mean, uint8_t scale) {
    const int i = scale & (kScales - 1), j = raw_bits(i);
    const int64_t m = (static_cast<int64_t>(mean) - 8 * ((1 << j) - 1) + ((1 << j) >> 1)) >> j;
    return {&all.of[i - 6 * j][m & 15], j, m >> 4};
}

inline uint32_t symbol(const Curve &c, uint32_t slot) {
    uint32_t s = c.at[slot >> (kBits - 6)];
    s += slot >= c.start[s + 1];
    s += slot >= c.start[s + 1];
    while (slot >= c.start[s + 1]) ++s;
    return s;
}

}  // namespace

int curves_version() { return kCurvesVersion; }

std::vector<int32_t> curve(int family, int scale, int fraction) {
    const Place p = place(curves(family), fraction, static_cast<uint8_t>(scale));
    uint32_t s = 0;
    while (!p.curve->start[s + 1]) ++s;
    std::vector<int32_t> out{static_cast<int32_t>(s) - kReach};
    for (; s <= kEscape; ++s) {
        if (p.curve->start[s + 1] > p.curve->start[s]) out.push_back(p.curve->start[s + 1] - p.curve->start[s]);
    }
    return out;
}

void encode_parametric(const int32_t *x, const int32_t *mean, const uint8_t *scale, size_t n, int family, Bytes &out) {
    out.clear();
    if (!n) return;
    const CurveSet &all = curves(family);
    const size_t count = (n - 1) / kBlock + 1;
    Coded coded(count);
    std::vector<Bytes> escapes(count);
    const bool raws = std::any_of(scale, scale + n, [](uint8_t s) { return (s & (kScales - 1)) >= kBaseScales; });
    each_block(n, kBlock, [&](size_t b, size_t first, size_t own) {
        const auto code = [&](size_t t, uint32_t &step, uint32_t &raw) -> int64_t {  // the distance if it must escape
            const Place p = place(all, mean[first + t], scale[first + t]);
            const int64_t d = (static_cast<int64_t>(x[first + t]) >> p.bits) - p.base, s = d + kReach;
            const bool escape = s < 0 || s >= kEscape || p.curve->start[s] == p.curve->start[s + 1];
            const uint32_t u = escape ? kEscape : static_cast<uint32_t>(s);
            step = static_cast<uint32_t>(p.curve->start[u + 1] - p.curve->start[u] - 1) << 16 | p.curve->start[u];
            raw = static_cast<uint32_t>(p.bits) << 16 | (static_cast<uint32_t>(x[first + t]) & ((1u << p.bits) - 1));
            return escape ? d : INT64_MIN;
        };
        const Fill fill = [&](size_t t0, size_t k, size_t, uint32_t *steps, uint32_t *to) {
            uint32_t unused;
            for (size_t i = 0; i < k; ++i) code(t0 + i, steps[i], raws ? to[i] : unused);
        };
        write_lanes(fill, own, kBits, raws, wide_lanes(own, static_cast<double>(own)), coded[b]);
        for (size_t t = 0; t < own; ++t) {
            uint32_t step, raw;
            const int64_t d = code(t, step, raw);
            if (d != INT64_MIN) put_varint(escapes[b], static_cast<uint64_t>(d) << 1 ^ static_cast<uint64_t>(d >> 63));
        }
    });
    out.push_back(static_cast<uint8_t>(kCurvesVersion));
    out.push_back(static_cast<uint8_t>(family));
    put_varint(out, n);
    Bytes joined;
    for (const Bytes &e : escapes) joined.insert(joined.end(), e.begin(), e.end());
    put_sized(out, joined);
    put_blocks(out, kBlock, coded, &escapes);
}

bool decode_parametric(const uint8_t *data, size_t size, int32_t *x, const int32_t *mean, const uint8_t *scale, size_t n, int family) {
    if (!n) return size == 0;
    Reader in(data, size);
    const bool known = in.get<uint8_t>() == kCurvesVersion && in.get<uint8_t>() == family;
    if (!known || in.varint() != n) return false;
    size_t escape_size = 0, block = 0;
    const uint8_t *escape_bytes = take_sized(in, escape_size);
    std::vector<Block> blocks;
    // escapes are counted in bytes: at most 5 for each of n symbols
    if (!in.ok() || !take_blocks(in, n, true, block, blocks, 5)) return false;
    if (blocks.back().escape_from + blocks.back().escapes != escape_size || (n > kBlock && block != kBlock)) return false;
    const CurveSet &all = curves(family);
    const bool raws = std::any_of(scale, scale + n, [](uint8_t s) { return (s & (kScales - 1)) >= kBaseScales; });
    std::atomic<bool> good{true};
    each_block(n, block, [&](size_t b, size_t first, size_t own) {
        LaneReader lanes;
        Reader escapes(escape_bytes + blocks[b].escape_from, blocks[b].escapes);
        bool ok = lanes.open(blocks[b].data, blocks[b].size, own);
        int32_t *const to = x + first;
        const int32_t *const means = mean + first;
        const uint8_t *const scales = scale + first;
        const auto escaped = [&](const Place &p, uint32_t raw) -> int32_t {
            const uint64_t z = escapes.varint();
            ok = ok && escapes.ok() && !(z >> 34);
            const int64_t d = ok ? static_cast<int64_t>(z >> 1) ^ -static_cast<int64_t>(z & 1) : 0;
            const int64_t value = (p.base + d) * (int64_t{1} << p.bits) + raw;
            ok = ok && value == static_cast<int32_t>(value);
            return static_cast<int32_t>(value);
        };
        ok = ok && lanes.groups(raws ? 256 : 128, [&](Lanes &l, size_t from, size_t groups) {
            constexpr size_t kPart = 64;  // groups: what the kernels keep of each value stays in cache
            uint32_t where[kPart * kLanes];
            int32_t base[kPart * kLanes];
            uint8_t bits[kPart * kLanes], symbols[kPart * kLanes], values[kPart * kLanes];
            const Curves kernel{reinterpret_cast<const uint8_t *>(&all.of[0][0]), offsetof(Curve, at), offsetof(Curve, start), where,
                                raws ? bits : nullptr};
            size_t did = 0;
            while (did < groups && ok) {
                const size_t part = std::min(kPart, groups - did), t0 = (from + did) * kLanes;
                COMPAND_DISPATCH(place_values, means + t0, scales + t0, part * kLanes, sizeof(Curve), raws, where, bits, base);
                const size_t got = COMPAND_DISPATCH(decode_curves, l, kernel, symbols, values, part), count = got * kLanes;
                COMPAND_DISPATCH(join_values, base, symbols, kReach, raws ? bits : nullptr, values, count, to + t0);
                const auto *at = static_cast<const uint8_t *>(std::memchr(symbols, kEscape, count));
                while (at && ok) {
                    const auto i = static_cast<size_t>(at - symbols);
                    to[t0 + i] = escaped(place(all, means[t0 + i], scales[t0 + i]), raws ? values[i] : 0);
                    at = static_cast<const uint8_t *>(std::memchr(at + 1, kEscape, count - i - 1));
                }
                did += got;
                if (got < part) break;
            }
            return did;
        });
        for (; ok && lanes.more(); lanes.next()) {
            const size_t t = lanes.done();
            const Place p = place(all, means[t], scales[t]);
            const uint32_t v = lanes.state(), slot = v & ((1u << kBits) - 1), s = symbol(*p.curve, slot);
            lanes.advance((p.curve->start[s + 1] - p.curve->start[s]) * (v >> kBits) + slot - p.curve->start[s]);
            uint32_t raw = 0;
            if (raws) {
                raw = lanes.state() & ((1u << p.bits) - 1);
                lanes.advance(lanes.state() >> p.bits);
            }
            to[t] = s == kEscape ? escaped(p, raw)
                                 : static_cast<int32_t>((p.base + s - kReach) * (int64_t{1} << p.bits) + raw);
        }
        if (!ok || !lanes.finish() || !escapes.ok() || escapes.left()) good.store(false, std::memory_order_relaxed);
    });
    return good;
}

}  // namespace compand::rans

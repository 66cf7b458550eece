// A column of float32 as whole numbers, and what is needed to get the bits back.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "rans/bits.hpp"

namespace compand::neighbours {

using rans::bit_length;
using rans::Bytes;

enum Kind : uint8_t { kTails, kGrid, kTable };
constexpr int kLeastTop = 25;            // so that what is not normal lies in the first step
constexpr int32_t kOutside = 1 << 24;    // where values beyond the greatest exponent count as lying

inline int exponent(uint32_t word) { return static_cast<int>(word >> 23 & 255); }

// Steps of 2^(top - 150) below |x|, -1 - that if the sign is set; `top` is the greatest exponent that is not outside.
inline int32_t floor_of(uint32_t word, int top) {
    const int e = exponent(word), down = top - e;
    const int32_t b = down < 0 ? kOutside : e == 0 || down > 23 ? 0 : static_cast<int32_t>(((word & 0x7fffff) | 0x800000) >> down);
    return word >> 31 ? -1 - b : b;
}

// Bits in the order of the numbers.
inline uint32_t ordered(uint32_t word) { return word >> 31 ? ~word : word | 0x80000000u; }
inline uint32_t unordered(uint32_t rank) { return rank >> 31 ? rank & 0x7fffffffu : ~rank; }

struct Column {
    Kind kind = kTails;
    int top = kLeastTop;                 // tails: greatest exponent; grid: the step is 2^(top - 150)
    std::vector<uint32_t> table;         // ascending, as `ordered`
    std::vector<int16_t> back;           // weights of what the columns before were off, in 2^(shift - 12)
    int shift = 0;

    int32_t value(uint32_t word) const {
        if (kind == kTails) return floor_of(word, top);
        if (kind == kTable) return static_cast<int32_t>(std::lower_bound(table.begin(), table.end(), ordered(word)) - table.begin());
        if (!(word & 0x7fffffff)) return 0;
        const int up = exponent(word) - top;
        const int64_t m = (word & 0x7fffff) | 0x800000, b = up < 0 ? m >> std::min(-up, 31) : m << std::min(up, 28);
        return static_cast<int32_t>(word >> 31 ? -b : b);
    }
    // The bits of the v-th step of a grid or value of a table, whatever v is.
    uint32_t word(int32_t v) const {
        if (kind == kTable) return unordered(table[static_cast<size_t>(std::clamp<int32_t>(v, 0, static_cast<int32_t>(table.size()) - 1))]);
        if (!v) return 0;
        const uint32_t sign = v < 0 ? 0x80000000u : 0, m = v < 0 ? 0u - static_cast<uint32_t>(v) : static_cast<uint32_t>(v);
        const int up = bit_length(m) - 24, e = top + up;
        return e < 1 || e > 254 ? sign : sign | static_cast<uint32_t>(e) << 23 | ((up < 0 ? m << -up : m >> up) & 0x7fffff);
    }
};

// The greatest exponent but for a few values.
inline int greatest(const uint32_t *words, size_t n, size_t d) {
    size_t count[256] = {}, outside = 0;
    for (size_t i = 0; i < n; ++i) ++count[exponent(words[i * d])];
    int top = 254;
    while (top > kLeastTop && (outside += count[top]) <= n / 1024) --top;
    return std::max(top, kLeastTop);
}

// How a column of n words, `d` apart, is written with the fewest bits.
inline Column column_of(const uint32_t *words, size_t n, size_t d) {
    Column c;
    std::vector<uint32_t> ranks(n);
    int low = 999, most = 0;  // exponents of the lowest set bit and of the greatest value
    bool plain = true;
    for (size_t i = 0; i < n; ++i) {
        const uint32_t w = words[i * d];
        ranks[i] = ordered(w);
        const int e = exponent(w);
        if (e == 255 || w == 0x80000000u || (e == 0 && w)) plain = false;
        else if (w) low = std::min(low, e + __builtin_ctz((w & 0x7fffff) | 0x800000)), most = std::max(most, e);
    }
    c.top = greatest(words, n, d);
    std::sort(ranks.begin(), ranks.end());
    ranks.erase(std::unique(ranks.begin(), ranks.end()), ranks.end());
    if (ranks.size() <= n / 8 && ranks.size() <= 65536) {
        c.kind = kTable;
        c.table = std::move(ranks);
    } else if (plain && low <= 254 && most + 24 - low <= 27) {
        c.kind = kGrid;
        c.top = low;
    }
    return c;
}

inline void write(const Column &c, Bytes &out) {
    out.push_back(c.kind);
    out.push_back(static_cast<uint8_t>(c.top));
    if (c.kind == kTable) {
        rans::put_varint(out, c.table.size());
        for (size_t i = 0; i < c.table.size(); ++i) rans::put_varint(out, c.table[i] - (i ? c.table[i - 1] : 0));
    }
    size_t used = c.back.size();
    while (used > 0 && !c.back[used - 1]) --used;
    out.push_back(static_cast<uint8_t>(c.shift));
    out.push_back(static_cast<uint8_t>(used));
    for (size_t k = 0; k < used; ++k) {
        const int w = c.back[k];
        rans::put_varint(out, static_cast<uint16_t>(w < 0 ? -2 * w - 1 : 2 * w));
    }
}

// false if the column is damaged; `back`: how many weights it may have
inline bool read(Reader &in, Column &c, size_t back) {
    const uint8_t kind = in.get<uint8_t>();
    c.kind = static_cast<Kind>(kind);
    c.top = in.get<uint8_t>();
    if (kind > kTable || (kind == kTails && (c.top < kLeastTop || c.top > 254))) return false;
    if (kind == kTable) {
        const uint64_t size = in.varint();
        if (size < 1 || size > 65536 || size > in.left()) return false;
        uint64_t at = 0;
        for (uint64_t i = 0; i < size; ++i) {
            at += in.varint() & 0xffffffffu;
            if (at > 0xffffffffu) return false;
            c.table.push_back(static_cast<uint32_t>(at));
        }
    }
    c.shift = in.get<uint8_t>();
    const size_t used = in.get<uint8_t>();
    if (c.shift > 31 || used > back) return false;
    for (size_t k = 0; k < used; ++k) {
        const uint64_t z = in.varint();
        if (z > 65535) return false;
        c.back.push_back(static_cast<int16_t>(z & 1 ? -static_cast<int32_t>(z / 2) - 1 : static_cast<int32_t>(z / 2)));
    }
    return in.ok();
}

}  // namespace compand::neighbours

// Sixteen sums, by plain integers: what the other levels are held to.
constexpr size_t kBlocks = 1;  // of channels that a tile has
template <size_t blocks> constexpr size_t kTile = 1;  // pixels of it

struct Sums {
    uint32_t lane[kWide];  // modulo 2^32
};
struct Quads {
    uint8_t byte[kWide][kQuad];
};
using Weights = const int8_t *;

inline Weights weights(const int8_t *w) { return w; }
inline Sums start(const int32_t *from) {
    Sums s;
    for (size_t i = 0; i < kWide; ++i) s.lane[i] = static_cast<uint32_t>(from[i]);
    return s;
}
inline Quads same(const uint8_t *x) {  // four bytes for all channels
    Quads q;
    for (auto &one : q.byte) std::memcpy(one, x, kQuad);
    return q;
}
inline Quads across(const uint8_t *x) {  // four pixels of 16 channels: the four of each channel
    Quads q;
    for (size_t i = 0; i < kWide; ++i)
        for (size_t j = 0; j < kQuad; ++j) q.byte[i][j] = x[j * kWide + i];
    return q;
}
inline void dot(Sums &s, const Quads &x, Weights w) {
    for (size_t i = 0; i < kWide; ++i)
        for (size_t j = 0; j < kQuad; ++j) s.lane[i] += static_cast<uint32_t>(x.byte[i][j] * w[i * kQuad + j]);
}

struct Rescaled {
    const Step &step;
    int64_t low, high;
    Rescaled(const Step &own, const Out &out) : step(own), low(out.low), high(out.high) {}
    int64_t at(const Sums &s, size_t i) const {
        const int64_t half = (int64_t{1} << step.shift[i]) >> 1;
        const int64_t y = (static_cast<int32_t>(s.lane[i]) * int64_t{step.multiplier[i]} + half) >> step.shift[i];
        return std::clamp(y, low, high);
    }
    void put(const Sums &s, uint8_t *to) const {
        for (size_t i = 0; i < kWide; ++i) to[i] = static_cast<uint8_t>(at(s, i) - low);
    }
    void put(const Sums &s, int32_t *to) const {
        for (size_t i = 0; i < kWide; ++i) to[i] = static_cast<int32_t>(at(s, i));
    }
};

struct Pair {  // (a · m + b · n + half) >> shift
    Term a, b;
    int shift;
    int64_t low, high;
    Pair(const Term &one, const Term &two, int bits, const Out &out) : a(one), b(two), shift(bits), low(out.low), high(out.high) {}
    static int64_t value(const Term &t, size_t i) { return int64_t{t.bytes ? t.bytes[i] + t.low : t.words[i]} * t.multiplier; }
    int64_t at(size_t i) const {
        return std::clamp((value(a, i) + value(b, i) + ((int64_t{1} << shift) >> 1)) >> shift, low, high);
    }
    void put(size_t from, uint8_t *to) const {
        for (size_t i = 0; i < kWide; ++i) to[i] = static_cast<uint8_t>(at(from + i) - low);
    }
    void put(size_t from, int32_t *to) const {
        for (size_t i = 0; i < kWide; ++i) to[i] = static_cast<int32_t>(at(from + i));
    }
};

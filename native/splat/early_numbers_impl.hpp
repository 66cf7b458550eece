// The first two formats, which are only read: numbers by nibbles, all symbols of two mixed distributions; in the first, steps of
// positions and directions are powers of two.

// Numbers of up to 4 * nibbles bits below `foretold`, by nibbles from the top. The first nibble knows the general context
// and what was foretold; each later one the nibble above, and how far what was foretold lies from it.
class Number {
public:
    Number(int nibbles, size_t general) : nibbles_(nibbles) {
        slots_.reserve(static_cast<size_t>(nibbles));
        for (int i = 0; i < nibbles; ++i) slots_.emplace_back(i == 0 ? general : 16 * general, 4 * (i == 0 ? 64 : 16 * 20));
    }
    // spread: 0 to 3, how far apart those are from which it was foretold
    uint32_t read(SymbolReader &coder, uint32_t foretold, size_t general, size_t spread = 0) {
        uint32_t done = 0;
        for (int i = 0; i < nibbles_; ++i) {
            const int low = 4 * (nibbles_ - 1 - i);
            size_t a, b;
            if (i == 0) {
                a = general;
                b = (low >= 2 ? foretold >> (low - 2) & 63 : foretold >> low & 15) * 4 + spread;
            } else {
                // distance in units of this nibble's steps, from the start of what is left, in [-2, 17]
                const int32_t gap = static_cast<int32_t>(foretold >> low) - static_cast<int32_t>(done << 4);
                a = general * 16 + (done & 15);
                b = ((done & 15) * 20 + static_cast<size_t>((gap < -2 ? -2 : gap > 17 ? 17 : gap) + 2)) * 4 + spread;
            }
            done = done << 4 | coder.symbol(0, slots_[static_cast<size_t>(i)], {a, b});
        }
        return done;
    }

private:
    int nibbles_;
    std::vector<Slot> slots_;
};

// What one surprise tells of the next: the slope of one against the other, and their usual size; learnt from those before.
class Surprise {
public:
    int32_t expect(int32_t x) const {  // no scene comes near the bounds, which keep sums of two in 32 bits
        return static_cast<int32_t>(std::clamp<int64_t>(xy_ * clip(x) / xx_, -(1 << 24), 1 << 24));
    }
    void learn(int32_t x, int32_t y) {
        xy_ += clip(x) * clip(y) - xy_ / 256;
        xx_ += clip(x) * clip(x) - xx_ / 256;
        if (xx_ < 16) xx_ = 16;
    }
    size_t bucket(int32_t x) const {  // 0 to 15, in halves of the usual size
        const int64_t at = 2 * clip(x) * 256 / size_ + 8;
        return static_cast<size_t>(at < 0 ? 0 : at > 15 ? 15 : at);
    }
    void seen(int32_t x) { size_ += ((clip(x) < 0 ? -clip(x) : clip(x)) * 256 - size_) / 64 + (size_ < 128); }

private:
    static int64_t clip(int32_t x) { return x < -32768 ? -32768 : x > 32767 ? 32767 : x; }
    int64_t xy_ = 0, xx_ = 1024, size_ = 1024;
};

// A column of integers: its range first.
struct Column {
    int32_t low = 0;
    int nibbles = 1;
    void range(SymbolReader &coder) {
        low = static_cast<int32_t>(coder.raw(0, 32));
        nibbles = static_cast<int>(coder.raw(0, 4));
    }
    uint32_t offset(int32_t v) const {
        const int64_t most = (int64_t{1} << 4 * nibbles) - 1;
        return static_cast<uint32_t>(std::clamp<int64_t>(static_cast<int64_t>(v) - low, 0, most));
    }
    int32_t value(uint32_t v) const { return static_cast<int32_t>(std::clamp<int64_t>(int64_t{low} + v, -(1 << 28), 1 << 28)); }
    bool bad() const { return nibbles > 7; }
};

// Of rows near i: what they say, and how far apart they are in units, 0 to 3.
inline int32_t foretell(const Block &b, const int32_t *v, size_t i) {
    if (i == 0) return 0;
    const uint32_t *at = b.near.data() + kNear * i;
    return static_cast<int32_t>((5 * int64_t{v[at[0]]} + 4 * int64_t{v[at[1]]} + 4 * int64_t{v[at[2]]} + 3 * int64_t{v[at[3]]} + 8) >> 4);
}

inline size_t spread(const Block &b, const int32_t *v, size_t i, int32_t unit) {
    const uint32_t *at = b.near.data() + kNear * i;
    int64_t least = v[at[0]], most = least;
    for (size_t k = 1; k < kNear; ++k) least = std::min<int64_t>(least, v[at[k]]), most = std::max<int64_t>(most, v[at[k]]);
    const int64_t wide = most - least;
    return wide <= unit * int64_t{2} ? 0 : wide <= unit * int64_t{6} ? 1 : wide <= unit * int64_t{16} ? 2 : 3;
}

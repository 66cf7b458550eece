// Integers as what is left of them after foretelling: one symbol of 16 for how far off, in units that follow from how far off
// such numbers usually are, and the bits below the unit as they are.

// What one surprise tells of the next: the slope of one against the other, and their usual size; learnt from those before.
class Trend {
public:
    int32_t expect(int32_t x) const { return clip(x) * slope_ >> 8; }
    void learn(int32_t x, int32_t y) {  // of every fourth
        if (++times_ & 3) return;
        const int64_t a = clip(x), b = clip(y);
        xy_ += a * b - (xy_ >> 7);
        xx_ += a * a - (xx_ >> 7);
        if ((times_ & 15) == 0) slope_ = static_cast<int32_t>(std::clamp<int64_t>(xy_ * 256 / (xx_ < 16 ? 16 : xx_), -(1 << 14), 1 << 14));
    }

private:
    static int32_t clip(int32_t x) { return std::clamp(x, -32768, 32767); }
    int64_t xy_ = 0, xx_ = 1024;
    int32_t slope_ = 0;
    uint32_t times_ = 0;
};

constexpr size_t kClasses = 32;

inline size_t half_octave(int32_t v) {  // 0: 0 or less, 1: 1, 2: 2, 3: 3, 4: 4-5, 5: 6-7, 6: 8-11 ...
    if (v < 2) return v == 1;
    const int top = 31 - __builtin_clz(static_cast<uint32_t>(v));
    return std::min<size_t>(static_cast<size_t>(2 * top + (v >> (top - 1) & 1)), kClasses - 1);
}

class Residual {
public:
    struct Aim {  // one number on its way
        int32_t foretold;
        size_t level;  // how far apart those are from which it was foretold
        size_t about;  // what else is known, 0 to 15
        size_t zone;   // about where it is, 0 to 31
        uint32_t low = 0;  // its lowest bit, if that is known
    };

    explicit Residual(int known) : known_(known) {  // how many low bits of a number are known: 0 or 1
        for (size_t c = 0; c < kClasses; ++c) usual_[c] = 64 << (c + 1) / 2, adapt(c);
    }
    template <class Coder> int32_t code(Coder &coder, int32_t v, const Aim &aim) {
        const size_t c = aim.level;
        const int k = shift_[c];
        const auto low = static_cast<int32_t>(aim.low);
        const int32_t foretold = (aim.foretold - low + known_) >> known_;
        int32_t r = Coder::writes ? ((v - low) >> known_) - foretold + (1 << k >> 1) : 0, at = r >> k;
        const uint32_t s = coder.symbol(Coder::writes ? symbol_of(at) : 0, near_, {aim.about, c * 32 + aim.zone});
        at = static_cast<int32_t>(s) - kReach;
        if (s == kFar) [[unlikely]] at = std::clamp(far(coder, r >> k), -(1 << 28 >> k), 1 << 28 >> k);
        r = at * (1 << k) + static_cast<int32_t>(coder.raw(static_cast<uint32_t>(r), k)) - (1 << k >> 1);
        usual_[c] += (256 * std::min(std::abs(r), 1 << 20) - usual_[c]) >> pace_[c];
        if ((++times_[c] & 7) == 0) [[unlikely]] adapt(c);
        return (foretold + r) * (1 << known_) + low;
    }

private:
    static constexpr int32_t kReach = 7;
    static constexpr uint32_t kFar = 2 * kReach + 1;
    static uint32_t symbol_of(int32_t at) { return at < -kReach || at > kReach ? kFar : static_cast<uint32_t>(at + kReach); }
    // Units beyond the reach: how many bits their number has (15: 28 follow), these, and the sign.
    template <class Coder> [[gnu::noinline]] int32_t far(Coder &coder, int32_t at) {
        const auto rest = static_cast<uint32_t>(at < 0 ? -at : at);
        const uint32_t size = coder.symbol(Coder::writes ? static_cast<uint32_t>(std::min(rans::bit_length(rest) - 4, 15)) : 0, far_, 0);
        const int bits = size < 15 ? static_cast<int>(size) + 3 : 28;
        const auto whole = static_cast<int32_t>(coder.raw(rest, bits) | (size < 15 ? 1u << bits : 0));
        return coder.raw(at < 0, 1) ? -whole : whole;
    }
    void adapt(size_t c) {  // units of 0.4 to 0.9 of what is usual
        int8_t &k = shift_[c];
        const int64_t usual = usual_[c];
        while (k > 0 && (int64_t{10 * 256} << k) > 9 * usual) --k;
        while (k < 12 && (int64_t{10 * 256} << k) < 4 * usual) ++k;
        pace_[c] = static_cast<uint8_t>(std::min(3 + rans::bit_length(times_[c] >> 3), 8));
    }

    Blend near_{16, kClasses * 32, {{8000, 20000, 30000, 40000, 50000, 52000}}};
    Models far_{1, 16};
    int known_;
    int32_t usual_[kClasses];  // 256 times the mean size
    uint32_t times_[kClasses] = {};
    uint8_t pace_[kClasses] = {};
    int8_t shift_[kClasses] = {};
};

// A size beside the usual one: 0 to 15.
class Gauge {
public:
    size_t bucket(int32_t x) {
        const int32_t clipped = std::clamp(x, -32768, 32767);
        const int32_t at = (clipped * inverse_ >> 12) + 8;
        size_ += ((clipped < 0 ? -clipped : clipped) * 256 - size_) / 64 + (size_ < 128);
        if ((++times_ & 15) == 0) inverse_ = std::clamp((1 << 21) / size_, 1, 1 << 14);
        return static_cast<size_t>(std::clamp(at, 0, 15));
    }

private:
    int32_t size_ = 1024, inverse_ = 1 << 11;
    uint32_t times_ = 0;
};

// Levels below 4096, nibble by nibble from the top: for numbers of which some are much more usual than those beside them.
class Levels {
public:
    struct Aim {
        int32_t foretold;
        size_t about, apart;  // what else is known, 0 to 15; how far apart those are from which it was foretold, 0 to 3
    };

    explicit Levels(int levels) : nibbles_((rans::bit_length(static_cast<uint32_t>(levels - 1)) + 3) / 4) {
        for (int i = 0; i < nibbles_; ++i) models_.emplace_back(i == 0 ? 16 : 256, i == 0 ? 256 : 16 * 20 * 4, i == 0 ? Shares{{8000, 34000, 50000, 55000, 58000, 58000}} : Shares{{8000, 3000, 8000, 18000, 22000, 42000}});
    }
    template <class Coder> int32_t code(Coder &coder, int32_t v, const Aim &aim) {
        int32_t done = 0;
        for (int i = 0; i < nibbles_; ++i) {
            done = done << 4 | static_cast<int32_t>(coder.symbol(static_cast<uint32_t>(v >> low(i) & 15), models_[static_cast<size_t>(i)], where(aim, done, i)));
        }
        return done;
    }

private:
    int low(int i) const { return 4 * (nibbles_ - 1 - i); }
    // The first nibble knows where the level is foretold, in quarters; each later one the nibble above, and how far from it that is.
    Blend::At where(const Aim &aim, int32_t done, int i) const {
        if (i == 0) return {aim.about, static_cast<size_t>((low(0) ? aim.foretold >> (low(0) - 2) : aim.foretold) & 63) * 4 + aim.apart};
        const auto above = static_cast<size_t>(done & 15), gap = static_cast<size_t>(std::clamp((aim.foretold >> low(i)) - (done << 4), -2, 17) + 2);
        return {aim.about * 16 + above, (above * 20 + gap) * 4 + aim.apart};
    }

    int nibbles_;
    std::vector<Blend> models_;
};

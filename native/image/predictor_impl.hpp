// The probability of a bit from several contexts: each looks up what it has seen, logistic mixing weighs them. Integers only.

struct Bases {
    size_t of[kKinds][kInputs];
    constexpr Bases() : of() {
        for (int k = 0; k < kKinds; ++k) {
            for (int i = 0; i < kInputs; ++i) of[k][i] = context_base(k, i);
        }
    }
};
constexpr Bases kBases;

// Contexts of one bit: a place in the table of each input, and the two sets of weights.
struct Contexts {
    Kind kind;
    uint32_t at[kInputs];
    uint32_t first, second;  // below 2^kMixerBits
};

class Predictor {
public:
    Predictor(const State &start, int limit, int speed) : state_(start), curves_(curves()), limit_(limit), speed_(speed) {}

    uint32_t predict(const Contexts &c) {
        for (int i = 0; i < kInputs; ++i) {
            const uint32_t mask = (1u << kContextBits[c.kind][i]) - 1;
            cell_[i] = static_cast<uint32_t>(kBases.of[c.kind][i]) + (c.at[i] & mask);
            input_[i] = curves_.stretch[state_.p[cell_[i]] >> 4];
        }
        input_[kInputs] = 256;
        for (int f = 0; f < 2; ++f) {
            const size_t set = (static_cast<size_t>(2 * c.kind + f) << kMixerBits) + ((f ? c.second : c.first) & ((1u << kMixerBits) - 1));
            int32_t *w = weights_[f] = state_.weights.data() + set * (kInputs + 1);
            int64_t sum = 0;
            for (int i = 0; i <= kInputs; ++i) sum += static_cast<int64_t>(w[i]) * input_[i];
            dot_[f] = static_cast<int32_t>(sum >> 16 < -2047 ? -2047 : sum >> 16 > 2047 ? 2047 : sum >> 16);
        }
        return curves_.squash[((dot_[0] + dot_[1]) >> 1) + 2048];
    }
    void learn(int bit) {
        for (int f = 0; f < 2; ++f) {
            const int32_t error = ((bit << 16) - bit - static_cast<int32_t>(curves_.squash[dot_[f] + 2048])) * speed_ >> 6;
            int32_t *w = weights_[f];
            for (int i = 0; i <= kInputs; ++i) {
                const int32_t to = w[i] + ((input_[i] * error + 0x2000) >> 14);
                w[i] = to < -(1 << 20) ? -(1 << 20) : to > 1 << 20 ? 1 << 20 : to;
            }
        }
        for (int i = 0; i < kInputs; ++i) {
            uint16_t &p = state_.p[cell_[i]];
            uint8_t &n = state_.seen[cell_[i]];
            const int32_t aim = bit ? 65535 - 16 : 16;
            p = static_cast<uint16_t>(p + ((aim - p) * static_cast<int32_t>(curves_.rate[n]) >> 16));
            if (n < limit_) ++n;
        }
    }
    const State &state() const { return state_; }

private:
    State state_;
    const Curves &curves_;
    const int limit_, speed_;
    uint32_t cell_[kInputs];
    int32_t input_[kInputs + 1], dot_[2], *weights_[2];
};

class Writer {
public:
    static constexpr bool writes = true;
    Writer(Predictor &predictor, Bytes &out) : predictor_(predictor), bits_(out) {}
    int bit(int value, const Contexts &c) {
        bits_.put(value, predictor_.predict(c));
        predictor_.learn(value);
        return value;
    }
    uint32_t raw(uint32_t value, int bits) {
        for (int b = bits - 1; b >= 0; --b) bits_.put(static_cast<int>(value >> b & 1), 32768u);
        return value;
    }
    bool bad() const { return false; }
    void finish() { bits_.finish(); }

private:
    Predictor &predictor_;
    rans::BitWriter bits_;
};

class BitSource {
public:
    static constexpr bool writes = false;
    BitSource(Predictor &predictor, const uint8_t *data, size_t size) : predictor_(predictor), bits_(data, size) {}
    int bit(int, const Contexts &c) {
        const int value = bits_.get(predictor_.predict(c));
        predictor_.learn(value);
        return value;
    }
    uint32_t raw(uint32_t, int bits) {
        uint32_t value = 0;
        for (int b = 0; b < bits; ++b) value = value << 1 | static_cast<uint32_t>(bits_.get(32768u));
        return value;
    }
    bool bad() const { return bits_.starved(); }
    bool finish() const { return bits_.ended() && !bits_.starved(); }

private:
    Predictor &predictor_;
    rans::BitReader bits_;
};


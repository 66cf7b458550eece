// Small tools of the rANS streams: a growing byte string, deterministic logarithms, an adaptive binary coder for tables.
#pragma once
#include <cstdint>
#include <cstring>
#include <vector>

#include "checked.hpp"

namespace compand::rans {

using Bytes = std::vector<uint8_t>;

inline void put_varint(Bytes &out, uint64_t value) {
    for (; value >= 128; value >>= 7) out.push_back(static_cast<uint8_t>(value | 128));
    out.push_back(static_cast<uint8_t>(value));
}

inline int bit_length(uint64_t v) { return v ? 64 - __builtin_clzll(v) : 0; }

// log2 by IEEE additions, products and quotients only, so that encoders choose alike on every machine.
inline double exact_log2(uint64_t v) {
    if (v < 2) return 0;
    const int whole = bit_length(v) - 1;
    const double y = static_cast<double>(v) / static_cast<double>(uint64_t{1} << whole), s = (y - 1) / (y + 1), s2 = s * s;
    double sum = 0;
    for (int k = 17; k >= 1; k -= 2) sum = sum * s2 + 1.0 / k;
    return whole + 2 * s * sum * 1.4426950408889634;
}

constexpr size_t kLogs = 4097;
const double *first_logs();  // of 0 to 4096
inline double log2_of(uint64_t v) {
    static const double *const first = first_logs();
    return v < kLogs ? first[v] : exact_log2(v);
}

// Probability that a bit is 1, in 1/65536, learned fast at first.
struct Bit {
    uint16_t p = 32768;
    uint8_t seen = 0;

    void learn(int bit, int limit = 60) {
        const int32_t aim = bit ? 65535 - 16 : 16;
        p = static_cast<uint16_t>(p + (aim - p) * 2 / (2 * seen + 3));
        if (seen < limit) ++seen;
    }
};

// Binary arithmetic coder with 32-bit bounds (carryless, after Mahoney's lpaq; p1 in 1..65535 is the probability of 1).
class BitWriter {
public:
    explicit BitWriter(Bytes &out) : out_(out) {}
    void put(int bit, uint32_t p1) {
        const uint32_t mid = low_ + static_cast<uint32_t>(static_cast<uint64_t>(high_ - low_) * p1 >> 16);
        high_ = bit ? mid : high_;
        low_ = bit ? low_ : mid + 1;
        while (!((low_ ^ high_) >> 24)) {
            out_.push_back(static_cast<uint8_t>(high_ >> 24));
            low_ <<= 8;
            high_ = high_ << 8 | 255;
        }
    }
    void put(int bit, Bit &model) {
        put(bit, model.p);
        model.learn(bit);
    }
    void finish() {  // the reader sees zeros after the end
        if (low_ == 0) return;
        for (int bytes = 1; bytes <= 4; ++bytes) {
            const uint32_t mask = bytes == 4 ? 0 : 0xffffffffu >> 8 * bytes;
            const uint64_t up = (static_cast<uint64_t>(low_) + mask) & ~static_cast<uint64_t>(mask);
            if (up <= high_) {
                for (int b = 0; b < bytes; ++b) out_.push_back(static_cast<uint8_t>(up >> (24 - 8 * b)));
                return;
            }
        }
    }

private:
    Bytes &out_;
    uint32_t low_ = 0, high_ = 0xffffffffu;
};

class BitReader {
public:
    BitReader(const uint8_t *data, size_t size) : at_(data), end_(data + size) {
        for (int b = 0; b < 4; ++b) code_ = code_ << 8 | next();
    }
    int get(uint32_t p1) {
        const uint32_t mid = low_ + static_cast<uint32_t>(static_cast<uint64_t>(high_ - low_) * p1 >> 16);
        const int bit = code_ <= mid;
        high_ = bit ? mid : high_;
        low_ = bit ? low_ : mid + 1;
        while (!((low_ ^ high_) >> 24)) {
            low_ <<= 8;
            high_ = high_ << 8 | 255;
            code_ = code_ << 8 | next();
        }
        return bit;
    }
    int get(Bit &model) {
        const int bit = get(model.p);
        model.learn(bit);
        return bit;
    }
    bool ended() const { return at_ == end_; }
    bool starved() const { return past_ > 4; }  // used more than the zeros a writer may leave out

private:
    uint32_t next() {
        if (at_ < end_) return *at_++;
        ++past_;
        return 0;
    }
    const uint8_t *at_, *end_;
    uint32_t low_ = 0, high_ = 0xffffffffu, code_ = 0;
    size_t past_ = 0;
};

}  // namespace compand::rans

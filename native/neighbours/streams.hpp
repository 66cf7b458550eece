// Adaptive decisions mixed from several contexts, and bits as they are: written and read by the same code.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "rans/bits.hpp"

namespace compand::neighbours {

using rans::Bit;
using rans::Bytes;

// ln(p / (1 - p)) in 1/256 for p in 1/4096, and its inverse in 1/65536; made by integer code.
struct Curves {
    int16_t stretch[4096];
    const uint16_t *squash;  // of v + 2048
    Curves();
};
extern const Curves kCurves;

constexpr size_t kContexts = 6;

// Numbers of five bits, most significant first; each bit's probability is mixed from what kContexts tables know of it.
class Tree {
public:
    explicit Tree(const size_t (&sizes)[kContexts]) {
        for (size_t i = 0; i < kContexts; ++i) tables_[i].resize(32 * sizes[i]);
        weights_.assign(32 * (kContexts + 1), (1 << 16) / 3);
    }
    template <class Coder> int code(Coder &coder, int value, const size_t (&contexts)[kContexts]) {
        uint32_t node = 1;
        for (int depth = 4; depth >= 0; --depth) {
            Bit *bits[kContexts];
            int32_t in[kContexts + 1], *w = &weights_[node * (kContexts + 1)];
            int64_t sum = 0;
            for (size_t i = 0; i < kContexts; ++i) {
                bits[i] = &tables_[i][32 * contexts[i] + node];
                in[i] = kCurves.stretch[bits[i]->p >> 4];
            }
            in[kContexts] = 256;
            for (size_t i = 0; i <= kContexts; ++i) sum += int64_t{in[i]} * w[i];
            const uint32_t p = kCurves.squash[std::clamp<int64_t>(sum >> 16, -2047, 2047) + 2048];
            const int bit = coder.bit(value >> depth & 1, p);
            const int32_t off = (bit << 16) - bit - static_cast<int32_t>(p);
            for (size_t i = 0; i <= kContexts; ++i) w[i] = std::clamp(w[i] + ((in[i] * off + (1 << 15)) >> 16), -(1 << 20), 1 << 20);
            for (Bit *b : bits) b->learn(bit, 250);
            node = 2 * node + static_cast<uint32_t>(bit);
        }
        return static_cast<int>(node - 32);
    }

private:
    std::vector<Bit> tables_[kContexts];
    std::vector<int32_t> weights_;
};

// What reading takes is bounded by the bytes there are: every row that is not the row before again spends some, and streams shorter
// than what their rows spend (but for kFree bytes) are filled up with zeros by the writer and refused by the reader.
constexpr size_t kFree = 256;
constexpr size_t spend(size_t d, size_t axes) { return 2 * axes + 2 + (d - axes) / 2; }  // bytes for a row

class Writer {
public:
    static constexpr bool writes = true;
    Writer(Bytes &coded, Bytes &raw) : bits_(coded), coded_(coded), raw_(raw) {}
    void spend(size_t bytes) { spent_ += bytes; }
    int bit(int bit, uint32_t p) { return bits_.put(bit, p), bit; }
    int bit(int bit, Bit &model, int limit = 60) {
        bits_.put(bit, model.p);
        model.learn(bit, limit);
        return bit;
    }
    uint32_t raw(uint32_t v, int count) {  // at most 32
        held_ |= (v & ((uint64_t{1} << count) - 1)) << held_bits_;
        for (held_bits_ += count; held_bits_ >= 8; held_bits_ -= 8, held_ >>= 8) raw_.push_back(static_cast<uint8_t>(held_));
        return v;
    }
    bool finish() {
        if (held_bits_) raw_.push_back(static_cast<uint8_t>(held_));
        bits_.finish();
        const size_t have = coded_.size() + raw_.size() + kFree;
        if (have < spent_) raw_.resize(raw_.size() + spent_ - have);
        return true;
    }
    bool bad() const { return false; }

private:
    rans::BitWriter bits_;
    Bytes &coded_, &raw_;
    size_t spent_ = 0;
    uint64_t held_ = 0;
    int held_bits_ = 0;
};

class SymbolReader {
public:
    static constexpr bool writes = false;
    SymbolReader(const Bytes &coded, const Bytes &raw)
        : bits_(coded.data(), coded.size()), at_(raw.data()), end_(raw.data() + raw.size()), budget_(coded.size() + raw.size() + kFree) {}
    void spend(size_t bytes) {
        if (bytes > budget_) bad_ = true;
        else budget_ -= bytes;
    }
    int bit(int, uint32_t p) { return bits_.get(p); }
    int bit(int, Bit &model, int limit = 60) {
        const int bit = bits_.get(model.p);
        model.learn(bit, limit);
        return bit;
    }
    uint32_t raw(uint32_t, int count) {
        while (held_bits_ < count) {
            if (at_ < end_) held_ |= static_cast<uint64_t>(*at_++) << held_bits_;
            else bad_ = true;
            held_bits_ += 8;
        }
        const auto v = static_cast<uint32_t>(held_ & ((uint64_t{1} << count) - 1));
        held_ >>= count;
        held_bits_ -= count;
        return v;
    }
    bool bad() const { return bad_ || bits_.starved(); }
    bool finish() {  // what is left of the raw bytes can only be the zeros that fill it up
        if (bad() || !bits_.ended() || held_ != 0 || (at_ != end_ && budget_ != 0)) return false;
        return std::all_of(at_, end_, [](uint8_t b) { return b == 0; });
    }

private:
    rans::BitReader bits_;
    const uint8_t *at_, *end_;
    size_t budget_;
    uint64_t held_ = 0;
    int held_bits_ = 0;
    bool bad_ = false;
};

}  // namespace compand::neighbours

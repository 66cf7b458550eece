#include "mixed.hpp"

#include <algorithm>

namespace compand::rans {
namespace {

#include "curves.inc"

constexpr int kContexts = 6, kInputs = kContexts + 1;

// ln(p / (1 - p)) in 1/256 for p in 1/4096: the inverse of k_squash.
struct Stretch {
    int16_t of[4096];
    Stretch() {
        int x = -2048;
        for (int p = 0; p < 4096; ++p) {
            while (x < 2047 && k_squash[x + 2048] < p * 16 + 8) ++x;
            of[p] = static_cast<int16_t>(x);
        }
    }
};

// A probability that learns as 1 / seen until `limit`.
struct Slot {
    uint16_t p = 32768, seen = 0;
};

class Predictor {
public:
    Predictor(size_t n, uint32_t k, size_t width) : width_(width), bits_(std::max(1, bit_length(k - 1))) {
        // 2^shift slots a context: room for every node of every id, within 16 KiB and 4 MiB
        const size_t wanted = std::min<size_t>(n, size_t{1} << 20) * static_cast<size_t>(bits_);
        shift_ = std::clamp(bit_length(wanted), 12, 20);
        slots_.resize(kContexts << shift_);
        weights_.assign(static_cast<size_t>(bits_) * 3 * kInputs, (1 << 16) / 4);
        for (int i = 0; i < 256; ++i) rate_[i] = 65536 / (2 * i + 3) * 2;
    }
    int bits() const { return bits_; }

    void begin(uint32_t left, uint32_t left2, uint32_t above, size_t column) {
        const uint32_t contexts[kContexts] = {0, left + 1, (left + 1) * 65599u + left2 + 1, above + 1, (above + 1) * 40503u + left + 1,
                                              static_cast<uint32_t>(column) + 1};
        for (int i = 0; i < kContexts; ++i) hash_[i] = (contexts[i] + 1) * 0x9e3779b1u + static_cast<uint32_t>(i) * 0x85ebca6bu;
        used_ = width_ ? kContexts : 3;
        node_ = 1;
        depth_ = 0;
    }
    uint32_t predict() {  // probability of 1 in 1/65536
        int64_t sum = 0;
        int sure = 0;
        for (int i = 0; i < used_; ++i) {
            const uint32_t h = (hash_[i] ^ node_ * 0x2c1b3c6du) * 0x297a2d39u;
            slot_[i] = &slots_[(static_cast<size_t>(i) << shift_) + (h >> (32 - shift_))];
            input_[i] = slot_[i]->seen ? stretch().of[slot_[i]->p >> 4] : 0;
            if (i == 1 || i == 3) sure += slot_[i]->seen > 2;
        }
        input_[used_] = 64;
        weight_ = &weights_[static_cast<size_t>((depth_ * 3 + sure) * kInputs)];
        for (int i = 0; i <= used_; ++i) sum += static_cast<int64_t>(weight_[i]) * input_[i];
        const int64_t x = std::clamp<int64_t>(sum >> 16, -2047, 2047);
        p_ = k_squash[x + 2048];
        return p_;
    }
    void learn(int bit) {
        const int32_t error = (bit ? 65535 : 0) - static_cast<int32_t>(p_);
        for (int i = 0; i <= used_; ++i) weight_[i] += (input_[i] * error + (1 << 15)) >> 16;
        for (int i = 0; i < used_; ++i) {
            Slot &s = *slot_[i];
            const int32_t aim = bit ? 65535 : 0;
            s.p = static_cast<uint16_t>(s.p + ((aim - static_cast<int32_t>(s.p)) * static_cast<int64_t>(rate_[s.seen]) >> 16));
            if (s.seen < 200) ++s.seen;
        }
        node_ = node_ * 2 + static_cast<uint32_t>(bit);
        ++depth_;
    }

private:
    static const Stretch &stretch() {
        static const Stretch table;
        return table;
    }
    size_t width_;
    int bits_, shift_, used_ = 0, depth_ = 0;
    uint32_t node_ = 1, p_ = 0, hash_[kContexts];
    int32_t input_[kInputs];
    Slot *slot_[kContexts];
    int32_t *weight_ = nullptr;
    int32_t rate_[256];
    std::vector<Slot> slots_;
    std::vector<int32_t> weights_;
};

// Calls code(t) for each id, its contexts set.
template <class Id, class Code> bool each_id(Predictor &predictor, const Id *ids, size_t n, size_t width, Code &&code) {
    size_t column = 0;
    for (size_t t = 0; t < n; ++t) {
        predictor.begin(t ? ids[t - 1] : 0, t > 1 ? ids[t - 2] : 0, width && t >= width ? ids[t - width] : 0, column);
        if (!code(t)) return false;
        if (width && ++column == width) column = 0;
    }
    return true;
}

}  // namespace

template <class Id> Bytes encode_mixed(const Id *ids, size_t n, uint32_t k, size_t width) {
    Bytes out;
    if (!n) return out;
    put_varint(out, n);
    Predictor predictor(n, k, width);
    BitWriter writer(out);
    each_id(predictor, ids, n, width, [&](size_t t) {
        for (int b = predictor.bits() - 1; b >= 0; --b) {
            const int bit = ids[t] >> b & 1;
            writer.put(bit, predictor.predict());
            predictor.learn(bit);
        }
        return true;
    });
    writer.finish();
    return out;
}

template <class Id> bool decode_mixed(const uint8_t *data, size_t size, Id *ids, size_t n, uint32_t k, size_t width) {
    if (!n) return size == 0;
    Reader in(data, size);
    if (in.varint() != n || !in.ok()) return false;
    Predictor predictor(n, k, width);
    BitReader reader(in.at(), in.left());
    const bool good = each_id(predictor, ids, n, width, [&](size_t t) {
        uint32_t id = 0;
        for (int b = predictor.bits() - 1; b >= 0; --b) {
            const int bit = reader.get(predictor.predict());
            predictor.learn(bit);
            id = id << 1 | static_cast<uint32_t>(bit);
        }
        ids[t] = static_cast<Id>(id);
        return id < k && !reader.starved();
    });
    return good && reader.ended();
}

template Bytes encode_mixed(const uint8_t *, size_t, uint32_t, size_t);
template Bytes encode_mixed(const uint16_t *, size_t, uint32_t, size_t);
template bool decode_mixed(const uint8_t *, size_t, uint8_t *, size_t, uint32_t, size_t);
template bool decode_mixed(const uint8_t *, size_t, uint16_t *, size_t, uint32_t, size_t);

}  // namespace compand::rans

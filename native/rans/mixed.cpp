#include "mixed.hpp"

#include <algorithm>
#include <memory>
#include <new>

#include "isa.hpp"
#include "nibbles.hpp"
#include "rans.hpp"

namespace compand::rans {
namespace {

#include "curves.inc"

constexpr int kInputs = 8;  // inputs: one a context, a constant, one unused
constexpr int kUnit = 1 << 14;             // weight 1.0

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

// A probability that learns as 1 / seen until `seen` reaches kSteady.
struct Slot {
    uint16_t p = 32768, seen = 0;
};
constexpr int kSteady = 200;

// The decisions of four bits: one cache line, found by the hash of a context and the bits before.
struct Line {
    Slot of[16];
};

template <int kUsed> class Predictor {  // kUsed: contexts in use
public:
    Predictor(size_t n, uint32_t k) : bits_(std::max(1, bit_length(k - 1))), stretch_(stretch().of) {
        // 2^shift lines a context: about one for each id, from 16 KiB to 1 MiB
        shift_ = std::clamp(bit_length(n), 8, 14);
        lines_.resize(kUsed << shift_);
        weights_.assign(static_cast<size_t>(bits_) * 3 * kInputs, kUnit / 4);
        for (int i = 0; i < 256; ++i) rate_[i] = 65536 / (2 * i + 3) * 2;
        input_[kContexts] = 64;
    }
    int bits() const { return bits_; }

    void begin(uint32_t left, uint32_t left2, uint32_t above, size_t column) {
        const uint32_t contexts[kContexts] = {0, left + 1, (left + 1) * 65599u + left2 + 1, above + 1, (above + 1) * 40503u + left + 1,
                                              static_cast<uint32_t>(column) + 1};
        for (int i = 0; i < kContexts; ++i) hash_[i] = (contexts[i] + 1) * 0x9e3779b1u + static_cast<uint32_t>(i) * 0x85ebca6bu;
        node_ = 1;
        depth_ = 0;
    }
    uint32_t predict() {  // probability of 1 in 1/65536
        if (depth_ % 4 == 0) {
            for (int i = 0; i < kUsed; ++i) {
                const uint32_t h = (hash_[i] ^ node_ * 0x2c1b3c6du) * 0x297a2d39u;
                line_[i] = &lines_[(static_cast<size_t>(i) << shift_) + ((h ^ h >> 15) * 0x9e3779b1u >> (32 - shift_))];
                __builtin_prefetch(line_[i], 1);
            }
            inner_ = 1;
        }
        int sure = 0;
        for (int i = 0; i < kUsed; ++i) {
            const Slot s = line_[i]->of[inner_];
            input_[i] = stretch_[s.p >> 4];  // 0 while new
            if (i == 1 || i == 3) sure += s.seen > 2;
        }
        weight_ = &weights_[static_cast<size_t>((depth_ * 3 + sure) * kInputs)];
        int32_t sum = 0;
        for (int i = 0; i < kInputs; ++i) sum += (static_cast<int32_t>(weight_[i]) * input_[i]) >> 2;
        p_ = k_squash[std::clamp(sum >> 12, -2047, 2047) + 2048];
        return p_;
    }
    void learn(int bit) {
        const int32_t error = ((-bit & 65535) - static_cast<int32_t>(p_)) >> 2;
        for (int i = 0; i < kInputs; ++i) {
            const int32_t w = weight_[i] + ((input_[i] * error + (1 << 15)) >> 16);
            weight_[i] = static_cast<int16_t>(std::clamp(w, -32768, 32767));
        }
        const int32_t aim = -bit & 65535;
        for (int i = 0; i < kUsed; ++i) {
            Slot &s = line_[i]->of[inner_];
            s.p = static_cast<uint16_t>(s.p + ((aim - static_cast<int32_t>(s.p)) * static_cast<int64_t>(rate_[s.seen]) >> 16));
            s.seen = static_cast<uint16_t>(s.seen + (s.seen < kSteady));
        }
        node_ = node_ * 2 + static_cast<uint32_t>(bit);
        inner_ = (inner_ * 2 + static_cast<uint32_t>(bit)) & 15;
        ++depth_;
    }

private:
    static const Stretch &stretch() {
        static const Stretch table;
        return table;
    }
    int bits_, shift_ = 0, depth_ = 0;
    const int16_t *stretch_;
    uint32_t node_ = 1, inner_ = 1, p_ = 0, hash_[kContexts];
    int16_t input_[kInputs] = {};
    Line *line_[kContexts];
    int16_t *weight_ = nullptr;
    int32_t rate_[256];
    std::vector<Line> lines_;
    std::vector<int16_t> weights_;
};

// Calls code(t) for each id, its contexts set.
template <class Model, class Id, class Code> bool each_id(Model &predictor, const Id *ids, size_t n, size_t width, Code &&code) {
    size_t column = 0;
    for (size_t t = 0; t < n; ++t) {
        predictor.begin(t ? ids[t - 1] : 0, t > 1 ? ids[t - 2] : 0, width && t >= width ? ids[t - width] : 0, column);
        if (!code(t)) return false;
        if (width && ++column == width) column = 0;
    }
    return true;
}

template <int kUsed, class Id> void encode_with(const Id *ids, size_t n, uint32_t k, size_t width, Bytes &out) {
    Predictor<kUsed> predictor(n, k);
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
}

template <int kUsed, class Id> bool decode_with(const uint8_t *data, size_t size, Id *ids, size_t n, uint32_t k, size_t width) {
    Predictor<kUsed> predictor(n, k);
    BitReader reader(data, size);
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

constexpr size_t kQuick = 4096;  // ids from which streams are of nibbles: below, single bits learn faster

// What the models of nibbles.hpp start from.
struct Start {
    Nibbles of{};
    std::unique_ptr<uint16_t[]> lines, weights;
    Start(size_t n, uint32_t k, size_t width) {
        of.n = n;
        of.width = width < n ? width : 0;
        const size_t rows = of.width ? (n - 1) / of.width + 1 : n;
        of.band = ((rows - 1) / kBands + 1) * (of.width ? of.width : 1);
        of.count = std::max(1, (bit_length(k - 1) + 3) / 4);
        of.contexts = of.width ? kContexts : 3;
        of.shift = std::clamp(bit_length(n), 8, 13);
        const size_t all = static_cast<size_t>(of.contexts * of.count) << of.shift, sets = kBands * static_cast<size_t>(of.count * of.contexts);
        lines.reset(new uint16_t[16 * all + 16]);
        of.lines = lines.get() + (32 - reinterpret_cast<uintptr_t>(lines.get()) % 32) % 32 / 2;
        for (size_t l = 0; l < 16 * all; ++l) of.lines[l] = static_cast<uint16_t>(l % 16 << 12);
        weights.reset(new uint16_t[16 * sets]);
        of.weights = weights.get();
        for (size_t w = 0; w < 16 * sets; ++w) weights[w] = static_cast<uint16_t>(512u << std::min<size_t>(w % 16, 5));
    }
};

template <class Id> void encode_quick(const Id *ids, size_t n, uint32_t k, size_t width, Bytes &out) {
    const Start start(n, k, width);
    const size_t total = n * static_cast<size_t>(start.of.count);
    const std::unique_ptr<uint32_t[]> steps(new uint32_t[total]);
    COMPAND_DISPATCH(predict_nibbles, start.of, ids, steps.get());
    const std::unique_ptr<uint16_t[]> words(new uint16_t[total]);
    uint16_t *const end = words.get() + total, *at = end;
    uint32_t x[kBands] = {kLow, kLow, kLow, kLow};
    for (size_t t = total; t-- > 0;) {
        uint32_t &s = x[t % kBands];
        const uint32_t f = (steps[t] >> 16) + 1;
        if (s >> (32 - kMixedBits) >= f) {
            *--at = static_cast<uint16_t>(s);
            s >>= 16;
        }
        const uint32_t q = s / f;
        s = (q << kMixedBits) + (steps[t] & 0xffff) + (s - q * f);
    }
    for (const uint32_t s : x) {
        for (int b = 0; b < 32; b += 8) out.push_back(static_cast<uint8_t>(s >> b));
    }
    const auto *from = reinterpret_cast<const uint8_t *>(at);
    out.insert(out.end(), from, from + 2 * (end - at));
}

template <class Id> bool decode_quick(Reader &in, Id *ids, size_t n, uint32_t k, size_t width) {
    uint32_t x[kBands];
    bool good = n >= kQuick;
    for (uint32_t &s : x) {
        s = in.get<uint32_t>();
        good = good && s >= kLow;
    }
    if (!in.ok() || !good) return false;
    const Start start(n, k, width);
    return COMPAND_DISPATCH(decode_nibbles, start.of, k, x, in.at(), in.at() + in.left(), ids);
}

}  // namespace

template <class Id> Bytes encode_mixed(const Id *ids, size_t n, uint32_t k, size_t width) {
    Bytes out;
    if (!n) return out;
    if (n >= kQuick) out.push_back(0);
    put_varint(out, n);
    if (n >= kQuick) encode_quick(ids, n, k, width, out);
    else width ? encode_with<kContexts>(ids, n, k, width, out) : encode_with<3>(ids, n, k, width, out);
    return out;
}

template <class Id> bool decode_mixed(const uint8_t *data, size_t size, Id *ids, size_t n, uint32_t k, size_t width) {
    if (!n) return size == 0;
    Reader in(data, size);
    const bool quick = size && data[0] == 0;  // the older streams begin with n, which is not 0
    if (quick) in.get<uint8_t>();
    if (in.varint() != n || !in.ok()) return false;
    if (quick) return decode_quick(in, ids, n, k, width);
    return width ? decode_with<kContexts>(in.at(), in.left(), ids, n, k, width) : decode_with<3>(in.at(), in.left(), ids, n, k, width);
}

template Bytes encode_mixed(const uint8_t *, size_t, uint32_t, size_t);
template Bytes encode_mixed(const uint16_t *, size_t, uint32_t, size_t);
template bool decode_mixed(const uint8_t *, size_t, uint8_t *, size_t, uint32_t, size_t);
template bool decode_mixed(const uint8_t *, size_t, uint16_t *, size_t, uint32_t, size_t);

}  // namespace compand::rans

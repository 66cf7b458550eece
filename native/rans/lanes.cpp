#include "lanes.hpp"

#include <algorithm>
#include <memory>

namespace compand::rans {
namespace {

constexpr size_t kChunk = 64 * kLanes;

inline void push_raw(uint32_t &x, uint32_t raw, uint16_t *&out) {
    const uint32_t bits = raw >> 16;
    if (static_cast<uint64_t>(x) << bits >> 32) {
        *--out = static_cast<uint16_t>(x);
        x >>= 16;
    }
    x = x << bits | (raw & 0xffff);
}

inline void push(uint32_t &x, uint32_t step, int p, uint16_t *&out) {
    const uint32_t f = (step >> 16) + 1;
    if (x >> (32 - p) >= f) {
        *--out = static_cast<uint16_t>(x);
        x >>= 16;
    }
    const uint32_t q = x / f;
    x = (q << p) + (step & 0xffff) + (x - q * f);
}

// Room for words, written from the end. Small rooms are kept for the thread's next stream: touching new memory costs as much
// as coding.
class Words {
public:
    explicit Words(size_t room) : room_(room) {
        if (room <= kKept) {
            if (!kept_) kept_.reset(new uint16_t[kSpare + kKept]);
        } else {
            own_.reset(new uint16_t[kSpare + room]);
        }
    }
    uint16_t *end() const { return (own_ ? own_.get() : kept_.get()) + kSpare + room_; }

private:
    static constexpr size_t kKept = size_t{1} << 21, kSpare = 16;  // kernels may write up to 16 words below the last
    static thread_local std::unique_ptr<uint16_t[]> kept_;
    size_t room_;
    std::unique_ptr<uint16_t[]> own_;
};

thread_local std::unique_ptr<uint16_t[]> Words::kept_;

void put_words(Bytes &out, const uint16_t *from, const uint16_t *to) {
    const auto *bytes = reinterpret_cast<const uint8_t *>(from);
    out.insert(out.end(), bytes, bytes + 2 * (to - from));
}

void put_u32(Bytes &out, uint32_t v) {
    for (int b = 0; b < 4; ++b) out.push_back(static_cast<uint8_t>(v >> 8 * b));
}

// Codes symbols from the end by one lane until `most` symbols or more than `most_bytes`; returns how many went in.
size_t write_tail(const Fill &fill, size_t n, int p, bool raws, size_t most, size_t most_bytes, Bytes &out) {
    std::vector<uint16_t> words(most_bytes / 2 + 4);
    uint16_t *const end = words.data() + words.size(), *at = end;
    uint32_t x = kLow, steps[64], raw[64];
    size_t taken = 0;
    while (taken < most) {
        const size_t count = std::min<size_t>(64, most - taken), from = n - taken - count;
        fill(from, count, from, steps, raws ? raw : nullptr);
        for (size_t t = count; t-- > 0; ++taken) {
            const uint32_t x_before = x;
            uint16_t *const at_before = at;
            if (raws) push_raw(x, raw[t], at);
            push(x, steps[t], p, at);
            if (4 + 2 * static_cast<size_t>(end - at) > most_bytes) {
                x = x_before;
                at = at_before;
                most = taken;
                break;
            }
        }
    }
    put_u32(out, x);
    put_words(out, at, end);
    return taken;
}

}  // namespace

void write_lanes(const Fill &fill, size_t n, int p, bool raws, bool wide, Bytes &out, const ByStep &by_step) {
    out.push_back(wide ? 1 : 0);
    uint32_t x[kLanes];
    Bytes tail;
    size_t tailed = 0;
    if (wide) {
        tailed = write_tail(fill, n, p, raws, std::min(n, std::max(n / 8, kTailLeast)), kTailBytes, tail);
        tail.resize(kTailBytes);
        for (size_t l = 0; l < kLanes; ++l) {
            x[l] = kLow | static_cast<uint32_t>(tail[2 * l]) | static_cast<uint32_t>(tail[2 * l + 1]) << 8;
        }
    } else {
        x[0] = kLow;
    }
    const size_t n_main = n - tailed, room = n_main * (raws ? 2 : 1);
    Words words(room);
    uint16_t *const end = words.end(), *at = end;
    const std::unique_ptr<uint32_t[]> steps(new uint32_t[2 * kChunk]);
    uint32_t *const raw = raws ? steps.get() + kChunk : nullptr;
    size_t t = n_main;
    const auto one_by_one = [&](size_t from) {
        while (t > from) {
            const size_t count = std::min(t - from, kChunk);
            fill(t - count, count, n_main, steps.get(), raw);
            for (size_t i = count; i-- > 0;) {
                --t;
                uint32_t &s = x[wide ? t % kLanes : 0];
                if (raws) push_raw(s, raw[i], at);
                push(s, steps[i], p, at);
            }
        }
    };
    one_by_one(wide ? n_main - n_main % kLanes : 0);
    if (by_step.ids && wide) {
        at = COMPAND_DISPATCH(encode_bytes, by_step.ids, by_step.steps, by_step.m, t / kLanes, p, x, at);
        t = 0;
    }
    if (by_step.wide_ids && wide) {
        at = COMPAND_DISPATCH(encode_both, by_step.wide_ids, by_step.both, t / kLanes, p, x, at);
        t = 0;
    }
    while (t > 0) {
        const size_t count = std::min(t, kChunk);
        fill(t - count, count, n_main, steps.get(), raw);
        at = COMPAND_DISPATCH(encode, steps.get(), raw, count / kLanes, p, x, at);
        t -= count;
    }
    if (!wide) {
        put_u32(out, x[0]);
    } else {
        put_varint(out, tailed);
        const size_t sizes = out.size();
        out.resize(sizes + kLanes / 2);
        uint64_t pending = 0;
        int held = 0;
        for (size_t l = 0; l < kLanes; ++l) {
            const int size = bit_length(x[l]) - 17, bits = size + 16;
            out[sizes + l / 2] |= static_cast<uint8_t>(size << 4 * (l % 2));
            pending |= static_cast<uint64_t>(x[l] & ((1u << bits) - 1)) << held;
            for (held += bits; held >= 8; held -= 8, pending >>= 8) out.push_back(static_cast<uint8_t>(pending));
        }
        if (held) out.push_back(static_cast<uint8_t>(pending));
    }
    put_words(out, at, end);
}

bool LaneReader::open(const uint8_t *data, size_t size, size_t n) {
    Reader in(data, size);
    const uint8_t kind = in.get<uint8_t>();
    n_ = n_main_ = n;
    t_ = 0;
    in_tail_ = bad_ = false;
    wide_ = kind == 1;
    if (kind > 1) return fail();
    if (!wide_) {
        lanes_.x[0] = in.get<uint32_t>();
        bad_ = lanes_.x[0] < kLow;
    } else {
        const uint64_t tailed = in.varint();
        const uint8_t *sizes = in.take(kLanes / 2);
        if (!in.ok() || tailed > n) return fail();
        n_main_ = n - static_cast<size_t>(tailed);
        uint64_t pending = 0;
        int held = 0;
        for (size_t l = 0; l < kLanes; ++l) {
            const int bits = 16 + (sizes[l / 2] >> 4 * (l % 2) & 15);
            for (; held < bits; held += 8) pending |= static_cast<uint64_t>(in.get<uint8_t>()) << held;
            lanes_.x[l] = 1u << bits | (static_cast<uint32_t>(pending) & ((1u << bits) - 1));
            pending >>= bits;
            held -= bits;
        }
        bad_ |= pending != 0;
    }
    bad_ |= !in.ok();
    mask_ = wide_ ? kLanes - 1 : 0;
    stop_ = n_main_;
    lanes_.at = in.at();
    lanes_.end = lanes_.at + in.left();
    return !bad_;
}

void LaneReader::enter_tail() {
    bad_ |= lanes_.at != lanes_.end;
    for (size_t l = 0; l < kLanes; ++l) {
        bad_ |= lanes_.x[l] >> 16 != 1;
        tail_[2 * l] = static_cast<uint8_t>(lanes_.x[l]);
        tail_[2 * l + 1] = static_cast<uint8_t>(lanes_.x[l] >> 8);
    }
    wide_ = false;
    in_tail_ = true;
    mask_ = 0;
    stop_ = n_;
    std::memcpy(&lanes_.x[0], tail_, 4);
    if (lanes_.x[0] < kLow) {
        bad_ = true;
        lanes_.x[0] = kLow;
    }
    lanes_.at = tail_ + 4;
    lanes_.end = tail_ + kTailBytes;
}

bool LaneReader::go_on() {
    if (wide_ && t_ == n_main_) enter_tail();
    return !bad_ && t_ < n_;
}

bool LaneReader::finish() {
    if (wide_ && t_ == n_main_) enter_tail();
    bad_ |= t_ != n_ || lanes_.x[0] != kLow;
    for (; lanes_.at < lanes_.end; ++lanes_.at) bad_ |= !in_tail_ || *lanes_.at != 0;  // only a tail is padded, by zeros
    return !bad_;
}

}  // namespace compand::rans

// One coded run of symbols: states, words, and a short tail that rides in the lanes' initial states.
//
//   0: state u32, words                       one lane
//   1: T varint, 64 x 4-bit size of state, states' other bits, words          64 lanes
//
// Ending 64 lanes at a fixed state would waste 2 bytes a lane. So the last T symbols are coded alone by one more lane, and
// its bytes are the low halves of the initial states of the 64 lanes, where the decoder finds them at the end. The high
// halves must then be 1, which shows nearly every damage.
#pragma once
#include <functional>

#include "bits.hpp"
#include "rans.hpp"

namespace compand::rans {

constexpr size_t kTailBytes = 2 * kLanes, kTailLeast = 2048;  // T is at most n / 8 or this

// Writes steps and raws (as the encode kernel wants them) of symbols [from, from + count). n_main symbols are in the lanes.
using Fill = std::function<void(size_t from, size_t count, size_t n_main, uint32_t *steps, uint32_t *raws)>;

// Where steps depend on the id alone: `fill` is then used for the few symbols that no kernel codes. m ids, at most 256.
struct ByStep {
    const uint8_t *ids = nullptr;
    const uint32_t *steps = nullptr;  // at least 32 entries
    size_t m = 0;
    const uint16_t *wide_ids = nullptr;  // or: ids of any alphabet, and step | raw << 32 of each
    const uint64_t *both = nullptr;
};

void write_lanes(const Fill &fill, size_t n, int p, bool raws, bool wide, Bytes &out, const ByStep &by_step = {});

class LaneReader {
public:
    LaneReader() = default;
    LaneReader(const LaneReader &) = delete;
    bool open(const uint8_t *data, size_t size, size_t n);

    size_t n() const { return n_; }
    size_t n_main() const { return n_main_; }
    size_t done() const { return t_; }
    bool more() const { return t_ < n_; }
    bool bad() const { return bad_; }

    // Runs kernel(lanes, first group, groups) over all whole groups left; each group takes at most `need` bytes.
    template <class Kernel> bool groups(size_t need, Kernel &&kernel) {
        if (bad_ || !wide_ || t_ >= n_main_) return !bad_;
        const size_t total = (n_main_ - t_) / kLanes;
        size_t did = kernel(lanes_, size_t{0}, total);
        if (did < total) {  // near the end: go on in a copy with zeros behind it
            const size_t left = static_cast<size_t>(lanes_.end - lanes_.at);
            uint8_t copy[3 * 256 + 64] = {};
            if (left >= need) return fail();
            std::memcpy(copy, lanes_.at, left);
            const uint8_t *from = lanes_.at;
            lanes_.at = copy;
            const uint8_t *end = lanes_.end;
            lanes_.end = copy + left + need;
            did += kernel(lanes_, did, total - did);
            const size_t used = static_cast<size_t>(lanes_.at - copy);
            lanes_.end = end;
            lanes_.at = from + (used < left ? used : left);
            if (used > left || did < total) return fail();
        }
        t_ += total * kLanes;
        return true;
    }
    // Symbols of a single lane while there are words: next(state, t) gives the state before it takes one.
    template <class Next> void one_lane(Next &&next) {
        if (t_ == n_main_ && wide_) enter_tail();
        if (wide_ || bad_) return;
        uint32_t x = lanes_.x[0];
        const uint8_t *at = lanes_.at;
        for (; t_ < n_ && lanes_.end - at >= 2; ++t_) {
            uint16_t word;
            std::memcpy(&word, at, 2);
            x = next(x, t_);
            const bool low = x < kLow;
            at += low ? 2 : 0;
            x = low ? x << 16 | word : x;
        }
        lanes_.x[0] = x;
        lanes_.at = at;
    }
    // One symbol at a time: state(), then advance(...) any number of times, then next().
    uint32_t state() {
        ready();
        return held();
    }
    bool ready() { return t_ != stop_ || go_on(); }  // whether there is another symbol; then held() is the state
    uint32_t held() const { return lanes_.x[t_ & mask_]; }
    [[gnu::always_inline]] void advance(uint32_t x) {
        const uint32_t low = x < kLow;
        if (lanes_.end - lanes_.at >= 2) [[likely]] {  // no branch on what cannot be foretold
            uint16_t w;
            std::memcpy(&w, lanes_.at, 2);
            lanes_.at += 2 * low;
            x = x << 16 * low | (w & (0 - low));
        } else {
            bad_ |= low;
            x <<= 16 * low;
        }
        lanes_.x[t_ & mask_] = x;
    }
    void next() { ++t_; }
    bool finish();  // everything read, nothing left, states back where they began

private:
    bool go_on();
    bool fail() {
        bad_ = true;
        return false;
    }
    void enter_tail();

    Lanes lanes_;
    size_t n_ = 0, n_main_ = 0, t_ = 0;
    size_t stop_ = 0, mask_ = 0;  // where ready() looks around; lane of symbol t is t & mask
    bool wide_ = false, in_tail_ = false, bad_ = false;
    uint8_t tail_[kTailBytes];
};

}  // namespace compand::rans

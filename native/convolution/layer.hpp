// One layer of a net on integers, and the tensors of one picture that it works on.
#pragma once
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "convolution/convolution.hpp"

namespace compand::convolution {

constexpr size_t kSlack = kTaps * kQuad * kWide;  // bytes behind the tensors of a picture that may be read: by windows at the end of the last one

struct Shape {
    size_t channels, tall, wide;
    size_t pixels() const { return tall * wide; }
    size_t blocks() const { return (channels + kWide - 1) / kWide; }
};
struct Range {
    int32_t low, high;  // within ± 2^17
    bool bytes() const { return high - low < 256 && low >= -32768 && high <= 32767; }
    int64_t most() const { return std::max(std::abs(int64_t{low}), std::abs(int64_t{high})); }
};
struct View {
    Shape shape;
    Range range;
    uint8_t *bytes;  // one of these two
    int32_t *words;

    size_t place(size_t channel, size_t pixel) const { return (channel / kWide * shape.pixels() + pixel) * kWide + channel % kWide; }
    int32_t value(size_t channel, size_t pixel) const {
        const size_t at = place(channel, pixel);
        return bytes ? bytes[at] + range.low : words[at];
    }
    void put(size_t channel, size_t pixel, int64_t y) const {
        const size_t at = place(channel, pixel);
        const int64_t clipped = std::clamp<int64_t>(y, range.low, range.high);
        if (bytes) bytes[at] = static_cast<uint8_t>(clipped - range.low);
        else words[at] = static_cast<int32_t>(clipped);
    }
    Out out(size_t block, size_t pixel) const {
        const size_t at = (block * shape.pixels() + pixel) * kWide;
        return {bytes ? bytes + at : nullptr, words ? words + at : nullptr, shape.pixels(), range.low, range.high};
    }
    Term term(size_t block, int32_t multiplier) const {
        const size_t at = block * kWide;
        return {bytes ? bytes + at : nullptr, words ? words + at : nullptr, range.low, multiplier};
    }
};

// Uninitialised bytes on whole lines of the cache.
class Buffer {
public:
    Buffer() = default;
    explicit Buffer(size_t size) : data_(static_cast<uint8_t *>(::operator new(size ? size : 1, alignment))), size_(size) {}
    uint8_t *data() const { return data_.get(); }
    size_t size() const { return size_; }

private:
    static constexpr std::align_val_t alignment{64};
    struct Free {
        void operator()(uint8_t *data) const { ::operator delete(data, alignment); }
    };
    std::unique_ptr<uint8_t, Free> data_;
    size_t size_ = 0;
};
uint8_t *scratch(size_t size);  // of this thread, until its next call; null: there is no memory

struct Kernel {
    size_t outputs, own, tall, wide;  // own: input channels of a group
    size_t stride, groups;
    std::array<size_t, 4> pad;  // top, bottom, left, right
    const int8_t *weight;       // (outputs, own, tall, wide)
    const int32_t *bias;        // (outputs)
};
struct Factors {
    const int32_t *multiplier;  // of each output, or two of a sum
    const uint8_t *shift;       // of each output, or one
};
inline int64_t rescaled(int64_t sum, int64_t multiplier, int shift) { return (sum * multiplier + ((int64_t{1} << shift) >> 1)) >> shift; }
// Whether rescaled sums of up to `most`, without multiplier, have 32 bits.
inline bool fits(int64_t most, int shift) { return (most + ((int64_t{1} << shift) >> 1)) >> shift < int64_t{1} << 31; }

struct Layer {
    std::vector<size_t> inputs;
    virtual ~Layer() = default;
    virtual bool run(const std::vector<View> &in, const View &out) const = 0;  // false: there is no memory
};

// A convolution of tensors of such a shape and range; `out` is given its shape. Raises std::invalid_argument.
std::unique_ptr<Layer> convolution(const Shape &in, const Range &range, const Kernel &kernel, const Factors &factors, Shape &out);

}  // namespace compand::convolution

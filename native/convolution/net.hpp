// A net on integers: layers that are checked when they are added, and their work on one picture after another.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "checked.hpp"
#include "convolution/layer.hpp"

namespace compand::convolution {

class Net {
public:
    // Raises std::invalid_argument, as all that adds to a net, where numbers do not fit.
    Net(const Shape &shape, const Range &range);

    // Layers take tensors that are there: 0 is the input, i what layer i - 1 gives.
    void convolve(size_t input, const Kernel &kernel, const Factors &factors, const Range &range);
    void add(size_t a, size_t b, const Factors &factors, const Range &range);
    void mean(size_t input, const Factors &factors, const Range &range);

    const Shape &input() const { return tensors_[0].shape; }
    const Shape &output() const { return tensors_.back().shape; }
    size_t bytes();  // of memory for the tensors of one picture

    // Pictures x (n, channels, tall, wide) to y (n, ...) int32; false: a value is outside of the input's range, and y is anything.
    template <class T> bool run(const T *x, size_t n, int32_t *y);

private:
    struct Tensor {
        Shape shape;
        Range range;
        size_t last = 0;  // layer that reads it last
        size_t at = 0;    // in the memory of a picture
        size_t size() const { return (shape.blocks() * shape.pixels() * kWide * (range.bytes() ? 1 : 4) + 63) / 64 * 64; }
    };

    const Tensor &tensor(size_t i) const;
    void append(std::unique_ptr<Layer> layer, const Shape &shape, const Range &range);
    void plan();
    View view(size_t i, uint8_t *memory) const;
    template <class T> bool picture(const T *x, int32_t *y, uint8_t *memory) const;

    std::vector<Tensor> tensors_;
    std::vector<std::unique_ptr<Layer>> layers_;
    std::mutex busy_;
    bool planned_ = false;
    size_t bytes_ = 0;
    std::vector<Buffer> idle_;  // memory of pictures that are done
};

}  // namespace compand::convolution

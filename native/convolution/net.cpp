#include "convolution/net.hpp"

#include <atomic>
#include <cstring>
#include <stdexcept>

#include "isa.hpp"
#include "threads.hpp"

namespace compand::convolution {
namespace {

constexpr size_t kShare = 64;  // blocks of 16 values of a job of a sum, at least

struct Sum : Layer {
    int32_t multiplier[2];
    int shift;
    bool narrow;

    bool run(const std::vector<View> &in, const View &out) const override {
        const size_t n = out.shape.blocks() * out.shape.pixels(), shares = (n + kShare - 1) / kShare;
        parallel_for(shares, [&](size_t i) {
            const size_t first = n * i / shares, last = n * (i + 1) / shares;
            const Term a = in[0].term(first, multiplier[0]), b = in[1].term(first, multiplier[1]);
            if (narrow) COMPAND_DISPATCH(added, a, b, shift, last - first, out.out(0, first));
            else scalar::added(a, b, shift, last - first, out.out(0, first));
        });
        return true;
    }
};

struct Mean : Layer {
    int32_t multiplier;
    int shift;

    bool run(const std::vector<View> &in, const View &out) const override {
        const View &x = in[0];
        const size_t pixels = x.shape.pixels();
        parallel_for(x.shape.blocks(), [&](size_t block) {
            uint32_t sums[kWide] = {};  // modulo 2^32: those of values have 31 bits
            for (size_t p = 0; p < pixels; ++p)
                for (size_t i = 0; i < kWide; ++i) {
                    const size_t at = (block * pixels + p) * kWide + i;
                    sums[i] += x.bytes ? x.bytes[at] : static_cast<uint32_t>(x.words[at]);
                }
            const uint32_t all = x.bytes ? static_cast<uint32_t>(x.range.low) * static_cast<uint32_t>(pixels) : 0;
            for (size_t i = 0, c = block * kWide; i < kWide && c < out.shape.channels; ++i, ++c)
                out.put(c, 0, rescaled(static_cast<int32_t>(sums[i] + all), multiplier, shift));
        });
        return true;
    }
};

void check(const Range &range) {
    if (range.low < -(1 << 15) || range.low > range.high || range.high >= 1 << 16) throw std::invalid_argument("values must be within 16 bits");
}
void check(const uint8_t *shift, size_t count) {
    for (size_t i = 0; i < count; ++i)
        if (shift[i] > 62) throw std::invalid_argument("a shift of more than 62 bits");
}

}  // namespace

Net::Net(const Shape &shape, const Range &range) {
    check(range);
    if (!shape.channels || !shape.tall || !shape.wide || std::max({shape.channels, shape.tall, shape.wide}) > size_t{1} << 14)
        throw std::invalid_argument("this shape of inputs cannot be");
    tensors_.push_back({shape, range});
}

const Net::Tensor &Net::tensor(size_t i) const {
    if (i >= tensors_.size()) throw std::invalid_argument("a tensor that is not there yet");
    return tensors_[i];
}

void Net::append(std::unique_ptr<Layer> layer, const Shape &shape, const Range &range) {
    size_t size = 0;
    if (shape.channels > size_t{1} << 24 || !checked_mul(shape.blocks() * kWide * 4, shape.pixels(), size) || size > size_t{1} << 40)
        throw std::invalid_argument("a tensor is too large");
    const std::lock_guard<std::mutex> lock(busy_);
    if (planned_) throw std::invalid_argument("layers come before the first pictures");
    for (const size_t i : layer->inputs) tensors_[i].last = layers_.size();
    layers_.push_back(std::move(layer));
    tensors_.push_back({shape, range, layers_.size()});
}

void Net::convolve(size_t input, const Kernel &kernel, const Factors &factors, const Range &range) {
    const Tensor &in = tensor(input);
    check(range);
    check(factors.shift, kernel.outputs);
    Shape shape;
    auto layer = convolution(in.shape, in.range, kernel, factors, shape);
    layer->inputs = {input};
    append(std::move(layer), shape, range);
}

void Net::add(size_t a, size_t b, const Factors &factors, const Range &range) {
    const Shape &one = tensor(a).shape, &two = tensor(b).shape;
    check(range);
    check(factors.shift, 1);
    if (one.channels != two.channels || one.tall != two.tall || one.wide != two.wide) throw std::invalid_argument("tensors that are added have one shape");
    auto sum = std::make_unique<Sum>();
    sum->inputs = {a, b};
    int64_t most = 0;
    for (size_t i = 0; i < 2; ++i) {
        sum->multiplier[i] = factors.multiplier[i];
        most += tensors_[i ? b : a].range.most() * std::abs(int64_t{factors.multiplier[i]});
    }
    sum->shift = *factors.shift;
    sum->narrow = fits(most, sum->shift);
    append(std::move(sum), one, range);
}

void Net::mean(size_t input, const Factors &factors, const Range &range) {
    const Tensor &in = tensor(input);
    check(range);
    check(factors.shift, 1);
    if (in.range.most() * static_cast<int64_t>(in.shape.pixels()) >= int64_t{1} << 31) throw std::invalid_argument("a sum may pass 31 bits");
    auto mean = std::make_unique<Mean>();
    mean->inputs = {input};
    mean->multiplier = *factors.multiplier;
    mean->shift = *factors.shift;
    append(std::move(mean), {in.shape.channels, 1, 1}, range);
}

// Each tensor lies at the first place that no tensor has which is read at or after the layer that makes it.
void Net::plan() {
    const std::lock_guard<std::mutex> lock(busy_);
    if (planned_) return;
    if (layers_.empty()) throw std::invalid_argument("a net without layers");
    std::vector<size_t> alive;  // by place
    for (size_t i = 0; i < tensors_.size(); ++i) {
        std::erase_if(alive, [&](size_t j) { return i > 0 && tensors_[j].last + 1 < i; });
        Tensor &own = tensors_[i];
        size_t at = 0;
        auto before = alive.begin();
        for (; before != alive.end() && tensors_[*before].at - at < own.size(); ++before) at = tensors_[*before].at + tensors_[*before].size();
        own.at = at;
        alive.insert(before, i);
        bytes_ = std::max(bytes_, at + own.size() + kSlack);
    }
    planned_ = true;
}

size_t Net::bytes() {
    plan();
    return bytes_;
}

View Net::view(size_t i, uint8_t *memory) const {
    const Tensor &own = tensors_[i];
    uint8_t *at = memory + own.at;
    return {own.shape, own.range, own.range.bytes() ? at : nullptr, own.range.bytes() ? nullptr : reinterpret_cast<int32_t *>(at)};
}

template <class T> bool Net::picture(const T *x, int32_t *y, uint8_t *memory) const {
    const View in = view(0, memory);
    const size_t pixels = in.shape.pixels();
    const size_t all = in.shape.blocks() * kWide * pixels;
    if (in.bytes) std::memset(in.bytes, 0, all);
    else std::memset(in.words, 0, all * sizeof(int32_t));
    bool right = true;
    for (size_t c = 0; c < in.shape.channels; ++c, x += pixels) {
        const size_t at = in.place(c, 0);
        T least = *x, most = *x;
        for (size_t p = 0; p < pixels; ++p) least = std::min(least, x[p]), most = std::max(most, x[p]);
        right = right && least >= in.range.low && most <= in.range.high;
        if (!right) break;
        for (size_t p = 0; p < pixels; ++p) {
            if (in.bytes) in.bytes[at + p * kWide] = static_cast<uint8_t>(static_cast<int32_t>(x[p]) - in.range.low);
            else in.words[at + p * kWide] = static_cast<int32_t>(x[p]);
        }
    }
    if (!right) return false;
    std::vector<View> inputs;
    for (size_t i = 0; i < layers_.size(); ++i) {
        inputs.clear();
        for (const size_t j : layers_[i]->inputs) inputs.push_back(view(j, memory));
        if (!layers_[i]->run(inputs, view(i + 1, memory))) throw std::bad_alloc();
    }
    const View last = view(layers_.size(), memory);
    for (size_t c = 0; c < last.shape.channels; ++c)
        for (size_t p = 0; p < last.shape.pixels(); ++p) *y++ = last.value(c, p);
    return true;
}

template <class T> bool Net::run(const T *x, size_t n, int32_t *y) {
    plan();
    const size_t in = input().channels * input().pixels(), out = output().channels * output().pixels();
    const size_t width = static_cast<size_t>(threads());
    std::atomic<bool> right{true}, made{true};
    const auto one = [&](size_t i, Buffer &memory) {  // must not throw
        try {
            if (!memory.data()) {
                const std::lock_guard<std::mutex> lock(busy_);
                if (!idle_.empty()) {
                    memory = std::move(idle_.back());
                    idle_.pop_back();
                }
            }
            if (!memory.data()) memory = Buffer(bytes_);
            if (!picture(x + i * in, y + i * out, memory.data())) right = false;
        } catch (const std::bad_alloc &) {
            made = false;
        }
    };
    const size_t apart = n < width ? 0 : n - n % width;  // pictures that one thread does by itself; all work on the others together
    std::vector<Buffer> memory(std::max<size_t>(1, std::min(n, width)));
    std::atomic<size_t> next{0};
    parallel_for(apart ? width : 0, [&](size_t thread) {
        for (size_t i; (i = next.fetch_add(1)) < apart;) one(i, memory[thread]);
    });
    for (size_t i = apart; i < n; ++i) together([&] { one(i, memory[0]); });
    {
        const std::lock_guard<std::mutex> lock(busy_);
        for (Buffer &own : memory)
            if (own.data() && idle_.size() < width) idle_.push_back(std::move(own));
    }
    if (!made) throw std::bad_alloc();
    return right;
}

template bool Net::run(const uint8_t *, size_t, int32_t *);
template bool Net::run(const int8_t *, size_t, int32_t *);
template bool Net::run(const int32_t *, size_t, int32_t *);
template bool Net::run(const int64_t *, size_t, int32_t *);

}  // namespace compand::convolution

#include <algorithm>
#include <atomic>
#include <cstring>
#include <stdexcept>

#include "convolution/layer.hpp"
#include "isa.hpp"
#include "threads.hpp"

namespace compand::convolution {
namespace {

constexpr size_t kChunk = 96;                   // pixels of a job: a multiple of all tiles
constexpr size_t kPatches = size_t{1} << 16;    // bytes of patches, or of rows of one block, that are made at a time
constexpr size_t kKept = size_t{1} << 22;       // larger scratch is given back

size_t up(size_t n, size_t to) { return (n + to - 1) / to * to; }

struct Convolution : Layer {
    enum class Way { direct, patches, depthwise, plain };

    Kernel kernel;  // its pointers are those of `weight`, `steps` of the rest
    Way way = Way::plain;
    bool narrow = true;           // rescaled sums have 32 bits
    size_t quads = 0, line = 0;   // of products; line: bytes of a patch
    size_t tap = 0;               // bytes of one pixel of a patch
    size_t passes = 0;            // of a row of a depthwise kernel
    std::vector<int8_t> weight;   // packed, or as it was
    std::vector<Step> steps;      // of each block of outputs of a group
    std::vector<int32_t> bias;    // of plain ones

    size_t blocks() const { return (kernel.outputs / kernel.groups + kWide - 1) / kWide; }  // of a group

    void pack(const Shape &in, const Range &range, const Kernel &given, const Factors &factors) {
        const size_t taps = given.tall * given.wide, each = given.outputs / given.groups;
        const bool padded = given.pad != std::array<size_t, 4>{};
        passes = (given.wide + kQuad - 1) / kQuad;
        if (!range.bytes() || (padded && (range.low > 0 || range.high < 0))) way = Way::plain;
        else if (given.own == 1 && given.groups == given.outputs && given.groups > 1 && given.tall * passes <= kTaps) way = Way::depthwise;
        else if (taps == 1 && given.stride == 1 && !padded && (given.groups == 1 || given.own % kWide == 0)) way = Way::direct;
        else way = Way::patches;
        tap = way == Way::direct || given.own < kWide ? given.own : up(given.own, kWide);
        quads = (taps * tap + kQuad - 1) / kQuad;
        line = up(taps * tap, kWide);
        const size_t packed = given.groups * blocks() * quads * kWide * kQuad;
        if (way == Way::patches && packed > (size_t{1} << 24) && packed > 4 * given.outputs * given.own * taps) way = Way::plain;  // mostly zeros
        if (way == Way::depthwise) {  // as one group, whose blocks have weights of their own
            steps.assign(in.blocks(), Step{});
            weight.assign(steps.size() * given.tall * passes * kWide * kQuad, 0);
            for (size_t o = 0; o < given.outputs; ++o)
                for (size_t k = 0; k < taps; ++k) {
                    const size_t i = k / given.wide, j = k % given.wide;
                    weight[((o / kWide * given.tall + i) * passes + j / kQuad) * kWide * kQuad + o % kWide * kQuad + j % kQuad] = given.weight[o * taps + k];
                }
            for (size_t o = 0; o < given.outputs; ++o) set(steps[o / kWide], o % kWide, o, range, given, factors);
            return;
        }
        if (way == Way::plain) {
            weight.assign(given.weight, given.weight + given.outputs * given.own * taps);
            bias.assign(given.bias, given.bias + given.outputs);
        } else {
            weight.assign(packed, 0);
            for (size_t o = 0; o < given.outputs; ++o) {
                int8_t *to = weight.data() + (o / each * blocks() + o % each / kWide) * quads * kWide * kQuad + o % each % kWide * kQuad;
                for (size_t c = 0; c < given.own; ++c)
                    for (size_t k = 0; k < taps; ++k) {
                        const size_t at = k * tap + c;
                        to[at / kQuad * kWide * kQuad + at % kQuad] = given.weight[(o * given.own + c) * taps + k];
                    }
            }
        }
        steps.assign(given.groups * blocks(), Step{});
        for (size_t o = 0; o < given.outputs; ++o) set(steps[o / each * blocks() + o % each / kWide], o % each % kWide, o, range, given, factors);
    }
    static void set(Step &step, size_t lane, size_t o, const Range &range, const Kernel &given, const Factors &factors) {
        uint32_t sum = 0;  // bytes are values less the lowest
        for (size_t k = 0, n = given.own * given.tall * given.wide; k < n; ++k) sum += static_cast<uint32_t>(given.weight[o * n + k]);
        step.bias[lane] = static_cast<int32_t>(static_cast<uint32_t>(given.bias[o]) + sum * static_cast<uint32_t>(range.low));
        step.multiplier[lane] = factors.multiplier[o];
        step.shift[lane] = factors.shift[o];
    }

    bool run(const std::vector<View> &in, const View &out) const override {
        if (way == Way::depthwise) return by_channels(in[0], out);
        if (way == Way::plain) return plainly(in[0], out);
        return by_products(in[0], out);
    }

    bool by_products(const View &in, const View &out) const {
        const size_t each = kernel.outputs / kernel.groups, all = blocks(), pixels = out.shape.pixels();
        const bool whole = kernel.groups == 1 || each % kWide == 0;  // blocks of a group are blocks of the output
        size_t chunk = std::min(kChunk, pixels);
        if (way == Way::patches) chunk = std::min(chunk, std::max<size_t>(12, kPatches / line / 12 * 12));
        const size_t chunks = (pixels + chunk - 1) / chunk;
        const size_t shares = way == Way::direct && chunks < 8 ? (all + 3) / 4 : 1;  // of a group's blocks
        std::atomic<bool> made{true};
        parallel_for(kernel.groups * shares * chunks, [&](size_t job) {
            const size_t at = job % chunks * chunk, share = job / chunks % shares, g = job / chunks / shares;
            const size_t first = all * share / shares, last = all * (share + 1) / shares, base = g * all + first;
            Pixels x{in.bytes, in.shape.pixels() * kWide, kWide, std::min(chunk, pixels - at)};
            const size_t patches = way == Way::patches ? up(chunk * line + kWide, 64) : 0;
            uint8_t *own = scratch(patches + (whole ? 0 : all * chunk * kWide * (out.bytes ? 1 : 4)));
            if (!own) return made.store(false);
            if (way == Way::direct) {
                x.x += g * kernel.own / kWide * x.block + at * kWide;
            } else {
                for (size_t p = 0; p < x.count; ++p) patch(in, g * kernel.own, at + p, out.shape.wide, own + p * line);
                x.x = own, x.block = kWide, x.pixel = line;
            }
            Out to = out.out(whole ? g * all + first : 0, at);
            if (!whole) {
                to.block = chunk;
                if (out.bytes) to.bytes = own + patches;
                else to.words = reinterpret_cast<int32_t *>(own + patches);
            }
            const int8_t *w = weight.data() + base * quads * kWide * kQuad;
            if (narrow) COMPAND_DISPATCH(products, w, quads, &steps[base], last - first, x, to);
            else scalar::products(w, quads, &steps[base], last - first, x, to);
            if (whole) return;
            for (size_t o = 0; o < each; ++o)
                for (size_t p = 0; p < x.count; ++p) {
                    const size_t from = (o / kWide * chunk + p) * kWide + o % kWide, place = out.place(g * each + o, at + p);
                    if (out.bytes) out.bytes[place] = to.bytes[from];
                    else out.words[place] = to.words[from];
                }
        });
        return made;
    }

    // What the kernel sees of result p, tap after tap.
    void patch(const View &in, size_t channel, size_t p, size_t wide, uint8_t *to) const {
        const int zero = -in.range.low;
        const size_t top = p / wide * kernel.stride, left = p % wide * kernel.stride, last = channel + kernel.own;
        const bool aligned = channel % kWide == 0 && (kernel.groups == 1 || kernel.own % kWide == 0);  // 16 bytes at a time
        for (size_t i = 0; i < kernel.tall; ++i)
            for (size_t j = 0; j < kernel.wide; ++j, to += tap) {
                const size_t y = top + i - kernel.pad[0], x = left + j - kernel.pad[2];  // beyond all sizes where they are negative
                if (y >= in.shape.tall || x >= in.shape.wide) {
                    std::memset(to, zero, aligned ? up(tap, kWide) : tap);
                } else if (const uint8_t *from = in.bytes + (y * in.shape.wide + x) * kWide; aligned) {
                    for (size_t c = channel; c < last; c += kWide) std::memcpy(to + (c - channel), from + c * in.shape.pixels(), kWide);
                } else {
                    for (size_t c = channel; c < last; ++c) to[c - channel] = from[c / kWide * in.shape.pixels() * kWide + c % kWide];
                }
            }
    }

    bool by_channels(const View &in, const View &out) const {
        const bool padded = kernel.pad != std::array<size_t, 4>{};
        const size_t wide = out.shape.wide, row = padded ? (wide - 1) * kernel.stride + passes * kQuad : in.shape.wide;
        const size_t lines = std::max<size_t>(kPatches / (row * kWide), kernel.tall + 3 * kernel.stride);  // rows in, of a job
        const size_t strip = std::min((lines - kernel.tall) / kernel.stride + 1, out.shape.tall), strips = (out.shape.tall + strip - 1) / strip;
        std::atomic<bool> made{true};
        parallel_for(in.shape.blocks() * strips, [&](size_t job) {
            const size_t block = job / strips, first = job % strips * strip, rows = std::min(strip, out.shape.tall - first);
            const uint8_t *x = in.bytes + block * in.shape.pixels() * kWide;
            if (padded) {
                const size_t tall = (rows - 1) * kernel.stride + kernel.tall;
                uint8_t *own = scratch(tall * row * kWide + kSlack);
                if (!own) return made.store(false);
                const size_t copied = std::min(in.shape.wide, row - std::min(row, kernel.pad[2])), before = std::min(row, kernel.pad[2]);
                for (size_t i = 0; i < tall; ++i) {
                    uint8_t *to = own + i * row * kWide;
                    const size_t y = first * kernel.stride + i - kernel.pad[0];
                    const bool there = y < in.shape.tall;
                    std::memset(to, -in.range.low, (there ? before : row) * kWide);
                    if (!there) continue;
                    std::memcpy(to + before * kWide, x + y * in.shape.wide * kWide, copied * kWide);
                    std::memset(to + (before + copied) * kWide, -in.range.low, (row - before - copied) * kWide);
                }
                x = own;
            } else {
                x += first * kernel.stride * row * kWide;
            }
            const int8_t *w = weight.data() + block * kernel.tall * passes * kWide * kQuad;
            const Out to = out.out(block, first * wide);
            if (narrow) COMPAND_DISPATCH(depthwise, w, kernel.tall, passes, steps[block], x, row, kernel.stride, rows, wide, to);
            else scalar::depthwise(w, kernel.tall, passes, steps[block], x, row, kernel.stride, rows, wide, to);
        });
        return made;
    }

    // By the definition, for inputs of more than 8 bits.
    bool plainly(const View &in, const View &out) const {
        const size_t each = kernel.outputs / kernel.groups, all = blocks();
        parallel_for(kernel.outputs, [&](size_t o) {
            const size_t g = o / each, lane = o % each % kWide;
            const Step &step = steps[g * all + o % each / kWide];
            for (size_t p = 0; p < out.shape.pixels(); ++p) {
                const size_t top = p / out.shape.wide * kernel.stride, left = p % out.shape.wide * kernel.stride;
                int64_t sum = bias[o];
                const int8_t *w = weight.data() + o * kernel.own * kernel.tall * kernel.wide;
                for (size_t c = g * kernel.own; c < (g + 1) * kernel.own; ++c)
                    for (size_t i = 0; i < kernel.tall; ++i)
                        for (size_t j = 0; j < kernel.wide; ++j, ++w) {
                            const size_t y = top + i - kernel.pad[0], x = left + j - kernel.pad[2];
                            if (y < in.shape.tall && x < in.shape.wide) sum += int64_t{*w} * in.value(c, y * in.shape.wide + x);
                        }
                out.put(o, p, rescaled(sum, step.multiplier[lane], step.shift[lane]));
            }
        });
        return true;
    }
};

}  // namespace

uint8_t *scratch(size_t size) {
    thread_local Buffer own;
    if (own.data() && own.size() >= size && (own.size() <= kKept || size > kKept)) return own.data();
    try {
        own = Buffer();
        own = Buffer(size);
    } catch (const std::bad_alloc &) {
        return nullptr;
    }
    return own.data();
}

std::unique_ptr<Layer> convolution(const Shape &in, const Range &range, const Kernel &kernel, const Factors &factors, Shape &out) {
    const auto &[top, bottom, left, right] = kernel.pad;
    if (!kernel.outputs || !kernel.own || !kernel.tall || !kernel.wide || !kernel.stride || !kernel.groups || kernel.outputs % kernel.groups ||
        in.channels % kernel.groups || in.channels / kernel.groups != kernel.own || in.tall + top + bottom < kernel.tall ||
        in.wide + left + right < kernel.wide || std::max({top, bottom, left, right}) > 64)
        throw std::invalid_argument("this kernel does not fit the tensor");
    out = {kernel.outputs, (in.tall + top + bottom - kernel.tall) / kernel.stride + 1, (in.wide + left + right - kernel.wide) / kernel.stride + 1};
    auto layer = std::make_unique<Convolution>();
    const size_t n = kernel.own * kernel.tall * kernel.wide;
    for (size_t o = 0; o < kernel.outputs; ++o) {
        int64_t most = std::abs(int64_t{kernel.bias[o]});
        for (size_t k = 0; k < n; ++k) most += std::abs(int64_t{kernel.weight[o * n + k]}) * range.most();
        if (most >= int64_t{1} << 31) throw std::invalid_argument("a sum may pass 31 bits");
        layer->narrow = layer->narrow && fits(most * std::abs(int64_t{factors.multiplier[o]}), factors.shift[o]);
    }
    layer->kernel = kernel;
    layer->kernel.weight = nullptr;
    layer->kernel.bias = nullptr;
    layer->pack(in, range, kernel, factors);
    return layer;
}

}  // namespace compand::convolution

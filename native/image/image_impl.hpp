// encode and decode of whole pictures, once an instruction set.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <memory>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "checked.hpp"
#include "image/image.hpp"
#include "threads.hpp"

namespace compand::image::ISA {
namespace {

#include "image/predictor_impl.hpp"
#include "image/block_impl.hpp"
#include "image/planes_impl.hpp"

// What a square of the coarse picture stands for.
inline void put_coarse(const Model &m, const Tile &t, int step, int bx, int by, int c, int32_t mean, const int32_t *q, std::vector<int32_t> &plane, size_t stride) {
    int32_t values[64], square[64];
    for (int i = 0; i < 64; ++i) values[i] = coarse_of(q[i], m.centre[kCoarse][c > 0], step, m.share);
    const uint8_t none[2] = {0, 0};  // means are rebuilt without a shift towards zero
    values[0] = coarse_of(mean, none, step, m.share);
    combine(values, 64, m.basis[0].data(), square);
    int32_t *to = plane.data() + static_cast<size_t>(t.y / 8 + 8 * by) * stride + static_cast<size_t>(t.x / 8 + 8 * bx);
    for (size_t i = 0; i < 64; ++i) to[i / 8 * stride + i % 8] = std::clamp(square[i], -kMostCoarse, kMostCoarse);
}

#include "image/encode_impl.hpp"
#include "image/filter_impl.hpp"

constexpr int kLimit = 40, kSpeed = 10, kLearnLimit = 250, kLearnSpeed = 5;

struct Frame {  // sides, padded to whole squares of the coarse picture
    size_t height, width, h8, w8;
    explicit Frame(const Settings &s) : height((s.height + 63) / 64 * 64), width((s.width + 63) / 64 * 64), h8(height / 8), w8(width / 8) {}
};

inline void put16(Bytes &out, uint32_t v) {
    out.push_back(static_cast<uint8_t>(v));
    out.push_back(static_cast<uint8_t>(v >> 8));
}

bool read_coarse(const uint8_t *data, size_t size, const Settings &s, const Model &m, const Tile &t, std::vector<int32_t> *planes, size_t stride) {
    Predictor predictor(m.state, kLimit, kSpeed);
    BitSource coder(predictor, data, size);
    Coarse coarse(t);
    for (int by = 0; by < coarse.down; ++by) {
        for (int bx = 0; bx < coarse.across; ++bx) {
            int32_t (*q)[64] = coarse.square(bx, by);
            if (!coarse.code(coder, bx, by, q, nullptr)) return false;
            for (int c = 0; c < s.channels; ++c) {
                const int32_t mean = std::clamp(coarse.foretold(c, bx, by) + q[c][0], -(1 << 20), 1 << 20);
                coarse.means[c][static_cast<size_t>(by * coarse.across + bx)] = mean;
                put_coarse(m, t, s.step, bx, by, c, mean, q[c], planes[c], stride);
            }
        }
    }
    return coder.finish();
}

// Adds what the blocks of a tile say to the planes.
bool read_details(const uint8_t *data, size_t size, const Settings &s, const Model &m, Tile &t, std::vector<int16_t> *planes, size_t stride) {
    Predictor predictor(m.state, kLimit, kSpeed);
    BitSource coder(predictor, data, size);
    for (int by = 0; by < t.blocks_y; ++by) {
        for (int bx = 0; bx < t.blocks_x; ++bx) {
            Block *const b = &t.block(bx, by);
            *b = Block{};
            if (!code_block(coder, t, bx, by, m.classes, *b, nullptr)) return false;
            if (!b->any) continue;
            const int parts = b->split ? 4 : 1;
            const Size kind = b->split ? kEight : kSixteen;
            const int side = side_of(kind), n = side * side;
            for (int i = 0; i < parts; ++i) {
                for (int c = 0; c < s.channels; ++c) {
                    if (!b->coded[i][c]) continue;
                    int32_t values[256], square[256];
                    const int32_t *q = b->q[c] + 64 * i;
                    for (int k = 0; k < n; ++k) values[k] = value_of(q[k], m.centre[kind][c > 0], s.step);
                    combine(values, n, m.basis[kind].data() + static_cast<size_t>(b->cls[i]) * static_cast<size_t>(n * n), square);
                    int16_t *to = planes[c].data() + static_cast<size_t>(t.y + 16 * by + 8 * (i >> 1)) * stride + static_cast<size_t>(t.x + 16 * bx + 8 * (i & 1));
                    for (int r = 0; r < side; ++r, to += stride) {
                        for (int k = 0; k < side; ++k) to[k] = static_cast<int16_t>(std::clamp(to[k] + std::clamp(square[r * side + k], -32768, 32767), -32768, 32767));
                    }
                }
            }
        }
    }
    return coder.finish();
}

// Values of lost tiles of the coarse picture: from the nearest ones that are there, smoothed until they meet.
void conceal_coarse(const Settings &s, const uint8_t *lost, std::vector<int32_t> *planes, const Frame &f) {
    const auto side = static_cast<size_t>(s.tile / 8);
    const size_t across = (f.w8 + side - 1) / side;
    std::vector<uint8_t> gone(f.h8 * f.w8);
    bool some = false;
    for (size_t i = 0; i < gone.size(); ++i) some |= gone[i] = lost[2 * (i / f.w8 / side * across + i % f.w8 / side)];
    if (!some) return;
    for (int c = 0; c < s.channels; ++c) {
        std::vector<int32_t> &p = planes[c];
        int64_t sum = 0, n = 0;
        for (size_t i = 0; i < gone.size(); ++i) {
            if (!gone[i]) sum += p[i], ++n;
        }
        for (size_t i = 0; i < gone.size(); ++i) {
            if (gone[i]) p[i] = n ? static_cast<int32_t>(sum / n) : 0;
        }
        for (int round = 0; round < 4 * s.tile / 8; ++round) {  // Gauss-Seidel on Laplace's equation
            for (size_t k = 0; k < gone.size(); ++k) {
                const size_t i = round & 1 ? gone.size() - 1 - k : k;
                if (!gone[i]) continue;
                const size_t x = i % f.w8, y = i / f.w8;
                p[i] = (p[x ? i - 1 : i] + p[x + 1 < f.w8 ? i + 1 : i] + p[y ? i - f.w8 : i] + p[y + 1 < f.h8 ? i + f.w8 : i]) / 4;
            }
        }
    }
}

}  // namespace

void encode(const float *rows, const Settings &s, float lambda, Model &m, bool learn, Bytes &out) {
    const Frame f(s);
    const int channels = s.channels;
    std::vector<float> planes[3], low[3];
    const float scale = s.bits == 16 ? 1.0f / 257 : 1.0f, grey = 1.7320508f, most = s.bits == 16 ? 65535.0f : 255.0f;
    for (int c = 0; c < channels; ++c) planes[c].resize(f.height * f.width);
    parallel_for(f.height, [&](size_t y) {
        const float *row = rows + std::min(y, s.height - 1) * s.width * static_cast<size_t>(channels);
        for (size_t x = 0; x < f.width; ++x) {
            const float *p = row + std::min(x, s.width - 1) * static_cast<size_t>(channels);
            float v[3];
            for (int c = 0; c < channels; ++c) v[c] = std::clamp(p[c], 0.0f, most) * scale - 128;
            if (channels == 1) planes[0][y * f.width + x] = v[0] * grey;
            else {
                for (int c = 0; c < 3; ++c) {
                    const int32_t *k = m.color + 3 * c;
                    planes[c][y * f.width + x] = (v[0] * static_cast<float>(k[0]) + v[1] * static_cast<float>(k[1]) + v[2] * static_cast<float>(k[2])) / 4096;
                }
            }
        }
    }, s.large());
    std::vector<int32_t> coarse[3];
    parallel_for(static_cast<size_t>(channels), [&](size_t c) {
        low[c] = reduce(reduce(reduce(planes[c], f.height, f.width), f.height / 2, f.width / 2), f.height / 4, f.width / 4);
        coarse[c].assign(f.h8 * f.w8, 0);
    }, s.large());
    const size_t n = tiles_of(s);
    std::vector<Bytes> first(n), second(n);
    auto shared = learn ? std::make_unique<Predictor>(m.state, kLearnLimit, kLearnSpeed) : nullptr;
    uint64_t *counts = learn ? m.counts.data() : nullptr;
    auto each = [&](const std::function<void(size_t)> &body) {
        if (!learn) return parallel_for(n, body, s.large());
        for (size_t i = 0; i < n; ++i) body(i);
    };
    each([&](size_t i) {
        const Tile t(s, i);
        std::unique_ptr<Predictor> own = learn ? nullptr : std::make_unique<Predictor>(m.state, kLimit, kSpeed);
        Writer coder(learn ? *shared : *own, first[i]);
        encode_coarse(low, f.w8, s, m, t, lambda, coarse, coder, counts);
        coder.finish();
    });
    parallel_for(static_cast<size_t>(channels), [&](size_t c) {
        const std::vector<int16_t> big = enlarge8(coarse[c], f.h8, f.w8);
        for (size_t i = 0; i < big.size(); ++i) planes[c][i] -= static_cast<float>(big[i]) / kFraction;
    }, s.large());
    each([&](size_t i) {
        Tile t(s, i);
        t.coarse = coarse[0].data() + static_cast<size_t>(t.y / 8) * f.w8 + static_cast<size_t>(t.x / 8);
        t.stride = f.w8;
        std::unique_ptr<Predictor> own = learn ? nullptr : std::make_unique<Predictor>(m.state, kLimit, kSpeed);
        Writer coder(learn ? *shared : *own, second[i]);
        encode_details(planes, f.width, s, m, t, lambda, coder, counts);
        coder.finish();
    });
    if (learn) m.state = shared->state();
    for (size_t i = 0; i < n; ++i) {
        for (const Bytes *b : {&first[i], &second[i]}) {
            rans::put_varint(out, b->size());
            put16(out, check_of(b->data(), b->size()));
        }
    }
    for (const auto &part : {std::cref(first), std::cref(second)}) {
        for (const Bytes &b : part.get()) out.insert(out.end(), b.begin(), b.end());
    }
}

bool decode(const Spans &in, const Settings &s, const Model &m, bool conceal, uint8_t *lost, float *rows, bool filtered) {
    const Frame f(s);
    const size_t n = tiles_of(s);
    for (size_t i = 0; i < 2 * n; ++i) {
        lost[i] |= in.damaged[i];
        if (in.damaged[i] && !conceal) return false;
    }
    const auto channels = static_cast<size_t>(s.channels);
    std::vector<int32_t> coarse[3];
    std::vector<int16_t> planes[3];
    for (size_t c = 0; c < channels; ++c) coarse[c].assign(f.h8 * f.w8, 0);
    std::atomic<bool> good{true};
    parallel_for(n, [&](size_t i) {
        const Tile t(s, i);
        if (lost[2 * i] || read_coarse(in.at[2 * i], in.size[2 * i], s, m, t, coarse, f.w8)) return;
        if (conceal) lost[2 * i] = 1;
        else good = false;
    }, s.large());
    if (!good) return false;
    conceal_coarse(s, lost, coarse, f);
    parallel_for(channels, [&](size_t c) { planes[c] = enlarge8(coarse[c], f.h8, f.w8); }, s.large());
    std::vector<int16_t> smooth[3];
    if (filtered && !m.layers.empty() && m.layers.back().out == 16) {
        for (size_t c = 0; c < channels; ++c) smooth[c] = planes[c];
    }
    parallel_for(n, [&](size_t i) {
        Tile t(s, i);
        t.coarse = coarse[0].data() + static_cast<size_t>(t.y / 8) * f.w8 + static_cast<size_t>(t.x / 8);
        t.stride = f.w8;
        if (lost[2 * i] || lost[2 * i + 1]) return;  // contexts need this tile's own coarse picture
        if (read_details(in.at[2 * i + 1], in.size[2 * i + 1], s, m, t, planes, f.width)) return;
        if (conceal) lost[2 * i + 1] = 1;
        else good = false;
    }, s.large());
    if (!good) return false;
    if (filtered && !m.layers.empty() && m.layers.back().out == 16) restore(m, s, f.height, f.width, smooth, planes);
    const int32_t most = s.bits == 16 ? 65535 : 255;
    parallel_for(s.height, [&](size_t y) {
        float *to = rows + y * s.width * channels;
        for (size_t x = 0; x < s.width; ++x) {
            const size_t i = y * f.width + x;
            for (size_t c = 0; c < channels; ++c) {
                int64_t v;
                if (channels == 1) v = static_cast<int64_t>(planes[0][i]) * 2365;  // 4096 / sqrt 3
                else v = static_cast<int64_t>(planes[0][i]) * m.color[c] + static_cast<int64_t>(planes[1][i]) * m.color[3 + c] + static_cast<int64_t>(planes[2][i]) * m.color[6 + c];
                v += 128 << 16;
                v = s.bits == 16 ? (v * 257 + 32768) >> 16 : (v + 32768) >> 16;
                to[x * channels + c] = static_cast<float>(std::clamp<int64_t>(v, 0, most));
            }
        }
    }, s.large());
    return true;
}

}  // namespace compand::image::ISA

// The body of encode and decode: one template for both, so that they cannot differ. Included once an instruction set.
#include <algorithm>
#include <array>
#include <cmath>
#include <vector>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "checked.hpp"
#include "rans/lanes.hpp"
#include "splat/splat.hpp"

namespace compand::splat::ISA {
namespace {

constexpr int kGrid = 28;  // bits of a coordinate in a block
constexpr size_t kSome = 256;  // rows whose parts are at hand together

#include "splat/values_impl.hpp"
#include "splat/symbols_impl.hpp"
#include "splat/residuals_impl.hpp"
#include "splat/tree_impl.hpp"
#include "splat/frames_impl.hpp"
#include "splat/trellis_impl.hpp"
#include "splat/rows_impl.hpp"
#include "splat/scales_impl.hpp"
#include "splat/turns_impl.hpp"
#include "splat/places_impl.hpp"
#include "splat/colours_impl.hpp"
#include "splat/harmonics_impl.hpp"
#include "splat/early_numbers_impl.hpp"
#include "splat/early_impl.hpp"


constexpr int kNewest = 4;
constexpr uint64_t kFormat = uint64_t{1} << 41;  // with the format added: before the stream of the tree

// The attributes of all splats, some at a time, so that what one needs of another, and the tables of a stream, are still at hand.
template <class Coder> class Attributes {
public:
    Attributes(Coder *streams, Block &b, const Rules &p, const float *rows, float *out, size_t width)
        : streams_(streams), b_(b), p_(p), out_(out), width_(width), scales_(streams[1], b, p), opacity_(streams[2], b, p),
          turns_(streams[3], b, p, rows, width), colours_(streams[4], b, p, rows, width), harmonics_(streams[5], b, p, rows, width),
          places_(streams[6], b, p, rows, width) {}
    bool code() {
        b_.forget();
        const Sizes sizes(b_, p_);
        bool good = true;
        for (size_t from = 0; from < b_.n && good; from += kSome) {
            const size_t to = std::min(from + kSome, b_.n);
            for (size_t i = from; i < to; ++i) scales_.longest(i), scales_.second(i), scales_.shortest(i);
            for (size_t i = from; i < to; ++i) good &= opacity_.code(i);
            turns_.prepare(from, to);
            for (size_t i = from; i < to; ++i) {
                good &= turns_.template code<0>(i);
                good &= turns_.template code<1>(i);
                good &= turns_.template code<2>(i);
            }
            for (size_t i = from; i < to; ++i) colours_.template code<0>(i), colours_.template code<1>(i), colours_.template code<2>(i);
            for (size_t i = from; i < to && good; ++i) good &= harmonics_.code(i);
            for (size_t i = from; i < to; ++i) places_.code(i);
            for (int k = 1; k < 7; ++k) good &= !streams_[k].bad();
            if (Coder::writes || !good) continue;
            sizes.rebuild(from, to, out_, width_);
            turns_.rebuild(from, to, out_, width_);
            colours_.rebuild(from, to, out_, width_);
            harmonics_.rebuild(from, to, out_, width_);
            places_.rebuild(from, to, out_, width_);
        }
        return good;
    }

private:
    Coder *streams_;
    Block &b_;
    const Rules &p_;
    float *out_;
    size_t width_;
    Scales<Coder> scales_;
    Opacity<Coder> opacity_;
    Turns<Coder> turns_;
    Colours<Coder> colours_;
    Harmonics<Coder> harmonics_;
    Places<Coder> places_;
};

// Scales and points of rows, whose order becomes that of the tree; moved: rows in that order, if theirs is another.
std::vector<uint32_t> arrange(Block &b, const Rules &p, const float *rows, size_t width, std::vector<float> &moved) {
    const size_t n = b.n;
    b.measure(p, rows, width);
    place_points(b, p, rows, width);
    const uint32_t *points = b.points.data();
    bool sorted = true;
    for (size_t i = 1; i < n && sorted; ++i) sorted = !before(points + 3 * i, points + 3 * (i - 1));
    std::vector<uint32_t> order;
    if (sorted) return order;
    order.resize(n);
    for (size_t i = 0; i < n; ++i) order[i] = static_cast<uint32_t>(i);
    std::stable_sort(order.begin(), order.end(), [&](uint32_t x, uint32_t y) { return before(points + 3 * x, points + 3 * y); });
    moved.resize(n * width);
    std::vector<uint32_t> at(3 * n);
    for (size_t i = 0; i < n; ++i) {
        std::copy_n(rows + order[i] * width, width, moved.data() + i * width);
        std::copy_n(points + 3 * order[i], 3, at.data() + 3 * i);
    }
    b.points.swap(at);
    b.measure(p, moved.data(), width);
    return order;
}

}  // namespace

void encode(const float *given, size_t n, int rest, const Steps &steps, Bytes *parts) {
    const Rules p(steps, kNewest);
    const size_t width = 14 + 3 * static_cast<size_t>(rest);
    Block b(n, rest);
    std::vector<float> moved;
    const std::vector<uint32_t> order = arrange(b, p, given, width, moved);
    const float *rows = order.empty() ? given : moved.data();
    b.plan(p, rows, width);
    Writer streams[kParts];
    code_grid(streams[0], b);
    find_near(b.cells.data(), n, b.near.data());
    Attributes<Writer>(streams, b, p, rows, nullptr, width).code();
    for (uint32_t v : order) streams[7].raw(v, rans::bit_length(n - 1));
    for (int k = 0; k < kParts; ++k) streams[k].finish(parts[k]);
    Bytes marked;
    rans::put_varint(marked, kFormat + kNewest);
    parts[0].insert(parts[0].begin(), marked.begin(), marked.end());
}

bool decode(const uint8_t *const *data, const size_t *sizes, size_t n, int rest, const Steps &steps, float *rows) {
    const size_t width = 14 + 3 * static_cast<size_t>(rest);
    Block b(n, rest);
    Reader head(data[0], sizes[0]);
    const uint64_t marked = head.varint();
    int format = 1;
    size_t skip = 0;
    if (head.ok() && marked >= kFormat) {
        if (marked < kFormat + 2 || marked > kFormat + kNewest) return false;
        format = static_cast<int>(marked - kFormat);
        skip = sizes[0] - head.left();
    }
    const Rules p(steps, format);
    SymbolReader streams[kParts] = {{data[0] + skip, sizes[0] - skip}, {data[1], sizes[1]}, {data[2], sizes[2]}, {data[3], sizes[3]},
                                    {data[4], sizes[4]}, {data[5], sizes[5]}, {data[6], sizes[6]}, {data[7], sizes[7]}};
    if (!code_grid(streams[0], b)) return false;
    find_near(b.cells.data(), n, b.near.data());
    if (!(format >= 3 ? Attributes<SymbolReader>(streams, b, p, nullptr, rows, width).code() : read_early(streams, b, p, rows, width))) return false;
    for (int k = 0; k < 7; ++k) {
        if (!streams[k].finish()) return false;
    }
    if (format < 3) Sizes(b, p).rebuild(0, n, rows, width);
    SymbolReader &moves = streams[7];
    if (sizes[7] > 2 && n > 1) {
        const int bits = rans::bit_length(n - 1);
        std::vector<float> kept(rows, rows + n * width);
        std::vector<uint8_t> filled(n, 0);
        for (size_t i = 0; i < n; ++i) {
            const uint32_t to = moves.raw(0, bits);
            if (to >= n || filled[to]) return false;
            filled[to] = 1;
            std::copy_n(kept.data() + i * width, width, rows + to * width);
        }
    }
    return moves.finish();
}

}  // namespace compand::splat::ISA

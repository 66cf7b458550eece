// The body of encode and decode: one template for both, so that they cannot differ. Included once an instruction set.
#include <algorithm>
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

#include "splat/symbols_impl.hpp"
#include "splat/values_impl.hpp"
#include "splat/tree_impl.hpp"

constexpr int kGrid = 28;  // bits of a coordinate in a block
constexpr float kMostLog = 40, kOctave = 1.4426950408889634f;
constexpr int32_t kMostColour = 1 << 22;

inline size_t bucket(int32_t v) { return static_cast<size_t>(std::clamp(v + 8, 0, 15)); }

// What the decoder knows of each splat, in order of decoding.
struct Block {
    size_t n;
    int rest, position0 = 0;  // position0: exponent of the grid's step
    std::vector<uint32_t> points;  // writer: (n, 3) on the grid
    std::vector<Cell> cells;
    std::vector<uint32_t> near;
    std::vector<int32_t> scale[3], weight;  // longest first; weight: 1/m octaves of what a splat adds to a picture
    std::vector<uint32_t> alpha;
    std::vector<float> values;  // reader: rows

    explicit Block(size_t n, int rest) : n(n), rest(rest), cells(n), near(kNear * n), alpha(n) {
        for (auto &s : scale) s.resize(n);
        weight.resize(n);
    }
    template <class T> int32_t foretell(const T *v, size_t i) const {  // of rows near i
        if (i == 0) return 0;
        const uint32_t *at = near.data() + kNear * i;
        return static_cast<int32_t>((5 * static_cast<int64_t>(v[at[0]]) + 4 * static_cast<int64_t>(v[at[1]]) +
                                     4 * static_cast<int64_t>(v[at[2]]) + 3 * static_cast<int64_t>(v[at[3]]) + 8) >> 4);
    }
    template <class T> size_t spread(const T *v, size_t i, int32_t unit) const {  // of rows near i, by their distance in units
        const uint32_t *at = near.data() + kNear * i;
        int64_t least = v[at[0]], most = least;
        for (size_t k = 1; k < kNear; ++k) least = std::min<int64_t>(least, v[at[k]]), most = std::max<int64_t>(most, v[at[k]]);
        const int64_t wide = most - least;
        return wide <= unit * int64_t{2} ? 0 : wide <= unit * int64_t{6} ? 1 : wide <= unit * int64_t{16} ? 2 : 3;
    }
};

// A column of integers: its range first.
struct Column {
    int32_t low = 0;
    int nibbles = 1;
    template <class Coder> void range(Coder &coder, const int32_t *v, size_t n) {
        uint32_t span = 0;
        if constexpr (Coder::writes) {
            if (n) {
                const auto [least, most] = std::minmax_element(v, v + n);
                low = *least;
                span = static_cast<uint32_t>(*most - *least);
            }
        }
        low = static_cast<int32_t>(coder.raw(static_cast<uint32_t>(low), 32));
        nibbles = static_cast<int>(coder.raw(static_cast<uint32_t>((rans::bit_length(span) + 3) / 4), 4));
    }
    uint32_t offset(int32_t v) const {
        const int64_t most = (int64_t{1} << 4 * nibbles) - 1;
        return static_cast<uint32_t>(std::clamp<int64_t>(static_cast<int64_t>(v) - low, 0, most));
    }
    int32_t value(uint32_t v) const { return static_cast<int32_t>(static_cast<uint32_t>(low) + v); }
    bool bad() const { return nibbles > 7; }
};

constexpr uint64_t kFormat = uint64_t{1} << 41;  // with the format added: before the stream of the tree

int position_of(const Block &b, const Steps &p, size_t i) {  // exponent of the position's step, format 1
    return floor_of(8 * (b.scale[0][i] + b.scale[1][i]) / 2 - p.position * p.scale, 8 * p.scale);
}

int fine_position_of(const Block &b, const Steps &p, size_t i) {  // the same in 1/16, not a whole power of two
    return floor_of(16 * (16 * (b.scale[0][i] + b.scale[1][i]) + p.thin * b.scale[2][i]), (32 + p.thin) * p.scale) - 2 * p.position;
}

template <class Coder> bool code_grid(Coder &coder, Block &b) {
    b.position0 = static_cast<int>(coder.raw(static_cast<uint32_t>(b.position0 + 1024), 12)) - 1024;
    if (b.position0 < -400 || b.position0 > 400) return false;
    code_tree(coder, b.points.data(), b.n, kGrid, b.cells.data());
    return !coder.bad();
}

template <class Coder> bool code_scales(Coder &coder, Block &b, const Steps &p) {
    const size_t n = b.n;
    std::vector<int32_t> gap[2];
    for (int k = 0; k < 2; ++k) {
        gap[k].resize(n);
        if constexpr (Coder::writes) {
            for (size_t i = 0; i < n; ++i) gap[k][i] = b.scale[k][i] - b.scale[k + 1][i];
        }
    }
    std::vector<uint32_t> counts(3 * kGrid + 2, 0);  // the usual cell's level: density foretells size
    for (const Cell &c : b.cells) ++counts[static_cast<size_t>(c.level + 1)];
    int usual = 0;
    for (size_t seen = 0; usual < 3 * kGrid + 1 && (seen += counts[static_cast<size_t>(usual)]) < n / 2; ++usual) {}
    Column column[3];
    int32_t *v[3] = {b.scale[0].data(), gap[0].data(), gap[1].data()};
    std::vector<Number> number;
    for (int k = 0; k < 3; ++k) {
        column[k].range(coder, v[k], n);
        if (column[k].bad()) return false;
        number.emplace_back(column[k].nibbles, 16);
    }
    const bool old = p.format == 1;
    Surprise first, second, third, density;
    for (size_t i = 0; i < n && !coder.bad(); ++i) {
        const int32_t depth = b.cells[i].level + 1 - usual;
        size_t general = bucket(depth / 2);
        int32_t off[3] = {};
        for (int k = 0; k < 3; ++k) {
            const int32_t simple = b.foretell(v[k], i);
            int32_t more = 0;
            if (!old) more = k == 0 ? density.expect(depth) : k == 1 ? first.expect(off[0]) : second.expect(off[0]) + third.expect(off[1]);
            const uint32_t foretold = column[k].offset(simple + more);
            const uint32_t got = number[static_cast<size_t>(k)].code(coder, column[k].offset(v[k][i]), foretold, general,
                                                                     old ? 0 : b.spread(v[k], i, 1));
            v[k][i] = column[k].value(got);
            const int32_t left = v[k][i] - simple - more;
            if (old) {
                general = k == 0 ? bucket((static_cast<int32_t>(got) - static_cast<int32_t>(foretold)) / 2) : std::min<size_t>(got / 4, 15);
            } else if (k == 0) {
                density.learn(depth, v[0][i] - simple);
                off[0] = left;
                general = first.bucket(left);
                first.seen(left);
            } else if (k == 1) {
                first.learn(off[0], v[1][i] - simple);
                off[1] = left;
                general = std::min<size_t>(got * 4 / static_cast<uint32_t>(p.scale), 15);
            } else {
                second.learn(off[0], v[2][i] - simple - third.expect(off[1]));
                third.learn(off[1], v[2][i] - simple - second.expect(off[0]));
            }
        }
        if constexpr (!Coder::writes) {
            for (int k = 0; k < 3; ++k) v[k][i] = std::clamp(v[k][i], -(1 << 17), 1 << 17);
            b.scale[1][i] = b.scale[0][i] - gap[0][i];
            b.scale[2][i] = b.scale[1][i] - gap[1][i];
        }
    }
    return !coder.bad();
}

template <class Coder> bool code_opacity(Coder &coder, Block &b, const Steps &p) {
    const int nibbles = (rans::bit_length(static_cast<uint32_t>(p.opacity - 1)) + 3) / 4;
    Number number(nibbles, 16);
    const bool old = p.format == 1;
    Surprise size;
    for (size_t i = 0; i < b.n && !coder.bad(); ++i) {
        const int32_t off = b.scale[0][i] - b.foretell(b.scale[0].data(), i), simple = b.foretell(b.alpha.data(), i);
        const size_t general = bucket(off * 2 / p.scale);
        const int32_t foretold = old ? simple : std::clamp(simple + size.expect(off), 0, p.opacity - 1);
        b.alpha[i] = number.code(coder, b.alpha[i], static_cast<uint32_t>(foretold), general, old ? 0 : b.spread(b.alpha.data(), i, 1));
        if (b.alpha[i] >= static_cast<uint32_t>(p.opacity)) return false;
        size.learn(off, static_cast<int32_t>(b.alpha[i]) - simple);
    }
    return !coder.bad();
}

// One of `cells` cells as a symbol of at most 16, another of at most 16 of what is left, and the rest as it is.
struct Refined {
    Slot top{17, 17 * 17 * 2}, next{17, 17 * 17};

    // said: where it is foretold, in 1/65536, or more if nothing is known; close: whether what came before was foretold well.
    template <class Coder> uint32_t code(Coder &coder, uint32_t v, uint32_t cells, uint32_t said, size_t &close) {
        if (cells <= 1) return 0;
        const uint32_t parts = cells < 16 ? cells : 16, guess = said >> 16 ? 16 : said * parts >> 16;
        uint32_t s = ((v + 1) * parts - 1) / cells;
        s = coder.symbol(s, top, parts, (parts * 17 + guess) * 2 + close);
        if (s >= parts) return cells;
        close = s == guess;
        uint32_t low = s * cells / parts, left = (s + 1) * cells / parts - low;
        if (left <= 1) return low;
        const uint32_t smaller = left < 16 ? left : 16;
        uint32_t follow = 16;
        if (s == guess) {
            const uint32_t at = static_cast<uint32_t>(static_cast<uint64_t>(said) * cells >> 16);
            follow = at <= low ? 0 : at >= low + left ? smaller - 1 : (at - low) * smaller / left;
        }
        s = Coder::writes ? ((v - low + 1) * smaller - 1) / left : 0;
        s = coder.symbol(s, next, smaller, smaller * 17 + follow);
        if (s >= smaller) return cells;
        const uint32_t from = s * left / smaller;
        left = (s + 1) * left / smaller - from;
        low += from;
        return low + coder.even(v - low, left);
    }
};

template <class Coder> bool code_turns(Coder &coder, const Block &b, const Steps &p, const float *rows, float *out, size_t width) {
    const size_t n = b.n;
    std::vector<uint32_t> seen(2 * n);  // cells of the odd axis, 16 bits
    std::vector<uint8_t> kind(n);
    Refined odd[2], turn;
    for (size_t i = 0; i < n && !coder.bad(); ++i) {
        const int32_t d0 = b.scale[0][i] - b.scale[1][i], d1 = b.scale[1][i] - b.scale[2][i];
        const bool needle = d0 > d1;
        const uint32_t cells = cells_for(d0 + d1, p.scale, p.rotation, p.turn);
        const uint32_t turn_cells = cells_for(needle ? d1 : d0, p.scale, p.rotation, p.turn, needle ? d0 : 0);
        kind[i] = needle;
        Turned r{};
        if constexpr (Coder::writes) {
            const float *row = rows + i * width;
            int order[3] = {0, 1, 2};
            std::stable_sort(order, order + 3, [&](int l, int k) { return row[3 + l] > row[3 + k]; });
            r = turned(frame_of(row + 6, order), needle, cells, turn_cells);
        }
        const uint32_t *near = b.near.data() + kNear * i, *model = nullptr;
        for (size_t k = 0; k < kNear && !model && i > 0; ++k) {
            if (kind[near[k]] == needle) model = seen.data() + 2 * near[k];
        }
        size_t close = 0;
        r.u = odd[0].code(coder, r.u, cells, model ? model[0] : 1u << 16, close);
        r.v = odd[1].code(coder, r.v, cells, model ? model[1] : 1u << 16, close);
        close = 0;
        r.t = turn.code(coder, r.t, turn_cells, 1u << 16, close);
        if (r.u >= cells || r.v >= cells || r.t >= turn_cells) return false;
        seen[2 * i] = static_cast<uint32_t>(((uint64_t{r.u} << 1) + 1) * 32768 / cells);
        seen[2 * i + 1] = static_cast<uint32_t>(((uint64_t{r.v} << 1) + 1) * 32768 / cells);
        if constexpr (!Coder::writes) quaternion(frame_of(r, needle, cells, turn_cells), out + i * width + 6);
    }
    return !coder.bad();
}

// Format 1 is only read.
template <class Reader> bool read_rotations(Reader &coder, const Block &b, const Steps &p, float *out, size_t width) {
    const size_t n = b.n;
    std::vector<uint32_t> seen(2 * n);  // cells of the odd axis, 16 bits
    std::vector<uint8_t> kind(n);
    Slot top[2] = {Slot(5, 5 * 17 * 2), Slot(5, 5 * 17 * 2)}, next[2] = {Slot(5, 5 * 17), Slot(5, 5 * 17)}, turn(5, 1);
    for (size_t i = 0; i < n && !coder.bad(); ++i) {
        const int32_t d0 = b.scale[0][i] - b.scale[1][i], d1 = b.scale[1][i] - b.scale[2][i];
        const bool needle = d0 > d1;
        const int bits = bits_for(d0 + d1, p.scale, p.rotation / 16), turn_bits = bits_for(needle ? d1 : d0, p.scale, p.rotation / 16);
        kind[i] = needle;
        Turned r{};
        const uint32_t *near = b.near.data() + kNear * i;
        const uint32_t *model = nullptr;
        for (size_t k = 0; k < kNear && !model && i > 0; ++k) {
            if (kind[near[k]] == needle) model = seen.data() + 2 * near[k];
        }
        uint32_t *cell[2] = {&r.u, &r.v};
        size_t close = 0;
        for (int k = 0; k < 2; ++k) {
            const int first = std::min(bits, 4), second = std::min(bits - first, 4), last = bits - first - second;
            const auto c = static_cast<size_t>(first);
            const size_t said = model ? model[k] >> (16 - first) : 16;
            uint32_t s = first ? coder.symbol(0, top[k], c, (c * 17 + said) * 2 + close) : 0;
            if (first && s >= 1u << first) return false;
            close = s == said;
            if (second > 0) {
                const size_t follow = s == said ? model[k] >> (12 - second) & ((1u << second) - 1) : 16;
                const uint32_t t = coder.symbol(0, next[k], static_cast<size_t>(second), static_cast<size_t>(second) * 17 + follow);
                if (t >= 1u << second) return false;
                s = s << second | t;
            }
            if (last > 0) s = s << last | coder.raw(0, last);
            *cell[k] = s;
            seen[2 * i + static_cast<size_t>(k)] = bits <= 16 ? s << (16 - bits) | (bits < 16 ? 1u << (15 - bits) : 0) : s >> (bits - 16);
        }
        if (turn_bits) {
            const int first = std::min(turn_bits, 4), last = turn_bits - first;
            uint32_t s = coder.symbol(0, turn, static_cast<size_t>(first), 0);
            if (s >= 1u << first) return false;
            if (last > 0) s = s << last | coder.raw(0, last);
            r.t = s;
        }
        quaternion(frame_of(r, needle, 1u << bits, 1u << turn_bits), out + i * width + 6);
    }
    return !coder.bad();
}

int shift_of(const Block &b, const Steps &p, size_t i) {  // half octaves by which the steps of colour are wider
    return std::clamp(floor_of((p.reference - b.weight[i]) * p.adapt, 16 * p.scale), -6, 12);
}

constexpr int kFine = 16;  // colours foretold in 1/16 of the reference step

template <class Coder> bool code_colours(Coder &coder, const Block &b, const Steps &p, const float *rows, float *out, size_t width) {
    const size_t n = b.n;
    std::vector<int32_t> q[3], fine[3];
    int32_t unit[32];
    for (int h = -6; h <= 12; ++h) unit[h + 6] = nearest(kFine * half_power(h), 1 << 20);
    for (int k = 0; k < 3; ++k) q[k].resize(n), fine[k].resize(n);
    if constexpr (Coder::writes) {
        for (size_t i = 0; i < n; ++i) {
            double c[3];
            opponent(rows + i * width + 11, c);
            const double step = p.colour * half_power(shift_of(b, p, i));
            for (int k = 0; k < 3; ++k) q[k][i] = nearest(c[k] / step, kMostColour);
        }
    }
    Column column[3];
    std::vector<Number> number;
    for (int k = 0; k < 3; ++k) {
        column[k].range(coder, q[k].data(), n);
        if (column[k].bad()) return false;
        number.emplace_back(column[k].nibbles, 16);
    }
    const bool old = p.format == 1;
    Surprise first, second, third;
    for (size_t i = 0; i < n && !coder.bad(); ++i) {
        const int h = shift_of(b, p, i);
        const int32_t u = unit[h + 6];
        size_t general = static_cast<size_t>(std::clamp(h + 6, 0, 15));
        int32_t off[3] = {};
        for (int k = 0; k < 3; ++k) {
            const int32_t simple = floor_of(b.foretell(fine[k].data(), i) + u / 2, u);
            int32_t more = 0;
            if (!old && k) more = k == 1 ? first.expect(off[0]) : second.expect(off[0]) + third.expect(off[1]);
            const uint32_t foretold = column[k].offset(simple + more);
            const uint32_t got = number[static_cast<size_t>(k)].code(coder, column[k].offset(q[k][i]), foretold, general,
                                                                     old ? 0 : b.spread(fine[k].data(), i, u));
            q[k][i] = std::clamp(column[k].value(got), -kMostColour, kMostColour);
            fine[k][i] = static_cast<int32_t>(std::clamp<int64_t>(int64_t{q[k][i]} * u, -(1 << 28), 1 << 28));
            if (old) {
                general = bucket(static_cast<int32_t>(got) - static_cast<int32_t>(foretold));
                continue;
            }
            const int32_t left = q[k][i] - simple - more;
            off[k] = left;
            Surprise &size = k == 0 ? first : second;
            if (k < 2) general = size.bucket(left), size.seen(left);
            if (k == 1) first.learn(off[0], q[1][i] - simple);
            if (k == 2) {
                second.learn(off[0], q[2][i] - simple - third.expect(off[1]));
                third.learn(off[1], q[2][i] - simple - second.expect(off[0]));
            }
        }
        if constexpr (!Coder::writes) {
            const double step = p.colour * half_power(h), c[3] = {q[0][i] * step, q[1][i] * step, q[2][i] * step};
            colour(c, out + i * width + 11);
        }
    }
    return !coder.bad();
}

// Harmonics as coefficients of the scene's own basis, the strongest first: how many until the last that is not zero, then each.
template <class Coder> bool code_harmonics(Coder &coder, const Block &b, const Steps &p, const float *rows, float *out, size_t width) {
    const auto wide = static_cast<size_t>(3 * b.rest), rank = static_cast<size_t>(p.rank);
    if (wide == 0) return true;
    if (rank == 0) {
        for (size_t i = 0; i < b.n && !Coder::writes; ++i) std::fill_n(out + i * width + 14, wide, 0.0f);
        return true;
    }
    const size_t n = b.n;
    std::vector<int16_t> kept(n * rank);
    std::vector<uint32_t> count(n);
    Number length(2, 20);
    Slot value(rank * 5, 8 * 9 * 3), more(1, 1);
    for (size_t i = 0; i < n && !coder.bad(); ++i) {
        const int h = shift_of(b, p, i);
        const double step = p.harmonics * half_power(h);
        int16_t *q = kept.data() + i * rank;
        if constexpr (Coder::writes) {
            constexpr double least = 0.36;  // rounds up from 1 - 0.36: a dead zone against the rate of small values
            const float *x = rows + i * width + 14;
            for (size_t k = 0; k < rank; ++k) {
                double sum = 0;
                for (size_t j = 0; j < wide; ++j) sum += static_cast<double>(p.basis[k * wide + j]) * x[j];
                const double v = sum / step, m = v < 0 ? -v : v;
                const int32_t whole = nearest(m - (0.5 - least), 4000);
                q[k] = static_cast<int16_t>(v < 0 ? -whole : whole);
                if (whole > 0) count[i] = static_cast<uint32_t>(k + 1);
            }
        }
        const auto by = static_cast<size_t>(std::clamp(h + 6, 0, 19));
        count[i] = length.code(coder, count[i], static_cast<uint32_t>(b.foretell(count.data(), i)), by);
        if (count[i] > rank) return false;
        const uint32_t *near = b.near.data() + kNear * i;
        const int16_t *around[3] = {kept.data() + near[0] * rank, kept.data() + near[1] * rank, kept.data() + near[2] * rank};
        size_t before = 0;
        for (size_t k = 0; k < count[i]; ++k) {
            const int sum = i ? around[0][k] + around[1][k] + around[2][k] : 0;
            const auto said = static_cast<size_t>(std::clamp(sum, -4, 4) + 4);
            const bool last = k + 1 == count[i];
            const uint32_t z = static_cast<uint32_t>(int32_t{q[k]} << 1 ^ int32_t{q[k]} >> 31);
            uint32_t s = coder.symbol(std::min(z, 15u), value, k * 5 + (last ? 4 : std::min<size_t>(by / 4, 3)),
                                      (std::min<size_t>(k, 7) * 9 + said) * 3 + before);
            if (s == 15) {
                uint32_t over = z < 15 ? 0 : z - 15, part;
                do {
                    part = coder.symbol(std::min(over, 15u), more, 0, 0);
                    over -= part;
                    s += part;
                } while (part == 15 && s < 16000);
            }
            q[k] = static_cast<int16_t>(s >> 1 ^ (~(s & 1) + 1));
            before = s == 0 ? 0 : s < 3 ? 1 : 2;
            if (coder.bad()) return false;
        }
        if constexpr (!Coder::writes) {
            float sum[3 * kMostRest] = {}, *to = out + i * width + 14;
            for (size_t k = 0; k < count[i]; ++k) {
                if (q[k] == 0) continue;
                const auto by_much = static_cast<float>(q[k] * step);
                const float *row = p.basis + k * wide;
                for (size_t j = 0; j < wide; ++j) sum[j] += by_much * row[j];
            }
            std::copy_n(sum, wide, to);
        }
    }
    return !coder.bad();
}

// Format 1 is only read.
template <class Reader> bool read_places(Reader &coder, const Block &b, const Steps &p, float *out, size_t width) {
    const double unit = power(b.position0);
    for (size_t i = 0; i < b.n; ++i) {
        const int coarse = std::clamp(position_of(b, p, i) - b.position0, 0, kGrid);
        for (int a = 0; a < 3; ++a) {
            const int open = b.cells[i].undecided(a), bits = std::max(0, open - coarse), left = std::min(open, coarse);
            const uint32_t v = b.cells[i].at[a] | (bits ? coder.raw(0, bits) : 0) << left;
            const double middle = static_cast<double>(v) - (1 << (kGrid - 1)) + 0.5 * static_cast<double>(uint32_t{1} << left);
            out[i * width + static_cast<size_t>(a)] = static_cast<float>(middle * unit);
        }
    }
    return !coder.bad();
}

template <class Coder> bool code_places(Coder &coder, const Block &b, const Steps &p, float *out, size_t width) {
    const double unit = power(b.position0);
    for (size_t i = 0; i < b.n; ++i) {
        const int e = std::clamp(fine_position_of(b, p, i) - 16 * b.position0, 0, 16 * kGrid);
        const uint64_t step = sixteenth_power(e);
        for (int a = 0; a < 3; ++a) {
            const int open = b.cells[i].undecided(a);
            const uint64_t whole = uint64_t{65536} << open;
            const auto cells = static_cast<uint32_t>((whole + step - 1) / step);
            const uint32_t from = b.cells[i].at[a];
            uint32_t at = 0;
            if constexpr (Coder::writes) {
                const uint32_t v = b.points[3 * i + static_cast<size_t>(a)] - from;
                at = static_cast<uint32_t>((2 * uint64_t{v} + 1) * cells >> (open + 1));
            }
            at = coder.even(at, cells);
            if constexpr (!Coder::writes) {
                const double inside = (static_cast<double>(at) + 0.5) / static_cast<double>(cells) * static_cast<double>(uint32_t{1} << open);
                out[i * width + static_cast<size_t>(a)] =
                    static_cast<float>((static_cast<double>(from) - (1 << (kGrid - 1)) + inside) * unit);
            }
        }
    }
    return !coder.bad();
}

double root_of(const Steps &p, double level) {  // the root of the alpha of a level
    const double at = level / p.opacity;
    return p.even ? std::sqrt(at) : at;
}

void weigh(Block &b, const Steps &p) {  // after scales and opacity
    std::vector<int32_t> of(static_cast<size_t>(p.opacity));
    for (size_t a = 0; a < of.size(); ++a) {
        of[a] = nearest(4.0 * p.scale * 1.4426950408889634 * log_of(root_of(p, static_cast<double>(a) + 0.5)), 1 << 20);
    }
    for (size_t i = 0; i < b.n; ++i) b.weight[i] = b.scale[0][i] + b.scale[1][i] + of[b.alpha[i]];
}

// Grid and points of the rows: cells of one grid around the origin, so that a coarser grid keeps their order.
void place_points(Block &b, const Steps &p, const float *rows, size_t width) {
    double most = 0;
    int exponent = 400;
    for (size_t i = 0; i < b.n; ++i) {
        for (size_t a = 0; a < 3; ++a) most = std::max(most, std::fabs(static_cast<double>(rows[i * width + a])));
        exponent = std::min(exponent, floor_of(fine_position_of(b, p, i), 16) - 4);
    }
    exponent = std::max(exponent, -400);
    while (most >= power(exponent + kGrid - 1)) ++exponent;
    b.position0 = exponent;
    b.points.resize(3 * b.n);
    const double scale = power(-exponent);
    for (size_t i = 0; i < b.n; ++i) {
        for (size_t a = 0; a < 3; ++a) {
            const double v = std::floor(static_cast<double>(rows[i * width + a]) * scale);
            b.points[3 * i + a] = static_cast<uint32_t>(static_cast<int32_t>(v) + (1 << (kGrid - 1)));
        }
    }
}

}  // namespace

void encode(const float *given, size_t n, int rest, const Steps &p, Bytes *parts) {
    const size_t width = 14 + 3 * static_cast<size_t>(rest);
    Block b(n, rest);
    const auto scales = [&](const float *row, int32_t *s) {
        for (int k = 0; k < 3; ++k) s[k] = nearest(std::clamp(row[3 + k], -kMostLog, kMostLog) * kOctave * static_cast<float>(p.scale), 1 << 15);
        std::sort(s, s + 3, [](int32_t x, int32_t y) { return x > y; });
    };
    const auto set_scales = [&](const float *rows) {
        for (size_t i = 0; i < n; ++i) {
            int32_t s[3];
            scales(rows + i * width, s);
            for (int k = 0; k < 3; ++k) b.scale[k][i] = s[k];
        }
    };
    set_scales(given);
    place_points(b, p, given, width);
    // rows in the order of the tree
    std::vector<uint32_t> order(n);
    for (size_t i = 0; i < n; ++i) order[i] = static_cast<uint32_t>(i);
    const uint32_t *points = b.points.data();
    bool sorted = true;
    for (size_t i = 1; i < n && sorted; ++i) sorted = !before(points + 3 * i, points + 3 * (i - 1));
    std::vector<float> moved;
    const float *rows = given;
    if (!sorted) {
        std::stable_sort(order.begin(), order.end(), [&](uint32_t x, uint32_t y) { return before(points + 3 * x, points + 3 * y); });
        moved.resize(n * width);
        std::vector<uint32_t> at(3 * n);
        for (size_t i = 0; i < n; ++i) {
            std::copy_n(given + order[i] * width, width, moved.data() + i * width);
            std::copy_n(points + 3 * order[i], 3, at.data() + 3 * i);
        }
        b.points.swap(at);
        rows = moved.data();
        set_scales(rows);
    }
    Writer tree, scale, opacity, rotation, colours, harmonics, fine, moves;
    code_grid(tree, b);
    find_near(b.cells.data(), n, b.near.data());
    code_scales(scale, b, p);
    std::vector<double> edge(static_cast<size_t>(p.opacity));  // logits between levels
    for (size_t a = 1; a < edge.size(); ++a) edge[a] = logit_of(root_of(p, static_cast<double>(a)));
    for (size_t i = 0; i < n; ++i) {
        b.alpha[i] = static_cast<uint32_t>(std::upper_bound(edge.begin() + 1, edge.end(), static_cast<double>(rows[i * width + 10])) - edge.begin() - 1);
    }
    code_opacity(opacity, b, p);
    weigh(b, p);
    code_turns(rotation, b, p, rows, nullptr, width);
    code_colours(colours, b, p, rows, nullptr, width);
    code_harmonics(harmonics, b, p, rows, nullptr, width);
    code_places(fine, b, p, nullptr, width);
    Writer *writers[kParts] = {&tree, &scale, &opacity, &rotation, &colours, &harmonics, &fine, &moves};
    if (!sorted) {
        for (uint32_t v : order) moves.raw(v, rans::bit_length(n - 1));
    }
    for (int k = 0; k < kParts; ++k) writers[k]->finish(parts[k]);
    Bytes marked;
    rans::put_varint(marked, kFormat + 2);
    parts[0].insert(parts[0].begin(), marked.begin(), marked.end());
}

bool decode(const uint8_t *const *data, const size_t *sizes, size_t n, int rest, const Steps &steps, float *rows) {
    const size_t width = 14 + 3 * static_cast<size_t>(rest);
    Block b(n, rest);
    Steps p = steps;
    Reader head(data[0], sizes[0]);
    const uint64_t format = head.varint();
    size_t skip = 0;
    if (head.ok() && format >= kFormat) {
        if (format != kFormat + 2) return false;
        skip = sizes[0] - head.left();
    } else {
        p.format = 1;
    }
    SymbolReader tree(data[0] + skip, sizes[0] - skip), scale(data[1], sizes[1]), opacity(data[2], sizes[2]), rotation(data[3], sizes[3]),
        colours(data[4], sizes[4]), harmonics(data[5], sizes[5]), fine(data[6], sizes[6]), moves(data[7], sizes[7]);
    if (!code_grid(tree, b) || !tree.finish()) return false;
    find_near(b.cells.data(), n, b.near.data());
    if (!code_scales(scale, b, p) || !scale.finish() || !code_opacity(opacity, b, p) || !opacity.finish()) return false;
    weigh(b, p);
    std::vector<double> logit(static_cast<size_t>(p.opacity));
    for (size_t a = 0; a < logit.size(); ++a) {
        logit[a] = logit_of(root_of(p, static_cast<double>(a) + 0.5));
    }
    const double nepers = 0.6931471805599453 / p.scale;
    for (size_t i = 0; i < n; ++i) {
        float *row = rows + i * width;
        for (int k = 0; k < 3; ++k) row[3 + k] = static_cast<float>(b.scale[k][i] * nepers);
        row[10] = static_cast<float>(logit[b.alpha[i]]);
    }
    if (!(p.format == 1 ? read_rotations(rotation, b, p, rows, width) : code_turns(rotation, b, p, nullptr, rows, width)) ||
        !rotation.finish()) {
        return false;
    }
    if (!code_colours(colours, b, p, nullptr, rows, width) || !colours.finish()) return false;
    if (!code_harmonics(harmonics, b, p, nullptr, rows, width) || !harmonics.finish()) return false;
    if (!(p.format == 1 ? read_places(fine, b, p, rows, width) : code_places(fine, b, p, rows, width)) || !fine.finish()) return false;
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

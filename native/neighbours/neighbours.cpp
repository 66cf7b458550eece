#include "neighbours/neighbours.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <vector>

#include "neighbours/column.hpp"
#include "neighbours/streams.hpp"

namespace compand::neighbours {

namespace {
#include "rans/curves.inc"

// Of at most kWindow rows before one, those that lie closest (sum of distances along the axes), nearest first.
class Near {
public:
    Near(size_t n, size_t axes) : n_(n), axes_(axes), at_(n * axes) {}
    void place(size_t i, size_t axis, int32_t where) { at_[axis * n_ + i] = where; }
    // 0 < i; fewer than kNearest rows are there: the last again
    void find(size_t i, std::array<uint32_t, kNearest> &found) {
        const size_t from = i > kWindow ? i - kWindow : 0;
        size_t have = 0;
        uint32_t best[kNearest], away[kChunk];
        for (size_t end = i; end > from;) {  // the latest first
            const size_t start = end > from + kChunk ? end - kChunk : from, count = end - start;
            std::fill_n(away, count, 0u);
            for (size_t a = 0; a < axes_; ++a) {
                const int32_t here = at_[a * n_ + i], *there = &at_[a * n_ + start];
                for (size_t k = 0; k < count; ++k) {
                    const int32_t d = here - there[k];
                    away[k] += static_cast<uint32_t>(d < 0 ? -d : d);
                }
            }
            for (size_t k = count; k-- > 0;) {
                if (have == kNearest && away[k] >= best[kNearest - 1]) continue;
                size_t to = have < kNearest ? have++ : kNearest - 1;
                for (; to > 0 && best[to - 1] > away[k]; --to) best[to] = best[to - 1], found[to] = found[to - 1];
                best[to] = away[k];
                found[to] = static_cast<uint32_t>(start + k);
            }
            end = start;
        }
        for (; have < kNearest; ++have) found[have] = found[have - 1];
    }

private:
    static constexpr size_t kChunk = 256;
    size_t n_, axes_;
    std::vector<int32_t> at_;
};

// What is usual for a column: the mean, over the last rows, of how far off foretelling was, in 1/16.
struct Usual {
    uint64_t mean = 16 << 10;
    uint32_t seen = 0;
    void learn(uint64_t off) {
        if (seen < 255) ++seen;
        mean += static_cast<uint64_t>((static_cast<int64_t>(16 * off) - static_cast<int64_t>(mean)) / static_cast<int64_t>(seen));
        if (mean < 1) mean = 1;
    }
};

constexpr size_t kScales = 128;
inline size_t quarters(uint64_t v) {  // of octaves, of v in 1/16
    const int bits = bit_length(v);
    return bits < 3 ? static_cast<size_t>(v) : std::min<size_t>(4 * static_cast<size_t>(bits - 2) + (v >> (bits - 3) & 3), kScales - 1);
}

// Foretells the values of a row, one column after the other.
class Means {
public:
    Means(size_t n, size_t d, size_t axes) : d_(d), axes_(axes), near_(n, axes), values_(n * d), usual_(d) {}
    const int32_t *row(size_t i) const { return &values_[i * d_]; }
    void place(size_t i, size_t axis, int32_t where) { near_.place(i, axis, where); }
    void at(size_t i) { i_ = i; }
    void begin(size_t i) {
        if (i == 0) return;
        near_.find(i, found_);
        for (size_t k = 0; k < kNearest; ++k) off_[k] = kFirst * (k + 2);
    }
    // The mean of the neighbours, and how far apart they are, in 1/16
    int32_t mean(size_t j, uint64_t &apart) {
        if (i_ == 0 || j < axes_) {
            apart = i_ == 0 ? 0 : usual_[j].mean;
            return i_ == 0 ? 0 : values_[(i_ - 1) * d_ + j];
        }
        int64_t sum = 0, total = 0;
        uint32_t w[kNearest];
        for (size_t k = 0; k < kNearest; ++k) {
            w[k] = static_cast<uint32_t>((uint64_t{1} << 36) / ((off_[k] + kLeast) * (off_[k] + kLeast) >> kSoft)) + 1;
            from_[k] = values_[found_[k] * d_ + j];
            sum += int64_t{from_[k]} * w[k];
            total += w[k];
        }
        const int64_t m = sum / total;
        uint64_t spread = 0;
        for (size_t k = 0; k < kNearest; ++k) spread += static_cast<uint64_t>(std::abs(from_[k] - m)) * w[k];
        apart = 16 * spread / static_cast<uint64_t>(total);
        return static_cast<int32_t>(m);
    }
    void learn(size_t j, int32_t v, int32_t mean) {
        values_[i_ * d_ + j] = v;
        const uint64_t usual = usual_[j].mean;
        if (i_ > 0 && j >= axes_) {
            for (size_t k = 0; k < kNearest; ++k) {
                const uint64_t d = std::min<uint64_t>(4096 * static_cast<uint64_t>(std::abs(int64_t{from_[k]} - v)) / usual, 1024);
                off_[k] += (d * d >> 4) - (off_[k] >> 5);
            }
        }
        if (v) usual_[j].learn(static_cast<uint64_t>(std::abs(int64_t{v} - mean)));
    }
    void repeat(size_t i) { std::copy_n(&values_[(i - 1) * d_], d_, &values_[i * d_]); }

private:
    static constexpr uint64_t kFirst = 500, kLeast = 300;
    static constexpr int kSoft = 10;
    size_t d_, axes_, i_ = 0;
    Near near_;
    std::vector<int32_t> values_;
    std::vector<Usual> usual_;
    std::array<uint32_t, kNearest> found_{};
    uint64_t off_[kNearest] = {};
    int32_t from_[kNearest] = {};
};

// Codes values minus what was foretold, and what is left of a value's bits.
class Values {
public:
    explicit Values(size_t d) : lengths_({kScales, kScales, d * 32, 64 * 64, kScales, kScales * 4}), usual_(d), sign_(d), fine_(kLengths * 8 * 16),
                                zero_(4), low_(256),
                                none_(2 * d) {}
    void begin() { run_ = 256, nothing_ = 0; }

    template <class Coder> uint32_t code(Coder &coder, const Column &c, size_t j, uint32_t word, int32_t foretold, uint64_t apart) {
        nothing_ = coder.bit(!word, none_[2 * j + nothing_], 250);
        if (nothing_) return 0;
        const int64_t v = Coder::writes ? c.value(word) : 0;
        const int64_t got = foretold + offset(coder, j, v - foretold, apart);
        if (c.kind != kTails) return c.word(static_cast<int32_t>(std::clamp<int64_t>(got, -(1 << 28), 1 << 28)));
        return tail(coder, c, word, got);
    }

private:
    static constexpr size_t kLengths = 32;
    template <class Coder> int64_t offset(Coder &coder, size_t j, int64_t r, uint64_t apart) {
        uint64_t m = static_cast<uint64_t>(r < 0 ? -r : r);
        const uint64_t usual = usual_[j].mean, row = run_ * usual >> 8;
        const size_t a = quarters(row), b = quarters(apart), u = quarters(usual), both = (a + b) / 2;
        const size_t rel = static_cast<size_t>(std::clamp<int>(static_cast<int>(both) - static_cast<int>(u) + 16, 0, 31));
        const int k = lengths_.code(coder, bit_length(m), {a, b, j * 32 + rel, (a / 2) * 64 + b / 2, both, both * 4 + std::min<size_t>(last_, 3)});
        if (k > 0) {
            const bool negative = coder.bit(r < 0, sign_[j], 250);
            const int known = std::min(k - 1, 3);
            uint32_t node = 1;
            const size_t from = std::clamp<int>(static_cast<int>(both) / 2 - 2 * k + 8, 0, 15);
            for (int d = 0; d < known; ++d) {
                Bit &bit = fine_[(static_cast<size_t>(k) * 16 + from) * 8 + node];
                node = 2 * node + static_cast<uint32_t>(coder.bit(m >> (k - 2 - d) & 1, bit, 250));
            }
            uint64_t got = node;
            const int rest = k - 1 - known;
            if (rest > 0) got = got << rest | coder.raw(static_cast<uint32_t>(m & ((uint64_t{1} << rest) - 1)), rest);
            m = got;
            r = negative ? -static_cast<int64_t>(m) : static_cast<int64_t>(m);
        } else {
            m = 0, r = 0;
        }
        usual_[j].learn(m);
        const uint64_t share = std::min<uint64_t>(4096 * m / usual, 256 * 6);
        run_ = run_ + (share >> 4) - (run_ >> 4);
        last_ = share < 64 ? 0 : share < 200 ? 1 : share < 500 ? 2 : 3;
        return r;
    }

    // The bits of a value of which its step is known
    template <class Coder> uint32_t tail(Coder &coder, const Column &c, uint32_t word, int64_t v) {
        const uint32_t sign = v < 0 ? 0x80000000u : 0;
        const int64_t b = v < 0 ? -1 - v : v;
        if (b >= kOutside) return coder.raw(word, 32);
        if (b > 0) {
            const int whole = bit_length(static_cast<uint64_t>(b)) - 1, below = 23 - whole;
            const uint32_t low = coder.raw(word, below);
            return sign | static_cast<uint32_t>(c.top - below) << 23 | ((static_cast<uint32_t>(b) << below | (below ? low & ((1u << below) - 1) : 0)) & 0x7fffff);
        }
        const int most = c.top - 24, e = std::max(most - exponent(word), 0);  // the smaller, the rarer; all of it for nothing at all
        const bool none = coder.bit(!(word & 0x7fffffff), zero_[zero_last_ & 3], 250);
        zero_last_ = zero_last_ << 1 | none;
        if (none) return sign;
        int down = 0;
        while (down < most && coder.bit(down < e, low_[static_cast<size_t>(down)])) ++down;
        return sign | static_cast<uint32_t>(most - down) << 23 | coder.raw(word & 0x7fffff, 23);
    }

    Tree lengths_;
    std::vector<Usual> usual_;
    std::vector<Bit> sign_, fine_, zero_, low_, none_;
    uint64_t run_ = 256;
    int nothing_ = 0;
    size_t last_ = 1;
    unsigned zero_last_ = 0;
};

// Weights of what the columns before were off: least squares over all rows, each weighed by how well it was foretold.
void fit(const std::vector<int32_t> &off, size_t n, size_t d, size_t axes, std::vector<Column> &columns) {
    std::vector<double> usual(d, 1e-9), weight(n, 1.0), products(d * (kBack + 1), 0.0);
    for (size_t i = 0; i < n; ++i) {
        for (size_t j = axes; j < d; ++j) usual[j] += std::fabs(static_cast<double>(off[i * d + j])) / static_cast<double>(n);
    }
    for (size_t i = 0; i < n; ++i) {
        double sum = 0.1;
        for (size_t j = axes; j < d; ++j) sum += std::fabs(off[i * d + j] / usual[j]) / static_cast<double>(d);
        weight[i] = 1 / sum;
        for (size_t j = axes; j < d; ++j) {
            const double x = off[i * d + j] / usual[j] * weight[i];
            for (size_t k = 0; k <= std::min(kBack, j - axes); ++k) products[j * (kBack + 1) + k] += x * (off[i * d + j - k] / usual[j - k]);
        }
    }
    for (size_t j = axes; j < d; ++j) {
        const size_t m = std::min(kBack, j - axes);
        columns[j].back.assign(m, 0);
        double a[kBack][kBack + 1];
        for (size_t r = 0; r < m; ++r) {
            for (size_t s = 0; s < m; ++s) {
                const size_t late = j - 1 - std::min(r, s), apart = r > s ? r - s : s - r;
                a[r][s] = products[late * (kBack + 1) + apart];
            }
            a[r][r] = a[r][r] * 1.001 + 1e-3 * static_cast<double>(n) + 1;
            a[r][m] = products[j * (kBack + 1) + r + 1];
        }
        double most = 0, w[kBack];
        for (size_t r = 0; r < m; ++r) {  // positive definite: no pivots
            for (size_t s = r + 1; s < m; ++s) {
                const double f = a[s][r] / a[r][r];
                for (size_t t = r; t <= m; ++t) a[s][t] -= f * a[r][t];
            }
        }
        for (size_t r = m; r-- > 0;) {
            double x = a[r][m];
            for (size_t s = r + 1; s < m; ++s) x -= a[r][s] * w[s];
            w[r] = x / a[r][r];
        }
        for (size_t r = 0; r < m; ++r) {
            w[r] *= usual[j] / usual[j - 1 - r];
            if (!(std::fabs(w[r]) < 1e6)) w[r] = 0;
            most = std::max(most, std::fabs(w[r]));
        }
        int shift = 0;
        while (shift < 31 && most * static_cast<double>(uint64_t{2} << shift) < 1000) ++shift;
        columns[j].shift = shift;
        for (size_t r = 0; r < m; ++r) {
            const double x = w[r] * static_cast<double>(uint64_t{1} << shift);
            columns[j].back[r] = static_cast<int16_t>(std::clamp(std::floor(x + 0.5), -32767.0, 32767.0));
        }
    }
}

template <class Coder>
void rows(Coder &coder, const std::vector<Column> &columns, int top, size_t n, size_t d, size_t axes, uint32_t *words) {
    Means means(n, d, axes);
    Values values(d);
    Bit same[2];
    std::vector<int32_t> off(d);
    int last = 0;
    for (size_t i = 0; i < n && !coder.bad(); ++i) {
        uint32_t *row = words + i * d;
        if (i > 0) {
            last = coder.bit(Coder::writes && std::equal(row, row + d, row - d), same[last], 250);
            if (last) {
                if (!Coder::writes) std::copy_n(row - d, d, row);
                for (size_t j = 0; j < axes; ++j) means.place(i, j, floor_of(row[j], top));
                means.repeat(i);
                continue;
            }
        }
        coder.spend(spend(d, axes));
        if (coder.bad()) return;
        values.begin();
        for (size_t j = 0; j < d; ++j) {
            if (j == axes) means.begin(i);
            uint64_t apart;
            if (j == 0) means.at(i);
            const int32_t mean = means.mean(j, apart);
            int64_t more = 0;
            const Column &c = columns[j];
            for (size_t k = 0; k < c.back.size(); ++k) more += int64_t{c.back[k]} * off[j - 1 - k];
            const auto foretold = static_cast<int32_t>(std::clamp<int64_t>(mean + (more >> c.shift), -(1 << 28), 1 << 28));
            const uint32_t word = values.code(coder, c, j, Coder::writes ? row[j] : 0, foretold, apart);
            if (!Coder::writes) row[j] = word;
            const int32_t v = c.value(word);
            off[j] = v ? v - mean : 0;
            means.learn(j, v, mean);
            if (j < axes) means.place(i, j, floor_of(word, top));
        }
    }
}

}  // namespace

Curves::Curves() : squash(k_squash) {
    int x = -2048;
    for (int p = 0; p < 4096; ++p) {
        while (x < 2047 && k_squash[x + 2048] < p * 16 + 8) ++x;
        stretch[p] = static_cast<int16_t>(x);
    }
}
const Curves kCurves;

void encode(const uint32_t *words, size_t n, size_t d, size_t axes, Bytes &about, Bytes &coded, Bytes &raw) {
    axes = std::min(axes, d);
    std::vector<Column> columns;
    int top = kLeastTop;
    for (size_t j = 0; j < d; ++j) {
        columns.push_back(column_of(words + j, n, d));
        if (j < axes) top = std::max(top, greatest(words + j, n, d));
    }
    about.push_back(static_cast<uint8_t>(top));
    std::vector<int32_t> off(n * d);
    Means means(n, d, axes);
    for (size_t i = 0; i < n; ++i) {
        for (size_t j = 0; j < axes; ++j) means.place(i, j, floor_of(words[i * d + j], top));
        means.at(i);
        for (size_t j = 0; j < d; ++j) {
            if (j == axes) means.begin(i);
            uint64_t apart;
            const int32_t mean = means.mean(j, apart), v = columns[j].value(words[i * d + j]);
            off[i * d + j] = v ? v - mean : 0;
            means.learn(j, v, mean);
        }
    }
    fit(off, n, d, axes, columns);
    for (const Column &c : columns) write(c, about);
    Writer out(coded, raw);
    rows(out, columns, top, n, d, axes, const_cast<uint32_t *>(words));  // a writer changes nothing
    out.finish();
}

bool decode(const Bytes &about, const Bytes &coded, const Bytes &raw, size_t n, size_t d, size_t axes, uint32_t *words) {
    axes = std::min(axes, d);
    Reader in(about.data(), about.size());
    const int top = in.get<uint8_t>();
    std::vector<Column> columns(d);
    for (size_t j = 0; j < d; ++j) {
        if (!read(in, columns[j], j < axes ? 0 : std::min(kBack, j - axes))) return false;
    }
    if (in.left() || top < kLeastTop || top > 254) return false;
    SymbolReader from(coded, raw);
    rows(from, columns, top, n, d, axes, words);
    return from.finish();
}

}  // namespace compand::neighbours

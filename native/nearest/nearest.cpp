#include "nearest/nearest.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <unordered_map>

#include "isa.hpp"
#include "threads.hpp"

namespace compand::nearest {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr float kInfinityF = std::numeric_limits<float>::infinity();

void clear(State &state) {
    std::fill_n(state.best, kLanes, -kInfinityF);
    std::fill_n(state.second, kLanes, -kInfinityF);
    std::fill_n(state.group, kLanes, 0);
}

void merge(State &into, const State &from) {
    for (size_t l = 0; l < kLanes; ++l) {
        into.second[l] = std::max({into.second[l], from.second[l], std::min(into.best[l], from.best[l])});
        if (from.best[l] > into.best[l]) into.group[l] = from.group[l];
        into.best[l] = std::max(into.best[l], from.best[l]);
    }
}

[[maybe_unused]] void merge(Shortlist &into, const Shortlist &from) {
    into.best = std::max(into.best, from.best);
    into.least = std::max(into.least, from.least);
    if (into.count > kShort || from.count > kShort) {
        into.count = kShort + 1;
        return;
    }
    uint32_t kept = 0;
    const auto keep = [&](uint32_t id, float score) {
        if (score < into.least || kept > kShort) return;
        if (kept < kShort) {
            into.ids[kept] = id;
            into.scores[kept] = score;
        }
        ++kept;
    };
    for (uint32_t t = 0, count = into.count; t < count; ++t) keep(into.ids[t], into.scores[t]);
    for (uint32_t t = 0; t < from.count; ++t) keep(from.ids[t], from.scores[t]);
    into.count = kept;
}

double distance(const float *x, const float *c, size_t d) {
    double sum = 0;
    for (size_t j = 0; j < d; ++j) {
        const double difference = static_cast<double>(x[j]) - static_cast<double>(c[j]);
        sum += difference * difference;
    }
    return sum == sum ? sum : kInfinity;
}

bool finite_row(const float *c, size_t d) {
    return std::all_of(c, c + d, [](float v) { return std::isfinite(v); });
}

// Bound E on |float32 score - exact score|, plus what float64 distances may be off, u = 2^-24, n = d + 8 roundings in all:
// n u / (1 - n u) (|X||C| + |C|^2/2) by Cauchy-Schwarz for the sums; 2^-126 terms for flushed products; d 2^-52 (|X| + |C|)^2
// for the float64 comparison. Infinite where float32 could overflow: then every codeword is compared in float64.
double slack(double x_norm, double longest, size_t d) {
    const double n = static_cast<double>(d) + 8, nu = n * 0x1p-24;
    const double scale = (x_norm + longest) * (x_norm + longest);
    if (nu > 0.25 || !(scale < 1e37)) return kInfinity;
    const double single = nu / (1 - nu) * (x_norm * longest + 0.5 * longest * longest);
    return 1.01 * (single + n * 0x1p-125 * (2 + x_norm + longest) + n * 0x1p-52 * scale);
}

struct Nearest {
    double distance = kInfinity;
    uint32_t id = 0;
    void offer(double other, uint32_t other_id) {
        if (other < distance || (other == distance && other_id < id)) {
            distance = other;
            id = other_id;
        }
    }
};

// The least float32 that is nearer to high than to low; on a tie low wins if keep_low.
float threshold(float low, float high, bool keep_low) {
    const double a = low, b = high, sum = a + b, shadow = sum - a, error = (a - (sum - shadow)) + (b - shadow);
    // sign of 2 f - (a + b), exact: 2 f and sum are close, so their difference is exact
    const auto side = [&](float f) { return (2.0 * static_cast<double>(f) - sum) - error; };
    const auto reaches = [&](float f) { return keep_low ? side(f) > 0 : side(f) >= 0; };
    float f = static_cast<float>(sum / 2);
    while (!reaches(f)) f = std::nextafter(f, kInfinityF);
    for (float below = std::nextafter(f, -kInfinityF); reaches(below); below = std::nextafter(f, -kInfinityF)) f = below;
    return f;
}

}  // namespace

Index::Index(const float *codebook, size_t k, size_t d, bool many)
    : k_(k), d_(d), groups_((k + kGroup - 1) / kGroup), tile_(d <= 128 ? 64 : 16), rows_(codebook, codebook + k * d) {
    if (d == 1) {
        std::vector<uint32_t> ids;
        for (size_t i = 0; i < k; ++i)
            if (std::isfinite(codebook[i])) ids.push_back(static_cast<uint32_t>(i));
        std::sort(ids.begin(), ids.end(), [&](uint32_t a, uint32_t b) {
            return codebook[a] != codebook[b] ? codebook[a] < codebook[b] : a < b;
        });
        ids.erase(std::unique(ids.begin(), ids.end(), [&](uint32_t a, uint32_t b) { return codebook[a] == codebook[b]; }),
                  ids.end());
        any_ = !ids.empty();
        while ((size_t{1} << depth_) < ids.size()) ++depth_;
        thresholds_.assign(size_t{1} << depth_, kInfinityF);
        for (size_t i = 0; i + 1 < ids.size(); ++i)
            thresholds_[i] = threshold(codebook[ids[i]], codebook[ids[i + 1]], ids[i] < ids[i + 1]);
        order_ = ids;
        order_.resize((size_t{1} << depth_) + 1, 0);
        return;
    }
    // A codeword that is not finite, or that repeats an earlier one, can never win.
    std::vector<char> live(k);
    std::vector<double> sum(d, 0.0);
    std::unordered_multimap<uint64_t, uint32_t> seen;
    seen.reserve(k);
    size_t count = 0;
    for (size_t i = 0; i < k; ++i) {
        const float *row = codebook + i * d;
        if (!finite_row(row, d)) continue;
        uint64_t hash = 0x9e3779b97f4a7c15;
        for (size_t j = 0; j < d; ++j) {
            uint32_t word;
            std::memcpy(&word, row + j, 4);
            hash = (hash ^ word) * 0xff51afd7ed558ccd;
            hash ^= hash >> 32;
        }
        const auto [from, to] = seen.equal_range(hash);
        live[i] = std::none_of(from, to, [&](const auto &entry) {
            return std::memcmp(codebook + size_t{entry.second} * d, row, d * sizeof(float)) == 0;
        });
        if (!live[i]) continue;
        if (std::distance(from, to) < 8) seen.emplace(hash, static_cast<uint32_t>(i));
        for (size_t j = 0; j < d; ++j) sum[j] += row[j];
        ++count;
    }
    any_ = count > 0;
    mean_.resize(d);
    for (size_t j = 0; j < d; ++j) mean_[j] = any_ ? static_cast<float>(sum[j] / static_cast<double>(count)) : 0.0f;
    codewords_ = Aligned<float>(groups_ * kGroup * d);
    minus_half_ = Aligned<float>(groups_ * kGroup);
    std::fill_n(codewords_.data(), groups_ * kGroup * d, 0.0f);
    std::fill_n(minus_half_.data(), groups_ * kGroup, -kInfinityF);
    for (size_t i = 0; i < k; ++i) {
        if (!live[i]) continue;
        float *to = codewords_.data() + i / kLanes * kLanes * d + i % kLanes;
        double squares = 0;
        for (size_t j = 0; j < d; ++j) {
            const float c = codebook[i * d + j] - mean_[j];
            to[j * kLanes] = c;
            squares += static_cast<double>(c) * static_cast<double>(c);
        }
        if (std::isfinite(squares)) longest_ = std::max(longest_, std::sqrt(squares) * (1 + 0x1p-20));
        else longest_ = kInfinity;
        minus_half_.data()[i] = static_cast<float>(-0.5 * squares);
    }
    if (many && any_ && longest_ < 1e18 && d >= kCoarseLeast && d <= kCoarseMost && k >= kGroup && isa() == Isa::avx512)
        coarse_ = Coarse(rows_.data(), mean_.data(), minus_half_.data(), k, d);
}

bool Index::sieves() const { return coarse_ && isa() == Isa::avx512; }

void Index::centre(const float *x, size_t stride, size_t n, float *out, double *slacks) const {
    for (size_t i = 0; i < n; ++i) {
        double squares = 0;
        for (size_t j = 0; j < d_; ++j) {
            const float value = x[i * stride + j] - mean_[j];
            out[i * d_ + j] = value;
            squares += static_cast<double>(value) * static_cast<double>(value);
        }
        slacks[i] = slack(std::sqrt(squares) * (1 + 0x1p-20), longest_, d_);
    }
}

void Index::finish(const float *x, size_t stride, size_t n, const float *centred, const double *slacks, const State *states,
                   uint32_t *ids, float *distances) const {
    const Packed packed{codewords_.data(), minus_half_.data(), d_, groups_};
    std::vector<uint32_t> candidates;
    constexpr size_t piece = 64;
    float least[piece];
    uint32_t nears[piece], crowded[piece];
    for (size_t i = 0; i < n; ++i) {
        if (i % piece == 0) COMPAND_DISPATCH(judge, states + i, slacks + i, std::min(piece, n - i), least, nears, crowded);
        const float *row = x + i * stride;
        const State &state = states[i];
        Nearest found;
        if (std::isfinite(slacks[i])) {
            uint32_t near = nears[i % piece];
            if (!crowded[i % piece]) {
                for (; near; near &= near - 1) {
                    const size_t lane = static_cast<size_t>(__builtin_ctz(near));
                    const size_t first = static_cast<size_t>(state.group[lane]) * kGroup + lane;
                    for (size_t b = 0; b < kBlocks; ++b) {
                        const size_t id = first + b * kLanes;
                        if (id < k_) found.offer(distance(row, rows_.data() + id * d_, d_), static_cast<uint32_t>(id));
                    }
                }
            } else {
                if (candidates.empty()) candidates.resize(groups_ * kGroup);
                const size_t count = COMPAND_DISPATCH(collect, packed, centred + i * d_, least[i % piece], candidates.data());
                for (size_t t = 0; t < count; ++t)
                    found.offer(distance(row, rows_.data() + size_t{candidates[t]} * d_, d_), candidates[t]);
            }
        } else if (finite_row(row, d_)) {
            for (size_t id = 0; id < k_; ++id)
                found.offer(distance(row, rows_.data() + id * d_, d_), static_cast<uint32_t>(id));
        }
        ids[i] = found.id;
        if (distances) distances[i] = static_cast<float>(found.distance);
    }
}

void Index::shortlisted(const float *x, size_t stride, size_t n, const Shortlist *lists, uint32_t *ids, float *distances) const {
    std::vector<uint32_t> candidates;
    for (size_t i = 0; i < n; ++i) {
        const float *row = x + i * stride;
        const Shortlist &list = lists[i];
        Nearest found;
        const auto offer = [&](uint32_t id) { found.offer(distance(row, rows_.data() + size_t{id} * d_, d_), id); };
        if (list.count == 1 && !distances) {
            found.id = list.ids[0];
        } else if (list.count <= kShort) {
            for (uint32_t t = 0; t < list.count; ++t) offer(list.ids[t]);
        } else if (std::isfinite(list.least)) {
            const Packed packed{codewords_.data(), minus_half_.data(), d_, groups_};
            const Aligned<float> centred(d_);
            double slack;
            centre(row, 0, 1, centred.data(), &slack);
            if (candidates.empty()) candidates.resize(groups_ * kGroup);
            const size_t count = COMPAND_DISPATCH(collect, packed, centred.data(), list.least, candidates.data());
            for (size_t t = 0; t < count; ++t) offer(candidates[t]);
        } else if (finite_row(row, d_)) {
            for (size_t id = 0; id < k_; ++id) offer(static_cast<uint32_t>(id));
        }
        ids[i] = found.id;
        if (distances) distances[i] = static_cast<float>(found.distance);
    }
}

void Index::search_line(const float *x, size_t stride, size_t n, uint32_t *ids, float *distances) const {
    if (depth_ == 0) {
        for (size_t i = 0; i < n; ++i) ids[i] = std::isfinite(x[i * stride]) ? order_[0] : 0;
    } else {
        COMPAND_DISPATCH(place, thresholds_.data(), depth_, x, stride, n, ids);
        for (size_t i = 0; i < n; ++i) ids[i] = order_[ids[i]];  // the last entry is for rows that are not finite
    }
    if (distances)
        for (size_t i = 0; i < n; ++i) {
            const double found = any_ ? distance(x + i * stride, rows_.data() + ids[i], 1) : kInfinity;
            distances[i] = static_cast<float>(found);
        }
}

void Index::search(const float *x, size_t stride, size_t n, uint32_t *ids, float *distances, Patience &patience) const {
    if (d_ == 1) return search_line(x, stride, n, ids, distances);
    const Packed packed{codewords_.data(), minus_half_.data(), d_, groups_};
    for (size_t at = 0; at < n; at += tile_) {
        const size_t m = std::min(tile_, n - at);
        float *far = distances ? distances + at : nullptr;
#if COMPAND_X86
        if (sieves()) {
            if (const size_t left = patience.left.load(std::memory_order_relaxed)) {
                patience.left.store(left - 1, std::memory_order_relaxed);
            } else {
                Shortlist lists[64];
                if (avx512::sieve(coarse_, words(), 0, coarse_.groups, x + at * stride, stride, m, lists)) {
                    if (patience.penalty.load(std::memory_order_relaxed)) patience.penalty.store(0, std::memory_order_relaxed);
                    shortlisted(x + at * stride, stride, m, lists, ids + at, far);
                    continue;
                }
                const size_t penalty = std::min<size_t>(63, 2 * patience.penalty.load(std::memory_order_relaxed) + 1);
                patience.penalty.store(penalty, std::memory_order_relaxed);
                patience.left.store(penalty, std::memory_order_relaxed);
            }
        }
#else
        (void)patience;
#endif
        State states[64];
        double slacks[64];
        const Aligned<float> centred(m * d_);
        centre(x + at * stride, stride, m, centred.data(), slacks);
        for (size_t i = 0; i < m; ++i) clear(states[i]);
        if (any_) COMPAND_DISPATCH(scan, packed, 0, groups_, centred.data(), m, states);
        else std::fill_n(slacks, m, kInfinity);
        finish(x + at * stride, stride, m, centred.data(), slacks, states, ids + at, far);
    }
}

bool Index::sieve_split(const float *x, size_t stride, size_t n, uint32_t *ids, float *distances) const {
#if COMPAND_X86
    const size_t segments = (coarse_.groups + kSegment - 1) / kSegment;
    const size_t parts = std::min<size_t>(segments, 2 * static_cast<size_t>(threads()));
    const auto begin = [&](size_t part) { return std::min(coarse_.groups, part * segments / parts * kSegment); };
    std::vector<Shortlist> lists(parts * n);
    std::atomic<bool> good{true};
    parallel_for(parts, [&](size_t part) {
        for (size_t at = 0; at < n && good.load(std::memory_order_relaxed); at += tile_) {
            if (!avx512::sieve(coarse_, words(), begin(part), begin(part + 1), x + at * stride, stride, std::min(tile_, n - at),
                               lists.data() + part * n + at))
                good = false;
        }
    });
    if (!good) return false;
    for (size_t part = 1; part < parts; ++part)
        for (size_t i = 0; i < n; ++i) merge(lists[i], lists[part * n + i]);
    shortlisted(x, stride, n, lists.data(), ids, distances);
    return true;
#else
    (void)x, (void)stride, (void)n, (void)ids, (void)distances;
    return false;
#endif
}

bool Index::prefers_split(size_t n) const {
    const size_t few = (sieves() ? 16 : 2 * tile_) * static_cast<size_t>(threads());
    return d_ > 1 && any_ && threads() > 1 && n < few && n * k_ * d_ > (size_t{1} << 21);
}

void Index::search_split(const float *x, size_t stride, size_t n, uint32_t *ids, float *distances) const {
    const Packed packed{codewords_.data(), minus_half_.data(), d_, groups_};
    const size_t parts = std::min<size_t>(groups_, 2 * static_cast<size_t>(threads()));
    if (sieves() && sieve_split(x, stride, n, ids, distances)) return;
    const Aligned<float> centred(n * d_);
    std::vector<double> slacks(n);
    centre(x, stride, n, centred.data(), slacks.data());
    const Aligned<State> states(parts * n);
    parallel_for(parts, [&](size_t part) {
        State *mine = states.data() + part * n;
        for (size_t i = 0; i < n; ++i) clear(mine[i]);
        for (size_t at = 0; at < n; at += tile_) {
            const size_t m = std::min(tile_, n - at);
            COMPAND_DISPATCH(scan, packed, part * groups_ / parts, (part + 1) * groups_ / parts, centred.data() + at * d_, m,
                             mine + at);
        }
    });
    for (size_t part = 1; part < parts; ++part)
        for (size_t i = 0; i < n; ++i) merge(states.data()[i], states.data()[part * n + i]);
    finish(x, stride, n, centred.data(), slacks.data(), states.data(), ids, distances);
}

}  // namespace compand::nearest

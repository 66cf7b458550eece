#include "cluster/cluster.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "threads.hpp"

namespace compand::cluster {
namespace {

// Prefix sums of weight, weight v and weight v^2; the sums of [a, b) are differences.
struct Prefix {
    std::vector<double> w, s, q;
    explicit Prefix(size_t n) : w(n + 1), s(n + 1), q(n + 1) {}
    double cost(size_t a, size_t b) const {
        const double weight = w[b] - w[a], sum = s[b] - s[a];
        return weight > 0 ? std::max(0.0, q[b] - q[a] - sum * sum / weight) : 0.0;
    }
};

// Best split of the first `end` bins into one more part, for end in [low, high], knowing the best cut is in [from, to].
void halve(const Prefix &bins, const std::vector<double> &before, std::vector<double> &now, std::vector<uint32_t> &cut,
           size_t low, size_t high, size_t from, size_t to) {
    const size_t middle = (low + high) / 2;
    double best = std::numeric_limits<double>::infinity();
    size_t at = from;
    for (size_t c = from; c <= std::min(middle, to); ++c) {
        const double cost = before[c] + bins.cost(c, middle);
        if (cost < best) {
            best = cost;
            at = c;
        }
    }
    now[middle] = best;
    cut[middle] = static_cast<uint32_t>(at);
    if (middle > low) halve(bins, before, now, cut, low, middle - 1, from, at);
    if (middle < high) halve(bins, before, now, cut, middle + 1, high, at, to);
}

}  // namespace

bool sums(const float *x, const uint32_t *ids, const float *weight, const float *distances, size_t n, size_t d, size_t k,
          double *sums, double *totals, double *spread) {
    std::vector<size_t> start(k + 1, 0);
    for (size_t i = 0; i < n; ++i) {
        if (ids[i] >= k) return false;
        ++start[ids[i] + 1];
    }
    for (size_t c = 0; c < k; ++c) start[c + 1] += start[c];
    std::vector<size_t> next(start.begin(), start.end() - 1), rows(n);
    for (size_t i = 0; i < n; ++i) rows[next[ids[i]]++] = i;
    const size_t piece = std::max<size_t>(1, k / 64);
    parallel_for((k + piece - 1) / piece, [&](size_t task) {
        for (size_t c = task * piece; c < std::min(k, (task + 1) * piece); ++c) {
            double *sum = sums + c * d, total = 0, far = 0;
            std::fill_n(sum, d, 0.0);
            for (size_t r = start[c]; r < start[c + 1]; ++r) {
                const float *row = x + rows[r] * d;
                const double w = weight ? static_cast<double>(weight[rows[r]]) : 1.0;
                for (size_t j = 0; j < d; ++j) sum[j] += w * static_cast<double>(row[j]);
                total += w;
                if (distances) far += w * static_cast<double>(distances[rows[r]]);
            }
            totals[c] = total;
            spread[c] = far;
        }
    });
    return true;
}

void line(const float *values, const float *weight, size_t n, size_t k, float *centroids) {
    std::vector<uint32_t> order(weight ? n : 0);
    std::vector<float> v(values, values + n);
    if (weight) {
        std::iota(order.begin(), order.end(), 0u);
        std::sort(order.begin(), order.end(),
                  [&](uint32_t a, uint32_t b) { return values[a] != values[b] ? values[a] < values[b] : a < b; });
        for (size_t i = 0; i < n; ++i) v[i] = values[order[i]];
    } else {
        std::sort(v.begin(), v.end());
    }
    const double middle = std::midpoint(static_cast<double>(v.front()), static_cast<double>(v.back()));
    Prefix all(n);
    for (size_t i = 0; i < n; ++i) {
        const double w = weight ? static_cast<double>(weight[order[i]]) : 1.0, u = static_cast<double>(v[i]) - middle;
        all.w[i + 1] = all.w[i] + w;
        all.s[i + 1] = all.s[i] + w * u;
        all.q[i + 1] = all.q[i] + w * u * u;
    }
    // Ends of bins: never between equal values.
    const size_t most = std::max<size_t>(1024, 4 * k);
    std::vector<uint32_t> ends{0};
    if (n <= most) {
        for (size_t i = 1; i <= n; ++i)
            if (i == n || v[i] != v[i - 1]) ends.push_back(static_cast<uint32_t>(i));
    } else {
        std::vector<double> climb(n, 0.0);
        for (size_t i = 1; i < n; ++i) {
            const double gap = static_cast<double>(v[i]) - static_cast<double>(v[i - 1]), root = std::cbrt(gap);
            climb[i] = climb[i - 1] + root * root;
        }
        const double step = climb[n - 1] / static_cast<double>(most);
        double bound = step;
        for (size_t i = 1; i < n; ++i)
            if (climb[i] > bound && v[i] != v[i - 1]) {
                ends.push_back(static_cast<uint32_t>(i));
                bound = climb[i] + step;
            }
        ends.push_back(static_cast<uint32_t>(n));
    }
    const size_t m = ends.size() - 1, parts = std::min(k, m);
    Prefix bins(m);
    for (size_t b = 0; b <= m; ++b) {
        bins.w[b] = all.w[ends[b]];
        bins.s[b] = all.s[ends[b]];
        bins.q[b] = all.q[ends[b]];
    }
    std::vector<size_t> edges(parts + 1);
    edges[parts] = m;
    if (k <= 256) {
        std::vector<double> before(m + 1), now(m + 1);
        std::vector<std::vector<uint32_t>> cuts(parts, std::vector<uint32_t>(m + 1, 0));
        for (size_t b = 0; b <= m; ++b) before[b] = bins.cost(0, b);
        for (size_t p = 1; p < parts; ++p) {
            std::fill(now.begin(), now.end(), std::numeric_limits<double>::infinity());
            halve(bins, before, now, cuts[p], p + 1, m, p, m - 1);
            std::swap(before, now);
        }
        for (size_t p = parts; p-- > 1;) edges[p] = cuts[p][edges[p + 1]];
    } else {
        for (size_t p = 1; p < parts; ++p) edges[p] = p * m / parts;
    }
    for (size_t &edge : edges) edge = ends[edge];
    std::vector<double> centre(parts);
    for (int round = 0; round < 50; ++round) {
        for (size_t p = 0; p < parts; ++p) {
            const double w = all.w[edges[p + 1]] - all.w[edges[p]];
            if (w > 0) centre[p] = (all.s[edges[p + 1]] - all.s[edges[p]]) / w + middle;
            else if (round == 0)
                centre[p] = static_cast<double>(v[std::min(edges[p], n - 1)]);
        }
        std::sort(centre.begin(), centre.end());
        bool moved = false;
        for (size_t p = 1; p < parts; ++p) {
            const double limit = (centre[p - 1] + centre[p]) / 2;
            const auto above = [](double value, float other) { return value < static_cast<double>(other); };
            const auto edge = static_cast<size_t>(std::upper_bound(v.begin(), v.end(), limit, above) - v.begin());
            moved |= edge != edges[p];
            edges[p] = edge;
        }
        if (!moved) break;
    }
    for (size_t p = 0; p < k; ++p) centroids[p] = static_cast<float>(centre[std::min(p, parts - 1)]);
}

}  // namespace compand::cluster

#include "lists/lists.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include "isa.hpp"
#include "threads.hpp"

namespace compand::scan {
namespace {
// COMPAND_DISPATCH looks kernels up in the namespace it stands in.
void dispatch(const Store &store, size_t blocks, const Query *queries, size_t count, size_t groups) {
    COMPAND_DISPATCH(scan, store, 0, blocks, queries, count, groups);
}
}  // namespace
}  // namespace compand::scan

namespace compand::lists {

using scan::Best;
using scan::Hit;
using scan::kBlock;

void Lists::choose(const float *choice, size_t probes, std::vector<uint32_t> &chosen) const {
    constexpr size_t lanes = 16;
    const size_t count = lists(), runs = count / lanes;
    float least = -std::numeric_limits<float>::infinity();
    chosen.clear();
    if (probes < runs) {  // at least `probes` lists reach the probes-th greatest of the maxima of runs
        thread_local std::vector<float> tops;
        tops.resize(runs);
        for (size_t r = 0; r < runs; ++r) {
            float top = -std::numeric_limits<float>::infinity();  // which a NaN does not replace
            for (size_t i = 0; i < lanes; ++i) top = std::max(top, choice[r * lanes + i]);
            tops[r] = top;
        }
        std::nth_element(tops.begin(), tops.begin() + static_cast<std::ptrdiff_t>(probes) - 1, tops.end(), std::greater<float>());
        least = tops[probes - 1];
    }
    const auto collect = [&] {
        chosen.clear();
        for (size_t l = 0; l < count; ++l)
            if (choice[l] >= least && bounds_[l] < bounds_[l + 1]) chosen.push_back(static_cast<uint32_t>(l));
    };
    collect();
    if (chosen.size() < probes && least > -std::numeric_limits<float>::infinity()) {  // some of those counted are empty
        least = -std::numeric_limits<float>::infinity();
        collect();
    }
    const auto more = [&](uint32_t a, uint32_t b) { return choice[a] > choice[b] || (choice[a] == choice[b] && a < b); };
    const size_t kept = std::min(probes, chosen.size());
    std::partial_sort(chosen.begin(), chosen.begin() + static_cast<std::ptrdiff_t>(kept), chosen.end(), more);
    chosen.resize(kept);
}

struct Lists::Tile {
    std::vector<Tables> tables;
    std::vector<Best> best;                    // of each query
    Best own[scan::kQueries];                  // of a list being scanned
    std::vector<uint32_t> chosen, order;       // lists of each query; queries by list
    std::vector<size_t> ends, at;              // of each query's lists; of each list's queries
    std::vector<uint64_t> allow;
    std::vector<Hit> hits;
    size_t keep, scanned;
};

void Lists::scan_list(const Probe &p, size_t first, size_t list, const uint32_t *queries, size_t count, Tile &t) const {
    const size_t begin = bounds_[list], end = bounds_[list + 1];
    const size_t block = begin / kBlock, blocks = (end + kBlock - 1) / kBlock - block;
    t.allow.resize(blocks);
    uint64_t any = 0;
    for (size_t b = 0; b < blocks; ++b) {
        const size_t from = (block + b) * kBlock;
        uint64_t word = valid_[block + b];
        if (from < begin) word &= ~uint64_t{0} << (begin - from);
        if (end - from < kBlock) word &= (uint64_t{1} << (end - from)) - 1;
        if (p.allowed) {
            uint64_t bits = 0;
            std::memcpy(&bits, p.allowed + from / 8, std::min<size_t>(8, (n_ + 7) / 8 - from / 8));
            word &= bits;
        }
        t.allow[b] = word;
        any |= word;
    }
    if (!any) return;
    const scan::Store store{codes_.get() + block * scan::block_bytes(groups_, bits_), gain_.get() + block * kBlock,
                            has_term_ ? term_.get() + block * kBlock : nullptr, t.allow.data(), groups_, bits_};
    for (size_t from = 0; from < count; from += scan::kQueries) {
        const size_t some = std::min(scan::kQueries, count - from);
        scan::Query four[scan::kQueries];
        float base[scan::kQueries];
        for (size_t i = 0; i < some; ++i) {
            const size_t q = queries[from + i];
            const Tables &tables = t.tables[q];
            const auto add = static_cast<float>(static_cast<double>(p.base[(first + q) * lists() + list]) / tables.step);
            base[i] = p.scaled ? 0 : add;
            t.own[i].start(t.keep);
            const float least = t.best[q].threshold - base[i];  // a little less: rows that tie are told apart below
            t.own[i].threshold = least - std::fabs(least) * 1e-6f;
            four[i] = {tables.rounded.get(), tables.weights.data(), {tables.shift[0], tables.shift[1], tables.shift[2]}, tables.bias,
                       p.scaled ? add : tables.factor, &t.own[i]};
        }
        scan::dispatch(store, blocks, four, some, groups_);
        for (size_t i = 0; i < some; ++i) {
            Best &best = t.best[queries[from + i]];
            Hit *hit = t.own[i].begin();
            for (size_t h = 0; h < t.own[i].count(); ++h) {
                const float score = hit[h].score + base[i];
                if (score >= best.threshold) best.push(score, static_cast<uint32_t>(hit[h].id + block * kBlock));
            }
            best.cut();
        }
    }
    t.scanned += count * (end - begin);
}

void Lists::search_tile(const Probe &p, size_t first, size_t last, Tile &t, float *scores, int64_t *rows) const {
    const size_t count = last - first;
    t.scanned = 0;
    t.tables.resize(std::max(t.tables.size(), count));
    t.best.resize(std::max(t.best.size(), count));
    t.ends.assign(1, 0);
    t.chosen.clear();
    std::vector<uint32_t> own;
    for (size_t q = 0; q < count; ++q) {
        make_tables(p.queries + (first + q) * p.stride, p.factors ? p.factors[first + q] : 0, groups_, t.tables[q]);
        t.best[q].start(t.keep);
        choose(p.choice + (first + q) * lists(), p.probes, own);
        t.chosen.insert(t.chosen.end(), own.begin(), own.end());
        t.ends.push_back(t.chosen.size());
    }
    for (int rest = 0; rest < 2; ++rest) {  // first the best list of each query, for a threshold; then the others
        t.at.assign(lists() + 1, 0);
        const auto each = [&](auto &&use) {
            for (size_t q = 0; q < count; ++q)
                for (size_t c = t.ends[q] + static_cast<size_t>(rest); c < (rest ? t.ends[q + 1] : std::min(t.ends[q] + 1, t.ends[q + 1])); ++c)
                    use(q, t.chosen[c]);
        };
        each([&](size_t, uint32_t l) { ++t.at[l + 1]; });
        for (size_t l = 0; l < lists(); ++l) t.at[l + 1] += t.at[l];
        t.order.resize(t.at[lists()]);
        std::vector<size_t> next(t.at.begin(), t.at.end() - 1);
        each([&](size_t q, uint32_t l) { t.order[next[l]++] = static_cast<uint32_t>(q); });
        for (size_t l = 0; l < lists(); ++l)
            if (t.at[l] < t.at[l + 1]) scan_list(p, first, l, t.order.data() + t.at[l], t.at[l + 1] - t.at[l], t);
    }
    for (size_t q = 0; q < count; ++q) {
        Best &best = t.best[q];
        best.cut();
        t.hits.assign(best.begin(), best.begin() + best.count());
        const float *query = p.queries + (first + q) * p.stride, *base = p.base + (first + q) * lists();
        for (Hit &hit : t.hits) {
            const auto list = static_cast<size_t>(std::upper_bound(bounds_.begin(), bounds_.end(), size_t{hit.id}) - bounds_.begin()) - 1;
            float s = score(t.tables[q], query, hit.id) * gain_.get()[hit.id];
            if (p.scaled) {
                s = s + base[list] * term_.get()[hit.id];
            } else {
                if (has_term_ && p.factors) s = s + p.factors[first + q] * term_.get()[hit.id];
                s = s + base[list];
            }
            hit.score = s == s ? s : -std::numeric_limits<float>::infinity();
        }
        std::sort(t.hits.begin(), t.hits.end(), scan::better);
        for (size_t i = 0; i < p.k; ++i) {
            const bool found = i < t.hits.size();
            scores[(first + q) * p.k + i] = found ? t.hits[i].score + p.offsets[first + q] : -std::numeric_limits<float>::infinity();
            rows[(first + q) * p.k + i] = found ? static_cast<int64_t>(t.hits[i].id) : -1;
        }
    }
}

size_t Lists::search(const Probe &p, float *scores, int64_t *rows) const {
    constexpr size_t most_tile = 256;  // queries that pass over the lists together: their tables stay in the cache
    const size_t keep = std::max<size_t>(1, std::min(std::max(p.k, std::min(p.shortlist, n_)), n_));
    const size_t room = std::max<size_t>(1, (size_t{1} << 22) / keep);  // so that hits stay in bounds
    const size_t workers = static_cast<size_t>(std::max(1, threads()));
    const size_t tile = std::max<size_t>(1, std::min({most_tile, room, (p.count + workers - 1) / workers}));
    const size_t tiles = (p.count + tile - 1) / tile, lanes = std::min(workers, tiles);
    std::atomic<size_t> scanned{0};
    parallel_for(lanes, [&](size_t lane) {
        Tile own;
        own.keep = keep;
        for (size_t at = lane; at < tiles; at += lanes) {
            search_tile(p, at * tile, std::min((at + 1) * tile, p.count), own, scores, rows);
            scanned += own.scanned;
        }
    });
    return scanned;
}

}  // namespace compand::lists

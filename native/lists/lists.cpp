#include "lists/lists.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>

#include "isa.hpp"
#include "lists/dot.hpp"
#include "threads.hpp"

namespace compand::scan {
namespace {
// COMPAND_DISPATCH looks kernels up in the namespace it stands in.
void dispatch(const Store &store, size_t first, size_t last, Query *queries, size_t count, size_t groups) {
    COMPAND_DISPATCH(scan, store, first, last, queries, count, groups);
}
void products(const float *x, const float *values, const size_t *starts, const size_t *offsets, size_t groups, size_t k, float *out) {
    COMPAND_DISPATCH(products_of_groups, x, values, starts, offsets, groups, k, out, nullptr, nullptr);
}
}  // namespace
}  // namespace compand::scan

namespace compand::lists {

using scan::Best;
using scan::Hit;
using scan::kBlock;

namespace {
constexpr float kNone = -std::numeric_limits<float>::infinity();
}  // namespace

struct Lists::Tile {
    size_t first, keep, scanned;
    std::vector<Tables> tables;
    std::vector<Tables> choice;          // for the centroids
    std::vector<float> table;            // of one query, exact: made again when needed, which is quicker than to keep it
    std::vector<Best> best;              // of each query
    std::vector<Best> lists;             // of the lists
    Best own[scan::kQueries];            // of a list being scanned
    std::vector<Visit> visits;           // of each query, lists rising
    std::vector<size_t> ends, nearest;   // of each query's visits; which of them is to the best list
    std::vector<size_t> at, next;        // of each list's queries
    struct Call {
        uint32_t query;
        float base;
    };
    std::vector<Call> calls;             // by list
    std::vector<uint64_t> allow;
    std::vector<Found> hits;
    std::vector<uint32_t> needed;        // lists of the hits
    std::vector<float> exact;            // what they add
};

Lists::Lists(const uint8_t *rows, size_t n, size_t row_bytes, size_t groups, unsigned bits, bool coded, const float *gain, const float *term,
             const Cells &cells)
    : Index(rows, n, row_bytes, groups, bits, coded, gain, term), d_(cells.d), bounds_(cells.starts), ends_(cells.ends) {
    const size_t count = lists();
    centroids_.assign(cells.centroids, cells.centroids + count * d_);
    weight_.assign(cells.weight, cells.weight + count);
    bytes_.resize(count * d_);
    used_.assign((count + kBlock - 1) / kBlock, 0);
    std::vector<float> weight(count);
    for (size_t l = 0; l < count; ++l) {
        const float *c = centroids_.data() + l * d_;
        float top = 0;
        for (size_t j = 0; j < d_; ++j) top = std::max(top, std::fabs(c[j]));
        const float step = top > 0 ? top / 127 : 1;
        for (size_t j = 0; j < d_; ++j) bytes_[l * d_ + j] = static_cast<uint8_t>(128 + std::lrint(c[j] / step));
        weight[l] = step * cells.weight[l];
        if (bounds_[l] < ends_[l]) used_[l / kBlock] |= uint64_t{1} << l % kBlock;
    }
    chooser_.reset(new Lists(bytes_, count, d_, weight.data(), cells.term));
    chooser_->width_ = d_;
}

void Lists::choose(const Probe &p, size_t count, Tile &t) const {
    constexpr size_t chunk = 4;  // blocks of centroids that stay in the cache while all queries pass over them
    const Lists &c = *chooser_;
    t.choice.resize(std::max(t.choice.size(), count));
    t.lists.resize(std::max(t.lists.size(), count));
    for (size_t i = 0; i < count; ++i) {
        c.make_tables(p.whole + (t.first + i) * d_, c.has_term_ ? 1 : 0, d_, t.choice[i]);
        t.lists[i].start(std::min(p.probes, lists()));
    }
    const scan::Store store{c.codes_.get(), c.gain_.get(), c.has_term_ ? c.term_.get() : nullptr, c.inverse_.data(), nullptr, used_.data(), d_, 8, false};
    for (size_t at = 0; at < used_.size(); at += chunk)
        for (size_t i = 0; i < count; i += scan::kQueries) {
            scan::Query four[scan::kQueries];
            const size_t some = std::min(scan::kQueries, count - i);
            for (size_t j = 0; j < some; ++j) {
                const Tables &tables = t.choice[i + j];
                four[j] = {nullptr, tables.weights.data(), {}, tables.bias, tables.factor, &t.lists[i + j]};
            }
            scan::dispatch(store, at, std::min(at + chunk, used_.size()), four, some, d_);
        }
    for (size_t i = 0; i < count; ++i) {
        t.lists[i].cut();
        Hit *hits = t.lists[i].begin();
        const size_t found = t.lists[i].count(), q = t.first + i;
        const Hit top = found ? *std::min_element(hits, hits + found, scan::better) : Hit{};
        std::sort(hits, hits + found, [](const Hit &a, const Hit &b) { return a.id < b.id; });
        t.nearest.push_back(t.visits.size());
        const double step = t.choice[i].step * p.times, scale = 1 / t.tables[i].step;
        for (size_t v = 0; v < found; ++v) {
            if (hits[v].id == top.id) t.nearest.back() = t.visits.size();
            float own = hits[v].score;
            if (c.has_term_) own -= t.choice[i].factor * c.term_.get()[hits[v].id];
            const double base = step * static_cast<double>(own / weight_[hits[v].id]) + static_cast<double>(p.shift[q]);
            t.visits.push_back({hits[v].id, static_cast<float>(base * scale)});
        }
        t.ends.push_back(t.visits.size());
    }
}

void Lists::scan_list(const Probe &p, size_t list, size_t first_call, size_t last_call, Tile &t) const {
    const size_t begin = bounds_[list], end = ends_[list];
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
                            has_term_ ? term_.get() + block * kBlock : nullptr, inverse_.data() + block, shares_.data() + block * kBlock, t.allow.data(), groups_, bits_, coded_};
    for (size_t from = first_call; from < last_call; from += scan::kQueries) {
        const size_t some = std::min(scan::kQueries, last_call - from);
        scan::Query four[scan::kQueries];
        float base[scan::kQueries];
        for (size_t i = 0; i < some; ++i) {
            const auto &call = t.calls[from + i];
            const Tables &tables = t.tables[call.query];
            base[i] = p.scaled ? 0 : call.base;
            t.own[i].start(t.keep);
            const float least = t.best[call.query].threshold - base[i];
            t.own[i].threshold = least - std::fabs(least) * 1e-6f;  // a little less: rounding is done below as for other lists
            four[i] = {tables.rounded.get(), tables.weights.data(), {tables.shift[0], tables.shift[1], tables.shift[2]}, tables.bias,
                       p.scaled ? call.base : tables.factor, &t.own[i]};
        }
        scan::dispatch(store, 0, blocks, four, some, groups_);
        for (size_t i = 0; i < some; ++i) {
            Best &best = t.best[t.calls[from + i].query];
            const Hit *hit = t.own[i].begin();
            for (size_t h = 0; h < t.own[i].count(); ++h) {
                const float score = hit[h].score + base[i];
                if (score > best.threshold) best.push(score, static_cast<uint32_t>(hit[h].id + block * kBlock));
            }
        }
    }
    t.scanned += (last_call - first_call) * (end - begin);
}

// Leaves out hits that rounding of the tables has not kept from the k best: six standard deviations, at most half a step a group.
void Lists::settle(const Tables &t, size_t k, std::vector<Found> &hits) const {
    if (!coded_ || hits.size() <= k) return;
    int32_t all = 0, squares = 0;
    for (size_t g = 0; g < groups_; ++g) all += t.weights[g], squares += t.weights[g] * t.weights[g];
    const float most = std::min(0.5f * static_cast<float>(all), 6 * std::sqrt(static_cast<float>(squares) / 12)) + 1;
    const auto room = [&](const Hit &hit) { return most * std::fabs(gain_.get()[hit.id]) + std::fabs(hit.score) * 1e-5f; };
    std::nth_element(hits.begin(), hits.begin() + static_cast<std::ptrdiff_t>(k) - 1, hits.end(), scan::better);
    float least = std::numeric_limits<float>::infinity();
    for (size_t i = 0; i < k; ++i) least = std::min(least, hits[i].score - room(hits[i]));
    const auto hopeless = [&](const Hit &hit) { return hit.score + room(hit) < least; };
    hits.erase(std::remove_if(hits.begin() + static_cast<std::ptrdiff_t>(k), hits.end(), hopeless), hits.end());
}

// The hits of a query with their scores in float32, best first.
void Lists::finish(const Probe &p, size_t q, Tile &t) const {
    Best &best = t.best[q];
    const Tables &tables = t.tables[q];
    const Visit *visits = t.visits.data();
    best.cut();
    t.hits.clear();
    t.needed.clear();
    for (size_t h = 0; h < best.count(); ++h) {
        const Hit &hit = best.begin()[h];
        __builtin_prefetch(rows_ + hit.id * row_bytes_);
        const auto after = std::partition_point(visits + t.ends[q], visits + t.ends[q + 1], [&](const Visit &v) { return bounds_[v.list] <= hit.id; });
        t.hits.push_back({hit, static_cast<uint32_t>(after - visits - 1)});
    }
    std::sort(t.hits.begin(), t.hits.end(), [](const Found &a, const Found &b) { return a.id < b.id; });
    for (Found &hit : t.hits) {  // by visit: which exact centroids are needed
        if (t.needed.empty() || t.needed.back() != visits[hit.visit].list) t.needed.push_back(visits[hit.visit].list);
    }
    t.exact.resize(t.needed.size());
    COMPAND_DISPATCH(dots, p.whole + (t.first + q) * d_, centroids_.data(), t.needed.data(), t.needed.size(), d_, t.exact.data());
    size_t at = 0;
    for (Found &hit : t.hits) {
        const Visit &visit = visits[hit.visit];
        while (t.needed[at] != visit.list) ++at;
        const float base = static_cast<float>((static_cast<double>(p.times * t.exact[at]) + static_cast<double>(p.shift[t.first + q])) / tables.step);
        hit.score += (base - visit.base) * (p.scaled ? term_.get()[hit.id] : 1);
        hit.visit = static_cast<uint32_t>(at);
    }
    settle(tables, p.k, t.hits);
    const float *query = p.queries + (t.first + q) * p.stride;
    if (coded_) scan::products(query, codebooks_.data(), starts_.data(), offsets_.data(), groups_, size_t{1} << bits_, t.table.data());
    t.tables[q].exact.swap(t.table);
    for (Found &hit : t.hits) {
        const float base = p.times * t.exact[hit.visit] + p.shift[t.first + q];
        float s = score(tables, query, hit.id) * gain_.get()[hit.id];
        if (p.scaled) {
            s = s + base * term_.get()[hit.id];
        } else {
            if (has_term_ && p.factors) s = s + p.factors[t.first + q] * term_.get()[hit.id];
            s = s + base;
        }
        hit.score = s == s ? s : kNone;
    }
    t.tables[q].exact.swap(t.table);
    std::sort(t.hits.begin(), t.hits.end(), scan::better);
}

void Lists::search_tile(const Probe &p, size_t first, size_t last, Tile &t, float *scores, int64_t *rows) const {
    const size_t count = last - first;
    t.first = first;
    t.scanned = 0;
    t.tables.resize(std::max(t.tables.size(), count));
    t.best.resize(std::max(t.best.size(), count));
    t.ends.assign(1, 0);
    t.nearest.clear();
    t.visits.clear();
    for (size_t q = 0; q < count; ++q) {
        t.tables[q].exact.swap(t.table);
        make_tables(p.queries + (first + q) * p.stride, p.factors ? p.factors[first + q] : 0, groups_, t.tables[q]);
        t.tables[q].exact.swap(t.table);
        t.best[q].start(t.keep);
    }
    choose(p, count, t);
    for (const bool nearest : {true, false}) {  // first the best list of each query, for a threshold; then the others
        const auto each = [&](auto &&use) {
            for (size_t q = 0; q < count; ++q)
                for (size_t v = t.ends[q]; v < t.ends[q + 1]; ++v)
                    if ((v == t.nearest[q]) == nearest) use(q, t.visits[v]);
        };
        t.at.assign(lists() + 1, 0);
        each([&](size_t, const Visit &v) { ++t.at[v.list + 1]; });
        for (size_t l = 0; l < lists(); ++l) t.at[l + 1] += t.at[l];
        t.calls.resize(t.at[lists()]);
        t.next.assign(t.at.begin(), t.at.end() - 1);
        each([&](size_t q, const Visit &v) { t.calls[t.next[v.list]++] = {static_cast<uint32_t>(q), v.base}; });
        for (size_t l = 0; l < lists(); ++l)
            if (t.at[l] < t.at[l + 1]) scan_list(p, l, t.at[l], t.at[l + 1], t);
    }
    for (size_t q = 0; q < count; ++q) {
        finish(p, q, t);
        for (size_t i = 0; i < p.k; ++i) {
            const bool found = i < t.hits.size();
            scores[(first + q) * p.k + i] = found ? t.hits[i].score + p.offsets[first + q] : kNone;
            rows[(first + q) * p.k + i] = found ? static_cast<int64_t>(t.hits[i].id) : -1;
        }
    }
}

size_t Lists::search(const Probe &p, float *scores, int64_t *rows) const {
    constexpr size_t most_tile = 512;  // queries that pass over the lists together: their tables stay in the cache
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

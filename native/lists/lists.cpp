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
    Exact exact[kTogether];              // of some queries: made again when needed, which is quicker than to keep it
    std::vector<Best> best;              // of each query
    std::vector<Best> lists;             // of the lists
    std::vector<Visit> visits;           // of each query, the best list first
    std::vector<size_t> ends;            // of each query's visits
    std::vector<size_t> at, next;        // of each list's queries
    struct Call {
        uint32_t query;
        float base;
    };
    std::vector<Call> calls;             // by list
    std::vector<uint64_t> allow;
    std::vector<uint32_t> visit;         // of each list, which visit of a query it is
    std::vector<Found> hits;
    std::vector<uint32_t> needed, place; // lists of the hits; of each visit, where in them its list is
    std::vector<float> products;         // of the query with their centroids
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
    list_of_.resize(blocks_);
    for (size_t b = 0, l = 0; b < blocks_; ++b) {
        while (bounds_[l + 1] <= b * kBlock) ++l;
        list_of_[b] = static_cast<uint32_t>(l);
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
        c.make_tables(p.whole + (t.first + i) * d_, c.has_term_ ? 1 : 0, d_, t.exact[0], t.choice[i]);
        const Tables &own = t.choice[i];
        float unit = static_cast<float>(1 / own.step);
        if (p.relative) {
            int32_t length = 0;
            for (size_t j = 0; j < d_; ++j) length += own.weights[j] * own.weights[j];
            unit = std::sqrt(static_cast<float>(length));
        }
        t.lists[i].start(std::min(p.probes, lists()), p.reach, unit);
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
        Best &best = t.lists[i];
        best.cut();
        Hit *hits = best.begin(), *last = hits + best.count();
        if (hits != last) std::iter_swap(hits, std::min_element(hits, last, scan::better));
        const double step = t.choice[i].step * p.times, scale = 1 / t.tables[i].step;
        for (; hits != last; ++hits) {
            float dot = hits->score;
            if (c.has_term_) dot -= t.choice[i].factor * c.term_.get()[hits->id];
            const double base = step * static_cast<double>(dot / weight_[hits->id]) + static_cast<double>(p.shift[t.first + i]);
            t.visits.push_back({hits->id, static_cast<float>(base * scale)});
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
    scan::Store store{codes_.get() + block * scan::block_bytes(groups_, bits_), gain_.get() + block * kBlock,
                            has_term_ ? term_.get() + block * kBlock : nullptr, inverse_.data() + block, shares_.data() + block * kBlock, t.allow.data(), groups_, bits_, coded_};
    store.origin = static_cast<uint32_t>(block * kBlock);
    for (size_t from = first_call; from < last_call; from += scan::kQueries) {
        const size_t some = std::min(scan::kQueries, last_call - from);
        scan::Query four[scan::kQueries];
        for (size_t i = 0; i < some; ++i) {
            const auto &call = t.calls[from + i];
            const Tables &tables = t.tables[call.query];
            four[i] = {tables.rounded.get(), tables.weights.data(), {tables.shift[0], tables.shift[1], tables.shift[2]}, tables.bias,
                       p.scaled ? call.base : tables.factor, &t.best[call.query]};
            if (!p.scaled) four[i].base = call.base;
        }
        scan::dispatch(store, 0, blocks, four, some, groups_);
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
    std::sort(hits.begin(), hits.end(), scan::better);
    float least = std::numeric_limits<float>::infinity();
    for (size_t i = 0; i < k; ++i) least = std::min(least, hits[i].score - room(hits[i]));
    const auto hopeless = [&](const Hit &hit) { return hit.score + room(hit) < least; };
    hits.erase(std::remove_if(hits.begin() + static_cast<std::ptrdiff_t>(k), hits.end(), hopeless), hits.end());
}

// The hits of a query, with what the exact centroid of their list adds.
void Lists::gather(const Probe &p, size_t q, Tile &t) const {
    constexpr uint32_t none = ~uint32_t{0};
    Best &best = t.best[q];
    const Visit *visits = t.visits.data() + t.ends[q];
    const size_t many = t.ends[q + 1] - t.ends[q];
    best.cut();
    t.hits.clear();
    t.needed.clear();
    t.place.assign(many, none);
    for (size_t v = 0; v < many; ++v) t.visit[visits[v].list] = static_cast<uint32_t>(v);
    for (size_t h = 0; h < best.count(); ++h) {
        const Hit &hit = best.begin()[h];
        __builtin_prefetch(rows_ + hit.id * row_bytes_);
        size_t list = list_of_[hit.id / kBlock];
        while (bounds_[list + 1] <= hit.id) ++list;
        const uint32_t v = t.visit[list];
        if (t.place[v] == none) {
            t.place[v] = static_cast<uint32_t>(t.needed.size());
            t.needed.push_back(static_cast<uint32_t>(list));
        }
        t.hits.push_back({hit, t.place[v], visits[v].base});
    }
    t.products.resize(t.needed.size());
    COMPAND_DISPATCH(dots, p.whole + (t.first + q) * d_, centroids_.data(), t.needed.data(), t.needed.size(), d_, t.products.data());
    const double shift = static_cast<double>(p.shift[t.first + q]), scale = 1 / t.tables[q].step;
    for (Found &hit : t.hits) {
        const auto base = static_cast<float>((static_cast<double>(p.times * t.products[hit.list]) + shift) * scale);
        hit.score += (base - hit.base) * (p.scaled ? term_.get()[hit.id] : 1);
    }
}

// The hits of a query with their scores in float32, best first.
void Lists::finish(const Probe &p, size_t q, const float *table, Tile &t) const {
    gather(p, q, t);
    settle(t.tables[q], p.k, t.hits);
    const float *query = p.queries + (t.first + q) * p.stride;
    for (Found &hit : t.hits) {
        const float base = p.times * t.products[hit.list] + p.shift[t.first + q];
        float s = score(table, query, hit.id) * gain_.get()[hit.id];
        if (p.scaled) {
            s = s + base * term_.get()[hit.id];
        } else {
            if (has_term_ && p.factors) s = s + p.factors[t.first + q] * term_.get()[hit.id];
            s = s + base;
        }
        hit.score = s == s ? s : kNone;
    }
    std::sort(t.hits.begin(), t.hits.end(), scan::better);
}

void Lists::search_tile(const Probe &p, size_t first, size_t last, Tile &t, float *scores, int64_t *rows) const {
    const size_t count = last - first;
    t.first = first;
    t.scanned = 0;
    t.tables.resize(std::max(t.tables.size(), count));
    t.best.resize(std::max(t.best.size(), count));
    t.ends.assign(1, 0);
    t.visits.clear();
    t.visit.resize(lists());
    // calls use(query, its exact table) of all, some of them together
    const auto with_exact = [&](bool bounds, auto &&use) {
        const float *queries[kTogether];
        Exact *own[kTogether];
        for (size_t q = 0; q < count; q += kTogether) {
            const size_t some = std::min(kTogether, count - q);
            for (size_t i = 0; i < some; ++i) queries[i] = p.queries + (first + q + i) * p.stride, own[i] = &t.exact[i];
            make_exact(queries, some, bounds, own);
            for (size_t i = 0; i < some; ++i) use(q + i, *own[i]);
        }
    };
    with_exact(true, [&](size_t q, const Exact &exact) {
        make_tables(p.queries + (first + q) * p.stride, p.factors ? p.factors[first + q] : 0, groups_, exact, t.tables[q]);
        t.best[q].start(t.keep);
    });
    choose(p, count, t);
    for (const bool nearest : {true, false}) {  // first the best list of each query, for a threshold; then the others
        const auto each = [&](auto &&use) {
            for (size_t q = 0; q < count; ++q)
                for (size_t v = t.ends[q] + !nearest; v < (nearest ? std::min(t.ends[q] + 1, t.ends[q + 1]) : t.ends[q + 1]); ++v) use(q, t.visits[v]);
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
    with_exact(false, [&](size_t q, const Exact &exact) {
        finish(p, q, exact.values.data(), t);
        for (size_t i = 0; i < p.k; ++i) {
            const bool found = i < t.hits.size();
            scores[(first + q) * p.k + i] = found ? t.hits[i].score + p.offsets[first + q] : kNone;
            rows[(first + q) * p.k + i] = found ? static_cast<int64_t>(t.hits[i].id) : -1;
        }
    });
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

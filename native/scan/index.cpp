#include "scan/index.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <numeric>

#include "isa.hpp"
#include "threads.hpp"

namespace compand::scan {

void Best::cut() {
    if (sorted_ || count_ <= k_) return;
    std::nth_element(hits_.begin(), hits_.begin() + static_cast<std::ptrdiff_t>(k_) - 1, hits_.begin() + static_cast<std::ptrdiff_t>(count_), better);
    count_ = k_;
    threshold = hits_[k_ - 1].score;
}

Index::Index(const uint8_t *rows, size_t n, size_t row_bytes, size_t groups, unsigned bits, bool coded, const float *gain, const float *term,
             size_t laid)
    : rows_(rows), row_bytes_(row_bytes), n_(n), blocks_((n + kBlock - 1) / kBlock), groups_(groups), laid_(laid ? std::min((laid + 3) / 4 * 4, groups) : groups),
      bits_(bits), coded_(coded), has_term_(term != nullptr), codes_(blocks_ * block_bytes(laid_, bits)), gain_(blocks_ * kBlock), term_(term ? blocks_ * kBlock : 0), valid_(blocks_), inverse_(blocks_), shares_(coded && bits != 4 ? blocks_ * kBlock : 0) {
    const size_t size = block_bytes(laid_, bits);
    if (!coded) width_ = groups;
    for (size_t b = 0; b < blocks_; ++b) valid_[b] = n - b * kBlock >= kBlock ? ~uint64_t{0} : (uint64_t{1} << (n - b * kBlock)) - 1;
    std::memset(codes_.get() + blocks_ * size, 0, 64);
    parallel_for(blocks_, [&](size_t b) {
        uint8_t *out = codes_.get() + b * size;
        std::memset(out, 0, size);
        for (size_t v = 0; v < kBlock; ++v) {
            const size_t i = b * kBlock + v;
            gain_.get()[i] = i < n ? gain[i] : 0;
            if (term) term_.get()[i] = i < n ? term[i] : 0;
            if (i >= n) continue;
            const uint8_t *row = rows + i * row_bytes;
            if (bits == 4) {
                for (size_t g = 0; g < groups; ++g) {
                    const unsigned id = row[g / 2] >> (g % 2 * 4) & 15;
                    out[g / 8 * 256 + v * 4 + g % 4] |= static_cast<uint8_t>(id << (g % 8 / 4 * 4));
                }
            } else if (bits == 6) {
                const size_t field = (v < 32 ? 2 * v : 2 * v - 63) * 6;
                for (size_t g = 0; g < groups; ++g) {
                    const size_t at = g * 6;
                    const unsigned pair = row[at / 8] | (at % 8 > 2 ? static_cast<unsigned>(row[at / 8 + 1]) << 8 : 0);
                    const unsigned id = (pair >> at % 8 & 63) << field % 8;
                    uint8_t *to = out + g * 48 + field / 8;
                    to[0] |= static_cast<uint8_t>(id);
                    if (id >> 8) to[1] |= static_cast<uint8_t>(id >> 8);
                }
            } else if (coded) {
                for (size_t g = 0; g < groups; ++g) out[g * kBlock + v] = row[g];
            } else {
                for (size_t g = 0; g < laid_; ++g) out[g / 4 * 256 + v * 4 + g % 4] = row[g];
            }
        }
        const float *own = gain_.get() + b * kBlock;
        if (!term && std::all_of(own, own + kBlock, [](float g) { return g >= 0 && g < 1e30f; })) {
            const float most = *std::max_element(own, own + kBlock);
            if (most < 1e-30f) return;
            inverse_[b] = (1 - 1e-6f) / most;
            for (size_t v = 0; v < kBlock && !shares_.empty(); ++v)
                shares_[b * kBlock + place_of(v, bits)] = static_cast<uint16_t>(std::min(65535.0f, std::ceil(own[v] / most * 65536) + 1));
        }
    });
}

void Index::set_codebooks(const float *values, const int32_t *sizes) {
    size_t total = 0;
    for (size_t g = 0; g < groups_; ++g) {
        starts_.push_back(width_);
        offsets_.push_back(total);
        width_ += static_cast<size_t>(sizes[g]);
        total += static_cast<size_t>(sizes[g]) << bits_;
    }
    starts_.push_back(width_);
    codebooks_.assign(values, values + total);
}

void Index::set_bounds(const float *units, size_t fine, float typical, float margin) {
    units_.assign(units, units + groups_);
    rest_.assign(blocks_ * kBlock, 0);
    if (fine < laid_) fine = groups_;
    const size_t middle = laid_ + kMiddle <= fine ? laid_ + kMiddle : 0;
    far_.assign(middle ? blocks_ * kBlock : 0, 0);
    nearer_ = Aligned<uint8_t>(middle ? blocks_ * kBlock * kMiddle : 0);
    bounds_ = {rows_, row_bytes_, n_, groups_, laid_, middle, fine, rest_.data(), far_.data(), nearer_.get(), {}, zero_, typical, margin};
    std::vector<float> first(blocks_, 0), last(blocks_, 0);
    parallel_for(blocks_, [&](size_t b) {
        for (size_t i = b * kBlock; i < std::min(n_, (b + 1) * kBlock); ++i) {
            const uint8_t *row = rows_ + i * row_bytes_;
            const float gain = std::fabs(gain_.get()[i]);
            rest_[i] = COMPAND_DISPATCH(length, row + laid_, units_.data() + laid_, fine - laid_, zero_) * gain;
            if (middle) {
                std::memcpy(nearer_.get() + i * kMiddle, row + laid_, kMiddle);
                far_[i] = COMPAND_DISPATCH(length, row + middle, units_.data() + middle, fine - middle, zero_) * gain;
            }
            first[b] = std::max(first[b], COMPAND_DISPATCH(length, row, units_.data(), laid_, zero_) * gain);
            last[b] = std::max(last[b], COMPAND_DISPATCH(length, row + fine, units_.data() + fine, groups_ - fine, zero_) * gain);
        }
    });
    for (size_t b = 0; b < blocks_; ++b) bounds_.most[0] = std::max(bounds_.most[0], first[b]), bounds_.most[3] = std::max(bounds_.most[3], last[b]);
    for (size_t i = 0; i < n_; ++i) {
        bounds_.most[1] = std::max(bounds_.most[1], std::fabs(gain_.get()[i]));
        if (has_term_) bounds_.most[2] = std::max(bounds_.most[2], std::fabs(term_.get()[i]));
    }
}

void Index::make_exact(const float *const *queries, size_t count, bool bounds, Exact *const *out) const {
    if (!coded_) return;
    float *values[kTogether], *least[kTogether], *most[kTogether];
    for (size_t i = 0; i < count; ++i) {
        for (auto *own : {&out[i]->least, &out[i]->most}) own->resize(groups_);
        out[i]->values.resize(groups_ << bits_);
        values[i] = out[i]->values.data(), least[i] = out[i]->least.data(), most[i] = out[i]->most.data();
    }
    COMPAND_DISPATCH(products_of_groups, queries, count, codebooks_.data(), starts_.data(), offsets_.data(), groups_, size_t{1} << bits_, values,
                     bounds ? least : nullptr, bounds ? most : nullptr);
}

void Index::make_tables(const float *query, float factor, size_t scanned, const Exact &exact, Tables &t) const {
    const size_t padded = padded_groups(groups_, bits_), k = size_t{1} << bits_;
    t.weights.assign(padded, 0);
    double step = 1, bias = 0;
    if (!coded_) {
        const float top = COMPAND_DISPATCH(largest, query, groups_);
        if (top > 0) step = static_cast<double>(top) / 127;
        int32_t sum = 0;
        if (top > 1e-30f) {
            sum = COMPAND_DISPATCH(round_columns, query, scanned, static_cast<float>(1 / step), t.weights.data());
        } else {  // 1 / step may be past the largest float
            for (size_t j = 0; j < scanned; ++j) sum += t.weights[j] = static_cast<int8_t>(std::lrint(query[j] / step));
        }
        bias = static_cast<double>(zero_) * sum;
    } else {
        if (!t.rounded.get()) t.rounded = Aligned<uint8_t>(padded * k);
        std::memset(t.rounded.get() + scanned * k, 0, (padded - scanned) * k);
        const std::vector<float> &low = exact.least;
        std::vector<float> &range = t.range, &scales = t.scales;
        range.resize(groups_), scales.resize(groups_);
        float top = 0;
        for (size_t g = 0; g < scanned; ++g) top = std::max(top, range[g] = exact.most[g] - low[g]);
        const int most = bits_ == 4 ? 255 : 127;
        if (!(top > 0) || !std::isfinite(top)) top = 1;
        if (bits_ == 4) {
            step = static_cast<double>(top) / (64.0 * most);
            for (size_t g = 0; g < scanned; ++g)
                t.weights[g] = static_cast<int8_t>(std::clamp(std::ceil(static_cast<double>(range[g]) / (step * most)), 1.0, 64.0));
        } else {
            float widest[kClasses] = {};
            size_t count[kClasses] = {};
            for (size_t c = 0, g = 0; c < kClasses; ++c)
                for (; g < std::min(class_end(groups_, c), scanned); ++g) widest[c] = std::max(widest[c], range[g]), ++count[c];
            for (int finest = 6; finest >= -6; --finest) {  // the finest step for which no sum can pass 2^16
                step = std::ldexp(static_cast<double>(top) / most, -finest);
                size_t sum = 0;
                for (size_t c = 0; c < kClasses; ++c) {
                    t.shift[c] = 0;
                    while (t.shift[c] < finest && step * most * (1 << t.shift[c]) < static_cast<double>(widest[c])) ++t.shift[c];
                    const auto entry = static_cast<size_t>(std::min<double>(most, std::ceil(static_cast<double>(widest[c]) / (step * (1 << t.shift[c])) + 0.5)));
                    sum += (count[c] << t.shift[c]) * entry;
                }
                if (sum < 65536) break;
            }
            for (size_t c = 0, g = 0; c < kClasses; ++c)
                for (; g < std::min(class_end(groups_, c), scanned); ++g) t.weights[g] = static_cast<int8_t>(1 << t.shift[c]);
        }
        double least = 0, scale = 0;
        for (size_t g = 0; g < scanned; ++g) {
            least += static_cast<double>(low[g]);
            if (!g || t.weights[g] != t.weights[g - 1]) scale = 1 / (step * t.weights[g]);  // divisions take as long as all else here
            scales[g] = static_cast<float>(scale);
        }
        COMPAND_DISPATCH(round_groups, exact.values.data(), scanned, k, low.data(), scales.data(), static_cast<float>(most), t.rounded.get());
        bias = least / step;
    }
    t.step = step;
    t.bias = static_cast<float>(bias);
    t.factor = static_cast<float>(static_cast<double>(factor) / step);
}

// Weights of all columns are in t.weights; what the first ones leave open, in steps (a little more, for roundings).
void Index::make_asked(const float *query, float factor, bool exact, Tables &t) const {
    const size_t padded = (groups_ + 127) / 64 * 64;  // so that 64 columns can be read from anywhere
    t.query.assign(padded, 0);
    t.weights.resize(padded, 0);
    std::copy_n(query, groups_, t.query.data());
    const Bounds &b = bounds_;
    double length[4] = {}, error[4] = {}, size = 0;  // squared: of first columns, up to `middle`, up to `fine`, fine
    int64_t weights[4] = {};
    for (size_t j = 0; j < groups_; ++j) {
        const double unit = std::max(static_cast<double>(units_[j]), 1e-30), w = t.weights[j];
        const double y = static_cast<double>(query[j]) / t.step, u = y / unit, e = (y - w) / unit;
        const size_t part = j < b.lead ? 0 : j < b.middle ? 1 : j < b.fine ? 2 : 3;
        length[part] += u * u;
        error[part] += e * e;
        weights[part] += t.weights[j];
        size += (255 + std::fabs(static_cast<double>(zero_))) * std::fabs(w);
    }
    const auto zeros = [&](int64_t sum) { return static_cast<int32_t>(std::floor(static_cast<double>(zero_) * static_cast<double>(sum))); };
    const double cut = zero_ == std::floor(zero_) ? 0 : 0.5;  // of such a sum, if zero is no whole number
    constexpr double more = 1 + 1e-5;
    const float margin = exact || !(b.margin < 1) ? 1 : b.margin;
    const double part = static_cast<double>(margin) * more;
    const auto hope = [&](double first, double rest) -> Hope {
        const double slope = std::sqrt(rest) / (std::sqrt(first) * static_cast<double>(b.typical));
        const bool guess = margin < 1 && slope < 1e30;
        return {guess ? static_cast<float>(slope) : 0, static_cast<float>(std::sqrt(rest) * (guess ? part : more))};
    };
    const double all = length[0] + length[1] + length[2] + length[3], all_error = error[0] + error[1] + error[2] + error[3];
    const double first_error = std::sqrt(error[0]) * part + 1e-5 * std::sqrt(length[0]), term = std::fabs(static_cast<double>(factor)) / t.step * 1e-6;
    const double slack = first_error * static_cast<double>(b.most[0]) + (size * 2.5e-7 + cut) * static_cast<double>(b.most[1]) +
                         term * static_cast<double>(b.most[2]) + std::sqrt(length[3]) * part * static_cast<double>(b.most[3]);
    t.asked = {t.query.data(), t.weights.data(), zeros(weights[0]), zeros(weights[0] + weights[1]), zeros(weights[0] + weights[1] + weights[2] + weights[3]),
               hope(length[0], length[1] + length[2]), hope(length[0] + length[1], length[2]),
               static_cast<float>(std::sqrt(all_error) * part + 1e-5 * std::sqrt(all)), static_cast<float>(slack * more),
               static_cast<float>(t.step), static_cast<float>(1 / t.step), factor};
}

// From the packed rows, which lie together; group g is added to lane g % 4, so that additions need not wait for each other.
float Index::score(const float *table, const float *query, uint32_t id) const {
    const uint8_t *row = rows_ + id * row_bytes_;
    float lanes[4] = {};
    if (bits_ == 8 && coded_) {
        for (size_t g = 0; g < groups_; ++g, table += 256) lanes[g % 4] += table[row[g]];
    } else if (bits_ == 8) {
        for (size_t g = 0; g < groups_; ++g) lanes[g % 4] += query[g] * (static_cast<float>(row[g]) + zero_);
    } else if (bits_ == 4) {
        for (size_t g = 0; g < groups_; ++g, table += 16) lanes[g % 4] += table[row[g / 2] >> (g % 2 * 4) & 15];
    } else {
        size_t g = 0;
        for (; g + 4 <= groups_; g += 4, row += 3, table += 256) {
            const uint32_t four = row[0] | row[1] << 8 | static_cast<uint32_t>(row[2]) << 16;
            lanes[0] += table[four & 63];
            lanes[1] += table[64 + (four >> 6 & 63)];
            lanes[2] += table[128 + (four >> 12 & 63)];
            lanes[3] += table[192 + (four >> 18)];
        }
        uint32_t rest = 0;
        for (size_t i = 0; i < (groups_ - g) * 6; i += 8) rest |= static_cast<uint32_t>(row[i / 8]) << i;
        for (; g < groups_; ++g, rest >>= 6, table += 64) lanes[g % 4] += table[rest & 63];
    }
    return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
}

void Index::sums(const float *queries, size_t count, const int64_t *ids, size_t m, float *out) const {
    parallel_for(count, [&](size_t q) {
        Exact exact, *const own = &exact;
        const float *query = queries + q * width_;
        make_exact(&query, 1, false, &own);
        for (size_t i = 0; i < m; ++i) out[q * m + i] = score(exact.values.data(), query, static_cast<uint32_t>(ids[q * m + i]));
    });
}

namespace {

// Which of the best of a part of all vectors is seldom (1 in 200) among the k best of all, were the part drawn at random.
size_t likely_rank(size_t k, double part) {
    double chance = std::pow(1 - part, static_cast<double>(k - 1)), below = 0;  // that `rank` of the k - 1 best are in the part
    for (size_t rank = 0; rank < k; ++rank) {
        below += chance;
        if (1 - below <= 0.005) return rank + 1;
        chance *= static_cast<double>(k - 1 - rank) / static_cast<double>(rank + 1) * part / (1 - part);
    }
    return k;
}

void dispatch(const Store &store, size_t first, size_t last, Query *queries, size_t count, size_t groups) {
    COMPAND_DISPATCH(scan, store, first, last, queries, count, groups);
}

// A floor for each query: what the best of some blocks by their first columns score in full, of which the k best will most likely pass
// one of low rank.
void guess_floors(const Store &store, size_t blocks, Query *queries, size_t count, size_t rank) {
    constexpr size_t trial = 24;
    const Bounds &b = *store.bounds;
    Store plain = store;
    plain.bounds = nullptr;
    std::vector<Best> best(count);
    std::vector<Query> own(queries, queries + count);
    for (size_t q = 0; q < count; ++q) best[q].start(trial), own[q].best = &best[q];
    for (size_t i = 0; i < blocks; ++i) {
        const size_t block = store.start + i * store.step % store.length;
        dispatch(plain, block, block + 1, own.data(), count, store.groups);
    }
    for (size_t q = 0; q < count; ++q) {
        const Asked &asked = *queries[q].asked;
        const size_t found = best[q].count();
        int64_t ids[trial];
        float sums[trial];
        for (size_t i = 0; i < found; ++i) ids[i] = best[q].begin()[i].id;
        COMPAND_DISPATCH(sums_of, asked.query, b.rows, b.n, b.columns, b.zero, ids, found, sums);
        for (size_t i = 0; i < found; ++i) sums[i] = sums[i] * store.gain[ids[i]] + (store.term ? asked.factor * store.term[ids[i]] : 0);
        std::sort(sums, sums + found, std::greater<>());
        if (rank <= found && sums[rank - 1] == sums[rank - 1]) queries[q].floor = sums[rank - 1];
    }
}

// A scan with bounds. The blocks come in an order like a random one, and after 1/32, 1/16 ... of them a score that the k best will
// most likely pass becomes the floor: it spares most of the looks at a vector. Queries for which it was too high are to be scanned again.
void scan_bounded(Store store, size_t begin, size_t end, Query *queries, size_t count, size_t keep) {
    constexpr size_t parts = 32, few = 16;
    const size_t length = end - begin;
    if (!length) return;
    store.start = begin, store.length = length, store.step = 1;
    if (count < few) return dispatch(store, 0, length, queries, count, store.groups);  // blocks in order come from memory faster
    store.step = std::max<size_t>(1, static_cast<size_t>(static_cast<double>(length) * 0.6180339887));
    while (std::gcd(store.step, length) != 1) ++store.step;
    const bool guess = keep > 1 && length >= 2 * parts;
    if (guess) guess_floors(store, length / parts, queries, count, likely_rank(keep, 1.0 / parts));
    for (size_t part = guess ? 2 : parts, at = 0; part <= parts; part *= 2) {
        const size_t next = length * part / parts;
        dispatch(store, at, next, queries, count, store.groups);
        at = next;
        if (part == parts) break;
        const size_t rank = likely_rank(keep, static_cast<double>(part) / parts);
        for (size_t q = 0; q < count; ++q) queries[q].floor = std::max(queries[q].floor, queries[q].best->score_of(rank));
    }
}

}  // namespace

void Index::search(const Request &r, float *scores, int64_t *ids) const {
    constexpr size_t most_tile = 512;
    const bool bounded = bounds_.columns;
    const size_t scanned = bounded ? bounds_.lead : std::min(std::max<size_t>(r.scanned, 1), groups_);
    const size_t shortlist = bounded ? r.k : std::max(r.k, std::min(r.shortlist, n_));
    const size_t keep = std::max<size_t>(1, std::min(shortlist, n_));
    const size_t wave = std::clamp<size_t>((size_t{1} << 22) / std::max(keep, coded_ ? groups_ << bits_ : 1), 1, 1024);  // queries at once, so that hits and tables stay in bounds
    std::vector<uint64_t> allow = valid_;
    if (r.allowed) {
        for (size_t b = 0; b < blocks_; ++b) {
            uint64_t word = 0;
            std::memcpy(&word, r.allowed + b * 8, std::min<size_t>(8, (n_ + 7) / 8 - b * 8));
            allow[b] &= word;
        }
    }
    const Store store{codes_.get(), gain_.get(), has_term_ ? term_.get() : nullptr, inverse_.data(), shares_.data(), allow.data(), laid_, bits_, coded_, bounded ? &bounds_ : nullptr};
    // blocks that stay in the cache (of columns, the nearest one) while all queries of a tile pass over them; with bounds
    // the scan sees to that itself
    const size_t chunk = !coded_ ? std::max<size_t>(1, 20480 / block_bytes(laid_, 8)) : 16;
    std::vector<Tables> tables(std::min(wave, r.count));
    std::vector<Exact> exact(tables.size());
    std::vector<Best> best;
    for (size_t from = 0; from < r.count; from += wave) {
        const size_t count = std::min(wave, r.count - from);
        parallel_for(count, [&](size_t q) {
            const float *query = r.queries + (from + q) * r.stride, factor = r.factors ? r.factors[from + q] : 0;
            Exact *const own = &exact[q];
            make_exact(&query, 1, true, &own);
            make_tables(query, factor, bounded ? groups_ : scanned, *own, tables[q]);
            if (bounded) make_asked(query, factor, r.exact, tables[q]);
        });
        // queries that pass over a chunk together: of codebooks few, whose tables stay in the cache; of columns many, but two such for each
        // thread, since a segment of the vectors alone has a lower floor and lets more of them pass
        const auto workers = static_cast<size_t>(std::max(1, threads()));
        const size_t tile = coded_ ? 32 : std::clamp<size_t>((count + 2 * workers - 1) / (2 * workers), 32, most_tile), tiles = (count + tile - 1) / tile;
        const size_t most = std::max<size_t>(1, blocks_ / 64);  // segments worth a task
        const size_t segments = tiles >= 2 * workers ? 1 : std::min(most, (2 * workers + tiles - 1) / tiles);
        const size_t length = (blocks_ + segments - 1) / segments + 1;
        best.resize(segments * count);
        for (auto &b : best) b.start(keep);
        std::vector<float> floors(bounded ? segments * count : 0);
        const auto start = [&](size_t q, size_t segment) -> Query {
            const Tables &t = tables[q];
            return {t.rounded.get(), t.weights.data(), {t.shift[0], t.shift[1], t.shift[2]}, t.bias, t.factor, &best[segment * count + q], bounded ? &t.asked : nullptr};
        };
        parallel_for(tiles * segments, [&](size_t task) {
            const size_t first_query = task / segments * tile, last_query = std::min(first_query + tile, count);
            const size_t segment = task % segments, begin = std::min(segment * length, blocks_), end = std::min(begin + length, blocks_);
            Query queries[most_tile];
            for (size_t q = first_query; q < last_query; ++q) queries[q - first_query] = start(q, segment);
            if (bounded) {
                scan_bounded(store, begin, end, queries, last_query - first_query, keep);
                for (size_t q = first_query; q < last_query; ++q) floors[segment * count + q] = queries[q - first_query].floor;
                return;
            }
            for (size_t at = begin; at < end; at += chunk) dispatch(store, at, std::min(at + chunk, end), queries, last_query - first_query, scanned);
        });
        if (bounded) parallel_for(segments, [&](size_t segment) {  // those whose floor was too high, together
            Store whole = store;
            whole.start = std::min(segment * length, blocks_), whole.length = std::min(whole.start + length, blocks_) - whole.start, whole.step = 1;
            std::vector<Query> again;
            for (size_t q = 0; q < count; ++q) {
                Best &own = best[segment * count + q];
                if (own.score_of(keep) >= floors[segment * count + q]) continue;
                again.push_back(start(q, segment));
                again.back().floor = own.score_of(keep);  // a score that the k best do pass
                own.start(keep);
            }
            if (whole.length && !again.empty()) dispatch(whole, 0, whole.length, again.data(), again.size(), store.groups);
        });
        parallel_for(count, [&](size_t q) {
            std::vector<Hit> hits;
            for (size_t segment = 0; segment < segments; ++segment) {
                Best &b = best[segment * count + q];
                b.cut();
                hits.insert(hits.end(), b.begin(), b.begin() + b.count());
            }
            if (hits.size() > keep) {
                std::nth_element(hits.begin(), hits.begin() + static_cast<std::ptrdiff_t>(keep) - 1, hits.end(), better);
                hits.resize(keep);
            }
            const float *query = r.queries + (from + q) * r.stride;
            for (Hit &hit : hits) {
                float s = 0;
                const int64_t id = hit.id;
                if (!bounded) s = score(exact[q].values.data(), query, hit.id);
                else COMPAND_DISPATCH(sums_of, query, rows_, n_, groups_, zero_, &id, 1, &s);
                s = s * gain_.get()[hit.id];
                if (has_term_ && r.factors) s = s + r.factors[from + q] * term_.get()[hit.id];
                hit.score = s;
            }
            std::sort(hits.begin(), hits.end(), better);
            for (size_t i = 0; i < r.k; ++i) {
                const bool found = i < hits.size();
                scores[(from + q) * r.k + i] = found ? hits[i].score + r.offsets[from + q] : -__builtin_inff();
                ids[(from + q) * r.k + i] = found ? static_cast<int64_t>(hits[i].id) : -1;
            }
        });
    }
}

}  // namespace compand::scan

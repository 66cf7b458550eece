#include "contexts.hpp"

#include <atomic>
#include <memory>

#include "blocks.hpp"
#include "lanes.hpp"
#include "model.hpp"
#include "static.hpp"

namespace compand::rans {
namespace {

constexpr size_t kTables = 64;

struct Histogram {
    std::vector<std::pair<uint32_t, uint64_t>> ids;  // id, count
    double own_bits = 0;
};

double cost(const Histogram &h, const std::vector<double> &length) {
    double bits = 0;
    for (const auto &[id, count] : h.ids) bits += static_cast<double>(count) * length[id];
    return bits;
}

std::vector<double> lengths(const Counts &counts) {
    uint64_t n = 0;
    for (const uint64_t c : counts) n += c;
    const double whole = log2_of(2 * n + counts.size());
    std::vector<double> length(counts.size());
    for (size_t s = 0; s < counts.size(); ++s) length[s] = whole - log2_of(2 * counts[s] + 1);
    return length;
}

// The table of each context: the context that gains most becomes a table of its own while that pays, then two rounds of
// re-assignment. Returns the number of tables.
size_t cluster(const std::vector<Histogram> &contexts, const Counts &all, std::vector<uint8_t> &table) {
    const size_t c = contexts.size(), m = all.size();
    std::vector<std::vector<double>> length{lengths(all)};
    std::vector<double> bits(c);
    table.assign(c, 0);
    for (size_t i = 0; i < c; ++i) bits[i] = cost(contexts[i], length[0]);
    while (length.size() < kTables) {
        size_t best = 0;
        double most = 0;
        for (size_t i = 0; i < c; ++i) {
            const double gain = bits[i] - contexts[i].own_bits - 8.0 * static_cast<double>(contexts[i].ids.size()) - 40;
            if (gain > most) most = gain, best = i;
        }
        if (most <= 0) break;
        Counts counts(m);
        for (const auto &[id, count] : contexts[best].ids) counts[id] += count;
        length.push_back(lengths(counts));
        for (size_t i = 0; i < c; ++i) {
            const double now = cost(contexts[i], length.back());
            if (now < bits[i] || i == best) bits[i] = i == best ? contexts[i].own_bits : now, table[i] = static_cast<uint8_t>(length.size() - 1);
        }
    }
    size_t tables = length.size();
    for (int round = 0; round < 2; ++round) {
        std::vector<Counts> counts(tables, Counts(m));
        for (size_t i = 0; i < c; ++i) {
            for (const auto &[id, count] : contexts[i].ids) counts[table[i]][id] += count;
        }
        for (size_t t = 0; t < tables; ++t) length[t] = lengths(counts[t]);
        for (size_t i = 0; i < c; ++i) {
            double least = 1e300;
            for (size_t t = 0; t < tables; ++t) {
                const double now = cost(contexts[i], length[t]);
                if (now < least) least = now, table[i] = static_cast<uint8_t>(t);
            }
        }
    }
    std::vector<int> name(tables, -1);  // without the tables nobody uses
    int used = 0;
    for (uint8_t &t : table) {
        if (name[t] < 0) name[t] = used++;
        t = static_cast<uint8_t>(name[t]);
    }
    return static_cast<size_t>(used);
}

size_t position(size_t t, size_t stride) { return t < stride * kLanes ? t % kLanes * stride + t / kLanes : t; }

}  // namespace

bool encode_order1(const uint8_t *ids, size_t n, const uint16_t *which, size_t c, Bytes &out) {
    out.clear();
    if (!n) return true;
    const auto plain = [&] {
        out.assign(1, 0);
        const Bytes data = encode_static<uint8_t>(ids, n);
        out.insert(out.end(), data.begin(), data.end());
        return true;
    };
    if (which) {
        for (size_t i = 0; i < n; ++i) {
            if (which[i] >= c) return false;
        }
    }
    if (n < 64) return plain();
    std::vector<uint64_t> counts(c * 256);
    if (which) {
        for (size_t i = 0; i < n; ++i) ++counts[which[i] * size_t{256} + ids[i]];
    } else {
        for (size_t i = 0; i < n; ++i) ++counts[(i ? ids[i - 1] : 0) * size_t{256} + ids[i]];
    }
    Counts all(256);
    for (size_t i = 0; i < c * 256; ++i) all[i & 255] += counts[i];
    size_t m = 256;
    while (!all[m - 1]) --m;
    all.resize(m);
    if (!which) {  // a lane starts in context 0 whatever came before
        for (size_t s = 0; s < m; ++s) counts[s] += all[s] > 0;
    }
    std::vector<Histogram> contexts(c);
    for (size_t i = 0; i < c; ++i) {
        Counts own;
        for (size_t s = 0; s < m; ++s) {
            if (const uint64_t count = counts[i * 256 + s]) contexts[i].ids.emplace_back(s, count), own.push_back(count);
        }
        contexts[i].own_bits = entropy_bits(own);
    }
    std::vector<uint8_t> table;
    const size_t tables = cluster(contexts, all, table);
    if (tables < 2) return plain();
    std::vector<Counts> shared(tables, Counts(std::max<size_t>(m, 2)));
    for (size_t i = 0; i < c; ++i) {
        for (const auto &[id, count] : contexts[i].ids) shared[table[i]][id] += count;
    }
    std::vector<Frequencies> f(tables);
    std::vector<uint32_t> steps(tables * 256);
    Bytes stored;
    FrequencyWriter writer(stored);
    double bits = 0;
    for (size_t t = 0; t < tables; ++t) {
        size_t used = 0, last = 0;
        for (size_t s = 0; s < shared[t].size(); ++s) {
            if (shared[t][s]) ++used, last = s;
        }
        if (used < 2) shared[t][last ? 0 : 1] += 1;  // tables need two ids, also those of contexts that never occur
        if (used < 1) shared[t][0] += 1;
        f[t] = normalise(shared[t], kNarrowBits);
        bits += coded_bits(shared[t], f[t], kNarrowBits);
        writer.put(f[t]);
        uint32_t start = 0;
        for (size_t s = 0; s < f[t].size(); ++s) {
            steps[t * 256 + s] = (f[t][s] - 1) << 16 | (start & 0xffff);
            start += f[t][s];
        }
    }
    writer.finish();
    out.push_back(which ? 2 : 1);
    put_varint(out, n);
    put_varint(out, tables);
    put_sized(out, encode_static<uint8_t>(table.data(), c));
    put_varint(out, f[0].size());
    put_sized(out, stored);
    const size_t block = block_symbols(n, bits), count = (n - 1) / block + 1;
    Coded coded(count);
    each_block(n, block, [&](size_t b, size_t first, size_t own) {
        const bool wide = wide_lanes(own, bits / static_cast<double>(count));
        const uint8_t *const from = ids + first;
        const Fill fill = [&](size_t t0, size_t k, size_t n_main, uint32_t *to, uint32_t *) {
            const size_t stride = wide ? n_main / kLanes : 0;
            for (size_t i = 0; i < k; ++i) {
                const size_t t = t0 + i;
                if (which) {
                    to[i] = steps[table[which[first + t]] * size_t{256} + from[t]];
                } else {
                    const size_t at = position(t, stride);
                    const bool fresh = at == 0 || (t < stride * kLanes && t < kLanes);
                    to[i] = steps[table[fresh ? 0 : from[at - 1]] * size_t{256} + from[at]];
                }
            }
        };
        write_lanes(fill, own, kNarrowBits, false, wide, coded[b]);
    });
    put_blocks(out, block, coded, nullptr);
    const Bytes ours = std::move(out);
    plain();
    if (ours.size() < out.size()) out = ours;
    return true;
}

bool decode_order1_ids(const uint8_t *data, size_t size, uint8_t *ids, size_t n, uint32_t k, const uint16_t *which, size_t c) {
    if (!n) return size == 0;
    if (!size) return false;
    if (data[0] == 0) return decode_static<uint8_t>(data + 1, size - 1, ids, n, k);
    if (data[0] != (which ? 2 : 1)) return false;
    Reader in(data + 1, size - 1);
    if (in.varint() != n) return false;
    const uint64_t tables = in.varint();
    size_t map_size = 0, stored_size = 0;
    const uint8_t *map = take_sized(in, map_size);
    const uint64_t m = in.varint();
    const uint8_t *stored = take_sized(in, stored_size);
    if (!in.ok() || tables < 2 || tables > kTables || m < 2 || m > 256 || m > std::max<uint32_t>(k, 2)) return false;
    std::vector<uint8_t> table(c);
    if (!decode_static<uint8_t>(map, map_size, table.data(), c, static_cast<uint32_t>(tables))) return false;
    const std::unique_ptr<uint32_t[]> slots(new uint32_t[tables << kNarrowBits]);
    FrequencyReader reader(stored, stored_size);
    for (size_t t = 0; t < tables; ++t) {
        Frequencies f(static_cast<size_t>(m));
        if (!reader.get(f, kNarrowBits)) return false;
        for (const uint32_t v : f) {
            if (v > 4095) return false;
        }
        fill_table(f, slots.get() + (t << kNarrowBits));
    }
    if (!reader.finish()) return false;
    size_t block = 0;
    std::vector<Block> blocks;
    if (!take_blocks(in, n, false, block, blocks)) return false;
    uint32_t next[256] = {};
    for (size_t i = 0; i < std::min<size_t>(c, 256); ++i) next[i] = table[i];
    Bytes given;
    if (which) {
        given.resize(n);
        for (size_t i = 0; i < n; ++i) {
            if (which[i] >= c) return false;
            given[i] = table[which[i]];
        }
    }
    std::atomic<bool> good{true};
    each_block(n, block, [&](size_t b, size_t first, size_t own) {
        LaneReader lanes;
        uint8_t *const to = ids + first;
        bool ok = lanes.open(blocks[b].data, blocks[b].size, own);
        ok = ok && lanes.groups(128, [&](Lanes &l, size_t from, size_t groups) {
            if (which) {
                return COMPAND_DISPATCH(decode_contexts, l, slots.get(), given.data() + first + from * kLanes, to + from * kLanes, groups);
            }
            return COMPAND_DISPATCH(decode_order1, l, slots.get(), next, to, lanes.n_main() / kLanes, from, groups);
        });
        for (; ok && lanes.more(); lanes.next()) {
            const size_t t = lanes.done();
            const uint32_t own_table = which ? given[first + t] : next[t ? to[t - 1] : 0];
            const uint32_t x = lanes.state(), e = slots[own_table << kNarrowBits | (x & 0xfff)];
            to[t] = static_cast<uint8_t>(e);
            lanes.advance((e >> 20) * (x >> kNarrowBits) + (e >> 8 & 0xfff));
        }
        for (size_t i = 0; ok && m > k && i < own; ++i) ok = to[i] < k;
        if (!ok || !lanes.finish()) good.store(false, std::memory_order_relaxed);
    });
    return good;
}

}  // namespace compand::rans

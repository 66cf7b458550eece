#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>

#include "blocks.hpp"
#include "lanes.hpp"
#include "modes.hpp"
#include "static.hpp"

namespace compand::rans {
namespace {

// Groups of ids whose counts (descending) differ by little; their ids are still to be told. sums: of the counts before each.
Grouping group_counts(const Counts &counts, const Counts &sums, size_t unused, double tolerance) {
    Grouping g;
    g.counts.push_back(0);
    g.size_bits.push_back(0);
    Counts sizes(1, unused);
    const uint64_t n = sums.back();
    double raw_bits = 0;
    for (size_t i = 0; i < counts.size();) {
        int j = 0;
        size_t take = 1;
        if (g.counts.size() == 1 && counts.size() - i == 1) return g;
        if (g.counts.size() > 1 && (n - sums[i] < n >> 11 || g.counts.size() == 255)) {  // what is left is too rare to part
            take = counts.size() - i;
            j = bit_length(take - 1);
        } else {
            const double top = static_cast<double>(counts[i]), spread = tolerance * std::sqrt(top);
            while (i + 2 * take <= counts.size() && (g.counts.size() > 1 || i + 2 * take < counts.size()) &&
                   top - static_cast<double>(counts[i + 2 * take - 1]) <= spread) {
                take *= 2;
                ++j;
            }
        }
        const uint64_t sum = sums[i + take] - sums[i];
        g.counts.push_back(sum);
        g.size_bits.push_back(j);
        sizes.push_back(take);
        raw_bits += static_cast<double>(sum) * j;
        i += take;
    }
    const Frequencies f = normalise(g.counts, kNarrowBits);
    g.bits = coded_bits(g.counts, f, kNarrowBits) + raw_bits + entropy_bits(sizes) + 12 * static_cast<double>(sizes.size());
    g.sizes = std::move(sizes);
    return g;
}

}  // namespace

Grouping choose_grouping(const Counts &counts, const std::vector<uint32_t> &order, size_t m) {
    Counts own(order.size()), sums(order.size() + 1);
    for (size_t i = 0; i < order.size(); ++i) {
        own[i] = counts[order[i]];
        sums[i + 1] = sums[i] + own[i];
    }
    Grouping best;
    for (const double tolerance : {2.0, 3.0, 4.5, 6.0, 9.0, 16.0, 64.0}) {
        Grouping g = group_counts(own, sums, m - order.size(), tolerance);
        if (g.bits < best.bits) best = std::move(g);
    }
    best.group.resize(m);
    const uint32_t *id = order.data();
    for (size_t g = 1; g < best.sizes.size(); ++g) {
        for (uint64_t left = best.sizes[g]; left; --left) best.group[*id++] = static_cast<uint8_t>(g);
    }
    return best;
}

void encode_large(const uint16_t *ids, size_t n, size_t m, const Grouping &g, Bytes &out, int depth) {
    put_varint(out, m);
    put_sized(out, encode_static<uint8_t>(g.group.data(), m, depth + 1));
    const Frequencies f = normalise(g.counts, kNarrowBits);
    Bytes table;
    FrequencyWriter writer(table);
    writer.put(Frequencies(f.begin() + 1, f.end()));
    writer.finish();
    put_sized(out, table);
    const std::vector<uint32_t> step = steps_of(f);
    std::vector<uint64_t> both(m);  // step and raw bits of each id
    std::vector<uint32_t> place(g.counts.size());
    for (size_t id = 0; id < m; ++id) {
        const uint8_t own = g.group[id];
        if (own) both[id] = step[own] | static_cast<uint64_t>(static_cast<uint32_t>(g.size_bits[own]) << 16 | place[own]++) << 32;
    }
    const size_t block = block_symbols(n, g.bits), count = (n - 1) / block + 1;
    Coded coded(count);
    each_block(n, block, [&](size_t b, size_t first, size_t own) {
        const uint16_t *const from = ids + first;
        const uint64_t *const of = both.data();
        const Fill fill = [=](size_t t, size_t c, size_t, uint32_t *steps, uint32_t *raws) {
            for (size_t i = 0; i < c; ++i) {
                const uint64_t v = of[from[t + i]];
                steps[i] = static_cast<uint32_t>(v);
                raws[i] = static_cast<uint32_t>(v >> 32);
            }
        };
        write_lanes(fill, own, kNarrowBits, true, wide_lanes(own, g.bits / static_cast<double>(count)), coded[b], {.wide_ids = from, .both = of});
    });
    put_blocks(out, block, coded, nullptr);
}

bool decode_large_ids(Reader &in, uint16_t *ids, size_t n, uint32_t k, int depth) {
    const uint64_t m = in.varint();
    size_t group_size = 0, table_size = 0;
    const uint8_t *group_bytes = take_sized(in, group_size);
    const uint8_t *table_bytes = take_sized(in, table_size);
    if (!in.ok() || m < 2 || m > k || m > 65536 || depth >= kDeepest) return false;
    std::vector<uint8_t> group(static_cast<size_t>(m));
    if (!decode_static<uint8_t>(group_bytes, group_size, group.data(), group.size(), 256, depth + 1)) return false;
    uint32_t sizes[256] = {}, info[256] = {}, place[256];
    size_t groups = 0;
    for (const uint8_t g : group) ++sizes[g], groups = std::max<size_t>(groups, g);
    uint32_t total = 0;
    for (size_t g = 1; g <= groups; ++g) {
        if (!sizes[g]) return false;
        const int bits = bit_length(sizes[g] - 1);
        info[g] = total << 5 | static_cast<uint32_t>(bits);
        place[g] = total;
        total += 1u << bits;
    }
    if (groups < 2) return false;
    std::vector<uint16_t> list(total + 2);
    for (size_t id = 0; id < group.size(); ++id) {
        if (group[id]) list[place[group[id]]++] = static_cast<uint16_t>(id);
    }
    Frequencies f(groups);
    FrequencyReader reader(table_bytes, table_size);
    if (!reader.get(f, kNarrowBits) || !reader.finish()) return false;
    for (const uint32_t v : f) {
        if (v > 4095) return false;
    }
    f.insert(f.begin(), 0);
    const std::unique_ptr<uint32_t[]> table(new uint32_t[1 << kNarrowBits]);
    fill_table(f, table.get());
    size_t block = 0;
    std::vector<Block> blocks;
    if (!take_blocks(in, n, false, block, blocks)) return false;
    std::atomic<bool> good{true};
    each_block(n, block, [&](size_t b, size_t first, size_t own) {
        LaneReader lanes;
        bool ok = lanes.open(blocks[b].data, blocks[b].size, own);
        ok = ok && lanes.groups(256, [&](Lanes &l, size_t from, size_t count) {
            return COMPAND_DISPATCH(decode_large, l, table.get(), info, list.data(), ids + first + from * kLanes, count);
        });
        for (; ok && lanes.more(); lanes.next()) {
            const uint32_t x = lanes.state(), e = table[x & 0xfff];
            lanes.advance((e >> 20) * (x >> kNarrowBits) + (e >> 8 & 0xfff));
            const uint32_t s = lanes.state(), i = info[e & 0xff], bits = i & 31;
            ids[first + lanes.done()] = list[(i >> 5) + (s & ((1u << bits) - 1))];
            lanes.advance(s >> bits);
        }
        if (!ok || !lanes.finish()) good.store(false, std::memory_order_relaxed);
    });
    return good;
}

}  // namespace compand::rans

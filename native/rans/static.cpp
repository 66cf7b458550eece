#include "static.hpp"

#include <algorithm>
#include <atomic>
#include <memory>

#include "blocks.hpp"
#include "lanes.hpp"
#include "model.hpp"
#include "threads.hpp"

namespace compand::rans {
namespace {

enum Mode : uint8_t { raw = 0, constant = 1, small = 2, narrow = 3, large = 4 };
constexpr double kWorth = 1 - 1.0 / 512;  // bytes are coded if that saves 0.2 %: raw ones cost no time
constexpr int kDeepest = 3;  // streams inside streams

Counts count_ids(const uint8_t *ids, size_t n) {
    const size_t part = size_t{1} << 20, parts = (n + part - 1) / part;
    std::vector<Counts> counts(parts);
    parallel_for(parts, [&](size_t b) {
        uint32_t c[8][256] = {};
        const size_t end = std::min(n, (b + 1) * part);
        size_t i = b * part;
        for (; i + 8 <= end; i += 8) {
            uint64_t v;
            std::memcpy(&v, ids + i, 8);
            for (int s = 0; s < 8; ++s) ++c[s][v >> 8 * s & 255];
        }
        for (; i < end; ++i) ++c[0][ids[i]];
        counts[b].resize(256);
        for (const auto &own : c) {
            for (size_t s = 0; s < 256; ++s) counts[b][s] += own[s];
        }
    });
    Counts sum(256);
    for (const Counts &c : counts) {
        for (size_t s = 0; s < 256; ++s) sum[s] += c[s];
    }
    return sum;
}

Counts count_ids(const uint16_t *ids, size_t n) {
    Counts counts(65536);
    std::vector<uint32_t> c(2 * 65536);
    for (size_t from = 0; from < n;) {
        const size_t end = std::min(n, from + (size_t{1} << 30));
        for (; from + 2 <= end; from += 2) ++c[ids[from]], ++c[65536 + ids[from + 1]];
        if (from < end) ++c[ids[from++]];
        for (size_t s = 0; s < 65536; ++s) counts[s] += uint64_t{c[s]} + c[65536 + s];
        std::fill(c.begin(), c.end(), 0);
    }
    return counts;
}

template <class Id> void put_raw(Bytes &out, const Id *ids, size_t n, int bits) {
    const size_t at = out.size();
    out.resize(at + (n * static_cast<size_t>(bits) + 7) / 8);
    uint8_t *to = out.data() + at;
    if (bits == 8 * sizeof(Id)) {
        std::memcpy(to, ids, n * sizeof(Id));
        return;
    }
    uint64_t pending = 0;
    int held = 0;
    for (size_t i = 0; i < n; ++i) {
        pending |= static_cast<uint64_t>(ids[i]) << held;
        for (held += bits; held >= 8; held -= 8, pending >>= 8) *to++ = static_cast<uint8_t>(pending);
    }
    if (held) *to = static_cast<uint8_t>(pending);
}

template <class Id> bool take_raw(Reader &in, Id *ids, size_t n, uint32_t k) {
    const int bits = in.get<uint8_t>();
    size_t total;
    if (!in.ok() || bits < 1 || bits > 8 * static_cast<int>(sizeof(Id)) || !checked_mul(n, static_cast<size_t>(bits), total)) return false;
    const uint8_t *from = in.take(total / 8 + (total % 8 != 0));
    if (!from || in.left()) return false;
    if (bits == 8 * sizeof(Id)) {
        std::memcpy(ids, from, n * sizeof(Id));
    } else {
        uint64_t pending = 0;
        int held = 0;
        for (size_t i = 0; i < n; ++i) {
            for (; held < bits; held += 8) pending |= static_cast<uint64_t>(*from++) << held;
            ids[i] = static_cast<Id>(pending & ((1u << bits) - 1));
            pending >>= bits;
            held -= bits;
        }
        if (pending) return false;
    }
    if (k >> bits == 0 || k != 1u << bits) {
        for (size_t i = 0; i < n; ++i) {
            if (ids[i] >= k) return false;
        }
    }
    return true;
}

struct ByteModel {
    Mode mode = raw;
    int p = 0, mark = -1;
    Frequencies f;
    std::vector<uint8_t> rare;
    double bits = 1e300;
};

// The model with these rare ids behind one mark; rare may be empty.
ByteModel byte_model(const Counts &counts, std::vector<uint8_t> rare, Mode mode, int p) {
    ByteModel m;
    m.mode = mode;
    m.p = p;
    Counts own = counts, escaped(counts.size());
    size_t escapes = 0;
    for (size_t s = 0; s < counts.size(); ++s) {
        if (!rare[s]) continue;
        if (m.mark < 0) m.mark = static_cast<int>(s);
        else own[s] = 0;
        escaped[s] = counts[s];
        ++escapes;
        own[static_cast<size_t>(m.mark)] += s == static_cast<size_t>(m.mark) ? 0 : counts[s];
    }
    m.rare = std::move(rare);
    m.f = normalise(own, p);
    // states of 16 to 32 bits lose more the nearer p comes to 16 (measured)
    m.bits = coded_bits(own, m.f, p) * (1 + 3.7e-4 / (1 << 2 * (15 - p)));
    for (const uint64_t c : own) m.bits += c ? 7 : 0;
    if (m.mark >= 0) m.bits += entropy_bits(escaped) + 7 * static_cast<double>(escapes) + 8 * 16;
    return m;
}

// The cheapest of: all ids in the table, or the rare ones behind a mark, for each precision that suits.
ByteModel choose_model(const Counts &counts, uint64_t n, int depth) {
    const std::vector<uint8_t> none(counts.size());
    std::vector<size_t> order;
    for (size_t s = 0; s < counts.size(); ++s) {
        if (counts[s]) order.push_back(s);
    }
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return counts[a] > counts[b]; });
    const size_t used = order.size();
    ByteModel best;
    const auto offer = [&](const std::vector<uint8_t> &rare, Mode mode, int p) {
        ByteModel m = byte_model(counts, rare, mode, p);
        if (m.bits < best.bits * 0.99999) best = std::move(m);
    };
    for (const int choice : {0, 12, 13, 14, 15}) {
        const Mode mode = choice ? small : narrow;
        const int p = choice ? choice : kNarrowBits;
        if (mode == small ? used <= 16 : used > 16) offer(none, mode, p);
        if (depth >= kDeepest || (mode == narrow && used <= 16)) continue;
        std::vector<uint8_t> rare(counts.size());
        size_t folded = 0;
        uint64_t escapes = 0;
        for (size_t i = 1; i < order.size(); ++i) {
            // a frequency must be at least 1: where the ideal is i < 1, about (1 - i)^2 slots are wasted
            const double c = static_cast<double>(counts[order[i]]);
            if ((mode == small && i >= 15) || c * (1 << p) < 0.6 * static_cast<double>(n)) {
                rare[order[i]] = 1;
                escapes += counts[order[i]];
                ++folded;
            }
        }
        if (folded > 1 && escapes < n / 32) offer(rare, mode, p);
    }
    return best;
}

template <class Id> struct Step {
    std::vector<uint32_t> of;
    void fill(const Frequencies &f) {
        of.resize(f.size());
        uint32_t start = 0;
        for (size_t s = 0; s < f.size(); ++s) {
            of[s] = (f[s] - 1) << 16 | (start & 0xffff);
            start += f[s];
        }
    }
};

void encode_bytes(const uint8_t *ids, size_t n, const ByteModel &m, Bytes &out, int depth) {
    Step<uint8_t> step;
    step.fill(m.f);
    if (m.mark >= 0) {
        for (size_t s = 0; s < m.rare.size(); ++s) {
            if (m.rare[s]) step.of[s] = step.of[static_cast<size_t>(m.mark)];
        }
    }
    step.of.resize(std::max<size_t>(step.of.size(), 32));
    std::vector<uint8_t> marked(m.rare);
    marked.resize(256);
    const size_t block = block_symbols(n, m.bits), count = (n - 1) / block + 1;
    Coded coded(count);
    std::vector<Bytes> escapes(m.mark >= 0 ? count : 0);
    each_block(n, block, [&](size_t b, size_t first, size_t own) {
        const uint8_t *const from = ids + first;
        const uint32_t *const of = step.of.data();
        const Fill fill = [=](size_t t, size_t c, size_t, uint32_t *steps, uint32_t *) {
            const uint8_t *id = from + t;
            size_t i = 0;
            for (; i + 8 <= c; i += 8) {
                uint64_t eight;
                std::memcpy(&eight, id + i, 8);
                for (int b = 0; b < 8; ++b) steps[i + static_cast<size_t>(b)] = of[eight >> 8 * b & 255];
            }
            for (; i < c; ++i) steps[i] = of[id[i]];
        };
        write_lanes(fill, own, m.p, false, wide_lanes(own, m.bits / static_cast<double>(count)), coded[b], {from, of, m.f.size()});
        if (m.mark >= 0) {
            uint8_t found[4096];
            for (size_t t = 0; t < own; t += sizeof found) {
                const size_t hits = COMPAND_DISPATCH(find_marked, from + t, std::min(own - t, sizeof found), marked.data(), found);
                escapes[b].insert(escapes[b].end(), found, found + hits);
            }
        }
    });
    if (m.mode == small) out.push_back(static_cast<uint8_t>(m.p));
    put_varint(out, static_cast<uint64_t>(m.mark + 1));
    size_t most = m.f.size();
    while (!m.f[most - 1]) --most;
    put_varint(out, most);
    Bytes table;
    FrequencyWriter writer(table);
    writer.put(Frequencies(m.f.begin(), m.f.begin() + static_cast<ptrdiff_t>(most)));
    writer.finish();
    put_sized(out, table);
    if (m.mark >= 0) {
        Bytes all;
        for (const Bytes &e : escapes) all.insert(all.end(), e.begin(), e.end());
        put_sized(out, encode_static<uint8_t>(all.data(), all.size(), depth + 1));
    }
    put_blocks(out, block, coded, m.mark >= 0 ? &escapes : nullptr);
}

bool decode_bytes(Reader &in, Mode mode, uint8_t *ids, size_t n, uint32_t k, int depth) {
    const int p = mode == small ? in.get<uint8_t>() : kNarrowBits;
    const uint64_t marked = in.varint(), m = in.varint();
    size_t size = 0;
    const uint8_t *table_bytes = take_sized(in, size);
    if (!in.ok() || p < 10 || p > 15 || m < 1 || m > k || m > 256 || marked > m) return false;
    Frequencies f(static_cast<size_t>(m));
    FrequencyReader reader(table_bytes, size);
    if (!reader.get(f, p) || !reader.finish()) return false;
    Escapes escapes;
    escapes.mark = static_cast<int>(marked) - 1;
    if (marked && !f[marked - 1]) return false;
    const uint8_t *escape_bytes = nullptr;
    size_t escape_size = 0;
    if (marked) escape_bytes = take_sized(in, escape_size);
    size_t block = 0;
    std::vector<Block> blocks;
    if (!in.ok() || !take_blocks(in, n, marked > 0, block, blocks)) return false;
    Bytes escaped;
    if (marked) {
        const size_t total = blocks.back().escape_from + blocks.back().escapes;
        if (total > n) return false;
        escaped.resize(total);
        if (depth >= kDeepest || !decode_static<uint8_t>(escape_bytes, escape_size, escaped.data(), total, k, depth + 1)) return false;
    }
    Small model{};
    std::unique_ptr<uint32_t[]> table;
    if (mode == small) {
        model.p = p;
        uint32_t start = 0;
        for (int j = 0; j < 16; ++j) model.bounds[j] = 0xffff;
        for (size_t s = 0; s < f.size(); ++s) {
            if (!f[s]) continue;
            if (model.count == 16) return false;
            model.bounds[model.count] = static_cast<uint16_t>(start);
            model.entry[model.count] = f[s] << 16 | start;
            model.id[model.count++] = static_cast<uint8_t>(s);
            start += f[s];
        }
        for (uint32_t b = 0, s = 0, steps = 0; b < 64; ++b, steps = 0) {
            const uint32_t first = b << (p - 6), end = first + (1u << (p - 6));
            while (s + 1 < static_cast<uint32_t>(model.count) && model.bounds[s + 1] <= first) ++s;
            model.bucket[b] = static_cast<uint8_t>(s);
            while (s + steps + 1 < static_cast<uint32_t>(model.count) && model.bounds[s + steps + 1] < end) ++steps;
            model.steps = std::max(model.steps, static_cast<int>(steps));
        }
    } else {
        for (const uint32_t v : f) {
            if (v > 4095) return false;
        }
        table.reset(new uint32_t[1 << kNarrowBits]);
        fill_table(f, table.get());
    }
    std::atomic<bool> good{true};
    each_block(n, block, [&](size_t b, size_t first, size_t own) {
        LaneReader lanes;
        Escapes mine = escapes;
        if (mine.mark >= 0) {
            mine.at = escaped.data() + blocks[b].escape_from;
            mine.end = mine.at + blocks[b].escapes;
        }
        bool ok = lanes.open(blocks[b].data, blocks[b].size, own);
        ok = ok && lanes.groups(128, [&](Lanes &l, size_t from, size_t groups) {
            uint8_t *const to = ids + first + from * kLanes;
            if (mode == small) return COMPAND_DISPATCH(decode_small, l, model, to, groups, mine);
            return COMPAND_DISPATCH(decode_narrow, l, table.get(), to, groups, mine);
        });
        for (; ok && lanes.more(); lanes.next()) {
            const uint32_t x = lanes.state(), slot = x & ((1u << p) - 1);
            uint8_t id;
            if (mode == small) {
                int s = 0;
                while (s + 1 < model.count && slot >= model.bounds[s + 1]) ++s;
                id = model.id[s];
                lanes.advance((model.entry[s] >> 16) * (x >> p) + slot - (model.entry[s] & 0xffff));
            } else {
                const uint32_t e = table[slot];
                id = static_cast<uint8_t>(e);
                lanes.advance((e >> 20) * (x >> p) + (e >> 8 & 0xfff));
            }
            if (id == mine.mark) {
                if (mine.at == mine.end) {
                    ok = false;
                    break;
                }
                id = *mine.at++;
            }
            ids[first + lanes.done()] = id;
        }
        if (!ok || !lanes.finish() || mine.at != mine.end) good.store(false, std::memory_order_relaxed);
    });
    return good;
}

// Ids of like counts in groups of 2^j (the last may be short), most frequent first; at most 255 groups.
struct Grouping {
    std::vector<uint8_t> group;  // of each id, 0 = unused
    Counts counts;               // of each group
    std::vector<int> size_bits;
    double bits = 1e300;
};

Grouping group_ids(const Counts &counts, const std::vector<uint32_t> &order, uint64_t n, size_t m, double tolerance) {
    Grouping g;
    g.group.resize(m);
    g.counts.push_back(0);
    g.size_bits.push_back(0);
    Counts sizes(1, m - order.size());
    uint64_t left = n;
    double raw_bits = 0;
    for (size_t i = 0; i < order.size();) {
        int j = 0;
        size_t take = 1;
        if (g.counts.size() == 1 && order.size() - i == 1) return g;
        if (g.counts.size() > 1 && (left < n >> 11 || g.counts.size() == 255)) {  // what is left is too rare to part
            take = order.size() - i;
            j = bit_length(take - 1);
        } else {
            const double top = static_cast<double>(counts[order[i]]);
            while (i + 2 * take <= order.size() && (g.counts.size() > 1 || i + 2 * take < order.size()) &&
                   top - static_cast<double>(counts[order[i + 2 * take - 1]]) <= tolerance * top) {
                take *= 2;
                ++j;
            }
        }
        uint64_t sum = 0;
        for (size_t end = i + take; i < end; ++i) {
            sum += counts[order[i]];
            g.group[order[i]] = static_cast<uint8_t>(g.counts.size());
        }
        g.counts.push_back(sum);
        g.size_bits.push_back(j);
        sizes.push_back(take);
        raw_bits += static_cast<double>(sum) * j;
        left -= sum;
    }
    const Frequencies f = normalise(g.counts, kNarrowBits);
    g.bits = coded_bits(g.counts, f, kNarrowBits) + raw_bits + entropy_bits(sizes) + 12 * static_cast<double>(sizes.size());
    return g;
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
    Step<uint16_t> step;
    step.fill(f);
    std::vector<uint64_t> both(m);  // step and raw bits of each id
    std::vector<uint32_t> place(g.counts.size());
    for (size_t id = 0; id < m; ++id) {
        const uint8_t own = g.group[id];
        if (own) both[id] = step.of[own] | static_cast<uint64_t>(static_cast<uint32_t>(g.size_bits[own]) << 16 | place[own]++) << 32;
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
        write_lanes(fill, own, kNarrowBits, true, wide_lanes(own, g.bits / static_cast<double>(count)), coded[b]);
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

}  // namespace

template <class Id> Bytes encode_static(const Id *ids, size_t n, int depth) {
    Bytes out;
    if (!n) return out;
    if (n > 1 && std::memcmp(ids, ids + 1, (n - 1) * sizeof(Id)) == 0) {
        out.push_back(constant);
        put_varint(out, n);
        put_varint(out, ids[0]);
        return out;
    }
    const Counts counts = count_ids(ids, n);
    std::vector<uint32_t> order;
    for (size_t s = 0; s < counts.size(); ++s) {
        if (counts[s]) order.push_back(static_cast<uint32_t>(s));
    }
    const size_t m = order.back() + size_t{1};
    const auto start = [&](Mode mode) {
        out.clear();
        out.push_back(mode);
        put_varint(out, n);
    };
    if (order.size() == 1) {
        start(constant);
        put_varint(out, order[0]);
        return out;
    }
    const int width = std::max(1, bit_length(m - 1));
    const double plain = static_cast<double>(n) * width;
    const size_t plain_bytes = static_cast<size_t>(plain / 8) + 8;
    if (m <= 256) {
        const ByteModel model = choose_model(Counts(counts.begin(), counts.begin() + static_cast<ptrdiff_t>(m)), n, depth);
        if (model.bits < plain * kWorth) {
            start(model.mode);
            if constexpr (sizeof(Id) == 1) {
                encode_bytes(ids, n, model, out, depth);
            } else {
                const Bytes bytes(ids, ids + n);
                encode_bytes(bytes.data(), n, model, out, depth);
            }
            if (out.size() <= plain_bytes) return out;
        }
    } else if constexpr (sizeof(Id) == 2) {
        std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return counts[a] > counts[b]; });
        Grouping best;
        for (const double tolerance : {1.0 / 32, 1.0 / 8, 0.5}) {
            Grouping g = group_ids(counts, order, n, m, tolerance);
            if (g.bits < best.bits) best = std::move(g);
        }
        if (best.bits < plain && depth < kDeepest) {
            start(large);
            encode_large(ids, n, m, best, out, depth);
            if (out.size() <= plain_bytes) return out;
        }
    }
    start(raw);
    out.push_back(static_cast<uint8_t>(width));
    put_raw(out, ids, n, width);
    return out;
}

template <class Id> bool decode_static(const uint8_t *data, size_t size, Id *ids, size_t n, uint32_t k, int depth) {
    if (!n) return size == 0;
    Reader in(data, size);
    const uint8_t mode = in.get<uint8_t>();
    if (in.varint() != n || !in.ok()) return false;
    if (mode == raw) return take_raw(in, ids, n, k);
    if (mode == constant) {
        const uint64_t id = in.varint();
        if (!in.ok() || in.left() || id >= k) return false;
        std::fill(ids, ids + n, static_cast<Id>(id));
        return true;
    }
    if (mode == small || mode == narrow) {
        if constexpr (sizeof(Id) == 1) return decode_bytes(in, static_cast<Mode>(mode), ids, n, k, depth);
        Bytes bytes(n);
        if (!decode_bytes(in, static_cast<Mode>(mode), bytes.data(), n, k, depth)) return false;
        std::copy(bytes.begin(), bytes.end(), ids);
        return true;
    }
    if constexpr (sizeof(Id) == 2) {
        if (mode == large) return decode_large_ids(in, ids, n, k, depth);
    }
    return false;
}

template Bytes encode_static(const uint8_t *, size_t, int);
template Bytes encode_static(const uint16_t *, size_t, int);
template bool decode_static(const uint8_t *, size_t, uint8_t *, size_t, uint32_t, int);
template bool decode_static(const uint8_t *, size_t, uint16_t *, size_t, uint32_t, int);

}  // namespace compand::rans

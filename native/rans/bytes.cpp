#include <algorithm>
#include <atomic>
#include <memory>

#include "blocks.hpp"
#include "lanes.hpp"
#include "modes.hpp"
#include "spread.hpp"
#include "static.hpp"

namespace compand::rans {
namespace {

constexpr uint64_t kSpreadLeast = 1 << 15;  // symbols that pay for finding the order

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

}  // namespace

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
    if (best.mode == narrow && n >= kSpreadLeast) {
        best.order = spread_out(best.f);
        if (!best.order.empty()) best.mode = spread;
    }
    return best;
}

void encode_bytes(const uint8_t *ids, size_t n, const ByteModel &m, Bytes &out, int depth) {
    std::vector<uint32_t> steps = steps_of(m.f, m.order);
    if (m.mark >= 0) {
        for (size_t s = 0; s < m.rare.size(); ++s) {
            if (m.rare[s]) steps[s] = steps[static_cast<size_t>(m.mark)];
        }
    }
    steps.resize(std::max<size_t>(steps.size(), 32));
    std::vector<uint8_t> marked(m.rare);
    marked.resize(256);
    const size_t block = block_symbols(n, m.bits), count = (n - 1) / block + 1;
    Coded coded(count);
    std::vector<Bytes> escapes(m.mark >= 0 ? count : 0);
    each_block(n, block, [&](size_t b, size_t first, size_t own) {
        const uint8_t *const from = ids + first;
        const uint32_t *const of = steps.data();
        const Fill fill = [=](size_t t, size_t c, size_t, uint32_t *to, uint32_t *) {
            const uint8_t *id = from + t;
            size_t i = 0;
            for (; i + 8 <= c; i += 8) {
                uint64_t eight;
                std::memcpy(&eight, id + i, 8);
                for (int b = 0; b < 8; ++b) to[i + static_cast<size_t>(b)] = of[eight >> 8 * b & 255];
            }
            for (; i < c; ++i) to[i] = of[id[i]];
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
    Spread wide{};
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
        if (mode == spread) {
            const std::vector<uint8_t> order = spread_out(f);
            if (order.empty()) return false;
            fill_spread(f, order, wide);
        } else {
            wide.table.resize(1 << kNarrowBits);
            fill_table(f, wide.table.data());
        }
    }
    const uint32_t *const table = wide.table.data();
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
            if (mode == spread) return COMPAND_DISPATCH(decode_spread, l, wide, to, groups, mine);
            return COMPAND_DISPATCH(decode_narrow, l, table, to, groups, mine);
        });
        const auto next = [&](uint32_t x, size_t t) {
            const uint32_t slot = x & ((1u << p) - 1);
            uint8_t id;
            if (mode == small) {
                int s = 0;
                while (s + 1 < model.count && slot >= model.bounds[s + 1]) ++s;
                id = model.id[s];
                x = (model.entry[s] >> 16) * (x >> p) + slot - (model.entry[s] & 0xffff);
            } else {
                const uint32_t e = table[slot];
                id = static_cast<uint8_t>(e);
                x = (e >> 20) * (x >> kNarrowBits) + (e >> 8 & 0xfff);
            }
            if (id == mine.mark) {
                if (mine.at < mine.end) id = *mine.at++;
                else ok = false;
            }
            ids[first + t] = id;
            return x;
        };
        for (; ok && lanes.more();) {
            lanes.one_lane(next);
            if (!lanes.more()) break;
            lanes.advance(next(lanes.state(), lanes.done()));
            lanes.next();
        }
        if (!ok || !lanes.finish() || mine.at != mine.end) good.store(false, std::memory_order_relaxed);
    });
    return good;
}

}  // namespace compand::rans

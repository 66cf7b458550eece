#include "static.hpp"

#include <algorithm>

#include "blocks.hpp"
#include "modes.hpp"
#include "threads.hpp"

namespace compand::rans {

template <class Id> Id some_above(const Id *ids, size_t n) {
    Id bits = 0;
    for (size_t i = 0; i < n; ++i) bits |= ids[i];
    return bits;
}

namespace {

constexpr double kWorth = 1 - 1.0 / 512;  // bytes are coded if that saves 0.2 %: raw ones cost no time

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
    const size_t m = some_above(ids, n) + size_t{1}, second = m > 1 << 14 ? 0 : m;  // two tables where like neighbours would wait for each other
    Counts counts(m);
    std::vector<uint32_t> c(m + second);
    for (size_t from = 0; from < n;) {
        const size_t end = std::min(n, from + (size_t{1} << 30));
        for (; from + 2 <= end; from += 2) ++c[ids[from]], ++c[second + ids[from + 1]];
        if (from < end) ++c[ids[from++]];
        for (size_t s = 0; s < m; ++s) counts[s] += uint64_t{c[s]} + (second ? c[second + s] : 0);
        std::fill(c.begin(), c.end(), 0);
    }
    return counts;
}

// Most frequent first, like counts in order of their ids: by counting, and those that occur often, mostly few, by comparing.
void sort_by_count(std::vector<uint32_t> &order, const Counts &counts) {
    constexpr size_t often = 4096;
    uint32_t start[often + 2] = {};
    const auto place = [&](uint32_t id) { return often - std::min<uint64_t>(counts[id], often); };
    for (const uint32_t id : order) ++start[place(id) + 1];
    for (size_t d = 1; d <= often; ++d) start[d] += start[d - 1];
    std::vector<uint32_t> sorted(order.size());
    const auto rare = sorted.begin() + start[1];
    for (const uint32_t id : order) sorted[start[place(id)]++] = id;
    std::stable_sort(sorted.begin(), rare, [&](uint32_t a, uint32_t b) { return counts[a] > counts[b]; });
    order.swap(sorted);
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

}  // namespace

template <class Id> Bytes encode_static(const Id *ids, size_t n, int depth, const Counts *given) {
    Bytes out;
    if (!n) return out;
    if (n > 1 && std::memcmp(ids, ids + 1, (n - 1) * sizeof(Id)) == 0) {
        out.push_back(constant);
        put_varint(out, n);
        put_varint(out, ids[0]);
        return out;
    }
    const Counts counts = given ? *given : count_ids(ids, n);
    std::vector<uint32_t> order;
    order.reserve(counts.size());
    uint64_t counted = 0;
    for (size_t s = 0; s < counts.size(); ++s) {
        if (counts[s]) order.push_back(static_cast<uint32_t>(s));
        counted += counts[s];
    }
    const double share = static_cast<double>(n) / static_cast<double>(counted);  // 1 unless counts are given
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
    // a model costs the entropy and, for byte alphabets, 7 bits an id or more
    if (share * entropy_bits(counts) + (m <= 256 ? 7 * static_cast<double>(order.size()) : 0) >= (m <= 256 ? kWorth : 1) * plain) {
    } else if (m <= 256) {
        ByteModel model = choose_model(Counts(counts.begin(), counts.begin() + static_cast<ptrdiff_t>(m)), counted, depth);
        model.bits *= share;
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
        sort_by_count(order, counts);
        Grouping best = choose_grouping(counts, order, m);
        best.bits *= share;
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
    if (mode == small || mode == narrow || mode == spread) {
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

const uint8_t *raw_bytes(const uint8_t *data, size_t size, size_t n) {
    Reader in(data, size);
    if (!n || in.get<uint8_t>() != raw || in.varint() != n || in.get<uint8_t>() != 8) return nullptr;
    const uint8_t *const from = in.take(n);
    return in.left() ? nullptr : from;
}

template uint8_t some_above(const uint8_t *, size_t);
template uint16_t some_above(const uint16_t *, size_t);
template Bytes encode_static(const uint8_t *, size_t, int, const Counts *);
template Bytes encode_static(const uint16_t *, size_t, int, const Counts *);
template bool decode_static(const uint8_t *, size_t, uint8_t *, size_t, uint32_t, int);
template bool decode_static(const uint8_t *, size_t, uint16_t *, size_t, uint32_t, int);

}  // namespace compand::rans

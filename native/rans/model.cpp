#include "model.hpp"

#include <algorithm>
#include <functional>
#include <utility>

#include "rans.hpp"

namespace compand::rans {

const double *first_logs() {
    static const std::vector<double> logs = [] {
        std::vector<double> of(kLogs);
        for (size_t v = 0; v < kLogs; ++v) of[v] = exact_log2(v);
        return of;
    }();
    return logs.data();
}

Frequencies normalise(const Counts &counts, int p) {
    uint64_t n = 0;
    for (const uint64_t c : counts) n += c;
    const uint32_t whole = 1u << p;
    Frequencies f(counts.size());
    int64_t over = -static_cast<int64_t>(whole);
    for (size_t s = 0; s < f.size(); ++s) {
        if (!counts[s]) continue;
        const double ideal = static_cast<double>(counts[s]) * whole / static_cast<double>(n);
        f[s] = std::max<uint32_t>(1, static_cast<uint32_t>(ideal + 0.5));
        over += f[s];
    }
    // one step up gains about c / (f + 1/2), one step down costs c / (f - 1/2); like ones in order
    const auto price = [&](size_t s) { return static_cast<double>(counts[s]) / (over < 0 ? -(f[s] + 0.5) : f[s] - 0.5); };
    std::vector<std::pair<double, size_t>> heap;
    for (size_t s = 0; over && s < f.size(); ++s) {
        if (f[s] > (over > 0 ? 1u : 0u)) heap.emplace_back(price(s), s);
    }
    const auto dearer = std::greater<std::pair<double, size_t>>();
    std::make_heap(heap.begin(), heap.end(), dearer);
    const int step = over < 0 ? 1 : -1;
    for (int64_t left = over < 0 ? -over : over; left > 0; --left) {
        std::pop_heap(heap.begin(), heap.end(), dearer);
        const size_t s = heap.back().second;
        f[s] += static_cast<uint32_t>(step);
        heap.back().first = price(s);
        if (f[s] > 1 || step > 0) std::push_heap(heap.begin(), heap.end(), dearer);
        else heap.pop_back();
    }
    return f;
}

double coded_bits(const Counts &counts, const Frequencies &f, int p) {
    double bits = 0;
    for (size_t s = 0; s < counts.size(); ++s) {
        if (counts[s]) bits += static_cast<double>(counts[s]) * (p - log2_of(f[s]));
    }
    return bits;
}

double entropy_bits(const Counts &counts) {
    uint64_t n = 0;
    double bits = 0;
    for (const uint64_t c : counts) {
        n += c;
        if (c) bits -= static_cast<double>(c) * log2_of(c);
    }
    return bits + static_cast<double>(n) * log2_of(n);
}

void FrequencyWriter::put(const Frequencies &f) {
    int size = 0, way = 0;  // way: 0 same, 1 up, 2 down
    for (const uint32_t value : f) {
        const int next = bit_length(value), change = next - size;
        bits_.put(change == 0, models_.same[way]);
        const int last = way;
        way = change == 0 ? 0 : change > 0 ? 1 : 2;
        if (change) {
            bits_.put(change > 0, models_.up[last]);
            int left = (change > 0 ? change : -change) - 1;
            const int most = (change > 0 ? 17 - size : size) - 1;
            for (int i = 0; i < most; ++i, --left) {
                bits_.put(left > 0, models_.more[change > 0][i]);
                if (!left) break;
            }
        }
        size = next;
        for (int b = size - 2; b >= 0; --b) {
            const int bit = value >> b & 1;
            if (b == size - 2) bits_.put(bit, models_.top[size]);
            else bits_.put(bit, 32768);
        }
    }
}

bool FrequencyReader::get(Frequencies &f, int p) {
    int size = 0, way = 0;
    uint64_t sum = 0;
    for (uint32_t &value : f) {
        const int last = way;
        way = 0;
        if (!bits_.get(models_.same[last])) {
            const bool up = bits_.get(models_.up[last]);
            way = up ? 1 : 2;
            const int most = (up ? 17 - size : size) - 1;
            if (most < 0) return false;
            int change = 1;
            for (int i = 0; i < most && bits_.get(models_.more[up][i]); ++i) ++change;
            size += up ? change : -change;
        }
        value = size > 0;
        for (int b = size - 2; b >= 0; --b) {
            value = value << 1 | static_cast<uint32_t>(b == size - 2 ? bits_.get(models_.top[size]) : bits_.get(32768));
        }
        sum += value;
        if (bits_.starved()) return false;
    }
    return sum == uint64_t{1} << p;
}

void fill_table(const Frequencies &f, uint32_t *table) {
    for (size_t s = 0; s < f.size(); ++s) {
        for (uint32_t i = 0; i < f[s]; ++i) *table++ = f[s] << 20 | i << 8 | static_cast<uint32_t>(s);
    }
}

void put_sized(Bytes &out, const Bytes &part) {
    put_varint(out, part.size());
    out.insert(out.end(), part.begin(), part.end());
}

}  // namespace compand::rans

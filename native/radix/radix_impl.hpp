// Body of radix.hpp: the grid is repeated to a row of whole vectors, so that loops over values need not know where one begins.
#include "radix/radix.hpp"

namespace compand::radix::ISA {
namespace {

constexpr size_t kRow = 256;  // values at a time; at least kMost

// v, |v| < 2^22, rounded to an integer, ties to even
inline float nearest(float v) { return (v + 12582912.0f) - 12582912.0f; }

struct Row {
    float s[kRow], by[kRow], z[kRow], last[kRow];
    size_t vectors;

    explicit Row(const Grid &g) : vectors(kRow / g.m) {
        for (size_t i = 0; i < vectors * g.m; ++i) {
            const size_t j = i % g.m;
            s[i] = g.s[j];
            by[i] = g.s[j] == 0 ? 1.0f : g.s[j];
            z[i] = g.z[j];
            last[i] = static_cast<float>(g.k[j] - 1);
        }
    }
};

template <class Id> void encode_all(const Grid &g, const float *x, size_t n, Id *ids, float *y) {
    const Row row(g);
    int32_t levels[kRow];
    for (size_t at = 0; at < n; at += row.vectors) {
        const size_t v = n - at < row.vectors ? n - at : row.vectors, values = v * g.m;
        for (size_t i = 0; i < values; ++i) {
            float t = x[i] / row.by[i] - row.z[i];
            t = t > 0 ? t : 0;  // also for NaN
            t = t < row.last[i] ? t : row.last[i];
            levels[i] = static_cast<int32_t>(nearest(t));
        }
        if (y) {
            for (size_t i = 0; i < values; ++i) y[i] = (static_cast<float>(levels[i]) + row.z[i]) * row.s[i];
            y += values;
        }
        const int32_t *level = levels;
        for (size_t i = 0; i < v; ++i, level += g.m) {
            uint64_t id = static_cast<uint64_t>(level[0]);
            for (size_t j = 1; j < g.m; ++j) id += static_cast<uint64_t>(level[j]) * g.unit[j];
            ids[i] = static_cast<Id>(id);
        }
        x += values;
        ids += v;
    }
}

template <class Id> void decode_all(const Grid &g, const Id *ids, size_t n, float *y) {
    for (size_t i = 0; i < n; ++i, y += g.m) {
        Id rest = ids[i];
        for (size_t j = 0; j < g.m; ++j) {
            const Id k = static_cast<Id>(g.k[j]), next = rest / k;
            y[j] = (static_cast<float>(static_cast<int32_t>(rest - next * k)) + g.z[j]) * g.s[j];
            rest = next;
        }
    }
}

}  // namespace

void encode(const Grid &g, const float *x, size_t n, uint32_t *ids, float *y) { encode_all(g, x, n, ids, y); }
void encode(const Grid &g, const float *x, size_t n, uint64_t *ids, float *y) { encode_all(g, x, n, ids, y); }
void decode(const Grid &g, const uint32_t *ids, size_t n, float *y) { decode_all(g, ids, n, y); }
void decode(const Grid &g, const uint64_t *ids, size_t n, float *y) { decode_all(g, ids, n, y); }

}  // namespace compand::radix::ISA
#undef ISA

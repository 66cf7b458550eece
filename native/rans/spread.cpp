#include "spread.hpp"

namespace compand::rans {
namespace {

// Symbols of one class, in order of their ids.
struct Line {
    std::vector<uint8_t> ids;
    size_t next = 0;
    bool any() const { return next < ids.size(); }
};

}  // namespace

std::vector<uint8_t> spread_out(const Frequencies &f) {
    Line rare[16], often[16];  // by f, by f mod 16
    size_t left = 0;
    for (size_t s = 0; s < f.size(); ++s) {
        if (!f[s]) continue;
        (f[s] < 16 ? rare[f[s]] : often[f[s] % 16]).ids.push_back(static_cast<uint8_t>(s));
        ++left;
    }
    std::vector<uint8_t> order;
    for (uint32_t o = 0; left > 0; --left) {
        Line *found = nullptr;
        for (uint32_t v = o ? 16 - o : 1; v < 16 && !found; ++v) {
            if (rare[v].any()) found = &rare[v];
        }
        if (!found) {
            uint32_t rarest = 1, best = 0;
            while (rarest < 16 && !rare[rarest].any()) ++rarest;
            for (uint32_t r = 0; r < 16; ++r) {
                const uint32_t end = (o + r) % 16, worth = end == 0 ? 32 : end + rarest >= 16 ? 32 - end : end + 1;
                if (often[r].any() && worth > best) best = worth, found = &often[r];
            }
        }
        if (!found) return {};
        order.push_back(found->ids[found->next++]);
        o = (o + f[order.back()]) % 16;
    }
    return order;
}

void fill_spread(const Frequencies &f, const std::vector<uint8_t> &order, Spread &model) {
    for (uint8_t &edge : model.edge) edge = 16;
    model.count = static_cast<int>(order.size());
    model.table.resize(1 << kNarrowBits);
    uint32_t slot = 0;
    for (size_t rank = 0; rank < order.size(); ++rank) {
        const uint32_t own = f[order[rank]];
        model.id[rank] = order[rank];
        model.start[0][rank] = static_cast<uint8_t>(slot);
        model.start[1][rank] = static_cast<uint8_t>(slot >> 8);
        model.f[0][rank] = static_cast<uint8_t>(own);
        model.f[1][rank] = static_cast<uint8_t>(own >> 8);
        if (slot % 16) model.edge[slot / 16] = static_cast<uint8_t>(slot % 16);
        for (uint32_t b = (slot + 15) / 16; b * 16 < slot + own; ++b) model.first[b] = static_cast<uint8_t>(rank);
        for (uint32_t i = 0; i < own; ++i) model.table[slot + i] = own << 20 | i << 8 | order[rank];
        slot += own;
    }
}

}  // namespace compand::rans

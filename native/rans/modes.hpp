// The modes of static streams (static.hpp): each codes what follows n, and is written in a file of its own.
#pragma once
#include "bits.hpp"
#include "model.hpp"

namespace compand::rans {

enum Mode : uint8_t { raw = 0, constant = 1, small = 2, narrow = 3, large = 4, spread = 5 };
constexpr int kDeepest = 3;  // streams inside streams

// (frequency - 1) << 16 | start of each symbol, as the encoders want them.
inline std::vector<uint32_t> steps_of(const Frequencies &f, const std::vector<uint8_t> &order = {}) {
    std::vector<uint32_t> steps(f.size(), 0xffffu << 16);
    uint32_t start = 0;
    const auto place = [&](size_t s) {
        steps[s] = (f[s] - 1) << 16 | (start & 0xffff);
        start += f[s];
    };
    for (const uint8_t s : order) place(s);
    for (size_t s = 0; order.empty() && s < f.size(); ++s) place(s);
    return steps;
}

// small, narrow and spread (bytes.cpp)
struct ByteModel {
    Mode mode = raw;
    int p = 0, mark = -1;
    Frequencies f;
    std::vector<uint8_t> rare, order;  // order: of spread
    double bits = 1e300;
};

// The cheapest of: all ids in the table, or the rare ones behind a mark, for each precision that suits.
ByteModel choose_model(const Counts &counts, uint64_t n, int depth);
void encode_bytes(const uint8_t *ids, size_t n, const ByteModel &m, Bytes &out, int depth);
bool decode_bytes(Reader &in, Mode mode, uint8_t *ids, size_t n, uint32_t k, int depth);

// large (large.cpp)
// Ids of like counts in groups of 2^j (the last may be short), most frequent first; at most 255 groups.
struct Grouping {
    std::vector<uint8_t> group;  // of each id, 0 = unused
    Counts counts, sizes;        // of each group: occurrences, ids
    std::vector<int> size_bits;
    double bits = 1e300;
};

// The grouping that makes the stream shortest. order: the ids in use, most frequent first.
Grouping choose_grouping(const Counts &counts, const std::vector<uint32_t> &order, size_t m);
void encode_large(const uint16_t *ids, size_t n, size_t m, const Grouping &g, Bytes &out, int depth);
bool decode_large_ids(Reader &in, uint16_t *ids, size_t n, uint32_t k, int depth);

}  // namespace compand::rans

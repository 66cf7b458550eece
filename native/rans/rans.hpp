// Interleaved rANS: 64 lanes of 32-bit states in [2^16, 2^32), 16-bit words. Symbol t lives in lane t % 64; after each decoded
// symbol its lane takes the next word of the shared stream if its state fell below 2^16. Encoding runs backwards.
// The kernels below work on whole groups of 64 symbols; lanes.hpp does headers, remainders and the end of a stream.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "isa.hpp"

namespace compand::rans {

constexpr size_t kLanes = 64;
constexpr size_t kRun = 16;      // where symbols have raw bits too, 16 lanes take their first words, then their second
constexpr uint32_t kLow = 1u << 16;
constexpr int kNarrowBits = 12;  // precision of the table kernels: one 16 KiB table of 4-byte entries stays in L1

struct Lanes {
    uint32_t x[kLanes];
    const uint8_t *at, *end;  // words not yet read
};

// Decoded bytes equal to `mark` are replaced by the next byte of [at, end); missing is set if there is none.
struct Escapes {
    int mark = -1;
    const uint8_t *at = nullptr, *end = nullptr;
    bool missing = false;
};

// Up to 16 symbols: symbol = number of bounds <= slot. bounds has 16 entries, the first 0, unused ones 0xffff.
struct Small {
    int p, count;           // precision, symbols
    int steps;              // most bounds inside one of 64 equal buckets of slots
    uint8_t bucket[64];     // symbol at the start of each
    uint16_t bounds[16];    // cumulative starts
    uint32_t entry[16];     // frequency << 16 | start
    uint8_t id[16];         // byte to write
};

// Up to 256 symbols with at most one change of symbol in each 16 slots (spread.hpp). `rank`: place in the order of slots.
struct Spread {
    uint8_t first[256];               // rank of the symbol in slot 16 b
    uint8_t edge[256];                // where in those 16 slots the next rank begins; 16: nowhere
    uint8_t start[2][256], f[2][256];  // of each rank: first slot and frequency, low bytes and high bytes
    uint8_t id[256];                  // byte to write
    int count;                        // symbols
    std::vector<uint32_t> table;      // as decode_narrow wants it
};

// Values under curves of their own (parametric.cpp). place: offset of each value's curve in bytes, from `curves`.
struct Curves {
    const uint8_t *curves;           // uint8 first symbol of slots 256 i at `at`, uint16 starts at `start`
    uint32_t at, start;
    const uint32_t *place;
    const uint8_t *raws;             // raw bits of each value, or null
};

constexpr int kBaseScales = 45;  // scale indices above code by the curve of one to four octaves less, and raw bits
constexpr int raw_bits(int scale) { return scale < kBaseScales ? 0 : (scale - kBaseScales) / 6 + 1; }

#define COMPAND_RANS_KERNELS                                                                                              \
    /* steps: (frequency - 1) << 16 | start; raws (or null): bits << 16 | value, pushed before the step */              \
    uint16_t *encode(const uint32_t *steps, const uint32_t *raws, size_t groups, int p, uint32_t *x, uint16_t *out);      \
    /* the same with steps[ids[t]]; ids are below m <= 256 */                                                             \
    uint16_t *encode_bytes(const uint8_t *ids, const uint32_t *steps, size_t m, size_t groups, int p, uint32_t *x,        \
                           uint16_t *out);                                                                                \
    /* the same with the low half of both[ids[t]] as step, the high half as raw */                                        \
    uint16_t *encode_both(const uint16_t *ids, const uint64_t *both, size_t groups, int p, uint32_t *x, uint16_t *out);   \
    /* found = the ids with marked[id] = 1 (256 entries), in order; returns how many */                                   \
    size_t find_marked(const uint8_t *ids, size_t n, const uint8_t *marked, uint8_t *found);                              \
    /* symbols and raw values (if any) of p = 14 curves */                                                                \
    size_t decode_curves(Lanes &lanes, const Curves &curves, uint8_t *symbols, uint8_t *values, size_t groups);           \
    /* place (for curves of `stride` bytes, 16 fractions of each scale), raw bits and bin 0 of each value; scale < 64 */  \
    void place_values(const int32_t *mean, const uint8_t *scale, size_t n, size_t stride, bool raws, uint32_t *place,     \
                      uint8_t *bits, int32_t *base);                                                                      \
    /* x = (base + symbol - reach) << bits | value; bits may be null */                                                   \
    void join_values(const int32_t *base, const uint8_t *symbols, int reach, const uint8_t *bits, const uint8_t *values,  \
                     size_t n, int32_t *x);                                                                               \
    /* table[slot] = frequency << 20 | (slot - start) << 8 | byte. All decoders return the groups done: fewer than asked  \
       when less than 128 (large: 256) bytes are left. */                                                                 \
    size_t decode_narrow(Lanes &lanes, const uint32_t *table, uint8_t *out, size_t groups, Escapes &escapes);             \
    size_t decode_spread(Lanes &lanes, const Spread &model, uint8_t *out, size_t groups, Escapes &escapes);               \
    size_t decode_small(Lanes &lanes, const Small &model, uint8_t *out, size_t groups, Escapes &escapes);                 \
    /* table as above; info[byte] = base << 5 | bits; id = ids[base + value of bits raw bits] */                          \
    size_t decode_large(Lanes &lanes, const uint32_t *table, const uint32_t *info, const uint16_t *ids, uint16_t *out,    \
                        size_t groups);                                                                                   \
    /* lane l decodes out[l * stride + g]; the table of a symbol is which[its predecessor] (0 before the first) */        \
    size_t decode_order1(Lanes &lanes, const uint32_t *tables, const uint32_t *which, uint8_t *out, size_t stride,        \
                         size_t from, size_t groups);                                                                     \
    /* the table of symbol t is which[t] */                                                                               \
    size_t decode_contexts(Lanes &lanes, const uint32_t *tables, const uint8_t *which, uint8_t *out, size_t groups);

namespace scalar {
COMPAND_RANS_KERNELS
}
namespace avx2 {
COMPAND_RANS_KERNELS
}
namespace avx512 {
COMPAND_RANS_KERNELS
}

}  // namespace compand::rans

// The quick half of mixed streams: ids cut into nibbles of 4 bits, most significant first, each predicted by a mixture of the
// adaptive distributions of its contexts and coded by rANS. Four bands of an array (stretches of whole rows) take turns, so
// that their work overlaps; all read the models as they were before the turn, then all teach them in order.
//
// A line holds a distribution of 16 symbols: [0] how often it was seen, [s] 65536 P(symbol < s). Contexts find lines by hash.
// Each context weighs as much as it was worth where it was as sure as now (a Bayesian mixture with forgetting).
#pragma once
#include <cstddef>
#include <cstdint>

namespace compand::rans {

constexpr size_t kBands = 4;
constexpr int kContexts = 6;  // orders 0, 1, 2; above, above with left, column: the last three only in rows
constexpr int kMixedBits = 15;

struct Nibbles {
    size_t n, width, band;    // ids, ids of a row (0: no rows), ids of a band
    int count, contexts, shift;  // nibbles of an id; contexts in use; 2^shift lines for each of both
    uint16_t *lines, *weights;   // lines: aligned to 32 bytes; weights: kBands x count x contexts x 16
};

#define COMPAND_NIBBLES_FUNCTIONS                                                                          \
    /* steps of all nibbles, in coding order: (frequency - 1) << 16 | start */                            \
    void predict_nibbles(const Nibbles &of, const uint8_t *ids, uint32_t *steps);                          \
    void predict_nibbles(const Nibbles &of, const uint16_t *ids, uint32_t *steps);                         \
    /* kBands states and the words [at, end); false if they are not a stream of ids below k */                    \
    bool decode_nibbles(const Nibbles &of, uint32_t k, uint32_t *x, const uint8_t *at, const uint8_t *end, uint8_t *ids);  \
    bool decode_nibbles(const Nibbles &of, uint32_t k, uint32_t *x, const uint8_t *at, const uint8_t *end, uint16_t *ids);
namespace scalar {
COMPAND_NIBBLES_FUNCTIONS
}
namespace avx2 {
COMPAND_NIBBLES_FUNCTIONS
}
namespace avx512 {
COMPAND_NIBBLES_FUNCTIONS
}
#undef COMPAND_NIBBLES_FUNCTIONS

}  // namespace compand::rans

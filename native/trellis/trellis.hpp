// Bit-shift trellis codes: Viterbi search and decoding. The layout of the bits is in compand/quantizer/trellis.py.
//
// The window of value i is the L bits of its stream that start at bit i * K. Going down from value i to i - 1 the window moves
// K bits: s[i-1] = (s[i] << K | symbol[i-1]) mod 2^L. The search walks that way, so the 2^K windows a window can come from
// differ in their highest bits only, and all their costs lie at one distance.
//
// Costs are 16-bit integers, ((target - level)^2 + 2^14) >> 15 per value with saturation, so every level of instructions finds
// the same path.
#pragma once
#include <cstddef>
#include <cstdint>

namespace compand::trellis {

constexpr size_t kSegment = 256;   // values decided at a time
constexpr size_t kAhead = 48;      // values looked at beyond those decided
constexpr uint16_t kNever = 65535; // cost of what cannot be

struct Code {
    int bits, memory;       // K in 1..4, L in 10..16
    const int16_t *levels;  // (2^L) value of each window, within +-32640
};

// Room for the search: two rows of 2^(L-K) costs with 64 bytes to spare behind each, and a row of decisions for each value.
struct Room {
    uint16_t *cost[2];
    uint8_t *decisions;
};

#define COMPAND_TRELLIS_FUNCTIONS                                                                                          \
    /* Windows of the first `count` of `length` targets (walking down), count <= length <= kSegment + kAhead. `start`: the */ \
    /* window before the first, -1 for any. `end`: low L - K bits of the window of the last target, -1 for any.            */ \
    void search(const Code &code, const int16_t *targets, size_t length, size_t count, int start, int end, const Room &room, \
                uint16_t *windows);                                                                                        \
    /* levels[i] = sum of the bytes of window i times each factor, less its mean; `stream` can be read 4 bytes past its end */ \
    void decode(const uint8_t *stream, size_t count, int bits, const uint16_t *factors, int many, float *levels);
namespace scalar {
COMPAND_TRELLIS_FUNCTIONS
}
namespace avx2 {
COMPAND_TRELLIS_FUNCTIONS
}
namespace avx512 {
COMPAND_TRELLIS_FUNCTIONS
}
#undef COMPAND_TRELLIS_FUNCTIONS

}  // namespace compand::trellis

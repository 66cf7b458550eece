// bfloat16 and float32 words as planes whose first symbol joins exponent and mantissa, since each exponent has its own
// distribution of mantissas:
//
//   symbol   rank(exponent) << 4 | top 4 mantissa bits, where rank is exponent - low below 14, 14 for exponent 0, 15 for any
//            other exponent, which then is the next escape. Without a window: the exponent, and the 4 bits are the top nibble.
//   middle   (float32) two planes: mantissa bits 18..11 and 10..3
//   nibble   last 3 mantissa bits << 1 | sign; nibbles of words 2i and 2i + 1 share byte i, the first in the low half
#pragma once
#include <cstddef>
#include <cstdint>

namespace compand::joint {

constexpr size_t kPiece = size_t{1} << 12;  // words at a time
constexpr int kRanks = 14, kZero = 14, kEscape = 15;

struct Planes {
    uint8_t *symbol, *middle[2], *nibble, *top;
};

#define COMPAND_JOINT_FUNCTIONS                                                                                            \
    /* n <= kPiece words to planes. low < 0: no window. Returns the number of escapes written (at most n). */             \
    size_t split(const uint16_t *words, size_t n, int low, const Planes &to, uint8_t *escapes);                           \
    size_t split(const uint32_t *words, size_t n, int low, const Planes &to, uint8_t *escapes);                           \
    /* The inverse; escapes holds count_escapes(symbols) bytes. */                                                         \
    void merge(const Planes &from, size_t n, int low, const uint8_t *escapes, uint16_t *words);                           \
    void merge(const Planes &from, size_t n, int low, const uint8_t *escapes, uint32_t *words);                           \
    size_t count_escapes(const uint8_t *symbols, size_t n);
namespace scalar {
COMPAND_JOINT_FUNCTIONS
}
namespace avx2 {
COMPAND_JOINT_FUNCTIONS
}
namespace avx512 {
COMPAND_JOINT_FUNCTIONS
}
#undef COMPAND_JOINT_FUNCTIONS

}  // namespace compand::joint

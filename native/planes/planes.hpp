// Words to byte planes and back, any bits. plane 0 holds the most significant byte of each word, after it was turned:
// as it is, rotated left by one (the exponent of a float then fills whole bytes, the sign comes last), or zigzag.
#pragma once
#include <cstddef>
#include <cstdint>

namespace compand::planes {

enum class Turn : int { none = 0, rotate = 1, zigzag = 2 };

#define COMPAND_PLANES_FUNCTIONS                                                              \
    void split(const uint16_t *words, size_t n, Turn turn, uint8_t *const *planes);          \
    void split(const uint32_t *words, size_t n, Turn turn, uint8_t *const *planes);          \
    void split(const uint64_t *words, size_t n, Turn turn, uint8_t *const *planes);          \
    void merge(const uint8_t *const *planes, size_t n, Turn turn, uint16_t *words);          \
    void merge(const uint8_t *const *planes, size_t n, Turn turn, uint32_t *words);          \
    void merge(const uint8_t *const *planes, size_t n, Turn turn, uint64_t *words);
namespace scalar {
COMPAND_PLANES_FUNCTIONS
}
namespace avx2 {
COMPAND_PLANES_FUNCTIONS
}
namespace avx512 {
COMPAND_PLANES_FUNCTIONS
}
#undef COMPAND_PLANES_FUNCTIONS

}  // namespace compand::planes

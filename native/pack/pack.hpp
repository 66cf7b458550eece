// Fixed-width bit packing and base-k digit packing of one row of symbols.
//
// Bits: symbol j of a row occupies bits [j*bits, (j+1)*bits) of the row's little-endian bit string; padding bits are zero.
// Radix: byte b of a row holds digits b*m .. b*m+m-1, the first least significant; missing digits are zero.
#pragma once
#include <cstddef>
#include <cstdint>

namespace compand::pack {

inline size_t bit_bytes(size_t d, size_t bits) { return d / 8 * bits + (d % 8 * bits + 7) / 8; }

#define COMPAND_PACK_FUNCTIONS                                                                                        \
    /* writes bit_bytes(d, bits) bytes; false: some id needs more than `bits` bits (the output is then unspecified) */ \
    bool pack_bits(const uint8_t *ids, size_t d, unsigned bits, uint8_t *out);                                        \
    bool pack_bits(const uint16_t *ids, size_t d, unsigned bits, uint8_t *out);                                       \
    bool pack_bits(const uint32_t *ids, size_t d, unsigned bits, uint8_t *out);                                       \
    /* reads exactly bit_bytes(d, bits) bytes; bits <= 8 * sizeof *out */                                             \
    void unpack_bits(const uint8_t *data, size_t d, unsigned bits, uint8_t *out);                                     \
    void unpack_bits(const uint8_t *data, size_t d, unsigned bits, uint16_t *out);                                    \
    void unpack_bits(const uint8_t *data, size_t d, unsigned bits, uint32_t *out);
namespace scalar {
COMPAND_PACK_FUNCTIONS
}
namespace avx2 {
COMPAND_PACK_FUNCTIONS
}
namespace avx512 {
COMPAND_PACK_FUNCTIONS
}
#undef COMPAND_PACK_FUNCTIONS

}  // namespace compand::pack

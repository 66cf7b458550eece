// Base-k digits, m to a byte (k^m <= 256), as in the packing of ternary weights: five trits in a byte.
#pragma once
#include <cstddef>
#include <cstdint>

namespace compand::pack {

// Writes ceil(d / m) bytes; false: some digit is not below k.
bool pack_radix(const uint8_t *ids, size_t d, unsigned k, unsigned m, uint8_t *out);

// The digits of each byte value, one digit a byte of `digits`, and whether it is below k^m.
struct RadixTable {
    uint64_t digits[256];
    bool valid[256];
    RadixTable(unsigned k, unsigned m);
};
// Reads ceil(d / m) bytes; false: some byte is not below k^m.
bool unpack_radix(const uint8_t *data, size_t d, unsigned m, const RadixTable &table, uint8_t *out);

}  // namespace compand::pack

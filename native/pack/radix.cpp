#include "pack/radix.hpp"

#include <algorithm>
#include <cstring>

namespace compand::pack {
namespace {

template <unsigned m> bool pack_whole(const uint8_t *ids, size_t bytes, unsigned k, uint8_t *out) {
    unsigned bad = 0;
    for (size_t b = 0; b < bytes; ++b) {
        unsigned value = 0;
        for (unsigned i = m; i-- > 0;) {
            const unsigned digit = ids[b * m + i];
            bad |= digit >= k;
            value = value * k + digit;
        }
        out[b] = static_cast<uint8_t>(value);
    }
    return !bad;
}

}  // namespace

bool pack_radix(const uint8_t *ids, size_t d, unsigned k, unsigned m, uint8_t *out) {
    const size_t bytes = d / m, rest = d % m;
    bool good = m == 1   ? pack_whole<1>(ids, bytes, k, out)
                : m == 2 ? pack_whole<2>(ids, bytes, k, out)
                : m == 3 ? pack_whole<3>(ids, bytes, k, out)
                : m == 4 ? pack_whole<4>(ids, bytes, k, out)
                : m == 5 ? pack_whole<5>(ids, bytes, k, out)
                : m == 6 ? pack_whole<6>(ids, bytes, k, out)
                : m == 7 ? pack_whole<7>(ids, bytes, k, out)
                         : pack_whole<8>(ids, bytes, k, out);
    if (rest) {
        unsigned value = 0;
        for (size_t i = rest; i-- > 0;) {
            const unsigned digit = ids[bytes * m + i];
            good &= digit < k;
            value = value * k + digit;
        }
        out[bytes] = static_cast<uint8_t>(value);
    }
    return good;
}

RadixTable::RadixTable(unsigned k, unsigned m) {
    for (unsigned value = 0; value < 256; ++value) {
        unsigned left = value;
        uint64_t word = 0;
        for (unsigned i = 0; i < m; ++i, left /= k) word |= static_cast<uint64_t>(left % k) << (8 * i);
        digits[value] = word;
        valid[value] = left == 0;
    }
}

bool unpack_radix(const uint8_t *data, size_t d, unsigned m, const RadixTable &table, uint8_t *out) {
    bool good = true;
    size_t j = 0;
    for (; j + 8 <= d; j += m, ++data) {  // eight digits are stored, the next byte overwrites those beyond m
        good &= table.valid[*data];
        std::memcpy(out + j, &table.digits[*data], 8);
    }
    for (; j < d; j += m, ++data) {
        good &= table.valid[*data];
        uint8_t digits[8];
        std::memcpy(digits, &table.digits[*data], 8);
        std::memcpy(out + j, digits, std::min<size_t>(m, d - j));
    }
    return good;
}

}  // namespace compand::pack

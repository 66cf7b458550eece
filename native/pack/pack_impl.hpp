// Body of pack.hpp. FAST 1: eight symbols at a time with PEXT / PDEP (BMI2); FAST 0: one at a time. Same bits either way.
#include <bit>
#include <cstring>
#if FAST
#include <immintrin.h>
#endif

#include "pack/pack.hpp"

static_assert(std::endian::native == std::endian::little, "stores below are little-endian");

namespace compand::pack::ISA {
namespace {

using u128 = unsigned __int128;

uint64_t low_bits(unsigned bits) { return bits >= 64 ? ~uint64_t{0} : (uint64_t{1} << bits) - 1; }

// Appends fields of at most 64 bits; stores whole words only, so it never writes past the row.
class BitWriter {
public:
    explicit BitWriter(uint8_t *out) : out_(out) {}
    void push(uint64_t value, unsigned bits) {
        word_ |= value << fill_;
        if (fill_ + bits >= 64) {
            std::memcpy(out_, &word_, 8);
            out_ += 8;
            word_ = fill_ ? value >> (64 - fill_) : 0;
            fill_ = fill_ + bits - 64;
            if (!fill_) word_ = 0;
        } else {
            fill_ += bits;
        }
    }
    void finish() { std::memcpy(out_, &word_, (fill_ + 7) / 8); }

private:
    uint8_t *out_;
    uint64_t word_ = 0;
    unsigned fill_ = 0;
};

#if FAST
template <class T> constexpr unsigned lanes = 8 / sizeof(T);

// The mask of the low `bits` bits of each T of a word.
template <class T> uint64_t lane_mask(unsigned bits) {
    uint64_t mask = 0;
    for (unsigned lane = 0; lane < lanes<T>; ++lane) mask |= low_bits(bits) << (lane * 8 * sizeof(T));
    return mask;
}

template <class T> uint64_t load_word(const T *at) {
    uint64_t word;
    std::memcpy(&word, at, 8);
    return word;
}
#endif

template <class T> bool pack_row(const T *ids, size_t d, unsigned bits, uint8_t *out) {
    uint64_t seen = 0;
    size_t j = 0;
#if FAST
    if (bits <= 8 * sizeof(T)) {
        const uint64_t mask = lane_mask<T>(bits), excess = ~mask;
        const size_t room = bit_bytes(d, bits);
        uint64_t bad = 0;
        if constexpr (sizeof(T) == 1) {
            for (; j + 8 <= d && j / 8 * bits + 8 <= room; j += 8) {
                const uint64_t word = load_word(ids + j), packed = _pext_u64(word, mask);
                bad |= word & excess;
                std::memcpy(out + j / 8 * bits, &packed, 8);
            }
        } else if constexpr (sizeof(T) == 2) {
            for (; j + 8 <= d && j / 8 * bits + 16 <= room; j += 8) {
                const uint64_t low = load_word(ids + j), high = load_word(ids + j + 4);
                bad |= (low | high) & excess;
                const u128 packed = _pext_u64(low, mask) | static_cast<u128>(_pext_u64(high, mask)) << (4 * bits);
                std::memcpy(out + j / 8 * bits, &packed, 16);
            }
        } else {
            BitWriter writer(out);
            for (; j + 8 <= d; j += 8)
                for (size_t i = j; i < j + 8; i += 2) {
                    const uint64_t word = load_word(ids + i);
                    bad |= word & excess;
                    writer.push(_pext_u64(word, mask), 2 * bits);
                }
            writer.finish();
        }
        if (bad) return false;
    }
#endif
    BitWriter writer(out + j / 8 * bits);  // j is a multiple of 8, so this is a whole byte
    for (; j < d; ++j) {
        seen |= ids[j];
        writer.push(ids[j], bits);
    }
    writer.finish();
    return (seen & ~low_bits(bits)) == 0;
}

template <class T> void unpack_row(const uint8_t *data, size_t d, unsigned bits, T *out) {
    const size_t size = bit_bytes(d, bits);
    size_t j = 0;
#if FAST
    const uint64_t lane = lane_mask<T>(bits);
    if constexpr (sizeof(T) == 1) {
        for (; j + 8 <= d && j / 8 * bits + 8 <= size; j += 8) {
            const uint64_t word = _pdep_u64(load_word(data + j / 8 * bits), lane);
            std::memcpy(out + j, &word, 8);
        }
    } else if constexpr (sizeof(T) == 2) {
        const unsigned shift = 4 * (bits & 1);
        for (; j + 8 <= d && j / 8 * bits + bits / 2 + 8 <= size; j += 8) {
            const uint8_t *at = data + j / 8 * bits;
            const uint64_t low = _pdep_u64(load_word(at), lane), high = _pdep_u64(load_word(at + bits / 2) >> shift, lane);
            std::memcpy(out + j, &low, 8);
            std::memcpy(out + j + 4, &high, 8);
        }
    } else if (bits != 31) {  // two fields of 31 bits may straddle nine bytes
        for (; j + 8 <= d && j / 8 * bits + 6 * bits / 8 + 8 <= size; j += 8)
            for (unsigned i = 0; i < 8; i += 2) {
                const size_t bit = i * bits;
                const uint64_t word = _pdep_u64(load_word(data + j / 8 * bits + bit / 8) >> (bit % 8), lane);
                std::memcpy(out + j + i, &word, 8);
            }
    }
#endif
    const uint64_t mask = low_bits(bits);
    for (; j < d; ++j) {
        const size_t bit = j % 8 * bits, byte = j / 8 * bits + bit / 8;
        uint64_t word = 0;
        if (byte + 8 <= size) std::memcpy(&word, data + byte, 8);
        else std::memcpy(&word, data + byte, size - byte);
        out[j] = static_cast<T>(word >> (bit % 8) & mask);
    }
}

}  // namespace

bool pack_bits(const uint8_t *ids, size_t d, unsigned bits, uint8_t *out) { return pack_row(ids, d, bits, out); }
bool pack_bits(const uint16_t *ids, size_t d, unsigned bits, uint8_t *out) { return pack_row(ids, d, bits, out); }
bool pack_bits(const uint32_t *ids, size_t d, unsigned bits, uint8_t *out) { return pack_row(ids, d, bits, out); }
void unpack_bits(const uint8_t *data, size_t d, unsigned bits, uint8_t *out) { unpack_row(data, d, bits, out); }
void unpack_bits(const uint8_t *data, size_t d, unsigned bits, uint16_t *out) { unpack_row(data, d, bits, out); }
void unpack_bits(const uint8_t *data, size_t d, unsigned bits, uint32_t *out) { unpack_row(data, d, bits, out); }

}  // namespace compand::pack::ISA

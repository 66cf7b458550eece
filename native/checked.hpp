// Bounded access to bytes from outside: sizes by checked arithmetic, reads through Reader only.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace compand {

inline bool checked_add(size_t a, size_t b, size_t &out) { return !__builtin_add_overflow(a, b, &out); }
inline bool checked_mul(size_t a, size_t b, size_t &out) { return !__builtin_mul_overflow(a, b, &out); }

// Reads little-endian values; after the first read past the end ok() is false and every value is zero.
class Reader {
public:
    Reader(const uint8_t *data, size_t size) : at_(data), left_(size) {}
    bool ok() const { return ok_; }
    size_t left() const { return left_; }
    const uint8_t *at() const { return at_; }

    const uint8_t *take(size_t n) {
        if (!ok_ || n > left_) {
            ok_ = false;
            return nullptr;
        }
        const uint8_t *start = at_;
        at_ += n;
        left_ -= n;
        return start;
    }
    template <class T> T get() {
        T value{};
        if (const uint8_t *from = take(sizeof(T))) std::memcpy(&value, from, sizeof(T));
        return value;
    }
    uint64_t varint() {  // LEB128, at most 64 bits
        uint64_t value = 0;
        for (int shift = 0; shift < 64; shift += 7) {
            const uint8_t byte = get<uint8_t>();
            value |= static_cast<uint64_t>(byte & 0x7f) << shift;
            if (!(byte & 0x80)) return ok_ ? value : 0;
        }
        ok_ = false;
        return 0;
    }

private:
    const uint8_t *at_;
    size_t left_;
    bool ok_ = true;
};

}  // namespace compand

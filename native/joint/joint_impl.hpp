// Body of joint.hpp: plain loops over a piece that compilers vectorise. The same bits on every level.
#include <cstring>

#include "joint/joint.hpp"

namespace compand::joint::ISA {
namespace {

template <class T> constexpr int kMantissa = sizeof(T) == 2 ? 7 : 23;

void pack_nibbles(const uint8_t *__restrict from, size_t n, uint8_t *__restrict to) {
    for (size_t i = 0; i < n / 2; ++i) {
        uint16_t pair;
        std::memcpy(&pair, from + 2 * i, 2);
        to[i] = static_cast<uint8_t>(pair | pair >> 4);
    }
    if (n & 1) to[n / 2] = from[n - 1];
}

void unpack_nibbles(const uint8_t *__restrict from, size_t n, uint8_t *__restrict to) {
    for (size_t i = 0; i < n / 2; ++i) {
        const uint16_t pair = static_cast<uint16_t>((from[i] & 15) | (from[i] >> 4) << 8);
        std::memcpy(to + 2 * i, &pair, 2);
    }
    if (n & 1) to[n - 1] = from[n / 2] & 15;
}

bool any_escape(const uint8_t *symbols, size_t n) {
    uint8_t most = 0;
    for (size_t i = 0; i < n; ++i) most = symbols[i] > most ? symbols[i] : most;
    return most >= kEscape << 4;
}

template <class T, bool window>
void split_symbols(const T *__restrict words, size_t n, uint8_t low, uint8_t *__restrict symbol, uint8_t *__restrict top,
                   uint8_t *__restrict nibble) {
    constexpr int M = kMantissa<T>;
    for (size_t i = 0; i < n; ++i) {
        const T w = words[i];
        const uint8_t e = static_cast<uint8_t>(w >> M), m = static_cast<uint8_t>((w >> (M - 4)) & 15);
        if (window) {
            uint8_t r = static_cast<uint8_t>(e - low);
            r = r >= kRanks ? kEscape : r;
            r = e == 0 ? kZero : r;
            symbol[i] = static_cast<uint8_t>(r << 4 | m);
        } else {
            symbol[i] = e;
            top[i] = m;
        }
        nibble[i] = static_cast<uint8_t>((w & 7) << 1 | w >> (8 * sizeof(T) - 1));
    }
}

void split_middle(const uint16_t *, size_t, const Planes &) {}
void split_middle(const uint32_t *__restrict words, size_t n, const Planes &to) {
    uint8_t *__restrict a = to.middle[0], *__restrict b = to.middle[1];
    for (size_t i = 0; i < n; ++i) {
        a[i] = static_cast<uint8_t>(words[i] >> 11);
        b[i] = static_cast<uint8_t>(words[i] >> 3);
    }
}

template <class T> size_t split_any(const T *words, size_t n, int low, const Planes &to, uint8_t *escapes) {
    alignas(64) uint8_t nibble[kPiece], top[kPiece];
    size_t count = 0;
    if (low >= 0) split_symbols<T, true>(words, n, static_cast<uint8_t>(low), to.symbol, top, nibble);
    else split_symbols<T, false>(words, n, 0, to.symbol, top, nibble);
    split_middle(words, n, to);
    pack_nibbles(nibble, n, to.nibble);
    if (low < 0) {
        pack_nibbles(top, n, to.top);
        return 0;
    }
    std::memset(to.top, 0, (n + 1) / 2);
    for (size_t from = 0; from < n; from += 64) {
        const size_t end = n - from < 64 ? n : from + 64;
        if (!any_escape(to.symbol + from, end - from)) continue;
        for (size_t i = from; i < end; ++i) {
            if (to.symbol[i] >= kEscape << 4) escapes[count++] = static_cast<uint8_t>(words[i] >> kMantissa<T>);
        }
    }
    return count;
}

template <bool window>
void merge_words(const uint8_t *__restrict symbol, const uint8_t *__restrict top, const uint8_t *__restrict nibble,
                 const Planes &, size_t n, uint8_t low, uint16_t *__restrict words) {
    for (size_t i = 0; i < n; ++i) {
        const uint8_t s = symbol[i], r = static_cast<uint8_t>(s >> 4), x = nibble[i];
        const uint8_t e = window ? static_cast<uint8_t>(r == kZero ? 0 : r + low) : s;
        const uint8_t m = window ? s & 15 : top[i];
        words[i] = static_cast<uint16_t>((x & 1) << 15 | e << 7 | m << 3 | x >> 1);
    }
}

template <bool window>
void merge_words(const uint8_t *__restrict symbol, const uint8_t *__restrict top, const uint8_t *__restrict nibble,
                 const Planes &from, size_t n, uint8_t low, uint32_t *__restrict words) {
    const uint8_t *__restrict a = from.middle[0], *__restrict b = from.middle[1];
    for (size_t i = 0; i < n; ++i) {
        const uint8_t s = symbol[i], r = static_cast<uint8_t>(s >> 4), x = nibble[i];
        const uint8_t e = window ? static_cast<uint8_t>(r == kZero ? 0 : r + low) : s;
        const uint8_t m = window ? s & 15 : top[i];
        words[i] = static_cast<uint32_t>(x & 1) << 31 | static_cast<uint32_t>(e) << 23 | static_cast<uint32_t>(m) << 19 |
                   static_cast<uint32_t>(a[i]) << 11 | static_cast<uint32_t>(b[i]) << 3 | static_cast<uint32_t>(x >> 1);
    }
}

template <class T> void merge_any(const Planes &from, size_t n, int low, const uint8_t *escapes, T *words) {
    alignas(64) uint8_t nibble[kPiece], top[kPiece];
    unpack_nibbles(from.nibble, n, nibble);
    if (low < 0) {
        unpack_nibbles(from.top, n, top);
        merge_words<false>(from.symbol, top, nibble, from, n, 0, words);
        return;
    }
    merge_words<true>(from.symbol, top, nibble, from, n, static_cast<uint8_t>(low), words);
    constexpr int M = kMantissa<T>;
    for (size_t at = 0; at < n; at += 64) {
        const size_t end = n - at < 64 ? n : at + 64;
        if (!any_escape(from.symbol + at, end - at)) continue;
        for (size_t i = at; i < end; ++i) {
            if (from.symbol[i] >= kEscape << 4)
                words[i] = static_cast<T>((words[i] & ~(T{255} << M)) | static_cast<T>(static_cast<T>(*escapes++) << M));
        }
    }
}

}  // namespace

size_t split(const uint16_t *words, size_t n, int low, const Planes &to, uint8_t *escapes) {
    return split_any(words, n, low, to, escapes);
}
size_t split(const uint32_t *words, size_t n, int low, const Planes &to, uint8_t *escapes) {
    return split_any(words, n, low, to, escapes);
}
void merge(const Planes &from, size_t n, int low, const uint8_t *escapes, uint16_t *words) {
    merge_any(from, n, low, escapes, words);
}
void merge(const Planes &from, size_t n, int low, const uint8_t *escapes, uint32_t *words) {
    merge_any(from, n, low, escapes, words);
}
size_t count_escapes(const uint8_t *symbols, size_t n) {
    size_t count = 0;
    for (size_t from = 0; from < n; from += 128) {
        const size_t end = n - from < 128 ? n : from + 128;
        uint8_t some = 0;
        for (size_t i = from; i < end; ++i) some = static_cast<uint8_t>(some + (symbols[i] >= kEscape << 4));
        count += some;
    }
    return count;
}

}  // namespace compand::joint::ISA

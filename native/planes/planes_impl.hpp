// Body of planes.hpp: plain loops that compilers turn into shuffles of whole registers. The same bits on every level.
#include "planes/planes.hpp"

namespace compand::planes::ISA {
namespace {

template <Turn turn, class T> inline T forward(T w) {
    constexpr int top = 8 * sizeof(T) - 1;
    if (turn == Turn::rotate) return static_cast<T>(static_cast<T>(w << 1) | static_cast<T>(w >> top));
    if (turn == Turn::zigzag) return static_cast<T>(static_cast<T>(w << 1) ^ static_cast<T>(T{0} - static_cast<T>(w >> top)));
    return w;
}

template <Turn turn, class T> inline T backward(T w) {
    constexpr int top = 8 * sizeof(T) - 1;
    if (turn == Turn::rotate) return static_cast<T>(static_cast<T>(w >> 1) | static_cast<T>(w << top));
    if (turn == Turn::zigzag) return static_cast<T>(static_cast<T>(w >> 1) ^ static_cast<T>(T{0} - static_cast<T>(w & 1)));
    return w;
}

template <Turn turn> void split_as(const uint16_t *__restrict words, size_t n, uint8_t *const *planes) {
    uint8_t *__restrict a = planes[0], *__restrict b = planes[1];
    for (size_t i = 0; i < n; ++i) {
        const uint16_t w = forward<turn>(words[i]);
        a[i] = static_cast<uint8_t>(w >> 8);
        b[i] = static_cast<uint8_t>(w);
    }
}

template <Turn turn> void merge_as(const uint8_t *const *planes, size_t n, uint16_t *__restrict words) {
    const uint8_t *__restrict a = planes[0], *__restrict b = planes[1];
    for (size_t i = 0; i < n; ++i) words[i] = backward<turn>(static_cast<uint16_t>(a[i] << 8 | b[i]));
}

template <Turn turn> void split_as(const uint32_t *__restrict words, size_t n, uint8_t *const *planes) {
    uint8_t *__restrict a = planes[0], *__restrict b = planes[1], *__restrict c = planes[2], *__restrict d = planes[3];
    for (size_t i = 0; i < n; ++i) {
        const uint32_t w = forward<turn>(words[i]);
        a[i] = static_cast<uint8_t>(w >> 24);
        b[i] = static_cast<uint8_t>(w >> 16);
        c[i] = static_cast<uint8_t>(w >> 8);
        d[i] = static_cast<uint8_t>(w);
    }
}

template <Turn turn> void merge_as(const uint8_t *const *planes, size_t n, uint32_t *__restrict words) {
    const uint8_t *__restrict a = planes[0], *__restrict b = planes[1], *__restrict c = planes[2], *__restrict d = planes[3];
    for (size_t i = 0; i < n; ++i)
        words[i] = backward<turn>(static_cast<uint32_t>(a[i]) << 24 | static_cast<uint32_t>(b[i]) << 16 |
                                  static_cast<uint32_t>(c[i]) << 8 | d[i]);
}

template <Turn turn> void split_as(const uint64_t *__restrict words, size_t n, uint8_t *const *planes) {
    for (int p = 0; p < 8; ++p) {
        uint8_t *__restrict out = planes[p];
        const int shift = 56 - 8 * p;
        for (size_t i = 0; i < n; ++i) out[i] = static_cast<uint8_t>(forward<turn>(words[i]) >> shift);
    }
}

template <Turn turn> void merge_as(const uint8_t *const *planes, size_t n, uint64_t *__restrict words) {
    const uint8_t *__restrict p0 = planes[0], *__restrict p1 = planes[1], *__restrict p2 = planes[2], *__restrict p3 = planes[3];
    const uint8_t *__restrict p4 = planes[4], *__restrict p5 = planes[5], *__restrict p6 = planes[6], *__restrict p7 = planes[7];
    for (size_t i = 0; i < n; ++i) {
        const uint32_t high = static_cast<uint32_t>(p0[i]) << 24 | static_cast<uint32_t>(p1[i]) << 16 |
                              static_cast<uint32_t>(p2[i]) << 8 | p3[i];
        const uint32_t low = static_cast<uint32_t>(p4[i]) << 24 | static_cast<uint32_t>(p5[i]) << 16 |
                             static_cast<uint32_t>(p6[i]) << 8 | p7[i];
        words[i] = backward<turn>(static_cast<uint64_t>(high) << 32 | low);
    }
}

template <class T> void split_any(const T *words, size_t n, Turn turn, uint8_t *const *planes) {
    if (turn == Turn::rotate) split_as<Turn::rotate>(words, n, planes);
    else if (turn == Turn::zigzag) split_as<Turn::zigzag>(words, n, planes);
    else split_as<Turn::none>(words, n, planes);
}

template <class T> void merge_any(const uint8_t *const *planes, size_t n, Turn turn, T *words) {
    if (turn == Turn::rotate) merge_as<Turn::rotate>(planes, n, words);
    else if (turn == Turn::zigzag) merge_as<Turn::zigzag>(planes, n, words);
    else merge_as<Turn::none>(planes, n, words);
}

}  // namespace

void split(const uint16_t *words, size_t n, Turn turn, uint8_t *const *planes) { split_any(words, n, turn, planes); }
void split(const uint32_t *words, size_t n, Turn turn, uint8_t *const *planes) { split_any(words, n, turn, planes); }
void split(const uint64_t *words, size_t n, Turn turn, uint8_t *const *planes) { split_any(words, n, turn, planes); }
void merge(const uint8_t *const *planes, size_t n, Turn turn, uint16_t *words) { merge_any(planes, n, turn, words); }
void merge(const uint8_t *const *planes, size_t n, Turn turn, uint32_t *words) { merge_any(planes, n, turn, words); }
void merge(const uint8_t *const *planes, size_t n, Turn turn, uint64_t *words) { merge_any(planes, n, turn, words); }

}  // namespace compand::planes::ISA

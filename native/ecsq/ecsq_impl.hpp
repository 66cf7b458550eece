// Body of ecsq.hpp. All levels give the same ids and sums.
#include <cstring>
#if LEVEL
#include <immintrin.h>
#endif

#include "ecsq/ecsq.hpp"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 warns about its own _mm512_undefined
#pragma GCC diagnostic ignored "-Wpsabi"  // vectors that registers of this level do not hold stay within this file
#endif

namespace compand::ecsq::ISA {
namespace {

constexpr size_t kLanes = 16;
typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));
typedef uint8_t Bytes __attribute__((vector_size(kLanes)));
typedef uint16_t Words __attribute__((vector_size(2 * kLanes)));

constexpr float kMost = 2047, kZero = 0.56f;

inline Ints integers(Floats x, float inverse, int32_t reach) {
    const Ints sign = (Ints)x >> 31;
    Floats a = (Floats)((Ints)x & 0x7fffffff) * inverse;
    a = a < kMost ? a : Floats{} + kMost;  // also what overflowed
    Ints id = __builtin_convertvector(a + 0.5f, Ints) & (a >= kZero);
    id = id < reach ? id : Ints{} + reach;
    return (id ^ sign) - sign;
}

template <class T, class Stored> void one_class(const float *x, const float *factors, float inverse, const Class &c, T *out, Floats &dots, Floats &squares) {
    size_t j = c.first;
    for (; j + kLanes <= c.last; j += kLanes) {
        Floats v, f;
        std::memcpy(&v, x + j, sizeof v);
        std::memcpy(&f, factors + j, sizeof f);
        const Ints id = integers(v, inverse, c.reach);
        dots += v * (f * __builtin_convertvector(id, Floats));
        squares += v * v;
        const Stored stored = __builtin_convertvector(id + c.reach, Stored);
        std::memcpy(out + (j - c.first), &stored, sizeof stored);
    }
    if (j == c.last) return;
    Floats v = {}, f = {};
    std::memcpy(&v, x + j, (c.last - j) * sizeof(float));
    std::memcpy(&f, factors + j, (c.last - j) * sizeof(float));
    const Ints id = integers(v, inverse, c.reach);
    dots += v * (f * __builtin_convertvector(id, Floats));
    squares += v * v;
    const Stored stored = __builtin_convertvector(id + c.reach, Stored);
    std::memcpy(out + (j - c.first), &stored, (c.last - j) * sizeof(T));
}

inline float total(Floats sums) {
    float lane[kLanes];
    std::memcpy(lane, &sums, sizeof lane);
    for (size_t half = kLanes / 2; half; half /= 2)
        for (size_t l = 0; l < half; ++l) lane[l] += lane[l + half];
    return lane[0];
}

}  // namespace

void encode(const float *x, size_t n, size_t d, size_t from, const float *factors, float inverse, const Class *classes, size_t count,
            float *dots, float *squares) {
    for (size_t i = from; i < from + n; ++i) {
        Floats dot = {}, square = {};
        for (size_t c = 0; c < count; ++c) {
            const Class &own = classes[c];
            const size_t at = i * (own.last - own.first);
            if (own.reach < 128)
                one_class<uint8_t, Bytes>(x + i * d, factors, inverse, own, static_cast<uint8_t *>(own.ids) + at, dot, square);
            else
                one_class<uint16_t, Words>(x + i * d, factors, inverse, own, static_cast<uint16_t *>(own.ids) + at, dot, square);
        }
        dots[i] = total(dot);
        squares[i] = total(square);
    }
}

}  // namespace compand::ecsq::ISA

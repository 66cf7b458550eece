// Sixteen floats at a time, for kernels whose body is one text for every instruction set: the compiler's own vectors, so that each
// operation of each lane is the same IEEE operation everywhere, and so are the bits. Include inside of no namespace.
#pragma once
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"  // vectors never cross a function that is not inlined
#endif
#define COMPAND_INLINE inline __attribute__((always_inline))

namespace compand::lanes {

constexpr size_t kLanes = 16;
typedef float F __attribute__((vector_size(64)));
typedef int32_t I __attribute__((vector_size(64)));
typedef uint32_t U __attribute__((vector_size(64)));
typedef uint16_t H __attribute__((vector_size(32)));

template <class T> COMPAND_INLINE T load(const void *from) {
    T v;
    std::memcpy(&v, from, sizeof v);
    return v;
}
template <class T> COMPAND_INLINE void store(void *to, const T &v) { std::memcpy(to, &v, sizeof v); }
COMPAND_INLINE F all(float x) { return F{} + x; }

COMPAND_INLINE F widen(const H &h) { return std::bit_cast<F>(__builtin_convertvector(h, U) << 16); }  // bfloat16

// Rounded to nearest, ties to even; NaN stays NaN.
COMPAND_INLINE uint16_t narrow(float x) {
    const uint32_t bits = std::bit_cast<uint32_t>(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40);
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// Denormal operands and results are zero while it lives, as VDPBF16PS has them whatever the mode.
class Flush {
#if defined(__x86_64__)
    unsigned before_ = __builtin_ia32_stmxcsr();

public:
    Flush() { __builtin_ia32_ldmxcsr(before_ | 0x8040); }
    ~Flush() { __builtin_ia32_ldmxcsr(before_); }
#elif defined(__aarch64__)
    uint64_t before_;

public:
    Flush() {
        asm volatile("mrs %0, fpcr" : "=r"(before_));
        asm volatile("msr fpcr, %0" : : "r"(before_ | 1 << 24));
    }
    ~Flush() { asm volatile("msr fpcr, %0" : : "r"(before_)); }
#else
public:
    Flush() {}
    ~Flush() {}
#endif
    Flush(const Flush &) = delete;
    Flush &operator=(const Flush &) = delete;
};

// Halves upon each other: lane i + lane i + 8, then 4, 2, 1.
COMPAND_INLINE float total(const F &v) {
    float a[16];
    store(a, v);
    for (int h = 8; h; h /= 2)
        for (int i = 0; i < h; ++i) a[i] += a[i + h];
    return a[0];
}
COMPAND_INLINE float greatest(const F &v) {
    float a[16];
    store(a, v);
    for (int h = 8; h; h /= 2)
        for (int i = 0; i < h; ++i) a[i] = a[i] > a[i + h] ? a[i] : a[i + h];
    return a[0];
}
COMPAND_INLINE F larger(const F &a, const F &b) { return a > b ? a : b; }
COMPAND_INLINE F smaller(const F &a, const F &b) { return a < b ? a : b; }

// e^x within 2 units in the last place; 0 below -87.3, e^88 above it, and NaN for NaN. Cephes' polynomial (Moshier).
COMPAND_INLINE F exponential(const F &given) {
    const F x = smaller(larger(given, all(-87.3f)), all(88.0f));
    const F n = (x * 1.44269504088896341f + 12582912.0f) - 12582912.0f;
    const F r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    F p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    const I exponent = (__builtin_convertvector(n, I) + 127) << 23;
    const F y = p * std::bit_cast<F>(exponent);
    const F tiny = given < all(-87.3f) ? F{} : y;
    return given != given ? given : tiny;
}
// 1 - 2 / (1 + e^2x)
COMPAND_INLINE F hyperbolic(const F &x) { return 1.0f - 2.0f / (1.0f + exponential(x + x)); }

}  // namespace compand::lanes

// Body of hadamard.hpp. Distances below 16 stay in registers; larger ones go two at a time over a block.
#include <cmath>
#include <cstdint>
#include <cstring>
#if LEVEL
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // false in GCC's own intrinsics (GCC bug 105593)
#endif
#include <immintrin.h>
#endif

#include "hadamard/hadamard.hpp"

namespace compand::hadamard::ISA {
namespace {

void small(float *v, size_t block) {  // one block
    for (size_t h = 1; h < block; h *= 2)
        for (size_t i = 0; i < block; i += 2 * h)
            for (size_t j = i; j < i + h; ++j) {
                const float a = v[j], b = v[j + h];
                v[j] = a + b;
                v[j + h] = a - b;
            }
}

// Distances 1, 2, 4, 8 of each 16 values: partner + (bit of the distance set ? -self : self).
#if LEVEL == 2
void sixteens(float *v, size_t n) {
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i minus = _mm512_set1_epi32(INT32_MIN);
    __m512i partner[4], flip[4];
    for (int s = 0; s < 4; ++s) {
        const __m512i distance = _mm512_set1_epi32(1 << s);
        partner[s] = _mm512_xor_si512(lane, distance);
        flip[s] = _mm512_maskz_mov_epi32(_mm512_test_epi32_mask(lane, distance), minus);
    }
    for (size_t i = 0; i < n; i += 16) {
        __m512 x = _mm512_loadu_ps(v + i);
        for (int s = 0; s < 4; ++s) {
            const __m512 self = _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(x), flip[s]));
            x = _mm512_add_ps(_mm512_permutexvar_ps(partner[s], x), self);
        }
        _mm512_storeu_ps(v + i, x);
    }
}
#elif LEVEL == 1
__m256 eight(__m256 x) {
    const __m256 flip1 = _mm256_setr_ps(0, -0.0f, 0, -0.0f, 0, -0.0f, 0, -0.0f);
    const __m256 flip2 = _mm256_setr_ps(0, 0, -0.0f, -0.0f, 0, 0, -0.0f, -0.0f);
    const __m256 flip4 = _mm256_setr_ps(0, 0, 0, 0, -0.0f, -0.0f, -0.0f, -0.0f);
    x = _mm256_add_ps(_mm256_permute_ps(x, 0xb1), _mm256_xor_ps(x, flip1));
    x = _mm256_add_ps(_mm256_permute_ps(x, 0x4e), _mm256_xor_ps(x, flip2));
    return _mm256_add_ps(_mm256_permute2f128_ps(x, x, 1), _mm256_xor_ps(x, flip4));
}
void sixteens(float *v, size_t n) {
    for (size_t i = 0; i < n; i += 16) {
        const __m256 a = eight(_mm256_loadu_ps(v + i)), b = eight(_mm256_loadu_ps(v + i + 8));
        _mm256_storeu_ps(v + i, _mm256_add_ps(a, b));
        _mm256_storeu_ps(v + i + 8, _mm256_sub_ps(a, b));
    }
}
#else
void sixteens(float *v, size_t n) {
    for (size_t i = 0; i < n; i += 16) small(v + i, 16);
}
#endif

}  // namespace

void row(const float *x, size_t d, size_t block, const float *before, const float *after, float *out) {
    const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(block)));
    for (size_t at = 0; at < d; at += block) {
        float *v = out + at;
        if (before)
            for (size_t j = 0; j < block; ++j) v[j] = x[at + j] * before[at + j];
        else
            std::memcpy(v, x + at, block * sizeof(float));
        if (block < 16) {
            small(v, block);
        } else {
            sixteens(v, block);
            size_t h = 16;
            for (; 4 * h <= block; h *= 4)
                for (size_t i = 0; i < block; i += 4 * h) {
                    float *__restrict p = v + i, *__restrict q = p + h, *__restrict r = q + h, *__restrict s = r + h;
                    for (size_t j = 0; j < h; ++j) {
                        const float a = p[j] + q[j], b = p[j] - q[j], c = r[j] + s[j], e = r[j] - s[j];
                        p[j] = a + c;
                        q[j] = b + e;
                        r[j] = a - c;
                        s[j] = b - e;
                    }
                }
            if (h < block) {
                float *__restrict p = v, *__restrict q = v + h;
                for (size_t j = 0; j < h; ++j) {
                    const float a = p[j], b = q[j];
                    p[j] = a + b;
                    q[j] = a - b;
                }
            }
        }
        for (size_t j = 0; j < block; ++j) v[j] *= scale;
        if (after)
            for (size_t j = 0; j < block; ++j) v[j] *= after[at + j];
    }
}

}  // namespace compand::hadamard::ISA

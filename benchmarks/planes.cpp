// Products of weights of W bits with activations of A bits: by bit planes (AND, count, shift for each pair of bits), and 64 one-bit weights
// as a mask of bytes into the dot product of eight-bit activations. 1,024 rows of 2,048 columns; prints billions of weights a second.
#include <immintrin.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

constexpr int kRows = 1024, kColumns = 2048, kVectors = kColumns / 512;

template <int W, int A> __attribute__((noinline)) long planes(const uint8_t *w, const uint8_t *x) {
    long total = 0;
    for (int r = 0; r < kRows; ++r) {
        __m512i sum = _mm512_setzero_si512();
        for (int c = 0; c < kVectors; ++c) {
            __m512i v[W];
#pragma GCC unroll 3
            for (int b = 0; b < W; ++b) v[b] = _mm512_loadu_si512(w + ((r * kVectors + c) * W + b) * 64);
#pragma GCC unroll 8
            for (int a = 0; a < A; ++a) {
                const __m512i bits = _mm512_loadu_si512(x + (c * A + a) * 64);
#pragma GCC unroll 3
                for (int b = 0; b < W; ++b)
                    sum = _mm512_add_epi64(sum, _mm512_slli_epi64(_mm512_popcnt_epi64(_mm512_and_si512(v[b], bits)), a + b));
            }
        }
        total += _mm512_reduce_add_epi64(sum);
    }
    return total;
}

__attribute__((noinline)) long masks(const uint8_t *w, const uint8_t *x) {
    long total = 0;
    const __m512i one = _mm512_set1_epi8(1);
    for (int r = 0; r < kRows; ++r) {
        __m512i sum[2] = {};
        for (int c = 0; c < kColumns / 64; ++c) {
            uint64_t mask;
            std::memcpy(&mask, w + r * kColumns / 8 + c * 8, 8);
            sum[c % 2] = _mm512_dpbusd_epi32(sum[c % 2], _mm512_maskz_mov_epi8(mask, one), _mm512_loadu_si512(x + c * 64));
        }
        total += _mm512_reduce_add_epi32(_mm512_add_epi32(sum[0], sum[1]));
    }
    return total;
}

int main(int, char **given) {
    std::vector<uint8_t> w(3 * kRows * kColumns / 8), x(8 * kColumns);
    for (size_t i = 0; i < w.size(); ++i) w[i] = static_cast<uint8_t>(i * 2654435761u >> 13);
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<uint8_t>(i * 2246822519u >> 17 & 63);
    struct Kernel {
        const char *name;
        long (*run)(const uint8_t *, const uint8_t *);
        double best;
    };
    Kernel all[] = {{"w1a8", planes<1, 8>, 1}, {"w1a4", planes<1, 4>, 1}, {"w1a2", planes<1, 2>, 1}, {"w1a1", planes<1, 1>, 1},
                    {"w2a8", planes<2, 8>, 1}, {"w2a4", planes<2, 4>, 1}, {"w2a2", planes<2, 2>, 1}, {"w2a1", planes<2, 1>, 1},
                    {"w3a8", planes<3, 8>, 1}, {"w3a4", planes<3, 4>, 1}, {"w3a2", planes<3, 2>, 1}, {"w3a1", planes<3, 1>, 1},
                    {"masks", masks, 1}};
    long sum = 0;
    for (int i = 0; i < 2000; ++i)
        for (Kernel &kernel : all) {
            const auto begin = std::chrono::steady_clock::now();
            sum += kernel.run(w.data(), x.data());
            kernel.best = std::min(kernel.best, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
        }
    for (const Kernel &kernel : all) std::printf("%s %.1f\n", kernel.name, double(kRows) * kColumns / kernel.best / 1e9);
    return given[0] == nullptr && sum == 1;  // the sums are used
}

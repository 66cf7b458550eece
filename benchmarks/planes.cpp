// Products of one-bit weights with activations of A bits: by bit planes (AND, count, shift), and 64 weights as a mask of bytes into the
// dot product of eight-bit activations. 2,048 rows of 2,048 columns; prints billions of weights a second.
#include <immintrin.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

constexpr int kRows = 2048, kColumns = 2048, kVectors = kColumns / 512;

template <int A> __attribute__((noinline)) long planes(const uint8_t *w, const uint8_t *x) {
    long total = 0;
    for (int r = 0; r < kRows; ++r) {
        __m512i sum = _mm512_setzero_si512();
        for (int c = 0; c < kVectors; ++c) {
            const __m512i v = _mm512_loadu_si512(w + (r * kVectors + c) * 64);
#pragma GCC unroll 8
            for (int a = 0; a < A; ++a) {
                const __m512i both = _mm512_and_si512(v, _mm512_loadu_si512(x + (c * A + a) * 64));
                sum = _mm512_add_epi64(sum, _mm512_slli_epi64(_mm512_popcnt_epi64(both), a));
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
    std::vector<uint8_t> w(kRows * kColumns / 8), x(8 * kColumns);
    for (size_t i = 0; i < w.size(); ++i) w[i] = static_cast<uint8_t>(i * 2654435761u >> 13);
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<uint8_t>(i * 2246822519u >> 17 & 63);
    const struct {
        const char *name;
        long (*run)(const uint8_t *, const uint8_t *);
    } all[] = {{"planes_a8", planes<8>}, {"planes_a4", planes<4>}, {"planes_a2", planes<2>}, {"planes_a1", planes<1>}, {"masks_a8", masks}};
    double best[5] = {1, 1, 1, 1, 1};
    long sum = 0;
    for (int i = 0; i < 2000; ++i)
        for (int k = 0; k < 5; ++k) {
            const auto begin = std::chrono::steady_clock::now();
            sum += all[k].run(w.data(), x.data());
            best[k] = std::min(best[k], std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
        }
    for (int k = 0; k < 5; ++k) std::printf("%s %.1f\n", all[k].name, double(kRows) * kColumns / best[k] / 1e9);
    return given[0] == nullptr && sum == 1;  // the sums are used
}

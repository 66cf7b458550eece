// Convolutions, sums and clips of nets on integers. A tensor lies as (blocks of 16 channels, pixels, 16): bytes, value less the lowest, where
// its range has 256 values, else int32. Every result is an exact integer: the same bits on every level of instructions.
#pragma once
#include <cstddef>
#include <cstdint>

namespace compand::convolution {

constexpr size_t kWide = 16;  // channels of a block
constexpr size_t kQuad = 4;   // bytes that are multiplied and summed together
constexpr size_t kTaps = 32;  // quads of weights that one depthwise channel has at most

// What becomes of the sums of a block's channels: (sum · multiplier + half of 2^shift) >> shift; sums begin at `bias`, modulo 2^32.
struct alignas(64) Step {
    int32_t bias[kWide], multiplier[kWide], shift[kWide];  // shift: 0..62
};

// Where results go, clipped to low … high: block b, pixel p is at (b * block + p) * 16. Exactly one of bytes and words.
struct Out {
    uint8_t *bytes;
    int32_t *words;
    size_t block;  // pixels of a block
    int32_t low, high;  // high - low < 256 and both within 16 bits, if bytes
};

// Bytes of pixels: channel k of pixel p is x[k / 16 * block + p * pixel + k % 16]. All of the last 4 can be read.
struct Pixels {
    const uint8_t *x;
    size_t block, pixel, count;
};

// A factor of a sum of two tensors, and one of them: bytes above `low`, or words.
struct Term {
    const uint8_t *bytes;
    const int32_t *words;
    int32_t low, multiplier;
};

// The levels but scalar ask for rescaled sums of 32 bits before they are clipped; all sums are of 32 bits.
#define COMPAND_CONVOLUTION_FUNCTIONS                                                                                           \
    /* pixels times weights (blocks, quads, 16, 4), each of `blocks` with its step */                                           \
    void products(const int8_t *w, size_t quads, const Step *steps, size_t blocks, const Pixels &pixels, const Out &out);       \
    /* one block, each channel by itself: weights (tall, passes, 16, 4), tall * passes <= kTaps, x of rows of `row` pixels of 16 bytes, from which      \
       4 * passes columns behind the first of each result can be read; rows x wide results, `stride` pixels apart */            \
    void depthwise(const int8_t *w, size_t tall, size_t passes, const Step &step, const uint8_t *x, size_t row, size_t stride, \
                   size_t rows, size_t wide, const Out &out);                                                                   \
    /* n blocks of 16 values of each term, times its multiplier, added, rescaled */                                             \
    void added(const Term &a, const Term &b, int shift, size_t n, const Out &out);
namespace scalar {
COMPAND_CONVOLUTION_FUNCTIONS
}
namespace avx2 {
COMPAND_CONVOLUTION_FUNCTIONS
}
namespace avx512 {
COMPAND_CONVOLUTION_FUNCTIONS
}
#undef COMPAND_CONVOLUTION_FUNCTIONS

}  // namespace compand::convolution

// Pictures: a coarse picture of an eighth of the size, and blocks of what it leaves over in transforms learnt from photographs.
//
// Planes are the picture in a learnt orthonormal colour space, in 1/16 of a step of 8 bits. The coarse plane (low-pass of a CDF 9/7
// wavelet, three levels) is coded in 8 x 8 cosine blocks, enlarged again by integers, and subtracted. What is left is cut into
// squares of 16: each empty, or one block of 16 x 16, or four of 8 x 8, each in one of several orthonormal bases learnt for
// sparseness (Sezer, Guleryuz, Altunbasak, "Approximation and compression with sparse orthonormal transforms", 2015).
// Bits are foretold by integer logistic mixing of learnt, adapting contexts (Mahoney, PAQ, 2005). Tiles are coded apart.
// Everything the decoder does is integer arithmetic. The encoder's floats are sums, products and square roots in a fixed order.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "isa.hpp"
#include "rans/bits.hpp"

namespace compand::image {

using rans::Bytes;

constexpr int kFraction = 16;     // planes: parts of a step of 8 bits
constexpr int kMostSide = 1 << 16;
constexpr int kMostClasses = 16;
constexpr int kSteps = 8;         // buckets of the quantizer's step
constexpr int kBasisBits = 12;    // entries of bases are in 1/4096
constexpr int kMostStep = 64 * 1024;

enum Kind { kAny, kSplit, kClass, kCoded, kZero, kEnd, kMore, kKinds };
constexpr int kInputs = 8;
// Bits of the table of each context of each kind.
constexpr int kContextBits[kKinds][kInputs] = {
    {10, 10, 10, 10, 10, 10, 10, 10}, {10, 10, 10, 10, 10, 10, 10, 10}, {13, 11, 14, 11, 12, 12, 12, 13}, {10, 12, 10, 12, 12, 12, 11, 9},
    {15, 13, 14, 15, 14, 14, 15, 14}, {15, 13, 14, 13, 14, 14, 13, 14}, {12, 9, 11, 11, 12, 13, 12, 12}};
constexpr int kMixerBits = 8;  // each kind has two families of 2^8 weight sets

constexpr size_t context_base(int kind, int input) {
    size_t at = 0;
    for (int k = 0; k < kKinds; ++k) {
        for (int i = 0; i < kInputs; ++i) {
            if (k == kind && i == input) return at;
            at += size_t{1} << kContextBits[k][i];
        }
    }
    return at;
}
constexpr size_t kCells = context_base(kKinds, 0);
constexpr size_t kWeights = size_t{2 * kKinds} << kMixerBits;  // sets, of kInputs + 1 weights

// What is learnt and adapts while a tile is coded.
struct State {
    std::vector<uint16_t> p;       // (kCells,) probability of 1 in 1/65536
    std::vector<uint8_t> seen;     // (kCells,) how often, up to a limit
    std::vector<int32_t> weights;  // (kWeights, kInputs + 1) in 1/65536
};

struct Curves {
    int16_t stretch[4096];   // p / 4096 → 256 ln(p / (1 - p)), in [-2047, 2047]
    uint16_t squash[4096];   // its inverse, of v + 2048: in 1/65536, never 0
    uint16_t rate[256];      // how far a cell moves after so many bits, in 1/65536
};
const Curves &curves();

constexpr size_t kRates = size_t{kSteps} * 3 * 2 * 256 * 4;
constexpr size_t kMostLayers = 8;
constexpr int kWeightBits = 10;         // weights of the filter are in 1/1024
constexpr int32_t kMostFiltered = 2047;  // its values, in 1/256 of the step

struct Layer {  // 3 x 3 convolution at half the size
    int in, out;
    std::vector<int16_t> weights;  // (9, in / 2, out, 2)
    std::vector<int32_t> bias;     // (out,)
};

struct Model {
    int32_t color[9];              // rows: planes from red, green, blue, in 1/4096
    int classes[2];                // of 8 x 8 and 16 x 16
    std::vector<int16_t> basis[2]; // (classes, n, n): rows are basis vectors
    std::vector<float> turned[2];  // (classes, n, n): transposed, for the encoder
    State state;
    std::vector<uint16_t> rates;   // (kSteps, sizes 3, luma or chroma, 256, 4): zero, not zero, goes on, ends; in 1/64 bit
    int share;                     // the coarse picture's step, in 1/16 of what an orthonormal transform would give it
    uint8_t centre[3][2][2];       // how far towards zero a value is rebuilt, in 1/256 step: magnitude 1, more
    std::vector<Layer> layers;     // of the filter; empty: none
    std::vector<uint64_t> counts;  // like rates: what was met while learning
};

struct Settings {
    size_t height, width;
    int channels;   // 1 or 3
    int bits;       // 8 or 16
    int step;       // quantizer's step in 1/64 of a step of 8 bits
    int tile;       // side of a tile, a multiple of 64
    bool large() const { return height * width >= 1024; }  // worth several threads
};

size_t tiles_of(const Settings &s);  // their number

// Lines of a PNG, (height, 1 + stride) with a filter's number first → rows (height, stride). False for an unknown filter.
bool png_rows(const uint8_t *lines, size_t height, size_t stride, size_t pixel, uint8_t *rows);

// The stream: for each tile, row by row, bytes of its coarse part and a check of 16 bits, the same of its details; then all coarse
// parts, then all details.
struct Spans {
    std::vector<const uint8_t *> at;  // (tiles, 2)
    std::vector<size_t> size;
    std::vector<uint8_t> damaged;     // whose check is wrong
};
uint32_t check_of(const uint8_t *data, size_t n);
bool spans_of(const uint8_t *data, size_t size, const Settings &s, Spans &out);

#define COMPAND_IMAGE_FUNCTIONS                                                                                               \
    /* rows (height, width * channels) → the stream. lambda: squared error that a bit is worth, in squared steps. learn: what \
       adapts goes on from tile to tile and back into the model. */                                                           \
    void encode(const float *rows, const Settings &s, float lambda, Model &m, bool learn, Bytes &out);                        \
    /* Streams → rows. lost (tiles, 2): coarse parts and details that are not to be used. Damaged ones are added to it and    \
       concealed, or else the result is false. */                                                                             \
    bool decode(const Spans &in, const Settings &s, const Model &m, bool conceal, uint8_t *lost, float *rows, bool filtered);
namespace scalar {
COMPAND_IMAGE_FUNCTIONS
}
namespace avx2 {
COMPAND_IMAGE_FUNCTIONS
}
namespace avx512 {
COMPAND_IMAGE_FUNCTIONS
}
#undef COMPAND_IMAGE_FUNCTIONS

}  // namespace compand::image

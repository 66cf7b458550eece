// Blocks of 3D Gaussian splats, quantized by steps of their own and coded by what is near them.
//
// The stream of the tree begins with the format, a number that no count of symbols reaches; without it, the format is 1.
//
// A row is x y z · log scales (3) · quaternion w x y z · logit of opacity · colour (3) · harmonics (3 K), float32. Everything the
// decoder needs to know a splat's steps comes from integers decoded before, so decoding is the same on every machine.
//
// Streams of a block (a part each): tree (which cells hold splats), scale, opacity, rotation, colour, harmonics, fine (the
// last bits of positions), order (only if rows are not in the order of the tree). Each: see symbols_impl.hpp.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "isa.hpp"
#include "rans/bits.hpp"

namespace compand::splat {

using rans::Bytes;

constexpr int kParts = 8;  // tree, scale, opacity, rotation, colour, harmonics, fine, order
constexpr int kMostRest = 24;

struct Steps {
    double position;  // position step = size / 2^position, in eighths (from format 4 on: in 1/64)
    int scale;        // steps of an octave of a scale, 1 to 256
    double rotation;  // finest direction: 2^rotation steps across the hemisphere, in sixteenths (1/64)
    int opacity;    // levels of the root of alpha, 2 to 4096
    int turn;       // 0 to 16: how much finer directions of thin splats are, in bits / 16 an octave
    int thin;       // 0 to 16: share of the shortest deviation in the size that a position follows
    bool even;      // levels are even in alpha, else in its root
    double colour, harmonics;  // steps at reference weight
    int adapt;      // 0 to 16: how far steps of colour follow what a splat adds to a picture
    int32_t reference;  // that, of a usual splat, in 1/scale octaves
    int rank;           // rows of the basis of harmonics, nearly orthonormal
    const float *basis;  // (rank, 3 rest)
    double trade = 0;    // writer: the price of a bit in squared steps
};

#define COMPAND_SPLAT_FUNCTIONS                                                                                          \
    /* rows (n, 14 + 3 rest) float32, all finite → kParts streams */                                                      \
    void encode(const float *rows, size_t n, int rest, const Steps &steps, Bytes *parts);                                \
    /* false if the streams are damaged */                                                                               \
    bool decode(const uint8_t *const *data, const size_t *sizes, size_t n, int rest, const Steps &steps, float *rows);
namespace scalar {
COMPAND_SPLAT_FUNCTIONS
}
namespace avx2 {
COMPAND_SPLAT_FUNCTIONS
}
namespace avx512 {
COMPAND_SPLAT_FUNCTIONS
}
#undef COMPAND_SPLAT_FUNCTIONS


// Whether p comes before q along the Morton curve: the axis of the highest bit that differs decides (Chan 2002), x first.
template <class T> inline bool before(const T *p, const T *q) {
    int axis = 0;
    T top = 0;
    for (int a = 0; a < 3; ++a) {
        const T d = p[a] ^ q[a];
        if (top < d && top < (top ^ d)) axis = a, top = d;
    }
    return p[axis] < q[axis];
}

// order[i]: row that stands i-th along the Morton curve around the origin, which is the order of the tree; positions (n, 3), finite.
void morton_order(const float *positions, size_t n, int64_t *order);

}  // namespace compand::splat

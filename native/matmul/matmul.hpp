// Products of activations with weights that stay codes. Activations are int8 with a scale for each block of columns; sums of a
// block are exact integers, so every level of instructions and number of threads gives the same bits.
#pragma once
#include <cstddef>
#include <cstdint>

namespace compand::matmul {

constexpr size_t kChunk = 64;     // columns of a block of `Rows`
constexpr size_t kNear = 3072;    // bytes that one stream is asked for, into the first cache, before they are used: its own prefetcher does the rest
constexpr size_t kAhead = 16384;  // bytes that streams side by side are asked for, into the second cache, before they are used
constexpr size_t kStrip = 16;     // rows of a strip of a trellis, see compand/quantizer/trellis.py
inline size_t tile_of(size_t left) { return left >= 16 ? 16 : left >= 4 ? 4 : 1; }  // lines of activations that `strips` takes together
constexpr size_t kAlone = 2048;   // columns of a job that prepares few lines, a multiple of 512
inline size_t pairs_of(size_t block) { return (block / 2 + 1) / 2 * 2; }           // pairs of columns of a block, an even number

// Rows of packed ids (low bits first, each row begins on a byte): weight = (level of id - offset + zero) * scale of its group.
struct Rows {
    const uint8_t *bytes;
    size_t row_bytes, d;
    int bits;              // 1..8
    const uint8_t *levels; // null: level = id; else 2^bits bytes
    const uint8_t *high;   // null, or 2^bits bytes: level = 128 * high + levels
    const uint16_t *brain; // (n, groups) bfloat16 scales, or
    const float *scale;    // (n, groups)
    const float *zero;     // (n, groups) or null
    size_t groups, group;  // a group is 16 or 32 columns, or a multiple of 64
};
inline size_t ways_of(int bits) { return bits == 4 ? 2 : bits == 2 ? 4 : bits == 1 ? 8 : 1; }  // ids of a byte that are used as they lie
constexpr size_t kMany = 4;       // lines from which on rows are laid out for many
// One line of activations for `Rows`: blocks of 64 columns, zeros behind the last, up to a multiple of 512 columns.
struct Line {
    const int8_t *q;
    const int8_t *spread; // of each 64 * ways columns those of each way: columns 0, ways, 2 * ways...; of 8 ways the bits 0, 1, ... 7
                          // of all 512 columns; for fewer than kMany lines
    const float *scale;   // (blocks)
    const int32_t *start; // (blocks, 4): -offset * sums
    const int32_t *sums;  // (blocks, 4): of each 16 columns
};

// Whole strips of 16 rows of a trellis code: weight = (sum of the bytes of window * factor, for each factor, less 255 each) * scale.
struct Strips {
    const uint8_t *bits;
    size_t d;
    int k;                    // bits of a value, 1..4
    const uint16_t *factors;  // one or two
    int many;
    const float *scale;       // (strips, groups, 16)
    size_t groups, group;     // group: a multiple of block
    size_t block;             // even
};
// One line of activations for `Strips`.
struct Pairs {
    const int8_t *q;      // blocks * block, zeros behind the last
    const int32_t *twice; // columns 2 i and 2 i + 1 as bytes a a b b, zero from d - d % 2 on; of a tile (blocks, pairs_of / 2, tile, 2),
                          // of sixteen (blocks, pairs_of, 16)
    const float *scale;   // (blocks)
    const int32_t *start; // (blocks): -255 * many * sum of q
};

constexpr size_t kSpan = 128, kSpanBytes = 192;  // columns of a row of `Ranked` that lie together, and their bytes
constexpr size_t kPair = 2;                      // rows whose spans lie in turn

// Rows of bfloat16 weights whose exponents are ranks in a table (see compand/quantizer/ranks.py), in the order in which they are read.
struct Ranked {
    const uint8_t *lines;      // (pairs of rows, spans, 2 rows, 192): 64 bytes of two ranks, of columns i (low bits) and 64 + i of the span, 15 being
                               // an escape; then 128 of sign and seven bits of mantissa. Zeros behind the last column and for a row that is not there
    const uint8_t *exponents;  // (16): of each rank, the first not 255, the last 0
    const uint8_t *escapes;    // the exponents of rank 15, row after row
    const uint32_t *start;     // (n + 1): the first escape of each row; there are as many as its ranks ask for
    size_t d;
};

// Rows of ids of words: piece j of a row is word id of its codebook, at column start[j] or j * dim; times the scale of its group.
struct Words {
    const uint8_t *bytes;
    size_t row_bytes, d, pieces;
    int bits;               // 1..20
    size_t dim;             // values of a word; what reaches beyond a piece or the row is written over or not used
    const float *book;      // (1 or pieces, 2^bits, dim), or
    const int8_t *small;    // the same
    size_t step;            // values from a piece's codebook to the next one's, 0: one codebook
    const uint32_t *start;  // (pieces) or null
    const float *scale;     // (n, groups) or null
    size_t group;
    int fraction;           // not 0: no codebook, ids of 8 bits are a sign, an exponent and so many bits of a fraction,
    float unit;             // which float32's exponent takes for 1 / unit times what they are
};

// The few values of each row that are not 0.
struct Cells {
    const int64_t *start;     // (n + 1): the first value of each row
    const uint32_t *columns;  // of each value, below d
    const float *values;
    size_t d;
};

#define COMPAND_MATMUL_FUNCTIONS                                                                                              \
    /* q (d up to a multiple of block) and scales such that x ~ q * scale / unit: scale = unit * max|x| / 127 of each block; */ \
    /* a block with NaN or infinity has the scale NaN, one below 1e-30 is zero */                                             \
    void quantize(const float *x, size_t d, size_t block, float unit, int8_t *q, float *scale);                               \
    /* sums of each 16 columns, up to d, and -offset times them */                                                            \
    void quarters(const int8_t *q, size_t d, int offset, int32_t *sums, int32_t *start);                                      \
    /* see Line; d: a multiple of 64 * ways */                                                                                \
    void spread(const int8_t *q, size_t d, size_t ways, int8_t *out);                                                         \
    /* see Pairs; of one line of a tile, `pairs` pairs of a block; gives the sum of q (block) */                              \
    int32_t pairs(const int8_t *q, size_t block, size_t pairs, size_t tile, int32_t *to);                                     \
    /* y[t * stride + r] for rows first to last and the lines t < count */                                                    \
    void rows(const Rows &w, size_t first, size_t last, const Line *lines, size_t count, float *y, size_t stride);            \
    /* y[t * stride + 16 * s + r] for strips first to last */                                                                 \
    void strips(const Strips &w, size_t first, size_t last, const Pairs *lines, size_t count, float *y, size_t stride);       \
    /* y[t * stride + r] = x (count, width >= d, zeros behind d) times rows first to last of float32 weights (n, d), in float32; */ \
    /* width: a multiple of 64 */                                                                                            \
    void plain(const float *w, size_t d, size_t first, size_t last, const float *x, size_t width, size_t count, float *y,      \
               size_t stride);                                                                                                \
    /* the same of bfloat16 weights and activations, as uint16 */                                                             \
    void brain(const uint16_t *w, size_t d, size_t first, size_t last, const uint16_t *x, size_t width, size_t count, float *y, \
               size_t stride);                                                                                                \
    /* the same of ranked weights, bit for bit what `brain` gives of their bfloat16 */                                        \
    void ranked(const Ranked &w, size_t first, size_t last, const uint16_t *x, size_t width, size_t count, float *y,          \
                size_t stride);                                                                                               \
    void ranked_row(const Ranked &w, size_t r, float *out); /* (d) */                                                         \
    /* the same of words, what `plain` gives of their values where groups have scales; one scale of a row comes last */       \
    void words(const Words &w, size_t first, size_t last, const float *x, size_t width, size_t count, float *y, size_t stride); \
    void words_row(const Words &w, size_t r, float *out); /* (d) */                                                           \
    /* y[t * stride + r]; x: fewer than kMany lines (count, d), more as tiles of 16 lines (tiles, d, 16), zeros behind the last */ \
    void cells(const Cells &w, size_t first, size_t last, const float *x, size_t count, float *y, size_t stride);
namespace scalar {
COMPAND_MATMUL_FUNCTIONS
}
namespace avx2 {
COMPAND_MATMUL_FUNCTIONS
}
namespace avx512 {
COMPAND_MATMUL_FUNCTIONS
}
#undef COMPAND_MATMUL_FUNCTIONS

}  // namespace compand::matmul

// Exhaustive search over codes whose score is a sum of table look-ups: score = gain * sum_g T_g[id_g] (+ shift * term).
//
// A query's float tables are rounded to small integers: S = sum_g weight_g * t_g[id_g], t in uint8, exact in int32. The scan
// ranks every vector by f = (float(S) + bias) * gain (+ shift * term), each operation rounded once, and keeps the best by
// (f falling, id rising). All of this is the same on every instruction set, however the work is split.
//
// Layout. Vectors lie in blocks of 64, padded with zeros.
//   4 bits: groups padded to a multiple of 8. For each 8 groups and each 16 vectors a line of 64 bytes: byte 4v+j holds the
//           ids of groups j (low nibble) and 4+j (high nibble) of vector v. One byte permute looks up 4 groups of 16 vectors.
//   6 bits: groups padded to a multiple of 2. For each group 48 bytes, 64 fields of 6 bits; field 2v is vector v, field 2v+1
//           is vector 32+v. One byte permute looks up one group of 64 vectors.
//   8 bits, codewords: groups padded to a multiple of 4, a line of 64 bytes for each: byte v is vector v.
//   8 bits, columns: padded to a multiple of 4, a line of 64 bytes for each 4 columns and each 16 vectors: byte 4v+j. The
//           table of a column is its id times a weight in -127..127.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace compand::scan {

inline constexpr size_t kBlock = 64;
inline constexpr size_t kQueries = 4;  // queries that share one pass over the codes
inline constexpr size_t kClasses = 3;  // 6 and 8 bits: runs of groups that share a weight, a power of two
inline constexpr size_t kMaxGroups = 4096;  // of codewords of 6 and 8 bits, whose sums are kept below 2^16, each has fewer steps if there are many

inline constexpr size_t kTurnRows = 48, kTurnLines = 2, kTurnDepth = 128;  // of turn_packed: rows of a call, lines of a panel, columns at once

inline size_t padded_groups(size_t groups, unsigned bits) {
    const size_t step = bits == 4 ? 8 : bits == 6 ? 2 : 4;
    return (groups + step - 1) / step * step;
}
inline size_t block_bytes(size_t groups, unsigned bits) { return padded_groups(groups, bits) * bits * kBlock / 8; }
inline size_t class_end(size_t groups, size_t c) {  // even, so that pairs of groups stay together
    return c == 0 ? groups / 8 / 2 * 2 : c == 1 ? groups / 3 / 2 * 2 : padded_groups(groups, 6);
}

inline size_t place_of(size_t v, unsigned bits) { return bits == 8 ? v / 2 + v % 2 * 32 : v; }  // of a vector among 16-bit words of a block

struct Hit {
    float score;
    uint32_t id;
};
inline constexpr auto better = [](const Hit &a, const Hit &b) { return a.score > b.score || (a.score == b.score && a.id < b.id); };

// The k best hits so far: few are kept in order, many are collected with room to spare before they are cut back. With `reach` only those
// among them of which the r-th best, r from 0, is at most reach[r] * unit worse than the best; reach (k) must not rise.
class Best {
public:
    void start(size_t k, const float *reach = nullptr, float unit = 0) {
        k_ = k, reach_ = reach, unit_ = unit;
        sorted_ = reach || k <= kSorted;
        hits_.resize(sorted_ ? k + 1 : 2 * k + 32);
        count_ = 0;
        threshold = -__builtin_inff();
    }
    void push(float score, uint32_t id) {
        if (!sorted_) {
            hits_[count_++] = {score, id};
            if (count_ == hits_.size()) cut();
            return;
        }
        const Hit hit{score, id};
        if (count_ == k_ && !better(hit, hits_[k_ - 1])) return;
        size_t at = count_ < k_ ? count_++ : k_ - 1;
        for (; at && better(hit, hits_[at - 1]); --at) hits_[at] = hits_[at - 1];
        hits_[at] = hit;
        if (count_ == k_) threshold = hits_[k_ - 1].score;
        if (reach_)  // what is too far behind now stays so
            while (count_ > 1 && hits_[0].score - hits_[count_ - 1].score > reach_[count_ - 1] * unit_) threshold = hits_[--count_].score;
    }
    void cut();  // keeps the k best, in no order
    float score_of(size_t rank) const { return sorted_ && rank <= count_ ? hits_[rank - 1].score : -__builtin_inff(); }  // rank from 1
    Hit *begin() { return hits_.data(); }
    size_t count() const { return count_; }

    float threshold;  // a vector must score as much as this, or more if ids rise

private:
    static constexpr size_t kSorted = 64;
    std::vector<Hit> hits_;
    size_t k_ = 0, count_ = 0;
    const float *reach_ = nullptr;
    float unit_ = 0;
    bool sorted_ = true;
};

// 8 bits: a search that looks at the first columns of most vectors only. A vector's coordinates are v_j = unit_j (id_j + zero).
// After `lead` columns, and again after `middle`, what the rest can add to a score is put at most at
//     |query's rest| * |v's rest| * h,  h = 1 (Cauchy, Schwarz), or h = margin + first / (|query's first| * typical), at least margin:
// the rest may agree with the query by `margin` more than the first columns do. A vector whose score and these bounds cannot pass the
// k-th best is skipped; the others are scored by integers in full, and if that with the error of rounding can pass, in float32.
// With h = 1 what is found is what float32 scores of all vectors would find. Otherwise what rounding changed is put at most at `margin`
// of its bound, too, and what is found is the best by the least of score and bounds, which are computed alike on every instruction
// set: so it does not depend on the order of the scan.
inline constexpr size_t kMiddle = 128;  // a multiple of 64
struct Bounds {
    const uint8_t *rows;  // (n, stride) ids
    size_t stride, n, columns, lead, middle;  // middle: lead + kMiddle, or 0 where there are not so many columns
    size_t fine;            // columns from here on say what the others have rounded off: of no vector more than most[3]
    const float *rest;    // (blocks * 64) |gain| * |v's rest|
    const float *far;     // the same of the rest after `middle`
    const uint8_t *nearer;  // (blocks * 64, kMiddle) the columns from `lead` to `middle`
    float most[4];        // the largest of |gain| * |v's first|, |gain|, |term| and |gain| * |v's fine columns|
    float zero;           // a multiple of 1/2
    float typical, margin;  // of |gain| * |v's first|; see above, 1: h = 1
};
struct Hope {             // what the rest may add to a sum s of first columns: |v's rest| * max(slope * s + least, least), in steps
    float slope, least;
};
struct Asked {            // of one query; lengths in steps, as units have it
    const float *query;   // (columns, padded with zeros to a multiple of 64)
    const int8_t *weights;  // the same, rounded
    int32_t first, middle, all;  // zero * sum of the weights of the first columns, of those up to `middle`, of all
    Hope rest, far;         // after the first columns, after `middle`
    float error, slack;     // of what rounding changed: for each |v|; of any vector's first columns, and its fine ones
    float step, inverse, factor;  // of scores; 1 / step; of the term, not in steps
};

struct Store {
    const uint8_t *codes;   // (blocks, block_bytes), readable 16 bytes past the end
    const float *gain;      // (blocks * 64)
    const float *term;      // the same, or null
    const float *inverse;   // (blocks) at most 1 / the largest gain of a block; 0 where gains are not all finite and >= 0, or there are terms
    const uint16_t *shares;  // codewords of 6 and 8 bits: (blocks * 64) the gain by the largest of the block in 65535ths, rounded up; see place_of
    const uint64_t *allow;  // (blocks) bits of vectors that may be found
    size_t groups;
    unsigned bits;
    bool coded;             // ids are of codewords; otherwise columns of numbers
    const Bounds *bounds = nullptr;
    size_t start = 0, length = 0, step = 0;  // with bounds: blocks are visited in the order start + i * step % length
    uint32_t origin = 0;    // id of the first vector; 0 with bounds
};

struct Query {
    const uint8_t *tables;   // 4 bits: (padded / 4, 4, 16); 6 bits: (padded, 64); 8 bits: (padded, 256), none of columns
    const int8_t *weights;   // (padded)
    int shift[kClasses];     // 6 and 8 bits: weight = 2^shift
    float bias, factor;      // of the sum, of the term
    Best *best;
    // with Store::bounds
    const Asked *asked = nullptr;
    float floor = -__builtin_inff();  // scores below it are not looked for
    float cut = 0;                    // what a bound must pass, in steps
    float base = 0;                   // added to every score; not with bounds
};

#define COMPAND_SCAN_FUNCTIONS                                                                                        \
    /* offers the vectors of blocks [first, last), with bounds of the order given, to all queries */                                                   \
    void scan(const Store &store, size_t first, size_t last, Query *queries, size_t count, size_t groups);            \
    /* out[i] = sum_j query[j] * (row ids[i] column j + zero) for m of n rows of `columns` bytes */                    \
    void sums_of(const float *query, const uint8_t *rows, size_t n, size_t columns, float zero, const int64_t *ids,   \
                 size_t m, float *out);                                                                               \
    /* |v| of one vector's columns, see Bounds; a little more, for roundings */                                       \
    float length(const uint8_t *row, const float *units, size_t columns, float zero);                                 \
    /* out[c] = sum_j x[j] * table[j * k + c], j ascending, products rounded */                                       \
    void products(const float *x, const float *table, size_t d, size_t k, float *out);                                \
    /* products of all groups with each of `count` x: of g the columns from starts[g] and values from offsets[g] on; */ \
    /* least and most of each group, or null */                                                                       \
    void products_of_groups(const float *const *x, size_t count, const float *values, const size_t *starts, const size_t *offsets, \
                            size_t groups, size_t k, float *const *out, float *const *least, float *const *most);      \
    /* largest |x[j]| */                                                                                              \
    float largest(const float *x, size_t n);                                                                          \
    /* out[j] = x[j] * scale, in [-127.5, 127.5], to the nearest integer, halves to even ones; returns their sum */    \
    int32_t round_columns(const float *x, size_t n, float scale, int8_t *out);                                        \
    /* out = (tables - least) * scale to the nearest integer, at most `most`, of all groups, each with its own; scale >= 0 */ \
    void round_groups(const float *tables, size_t groups, size_t k, const float *least, const float *scale, float most, uint8_t *out); \
    /* nearest of k codewords (table as above, half = |c|^2/2) to each of n rows: id of the largest x.c - half; */     \
    /* adds x.c of that codeword to dots */                                                                           \
    void nearest(const float *x, size_t n, size_t stride, const float *table, const float *half, size_t d, size_t k,  \
                 uint8_t *ids, size_t ids_stride, float *dots);                                                      \
    /* out (n, k), columns first to last: x (n, d) times matrix (d, k), j ascending, products rounded */                   \
    void turn(const float *x, size_t n, size_t d, const float *matrix, size_t k, size_t first, size_t last, float *out); \
    /* out (n, k), at most kTurnRows rows: (x - mean) times matrix, times scale; both may be null; otherwise as turn. The matrix in */ \
    /* panels of kTurnLines * 16 columns, each (d, columns), the last one padded with zeros */                          \
    void turn_packed(const float *x, size_t n, size_t d, const float *panels, size_t k, const float *mean, const float *scale, float *out); \
    /* out[i] = |row i|^2 of n rows of d values */                                                                     \
    void squares(const float *x, size_t n, size_t d, float *out);
namespace scalar {
COMPAND_SCAN_FUNCTIONS
}
namespace avx2 {
COMPAND_SCAN_FUNCTIONS
}
namespace avx512 {
COMPAND_SCAN_FUNCTIONS
}
#undef COMPAND_SCAN_FUNCTIONS

}  // namespace compand::scan

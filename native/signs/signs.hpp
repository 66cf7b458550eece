// Exhaustive search over rows of signs, asked by queries that are sums of signs, too:
//     score = sum_t gain_t * (sum_p weight_p * (bits - 2 * popcount(row_t ^ query_p)))  (+ factor * term)
// of a row's `terms` lines and a query's `planes` lines of `bits` signs each: t and p ascending, every operation rounded once. Signs
// against signs (symmetric): one plane for each term, weighed by the query's own gains. A query of numbers: planes of weights 2^p.
//
// Layout. Rows lie in blocks of 64, padded with zeros: for each term and each word of 32 signs a line of 64 words, one of each row.
#pragma once
#include <cstddef>
#include <cstdint>

#include "scan/scan.hpp"

namespace compand::signs {

using scan::kBlock;
inline constexpr size_t kMaxBits = 1 << 16, kMaxTerms = 16, kMaxPlanes = 32;
inline constexpr size_t kLines = 32;  // lines of queries that share one pass over a block: of one query, or of several

struct Store {
    const uint32_t *words;  // (blocks, terms, line words, 64)
    const float *gain;      // (blocks, terms, 64)
    const float *term;      // (blocks, 64), or null
    const uint64_t *allow;  // (blocks) bits of rows that may be found
    size_t terms, line;     // words of a line
    int32_t bits;
};

struct Query {
    const uint32_t *words;  // (planes, line words); the bits past the last sign are zero, as in rows
    const float *weights;   // (planes)
    float factor;
    scan::Best *best;
};

#define COMPAND_SIGNS_FUNCTIONS                                                                  \
    /* offers the rows of blocks [first, last) to queries of `planes` <= kLines lines each */    \
    void scan(const Store &store, size_t first, size_t last, Query *queries, size_t count, size_t planes);
namespace scalar {
COMPAND_SIGNS_FUNCTIONS
}
namespace avx2 {
COMPAND_SIGNS_FUNCTIONS
}
namespace avx512 {
COMPAND_SIGNS_FUNCTIONS
}
#undef COMPAND_SIGNS_FUNCTIONS

}  // namespace compand::signs

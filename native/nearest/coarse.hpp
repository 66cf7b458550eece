// A first sieve of int8 scores for nearest codewords (AVX-512 VNNI only; ids are the same without it).
//
// A centred codeword C is close to scale * q, q of int8, and |C - scale q| is known; so is a row's. For the scores of nearest.hpp
//   |X.C - X^.C^| <= |X - X^| |C| + |X^| |C - C^|,  |X^| <= |X| + |X - X^|
// by Cauchy-Schwarz, so a codeword whose int8 score plus that bound stays below best - 2 E (best: a float32 score already
// seen, E: `slack` in nearest.cpp, whose d + 8 roundings also cover the few of the int8 score) cannot win. The others get a
// float32 score; those within 2 E of the best make the shortlist, which float64 decides.
#pragma once
#include <cstddef>
#include <cstdint>

namespace compand::nearest {

inline constexpr size_t kCoarseLeast = 16, kCoarseMost = 1024;  // dimensions for which it pays

struct Coarse {
    // Groups of 64 as in nearest.hpp, but a lane's four codewords are consecutive: id = 64 group + 4 lane + block.
    const uint8_t *codewords;  // (groups, quads, 4, 16, 4): q + 128, dimensions in quads
    const float *scale;        // (groups, 4, 16)
    const float *minus_half;   // (groups, 4, 16)
    const float *norm, *rest;  // (groups, 16): upper bounds of |C| and |C - C^| over the lane's codewords
    size_t d, quads, groups;
    // for float32 scores
    const float *rows;         // (64 groups, d), not centred; rows past k are never winners but can be read
    const float *mean;         // (d,)
    const float *halves;       // (64 groups,): -|C|^2/2 by id
};

inline constexpr uint32_t kShort = 16;

// Codewords that may be nearest to one row: those seen whose float32 score is at least `least`.
struct Shortlist {
    float best, least;
    uint32_t count;  // above kShort: too many to list
    uint32_t ids[kShort];
    float scores[kShort];
};

#if COMPAND_X86
namespace avx512 {
// Shortlists of n <= 64 centred rows x (n, d) over groups [first, last); false: int8 does not separate these, nothing is known.
bool sieve(const Coarse &coarse, size_t first, size_t last, const float *x, const double *slacks, size_t n, Shortlist *lists);
}  // namespace avx512
#endif

}  // namespace compand::nearest

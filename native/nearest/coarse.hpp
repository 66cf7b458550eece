// A first sieve of int8 scores for nearest codewords (AVX-512 VNNI only; ids are the same without it).
//
// A centred codeword C is close to scale * q, q of int8, and |C - scale q| is known; so is a row's. For the scores of nearest.hpp
//   |X.C - X^.C^| <= |X - X^| |C| + |X^| |C - C^|,  |X^| <= |X| + |X - X^|
// by Cauchy-Schwarz, so a codeword whose int8 score plus that bound stays below best - 2 E (best: a float32 score already
// seen, or an int8 score less its bound; E: `slack` in nearest.cpp, whose d + 8 roundings also cover the few of the int8 score) cannot
// win. The others get a float32 score; those within 2 E of the best make the shortlist, which float64 decides.
//
// Codewords are sorted by their largest value, so that one scale and one bound suit all 64 of a group; eight rows (four for d > 8)
// share a scale too. So all scores of a group are int32 sums of products and of -|C|^2/2 in these units, and compare as they are.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "nearest/aligned.hpp"

namespace compand::nearest {

inline constexpr size_t kCoarseLeast = 4, kCoarseMost = 1024;  // dimensions for which it pays
inline constexpr size_t kSegment = 16;  // groups looked at together

// Codewords that can win, in groups of 64; the last group repeats one of its codewords to be full.
class Coarse {
public:
    Coarse() = default;
    // rows (k, d), mean (d,), halves (k,): -|C|^2/2, or -inf for a codeword that cannot win; some can, and all of those are finite
    Coarse(const float *rows, const float *mean, const float *halves, size_t k, size_t d);
    explicit operator bool() const { return groups > 0; }

    size_t d = 0, quads = 0, groups = 0;
    Aligned<uint8_t> codewords;  // (groups, quads, 4, 16, 4): q + 128, dimensions in quads; codeword 4 lane + block of a group
    Aligned<uint32_t> ids;       // (groups, 16, 4)
    Aligned<float> halves;       // (groups, 4, 16): -|C|^2/2 / scale
    // of a group, padded to whole segments: its scale, and upper bounds of |C| and |C - C^|
    Aligned<float> scale, norm, rest;
    struct Bounds {
        float scale = 0, norm = 0, rest = 0;
    };
    std::vector<Bounds> most;    // of a segment
    float finest = 0;            // scales of rows are not below this one, so that int32 holds every score
};

// What scores in float32 take: codewords (k, d), their mean (d,), -|C|^2/2 (k,), and an upper bound of |C|.
struct Words {
    const float *rows, *mean, *halves;
    double longest;
};

inline constexpr uint32_t kShort = 16;

// Codewords that may be nearest to one row: those seen whose float32 score is at least `least`, -inf for a row that is infinitely far.
struct Shortlist {
    float best, least, latest;
    uint32_t count;  // above kShort: too many to list
    uint32_t ids[kShort + 4];  // of which the first `count` hold
    float scores[kShort + 4];
};

#if COMPAND_X86
namespace avx512 {
// Shortlists of n <= 64 (16 for d > 128) rows of d values, `stride` apart, over groups [first, last), first the start of a segment; false:
// int8 does not separate these, nothing is known.
bool sieve(const Coarse &coarse, const Words &words, size_t first, size_t last, const float *x, size_t stride, size_t n, Shortlist *lists);
}  // namespace avx512
#endif

}  // namespace compand::nearest

// Nearest codeword by squared Euclidean distance, exact, without ever storing n x k distances.
//
// The answer is defined as argmin_i D_i, D_i = sum_j (x_j - c_ij)^2 in float64, j ascending, ties to the lowest id. A row
// with a NaN or an infinity is at infinite distance from every codeword, and such a codeword from every row; where all are
// infinite the id is 0. For d = 1 the answer is that of exact arithmetic.
//
// How: with X = x - mean, C = c - mean the kernel maximises X.C - |C|^2/2 in float32. Its rounding error is below a bound E
// (see `slack` in nearest.cpp), so the true winner scores at least best - 2E; the few codewords that do are compared
// in float64. Hence ids do not depend on the instruction set, the threads or how a batch is split.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "nearest/aligned.hpp"
#include "nearest/coarse.hpp"

namespace compand::nearest {

inline constexpr size_t kLanes = 16;   // codewords side by side in a block
inline constexpr size_t kBlocks = 4;   // blocks in a group: a lane remembers the group of its best score
inline constexpr size_t kGroup = kLanes * kBlocks;

// What one query remembers, a lane apart: best score, its group, and the best score of any other group.
struct alignas(64) State {
    float best[kLanes];
    float second[kLanes];
    int32_t group[kLanes];
};

struct Packed {
    const float *codewords;  // (groups, 4, d, 16), centred
    const float *minus_half;  // (groups, 4, 16): -|C|^2/2, or -inf for a codeword that cannot win
    size_t d, groups;
};

#define COMPAND_NEAREST_FUNCTIONS                                                                                     \
    /* merges groups [first, last) into the states of n centred queries (n, d) */                                     \
    void scan(const Packed &packed, size_t first, size_t last, const float *x, size_t n, State *states);             \
    /* of each state: the score candidates need (best - 2 slack, rounded down), lanes whose best reaches it, and whether */ \
    /* a second does; slack infinite: no matter */                                                                    \
    void judge(const State *states, const double *slacks, size_t n, float *least, uint32_t *near, uint32_t *crowded); \
    /* writes the ids whose score is at least `least`, ascending, and returns how many (up to groups * 64) */         \
    size_t collect(const Packed &packed, const float *x, float least, uint32_t *ids);                                \
    /* place[i] = number of the 2^depth - 1 ascending thresholds that are <= x[i * stride]; 2^depth if x not finite */ \
    void place(const float *thresholds, unsigned depth, const float *x, size_t stride, size_t n, uint32_t *place);
namespace scalar {
COMPAND_NEAREST_FUNCTIONS
}
namespace avx2 {
COMPAND_NEAREST_FUNCTIONS
}
namespace avx512 {
COMPAND_NEAREST_FUNCTIONS
}
#undef COMPAND_NEAREST_FUNCTIONS

// For how many tiles the int8 sieve is not tried after it failed: 1, 3, 7, ... up to 63, none once it succeeds. Threads may share it.
struct Patience {
    std::atomic<size_t> left{0}, penalty{0};
};

// A codebook prepared for search.
class Index {
public:
    Index(const float *codebook, size_t k, size_t d, bool many);  // k from 1 to 2^31 - 64, d >= 1; many: rows enough for int8
    size_t k() const { return k_; }
    size_t d() const { return d_; }

    // ids of rows x + i * stride, i < n; distances (may be null) get D rounded to float32.
    void search(const float *x, size_t stride, size_t n, uint32_t *ids, float *distances, Patience &patience) const;
    bool prefers_split(size_t n) const;  // few rows, many codewords: share the codewords among the threads
    void search_split(const float *x, size_t stride, size_t n, uint32_t *ids, float *distances) const;
    size_t tile() const { return sieves() ? 8 : tile_; }  // rows of a task are a multiple of it
    size_t least_work() const { return size_t{1} << (sieves() ? 19 : 18); }  // multiplications that take some microseconds

private:
    void centre(const float *x, size_t stride, size_t n, float *out, double *slack) const;
    void finish(const float *x, size_t stride, size_t n, const float *centred, const double *slack, const State *states,
                uint32_t *ids, float *distances) const;
    bool sieve_split(const float *x, size_t stride, size_t n, uint32_t *ids, float *distances) const;
    void shortlisted(const float *x, size_t stride, size_t n, const Shortlist *lists, uint32_t *ids, float *distances) const;
    bool sieves() const;
    Words words() const { return {rows_.data(), mean_.data(), minus_half_.data(), longest_}; }
    void search_line(const float *x, size_t stride, size_t n, uint32_t *ids, float *distances) const;

    size_t k_, d_, groups_, tile_;
    std::vector<float> rows_, mean_;
    Aligned<float> codewords_, minus_half_;
    Coarse coarse_;
    double longest_ = 0;      // upper bound of |C|
    bool any_ = false;        // some codeword is finite
    std::vector<float> thresholds_;  // d = 1
    std::vector<uint32_t> order_;
    unsigned depth_ = 0;
};

}  // namespace compand::nearest

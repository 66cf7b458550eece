// Activations, line by line; those that stay floating-point numbers.
#pragma once
#include <algorithm>
#include <bit>
#include <cstring>
#include <vector>

#include "lanes.hpp"
#include "matmul/matmul.hpp"
#include "matmul/matrix.hpp"
#include "threads.hpp"

namespace compand::matmul {

inline float widen(uint16_t brain) { return std::bit_cast<float>(static_cast<uint32_t>(brain) << 16); }

inline size_t ceil(size_t a, size_t b) { return a / b + (a % b != 0); }

// Calls f(t, from, to) for each of m lines of `width` columns: whole lines, or of few lines pieces, whose bits are the same.
template <class F> void pieces(size_t m, size_t width, size_t piece, const F &f) {
    if (m >= kMany) piece = width;
    const size_t each = ceil(width, piece);
    parallel_for(m * each, [&](size_t i) { f(i / each, i % each * piece, std::min(width, (i % each + 1) * piece)); });
}

// Lines of activations as they are, or rounded to bfloat16, with zeros behind them.
template <class T> struct Padded : Prepared {
    size_t m, width;
    std::vector<T> x;

    Padded(const float *from, size_t m, size_t d) : m(m), width(ceil(d, 64) * 64), x(m * width) {
        pieces(m, d, kAlone, [&](size_t t, size_t begin, size_t end) {
            if constexpr (sizeof(T) == 4) std::memcpy(x.data() + t * width + begin, from + t * d + begin, (end - begin) * sizeof(float));
            else
                for (size_t c = begin; c < end; ++c) x[t * width + c] = lanes::narrow(from[t * d + c]);
        });
    }
};

}  // namespace compand::matmul

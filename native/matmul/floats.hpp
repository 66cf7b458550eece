// Activations that stay floating-point numbers.
#pragma once
#include <algorithm>
#include <cstring>
#include <vector>

#include "lanes.hpp"
#include "matmul/matrix.hpp"
#include "threads.hpp"

namespace compand::matmul {

inline size_t ceil(size_t a, size_t b) { return a / b + (a % b != 0); }

// Lines of activations as they are, or rounded to bfloat16, with zeros behind them.
template <class T> struct Padded : Prepared {
    size_t m, width;
    std::vector<T> x;

    Padded(const float *from, size_t m, size_t d) : m(m), width(ceil(d, 64) * 64), x(m * width) {
        parallel_for(ceil(m, 4), [&](size_t i) {
            for (size_t t = 4 * i; t < std::min(m, 4 * i + 4); ++t) {
                if constexpr (sizeof(T) == 4) std::memcpy(x.data() + t * width, from + t * d, d * sizeof(float));
                else
                    for (size_t c = 0; c < d; ++c) x[t * width + c] = lanes::narrow(from[t * d + c]);
            }
        });
    }
};

}  // namespace compand::matmul

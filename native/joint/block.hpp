// Whole blocks of joint planes: the window of exponents is found, pieces are shared by threads, escapes put together.
#pragma once
#include <vector>

#include "joint/joint.hpp"

namespace compand::joint {

// n words (uint16_t, uint32_t) to planes with room for n symbols and (n + 1) / 2 nibbles and tops; the escapes go to a vector.
// Returns the low end of the window, -1 without one.
template <class T> int split_block(const T *words, size_t n, const Planes &to, std::vector<uint8_t> &escapes);

// The inverse; false, with words untouched, if the escapes are not as many as the symbols say. -1 <= low <= 255.
template <class T> bool merge_block(const Planes &from, size_t n, int low, const uint8_t *escapes, size_t escape_count, T *words);

}  // namespace compand::joint

// Whole blocks of byte planes, pieces shared by threads.
#pragma once
#include <algorithm>

#include "isa.hpp"
#include "planes/planes.hpp"
#include "threads.hpp"

namespace compand::planes {

constexpr size_t kPiece = size_t{1} << 14;  // words at a time: planes and words stay in the first caches

// n words of 2, 4 or 8 bytes to as many planes of n bytes.
template <class T> void split_block(const T *words, size_t n, Turn turn, uint8_t *const *planes) {
    parallel_for((n + kPiece - 1) / kPiece, [=](size_t i) {
        const size_t at = i * kPiece;
        uint8_t *to[sizeof(T)];
        for (size_t p = 0; p < sizeof(T); ++p) to[p] = planes[p] + at;
        COMPAND_DISPATCH(split, words + at, std::min(kPiece, n - at), turn, to);
    });
}

template <class T> void merge_block(const uint8_t *const *planes, size_t n, Turn turn, T *words) {
    parallel_for((n + kPiece - 1) / kPiece, [=](size_t i) {
        const size_t at = i * kPiece;
        const uint8_t *from[sizeof(T)];
        for (size_t p = 0; p < sizeof(T); ++p) from[p] = planes[p] + at;
        COMPAND_DISPATCH(merge, from, std::min(kPiece, n - at), turn, words + at);
    });
}

}  // namespace compand::planes

#include "joint/block.hpp"

#include <algorithm>

#include "isa.hpp"
#include "threads.hpp"

namespace compand::joint {
namespace {

constexpr size_t kSample = 1 << 14;  // words looked at to place the window

// The low end of the window of exponents that holds most of a sample of the words; -1 if it leaves out more than 1 of 256.
template <class T> int find_window(const T *words, size_t n) {
    constexpr int M = sizeof(T) == 2 ? 7 : 23;
    uint32_t count[256 + kRanks] = {};
    const size_t step = n / kSample + 1;
    uint32_t total = 0, best = 0, inside = 0;
    for (size_t i = 0; i < n; i += step, ++total) ++count[words[i] >> M & 255];
    const uint32_t zeros = count[0];
    count[0] = 0;
    int low = 0;
    for (int e = 0; e < 256; ++e) {
        inside += count[e];
        if (e >= kRanks) inside -= count[e - kRanks];
        if (inside > best) best = inside, low = std::max(0, e - kRanks + 1);
    }
    return (total - best - zeros) > total / 256 ? -1 : low;
}

// The planes from word `at` (even) on.
Planes from_word(const Planes &p, size_t at) {
    const auto past = [at](uint8_t *plane) { return plane ? plane + at : nullptr; };
    return {p.symbol + at, {past(p.middle[0]), past(p.middle[1])}, p.nibble + at / 2, p.top + at / 2};
}

}  // namespace

template <class T> int split_block(const T *words, size_t n, const Planes &to, std::vector<uint8_t> &escapes) {
    const size_t pieces = (n + kPiece - 1) / kPiece;
    std::vector<std::vector<uint8_t>> own(pieces);
    int low = find_window(words, n);
    const auto run = [&] {
        parallel_for(pieces, [&](size_t i) {
            const size_t at = i * kPiece;
            uint8_t found[kPiece];
            const size_t k = COMPAND_DISPATCH(split, words + at, std::min(kPiece, n - at), low, from_word(to, at), found);
            own[i].assign(found, found + k);
        });
    };
    run();
    size_t found = 0;
    for (const auto &e : own) found += e.size();
    if (found > n / 256 + 16) {
        low = -1;
        run();
    }
    escapes.clear();
    for (const auto &e : own) escapes.insert(escapes.end(), e.begin(), e.end());
    return low;
}

template <class T> bool merge_block(const Planes &from, size_t n, int low, const uint8_t *escapes, size_t escape_count, T *words) {
    const size_t pieces = (n + kPiece - 1) / kPiece;
    std::vector<size_t> start(pieces + 1);
    if (low >= 0) {
        parallel_for(pieces, [&](size_t i) {
            const size_t at = i * kPiece;
            start[i + 1] = COMPAND_DISPATCH(count_escapes, from.symbol + at, std::min(kPiece, n - at));
        });
        for (size_t i = 0; i < pieces; ++i) start[i + 1] += start[i];
    }
    if (start[pieces] != escape_count) return false;
    parallel_for(pieces, [&](size_t i) {
        const size_t at = i * kPiece;
        COMPAND_DISPATCH(merge, from_word(from, at), std::min(kPiece, n - at), low, escapes + start[i], words + at);
    });
    return true;
}

template int split_block(const uint16_t *, size_t, const Planes &, std::vector<uint8_t> &);
template int split_block(const uint32_t *, size_t, const Planes &, std::vector<uint8_t> &);
template bool merge_block(const Planes &, size_t, int, const uint8_t *, size_t, uint16_t *);
template bool merge_block(const Planes &, size_t, int, const uint8_t *, size_t, uint32_t *);

}  // namespace compand::joint

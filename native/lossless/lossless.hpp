// Values without loss in one step: words to planes (joint.hpp, planes.hpp) to static streams (rans/static.hpp) and back. The same
// bytes as plane after plane through Python, but planes stay in buffers of the thread, bytes kept raw are read where they lie, and
// words are written where they belong.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace compand::lossless {

enum class Way : int { none = 0, rotate = 1, zigzag = 2, joint = 3 };  // how words are cut into planes; joint: of 2 or 4 bytes

constexpr size_t kMostPlanes = 8;

struct Stream {
    const uint8_t *data;
    size_t size;
};

// Planes of words of so many bytes, in the order of their streams: most significant first; joint: symbol, middles, nibbles, tops.
// 0 where there is no such way.
size_t plane_count(Way way, size_t word_bytes);

// words: n of `word_bytes` bytes, aligned. One stream a plane; of joint planes the window, too: whether there is one, its low end,
// the escaped exponents.
void encode(Way way, size_t word_bytes, const void *words, size_t n, std::vector<std::vector<uint8_t>> &streams, std::vector<uint8_t> &window);

enum class Fault : int { none = 0, stream = 1, window = 2, escapes = 3 };
Fault decode(Way way, size_t word_bytes, const Stream *streams, const Stream &window, void *words, size_t n);

}  // namespace compand::lossless

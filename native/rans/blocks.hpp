// A stream's division into blocks that threads code side by side; see static.hpp for the bytes.
#pragma once
#include <algorithm>
#include <vector>

#include "bits.hpp"
#include "threads.hpp"

namespace compand::rans {

struct Block {
    const uint8_t *data;
    size_t size, escape_from, escapes;
};

// The coded bytes of each block. Up to 16 MiB of buffers stay with the thread for its next stream: touching new memory would
// cost more than the coding.
class Coded : public std::vector<Bytes> {
public:
    explicit Coded(size_t count);
    ~Coded();
    Coded(const Coded &) = delete;
};

void put_blocks(Bytes &out, size_t block, const std::vector<Bytes> &coded, const std::vector<Bytes> *escapes);
// each: most escapes (or bytes of them) for one symbol
bool take_blocks(Reader &in, size_t n, bool escaped, size_t &block, std::vector<Block> &blocks, size_t each = 1);

// Runs body(block, first, count) for each block; threads share them.
template <class Body> void each_block(size_t n, size_t block, Body &&body) {
    parallel_for((n + block - 1) / block, [&](size_t b) { body(b, b * block, std::min(block, n - b * block)); });
}

// Symbols of one block, so that threads can share a long stream and blocks cost little: about 1.6 MiB coded, or 2^24 symbols.
size_t block_symbols(size_t n, double bits);

// Whether 64 lanes pay for n symbols of about this many bits.
inline bool wide_lanes(size_t n, double bits) { return n >= 4096 && (bits > 8 * 1024 || n >= (1u << 17)); }

}  // namespace compand::rans

// Streams whose probabilities the caller gives, block by block: rows of k + 1 cumulative frequencies, from 0 to 2^p.
//
//   p u8, n varint, lanes (lanes.hpp)
#pragma once
#include <memory>

#include "bits.hpp"
#include "lanes.hpp"

namespace compand::rans {

enum class Row { good, bad_table, bad_id, ended };

// steps of m ids under their rows; bad_id also if an id has frequency 0. *at is the first row at fault.
Row given_steps(const uint32_t *cdf, const uint32_t *ids, size_t m, size_t k, int p, uint32_t *steps, size_t *at);
Bytes encode_given(const uint32_t *steps, size_t n, int p);

class GivenReader {
public:
    // Keeps a copy of the bytes. valid() tells whether they start as such a stream does.
    GivenReader(const uint8_t *data, size_t size);
    bool valid() const { return valid_; }
    int p() const { return p_; }
    size_t left() const { return lanes_.n() - lanes_.done(); }
    Row decode(const uint32_t *cdf, uint32_t *ids, size_t m, size_t k, size_t *at);
    bool finish() { return !lanes_.bad() && lanes_.finish(); }

private:
    Bytes data_;
    LaneReader lanes_;
    int p_ = 0;
    bool valid_ = false;
};

}  // namespace compand::rans

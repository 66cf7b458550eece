// Rows of float32 without loss, foretold by rows nearby that are already decoded. Integers only.
//
// The first `axes` columns are coordinates; each is foretold by the row before. Any other value is foretold by the mean of the
// kNearest rows before it (of kWindow) that lie closest, each weighted by how well it foretold the columns before, and corrected by
// what the last kBack columns were off, with weights fitted by the writer. Rows equal to the row before are one decision, and
// whether a value is zero is one of its own.
//
// A column is whole numbers v: `tails`: |x| in steps of its greatest value / 2^24, rounded down, and the mantissa bits below (raw); `grid`:
// x is v steps exactly; `table`: x is the v-th of few values. v minus what was foretold is coded as its length in bits, foretold
// in turn from how far apart the neighbours are and how far off the columns before were (logistic mixing), its sign and three more
// bits (adaptive), and the rest as it is.
#pragma once
#include <cstddef>
#include <cstdint>

#include "rans/bits.hpp"

namespace compand::neighbours {

using rans::Bytes;

constexpr size_t kNearest = 32, kBack = 24, kWindow = 8192;

// words (n, d): bits of float32 → columns (how each is written), coded (adaptive decisions), raw (bits as they are)
void encode(const uint32_t *words, size_t n, size_t d, size_t axes, Bytes &columns, Bytes &coded, Bytes &raw);
// false if the streams are damaged
bool decode(const Bytes &columns, const Bytes &coded, const Bytes &raw, size_t n, size_t d, size_t axes, uint32_t *words);

}  // namespace compand::neighbours

// Adaptive coding of ids by binary decisions, most significant bit first, each predicted by a logistic mixture of contexts:
// order 0, 1, 2, the id above, left with above, and the column. Integers only; nothing but n is stored besides the bits.
//
// Mattern 2013 (mixing), Mahoney's lpaq (the shape of the predictor). One thread, some 50 ns a bit.
#pragma once
#include "bits.hpp"

namespace compand::rans {

// width: ids of one row (0: no rows, so no "above" and no column).
template <class Id> Bytes encode_mixed(const Id *ids, size_t n, uint32_t k, size_t width);
template <class Id> bool decode_mixed(const uint8_t *data, size_t size, Id *ids, size_t n, uint32_t k, size_t width);

}  // namespace compand::rans

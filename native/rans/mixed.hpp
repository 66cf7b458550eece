// Adaptive coding of ids by mixtures of contexts: order 0, 1, 2, the id above, left with above, and the column. Integers only;
// nothing but n is stored besides the symbols.
//
//   n varint, bits                                below 4,096 ids: binary decisions, most significant first, logistic mixing
//   0 u8, n varint, 4 states u32, words u16       nibbles.hpp: nibbles, linear mixing, coded by rANS
//
// Streams of the first kind are read for any n. Mattern 2013 (mixing), Mahoney's lpaq (the shape of the first predictor).
#pragma once
#include "bits.hpp"

namespace compand::rans {

// width: ids of one row (0: no rows, so no "above" and no column).
template <class Id> Bytes encode_mixed(const Id *ids, size_t n, uint32_t k, size_t width);
template <class Id> bool decode_mixed(const uint8_t *data, size_t size, Id *ids, size_t n, uint32_t k, size_t width);

}  // namespace compand::rans

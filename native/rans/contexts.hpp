// Order-1 streams: the table of an id is chosen by its context, which is the id before it or given by the caller.
//
//   kind u8: 0 = a static stream follows; else
//   n varint, tables varint, sized(static stream: table of each context), m varint, sized(frequencies of all tables), BLOCKS
//
// Contexts share at most 64 tables, made by clustering, so rare contexts cost little and the tables stay in cache. In kind 1
// (previous id) each lane codes a stretch of its own; a lane's first id has context 0. In kind 2 contexts are given.
#pragma once
#include "bits.hpp"

namespace compand::rans {

// which: contexts of the ids, below c; null: the id before (c = 256). Returns false if a context is not below c.
bool encode_order1(const uint8_t *ids, size_t n, const uint16_t *which, size_t c, Bytes &out);
bool decode_order1_ids(const uint8_t *data, size_t size, uint8_t *ids, size_t n, uint32_t k, const uint16_t *which, size_t c);

}  // namespace compand::rans

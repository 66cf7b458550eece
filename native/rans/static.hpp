// Static order-0 streams: one table for the whole stream, made from the data.
//
//   mode u8, n varint, then
//   raw       bits of an id u8, ids packed from the low bit
//   constant  id varint
//   small     p u8, MODEL      at most 16 symbols; tables in registers
//   narrow    p = 12, MODEL    bytes
//   spread    p = 12, MODEL    the same with symbols in the order of spread.hpp: long streams, where that order exists
//   large     m varint, sized(static stream: group of each id < m, 0 = unused), frequencies of groups 1.., BLOCKS
//   MODEL   = mark + 1 varint (0: none), m varint, sized(frequencies of ids < m), [sized(static stream of escaped ids)], BLOCKS
//   BLOCKS  = symbols of a block varint, {bytes varint, [escapes varint]} of each, then their bytes (lanes.hpp)
//
// small, narrow, spread: ids too rare for the table share the frequency of one of them, the mark, and follow in a stream of their
// own. large: ids of like frequency form groups of up to 2^j; the group is coded by a table, the place in it by j raw bits.
#pragma once
#include "bits.hpp"
#include "model.hpp"

namespace compand::rans {

// Id: uint8_t, uint16_t. `given`: counts to make the table from instead of those of the ids, above 0 for every id that occurs.
template <class Id> Bytes encode_static(const Id *ids, size_t n, int depth = 0, const Counts *given = nullptr);
template <class Id> bool decode_static(const uint8_t *data, size_t size, Id *ids, size_t n, uint32_t k, int depth = 0);

// An id that no id is above, all their bits together: a maximum takes the generic instructions many times as long.
template <class Id> Id some_above(const Id *ids, size_t n);

// The n ids of a raw stream of bytes, where they lie; nullptr for any other stream.
const uint8_t *raw_bytes(const uint8_t *data, size_t size, size_t n);

}  // namespace compand::rans

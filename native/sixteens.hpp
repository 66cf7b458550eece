// Rows of any length in sixteens of floats: the last of a row may have fewer.
#pragma once
#include "lanes.hpp"

namespace compand::lanes {

// f(i, count) for each 16 elements; the last have fewer.
template <class G> COMPAND_INLINE void sixteens(size_t d, const G &f) {
    size_t i = 0;
    for (; i + kLanes <= d; i += kLanes) f(i, kLanes);
    if (i < d) f(i, d - i);
}
COMPAND_INLINE F some(const float *from, size_t count) {
    if (count == kLanes) return load<F>(from);
    float room[kLanes] = {};
    std::memcpy(room, from, count * sizeof(float));
    return load<F>(room);
}
COMPAND_INLINE void put(float *to, const F &v, size_t count) {
    if (count == kLanes) return store(to, v);
    float room[kLanes];
    store(room, v);
    std::memcpy(to, room, count * sizeof(float));
}

}  // namespace compand::lanes

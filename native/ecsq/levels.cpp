#include "ecsq/ecsq.hpp"

#include "threads.hpp"

namespace compand::ecsq {
namespace {

template <class T> uint32_t one_class(const T *ids, size_t width, int reach, uint32_t state, int16_t *out) {
    for (size_t j = 0; j < width; ++j) {
        const uint32_t odd = 0 - (state & 1);
        const uint32_t v = (2 * (static_cast<uint32_t>(ids[j]) - static_cast<uint32_t>(reach))) ^ odd;
        state = state >> 1 ^ (odd & 18) ^ ((0 - (v >> 1 & 1)) & 8);
        out[j] = static_cast<int16_t>(static_cast<int32_t>(v));
    }
    return state;
}

}  // namespace

void levels(const Class *classes, size_t count, size_t n, size_t d, int16_t *out) {
    constexpr size_t rows = 256;
    parallel_for((n + rows - 1) / rows, [&](size_t task) {
        for (size_t i = task * rows; i < n && i < (task + 1) * rows; ++i) {
            uint32_t state = 0;
            for (size_t c = 0; c < count; ++c) {
                const Class &own = classes[c];
                const size_t width = own.last - own.first;
                int16_t *to = out + i * d + own.first;
                if (own.reach <= 128) state = one_class(static_cast<const uint8_t *>(own.ids) + i * width, width, own.reach, state, to);
                else state = one_class(static_cast<const uint16_t *>(own.ids) + i * width, width, own.reach, state, to);
            }
        }
    });
}

}  // namespace compand::ecsq

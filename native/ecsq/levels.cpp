#include "ecsq/ecsq.hpp"

#include <vector>

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

void one_row(const Class *classes, size_t count, size_t i, int16_t *out) {
    uint32_t state = 0;
    for (size_t c = 0; c < count; ++c) {
        const Class &own = classes[c];
        const size_t width = own.last - own.first;
        int16_t *to = out + own.first;
        if (own.reach <= 128) state = one_class(static_cast<const uint8_t *>(own.ids) + i * width, width, own.reach, state, to);
        else state = one_class(static_cast<const uint16_t *>(own.ids) + i * width, width, own.reach, state, to);
    }
}

constexpr size_t kRows = 256;  // of a task

}  // namespace

void levels(const Class *classes, size_t count, size_t n, size_t d, int16_t *out) {
    parallel_for((n + kRows - 1) / kRows, [&](size_t task) {
        for (size_t i = task * kRows; i < n && i < (task + 1) * kRows; ++i) one_row(classes, count, i, out + i * d);
    });
}

void values(const Class *classes, size_t count, size_t n, size_t d, const float *factors, float *out) {
    parallel_for((n + kRows - 1) / kRows, [&](size_t task) {
        std::vector<int16_t> v(d);
        for (size_t i = task * kRows; i < n && i < (task + 1) * kRows; ++i) {
            one_row(classes, count, i, v.data());
            for (size_t j = 0; j < d; ++j) out[i * d + j] = (static_cast<float>(v[j]) + 0.5f) * factors[j];
        }
    });
}

}  // namespace compand::ecsq

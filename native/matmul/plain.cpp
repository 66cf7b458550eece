#include <cstring>

#include "isa.hpp"
#include "matmul/floats.hpp"
#include "matmul/weights.hpp"

namespace compand::matmul {

std::unique_ptr<Prepared> Plain::prepare(const float *x, size_t m) const {
    if (wide_) return std::make_unique<Padded<float>>(x, m, d);
    return std::make_unique<Padded<uint16_t>>(x, m, d);
}

bool Plain::shares(const Matrix &other) const {
    if (other.d != d) return false;
    const Plain *o = dynamic_cast<const Plain *>(&other);
    return o ? bool(o->wide_) == bool(wide_) : !wide_ && dynamic_cast<const Ranks *>(&other);
}

void Plain::range(size_t first, size_t last, const Prepared &x, float *y, size_t stride) const {
    if (wide_) {
        const auto &a = static_cast<const Padded<float> &>(x);
        COMPAND_DISPATCH(plain, wide_->data(), d, first, last, a.x.data(), a.width, a.m, y, stride);
    } else {
        const auto &a = static_cast<const Padded<uint16_t> &>(x);
        COMPAND_DISPATCH(brain, brain_->data(), d, first, last, a.x.data(), a.width, a.m, y, stride);
    }
}

void Plain::row(size_t i, float *out) const {
    if (wide_) std::memcpy(out, wide_->data() + i * d, d * sizeof(float));
    else
        for (size_t c = 0; c < d; ++c) out[c] = widen(brain_->data()[i * d + c]);
}

}  // namespace compand::matmul

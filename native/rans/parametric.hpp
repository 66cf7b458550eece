// Integers coded by a model of their own each: family, mean in 1/16 units, scale index i (scale 2^((i - 20) / 6), 0..63).
//
//   version u8, family u8, n varint, sized(escapes), BLOCKS {bytes, escapes' bytes}
//
// The probability of x is the mass of [x - 1/2, x + 1/2]; scale is sigma, b or s of the Gaussian, Laplace, logistic. Scales
// above 16 code x >> j by a scale of 16 or less, and j raw bits. Values outside a table (mass < 2^-15 each) are escapes:
// zigzag varints of the distance from the mean's floor. Tables hold 2^14 slots and come from curves.inc by integer steps.
#pragma once
#include "bits.hpp"

namespace compand::rans {

constexpr int kFamilies = 3, kScales = 64;
int curves_version();
// One frequency table as {first bin, frequencies..., escape frequency}, for tests. fraction in 1/16.
std::vector<int32_t> curve(int family, int scale, int fraction);

void encode_parametric(const int32_t *x, const int32_t *mean, const uint8_t *scale, size_t n, int family, Bytes &out);
bool decode_parametric(const uint8_t *data, size_t size, int32_t *x, const int32_t *mean, const uint8_t *scale, size_t n, int family);

}  // namespace compand::rans

#define ISA scalar
#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "convolution/convolution.hpp"

namespace compand::convolution::ISA {
namespace {
#include "convolution/level_scalar.hpp"
}  // namespace
}  // namespace compand::convolution::ISA

#include "convolution/convolution_impl.hpp"

#if COMPAND_X86
#define ISA avx2
#include <algorithm>
#include <array>
#include <cstring>
#include <utility>
#include <immintrin.h>

#include "convolution/convolution.hpp"

namespace compand::convolution::ISA {
namespace {
#include "convolution/level_avx2.hpp"
}  // namespace
}  // namespace compand::convolution::ISA

#include "convolution/convolution_impl.hpp"
#endif

#if COMPAND_X86
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // false in GCC's own intrinsics (GCC bug 105593)
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#define ISA avx512
#include <algorithm>
#include <array>
#include <cstring>
#include <utility>
#include <immintrin.h>

#include "convolution/convolution.hpp"

namespace compand::convolution::ISA {
namespace {
#include "convolution/level_avx512.hpp"
}  // namespace
}  // namespace compand::convolution::ISA

#include "convolution/convolution_impl.hpp"
#endif

#if COMPAND_X86
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // false in GCC's own intrinsics (GCC bug 105593)
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#define ISA avx512
#define LEVEL 2
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <vector>
#include <immintrin.h>

#include "isa.hpp"
#include "lanes.hpp"
#include "matmul/matmul.hpp"

#include "matmul/rows_impl.hpp"
#include "matmul/strips_impl.hpp"
#include "matmul/plain_impl.hpp"
#include "matmul/ranked_impl.hpp"
#include "matmul/words_impl.hpp"
#include "matmul/cells_impl.hpp"
#endif

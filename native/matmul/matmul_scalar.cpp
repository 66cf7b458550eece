#define ISA scalar
#define LEVEL 0
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <vector>

#include "isa.hpp"
#include "lanes.hpp"
#include "matmul/matmul.hpp"

#include "matmul/rows_impl.hpp"
#include "matmul/strips_impl.hpp"
#include "matmul/plain_impl.hpp"
#include "matmul/ranked_impl.hpp"
#include "matmul/words_impl.hpp"
#include "matmul/cells_impl.hpp"

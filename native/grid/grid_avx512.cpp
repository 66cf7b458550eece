#if COMPAND_X86
#define ISA avx512
#include "grid/grid_impl.hpp"
#endif

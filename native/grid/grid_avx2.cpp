#if COMPAND_X86
#define ISA avx2
#include "grid/grid_impl.hpp"
#endif

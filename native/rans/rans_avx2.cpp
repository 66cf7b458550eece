#if COMPAND_X86
#define COMPAND_RANS_ISA avx2
#include "rans_impl.hpp"
#endif

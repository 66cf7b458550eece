#if COMPAND_X86
#define ISA avx2
#define LEVEL 1
#include "ecsq/ecsq_impl.hpp"
#include "ecsq/trellis_impl.hpp"
#endif

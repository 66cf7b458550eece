#if COMPAND_X86
#define ISA avx512
#define LEVEL 2
#include "ecsq/ecsq_impl.hpp"
#include "ecsq/trellis_impl.hpp"
#endif

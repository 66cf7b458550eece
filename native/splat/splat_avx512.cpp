#if COMPAND_X86
#define ISA avx512
#include "splat/block_impl.hpp"
#endif

#if COMPAND_X86
#define ISA avx2
#include "splat/block_impl.hpp"
#endif

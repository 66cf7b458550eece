#if COMPAND_X86
#define ISA avx2
#include "radix/radix_impl.hpp"
#endif

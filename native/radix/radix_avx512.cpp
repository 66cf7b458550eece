#if COMPAND_X86
#define ISA avx512
#include "radix/radix_impl.hpp"
#endif

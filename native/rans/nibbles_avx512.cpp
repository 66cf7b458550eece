#if COMPAND_X86
#define ISA avx512
#include "nibbles_impl.hpp"
#endif

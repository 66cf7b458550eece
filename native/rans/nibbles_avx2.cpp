#if COMPAND_X86
#define ISA avx2
#include "nibbles_impl.hpp"
#endif

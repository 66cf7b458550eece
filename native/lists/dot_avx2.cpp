#if COMPAND_X86
#define ISA avx2
#define LEVEL 1
#include "lists/dot_impl.hpp"
#endif

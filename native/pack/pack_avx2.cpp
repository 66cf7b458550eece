#if COMPAND_X86
#define ISA avx2
#define FAST 1
#include "pack/pack_impl.hpp"
#endif

#if COMPAND_X86
#define ISA avx512
#define FAST 1
#include "pack/pack_impl.hpp"
#endif

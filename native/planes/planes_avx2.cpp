#if COMPAND_X86
#define ISA avx2
#include "planes/planes_impl.hpp"
#endif

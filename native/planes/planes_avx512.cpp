#if COMPAND_X86
#define ISA avx512
#include "planes/planes_impl.hpp"
#endif

#if COMPAND_X86
#define ISA avx2
#define LEVEL 1
#include "signs/signs_impl.hpp"
#endif

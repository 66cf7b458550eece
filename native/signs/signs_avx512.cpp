#if COMPAND_X86
#define ISA avx512
#define LEVEL 2
#include "signs/signs_impl.hpp"
#endif

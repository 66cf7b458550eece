#if COMPAND_X86
#define ISA avx2
#include "encoder/encoder_impl.hpp"
#endif

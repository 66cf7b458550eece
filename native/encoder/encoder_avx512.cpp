#if COMPAND_X86
#define ISA avx512
#include "encoder/encoder_impl.hpp"
#endif

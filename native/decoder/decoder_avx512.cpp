#if COMPAND_X86
#define ISA avx512
#include "decoder/decoder_impl.hpp"
#endif

#if COMPAND_X86
#define ISA avx2
#include "decoder/decoder_impl.hpp"
#endif

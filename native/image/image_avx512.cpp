#include "image/image.hpp"
#if COMPAND_X86
#define ISA avx512
#include "image/image_impl.hpp"
#endif

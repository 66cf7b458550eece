#include "image/image.hpp"
#if COMPAND_X86
#define ISA avx2
#include "image/image_impl.hpp"
#endif

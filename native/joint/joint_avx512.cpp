#if COMPAND_X86
#define ISA avx512
#include "joint/joint_impl.hpp"
#endif

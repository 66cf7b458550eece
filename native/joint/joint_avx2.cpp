#if COMPAND_X86
#define ISA avx2
#include "joint/joint_impl.hpp"
#endif

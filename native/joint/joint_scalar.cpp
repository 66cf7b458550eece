#define ISA scalar
#include "joint/joint_impl.hpp"

#define COMPAND_RANS_ISA scalar
#include "rans_impl.hpp"

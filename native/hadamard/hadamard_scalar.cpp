#define ISA scalar
#define LEVEL 0
#include "hadamard/hadamard_impl.hpp"

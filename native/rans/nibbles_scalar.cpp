#define ISA scalar
#include "nibbles_impl.hpp"

#define ISA scalar
#include "radix/radix_impl.hpp"

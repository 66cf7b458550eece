#define ISA scalar
#include "splat/block_impl.hpp"

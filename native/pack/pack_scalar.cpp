#define ISA scalar
#define FAST 0
#include "pack/pack_impl.hpp"

#define ISA scalar
#define LEVEL 0
#include "nearest/nearest_impl.hpp"

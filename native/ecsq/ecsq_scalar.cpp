#define ISA scalar
#define LEVEL 0
#include "ecsq/ecsq_impl.hpp"
#include "ecsq/trellis_impl.hpp"

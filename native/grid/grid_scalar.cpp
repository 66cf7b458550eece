#define ISA scalar
#include "grid/grid_impl.hpp"

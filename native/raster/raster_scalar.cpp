#define ISA scalar
#define LEVEL 0
#include "raster/raster_impl.hpp"

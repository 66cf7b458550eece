#define ISA scalar
#include "planes/planes_impl.hpp"

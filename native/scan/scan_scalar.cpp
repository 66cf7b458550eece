#define ISA scalar
#define LEVEL 0
#include "scan/scan_impl.hpp"

#define ISA scalar
#define LEVEL 0
#include "signs/signs_impl.hpp"

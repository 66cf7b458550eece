#define ISA scalar
#define LEVEL 0
#include "lists/dot_impl.hpp"

#define ISA scalar
#include "encoder/encoder_impl.hpp"

#include "image/image.hpp"
#define ISA scalar
#include "image/image_impl.hpp"

#define ISA scalar
#include "decoder/decoder_impl.hpp"

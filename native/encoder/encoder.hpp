// Layers of an encoder of text (BERT and its kind) whose weights stay codes: what they do beside products and attention.
#pragma once
#include <cstddef>

namespace compand::encoder {

#define COMPAND_ENCODER_FUNCTIONS                                                                                  \
    /* x = (x + y - mean) / sqrt(variance + eps) * weight + bias; y may be null */                                 \
    void center(float *x, const float *y, const float *weight, const float *bias, size_t d, float eps);            \
    /* gelu of x + bias: by the error function (1.5e-7 of x), or by tanh; bias may be null */                      \
    void soften(float *x, const float *bias, size_t d, bool tanh);
namespace scalar {
COMPAND_ENCODER_FUNCTIONS
}
namespace avx2 {
COMPAND_ENCODER_FUNCTIONS
}
namespace avx512 {
COMPAND_ENCODER_FUNCTIONS
}
#undef COMPAND_ENCODER_FUNCTIONS

}  // namespace compand::encoder

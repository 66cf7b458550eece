// A decoder language model: layers of attention and gated products whose weights stay codes, and the cache of keys and values.
#pragma once
#include <cstddef>
#include <cstdint>

namespace compand::decoder {

constexpr size_t kBlock = 16;  // keys of a block of the cache

// Keys and values of one head: keys (blocks, width, 16) so that a vector holds 16 keys, values (positions, width). bfloat16 where
// `brain`, else float32. width: a multiple of 16.
struct Cache {
    void *keys, *values;
    size_t width;
    bool brain;
};
// Keys and values of one head as rows of width values, a step of values apart: those of a cache that belongs to someone else.
struct Rows {
    const void *keys, *values;
    size_t key_step, value_step, width;  // width: a multiple of 16
    bool brain;
};
// Queries (heads, width) of some heads that share a cache, and where to write what they attend to.
struct Queries {
    const float *q;
    float *out;
    size_t heads;       // 1 or 2; of rows also 4
    size_t start, end;  // positions seen
    float scale, cap;   // cap 0: none
};

#define COMPAND_DECODER_FUNCTIONS                                                                                             \
    /* out = x / sqrt(mean of squares + eps) * weight */                                                                      \
    void normalize(const float *x, const float *weight, size_t d, float eps, float *out);                                     \
    /* pairs (i, i + half) turned by the angles of cos and sin (half) */                                                      \
    void turn(float *x, size_t half, const float *cos, const float *sin);                                                     \
    /* gate = f(gate) * up; f: x sigmoid(x), or gelu by tanh */                                                               \
    void activate(float *gate, const float *up, size_t d, bool gelu);                                                         \
    void add(float *x, const float *y, size_t d);                                                                             \
    /* x = cap * tanh(x / cap) */                                                                                             \
    void cap(float *x, size_t d, float cap);                                                                                  \
    /* key and value (width) at a position */                                                                                 \
    void keep(const Cache &c, size_t position, const float *key, const float *value);                                         \
    /* softmax of scale * q k, times v; room: heads * (end - start + 32) floats */                                            \
    void attend(const Cache &c, const Queries &q, float *room);                                                               \
    /* the same of rows; room: heads * (end - start + 16) floats */                                                           \
    void attend_rows(const Rows &c, const Queries &q, float *room);                                                           \
    /* rounded to bfloat16 */                                                                                                 \
    void round(const float *x, size_t d, uint16_t *out);
namespace scalar {
COMPAND_DECODER_FUNCTIONS
}
namespace avx2 {
COMPAND_DECODER_FUNCTIONS
}
namespace avx512 {
COMPAND_DECODER_FUNCTIONS
}
#undef COMPAND_DECODER_FUNCTIONS

}  // namespace compand::decoder

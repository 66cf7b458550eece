// `plain` of matmul.hpp. A dot product is summed in 4 x 16 lanes like one of `rows`: column c in lane c mod 64.
namespace compand::matmul::ISA {
namespace {

template <class W> COMPAND_INLINE lanes::F values(const W *from) {
    if constexpr (sizeof(W) == 4) return lanes::load<lanes::F>(from);
    else return lanes::widen(lanes::load<lanes::H>(from));
}

template <class W, int T> void plain_tile(const W *w, size_t d, size_t first, size_t last, const float *x, float *y, size_t stride) {
    using lanes::F;
    for (size_t r = first; r < last; ++r) {
        const W *row = w + r * d;
        F sum[T][4] = {};
        size_t c = 0;
        for (; c + 64 <= d; c += 64) {
            __builtin_prefetch(reinterpret_cast<const char *>(row + c) + kAhead);
            if constexpr (sizeof(W) == 4) {
                __builtin_prefetch(reinterpret_cast<const char *>(row + c + 16) + kAhead);
                __builtin_prefetch(reinterpret_cast<const char *>(row + c + 32) + kAhead);
                __builtin_prefetch(reinterpret_cast<const char *>(row + c + 48) + kAhead);
            } else __builtin_prefetch(reinterpret_cast<const char *>(row + c + 32) + kAhead);
            for (int u = 0; u < 4; ++u) {
                const F v = values(row + c + 16 * u);
                for (int t = 0; t < T; ++t) sum[t][u] = sum[t][u] + v * lanes::load<F>(x + static_cast<size_t>(t) * d + c + 16 * u);
            }
        }
        if (c < d) {
            W tail[64] = {};
            std::memcpy(tail, row + c, (d - c) * sizeof(W));
            for (int t = 0; t < T; ++t) {
                float own[64] = {};
                std::memcpy(own, x + static_cast<size_t>(t) * d + c, (d - c) * sizeof(float));
                for (int u = 0; u < 4; ++u) sum[t][u] = sum[t][u] + values(tail + 16 * u) * lanes::load<F>(own + 16 * u);
            }
        }
        for (int t = 0; t < T; ++t) y[static_cast<size_t>(t) * stride + r] = lanes::total((sum[t][0] + sum[t][1]) + (sum[t][2] + sum[t][3]));
    }
}

template <class W> void plain_tiles(const W *w, size_t d, size_t first, size_t last, const float *x, size_t count, float *y, size_t stride) {
    for (size_t r = first; r < last; r += 8) {
        const size_t end = std::min(r + 8, last);
        size_t t = 0;
        for (; t + 4 <= count; t += 4) plain_tile<W, 4>(w, d, r, end, x + t * d, y + t * stride, stride);
        for (; t < count; ++t) plain_tile<W, 1>(w, d, r, end, x + t * d, y + t * stride, stride);
    }
}

}  // namespace

void plain(const float *wide, const uint16_t *brain, size_t d, size_t first, size_t last, const float *x, size_t count, float *y,
           size_t stride) {
    if (wide) plain_tiles(wide, d, first, last, x, count, y, stride);
    else plain_tiles(brain, d, first, last, x, count, y, stride);
}

}  // namespace compand::matmul::ISA

// The filter after decoding: small convolutions at half the size, int16 values and weights, int32 sums that cannot overflow.

constexpr int kMostSum = kMostFiltered;  // values between layers lie within

// One row of outputs of a 3 x 3 layer. x: rows y - 1, y, y + 1, each (width + 2, in); out (width, out).
inline void layer_row(const Layer &l, const int16_t *const *x, size_t width, bool last, int16_t *out) {
    const int pairs = l.in / 2;
    for (size_t j = 0; j < width; ++j) {
        int16_t *to = out + j * static_cast<size_t>(l.out);
        for (int first = 0; first < l.out; first += 16) {
            alignas(64) int32_t sum[16];
#if defined(__AVX2__)
            __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(l.bias.data() + first));
            __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(l.bias.data() + first + 8));
            for (int k = 0; k < 9; ++k) {
                const int16_t *from = x[k / 3] + (j + static_cast<size_t>(k % 3)) * static_cast<size_t>(l.in);
                const int16_t *w = l.weights.data() + (static_cast<size_t>(k * pairs) * static_cast<size_t>(l.out) + static_cast<size_t>(first)) * 2;
                for (int p = 0; p < pairs; ++p, w += 2 * l.out) {
                    int32_t two;
                    std::memcpy(&two, from + 2 * p, 4);
                    const __m256i v = _mm256_set1_epi32(two);
                    a = _mm256_add_epi32(a, _mm256_madd_epi16(v, _mm256_loadu_si256(reinterpret_cast<const __m256i *>(w))));
                    b = _mm256_add_epi32(b, _mm256_madd_epi16(v, _mm256_loadu_si256(reinterpret_cast<const __m256i *>(w + 16))));
                }
            }
            _mm256_store_si256(reinterpret_cast<__m256i *>(sum), a);
            _mm256_store_si256(reinterpret_cast<__m256i *>(sum + 8), b);
#else
            std::copy(l.bias.begin() + first, l.bias.begin() + first + 16, sum);
            for (int k = 0; k < 9; ++k) {
                const int16_t *from = x[k / 3] + (j + static_cast<size_t>(k % 3)) * static_cast<size_t>(l.in);
                const int16_t *w = l.weights.data() + (static_cast<size_t>(k * pairs) * static_cast<size_t>(l.out) + static_cast<size_t>(first)) * 2;
                for (int p = 0; p < pairs; ++p, w += 2 * l.out) {
                    for (int o = 0; o < 16; ++o) sum[o] += from[2 * p] * w[2 * o] + from[2 * p + 1] * w[2 * o + 1];
                }
            }
#endif
            for (int o = 0; o < 16; ++o) {
                const int32_t v = (sum[o] + (1 << (kWeightBits - 1))) >> kWeightBits;
                to[first + o] = static_cast<int16_t>(std::clamp(v, last ? -kMostSum : 0, kMostSum));
            }
        }
    }
}

// Values of all layers: (height + 2, width + 2, channels) with a frame of zeros.
class Sheet {
public:
    Sheet(size_t h, size_t w, int channels) : row_((w + 2) * static_cast<size_t>(channels)), channels_(static_cast<size_t>(channels)), values_((h + 2) * row_, 0) {}
    int16_t *row(size_t y) { return values_.data() + y * row_; }  // of the framed sheet
    int16_t *inside(size_t y) { return row(y + 1) + channels_; }

private:
    size_t row_, channels_;
    std::vector<int16_t> values_;
};

// What blocks added to the enlarged coarse picture, in 1/256 of the step, at half the size: 4 places of 3 planes, and 4 marks of
// the grid of blocks → what is to be added to the planes. Each layer sees one neighbour further: beyond the picture (which is padded to
// whole squares) only as many places as there are layers can reach a pixel, and no more are worked out.
void restore(const Model &m, const Settings &s, size_t height, size_t width, const std::vector<int16_t> *smooth, std::vector<int16_t> *planes) {
    const size_t h = std::min(height / 2, (s.height + 1) / 2 + m.layers.size()), w = std::min(width / 2, (s.width + 1) / 2 + m.layers.size());
    auto from = std::make_unique<Sheet>(h, w, 16);
    parallel_for(h, [&](size_t y) {
        int16_t *to = from->inside(y);
        for (size_t x = 0; x < w; ++x, to += 16) {
            for (int c = 0; c < s.channels; ++c) {
                for (size_t k = 0; k < 4; ++k) {
                    const size_t at = (2 * y + k / 2) * width + 2 * x + k % 2;
                    const int32_t v = (planes[c][at] - smooth[c][at]) * 1024 / s.step;
                    to[static_cast<size_t>(c) * 4 + k] = static_cast<int16_t>(std::clamp(v, -kMostSum, kMostSum));
                }
            }
            to[12] = x % 4 == 0 ? 256 : 0, to[13] = x % 4 == 3 ? 256 : 0;
            to[14] = y % 4 == 0 ? 256 : 0, to[15] = y % 4 == 3 ? 256 : 0;
        }
    }, s.large());
    for (size_t k = 0; k < m.layers.size(); ++k) {
        const Layer &l = m.layers[k];
        auto next = std::make_unique<Sheet>(h, w, l.out);
        parallel_for(h, [&](size_t y) {
            const int16_t *rows[3] = {from->row(y), from->row(y + 1), from->row(y + 2)};
            layer_row(l, rows, w, k + 1 == m.layers.size(), next->inside(y));
        }, s.large());
        from = std::move(next);
    }
    parallel_for(h, [&](size_t y) {
        const int16_t *add = from->inside(y);
        for (size_t x = 0; x < w; ++x, add += 16) {
            for (int c = 0; c < s.channels; ++c) {
                for (size_t k = 0; k < 4; ++k) {
                    int16_t &v = planes[c][(2 * y + k / 2) * width + 2 * x + k % 2];
                    v = static_cast<int16_t>(std::clamp(v + ((add[static_cast<size_t>(c) * 4 + k] * s.step + 512) >> 10), -32768, 32767));
                }
            }
        }
    }, s.large());
}

// `words` of matmul.hpp: rows are put together as float32 near the processor, then summed as `plain` does.
namespace compand::matmul::ISA {
namespace {

// (pieces) ids of a row
void ids_of(const Words &w, size_t r, uint32_t *ids) {
    const uint8_t *row = w.bytes + r * w.row_bytes;
    if (w.bits == 8) {
        for (size_t j = 0; j < w.pieces; ++j) ids[j] = row[j];
        return;
    }
    if (w.bits == 4) {
        for (size_t i = 0; i < w.pieces / 2; ++i) {
            ids[2 * i] = row[i] & 15u;
            ids[2 * i + 1] = row[i] >> 4;
        }
        if (w.pieces % 2) ids[w.pieces - 1] = row[w.pieces / 2] & 15u;
        return;
    }
    if (w.bits == 16) {
        for (size_t j = 0; j < w.pieces; ++j) ids[j] = lanes::load<uint16_t>(row + 2 * j);
        return;
    }
    const size_t bits = static_cast<size_t>(w.bits);
    const uint32_t mask = (1u << bits) - 1;
    size_t j = 0;
    for (; j < w.pieces && j * bits / 8 + 4 <= w.row_bytes; ++j) ids[j] = lanes::load<uint32_t>(row + j * bits / 8) >> (j * bits % 8) & mask;
    for (; j < w.pieces; ++j) {
        uint32_t word = 0;
        std::memcpy(&word, row + j * bits / 8, std::min<size_t>(4, w.row_bytes - j * bits / 8));
        ids[j] = word >> (j * bits % 8) & mask;
    }
}

// A word of D values, 0: of w.dim, as float32.
template <class T, size_t D> COMPAND_INLINE void word_of(const T *from, size_t dim, float *to) {
    if constexpr (sizeof(T) == 4) std::memcpy(to, from, (D ? D : dim) * sizeof(float));
    else if constexpr (D == 8) {
#if LEVEL > 0
        _mm256_storeu_ps(to, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(from)))));
#else
        for (size_t i = 0; i < 8; ++i) to[i] = static_cast<float>(from[i]);
#endif
    } else
        for (size_t i = 0; i < (D ? D : dim); ++i) to[i] = static_cast<float>(from[i]);
}

template <class T, size_t D> void pieces_of(const Words &w, const T *book, const uint32_t *ids, float *out) {
    const size_t dim = D ? D : w.dim, pieces = w.pieces;
#if LEVEL == 2
    if constexpr (D == 1 && sizeof(T) == 4)
        if (w.bits <= 4 && !w.start && !w.step) {  // a codebook that is one register
            const __m512 all = _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << (1u << w.bits)) - 1), book);
            for (size_t j = 0; j < pieces; j += 16) {
                const __mmask16 own = static_cast<__mmask16>(pieces - j >= 16 ? 0xffff : (1u << (pieces - j)) - 1);
                _mm512_mask_storeu_ps(out + j, own, _mm512_permutexvar_ps(_mm512_maskz_loadu_epi32(own, ids + j), all));
            }
            return;
        }
#endif
    if (w.start)
        for (size_t j = 0; j < pieces; ++j) word_of<T, D>(book + j * w.step + ids[j] * dim, dim, out + w.start[j]);
    else
        for (size_t j = 0; j < pieces; ++j) word_of<T, D>(book + j * w.step + ids[j] * dim, dim, out + j * dim);
}

// A row, without its scale where it has one; room for a codeword behind the last column.
void words_of(const Words &w, size_t r, uint32_t *ids, float *out) {
    if (w.fraction) {  // a small floating-point number: its bits where float32 has them, times the power of two between the two
        const uint8_t *row = w.bytes + r * w.row_bytes;
        const int up = 23 - w.fraction;
        const float unit = w.unit;
        for (size_t j = 0, d = w.d; j < d; ++j) {
            const uint32_t id = row[j];
            out[j] = std::bit_cast<float>((id & 127) << up | (id & 128) << 24) * unit;
        }
    } else {
        ids_of(w, r, ids);
        const auto run = [&](const auto *book) {
            using T = std::remove_cvref_t<decltype(*book)>;
            switch (w.dim) {
            case 1: return pieces_of<T, 1>(w, book, ids, out);
            case 2: return pieces_of<T, 2>(w, book, ids, out);
            case 4: return pieces_of<T, 4>(w, book, ids, out);
            case 8: return pieces_of<T, 8>(w, book, ids, out);
            case 16: return pieces_of<T, 16>(w, book, ids, out);
            default: return pieces_of<T, 0>(w, book, ids, out);
            }
        };
        if (w.book) run(w.book);
        else run(w.small);
    }
    const size_t groups = (w.d + w.group - 1) / w.group;
    if (groups < 2) return;
    for (size_t g = 0; g < groups; ++g) {
        const float scale = w.scale[r * groups + g];
        for (size_t c = g * w.group, end = std::min(w.d, c + w.group); c < end; ++c) out[c] *= scale;
    }
}

// R rows that lie `room` apart and one line: what `row_of` gives, without waiting for one row's sums.
template <int R> void near_rows(const float *rows, size_t room, size_t d, const float *x, float *y) {
    lanes::F sum[R] = {};
    size_t c = 0;
    for (; c + 16 <= d; c += 16)
        for (size_t r = 0; r < R; ++r) sum[r] = Wide::add(sum[r], lanes::load<lanes::U>(rows + r * room + c), lanes::load<lanes::U>(x + c));
    for (size_t r = 0; r < R; ++r) {
        if (c < d) {
            float tail[16] = {};
            std::memcpy(tail, rows + r * room + c, (d - c) * sizeof(float));
            sum[r] = Wide::add(sum[r], lanes::load<lanes::U>(tail), lanes::load<lanes::U>(x + c));
        }
        y[r] = total_of(sum[r]);
    }
}

}  // namespace

void words(const Words &w, size_t first, size_t last, const float *x, size_t width, size_t count, float *y, size_t stride) {
    const size_t room = width + w.dim;
    std::vector<uint32_t> ids(w.pieces);
    std::vector<float> values(std::min<size_t>(count < kFew ? 4 : kLow, last - first) * room);
    for (size_t low = first; low < last; low += kLow) {
        const size_t rows = std::min(kLow, last - low);
        if (count < kFew) {  // rows are used as soon as they are there
            for (size_t r = low; r < low + rows; r += 4) {
                const size_t four = std::min<size_t>(4, low + rows - r);
                for (size_t i = 0; i < four; ++i) words_of(w, r + i, ids.data(), values.data() + i * room);
                for (size_t t = 0; t < count; ++t) {
                    if (four == 4) near_rows<4>(values.data(), room, w.d, x + t * width, y + t * stride + r);
                    else
                        for (size_t i = 0; i < four; ++i) near_rows<1>(values.data() + i * room, room, w.d, x + t * width, y + t * stride + r + i);
                }
            }
        } else {
            for (size_t i = 0; i < rows; ++i) words_of(w, low + i, ids.data(), values.data() + i * room);
            tiles_of<Wide>(values.data(), room, false, w.d, 0, rows, x, width, count, y + low, stride);
        }
        if (w.scale && w.group >= w.d)
            for (size_t t = 0; t < count; ++t)
                for (size_t r = low; r < low + rows; ++r) y[t * stride + r] *= w.scale[r];
    }
}

void words_row(const Words &w, size_t r, float *out) {
    std::vector<uint32_t> ids(w.pieces);
    std::vector<float> values(w.d + w.dim);
    words_of(w, r, ids.data(), values.data());
    const float scale = w.scale && w.group >= w.d ? w.scale[r] : 1.0f;
    for (size_t c = 0; c < w.d; ++c) out[c] = values[c] * scale;
}

}  // namespace compand::matmul::ISA

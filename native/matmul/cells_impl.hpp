// `cells` of matmul.hpp. Value i of a row goes to sum i mod 4 of its line; in the end (0 + 2) + (1 + 3), for one line as for sixteen.
namespace compand::matmul::ISA {
namespace {

template <class T> COMPAND_INLINE T joined(const T (&sum)[4]) { return (sum[0] + sum[2]) + (sum[1] + sum[3]); }

// T: a float, or sixteen lines; x: of each column
template <class T> COMPAND_INLINE T cells_of(const Cells &w, size_t r, const T *x) {
    T sum[4] = {};
    size_t i = static_cast<size_t>(w.start[r]);
    const size_t end = static_cast<size_t>(w.start[r + 1]);
    for (; i + 4 <= end; i += 4)
        for (size_t k = 0; k < 4; ++k) sum[k] = sum[k] + x[w.columns[i + k]] * w.values[i + k];
    for (size_t k = 0; i < end; ++i, ++k) sum[k] = sum[k] + x[w.columns[i]] * w.values[i];
    return joined(sum);
}

}  // namespace

void cells(const Cells &w, size_t first, size_t last, const float *x, size_t count, float *y, size_t stride) {
    if (count < kMany) {
        for (size_t r = first; r < last; ++r)
            for (size_t t = 0; t < count; ++t) y[t * stride + r] = cells_of(w, r, x + t * w.d);
        return;
    }
    typedef float Tile __attribute__((vector_size(64), aligned(4), may_alias));
    for (size_t t = 0; t < count; t += 16, x += 16 * w.d)
        for (size_t r = first; r < last; ++r) {
            float out[16];
            lanes::store(out, cells_of(w, r, reinterpret_cast<const Tile *>(x)));
            for (size_t l = 0; l < std::min<size_t>(16, count - t); ++l) y[(t + l) * stride + r] = out[l];
        }
}

}  // namespace compand::matmul::ISA

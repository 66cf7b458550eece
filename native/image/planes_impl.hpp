// Numbers of planes: what quantized values stand for, bases, enlarging. The decoder's half is integers only.

constexpr int kCoarseUnit = 64;   // coarse planes: parts of a step of 8 bits
constexpr int32_t kMostCoarse = 1 << 16, kMostValue = 1 << 19;

inline int32_t rebuilt(int32_t q, const uint8_t *centre, int64_t step, int shift, int32_t most) {
    if (q == 0) return 0;
    const int64_t size = q < 0 ? -static_cast<int64_t>(q) : q;
    const int64_t v = ((size * 256 - centre[size > 1]) * step + (int64_t{1} << (shift - 1))) >> shift;
    const auto cut = static_cast<int32_t>(std::min<int64_t>(v, most));
    return q < 0 ? -cut : cut;
}
inline int32_t value_of(int32_t q, const uint8_t *centre, int step) {  // in 1/16
    return rebuilt(q, centre, step, 10, kMostValue);
}
inline int32_t coarse_of(int32_t q, const uint8_t *centre, int step, int share) {  // in 1/64
    return rebuilt(q, centre, static_cast<int64_t>(step) * share, 15, kMostValue);
}

// Sum of basis vectors times values: (n,) in the unit of the values.
inline void combine(const int32_t *values, int n, const int16_t *basis, int32_t *out) {
    alignas(64) uint32_t sum[256];
    std::fill(sum, sum + n, 0u);
    for (int k = 0; k < n; ++k) {
        if (!values[k]) continue;
        const auto v = static_cast<uint32_t>(values[k]);
        const int16_t *row = basis + k * n;
        for (int j = 0; j < n; ++j) sum[j] += v * static_cast<uint32_t>(static_cast<int32_t>(row[j]));
    }
    for (int j = 0; j < n; ++j) out[j] = static_cast<int32_t>(sum[j] + (1u << (kBasisBits - 1))) >> kBasisBits;
}

// Twice as long: values at even places, and between. Step 1 along, `apart` values between neighbours.
inline void enlarge_line(const int32_t *x, size_t n, int32_t *y) {
    auto at = [&](ptrdiff_t i) { return x[std::clamp<ptrdiff_t>(i, 0, static_cast<ptrdiff_t>(n) - 1)]; };
    auto put = [&](size_t i, int32_t before, int32_t here, int32_t next, int32_t after) {
        y[2 * i] = (4568 * here - 236 * (before + next) + 2048) >> 12;
        y[2 * i + 1] = (2422 * (here + next) - 374 * (before + after) + 2048) >> 12;
    };
    for (size_t i = 0; i < n; ++i) {
        if (i == 0 || i + 2 >= n) put(i, at(static_cast<ptrdiff_t>(i) - 1), x[i], at(static_cast<ptrdiff_t>(i) + 1), at(static_cast<ptrdiff_t>(i) + 2));
        else put(i, x[i - 1], x[i], x[i + 1], x[i + 2]);
    }
}

inline void enlarge_rows(const int32_t *before, const int32_t *here, const int32_t *next, const int32_t *after, size_t n, int32_t *even, int32_t *odd) {
    for (size_t j = 0; j < n; ++j) even[j] = (4568 * here[j] - 236 * (before[j] + next[j]) + 2048) >> 12;
    for (size_t j = 0; j < n; ++j) odd[j] = (2422 * (here[j] + next[j]) - 374 * (before[j] + after[j]) + 2048) >> 12;
}

// (h, w) → (2 h, 2 w).
inline std::vector<int32_t> enlarge(const std::vector<int32_t> &x, size_t h, size_t w) {
    std::vector<int32_t> wide(h * 2 * w), out(4 * h * w);
    for (size_t i = 0; i < h; ++i) enlarge_line(x.data() + i * w, w, wide.data() + i * 2 * w);
    auto row = [&](ptrdiff_t i) { return wide.data() + static_cast<size_t>(std::clamp<ptrdiff_t>(i, 0, static_cast<ptrdiff_t>(h) - 1)) * 2 * w; };
    for (size_t i = 0; i < h; ++i) {
        const auto k = static_cast<ptrdiff_t>(i);
        enlarge_rows(row(k - 1), row(k), row(k + 1), row(k + 2), 2 * w, out.data() + 4 * i * w, out.data() + 4 * i * w + 2 * w);
    }
    return out;
}

// A coarse plane (h, w) eight times as large, in 1/16.
inline std::vector<int16_t> enlarge8(const std::vector<int32_t> &x, size_t h, size_t w) {
    std::vector<int32_t> big = enlarge(enlarge(enlarge(x, h, w), 2 * h, 2 * w), 4 * h, 4 * w);
    std::vector<int16_t> out(big.size());
    for (size_t i = 0; i < big.size(); ++i) out[i] = static_cast<int16_t>(std::clamp((big[i] + 2) >> 2, -32768, 32767));
    return out;
}

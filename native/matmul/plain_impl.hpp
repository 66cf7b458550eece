// `plain` and `brain` of matmul.hpp. A dot product is summed in 16 lanes, then halves of them upon each other: of float32 column c in
// lane c mod 16; of bfloat16 lane i takes columns 2 i and 2 i + 1 of each 32, the odd one first, as VDPBF16PS does.
namespace compand::matmul::ISA {
namespace {

constexpr size_t kTall = 8, kTile = 3;     // rows and lines whose sums are in registers together
constexpr size_t kPanel = 2048;            // bytes of a row that are packed together: those of kTall rows and kTile lines fit the first cache
constexpr size_t kLow = 32;                // rows whose sums wait for the next panel

struct Wide {
    using Value = float;
    static constexpr size_t step = 16;
    static COMPAND_INLINE lanes::F add(const lanes::F &sum, const lanes::U &w, const lanes::U &x) {
        return sum + std::bit_cast<lanes::F>(w) * std::bit_cast<lanes::F>(x);
    }
};

// a * b + c, rounded once
#if LEVEL == 1
struct Halves {
    __m256 low, high;
};
#endif
COMPAND_INLINE lanes::F fused(const lanes::F &a, const lanes::F &b, const lanes::F &c) {
#if LEVEL == 2
    return std::bit_cast<lanes::F>(_mm512_fmadd_ps(std::bit_cast<__m512>(a), std::bit_cast<__m512>(b), std::bit_cast<__m512>(c)));
#elif LEVEL == 1
    const Halves u = std::bit_cast<Halves>(a), v = std::bit_cast<Halves>(b), s = std::bit_cast<Halves>(c);
    return std::bit_cast<lanes::F>(Halves{_mm256_fmadd_ps(u.low, v.low, s.low), _mm256_fmadd_ps(u.high, v.high, s.high)});
#else
    lanes::F out;
    for (size_t i = 0; i < 16; ++i) out[i] = std::fma(a[i], b[i], c[i]);
    return out;
#endif
}

// dot: the processor has the instruction. Else each product is added by a fused operation, with denormals taken as zero (`lanes::Flush`).
template <bool dot> struct Brain {
    using Value = uint16_t;
    static constexpr size_t step = 32;
    static COMPAND_INLINE lanes::F add(const lanes::F &sum, const lanes::U &w, const lanes::U &x) {
#if LEVEL == 2 && defined(__GNUC__)
        if constexpr (dot) {
            lanes::F next = sum;
            asm("vdpbf16ps %2, %1, %0" : "+v"(next) : "v"(w), "v"(x));
            return next;
        }
#endif
        const lanes::F odd = fused(std::bit_cast<lanes::F>(w & 0xffff0000u), std::bit_cast<lanes::F>(x & 0xffff0000u), sum);
        return fused(std::bit_cast<lanes::F>(w << 16), std::bit_cast<lanes::F>(x << 16), odd);
    }
};

COMPAND_INLINE float total_of(const lanes::F &v) {
#if LEVEL == 2
    const __m512 a = std::bit_cast<__m512>(v);
    const __m256 w = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    const __m128 u = _mm_add_ps(_mm256_castps256_ps128(w), _mm256_extractf128_ps(w, 1));
    const __m128 p = _mm_add_ps(u, _mm_movehl_ps(u, u));
    return _mm_cvtss_f32(_mm_add_ss(p, _mm_shuffle_ps(p, p, 1)));
#else
    return lanes::total(v);
#endif
}

// One row and T lines, straight from memory, whose own prefetcher is better than being asked. x: lines of `width` values, zeros behind the d that are there.
template <class Kind, int T> void row_of(const typename Kind::Value *row, size_t d, const typename Kind::Value *x, size_t width, float *y, size_t stride) {
    using Value = typename Kind::Value;
    lanes::F sum[T] = {};
    size_t c = 0;
    for (; c + Kind::step <= d; c += Kind::step) {
        const lanes::U w = lanes::load<lanes::U>(row + c);
        for (int t = 0; t < T; ++t) sum[t] = Kind::add(sum[t], w, lanes::load<lanes::U>(x + static_cast<size_t>(t) * width + c));
    }
    if (c < d) {
        Value tail[Kind::step] = {};
        std::memcpy(tail, row + c, (d - c) * sizeof(Value));
        for (int t = 0; t < T; ++t)
            sum[t] = Kind::add(sum[t], lanes::load<lanes::U>(tail), lanes::load<lanes::U>(x + static_cast<size_t>(t) * width + c));
    }
    for (int t = 0; t < T; ++t) y[static_cast<size_t>(t) * stride] = total_of(sum[t]);
}

// Sums where they lie between panels; of this type, and in loops that are unrolled early, or GCC copies them once more.
typedef float Waiting __attribute__((vector_size(64), may_alias));

// kTall packed rows (steps, kTall, step) and T lines; sums (T, kTall) go on from panel to panel.
template <class Kind, int T>
__attribute__((noinline)) void tile_of(const typename Kind::Value *packed, size_t steps, const typename Kind::Value *x, size_t width, Waiting *sums) {
    constexpr int tall = kTall;
    lanes::F sum[T * tall];
#pragma GCC unroll 24
    for (int i = 0; i < T * tall; ++i) sum[i] = sums[i];
    for (size_t s = 0; s < steps; ++s, packed += kTall * Kind::step, x += Kind::step) {
        lanes::U own[T];
#pragma GCC unroll 3
        for (int t = 0; t < T; ++t) own[t] = lanes::load<lanes::U>(x + static_cast<size_t>(t) * width);
#pragma GCC unroll 8
        for (int r = 0; r < tall; ++r) {
            const lanes::U w = lanes::load<lanes::U>(packed + r * static_cast<int>(Kind::step));
#pragma GCC unroll 3
            for (int t = 0; t < T; ++t) sum[t * tall + r] = Kind::add(sum[t * tall + r], w, own[t]);
        }
    }
#pragma GCC unroll 24
    for (int i = 0; i < T * tall; ++i) sums[i] = sum[i];
}

// Columns c to c + steps * step of a row (d) at intervals of kTall steps, zeros behind the last.
template <class Kind> void pack(const typename Kind::Value *row, size_t d, size_t c, size_t steps, typename Kind::Value *out) {
    using Value = typename Kind::Value;
    const Value *from = row + c;
    for (size_t left = d - c; steps--; out += kTall * Kind::step, from += Kind::step, left -= Kind::step) {
        if (left >= Kind::step) {
            lanes::store(out, lanes::load<lanes::U>(from));
            continue;
        }
        Value tail[Kind::step] = {};
        std::memcpy(tail, from, left * sizeof *from);
        std::memcpy(out, tail, sizeof tail);
        break;
    }
}

// The totals of two blocks of kTall sums, the second `next` vectors behind the first, each as `total_of` has it.
COMPAND_INLINE void totals_of(const Waiting *sums, size_t next, float *out) {
#if LEVEL == 2
    __m512 v[16];
    for (size_t r = 0; r < 16; ++r) v[r] = _mm512_loadu_ps(sums + r / kTall * next + r % kTall);
    for (int i = 0; i < 8; ++i)  // halves of rows i and i + 8
        v[i] = _mm512_add_ps(_mm512_shuffle_f32x4(v[i], v[i + 8], 0x44), _mm512_shuffle_f32x4(v[i], v[i + 8], 0xee));
    for (int i = 0; i < 4; ++i)  // quarters of rows i, i + 4, i + 8 and i + 12
        v[i] = _mm512_add_ps(_mm512_shuffle_f32x4(v[i], v[i + 4], 0x88), _mm512_shuffle_f32x4(v[i], v[i + 4], 0xdd));
    for (int i = 0; i < 2; ++i) v[i] = _mm512_add_ps(_mm512_shuffle_ps(v[i], v[i + 2], 0x44), _mm512_shuffle_ps(v[i], v[i + 2], 0xee));
    const __m512 all = _mm512_add_ps(_mm512_shuffle_ps(v[0], v[1], 0x88), _mm512_shuffle_ps(v[0], v[1], 0xdd));
    // rows 0 2 1 3, 8 10 9 11, 4 6 5 7, 12 14 13 15
    _mm512_storeu_ps(out, _mm512_permutexvar_ps(_mm512_setr_epi32(0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15), all));
#else
    for (size_t r = 0; r < 16; ++r) out[r] = total_of(sums[r / kTall * next + r % kTall]);
#endif
}

// Many lines. far: the weights are asked for a block ahead, while the block before is worked on.
template <class Kind>
void tiles_of(const typename Kind::Value *w, size_t pitch, bool far, size_t d, size_t first, size_t last, const typename Kind::Value *x, size_t width,
              size_t count, float *y, size_t stride) {
    using Value = typename Kind::Value;
    constexpr size_t panel = kPanel / sizeof(Value), lines = kPanel / 64;
    const size_t turns = count / kTile + count % kTile, share = (kTall * lines + turns - 1) / turns;
    std::vector<lanes::U> room(kTall * panel * sizeof(Value) / sizeof(lanes::U) + kLow * count);  // vectors that lie within cache lines
    Value *const packed = reinterpret_cast<Value *>(room.data());
    Waiting *const sums = reinterpret_cast<Waiting *>(room.data() + kTall * panel * sizeof(Value) / sizeof(lanes::U));
    for (size_t low = first; low < last; low += kLow) {
        const size_t rows = std::min(kLow, last - low), blocks = (rows + kTall - 1) / kTall;
        std::fill_n(sums, kLow * count, Waiting{});
        for (size_t c = 0; c < d; c += panel) {
            const size_t steps = (std::min(panel, d - c) + Kind::step - 1) / Kind::step;
            for (size_t b = 0; b < blocks; ++b) {
                for (size_t r = 0; r < kTall; ++r) pack<Kind>(w + std::min(low + b * kTall + r, last - 1) * pitch, d, c, steps, packed + r * Kind::step);
                const bool over = b + 1 == blocks, end = over && c + panel >= d;  // the block that comes next
                const size_t row = end ? low + kLow : over ? low : low + (b + 1) * kTall, column = end ? 0 : over ? c + panel : c;
                const uintptr_t next = reinterpret_cast<uintptr_t>(w) + (row * pitch + column) * sizeof(Value);  // or behind the last row
                size_t asked = far ? 0 : kTall * lines;
                const auto ask = [&] {
                    for (const size_t to = std::min(asked + share, kTall * lines); asked < to; ++asked)
                        __builtin_prefetch(reinterpret_cast<const void *>(next + asked / lines * pitch * sizeof(Value) + asked % lines * 64), 0, 3);
                };
                Waiting *own = sums + b * kTall * count;
                size_t t = 0;
                for (; t + kTile <= count; t += kTile, ask()) tile_of<Kind, kTile>(packed, steps, x + t * width + c, width, own + t * kTall);
                for (; t < count; ++t, ask()) tile_of<Kind, 1>(packed, steps, x + t * width + c, width, own + t * kTall);
            }
        }
        for (size_t r = 0; r < rows; r += 16)
            for (size_t t = 0; t < count; ++t) {
                float out[16];
                totals_of(sums + (r / kTall * count + t) * kTall, count * kTall, out);
                std::memcpy(y + t * stride + low + r, out, std::min<size_t>(16, rows - r) * sizeof *out);
            }
    }
}

constexpr size_t kFew = 4;  // lines from which on rows are packed

template <class Kind> void plain_of(const typename Kind::Value *w, size_t d, size_t first, size_t last, const typename Kind::Value *x, size_t width,
                                    size_t count, float *y, size_t stride) {
    if (count >= kFew) return tiles_of<Kind>(w, d, true, d, first, last, x, width, count, y, stride);
    for (size_t r = first; r < last; ++r) {
        if (count == 1) row_of<Kind, 1>(w + r * d, d, x, width, y + r, stride);
        else if (count == 2) row_of<Kind, 2>(w + r * d, d, x, width, y + r, stride);
        else row_of<Kind, 3>(w + r * d, d, x, width, y + r, stride);
    }
}

// Calls run(Brain<...>) as this processor can.
template <class Run> void as_brain(const Run &run) {
#if LEVEL == 2 && defined(__GNUC__)
    if (bf16()) return run(Brain<true>{});
#endif
    const lanes::Flush flush;
    run(Brain<false>{});
}

}  // namespace

void plain(const float *w, size_t d, size_t first, size_t last, const float *x, size_t width, size_t count, float *y, size_t stride) {
    plain_of<Wide>(w, d, first, last, x, width, count, y, stride);
}

void brain(const uint16_t *w, size_t d, size_t first, size_t last, const uint16_t *x, size_t width, size_t count, float *y, size_t stride) {
    as_brain([&](auto kind) { plain_of<decltype(kind)>(w, d, first, last, x, width, count, y, stride); });
}

}  // namespace compand::matmul::ISA

// Trellis-coded integers, after ecsq_impl.hpp: 16 rows at once, a lane each. All levels give the same ids and sums.
//
// v stands for the level v + 1/2. Its lowest bit is that of the row's state; state' = state / 2 ^ 18 (lowest bit) ^ 8 (second bit).
// A state n comes of two, both with lowest bit n / 16; `picked` says in bit n whether the second bit was set.

namespace compand::ecsq::ISA {
namespace {

constexpr size_t kStates = 32, kSettle = 16;  // columns after which sums are brought down
constexpr float kFar = 16384;                 // levels

struct Step {
    Ints picked;
    Words near[4];  // the best v of each two lowest bits, + 32768
};

inline Floats least(Floats a, Floats b) { return a < b ? a : b; }

// A column of 16 lines to a line: at[l][i] of what was at[i][l].
inline void turn_lines(Floats *at) {
#define COMPAND_SWAP(h, first, second)                                       \
    for (size_t i = 0; i < kLanes; ++i)                                      \
        if (!(i & h)) {                                                      \
            const Floats a = at[i], b = at[i + h];                           \
            at[i] = __builtin_shufflevector(a, b, first);                    \
            at[i + h] = __builtin_shufflevector(a, b, second);               \
        }
#define COMPAND_LIST(...) __VA_ARGS__
    COMPAND_SWAP(8, COMPAND_LIST(0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23), COMPAND_LIST(8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31))
    COMPAND_SWAP(4, COMPAND_LIST(0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27), COMPAND_LIST(4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31))
    COMPAND_SWAP(2, COMPAND_LIST(0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29), COMPAND_LIST(2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31))
    COMPAND_SWAP(1, COMPAND_LIST(0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30), COMPAND_LIST(1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31))
#undef COMPAND_SWAP
#undef COMPAND_LIST
}

// The columns of 16 rows, or of fewer and zeros, a line for each: (d).
inline void columns_of(const float *x, size_t rows, size_t d, Floats *out) {
    size_t j = 0;
    for (; rows == kLanes && j + kLanes <= d; j += kLanes) {
        for (size_t l = 0; l < kLanes; ++l) std::memcpy(out + j + l, x + l * d + j, sizeof(Floats));
        turn_lines(out + j);
    }
    for (; j < d; ++j) {
        float lane[kLanes] = {};
        for (size_t l = 0; l < rows; ++l) lane[l] = x[l * d + j];
        std::memcpy(out + j, lane, sizeof lane);
    }
}

// Sums that a state is reached with, from those before, and which way.
inline Ints extend(const Floats *before, const Floats *cost, Floats *after) {
    Ints picked = {};
#pragma GCC unroll 32
    for (uint32_t n = 0; n < kStates; ++n) {
        const uint32_t low = n >> 4, from = (n >> 2 & 1) << 3 | ((n >> 1 & 1) ^ low) << 2 | (n & 1) << 1 | low;
        const Floats a = before[from | (n >> 3 & 1) << 4] + cost[low], b = before[from | ((n >> 3 & 1) ^ 1) << 4] + cost[low + 2];
#if LEVEL == 2  // the same in one operation less a state
        const __mmask16 second = _mm512_cmp_ps_mask((__m512)b, (__m512)a, _CMP_LT_OQ);
        after[n] = (Floats)_mm512_min_ps((__m512)b, (__m512)a);
        picked = (Ints)_mm512_mask_or_epi32((__m512i)picked, second, (__m512i)picked, _mm512_set1_epi32(static_cast<int32_t>(1u << n)));
#else
        const Ints second = b < a;
        after[n] = second ? b : a;
        picked |= second & static_cast<int32_t>(1u << n);
#endif
    }
    return picked;
}

// The best level of each two lowest bits for x, and what it costs.
inline void choose(Floats x, const Column &c, Step &step, Floats *cost) {
    Floats t = x * c.inverse;
    t = t < kFar ? t : Floats{} + kFar;
    t = t > -kFar ? t : Floats{} - kFar;
    const Ints sign = (Ints)t & static_cast<int32_t>(0x80000000u);
    Floats aim = (Floats)((Ints)t & 0x7fffffff) - c.shrink;
    aim = aim > 0 ? aim : Floats{};
    aim = (Floats)((Ints)aim | sign);
    for (int32_t r = 0; r < 4; ++r) {
        const Floats y = (aim - (static_cast<float>(r) + 0.5f)) * 0.25f + 8192.5f;  // positive, so that to cut is to round down
        Ints m = __builtin_convertvector(y, Ints) - 8192;
        const int32_t low = -((2 * c.reach + r) >> 2), high = (2 * c.reach - 1 - r) >> 2;
        m = m > low ? m : Ints{} + low;
        m = m < high ? m : Ints{} + high;
        const Ints v = 4 * m + r;
        const Floats level = __builtin_convertvector(v, Floats) + 0.5f, off = t - level;
        cost[r] = c.weight * (off * off) + c.price * (Floats)((Ints)level & 0x7fffffff);
        step.near[r] = __builtin_convertvector(v + 32768, Words);
    }
}

}  // namespace

size_t trellis_scratch(size_t d) { return d * (sizeof(Step) + sizeof(Floats)) + 64; }

void trellis(const float *x, size_t n, size_t d, size_t from, const Column *columns, const Class *classes, size_t count, void *scratch,
             float *dots, float *squares) {
    Step *steps = reinterpret_cast<Step *>((reinterpret_cast<uintptr_t>(scratch) + 63) / 64 * 64);
    Floats *values = reinterpret_cast<Floats *>(steps + d);
    for (size_t i = from; i < from + n; i += kLanes) {
        const size_t rows = from + n - i < kLanes ? from + n - i : kLanes;
        columns_of(x + i * d, rows, d, values);
        Floats sums[2][kStates], cost[4];
        for (size_t s = 0; s < kStates; ++s) sums[0][s] = Floats{} + (s ? 1e30f : 0);
        for (size_t j = 0; j < d; ++j) {
            choose(values[j], columns[j], steps[j], cost);
            Floats *after = sums[(j + 1) % 2];
            steps[j].picked = extend(sums[j % 2], cost, after);
            if (j % kSettle == kSettle - 1) {
                Floats low = after[0];
                for (size_t s = 1; s < kStates; ++s) low = least(low, after[s]);
                for (size_t s = 0; s < kStates; ++s) after[s] -= low;
            }
        }
        Ints state = {};
        Floats best = sums[d % 2][0];
        for (uint32_t s = 1; s < kStates; ++s) {
            const Ints better = sums[d % 2][s] < best;
            state = better ? Ints{} + static_cast<int32_t>(s) : state;
            best = least(best, sums[d % 2][s]);
        }
        Floats dot = {}, square = {};
        size_t j = d;
        for (size_t c = count; c-- > 0;) {
            const Class &own = classes[c];
            const size_t width = own.last - own.first;
            while (j-- > own.first) {
                const Step &step = steps[j];
                const Ints odd = state >> 4 & 1, second = step.picked >> state & 1;
                Ints v = __builtin_convertvector(step.near[0], Ints);
                v = ((odd == 0) & (second == 1)) ? __builtin_convertvector(step.near[2], Ints) : v;
                v = ((odd == 1) & (second == 0)) ? __builtin_convertvector(step.near[1], Ints) : v;
                v = ((odd == 1) & (second == 1)) ? __builtin_convertvector(step.near[3], Ints) : v;
                v -= 32768;
                state = ((state ^ odd * 18 ^ second * 8) & 15) << 1 | odd;
                dot += values[j] * (columns[j].factor * (__builtin_convertvector(v, Floats) + 0.5f));
                square += values[j] * values[j];
                const Ints id = (v >> 1 ^ -odd) + own.reach;  // of odd ones the mirror image, so that both kinds are distributed alike
                int32_t lane[kLanes];
                std::memcpy(lane, &id, sizeof lane);
                if (own.reach <= 128)
                    for (size_t l = 0; l < rows; ++l) static_cast<uint8_t *>(own.ids)[(i + l) * width + j - own.first] = static_cast<uint8_t>(lane[l]);
                else
                    for (size_t l = 0; l < rows; ++l) static_cast<uint16_t *>(own.ids)[(i + l) * width + j - own.first] = static_cast<uint16_t>(lane[l]);
            }
            j = own.first;
        }
        std::memcpy(dots + i, &dot, rows * sizeof(float));
        std::memcpy(squares + i, &square, rows * sizeof(float));
    }
}

}  // namespace compand::ecsq::ISA

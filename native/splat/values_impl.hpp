// Floats to steps and back. Only IEEE sums, products, quotients and square roots: the same on every machine.

inline double power(int e) {  // 2^e, |e| <= 1000
    uint64_t bits = static_cast<uint64_t>(e + 1023) << 52;
    double v;
    std::memcpy(&v, &bits, 8);
    return v;
}

inline double half_power(int h) {  // 2^(h / 2)
    const int e = h >> 1;
    return power(e) * (h & 1 ? 1.4142135623730951 : 1.0);
}

// Natural logarithm of v > 0 by a series.
inline double log_of(double v) {
    int e = 0;
    for (; v >= 1.5; v *= 0.5) ++e;
    for (; v < 0.75; v *= 2) --e;
    const double s = (v - 1) / (v + 1), s2 = s * s;
    double sum = 0;
    for (int k = 25; k >= 1; k -= 2) sum = sum * s2 + 1.0 / k;
    return e * 0.6931471805599453 + 2 * s * sum;
}

// Logit of alpha = root^2: levels are even in the root, because many faint splats lie over each other and must keep their sum.
inline double logit_of(double root) { return 2 * log_of(root) - log_of(1 - root) - log_of(1 + root); }

inline int32_t nearest(double v, int32_t most) {  // ties upwards
    v = v < -most ? -most : v > most ? most : v;
    const double up = v + 0.5;
    auto whole = static_cast<int32_t>(up);
    return whole - (static_cast<double>(whole) > up);
}

inline int32_t floor_of(int32_t a, int32_t b) { return a / b - (a % b != 0 && (a < 0) != (b < 0)); }

// 2^(e / 16) in 1/65536, 0 <= e <= 16 * 30.
inline uint64_t sixteenth_power(int e) {
    static constexpr uint32_t part[16] = {65536, 68438, 71468, 74632, 77936, 81386, 84990, 88752,
                                          92682, 96785, 101070, 105545, 110218, 115098, 120194, 125515};
    return static_cast<uint64_t>(part[e & 15]) << (e >> 4);
}

// Cells of an angle between axes whose scales differ by 2^(d / m): 2^(most / 16) from 2^4 on; towards 2^1 fewer by `turn` / 16 of a bit an
// octave; below, as many as the difference of the axes asks for. And fewer where both axes are shorter than the third, by 2^(rest / m).
// All times part / 65536.
inline uint32_t cells_for(int32_t d, int m, int most, int turn, int32_t rest = 0, uint64_t part = 65536) {
    static constexpr uint8_t below[16] = {80, 64, 48, 39, 32, 27, 23, 19, 16, 13, 11, 9, 7, 5, 3, 1};  // 16 log2(16 / d), at most 5 octaves
    const int32_t octaves = d >= 4 * m ? 64 : d < 0 ? 0 : 16 * d / m;
    const int shorter = 2 * (16 - turn) * (rest >= 8 * m ? 8 * 16 : rest < 0 ? 0 : 16 * rest / m) / 16;
    const int e = most - shorter - (octaves >= 16 ? turn * (64 - octaves) / 16 : 3 * turn + below[octaves]);
    return e <= 0 ? 1 : static_cast<uint32_t>(((sixteenth_power(e) * part >> 16) + 32768) >> 16);
}

// Opponent colours: sum, red - blue, green against both; orthonormal.
inline void opponent(const float *rgb, double *c) {
    c[0] = (static_cast<double>(rgb[0]) + rgb[1] + rgb[2]) * 0.5773502691896258;
    c[1] = (static_cast<double>(rgb[0]) - rgb[2]) * 0.7071067811865476;
    c[2] = (2.0 * rgb[1] - rgb[0] - rgb[2]) * 0.4082482904638631;
}

inline void colour(const double *c, float *rgb) {
    const double y = c[0] * 0.5773502691896258, d = c[1] * 0.7071067811865476, g = c[2] * 0.4082482904638631;
    rgb[0] = static_cast<float>(y + d - g);
    rgb[1] = static_cast<float>(y + 2 * g);
    rgb[2] = static_cast<float>(y - d - g);
}

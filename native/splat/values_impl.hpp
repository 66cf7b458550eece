// Floats to steps and back. Only IEEE sums, products, quotients and square roots: the same on every machine.

struct Frame {
    float axis[3][3];  // own axes in the scene, by falling scale
};

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

// Hemisphere z >= 0 <-> square [-1, 1]^2 (hemi-octahedral map, Cigolle et al. 2014).
inline void direction(float u, float v, float *d) {
    const float x = (u + v) * 0.5f, y = (u - v) * 0.5f;
    const float z = 1.0f - (x < 0 ? -x : x) - (y < 0 ? -y : y);
    const float length = std::sqrt(x * x + y * y + z * z);
    d[0] = x / length, d[1] = y / length, d[2] = z / length;
}

inline void square(const float *d, float *u, float *v) {
    const float sum = (d[0] < 0 ? -d[0] : d[0]) + (d[1] < 0 ? -d[1] : d[1]) + (d[2] < 0 ? -d[2] : d[2]);
    const float x = d[0] / sum, y = d[1] / sum;
    *u = x + y, *v = x - y;
}

// Two directions that make an orthonormal base with d, d[2] >= 0 (Duff et al. 2017).
inline void base_of(const float *d, float *f, float *g) {
    const float a = -1.0f / (1.0f + d[2]), b = d[0] * d[1] * a;
    f[0] = 1.0f + d[0] * d[0] * a, f[1] = b, f[2] = -d[0];
    g[0] = b, g[1] = 1.0f + d[1] * d[1] * a, g[2] = -d[1];
}

inline void cross(const float *a, const float *b, float *c) {
    c[0] = a[1] * b[2] - a[2] * b[1];
    c[1] = a[2] * b[0] - a[0] * b[2];
    c[2] = a[0] * b[1] - a[1] * b[0];
}

// Axes of a quaternion w x y z of any length, in the order given.
inline Frame frame_of(const float *q, const int *order) {
    double w = q[0], x = q[1], y = q[2], z = q[3];
    const double n = w * w + x * x + y * y + z * z;
    if (!(n > 1e-60 && n < 1e60)) w = 1, x = y = z = 0;
    else {
        const double r = 1 / std::sqrt(n);
        w *= r, x *= r, y *= r, z *= r;
    }
    const double m[3][3] = {{1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)},
                            {2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)},
                            {2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)}};  // m[k] = axis k
    Frame f;
    for (int k = 0; k < 3; ++k) {
        for (int i = 0; i < 3; ++i) f.axis[k][i] = static_cast<float>(m[order[k]][i]);
    }
    return f;
}

// The quaternion of three right-handed axes, w >= 0 (Shepperd 1978).
inline void quaternion(const Frame &f, float *q) {
    const float xx = f.axis[0][0], yy = f.axis[1][1], zz = f.axis[2][2], trace = xx + yy + zz;
    const float yz = f.axis[1][2] - f.axis[2][1], zx = f.axis[2][0] - f.axis[0][2], xy = f.axis[0][1] - f.axis[1][0];
    const float sxy = f.axis[0][1] + f.axis[1][0], szx = f.axis[2][0] + f.axis[0][2], syz = f.axis[1][2] + f.axis[2][1];
    if (trace > 0) {
        const float s = std::sqrt(trace + 1.0f) * 2;
        q[0] = 0.25f * s, q[1] = yz / s, q[2] = zx / s, q[3] = xy / s;
    } else if (xx >= yy && xx >= zz) {
        const float t = 1.0f + xx - yy - zz, s = std::sqrt(t > 1e-12f ? t : 1e-12f) * 2;
        q[0] = yz / s, q[1] = 0.25f * s, q[2] = sxy / s, q[3] = szx / s;
    } else if (yy >= zz) {
        const float t = 1.0f + yy - xx - zz, s = std::sqrt(t > 1e-12f ? t : 1e-12f) * 2;
        q[0] = zx / s, q[1] = sxy / s, q[2] = 0.25f * s, q[3] = syz / s;
    } else {
        const float t = 1.0f + zz - xx - yy, s = std::sqrt(t > 1e-12f ? t : 1e-12f) * 2;
        q[0] = xy / s, q[1] = szx / s, q[2] = syz / s, q[3] = 0.25f * s;
    }
    if (q[0] < 0) {
        for (int i = 0; i < 4; ++i) q[i] = -q[i];
    }
}

// A frame as its odd axis (a direction up to sign, on a grid) and the angle of the next around it (up to half a turn).
struct Turned {
    uint32_t u, v, t;
};

inline uint32_t place(float x, uint32_t cells) {  // [-1, 1] -> one of so many cells
    const double whole = static_cast<double>(cells);
    const double at = (static_cast<double>(x) + 1) * 0.5 * whole;
    return at <= 0 ? 0 : at >= whole - 1 ? cells - 1 : static_cast<uint32_t>(at);
}

inline float middle(uint32_t cell, uint32_t cells) {
    return static_cast<float>((2.0 * cell + 1) / static_cast<double>(cells) - 1);
}

// needle: the odd axis is the longest (0), the next the second; else the odd one is the shortest (2), the next the longest.
inline Turned turned(const Frame &f, bool needle, uint32_t cells, uint32_t turn_cells) {
    float d[3], o[3], a[3], b[3], u, v;
    const int odd = needle ? 0 : 2, next = needle ? 1 : 0;
    for (int i = 0; i < 3; ++i) d[i] = f.axis[odd][2] < 0 ? -f.axis[odd][i] : f.axis[odd][i];
    square(d, &u, &v);
    Turned r{place(u, cells), place(v, cells), 0};
    direction(middle(r.u, cells), middle(r.v, cells), o);
    base_of(o, a, b);
    float c = 0, s = 0;
    for (int i = 0; i < 3; ++i) c += f.axis[next][i] * a[i], s += f.axis[next][i] * b[i];
    if (c < 0) c = -c, s = -s;
    const float length = std::sqrt(c * c + s * s);
    r.t = place(length > 1e-9f ? s / (length + c) : 0.0f, turn_cells);
    return r;
}

inline Frame frame_of(const Turned &r, bool needle, uint32_t cells, uint32_t turn_cells) {
    float o[3], a[3], b[3], n[3], p[3];
    direction(middle(r.u, cells), middle(r.v, cells), o);
    base_of(o, a, b);
    const float t = middle(r.t, turn_cells), whole = 1.0f + t * t, c = (1.0f - t * t) / whole, s = 2 * t / whole;
    for (int i = 0; i < 3; ++i) n[i] = c * a[i] + s * b[i];
    cross(o, n, p);
    Frame f;
    const float *axes[3] = {needle ? o : n, needle ? n : p, needle ? p : o};  // right-handed either way
    for (int k = 0; k < 3; ++k) {
        for (int i = 0; i < 3; ++i) f.axis[k][i] = axes[k][i];
    }
    return f;
}

// 2^(e / 16) in 1/65536, 0 <= e <= 16 * 30.
inline uint64_t sixteenth_power(int e) {
    static constexpr uint32_t part[16] = {65536, 68438, 71468, 74632, 77936, 81386, 84990, 88752,
                                          92682, 96785, 101070, 105545, 110218, 115098, 120194, 125515};
    return static_cast<uint64_t>(part[e & 15]) << (e >> 4);
}

// Cells of an angle between axes whose scales differ by 2^(d / m): 2^(most / 16) from 2^4 on; towards 2^1 fewer by `turn` / 16 of a bit an
// octave; below, as many as the difference of the axes asks for. And fewer where both axes are shorter than the third, by 2^(rest / m).
inline uint32_t cells_for(int32_t d, int m, int most, int turn, int32_t rest = 0) {
    static constexpr uint8_t below[16] = {80, 64, 48, 39, 32, 27, 23, 19, 16, 13, 11, 9, 7, 5, 3, 1};  // 16 log2(16 / d), at most 5 octaves
    const int32_t octaves = d >= 4 * m ? 64 : d < 0 ? 0 : 16 * d / m;
    const int shorter = 2 * (16 - turn) * (rest >= 8 * m ? 8 * 16 : rest < 0 ? 0 : 16 * rest / m) / 16;
    const int e = most - shorter - (octaves >= 16 ? turn * (64 - octaves) / 16 : 3 * turn + below[octaves]);
    return e <= 0 ? 1 : static_cast<uint32_t>((sixteenth_power(e) + 32768) >> 16);
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

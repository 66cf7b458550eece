// Rotations as a direction and a turn around it, and back: floats by IEEE operations only, many at a time.

struct Frame {
    float axis[3][3];  // own axes in the scene, by falling scale
};

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

inline uint32_t place(float x, uint32_t cells) {  // [-1, 1] -> one of so many cells
    const double whole = static_cast<double>(cells);
    const double at = (static_cast<double>(x) + 1) * 0.5 * whole;
    return at <= 0 ? 0 : at >= whole - 1 ? cells - 1 : static_cast<uint32_t>(at);
}

inline double within(float x, uint32_t cells) { return (static_cast<double>(x) + 1) * 0.5 * cells - 0.5; }  // the middle of cell k: k

inline float middle(int32_t cell, int32_t cells) { return static_cast<float>((2.0 * cell + 1) / static_cast<double>(cells) - 1); }

// Where a frame's odd axis, a direction up to sign, is in the square. needle: it is the longest (0), the next the second; else the
// shortest (2), the next the longest.
inline void odd_axis(const Frame &f, bool needle, float *at) {
    const float *axis = f.axis[needle ? 0 : 2];
    float d[3];
    for (int i = 0; i < 3; ++i) d[i] = axis[2] < 0 ? -axis[i] : axis[i];
    square(d, at, at + 1);
}

// How far the next is turned around the odd axis as it was placed (up to half a turn), in [-1, 1].
inline float turn_around(const Frame &f, bool needle, uint32_t u, uint32_t v, uint32_t cells) {
    float o[3], a[3], b[3], c = 0, s = 0;
    direction(middle(static_cast<int32_t>(u), static_cast<int32_t>(cells)), middle(static_cast<int32_t>(v), static_cast<int32_t>(cells)), o);
    base_of(o, a, b);
    const float *next = f.axis[needle ? 1 : 0];
    for (int i = 0; i < 3; ++i) c += next[i] * a[i], s += next[i] * b[i];
    if (c < 0) c = -c, s = -s;
    const float length = std::sqrt(c * c + s * s);
    return length > 1e-9f ? s / (length + c) : 0.0f;
}

// The quaternions w x y z, w >= 0, of rotations: cells of the odd axis and of the turn, out of so many (Shepperd 1978). No branches, so that
// the compiler makes vectors of it; the same bits on every machine. out: the first of rows of `width`.
inline void quaternions(const int32_t *u, const int32_t *v, const int32_t *t, const int32_t *cells, const int32_t *turn_cells,
                        const uint8_t *needle, size_t n, float *out, size_t width) {
    constexpr size_t wide = 16;
    for (size_t from = 0; from < n; from += wide) {
        const size_t count = std::min(wide, n - from);
        float su[wide], sv[wide], st[wide], q[4][wide];
        int32_t longest[wide];
        for (size_t k = 0; k < wide; ++k) su[k] = sv[k] = st[k] = 0, longest[k] = 0;
        for (size_t k = 0; k < count; ++k) {
            su[k] = middle(u[from + k], cells[from + k]), sv[k] = middle(v[from + k], cells[from + k]);
            st[k] = middle(t[from + k], turn_cells[from + k]), longest[k] = needle[from + k];
        }
        for (size_t k = 0; k < wide; ++k) {
            const float dx = (su[k] + sv[k]) * 0.5f, dy = (su[k] - sv[k]) * 0.5f;
            const float dz = 1.0f - (dx < 0 ? -dx : dx) - (dy < 0 ? -dy : dy), length = std::sqrt(dx * dx + dy * dy + dz * dz);
            const float o0 = dx / length, o1 = dy / length, o2 = dz / length;
            const float a = -1.0f / (1.0f + o2), b = o0 * o1 * a, whole = 1.0f + st[k] * st[k];
            const float c = (1.0f - st[k] * st[k]) / whole, s = 2 * st[k] / whole;
            const float n0 = c * (1.0f + o0 * o0 * a) + s * b, n1 = c * b + s * (1.0f + o1 * o1 * a), n2 = c * -o0 + s * -o1;
            const float p0 = o1 * n2 - o2 * n1, p1 = o2 * n0 - o0 * n2, p2 = o0 * n1 - o1 * n0;
            const bool first = longest[k] != 0;
            const float x0 = first ? o0 : n0, x1 = first ? o1 : n1, x2 = first ? o2 : n2;
            const float y0 = first ? n0 : p0, y1 = first ? n1 : p1, y2 = first ? n2 : p2;
            const float z0 = first ? p0 : o0, z1 = first ? p1 : o1, z2 = first ? p2 : o2;
            const float trace = x0 + y1 + z2, yz = y2 - z1, zx = z0 - x2, xy = x1 - y0, sxy = y0 + x1, szx = x2 + z0, syz = z1 + y2;
            const float tw = trace + 1.0f, tx = 1.0f + x0 - y1 - z2, ty = 1.0f + y1 - x0 - z2, tz = 1.0f + z2 - x0 - y1;
            const bool of_w = trace > 0, of_x = (x0 >= y1) & (x0 >= z2), of_y = y1 >= z2;
            const float most = of_w ? tw : of_x ? tx : of_y ? ty : tz, root = std::sqrt(most > 1e-12f ? most : 1e-12f) * 2;
            const float quarter = 0.25f * root, w = (of_x ? yz : of_y ? zx : xy) / root, x = (of_w ? yz : of_y ? sxy : szx) / root;
            const float y = (of_w ? zx : of_x ? sxy : syz) / root, z = (of_w ? xy : of_x ? szx : syz) / root;
            const float q0 = of_w ? quarter : w, q1 = !of_w & of_x ? quarter : x, q2 = !of_w & !of_x & of_y ? quarter : y;
            const float q3 = of_w | of_x | of_y ? z : quarter;
            const bool negative = q0 < 0;
            q[0][k] = negative ? -q0 : q0, q[1][k] = negative ? -q1 : q1, q[2][k] = negative ? -q2 : q2, q[3][k] = negative ? -q3 : q3;
        }
        for (size_t k = 0; k < count; ++k) {
            for (int i = 0; i < 4; ++i) out[(from + k) * width + static_cast<size_t>(i)] = q[i][k];
        }
    }
}

constexpr float kMostLog = 40, kOctave = 1.4426950408889634f;

inline double root_of(const Steps &p, double level) {  // the root of the alpha of a level
    const double at = level / p.opacity;
    return p.even ? std::sqrt(at) : at;
}

inline std::vector<int32_t> weights(const Steps &p) {  // of levels of opacity: 2 log2 alpha in 1/scale octaves
    std::vector<int32_t> of(static_cast<size_t>(p.opacity));
    for (size_t a = 0; a < of.size(); ++a) of[a] = nearest(4.0 * p.scale * 1.4426950408889634 * log_of(root_of(p, static_cast<double>(a) + 0.5)), 1 << 20);
    return of;
}

// Half octaves by which the steps of colour are wider than usual, by what a splat adds to a picture in 1/scale octaves.
inline int8_t shift_of(const Steps &p, int32_t weight) {
    return static_cast<int8_t>(std::clamp(floor_of((p.reference - weight) * p.adapt, 16 * p.scale), -6, 12));
}

// What the decoder knows of each splat, in order of decoding.
struct Block {
    size_t n;
    int rest, position0 = 0;  // position0: exponent of the grid's step
    std::vector<uint32_t> points;  // writer: (n, 3) on the grid
    std::vector<Cell> cells;
    std::vector<uint32_t> near;
    std::vector<int32_t> scale[3], off, alpha;  // longest first; off: surprise at the first
    std::vector<int8_t> shift;  // of colour's steps
    std::vector<float> wanted, level_of;  // writer: scales before rounding, and levels of opacity

    explicit Block(size_t n, int rest) : n(n), rest(rest), cells(n), near(kNear * n), off(n), alpha(n), shift(n) {
        for (auto &s : scale) s.resize(n);
    }
    struct Guess {
        int32_t middle;
        uint32_t apart;  // sum of distances from it
    };
    Guess guess(const int32_t *v, size_t i) const {  // from rows near i, the first from row 0, which is 0 then; |v| < 2^26
        const uint32_t *at = near.data() + kNear * i;
        const int32_t v0 = v[at[0]], v1 = v[at[1]], v2 = v[at[2]], v3 = v[at[3]];
        const int32_t middle = (5 * v0 + 4 * (v1 + v2) + 3 * v3 + 8) >> 4;
        return {middle, static_cast<uint32_t>(std::abs(v0 - middle) + std::abs(v1 - middle) + std::abs(v2 - middle) + std::abs(v3 - middle))};
    }
    void measure(const Steps &p, const float *rows, size_t width) {  // scales of rows
        wanted.resize(3 * n);
        for (size_t i = 0; i < n; ++i) {
            float *s = wanted.data() + 3 * i;
            for (size_t k = 0; k < 3; ++k) s[k] = std::clamp(rows[i * width + 3 + k], -kMostLog, kMostLog) * kOctave * static_cast<float>(p.scale);
            std::sort(s, s + 3, [](float x, float y) { return x > y; });
            for (size_t k = 0; k < 3; ++k) scale[k][i] = nearest(s[k], 1 << 15);
        }
    }
    void level(const Steps &p, const float *rows, size_t width) {  // levels of opacity of rows
        std::vector<double> edge(static_cast<size_t>(p.opacity) + 1);  // logits between levels
        for (size_t a = 1; a + 1 < edge.size(); ++a) edge[a] = logit_of(root_of(p, static_cast<double>(a)));
        level_of.resize(n);
        for (size_t i = 0; i < n; ++i) {
            const double v = rows[i * width + 10];
            const auto a = static_cast<size_t>(std::upper_bound(edge.begin() + 1, edge.end() - 1, v) - edge.begin() - 1);
            const double inside = a > 0 && a + 2 < edge.size() ? (v - edge[a]) / (edge[a + 1] - edge[a]) : 0.5;
            level_of[i] = static_cast<float>(static_cast<double>(a) + inside - 0.5);
        }
    }
    void write_sizes(const Steps &p, float *rows, size_t width) const {
        std::vector<float> logit(static_cast<size_t>(p.opacity));
        for (size_t a = 0; a < logit.size(); ++a) logit[a] = static_cast<float>(logit_of(root_of(p, static_cast<double>(a) + 0.5)));
        const double nepers = 0.6931471805599453 / p.scale;
        for (size_t i = 0; i < n; ++i) {
            float *row = rows + i * width;
            for (int k = 0; k < 3; ++k) row[3 + k] = static_cast<float>(scale[k][i] * nepers);
            row[10] = logit[static_cast<size_t>(alpha[i])];
        }
    }
};

// Of the two whole numbers around x the one that is worth its bits; trade is their price in squares of steps.
template <class Model> int32_t chosen(double x, Model &model, const typename Model::Aim &aim, double trade) {
    const int32_t near = nearest(x, 1 << 24), other = static_cast<double>(near) < x ? near + 1 : near - 1;
    if (trade <= 0) return near;
    const double a = x - near, b = x - other;
    return b * b + trade * model.bits(other, aim) < a * a + trade * model.bits(near, aim) ? other : near;
}

inline size_t bucket(int32_t v) { return static_cast<size_t>(std::clamp(v + 8, 0, 15)); }

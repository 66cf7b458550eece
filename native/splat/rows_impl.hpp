constexpr float kMostLog = 40, kOctave = 1.4426950408889634f;

// What both sides make of the steps. From format 4 on steps of scales, opacity and colour are halved here, cells of rotations and positions
// where they are used, and each number's lowest bit is known (trellis_impl.hpp).
struct Rules : Steps {
    int position, rotation;  // in eighths, and in sixteenths of a bit
    uint64_t closer, rounder;  // how many more cells those ask for than these say, in 1/65536
    int known;  // how many low bits of a number are known
    int format;  // of the stream; 1 to 3 are only read

    Rules(const Steps &p, int format) : Steps(p), position(0), rotation(0), closer(65536), rounder(65536), known(format >= 4), format(format) {
        static constexpr uint32_t part[8] = {65536, 66250, 66971, 67700, 68438, 69183, 69936, 70698};  // 2^(k / 64)
        if (known) {
            const int places = static_cast<int>(std::nearbyint(64 * p.position)), turns = static_cast<int>(std::nearbyint(64 * p.rotation));
            position = places >> 3, closer = part[places & 7];
            rotation = turns >> 2, rounder = part[2 * (turns & 3)];
            scale *= 2, opacity *= 2, reference *= 2, colour /= 2;
        } else {
            position = static_cast<int>(std::nearbyint(8 * p.position));
            rotation = static_cast<int>(std::nearbyint(16 * p.rotation));
        }
    }
};

// floor(v / by) for |v| < 2^20 and by < 2^13, without a division.
class Quotient {
public:
    explicit Quotient(int by) : inverse_((int64_t{1} << 40) / by + 1), bias_(int64_t{1 << 20} / by + 1), shift_(bias_ * by) {}
    int32_t operator()(int32_t v) const { return static_cast<int32_t>(((v + shift_) * inverse_ >> 40) - bias_); }

private:
    int64_t inverse_, bias_, shift_;
};

inline double root_of(const Rules &p, double level) {  // the root of the alpha of a level
    const double at = level / p.opacity;
    return p.even ? std::sqrt(at) : at;
}

inline std::vector<int32_t> weights(const Rules &p) {  // of levels of opacity: 2 log2 alpha in 1/scale octaves
    std::vector<int32_t> of(static_cast<size_t>(p.opacity));
    for (size_t a = 0; a < of.size(); ++a) of[a] = nearest(4.0 * p.scale * 1.4426950408889634 * log_of(root_of(p, static_cast<double>(a) + 0.5)), 1 << 20);
    return of;
}

// Half octaves by which the steps of colour are wider than usual, by what a splat adds to a picture in 1/scale octaves.
inline int8_t shift_of(const Rules &p, int32_t weight) {
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
    std::vector<float> wanted;  // writer: scales before rounding
    std::vector<int32_t> planned[4];  // writer: scales and levels of opacity

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
    void measure(const Rules &p, const float *rows, size_t width) {  // scales of rows
        wanted.resize(3 * n);
        for (size_t i = 0; i < n; ++i) {
            float *s = wanted.data() + 3 * i;
            for (size_t k = 0; k < 3; ++k) s[k] = std::clamp(rows[i * width + 3 + k], -kMostLog, kMostLog) * kOctave * static_cast<float>(p.scale);
            std::sort(s, s + 3, [](float x, float y) { return x > y; });
            for (size_t k = 0; k < 3; ++k) scale[k][i] = nearest(s[k], 1 << 15);
        }
    }
    // Scales and levels of opacity as they will be said: those of all splats, before the first is.
    void plan(const Rules &p, const float *rows, size_t width) {
        for (size_t k = 0; k < 3; ++k) {
            Path path(true);
            for (size_t i = 0; i < n; ++i) path.add(wanted[3 * i + k]);
            planned[k] = scale[k] = path.take();
        }
        std::vector<double> edge(static_cast<size_t>(p.opacity) + 1);  // logits between levels
        for (size_t a = 1; a + 1 < edge.size(); ++a) edge[a] = logit_of(root_of(p, static_cast<double>(a)));
        Path path(false);
        for (size_t i = 0; i < n; ++i) {
            const double v = rows[i * width + 10];
            const auto a = static_cast<size_t>(std::upper_bound(edge.begin() + 1, edge.end() - 1, v) - edge.begin() - 1);
            const double inside = a > 0 && a + 2 < edge.size() ? (v - edge[a]) / (edge[a + 1] - edge[a]) : 0.5;
            path.add(static_cast<double>(a) + inside - 0.5, p.opacity);
        }
        planned[3] = alpha = path.take();
        const std::vector<int32_t> weight = weights(p);
        for (size_t i = 0; i < n; ++i) shift[i] = shift_of(p, scale[0][i] + scale[1][i] + weight[static_cast<size_t>(alpha[i])]);
    }
    void forget() {  // the first row is foretold from itself, of which nothing is known
        for (auto *v : {&scale[0], &scale[1], &scale[2], &alpha}) (*v)[0] = 0;
    }
};

inline size_t bucket(int32_t v) { return static_cast<size_t>(std::clamp(v + 8, 0, 15)); }

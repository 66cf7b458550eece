// Positions: the grid whose tree says which cells hold splats, and the last bits, where in its cell a splat is.

inline int fine_position_of(const Block &b, const Steps &p, size_t i) {  // exponent of the position's step, in 1/16
    return floor_of(16 * (16 * (b.scale[0][i] + b.scale[1][i]) + p.thin * b.scale[2][i]), (32 + p.thin) * p.scale) - 2 * p.position;
}

// Grid and points of the rows: cells of one grid around the origin, so that a coarser grid keeps their order.
inline void place_points(Block &b, const Steps &p, const float *rows, size_t width) {
    double most = 0;
    int exponent = 400;
    for (size_t i = 0; i < b.n; ++i) {
        for (size_t a = 0; a < 3; ++a) most = std::max(most, std::fabs(static_cast<double>(rows[i * width + a])));
        exponent = std::min(exponent, floor_of(fine_position_of(b, p, i), 16) - 4);
    }
    exponent = std::max(exponent, -400);
    while (most >= power(exponent + kGrid - 1)) ++exponent;
    b.position0 = exponent;
    b.points.resize(3 * b.n);
    const double scale = power(-exponent);
    for (size_t i = 0; i < b.n; ++i) {
        for (size_t a = 0; a < 3; ++a) {
            const double v = std::floor(static_cast<double>(rows[i * width + a]) * scale);
            b.points[3 * i + a] = static_cast<uint32_t>(static_cast<int32_t>(v) + (1 << (kGrid - 1)));
        }
    }
}

template <class Coder> bool code_grid(Coder &coder, Block &b) {
    b.position0 = static_cast<int>(coder.raw(static_cast<uint32_t>(b.position0 + 1024), 12)) - 1024;
    if (b.position0 < -400 || b.position0 > 400) return false;
    code_tree(coder, b.points.data(), b.n, kGrid, b.cells.data());
    return !coder.bad();
}

template <class Coder> class Places {
public:
    Places(Coder &coder, const Block &b, const Steps &p, float *out, size_t width)
        : coder_(coder), b_(b), p_(p), out_(out), width_(width), unit_(power(b.position0)) {}
    void code(size_t i) {
        const int e = std::clamp(fine_position_of(b_, p_, i) - 16 * b_.position0, 0, 16 * kGrid);
        const uint64_t step = sixteenth_power(e);
        for (int a = 0; a < 3; ++a) {
            const int open = b_.cells[i].undecided(a);
            const uint64_t whole = uint64_t{65536} << open;
            const auto cells = static_cast<uint32_t>((whole + step - 1) / step);
            const uint32_t from = b_.cells[i].at[a];
            uint32_t at = 0;
            if constexpr (Coder::writes) {
                const uint32_t v = b_.points[3 * i + static_cast<size_t>(a)] - from;
                at = static_cast<uint32_t>((2 * uint64_t{v} + 1) * cells >> (open + 1));
            }
            at = coder_.even(at, cells);
            if constexpr (!Coder::writes) {
                const double inside = (static_cast<double>(at) + 0.5) / static_cast<double>(cells) * static_cast<double>(uint32_t{1} << open);
                out_[i * width_ + static_cast<size_t>(a)] =
                    static_cast<float>((static_cast<double>(from) - (1 << (kGrid - 1)) + inside) * unit_);
            }
        }
    }

private:
    Coder &coder_;
    const Block &b_;
    const Steps &p_;
    float *out_;
    size_t width_;
    double unit_;
};

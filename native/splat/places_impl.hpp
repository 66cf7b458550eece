// Positions: the grid whose tree says which cells hold splats, and the last bits, where in its cell a splat is.

inline int fine_position_of(const Block &b, const Rules &p, size_t i) {  // exponent of the position's step, in 1/16
    return floor_of(16 * (16 * (b.scale[0][i] + b.scale[1][i]) + p.thin * b.scale[2][i]), (32 + p.thin) * p.scale) - 2 * p.position;
}

// Grid and points of the rows: cells of one grid around the origin, so that a coarser grid keeps their order.
inline void place_points(Block &b, const Rules &p, const float *rows, size_t width) {
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
    Places(Coder &coder, const Block &b, const Rules &p, const float *rows, size_t width) : coder_(coder), b_(b), p_(p), unit_(power(b.position0)) {
        for (size_t r = 0; r < 16; ++r) {  // of a width of 2^k / 65536 cells, steps of 2^(r / 16)
            for (int k = 0; k < kWidths; ++k) cells_of_[r][k] = static_cast<uint32_t>(std::max<uint64_t>(1, ((p.closer << k) + (sixteenth_power(static_cast<int>(r)) << 16) - 1) / (sixteenth_power(static_cast<int>(r)) << 16)));
        }
        if constexpr (Coder::writes) plan(rows, width);
    }
    void code(size_t i) {
        const int e = exponent(i);
        for (int a = 0; a < 3; ++a) {
            const int open = b_.cells[i].undecided(a);
            const uint32_t cells = cells_in(open, e);
            const bool halved = p_.known && cells >= kLeastCells;
            uint32_t at = coder_.even(Coder::writes ? planned_[3 * i + static_cast<size_t>(a)] >> halved : 0, cells);
            if (halved) {
                at = at << 1 | chain_.low();
                chain_.next(at);
            }
            at_[a][i % kSome] = static_cast<int32_t>(at), of_[a][i % kSome] = static_cast<int32_t>(cells << halved);
            width_[a][i % kSome] = 1 << open, from_[a][i % kSome] = static_cast<int32_t>(b_.cells[i].at[a]);
        }
    }
    void rebuild(size_t from, size_t to, float *out, size_t width) const {
        float places[3][kSome];
        for (int a = 0; a < 3; ++a) {
            for (size_t k = 0; k < kSome; ++k) {
                const double inside = (at_[a][k] + 0.5) / static_cast<double>(of_[a][k]) * static_cast<double>(width_[a][k]);
                places[a][k] = static_cast<float>((static_cast<double>(from_[a][k]) - (1 << (kGrid - 1)) + inside) * unit_);
            }
        }
        for (size_t i = from; i < to; ++i) {
            for (size_t a = 0; a < 3; ++a) out[i * width + a] = places[a][i % kSome];
        }
    }

private:
    static constexpr int kWidths = kGrid + 17;
    int exponent(size_t i) const { return std::clamp(fine_position_of(b_, p_, i) - 16 * b_.position0, 0, 16 * kGrid); }
    uint32_t cells_in(int open, int e) const {
        const int k = 16 + open - (e >> 4);
        return k < 0 ? 1 : cells_of_[e & 15][k];
    }
    void plan(const float *rows, size_t width) {
        const double scale = power(-b_.position0);
        Path path(true);
        planned_.resize(3 * b_.n);
        std::vector<size_t> kept;
        for (size_t i = 0; i < b_.n; ++i) {
            const int e = exponent(i);
            for (int a = 0; a < 3; ++a) {
                const int open = b_.cells[i].undecided(a);
                const uint32_t cells = cells_in(open, e);
                const size_t at = 3 * i + static_cast<size_t>(a);
                const double in = static_cast<double>(rows[i * width + static_cast<size_t>(a)]) * scale + (1 << (kGrid - 1)) - b_.cells[i].at[a];
                if (cells < kLeastCells) {
                    planned_[at] = static_cast<uint32_t>(std::clamp(std::floor(in * cells / static_cast<double>(uint32_t{1} << open)), 0.0, cells - 1.0));
                } else {
                    path.add(in * 2 * cells / static_cast<double>(uint32_t{1} << open) - 0.5, static_cast<int32_t>(2 * cells));
                    kept.push_back(at);
                }
            }
        }
        const std::vector<int32_t> found = path.take();
        for (size_t j = 0; j < kept.size(); ++j) planned_[kept[j]] = static_cast<uint32_t>(found[j]);
    }

    Coder &coder_;
    const Block &b_;
    const Rules &p_;
    double unit_;
    Chain chain_;
    uint32_t cells_of_[16][kWidths];
    int32_t at_[3][kSome] = {}, of_[3][kSome] = {}, width_[3][kSome] = {}, from_[3][kSome] = {};  // cell, of so many, of how wide a cell of the tree
    std::vector<uint32_t> planned_;
};

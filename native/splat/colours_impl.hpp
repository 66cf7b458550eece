// Colour and harmonics, whose steps follow what a splat adds to a picture.

constexpr int kFine = 16;  // colours foretold in 1/16 of the reference step
constexpr int32_t kMostColour = 1 << 22;

inline size_t zone_of(int32_t v) {
    const size_t size = std::min<size_t>(half_octave(v < 0 ? -v : v), 15);
    return v < 0 ? 15 - size : 16 + size;
}

template <class Coder> class Colours {
public:
    Colours(Coder &coder, const Block &b, const Rules &p, const float *rows, size_t width)
        : coder_(coder), b_(b), p_(p), residual_{Residual(p.known), Residual(p.known), Residual(p.known)} {
        for (int h = -6; h <= 12; ++h) unit_[h + 6] = nearest(kFine * half_power(h), 1 << 20), inverse_[h + 6] = (1 << 20) / unit_[h + 6], step_[h + 6] = p.colour * half_power(h);
        for (auto &f : fine_) f.resize(b.n);
        if constexpr (Coder::writes) {
            Path path[3] = {Path(false), Path(false), Path(false)};
            for (size_t i = 0; i < b.n; ++i) {
                double wanted[3];
                opponent(rows + i * width + 11, wanted);
                for (int k = 0; k < 3; ++k) path[k].add(std::clamp<double>(wanted[k] / step_[b.shift[i] + 6], 8 - kMostColour, kMostColour - 8));
            }
            for (int k = 0; k < 3; ++k) planned_[k] = path[k].take();
        }
    }
    template <int k> void code(size_t i) {
        const int h = b_.shift[i];
        const int32_t u = unit_[h + 6];
        const int64_t inverse = inverse_[h + 6];
        const auto [fine, apart] = b_.guess(fine_[k].data(), i);
        const auto simple = static_cast<int32_t>((fine * inverse + (1 << 19)) >> 20);
        const int32_t more = k == 0 ? 0 : k == 1 ? first_.expect(off_[0]) : second_.expect(off_[0]) + third_.expect(off_[1]);
        const size_t about = k == 0 ? static_cast<size_t>(std::clamp(h + 6, 0, 15)) : gauge_[k == 2].bucket(off_[k == 2]);
        const Residual::Aim aim{simple + more, half_octave(static_cast<int32_t>(apart * inverse >> 20) >> p_.known), about, zone_of((simple + more) >> p_.known),
                                p_.known ? chain_[k].low() : 0};
        const int32_t q = std::clamp(residual_[k].code(coder_, Coder::writes ? planned_[k][i] : 0, aim), -kMostColour, kMostColour);
        chain_[k].next(static_cast<uint32_t>(q));
        q_[k][i % kSome] = q;
        fine_[k][i] = static_cast<int32_t>(std::clamp<int64_t>(int64_t{q} * u, -(1 << 26), 1 << 26));
        if (k < 2) off_[k] = q - simple - more;
        if (k == 1) first_.learn(off_[0], q - simple);
        if (k == 2) {
            second_.learn(off_[0], q - simple - third_.expect(off_[1]));
            third_.learn(off_[1], q - simple - second_.expect(off_[0]));
        }
    }
    void rebuild(size_t from, size_t to, float *out, size_t width) const {
        for (size_t i = from; i < to; ++i) {
            const double step = step_[b_.shift[i] + 6], c[3] = {q_[0][i % kSome] * step, q_[1][i % kSome] * step, q_[2][i % kSome] * step};
            colour(c, out + i * width + 11);
        }
    }

private:
    Coder &coder_;
    const Block &b_;
    const Rules &p_;
    int32_t q_[3][kSome], off_[2] = {};
    std::vector<int32_t> fine_[3], planned_[3];
    int32_t unit_[19], inverse_[19];
    double step_[19];
    Residual residual_[3];
    Chain chain_[3];
    Trend first_, second_, third_;
    Gauge gauge_[2];
};

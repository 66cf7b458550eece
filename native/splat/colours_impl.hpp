// Colour and harmonics, whose steps follow what a splat adds to a picture.

constexpr int kFine = 16;  // colours foretold in 1/16 of the reference step
constexpr int32_t kMostColour = 1 << 22;

inline size_t zone_of(int32_t v) {
    const size_t size = std::min<size_t>(half_octave(v < 0 ? -v : v), 15);
    return v < 0 ? 15 - size : 16 + size;
}

template <class Coder> class Colours {
public:
    Colours(Coder &coder, const Block &b, const Steps &p, const float *rows, float *out, size_t width)
        : coder_(coder), b_(b), p_(p), rows_(rows), out_(out), width_(width) {
        for (int h = -6; h <= 12; ++h) unit_[h + 6] = nearest(kFine * half_power(h), 1 << 20), inverse_[h + 6] = (1 << 20) / unit_[h + 6], step_[h + 6] = p.colour * half_power(h);
        for (auto &f : fine_) f.resize(b.n);
    }
    void code(size_t i) {
        const int h = b_.shift[i];
        const int32_t u = unit_[h + 6];
        const int64_t inverse = inverse_[h + 6];
        double wanted[3] = {};
        if constexpr (Coder::writes) {
            opponent(rows_ + i * width_ + 11, wanted);
            for (double &w : wanted) w = std::clamp<double>(w / step_[h + 6], -kMostColour, kMostColour);
        }
        int32_t q[3], off[2] = {};
        size_t about = static_cast<size_t>(std::clamp(h + 6, 0, 15));
        for (int k = 0; k < 3; ++k) {
            const auto [fine, apart] = b_.guess(fine_[k].data(), i);
            const auto simple = static_cast<int32_t>((fine * inverse + (1 << 19)) >> 20);
            const int32_t more = k == 0 ? 0 : k == 1 ? first_.expect(off[0]) : second_.expect(off[0]) + third_.expect(off[1]);
            const Residual::Aim aim{simple + more, half_octave(static_cast<int32_t>(apart * inverse >> 20)), about, zone_of(simple + more)};
            q[k] = std::clamp(residual_[k].code(coder_, Coder::writes ? chosen(wanted[k], residual_[k], aim, p_.trade) : 0, aim), -kMostColour, kMostColour);
            fine_[k][i] = static_cast<int32_t>(std::clamp<int64_t>(int64_t{q[k]} * u, -(1 << 26), 1 << 26));
            if (k < 2) {
                off[k] = q[k] - simple - more;
                about = gauge_[k].bucket(off[k]);
                if (k == 1) first_.learn(off[0], q[1] - simple);
            } else {
                second_.learn(off[0], q[2] - simple - third_.expect(off[1]));
                third_.learn(off[1], q[2] - simple - second_.expect(off[0]));
            }
        }
        if constexpr (!Coder::writes) {
            const double step = step_[h + 6], c[3] = {q[0] * step, q[1] * step, q[2] * step};
            colour(c, out_ + i * width_ + 11);
        }
    }

private:
    Coder &coder_;
    const Block &b_;
    const Steps &p_;
    const float *rows_;
    float *out_;
    size_t width_;
    std::vector<int32_t> fine_[3];
    int32_t unit_[19], inverse_[19];
    double step_[19];
    Residual residual_[3];
    Trend first_, second_, third_;
    Gauge gauge_[2];
};

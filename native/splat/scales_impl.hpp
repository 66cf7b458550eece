// Sizes and opacity: the longest deviation, two ratios, and alpha, each foretold by splats near, by density and by each other.

template <class Coder> class Scales {
public:
    Scales(Coder &coder, Block &b, const Rules &p)
        : coder_(coder), b_(b), p_(p), by_scale_(p.scale), residual_{Residual(p.known), Residual(p.known), Residual(p.known)} {
        std::vector<uint32_t> counts(3 * kGrid + 2, 0);  // the usual cell's level: density foretells size
        for (const Cell &c : b.cells) ++counts[static_cast<size_t>(c.level + 1)];
        for (size_t seen = 0; usual_ < 3 * kGrid + 1 && (seen += counts[static_cast<size_t>(usual_)]) < b.n / 2; ++usual_) {}
        for (auto &gap : gap_) gap.resize(b.n);
    }
    void longest(size_t i) {
        const int32_t depth = b_.cells[i].level + 1 - usual_;
        const Block::Guess near = b_.guess(b_.scale[0].data(), i);
        const int32_t foretold = near.middle + density_.expect(depth);
        longest_ = number(0, i, near, foretold, bucket(depth / 2), static_cast<size_t>(by_scale_(2 * foretold) & 31), 0);
        off_ = longest_ - foretold;
        density_.learn(depth, longest_ - near.middle);
        b_.off[i] = longest_ - near.middle;
        b_.scale[0][i] = longest_;
    }
    void second(size_t i) {
        const Block::Guess near = b_.guess(gap_[0].data(), i);
        const int32_t foretold = near.middle + first_.expect(off_);
        gap0_ = gap_[0][i] = number(1, i, near, foretold, gauge_.bucket(off_), half_octave(foretold >> p_.known), longest_);
        off1_ = gap0_ - foretold;
        first_.learn(off_, gap0_ - near.middle);
        b_.scale[1][i] = longest_ - gap0_;
    }
    void shortest(size_t i) {
        const Block::Guess near = b_.guess(gap_[1].data(), i);
        const int32_t more = second_.expect(off_), rest = third_.expect(off1_), foretold = near.middle + more + rest;
        const auto about = static_cast<size_t>(std::clamp(by_scale_(4 * gap0_), 0, 15));
        const int32_t gap = gap_[1][i] = number(2, i, near, foretold, about, half_octave(foretold >> p_.known), longest_ - gap0_);
        second_.learn(off_, gap - near.middle - rest);
        third_.learn(off1_, gap - near.middle - more);
        b_.scale[2][i] = longest_ - gap0_ - gap;
    }

private:
    // from: what the wanted one is subtracted from.
    int32_t number(size_t k, size_t i, const Block::Guess &near, int32_t foretold, size_t about, size_t zone, int32_t from) {
        const uint32_t low = p_.known ? chain_[k].low() : 0;
        const Residual::Aim aim{foretold, half_octave(static_cast<int32_t>(near.apart) >> p_.known), about, zone,
                                p_.known ? (low ^ static_cast<uint32_t>(from)) & 1 : 0};
        const int32_t planned = Coder::writes ? b_.planned[k][i] : 0;
        const int32_t v = std::clamp(residual_[k].code(coder_, k ? from - planned : planned, aim), -(1 << 17), 1 << 17);
        chain_[k].next(static_cast<uint32_t>(k ? from - v : v));
        return v;
    }

    Coder &coder_;
    Block &b_;
    const Rules &p_;
    Quotient by_scale_;
    int usual_ = 0;
    int32_t longest_ = 0, off_ = 0, gap0_ = 0, off1_ = 0;
    std::vector<int32_t> gap_[2];
    Residual residual_[3];
    Chain chain_[3];
    Trend first_, second_, third_, density_;
    Gauge gauge_;
};

template <class Coder> class Opacity {
public:
    Opacity(Coder &coder, Block &b, const Rules &p) : coder_(coder), b_(b), p_(p), weight_(weights(p)), levels_(p.opacity >> p.known) {}
    bool code(size_t i) {
        const int32_t off = b_.off[i];
        const auto [simple, wide] = b_.guess(b_.alpha.data(), i);
        const uint32_t apart = wide >> p_.known, low = p_.known ? chain_.low() : 0;
        const Levels::Aim aim{std::clamp(simple + size_.expect(off), 0, p_.opacity - 1) >> p_.known, gauge_.bucket(off), apart < 4 ? 0u : apart < 12 ? 1u : apart < 32 ? 2u : 3u};
        const int32_t a = levels_.code(coder_, Coder::writes ? b_.planned[3][i] >> p_.known : 0, aim) << p_.known | static_cast<int32_t>(low);
        if (a < 0 || a >= p_.opacity) return false;
        chain_.next(static_cast<uint32_t>(a));
        b_.alpha[i] = a;
        size_.learn(off, a - simple);
        b_.shift[i] = shift_of(p_, b_.scale[0][i] + b_.scale[1][i] + weight_[static_cast<size_t>(a)]);
        return true;
    }

private:
    Coder &coder_;
    Block &b_;
    const Rules &p_;
    std::vector<int32_t> weight_;
    Levels levels_;
    Chain chain_;
    Trend size_;
    Gauge gauge_;
};

// Scales and opacity of rows as floats.
class Sizes {
public:
    Sizes(const Block &b, const Rules &p) : b_(b), nepers_(0.6931471805599453 / p.scale), logit_(static_cast<size_t>(p.opacity)) {
        for (size_t a = 0; a < logit_.size(); ++a) logit_[a] = static_cast<float>(logit_of(root_of(p, static_cast<double>(a) + 0.5)));
    }
    void rebuild(size_t from, size_t to, float *out, size_t width) const {
        for (size_t i = from; i < to; ++i) {
            float *row = out + i * width;
            for (int k = 0; k < 3; ++k) row[3 + k] = static_cast<float>(b_.scale[k][i] * nepers_);
            row[10] = logit_[static_cast<size_t>(b_.alpha[i])];
        }
    }

private:
    const Block &b_;
    double nepers_;
    std::vector<float> logit_;
};

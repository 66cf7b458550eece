// Sizes and opacity: the longest deviation, two ratios, and alpha, each foretold by splats near, by density and by each other.

template <class Coder> class Scales {
public:
    Scales(Coder &coder, Block &b, const Steps &p) : coder_(coder), b_(b), p_(p) {
        std::vector<uint32_t> counts(3 * kGrid + 2, 0);  // the usual cell's level: density foretells size
        for (const Cell &c : b.cells) ++counts[static_cast<size_t>(c.level + 1)];
        for (size_t seen = 0; usual_ < 3 * kGrid + 1 && (seen += counts[static_cast<size_t>(usual_)]) < b.n / 2; ++usual_) {}
        for (auto &gap : gap_) gap.resize(b.n);
    }
    void code(size_t i) {
        const int32_t depth = b_.cells[i].level + 1 - usual_;
        const Block::Guess near[3] = {b_.guess(b_.scale[0].data(), i), b_.guess(gap_[0].data(), i), b_.guess(gap_[1].data(), i)};
        int32_t foretold = near[0].middle + density_.expect(depth);
        const int32_t s = number(0, i, near[0], foretold, bucket(depth / 2), static_cast<size_t>(floor_of(2 * foretold, p_.scale) & 31), 0);
        const int32_t off = s - foretold;
        density_.learn(depth, s - near[0].middle);

        foretold = near[1].middle + first_.expect(off);
        const int32_t first = gap_[0][i] = number(1, i, near[1], foretold, gauge_.bucket(off), half_octave(foretold), s);
        const int32_t off1 = first - foretold;
        first_.learn(off, first - near[1].middle);

        const int32_t more = second_.expect(off), rest = third_.expect(off1);
        foretold = near[2].middle + more + rest;
        const auto about = static_cast<size_t>(std::clamp(first * 4 / p_.scale, 0, 15));
        const int32_t second = gap_[1][i] = number(2, i, near[2], foretold, about, half_octave(foretold), s - first);
        second_.learn(off, second - near[2].middle - rest);
        third_.learn(off1, second - near[2].middle - more);
        b_.scale[0][i] = s, b_.scale[1][i] = s - first, b_.scale[2][i] = s - first - second;
        b_.off[i] = s - near[0].middle;
    }

private:
    // from: what the wanted one is subtracted from.
    int32_t number(int k, size_t i, const Block::Guess &near, int32_t foretold, size_t about, size_t zone, int32_t from) {
        const Residual::Aim aim{foretold, half_octave(static_cast<int32_t>(near.apart)), about, zone};
        int32_t wanted = 0;
        if constexpr (Coder::writes) {
            const double exact = b_.wanted[3 * i + static_cast<size_t>(k)];
            wanted = chosen(k == 0 ? exact : from - exact, residual_[k], aim, p_.trade);
        }
        return std::clamp(residual_[k].code(coder_, wanted, aim), -(1 << 17), 1 << 17);
    }

    Coder &coder_;
    Block &b_;
    const Steps &p_;
    int usual_ = 0;
    std::vector<int32_t> gap_[2];
    Residual residual_[3];
    Trend first_, second_, third_, density_;
    Gauge gauge_;
};

template <class Coder> class Opacity {
public:
    Opacity(Coder &coder, Block &b, const Steps &p) : coder_(coder), b_(b), p_(p), weight_(weights(p)), levels_(p.opacity) {}
    bool code(size_t i) {
        const int32_t off = b_.off[i];
        const auto [simple, apart] = b_.guess(b_.alpha.data(), i);
        const Levels::Aim aim{std::clamp(simple + size_.expect(off), 0, p_.opacity - 1), gauge_.bucket(off), apart < 4 ? 0u : apart < 12 ? 1u : apart < 32 ? 2u : 3u};
        int32_t wanted = 0;
        if constexpr (Coder::writes) {
            wanted = std::clamp(chosen(b_.level_of[i], levels_, aim, p_.trade), 0, p_.opacity - 1);
        }
        const int32_t a = levels_.code(coder_, wanted, aim);
        if (a < 0 || a >= p_.opacity) return false;
        b_.alpha[i] = a;
        size_.learn(off, a - simple);
        b_.shift[i] = shift_of(p_, b_.scale[0][i] + b_.scale[1][i] + weight_[static_cast<size_t>(a)]);
        return true;
    }

private:
    Coder &coder_;
    Block &b_;
    const Steps &p_;
    std::vector<int32_t> weight_;
    Levels levels_;
    Trend size_;
    Gauge gauge_;
};

// Rotations: the odd axis of an ellipsoid as a cell of a hemisphere, foretold by the axis nearby, and the turn around it.

// One of `cells` cells as a symbol of at most 16, another of at most 16 of what is left, and the rest as it is.
class Refined {
public:
    // said: where it is foretold, in 1/65536, or more if nothing is known; close: whether what came before was foretold well.
    template <class Coder> uint32_t code(Coder &coder, uint32_t v, uint32_t cells, uint32_t said, bool &close) {
        if (cells <= 1) return 0;
        const uint32_t parts = cells < 16 ? cells : 16, guess = said >> 16 ? 16 : said * parts >> 16;
        const auto start = [&](uint32_t part) { return parts == 16 ? part * cells >> 4 : part; };
        uint32_t s = coder.symbol(Coder::writes ? ((v + 1) * parts - 1) / cells : 0, top_, {parts, (parts * 17 + guess) * 2 + close});
        if (s >= parts) return cells;
        close = s == guess;
        uint32_t low = start(s), left = start(s + 1) - low;
        if (s == guess && left > 1) {
            const uint32_t smaller = left < 16 ? left : 16;
            const auto at = static_cast<uint32_t>(static_cast<uint64_t>(said) * cells >> 16);
            const uint32_t follow = at <= low ? 0 : at >= low + left ? smaller - 1 : (at - low) * smaller / left;
            s = coder.symbol(Coder::writes ? ((v - low + 1) * smaller - 1) / left : 0, next_, {smaller, smaller * 16 + follow});
            if (s >= smaller) return cells;
            const uint32_t from = smaller == 16 ? s * left >> 4 : s;
            left = smaller == 16 ? ((s + 1) * left >> 4) - from : 1;
            low += from;
        }
        return low + coder.even(v - low, left);
    }

private:
    Blend top_{17, 17 * 17 * 2, {{8000, 28000, 36000, 42000, 45000, 46000}}}, next_{17, 17 * 16, {{1000, 1500, 2000, 6000, 19000, 50000}}};
};

template <class Coder> class Turns {
public:
    Turns(Coder &coder, const Block &b, const Steps &p, const float *rows, float *out, size_t width)
        : coder_(coder), b_(b), p_(p), rows_(rows), out_(out), width_(width), seen_(2 * b.n), kind_(b.n) {}
    bool code(size_t i) {
        const int32_t d0 = b_.scale[0][i] - b_.scale[1][i], d1 = b_.scale[1][i] - b_.scale[2][i];
        const bool needle = d0 > d1;
        const uint32_t cells = cells_for(d0 + d1, p_.scale, p_.rotation, p_.turn);
        const uint32_t turn_cells = cells_for(needle ? d1 : d0, p_.scale, p_.rotation, p_.turn, needle ? d0 : 0);
        kind_[i] = needle;
        Turned r{};
        if constexpr (Coder::writes) {
            const float *row = rows_ + i * width_;
            int order[3] = {0, 1, 2};
            std::stable_sort(order, order + 3, [&](int l, int k) { return row[3 + l] > row[3 + k]; });
            r = turned(frame_of(row + 6, order), needle, cells, turn_cells);
        }
        const uint32_t *near = b_.near.data() + kNear * i, *model = nullptr;
        for (size_t k = 0; k < kNear && !model && i > 0; ++k) {
            if (kind_[near[k]] == needle) model = seen_.data() + 2 * near[k];
        }
        bool close = false;
        r.u = odd_[0].code(coder_, r.u, cells, model ? model[0] : 1u << 16, close);
        r.v = odd_[1].code(coder_, r.v, cells, model ? model[1] : 1u << 16, close);
        close = false;
        r.t = turn_.code(coder_, r.t, turn_cells, 1u << 16, close);
        if (r.u >= cells || r.v >= cells || r.t >= turn_cells) return false;
        seen_[2 * i] = (2 * r.u + 1) * 16384 / cells << 1;  // cells are at most 65536
        seen_[2 * i + 1] = (2 * r.v + 1) * 16384 / cells << 1;
        if constexpr (!Coder::writes) quaternion(frame_of(r, needle, cells, turn_cells), out_ + i * width_ + 6);
        return true;
    }

private:
    Coder &coder_;
    const Block &b_;
    const Steps &p_;
    const float *rows_;
    float *out_;
    size_t width_;
    std::vector<uint32_t> seen_;  // cells of the odd axis, in 1/65536
    std::vector<uint8_t> kind_;
    Refined odd_[2], turn_;
};

// Trellis-coded quantization: steps are halved, and each number's lowest bit follows from the two lowest bits of those before it, so
// that only half of the finer steps can be said, in as many bits as whole ones; the writer looks for the sequence with the least error.
// Errors of the same bits are 1.2 dB smaller. Marcellin & Fischer 1990; Ungerboeck 1982 (the code of 32 states, 45 and 10 in octal).

class Chain {
public:
    static constexpr uint32_t kStates = 32, kFirst = 045 >> 1, kSecond = 010 >> 1;
    uint32_t low() const { return state_ & 1; }  // of the next number
    void next(uint32_t v) { state_ = state_ >> 1 ^ ((0 - (v & 1)) & kFirst) ^ ((0 - (v >> 1 & 1)) & kSecond); }

private:
    uint32_t state_ = 0;
};

// The whole numbers in [0, most) (most: 4 at least, else without bounds) near x whose lowest bits follow from those before, with the least
// sum of squares of errors, or of their fourth powers, so that few are large.
class Path {
public:
    explicit Path(bool fourth) : fourth_(fourth) {
        std::fill_n(even_of_, Chain::kStates / 2, 1e30f), std::fill_n(odd_of_, Chain::kStates / 2, 1e30f);
        even_of_[0] = 0;
    }
    void add(double x, int32_t most = 0) {
        constexpr uint32_t half = Chain::kStates / 2, first = Chain::kFirst ^ half, second = Chain::kSecond;
        std::array<int32_t, 4> near;
        float cost[4], sums[Chain::kStates];
        for (int k = 0; k < 4; ++k) {
            int32_t v = k + 4 * nearest((x - k) / 4, 1 << 28);
            if (most) v += v < 0 ? 4 : v >= most ? -4 : 0;
            near[static_cast<size_t>(k)] = v;
            const auto off = static_cast<float>((x - v) * (x - v));
            cost[k] = fourth_ ? off * off : off;
        }
        uint32_t picked = 0;
        for (uint32_t s = 0; s < half; ++s) {  // a state comes from two: the number was even, or odd
            const float a = even_of_[s] + cost[0], b = even_of_[s ^ second] + cost[2];
            const float c = odd_of_[s ^ first] + cost[1], d = odd_of_[s ^ first ^ second] + cost[3];
            sums[s] = b < a ? b : a, sums[s + half] = d < c ? d : c;
            picked |= static_cast<uint32_t>(b < a) << s | static_cast<uint32_t>(d < c) << (s + half);
        }
        float least = sums[0];
        for (uint32_t s = 1; s < Chain::kStates; ++s) least = sums[s] < least ? sums[s] : least;
        for (uint32_t s = 0; s < half; ++s) even_of_[s] = sums[2 * s] - least, odd_of_[s] = sums[2 * s + 1] - least;
        picked_.push_back(picked), near_.push_back(near);
    }
    std::vector<int32_t> take() const {
        std::vector<int32_t> v(near_.size());
        uint32_t s = 0;
        for (uint32_t t = 1; t < Chain::kStates; ++t) s = at(t) < at(s) ? t : s;
        for (size_t i = v.size(); i-- > 0;) {
            const uint32_t odd = s >> 4, second = picked_[i] >> s & 1;
            v[i] = near_[i][odd + 2 * second];
            s = ((s ^ (odd ? Chain::kFirst : 0) ^ (second ? Chain::kSecond : 0)) & 15) << 1 | odd;
        }
        return v;
    }

private:
    float at(uint32_t s) const { return s & 1 ? odd_of_[s / 2] : even_of_[s / 2]; }
    bool fourth_;
    float even_of_[Chain::kStates / 2], odd_of_[Chain::kStates / 2];  // least sums that end in a state
    std::vector<uint32_t> picked_;
    std::vector<std::array<int32_t, 4>> near_;
};

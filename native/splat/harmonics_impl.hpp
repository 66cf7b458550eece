// Harmonics as coefficients of the scene's own basis, the strongest first: how many pairs until the last that is not zero, then
// each pair as one symbol, and what is left of coefficients beyond 1.

template <class Coder> class Harmonics {
public:
    Harmonics(Coder &coder, const Block &b, const Rules &p, const float *rows, size_t width)
        : coder_(coder), b_(b), p_(p), rows_(rows), width_(width), wide_(static_cast<size_t>(3 * b.rest)),
          rank_(wide_ ? static_cast<size_t>(p.rank) : 0), pairs_((rank_ + 1) / 2), kept_(2 * kSome * pairs_), count_(rank_ ? b.n : 0),
          pair_(2 * pairs_, 16), large_(2 * pairs_, 16), parts_(wide_ > 3 * kPart ? kMostParts : (wide_ + kPart - 1) / kPart), basis_(2 * pairs_ * parts_) {
        for (size_t k = 0; k < rank_; ++k) std::memcpy(&basis_[k * parts_], p.basis + k * wide_, wide_ * sizeof(float));
    }

    bool code(size_t i) {
        if (rank_ == 0) return true;
        const int h = b_.shift[i];
        const auto by = static_cast<size_t>(std::clamp(h + 6, 0, 15));
        int16_t wanted[2 * 3 * kMostRest] = {};
        const auto foretold = static_cast<size_t>(std::clamp(b_.guess(count_.data(), i).middle, 0, 15));
        uint32_t wanted_count = 0;
        if constexpr (Coder::writes) {
            double x[2 * 3 * kMostRest] = {};
            project(i, p_.harmonics * half_power(h), x);
            wanted_count = p_.trade > 0 ? choose(x, by, foretold, wanted) : round(x, wanted);
        }
        uint32_t count = coder_.symbol(std::min(wanted_count, 15u), length_, {by, foretold * 4 + by / 4});
        for (uint32_t part = count; part == 15 && count <= pairs_; count += part) part = coder_.symbol(std::min(wanted_count - count, 15u), longer_, 0);
        if (count > pairs_) return false;
        count_[i] = static_cast<int32_t>(count);
        int16_t *q = kept_.data() + 2 * (i % kSome) * pairs_;
        uint64_t many[2] = {};  // coefficients beyond 1, a bit each: rank is at most 72
        for (size_t j = 0; j < count; ++j) {
            const uint32_t s = coder_.symbol(Coder::writes ? state(wanted[2 * j]) | state(wanted[2 * j + 1]) << 2 : 0, pair_, 2 * j + (j + 1 == count));
            std::memcpy(q + 2 * j, kPairs[s], sizeof kPairs[s]);
            many[j / 32] |= static_cast<uint64_t>(((s & 3) == 3) | (s >= 12) << 1) << 2 * (j % 32);
        }
        for (size_t part = 0; part < 2; ++part) {
            for (uint64_t left = many[part]; left; left &= left - 1) {
                const size_t k = 64 * part + static_cast<size_t>(__builtin_ctzll(left));
                q[k] = large(wanted[k], k);
            }
        }
        return !coder_.bad();
    }
    void rebuild(size_t from, size_t to, float *out, size_t width) const {  // harmonics of splats from their coefficients
        if (parts_ == 1) rebuild_of<1>(from, to, out, width);
        if (parts_ == 2) rebuild_of<2>(from, to, out, width);
        if (parts_ == 3) rebuild_of<3>(from, to, out, width);
        if (parts_ > 3) rebuild_of<kMostParts>(from, to, out, width);
    }

private:
    template <size_t parts> void rebuild_of(size_t from, size_t to, float *out, size_t width) const {
        for (size_t i = from; i < to; ++i) {
            const double step = p_.harmonics * half_power(b_.shift[i]);
            const int16_t *q = kept_.data() + 2 * (i % kSome) * pairs_;
            const size_t count = rank_ ? 2 * static_cast<size_t>(count_[i]) : 0;
            float size[2 * 3 * kMostRest];
            for (size_t k = 0; k < 2 * pairs_; ++k) size[k] = static_cast<float>(q[k] * step);
            Part sum[parts] = {}, odd[parts] = {};  // two sums, so that a processor need not wait for each
            const Part *row = basis_.data();
            for (size_t k = 0; k < count; k += 2, row += 2 * parts) {
                const Part much = Part{} + size[k], more = Part{} + size[k + 1];
#pragma GCC unroll 8
                for (size_t at = 0; at < parts; ++at) sum[at] += much * row[at], odd[at] += more * row[parts + at];
            }
            for (size_t at = 0; at < parts; ++at) sum[at] += odd[at];
            std::memcpy(out + i * width + 14, sum, wide_ * sizeof(float));
        }
    }

    static constexpr int16_t kPairs[16][2] = {{0, 0}, {1, 0}, {-1, 0}, {2, 0}, {0, 1}, {1, 1}, {-1, 1}, {2, 1},
                                              {0, -1}, {1, -1}, {-1, -1}, {2, -1}, {0, 2}, {1, 2}, {-1, 2}, {2, 2}};
    static uint32_t state(int32_t q) { return q == 0 ? 0 : q == 1 ? 1 : q == -1 ? 2 : 3; }
    int16_t large(int32_t q, size_t k) {  // beyond 1: size less 2 and the sign
        const uint32_t z = Coder::writes ? static_cast<uint32_t>(q < 0 ? 2 * (-q - 2) + 1 : 2 * (q - 2)) : 0;
        uint32_t s = coder_.symbol(std::min(z, 15u), large_, k);
        if (s == 15) {
            uint32_t over = z < 15 ? 0 : z - 15, part;
            do {
                part = coder_.symbol(std::min(over, 15u), larger_, 0);
                over -= part;
                s += part;
            } while (part == 15 && s < 16000);
        }
        const auto size = static_cast<int32_t>(s / 2 + 2);
        return static_cast<int16_t>(s & 1 ? -size : size);
    }
    void project(size_t i, double step, double *x) const {  // coefficients in steps
        const float *row = rows_ + i * width_ + 14;
        for (size_t k = 0; k < rank_; ++k) {
            double sum = 0;
            for (size_t j = 0; j < wide_; ++j) sum += static_cast<double>(p_.basis[k * wide_ + j]) * row[j];
            x[k] = std::clamp(sum / step, -4000.0, 4000.0);
        }
    }
    uint32_t round(const double *x, int16_t *q) const {  // returns the count of pairs
        constexpr double least = 0.36;  // rounds up from 1 - 0.36: a dead zone against the rate of small values
        uint32_t count = 0;
        for (size_t k = 0; k < rank_; ++k) {
            const int32_t whole = nearest(std::fabs(x[k]) - (0.5 - least), 4000);
            q[k] = static_cast<int16_t>(x[k] < 0 ? -whole : whole);
            if (whole > 0) count = static_cast<uint32_t>(k / 2 + 1);
        }
        return count;
    }
    double bits_of(int32_t q, size_t k) {  // beyond those of its pair
        if (q >= -1 && q <= 1) return 0;
        const auto z = static_cast<uint32_t>(q < 0 ? 2 * (-q - 2) + 1 : 2 * (q - 2));
        return large_.bits(std::min(z, 15u), k) + z / 15 * 4;
    }
    // The pair of whole numbers near x, or nearer to 0, with the least error and price; returns both together.
    double pair_of(const double *x, size_t j, size_t at, int16_t *q) {
        int16_t of[2][2];
        double cost[2][2];
        for (size_t e = 0; e < 2; ++e) {
            const int32_t near = nearest(x[e], 4000), size = std::abs(near);
            of[e][0] = static_cast<int16_t>(near);
            of[e][1] = static_cast<int16_t>(size == 0 ? near : near < 0 ? near + 1 : near - 1);
            for (size_t o = 0; o < 2; ++o) {
                const double off = x[e] - of[e][o];
                cost[e][o] = off * off + p_.trade * bits_of(of[e][o], 2 * j + e);
            }
        }
        double best = 1e30;
        for (size_t a = 0; a < (of[0][0] ? 2 : 1); ++a) {
            for (size_t b = 0; b < (of[1][0] ? 2 : 1); ++b) {
                const double price = pair_.bits(state(of[0][a]) | state(of[1][b]) << 2, at);
                const double sum = cost[0][a] + cost[1][b] + p_.trade * price;
                if (sum < best) best = sum, q[0] = of[0][a], q[1] = of[1][b];
            }
        }
        return best;
    }
    // Coefficients and the count of pairs with the least error and price together.
    uint32_t choose(const double *x, size_t by, size_t foretold, int16_t *q) {
        double rest = 0, before = 0;  // error of what is left out; cost of pairs before
        for (size_t k = 0; k < rank_; ++k) rest += x[k] * x[k];
        const auto length = [&](size_t count) { return p_.trade * length_.bits(static_cast<uint32_t>(std::min<size_t>(count, 15)), {by, foretold * 4 + by / 4}); };
        double best = rest + length(0);
        uint32_t count = 0;
        int16_t last[2] = {};
        for (size_t j = 0; j < pairs_; ++j) {
            rest -= x[2 * j] * x[2 * j] + x[2 * j + 1] * x[2 * j + 1];
            int16_t end[2];
            const double sum = before + pair_of(x + 2 * j, j, 2 * j + 1, end) + rest + length(j + 1);
            if (sum < best) best = sum, count = static_cast<uint32_t>(j + 1), last[0] = end[0], last[1] = end[1];
            before += pair_of(x + 2 * j, j, 2 * j, q + 2 * j);
            if (before + p_.trade > best) break;  // more cannot be worth it
        }
        if (count) q[2 * count - 2] = last[0], q[2 * count - 1] = last[1];
        return count;
    }

    Coder &coder_;
    const Block &b_;
    const Rules &p_;
    const float *rows_;
    size_t width_, wide_, rank_, pairs_;
    std::vector<int16_t> kept_;
    std::vector<int32_t> count_;
    Blend length_{16, 64, {{8000, 18000, 30000, 30000, 34000, 36000}}};
    Models longer_{1, 16}, pair_, large_, larger_{1, 16};
    static constexpr size_t kPart = 16, kMostParts = (3 * kMostRest + kPart - 1) / kPart;
    typedef float Part __attribute__((vector_size(kPart * sizeof(float))));
    size_t parts_;  // of a row of the basis
    std::vector<Part> basis_;
};

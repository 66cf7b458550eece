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

constexpr uint32_t kLeastCells = 6;  // of fewer cells all are whole

template <class Coder> class Turns {
public:
    Turns(Coder &coder, const Block &b, const Rules &p, const float *rows, size_t width) : coder_(coder), b_(b), p_(p), seen_(2 * b.n), kind_(b.n) {
        if constexpr (Coder::writes) plan(rows, width);
    }
    void prepare(size_t from, size_t to) {
        for (size_t i = from; i < to; ++i) {
            const Shape s = shape(i);
            kind_[i] = s.needle;
            cells_[0][i % kSome] = s.cells, cells_[1][i % kSome] = s.turn_cells;
        }
    }
    template <int k> bool code(size_t i) {  // of the odd axis u and v, then the turn
        const size_t at = i % kSome;
        const uint32_t cells = cells_[k == 2][at];
        if constexpr (k == 0) {
            const uint32_t *near = b_.near.data() + kNear * i;
            model_[0] = model_[1] = 1u << 16;
            for (size_t j = 0; j < kNear && i > 0; ++j) {
                if (kind_[near[j]] != kind_[i]) continue;
                model_[0] = seen_[2 * near[j]], model_[1] = seen_[2 * near[j] + 1];
                break;
            }
        }
        if constexpr (k != 1) close_ = false;
        const bool halved = p_.known && cells >= kLeastCells;
        uint32_t v = refined_[k].code(coder_, Coder::writes ? planned_[k][i] >> halved : 0, cells, k < 2 ? model_[k % 2] : 1u << 16, close_);
        if (v >= cells) return false;
        if constexpr (k < 2) seen_[2 * i + k] = (2 * v + 1) * 16384 / cells << 1;  // cells are at most 65536
        if (halved) {
            v = v << 1 | chain_[k].low();
            chain_[k].next(v);
        }
        turned_[k][at] = static_cast<int32_t>(v);
        return true;
    }
    void rebuild(size_t from, size_t to, float *out, size_t width) {
        const size_t count = to - from;
        for (auto &cells : cells_) {
            for (size_t i = 0; i < count; ++i) fine_[&cells - cells_][i] = static_cast<int32_t>(cells[i] << (p_.known && cells[i] >= kLeastCells));
        }
        quaternions(turned_[0], turned_[1], turned_[2], fine_[0], fine_[1], kind_.data() + from, count, out + from * width + 6, width);
    }

private:
    struct Shape {
        bool needle;
        uint32_t cells, turn_cells;
    };
    Shape shape(size_t i) const {
        const int32_t d0 = b_.scale[0][i] - b_.scale[1][i], d1 = b_.scale[1][i] - b_.scale[2][i];
        const bool needle = d0 > d1;
        return {needle, cells_for(d0 + d1, p_.scale, p_.rotation, p_.turn, 0, p_.rounder),
                cells_for(needle ? d1 : d0, p_.scale, p_.rotation, p_.turn, needle ? d0 : 0, p_.rounder)};
    }
    void plan(const float *rows, size_t width) {  // the turn is around the axis as it will be said
        std::vector<Frame> frames(b_.n);
        Path path[3] = {Path(true), Path(true), Path(true)};
        for (auto &v : planned_) v.resize(b_.n);
        for (size_t i = 0; i < b_.n; ++i) {
            const float *row = rows + i * width;
            int order[3] = {0, 1, 2};
            std::stable_sort(order, order + 3, [&](int l, int k) { return row[3 + l] > row[3 + k]; });
            frames[i] = frame_of(row + 6, order);
            const Shape s = shape(i);
            float at[2];
            odd_axis(frames[i], s.needle, at);
            for (size_t k = 0; k < 2; ++k) {
                if (s.cells >= kLeastCells) path[k].add(within(at[k], 2 * s.cells), static_cast<int32_t>(2 * s.cells));
                else planned_[k][i] = place(at[k], s.cells);
            }
        }
        const std::vector<int32_t> found[2] = {path[0].take(), path[1].take()};
        size_t next = 0;
        for (size_t i = 0; i < b_.n; ++i) {
            const Shape s = shape(i);
            const bool halved = s.cells >= kLeastCells;
            for (size_t k = 0; k < 2 && halved; ++k) planned_[k][i] = static_cast<uint32_t>(found[k][next]);
            next += halved;
            const float at = turn_around(frames[i], s.needle, planned_[0][i], planned_[1][i], s.cells << halved);
            if (s.turn_cells >= kLeastCells) path[2].add(within(at, 2 * s.turn_cells), static_cast<int32_t>(2 * s.turn_cells));
            else planned_[2][i] = place(at, s.turn_cells);
        }
        const std::vector<int32_t> turns = path[2].take();
        next = 0;
        for (size_t i = 0; i < b_.n; ++i) {
            if (shape(i).turn_cells >= kLeastCells) planned_[2][i] = static_cast<uint32_t>(turns[next++]);
        }
    }

    Coder &coder_;
    const Block &b_;
    const Rules &p_;
    std::vector<uint32_t> seen_, planned_[3];  // seen: cells of the odd axis, in 1/65536
    std::vector<uint8_t> kind_;
    Refined refined_[3];
    Chain chain_[3];
    uint32_t cells_[2][kSome], model_[2] = {};
    int32_t turned_[3][kSome], fine_[2][kSome];
    bool close_ = false;
};

// Which cells of a grid hold splats, as a binary tree of counts down to cells of one splat (Devillers & Gandoin 2000): n splats in
// no order cost log2 n! bits less than n positions in order.

struct Cell {
    uint32_t at[3];   // coordinates, undecided bits 0
    int16_t level;    // last undecided level: levels are x, y, z of the highest bit, then of the next; -1 if all are decided
    int undecided(int axis) const { return (level + 1 + axis) / 3; }
    uint32_t middle(int axis) const {
        const int r = undecided(axis);
        return at[axis] + (r > 0 ? uint32_t{1} << (r - 1) : 0);
    }
};

// points: (n, 3) of `bits` bits each, in the order of the tree (writer only). cells: n, filled by both.
template <class Coder> void code_tree(Coder &coder, const uint32_t *points, size_t n, int bits, Cell *cells) {
    struct Node {
        size_t first, count;
        Cell cell;
        uint32_t past;  // outcomes above, 2 bits each
    };
    Slot outcome(8, 8 * 64, 3), few(32, 1), many(1, 1);
    std::vector<Node> stack{{0, n, {{0, 0, 0}, static_cast<int16_t>(3 * bits - 1)}, 0}};
    while (!stack.empty() && !coder.bad()) {
        Node node = stack.back();
        stack.pop_back();
        while (node.count > 1 && node.cell.level >= 0) {
            const int level = node.cell.level, bit = level / 3, axis = 2 - level % 3;
            const size_t c = node.count;
            size_t left = 0;
            if constexpr (Coder::writes) {
                size_t lo = node.first, hi = node.first + c;
                while (lo < hi) {
                    const size_t mid = (lo + hi) / 2;
                    if (points[3 * mid + static_cast<size_t>(axis)] >> bit & 1) hi = mid;
                    else lo = mid + 1;
                }
                left = lo - node.first;
            }
            const size_t size = c <= 2 ? 0 : c <= 3 ? 1 : c <= 5 ? 2 : c <= 8 ? 3 : c <= 16 ? 4 : c <= 64 ? 5 : c <= 512 ? 6 : 7;
            const uint32_t said = coder.symbol(left == c ? 0 : left == 0 ? 1 : 2, outcome, {size, size * 64 + (node.past & 63)});
            node.past = node.past << 2 | said;
            --node.cell.level;
            if (said == 2) {
                if (c == 2) left = 1;
                else if (c <= 17) left = 1 + coder.symbol(static_cast<uint32_t>(left - 1), few, {c, 0});
                else {
                    const size_t each = (c - 1 + 15) / 16;
                    const uint32_t part = coder.symbol(static_cast<uint32_t>((left - 1) / each), many, {0, 0});
                    left = 1 + part * each + coder.raw(static_cast<uint32_t>((left - 1) % each), rans::bit_length(each - 1));
                    if (left >= c) return;  // damage; what is left of the stream tells
                }
                if (left >= c) return;
                Node right = node;
                right.first += left;
                right.count -= left;
                right.cell.at[axis] |= uint32_t{1} << bit;
                stack.push_back(right);
                node.count = left;
            } else if (said == 1) {
                node.cell.at[axis] |= uint32_t{1} << bit;
            }
        }
        for (size_t i = 0; i < node.count; ++i) cells[node.first + i] = node.cell;
    }
}

// near[kNear * i ...]: rows before i whose cells lie nearest, nearest first, out of the last kWindow; row 0 for want of others.
constexpr size_t kNear = 4, kWindow = 24;

inline void find_near(const Cell *cells, size_t n, uint32_t *near) {
    std::vector<uint32_t> at(3 * (n + kWindow), 0);
    uint32_t *axes[3];
    for (size_t a = 0; a < 3; ++a) {
        axes[a] = at.data() + a * (n + kWindow);
        for (size_t i = 0; i < n; ++i) axes[a][i] = cells[i].middle(static_cast<int>(a));
    }
    for (size_t i = 0; i < n; ++i) {
        const size_t first = i < kWindow ? 0 : i - kWindow, count = i - first;
        uint32_t distance[kWindow];
        const uint32_t x = axes[0][i], y = axes[1][i], z = axes[2][i];
        for (size_t j = 0; j < kWindow; ++j) {  // beyond count: computed, not used
            const auto dx = static_cast<int32_t>(axes[0][first + j] - x), dy = static_cast<int32_t>(axes[1][first + j] - y);
            const auto dz = static_cast<int32_t>(axes[2][first + j] - z);
            const uint32_t d = (static_cast<uint32_t>(dx < 0 ? -dx : dx) >> 2) + (static_cast<uint32_t>(dy < 0 ? -dy : dy) >> 2) +
                               (static_cast<uint32_t>(dz < 0 ? -dz : dz) >> 2);
            distance[j] = d << 5 | static_cast<uint32_t>(31 - j);  // of equal ones the later row; coordinates have at most 28 bits
        }
        uint32_t *found = near + kNear * i;
        uint32_t best[kNear];
        for (size_t k = 0; k < kNear; ++k) best[k] = 0xffffffffu;
        for (size_t j = 0; j < count; ++j) {
            uint32_t d = distance[j];
            for (size_t k = 0; k < kNear; ++k) {
                const uint32_t smaller = d < best[k] ? d : best[k], larger = d < best[k] ? best[k] : d;
                best[k] = smaller, d = larger;
            }
        }
        for (size_t k = 0; k < kNear; ++k) {
            found[k] = k < count ? static_cast<uint32_t>(first + 31 - (best[k] & 31)) : i == 0 ? 0 : found[0];
        }
    }
}

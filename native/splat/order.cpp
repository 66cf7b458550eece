#include <algorithm>
#include <cmath>
#include <vector>

#include "splat/splat.hpp"

namespace compand::splat {

void morton_order(const float *positions, size_t n, int64_t *order) {
    struct Key {
        uint64_t at[3];
        int64_t row;
    };
    float most = 0;
    for (size_t i = 0; i < 3 * n; ++i) most = std::max(most, std::fabs(positions[i]));
    int exponent = 0;
    std::frexp(most, &exponent);
    std::vector<Key> keys(n);
    for (size_t i = 0; i < n; ++i) {
        for (size_t a = 0; a < 3; ++a) {
            const double v = std::floor(std::ldexp(static_cast<double>(positions[3 * i + a]), 62 - exponent));
            keys[i].at[a] = static_cast<uint64_t>(static_cast<int64_t>(v)) ^ uint64_t{1} << 63;
        }
        keys[i].row = static_cast<int64_t>(i);
    }
    std::stable_sort(keys.begin(), keys.end(), [](const Key &p, const Key &q) { return before(p.at, q.at); });
    for (size_t i = 0; i < n; ++i) order[i] = keys[i].row;
}

}  // namespace compand::splat

#include <algorithm>
#include <cstdlib>

#include "image/image.hpp"

namespace compand::image {

bool png_rows(const uint8_t *lines, size_t height, size_t stride, size_t pixel, uint8_t *rows) {
    const uint8_t *above = nullptr;
    for (size_t y = 0; y < height; ++y, lines += stride + 1, above = rows, rows += stride) {
        const int kind = lines[0];
        if (kind > 4) return false;
        for (size_t i = 0; i < stride; ++i) {
            const int left = i >= pixel ? rows[i - pixel] : 0, up = above ? above[i] : 0, corner = above && i >= pixel ? above[i - pixel] : 0;
            int guess = 0;
            if (kind == 1) guess = left;
            else if (kind == 2) guess = up;
            else if (kind == 3) guess = (left + up) / 2;
            else if (kind == 4) {
                const int p = left + up - corner, a = std::abs(p - left), b = std::abs(p - up), c = std::abs(p - corner);
                guess = a <= b && a <= c ? left : b <= c ? up : corner;
            }
            rows[i] = static_cast<uint8_t>(lines[i + 1] + guess);
        }
    }
    return true;
}

}  // namespace compand::image

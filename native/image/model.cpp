#include "image/image.hpp"

#include "checked.hpp"

namespace compand::image {
namespace {

// e^v by IEEE sums and products only, |v| <= 8.
double exponential(double v) {
    const double x = v / 256;
    double sum = 1;
    for (int k = 12; k >= 1; --k) sum = 1 + sum * x / k;
    for (int k = 0; k < 8; ++k) sum *= sum;
    return sum;
}

Curves make() {
    Curves c{};
    for (int i = 0; i < 4096; ++i) {
        const double v = (i - 2048) / 256.0, p = 65536.0 / (1 + exponential(-v));
        c.squash[i] = static_cast<uint16_t>(p < 16 ? 16 : p > 65519 ? 65519 : p);
    }
    int at = 0;
    for (int i = 0; i < 4096; ++i) {
        while (at < 4095 && c.squash[at] < 16 * i + 8) ++at;
        const int v = at - 2048;
        c.stretch[i] = static_cast<int16_t>(v < -2047 ? -2047 : v > 2047 ? 2047 : v);
    }
    for (int n = 0; n < 256; ++n) c.rate[n] = static_cast<uint16_t>(65536 * 2 / (2 * n + 3));
    return c;
}

}  // namespace

const Curves &curves() {
    static const Curves made = make();
    return made;
}

size_t tiles_of(const Settings &s) {
    const auto side = static_cast<size_t>(s.tile);
    return ((s.height + side - 1) / side) * ((s.width + side - 1) / side);
}

uint32_t check_of(const uint8_t *data, size_t n) {  // FNV-1a, folded to 16 bits
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < n; ++i) h = (h ^ data[i]) * 16777619u;
    return (h ^ h >> 16) & 0xffff;
}

bool spans_of(const uint8_t *data, size_t size, const Settings &s, Spans &out) {
    const size_t n = 2 * tiles_of(s);
    Reader in(data, size);
    if (3 * n > size) return false;
    out.at.resize(n), out.size.resize(n), out.damaged.resize(n);
    std::vector<uint32_t> checks(n);
    for (size_t i = 0; i < n; ++i) {
        const uint64_t length = in.varint();
        if (length > size) return false;
        out.size[i] = static_cast<size_t>(length);
        checks[i] = in.get<uint16_t>();
    }
    for (size_t part = 0; part < 2; ++part) {
        for (size_t i = part; i < n; i += 2) {
            if (!(out.at[i] = in.take(out.size[i]))) return false;
            out.damaged[i] = check_of(out.at[i], out.size[i]) != checks[i];
        }
    }
    return in.ok() && in.left() == 0;
}

}  // namespace compand::image

// How blocks are coded: one template for writer and reader, so that they cannot differ.

enum Size { kEight, kSixteen, kCoarse };
constexpr int kMostUnary = 15;

inline int side_of(Size s) { return s == kSixteen ? 16 : 8; }
inline int length_of(Size s) { return s == kSixteen ? 256 : 64; }

struct Buckets {
    uint8_t place[256], near[512];
    constexpr Buckets() : place(), near() {
        for (int i = 0; i < 256; ++i) {
            int b = i;
            if (i >= 12) {
                b = 12;
                for (int edge : {14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224}) b += i >= edge;
            }
            place[i] = static_cast<uint8_t>(b);
        }
        for (int i = 0; i < 512; ++i) {
            int b = 0;
            for (int edge : {1, 3, 6, 11, 19, 33, 65}) b += i >= edge;
            near[i] = static_cast<uint8_t>(b);
        }
    }
};
constexpr Buckets kBuckets;

inline uint32_t low3(uint32_t v) { return v < 7 ? v : 7; }
inline uint32_t low2(uint32_t v) { return v < 3 ? v : 3; }

// What is known of a block before its coefficients.
struct Around {
    Size size;
    uint32_t channel, chroma, cls, near, left, top, flat, step;  // near, flat, step: 3 bits; left, top: 2
    const int32_t *luma;         // its coefficients of the first channel, or null
    const int32_t *beside[2];    // of the blocks on the left and above, if they are alike, or null
};

inline uint32_t at_luma(const Around &a, int i, int n) {
    if (!a.luma) return a.left << 2 | a.top;
    auto size = [&](int k) { return k >= 0 && k < n ? static_cast<uint32_t>(a.luma[k] < 0 ? -a.luma[k] : a.luma[k]) : 0u; };
    return low2(size(i)) << 2 | low2(size(i - 1) + size(i + 1) + (size(i - 2) + size(i + 2)) / 2);
}

inline uint32_t size_of(int32_t v) { return static_cast<uint32_t>(v < 0 ? -v : v); }

// Places in the scan of cosines of 8 x 8 and 16 x 16, and those of lower frequency beside them (or -1).
struct Scans {
    int16_t below[2][256][3];
    constexpr Scans() : below() {
        for (int s = 0; s < 2; ++s) {
            const int side = s ? 16 : 8, n = side * side;
            int order[256] = {}, place[256] = {};
            int k = 0;
            for (int sum = 0; sum <= 2 * (side - 1) * (side - 1); ++sum) {  // by squared frequency, then by row: as the basis is
                for (int a = 0; a < side; ++a) {
                    for (int b = 0; b < side; ++b) {
                        if (a * a + b * b == sum) order[k] = a * side + b, place[a * side + b] = k++;
                    }
                }
            }
            for (int i = 0; i < n; ++i) {
                const int a = order[i] / side, b = order[i] % side;
                below[s][i][0] = static_cast<int16_t>(a ? place[(a - 1) * side + b] : -1);
                below[s][i][1] = static_cast<int16_t>(b ? place[a * side + b - 1] : -1);
                below[s][i][2] = static_cast<int16_t>(a && b ? place[(a - 1) * side + b - 1] : -1);
            }
        }
    }
};
const Scans kScans;

// Magnitudes nearby among what is decoded of the block itself (3 bits).
inline uint32_t local_of(const Around &a, const int32_t *q, int i) {
    uint32_t sum = 0;
    if (a.cls == 0) {
        const int16_t *below = kScans.below[a.size == kSixteen][i];
        for (int k = 0; k < 3; ++k) {
            if (below[k] >= 0) sum += (k < 2 ? 2 : 1) * size_of(q[below[k]]);
        }
    } else {
        for (int k = 1; k <= 4 && k <= i; ++k) sum += (k < 3 ? 2 : 1) * size_of(q[i - k]);
    }
    return sum < 4 ? sum : sum < 6 ? 4 : sum < 9 ? 5 : sum < 14 ? 6 : 7;
}
inline uint32_t beside_of(const Around &a, int i) {  // 6 bits
    uint32_t v = 0;
    for (const int32_t *q : a.beside) v = v << 3 | (q ? 1 + low2(size_of(q[i])) + 0u : 0u);
    return v;
}
inline uint32_t beyond_of(const Around &a, int i, int n) {  // whether those beside go on after i: 4 bits
    uint32_t v = 0;
    for (const int32_t *q : a.beside) {
        uint32_t more = 0;
        if (q) {
            for (int k = i + 1; k < n && k <= i + 48 && more < 2; ++k) more += q[k] != 0;
            ++more;
        }
        v = v << 2 | more;
    }
    return v;
}

// Coefficients of a block of which at least one is not zero. Gives the sum of magnitudes.
template <class Coder> uint32_t code_coefficients(Coder &coder, const Around &a, int32_t *q, uint64_t *counts) {
    const int n = length_of(a.size);
    const uint32_t s = a.size, cg = a.chroma;
    uint32_t run = 0, nz = 0, last = 0, sum = 0;
    if constexpr (!Coder::writes) std::fill(q, q + n, 0);
    for (int i = 0; i < n; ++i) {
        const auto ii = static_cast<uint32_t>(i), ib = static_cast<uint32_t>(kBuckets.place[i]);
        const uint32_t lm = at_luma(a, i, n), cs = cg << 2 | s, local = local_of(a, q, i), beside = beside_of(a, i);
        int some = 1;
        if (i < n - 1) {
            const Contexts c{kZero,
                             {(cs << 4 | a.cls) << 8 | ii, ((a.channel << 2 | s) << 5 | ib) << 3 | a.near, ((cs << 5 | ib) << 3 | a.flat) << 3 | a.step,
                              (((cs << 3 | low3(nz)) << 3 | low3(run)) << 2 | last) << 4 | ib >> 1, ((a.channel << 2 | s) << 5 | ib) << 4 | lm,
                              ((cs << 3 | a.step) << 5 | ib) << 3 | low3(nz), ((cs << 5 | ib) << 3 | local) << 4 | lm, (cs << 5 | ib) << 6 | beside},
                             cs << 5 | ib, (a.step << 3 | a.near) << 2 | low2(nz)};
            some = coder.bit(Coder::writes && q[i] != 0, c);
        }
        if (counts) ++counts[4 * i + some];
        if (!some) {
            ++run;
            continue;
        }
        uint32_t size = 1;
        const uint32_t want = Coder::writes ? static_cast<uint32_t>(q[i] < 0 ? -q[i] : q[i]) : 0;
        while (size < kMostUnary) {
            const uint32_t m = low3(size - 1);
            const Contexts c{kMore,
                             {(cs << 5 | ib) << 3 | m, (m << 3 | a.near) << 3 | a.step, ((cs << 3 | low3(nz)) << 2 | last) << 3 | m,
                              ((a.channel << 2 | s) << 3 | a.flat) << 3 | m, ((a.channel << 2 | s) << 4 | lm) << 3 | m, ((cg << 4 | a.cls) << 5 | ib) << 3 | m,
                              ((cs << 3 | m) << 3 | local) << 3 | (ib < 7 ? ib : 7), (cs << 3 | m) << 6 | beside},
                             cs << 3 | m, a.step << 3 | m};
            if (!coder.bit(want > size, c)) break;
            ++size;
        }
        if (size == kMostUnary) {  // Exp-Golomb of what is above
            const uint32_t over = want - kMostUnary + 1;
            int bits = 0;
            if constexpr (Coder::writes) bits = rans::bit_length(over) - 1;
            int len = 0;
            while (len < 18 && coder.raw(len < bits, 1)) ++len;
            size = kMostUnary - 1 + ((1u << len) | coder.raw(over & ((1u << len) - 1), len));
        }
        const uint32_t negative = coder.raw(q[i] < 0, 1);
        if constexpr (!Coder::writes) q[i] = negative ? -static_cast<int32_t>(size) : static_cast<int32_t>(size);
        sum += size;
        ++nz;
        last = low2(size);
        run = 0;
        if (i < n - 1) {
            int more = 0;
            if constexpr (Coder::writes) {
                for (int k = i + 1; k < n && !more; ++k) more = q[k] != 0;
            }
            const Contexts c{kEnd,
                             {(cs << 4 | a.cls) << 8 | ii, ((a.channel << 2 | s) << 5 | ib) << 3 | a.near, ((cs << 5 | ib) << 3 | a.flat) << 3 | a.step,
                              ((cs << 3 | low3(nz)) << 2 | last) << 5 | ib, ((a.channel << 2 | s) << 5 | ib) << 4 | lm,
                              ((cs << 3 | a.step) << 5 | ib) << 3 | low3(nz), ((cs << 3 | local) << 2 | last) << 5 | ib, (cs << 5 | ib) << 4 | beyond_of(a, i, n)},
                             cs << 5 | ib, (a.step << 3 | a.near) << 2 | low2(nz)};
            more = coder.bit(more, c);
            if (counts) ++counts[4 * i + (more ? 2 : 3)];
            if (!more) break;
        }
        if (coder.bad()) break;
    }
    return sum;
}

// One block of a tile: how it is cut, and its coefficients.
struct Block {
    uint8_t any = 0, split = 0;
    uint8_t cls[4] = {}, coded[4][3] = {};   // one of 16, or four of 8
    int32_t q[3][256] = {};
};

// A tile: what is decoded of it so far, as contexts for what follows.
struct Tile {
    int x, y, width, height;      // in pixels; multiples of 64 but where the picture ends
    int cells, rows;              // of 8 x 8 pixels
    int blocks_x, blocks_y;       // of 16 x 16, that begin on the picture
    int channels, bucket, step;
    std::vector<uint8_t> active[3], state, cls;  // of cells: magnitudes; 1 empty, 2 of 16, 3 of 8; class + 1
    std::vector<Block> blocks;    // this row of 16 x 16 and the one above
    const int32_t *coarse = nullptr;  // first plane, its first value in this tile
    size_t stride = 0;

    Tile(const Settings &s, size_t index) {
        const auto side = static_cast<size_t>(s.tile), across = (s.width + side - 1) / side;
        x = static_cast<int>(index % across * side);
        y = static_cast<int>(index / across * side);
        auto even = [](size_t v) { return static_cast<int>((v + 63) / 64 * 64); };
        width = std::min(s.tile, even(s.width) - x);
        height = std::min(s.tile, even(s.height) - y);
        cells = width / 8, rows = height / 8;
        blocks_x = std::min(width / 16, (static_cast<int>(s.width) - x + 15) / 16);
        blocks_y = std::min(height / 16, (static_cast<int>(s.height) - y + 15) / 16);
        channels = s.channels;
        step = s.step;
        bucket = std::clamp(rans::bit_length(static_cast<uint32_t>(s.step * 3)) - 8, 0, kSteps - 1);  // octaves of the step
        const auto n = static_cast<size_t>(cells) * static_cast<size_t>(rows);
        for (auto &v : active) v.assign(n, 0);
        state.assign(n, 0);
        cls.assign(n, 0);
    }
    Block &block(int bx, int by) {
        if (blocks.empty()) blocks.resize(2 * static_cast<size_t>(blocks_x));
        return blocks[static_cast<size_t>((by & 1) * blocks_x + bx)];
    }
    // Coefficients of the block that holds a cell, if it is of this size and class and coded.
    const int32_t *alike(int channel, int cx, int cy, Size size, int of) {
        if (cx < 0 || cy < 0 || cx / 2 >= blocks_x) return nullptr;
        const Block &b = block(cx / 2, cy / 2);
        const int i = size == kSixteen ? 0 : (cy & 1) * 2 + (cx & 1);
        if (!b.any || b.split != (size == kEight) || !b.coded[i][channel] || b.cls[i] != of) return nullptr;
        return b.q[channel] + 64 * i;
    }
    size_t cell(int cx, int cy) const { return static_cast<size_t>(cy) * static_cast<size_t>(cells) + static_cast<size_t>(cx); }
    template <class T> uint32_t get(const std::vector<T> &v, int cx, int cy) const {
        return cx < 0 || cy < 0 || cx >= cells ? 0u : v[cell(cx, cy)];
    }
    // Mean magnitude beside and above a block of `span` cells.
    void sides(int channel, int cx, int cy, int span, uint32_t &left, uint32_t &top) const {
        left = top = 0;
        for (int k = 0; k < span; ++k) {
            left += get(active[channel], cx - 1, cy + k);
            top += get(active[channel], cx + k, cy - 1);
        }
        left /= static_cast<uint32_t>(span), top /= static_cast<uint32_t>(span);
    }
    // How much the coarse picture changes here, against the step (5 bits), and in which of eight directions.
    void slope(int cx, int cy, int span, uint32_t &flat, uint32_t &direction) const {
        int64_t a = 0, b = 0, most = 0;
        for (int j = cy; j < cy + span; ++j) {
            for (int i = cx; i < cx + span; ++i) {
                auto v = [&](int px, int py) {
                    px = std::clamp(px, 0, cells - 1), py = std::clamp(py, 0, rows - 1);
                    return static_cast<int64_t>(coarse[static_cast<size_t>(py) * stride + static_cast<size_t>(px)]);
                };
                const int64_t gx = v(i + 1, j) - v(i - 1, j), gy = v(i, j + 1) - v(i, j - 1), here = 2 * v(i, j);
                const int64_t cx2 = v(i + 1, j) + v(i - 1, j) - here, cy2 = v(i, j + 1) + v(i, j - 1) - here;
                a += gx * gx - gy * gy, b += 2 * gx * gy;
                most += std::abs(gx) + std::abs(gy) + std::abs(cx2) + std::abs(cy2);
            }
        }
        const auto ratio = static_cast<uint64_t>(most) * 16 / static_cast<uint64_t>(span * span) / static_cast<uint64_t>(step);
        const int bits = rans::bit_length(ratio);
        const int half = bits > 1 ? static_cast<int>(ratio >> (bits - 2) & 1) : 0;
        flat = static_cast<uint32_t>(std::clamp(2 * bits + half, 0, 31));
        const int64_t aa = std::abs(a), bb = std::abs(b);
        direction = (a < 0 ? 1u : 0u) | (b < 0 ? 2u : 0u) | (aa < bb ? 4u : 0u);
    }
};

inline uint32_t mean_near(uint32_t left, uint32_t top) { return kBuckets.near[left + top]; }

// Whether a channel of a block is coded, its class, its coefficients: of one block of 16 or of 8.
template <class Coder>
bool code_part(Coder &coder, Tile &t, Size size, int cx, int cy, int classes, uint8_t &cls, uint8_t *coded, int32_t *const *q, uint64_t *counts) {
    const int span = size == kSixteen ? 2 : 1;
    const auto s = static_cast<uint32_t>(size), bucket = static_cast<uint32_t>(t.bucket);
    uint32_t flat, direction, left[3], top[3], near[3];
    t.slope(cx, cy, span, flat, direction);
    const uint32_t flat3 = flat / 3 < 7 ? flat / 3 : 7;
    uint32_t mask = 0;
    for (int c = 0; c < t.channels; ++c) {
        const auto ch = static_cast<uint32_t>(c);
        t.sides(c, cx, cy, span, left[c], top[c]);
        near[c] = mean_near(left[c], top[c]);
        const uint32_t sc = s << 2 | ch;
        const uint32_t diagonal = low2(t.get(t.active[c], cx - 1, cy - 1)) << 2 | low2(t.get(t.active[c], cx + span, cy - 1));
        const Contexts k{kCoded,
                         {(sc << 3 | near[c]) << 3 | flat3, (sc << 3 | bucket) << 5 | flat, (sc << 3 | near[c]) << 2 | mask,
                          ((sc << 2 | low2(left[c])) << 2 | low2(top[c])) << 4 | diagonal, ((sc << 3 | near[c]) << 3 | near[0]) << 2 | mask,
                          (sc << 3 | near[0]) << 5 | flat, (sc << 3 | kBuckets.near[left[c]]) << 3 | kBuckets.near[top[c]],
                          (sc << 2 | t.get(t.state, cx - 1, cy)) << 2 | t.get(t.state, cx, cy - 1)},
                         sc << 3 | bucket, (sc << 2 | mask) << 2 | low2(near[c])};
        coded[c] = static_cast<uint8_t>(coder.bit(coded[c], k));
        mask |= static_cast<uint32_t>(coded[c]) << c;
    }
    if (mask) {
        const uint32_t cl = t.get(t.cls, cx - 1, cy), ct = t.get(t.cls, cx, cy - 1), cd = t.get(t.cls, cx + span, cy - 1);
        uint32_t node = 1;
        for (int b = 3; b >= 0; --b) {
            const uint32_t ns = node << 1 | (s & 1);
            const Contexts k{kClass,
                             {(ns << 4 | cl) << 4 | ct, (ns << 3 | direction) << 3 | flat3, ((ns << 3 | direction) << 4 | cl) << 2 | low2(flat3), (ns << 3 | bucket) << 3 | mask,
                              (ns << 4 | ct) << 3 | direction, (ns << 4 | cd) << 3 | mask, (ns << 4 | cl) << 3 | direction, (ns << 4 | ct) << 4 | cd},
                             ns << 3 | direction, ns << 3 | bucket};
            node = node << 1 | static_cast<uint32_t>(coder.bit(cls >> b & 1, k));
        }
        cls = static_cast<uint8_t>(node & 15);
        if (cls >= classes) return false;
    }
    for (int c = 0; c < t.channels; ++c) {
        uint32_t sum = 0;
        if (coded[c]) {
            const Around a{size, static_cast<uint32_t>(c), c > 0, cls, near[c], low2(left[c]), low2(top[c]), flat3, bucket, c > 0 && coded[0] ? q[0] : nullptr,
                           {t.alike(c, cx - 1, cy, size, cls), t.alike(c, cx, cy - 1, size, cls)}};
            uint64_t *of = counts ? counts + ((static_cast<size_t>(t.bucket) * 3 + size) * 2 + (c > 0)) * 1024 : nullptr;
            sum = code_coefficients(coder, a, q[c], of);
        }
        const uint32_t level = size == kSixteen ? sum : 4 * sum;
        for (int k = 0; k < span * span; ++k) t.active[c][t.cell(cx + k % span, cy + k / span)] = static_cast<uint8_t>(std::min(level, 255u));
    }
    for (int k = 0; k < span * span; ++k) {
        const size_t at = t.cell(cx + k % span, cy + k / span);
        t.state[at] = mask ? static_cast<uint8_t>(2 + (size == kEight)) : 1;
        t.cls[at] = mask ? static_cast<uint8_t>(cls + 1) : 0;
    }
    return !coder.bad();
}

template <class Coder> bool code_block(Coder &coder, Tile &t, int bx, int by, const int *classes, Block &b, uint64_t *counts) {
    const int cx = 2 * bx, cy = 2 * by;
    uint32_t flat, direction, left, top, others = 0, l, u;
    t.slope(cx, cy, 2, flat, direction);
    t.sides(0, cx, cy, 2, left, top);
    for (int c = 1; c < t.channels; ++c) t.sides(c, cx, cy, 2, l, u), others += l + u;
    const uint32_t near = mean_near(left, top), colour = kBuckets.near[std::min(others, 511u)], bucket = static_cast<uint32_t>(t.bucket);
    const uint32_t sl = t.get(t.state, cx - 1, cy), st = t.get(t.state, cx, cy - 1), sd = t.get(t.state, cx - 1, cy - 1), sr = t.get(t.state, cx + 2, cy - 1);
    const uint32_t states = (sl << 2 | st) << 4 | sd << 2 | sr;
    Contexts k{kAny,
               {(near << 3 | colour) << 4 | flat >> 1, (bucket << 5 | flat) << 2 | low2(near), states << 2 | low2(flat / 6), (near << 5 | flat) << 2 | low2(colour),
                ((sl << 2 | st) << 3 | bucket) << 3 | near, (sl << 2 | st) << 5 | flat, (kBuckets.near[left] << 3 | kBuckets.near[top]) << 4 | flat >> 1,
                (direction << 5 | flat) << 2 | low2(near)},
               bucket << 5 | flat, states};
    b.any = static_cast<uint8_t>(coder.bit(b.any, k));
    if (!b.any) {
        for (int i = 0; i < 4; ++i) {
            const size_t at = t.cell(cx + (i & 1), cy + (i >> 1));
            t.state[at] = 1;
            t.cls[at] = 0;
            for (auto &v : t.active) v[at] = 0;
        }
        return !coder.bad();
    }
    k.kind = kSplit;
    b.split = static_cast<uint8_t>(coder.bit(b.split, k));
    if (!b.split) {
        int32_t *q[3] = {b.q[0], b.q[1], b.q[2]};
        return code_part(coder, t, kSixteen, cx, cy, classes[1], b.cls[0], b.coded[0], q, counts);
    }
    for (int i = 0; i < 4; ++i) {
        int32_t *q[3] = {b.q[0] + 64 * i, b.q[1] + 64 * i, b.q[2] + 64 * i};
        if (!code_part(coder, t, kEight, cx + (i & 1), cy + (i >> 1), classes[0], b.cls[i], b.coded[i], q, counts)) return false;
    }
    return true;
}

// The coarse picture of a tile: squares of 8 values in cosines, their mean foretold by those beside and above.
struct Coarse {
    int across, down, channels;
    std::vector<int32_t> means[3];
    std::vector<uint8_t> active[3];
    std::vector<int32_t> squares;  // (down, across, 3, 64) coefficients
    uint32_t bucket;

    explicit Coarse(const Tile &t) : across(t.cells / 8), down(t.rows / 8), channels(t.channels), bucket(static_cast<uint32_t>(t.bucket)) {
        for (int c = 0; c < 3; ++c) {
            means[c].assign(static_cast<size_t>(across * down), 0);
            active[c].assign(static_cast<size_t>(across * down), 0);
        }
        squares.assign(static_cast<size_t>(across * down) * 192, 0);
    }
    int32_t (*square(int bx, int by))[64] { return reinterpret_cast<int32_t (*)[64]>(squares.data() + static_cast<size_t>(by * across + bx) * 192); }
    int32_t foretold(int c, int bx, int by) const {
        auto at = [&](int i, int j) { return means[c][static_cast<size_t>(j * across + i)]; };
        if (bx && by) {
            const int32_t l = at(bx - 1, by), u = at(bx, by - 1), d = at(bx - 1, by - 1);
            return d >= std::max(l, u) ? std::min(l, u) : d <= std::min(l, u) ? std::max(l, u) : l + u - d;
        }
        return bx ? at(bx - 1, by) : by ? at(bx, by - 1) : 0;
    }
    // q: (channels, 64) of one square; the first coefficient as the difference to what is foretold.
    template <class Coder> bool code(Coder &coder, int bx, int by, int32_t (*q)[64], uint64_t *counts) {
        const auto at = static_cast<size_t>(by * across + bx);
        uint32_t mask = 0;
        for (int c = 0; c < channels; ++c) {
            const auto ch = static_cast<uint32_t>(c);
            const uint32_t left = bx ? active[c][at - 1] : 12u, top = by ? active[c][at - static_cast<size_t>(across)] : 12u;
            const uint32_t near = mean_near(left, top), sc = uint32_t{kCoarse} << 2 | ch;
            int coded = 0;
            if constexpr (Coder::writes) {
                for (int i = 0; i < 64; ++i) coded |= q[c][i] != 0;
            }
            const Contexts k{kCoded,
                             {(sc << 3 | near) << 3, (sc << 3 | bucket) << 5, (sc << 3 | near) << 2 | mask, ((sc << 2 | low2(left)) << 2 | low2(top)) << 4,
                              (sc << 3 | near) << 5 | mask, (sc << 3 | near) << 5, (sc << 3 | kBuckets.near[left]) << 3 | kBuckets.near[top], sc << 4},
                             sc << 3 | bucket, (sc << 2 | mask) << 2 | low2(near)};
            coded = coder.bit(coded, k);
            mask |= static_cast<uint32_t>(coded) << c;
            uint32_t sum = 0;
            if (coded) {
                const Around a{kCoarse, ch, c > 0, 0, near, low2(left / 4), low2(top / 4), kBuckets.near[left + top > 511 ? 511 : left + top], bucket, c > 0 && (mask & 1) ? q[0] : nullptr,
                               {bx ? square(bx - 1, by)[c] : nullptr, by ? square(bx, by - 1)[c] : nullptr}};
                sum = code_coefficients(coder, a, q[c], counts ? counts + ((static_cast<size_t>(bucket) * 3 + kCoarse) * 2 + (c > 0)) * 1024 : nullptr);
            } else if constexpr (!Coder::writes) {
                std::fill(q[c], q[c] + 64, 0);
            }
            active[c][at] = static_cast<uint8_t>(std::min(sum / 2, 255u));
        }
        return !coder.bad();
    }
};

// The encoder: which cut, which class, which values; then what the reader undoes.

constexpr float kLow[9] = {0.026748757f, -0.016864118f, -0.078223266f, 0.266864118f, 0.602949018f, 0.266864118f, -0.078223266f, -0.016864118f, 0.026748757f};

// (h, w) → (h / 2, w / 2), mirrored at the edges.
inline std::vector<float> reduce(const std::vector<float> &x, size_t h, size_t w) {
    auto mirror = [](ptrdiff_t i, ptrdiff_t n) {
        i = i < 0 ? -i : i;
        return static_cast<size_t>(i < n ? i : 2 * n - 2 - i);
    };
    std::vector<float> low(h / 2 * w, 0.0f), out(h / 2 * (w / 2), 0.0f);
    for (size_t i = 0; i < h / 2; ++i) {
        float *to = low.data() + i * w;
        for (int k = 0; k < 9; ++k) {
            const float *from = x.data() + mirror(static_cast<ptrdiff_t>(2 * i) + k - 4, static_cast<ptrdiff_t>(h)) * w;
            for (size_t j = 0; j < w; ++j) to[j] += kLow[k] * from[j];
        }
        float *line = out.data() + i * (w / 2);
        for (size_t j = 0; j < w / 2; ++j) {
            for (int k = 0; k < 9; ++k) line[j] += kLow[k] * to[mirror(static_cast<ptrdiff_t>(2 * j) + k - 4, static_cast<ptrdiff_t>(w))];
        }
    }
    return out;
}

// y[b][k] = sum_j x[b][j] turned[j][k] for several blocks.
inline void project(const float *x, size_t blocks, int n, const float *turned, float *y) {
    std::fill(y, y + blocks * static_cast<size_t>(n), 0.0f);
    for (size_t first = 0; first < blocks; first += 8) {
        const size_t last = std::min(blocks, first + 8);
        for (int j = 0; j < n; ++j) {
            const float *row = turned + j * n;
            for (size_t b = first; b < last; ++b) {
                const float v = x[b * static_cast<size_t>(n) + static_cast<size_t>(j)];
                float *to = y + b * static_cast<size_t>(n);
                for (int k = 0; k < n; ++k) to[k] += v * row[k];
            }
        }
    }
}

struct Chooser {
    const Model &m;
    const Tile &t;
    float delta, lambda;  // lambda: squared error of one bit

    const uint16_t *rates(Size size, bool chroma) const {
        return m.rates.data() + ((static_cast<size_t>(t.bucket) * 3 + size) * 2 + chroma) * 1024;
    }
    // Quantize values (n,) for the least of error + lambda bits; that least, of coded or all zero.
    float quantize(const float *v, Size size, bool chroma, float step, float unit, int32_t *q, bool &coded) const {
        const int n = length_of(size);
        const uint16_t *rate = rates(size, chroma);
        const uint8_t *centre = m.centre[size][chroma];
        const float off1 = static_cast<float>(centre[0]) / 256, off2 = static_cast<float>(centre[1]) / 256, bit = lambda / 64;
        float energy = 0;
        float loss[256], all = 0;  // all: cost of what is decided so far, as if more came
        for (int i = 0; i < n; ++i) {
            loss[i] = v[i] * v[i] * unit;
            energy += loss[i];
        }
        float best = energy, rest = energy;
        int end = -1;
        for (int i = 0; i < n; ++i) {
            const uint16_t *r = rate + 4 * i;
            const float size_ = std::abs(v[i]) / step;
            rest -= loss[i];
            const float zero = loss[i] + bit * r[0];
            int32_t pick = 0;
            float cost = zero;
            const int32_t high = size_ < 0.4f ? 0 : static_cast<int32_t>(size_ + 0.5f) + (size_ < 0.5f);
            for (int32_t c = high; c > 0 && c >= high - 1; --c) {
                const float e = (size_ - (static_cast<float>(c) - (c > 1 ? off2 : off1))) * step;
                const float more = c > kMostUnary ? 64.0f * static_cast<float>(12 + 2 * rans::bit_length(static_cast<uint32_t>(c))) : 40.0f * static_cast<float>(c - 1) + (c > 1 ? 100.0f : 24.0f);
                const float j = e * e * unit + bit * (r[1] + 64 + more + r[2]);
                if (j < cost) cost = j, pick = c;
            }
            q[i] = v[i] < 0 ? -pick : pick;
            all += cost;
            if (pick) {
                const float here = all + bit * (static_cast<float>(r[3]) - r[2]) + rest;
                if (here < best) best = here, end = i;
            }
        }
        coded = end >= 0;
        std::fill(q + end + 1, q + n, 0);
        return best;
    }
};

inline void encode_coarse(const std::vector<float> *low, size_t stride, const Settings &s, const Model &m, const Tile &t, float lambda, std::vector<int32_t> *planes,
                          Writer &coder, uint64_t *counts) {
    Coarse coarse(t);
    const float step = static_cast<float>(s.step) * static_cast<float>(m.share) / (64 * 8 * 16);
    const Chooser choose{m, t, step, lambda * static_cast<float>(s.step) * static_cast<float>(s.step) / 4096};
    for (int by = 0; by < coarse.down; ++by) {
        for (int bx = 0; bx < coarse.across; ++bx) {
            int32_t (*q)[64] = coarse.square(bx, by);
            int32_t mean[3];
            for (int c = 0; c < s.channels; ++c) {
                float x[64], v[64];
                const size_t at = static_cast<size_t>(t.y / 8 + 8 * by) * stride + static_cast<size_t>(t.x / 8 + 8 * bx);
                for (size_t i = 0; i < 64; ++i) x[i] = low[c][at + i / 8 * stride + i % 8];
                project(x, 1, 64, m.turned[0].data(), v);
                bool coded;
                const float dc = v[0] / step;
                v[0] = 0;
                choose.quantize(v, kCoarse, c > 0, step, 64, q[c], coded);
                mean[c] = static_cast<int32_t>(dc < 0 ? dc - 0.5f : dc + 0.5f);
                q[c][0] = mean[c] - coarse.foretold(c, bx, by);
            }
            coarse.code(coder, bx, by, q, counts);
            for (int c = 0; c < s.channels; ++c) {
                coarse.means[c][static_cast<size_t>(by * coarse.across + bx)] = mean[c];
                put_coarse(m, t, s.step, bx, by, c, mean[c], q[c], planes[c], stride);
            }
        }
    }
}

struct Choice {
    float cost;
    uint8_t cls;
    bool coded;
    int32_t q[256];
};

inline void encode_details(const std::vector<float> *left_over, size_t stride, const Settings &s, const Model &m, Tile &t, float lambda, Writer &coder, uint64_t *counts) {
    const float step = static_cast<float>(s.step) / 64;
    const Chooser choose{m, t, step, lambda * step * step};
    const float small = 0.3f * step * step, class_bits = 2.5f * choose.lambda;
    const auto across = static_cast<size_t>(t.blocks_x);
    std::vector<float> x16(across * 256), x8(across * 256), y;
    std::vector<Choice> best16(across), best8(across * 4);
    const int most = std::max(m.classes[0], m.classes[1]);
    std::vector<float> all[kMostClasses];
    for (int k = 0; k < most; ++k) all[k].resize(across * 256);
    for (int by = 0; by < t.blocks_y; ++by) {
        auto gather = [&](int c, size_t bx, float *to16, float *to8) {
            const float *from = left_over[c].data() + static_cast<size_t>(t.y + 16 * by) * stride + static_cast<size_t>(t.x) + 16 * bx;
            for (size_t i = 0; i < 256; ++i) {
                const size_t r = i / 16, k = i % 16;
                const float v = from[r * stride + k];
                to16[i] = v;
                to8[(r / 8 * 2 + k / 8) * 64 + r % 8 * 8 + k % 8] = v;
            }
        };
        std::vector<float> energy(across);
        for (size_t bx = 0; bx < across; ++bx) {
            gather(0, bx, x16.data() + bx * 256, x8.data() + bx * 256);
            float e = 0;
            for (size_t i = 0; i < 256; ++i) e += x16[bx * 256 + i] * x16[bx * 256 + i];
            energy[bx] = e;
        }
        int32_t q[256];
        bool coded;
        for (int k = 0; k < m.classes[1]; ++k) {
            project(x16.data(), across, 256, m.turned[1].data() + static_cast<size_t>(k) * 65536, all[k].data());
            for (size_t bx = 0; bx < across; ++bx) {
                if (k && energy[bx] < small) continue;
                const float j = choose.quantize(all[k].data() + bx * 256, kSixteen, false, step, 1, q, coded) + (coded ? (k ? 1.3f : 0.6f) * class_bits : 0);
                if (k == 0 || j < best16[bx].cost) {
                    best16[bx].cost = j, best16[bx].cls = static_cast<uint8_t>(k), best16[bx].coded = coded;
                    std::copy(q, q + 256, best16[bx].q);
                }
            }
        }
        for (int k = 0; k < m.classes[0]; ++k) {
            project(x8.data(), 4 * across, 64, m.turned[0].data() + static_cast<size_t>(k) * 4096, all[k].data());
            for (size_t b = 0; b < 4 * across; ++b) {
                if (k && energy[b / 4] < small) continue;
                const float j = choose.quantize(all[k].data() + b * 64, kEight, false, step, 1, q, coded) + (coded ? (k ? 1.3f : 0.6f) * class_bits : 0);
                if (k == 0 || j < best8[b].cost) {
                    best8[b].cost = j, best8[b].cls = static_cast<uint8_t>(k), best8[b].coded = coded;
                    std::copy(q, q + 64, best8[b].q);
                }
            }
        }
        for (size_t bx = 0; bx < across; ++bx) {
            Block whole, cut;
            whole.any = cut.any = cut.split = 1;
            float nothing = energy[bx], j16 = best16[bx].cost + 2 * choose.lambda, j8 = 4 * choose.lambda;
            whole.cls[0] = best16[bx].cls;
            whole.coded[0][0] = best16[bx].coded;
            std::copy(best16[bx].q, best16[bx].q + 256, whole.q[0]);
            for (size_t i = 0; i < 4; ++i) {
                const Choice &b = best8[4 * bx + i];
                j8 += b.cost;
                cut.cls[i] = b.cls;
                cut.coded[i][0] = b.coded;
                std::copy(b.q, b.q + 64, cut.q[0] + 64 * i);
            }
            for (int c = 1; c < s.channels; ++c) {
                float a[256], b[256], v[256], e = 0;
                gather(c, bx, a, b);
                for (float f : a) e += f * f;
                nothing += e;
                if (e < small) {
                    j16 += e, j8 += e;
                    continue;
                }
                project(a, 1, 256, m.turned[1].data() + static_cast<size_t>(whole.cls[0]) * 65536, v);
                j16 += choose.quantize(v, kSixteen, true, step, 1, whole.q[c], coded);
                whole.coded[0][c] = coded;
                for (size_t i = 0; i < 4; ++i) {
                    project(b + 64 * i, 1, 64, m.turned[0].data() + static_cast<size_t>(cut.cls[i]) * 4096, v);
                    j8 += choose.quantize(v, kEight, true, step, 1, cut.q[c] + 64 * i, coded);
                    cut.coded[i][c] = coded;
                }
            }
            Block &pick = j16 <= j8 ? whole : cut;
            bool some = false;
            for (auto &part : pick.coded) some |= part[0] || part[1] || part[2];
            pick.any = some && std::min(j16, j8) < nothing + 0.5f * choose.lambda;
            Block &kept = t.block(static_cast<int>(bx), by);
            kept = pick;
            code_block(coder, t, static_cast<int>(bx), by, m.classes, kept, counts);
        }
    }
}

// The attributes of the first two formats.

inline bool read_scales(SymbolReader &coder, Block &b, const Rules &p) {
    const size_t n = b.n;
    std::vector<int32_t> gap[2];
    for (auto &g : gap) g.resize(n);
    std::vector<uint32_t> counts(3 * kGrid + 2, 0);  // the usual cell's level: density foretells size
    for (const Cell &c : b.cells) ++counts[static_cast<size_t>(c.level + 1)];
    int usual = 0;
    for (size_t seen = 0; usual < 3 * kGrid + 1 && (seen += counts[static_cast<size_t>(usual)]) < n / 2; ++usual) {}
    Column column[3];
    int32_t *v[3] = {b.scale[0].data(), gap[0].data(), gap[1].data()};
    std::vector<Number> number;
    for (int k = 0; k < 3; ++k) {
        column[k].range(coder);
        if (column[k].bad()) return false;
        number.emplace_back(column[k].nibbles, 16);
    }
    const bool old = p.format == 1;
    Surprise first, second, third, density;
    for (size_t i = 0; i < n && !coder.bad(); ++i) {
        const int32_t depth = b.cells[i].level + 1 - usual;
        size_t general = bucket(depth / 2);
        int32_t off[3] = {};
        for (int k = 0; k < 3; ++k) {
            const int32_t simple = foretell(b, v[k], i);
            int32_t more = 0;
            if (!old) more = k == 0 ? density.expect(depth) : k == 1 ? first.expect(off[0]) : second.expect(off[0]) + third.expect(off[1]);
            const uint32_t foretold = column[k].offset(simple + more);
            const uint32_t got = number[static_cast<size_t>(k)].read(coder, foretold, general,
                                                                     old ? 0 : spread(b, v[k], i, 1));
            v[k][i] = column[k].value(got);
            const int32_t left = v[k][i] - simple - more;
            if (old) {
                general = k == 0 ? bucket((static_cast<int32_t>(got) - static_cast<int32_t>(foretold)) / 2) : std::min<size_t>(got / 4, 15);
            } else if (k == 0) {
                density.learn(depth, v[0][i] - simple);
                off[0] = left;
                general = first.bucket(left);
                first.seen(left);
            } else if (k == 1) {
                first.learn(off[0], v[1][i] - simple);
                off[1] = left;
                general = std::min<size_t>(got * 4 / static_cast<uint32_t>(p.scale), 15);
            } else {
                second.learn(off[0], v[2][i] - simple - third.expect(off[1]));
                third.learn(off[1], v[2][i] - simple - second.expect(off[0]));
            }
        }
        for (int k = 0; k < 3; ++k) v[k][i] = std::clamp(v[k][i], -(1 << 17), 1 << 17);
        b.scale[1][i] = b.scale[0][i] - gap[0][i];
        b.scale[2][i] = b.scale[1][i] - gap[1][i];
    }
    return !coder.bad();
}

inline bool read_opacity(SymbolReader &coder, Block &b, const Rules &p) {
    const int nibbles = (rans::bit_length(static_cast<uint32_t>(p.opacity - 1)) + 3) / 4;
    Number number(nibbles, 16);
    const bool old = p.format == 1;
    Surprise size;
    const std::vector<int32_t> weight = weights(p);
    for (size_t i = 0; i < b.n && !coder.bad(); ++i) {
        const int32_t off = b.scale[0][i] - foretell(b, b.scale[0].data(), i), simple = foretell(b, b.alpha.data(), i);
        const size_t general = bucket(off * 2 / p.scale);
        const int32_t foretold = old ? simple : std::clamp(simple + size.expect(off), 0, p.opacity - 1);
        b.alpha[i] = static_cast<int32_t>(number.read(coder, static_cast<uint32_t>(foretold), general, old ? 0 : spread(b, b.alpha.data(), i, 1)));
        if (b.alpha[i] >= p.opacity) return false;
        b.shift[i] = shift_of(p, b.scale[0][i] + b.scale[1][i] + weight[static_cast<size_t>(b.alpha[i])]);
        size.learn(off, b.alpha[i] - simple);
    }
    return !coder.bad();
}

struct EarlyTurn {
    uint32_t u = 0, v = 0, t = 0;
    void rebuild(bool needle, uint32_t cells, uint32_t turn_cells, float *q) const {
        const int32_t at[5] = {static_cast<int32_t>(u), static_cast<int32_t>(v), static_cast<int32_t>(t), static_cast<int32_t>(cells), static_cast<int32_t>(turn_cells)};
        const uint8_t kind = needle;
        quaternions(at, at + 1, at + 2, at + 3, at + 4, &kind, 1, q, 4);
    }
};

// One of `cells` cells as a symbol of at most 16, another of at most 16 of what is left, and the rest as it is.
struct EarlyRefined {
    Slot top{17, 17 * 17 * 2}, next{17, 17 * 17};

    // said: where it is foretold, in 1/65536, or more if nothing is known; close: whether what came before was foretold well.
    uint32_t read(SymbolReader &coder, uint32_t cells, uint32_t said, size_t &close) {
        if (cells <= 1) return 0;
        const uint32_t parts = cells < 16 ? cells : 16, guess = said >> 16 ? 16 : said * parts >> 16;
        uint32_t s = coder.symbol(0, top, {parts, (parts * 17 + guess) * 2 + close});
        if (s >= parts) return cells;
        close = s == guess;
        uint32_t low = s * cells / parts, left = (s + 1) * cells / parts - low;
        if (left <= 1) return low;
        const uint32_t smaller = left < 16 ? left : 16;
        uint32_t follow = 16;
        if (s == guess) {
            const uint32_t at = static_cast<uint32_t>(static_cast<uint64_t>(said) * cells >> 16);
            follow = at <= low ? 0 : at >= low + left ? smaller - 1 : (at - low) * smaller / left;
        }
        s = coder.symbol(0, next, {smaller, smaller * 17 + follow});
        if (s >= smaller) return cells;
        const uint32_t from = s * left / smaller;
        left = (s + 1) * left / smaller - from;
        low += from;
        return low + coder.even(0, left);
    }
};

inline bool read_turns(SymbolReader &coder, const Block &b, const Rules &p, float *out, size_t width) {
    const size_t n = b.n;
    std::vector<uint32_t> seen(2 * n);  // cells of the odd axis, 16 bits
    std::vector<uint8_t> kind(n);
    EarlyRefined odd[2], turn;
    for (size_t i = 0; i < n && !coder.bad(); ++i) {
        const int32_t d0 = b.scale[0][i] - b.scale[1][i], d1 = b.scale[1][i] - b.scale[2][i];
        const bool needle = d0 > d1;
        const uint32_t cells = cells_for(d0 + d1, p.scale, p.rotation, p.turn);
        const uint32_t turn_cells = cells_for(needle ? d1 : d0, p.scale, p.rotation, p.turn, needle ? d0 : 0);
        kind[i] = needle;
        EarlyTurn r;
        const uint32_t *near = b.near.data() + kNear * i, *model = nullptr;
        for (size_t k = 0; k < kNear && !model && i > 0; ++k) {
            if (kind[near[k]] == needle) model = seen.data() + 2 * near[k];
        }
        size_t close = 0;
        r.u = odd[0].read(coder, cells, model ? model[0] : 1u << 16, close);
        r.v = odd[1].read(coder, cells, model ? model[1] : 1u << 16, close);
        close = 0;
        r.t = turn.read(coder, turn_cells, 1u << 16, close);
        if (r.u >= cells || r.v >= cells || r.t >= turn_cells) return false;
        seen[2 * i] = static_cast<uint32_t>(((uint64_t{r.u} << 1) + 1) * 32768 / cells);
        seen[2 * i + 1] = static_cast<uint32_t>(((uint64_t{r.v} << 1) + 1) * 32768 / cells);
        r.rebuild(needle, cells, turn_cells, out + i * width + 6);
    }
    return !coder.bad();
}

// Bits of an angle between axes whose scales differ by 2^(d / m): `most` from 2^4 on, one less an octave, and one less for
// each halving of d below an octave, where the shape becomes round.
inline int bits_for(int32_t d, int m, int most) {
    int bits = most;
    if (d >= m) bits -= d >= 4 * m ? 0 : 4 - (2 * d + m) / (2 * m);
    else {
        bits -= 3;
        for (int k = 0; k < 6 && d < m; ++k) d *= 2, --bits;
    }
    return bits < 0 ? 0 : bits;
}

inline bool read_rotations(SymbolReader &coder, const Block &b, const Rules &p, float *out, size_t width) {
    const size_t n = b.n;
    std::vector<uint32_t> seen(2 * n);  // cells of the odd axis, 16 bits
    std::vector<uint8_t> kind(n);
    Slot top[2] = {Slot(5, 5 * 17 * 2), Slot(5, 5 * 17 * 2)}, next[2] = {Slot(5, 5 * 17), Slot(5, 5 * 17)}, turn(5, 1);
    for (size_t i = 0; i < n && !coder.bad(); ++i) {
        const int32_t d0 = b.scale[0][i] - b.scale[1][i], d1 = b.scale[1][i] - b.scale[2][i];
        const bool needle = d0 > d1;
        const int bits = bits_for(d0 + d1, p.scale, p.rotation / 16), turn_bits = bits_for(needle ? d1 : d0, p.scale, p.rotation / 16);
        kind[i] = needle;
        EarlyTurn r;
        const uint32_t *near = b.near.data() + kNear * i;
        const uint32_t *model = nullptr;
        for (size_t k = 0; k < kNear && !model && i > 0; ++k) {
            if (kind[near[k]] == needle) model = seen.data() + 2 * near[k];
        }
        uint32_t *cell[2] = {&r.u, &r.v};
        size_t close = 0;
        for (int k = 0; k < 2; ++k) {
            const int first = std::min(bits, 4), second = std::min(bits - first, 4), last = bits - first - second;
            const auto c = static_cast<size_t>(first);
            const size_t said = model ? model[k] >> (16 - first) : 16;
            uint32_t s = first ? coder.symbol(0, top[k], {c, (c * 17 + said) * 2 + close}) : 0;
            if (first && s >= 1u << first) return false;
            close = s == said;
            if (second > 0) {
                const size_t follow = s == said ? model[k] >> (12 - second) & ((1u << second) - 1) : 16;
                const uint32_t t = coder.symbol(0, next[k], {static_cast<size_t>(second), static_cast<size_t>(second) * 17 + follow});
                if (t >= 1u << second) return false;
                s = s << second | t;
            }
            if (last > 0) s = s << last | coder.raw(0, last);
            *cell[k] = s;
            seen[2 * i + static_cast<size_t>(k)] = bits <= 16 ? s << (16 - bits) | (bits < 16 ? 1u << (15 - bits) : 0) : s >> (bits - 16);
        }
        if (turn_bits) {
            const int first = std::min(turn_bits, 4), last = turn_bits - first;
            uint32_t s = coder.symbol(0, turn, {static_cast<size_t>(first), 0});
            if (s >= 1u << first) return false;
            if (last > 0) s = s << last | coder.raw(0, last);
            r.t = s;
        }
        r.rebuild(needle, 1u << bits, 1u << turn_bits, out + i * width + 6);
    }
    return !coder.bad();
}

inline bool read_colours(SymbolReader &coder, const Block &b, const Rules &p, float *out, size_t width) {
    const size_t n = b.n;
    std::vector<int32_t> fine[3];
    int32_t unit[32];
    for (int h = -6; h <= 12; ++h) unit[h + 6] = nearest(kFine * half_power(h), 1 << 20);
    for (auto &f : fine) f.resize(n);
    Column column[3];
    std::vector<Number> number;
    for (int k = 0; k < 3; ++k) {
        column[k].range(coder);
        if (column[k].bad()) return false;
        number.emplace_back(column[k].nibbles, 16);
    }
    const bool old = p.format == 1;
    Surprise first, second, third;
    for (size_t i = 0; i < n && !coder.bad(); ++i) {
        const int h = b.shift[i];
        const int32_t u = unit[h + 6];
        size_t general = static_cast<size_t>(std::clamp(h + 6, 0, 15));
        int32_t off[3] = {}, q[3];
        for (int k = 0; k < 3; ++k) {
            const int32_t simple = floor_of(foretell(b, fine[k].data(), i) + u / 2, u);
            int32_t more = 0;
            if (!old && k) more = k == 1 ? first.expect(off[0]) : second.expect(off[0]) + third.expect(off[1]);
            const uint32_t foretold = column[k].offset(simple + more);
            const uint32_t got = number[static_cast<size_t>(k)].read(coder, foretold, general,
                                                                     old ? 0 : spread(b, fine[k].data(), i, u));
            q[k] = std::clamp(column[k].value(got), -kMostColour, kMostColour);
            fine[k][i] = static_cast<int32_t>(std::clamp<int64_t>(int64_t{q[k]} * u, -(1 << 28), 1 << 28));
            if (old) {
                general = bucket(static_cast<int32_t>(got) - static_cast<int32_t>(foretold));
                continue;
            }
            const int32_t left = q[k] - simple - more;
            off[k] = left;
            Surprise &size = k == 0 ? first : second;
            if (k < 2) general = size.bucket(left), size.seen(left);
            if (k == 1) first.learn(off[0], q[1] - simple);
            if (k == 2) {
                second.learn(off[0], q[2] - simple - third.expect(off[1]));
                third.learn(off[1], q[2] - simple - second.expect(off[0]));
            }
        }
        const double step = p.colour * half_power(h), c[3] = {q[0] * step, q[1] * step, q[2] * step};
        colour(c, out + i * width + 11);
    }
    return !coder.bad();
}

inline bool read_harmonics(SymbolReader &coder, const Block &b, const Rules &p, float *out, size_t width) {
    const auto wide = static_cast<size_t>(3 * b.rest), rank = static_cast<size_t>(p.rank);
    if (wide == 0) return true;
    if (rank == 0) {
        for (size_t i = 0; i < b.n; ++i) std::fill_n(out + i * width + 14, wide, 0.0f);
        return true;
    }
    const size_t n = b.n;
    std::vector<int16_t> kept(n * rank);
    std::vector<int32_t> count(n);
    Number length(2, 20);
    Slot value(rank * 5, 8 * 9 * 3), more(1, 1);
    for (size_t i = 0; i < n && !coder.bad(); ++i) {
        const int h = b.shift[i];
        const double step = p.harmonics * half_power(h);
        int16_t *q = kept.data() + i * rank;
        const auto by = static_cast<size_t>(std::clamp(h + 6, 0, 19));
        const uint32_t length_of = length.read(coder, static_cast<uint32_t>(foretell(b, count.data(), i)), by);
        if (length_of > rank) return false;
        count[i] = static_cast<int32_t>(length_of);
        const uint32_t *near = b.near.data() + kNear * i;
        const int16_t *around[3] = {kept.data() + near[0] * rank, kept.data() + near[1] * rank, kept.data() + near[2] * rank};
        size_t before = 0;
        for (size_t k = 0; k < length_of; ++k) {
            const int sum = i ? around[0][k] + around[1][k] + around[2][k] : 0;
            const auto said = static_cast<size_t>(std::clamp(sum, -4, 4) + 4);
            const bool last = k + 1 == length_of;
            uint32_t s = coder.symbol(0, value, {k * 5 + (last ? 4 : std::min<size_t>(by / 4, 3)), (std::min<size_t>(k, 7) * 9 + said) * 3 + before});
            for (uint32_t part = s; part == 15 && s < 16000; s += part) part = coder.symbol(0, more, {0, 0});
            q[k] = static_cast<int16_t>(s >> 1 ^ (~(s & 1) + 1));
            before = s == 0 ? 0 : s < 3 ? 1 : 2;
            if (coder.bad()) return false;
        }
        float sum[3 * kMostRest] = {};
        for (size_t k = 0; k < length_of; ++k) {
            if (q[k] == 0) continue;
            const auto by_much = static_cast<float>(q[k] * step);
            const float *row = p.basis + k * wide;
            for (size_t j = 0; j < wide; ++j) sum[j] += by_much * row[j];
        }
        std::copy_n(sum, wide, out + i * width + 14);
    }
    return !coder.bad();
}

inline int position_of(const Block &b, const Rules &p, size_t i) {  // exponent of the position's step, format 1
    return floor_of(8 * (b.scale[0][i] + b.scale[1][i]) / 2 - p.position * p.scale, 8 * p.scale);
}

inline bool read_places(SymbolReader &coder, const Block &b, const Rules &p, float *out, size_t width) {
    const double unit = power(b.position0);
    for (size_t i = 0; i < b.n; ++i) {
        const int coarse = std::clamp(position_of(b, p, i) - b.position0, 0, kGrid);
        for (int a = 0; a < 3; ++a) {
            const int open = b.cells[i].undecided(a), bits = std::max(0, open - coarse), left = std::min(open, coarse);
            const uint32_t v = b.cells[i].at[a] | (bits ? coder.raw(0, bits) : 0) << left;
            const double middle = static_cast<double>(v) - (1 << (kGrid - 1)) + 0.5 * static_cast<double>(uint32_t{1} << left);
            out[i * width + static_cast<size_t>(a)] = static_cast<float>(middle * unit);
        }
    }
    return !coder.bad();
}

inline bool read_early(SymbolReader *streams, Block &b, const Rules &p, float *rows, size_t width) {
    if (!read_scales(streams[1], b, p) || !read_opacity(streams[2], b, p)) return false;
    if (!(p.format == 1 ? read_rotations(streams[3], b, p, rows, width) : read_turns(streams[3], b, p, rows, width))) return false;
    if (!read_colours(streams[4], b, p, rows, width) || !read_harmonics(streams[5], b, p, rows, width)) return false;
    if (p.format == 1) return read_places(streams[6], b, p, rows, width);
    Places<SymbolReader> places(streams[6], b, p, nullptr, width);
    for (size_t from = 0; from < b.n; from += kSome) {
        const size_t to = std::min(from + kSome, b.n);
        for (size_t i = from; i < to; ++i) places.code(i);
        places.rebuild(from, to, rows, width);
    }
    return true;
}

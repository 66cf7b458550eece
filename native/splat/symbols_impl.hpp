// Adaptive 16-ary symbols on interleaved rANS. A symbol's distribution mixes two models: a general one, and one of its
// context; the share follows from how well each foretold the symbols before. Integers only.
//
// Stream: symbols varint, bytes of raw bits varint, raw bits (lowest first), lanes (rans/lanes.hpp, 2^14 slots).
// Moffat 1999 and Giesen 2015 (adaptation of whole cumulative tables); Mattern 2013 (mixing by what was foretold).

struct alignas(32) Table {
    uint16_t c[16];  // cumulative starts in 1/32768, the first 0
    uint32_t mass(uint32_t s) const { return (s == 15 ? 32768u : c[s + 1]) - c[s]; }
};

struct Aims {  // where the starts go when s is seen: all mass to s but 4 for each other
    alignas(32) int16_t of[16][16];
    constexpr Aims() : of() {
        for (int s = 0; s < 16; ++s) {
            for (int i = 0; i < 16; ++i) of[s][i] = static_cast<int16_t>(i > s ? 32768 - 4 * (16 - i) : 4 * i);
        }
    }
};
constexpr Aims kAims;

struct Model {
    Table t;  // every symbol keeps at least 4
    uint16_t seen;

    void start(uint32_t k) {
        const uint32_t each = (32768 - 64) / k;
        for (uint32_t i = 0; i < 16; ++i) t.c[i] = static_cast<uint16_t>(4 * i + (i < k ? i : k) * each);
        seen = 0;
    }
    uint32_t mass(uint32_t s) const { return t.mass(s); }
    void learn(uint32_t s) {
        static constexpr uint8_t rates[32] = {1, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5};
        const int rate = seen < 32 ? rates[seen] : seen < 96 ? 6 : 7;
        seen = static_cast<uint16_t>(seen + (seen < 96));
#if defined(__AVX2__)
        const __m256i c = _mm256_load_si256(reinterpret_cast<const __m256i *>(t.c));
        const __m256i aim = _mm256_load_si256(reinterpret_cast<const __m256i *>(kAims.of[s]));
        const __m256i move = _mm256_sra_epi16(_mm256_sub_epi16(aim, c), _mm_cvtsi32_si128(rate));
        _mm256_store_si256(reinterpret_cast<__m256i *>(t.c), _mm256_add_epi16(c, move));
#else
        for (int i = 0; i < 16; ++i) t.c[i] = static_cast<uint16_t>(t.c[i] + ((kAims.of[s][i] - t.c[i]) >> rate));
#endif
    }
};

// Models of one kind of symbol: `general` contexts, `special` contexts, shares by how often the special one was seen.
class Slot {
public:
    Slot(size_t general, size_t special, uint32_t k = 16) : general_(general), special_(special) {
        for (auto &m : general_) m.start(k);
        for (auto &m : special_) m.seen = 0;
    }
    Model &a(size_t i) { return general_[i]; }
    Model &b(size_t i) { return special_[i]; }
    int32_t share[6] = {8000, 16000, 24000, 32000, 40000, 44000};

private:
    std::vector<Model> general_, special_;
};

// a's starts moved towards b's by share / 65536. Steps of two keep at least 2 between starts, as both have at least 4.
inline void mix(Model &a, Model &b, const int32_t *share, int &level, Table &m) {
    if (b.seen == 0) b.t = a.t;
    const int seen = b.seen;
    level = seen < 2 ? 0 : seen < 6 ? 1 : seen < 16 ? 2 : seen < 40 ? 3 : seen < 96 ? 4 : 5;
    const int32_t w = share[level] >> 1;
#if defined(__AVX2__)
    const __m256i from = _mm256_load_si256(reinterpret_cast<const __m256i *>(a.t.c));
    const __m256i apart = _mm256_sub_epi16(_mm256_load_si256(reinterpret_cast<const __m256i *>(b.t.c)), from);
    const __m256i part = _mm256_mulhi_epi16(apart, _mm256_set1_epi16(static_cast<int16_t>(w)));
    _mm256_store_si256(reinterpret_cast<__m256i *>(m.c), _mm256_add_epi16(from, _mm256_add_epi16(part, part)));
#else
    for (int i = 0; i < 16; ++i) m.c[i] = static_cast<uint16_t>(a.t.c[i] + 2 * ((b.t.c[i] - a.t.c[i]) * w >> 16));
#endif
}

// The symbol whose span holds a place in [0, 2^14).
inline uint32_t find(const Table &m, uint32_t place) {
#if defined(__AVX2__)
    const __m256i past = _mm256_cmpgt_epi16(_mm256_set1_epi16(static_cast<int16_t>(2 * place + 1)),
                                            _mm256_sub_epi16(_mm256_load_si256(reinterpret_cast<const __m256i *>(m.c)), _mm256_set1_epi16(1)));
    return static_cast<uint32_t>(__builtin_popcount(static_cast<uint32_t>(_mm256_movemask_epi8(past)))) / 2 - 1;
#else
    uint32_t s = 0;
    for (int i = 1; i < 16; ++i) s += static_cast<uint32_t>(m.c[i] >> 1) <= place;
    return s;
#endif
}

inline void learn(Model &a, Model &b, int32_t *share, int level, const Table &m, uint32_t s) {
    const int32_t better = static_cast<int32_t>(b.mass(s)) - static_cast<int32_t>(a.mass(s));
    const int32_t gain = better * 700 >> (31 - __builtin_clz(m.mass(s)));  // over the mass, about
    const int32_t w = share[level] + (gain > 4096 ? 4096 : gain < -4096 ? -4096 : gain);
    share[level] = w < 512 ? 512 : w > 65024 ? 65024 : w;
    if (b.seen == 0) b.seen = 1;
    a.learn(s);
    b.learn(s);
}

constexpr int kBits = 14;

// One of k equally likely numbers, as bits: some with one bit less than others.
template <class Coder> uint32_t write_even(Coder &coder, uint32_t v, uint32_t k) {
    if (k <= 1) return 0;
    const int bits = rans::bit_length(k - 1);
    const uint32_t fewer = static_cast<uint32_t>((uint64_t{1} << bits) - k);
    if (v < fewer) {
        coder.raw(v, bits - 1);
    } else {  // what tells them apart first
        coder.raw((v + fewer) >> 1, bits - 1);
        coder.raw((v + fewer) & 1, 1);
    }
    return v;
}

template <class Coder> uint32_t read_even(Coder &coder, uint32_t k) {
    if (k <= 1) return 0;
    const int bits = rans::bit_length(k - 1);
    const uint32_t fewer = static_cast<uint32_t>((uint64_t{1} << bits) - k), v = coder.raw(0, bits - 1);
    return v < fewer ? v : ((v << 1) | coder.raw(0, 1)) - fewer;
}

class Writer {
public:
    static constexpr bool writes = true;
    uint32_t symbol(uint32_t s, Slot &slot, size_t general, size_t special) {
        Model &a = slot.a(general), &b = slot.b(special);
        Table m;
        int level;
        mix(a, b, slot.share, level, m);
        const uint32_t from = m.c[s] >> 1, to = s == 15 ? 1u << kBits : m.c[s + 1] >> 1;
        steps_.push_back((to - from - 1) << 16 | from);
        learn(a, b, slot.share, level, m, s);
        return s;
    }
    uint32_t raw(uint32_t v, int bits) {  // at most 32
        held_ |= static_cast<uint64_t>(bits < 32 ? v & ((1u << bits) - 1) : v) << count_;
        for (count_ += bits; count_ >= 8; count_ -= 8, held_ >>= 8) raw_.push_back(static_cast<uint8_t>(held_));
        return v;
    }
    uint32_t even(uint32_t v, uint32_t k) { return write_even(*this, v, k); }
    void finish(Bytes &out) {
        if (count_ > 0) raw_.push_back(static_cast<uint8_t>(held_));
        out.clear();
        rans::put_varint(out, steps_.size());
        rans::put_varint(out, raw_.size());
        out.insert(out.end(), raw_.begin(), raw_.end());
        const std::vector<uint32_t> &steps = steps_;
        const rans::Fill fill = [&](size_t from, size_t count, size_t, uint32_t *to, uint32_t *) {
            std::copy(steps.begin() + static_cast<long>(from), steps.begin() + static_cast<long>(from + count), to);
        };
        if (!steps_.empty()) rans::write_lanes(fill, steps_.size(), kBits, false, steps_.size() >= (1u << 14), out);
    }
    bool bad() const { return false; }

private:
    std::vector<uint32_t> steps_;
    Bytes raw_;
    uint64_t held_ = 0;
    int count_ = 0;
};

class SymbolReader {
public:
    static constexpr bool writes = false;
    SymbolReader(const uint8_t *data, size_t size) {
        Reader in(data, size);
        const uint64_t n = in.varint(), raws = in.varint();
        raw_ = raws <= in.left() ? in.take(static_cast<size_t>(raws)) : nullptr;
        end_ = raw_ + (raw_ ? raws : 0);
        bad_ = !in.ok() || !raw_ || n > (uint64_t{1} << 40) || (n > 0 && !lanes_.open(in.at(), in.left(), static_cast<size_t>(n))) ||
               (n == 0 && in.left() > 0);
        if (bad_) raw_ = end_ = nullptr;
        left_ = bad_ ? 0 : static_cast<size_t>(n);
    }
    uint32_t symbol(uint32_t, Slot &slot, size_t general, size_t special) {
        if (left_ == 0) {
            bad_ = true;
            return 0;
        }
        --left_;
        Model &a = slot.a(general), &b = slot.b(special);
        Table m;
        int level;
        mix(a, b, slot.share, level, m);
        const uint32_t x = lanes_.state(), place = x & ((1u << kBits) - 1);
        const uint32_t s = find(m, place);
        const uint32_t from = m.c[s] >> 1, to = s == 15 ? 1u << kBits : m.c[s + 1] >> 1;
        lanes_.advance((to - from) * (x >> kBits) + place - from);
        lanes_.next();
        learn(a, b, slot.share, level, m, s);
        return s;
    }
    uint32_t raw(uint32_t, int bits) {
        while (count_ < bits) {
            uint64_t byte = 0;
            if (raw_ < end_) byte = *raw_++;
            else bad_ = true;
            held_ |= byte << count_;
            count_ += 8;
        }
        const auto v = static_cast<uint32_t>(bits < 32 ? held_ & ((uint64_t{1} << bits) - 1) : held_);
        held_ >>= bits;
        count_ -= bits;
        return v;
    }
    uint32_t even(uint32_t, uint32_t k) { return read_even(*this, k); }
    bool bad() const { return bad_ || lanes_.bad(); }
    bool finish() { return !bad() && left_ == 0 && raw_ == end_ && held_ == 0 && (lanes_.n() == 0 || lanes_.finish()); }

private:
    rans::LaneReader lanes_;
    const uint8_t *raw_ = nullptr, *end_ = nullptr;
    uint64_t held_ = 0;
    size_t left_ = 0;
    int count_ = 0;
    bool bad_ = false;
};

// Numbers of up to 4 * nibbles bits below `foretold`, by nibbles from the top. The first nibble knows the general context
// and what was foretold; each later one the nibble above, and how far what was foretold lies from it.
class Number {
public:
    Number(int nibbles, size_t general) : nibbles_(nibbles), generals_(general) {
        slots_.reserve(static_cast<size_t>(nibbles));
        for (int i = 0; i < nibbles; ++i) slots_.emplace_back(i == 0 ? general : 16 * general, 4 * (i == 0 ? 64 : 16 * 20));
    }
    // spread: 0 to 3, how far apart those are from which it was foretold
    template <class Coder> uint32_t code(Coder &coder, uint32_t v, uint32_t foretold, size_t general, size_t spread = 0) {
        uint32_t done = 0;
        for (int i = 0; i < nibbles_; ++i) {
            const int low = 4 * (nibbles_ - 1 - i);
            const uint32_t s = v >> low & 15;
            size_t a, b;
            if (i == 0) {
                a = general;
                b = (low >= 2 ? foretold >> (low - 2) & 63 : foretold >> low & 15) * 4 + spread;
            } else {
                // distance in units of this nibble's steps, from the start of what is left, in [-2, 17]
                const int32_t gap = static_cast<int32_t>(foretold >> low) - static_cast<int32_t>(done << 4);
                a = general * 16 + (done & 15);
                b = ((done & 15) * 20 + static_cast<size_t>((gap < -2 ? -2 : gap > 17 ? 17 : gap) + 2)) * 4 + spread;
            }
            done = done << 4 | coder.symbol(s, slots_[static_cast<size_t>(i)], a, b);
        }
        return done;
    }

private:
    int nibbles_;
    size_t generals_;
    std::vector<Slot> slots_;
};

// What one surprise tells of the next: the slope of one against the other, and their usual size; learnt from those before.
class Surprise {
public:
    int32_t expect(int32_t x) const {  // no scene comes near the bounds, which keep sums of two in 32 bits
        return static_cast<int32_t>(std::clamp<int64_t>(xy_ * clip(x) / xx_, -(1 << 24), 1 << 24));
    }
    void learn(int32_t x, int32_t y) {
        xy_ += clip(x) * clip(y) - xy_ / 256;
        xx_ += clip(x) * clip(x) - xx_ / 256;
        if (xx_ < 16) xx_ = 16;
    }
    size_t bucket(int32_t x) const {  // 0 to 15, in halves of the usual size
        const int64_t at = 2 * clip(x) * 256 / size_ + 8;
        return static_cast<size_t>(at < 0 ? 0 : at > 15 ? 15 : at);
    }
    void seen(int32_t x) { size_ += ((clip(x) < 0 ? -clip(x) : clip(x)) * 256 - size_) / 64 + (size_ < 128); }

private:
    static int64_t clip(int32_t x) { return x < -32768 ? -32768 : x > 32767 ? 32767 : x; }
    int64_t xy_ = 0, xx_ = 1024, size_ = 1024;
};

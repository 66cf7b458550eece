// Adaptive 16-ary symbols on interleaved rANS, in integers only.
//
// Stream: symbols varint, bytes of raw bits varint, raw bits (lowest first), lanes (rans/lanes.hpp, 2^14 slots).
// Moffat 1999 and Giesen 2015 (adaptation of whole cumulative tables); Mattern 2013 (mixing by what was foretold).

constexpr int kBits = 14;

struct alignas(32) Table {
    uint16_t c[16];  // cumulative starts in 1/32768, the first 0
    uint32_t mass(uint32_t s) const { return (s == 15 ? 32768u : c[s + 1]) - c[s]; }
};

struct alignas(32) Mixed {  // the table in use
    uint16_t c[17];  // as above, and where the last ends
    Mixed() : c() { c[16] = 32768; }
    uint32_t mass(uint32_t s) const { return c[s + 1] - c[s]; }
    uint32_t start(uint32_t s) const { return c[s] >> 1; }  // in 2^14
    uint32_t end(uint32_t s) const { return c[s + 1] >> 1; }
};

// A count as a type of its own: a store of bytes would make the compiler forget all it knows of memory.
enum class Seen : uint8_t {};

struct Aims {  // where the starts go when s is seen: all mass to s but 4 for each other
    alignas(32) int16_t of[16][16];
    constexpr Aims() : of() {
        for (int s = 0; s < 16; ++s) {
            for (int i = 0; i < 16; ++i) of[s][i] = static_cast<int16_t>(i > s ? 32768 - 4 * (16 - i) : 4 * i);
        }
    }
};
constexpr Aims kAims;

struct Paces {  // by how often a table was used: the shift by which it learns, and how far it is trusted, 0 to 5
    static constexpr uint8_t most = 96;
    alignas(16) int32_t rate[most + 1][4];
    uint8_t trust[most + 1];
    Seen next[most + 1];
    constexpr Paces() : rate(), trust(), next() {
        for (int seen = 0; seen <= most; ++seen) {
            rate[seen][0] = seen < 1 ? 1 : seen < 3 ? 2 : seen < 7 ? 3 : seen < 15 ? 4 : seen < 32 ? 5 : seen < 96 ? 6 : 7;
            trust[seen] = seen < 2 ? 0 : seen < 6 ? 1 : seen < 16 ? 2 : seen < 40 ? 3 : seen < 96 ? 4 : 5;
            next[seen] = static_cast<Seen>(seen < most ? seen + 1 : most);
        }
    }
};
constexpr Paces kPaces;

// A distribution for each of so many contexts; every symbol keeps at least 4.
class Models {
public:
    using At = size_t;

    explicit Models(size_t n) : tables_(n), seen_(n) {}
    Models(size_t n, uint32_t k) : Models(n) {  // k symbols are likely
        const uint32_t each = (32768 - 64) / k;
        for (Table &t : tables_) {
            for (uint32_t i = 0; i < 16; ++i) t.c[i] = static_cast<uint16_t>(4 * i + (i < k ? i : k) * each);
        }
    }
    [[gnu::always_inline]] void look(At at, Mixed &m) const { std::memcpy(m.c, tables_[at].c, sizeof tables_[at].c); }
    const Table &operator[](size_t at) const { return tables_[at]; }
    size_t seen(size_t at) const { return static_cast<size_t>(seen_[at]); }
    size_t trust(size_t at) const { return kPaces.trust[seen(at)]; }
    bool fresh(size_t at) const { return seen(at) == 0; }
    void begin(size_t at, const Table &as) { tables_[at] = as, seen_[at] = static_cast<Seen>(1); }
    [[gnu::always_inline]] void learn(At at, const Mixed &, uint32_t s) {
        Table &t = tables_[at];
        const size_t n = seen(at);
#if defined(__AVX2__)
        const __m256i c = _mm256_load_si256(reinterpret_cast<const __m256i *>(t.c));
        const __m256i aim = _mm256_load_si256(reinterpret_cast<const __m256i *>(kAims.of[s]));
        const __m256i move = _mm256_sra_epi16(_mm256_sub_epi16(aim, c), _mm_load_si128(reinterpret_cast<const __m128i *>(kPaces.rate[n])));
        _mm256_store_si256(reinterpret_cast<__m256i *>(t.c), _mm256_add_epi16(c, move));
#else
        const int rate = kPaces.rate[n][0];
        for (int i = 0; i < 16; ++i) t.c[i] = static_cast<uint16_t>(t.c[i] + ((kAims.of[s][i] - t.c[i]) >> rate));
#endif
        seen_[at] = kPaces.next[n];
    }
    double bits(uint32_t s, At at) const {
        Mixed m;
        look(at, m);
        return kBits - rans::log2_of(m.end(s) - m.start(s));
    }

private:
    std::vector<Table> tables_;
    std::vector<Seen> seen_;
};

// a's starts moved towards b's by w / 32768. Steps of two keep at least 2 between starts, as both have at least 4.
[[gnu::always_inline]] inline void mix(const Table &a, const Table &b, int16_t w, Mixed &m) {
#if defined(__AVX2__)
    const __m256i from = _mm256_load_si256(reinterpret_cast<const __m256i *>(a.c));
    const __m256i apart = _mm256_sub_epi16(_mm256_load_si256(reinterpret_cast<const __m256i *>(b.c)), from);
    const __m256i part = _mm256_mulhi_epi16(apart, _mm256_set1_epi16(w));
    _mm256_store_si256(reinterpret_cast<__m256i *>(m.c), _mm256_add_epi16(from, _mm256_add_epi16(part, part)));
#else
    for (int i = 0; i < 16; ++i) m.c[i] = static_cast<uint16_t>(a.c[i] + 2 * ((b.c[i] - a.c[i]) * w >> 16));
#endif
}

struct Shares {  // of the special distribution, in 1/65536, by its trust
    int32_t of[6];
};

// Two distributions mixed: of a general context, and of a special one. Those new begin as the general one.
class Blend {
public:
    struct At {
        size_t general, special;
    };

    Blend(size_t general, size_t special, const Shares &shares) : general_(general, 16), special_(special) {
        for (size_t seen = 0; seen <= Paces::most; ++seen) share_[seen] = static_cast<int16_t>(shares.of[kPaces.trust[seen]] >> 1);
    }
    [[gnu::always_inline]] void look(const At &at, Mixed &m) {
        if (special_.fresh(at.special)) [[unlikely]] special_.begin(at.special, general_[at.general]);
        mix(general_[at.general], special_[at.special], share_[special_.seen(at.special)], m);
    }
    [[gnu::always_inline]] void learn(const At &at, const Mixed &m, uint32_t s) {
        general_.learn(at.general, m, s);
        special_.learn(at.special, m, s);
    }
    double bits(uint32_t s, const At &at) const {  // that symbol s would take now
        Mixed m;
        mix(general_[at.general], special_.fresh(at.special) ? general_[at.general] : special_[at.special], share_[special_.seen(at.special)], m);
        return kBits - rans::log2_of(m.end(s) - m.start(s));
    }

private:
    Models general_, special_;
    int16_t share_[Paces::most + 1];  // by how often the special one was used, in 1/32768
};

// The same, where shares follow from how well each foretold the symbols before.
class Slot {
public:
    using At = Blend::At;

    Slot(size_t general, size_t special, uint32_t k = 16) : general_(general, k), special_(special) {}
    [[gnu::always_inline]] void look(const At &at, Mixed &m) {
        if (special_.fresh(at.special)) [[unlikely]] special_.begin(at.special, general_[at.general]);
        mix(general_[at.general], special_[at.special], static_cast<int16_t>(shares_.of[special_.trust(at.special)] >> 1), m);
    }
    [[gnu::always_inline]] void learn(const At &at, const Mixed &m, uint32_t s) {
        int32_t &share = shares_.of[special_.trust(at.special)];
        const int32_t better = static_cast<int32_t>(special_[at.special].mass(s)) - static_cast<int32_t>(general_[at.general].mass(s));
        const int32_t gain = better * 700 >> (31 - __builtin_clz(m.mass(s)));  // over the mass, about
        share = std::clamp(share + std::clamp(gain, -4096, 4096), 512, 65024);
        general_.learn(at.general, m, s);
        special_.learn(at.special, m, s);
    }

private:
    Models general_, special_;
    Shares shares_{{8000, 16000, 24000, 32000, 40000, 44000}};
};

// The symbol whose span holds a place in [0, 2^14).
[[gnu::always_inline]] inline uint32_t find(const Mixed &m, uint32_t place) {
#if defined(__AVX2__)
    const __m256i past = _mm256_cmpgt_epi16(_mm256_load_si256(reinterpret_cast<const __m256i *>(m.c)),
                                            _mm256_set1_epi16(static_cast<int16_t>(2 * place + 1)));
    return 15 - static_cast<uint32_t>(__builtin_popcount(static_cast<uint32_t>(_mm256_movemask_epi8(past)))) / 2;
#else
    uint32_t s = 0;
    for (int i = 1; i < 16; ++i) s += static_cast<uint32_t>(m.c[i] >> 1) <= place;
    return s;
#endif
}

class Writer {
public:
    static constexpr bool writes = true;
    template <class Model> uint32_t symbol(uint32_t s, Model &model, const typename Model::At &at) {
        model.look(at, mixed_);
        steps_.push_back((mixed_.end(s) - mixed_.start(s) - 1) << 16 | mixed_.start(s));
        model.learn(at, mixed_, s);
        return s;
    }
    uint32_t raw(uint32_t v, int bits) {  // at most 32
        v &= static_cast<uint32_t>((uint64_t{1} << bits) - 1);
        held_ |= static_cast<uint64_t>(v) << count_;
        for (count_ += bits; count_ >= 8; count_ -= 8, held_ >>= 8) raw_.push_back(static_cast<uint8_t>(held_));
        return v;
    }
    // One of k equally likely numbers, as bits: some with one bit less than others, and what tells those apart first.
    uint32_t even(uint32_t v, uint32_t k) {
        if (k <= 1) return 0;
        const int bits = rans::bit_length(k - 1);
        const uint32_t fewer = static_cast<uint32_t>((uint64_t{1} << bits) - k);
        if (v < fewer) {
            raw(v, bits - 1);
        } else {
            raw((v + fewer) >> 1, bits - 1);
            raw((v + fewer) & 1, 1);
        }
        return v;
    }
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
    Mixed mixed_;
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
    }
    template <class Model> [[gnu::always_inline]] uint32_t symbol(uint32_t, Model &model, const typename Model::At &at) {
        if (!lanes_.ready()) [[unlikely]] {
            bad_ = true;
            return 0;
        }
        model.look(at, mixed_);
        const uint32_t x = lanes_.held(), place = x & ((1u << kBits) - 1), s = find(mixed_, place), from = mixed_.start(s);
        lanes_.advance((mixed_.end(s) - from) * (x >> kBits) + place - from);
        lanes_.next();
        model.learn(at, mixed_, s);
        return s;
    }
    uint32_t raw(uint32_t, int bits) {
        if (count_ < bits) refill(bits);
        const auto v = static_cast<uint32_t>(held_ & ((uint64_t{1} << bits) - 1));
        held_ >>= bits;
        count_ -= bits;
        return v;
    }
    uint32_t even(uint32_t, uint32_t k) {
        if (k <= 1) return 0;
        const int bits = rans::bit_length(k - 1);
        if (count_ < bits) refill(bits - 1);  // the last bit may be of no number
        const uint32_t fewer = static_cast<uint32_t>((uint64_t{1} << bits) - k);
        const auto v = static_cast<uint32_t>(held_ & ((uint64_t{1} << (bits - 1)) - 1)), more = static_cast<uint32_t>(held_ >> (bits - 1) & 1);
        const int used = bits - (v < fewer);
        held_ >>= used;
        count_ -= used;
        bad_ |= count_ < 0;
        return v < fewer ? v : (v << 1 | more) - fewer;
    }
    bool bad() const { return bad_ || lanes_.bad(); }
    bool finish() { return !bad() && !lanes_.more() && raw_ == end_ && held_ == 0 && count_ < 8 && (lanes_.n() == 0 || lanes_.finish()); }

private:
    void refill(int least) {  // bits held: at least so many, and more where there are
        if (count_ < 0) count_ = 0;  // damage, noted
        if (end_ - raw_ >= 8) {
            uint64_t word;
            std::memcpy(&word, raw_, 8);
            const int bytes = (63 - count_) >> 3;
            held_ |= (word & ((uint64_t{1} << 8 * bytes) - 1)) << count_;
            raw_ += bytes;
            count_ += 8 * bytes;
        } else {
            for (; raw_ < end_ && count_ <= 56; count_ += 8) held_ |= static_cast<uint64_t>(*raw_++) << count_;
        }
        if (count_ < least) {
            bad_ = true;
            count_ = least;
        }
    }

    Mixed mixed_;
    rans::LaneReader lanes_;
    const uint8_t *raw_ = nullptr, *end_ = nullptr;
    uint64_t held_ = 0;
    int count_ = 0;
    bool bad_ = false;
};

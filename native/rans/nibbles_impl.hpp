// Body of nibbles.hpp: a line of 16 entries is one register where there is AVX2.
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "nibbles.hpp"

namespace compand::rans::ISA {
namespace {

constexpr uint32_t kLeastState = 1u << 16;
constexpr int kMost = 1000;  // times a line is seen before its rate stays

#if defined(__AVX2__)
struct Row {
    __m256i v;
    static Row load(const uint16_t *from) { return {_mm256_load_si256(reinterpret_cast<const __m256i *>(from))}; }
    static Row all(uint16_t x) { return {_mm256_set1_epi16(static_cast<short>(x))}; }
    void store(uint16_t *to) const { _mm256_store_si256(reinterpret_cast<__m256i *>(to), v); }
    Row operator+(Row o) const { return {_mm256_add_epi16(v, o.v)}; }
    Row operator-(Row o) const { return {_mm256_sub_epi16(v, o.v)}; }
    Row operator^(Row o) const { return {_mm256_xor_si256(v, o.v)}; }
    Row operator&(Row o) const { return {_mm256_and_si256(v, o.v)}; }
    Row high(Row o) const { return {_mm256_mulhi_epu16(v, o.v)}; }  // of the products
    Row over(Row o, Row most) const {                               // 1 where the low half of the product is above most
        return {_mm256_min_epu16(_mm256_subs_epu16(_mm256_mullo_epi16(v, o.v), most.v), _mm256_set1_epi16(1))};
    }
    uint32_t up_to(uint16_t x) const {                              // entries at most x, all below 2^15
        const __m256i more = _mm256_cmpgt_epi16(v, _mm256_set1_epi16(static_cast<short>(x)));
        return 16 - static_cast<uint32_t>(__builtin_popcount(static_cast<uint32_t>(_mm256_movemask_epi8(more)))) / 2;
    }
};
#else
struct Row {
    uint16_t v[16];
    template <class F> static Row of(F &&f) {
        Row r;
        for (int l = 0; l < 16; ++l) r.v[l] = static_cast<uint16_t>(f(l));
        return r;
    }
    static Row load(const uint16_t *from) { return of([&](int l) { return from[l]; }); }
    static Row all(uint16_t x) { return of([&](int) { return x; }); }
    void store(uint16_t *to) const { std::memcpy(to, v, sizeof v); }
    Row operator+(const Row &o) const { return of([&](int l) { return v[l] + o.v[l]; }); }
    Row operator-(const Row &o) const { return of([&](int l) { return v[l] - o.v[l]; }); }
    Row operator^(const Row &o) const { return of([&](int l) { return v[l] ^ o.v[l]; }); }
    Row operator&(const Row &o) const { return of([&](int l) { return v[l] & o.v[l]; }); }
    Row high(const Row &o) const { return of([&](int l) { return static_cast<uint32_t>(v[l]) * o.v[l] >> 16; }); }
    Row over(const Row &o, const Row &most) const {
        return of([&](int l) { return static_cast<uint16_t>(static_cast<uint32_t>(v[l]) * o.v[l]) > most.v[l]; });
    }
    uint32_t up_to(uint16_t x) const {
        uint32_t count = 0;
        for (int l = 0; l < 16; ++l) count += v[l] <= x;
        return count;
    }
};
#endif

struct Tables {
    alignas(32) uint16_t above[16][16];  // all ones after symbol s
    alignas(32) uint16_t twice[16], but_first[16], first[2][16];
    uint16_t rate[kMost + 1];
    uint8_t sure[kMost + 1];
    constexpr Tables() : above(), twice(), but_first(), first(), rate(), sure() {
        for (int l = 0; l < 16; ++l) twice[l] = static_cast<uint16_t>(2 * l), but_first[l] = l ? 0xffff : 0;
        first[1][0] = 1;
        for (int s = 0; s < 16; ++s) {
            for (int l = 0; l < 16; ++l) above[s][l] = l > s ? 0xffff : 0;
        }
        for (int n = 0; n <= kMost; ++n) {
            rate[n] = static_cast<uint16_t>(655360 / (10 * n + 16));
            int size = 0;
            while (n >> size) ++size;
            sure[n] = static_cast<uint8_t>(size);
        }
    }
};
constexpr Tables kTables;

struct Turn {
    uint16_t *line[kContexts];
    uint8_t sure[kContexts];
    alignas(32) uint16_t bounds[32];  // of 2^15; 17 are used
    uint32_t left, left2, above, column, prefix, hash[kContexts];
};

template <int kUsed> inline void mix(Turn &turn, const uint16_t *weights) {
    uint32_t weight[kUsed], total = 0;
    for (int i = 0; i < kUsed; ++i) {
        turn.sure[i] = kTables.sure[turn.line[i][0]];
        weight[i] = weights[i * 16 + turn.sure[i]];
        total += weight[i];
    }
    const uint32_t scale = 0x7ffe0000u / total;
    Row sum = Row::all(0);
    for (int i = 0; i < kUsed; ++i) sum = sum + Row::load(turn.line[i]).high(Row::all(static_cast<uint16_t>(weight[i] * scale >> 15)));
    (((sum & Row::load(kTables.but_first)).high(Row::all(32736))) + Row::load(kTables.twice)).store(turn.bounds);
    turn.bounds[16] = 1u << kMixedBits;
}

template <int kUsed> inline void learn(Turn &turn, uint16_t *weights, uint32_t s, Row spread) {
    const uint32_t p = static_cast<uint32_t>(turn.bounds[s + 1]) - turn.bounds[s], inverse = (1u << 27) / p;
    for (int i = 0; i < kUsed; ++i) {
        const uint16_t *line = turn.line[i];
        const uint32_t low = s ? line[s] : 0, high = s < 15 ? line[s + 1] : 65536;
        const auto worth = static_cast<int64_t>(static_cast<uint64_t>(high - low) * inverse >> 16);  // against the mixture, 4096 = alike
        const int32_t gain = static_cast<int32_t>(worth > 32768 ? 32768 : worth) - 4096;
        uint16_t &w = weights[i * 16 + turn.sure[i]];
        const int32_t now = w + (static_cast<int32_t>(w) * gain / (1 << 12)) / 16;
        w = static_cast<uint16_t>(now < 64 ? 64 : now > 65535 ? 65535 : now);
    }
    for (int i = 0; i < kUsed; ++i) {
        uint16_t *line = turn.line[i];
        const uint16_t n = line[0];
        const Row flip = Row::load(kTables.above[s]), rate = Row::all(kTables.rate[n]) & Row::load(kTables.but_first);
        const Row way = Row::load(line) ^ flip;
        (((way - way.high(rate) - way.over(rate, spread)) ^ flip) + Row::load(kTables.first[n < kMost])).store(line);
    }
}

// code(turn, band, t, j) gives nibble j of id t of a band, code.take the id when its nibbles are known.
template <int kUsed, class Id, class Code> bool run(const Nibbles &of, const Id *ids, Code &&code) {
    Turn turns[kBands];
    size_t length[kBands];
    for (size_t b = 0; b < kBands; ++b) {
        const size_t from = b * of.band < of.n ? b * of.band : of.n;
        length[b] = of.n - from < of.band ? of.n - from : of.band;
        turns[b] = {};
    }
    const size_t steps = length[0];
    const int shift = of.shift;
    size_t column = 0;
    uint16_t noise = 0;
    for (size_t t = 0; t < steps; ++t) {
        size_t active = 0;
        while (active < kBands && t < length[active]) ++active;  // later bands are never longer
        for (size_t b = 0; b < active; ++b) {
            Turn &turn = turns[b];
            const Id *at = ids + b * of.band + t;
            turn.above = of.width && t >= of.width ? at[-static_cast<ptrdiff_t>(of.width)] : 0;
            const uint32_t contexts[kContexts] = {0, turn.left + 1, (turn.left + 1) * 65599u + turn.left2 + 1, turn.above + 1,
                                                  (turn.above + 1) * 40503u + turn.left + 1, static_cast<uint32_t>(column) + 1};
            for (int i = 0; i < kUsed; ++i) turn.hash[i] = (contexts[i] + 1) * 0x9e3779b1u + static_cast<uint32_t>(i) * 0x85ebca6bu;
            turn.prefix = 1;
        }
        for (int j = 0; j < of.count; ++j) {
            uint32_t s[kBands];
            for (size_t b = 0; b < active; ++b) {
                Turn &turn = turns[b];
                for (int i = 0; i < kUsed; ++i) {
                    const uint32_t h = (turn.hash[i] ^ turn.prefix * 0x2c1b3c6du) * 0x297a2d39u;
                    const size_t line = (h ^ h >> 15) * 0x9e3779b1u >> (32 - shift);
                    turn.line[i] = of.lines + ((static_cast<size_t>(i * of.count + j) << shift) + line) * 16;
                    __builtin_prefetch(turn.line[i], 1);
                }
            }
            for (size_t b = 0; b < active; ++b) {
                Turn &turn = turns[b];
                mix<kUsed>(turn, of.weights + (b * static_cast<size_t>(of.count) + static_cast<size_t>(j)) * kUsed * 16);
                s[b] = code(turn, b, t, j);
            }
            const Row spread = Row::all(noise = static_cast<uint16_t>(noise + 40503));  // steps are rounded up or down by turns
            for (size_t b = 0; b < active; ++b) {
                learn<kUsed>(turns[b], of.weights + (b * static_cast<size_t>(of.count) + static_cast<size_t>(j)) * kUsed * 16, s[b], spread);
                turns[b].prefix = turns[b].prefix << 4 | s[b];
            }
        }
        for (size_t b = 0; b < active; ++b) {
            Turn &turn = turns[b];
            turn.left2 = turn.left;
            turn.left = turn.prefix & ((1u << 4 * of.count) - 1);
            if (!code.take(b, t, turn.left)) return false;
        }
        if (of.width && ++column == of.width) column = 0;
    }
    return true;
}

template <class Id> struct Stepping {
    const Nibbles &of;
    const Id *ids;
    uint32_t *steps;
    uint32_t operator()(const Turn &turn, size_t b, size_t t, int j) {
        const uint32_t s = ids[b * of.band + t] >> 4 * (of.count - 1 - j) & 15, start = turn.bounds[s];
        *steps++ = (turn.bounds[s + 1] - start - 1) << 16 | start;
        return s;
    }
    bool take(size_t, size_t, uint32_t) const { return true; }
};

template <class Id> struct Decoding {
    const Nibbles &of;
    Id *ids;
    uint32_t *x;
    const uint8_t *at, *end;
    uint32_t k;
    size_t turn_of = 0;
    bool starved = false;
    uint32_t operator()(const Turn &turn, size_t, size_t, int) {
        uint32_t &state = x[turn_of++ % kBands];
        const auto slot = static_cast<uint16_t>(state & ((1u << kMixedBits) - 1));
        const uint32_t s = Row::load(turn.bounds).up_to(slot) - 1;
        uint32_t v = static_cast<uint32_t>(turn.bounds[s + 1] - turn.bounds[s]) * (state >> kMixedBits) + slot - turn.bounds[s];
        const bool low = v < kLeastState, there = end - at >= 2;
        uint16_t word = 0;
        if (there) std::memcpy(&word, at, 2);
        starved |= low && !there;
        at += low && there ? 2 : 0;
        state = low ? v << 16 | word : v;
        return s;
    }
    bool take(size_t b, size_t t, uint32_t id) const {
        ids[b * of.band + t] = static_cast<Id>(id);
        return id < k && !starved;
    }
};

template <class Id> void predict(const Nibbles &of, const Id *ids, uint32_t *steps) {
    Stepping<Id> code{of, ids, steps};
    of.contexts == 3 ? run<3>(of, ids, code) : run<kContexts>(of, ids, code);
}

template <class Id> bool decode(const Nibbles &of, uint32_t k, uint32_t *x, const uint8_t *at, const uint8_t *end, Id *ids) {
    Decoding<Id> code{of, ids, x, at, end, k};
    if (!(of.contexts == 3 ? run<3>(of, ids, code) : run<kContexts>(of, ids, code))) return false;
    bool good = code.at == end;
    for (size_t b = 0; b < kBands; ++b) good = good && x[b] == kLeastState;
    return good;
}

}  // namespace

void predict_nibbles(const Nibbles &of, const uint8_t *ids, uint32_t *steps) { predict(of, ids, steps); }
void predict_nibbles(const Nibbles &of, const uint16_t *ids, uint32_t *steps) { predict(of, ids, steps); }
bool decode_nibbles(const Nibbles &of, uint32_t k, uint32_t *x, const uint8_t *at, const uint8_t *end, uint8_t *ids) {
    return decode(of, k, x, at, end, ids);
}
bool decode_nibbles(const Nibbles &of, uint32_t k, uint32_t *x, const uint8_t *at, const uint8_t *end, uint16_t *ids) {
    return decode(of, k, x, at, end, ids);
}

}  // namespace compand::rans::ISA

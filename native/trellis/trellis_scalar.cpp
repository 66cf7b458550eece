#include "trellis/trellis.hpp"

#define ISA scalar
namespace compand::trellis::scalar {
namespace {

struct Lanes {
    using Words = uint16_t;
    static constexpr size_t count = 1;
    static Words all(int v) { return static_cast<Words>(v); }
    static Words load(const int16_t *p) { return static_cast<Words>(*p); }
    static void store(uint16_t *p, Words v) { *p = v; }
    static void store_bytes(uint8_t *p, Words v) { *p = static_cast<uint8_t>(v); }
    template <int K> static Words spread(const uint16_t *cost, size_t s) { return cost[s >> K]; }
    static Words reach(Words cost, Words level, Words target) {
        int e = static_cast<int16_t>(level) - static_cast<int16_t>(target);
        e = e > 32767 ? 32767 : e < -32768 ? -32768 : e;
        const uint32_t sum = cost + ((static_cast<uint32_t>(e * e) + (1u << 14)) >> 15);
        return static_cast<Words>(sum > 65535 ? 65535 : sum);
    }
    static void improve(Words &best, Words &which, Words v, int j) {
        if (v < best) best = v, which = static_cast<Words>(j);
    }
    static Words lower(Words a, Words b) { return a < b ? a : b; }
    static uint16_t lowest(Words v) { return v; }
};

}  // namespace
}  // namespace compand::trellis::scalar
#include "trellis/trellis_impl.hpp"

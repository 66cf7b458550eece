// Reads memory as fast as it comes: what products on codes are measured against.
#include <algorithm>
#include <atomic>

#include "arrays.hpp"
#include "lanes.hpp"
#include "threads.hpp"

namespace nb = nanobind;

namespace {

constexpr size_t kPiece = size_t{1} << 20;

uint32_t all_of(compand::Input<uint8_t, 1> bytes) {
    std::atomic<uint32_t> all{0};
    const uint8_t *from = bytes.data();
    const size_t size = bytes.shape(0);
    nb::gil_scoped_release release;
    compand::parallel_for((size + kPiece - 1) / kPiece, [&](size_t i) {
        using compand::lanes::U;
        const size_t end = std::min(size, (i + 1) * kPiece);
        size_t at = i * kPiece;
        U found[4] = {};
        for (; at + 256 <= end; at += 256) {
            __builtin_prefetch(from + at + 4096);
            __builtin_prefetch(from + at + 4096 + 64);
            __builtin_prefetch(from + at + 4096 + 128);
            __builtin_prefetch(from + at + 4096 + 192);
            for (size_t u = 0; u < 4; ++u) found[u] = found[u] ^ compand::lanes::load<U>(from + at + 64 * u);
        }
        const U one = (found[0] ^ found[1]) ^ (found[2] ^ found[3]);
        uint32_t sum = 0;
        for (size_t lane = 0; lane < 16; ++lane) sum ^= one[lane];
        for (size_t j = 0; at < end; ++at, ++j) sum ^= static_cast<uint32_t>(from[at]) << (8 * (j % 4));
        all.fetch_xor(sum, std::memory_order_relaxed);
    });
    return all.load();
}

}  // namespace

void bind_stream(nb::module_ &m) {
    using namespace nb::literals;
    m.def("read", &all_of, "bytes"_a.noconvert(), "Read all bytes (n,) uint8 on all threads; their exclusive or as little-endian words of 32 bits.");
}

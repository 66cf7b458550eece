#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "arrays.hpp"
#include "isa.hpp"
#include "threads.hpp"
#include "trellis/trellis.hpp"

namespace nb = nanobind;

namespace compand::trellis {
namespace {

constexpr size_t kLast = 32;  // values before a given end: their costs are counted 16 times coarser, so that none saturates

// targets (m, length) of m streams, walking down -> windows (m, count).
nb::object bind_search(Input<int16_t, 2> targets, size_t count, Input<int32_t, 1> start, Input<int32_t, 1> end, int bits, int memory,
                       Input<int16_t, 1> levels) {
    const size_t m = targets.shape(0), length = targets.shape(1);
    if (bits < 1 || bits > 4 || memory < 10 || memory > 16 || levels.size() != size_t{1} << memory || count > length ||
        start.size() != m || end.size() != m)
        throw nb::value_error("the arguments of a trellis search do not fit each other");
    Fresh<uint16_t> windows({m, count});
    {
        nb::gil_scoped_release release;
        bool any_end = false;
        for (size_t r = 0; r < m; ++r) any_end = any_end || end.data()[r] >= 0;
        std::vector<int16_t> coarse(any_end ? levels.size() : 0);
        for (size_t s = 0; s < coarse.size(); ++s) coarse[s] = static_cast<int16_t>(levels.data()[s] >> 2);
        const size_t size = size_t{1} << (memory - bits);
        parallel_for(m, [&](size_t r) {
            const auto cost = std::make_unique_for_overwrite<uint16_t[]>(2 * (size + 32));
            const auto decisions = std::make_unique_for_overwrite<uint8_t[]>(std::min(std::min(kSegment, count) + kAhead, length) * size);
            std::memset(cost.get(), 0, 4 * (size + 32));
            const Room room{{cost.get(), cost.get() + size + 32}, decisions.get()};
            const int16_t *from = targets.data() + r * length;
            uint16_t *to = windows.data() + r * count;
            const Code fine{bits, memory, levels.data()};
            int before = start.data()[r];
            const bool closed = end.data()[r] >= 0;
            const size_t stop = closed ? count - std::min(count, kLast) : count;
            for (size_t at = 0; at < stop;) {
                const size_t own = std::min(kSegment, stop - at), seen = std::min(kSegment + kAhead, length - at);
                COMPAND_DISPATCH(search, fine, from + at, std::min(seen, own + kAhead), own, before, -1, room, to + at);
                at += own;
                before = to[at - 1];
            }
            if (stop < count) {
                const Code last{bits, memory, coarse.data()};
                int16_t quarter[kLast];
                for (size_t i = stop; i < count; ++i) quarter[i - stop] = static_cast<int16_t>(from[i] >> 2);
                COMPAND_DISPATCH(search, last, quarter, count - stop, count - stop, before, end.data()[r], room, to + stop);
            }
        });
    }
    return nb::cast(windows.release());
}

// Packed bits of streams of `length` values, one after the other (the last may be shorter), -> levels (count,).
nb::object bind_decode(Input<uint8_t, 1> bytes, size_t count, size_t length, int bits, Input<uint16_t, 1> factors) {
    size_t total = 0;
    if (bits < 1 || bits > 4 || factors.size() < 1 || factors.size() > 2 || !length || !checked_mul(count, static_cast<size_t>(bits), total) ||
        bytes.size() != total / 8 + (total % 8 != 0) || (length < count && length * static_cast<size_t>(bits) % 8))
        throw nb::value_error("the bytes do not fit the shape");
    Fresh<float> levels({count});
    {
        nb::gil_scoped_release release;
        parallel_for((count + length - 1) / length, [&](size_t i) {
            const size_t own = std::min(length, count - i * length), used = own * static_cast<size_t>(bits);
            const uint8_t *from = bytes.data() + i * length * static_cast<size_t>(bits) / 8;
            std::vector<uint8_t> stream(used / 8 + 8);
            std::memcpy(stream.data(), from, (used + 7) / 8);
            for (size_t bit = used; bit < used / 8 * 8 + 40; ++bit) {  // the stream goes on with its own start
                const size_t source = bit - used < used ? bit - used : (bit - used) % used;
                const uint8_t mask = static_cast<uint8_t>(1u << (bit & 7));
                const bool set = stream[source / 8] >> (source & 7) & 1;
                stream[bit / 8] = static_cast<uint8_t>(set ? stream[bit / 8] | mask : stream[bit / 8] & ~mask);
            }
            COMPAND_DISPATCH(decode, stream.data(), own, bits, factors.data(), static_cast<int>(factors.size()),
                             levels.data() + i * length);
        });
    }
    return nb::cast(levels.release());
}

}  // namespace
}  // namespace compand::trellis

void bind_trellis(nb::module_ &m) {
    using namespace compand::trellis;
    using namespace nb::literals;
    m.def("trellis_search", &bind_search, "targets"_a.noconvert(), "count"_a, "start"_a.noconvert(), "end"_a.noconvert(), "bits"_a,
          "memory"_a, "levels"_a.noconvert(), "int16 targets (m, length), walking down -> uint16 windows of the first count; see trellis.hpp.");
    m.def("trellis_decode", &bind_decode, "bytes"_a.noconvert(), "count"_a, "length"_a, "bits"_a, "factors"_a.noconvert(),
          "Packed streams -> levels float32 (count,); see compand/quantizer/trellis.py.");
}

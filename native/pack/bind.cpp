#include <algorithm>
#include <atomic>

#include "arrays.hpp"
#include "isa.hpp"
#include "pack/pack.hpp"
#include "pack/radix.hpp"
#include "threads.hpp"

namespace nb = nanobind;

namespace compand::pack {
namespace {

// Calls row(first symbol, count, first byte) over pieces of n rows of d symbols, where `step` symbols fill `step_bytes`
// bytes. Rows that end with a full byte make one long row, so narrow arrays are as fast as wide ones.
template <class Row>
void for_pieces(size_t n, size_t d, size_t row_bytes, size_t step, size_t step_bytes, bool seamless, const Row &row) {
    constexpr size_t piece = size_t{1} << 16;
    if (n == 0 || d == 0) return;
    if (seamless) {
        const size_t total = n * d, steps = piece / step;
        parallel_for((total + steps * step - 1) / (steps * step), [&](size_t i) {
            const size_t first = i * steps * step;
            row(first, std::min(steps * step, total - first), i * steps * step_bytes);
        });
    } else {
        const size_t rows = std::max<size_t>(1, piece / d);
        parallel_for((n + rows - 1) / rows, [&](size_t i) {
            for (size_t r = i * rows; r < std::min(n, (i + 1) * rows); ++r) row(r * d, d, r * row_bytes);
        });
    }
}

template <class T> Output<uint8_t> to_bits(Input<T, 2> ids, size_t bits) {
    if (bits < 1 || bits > 32) throw nb::value_error("bits must be from 1 to 32");
    const size_t n = ids.shape(0), d = ids.shape(1), row_bytes = bit_bytes(d, bits);
    const T *from = ids.data();
    const auto width = static_cast<unsigned>(bits);
    Fresh<uint8_t> out({n, row_bytes});
    std::atomic<bool> good{true};
    {
        nb::gil_scoped_release release;
        for_pieces(n, d, row_bytes, 8, bits, d % 8 * bits % 8 == 0, [&](size_t first, size_t count, size_t byte) {
            if (!COMPAND_DISPATCH(pack_bits, from + first, count, width, out.data() + byte)) good = false;
        });
    }
    if (!good) throw nb::value_error("an id needs more than the given number of bits");
    return out.release();
}

template <class T> nb::object from_bits(Input<uint8_t, 2> data, size_t d, size_t bits) {
    const size_t n = data.shape(0), row_bytes = data.shape(1);
    const uint8_t *from = data.data();
    const auto width = static_cast<unsigned>(bits);
    Fresh<T> out({n, d});
    {
        nb::gil_scoped_release release;
        for_pieces(n, d, row_bytes, 8, bits, d % 8 * bits % 8 == 0, [&](size_t first, size_t count, size_t byte) {
            COMPAND_DISPATCH(unpack_bits, from + byte, count, width, out.data() + first);
        });
    }
    return nb::cast(out.release());
}

nb::object from_bits_sized(Input<uint8_t, 2> data, size_t d, size_t bits, size_t itemsize) {
    if (itemsize != 1 && itemsize != 2 && itemsize != 4) throw nb::value_error("itemsize must be 1, 2 or 4");
    if (bits < 1 || bits > 8 * itemsize) throw nb::value_error("bits must be from 1 to 8 * itemsize");
    if (d / 8 > data.shape(1) || bit_bytes(d, bits) != data.shape(1))
        throw nb::value_error("a row of data must have ceil(d * bits / 8) bytes");
    return itemsize == 1   ? from_bits<uint8_t>(data, d, bits)
           : itemsize == 2 ? from_bits<uint16_t>(data, d, bits)
                           : from_bits<uint32_t>(data, d, bits);
}

void check_radix(size_t k, size_t m) {
    if (k < 2 || k > 256 || m < 1 || m > 8) throw nb::value_error("k must be from 2 to 256 and m from 1 to 8");
    size_t values = 1;
    for (size_t i = 0; i < m; ++i) values = std::min<size_t>(values * k, 257);
    if (values > 256) throw nb::value_error("k**m must be at most 256");
}

Output<uint8_t> to_radix(Input<uint8_t, 2> ids, size_t k, size_t m) {
    check_radix(k, m);
    const size_t n = ids.shape(0), d = ids.shape(1), row_bytes = d / m + (d % m != 0);
    const uint8_t *from = ids.data();
    Fresh<uint8_t> out({n, row_bytes});
    std::atomic<bool> good{true};
    {
        nb::gil_scoped_release release;
        for_pieces(n, d, row_bytes, m, 1, d % m == 0, [&](size_t first, size_t count, size_t byte) {
            if (!pack_radix(from + first, count, static_cast<unsigned>(k), static_cast<unsigned>(m), out.data() + byte))
                good = false;
        });
    }
    if (!good) throw nb::value_error("an id is not below k");
    return out.release();
}

Output<uint8_t> from_radix(Input<uint8_t, 2> data, size_t d, size_t k, size_t m) {
    check_radix(k, m);
    if (d / m + (d % m != 0) != data.shape(1)) throw nb::value_error("a row of data must have ceil(d / m) bytes");
    const size_t n = data.shape(0), row_bytes = data.shape(1);
    const uint8_t *from = data.data();
    const RadixTable table(static_cast<unsigned>(k), static_cast<unsigned>(m));
    Fresh<uint8_t> out({n, d});
    std::atomic<bool> good{true};
    {
        nb::gil_scoped_release release;
        for_pieces(n, d, row_bytes, m, 1, d % m == 0, [&](size_t first, size_t count, size_t byte) {
            if (!unpack_radix(from + byte, count, static_cast<unsigned>(m), table, out.data() + first)) good = false;
        });
    }
    if (!good) throw nb::value_error("a byte of data is not below k**m");
    return out.release();
}

}  // namespace
}  // namespace compand::pack

void bind_pack(nb::module_ &m) {
    using namespace compand;
    using namespace nb::literals;
    const char *doc = "Ids (n, d) below 2**bits to (n, ceil(d*bits/8)) bytes, little-endian bit order, rows padded with zeros.";
    m.def("pack_bits", &pack::to_bits<uint8_t>, "ids"_a.noconvert(), "bits"_a, doc);
    m.def("pack_bits", &pack::to_bits<uint16_t>, "ids"_a.noconvert(), "bits"_a, doc);
    m.def("pack_bits", &pack::to_bits<uint32_t>, "ids"_a.noconvert(), "bits"_a, doc);
    m.def("unpack_bits", &pack::from_bits_sized, "data"_a.noconvert(), "d"_a, "bits"_a, "itemsize"_a,
          "The inverse of pack_bits: ids (n, d) of 1, 2 or 4 bytes each.");
    m.def("pack_radix", &pack::to_radix, "ids"_a.noconvert(), "k"_a, "m"_a,
          "Ids (n, d) below k to (n, ceil(d/m)) bytes of m base-k digits, the first least significant.");
    m.def("unpack_radix", &pack::from_radix, "data"_a.noconvert(), "d"_a, "k"_a, "m"_a, "The inverse of pack_radix.");
}

#include "arrays.hpp"
#include "neighbours/neighbours.hpp"

namespace nb = nanobind;

namespace compand::neighbours {
namespace {

constexpr size_t kMost = size_t{1} << 30;  // values of a block

Output<uint8_t> fresh(const Bytes &from) {
    Fresh<uint8_t> bytes({from.size()});
    std::copy(from.begin(), from.end(), bytes.data());
    return bytes.release();
}

nb::tuple bind_encode(Input<uint32_t, 2> words, size_t axes) {
    const size_t n = words.shape(0), d = words.shape(1);
    if (!n || !d || n > kMost / d || !axes || axes > 64) throw nb::value_error("1 to 2^30 values, 1 to 64 axes");
    Bytes columns, coded, raw;
    {
        nb::gil_scoped_release release;
        encode(words.data(), n, d, axes, columns, coded, raw);
    }
    return nb::make_tuple(fresh(columns), fresh(coded), fresh(raw));
}

nb::object bind_decode(Input<uint8_t, 1> columns, Input<uint8_t, 1> coded, Input<uint8_t, 1> raw, size_t n, size_t d, size_t axes) {
    if (!n || !d || n > kMost / d || !axes || axes > 64) throw nb::value_error("1 to 2^30 values, 1 to 64 axes");
    Fresh<uint32_t> words({n, d});
    bool good;
    {
        nb::gil_scoped_release release;
        const auto bytes = [](const Input<uint8_t, 1> &x) { return Bytes(x.data(), x.data() + x.size()); };
        good = decode(bytes(columns), bytes(coded), bytes(raw), n, d, axes, words.data());
    }
    return good ? nb::cast(words.release()) : nb::none();
}

}  // namespace
}  // namespace compand::neighbours

void bind_neighbours(nb::module_ &m) {
    using namespace compand::neighbours;
    using namespace nb::literals;
    m.def("neighbours_encode", &bind_encode, "words"_a.noconvert(), "axes"_a, "bits of float32 (n, d) → columns, coded, raw; see neighbours.hpp");
    m.def("neighbours_decode", &bind_decode, "columns"_a.noconvert(), "coded"_a.noconvert(), "raw"_a.noconvert(), "n"_a, "d"_a, "axes"_a,
          "streams → words (n, d), or None if they are damaged");
}

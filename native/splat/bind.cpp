#include <nanobind/stl/vector.h>

#include "arrays.hpp"
#include "splat/splat.hpp"

namespace nb = nanobind;

namespace compand::splat {
namespace {

Steps steps_of(double position, int scale, double rotation, int opacity, double colour, double harmonics, int adapt, int32_t reference,
               int turn, int thin, bool even, double trade, const Input<float, 2> &basis, int rest) {
    const bool good = position >= -8 && position <= 16 && scale >= 1 && scale <= 256 && rotation >= 0 && rotation <= 16 && opacity >= 2 &&
                      opacity <= 4096 && colour > 1e-7 && colour < 1e7 && harmonics > 1e-7 && harmonics < 1e7 && adapt >= 0 && adapt <= 16 &&
                      reference > -(1 << 20) && reference < 1 << 20 && turn >= 0 && turn <= 16 && thin >= 0 && thin <= 16 && trade >= 0 && trade <= 4;
    if (!good) throw nb::value_error("a step is out of range");
    if (basis.shape(1) != 3 * static_cast<size_t>(rest) || basis.shape(0) > basis.shape(1)) throw nb::value_error("the basis is (rank, 3 K)");
    return {position, scale, rotation, opacity, turn, thin, even, colour, harmonics, adapt, reference, static_cast<int>(basis.shape(0)),
            basis.data(), trade};
}

int rest_of(size_t width) {
    if (width < 14 || (width - 14) % 3 || (width - 14) / 3 > kMostRest) throw nb::value_error("rows have 14 + 3 K values, K at most 24");
    return static_cast<int>((width - 14) / 3);
}

nb::list bind_encode(Input<float, 2> rows, double position, int scale, double rotation, int opacity, double colour, double harmonics, int adapt,
                     int32_t reference, int turn, int thin, bool even, double trade, Input<float, 2> basis) {
    const int rest = rest_of(rows.shape(1));
    const Steps steps = steps_of(position, scale, rotation, opacity, colour, harmonics, adapt, reference, turn, thin, even, trade, basis, rest);
    if (rows.shape(0) < 1 || rows.shape(0) > size_t{1} << 24) throw nb::value_error("1 to 2^24 rows");
    Bytes parts[kParts];
    {
        nb::gil_scoped_release release;
        COMPAND_DISPATCH(encode, rows.data(), rows.shape(0), rest, steps, parts);
    }
    nb::list out;
    for (Bytes &part : parts) {
        Fresh<uint8_t> bytes({part.size()});
        std::copy(part.begin(), part.end(), bytes.data());
        out.append(bytes.release());
    }
    return out;
}

nb::object bind_decode(nb::list parts, size_t n, size_t width, double position, int scale, double rotation, int opacity, double colour,
                       double harmonics, int adapt, int32_t reference, int turn, int thin, bool even, double trade, Input<float, 2> basis) {
    const int rest = rest_of(width);
    const Steps steps = steps_of(position, scale, rotation, opacity, colour, harmonics, adapt, reference, turn, thin, even, trade, basis, rest);
    if (nb::len(parts) != kParts) throw nb::value_error("wrong number of parts");
    Input<uint8_t, 1> held[kParts];
    const uint8_t *data[kParts];
    size_t sizes[kParts];
    for (size_t k = 0; k < kParts; ++k) {
        held[k] = nb::cast<Input<uint8_t, 1>>(parts[k], false);
        data[k] = held[k].data();
        sizes[k] = held[k].size();
    }
    if (n < 1 || n > size_t{1} << 24) throw nb::value_error("1 to 2^24 rows");
    Fresh<float> rows({n, width});
    bool good;
    {
        nb::gil_scoped_release release;
        good = COMPAND_DISPATCH(decode, data, sizes, n, rest, steps, rows.data());
    }
    return good ? nb::cast(rows.release()) : nb::none();
}

Output<int64_t> bind_order(Input<float, 2> positions) {
    if (positions.shape(1) != 3) throw nb::value_error("positions are (n, 3)");
    Fresh<int64_t> order({positions.shape(0)});
    {
        nb::gil_scoped_release release;
        morton_order(positions.data(), positions.shape(0), order.data());
    }
    return order.release();
}

}  // namespace
}  // namespace compand::splat

void bind_splat(nb::module_ &m) {
    using namespace compand::splat;
    using namespace nb::literals;
    m.def("splat_encode", &bind_encode, "rows"_a.noconvert(), "position"_a, "scale"_a, "rotation"_a, "opacity"_a, "colour"_a, "harmonics"_a,
          "adapt"_a, "reference"_a, "turn"_a, "thin"_a, "even"_a, "trade"_a, "basis"_a.noconvert(),
          "rows (n, 14 + 3 K) → streams: tree, scale, opacity, rotation, colour, harmonics, fine, order");
    m.def("splat_decode", &bind_decode, "parts"_a, "n"_a, "width"_a, "position"_a, "scale"_a, "rotation"_a, "opacity"_a, "colour"_a,
          "harmonics"_a, "adapt"_a, "reference"_a, "turn"_a, "thin"_a, "even"_a, "trade"_a, "basis"_a.noconvert(), "streams → rows (n, width), or None if they are damaged");
    m.def("splat_order", &bind_order, "positions"_a.noconvert(), "positions (n, 3), finite → rows along the Morton curve");
}

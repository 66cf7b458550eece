#include "arrays.hpp"
#include "grid/grid.hpp"
#include "isa.hpp"
#include "threads.hpp"

namespace nb = nanobind;

namespace compand::grid {
namespace {

nb::object encode_rows(Input<float, 2> x, size_t group, int k, float z, Input<float, 1> ratios, int digits, float smallest,
                       float largest, bool search) {
    const size_t n = x.shape(0), d = x.shape(1);
    if (k < 2 || k > 256 || group < 1 || digits < 2 || digits > 24) throw nb::value_error("k, group or digits out of range");
    const size_t groups = d ? (d - 1) / group + 1 : 0;
    Fresh<uint8_t> ids({n, d});
    Fresh<float> scales({n, groups});
    {
        nb::gil_scoped_release release;
        const Plan plan{z, k, ratios.data(), ratios.shape(0), digits, smallest, largest, search};
        const size_t rows = d && d < 16384 ? 16384 / d : 1;
        if (d)
            parallel_for((n + rows - 1) / rows, [&](size_t i) {
                for (size_t r = i * rows; r < n && r < (i + 1) * rows; ++r)
                    COMPAND_DISPATCH(encode, plan, x.data() + r * d, d, group, ids.data() + r * d, scales.data() + r * groups);
            });
    }
    return nb::make_tuple(ids.release(), scales.release());
}

}  // namespace
}  // namespace compand::grid

void bind_grid(nb::module_ &m) {
    using namespace nb::literals;
    m.def("grid_encode", &compand::grid::encode_rows, "x"_a.noconvert(), "group"_a, "k"_a, "z"_a, "ratios"_a.noconvert(), "digits"_a,
          "smallest"_a, "largest"_a, "search"_a,
          "x (n, d) -> ids uint8 (n, d) and the scale of each group (n, ceil(d / group)), rounded to `digits` leading bits.");
}

#include <algorithm>
#include <optional>

#include <nanobind/stl/optional.h>

#include "arrays.hpp"
#include "hadamard/hadamard.hpp"
#include "isa.hpp"
#include "threads.hpp"

namespace nb = nanobind;

namespace compand::hadamard {
namespace {

using Signs = std::optional<Input<float, 1>>;

Output<float> transform(Input<float, 2> x, size_t block, Signs before, Signs after) {
    const size_t n = x.shape(0), d = x.shape(1);
    if (block == 0 || (block & (block - 1)) || d % block) throw nb::value_error("block must be a power of two that divides d");
    if ((before && before->shape(0) != d) || (after && after->shape(0) != d))
        throw nb::value_error("before and after must have d entries");
    const float *from = x.data(), *first = before ? before->data() : nullptr, *last = after ? after->data() : nullptr;
    Fresh<float> out({n, d});
    if (n && d) {
        nb::gil_scoped_release release;
        const size_t rows = std::max<size_t>(1, (size_t{1} << 16) / d);
        parallel_for((n + rows - 1) / rows, [&](size_t i) {
            for (size_t r = i * rows; r < std::min(n, (i + 1) * rows); ++r)
                COMPAND_DISPATCH(row, from + r * d, d, block, first, last, out.data() + r * d);
        });
    }
    return out.release();
}

}  // namespace
}  // namespace compand::hadamard

void bind_hadamard(nb::module_ &m) {
    using namespace nb::literals;
    m.def("hadamard", &compand::hadamard::transform, "x"_a.noconvert(), "block"_a, "before"_a.noconvert() = nb::none(),
          "after"_a.noconvert() = nb::none(),
          "Orthonormal Hadamard transform of each block of each row of x (n, d), a new array: (x * before) H / sqrt(block) * after,\n"
          "before and after float32 (d,) or None. The same bits on every machine.");
}

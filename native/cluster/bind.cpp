#include <cmath>
#include <optional>

#include <nanobind/stl/optional.h>

#include "arrays.hpp"
#include "cluster/cluster.hpp"
#include "threads.hpp"

namespace nb = nanobind;

namespace compand::cluster {
namespace {

nb::object cluster_sums(Input<float, 2> x, Input<uint32_t, 1> ids, size_t k, std::optional<Input<float, 1>> weight,
                        std::optional<Input<float, 1>> distances) {
    const size_t n = x.shape(0), d = x.shape(1);
    if (ids.shape(0) != n || (weight && weight->shape(0) != n) || (distances && distances->shape(0) != n))
        throw nb::value_error("ids, weight and distances must have one entry a row of x");
    const float *rows = x.data(), *w = weight ? weight->data() : nullptr, *far = distances ? distances->data() : nullptr;
    const uint32_t *id = ids.data();
    Fresh<double> sum({k, d}), totals({k}), spread({k});
    bool good;
    {
        nb::gil_scoped_release release;
        good = sums(rows, id, w, far, n, d, k, sum.data(), totals.data(), spread.data());
    }
    if (!good) throw nb::value_error("an id is not below k");
    return nb::make_tuple(sum.release(), totals.release(), spread.release());
}

Output<float> kmeans_line(Input<float, 2> values, size_t k, std::optional<Input<float, 2>> weight) {
    const size_t rows = values.shape(0), n = values.shape(1);
    if (k < 1 || k > n || n > 0xffffffff || k > 65536) throw nb::value_error("k must be from 1 to the number of values, at most 65536");
    if (weight && (weight->shape(0) != rows || weight->shape(1) != n)) throw nb::value_error("weight must have the shape of values");
    const float *from = values.data(), *w = weight ? weight->data() : nullptr;
    for (size_t i = 0; i < rows * n; ++i)
        if (!std::isfinite(from[i]) || (w && !(std::isfinite(w[i]) && w[i] >= 0)))
            throw nb::value_error("values must be finite, weights finite and not negative");
    Fresh<float> out({rows, k});
    {
        nb::gil_scoped_release release;
        parallel_for(rows, [&](size_t r) { line(from + r * n, w ? w + r * n : nullptr, n, k, out.data() + r * k); });
    }
    return out.release();
}

}  // namespace
}  // namespace compand::cluster

void bind_cluster(nb::module_ &m) {
    using namespace compand;
    using namespace nb::literals;
    m.def("cluster_sums", &cluster::cluster_sums, "x"_a.noconvert(), "ids"_a.noconvert(), "k"_a,
          "weight"_a.noconvert() = nb::none(), "distances"_a.noconvert() = nb::none(),
          "Weighted sums (k, d) of the rows of each id, total weights (k,) and weighted sums of distances (k,), float64.");
    m.def("kmeans_line", &cluster::kmeans_line, "values"_a.noconvert(), "k"_a, "weight"_a.noconvert() = nb::none(),
          "Ascending centroids (rows, k) of each row of finite values (rows, n); weights must not be negative.");
}

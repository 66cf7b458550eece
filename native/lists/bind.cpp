#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include <nanobind/stl/unique_ptr.h>

#include "arrays.hpp"
#include "lists/lists.hpp"
#include "scan/check.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace compand::lists {
namespace {

std::unique_ptr<Lists> make(Input<uint8_t, 2> rows, size_t groups, unsigned bits, Input<float, 1> gain, Input<float, 1> term,
                            Input<float, 1> codebooks, Input<int32_t, 1> sizes, float zero, Input<int64_t, 1> starts, Input<int64_t, 1> ends,
                            Input<float, 2> centroids, Input<float, 1> weight, Input<float, 1> cell_term) {
    const size_t n = rows.shape(0);
    scan::check_codes(rows, groups, bits, gain, term, codebooks, sizes);
    if (starts.shape(0) < 2 || starts.data()[0] != 0 || starts.data()[starts.shape(0) - 1] != static_cast<int64_t>(n))
        throw nb::value_error("starts must run from 0 to the number of rows");
    const size_t lists = starts.shape(0) - 1;
    const bool coded = scan::is_coded(bits, sizes);
    if (ends.shape(0) != lists) throw nb::value_error("every list must have an end");
    if (centroids.shape(0) != lists || weight.shape(0) != lists || (cell_term.shape(0) != lists && cell_term.shape(0) != 0))
        throw nb::value_error("every list must have a centroid, a weight and a term");
    if (lists >= size_t{1} << 32 || centroids.shape(1) < 1 || centroids.shape(1) > scan::kMaxGroups)
        throw nb::value_error("centroids must have 1 to 4096 coordinates");
    for (size_t i = 0; i < lists * centroids.shape(1); ++i)
        if (!std::isfinite(centroids.data()[i])) throw nb::value_error("a centroid is not finite");
    Cells cells{centroids.data(), weight.data(), cell_term.shape(0) ? cell_term.data() : nullptr, centroids.shape(1), {}, {}};
    for (size_t l = 0; l <= lists; ++l) {
        if (l && starts.data()[l] < starts.data()[l - 1]) throw nb::value_error("starts must not fall");
        cells.starts.push_back(static_cast<size_t>(starts.data()[l]));
        if (l == lists) break;
        if (ends.data()[l] < starts.data()[l] || ends.data()[l] > starts.data()[l + 1]) throw nb::value_error("a list must end before the next one starts");
        cells.ends.push_back(static_cast<size_t>(ends.data()[l]));
    }
    nb::gil_scoped_release release;
    auto index = std::make_unique<Lists>(rows.data(), n, rows.shape(1), groups, bits, coded, gain.data(),
                                         term.shape(0) && n ? term.data() : nullptr, cells);
    if (coded) index->set_codebooks(codebooks.data(), sizes.data());
    index->set_zero(zero);
    return index;
}

nb::tuple find(const Lists &index, Input<float, 2> queries, Input<float, 2> whole, Input<float, 1> shift, float times, bool scaled,
               Input<float, 1> factors, Input<float, 1> offsets, size_t k, size_t shortlist, size_t probes, Input<float, 1> reach, bool relative, Input<uint8_t, 1> allowed) {
    const size_t count = queries.shape(0);
    if (queries.shape(1) != index.width()) throw nb::value_error("queries must have the width of the codebooks");
    if (whole.shape(0) != count || whole.shape(1) != index.d() || shift.shape(0) != count)
        throw nb::value_error("whole must have the width of the centroids, shift a value for each query");
    if (offsets.shape(0) != count || (factors.shape(0) != count && factors.shape(0) != 0))
        throw nb::value_error("offsets and factors must have one value a query");
    if (k < 1 || k > 1 << 20 || probes < 1) throw nb::value_error("k must be from 1 to 2^20, probes at least 1");
    if (reach.shape(0) != 0 && reach.shape(0) != probes) throw nb::value_error("reach must have a value for each probe");
    for (size_t r = 1; r < reach.shape(0); ++r)
        if (!(reach.data()[r] <= reach.data()[r - 1])) throw nb::value_error("reach must not rise");
    if (scaled && !index.has_term()) throw nb::value_error("base can only be scaled by terms");
    if (allowed.shape(0) != 0 && allowed.shape(0) != (index.n() + 7) / 8) throw nb::value_error("allowed must have ceil(n / 8) bytes");
    Fresh<float> scores({count, k});
    Fresh<int64_t> ids({count, k});
    const Probe probe{queries.data(), whole.data(), shift.data(), factors.shape(0) ? factors.data() : nullptr, offsets.data(),
                      allowed.shape(0) ? allowed.data() : nullptr, reach.shape(0) ? reach.data() : nullptr, count, queries.shape(1), k, shortlist, probes, times, scaled, relative};
    size_t scanned = 0;
    {
        nb::gil_scoped_release release;
        scanned = index.search(probe, scores.data(), ids.data());
    }
    return nb::make_tuple(scores.release(), ids.release(), scanned);
}

}  // namespace
}  // namespace compand::lists

void bind_lists(nb::module_ &m) {
    using namespace compand;
    nb::class_<lists::Lists>(m, "Lists", "Codes in lists; see native/lists/lists.hpp.")
        .def("__init__", [](lists::Lists *, nb::args) { throw nb::type_error("use lists_index()"); })
        .def_prop_ro("n", &lists::Lists::n)
        .def_prop_ro("lists", &lists::Lists::lists)
        .def_prop_ro("nbytes", &lists::Lists::nbytes)
        .def("search", &lists::find, "queries"_a.noconvert(), "whole"_a.noconvert(), "shift"_a.noconvert(), "times"_a, "scaled"_a,
             "factors"_a.noconvert(), "offsets"_a.noconvert(), "k"_a, "shortlist"_a, "probes"_a, "reach"_a.noconvert(), "relative"_a, "allowed"_a.noconvert(),
             "Scores (q, k) falling and rows (q, k); -inf and -1 where there are fewer than k; and rows scanned.");
    m.def("lists_index", &lists::make, "rows"_a.noconvert(), "groups"_a, "bits"_a, "gain"_a.noconvert(), "term"_a.noconvert(),
          "codebooks"_a.noconvert(), "sizes"_a.noconvert(), "zero"_a, "starts"_a.noconvert(), "ends"_a.noconvert(), "centroids"_a.noconvert(),
          "weight"_a.noconvert(), "cell_term"_a.noconvert(), nb::keep_alive<0, 1>(),
          "Lay out packed ids, list after list, for searching.");
}

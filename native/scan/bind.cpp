#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <vector>

#include <nanobind/stl/optional.h>
#include <nanobind/stl/unique_ptr.h>

#include "arrays.hpp"
#include "isa.hpp"
#include "scan/check.hpp"
#include "scan/index.hpp"
#include "threads.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace compand::scan {
namespace {

std::unique_ptr<Index> make(Input<uint8_t, 2> rows, size_t groups, unsigned bits, Input<float, 1> gain, Input<float, 1> term,
                            Input<float, 1> codebooks, Input<int32_t, 1> sizes, float zero,
                            std::optional<Input<float, 1>> units, size_t lead, size_t fine, float typical, float margin) {
    const size_t n = rows.shape(0);
    check_codes(rows, groups, bits, gain, term, codebooks, sizes);
    const bool coded = is_coded(bits, sizes);
    if (units && (coded || units->shape(0) != groups || lead < 1)) throw nb::value_error("units are for columns, one for each, with lead of 1 or more");
    if (units && !(zero >= -1024 && zero <= 1024 && 2 * zero == std::floor(2 * zero))) throw nb::value_error("with units zero must be a small multiple of 1/2");
    const uint8_t *from = rows.data();
    nb::gil_scoped_release release;
    auto index = std::make_unique<Index>(from, n, rows.shape(1), groups, bits, coded, gain.data(), term.shape(0) && n ? term.data() : nullptr, units ? lead : 0);
    if (coded) index->set_codebooks(codebooks.data(), sizes.data());
    index->set_zero(zero);
    if (units) index->set_bounds(units->data(), std::min(fine, groups), typical, margin);
    return index;
}

nb::tuple find(const Index &index, Input<float, 2> queries, Input<float, 1> offsets, Input<float, 1> factors, size_t k, size_t shortlist,
               size_t scanned, Input<uint8_t, 1> allowed, bool exact) {
    const size_t count = queries.shape(0);
    if (queries.shape(1) != index.width()) throw nb::value_error("queries must have the width of the codebooks");
    if (offsets.shape(0) != count || (factors.shape(0) != count && factors.shape(0) != 0))
        throw nb::value_error("offsets and factors must have one value a query");
    if (k < 1 || k > 1 << 20) throw nb::value_error("k must be from 1 to 2^20");
    if (allowed.shape(0) != 0 && allowed.shape(0) != (index.n() + 7) / 8) throw nb::value_error("allowed must have ceil(n / 8) bytes");
    Fresh<float> scores({count, k});
    Fresh<int64_t> ids({count, k});
    const Request request{queries.data(), factors.shape(0) ? factors.data() : nullptr, offsets.data(),
                          allowed.shape(0) ? allowed.data() : nullptr, count, queries.shape(1), k, shortlist, scanned, exact};
    {
        nb::gil_scoped_release release;
        index.search(request, scores.data(), ids.data());
    }
    return nb::make_tuple(scores.release(), ids.release());
}

void check_rows(Input<int64_t, 2> ids, size_t count, size_t n) {
    if (ids.shape(0) != count) throw nb::value_error("ids must have a line for each query");
    for (size_t i = 0; i < ids.size(); ++i)
        if (ids.data()[i] < 0 || static_cast<size_t>(ids.data()[i]) >= n) throw nb::value_error("an id is not the number of a row");
}

nb::object sums_by_index(const Index &index, Input<float, 2> queries, Input<int64_t, 2> ids) {
    if (!index.coded() || queries.shape(1) != index.width()) throw nb::value_error("queries must have the width of the codebooks");
    check_rows(ids, queries.shape(0), index.n());
    Fresh<float> out({ids.shape(0), ids.shape(1)});
    {
        nb::gil_scoped_release release;
        index.sums(queries.data(), queries.shape(0), ids.data(), ids.shape(1), out.data());
    }
    return nb::cast(out.release());
}

nb::object sums_by_rows(Input<uint8_t, 2> rows, Input<float, 2> queries, Input<int64_t, 2> ids, float zero) {
    const size_t n = rows.shape(0), columns = rows.shape(1), m = ids.shape(1);
    if (columns < 1 || columns > kMaxGroups || n >= size_t{1} << 32) throw nb::value_error("rows must have 1 to 4096 columns");
    if (queries.shape(1) != columns) throw nb::value_error("queries must have the columns of rows");
    check_rows(ids, queries.shape(0), n);
    Fresh<float> out({ids.shape(0), m});
    {
        nb::gil_scoped_release release;
        parallel_for(ids.shape(0), [&](size_t q) {
            COMPAND_DISPATCH(sums_of, queries.data() + q * columns, rows.data(), n, columns, zero, ids.data() + q * m, m, out.data() + q * m);
        });
    }
    return nb::cast(out.release());
}

// A matrix (d, k) in panels, for turn_packed.
std::vector<float> panels_of(const float *matrix, size_t d, size_t k) {
    constexpr size_t width = kTurnLines * 16;
    std::vector<float> out((k + width - 1) / width * d * width);
    for (size_t first = 0; first < k; first += width)
        for (size_t j = 0; j < d; ++j) std::copy_n(matrix + j * k + first, std::min(width, k - first), out.data() + (first * d + j * width));
    return out;
}

nb::object turned(Input<float, 2> x, Input<float, 2> matrix, std::optional<Input<float, 1>> mean, std::optional<Input<float, 1>> scale) {
    const size_t n = x.shape(0), d = x.shape(1), k = matrix.shape(1);
    if (matrix.shape(0) != d) throw nb::value_error("the matrix must have a row for each column of x");
    if ((mean && mean->shape(0) != d) || (scale && scale->shape(0) != k)) throw nb::value_error("mean must have the columns of x, scale those of the matrix");
    Fresh<float> out({n, k});
    {
        nb::gil_scoped_release release;
        if (n >= kTurnRows / 2 || mean || scale) {
            const std::vector<float> panels = panels_of(matrix.data(), d, k);
            parallel_for((n + kTurnRows - 1) / kTurnRows, [&](size_t task) {
                const size_t row = task * kTurnRows;
                COMPAND_DISPATCH(turn_packed, x.data() + row * d, std::min(kTurnRows, n - row), d, panels.data(), k, mean ? mean->data() : nullptr,
                                 scale ? scale->data() : nullptr, out.data() + row * k);
            });
        } else {
            constexpr size_t columns = 64;  // of a task: so many columns of the matrix stay in the cache
            parallel_for((k + columns - 1) / columns, [&](size_t task) {
                const size_t first = task * columns;
                COMPAND_DISPATCH(turn, x.data(), n, d, matrix.data(), k, first, std::min(first + columns, k), out.data());
            });
        }
    }
    return nb::cast(out.release());
}

size_t check_sizes(Input<int32_t, 1> sizes, size_t d) {
    size_t width = 0;
    for (size_t g = 0; g < sizes.shape(0); ++g) {
        if (sizes.data()[g] < 0 || static_cast<size_t>(sizes.data()[g]) > d) throw nb::value_error("a group's size is out of range");
        width += static_cast<size_t>(sizes.data()[g]);
    }
    if (width > d) throw nb::value_error("groups must not be wider than rows");
    return width;
}

// Ids of the nearest codeword of each group, y = x / unit (n, d) in consecutive runs of sizes[g] columns, codebooks as for Index; <y, y_hat> and |y|^2.
nb::tuple encode(Input<float, 2> x, Input<float, 1> codebooks, Input<float, 2> half, Input<int32_t, 1> sizes, size_t k, float unit) {
    const size_t n = x.shape(0), d = x.shape(1), groups = sizes.shape(0);
    if (k < 1 || k > 256) throw nb::value_error("k must be from 1 to 256");
    if (half.shape(0) != groups || half.shape(1) != k) throw nb::value_error("half must have a value for each codeword");
    if (codebooks.shape(0) != check_sizes(sizes, d) * k) throw nb::value_error("codebooks must have k values for each coordinate");
    Fresh<uint8_t> ids({n, groups});
    Fresh<float> dots({n}), squares({n});
    {
        nb::gil_scoped_release release;
        constexpr size_t rows = 64;
        parallel_for((n + rows - 1) / rows, [&](size_t task) {
            const size_t first = task * rows, count = std::min(rows, n - first);
            std::vector<float> own(count * d);
            for (size_t i = 0; i < count * d; ++i) own[i] = x.data()[first * d + i] / unit;
            std::fill_n(dots.data() + first, count, 0.0f);
            COMPAND_DISPATCH(squares, own.data(), count, d, squares.data() + first);
            for (size_t g = 0, at = 0; g < groups; ++g) {
                const auto size = static_cast<size_t>(sizes.data()[g]);
                COMPAND_DISPATCH(nearest, own.data() + at, count, d, codebooks.data() + at * k, half.data() + g * k, size, k,
                                 ids.data() + first * groups + g, groups, dots.data() + first);
                at += size;
            }
        });
    }
    return nb::make_tuple(ids.release(), dots.release(), squares.release());
}

// Codewords of ids times the scale of their row: (n, d), 0 in columns after the last group.
Output<float> values_of(Input<uint8_t, 2> ids, Input<float, 1> codebooks, Input<int32_t, 1> sizes, size_t k, Input<float, 1> scale, size_t d) {
    const size_t n = ids.shape(0), groups = sizes.shape(0);
    if (k < 1 || k > 256) throw nb::value_error("k must be from 1 to 256");
    if (ids.shape(1) != groups || scale.shape(0) != n) throw nb::value_error("ids must have a column for each group, scale a value for each row");
    if (codebooks.shape(0) != check_sizes(sizes, d) * k) throw nb::value_error("codebooks must have k values for each coordinate");
    for (size_t i = 0; k < 256 && i < n * groups; ++i)
        if (ids.data()[i] >= k) throw nb::value_error("an id is not below k");
    Fresh<float> out({n, d});
    {
        nb::gil_scoped_release release;
        constexpr size_t rows = 64;
        parallel_for((n + rows - 1) / rows, [&](size_t task) {
            for (size_t i = task * rows; i < std::min(n, (task + 1) * rows); ++i) {
                const float own = scale.data()[i];
                float *to = out.data() + i * d, *const end = to + d;
                const float *book = codebooks.data();
                for (size_t g = 0; g < groups; ++g) {
                    book += ids.data()[i * groups + g];
                    for (int32_t j = 0; j < sizes.data()[g]; ++j, book += k) *to++ = *book * own;
                    book -= ids.data()[i * groups + g];
                }
                while (to < end) *to++ = 0.0f * own;
            }
        });
    }
    return out.release();
}

// |x|^2 and <x, y> of rows in float64: halves are added to each other, as compand.array.total does.
nb::tuple products_of_rows(Input<float, 2> x, Input<float, 2> y) {
    const size_t n = x.shape(0), d = x.shape(1);
    if (y.shape(0) != n || y.shape(1) != d) throw nb::value_error("x and y must have the same shape");
    Fresh<double> squares({n}), dots({n});
    {
        nb::gil_scoped_release release;
        constexpr size_t rows = 64;
        parallel_for((n + rows - 1) / rows, [&](size_t task) {
            std::vector<double> own(std::max<size_t>(d, 1));
            const auto total = [&](const float *a, const float *b) {
                own[0] = 0;
                for (size_t j = 0; j < d; ++j) own[j] = static_cast<double>(a[j]) * static_cast<double>(b[j]);
                for (size_t left = d; left > 1; left /= 2) {
                    const size_t half = left / 2;
                    for (size_t j = 0; j < half; ++j) own[j] = own[j] + own[j + half];
                    if (left % 2) own[0] = own[0] + own[2 * half];
                }
                return own[0];
            };
            for (size_t i = task * rows; i < std::min(n, (task + 1) * rows); ++i) {
                squares.data()[i] = total(x.data() + i * d, x.data() + i * d);
                dots.data()[i] = total(x.data() + i * d, y.data() + i * d);
            }
        });
    }
    return nb::make_tuple(squares.release(), dots.release());
}

// Weighted sums of the rows of each codeword, (width, k), and of their weights, (groups, k): rows in order, in float64.
nb::tuple sums(Input<float, 2> x, Input<uint8_t, 2> ids, Input<float, 1> weights, Input<int32_t, 1> sizes, size_t k) {
    const size_t n = x.shape(0), d = x.shape(1), groups = sizes.shape(0), width = check_sizes(sizes, d);
    if (k < 1 || k > 256) throw nb::value_error("k must be from 1 to 256");
    if (ids.shape(0) != n || ids.shape(1) != groups || (weights.shape(0) != n && weights.shape(0) != 0))
        throw nb::value_error("ids and weights must have the rows of x");
    for (size_t i = 0; i < n * groups; ++i)
        if (ids.data()[i] >= k) throw nb::value_error("an id is not below k");
    Fresh<double> total({width, k}), count({groups, k});
    {
        nb::gil_scoped_release release;
        std::vector<size_t> starts(groups + 1, 0);
        for (size_t g = 0; g < groups; ++g) starts[g + 1] = starts[g] + static_cast<size_t>(sizes.data()[g]);
        constexpr size_t some = 8;  // groups summed together: they share lines of x
        parallel_for((groups + some - 1) / some, [&](size_t task) {
            const size_t first = task * some, last = std::min(groups, first + some);
            std::fill(total.data() + starts[first] * k, total.data() + starts[last] * k, 0.0);
            std::fill(count.data() + first * k, count.data() + last * k, 0.0);
            for (size_t i = 0; i < n; ++i) {
                const double w = weights.shape(0) ? static_cast<double>(weights.data()[i]) : 1.0;
                for (size_t g = first; g < last; ++g) {
                    const size_t id = ids.data()[i * groups + g];
                    count.data()[g * k + id] += w;
                    for (size_t at = starts[g]; at < starts[g + 1]; ++at) total.data()[at * k + id] += w * static_cast<double>(x.data()[i * d + at]);
                }
            }
        });
    }
    return nb::make_tuple(total.release(), count.release());
}

}  // namespace
}  // namespace compand::scan

void bind_scan(nb::module_ &m) {
    using namespace compand;
    nb::class_<scan::Index>(m, "Scan", "Codes laid out for exhaustive search; see native/scan/scan.hpp.")
        .def("__init__",
             [](scan::Index *, nb::args) { throw nb::type_error("use scan_index()"); })
        .def_prop_ro("n", &scan::Index::n)
        .def_prop_ro("groups", &scan::Index::groups)
        .def_prop_ro("bits", &scan::Index::bits)
        .def_prop_ro("nbytes", &scan::Index::nbytes)
        .def("sums", &scan::sums_by_index, "queries"_a.noconvert(), "ids"_a.noconvert(), "Sums (q, m) of rows ids (q, m), no gain.")
        .def("search", &scan::find, "queries"_a.noconvert(), "offsets"_a.noconvert(), "factors"_a.noconvert(), "k"_a, "shortlist"_a,
             "scanned"_a, "allowed"_a.noconvert(), "exact"_a = false, "Scores (q, k) falling and ids (q, k); -inf and -1 where there are fewer than k.");
    m.def("scan_index", &scan::make, "rows"_a.noconvert(), "groups"_a, "bits"_a, "gain"_a.noconvert(), "term"_a.noconvert(),
          "codebooks"_a.noconvert(), "sizes"_a.noconvert(), "zero"_a, "units"_a.noconvert() = nb::none(), "lead"_a = 0, "fine"_a = size_t{1} << 32,
          "typical"_a = 1.0f, "margin"_a = 1.0f, nb::keep_alive<0, 1>(), "Lay out packed ids for searching; units to margin as of Bounds in native/scan/scan.hpp.");
    m.def("scan_sums_of", &scan::sums_by_rows, "rows"_a.noconvert(), "queries"_a.noconvert(), "ids"_a.noconvert(), "zero"_a,
          "Inner products (q, m) of queries (q, c) with rows[ids] + zero, ids (q, m); float32, in a fixed order.");
    m.def("scan_turned", &scan::turned, "x"_a.noconvert(), "matrix"_a.noconvert(), "mean"_a.noconvert() = nb::none(), "scale"_a.noconvert() = nb::none(),
          "(x - mean) times matrix, times scale: x (n, d), matrix (d, k); float32, summed in a fixed order, by the threads that scan.");
    m.def("scan_encode", &scan::encode, "x"_a.noconvert(), "codebooks"_a.noconvert(), "half"_a.noconvert(), "sizes"_a.noconvert(), "k"_a,
          "unit"_a = 1.0f,
          "Ids (n, groups) of the codewords nearest to y = x / unit, ties to the lowest, inner products (n) with them, and |y|^2 (n); float32, in a fixed order.");
    m.def("scan_values", &scan::values_of, "ids"_a.noconvert(), "codebooks"_a.noconvert(), "sizes"_a.noconvert(), "k"_a, "scale"_a.noconvert(), "d"_a,
          "Codewords of ids (n, groups) times scale (n): (n, d) float32, 0 after the last group.");
    m.def("row_products", &scan::products_of_rows, "x"_a.noconvert(), "y"_a.noconvert(),
          "|x|^2 and <x, y> of the rows of (n, d) float32: float64 (n), in the order of compand.array.total.");
    m.def("scan_sums", &scan::sums, "x"_a.noconvert(), "ids"_a.noconvert(), "weights"_a.noconvert(), "sizes"_a.noconvert(), "k"_a,
          "Sums (width, k) and weights (groups, k) of the rows of each codeword.");
}

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "matmul/weights.hpp"

namespace nb = nanobind;

namespace compand::matmul {
namespace {

Output<float> product(const Matrix &w, Input<float, 2> x) {
    if (x.shape(1) != w.d) throw nb::value_error("x does not fit the weights");
    Fresh<float> y({x.shape(0), w.n});
    {
        nb::gil_scoped_release release;
        multiply({&w}, x.data(), x.shape(0), {y.data()});
    }
    return y.release();
}

Output<float> row(const Matrix &w, size_t i) {
    if (i >= w.n) throw nb::index_error("no such row");
    Fresh<float> y({w.d});
    w.row(i, y.data());
    return y.release();
}

}  // namespace
}  // namespace compand::matmul

void bind_matmul(nb::module_ &m) {
    using namespace nb::literals;
    using namespace compand;
    using namespace compand::matmul;
    nb::class_<Matrix>(m, "Matrix", "Weights (n, d) that stay codes: called with x (m, d) float32 they give (m, n).")
        .def("__call__", &product, "x"_a.noconvert())
        .def("row", &row, "i"_a, "The weights of row i: (d,) float32.")
        .def("copy_codes", &Matrix::copy_codes, "Copies packed ids and trellises to huge pages, as they are: products are the same.")
        .def_prop_ro("shape", [](const Matrix &w) { return nb::make_tuple(w.n, w.d); });
    nb::class_<Ids, Matrix>(m, "Ids", "Packed ids (n, row bytes): weight = unit (level - offset + zero) scale; see matmul.hpp.")
        .def(nb::init<size_t, Input<uint8_t, 2>, int, int, float, size_t, Ids::Brain, Ids::Scales, Ids::Bytes, Ids::Bytes, Ids::Scales>(), "d"_a,
             "bytes"_a.noconvert(), "bits"_a, "offset"_a, "unit"_a, "group"_a, "brain"_a.noconvert() = nb::none(),
             "scale"_a.noconvert() = nb::none(), "levels"_a.noconvert() = nb::none(), "high"_a.noconvert() = nb::none(),
             "zero"_a.noconvert() = nb::none());
    nb::class_<Trellis, Matrix>(m, "Trellis", "Strips of 16 rows of a trellis code, and levels of the rows that are left; see matmul.hpp.")
        .def(nb::init<size_t, Input<uint8_t, 1>, int, Input<uint16_t, 1>, size_t, size_t, Input<float, 3>, Input<int16_t, 2>, Input<float, 2>>(),
             "d"_a, "bits"_a.noconvert(), "k"_a, "factors"_a.noconvert(), "block"_a, "group"_a, "scale"_a.noconvert(), "rest"_a.noconvert(),
             "rest_scale"_a.noconvert());
    nb::class_<Plain, Matrix>(m, "Plain", "float32, or bfloat16 as uint16 with activations rounded to it too.")
        .def(nb::init<Input<float, 2>>(), "values"_a.noconvert())
        .def(nb::init<Input<uint16_t, 2>>(), "values"_a.noconvert());
    nb::class_<Ranks, Matrix>(m, "Ranks", "bfloat16 as bytes and ranks of exponents, in blocks of rows; products are those of Plain.")
        .def(nb::init<size_t, const std::vector<Ranks::Given> &>(), "d"_a, "blocks"_a);
    nb::class_<Coded, Matrix>(m, "Words", "Ids of words of codebooks (1 or pieces, 2^bits, dim), or numbers of 8 bits; activations are not rounded.")
        .def(nb::init<size_t, Input<uint8_t, 2>, int, size_t, Coded::Book, Coded::Small, Coded::Starts, Coded::Scales, size_t, int, float>(), "d"_a,
             "bytes"_a.noconvert(), "bits"_a, "dim"_a, "book"_a.noconvert() = nb::none(), "small"_a.noconvert() = nb::none(),
             "start"_a.noconvert() = nb::none(), "scale"_a.noconvert() = nb::none(), "group"_a = 1 << 28, "fraction"_a = 0, "unit"_a = 1.0f);
    nb::class_<Rotated, Matrix>(m, "Rotated", "Weights behind rounds of signs and Hadamard transforms: (first column, signs, sizes of blocks).")
        .def(nb::init<nb::object, size_t, const std::vector<std::tuple<size_t, Input<float, 1>, std::vector<size_t>>> &>(), "inner"_a, "d"_a, "rounds"_a);
    nb::class_<Added, Matrix>(m, "Added", "A sum of weights of one shape.").def(nb::init<std::vector<nb::object>>(), "terms"_a);
    nb::class_<Some, Matrix>(m, "Some", "Weights (n, d) of which some rows are there, inner (rows, d); all others are 0.")
        .def(nb::init<nb::object, size_t, Input<int64_t, 1>>(), "inner"_a, "n"_a, "rows"_a.noconvert());
    nb::class_<Behind, Matrix>(m, "Behind", "Weights inner (n, e) behind others (e, d), which activations are multiplied with first.")
        .def(nb::init<nb::object, nb::object>(), "inner"_a, "before"_a);
    nb::class_<Sparse, Matrix>(m, "Sparse", "Few values: row r has those from start[r] to start[r + 1], at these columns; activations are not rounded.")
        .def(nb::init<size_t, Input<int64_t, 1>, Input<uint32_t, 1>, Input<float, 1>>(), "d"_a, "start"_a.noconvert(), "columns"_a.noconvert(),
             "values"_a.noconvert());
    nb::class_<Called, Matrix>(m, "Called", "A product in Python: product(x) -> (m, n), rows(i) -> (d,), both float32.")
        .def(nb::init<size_t, size_t, nb::callable, nb::callable>(), "n"_a, "d"_a, "product"_a, "rows"_a);
}

#include <vector>

#include "arrays.hpp"
#include "isa.hpp"
#include "radix/radix.hpp"
#include "threads.hpp"

namespace nb = nanobind;

namespace compand::radix {
namespace {

constexpr size_t kVectors = 4096;  // of a piece of work

// Levels and their units, checked.
struct Levels {
    std::vector<uint64_t> unit;
    bool wide = false;  // ids may be 2^32 or more

    Levels(Input<float, 1> s, Input<float, 1> z, Input<uint32_t, 1> k) {
        const size_t m = k.shape(0);
        if (m < 1 || m > kMost || s.shape(0) != m || z.shape(0) != m)
            throw nb::value_error("one step, one zero and one number of levels for each of 1 to 64 dimensions");
        uint64_t most = 0;  // the largest id so far
        for (size_t j = 0; j < m; ++j) {
            const uint64_t levels = k.data()[j];
            if (levels < 2 || levels > 65536) throw nb::value_error("levels must be from 2 to 65536");
            const uint64_t next = j ? most + 1 : 1;  // 0: 2^64
            if (!next || levels - 1 > (UINT64_MAX - most) / next) throw nb::value_error("the product of levels is above 2^64");
            unit.push_back(next);
            most += (levels - 1) * next;
        }
        wide = most > UINT32_MAX;
    }
};

template <class Id>
nb::object encode_as(const Grid &g, const float *x, size_t n, size_t pieces, bool values) {
    Fresh<Id> ids({n, pieces});
    Fresh<float> y({values ? n : 0, pieces * g.m});
    {
        nb::gil_scoped_release release;
        const size_t all = n * pieces;
        Id *to = ids.data();
        float *back = values ? y.data() : nullptr;
        parallel_for((all + kVectors - 1) / kVectors, [&](size_t i) {
            const size_t at = i * kVectors, many = all - at < kVectors ? all - at : kVectors;
            COMPAND_DISPATCH(encode, g, x + at * g.m, many, to + at, back ? back + at * g.m : nullptr);
        });
    }
    return values ? nb::make_tuple(ids.release(), y.release()) : nb::make_tuple(ids.release(), nb::none());
}

nb::object encode_rows(Input<float, 2> x, Input<float, 1> s, Input<float, 1> z, Input<uint32_t, 1> k, bool values) {
    const Levels levels(s, z, k);
    const Grid g{k.shape(0), s.data(), z.data(), k.data(), levels.unit.data()};
    if (x.shape(1) % g.m) throw nb::value_error("columns must be a multiple of the dimensions");
    const size_t n = x.shape(0), pieces = x.shape(1) / g.m;
    return levels.wide ? encode_as<uint64_t>(g, x.data(), n, pieces, values) : encode_as<uint32_t>(g, x.data(), n, pieces, values);
}

template <class Id> Output<float> decode_rows(Input<Id, 2> ids, Input<float, 1> s, Input<float, 1> z, Input<uint32_t, 1> k) {
    const Levels levels(s, z, k);
    const Grid g{k.shape(0), s.data(), z.data(), k.data(), levels.unit.data()};
    const size_t n = ids.shape(0), pieces = ids.shape(1);
    size_t columns = 0;
    if (!checked_mul(pieces, g.m, columns)) throw nb::value_error("the result would not fit in memory");
    Fresh<float> y({n, columns});
    {
        nb::gil_scoped_release release;
        const size_t all = n * pieces;
        float *to = y.data();
        parallel_for((all + kVectors - 1) / kVectors, [&](size_t i) {
            const size_t at = i * kVectors, many = all - at < kVectors ? all - at : kVectors;
            COMPAND_DISPATCH(decode, g, ids.data() + at, many, to + at * g.m);
        });
    }
    return y.release();
}

}  // namespace
}  // namespace compand::radix

void bind_radix(nb::module_ &m) {
    using namespace nb::literals;
    m.def("radix_encode", &compand::radix::encode_rows, "x"_a.noconvert(), "s"_a.noconvert(), "z"_a.noconvert(), "k"_a.noconvert(),
          "values"_a, "x (n, pieces * m) -> ids (n, pieces), uint32 or, where they may be larger, uint64; and y as x, or None.");
    m.def("radix_decode", &compand::radix::decode_rows<uint32_t>, "ids"_a.noconvert(), "s"_a.noconvert(), "z"_a.noconvert(),
          "k"_a.noconvert(), "ids (n, pieces) uint32 or uint64 -> y (n, pieces * m) float32.");
    m.def("radix_decode", &compand::radix::decode_rows<uint64_t>, "ids"_a.noconvert(), "s"_a.noconvert(), "z"_a.noconvert(),
          "k"_a.noconvert());
}

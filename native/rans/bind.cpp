#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <optional>

#include "arrays.hpp"
#include "rans/contexts.hpp"
#include "rans/given.hpp"
#include "rans/mixed.hpp"
#include "rans/parametric.hpp"
#include "rans/static.hpp"

namespace nb = nanobind;

namespace compand::rans {
namespace {

constexpr uint64_t kMostCount = uint64_t{1} << 53;

template <class Id> Output<uint8_t> bind_encode_static(Input<Id, 1> ids, std::optional<Input<uint64_t, 1>> counts) {
    Bytes out;
    bool good = true;
    {
        nb::gil_scoped_release release;
        Counts given;
        if (counts) {
            given.assign(counts->data(), counts->data() + counts->size());
            good = some_above(ids.data(), ids.size()) < given.size() || *std::max_element(ids.data(), ids.data() + ids.size()) < given.size();
            good = good && std::find(given.begin(), given.end(), 0) == given.end();
            uint64_t sum = 0;
            for (const uint64_t c : given) good = good && c <= kMostCount - sum, sum += c;
        }
        if (good) out = encode_static(ids.data(), ids.size(), 0, counts ? &given : nullptr);
    }
    if (!good) throw nb::value_error("counts are above 0, one for each id that can occur, 2^53 in all at most");
    return owned(std::move(out));
}

template <class Id> nb::object bind_decode_static(Input<uint8_t, 1> data, size_t n, uint32_t k) {
    Fresh<Id> ids({n});
    bool ok;
    {
        nb::gil_scoped_release release;
        ok = decode_static(data.data(), data.size(), ids.data(), n, k);
    }
    return ok ? nb::cast(ids.release()) : nb::none();
}

nb::object bind_encode_order1(Input<uint8_t, 1> ids, std::optional<Input<uint16_t, 1>> contexts, size_t c) {
    if (c < 1 || c > 4096) throw nb::value_error("there are 1 to 4096 contexts");
    if (contexts && contexts->size() != ids.size()) throw nb::value_error("each id needs a context");
    Bytes out;
    bool ok;
    {
        nb::gil_scoped_release release;
        ok = encode_order1(ids.data(), ids.size(), contexts ? contexts->data() : nullptr, contexts ? c : 256, out);
    }
    if (!ok) throw nb::value_error("a context is not below c");
    return nb::cast(owned(std::move(out)));
}

nb::object bind_decode_order1(Input<uint8_t, 1> data, size_t n, uint32_t k, std::optional<Input<uint16_t, 1>> contexts, size_t c) {
    if (c < 1 || c > 4096) throw nb::value_error("there are 1 to 4096 contexts");
    if (contexts && contexts->size() != n) throw nb::value_error("each id needs a context");
    Fresh<uint8_t> ids({n});
    bool ok;
    {
        nb::gil_scoped_release release;
        ok = decode_order1_ids(data.data(), data.size(), ids.data(), n, k, contexts ? contexts->data() : nullptr, contexts ? c : 256);
    }
    return ok ? nb::cast(ids.release()) : nb::none();
}

template <class Id> Output<uint8_t> bind_encode_mixed(Input<Id, 1> ids, uint32_t k, size_t width) {
    Bytes out;
    {
        nb::gil_scoped_release release;
        out = encode_mixed(ids.data(), ids.size(), k, width);
    }
    return owned(std::move(out));
}

template <class Id> nb::object bind_decode_mixed(Input<uint8_t, 1> data, size_t n, uint32_t k, size_t width) {
    Fresh<Id> ids({n});
    bool ok;
    {
        nb::gil_scoped_release release;
        ok = decode_mixed(data.data(), data.size(), ids.data(), n, k, width);
    }
    return ok ? nb::cast(ids.release()) : nb::none();
}

void check_models(size_t n, const Input<int32_t, 1> &mean, const Input<uint8_t, 1> &scale, int family) {
    if (mean.size() != n || scale.size() != n) throw nb::value_error("each value needs a mean and a scale");
    if (family < 0 || family >= kFamilies) throw nb::value_error("unknown family");
}

Output<uint8_t> bind_encode_parametric(Input<int32_t, 1> x, Input<int32_t, 1> mean, Input<uint8_t, 1> scale, int family) {
    check_models(x.size(), mean, scale, family);
    Bytes out;
    {
        nb::gil_scoped_release release;
        encode_parametric(x.data(), mean.data(), scale.data(), x.size(), family, out);
    }
    return owned(std::move(out));
}

nb::object bind_decode_parametric(Input<uint8_t, 1> data, Input<int32_t, 1> mean, Input<uint8_t, 1> scale, int family) {
    check_models(mean.size(), mean, scale, family);
    Fresh<int32_t> x({mean.size()});
    bool ok;
    {
        nb::gil_scoped_release release;
        ok = decode_parametric(data.data(), data.size(), x.data(), mean.data(), scale.data(), mean.size(), family);
    }
    return ok ? nb::cast(x.release()) : nb::none();
}

// Rows at fault are told as numbers: -1 all good, else row * 4 + (1 table, 2 id, 3 stream ended).
int64_t fault(Row row, size_t at) { return row == Row::good ? -1 : static_cast<int64_t>(at) * 4 + static_cast<int64_t>(row); }

nb::tuple bind_given_steps(Input<uint32_t, 2> cdf, Input<uint32_t, 1> ids, int p) {
    const size_t m = ids.size();
    if (cdf.shape(0) != m || cdf.shape(1) < 2) throw nb::value_error("cdf must be (ids, k + 1)");
    Fresh<uint32_t> steps({m});
    size_t at = 0;
    Row row;
    {
        nb::gil_scoped_release release;
        row = given_steps(cdf.data(), ids.data(), m, cdf.shape(1) - 1, p, steps.data(), &at);
    }
    return nb::make_tuple(steps.release(), fault(row, at));
}

Output<uint8_t> bind_encode_given(Input<uint32_t, 1> steps, int p) {
    if (p < 1 || p > 16) throw nb::value_error("p must be from 1 to 16");
    const uint32_t whole = 1u << std::max(p, 10);
    for (size_t i = 0; i < steps.size(); ++i) {
        if ((steps.data()[i] >> 16) + 1 + (steps.data()[i] & 0xffff) > whole) throw nb::value_error("a step is outside 2^p");
    }
    Bytes out;
    {
        nb::gil_scoped_release release;
        out = encode_given(steps.data(), steps.size(), p);
    }
    return owned(std::move(out));
}

nb::tuple bind_given_decode(GivenReader &reader, Input<uint32_t, 2> cdf) {
    if (cdf.shape(1) < 2) throw nb::value_error("cdf must be (m, k + 1)");
    Fresh<uint32_t> ids({cdf.shape(0)});
    size_t at = 0;
    // the interpreter's lock stays held: a reader has one place in its stream
    const Row row = reader.decode(cdf.data(), ids.data(), cdf.shape(0), cdf.shape(1) - 1, &at);
    if (row != Row::good) std::fill(ids.data(), ids.data() + ids.size(), 0u);
    return nb::make_tuple(ids.release(), fault(row, at));
}

}  // namespace
}  // namespace compand::rans

void bind_rans(nb::module_ &m) {
    using namespace compand::rans;
    using nb::arg;
    m.def("rans_encode_static", &bind_encode_static<uint8_t>, arg("ids").noconvert(), arg("counts").noconvert().none() = nb::none(), "ids (n,) → stream");
    m.def("rans_encode_static", &bind_encode_static<uint16_t>, arg("ids").noconvert(), arg("counts").noconvert().none() = nb::none());
    m.def("rans_decode_static8", &bind_decode_static<uint8_t>, arg("data").noconvert(), arg("n"), arg("k"),
          "stream → ids (n,) below k, or None if it is damaged");
    m.def("rans_decode_static16", &bind_decode_static<uint16_t>, arg("data").noconvert(), arg("n"), arg("k"));
    m.def("rans_encode_order1", &bind_encode_order1, arg("ids").noconvert(), arg("contexts").none(), arg("c"),
          "ids and their contexts (None: the id before) → stream");
    m.def("rans_decode_order1", &bind_decode_order1, arg("data").noconvert(), arg("n"), arg("k"), arg("contexts").none(), arg("c"));
    m.def("rans_encode_mixed", &bind_encode_mixed<uint8_t>, arg("ids").noconvert(), arg("k"), arg("width"), "ids in rows → stream");
    m.def("rans_encode_mixed", &bind_encode_mixed<uint16_t>, arg("ids").noconvert(), arg("k"), arg("width"));
    m.def("rans_decode_mixed8", &bind_decode_mixed<uint8_t>, arg("data").noconvert(), arg("n"), arg("k"), arg("width"));
    m.def("rans_decode_mixed16", &bind_decode_mixed<uint16_t>, arg("data").noconvert(), arg("n"), arg("k"), arg("width"));
    m.def("rans_encode_parametric", &bind_encode_parametric, arg("x").noconvert(), arg("mean").noconvert(), arg("scale").noconvert(),
          arg("family"), "x under its own mean / 16 and scale → stream");
    m.def("rans_decode_parametric", &bind_decode_parametric, arg("data").noconvert(), arg("mean").noconvert(),
          arg("scale").noconvert(), arg("family"));
    m.def("rans_curve", [](int family, int scale, int fraction) {
        if (family < 0 || family >= kFamilies || scale < 0 || scale >= kScales || fraction < 0 || fraction > 15) {
            throw nb::value_error("family 0..2, scale 0..63, fraction 0..15");
        }
        return curve(family, scale, fraction);
    }, arg("family"), arg("scale"), arg("fraction"), "[first bin, frequencies..., escape] of 2^14");
    m.def("rans_curves_version", &curves_version);
    m.def("rans_given_steps", &bind_given_steps, arg("cdf").noconvert(), arg("ids").noconvert(), arg("p"), "→ steps, fault");
    m.def("rans_encode_given", &bind_encode_given, arg("steps").noconvert(), arg("p"), "steps → stream");
    nb::class_<GivenReader>(m, "RansGivenReader", "Decodes a stream under tables given block by block.")
        .def("__init__", [](GivenReader *self, compand::Input<uint8_t, 1> data) { new (self) GivenReader(data.data(), data.size()); },
             arg("data").noconvert())
        .def_prop_ro("valid", &GivenReader::valid)
        .def_prop_ro("p", &GivenReader::p)
        .def_prop_ro("left", &GivenReader::left)
        .def("decode", &bind_given_decode, arg("cdf").noconvert(), "cdf (m, k + 1) → ids (m,), fault")
        .def("finish", &GivenReader::finish);
}

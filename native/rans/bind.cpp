#include "arrays.hpp"
#include "rans/static.hpp"

namespace nb = nanobind;

namespace compand::rans {
namespace {

Output<uint8_t> give(const Bytes &bytes) {
    Fresh<uint8_t> out({bytes.size()});
    if (!bytes.empty()) std::memcpy(out.data(), bytes.data(), bytes.size());
    return out.release();
}

template <class Id> Output<uint8_t> bind_encode_static(Input<Id, 1> ids) {
    Bytes out;
    {
        nb::gil_scoped_release release;
        out = encode_static(ids.data(), ids.size());
    }
    return give(out);
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

}  // namespace
}  // namespace compand::rans

void bind_rans(nb::module_ &m) {
    using namespace compand::rans;
    using nb::arg;
    m.def("rans_encode_static", &bind_encode_static<uint8_t>, arg("ids").noconvert(), "ids (n,) → stream");
    m.def("rans_encode_static", &bind_encode_static<uint16_t>, arg("ids").noconvert());
    m.def("rans_decode_static8", &bind_decode_static<uint8_t>, arg("data").noconvert(), arg("n"), arg("k"),
          "stream → ids (n,) below k, or None if it is damaged");
    m.def("rans_decode_static16", &bind_decode_static<uint16_t>, arg("data").noconvert(), arg("n"), arg("k"));
}

#include <nanobind/stl/array.h>

#include "arrays.hpp"
#include "convolution/net.hpp"

namespace nb = nanobind;

namespace compand::convolution {
namespace {

using Multipliers = Input<int32_t, 1>;
using Shifts = Input<uint8_t, 1>;

// What numbers wrong is said as ValueError: std::invalid_argument.
template <class T> Output<int32_t> run(Net &net, Input<T, 4> x) {
    const Shape &in = net.input(), &out = net.output();
    if (x.shape(1) != in.channels || x.shape(2) != in.tall || x.shape(3) != in.wide) throw nb::value_error("pictures of another shape");
    Fresh<int32_t> y({x.shape(0), out.channels, out.tall, out.wide});
    bool right;
    {
        nb::gil_scoped_release release;
        right = net.run(x.data(), x.shape(0), y.data());
    }
    if (!right) throw nb::value_error("values outside of the range of inputs");
    return y.release();
}

void convolve(Net &net, size_t input, Input<int8_t, 4> weight, Multipliers bias, Multipliers multiplier, Shifts shift, size_t stride, size_t groups,
              std::array<size_t, 4> pad, int32_t low, int32_t high) {
    if (bias.size() != weight.shape(0) || multiplier.size() != weight.shape(0) || shift.size() != weight.shape(0))
        throw nb::value_error("bias, multipliers and shifts must be those of the outputs");
    const Kernel kernel{weight.shape(0), weight.shape(1), weight.shape(2), weight.shape(3), stride, groups, pad, weight.data(), bias.data()};
    net.convolve(input, kernel, {multiplier.data(), shift.data()}, {low, high});
}

void add(Net &net, size_t a, size_t b, Multipliers multiplier, Shifts shift, int32_t low, int32_t high) {
    if (multiplier.size() != 2 || shift.size() != 1) throw nb::value_error("a sum has two multipliers and one shift");
    net.add(a, b, {multiplier.data(), shift.data()}, {low, high});
}

void mean(Net &net, size_t input, Multipliers multiplier, Shifts shift, int32_t low, int32_t high) {
    if (multiplier.size() != 1 || shift.size() != 1) throw nb::value_error("a mean has one multiplier and one shift");
    net.mean(input, {multiplier.data(), shift.data()}, {low, high});
}

}  // namespace
}  // namespace compand::convolution

void bind_convolution(nb::module_ &m) {
    using namespace nb::literals;
    using namespace compand::convolution;
    nb::class_<Net>(m, "IntegerNet", "A net on integers for pictures (channels, height, width): made empty, then its layers; see compand.op.integer.")
        .def("__init__", [](Net *self, std::array<size_t, 3> shape, int32_t low, int32_t high) {
            new (self) Net({shape[0], shape[1], shape[2]}, {low, high});
        }, "shape"_a, "low"_a, "high"_a)
        .def("conv", &convolve, "input"_a, "weight"_a.noconvert(), "bias"_a.noconvert(), "multiplier"_a.noconvert(), "shift"_a.noconvert(), "stride"_a,
             "groups"_a, "pad"_a, "low"_a, "high"_a)
        .def("add", &add, "a"_a, "b"_a, "multiplier"_a.noconvert(), "shift"_a.noconvert(), "low"_a, "high"_a)
        .def("mean", &mean, "input"_a, "multiplier"_a.noconvert(), "shift"_a.noconvert(), "low"_a, "high"_a)
        .def_prop_ro("output", [](const Net &net) { return nb::make_tuple(net.output().channels, net.output().tall, net.output().wide); })
        .def_prop_ro("bytes", &Net::bytes, "Memory for the tensors of one picture.")
        .def("run", &run<uint8_t>, "x"_a.noconvert())
        .def("run", &run<int8_t>, "x"_a.noconvert())
        .def("run", &run<int32_t>, "x"_a.noconvert())
        .def("run", &run<int64_t>, "x"_a.noconvert(), "Integers (n, channels, height, width) -> int32 (n, channels, height, width) of the last layer.");
}

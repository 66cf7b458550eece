#include <algorithm>
#include <cmath>

#include "arrays.hpp"
#include "raster/raster.hpp"

namespace nb = nanobind;

namespace compand::raster {
namespace {

nb::object prepare_all(Input<float, 2> log_scales, Input<float, 2> quaternions, Input<float, 1> logits) {
    const size_t n = log_scales.shape(0);
    if (log_scales.shape(1) != 3) throw nb::value_error("log_scales must be (n, 3)");
    if (quaternions.shape(0) != n || quaternions.shape(1) != 4) throw nb::value_error("quaternions must be (n, 4)");
    if (logits.shape(0) != n) throw nb::value_error("logits must be (n)");
    Fresh<double> shapes({n, kShape});
    {
        nb::gil_scoped_release release;
        prepare(log_scales.data(), quaternions.data(), logits.data(), n, shapes.data());
    }
    return nb::cast(shapes.release());
}

nb::tuple draw(Input<float, 2> positions, Input<double, 2> shapes, Input<float, 2> dc, Input<float, 3> rest, Input<double, 1> camera,
               size_t width, size_t height, Input<float, 1> background, bool weigh) {
    const size_t n = positions.shape(0), coefficients = rest.shape(1);
    if (positions.shape(1) != 3) throw nb::value_error("positions must be (n, 3)");
    if (shapes.shape(0) != n || shapes.shape(1) != kShape) throw nb::value_error("shapes must be (n, 8), from splat_prepare");
    if (dc.shape(0) != n || dc.shape(1) != 3) throw nb::value_error("dc must be (n, 3)");
    if (rest.shape(0) != n || rest.shape(2) != 3) throw nb::value_error("rest must be (n, coefficients, 3)");
    if (coefficients != 0 && coefficients != 3 && coefficients != 8 && coefficients != 15 && coefficients != 24)
        throw nb::value_error("rest must hold 0, 3, 8, 15 or 24 coefficients");
    if (n >= uint32_t(-1)) throw nb::value_error("at most 2^32 - 2 splats");
    if (camera.shape(0) != 17) throw nb::value_error("camera must be 12 values of the view, fx, fy, cx, cy and the near distance");
    if (background.shape(0) != 3) throw nb::value_error("background must be three values");
    if (width < 1 || height < 1 || width > 1 << 14 || height > 1 << 14) throw nb::value_error("a picture has 1 to 16384 pixels a side");
    Camera seen{};
    for (size_t i = 0; i < 17; ++i)
        if (!std::isfinite(camera.data()[i])) throw nb::value_error("camera must be finite");
    std::copy_n(camera.data(), 12, seen.view);
    seen.fx = camera.data()[12];
    seen.fy = camera.data()[13];
    seen.cx = camera.data()[14];
    seen.cy = camera.data()[15];
    seen.near = camera.data()[16];
    if (!(seen.fx > 0 && seen.fy > 0 && seen.near >= 0)) throw nb::value_error("focal lengths must be positive, near not negative");
    if (!(seen.cx > 0 && seen.cy > 0 && seen.cx < static_cast<double>(width) && seen.cy < static_cast<double>(height)))
        throw nb::value_error("the principal point must lie on the picture");
    seen.width = width;
    seen.height = height;
    Fresh<float> image({height, width, 3}), transmittance({height, width});
    Fresh<double> weights({weigh ? n : 0});
    {
        nb::gil_scoped_release release;
        const Splats splats{positions.data(), shapes.data(), dc.data(), rest.data(), n, coefficients};
        render(splats, seen, background.data(), image.data(), transmittance.data(), weigh ? weights.data() : nullptr);
    }
    return nb::make_tuple(image.release(), transmittance.release(), weights.release());
}

}  // namespace
}  // namespace compand::raster

void bind_raster(nb::module_ &m) {
    using namespace nb::literals;
    m.def("splat_prepare", &compand::raster::prepare_all, "log_scales"_a.noconvert(), "quaternions"_a.noconvert(), "logits"_a.noconvert(),
          "Covariance (xx xy xz yy yz zz), opacity and reach of each splat, float64 (n, 8): what splat_render needs of its shape.");
    m.def("splat_render", &compand::raster::draw, "positions"_a.noconvert(), "shapes"_a.noconvert(), "dc"_a.noconvert(),
          "rest"_a.noconvert(), "camera"_a.noconvert(), "width"_a, "height"_a, "background"_a.noconvert(), "weigh"_a,
          "Picture (height, width, 3), transmittance (height, width), and the sum of alpha * transmittance of each splat (n, or 0).");
}

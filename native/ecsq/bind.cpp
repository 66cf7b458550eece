#include <algorithm>
#include <vector>

#include "arrays.hpp"
#include "ecsq/ecsq.hpp"
#include "isa.hpp"
#include "threads.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace compand::ecsq {
namespace {

nb::tuple encode_rows(Input<float, 2> x, Input<float, 1> factors, float inverse, Input<int64_t, 1> ends, Input<int64_t, 1> reach) {
    const size_t n = x.shape(0), d = x.shape(1), count = ends.shape(0);
    if (factors.shape(0) != d || reach.shape(0) != count) throw nb::value_error("factors must have the width of x, reach a value for each class");
    std::vector<Class> classes;
    std::vector<Fresh<uint8_t>> bytes;
    std::vector<Fresh<uint16_t>> words;
    bytes.reserve(count);
    words.reserve(count);
    size_t at = 0;
    for (size_t c = 0; c < count; ++c) {
        const int64_t end = ends.data()[c], most = reach.data()[c];
        if (end < static_cast<int64_t>(at) || end > static_cast<int64_t>(d)) throw nb::value_error("ends must rise to the width of x");
        if (most < 1 || most > 2047) throw nb::value_error("reach must be from 1 to 2047");
        const auto last = static_cast<size_t>(end);
        void *ids;
        if (most < 128)
            ids = bytes.emplace_back(std::initializer_list<size_t>{n, last - at}).data();
        else
            ids = words.emplace_back(std::initializer_list<size_t>{n, last - at}).data();
        classes.push_back({at, last, static_cast<int>(most), ids});
        at = last;
    }
    if (at != d) throw nb::value_error("ends must rise to the width of x");
    Fresh<float> dots({n}), squares({n});
    {
        nb::gil_scoped_release release;
        constexpr size_t rows = 128;
        parallel_for((n + rows - 1) / rows, [&](size_t task) {
            const size_t from = task * rows;
            COMPAND_DISPATCH(encode, x.data(), std::min(rows, n - from), d, from, factors.data(), inverse, classes.data(), count, dots.data(),
                             squares.data());
        });
    }
    nb::list out;
    size_t b = 0, w = 0;
    for (const Class &c : classes) {
        if (c.reach < 128)
            out.append(bytes[b++].release());
        else
            out.append(words[w++].release());
    }
    return nb::make_tuple(out, dots.release(), squares.release());
}

}  // namespace
}  // namespace compand::ecsq

void bind_ecsq(nb::module_ &m) {
    m.def("ecsq_encode", &compand::ecsq::encode_rows, "x"_a.noconvert(), "factors"_a.noconvert(), "inverse"_a, "ends"_a.noconvert(),
          "reach"_a.noconvert(),
          "Ids of each class of columns, [(n, width) uint8 or uint16], and for each row <x, factors * id> and |x|^2, float32 in a fixed order.");
}

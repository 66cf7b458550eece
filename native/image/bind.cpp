#include <nanobind/stl/vector.h>

#include <algorithm>

#include "arrays.hpp"
#include "image/image.hpp"

namespace nb = nanobind;

namespace compand::image {
namespace {

template <class T> std::vector<T> copied(const Input<T, 1> &a) { return {a.data(), a.data() + a.size()}; }

template <class T> Output<T> array_of(const std::vector<T> &v) {
    Fresh<T> out({v.size()});
    std::copy(v.begin(), v.end(), out.data());
    return out.release();
}

void set_bases(Model &m, int which, const Input<int16_t, 3> &basis) {
    const size_t n = which ? 256 : 64;
    if (basis.shape(0) < 1 || basis.shape(0) > kMostClasses || basis.shape(1) != n || basis.shape(2) != n) throw nb::value_error("bases are (classes, n, n)");
    m.classes[which] = static_cast<int>(basis.shape(0));
    m.basis[which].assign(basis.data(), basis.data() + basis.size());
    if (std::any_of(m.basis[which].begin(), m.basis[which].end(), [](int16_t v) { return v < -4096 || v > 4096; })) throw nb::value_error("entries of bases lie within 1");
    m.turned[which].resize(basis.size());
    for (size_t k = 0; k < basis.shape(0); ++k) {
        for (size_t i = 0; i < n; ++i) {
            for (size_t j = 0; j < n; ++j) m.turned[which][(k * n + j) * n + i] = static_cast<float>(basis.data()[(k * n + i) * n + j]) / (1 << kBasisBits);
        }
    }
}

void make(Model *self, Input<int32_t, 1> color, Input<int16_t, 3> eight, Input<int16_t, 3> sixteen, Input<uint16_t, 1> p, Input<uint8_t, 1> seen,
          Input<int32_t, 1> weights, Input<uint16_t, 1> rates, Input<uint8_t, 1> centre, int share) {
    auto *m = new (self) Model{};
    if (color.size() != 9 || p.size() != kCells || seen.size() != kCells || weights.size() != kWeights * (kInputs + 1) || rates.size() != kRates || centre.size() != 12)
        throw nb::value_error("an array of the model has another size");
    std::copy(color.data(), color.data() + 9, m->color);
    if (std::any_of(m->color, m->color + 9, [](int32_t v) { return v < -8192 || v > 8192; })) throw nb::value_error("colours lie within 2");
    set_bases(*m, 0, eight);
    set_bases(*m, 1, sixteen);
    m->state = {copied(p), copied(seen), copied(weights)};
    for (int32_t &w : m->state.weights) w = std::clamp(w, -(1 << 20), 1 << 20);
    m->rates = copied(rates);
    m->counts.assign(kRates, 0);
    std::copy(centre.data(), centre.data() + 12, &m->centre[0][0][0]);
    if (share < 1 || share > 64) throw nb::value_error("the share is 1 to 64");
    m->share = share;
}

// weights (9, in / 2, out, 2), bias (out,); 16 or 32 channels, 16 in the end. Sums must stay within 31 bits.
void add_layer(Model &m, Input<int16_t, 4> weights, Input<int32_t, 1> bias) {
    const size_t in = 2 * weights.shape(1), out = weights.shape(2), before = m.layers.empty() ? 16 : static_cast<size_t>(m.layers.back().out);
    if (weights.shape(0) != 9 || weights.shape(3) != 2 || in != before || (out != 16 && out != 32) || bias.size() != out || m.layers.size() >= kMostLayers)
        throw nb::value_error("a layer of the filter has another size");
    for (size_t o = 0; o < out; ++o) {
        int64_t most = std::abs(static_cast<int64_t>(bias.data()[o])) + (1 << kWeightBits);
        for (size_t k = 0; k < 9 * in / 2; ++k) {
            for (size_t j = 0; j < 2; ++j) most += kMostFiltered * std::abs(static_cast<int64_t>(weights.data()[(k * out + o) * 2 + j]));
        }
        if (most >= int64_t{1} << 31) throw nb::value_error("sums of the filter could overflow");
    }
    m.layers.push_back({static_cast<int>(in), static_cast<int>(out), {weights.data(), weights.data() + weights.size()}, copied(bias)});
}

Settings settings(size_t height, size_t width, int channels, int bits, int step, int tile) {
    if (height < 1 || height > kMostSide || width < 1 || width > kMostSide) throw nb::value_error("a side is 1 to 65536");
    if ((channels != 1 && channels != 3) || (bits != 8 && bits != 16)) throw nb::value_error("1 or 3 channels of 8 or 16 bits");
    if (step < 1 || step > kMostStep) throw nb::value_error("the step is out of range");
    if (tile < 64 || tile % 64 || tile > 1 << 12) throw nb::value_error("a tile's side is a multiple of 64 up to 4096");
    return {height, width, channels, bits, step, tile};
}

Output<uint8_t> bind_encode(Model &m, Input<float, 2> rows, int channels, int bits, int step, int tile, float lambda, bool learn) {
    if (channels < 1 || rows.shape(1) % static_cast<size_t>(channels)) throw nb::value_error("rows are pixels times channels");
    if (!(lambda >= 0 && lambda <= 4)) throw nb::value_error("lambda is 0 to 4");
    const Settings s = settings(rows.shape(0), rows.shape(1) / static_cast<size_t>(channels), channels, bits, step, tile);
    Bytes stream;
    {
        nb::gil_scoped_release release;
        COMPAND_DISPATCH(encode, rows.data(), s, lambda, m, learn, stream);
    }
    return array_of(stream);
}

nb::object bind_decode(const Model &m, Input<uint8_t, 1> stream, size_t height, size_t width, int channels, int bits, int step, int tile, bool conceal,
                       Input<uint8_t, 1> lost, bool filtered) {
    const Settings s = settings(height, width, channels, bits, step, tile);
    Spans spans;
    if (!spans_of(stream.data(), stream.size(), s, spans)) return nb::none();
    std::vector<uint8_t> gone(2 * tiles_of(s), 0);
    if (lost.size()) {
        if (lost.size() != gone.size()) throw nb::value_error("lost is two flags a tile");
        gone = copied(lost);
    }
    Fresh<float> rows({height, width * static_cast<size_t>(channels)});
    bool good;
    {
        nb::gil_scoped_release release;
        good = COMPAND_DISPATCH(decode, spans, s, m, conceal, gone.data(), rows.data(), filtered);
    }
    return good ? nb::cast(nb::make_tuple(rows.release(), array_of(gone))) : nb::none();
}

nb::object bind_spans(Input<uint8_t, 1> stream, size_t height, size_t width, int channels, int tile) {
    const Settings s = settings(height, width, channels, 8, 64, tile);
    Spans spans;
    if (!spans_of(stream.data(), stream.size(), s, spans)) return nb::none();
    std::vector<int64_t> sizes(spans.size.begin(), spans.size.end());
    return nb::cast(array_of(sizes));
}

Output<uint8_t> bind_png(Input<uint8_t, 2> lines, size_t pixel) {
    if (lines.shape(1) < 2 || pixel < 1) throw nb::value_error("lines are a filter and pixels");
    Fresh<uint8_t> rows({lines.shape(0), lines.shape(1) - 1});
    if (!png_rows(lines.data(), lines.shape(0), lines.shape(1) - 1, pixel, rows.data())) throw nb::value_error("unknown filter of a line");
    return rows.release();
}

}  // namespace
}  // namespace compand::image

void bind_image(nb::module_ &m) {
    using namespace compand::image;
    using namespace nb::literals;
    nb::class_<Model>(m, "ImageModel")
        .def("__init__", &make, "color"_a, "eight"_a, "sixteen"_a, "p"_a, "seen"_a, "weights"_a, "rates"_a, "centre"_a, "share"_a)
        .def("add_layer", &add_layer, "weights"_a.noconvert(), "bias"_a.noconvert(), "a 3 x 3 layer of the filter, in order")
        .def("state", [](const Model &self) { return nb::make_tuple(array_of(self.state.p), array_of(self.state.seen), array_of(self.state.weights), array_of(self.counts)); },
             "p, seen, weights, counts: what was learnt");
    m.attr("IMAGE_CELLS") = kCells;
    m.attr("IMAGE_WEIGHTS") = kWeights * (kInputs + 1);
    m.attr("IMAGE_RATES") = kRates;
    m.def("image_encode", &bind_encode, "model"_a, "rows"_a.noconvert(), "channels"_a, "bits"_a, "step"_a, "tile"_a, "lam"_a, "learn"_a = false,
          "rows (h, w * channels) → stream");
    m.def("image_decode", &bind_decode, "model"_a, "stream"_a.noconvert(), "height"_a, "width"_a, "channels"_a, "bits"_a, "step"_a, "tile"_a,
          "conceal"_a = false, "lost"_a, "filtered"_a = true, "stream → rows and which parts of tiles are lost, or None if it is damaged");
    m.def("png_rows", &bind_png, "lines"_a.noconvert(), "pixel"_a, "lines of a PNG (h, 1 + stride) and bytes of a pixel → rows (h, stride)");
    m.def("image_spans", &bind_spans, "stream"_a.noconvert(), "height"_a, "width"_a, "channels"_a, "tile"_a,
          "bytes of the coarse part and the details of each tile (tiles * 2,), or None if the stream is damaged");
}

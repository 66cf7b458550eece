// Layers of a decoder whose keys and values are kept by someone else, as those of transformers are in its caches of tensors.
#include <memory>

#include "decoder/layer.hpp"

namespace compand::decoder {
namespace {

constexpr size_t kTogether = 128;  // tokens that go through the products together

class Layers {
public:
    Layers(size_t d, size_t ff, size_t heads, size_t shared, size_t width, float eps, float scale, bool gelu, float attention_cap)
        : s{d, ff, heads, shared, width, eps, scale, attention_cap, gelu} {
        s.check();
        if (width % lanes_) throw nb::value_error("the width of a head is a multiple of 16");
    }
    void layer(const std::vector<nb::object> &weights, const std::vector<Vector> &biases, const std::vector<Vector> &norms, size_t window) {
        if (norm) throw nb::value_error("layers come before the last norm");
        all.emplace_back(s, weights, biases, norms, window);
    }
    void ends(Input<float, 1> last) {
        if (last.shape(0) != s.d) throw nb::value_error("the last norm does not fit the width");
        norm = last;
    }

    const Sizes s;
    std::vector<Layer> all;
    Vector norm;  // given: no layer follows

private:
    static constexpr size_t lanes_ = 16;
};

// Keys and values (batch, shared, n, width) of a cache: float32, or bfloat16 as uint16. Rows are contiguous.
using Kept = nb::ndarray<nb::ndim<4>, nb::device::cpu>;

// One pass of tokens (batch, n) through layers, each in two steps: `project`, after which its keys and values can be kept, and `attend`.
class Pass {
public:
    Pass(const Layers &layers, Input<float, 3> x, Input<int64_t, 1> starts)
        : layers_(layers), batch_(x.shape(0)), n_(x.shape(1)), x_(x.data(), x.data() + x.size()), starts_(starts), steps_(layers.s) {
        if (x.shape(2) != layers_.s.d || starts.shape(0) != batch_ || batch_ == 0 || n_ == 0) throw nb::value_error("x and starts do not fit the layers");
        if (!layers_.norm) throw nb::value_error("the layers have no last norm");
        q_.resize(batch_ * n_ * layers_.s.queries());
    }

    // Writes keys and values (2, batch, shared, n, width) of the next layer; cos, sin (1 or batch, n, width / 2).
    template <class S> void project(nb::ndarray<S, nb::ndim<5>, nb::c_contig, nb::device::cpu> out, Input<float, 3> cos, Input<float, 3> sin) {
        const Sizes &s = layers_.s;
        const Layer &l = layer(false);
        const size_t half = s.width / 2;
        for (const Input<float, 3> *a : {&cos, &sin})
            if ((a->shape(0) != 1 && a->shape(0) != batch_) || a->shape(1) != n_ || a->shape(2) != half || cos.shape(0) != sin.shape(0))
                throw nb::value_error("angles do not fit tokens and width");
        if (out.shape(0) != 2 || out.shape(1) != batch_ || out.shape(2) != s.shared || out.shape(3) != n_ || out.shape(4) != s.width)
            throw nb::value_error("keys and values do not fit tokens and layer");
        S *keys = out.data(), *values = keys + batch_ * s.shared * n_ * s.width;
        const float *c = cos.data(), *e = sin.data();
        const size_t own = cos.shape(0) == 1 ? 0 : 1;
        projected_ = true;
        nb::gil_scoped_release release;
        std::vector<float> k(std::min(kTogether, batch_ * n_) * s.kept()), v(k.size());
        const auto some = [&](size_t at, size_t m) {
            steps_.project(l, x_.data() + at * s.d, m, q_.data() + at * s.queries(), k.data(), v.data());
            parallel_for((m + 7) / 8, [&](size_t eighth) {
                std::vector<float> room(s.width);
                for (size_t t = 8 * eighth; t < std::min(m, 8 * eighth + 8); ++t) {
                    const size_t b = (at + t) / n_, i = (at + t) % n_, turn = (own * b * n_ + i) * half;
                    for (size_t h = 0; h < s.heads; ++h) {
                        float *query = q_.data() + ((at + t) * s.heads + h) * s.width;
                        steps_.place(query, l.q_norm, c + turn, e + turn, room.data());
                        std::memcpy(query, room.data(), s.width * sizeof(float));
                    }
                    for (size_t h = 0; h < s.shared; ++h) {
                        const size_t to = ((b * s.shared + h) * n_ + i) * s.width, from = (t * s.shared + h) * s.width;
                        steps_.place(k.data() + from, l.k_norm, c + turn, e + turn, room.data());
                        put(room.data(), s.width, keys + to);
                        put(v.data() + from, s.width, values + to);
                    }
                }
            });
        };
        together([&] {
            for (size_t at = 0; at < batch_ * n_; at += kTogether) some(at, std::min(kTogether, batch_ * n_ - at));
        });
    }

    // The rest of this layer. Row 0 of keys and values is at position `offset`, and the first token at `position`. A token sees no position
    // after it, nor any before `starts` of its line of the batch; one that sees none attends to nothing.
    void attend(Kept keys, Kept values, size_t offset, size_t position) {
        const Sizes &s = layers_.s;
        const Layer &l = layer(true);
        const bool brain = keys.dtype() == nb::dtype<uint16_t>();
        for (const Kept *a : {&keys, &values})
            if (a->dtype() != (brain ? nb::dtype<uint16_t>() : nb::dtype<float>()) || a->shape(0) != batch_ || a->shape(1) != s.shared ||
                a->shape(3) != s.width || a->stride(3) != 1 || a->stride(2) < 0 || a->shape(2) != keys.shape(2))
                throw nb::value_error("the cache's keys and values do not fit tokens and layer");
        const size_t first = position - offset;
        if (offset > position || first > keys.shape(2) || n_ > keys.shape(2) - first) throw nb::value_error("the tokens are not in the cache");
        const size_t size = brain ? 2 : 4, each = s.heads / s.shared, together = each % 4 == 0 ? 4 : each % 2 == 0 ? 2 : 1, parts = each / together;
        const auto at = [&](const Kept &a, size_t b, size_t h) {
            return static_cast<const char *>(a.data()) + (static_cast<int64_t>(b) * a.stride(0) + static_cast<int64_t>(h) * a.stride(1)) * static_cast<int64_t>(size);
        };
        const int64_t *starts = starts_.data();
        const size_t key_step = static_cast<size_t>(keys.stride(2)), value_step = static_cast<size_t>(values.stride(2));
        projected_ = false;
        ++next_;
        nb::gil_scoped_release release;
        a_.resize(q_.size());
        const auto look = [&](size_t job) {  // 8 tokens that follow each other, of a head of keys
            const size_t eighths = (n_ + 7) / 8, b = job / (s.shared * eighths), h = job / eighths % s.shared, i = job % eighths * 8;
            const Rows rows{at(keys, b, h), at(values, b, h), key_step, value_step, s.width, brain};
            std::vector<float> room(together * (first + i + 8 + 16));
            for (size_t t = i; t < std::min(n_, i + 8); ++t) {
                const size_t end = first + t + 1, least = l.window && end > l.window ? end - l.window : 0;
                const size_t start = std::max(least, static_cast<size_t>(std::max<int64_t>(0, starts[b] - static_cast<int64_t>(offset))));
                for (size_t part = 0; part < parts; ++part) {
                    const size_t own = ((b * n_ + t) * s.heads + h * each + part * together) * s.width;
                    if (start >= end) std::fill_n(a_.data() + own, together * s.width, 0.0f);
                    else COMPAND_DISPATCH(attend_rows, rows, {q_.data() + own, a_.data() + own, together, start, end, s.scale, s.attention_cap}, room.data());
                }
            }
        };
        compand::together([&] {
            parallel_for(batch_ * s.shared * ((n_ + 7) / 8), look);
            for (size_t t = 0; t < batch_ * n_; t += kTogether)
                steps_.finish(l, a_.data() + t * s.queries(), x_.data() + t * s.d, std::min(kTogether, batch_ * n_ - t));
        });
    }

    // What the layers give, after the last norm: (batch, n, d).
    Output<float> result() {
        if (next_ != layers_.all.size()) throw nb::value_error("not all layers were passed");
        Fresh<float> y({batch_, n_, layers_.s.d});
        {
            nb::gil_scoped_release release;
            steps_.normalized(layers_.norm, x_.data(), batch_ * n_, y.data());
        }
        return y.release();
    }

private:
    const Layer &layer(bool projected) const {
        if (projected_ != projected || next_ >= layers_.all.size()) throw nb::value_error("project and attend take turns, once for each layer");
        return layers_.all[next_];
    }
    static void put(const float *from, size_t n, float *to) { std::memcpy(to, from, n * sizeof(float)); }
    static void put(const float *from, size_t n, uint16_t *to) { COMPAND_DISPATCH(round, from, n, to); }

    const Layers &layers_;
    const size_t batch_, n_;
    size_t next_ = 0;
    bool projected_ = false;
    std::vector<float> x_, q_, a_;
    Input<int64_t, 1> starts_;
    Steps steps_;
};

}  // namespace
}  // namespace compand::decoder

void bind_layers(nanobind::module_ &m) {
    namespace nb = nanobind;
    using namespace nb::literals;
    using namespace compand;
    using namespace compand::decoder;
    nb::class_<Layers>(m, "Layers", "Layers of a decoder whose keys and values are kept by someone else: made empty, then `layer` for each, then `ends`.")
        .def(nb::init<size_t, size_t, size_t, size_t, size_t, float, float, bool, float>(), "d"_a, "ff"_a, "heads"_a, "shared"_a, "width"_a, "eps"_a,
             "scale"_a, "gelu"_a, "attention_cap"_a)
        .def("layer", &Layers::layer, "weights"_a, "biases"_a, "norms"_a, "window"_a, "See Decoder.layer.")
        .def("ends", &Layers::ends, "norm"_a);
    nb::class_<Pass>(m, "Pass", "One pass of x (batch, n, d) float32 through layers; line i of the batch sees no position before starts[i]. Not for two threads.")
        .def(nb::init<const Layers &, Input<float, 3>, Input<int64_t, 1>>(), "layers"_a, "x"_a.noconvert(), "starts"_a.noconvert(), nb::keep_alive<1, 2>())
        .def("project", &Pass::project<float>, "out"_a.noconvert(), "cos"_a.noconvert(), "sin"_a.noconvert(),
             "Keys and values of the next layer into out (2, batch, shared, n, width), turned by cos and sin (1 or batch, n, width / 2).")
        .def("project", &Pass::project<uint16_t>, "out"_a.noconvert(), "cos"_a.noconvert(), "sin"_a.noconvert())
        .def("attend", &Pass::attend, "keys"_a.noconvert(), "values"_a.noconvert(), "offset"_a, "position"_a,
             "The rest of the layer, with all keys and values (batch, shared, rows, width), of positions from offset on; the first token's position.")
        .def("result", &Pass::result, "(batch, n, d) after the last norm.");
}

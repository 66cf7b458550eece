#include <mutex>
#include <string>

#include "decoder/layer.hpp"
#include "encoder/encoder.hpp"

namespace compand::encoder {
namespace {

namespace nb = nanobind;
using decoder::Linear;
using decoder::times;
using Numbers = Input<float, 1>;

constexpr size_t kTogether = 64;  // tokens, or a few more, that go through all layers together

struct Layer {
    Linear q, k, v, o, up, down;
    Numbers weight[2], bias[2];  // of the norms after attention and after the products
};

// Sentences that go through the layers together, and the arrays of one thread's work on them.
struct Group {
    std::vector<size_t> ends;    // of sentences, in tokens of the group
    std::vector<size_t> tokens;  // where each stands in the batch
    std::vector<float> x, q, k, v, a, u;
};

class Encoder {
public:
    Encoder(size_t d, size_t ff, size_t heads, float eps, bool tanh) : d_(d), ff_(ff), heads_(heads), eps_(eps), tanh_(tanh) {
        constexpr size_t most = size_t{1} << 24;
        if (!d || !ff || !heads || d > most || ff > most || heads > 4096 || d % heads || d / heads > 4096)
            throw nb::value_error("these sizes are not those of an encoder");
    }

    void layer(const std::vector<nb::object> &weights, const std::vector<decoder::Vector> &biases, const std::vector<Numbers> &norms) {
        if (weights.size() != 6 || biases.size() != 6 || norms.size() != 4) throw nb::value_error("a layer has 6 weights and biases, and 2 norms of 2");
        Layer l;
        const struct {
            Linear &to;
            size_t n, d;
            const char *name;
        } all[6] = {{l.q, d_, d_, "query"}, {l.k, d_, d_, "key"}, {l.v, d_, d_, "value"}, {l.o, d_, d_, "attention.output"},
                    {l.up, ff_, d_, "intermediate"}, {l.down, d_, ff_, "output"}};
        for (size_t i = 0; i < 6; ++i) all[i].to = decoder::linear(weights[i], biases[i], all[i].n, all[i].d, all[i].name);
        for (const Numbers &norm : norms)
            if (norm.shape(0) != d_) throw nb::value_error("a norm has another size");
        for (size_t i = 0; i < 2; ++i) l.weight[i] = norms[2 * i], l.bias[i] = norms[2 * i + 1];
        for (const auto &one : all) anywhere_ = anywhere_ && one.to.w->anywhere();
        const std::lock_guard<std::mutex> lock(busy_);
        if (began_) throw nb::value_error("layers come before the first sentences");
        layers_.push_back(std::move(l));
    }

    // x (batch, n, d) through all layers, each line by those of its tokens that are seen; 0 where they are not.
    Output<float> forward(Input<float, 3> x, Input<bool, 2> seen) {
        const size_t batch = x.shape(0), n = x.shape(1);
        if (x.shape(2) != d_ || seen.shape(0) != batch || seen.shape(1) != n) throw nb::value_error("x and mask do not fit the layers");
        {
            const std::lock_guard<std::mutex> lock(busy_);
            began_ = true;
        }
        Fresh<float> y({batch, n, d_});
        nb::gil_scoped_release release;
        std::memset(y.data(), 0, y.size() * sizeof(float));
        std::vector<Group> groups(1);
        for (size_t b = 0; b < batch; ++b) {
            if (groups.back().tokens.size() >= kTogether) groups.emplace_back();
            Group &g = groups.back();
            const size_t before = g.tokens.size();
            for (size_t i = 0; i < n; ++i)
                if (seen.data()[b * n + i]) g.tokens.push_back(b * n + i);
            if (g.tokens.size() > before) g.ends.push_back(g.tokens.size());
        }
        // Groups need nothing of each other: threads take whole groups, or, of few, parts of each product. A token's bits are the same.
        const auto one = [&](size_t i) { run(groups[i], x.data(), y.data()); };
        if (anywhere_ && groups.size() >= 2 * static_cast<size_t>(threads())) parallel_for(groups.size(), one);
        else
            together([&] {
                for (size_t i = 0; i < groups.size(); ++i) one(i);
            });
        nb::gil_scoped_acquire back;
        return y.release();
    }

private:
    void run(Group &g, const float *x, float *y) const {
        const size_t m = g.tokens.size();
        if (m == 0) return;
        for (std::vector<float> *a : {&g.x, &g.q, &g.k, &g.v, &g.a}) a->resize(m * d_);
        g.u.resize(m * ff_);
        for (size_t t = 0; t < m; ++t) std::memcpy(g.x.data() + t * d_, x + g.tokens[t] * d_, d_ * sizeof(float));
        for (const Layer &l : layers_) {
            times({&l.q, &l.k, &l.v}, g.x.data(), m, {g.q.data(), g.k.data(), g.v.data()});
            parallel_for(g.ends.size() * heads_, [&](size_t i) { attend(g, i / heads_, i % heads_); });
            times({&l.o}, g.a.data(), m, {g.q.data()});
            each(m, [&](size_t t) { COMPAND_DISPATCH(center, g.x.data() + t * d_, g.q.data() + t * d_, l.weight[0].data(), l.bias[0].data(), d_, eps_); });
            multiply(l.up, g.x.data(), m, g.u.data());
            each(m, [&](size_t t) { COMPAND_DISPATCH(soften, g.u.data() + t * ff_, l.up.bias ? l.up.bias->data() : nullptr, ff_, tanh_); });
            times({&l.down}, g.u.data(), m, {g.q.data()});
            each(m, [&](size_t t) { COMPAND_DISPATCH(center, g.x.data() + t * d_, g.q.data() + t * d_, l.weight[1].data(), l.bias[1].data(), d_, eps_); });
        }
        for (size_t t = 0; t < m; ++t) std::memcpy(y + g.tokens[t] * d_, g.x.data() + t * d_, d_ * sizeof(float));
        for (std::vector<float> *a : {&g.x, &g.q, &g.k, &g.v, &g.a, &g.u}) std::vector<float>().swap(*a);
    }

    static void multiply(const Linear &l, const float *x, size_t m, float *y) { matmul::multiply({l.w}, x, m, {y}); }
    template <class G> static void each(size_t m, const G &f) {
        parallel_for((m + 15) / 16, [&](size_t i) {
            for (size_t t = 16 * i; t < std::min(m, 16 * i + 16); ++t) f(t);
        });
    }

    // One head of one sentence: its keys in blocks of 16, so that a vector holds 16 scores.
    void attend(Group &g, size_t sentence, size_t head) const {
        namespace scalar = decoder::scalar;
        namespace avx2 = decoder::avx2;
        namespace avx512 = decoder::avx512;
        const size_t begin = sentence ? g.ends[sentence - 1] : 0, n = g.ends[sentence] - begin, width = d_ / heads_, wide = (width + 15) / 16 * 16;
        const size_t rows = (n + 15) / 16 * 16;
        std::vector<float> room(2 * rows * wide + 6 * wide + 2 * (n + 2 * decoder::kBlock));
        float *keys = room.data(), *values = keys + rows * wide, *key = values + rows * wide, *value = key + wide, *q = value + wide, *out = q + 2 * wide;
        const decoder::Cache cache{keys, values, wide, false};
        for (size_t t = 0; t < n; ++t) {
            const size_t from = (begin + t) * d_ + head * width;
            std::memcpy(key, g.k.data() + from, width * sizeof(float));
            std::memcpy(value, g.v.data() + from, width * sizeof(float));
            COMPAND_DISPATCH(keep, cache, t, key, value);
        }
        const float scale = 1.0f / std::sqrt(static_cast<float>(width));
        for (size_t t = 0; t < n; t += 2) {
            const size_t both = std::min<size_t>(2, n - t);
            for (size_t h = 0; h < both; ++h) std::memcpy(q + h * wide, g.q.data() + (begin + t + h) * d_ + head * width, width * sizeof(float));
            COMPAND_DISPATCH(attend, cache, {q, out, both, 0, n, scale, 0.0f}, out + 2 * wide);
            for (size_t h = 0; h < both; ++h) std::memcpy(g.a.data() + (begin + t + h) * d_ + head * width, out + h * wide, width * sizeof(float));
        }
    }

    const size_t d_, ff_, heads_;
    const float eps_;
    const bool tanh_;
    std::vector<Layer> layers_;
    std::mutex busy_;
    bool began_ = false, anywhere_ = true;
};

}  // namespace
}  // namespace compand::encoder

void bind_encoder(nanobind::module_ &m) {
    namespace nb = nanobind;
    using namespace nb::literals;
    using namespace compand;
    using compand::encoder::Encoder;
    nb::class_<Encoder>(m, "Encoder", "Layers of an encoder of text; made empty, then `layer` for each.")
        .def(nb::init<size_t, size_t, size_t, float, bool>(), "d"_a, "ff"_a, "heads"_a, "eps"_a, "tanh"_a)
        .def("layer", &Encoder::layer, "weights"_a, "biases"_a, "norms"_a,
             "weights and biases of query, key, value, attention's output, intermediate, output; weight and bias of the norms after each half.")
        .def("forward", &Encoder::forward, "x"_a.noconvert(), "seen"_a.noconvert(),
             "x (batch, n, d) float32 -> the same after all layers; a line's tokens see those of `seen` (batch, n), and are 0 where they are not seen.");
}

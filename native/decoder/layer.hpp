// What a layer of a decoder does beside attention: norms and products. Its weights stay codes, wherever keys and values are kept.
#pragma once
#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include "arrays.hpp"
#include "decoder/decoder.hpp"
#include "isa.hpp"
#include "matmul/matrix.hpp"
#include "threads.hpp"

namespace compand::decoder {

namespace nb = nanobind;
using matmul::Matrix;
using Vector = std::optional<Input<float, 1>>;

// A linear layer: weights and a bias that may be missing.
struct Linear {
    nb::object keep;
    const Matrix *w = nullptr;
    Vector bias;
};

inline Linear linear(nb::object weights, Vector bias, size_t n, size_t d, const char *name) {
    Linear l{weights, &nb::cast<const Matrix &>(weights), bias};
    if (l.w->n != n || l.w->d != d)
        throw nb::value_error((std::string(name) + " has " + std::to_string(l.w->n) + " x " + std::to_string(l.w->d) + " weights, the model needs " +
                               std::to_string(n) + " x " + std::to_string(d)).c_str());
    if (bias && bias->shape(0) != n) throw nb::value_error((std::string(name) + " has a bias of another size").c_str());
    return l;
}

// y[i] (m, n) of each = x (m, d) times its weights, and its bias.
inline void times(const std::vector<const Linear *> &linears, const float *x, size_t m, const std::vector<float *> &y) {
    std::vector<const Matrix *> weights;
    for (const Linear *l : linears) weights.push_back(l->w);
    matmul::multiply(weights, x, m, y);
    for (size_t i = 0; i < linears.size(); ++i)
        if (linears[i]->bias)
            for (size_t t = 0; t < m; ++t) COMPAND_DISPATCH(add, y[i] + t * linears[i]->w->n, linears[i]->bias->data(), linears[i]->w->n);
}

struct Sizes {
    size_t d, ff, heads, shared, width;  // shared: heads of keys and values; width: of a head
    float eps, scale, attention_cap;
    bool gelu;

    size_t queries() const { return heads * width; }
    size_t kept() const { return shared * width; }
    void check() const {
        constexpr size_t most = size_t{1} << 24;
        if (!d || !ff || !heads || !shared || !width || heads % shared || width % 2 || d > most || ff > most || heads > 4096 || width > 4096)
            throw nb::value_error("these sizes are not those of a decoder");
    }
};

struct Layer {
    Linear q, k, v, o, gate, up, down;
    Vector before, after, mlp_before, mlp_after, q_norm, k_norm;  // after and mlp_after, q_norm and k_norm may be missing
    size_t window = 0;                                            // keys seen, 0: all

    Layer(const Sizes &s, const std::vector<nb::object> &weights, const std::vector<Vector> &biases, const std::vector<Vector> &norms, size_t window)
        : window(window) {
        if (weights.size() != 7 || biases.size() != 7 || norms.size() != 6) throw nb::value_error("a layer has 7 weights and biases and 6 norms");
        q = linear(weights[0], biases[0], s.queries(), s.d, "q_proj");
        k = linear(weights[1], biases[1], s.kept(), s.d, "k_proj");
        v = linear(weights[2], biases[2], s.kept(), s.d, "v_proj");
        o = linear(weights[3], biases[3], s.d, s.queries(), "o_proj");
        gate = linear(weights[4], biases[4], s.ff, s.d, "gate_proj");
        up = linear(weights[5], biases[5], s.ff, s.d, "up_proj");
        down = linear(weights[6], biases[6], s.d, s.ff, "down_proj");
        const size_t sizes[6] = {s.d, s.d, s.d, s.d, s.width, s.width};
        Vector *own[6] = {&before, &after, &mlp_before, &mlp_after, &q_norm, &k_norm};
        for (size_t i = 0; i < 6; ++i) {
            if (norms[i] ? norms[i]->shape(0) != sizes[i] : i % 2 == 0 && i < 4) throw nb::value_error("a norm has another size, or is missing");
            *own[i] = norms[i];
        }
    }
};

// The steps of a layer on m tokens, and the arrays between them.
class Steps {
public:
    explicit Steps(const Sizes &sizes) : s(sizes) {}

    void normalized(const Vector &weight, const float *x, size_t m, float *out) const {
        parallel_for((m + 7) / 8, [&](size_t i) {
            for (size_t t = 8 * i; t < std::min(m, 8 * i + 8); ++t) COMPAND_DISPATCH(normalize, x + t * s.d, weight->data(), s.d, s.eps, out + t * s.d);
        });
    }
    // q (m, heads, width), k and v (m, shared, width) of x (m, d), as they are before norms and turns.
    void project(const Layer &l, const float *x, size_t m, float *q, float *k, float *v) {
        h_.resize(m * s.d);
        normalized(l.before, x, m, h_.data());
        times({&l.q, &l.k, &l.v}, h_.data(), m, {q, k, v});
    }
    // x (m, d) after what it attended to, a (m, heads, width), and the gated products.
    void finish(const Layer &l, const float *a, float *x, size_t m) {
        h_.resize(m * s.d), g_.resize(m * s.ff), u_.resize(m * s.ff), o_.resize(m * s.d);
        times({&l.o}, a, m, {o_.data()});
        residual(l.after, x, m);
        normalized(l.mlp_before, x, m, h_.data());
        times({&l.gate, &l.up}, h_.data(), m, {g_.data(), u_.data()});
        const size_t step = 2048, pieces = (m * s.ff + step - 1) / step;
        parallel_for(pieces, [&](size_t i) {
            const size_t count = std::min(step, m * s.ff - i * step);
            COMPAND_DISPATCH(activate, g_.data() + i * step, u_.data() + i * step, count, s.gelu);
        });
        times({&l.down}, g_.data(), m, {o_.data()});
        residual(l.mlp_after, x, m);
    }
    // One head's query or key: normalized, and turned by cos and sin (width / 2), which may be null. room: width floats.
    void place(const float *from, const Vector &norm, const float *cos, const float *sin, float *room) const {
        if (norm) COMPAND_DISPATCH(normalize, from, norm->data(), s.width, s.eps, room);
        else std::memcpy(room, from, s.width * sizeof(float));
        if (cos) COMPAND_DISPATCH(turn, room, s.width / 2, cos, sin);
    }

    const Sizes s;

private:
    void residual(const Vector &norm, float *x, size_t m) {
        if (norm) normalized(norm, o_.data(), m, o_.data());
        COMPAND_DISPATCH(add, x, o_.data(), m * s.d);
    }

    std::vector<float> h_, g_, u_, o_;
};

}  // namespace compand::decoder

#include <algorithm>
#include <cmath>
#include <cstring>
#include <exception>
#include <mutex>
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

namespace nb = nanobind;

namespace compand::decoder {
namespace {

using matmul::Matrix;
using Vector = std::optional<Input<float, 1>>;

constexpr size_t kPrompt = 64;  // tokens of a prompt that go through the layers together

// A linear layer: weights and a bias that may be missing.
struct Linear {
    nb::object keep;
    const Matrix *w = nullptr;
    Vector bias;
};

Linear linear(nb::object weights, Vector bias, size_t n, size_t d, const char *name) {
    Linear l{weights, &nb::cast<const Matrix &>(weights), bias};
    if (l.w->n != n || l.w->d != d)
        throw nb::value_error((std::string(name) + " has " + std::to_string(l.w->n) + " x " + std::to_string(l.w->d) + " weights, the model needs " +
                               std::to_string(n) + " x " + std::to_string(d)).c_str());
    if (bias && bias->shape(0) != n) throw nb::value_error((std::string(name) + " has a bias of another size").c_str());
    return l;
}

struct Layer {
    Linear q, k, v, o, gate, up, down;
    Vector before, after, mlp_before, mlp_after, q_norm, k_norm;  // after and mlp_after, q_norm and k_norm may be missing
    Vector cos, sin;                                              // (context * half), missing: positions are not coded
    size_t window;                                                // keys seen, 0: all
    std::vector<uint8_t> keys, values;
};

class Decoder {
public:
    Decoder(size_t d, size_t ff, size_t heads, size_t shared, size_t width, size_t context, float eps, float scale, bool gelu, float attention_cap,
            float logit_cap, float embedding_scale, bool brain)
        : d_(d), ff_(ff), heads_(heads), shared_(shared), width_(width), wide_((width + 15) / 16 * 16), context_(context), eps_(eps), scale_(scale),
          attention_cap_(attention_cap), logit_cap_(logit_cap), embedding_scale_(embedding_scale), gelu_(gelu), brain_(brain) {
        constexpr size_t most = size_t{1} << 24;
        if (!d || !ff || !heads || !shared || !width || !context || heads % shared || width % 2 || d > most || ff > most || heads > 4096 || width > 4096 ||
            context > most)
            throw nb::value_error("these sizes are not those of a decoder");
    }

    void layer(std::vector<nb::object> weights, std::vector<Vector> biases, std::vector<Vector> norms, Vector cos, Vector sin, size_t window) {
        const auto alone = busy();
        if (blocks_) throw nb::value_error("layers come before the first tokens");
        if (weights.size() != 7 || biases.size() != 7 || norms.size() != 6) throw nb::value_error("a layer has 7 weights and biases and 6 norms");
        Layer l;
        const size_t q = heads_ * width_, kv = shared_ * width_;
        l.q = linear(weights[0], biases[0], q, d_, "q_proj");
        l.k = linear(weights[1], biases[1], kv, d_, "k_proj");
        l.v = linear(weights[2], biases[2], kv, d_, "v_proj");
        l.o = linear(weights[3], biases[3], d_, q, "o_proj");
        l.gate = linear(weights[4], biases[4], ff_, d_, "gate_proj");
        l.up = linear(weights[5], biases[5], ff_, d_, "up_proj");
        l.down = linear(weights[6], biases[6], d_, ff_, "down_proj");
        const size_t sizes[6] = {d_, d_, d_, d_, width_, width_};
        Vector *own[6] = {&l.before, &l.after, &l.mlp_before, &l.mlp_after, &l.q_norm, &l.k_norm};
        for (size_t i = 0; i < 6; ++i) {
            if (norms[i] ? norms[i]->shape(0) != sizes[i] : i % 2 == 0 && i < 4) throw nb::value_error("a norm has another size, or is missing");
            *own[i] = norms[i];
        }
        if ((cos && cos->shape(0) != context_ * (width_ / 2)) || (sin && sin->shape(0) != context_ * (width_ / 2)) || bool(cos) != bool(sin))
            throw nb::value_error("angles do not fit context and width");
        l.cos = cos;
        l.sin = sin;
        l.window = window;
        layers_.push_back(std::move(l));
    }

    void ends(nb::object embedding, Input<float, 1> norm, nb::object head) {
        const auto alone = busy();
        const Matrix &e = nb::cast<const Matrix &>(embedding);
        if (e.d != d_ || norm.shape(0) != d_) throw nb::value_error("embedding or norm do not fit the width");
        embedding_ = {embedding, &e, {}};
        norm_ = norm;
        head_ = linear(head, {}, nb::cast<const Matrix &>(head).n, d_, "the head");
    }

    size_t position() const { return position_; }
    void rewind(size_t position) {
        const auto alone = busy();
        if (position > position_) throw nb::value_error("one can only go back");
        position_ = position;
    }
    size_t cache_bytes() const {
        size_t total = 0;
        for (const Layer &l : layers_) total += l.keys.size() + l.values.size();
        return total;
    }

    // Logits (1 or all tokens, vocabulary) after these tokens.
    Output<float> forward(Input<int64_t, 1> tokens, bool every) {
        const auto alone = busy();
        const size_t count = tokens.shape(0);
        if (!embedding_.w || layers_.empty()) throw nb::value_error("the model has no layers or no embedding");
        if (count == 0) throw nb::value_error("no tokens");
        if (count > context_ - position_) throw nb::value_error("more tokens than the context holds");
        for (size_t i = 0; i < count; ++i)
            if (tokens.data()[i] < 0 || static_cast<size_t>(tokens.data()[i]) >= embedding_.w->n) throw nb::value_error("no such token");
        const size_t vocabulary = head_.w->n;
        Fresh<float> y({every ? count : 1, vocabulary});
        {
            nb::gil_scoped_release release;
            reserve(position_ + count);
            for (size_t at = 0; at < count; at += kPrompt) {
                const size_t m = std::min(kPrompt, count - at);
                x_.resize(m * d_);
                embed(tokens.data() + at, m);
                for (Layer &l : layers_) run(l, m);
                position_ += m;
                if (every) logits(x_.data(), m, y.data() + at * vocabulary);
                else if (at + m == count) logits(x_.data() + (m - 1) * d_, 1, y.data());
            }
        }
        return y.release();
    }

private:
    std::unique_lock<std::mutex> busy() {
        std::unique_lock<std::mutex> alone(busy_, std::try_to_lock);
        if (!alone) throw nb::value_error("the model is at work in another thread");
        return alone;
    }

    void embed(const int64_t *tokens, size_t m) {
        std::exception_ptr fault;  // of weights that are decoded in Python
        std::mutex one;
        parallel_for(m, [&](size_t t) {
            float *to = x_.data() + t * d_;
            try {
                embedding_.w->row(static_cast<size_t>(tokens[t]), to);
            } catch (...) {
                const std::lock_guard<std::mutex> lock(one);
                fault = std::current_exception();
            }
            if (embedding_scale_ != 1.0f)
                for (size_t i = 0; i < d_; ++i) to[i] *= embedding_scale_;
        });
        if (fault) std::rethrow_exception(fault);
    }

    void reserve(size_t positions) {  // room for keys and values, in steps
        const size_t size = brain_ ? 2 : 4, blocks = (positions + kBlock - 1) / kBlock;
        if (blocks <= blocks_) return;
        const size_t grown = std::min(std::max(blocks, blocks_ * 2), (context_ + kBlock - 1) / kBlock), own = kBlock * wide_ * size;
        for (Layer &l : layers_)
            for (std::vector<uint8_t> *all : {&l.keys, &l.values}) {
                std::vector<uint8_t> next(shared_ * grown * own);
                for (size_t h = 0; h < shared_ && blocks_; ++h) std::memcpy(next.data() + h * grown * own, all->data() + h * blocks_ * own, blocks_ * own);
                *all = std::move(next);
            }
        blocks_ = grown;
    }

    static void times(const std::vector<const Linear *> &linears, const float *x, size_t m, const std::vector<float *> &y) {
        std::vector<const Matrix *> weights;
        for (const Linear *l : linears) weights.push_back(l->w);
        matmul::multiply(weights, x, m, y);
        for (size_t i = 0; i < linears.size(); ++i)
            if (linears[i]->bias)
                for (size_t t = 0; t < m; ++t) COMPAND_DISPATCH(add, y[i] + t * linears[i]->w->n, linears[i]->bias->data(), linears[i]->w->n);
    }

    void normalized(const Vector &weight, const float *x, size_t m, float *out) const {
        parallel_for((m + 7) / 8, [&](size_t i) {
            for (size_t t = 8 * i; t < std::min(m, 8 * i + 8); ++t) COMPAND_DISPATCH(normalize, x + t * d_, weight->data(), d_, eps_, out + t * d_);
        });
    }

    void run(Layer &l, size_t m) {
        const size_t q = heads_ * width_, kv = shared_ * width_;
        h_.resize(m * d_);
        q_.resize(m * q), k_.resize(m * kv), v_.resize(m * kv), a_.resize(m * q);
        g_.resize(m * ff_), u_.resize(m * ff_), o_.resize(m * d_);
        normalized(l.before, x_.data(), m, h_.data());
        times({&l.q, &l.k, &l.v}, h_.data(), m, {q_.data(), k_.data(), v_.data()});
        attention(l, m);
        times({&l.o}, a_.data(), m, {o_.data()});
        residual(l.after, m);
        normalized(l.mlp_before, x_.data(), m, h_.data());
        times({&l.gate, &l.up}, h_.data(), m, {g_.data(), u_.data()});
        const size_t step = 4096, pieces = (m * ff_ + step - 1) / step;
        parallel_for(pieces, [&](size_t i) {
            const size_t count = std::min(step, m * ff_ - i * step);
            COMPAND_DISPATCH(activate, g_.data() + i * step, u_.data() + i * step, count, gelu_);
        });
        times({&l.down}, g_.data(), m, {o_.data()});
        residual(l.mlp_after, m);
    }

    void residual(const Vector &norm, size_t m) {
        if (norm) normalized(norm, o_.data(), m, o_.data());
        COMPAND_DISPATCH(add, x_.data(), o_.data(), m * d_);
    }

    Cache cache(Layer &l, size_t head) const {
        const size_t at = head * blocks_ * kBlock * wide_ * (brain_ ? 2 : 4);
        return {l.keys.data() + at, l.values.data() + at, wide_, brain_};
    }

    // One head's query or key: normalized, turned, and padded to `wide_` in room.
    void place(const float *from, const Vector &norm, const Layer &l, size_t position, float *room) const {
        if (norm) COMPAND_DISPATCH(normalize, from, norm->data(), width_, eps_, room);
        else std::memcpy(room, from, width_ * sizeof(float));
        std::fill(room + width_, room + wide_, 0.0f);
        const size_t half = width_ / 2;
        if (l.cos) COMPAND_DISPATCH(turn, room, half, l.cos->data() + position * half, l.sin->data() + position * half);
    }

    void attention(Layer &l, size_t m) {
        const size_t each = heads_ / shared_, together = each % 2 ? 1 : 2, parts = each / together;
        const auto remember = [&](size_t s) {
            std::vector<float> key(wide_), value(wide_);
            for (size_t t = 0; t < m; ++t) {
                place(k_.data() + (t * shared_ + s) * width_, l.k_norm, l, position_ + t, key.data());
                std::memcpy(value.data(), v_.data() + (t * shared_ + s) * width_, width_ * sizeof(float));
                COMPAND_DISPATCH(keep, cache(l, s), position_ + t, key.data(), value.data());
            }
        };
        const auto look = [&](size_t t, size_t s, size_t part) {
            const size_t head = s * each + part * together, end = position_ + t + 1, start = l.window && end > l.window ? end - l.window : 0;
            std::vector<float> room(together * (2 * wide_ + end - start + 2 * kBlock));
            float *q = room.data(), *out = q + together * wide_;
            for (size_t h = 0; h < together; ++h)
                place(q_.data() + (t * heads_ + head + h) * width_, l.q_norm, l, position_ + t, q + h * wide_);
            const Queries queries{q, out, together, start, end, scale_, attention_cap_};
            COMPAND_DISPATCH(attend, cache(l, s), queries, out + together * wide_);
            for (size_t h = 0; h < together; ++h)
                std::memcpy(a_.data() + (t * heads_ + head + h) * width_, out + h * wide_, width_ * sizeof(float));
        };
        if (m == 1 && shared_ >= static_cast<size_t>(threads())) {  // one meeting of the threads instead of two
            parallel_for(shared_, [&](size_t s) {
                remember(s);
                for (size_t part = 0; part < parts; ++part) look(0, s, part);
            });
            return;
        }
        parallel_for(shared_, remember);
        parallel_for(shared_ * parts * m, [&](size_t i) { look(i / (shared_ * parts), i / parts % shared_, i % parts); });
    }

    void logits(const float *x, size_t m, float *y) {
        h_.resize(m * d_);
        normalized(norm_, x, m, h_.data());
        times({&head_}, h_.data(), m, {y});
        if (logit_cap_ != 0.0f) COMPAND_DISPATCH(cap, y, m * head_.w->n, logit_cap_);
    }

    const size_t d_, ff_, heads_, shared_, width_, wide_, context_;
    const float eps_, scale_, attention_cap_, logit_cap_, embedding_scale_;
    const bool gelu_, brain_;
    std::vector<Layer> layers_;
    Linear embedding_, head_;
    Vector norm_;
    size_t position_ = 0, blocks_ = 0;
    std::mutex busy_;
    std::vector<float> x_, h_, q_, k_, v_, a_, g_, u_, o_;
};

}  // namespace
}  // namespace compand::decoder

void bind_decoder(nb::module_ &m) {
    using namespace nb::literals;
    using namespace compand;
    using compand::decoder::Decoder;
    using compand::decoder::Vector;
    nb::class_<Decoder>(m, "Decoder", "A decoder language model; made empty, then `layer` for each, then `ends`. Not for two threads at once.")
        .def(nb::init<size_t, size_t, size_t, size_t, size_t, size_t, float, float, bool, float, float, float, bool>(), "d"_a, "ff"_a, "heads"_a,
             "shared"_a, "width"_a, "context"_a, "eps"_a, "scale"_a, "gelu"_a, "attention_cap"_a, "logit_cap"_a, "embedding_scale"_a, "brain"_a)
        .def("layer", &Decoder::layer, "weights"_a, "biases"_a, "norms"_a, "cos"_a.none(), "sin"_a.none(), "window"_a,
             "weights and biases of q, k, v, o, gate, up, down; norms before and after attention, before and after the products, of queries and of keys.")
        .def("ends", &Decoder::ends, "embedding"_a, "norm"_a, "head"_a)
        .def("forward", &Decoder::forward, "tokens"_a.noconvert(), "every"_a = false,
             "tokens (n,) int64 after those before -> logits (1, vocabulary) of the last, or of every token.")
        .def("rewind", &Decoder::rewind, "position"_a, "Forget what came at and after the position.")
        .def_prop_ro("position", &Decoder::position)
        .def_prop_ro("cache_bytes", &Decoder::cache_bytes);
}

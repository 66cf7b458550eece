#include <cmath>
#include <exception>
#include <mutex>

#include "decoder/layer.hpp"

namespace compand::decoder {
namespace {

constexpr size_t kPrompt = 64;  // tokens of a prompt that go through the layers together

// A layer, and its keys and values.
struct Cached : Layer {
    using Layer::Layer;
    Vector cos, sin;  // (context * half), missing: positions are not coded
    std::vector<uint8_t> keys, values;
};

class Decoder {
public:
    Decoder(size_t d, size_t ff, size_t heads, size_t shared, size_t width, size_t context, float eps, float scale, bool gelu, float attention_cap,
            float logit_cap, float embedding_scale, bool brain)
        : s_{d, ff, heads, shared, width, eps, scale, attention_cap, gelu}, wide_((width + 15) / 16 * 16), context_(context), logit_cap_(logit_cap),
          embedding_scale_(embedding_scale), brain_(brain), steps_(s_) {
        s_.check();
        if (!context || context > size_t{1} << 24) throw nb::value_error("these sizes are not those of a decoder");
    }

    void layer(std::vector<nb::object> weights, std::vector<Vector> biases, std::vector<Vector> norms, Vector cos, Vector sin, size_t window) {
        const auto alone = busy();
        if (blocks_) throw nb::value_error("layers come before the first tokens");
        Cached l(s_, weights, biases, norms, window);
        const size_t angles = context_ * (s_.width / 2);
        if ((cos && cos->shape(0) != angles) || (sin && sin->shape(0) != angles) || bool(cos) != bool(sin))
            throw nb::value_error("angles do not fit context and width");
        l.cos = cos;
        l.sin = sin;
        layers_.push_back(std::move(l));
    }

    void ends(nb::object embedding, Input<float, 1> norm, nb::object head) {
        const auto alone = busy();
        const Matrix &e = nb::cast<const Matrix &>(embedding);
        if (e.d != s_.d || norm.shape(0) != s_.d) throw nb::value_error("embedding or norm do not fit the width");
        embedding_ = {embedding, &e, {}};
        norm_ = norm;
        head_ = linear(head, {}, nb::cast<const Matrix &>(head).n, s_.d, "the head");
    }

    size_t position() const { return position_; }
    void rewind(size_t position) {
        const auto alone = busy();
        if (position > position_) throw nb::value_error("one can only go back");
        position_ = position;
    }
    size_t cache_bytes() const {
        size_t total = 0;
        for (const Cached &l : layers_) total += l.keys.size() + l.values.size();
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
            together([&] {
                for (size_t at = 0; at < count; at += kPrompt) {
                    const size_t m = std::min(kPrompt, count - at);
                    x_.resize(m * s_.d);
                    embed(tokens.data() + at, m);
                    for (Cached &l : layers_) run(l, m);
                    position_ += m;
                    if (every) logits(x_.data(), m, y.data() + at * vocabulary);
                    else if (at + m == count) logits(x_.data() + (m - 1) * s_.d, 1, y.data());
                }
            });
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
            float *to = x_.data() + t * s_.d;
            try {
                embedding_.w->row(static_cast<size_t>(tokens[t]), to);
            } catch (...) {
                const std::lock_guard<std::mutex> lock(one);
                fault = std::current_exception();
            }
            if (embedding_scale_ != 1.0f)
                for (size_t i = 0; i < s_.d; ++i) to[i] *= embedding_scale_;
        });
        if (fault) std::rethrow_exception(fault);
    }

    void reserve(size_t positions) {  // room for keys and values, in steps
        const size_t size = brain_ ? 2 : 4, blocks = (positions + kBlock - 1) / kBlock;
        if (blocks <= blocks_) return;
        const size_t grown = std::min(std::max(blocks, blocks_ * 2), (context_ + kBlock - 1) / kBlock), own = kBlock * wide_ * size;
        for (Cached &l : layers_)
            for (std::vector<uint8_t> *all : {&l.keys, &l.values}) {
                std::vector<uint8_t> next(s_.shared * grown * own);
                for (size_t h = 0; h < s_.shared && blocks_; ++h) std::memcpy(next.data() + h * grown * own, all->data() + h * blocks_ * own, blocks_ * own);
                *all = std::move(next);
            }
        blocks_ = grown;
    }

    void run(Cached &l, size_t m) {
        q_.resize(m * s_.queries()), k_.resize(m * s_.kept()), v_.resize(m * s_.kept()), a_.resize(m * s_.queries());
        steps_.project(l, x_.data(), m, q_.data(), k_.data(), v_.data());
        attention(l, m);
        steps_.finish(l, a_.data(), x_.data(), m);
    }

    Cache cache(Cached &l, size_t head) const {
        const size_t at = head * blocks_ * kBlock * wide_ * (brain_ ? 2 : 4);
        return {l.keys.data() + at, l.values.data() + at, wide_, brain_};
    }

    // See Steps::place; padded to `wide_`.
    void place(const float *from, const Vector &norm, const Cached &l, size_t position, float *room) const {
        const size_t at = position * (s_.width / 2);
        steps_.place(from, norm, l.cos ? l.cos->data() + at : nullptr, l.sin ? l.sin->data() + at : nullptr, room);
        std::fill(room + s_.width, room + wide_, 0.0f);
    }

    void attention(Cached &l, size_t m) {
        const size_t each = s_.heads / s_.shared, together = each % 2 ? 1 : 2, parts = each / together;
        const auto remember = [&](size_t s) {
            std::vector<float> key(wide_), value(wide_);
            for (size_t t = 0; t < m; ++t) {
                place(k_.data() + (t * s_.shared + s) * s_.width, l.k_norm, l, position_ + t, key.data());
                std::memcpy(value.data(), v_.data() + (t * s_.shared + s) * s_.width, s_.width * sizeof(float));
                COMPAND_DISPATCH(keep, cache(l, s), position_ + t, key.data(), value.data());
            }
        };
        const auto look = [&](size_t t, size_t s, size_t part) {
            const size_t head = s * each + part * together, end = position_ + t + 1, start = l.window && end > l.window ? end - l.window : 0;
            std::vector<float> room(together * (2 * wide_ + end - start + 2 * kBlock));
            float *q = room.data(), *out = q + together * wide_;
            for (size_t h = 0; h < together; ++h)
                place(q_.data() + (t * s_.heads + head + h) * s_.width, l.q_norm, l, position_ + t, q + h * wide_);
            const Queries queries{q, out, together, start, end, s_.scale, s_.attention_cap};
            COMPAND_DISPATCH(attend, cache(l, s), queries, out + together * wide_);
            for (size_t h = 0; h < together; ++h)
                std::memcpy(a_.data() + (t * s_.heads + head + h) * s_.width, out + h * wide_, s_.width * sizeof(float));
        };
        if (m == 1 && s_.shared >= static_cast<size_t>(threads())) {  // one meeting of the threads instead of two
            parallel_for(s_.shared, [&](size_t s) {
                remember(s);
                for (size_t part = 0; part < parts; ++part) look(0, s, part);
            });
            return;
        }
        parallel_for(s_.shared, remember);
        parallel_for(s_.shared * parts * m, [&](size_t i) { look(i / (s_.shared * parts), i / parts % s_.shared, i % parts); });
    }

    void logits(const float *x, size_t m, float *y) {
        h_.resize(m * s_.d);
        steps_.normalized(norm_, x, m, h_.data());
        times({&head_}, h_.data(), m, {y});
        if (logit_cap_ != 0.0f) COMPAND_DISPATCH(cap, y, m * head_.w->n, logit_cap_);
    }

    const Sizes s_;
    const size_t wide_, context_;
    const float logit_cap_, embedding_scale_;
    const bool brain_;
    Steps steps_;
    std::vector<Cached> layers_;
    Linear embedding_, head_;
    Vector norm_;
    size_t position_ = 0, blocks_ = 0;
    std::mutex busy_;
    std::vector<float> x_, h_, q_, k_, v_, a_;
};

}  // namespace
}  // namespace compand::decoder

void bind_layers(nanobind::module_ &m);  // layers.cpp

void bind_decoder(nanobind::module_ &m) {
    namespace nb = nanobind;
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
    bind_layers(m);
}

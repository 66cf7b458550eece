#include <algorithm>
#include <cstring>

#include "hadamard/hadamard.hpp"
#include "isa.hpp"
#include "matmul/floats.hpp"
#include "matmul/weights.hpp"

namespace compand::hadamard {
namespace {

void any_row(const float *x, size_t d, size_t block, const float *before, const float *after, float *out) {
    COMPAND_DISPATCH(row, x, d, block, before, after, out);
}

}  // namespace
}  // namespace compand::hadamard

namespace compand::matmul {

// -- rotated -------------------------------------------------------------------------------------------------------------------
namespace {

struct Turned : Prepared {
    std::vector<float> x;
    std::unique_ptr<Prepared> inner;
};

void transform(const Round &round, const float *x, float *out, bool inverse) {
    size_t at = round.at;
    for (size_t i = 0; i < round.size.size();) {
        size_t same = i;
        while (same < round.size.size() && round.size[same] == round.size[i]) ++same;
        const size_t width = (same - i) * round.size[i];
        const float *signs = round.signs.data() + (at - round.at);
        hadamard::any_row(x + at, width, round.size[i], inverse ? nullptr : signs, inverse ? signs : nullptr, out + at);
        at += width;
        i = same;
    }
}

}  // namespace

Rotated::Rotated(nb::object inner, size_t d, const std::vector<std::tuple<size_t, Input<float, 1>, std::vector<size_t>>> &rounds)
    : Matrix(nb::cast<const Matrix &>(inner).n, d), keep_(inner), inner_(nb::cast<Matrix &>(inner)) {
    if (d > inner_.d) throw nb::value_error("more columns than the weights have");
    for (const auto &[at, signs, sizes] : rounds) {
        size_t end = std::min(at, inner_.d + 1);
        for (size_t size : sizes) {
            if (size == 0 || (size & (size - 1)) || size > inner_.d || end > inner_.d) throw nb::value_error("blocks are powers of two");
            end += size;
        }
        if (end > inner_.d || signs.shape(0) != end - at) throw nb::value_error("the blocks do not fit the weights");
        rounds_.push_back({at, signs, sizes});
    }
}

void Rotated::forward(const float *x, float *a, float *b) const {  // the result is in a
    std::memcpy(a, x, d * sizeof(float));
    std::fill(a + d, a + inner_.d, 0.0f);
    for (const Round &round : rounds_) {
        std::memcpy(b, a, inner_.d * sizeof(float));
        transform(round, b, a, false);
    }
}

std::unique_ptr<Prepared> Rotated::prepare(const float *x, size_t m) const {
    auto p = std::make_unique<Turned>();
    p->x.resize(m * inner_.d);
    parallel_for(ceil(m, 4), [&](size_t i) {
        std::vector<float> room(inner_.d);
        for (size_t t = 4 * i; t < std::min(m, 4 * i + 4); ++t) forward(x + t * d, p->x.data() + t * inner_.d, room.data());
    });
    p->inner = inner_.prepare(p->x.data(), m);
    return p;
}

bool Rotated::shares(const Matrix &other) const {
    const Rotated *o = dynamic_cast<const Rotated *>(&other);
    if (!o || o->d != d || o->inner_.d != inner_.d || o->rounds_.size() != rounds_.size() || !inner_.shares(o->inner_)) return false;
    for (size_t i = 0; i < rounds_.size(); ++i) {
        const Round &a = rounds_[i], &b = o->rounds_[i];
        if (a.at != b.at || a.size != b.size) return false;
        if (a.signs.data() != b.signs.data() && std::memcmp(a.signs.data(), b.signs.data(), a.signs.shape(0) * sizeof(float))) return false;
    }
    return true;
}

void Rotated::range(size_t first, size_t last, const Prepared &x, float *y, size_t stride) const {
    inner_.range(first, last, *static_cast<const Turned &>(x).inner, y, stride);
}

void Rotated::row(size_t i, float *out) const {
    std::vector<float> a(inner_.d), b(inner_.d);
    inner_.row(i, a.data());
    for (size_t k = rounds_.size(); k-- > 0;) {
        std::memcpy(b.data(), a.data(), inner_.d * sizeof(float));
        transform(rounds_[k], b.data(), a.data(), true);
    }
    std::memcpy(out, a.data(), d * sizeof(float));
}

// -- behind others -------------------------------------------------------------------------------------------------------------
Behind::Behind(nb::object inner, nb::object before)
    : Matrix(nb::cast<const Matrix &>(inner).n, nb::cast<const Matrix &>(before).d), keep_{inner, before}, inner_(nb::cast<Matrix &>(inner)),
      before_(nb::cast<Matrix &>(before)) {
    if (inner_.d != before_.n) throw nb::value_error("the weights before have a row for each column of those behind");
}

std::unique_ptr<Prepared> Behind::prepare(const float *x, size_t m) const {
    auto p = std::make_unique<Turned>();
    p->x.resize(m * inner_.d);
    multiply({&before_}, x, m, {p->x.data()});
    p->inner = inner_.prepare(p->x.data(), m);
    return p;
}

bool Behind::shares(const Matrix &other) const {
    const Behind *o = dynamic_cast<const Behind *>(&other);
    return o && &o->before_ == &before_ && inner_.shares(o->inner_);
}

void Behind::range(size_t first, size_t last, const Prepared &x, float *y, size_t stride) const {
    inner_.range(first, last, *static_cast<const Turned &>(x).inner, y, stride);
}

void Behind::row(size_t i, float *out) const {
    std::vector<float> own(inner_.d), line(d);
    inner_.row(i, own.data());
    std::fill(out, out + d, 0.0f);
    for (size_t k = 0; k < own.size(); ++k) {
        before_.row(k, line.data());
        for (size_t c = 0; c < d; ++c) out[c] += own[k] * line[c];
    }
}

// -- sums ----------------------------------------------------------------------------------------------------------------------
namespace {

struct Several : Prepared {
    size_t m;
    std::vector<std::unique_ptr<Prepared>> own;
};

}  // namespace

Added::Added(std::vector<nb::object> terms)
    : Matrix(terms.empty() ? 0 : nb::cast<const Matrix &>(terms[0]).n, terms.empty() ? 0 : nb::cast<const Matrix &>(terms[0]).d), keep_(terms) {
    for (const nb::object &t : terms) {
        terms_.push_back(&nb::cast<Matrix &>(t));
        if (terms_.back()->n != n || terms_.back()->d != d) throw nb::value_error("terms of a sum have the same shape");
    }
}

std::unique_ptr<Prepared> Added::prepare(const float *x, size_t m) const {
    auto p = std::make_unique<Several>();
    p->m = m;
    for (const Matrix *t : terms_) p->own.push_back(t->prepare(x, m));
    return p;
}

bool Added::shares(const Matrix &other) const {
    const Added *o = dynamic_cast<const Added *>(&other);
    if (!o || o->terms_.size() != terms_.size()) return false;
    for (size_t i = 0; i < terms_.size(); ++i)
        if (!terms_[i]->shares(*o->terms_[i])) return false;
    return true;
}

void Added::range(size_t first, size_t last, const Prepared &x, float *y, size_t stride) const {
    const Several &p = static_cast<const Several &>(x);
    terms_[0]->range(first, last, *p.own[0], y, stride);
    const size_t width = last - first;
    std::vector<float> room(p.m * width);
    for (size_t i = 1; i < terms_.size(); ++i) {
        terms_[i]->range(first, last, *p.own[i], room.data() - first, width);
        for (size_t t = 0; t < p.m; ++t)
            for (size_t r = 0; r < width; ++r) y[t * stride + first + r] += room[t * width + r];
    }
}

void Added::row(size_t i, float *out) const {
    std::vector<float> room(d);
    terms_[0]->row(i, out);
    for (size_t k = 1; k < terms_.size(); ++k) {
        terms_[k]->row(i, room.data());
        for (size_t c = 0; c < d; ++c) out[c] += room[c];
    }
}

// -- some rows -----------------------------------------------------------------------------------------------------------------
Some::Some(nb::object inner, size_t n, Input<int64_t, 1> rows)
    : Matrix(n, nb::cast<const Matrix &>(inner).d), keep_(inner), inner_(nb::cast<Matrix &>(inner)), rows_(rows) {
    if (rows.shape(0) != inner_.n) throw nb::value_error("a number for each row");
    for (size_t i = 0; i < inner_.n; ++i)
        if (rows.data()[i] < (i ? rows.data()[i - 1] + 1 : 0) || static_cast<size_t>(rows.data()[i]) >= n) throw nb::value_error("rows must rise, below n");
}

std::unique_ptr<Prepared> Some::prepare(const float *x, size_t m) const {
    auto p = std::make_unique<Several>();
    p->m = m;
    p->own.push_back(inner_.prepare(x, m));
    return p;
}

bool Some::shares(const Matrix &other) const {
    const Some *o = dynamic_cast<const Some *>(&other);
    return o && inner_.shares(o->inner_);
}

void Some::range(size_t first, size_t last, const Prepared &x, float *y, size_t stride) const {
    const Several &p = static_cast<const Several &>(x);
    for (size_t t = 0; t < p.m; ++t) std::fill(y + t * stride + first, y + t * stride + last, 0.0f);
    const int64_t *rows = rows_.data(), *end = rows + inner_.n;
    const size_t lo = std::lower_bound(rows, end, static_cast<int64_t>(first)) - rows, hi = std::lower_bound(rows, end, static_cast<int64_t>(last)) - rows;
    if (lo == hi) return;
    const size_t from = lo / kUnit * kUnit, to = std::min(inner_.n, (hi + kUnit - 1) / kUnit * kUnit), width = to - from;
    std::vector<float> room(p.m * width);
    inner_.range(from, to, *p.own[0], room.data() - from, width);
    for (size_t t = 0; t < p.m; ++t)
        for (size_t r = lo; r < hi; ++r) y[t * stride + rows[r]] = room[t * width + r - from];
}

void Some::row(size_t i, float *out) const {
    const int64_t *rows = rows_.data(), *end = rows + inner_.n, *at = std::lower_bound(rows, end, static_cast<int64_t>(i));
    if (at != end && *at == static_cast<int64_t>(i)) inner_.row(at - rows, out);
    else std::fill(out, out + d, 0.0f);
}

// -- products in Python --------------------------------------------------------------------------------------------------------
namespace {

struct Results : Prepared {
    size_t m;
    std::vector<float> y;
};

}  // namespace

std::unique_ptr<Prepared> Called::prepare(const float *x, size_t m) const {
    auto p = std::make_unique<Results>();
    p->m = m;
    p->y.resize(m * n);
    nb::gil_scoped_acquire gil;
    const size_t shape[2] = {m, d};
    nb::ndarray<nb::numpy, const float> lines(x, 2, shape, nb::handle());
    const auto y = nb::cast<Input<float, 2>>(product_(nb::cast(lines, nb::rv_policy::copy)));
    if (y.shape(0) != m || y.shape(1) != n) throw nb::value_error("a product has another shape than its weights");
    std::memcpy(p->y.data(), y.data(), p->y.size() * sizeof(float));
    return p;
}

void Called::range(size_t first, size_t last, const Prepared &x, float *y, size_t stride) const {
    const Results &p = static_cast<const Results &>(x);
    for (size_t t = 0; t < p.m; ++t) std::memcpy(y + t * stride + first, p.y.data() + t * n + first, (last - first) * sizeof(float));
}

void Called::row(size_t i, float *out) const {
    nb::gil_scoped_acquire gil;
    const auto x = nb::cast<Input<float, 1>>(rows_(i));
    if (x.shape(0) != d) throw nb::value_error("a row has another width than its weights");
    std::memcpy(out, x.data(), d * sizeof(float));
}

}  // namespace compand::matmul

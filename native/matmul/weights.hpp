// The kinds of weights. Each keeps the arrays it was made of alive.
#pragma once
#include <algorithm>
#include <atomic>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "arrays.hpp"
#include "matmul/matmul.hpp"
#include "matmul/matrix.hpp"
#include "pages.hpp"

namespace compand::matmul {

namespace nb = nanobind;

// Packed ids: see `Rows` in matmul.hpp.
class Ids : public Matrix {
public:
    using Bytes = std::optional<Input<uint8_t, 1>>;
    using Scales = std::optional<Input<float, 2>>;
    using Brain = std::optional<Input<uint16_t, 2>>;
    Ids(size_t d, Input<uint8_t, 2> bytes, int bits, int offset, float unit, size_t group, Brain brain, Scales scale, Bytes levels, Bytes high,
        Scales zero);
    std::unique_ptr<Prepared> prepare(const float *x, size_t m) const override;
    bool shares(const Matrix &other) const override;
    void range(size_t first, size_t last, const Prepared &x, float *y, size_t stride) const override;
    void row(size_t i, float *out) const override;
    void copy_codes() override;

private:
    Input<uint8_t, 2> bytes_;
    Bytes levels_, high_;
    Brain brain_;
    Scales scale_, zero_;
    int offset_;
    float unit_;
    Rows rows_;
    Pages pages_;
    std::atomic<const uint8_t *> copied_ = nullptr;
};

// A trellis: see `Strips` in matmul.hpp; the rows of a last strip that is not whole are levels.
class Trellis : public Matrix {
public:
    Trellis(size_t d, Input<uint8_t, 1> bits, int k, Input<uint16_t, 1> factors, size_t block, size_t group, Input<float, 3> scale,
            Input<int16_t, 2> rest, Input<float, 2> rest_scale);
    std::unique_ptr<Prepared> prepare(const float *x, size_t m) const override;
    bool shares(const Matrix &other) const override;
    void range(size_t first, size_t last, const Prepared &x, float *y, size_t stride) const override;
    void row(size_t i, float *out) const override;
    void copy_codes() override;

private:
    Input<uint8_t, 1> bits_;
    Input<uint16_t, 1> factors_;
    Input<float, 3> scale_;
    Input<int16_t, 2> rest_;
    Input<float, 2> rest_scale_;
    Strips strips_;
    Pages pages_;
    std::atomic<const uint8_t *> copied_ = nullptr;
};

// float32, or bfloat16 with activations rounded to it too.
class Plain : public Matrix {
public:
    explicit Plain(Input<float, 2> values) : Matrix(values.shape(0), values.shape(1)), wide_(values) {}
    explicit Plain(Input<uint16_t, 2> values) : Matrix(values.shape(0), values.shape(1)), brain_(values) {}
    std::unique_ptr<Prepared> prepare(const float *x, size_t m) const override;
    bool shares(const Matrix &other) const override;
    void range(size_t first, size_t last, const Prepared &x, float *y, size_t stride) const override;
    void row(size_t i, float *out) const override;

private:
    std::optional<Input<float, 2>> wide_;
    std::optional<Input<uint16_t, 2>> brain_;
};

// bfloat16 as ranks of exponents, in blocks of rows, laid out anew as `Ranked` in matmul.hpp has it. Results are those of `Plain`.
class Ranks : public Matrix {
public:
    // (bytes (n, d), ranks (n, half of d), escapes of each row (n), exponents of the escapes, exponents of the ranks (15)) of each block
    using Given = std::tuple<Input<uint8_t, 2>, Input<uint8_t, 2>, Input<uint32_t, 1>, Input<uint8_t, 1>, Input<uint8_t, 1>>;
    Ranks(size_t d, const std::vector<Given> &blocks);
    std::unique_ptr<Prepared> prepare(const float *x, size_t m) const override;
    bool shares(const Matrix &other) const override;
    void range(size_t first, size_t last, const Prepared &x, float *y, size_t stride) const override;
    void row(size_t i, float *out) const override;

private:
    struct Block {
        size_t begin, end;  // rows
        Input<uint8_t, 1> escapes;
        std::vector<uint32_t> start;
        uint8_t exponents[16] = {};
        Ranked ranked;
    };
    Pages lines_;
    std::vector<Block> blocks_;
};

// Words of codebooks, or small floating-point numbers: see `Words` in matmul.hpp. Activations are not rounded.
class Coded : public Matrix {
public:
    using Book = std::optional<Input<float, 3>>;
    using Small = std::optional<Input<int8_t, 3>>;
    using Starts = std::optional<Input<uint32_t, 1>>;
    using Scales = std::optional<Input<float, 2>>;
    Coded(size_t d, Input<uint8_t, 2> bytes, int bits, size_t dim, Book book, Small small, Starts start, Scales scale, size_t group, int fraction,
          float unit);
    std::unique_ptr<Prepared> prepare(const float *x, size_t m) const override;
    bool shares(const Matrix &other) const override;
    void range(size_t first, size_t last, const Prepared &x, float *y, size_t stride) const override;
    void row(size_t i, float *out) const override;

private:
    Input<uint8_t, 2> bytes_;
    Book book_;
    Small small_;
    Starts start_;
    Scales scale_;
    Words words_;
};

// Weights behind signs and Hadamard transforms of blocks, in rounds: the activations are transformed instead.
struct Round {
    size_t at;                // first column
    Input<float, 1> signs;    // of the columns from there on that it covers
    std::vector<size_t> size; // blocks, one after the other
};
class Rotated : public Matrix {
public:
    Rotated(nb::object inner, size_t d, const std::vector<std::tuple<size_t, Input<float, 1>, std::vector<size_t>>> &rounds);
    std::unique_ptr<Prepared> prepare(const float *x, size_t m) const override;
    bool anywhere() const override { return inner_.anywhere(); }
    bool shares(const Matrix &other) const override;
    void range(size_t first, size_t last, const Prepared &x, float *y, size_t stride) const override;
    void row(size_t i, float *out) const override;
    void copy_codes() override { inner_.copy_codes(); }

private:
    void forward(const float *x, float *a, float *b) const;
    nb::object keep_;
    Matrix &inner_;
    std::vector<Round> rounds_;
};

// Weights (n, e) behind others (e, d): the activations are multiplied with those first.
class Behind : public Matrix {
public:
    Behind(nb::object inner, nb::object before);
    std::unique_ptr<Prepared> prepare(const float *x, size_t m) const override;
    bool anywhere() const override { return inner_.anywhere() && before_.anywhere(); }
    bool shares(const Matrix &other) const override;
    void range(size_t first, size_t last, const Prepared &x, float *y, size_t stride) const override;
    void row(size_t i, float *out) const override;
    void copy_codes() override { inner_.copy_codes(); }

private:
    nb::object keep_[2];
    Matrix &inner_, &before_;
};

// A sum of weights.
class Added : public Matrix {
public:
    explicit Added(std::vector<nb::object> terms);
    std::unique_ptr<Prepared> prepare(const float *x, size_t m) const override;
    bool anywhere() const override { return std::all_of(terms_.begin(), terms_.end(), [](const Matrix *t) { return t->anywhere(); }); }
    bool shares(const Matrix &other) const override;
    void range(size_t first, size_t last, const Prepared &x, float *y, size_t stride) const override;
    void row(size_t i, float *out) const override;
    void copy_codes() override { for (Matrix *t : terms_) t->copy_codes(); }

private:
    std::vector<nb::object> keep_;
    std::vector<Matrix *> terms_;
};

// Weights of which only some rows are there; all others are 0.
class Some : public Matrix {
public:
    Some(nb::object inner, size_t n, Input<int64_t, 1> rows);  // the numbers of the rows of inner, rising
    std::unique_ptr<Prepared> prepare(const float *x, size_t m) const override;
    bool anywhere() const override { return inner_.anywhere(); }
    bool shares(const Matrix &other) const override;
    void range(size_t first, size_t last, const Prepared &x, float *y, size_t stride) const override;
    void row(size_t i, float *out) const override;
    void copy_codes() override { inner_.copy_codes(); }

private:
    nb::object keep_;
    Matrix &inner_;
    Input<int64_t, 1> rows_;
};

// Weights of which few values are not 0: see `Cells` in matmul.hpp. Activations are not rounded.
class Sparse : public Matrix {
public:
    Sparse(size_t d, Input<int64_t, 1> start, Input<uint32_t, 1> columns, Input<float, 1> values);
    std::unique_ptr<Prepared> prepare(const float *x, size_t m) const override;
    bool shares(const Matrix &other) const override;
    void range(size_t first, size_t last, const Prepared &x, float *y, size_t stride) const override;
    void row(size_t i, float *out) const override;

private:
    Input<int64_t, 1> start_;
    Input<uint32_t, 1> columns_;
    Input<float, 1> values_;
    Cells cells_;
};

// Any product in Python: product(x (m, d)) -> (m, n), rows(i) -> (d,).
class Called : public Matrix {
public:
    Called(size_t n, size_t d, nb::callable product, nb::callable rows) : Matrix(n, d), product_(product), rows_(rows) {}
    std::unique_ptr<Prepared> prepare(const float *x, size_t m) const override;
    bool anywhere() const override { return false; }
    bool shares(const Matrix &) const override { return false; }
    void range(size_t first, size_t last, const Prepared &x, float *y, size_t stride) const override;
    void row(size_t i, float *out) const override;

private:
    nb::callable product_, rows_;
};

}  // namespace compand::matmul

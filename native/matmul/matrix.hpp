// Weights (n, d) that stay codes, as objects: what a product asks of them, whoever asks. A decoder holds many of them.
#pragma once
#include <cstddef>
#include <memory>
#include <vector>

namespace compand::matmul {

constexpr size_t kUnit = 16;              // jobs begin at a multiple of so many rows
constexpr size_t kJob = size_t{1} << 18;  // weights of a job, of few lines half of it: what the last one takes, others wait for

constexpr size_t kLines = 128;            // lines of activations that are worked on together: they and their results stay near

// Activations as a kind of weights wants them.
struct Prepared {
    virtual ~Prepared() = default;
};

class Matrix {
public:
    Matrix(size_t n, size_t d) : n(n), d(d) {}
    Matrix(const Matrix &) = delete;
    Matrix &operator=(const Matrix &) = delete;
    virtual ~Matrix() = default;

    // m lines of d activations; x must stay while the result is used. Called by one thread, and outside of parallel_for unless `anywhere`.
    virtual std::unique_ptr<Prepared> prepare(const float *x, size_t m) const = 0;
    // Whether products may be part of parallel_for's work: nothing throws, and nothing needs Python.
    virtual bool anywhere() const { return true; }
    // Whether what this prepares serves the other too.
    virtual bool shares(const Matrix &other) const = 0;
    // y[t * stride + r] for the rows r from first to last, first a multiple of kUnit, last too or n; any thread.
    virtual void range(size_t first, size_t last, const Prepared &x, float *y, size_t stride) const = 0;
    // Copies packed ids and trellises to huge pages. Called by one thread at a time; products may run meanwhile.
    virtual void copy_codes() {}
    // The weights of row i.
    virtual void row(size_t i, float *out) const = 0;

    const size_t n, d;
};

// y[i] (m, n of weights[i]) = x (m, d) times the transpose of each, all at once.
void multiply(const std::vector<const Matrix *> &weights, const float *x, size_t m, const std::vector<float *> &y);

}  // namespace compand::matmul

#include "matmul/matrix.hpp"

#include <algorithm>

#include "matmul/matmul.hpp"
#include "threads.hpp"

namespace compand::matmul {

namespace {

// Rows of a job: as many as make kJob weights, but fewer where many lines make few of them much work. Never by the number of threads.
size_t rows_of(const Matrix &w, size_t m) {
    const size_t job = m < kMany ? kJob / 2 : kJob, rows = job / std::max<size_t>(1, w.d), eighth = m * w.d >= kJob / 16 ? (w.n + 7) / 8 : w.n;
    return (std::max<size_t>(1, std::min(rows, eighth)) + kUnit - 1) / kUnit * kUnit;
}

void multiply_some(const std::vector<const Matrix *> &weights, const float *x, size_t m, const std::vector<float *> &y) {
    struct Part {
        const Matrix *w;
        const Prepared *x;
        float *y;
        size_t begin, step;  // first job, rows of a job
    };
    std::vector<std::unique_ptr<Prepared>> made;
    std::vector<const Matrix *> makers;
    std::vector<Part> parts;
    size_t jobs = 0;
    for (size_t i = 0; i < weights.size(); ++i) {
        const Matrix *w = weights[i];
        if (w->n == 0 || m == 0) continue;
        size_t k = 0;
        while (k < makers.size() && !makers[k]->shares(*w)) ++k;
        if (k == makers.size()) {
            made.push_back(w->prepare(x, m));
            makers.push_back(w);
        }
        const size_t step = rows_of(*w, m);
        parts.push_back({w, made[k].get(), y[i], jobs, step});
        jobs += (w->n + step - 1) / step;
    }
    parallel_for(jobs, [&](size_t job) {
        size_t i = parts.size() - 1;
        while (parts[i].begin > job) --i;
        const Part &p = parts[i];
        const size_t first = (job - p.begin) * p.step;
        p.w->range(first, std::min(p.w->n, first + p.step), *p.x, p.y, p.w->n);
    });
}

}  // namespace

void multiply(const std::vector<const Matrix *> &weights, const float *x, size_t m, const std::vector<float *> &y) {
    for (size_t t = 0; t < m; t += kLines) {
        std::vector<float *> own(y);
        for (size_t i = 0; i < own.size(); ++i) own[i] += t * weights[i]->n;
        multiply_some(weights, x + t * (weights.empty() ? 0 : weights[0]->d), std::min(kLines, m - t), own);
    }
}

}  // namespace compand::matmul

// The sums k-means needs and one-dimensional k-means, in float64 and in an order that no thread count changes.
#pragma once
#include <cstddef>
#include <cstdint>

namespace compand::cluster {

// sums (k, d) of weight_i x_i, totals (k) of weight_i and spread (k) of weight_i distances_i over the rows i of each id,
// added in row order. weight and distances may be null (one; then spread is zero). False: an id is not below k.
bool sums(const float *x, const uint32_t *ids, const float *weight, const float *distances, size_t n, size_t d, size_t k,
          double *sums, double *totals, double *spread);

// k ascending centroids of n finite values: dynamic programming over bins that are finer where more error is at stake
// (equal steps of the integral of density^(1/3); Panter and Dite 1951), exact where n <= 1024, then Lloyd steps on all values.
// Above k = 256 the bins themselves are the start. Weights must not be negative.
void line(const float *values, const float *weight, size_t n, size_t k, float *centroids);

}  // namespace compand::cluster

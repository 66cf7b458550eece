// Codes in lists, of which a query scans some: rows lie list after list, and a query's score of a row is what its list adds
// (the inner product with the list's centroid) and what the scan of native/scan finds. Deterministic: the lists of a query are
// scanned in a fixed order, its best one first, on its own threshold; other queries, threads and instruction sets change nothing.
#pragma once
#include <vector>

#include "scan/index.hpp"

namespace compand::lists {

struct Probe {
    const float *queries;    // (count, stride): what the codebooks' products are taken with
    const float *base;       // (count, lists): added to the scores of a list's rows; with `scaled`, times the row's term
    const float *choice;     // (count, lists): the lists with the most are scanned
    const float *factors;    // (count) of the term, or null; unused with `scaled`
    const float *offsets;    // (count) added to every score
    const uint8_t *allowed;  // bitmap of rows, or null
    size_t count, stride, k, shortlist, probes;
    bool scaled;
};

class Lists : public scan::Index {
public:
    // As scan::Index; starts (lists + 1): rows of list l are starts[l] up to starts[l + 1].
    Lists(const uint8_t *rows, size_t n, size_t row_bytes, size_t groups, unsigned bits, const float *gain, const float *term,
          std::vector<size_t> starts)
        : Index(rows, n, row_bytes, groups, bits, gain, term), bounds_(std::move(starts)) {}
    size_t lists() const { return bounds_.size() - 1; }
    // scores (count, k) falling, rows (count, k); -inf and -1 where there are fewer than k. Returns rows scanned, all queries together.
    size_t search(const Probe &probe, float *scores, int64_t *rows) const;
    // The `probes` lists with the greatest choice (lists), greatest first, ties to the lower list; empty lists are left out.
    void choose(const float *choice, size_t probes, std::vector<uint32_t> &chosen) const;

private:
    struct Tile;
    void search_tile(const Probe &probe, size_t first, size_t last, Tile &tile, float *scores, int64_t *rows) const;
    void scan_list(const Probe &probe, size_t first, size_t list, const uint32_t *queries, size_t count, Tile &tile) const;

    std::vector<size_t> bounds_;
};

}  // namespace compand::lists

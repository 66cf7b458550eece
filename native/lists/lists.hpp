// Codes in lists, of which a query scans some: rows lie list after list, and a query's score of a row is what its list adds
// (the inner product with the list's centroid) and what the scan of native/scan finds. Deterministic: the lists of a query are
// scanned in a fixed order, its best one first, on its own threshold; other queries, threads and instruction sets change nothing.
#pragma once
#include <vector>

#include "scan/index.hpp"

namespace compand::lists {

// Where the lists are. A query visits those of which weight * <whole query, centroid> + term is largest, the centroid rounded to bytes.
// Lists that begin with a block of 64 rows take fewer blocks to scan.
struct Cells {
    const float *centroids;  // (lists, d)
    const float *weight;     // (lists)
    const float *term;       // (lists), or null
    size_t d;
    std::vector<size_t> starts;  // (lists + 1)
    std::vector<size_t> ends;    // (lists): rows of list l are starts[l] up to ends[l], at most starts[l + 1]; others are never found
};

struct Probe {
    const float *queries;    // (count, stride): what the codebooks' products are taken with
    const float *whole;      // (count, d): what products with centroids are taken with
    const float *shift;      // (count): a list adds times * <whole, centroid> + shift to the scores of its rows
    const float *factors;    // (count) of the rows' terms, or null; unused with `scaled`
    const float *offsets;    // (count) added to every score
    const uint8_t *allowed;  // bitmap of rows, or null
    const float *reach;      // (probes): a query visits the r-th best list if it is no more than reach[r] worse than the best one; null: always
    size_t count, stride, k, shortlist, probes;
    float times;
    bool scaled;             // what a list adds is times the row's term
    bool relative;           // reach is times the query's length, of the query as rounded to bytes
};

class Lists : public scan::Index {
public:
    // Rows as for scan::Index; copies what it needs of cells.
    Lists(const uint8_t *rows, size_t n, size_t row_bytes, size_t groups, unsigned bits, bool coded, const float *gain, const float *term, const Cells &cells);
    size_t lists() const { return bounds_.size() - 1; }
    size_t d() const { return d_; }
    // scores (count, k) falling, rows (count, k); -inf and -1 where there are fewer than k. Returns rows scanned, all queries together.
    size_t search(const Probe &probe, float *scores, int64_t *rows) const;

private:
    struct Visit {
        uint32_t list;
        float base;  // what it adds, in steps of the tables: from the rounded centroid
    };
    struct Found : scan::Hit {
        uint32_t list;  // which of those whose exact products are needed
        float base;
    };
    struct Tile;
    void choose(const Probe &probe, size_t count, Tile &tile) const;
    void scan_list(const Probe &probe, size_t list, size_t begin, size_t end, Tile &tile) const;
    void settle(const Tables &tables, size_t k, std::vector<Found> &hits) const;
    void gather(const Probe &probe, size_t query, Tile &tile) const;
    void finish(const Probe &probe, size_t query, const float *table, Tile &tile) const;
    void search_tile(const Probe &probe, size_t first, size_t last, Tile &tile, float *scores, int64_t *rows) const;

    size_t d_;
    std::vector<size_t> bounds_, ends_;
    std::vector<float> centroids_, weight_;
    std::vector<uint32_t> list_of_;  // (blocks) the list of a block's first row
    std::vector<uint64_t> used_;  // bits of the lists that are not empty
    std::vector<uint8_t> bytes_;  // (lists, d) centroids, rounded
    std::unique_ptr<Lists> chooser_;  // those laid out for scanning

    Lists(const std::vector<uint8_t> &bytes, size_t lists, size_t d, const float *weight, const float *term)
        : Index(bytes.data(), lists, d, d, 8, false, weight, term), d_(d) {
        set_zero(-128);
    }
};

}  // namespace compand::lists

// Codes laid out for scanning, and the search over them: tables, scan, and the exact float scores of a short list.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "scan/scan.hpp"

namespace compand::scan {

template <class T> class Aligned {
public:
    Aligned() = default;
    explicit Aligned(size_t n) : data_(static_cast<T *>(::operator new(n * sizeof(T) + 64, line))) {}
    T *get() const { return data_.get(); }

private:
    static constexpr std::align_val_t line{64};
    struct Free {
        void operator()(T *p) const { ::operator delete(p, line); }
    };
    std::unique_ptr<T, Free> data_;
};

struct Request {
    const float *queries;    // (count, stride): what the codebooks' products are taken with
    const float *factors;    // (count) of the term, or null
    const float *offsets;    // (count) added to every score
    const uint8_t *allowed;  // bitmap of ids, or null
    size_t count, stride, k, shortlist, scanned;
    bool exact = false;      // with bounds: take no chances, h = 1
};

class Index {
public:
    // rows: n packed rows of `groups` ids of `bits` (4, 6 or 8) bits, row_bytes apart; they must outlive the index. `coded`: ids are of
    // codewords, always so for 4 and 6 bits. Of columns only the first `laid` may be laid out, if bounds follow.
    Index(const uint8_t *rows, size_t n, size_t row_bytes, size_t groups, unsigned bits, bool coded, const float *gain, const float *term, size_t laid = 0);
    // codebooks: for each group (size, k) values, one after the other; sizes (groups). None for columns, whose values are id + zero.
    void set_codebooks(const float *values, const int32_t *sizes);
    void set_zero(float zero) { zero_ = zero; }
    // Columns: search as Bounds tells, units (groups) >= 0 the worth of each column, `fine` to `margin` as there.
    void set_bounds(const float *units, size_t fine, float typical, float margin);
    size_t n() const { return n_; }
    size_t groups() const { return groups_; }
    unsigned bits() const { return bits_; }
    bool coded() const { return coded_; }
    size_t width() const { return width_; }  // coordinates of a query
    bool has_term() const { return has_term_; }
    size_t nbytes() const { return blocks_ * (block_bytes(laid_, bits_) + (bounds_.middle ? kMiddle * kBlock : 0)) + 4 * kBlock * blocks_ * (has_term_ ? 2 : 1) + 4 * (rest_.size() + far_.size()); }
    // scores (count, k) falling, ids (count, k); -inf and -1 where there are fewer than k.
    void search(const Request &request, float *scores, int64_t *ids) const;
    // out (count, m): the sums of rows ids (count, m), below n, without gain, term or offset. Not of columns.
    void sums(const float *queries, size_t count, const int64_t *ids, size_t m, float *out) const;

protected:  // for native/lists, which scans some of the blocks
    static constexpr size_t kTogether = 8;
    struct Exact {                  // of a query with codewords
        std::vector<float> values;  // (groups, 2^bits)
        std::vector<float> least, most;  // (groups)
    };
    struct Tables {
        Aligned<uint8_t> rounded;   // (padded groups, 2^bits)
        std::vector<int8_t> weights;
        int shift[kClasses] = {};
        double step = 1;            // what a sum of 1 is worth
        float bias = 0, factor = 0;
        std::vector<float> range, scales;
        std::vector<float> query;   // with bounds
        Asked asked = {};
    };
    void make_exact(const float *const *queries, size_t count, bool bounds, Exact *const *out) const;  // of at most kTogether; nothing of columns
    void make_tables(const float *query, float factor, size_t scanned, const Exact &exact, Tables &tables) const;
    float score(const float *exact, const float *query, uint32_t id) const;
    void make_asked(const float *query, float factor, bool exact, Tables &tables) const;

    const uint8_t *rows_;
    size_t row_bytes_, n_, blocks_, groups_, laid_, width_ = 0;
    unsigned bits_;
    bool coded_, has_term_;
    float zero_ = 0;
    Aligned<uint8_t> codes_, nearer_;
    Aligned<float> gain_, term_;
    std::vector<uint64_t> valid_;
    std::vector<float> inverse_;    // see Store
    std::vector<uint16_t> shares_;
    std::vector<float> codebooks_;
    std::vector<size_t> starts_, offsets_;  // first coordinate of a group, its first value
    std::vector<float> units_, rest_, far_;
    Bounds bounds_ = {};
};

}  // namespace compand::scan

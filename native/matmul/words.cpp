#include <algorithm>

#include "isa.hpp"
#include "matmul/floats.hpp"
#include "matmul/weights.hpp"

namespace compand::matmul {

Coded::Coded(size_t d, Input<uint8_t, 2> bytes, int bits, size_t dim, Book book, Small small, Starts start, Scales scale, size_t group, int fraction,
             float unit)
    : Matrix(bytes.shape(0), d), bytes_(bytes), book_(book), small_(small), start_(start), scale_(scale) {
    constexpr size_t most = size_t{1} << 28;
    if (bits < 1 || bits > 20 || d == 0 || d > most || dim == 0 || dim > most || group == 0) throw nb::value_error("these are no sizes of words");
    const size_t pieces = start ? start->shape(0) : ceil(d, dim), entries = size_t{1} << bits;
    if (bytes.shape(1) != ceil(pieces * static_cast<size_t>(bits), 8)) throw nb::value_error("the ids do not fit the width");
    if (fraction) {
        if (book || small || start || bits != 8 || dim != 1 || fraction < 1 || fraction > 6) throw nb::value_error("numbers of 8 bits have no codebook");
    } else {
        if (bool(book) == bool(small)) throw nb::value_error("words come from one codebook");
        const size_t books = book ? book->shape(0) : small->shape(0);
        if ((books != 1 && books != pieces) || (book ? book->shape(1) : small->shape(1)) != entries || (book ? book->shape(2) : small->shape(2)) != dim)
            throw nb::value_error("a codebook has a word for each id, one codebook or one for each piece");
    }
    size_t end = 0;  // pieces follow each other and cover the width
    for (size_t j = 0; start && j < pieces; end = start->data()[j++] + dim)
        if (start->data()[j] > end || (j && start->data()[j] < start->data()[j - 1]) || start->data()[j] >= d || (!j && start->data()[j]))
            throw nb::value_error("pieces follow each other from the first column on");
    if (start && (end < d || end > d + dim)) throw nb::value_error("pieces cover the width");
    if (scale && (scale->shape(0) != n || scale->shape(1) != ceil(d, group))) throw nb::value_error("the scales do not fit the words");
    if (!scale && group < d) throw nb::value_error("groups have scales");
    words_ = {bytes.data(), bytes.shape(1), d, pieces, bits, dim, book ? book->data() : nullptr, small ? small->data() : nullptr,
              (book ? book->shape(0) : small ? small->shape(0) : 1) > 1 ? entries * dim : 0, start ? start->data() : nullptr,
              scale ? scale->data() : nullptr, group, fraction, unit};
}

std::unique_ptr<Prepared> Coded::prepare(const float *x, size_t m) const { return std::make_unique<Padded<float>>(x, m, d); }

bool Coded::shares(const Matrix &other) const { return dynamic_cast<const Coded *>(&other) && other.d == d; }

void Coded::range(size_t first, size_t last, const Prepared &x, float *y, size_t stride) const {
    const auto &a = static_cast<const Padded<float> &>(x);
    COMPAND_DISPATCH(words, words_, first, last, a.x.data(), a.width, a.m, y, stride);
}

void Coded::row(size_t i, float *out) const { COMPAND_DISPATCH(words_row, words_, i, out); }

}  // namespace compand::matmul

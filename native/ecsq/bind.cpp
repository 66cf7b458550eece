#include <algorithm>
#include <vector>

#include "arrays.hpp"
#include "ecsq/ecsq.hpp"
#include "isa.hpp"
#include "threads.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace compand::ecsq {
namespace {

// Classes of columns that end at ends, their ids in fresh arrays.
class Ids {
public:
    // wide: the largest reach of which ids are bytes
    Ids(size_t n, size_t d, Input<int64_t, 1> ends, Input<int64_t, 1> reach, int wide, int least) {
        const size_t count = ends.shape(0);
        if (reach.shape(0) != count) throw nb::value_error("reach must have a value for each class");
        bytes_.reserve(count), words_.reserve(count);
        size_t at = 0;
        for (size_t c = 0; c < count; ++c) {
            const int64_t end = ends.data()[c], most = reach.data()[c];
            if (end < static_cast<int64_t>(at) || end > static_cast<int64_t>(d)) throw nb::value_error("ends must rise to the width of x");
            if (most < least || most > 2047) throw nb::value_error(least == 1 ? "reach must be from 1 to 2047" : "reach must be from 2 to 2047");
            const auto last = static_cast<size_t>(end);
            void *ids;
            if (most <= wide)
                ids = bytes_.emplace_back(std::initializer_list<size_t>{n, last - at}).data();
            else
                ids = words_.emplace_back(std::initializer_list<size_t>{n, last - at}).data();
            classes.push_back({at, last, static_cast<int>(most), ids});
            at = last;
        }
        if (at != d) throw nb::value_error("ends must rise to the width of x");
        wide_ = wide;
    }
    nb::list release() {
        nb::list out;
        size_t b = 0, w = 0;
        for (const Class &c : classes) {
            if (c.reach <= wide_)
                out.append(bytes_[b++].release());
            else
                out.append(words_[w++].release());
        }
        return out;
    }
    std::vector<Class> classes;

private:
    std::vector<Fresh<uint8_t>> bytes_;
    std::vector<Fresh<uint16_t>> words_;
    int wide_;
};

constexpr size_t kRows = 128;  // of a task

nb::tuple encode_rows(Input<float, 2> x, Input<float, 1> factors, float inverse, Input<int64_t, 1> ends, Input<int64_t, 1> reach) {
    const size_t n = x.shape(0), d = x.shape(1);
    if (factors.shape(0) != d) throw nb::value_error("factors must have the width of x");
    Ids ids(n, d, ends, reach, 127, 1);
    Fresh<float> dots({n}), squares({n});
    {
        nb::gil_scoped_release release;
        parallel_for((n + kRows - 1) / kRows, [&](size_t task) {
            const size_t from = task * kRows;
            COMPAND_DISPATCH(encode, x.data(), std::min(kRows, n - from), d, from, factors.data(), inverse, ids.classes.data(), ids.classes.size(),
                             dots.data(), squares.data());
        });
    }
    return nb::make_tuple(ids.release(), dots.release(), squares.release());
}

nb::tuple trellis_rows(Input<float, 2> x, Input<float, 2> columns, Input<int64_t, 1> ends, Input<int64_t, 1> reach) {
    const size_t n = x.shape(0), d = x.shape(1);
    if (columns.shape(0) != 4 || columns.shape(1) != d) throw nb::value_error("columns must have 4 lines of the width of x");
    Ids ids(n, d, ends, reach, 128, 2);
    Fresh<float> dots({n}), squares({n});
    std::vector<Column> all(d);
    const float *own = columns.data();
    for (const Class &c : ids.classes)
        for (size_t j = c.first; j < c.last; ++j) {
            const float weight = own[d + j], price = own[2 * d + j];
            all[j] = {own[j], weight, price, own[3 * d + j], weight > 0 ? price / (2 * weight) : 0, c.reach};
        }
    {
        nb::gil_scoped_release release;
        parallel_for((n + kRows - 1) / kRows, [&](size_t task) {
            const size_t from = task * kRows;
            size_t room = 0;
            room = COMPAND_DISPATCH(trellis_scratch, d);
            std::vector<uint8_t> scratch(room);
            COMPAND_DISPATCH(trellis, x.data(), std::min(kRows, n - from), d, from, all.data(), ids.classes.data(), ids.classes.size(),
                             scratch.data(), dots.data(), squares.data());
        });
    }
    return nb::make_tuple(ids.release(), dots.release(), squares.release());
}

// Arrays of trellis-coded ids, one of each class.
struct Given {
    std::vector<Class> classes;
    std::vector<Input<uint8_t, 2>> bytes;
    std::vector<Input<uint16_t, 2>> words;
    size_t d = 0;

    Given(nb::list ids, Input<int64_t, 1> reach, size_t n) {
        if (nb::len(ids) != reach.shape(0)) throw nb::value_error("reach must have a value for each class");
        for (size_t c = 0; c < reach.shape(0); ++c) {
            const int64_t most = reach.data()[c];
            if (most < 2 || most > 2047) throw nb::value_error("reach must be from 2 to 2047");
            size_t rows, width;
            const void *data;
            if (most <= 128) {
                const auto &a = bytes.emplace_back(nb::cast<Input<uint8_t, 2>>(ids[c]));
                rows = a.shape(0), width = a.shape(1), data = a.data();
            } else {
                const auto &a = words.emplace_back(nb::cast<Input<uint16_t, 2>>(ids[c]));
                rows = a.shape(0), width = a.shape(1), data = a.data();
            }
            if (rows != n) throw nb::value_error("all classes must have as many rows");
            classes.push_back({d, d + width, static_cast<int>(most), const_cast<void *>(data)});
            d += width;
        }
    }
};

Output<int16_t> levels_of(nb::list ids, Input<int64_t, 1> reach, size_t n) {
    const Given given(ids, reach, n);
    Fresh<int16_t> out({n, given.d});
    {
        nb::gil_scoped_release release;
        levels(given.classes.data(), given.classes.size(), n, given.d, out.data());
    }
    return out.release();
}

Output<float> values_of(nb::list ids, Input<int64_t, 1> reach, size_t n, Input<float, 1> factors) {
    const Given given(ids, reach, n);
    if (factors.shape(0) != given.d) throw nb::value_error("factors must have a value for each column");
    Fresh<float> out({n, given.d});
    {
        nb::gil_scoped_release release;
        values(given.classes.data(), given.classes.size(), n, given.d, factors.data(), out.data());
    }
    return out.release();
}

}  // namespace
}  // namespace compand::ecsq

void bind_ecsq(nb::module_ &m) {
    m.def("ecsq_encode", &compand::ecsq::encode_rows, "x"_a.noconvert(), "factors"_a.noconvert(), "inverse"_a, "ends"_a.noconvert(),
          "reach"_a.noconvert(),
          "Ids of each class of columns, [(n, width) uint8 or uint16], and for each row <x, factors * id> and |x|^2, float32 in a fixed order.");
    m.def("ecsq_trellis", &compand::ecsq::trellis_rows, "x"_a.noconvert(), "columns"_a.noconvert(), "ends"_a.noconvert(), "reach"_a.noconvert(),
          "Trellis-coded ids of each class of columns, and for each row <x, factor * level> and |x|^2. columns (4, d): inverse, weight, price "
          "and factor, see native/ecsq/ecsq.hpp.");
    m.def("ecsq_levels", &compand::ecsq::levels_of, "ids"_a, "reach"_a.noconvert(), "n"_a,
          "v of trellis-coded ids: (n, d) int16, for levels v + 1/2.");
    m.def("ecsq_values", &compand::ecsq::values_of, "ids"_a, "reach"_a.noconvert(), "n"_a, "factors"_a.noconvert(),
          "(v + 1/2) * factors (d) of trellis-coded ids: (n, d) float32.");
}

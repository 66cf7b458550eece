#include <algorithm>
#include <optional>
#include <vector>

#include "arrays.hpp"
#include "nearest/nearest.hpp"
#include "threads.hpp"

namespace nb = nanobind;

namespace compand::nearest {
namespace {

// m codebooks of (k, d), each for its own d columns.
class Grouped {
public:
    Grouped(const float *codebooks, size_t m, size_t k, size_t d, bool flat, bool many = true) : k_(k), d_(d), flat_(flat) {
        if (m == 0 || k == 0 || d == 0) throw nb::value_error("a codebook needs at least one codeword and one dimension");
        if (k > (size_t{1} << 31) - kGroup) throw nb::value_error("a codebook may have at most 2**31 - 64 codewords");
        indexes_.reserve(m);
        for (size_t g = 0; g < m; ++g) indexes_.emplace_back(codebooks + g * k * d, k, d, many);
    }
    Grouped(const Grouped &) = delete;
    Grouped(Grouped &&) = default;
    size_t m() const { return indexes_.size(); }
    size_t k() const { return k_; }
    size_t d() const { return d_; }
    bool flat() const { return flat_; }

    // ids (n, m) of T; distances (n, m) or null
    template <class T> void search(const float *x, size_t n, T *ids, float *distances) const {
        const size_t m = indexes_.size(), stride = m * d_;
        if (n == 0) return;
        if (indexes_[0].prefers_split(n) && m == 1) {
            std::vector<uint32_t> found(n);
            indexes_[0].search_split(x, stride, n, found.data(), distances);
            for (size_t i = 0; i < n; ++i) ids[i] = static_cast<T>(found[i]);
            return;
        }
        // Tasks of 2^22 multiplications, but when that gives fewer than two a thread then smaller ones, down to some microseconds.
        const size_t tile = indexes_[0].tile(), row = d_ == 1 ? 256 : k_ * d_;
        const size_t most = std::max<size_t>(1, (size_t{1} << 22) / row), fewest = std::max<size_t>(1, indexes_[0].least_work() / row);
        const size_t share = n * m / (2 * static_cast<size_t>(threads()));
        const size_t work = std::clamp(share, fewest, most);  // rows worth a task
        const size_t rows = std::min((n + tile - 1) / tile, (work + tile - 1) / tile) * tile;
        Patience patience;
        std::vector<Patience> patiences(m == 1 ? 0 : m);
        const auto search = [&](size_t task) {
            const size_t g = task % m, begin = task / m * rows, end = std::min(n, begin + rows);
            uint32_t found[256];
            float far[256];
            for (size_t at = begin; at < end; at += 256) {
                const size_t count = std::min<size_t>(256, end - at);
                const float *rows_from = x + at * stride + g * d_;
                indexes_[g].search(rows_from, stride, count, found, distances ? far : nullptr, m == 1 ? patience : patiences[g]);
                if (m == 1) std::copy_n(found, count, ids + at);
                else
                    for (size_t i = 0; i < count; ++i) ids[(at + i) * m + g] = static_cast<T>(found[i]);
                if (distances)
                    for (size_t i = 0; i < count; ++i) distances[(at + i) * m + g] = far[i];
            }
        };
        const size_t tasks = (n + rows - 1) / rows * m;
        if (tasks == 1) search(0);
        else parallel_for(tasks, search);
    }

private:
    size_t k_, d_;
    bool flat_;
    std::vector<Index> indexes_;
};

// A codebook for one search of n rows, prepared for int8 where that pays.
Grouped once(size_t n, const Input<float, 2> &c) {
    return Grouped(c.data(), 1, c.shape(0), c.shape(1), true, n >= (c.shape(1) < 16 ? 512 : 256));
}

using Vectors = Input<float, 2>;

void check(const Grouped &index, const Vectors &x) {
    if (x.shape(1) != index.m() * index.d()) throw nb::value_error("x must have as many columns as the codebook has dimensions");
}

template <class T> nb::object ids_of(const Grouped &index, const Vectors &x) {
    const size_t n = x.shape(0);
    const float *from = x.data();
    const auto fill = [&](T *ids) {
        std::optional<nb::gil_scoped_release> release;
        if (n * index.m() * index.k() * index.d() > size_t{1} << 18) release.emplace();  // less takes 2 us with AVX-512, some 50 without
        index.search(from, n, ids, nullptr);
    };
    if (n * index.m() <= 4096) {
        const size_t shape[] = {n, index.m()};
        void *ids;
        nb::object made = numpy::empty(numpy::kind_of<T>(), index.flat() ? 1 : 2, shape, ids);
        fill(static_cast<T *>(ids));
        return made;
    }
    Fresh<T> ids = index.flat() ? Fresh<T>({n}) : Fresh<T>({n, index.m()});
    fill(ids.data());
    return nb::cast(ids.release());
}

nb::object search(const Grouped &index, Vectors x, size_t itemsize) {
    check(index, x);
    if (itemsize != 1 && itemsize != 2 && itemsize != 4) throw nb::value_error("itemsize must be 1, 2 or 4");
    if (itemsize < 4 && index.k() > size_t{1} << (8 * itemsize)) throw nb::value_error("ids do not fit in itemsize bytes");
    return itemsize == 1 ? ids_of<uint8_t>(index, x) : itemsize == 2 ? ids_of<uint16_t>(index, x) : ids_of<uint32_t>(index, x);
}

nb::object search_distances(const Grouped &index, Vectors x) {
    check(index, x);
    const size_t n = x.shape(0);
    const float *from = x.data();
    Fresh<uint32_t> ids = index.flat() ? Fresh<uint32_t>({n}) : Fresh<uint32_t>({n, index.m()});
    Fresh<float> distances = index.flat() ? Fresh<float>({n}) : Fresh<float>({n, index.m()});
    {
        nb::gil_scoped_release release;
        index.search(from, n, ids.data(), distances.data());
    }
    return nb::make_tuple(ids.release(), distances.release());
}

}  // namespace
}  // namespace compand::nearest

void bind_nearest(nb::module_ &m) {
    using namespace compand;
    using nearest::Grouped;
    using namespace nb::literals;
    nb::class_<Grouped>(m, "NearestIndex",
                        "A codebook (k, d), or m of them (m, k, d), prepared for exact nearest-codeword search. For weighted\n"
                        "distances multiply x and the codebook by the square roots of the weights first.")
        .def("__init__",
             [](Grouped *self, Input<float, 2> codebook) {
                 new (self) Grouped(codebook.data(), 1, codebook.shape(0), codebook.shape(1), true);
             },
             "codebook"_a.noconvert())
        .def("__init__",
             [](Grouped *self, Input<float, 3> codebooks) {
                 new (self) Grouped(codebooks.data(), codebooks.shape(0), codebooks.shape(1), codebooks.shape(2), false);
             },
             "codebooks"_a.noconvert())
        .def_prop_ro("m", &Grouped::m)
        .def_prop_ro("k", &Grouped::k)
        .def_prop_ro("d", &Grouped::d)
        .def("search", &nearest::search, "x"_a.noconvert(), "itemsize"_a = 4,
             "Ids (n,) or (n, m) of the nearest codewords of x (n, d) or (n, m*d), as unsigned integers of itemsize bytes;\n"
             "ties to the lowest id; rows or codewords with NaN or infinity are infinitely far (id 0 if all are).")
        .def("search_distances", &nearest::search_distances, "x"_a.noconvert(), "Ids (uint32) and squared distances (float32).");
    m.def("nearest",
          [](Input<float, 2> x, Input<float, 2> codebook, size_t itemsize) {
              return nearest::search(nearest::once(x.shape(0), codebook), x, itemsize);
          },
          "x"_a.noconvert(), "codebook"_a.noconvert(), "itemsize"_a = 4, "NearestIndex(codebook).search(x, itemsize).");
    m.def("nearest_distances",
          [](Input<float, 2> x, Input<float, 2> codebook) {
              return nearest::search_distances(nearest::once(x.shape(0), codebook), x);
          },
          "x"_a.noconvert(), "codebook"_a.noconvert(), "NearestIndex(codebook).search_distances(x).");
    m.def("nearest_grouped",
          [](Input<float, 2> x, Input<float, 3> codebooks, size_t itemsize) {
              const Grouped index(codebooks.data(), codebooks.shape(0), codebooks.shape(1), codebooks.shape(2), false,
                                    x.shape(0) >= 512);
              return nearest::search(index, x, itemsize);
          },
          "x"_a.noconvert(), "codebooks"_a.noconvert(), "itemsize"_a = 4, "NearestIndex(codebooks).search(x, itemsize).");
}

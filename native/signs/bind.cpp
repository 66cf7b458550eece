#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include <nanobind/stl/unique_ptr.h>

#include "arrays.hpp"
#include "isa.hpp"
#include "scan/index.hpp"
#include "signs/signs.hpp"
#include "threads.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace compand::signs {
namespace {

// A line of `bits` signs as words; whatever lies past the last sign is left out.
void to_words(const uint8_t *line, size_t bits, uint32_t *words, size_t stride) {
    const size_t bytes = (bits + 7) / 8;
    for (size_t w = 0; w * 32 < bits; ++w) {
        uint32_t word = 0;
        for (size_t b = 0; b < std::min<size_t>(4, bytes - w * 4); ++b) word |= static_cast<uint32_t>(line[w * 4 + b]) << 8 * b;
        if (bits - w * 32 < 32) word &= (uint32_t{1} << (bits - w * 32)) - 1;
        words[w * stride] = word;
    }
}

class Index {
public:
    // lines (n, terms, bytes of a line), gain (n, terms), term (n) or null: copied.
    Index(const uint8_t *lines, size_t n, size_t terms, size_t bits, const float *gain, const float *term)
        : n_(n), blocks_((n + kBlock - 1) / kBlock), terms_(terms), bits_(bits), line_((bits + 31) / 32), words_(blocks_ * terms * line_ * kBlock),
          gain_(blocks_ * terms * kBlock), term_(term ? blocks_ * kBlock : 0), has_term_(term != nullptr) {
        const size_t bytes = (bits + 7) / 8;
        parallel_for(blocks_, [&](size_t b) {
            uint32_t *words = words_.get() + b * terms_ * line_ * kBlock;
            std::fill_n(words, terms_ * line_ * kBlock, 0);
            for (size_t v = 0; v < kBlock; ++v) {
                const size_t i = b * kBlock + v;
                for (size_t t = 0; t < terms_; ++t) {
                    gain_.get()[(b * terms_ + t) * kBlock + v] = i < n ? gain[i * terms_ + t] : 0;
                    if (i < n) to_words(lines + (i * terms_ + t) * bytes, bits, words + t * line_ * kBlock + v, kBlock);
                }
                if (term) term_.get()[i] = i < n ? term[i] : 0;
            }
        });
    }
    size_t n() const { return n_; }
    size_t terms() const { return terms_; }
    size_t bits() const { return bits_; }
    size_t nbytes() const { return blocks_ * kBlock * 4 * (terms_ * (line_ + 1) + has_term_); }

    // lines (count, planes, bytes of a line), weights (count, planes), factors (count) or null, allowed: a bitmap, or null.
    void search(const uint8_t *lines, const float *weights, const float *factors, size_t count, size_t planes, size_t k, const uint8_t *allowed,
                float *scores, int64_t *ids) const {
        std::vector<uint64_t> allow(blocks_);
        for (size_t b = 0; b < blocks_; ++b) {
            allow[b] = n_ - b * kBlock >= kBlock ? ~uint64_t{0} : (uint64_t{1} << (n_ - b * kBlock)) - 1;
            uint64_t word = ~uint64_t{0};
            if (allowed) {
                word = 0;
                std::memcpy(&word, allowed + b * 8, std::min<size_t>(8, (n_ + 7) / 8 - b * 8));
            }
            allow[b] &= word;
        }
        const Store store{words_.get(), gain_.get(), has_term_ ? term_.get() : nullptr, allow.data(), terms_, line_, static_cast<int32_t>(bits_)};
        const size_t keep = std::max<size_t>(1, std::min(k, n_)), bytes = (bits_ + 7) / 8;
        const size_t wave = std::clamp<size_t>((size_t{1} << 22) / std::max(keep, planes * line_), 1, 1024);  // queries at once
        const size_t tile = std::max<size_t>(1, kLines / planes), chunk = std::max<size_t>(1, 4096 / (terms_ * line_ + 1));  // blocks of a MiB
        std::vector<uint32_t> words;
        std::vector<scan::Best> best;
        for (size_t from = 0; from < count; from += wave) {
            const size_t some = std::min(wave, count - from), tiles = (some + tile - 1) / tile;
            const auto workers = static_cast<size_t>(std::max(1, threads()));
            const size_t segments = tiles >= 2 * workers ? 1 : std::min(std::max<size_t>(1, blocks_ / 64), (2 * workers + tiles - 1) / tiles);
            const size_t length = (blocks_ + segments - 1) / segments + 1;
            words.resize(some * planes * line_);
            for (size_t i = 0; i < some * planes; ++i) to_words(lines + (from * planes + i) * bytes, bits_, words.data() + i * line_, 1);
            best.resize(some * segments);
            for (auto &b : best) b.start(keep);
            parallel_for(tiles * segments, [&](size_t task) {
                const size_t first = task / segments * tile, last = std::min(first + tile, some), segment = task % segments;
                const size_t begin = std::min(segment * length, blocks_), end = std::min(begin + length, blocks_);
                Query queries[kLines];
                for (size_t q = first; q < last; ++q)
                    queries[q - first] = {words.data() + q * planes * line_, weights + (from + q) * planes, factors ? factors[from + q] : 0, &best[q * segments + segment]};
                for (size_t at = begin; at < end; at += chunk) COMPAND_DISPATCH(scan, store, at, std::min(at + chunk, end), queries, last - first, planes);
            });
            parallel_for(some, [&](size_t q) {
                std::vector<scan::Hit> hits;
                for (size_t segment = 0; segment < segments; ++segment) {
                    scan::Best &b = best[q * segments + segment];
                    b.cut();
                    hits.insert(hits.end(), b.begin(), b.begin() + b.count());
                }
                std::sort(hits.begin(), hits.end(), scan::better);
                for (size_t i = 0; i < k; ++i) {
                    const bool found = i < hits.size();
                    scores[(from + q) * k + i] = found ? hits[i].score : -__builtin_inff();
                    ids[(from + q) * k + i] = found ? static_cast<int64_t>(hits[i].id) : -1;
                }
            });
        }
    }

private:
    size_t n_, blocks_, terms_, bits_, line_;
    scan::Aligned<uint32_t> words_;
    scan::Aligned<float> gain_, term_;
    bool has_term_;
};

std::unique_ptr<Index> make(Input<uint8_t, 3> lines, size_t bits, Input<float, 2> gain, Input<float, 1> term) {
    const size_t n = lines.shape(0), terms = lines.shape(1);
    if (bits < 1 || bits > kMaxBits) throw nb::value_error("a line must have 1 to 2^16 signs");
    if (terms < 1 || terms > kMaxTerms) throw nb::value_error("rows must have 1 to 16 lines");
    if (lines.shape(2) != (bits + 7) / 8) throw nb::value_error("a line must have ceil(bits / 8) bytes");
    if (n >= size_t{1} << 32) throw nb::value_error("at most 2^32 - 1 rows");
    if (gain.shape(0) != n || gain.shape(1) != terms || (term.shape(0) != n && term.shape(0) != 0)) throw nb::value_error("gain must have one value a line, term one a row");
    nb::gil_scoped_release release;
    return std::make_unique<Index>(lines.data(), n, terms, bits, gain.data(), term.shape(0) ? term.data() : nullptr);
}

nb::tuple find(const Index &index, Input<uint8_t, 3> lines, Input<float, 2> weights, Input<float, 1> factors, size_t k, Input<uint8_t, 1> allowed) {
    const size_t count = lines.shape(0), planes = lines.shape(1);
    if (planes < 1 || planes > kMaxPlanes || lines.shape(2) != (index.bits() + 7) / 8) throw nb::value_error("queries must have 1 to 32 lines like those of rows");
    if (weights.shape(0) != count || weights.shape(1) != planes || (factors.shape(0) != count && factors.shape(0) != 0))
        throw nb::value_error("weights must have one value a line, factors one a query");
    if (k < 1 || k > 1 << 20) throw nb::value_error("k must be from 1 to 2^20");
    if (allowed.shape(0) != 0 && allowed.shape(0) != (index.n() + 7) / 8) throw nb::value_error("allowed must have ceil(n / 8) bytes");
    Fresh<float> scores({count, k});
    Fresh<int64_t> ids({count, k});
    {
        nb::gil_scoped_release release;
        index.search(lines.data(), weights.data(), factors.shape(0) ? factors.data() : nullptr, count, planes, k, allowed.shape(0) ? allowed.data() : nullptr,
                     scores.data(), ids.data());
    }
    return nb::make_tuple(scores.release(), ids.release());
}

}  // namespace
}  // namespace compand::signs

void bind_signs(nb::module_ &m) {
    using namespace compand;
    nb::class_<signs::Index>(m, "Signs", "Rows of signs laid out for exhaustive search; see native/signs/signs.hpp.")
        .def("__init__", [](signs::Index *, nb::args) { throw nb::type_error("use signs_index()"); })
        .def_prop_ro("n", &signs::Index::n)
        .def_prop_ro("terms", &signs::Index::terms)
        .def_prop_ro("bits", &signs::Index::bits)
        .def_prop_ro("nbytes", &signs::Index::nbytes)
        .def("search", &signs::find, "lines"_a.noconvert(), "weights"_a.noconvert(), "factors"_a.noconvert(), "k"_a, "allowed"_a.noconvert(),
             "Scores (q, k) falling and ids (q, k) for queries of lines (q, planes, bytes) with weights (q, planes); -inf and -1 where there are fewer.");
    m.def("signs_index", &signs::make, "lines"_a.noconvert(), "bits"_a, "gain"_a.noconvert(), "term"_a.noconvert(),
          "Lay out rows of lines (n, terms, bytes) with gain (n, terms) and term (n or 0) for searching.");
}

#include <algorithm>
#include <cstring>
#include <vector>

#include "arrays.hpp"
#include "isa.hpp"
#include "joint/joint.hpp"
#include "threads.hpp"

namespace nb = nanobind;

namespace compand::joint {
namespace {

constexpr size_t kSample = 1 << 14;  // words looked at to place the window

// The low end of the window of exponents that holds most of a sample of the words; -1 if it leaves out more than 1 of 256.
template <class T> int find_window(const T *words, size_t n) {
    constexpr int M = sizeof(T) == 2 ? 7 : 23;
    uint32_t count[256 + kRanks] = {};
    const size_t step = n / kSample + 1;
    uint32_t total = 0, best = 0, inside = 0;
    for (size_t i = 0; i < n; i += step, ++total) ++count[words[i] >> M & 255];
    const uint32_t zeros = count[0];
    count[0] = 0;
    int low = 0;
    for (int e = 0; e < 256; ++e) {
        inside += count[e];
        if (e >= kRanks) inside -= count[e - kRanks];
        if (inside > best) best = inside, low = std::max(0, e - kRanks + 1);
    }
    return (total - best - zeros) > total / 256 ? -1 : low;
}

template <class T> nb::object bind_split(Input<T, 1> words) {
    const size_t n = words.size(), pieces = (n + kPiece - 1) / kPiece, half = n / 2 + (n & 1);
    const T *from = words.data();
    constexpr size_t middles = sizeof(T) - 2;
    Fresh<uint8_t> symbol({n}), middle({middles, n}), nibble({half}), top({half});
    std::vector<std::vector<uint8_t>> escapes(pieces);
    int low;
    size_t found = 0;
    {
        nb::gil_scoped_release release;
        low = find_window(from, n);
        const auto run = [&] {
            parallel_for(pieces, [&](size_t i) {
                const size_t at = i * kPiece, count = std::min(kPiece, n - at);
                const Planes to{symbol.data() + at, {middles ? middle.data() + at : nullptr, middles ? middle.data() + n + at : nullptr},
                                nibble.data() + at / 2, top.data() + at / 2};
                uint8_t own[kPiece];
                const size_t k = COMPAND_DISPATCH(split, from + at, count, low, to, own);
                escapes[i].assign(own, own + k);
            });
        };
        run();
        for (const auto &e : escapes) found += e.size();
        if (found > n / 256 + 16) {
            low = -1;
            found = 0;
            run();
        }
    }
    Fresh<uint8_t> all({found});
    uint8_t *to = all.data();
    for (const auto &e : escapes) {
        if (!e.empty()) std::memcpy(to, e.data(), e.size());
        to += e.size();
    }
    return nb::make_tuple(low, symbol.release(), middle.release(), nibble.release(), top.release(), all.release());
}

template <class T>
nb::object bind_merge(Input<uint8_t, 1> symbol, nb::list middles, Input<uint8_t, 1> nibble, Input<uint8_t, 1> top, int low,
                      Input<uint8_t, 1> escapes) {
    const size_t n = symbol.size(), pieces = (n + kPiece - 1) / kPiece, half = n / 2 + (n & 1);
    if (middles.size() != sizeof(T) - 2 || nibble.size() != half || top.size() != half || low < -1 || low > 255)
        throw nb::value_error("the planes do not fit each other");
    Input<uint8_t, 1> held[2];
    const uint8_t *middle[2] = {};
    for (size_t p = 0; p < middles.size(); ++p) {
        held[p] = nb::cast<Input<uint8_t, 1>>(middles[p], false);
        if (held[p].size() != n) throw nb::value_error("the planes do not fit each other");
        middle[p] = held[p].data();
    }
    Fresh<T> words({n});
    bool good;
    {
        nb::gil_scoped_release release;
        std::vector<size_t> start(pieces + 1);
        if (low >= 0) {
            parallel_for(pieces, [&](size_t i) {
                const size_t at = i * kPiece;
                start[i + 1] = COMPAND_DISPATCH(count_escapes, symbol.data() + at, std::min(kPiece, n - at));
            });
            for (size_t i = 0; i < pieces; ++i) start[i + 1] += start[i];
        }
        good = start[pieces] == escapes.size();
        if (good) {
            parallel_for(pieces, [&](size_t i) {
                const size_t at = i * kPiece;
                const auto in = [at](const uint8_t *p) { return p ? const_cast<uint8_t *>(p) + at : nullptr; };
                const Planes from{in(symbol.data()), {in(middle[0]), in(middle[1])}, const_cast<uint8_t *>(nibble.data()) + at / 2,
                                  const_cast<uint8_t *>(top.data()) + at / 2};
                COMPAND_DISPATCH(merge, from, std::min(kPiece, n - at), low, escapes.data() + start[i], words.data() + at);
            });
        }
    }
    return good ? nb::cast(words.release()) : nb::none();
}

}  // namespace
}  // namespace compand::joint

void bind_joint(nb::module_ &m) {
    using namespace compand::joint;
    using namespace nb::literals;
    const char *doc = "Words (n,) of bfloat16 or float32 to (low, symbols, middles, nibbles, tops, escapes); see joint.hpp.";
    m.def("joint_split", &bind_split<uint16_t>, "words"_a.noconvert(), doc);
    m.def("joint_split", &bind_split<uint32_t>, "words"_a.noconvert(), doc);
    m.def("joint_merge16", &bind_merge<uint16_t>, "symbols"_a.noconvert(), "middles"_a.noconvert(), "nibbles"_a.noconvert(),
          "tops"_a.noconvert(), "low"_a, "escapes"_a.noconvert(), "The inverse; None if the escapes are not as many as the symbols say.");
    m.def("joint_merge32", &bind_merge<uint32_t>, "symbols"_a.noconvert(), "middles"_a.noconvert(), "nibbles"_a.noconvert(),
          "tops"_a.noconvert(), "low"_a, "escapes"_a.noconvert());
}

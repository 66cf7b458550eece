#include "arrays.hpp"
#include "joint/block.hpp"

namespace nb = nanobind;

namespace compand::joint {
namespace {

template <class T> nb::object bind_split(Input<T, 1> words) {
    const size_t n = words.size(), half = n / 2 + (n & 1);
    constexpr size_t middles = sizeof(T) - 2;
    Fresh<uint8_t> symbol({n}), middle({middles, n}), nibble({half}), top({half});
    std::vector<uint8_t> escapes;
    int low;
    {
        nb::gil_scoped_release release;
        const Planes to{symbol.data(), {middles ? middle.data() : nullptr, middles ? middle.data() + n : nullptr}, nibble.data(), top.data()};
        low = split_block(words.data(), n, to, escapes);
    }
    return nb::make_tuple(low, symbol.release(), middle.release(), nibble.release(), top.release(), owned(std::move(escapes)));
}

template <class T>
nb::object bind_merge(Input<uint8_t, 1> symbol, nb::list middles, Input<uint8_t, 1> nibble, Input<uint8_t, 1> top, int low,
                      Input<uint8_t, 1> escapes) {
    const size_t n = symbol.size(), half = n / 2 + (n & 1);
    if (middles.size() != sizeof(T) - 2 || nibble.size() != half || top.size() != half || low < -1 || low > 255)
        throw nb::value_error("the planes do not fit each other");
    Input<uint8_t, 1> held[2];
    const auto plane = [](const Input<uint8_t, 1> &p) { return const_cast<uint8_t *>(p.data()); };
    Planes from{plane(symbol), {}, plane(nibble), plane(top)};
    for (size_t p = 0; p < middles.size(); ++p) {
        held[p] = nb::cast<Input<uint8_t, 1>>(middles[p], false);
        if (held[p].size() != n) throw nb::value_error("the planes do not fit each other");
        from.middle[p] = plane(held[p]);
    }
    Fresh<T> words({n});
    bool good;
    {
        nb::gil_scoped_release release;
        good = merge_block(from, n, low, escapes.data(), escapes.size(), words.data());
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

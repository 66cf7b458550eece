#include "arrays.hpp"
#include "planes/block.hpp"

namespace nb = nanobind;

namespace compand::planes {
namespace {

Turn turn_of(int turn) {
    if (turn < 0 || turn > 2) throw nb::value_error("turn must be 0 (none), 1 (rotate) or 2 (zigzag)");
    return static_cast<Turn>(turn);
}

template <class T> Output<uint8_t> bind_split(Input<T, 1> words, int turn) {
    const Turn how = turn_of(turn);
    const size_t n = words.size();
    Fresh<uint8_t> out({sizeof(T), n});
    {
        nb::gil_scoped_release release;
        uint8_t *planes[sizeof(T)];
        for (size_t p = 0; p < sizeof(T); ++p) planes[p] = out.data() + p * n;
        split_block(words.data(), n, how, planes);
    }
    return out.release();
}

template <class T> nb::object merge_words(const uint8_t *const *planes, size_t n, Turn how) {
    Fresh<T> out({n});
    {
        nb::gil_scoped_release release;
        merge_block(planes, n, how, out.data());
    }
    return nb::cast(out.release());
}

nb::object bind_merge(nb::list planes, int turn) {
    const Turn how = turn_of(turn);
    const size_t count = planes.size();
    if (count != 2 && count != 4 && count != 8) throw nb::value_error("there must be 2, 4 or 8 planes");
    Input<uint8_t, 1> held[8];
    const uint8_t *from[8];
    for (size_t p = 0; p < count; ++p) {
        held[p] = nb::cast<Input<uint8_t, 1>>(planes[p], false);
        from[p] = held[p].data();
        if (held[p].size() != held[0].size()) throw nb::value_error("the planes must have one length");
    }
    const size_t n = held[0].size();
    return count == 2 ? merge_words<uint16_t>(from, n, how) : count == 4 ? merge_words<uint32_t>(from, n, how)
                                                                         : merge_words<uint64_t>(from, n, how);
}

}  // namespace
}  // namespace compand::planes

void bind_planes(nb::module_ &m) {
    using namespace compand::planes;
    using namespace nb::literals;
    const char *doc = "Words (n,) to byte planes (bytes of a word, n), the most significant first; turn: 0 none, 1 rotate, 2 zigzag.";
    m.def("planes_split", &bind_split<uint16_t>, "words"_a.noconvert(), "turn"_a, doc);
    m.def("planes_split", &bind_split<uint32_t>, "words"_a.noconvert(), "turn"_a, doc);
    m.def("planes_split", &bind_split<uint64_t>, "words"_a.noconvert(), "turn"_a, doc);
    m.def("planes_merge", &bind_merge, "planes"_a.noconvert(), "turn"_a, "The inverse: a list of 2, 4 or 8 planes (n,) to words (n,).");
}

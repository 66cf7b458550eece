#include "arrays.hpp"
#include "lossless/lossless.hpp"

namespace nb = nanobind;

namespace compand::lossless {
namespace {

Way way_of(int way, size_t word_bytes) {
    if (way < 0 || way > 3 || !plane_count(static_cast<Way>(way), word_bytes)) throw nb::value_error("words of this size have no such planes");
    return static_cast<Way>(way);
}

template <class T> nb::object bind_encode(Input<T, 1> words, int way) {
    const Way how = way_of(way, sizeof(T));
    std::vector<std::vector<uint8_t>> streams;
    std::vector<uint8_t> window;
    {
        nb::gil_scoped_release release;
        encode(how, sizeof(T), words.data(), words.size(), streams, window);
    }
    nb::list found;
    for (auto &s : streams) found.append(owned(std::move(s)));
    if (how == Way::joint) found.append(owned(std::move(window)));
    return found;
}

template <class T> int bind_decode(nb::list streams, int way, nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu> words) {
    const Way how = way_of(way, sizeof(T));
    const size_t count = plane_count(how, sizeof(T)), window = how == Way::joint ? 1 : 0;
    if (streams.size() != count + window) throw nb::value_error("there must be one stream a plane");
    Input<uint8_t, 1> held[kMostPlanes + 1];
    Stream from[kMostPlanes + 1] = {};
    for (size_t p = 0; p < count + window; ++p) {
        held[p] = nb::cast<Input<uint8_t, 1>>(streams[p], false);
        from[p] = {held[p].data(), held[p].size()};
    }
    T *const to = words.data();
    const size_t n = words.size();
    nb::gil_scoped_release release;
    return static_cast<int>(decode(how, sizeof(T), from, from[count], to, n));
}

template <class T> void bind_both(nb::module_ &m) {
    using namespace nb::literals;
    m.def("lossless_encode", &bind_encode<T>, "words"_a.noconvert(), "way"_a,
          "Words (n,) to the streams of their planes, and the window of joint ones; way: 0 none, 1 rotate, 2 zigzag, 3 joint.");
    m.def("lossless_decode", &bind_decode<T>, "streams"_a, "way"_a, "words"_a.noconvert(),
          "Fill words (n,); 0, or what is damaged: 1 a stream, 2 the window, 3 the escapes.");
}

}  // namespace
}  // namespace compand::lossless

void bind_lossless(nb::module_ &m) {
    compand::lossless::bind_both<uint8_t>(m);
    compand::lossless::bind_both<uint16_t>(m);
    compand::lossless::bind_both<uint32_t>(m);
    compand::lossless::bind_both<uint64_t>(m);
}

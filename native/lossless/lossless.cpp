#include "lossless/lossless.hpp"

#include <algorithm>

#include "isa.hpp"
#include "joint/block.hpp"
#include "planes/block.hpp"
#include "rans/static.hpp"

namespace compand::lossless {
namespace {

constexpr size_t kKept = size_t{8} << 20;  // bytes of buffers that stay with the thread: touching new memory costs more than decoding

// Room for the planes of one call.
class Room {
public:
    explicit Room(size_t bytes) {
        if (bytes > kKept) {
            own_.resize(bytes);
            at_ = own_.data();
            return;
        }
        thread_local std::vector<uint8_t> kept;
        if (kept.size() < bytes) kept.resize(bytes);
        at_ = kept.data();
    }
    uint8_t *take(size_t n) {
        uint8_t *const from = at_;
        at_ += n;
        return from;
    }

private:
    std::vector<uint8_t> own_;
    uint8_t *at_;
};

// Symbols of plane p of n words.
size_t plane_size(Way way, size_t word_bytes, size_t p, size_t n) {
    return way == Way::joint && p + 2 >= plane_count(way, word_bytes) ? n / 2 + (n & 1) : n;
}

template <class T> void split(Way way, const T *words, size_t n, uint8_t *const *planes, std::vector<uint8_t> &window) {
    if constexpr (sizeof(T) == 2 || sizeof(T) == 4) {
        if (way == Way::joint) {
            constexpr size_t middles = sizeof(T) - 2;
            const joint::Planes to{planes[0], {middles ? planes[1] : nullptr, middles ? planes[2] : nullptr}, planes[1 + middles],
                                   planes[2 + middles]};
            std::vector<uint8_t> escapes;
            const int low = joint::split_block(words, n, to, escapes);
            window.assign({static_cast<uint8_t>(low >= 0), static_cast<uint8_t>(std::max(low, 0))});
            window.insert(window.end(), escapes.begin(), escapes.end());
            return;
        }
    }
    planes::split_block(words, n, static_cast<planes::Turn>(way), planes);
}

template <class T> Fault merge(Way way, const uint8_t *const *planes, const Stream &window, T *words, size_t n) {
    if constexpr (sizeof(T) == 2 || sizeof(T) == 4) {
        if (way == Way::joint) {
            constexpr size_t middles = sizeof(T) - 2;
            const auto at = [planes](size_t p) { return const_cast<uint8_t *>(planes[p]); };
            const joint::Planes from{at(0), {middles ? at(1) : nullptr, middles ? at(2) : nullptr}, at(1 + middles), at(2 + middles)};
            const int low = window.data[0] ? window.data[1] : -1;
            return joint::merge_block(from, n, low, window.data + 2, window.size - 2, words) ? Fault::none : Fault::escapes;
        }
    }
    planes::merge_block(planes, n, static_cast<planes::Turn>(way), words);
    return Fault::none;
}

}  // namespace

size_t plane_count(Way way, size_t word_bytes) {
    const bool known = word_bytes == 1 || word_bytes == 2 || word_bytes == 4 || word_bytes == 8;
    if (way == Way::joint) return word_bytes == 2 || word_bytes == 4 ? word_bytes + 1 : 0;
    return known ? word_bytes : 0;
}

void encode(Way way, size_t word_bytes, const void *words, size_t n, std::vector<std::vector<uint8_t>> &streams, std::vector<uint8_t> &window) {
    const size_t count = plane_count(way, word_bytes);
    streams.resize(count);
    if (word_bytes == 1) {
        streams[0] = rans::encode_static(static_cast<const uint8_t *>(words), n);
        return;
    }
    size_t total = 0;
    for (size_t p = 0; p < count; ++p) total += plane_size(way, word_bytes, p, n);
    Room room(total);
    uint8_t *planes[kMostPlanes];
    for (size_t p = 0; p < count; ++p) planes[p] = room.take(plane_size(way, word_bytes, p, n));
    if (word_bytes == 2) split(way, static_cast<const uint16_t *>(words), n, planes, window);
    else if (word_bytes == 4) split(way, static_cast<const uint32_t *>(words), n, planes, window);
    else split(way, static_cast<const uint64_t *>(words), n, planes, window);
    for (size_t p = 0; p < count; ++p) streams[p] = rans::encode_static<uint8_t>(planes[p], plane_size(way, word_bytes, p, n));
}

Fault decode(Way way, size_t word_bytes, const Stream *streams, const Stream &window, void *words, size_t n) {
    const size_t count = plane_count(way, word_bytes);
    if (way == Way::joint && (window.size < 2 || window.data[0] > 1)) return Fault::window;
    if (word_bytes == 1) {
        return rans::decode_static(streams[0].data, streams[0].size, static_cast<uint8_t *>(words), n, 256) ? Fault::none : Fault::stream;
    }
    const uint8_t *planes[kMostPlanes];
    size_t total = 0;
    for (size_t p = 0; p < count; ++p) {
        const size_t size = plane_size(way, word_bytes, p, n);
        // symbols, which are read twice, are copied: a mapped file can change meanwhile
        planes[p] = way == Way::joint && !p ? nullptr : rans::raw_bytes(streams[p].data, streams[p].size, size);
        if (!planes[p]) total += size;
    }
    Room room(total);
    for (size_t p = 0; p < count; ++p) {
        if (planes[p]) continue;
        const size_t size = plane_size(way, word_bytes, p, n);
        uint8_t *const to = room.take(size);
        if (!rans::decode_static(streams[p].data, streams[p].size, to, size, 256)) return Fault::stream;
        planes[p] = to;
    }
    if (word_bytes == 2) return merge(way, planes, window, static_cast<uint16_t *>(words), n);
    if (word_bytes == 4) return merge(way, planes, window, static_cast<uint32_t *>(words), n);
    return merge(way, planes, window, static_cast<uint64_t *>(words), n);
}

}  // namespace compand::lossless

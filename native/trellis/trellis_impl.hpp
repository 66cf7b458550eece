// Body of trellis.hpp, templated on the lanes `Lanes` of the level that includes it.
#include <cstring>

namespace compand::trellis::ISA {
namespace {

// One value down: next[q] = min over j of cost of window j * size + q, and which j; the least cost is returned.
template <int K>
uint16_t step(const uint16_t *cost, uint16_t *next, uint8_t *decisions, const int16_t *levels, int16_t target, size_t size) {
    const Lanes::Words x = Lanes::all(target);
    Lanes::Words least = Lanes::all(-1);
    for (size_t q = 0; q < size; q += Lanes::count) {
        const auto reach = [&](size_t s) { return Lanes::reach(Lanes::spread<K>(cost, s), Lanes::load(levels + s), x); };
        Lanes::Words best = reach(q), which = Lanes::all(0);
        for (int j = 1; j < 1 << K; ++j) Lanes::improve(best, which, reach(static_cast<size_t>(j) * size + q), j);
        Lanes::store(next + q, best);
        Lanes::store_bytes(decisions + q, which);
        least = Lanes::lower(least, best);
    }
    return Lanes::lowest(least);
}

template <int K>
void search_k(const Code &code, const int16_t *targets, size_t length, size_t count, int start, int end, const Room &room,
              uint16_t *windows) {
    const size_t size = size_t{1} << (code.memory - K);
    uint16_t *cost = room.cost[0], *next = room.cost[1];
    std::memset(cost, start < 0 ? 0 : 255, size * 2);
    if (start >= 0) cost[static_cast<size_t>(start) & (size - 1)] = 0;
    for (size_t i = 0; i < length; ++i) {
        const uint16_t least = step<K>(cost, next, room.decisions + i * size, code.levels, targets[i], size);
        uint16_t *const last = cost;
        cost = next;
        next = last;
        if (least >= 8192)  // keep the best near 0, and what cannot be as it is
            for (size_t q = 0; q < size; ++q) cost[q] = cost[q] == kNever ? kNever : static_cast<uint16_t>(cost[q] - least);
    }
    size_t q = 0;
    if (end >= 0) {
        q = static_cast<size_t>(end) & (size - 1);
    } else {
        for (size_t i = 1; i < size; ++i) q = cost[i] < cost[q] ? i : q;
    }
    for (size_t i = length; i-- > 0;) {
        const size_t window = room.decisions[i * size + q] * size + q;
        if (i < count) windows[i] = static_cast<uint16_t>(window);
        q = window >> K;
    }
}

template <int K, int many> void decode_k(const uint8_t *stream, size_t count, const uint16_t *factors, float *levels) {
    for (size_t i = 0; i < count; ++i) {
        const size_t bit = i * K;
        uint32_t word;
        std::memcpy(&word, stream + bit / 8, 4);
        const uint32_t window = word >> (bit & 7);
        const uint32_t p = static_cast<uint16_t>(window * factors[0]);
        int sum = static_cast<int>((p & 255) + (p >> 8)) - 255;
        if (many == 2) {
            const uint32_t r = static_cast<uint16_t>(window * factors[1]);
            sum += static_cast<int>((r & 255) + (r >> 8)) - 255;
        }
        levels[i] = static_cast<float>(sum);
    }
}

template <int K> void decode_any(const uint8_t *stream, size_t count, const uint16_t *factors, int many, float *levels) {
    if (many == 1) decode_k<K, 1>(stream, count, factors, levels);
    else decode_k<K, 2>(stream, count, factors, levels);
}

}  // namespace

void search(const Code &code, const int16_t *targets, size_t length, size_t count, int start, int end, const Room &room,
            uint16_t *windows) {
    switch (code.bits) {
    case 1: return search_k<1>(code, targets, length, count, start, end, room, windows);
    case 2: return search_k<2>(code, targets, length, count, start, end, room, windows);
    case 3: return search_k<3>(code, targets, length, count, start, end, room, windows);
    default: return search_k<4>(code, targets, length, count, start, end, room, windows);
    }
}

void decode(const uint8_t *stream, size_t count, int bits, const uint16_t *factors, int many, float *levels) {
    switch (bits) {
    case 1: return decode_any<1>(stream, count, factors, many, levels);
    case 2: return decode_any<2>(stream, count, factors, many, levels);
    case 3: return decode_any<3>(stream, count, factors, many, levels);
    default: return decode_any<4>(stream, count, factors, many, levels);
    }
}

}  // namespace compand::trellis::ISA

// Body of convolution.hpp: one text for every level, whose registers are those of level_LEVEL.hpp.
namespace compand::convolution::ISA {
namespace {

template <class Put> void placed(const Out &out, size_t at, const Put &put) {
    out.bytes ? put(out.bytes + at * kWide) : put(out.words + at * kWide);
}

// Four pixels of one block, together where a level can.
template <class T> inline void put4(const Rescaled &rescaled, const Sums &a, const Sums &b, const Sums &c, const Sums &d, T *to) {
    if constexpr (requires { rescaled.put(a, b, c, d, to); }) return rescaled.put(a, b, c, d, to);
    rescaled.put(a, to);
    rescaled.put(b, to + kWide);
    rescaled.put(c, to + 2 * kWide);
    rescaled.put(d, to + 3 * kWide);
}

// `count` pixels times the weights of `blocks` blocks, from pixel p on. Sums are written as packs, which stay in registers; so do not
// those that a lambda knows. k: pixel by pixel its blocks.
template <size_t blocks, size_t count, size_t... k>
void tile(std::index_sequence<k...>, const int8_t *w, size_t quads, const Step *steps, const Pixels &pixels, size_t p, const Out &out) {
    Sums sums[] = {start(steps[k % blocks].bias)...};
    const uint8_t *x = pixels.x + p * pixels.pixel;
    const size_t of_block = quads * kWide * kQuad, step = pixels.pixel;
    for (size_t left = quads; left; x += pixels.block) {
        const size_t now = std::min(left, kWide / kQuad);
        left -= now;
        const uint8_t *from = x;
#pragma GCC unroll 1
        for (size_t j = 0; j < now; ++j, from += kQuad, w += kWide * kQuad)
            (dot(sums[k], same(from + k / blocks * step), weights(w + k % blocks * of_block)), ...);
    }
    const Sums kept[] = {sums[k]...};
    for (size_t b = 0; b < blocks; ++b) {
        const Rescaled rescaled(steps[b], out);
        placed(out, b * out.block + p, [&](auto *to) {
            const Sums *s = kept + b;
            size_t i = 0;
            for (; i + 4 <= count; i += 4, s += 4 * blocks) put4(rescaled, s[0], s[blocks], s[2 * blocks], s[3 * blocks], to + i * kWide);
            for (; i < count; ++i, s += blocks) rescaled.put(*s, to + i * kWide);
        });
    }
}

template <size_t blocks> void tiles(const int8_t *w, size_t quads, const Step *steps, const Pixels &pixels, const Out &out) {
    constexpr size_t full = kTile<blocks>, half = full > 1 ? full / 2 : 1;
    size_t p = 0;
    for (; p + full <= pixels.count; p += full) tile<blocks, full>(std::make_index_sequence<blocks * full>{}, w, quads, steps, pixels, p, out);
    for (; p + half <= pixels.count; p += half) tile<blocks, half>(std::make_index_sequence<blocks * half>{}, w, quads, steps, pixels, p, out);
    for (; p < pixels.count; ++p) tile<blocks, 1>(std::make_index_sequence<blocks>{}, w, quads, steps, pixels, p, out);
}

// As many results side by side as the pack has, from x on.
template <size_t TALL, size_t PASSES, size_t... j>
inline void window(std::index_sequence<j...>, const Weights *w, size_t tall, size_t passes, const Step &step, const Rescaled &rescaled, const uint8_t *x,
                   size_t row, size_t stride, const Out &out, size_t at) {
    Sums sums[] = {(static_cast<void>(j), start(step.bias))...};
    for (size_t i = 0; i < (TALL ? TALL : tall); ++i, x += row * kWide)
        for (size_t k = 0; k < (PASSES ? PASSES : passes); ++k, ++w) (dot(sums[j], across(x + (j * stride + k * kQuad) * kWide), *w), ...);
    if constexpr (sizeof...(j) == 4) {
        if (out.bytes) put4(rescaled, sums[0], sums[1], sums[2], sums[3], out.bytes + at * kWide);
        else put4(rescaled, sums[0], sums[1], sums[2], sums[3], out.words + at * kWide);
    } else {
        if (out.bytes) (rescaled.put(sums[j], out.bytes + (at + j) * kWide), ...);
        else (rescaled.put(sums[j], out.words + (at + j) * kWide), ...);
    }
}

template <size_t TALL, size_t PASSES>
void windows(const int8_t *packed, size_t tall, size_t passes, const Step &step, const uint8_t *x, size_t row, size_t stride, size_t rows,
             size_t wide, const Out &out) {
    constexpr size_t most = TALL ? TALL * PASSES : kTaps;
    Weights w[most];
    for (size_t i = 0; i < tall * passes; ++i) w[i] = weights(packed + i * kWide * kQuad);
    const Rescaled rescaled(step, out);
    for (size_t y = 0; y < rows; ++y) {
        const uint8_t *from = x + y * stride * row * kWide;
        for (size_t i = 0; i + 4 <= wide; i += 4)
            window<TALL, PASSES>(std::make_index_sequence<4>{}, w, tall, passes, step, rescaled, from + i * stride * kWide, row, stride, out, y * wide + i);
        for (size_t i = wide / 4 * 4; i < wide; ++i)
            window<TALL, PASSES>(std::make_index_sequence<1>{}, w, tall, passes, step, rescaled, from + i * stride * kWide, row, stride, out, y * wide + i);
    }
}

}  // namespace

void products(const int8_t *w, size_t quads, const Step *steps, size_t blocks, const Pixels &pixels, const Out &out) {
    Out rest = out;
    while (blocks) {
        const size_t now = std::min(kBlocks, blocks == 5 || blocks == 6 ? size_t{3} : blocks);
        if constexpr (kBlocks == 1) tiles<1>(w, quads, steps, pixels, rest);
        else if (now == 4) tiles<4>(w, quads, steps, pixels, rest);
        else if (now == 3) tiles<3>(w, quads, steps, pixels, rest);
        else if (now == 2) tiles<2>(w, quads, steps, pixels, rest);
        else tiles<1>(w, quads, steps, pixels, rest);
        w += now * quads * kWide * kQuad;
        steps += now;
        blocks -= now;
        if (rest.bytes) rest.bytes += now * rest.block * kWide;
        else rest.words += now * rest.block * kWide;
    }
}

void depthwise(const int8_t *w, size_t tall, size_t passes, const Step &step, const uint8_t *x, size_t row, size_t stride, size_t rows, size_t wide,
               const Out &out) {
    if (tall == 3 && passes == 1) windows<3, 1>(w, tall, passes, step, x, row, stride, rows, wide, out);
    else if (tall == 5 && passes == 2) windows<5, 2>(w, tall, passes, step, x, row, stride, rows, wide, out);
    else windows<0, 0>(w, tall, passes, step, x, row, stride, rows, wide, out);
}

void added(const Term &a, const Term &b, int shift, size_t n, const Out &out) {
    const Pair pair(a, b, shift, out);
    for (size_t i = 0; i < n; ++i) placed(out, i, [&](auto *to) { pair.put(i * kWide, to); });
}

}  // namespace compand::convolution::ISA

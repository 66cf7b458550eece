// Sort by depth, lists of splats for each tile, tiles blended in parallel.
#include "raster/raster.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <memory>
#include <numeric>

#include "isa.hpp"
#include "raster/project.hpp"
#include "threads.hpp"

namespace compand::raster {
namespace {

constexpr size_t kChunk = 4096;
constexpr size_t kBand = size_t{1} << 24;  // entries of lists that are held at once, where one row of tiles does not need more

struct Key {
    uint32_t depth, id;
};

void sort(std::vector<Key> &keys) {  // by depth, equal ones in their order
    std::vector<Key> other(keys.size());
    for (int shift = 0; shift < 33; shift += 11) {
        std::array<size_t, 2049> starts{};
        for (const Key &k : keys) ++starts[((k.depth >> shift) & 2047) + 1];
        for (size_t i = 1; i < 2049; ++i) starts[i] += starts[i - 1];
        for (const Key &k : keys) other[starts[(k.depth >> shift) & 2047]++] = k;
        keys.swap(other);
    }
}

// Splats on the picture, the nearest first; ids[i] is the place of drawn[i] among all.
void project_all(const Splats &splats, const Camera &camera, std::vector<Drawn> &drawn, std::vector<uint32_t> &ids) {
    const size_t n = splats.n, tasks = (n + kChunk - 1) / kChunk;
    const auto found = std::make_unique_for_overwrite<Drawn[]>(n);  // those of a task stand at its start
    const auto place = std::make_unique_for_overwrite<uint32_t[]>(n);
    std::vector<size_t> counts(tasks, 0);
    parallel_for(tasks, [&](size_t task) {
        size_t at = task * kChunk;
        for (size_t i = task * kChunk; i < std::min(n, (task + 1) * kChunk); ++i)
            if (project(splats, camera, i, found[at])) place[at++] = static_cast<uint32_t>(i);
        counts[task] = at - task * kChunk;
    });
    std::vector<Key> keys;
    keys.reserve(std::accumulate(counts.begin(), counts.end(), size_t{0}));
    for (size_t t = 0; t < tasks; ++t)
        for (size_t i = t * kChunk; i < t * kChunk + counts[t]; ++i) {
            uint32_t bits;
            std::memcpy(&bits, &found[i].depth, 4);  // positive: ordered as integers
            keys.push_back({bits, static_cast<uint32_t>(i)});
        }
    sort(keys);
    drawn.resize(keys.size());
    ids.resize(keys.size());
    for (size_t i = 0; i < keys.size(); ++i) {
        drawn[i] = found[keys[i].id];
        ids[i] = place[keys[i].id];
    }
}

struct Span {
    int first, last;
};

Span tiles_of(double low, double high, int count) {  // tiles that the pixels' centres between low and high are in
    const double most = count, by = 1.0 / kTile;
    return {static_cast<int>(std::clamp((low - 0.5) * by, 0.0, most)), static_cast<int>(std::clamp((high - 0.5) * by + 1, 0.0, most))};
}

Span rows_of(const Drawn &s, int count) {
    return tiles_of(static_cast<double>(s.y) - s.ry, static_cast<double>(s.y) + s.ry, count);
}

// Tiles of one row of tiles that the footprint, an ellipse, meets.
Span columns_of(const Drawn &s, int row, int count) {
    const double low = std::max(row * static_cast<double>(kTile) - s.y, -static_cast<double>(s.ry));
    const double high = std::min((row + 1) * static_cast<double>(kTile) - s.y, static_cast<double>(s.ry));
    const auto edge = [&](double dy, double sign) {  // where the ellipse ends, dy below its centre
        const double f = dy / s.ry, half = s.rx * std::sqrt(std::max(0.0, 1 - static_cast<double>(s.slant) / s.rx * s.slant / s.rx));
        return s.slant * f + sign * half * std::sqrt(std::max(0.0, 1 - f * f));
    };
    const double lean = s.lean;
    const double right = lean >= low && lean <= high ? s.rx : std::max(edge(low, 1), edge(high, 1));
    const double left = -lean >= low && -lean <= high ? -s.rx : std::min(edge(low, -1), edge(high, -1));
    const double slack = 1e-3 * (1 + s.rx);
    return tiles_of(s.x + left - slack, s.x + right + slack, count);
}

}  // namespace

void render(const Splats &splats, const Camera &camera, const float *background, float *image, float *transmittance, double *weights) {
    std::vector<Drawn> drawn;
    std::vector<uint32_t> ids;
    project_all(splats, camera, drawn, ids);
    const size_t across = (camera.width + kTile - 1) / kTile, rows = (camera.height + kTile - 1) / kTile;
    const int across_i = static_cast<int>(across), rows_i = static_cast<int>(rows);
    std::vector<size_t> counts(across * rows + 1, 0);
    for (const Drawn &s : drawn) {
        const Span down = rows_of(s, rows_i);
        for (int r = down.first; r < down.last; ++r) {
            const Span columns = columns_of(s, r, across_i);
            for (int c = columns.first; c < columns.last; ++c) ++counts[static_cast<size_t>(r) * across + static_cast<size_t>(c)];
        }
    }
    if (weights) std::fill_n(weights, splats.n, 0.0);
    std::vector<uint32_t> list;
    std::vector<size_t> starts, at;
    std::vector<float> each;
    for (size_t first = 0, last; first < rows; first = last) {  // bands of rows, so that the lists stay small
        size_t total = 0;
        for (last = first; last < rows; ++last) {
            size_t row = 0;
            for (size_t c = 0; c < across; ++c) row += counts[last * across + c];
            if (last > first && total + row > kBand) break;
            total += row;
        }
        const size_t tiles = (last - first) * across;
        starts.assign(tiles + 1, 0);
        for (size_t i = 0; i < tiles; ++i) starts[i + 1] = starts[i] + counts[first * across + i];
        list.resize(total);
        at.assign(starts.begin(), starts.end() - 1);
        for (size_t i = 0; i < drawn.size(); ++i) {
            Span down = rows_of(drawn[i], rows_i);
            down = {std::max(down.first, static_cast<int>(first)), std::min(down.last, static_cast<int>(last))};
            for (int r = down.first; r < down.last; ++r) {
                const Span columns = columns_of(drawn[i], r, across_i);
                for (int c = columns.first; c < columns.last; ++c)
                    list[at[(static_cast<size_t>(r) - first) * across + static_cast<size_t>(c)]++] = static_cast<uint32_t>(i);
            }
        }
        if (weights) each.assign(total, 0.0f);
        parallel_for(tiles, [&](size_t i) {
            const size_t x0 = i % across * kTile, y0 = (first + i / across) * kTile;
            Tile tile;
            tile.x = static_cast<float>(x0);
            tile.y = static_cast<float>(y0);
            for (size_t k = 0; k < kTile * kTile; ++k)  // pixels beyond the picture are closed from the start
                tile.t[k] = x0 + k % kTile < camera.width && y0 + k / kTile < camera.height ? 1.0f : -1.0f;
            std::memset(tile.rgb, 0, sizeof tile.rgb);
            COMPAND_DISPATCH(blend, drawn.data(), list.data() + starts[i], starts[i + 1] - starts[i], tile,
                             weights ? each.data() + starts[i] : nullptr);
            for (size_t y = y0; y < std::min(y0 + kTile, camera.height); ++y)
                for (size_t x = x0; x < std::min(x0 + kTile, camera.width); ++x) {
                    const size_t from = (y - y0) * kTile + x - x0, to = y * camera.width + x;
                    const float t = std::fabs(tile.t[from]);
                    transmittance[to] = t;
                    for (size_t c = 0; c < 3; ++c) image[3 * to + c] = tile.rgb[c][from] + t * background[c];
                }
        });
        if (weights)
            for (size_t i = 0; i < total; ++i) weights[ids[list[i]]] += static_cast<double>(each[i]);
    }
}

}  // namespace compand::raster

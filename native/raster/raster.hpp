// Pictures of 3D Gaussian splats: EWA projection, an exact sort by depth, blending front to back in tiles of 16 x 16 pixels.
//
// Geometry is computed in float64 by one body for every machine, blending in float32 with each operation rounded once and in a
// fixed order, so that a picture is the same on every instruction set and for any number of threads.
//
// Conventions are those of the first implementation (Kerbl, Kopanas, Leimkuehler, Drettakis 2023): 0.3 square pixels added to the
// projected covariance, alpha at most 0.99, alphas below 1/255 left out, a pixel closed before its transmittance falls below 1e-4.
// A splat's footprint is the ellipse where its alpha reaches 1/255, not a square of 3 sigma: pictures do not depend on the tiles.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace compand::raster {

inline constexpr size_t kTile = 16;
inline constexpr size_t kShape = 8;  // xx xy xz yy yz zz of the covariance, opacity, 2 ln(255 opacity)
inline constexpr float kLeast = 1.0f / 255.0f, kMost = 0.99f, kClosed = 1e-4f;

struct Camera {
    double view[12];        // world to camera, (3, 4) by rows: x right, y down, z forward
    double fx, fy, cx, cy;  // pixels; the centre of pixel (0, 0) lies at (0.5, 0.5)
    double near;            // splats whose centre is nearer are not drawn
    size_t width, height;
};

struct Splats {
    const float *positions;  // (n, 3)
    const double *shapes;    // (n, kShape)
    const float *dc, *rest;  // (n, 3), (n, coefficients, 3): spherical harmonics
    size_t n, coefficients;  // 0, 3, 8, 15 or 24
};

// One splat on the picture, as blending needs it.
struct Drawn {
    float x, y;        // centre in pixels
    float a, b, c;     // inverse covariance: xx xy yy
    float opacity;
    float rgb[3];
    float depth;
    float rx, ry;      // half of the box around its footprint
    float cut;         // a little below the least exponent inside the footprint
    float slant;       // how far right of the centre the footprint is lowest
    float lean;        // how far below the centre it is farthest right
};

// One tile: its corner, and the state of its pixels. closed pixels have a negative transmittance.
struct Tile {
    float x, y;
    alignas(64) float t[kTile * kTile];
    alignas(64) float rgb[3][kTile * kTile];
};

// exp(x) to about 2^-52, of the same bits on every machine
double exponential(double x);

// covariance, opacity and reach of each splat, from log scales (n, 3), quaternions wxyz of any length (n, 4) and logits (n)
void prepare(const float *log_scales, const float *quaternions, const float *logits, size_t n, double *shapes);

// (height, width, 3) colours over the background and (height, width) transmittances; weights (n) or null: the sum over all
// pixels of alpha * transmittance of each splat
void render(const Splats &splats, const Camera &camera, const float *background, float *image, float *transmittance, double *weights);

// Blends splats drawn[list[0]], drawn[list[1]], ... over a tile until all its pixels are closed; weights as above, one for each
// of the list, or null.
#define COMPAND_RASTER_FUNCTIONS \
    void blend(const Drawn *drawn, const uint32_t *list, size_t count, Tile &tile, float *weights);
namespace scalar {
COMPAND_RASTER_FUNCTIONS
}
namespace avx2 {
COMPAND_RASTER_FUNCTIONS
}
namespace avx512 {
COMPAND_RASTER_FUNCTIONS
}
#undef COMPAND_RASTER_FUNCTIONS

}  // namespace compand::raster

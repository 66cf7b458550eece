// Splats to the picture: covariances, projection, colours. One body for all instruction sets, in float64.
#include "raster/project.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "threads.hpp"

namespace compand::raster {
namespace {

constexpr size_t kChunk = 4096;

double logarithm(double x) {  // of a normal x > 0, to about 1e-15
    uint64_t bits;
    std::memcpy(&bits, &x, 8);
    int exponent = static_cast<int>(bits >> 52) - 1023;
    bits = (bits & ((uint64_t{1} << 52) - 1)) | (uint64_t{1023} << 52);
    double m;
    std::memcpy(&m, &bits, 8);
    if (m > 1.4142135623730951) {
        m *= 0.5;
        ++exponent;
    }
    const double s = (m - 1) / (m + 1), square = s * s;
    double sum = 0;
    for (int k = 23; k >= 1; k -= 2) sum = sum * square + 1.0 / k;
    return 2 * s * sum + exponent * 0.6931471805599453;
}

void one_shape(const float *log_scale, const float *quaternion, float logit, double *shape) {
    double w = quaternion[0], x = quaternion[1], y = quaternion[2], z = quaternion[3];
    const double norm = std::sqrt(w * w + x * x + y * y + z * z);
    if (norm > 0) {
        w /= norm;
        x /= norm;
        y /= norm;
        z /= norm;
    }
    const double turn[9] = {1 - 2 * (y * y + z * z), 2 * (x * y - w * z),     2 * (x * z + w * y),
                            2 * (x * y + w * z),     1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
                            2 * (x * z - w * y),     2 * (y * z + w * x),     1 - 2 * (x * x + y * y)};
    double m[9];
    for (int j = 0; j < 3; ++j) {
        const double scale = exponential(static_cast<double>(log_scale[j]));
        for (int i = 0; i < 3; ++i) m[3 * i + j] = turn[3 * i + j] * scale;
    }
    const int pairs[6][2] = {{0, 0}, {0, 1}, {0, 2}, {1, 1}, {1, 2}, {2, 2}};
    for (int k = 0; k < 6; ++k) {
        const double *a = m + 3 * pairs[k][0], *b = m + 3 * pairs[k][1];
        shape[k] = a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
    }
    shape[6] = 1 / (1 + exponential(-static_cast<double>(logit)));
    const double visible = 255 * shape[6];
    shape[7] = visible >= 1 ? 2 * logarithm(visible) : -1;
}

// colour of a splat seen along the unit vector (x, y, z): real spherical harmonics, signs as in Condon-Shortley, plus one half
void colour(const float *dc, const float *rest, size_t coefficients, double x, double y, double z, float *rgb) {
    double basis[24];
    if (coefficients >= 3) {
        basis[0] = -0.4886025119029199 * y;
        basis[1] = 0.4886025119029199 * z;
        basis[2] = -0.4886025119029199 * x;
    }
    if (coefficients >= 8) {
        basis[3] = 1.0925484305920792 * x * y;
        basis[4] = -1.0925484305920792 * y * z;
        basis[5] = 0.31539156525252005 * (2 * z * z - x * x - y * y);
        basis[6] = -1.0925484305920792 * x * z;
        basis[7] = 0.5462742152960396 * (x * x - y * y);
    }
    if (coefficients >= 15) {
        basis[8] = -0.5900435899266435 * y * (3 * x * x - y * y);
        basis[9] = 2.890611442640554 * x * y * z;
        basis[10] = -0.4570457994644658 * y * (4 * z * z - x * x - y * y);
        basis[11] = 0.3731763325901154 * z * (2 * z * z - 3 * x * x - 3 * y * y);
        basis[12] = -0.4570457994644658 * x * (4 * z * z - x * x - y * y);
        basis[13] = 1.445305721320277 * z * (x * x - y * y);
        basis[14] = -0.5900435899266435 * x * (x * x - 3 * y * y);
    }
    if (coefficients >= 24) {
        basis[15] = 2.5033429417967046 * x * y * (x * x - y * y);
        basis[16] = -1.7701307697799304 * y * z * (3 * x * x - y * y);
        basis[17] = 0.9461746957575601 * x * y * (7 * z * z - 1);
        basis[18] = -0.6690465435572892 * y * z * (7 * z * z - 3);
        basis[19] = 0.10578554691520431 * (z * z * (35 * z * z - 30) + 3);
        basis[20] = -0.6690465435572892 * x * z * (7 * z * z - 3);
        basis[21] = 0.47308734787878004 * (x * x - y * y) * (7 * z * z - 1);
        basis[22] = -1.7701307697799304 * x * z * (x * x - 3 * y * y);
        basis[23] = 0.6258357354491761 * (x * x * (x * x - 3 * y * y) - y * y * (3 * x * x - y * y));
    }
    double sum[3];
    for (int c = 0; c < 3; ++c) sum[c] = 0.5 + 0.28209479177387814 * static_cast<double>(dc[c]);
    for (size_t k = 0; k < coefficients; ++k)
        for (int c = 0; c < 3; ++c) sum[c] += basis[k] * static_cast<double>(rest[3 * k + c]);
    for (int c = 0; c < 3; ++c) rgb[c] = static_cast<float>(sum[c] > 0 ? std::min(sum[c], 1e30) : 0);
}

}  // namespace

double exponential(double x) {
    if (!(x < 700)) return x != x ? x : 1.0142320547350045e304;
    if (x < -700) return 0;
    const double turns = x * 1.4426950408889634;
    const double whole = (turns + 6755399441055744.0) - 6755399441055744.0;
    const double r = (x - whole * 0.693147180369123816490) - whole * 1.90821492927058770002e-10;
    double p = 1;
    for (int k = 13; k >= 1; --k) p = p * r / k + 1;
    const uint64_t bits = static_cast<uint64_t>(static_cast<int64_t>(whole) + 1023) << 52;
    double power;
    std::memcpy(&power, &bits, 8);
    return p * power;
}

void prepare(const float *log_scales, const float *quaternions, const float *logits, size_t n, double *shapes) {
    parallel_for((n + kChunk - 1) / kChunk, [&](size_t task) {
        for (size_t i = task * kChunk; i < std::min(n, (task + 1) * kChunk); ++i)
            one_shape(log_scales + 3 * i, quaternions + 4 * i, logits[i], shapes + kShape * i);
    });
}

bool project(const Splats &splats, const Camera &camera, size_t i, Drawn &out) {
    const double *shape = splats.shapes + kShape * i, *v = camera.view;
    if (!(shape[7] >= 0)) return false;
    const double p[3] = {splats.positions[3 * i], splats.positions[3 * i + 1], splats.positions[3 * i + 2]};
    double t[3];
    for (int k = 0; k < 3; ++k) t[k] = v[4 * k] * p[0] + v[4 * k + 1] * p[1] + v[4 * k + 2] * p[2] + v[4 * k + 3];
    if (!(t[2] > camera.near)) return false;
    const double width = static_cast<double>(camera.width), height = static_cast<double>(camera.height), inverse = 1 / t[2];
    const double x = camera.fx * t[0] * inverse + camera.cx, y = camera.fy * t[1] * inverse + camera.cy;
    // the projection's slope is taken where the centre would be if it were less far outside the picture
    const double slack_x = 0.15 * width / camera.fx, slack_y = 0.15 * height / camera.fy;
    const double u = std::clamp(t[0] * inverse, -camera.cx / camera.fx - slack_x, (width - camera.cx) / camera.fx + slack_x);
    const double w = std::clamp(t[1] * inverse, -camera.cy / camera.fy - slack_y, (height - camera.cy) / camera.fy + slack_y);
    double row[2][3];  // J W
    for (int k = 0; k < 3; ++k) {
        row[0][k] = camera.fx * inverse * (v[k] - u * v[8 + k]);
        row[1][k] = camera.fy * inverse * (v[4 + k] - w * v[8 + k]);
    }
    double side[2][3];
    for (int r = 0; r < 2; ++r) {
        side[r][0] = row[r][0] * shape[0] + row[r][1] * shape[1] + row[r][2] * shape[2];
        side[r][1] = row[r][0] * shape[1] + row[r][1] * shape[3] + row[r][2] * shape[4];
        side[r][2] = row[r][0] * shape[2] + row[r][1] * shape[4] + row[r][2] * shape[5];
    }
    const double xx = side[0][0] * row[0][0] + side[0][1] * row[0][1] + side[0][2] * row[0][2] + 0.3;
    const double xy = side[0][0] * row[1][0] + side[0][1] * row[1][1] + side[0][2] * row[1][2];
    const double yy = side[1][0] * row[1][0] + side[1][1] * row[1][1] + side[1][2] * row[1][2] + 0.3;
    const double det = xx * yy - xy * xy;
    if (!(det > 0 && xx < 1e18 && yy < 1e18)) return false;
    const double rx = std::sqrt(shape[7] * xx) + 1e-3, ry = std::sqrt(shape[7] * yy) + 1e-3;
    if (!(x + rx > 0 && x - rx < width && y + ry > 0 && y - ry < height)) return false;
    out.x = static_cast<float>(x);
    out.y = static_cast<float>(y);
    out.a = static_cast<float>(yy / det);
    out.b = static_cast<float>(-xy / det);
    out.c = static_cast<float>(xx / det);
    out.opacity = static_cast<float>(shape[6]);
    out.depth = static_cast<float>(t[2]);
    out.rx = static_cast<float>(rx);
    out.ry = static_cast<float>(ry);
    out.cut = static_cast<float>(-0.5 * shape[7] - 1e-3);
    out.slant = static_cast<float>(xy / yy * ry);
    out.lean = static_cast<float>(xy / xx * rx);
    double d[3], square = 0;  // from the camera's place, -R^T t, to the splat
    for (int k = 0; k < 3; ++k) {
        d[k] = p[k] + v[k] * v[3] + v[4 + k] * v[7] + v[8 + k] * v[11];
        square += d[k] * d[k];
    }
    const double by = square > 0 ? 1 / std::sqrt(square) : 0;
    colour(splats.dc + 3 * i, splats.rest + 3 * splats.coefficients * i, splats.coefficients, d[0] * by, d[1] * by, d[2] * by, out.rgb);
    return true;
}

}  // namespace compand::raster

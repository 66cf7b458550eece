// One splat on the picture of one camera.
#pragma once
#include "raster/raster.hpp"

namespace compand::raster {

// False where nothing of splat i is on the picture: behind, outside, below 1/255 everywhere, or not finite.
bool project(const Splats &splats, const Camera &camera, size_t i, Drawn &out);

}  // namespace compand::raster

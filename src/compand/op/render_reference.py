"""What `compand.op.render` computes, written to be read: NumPy, float64, one splat after the other over the whole picture."""

from __future__ import annotations

import numpy as np

from ..metric.splats import covariances
from .camera import Camera

LOW_PASS, MOST, LEAST, CLOSED = 0.3, 0.99, 1 / 255, 1e-4


def reference(scene, camera: Camera, background=(0.0, 0.0, 0.0)) -> tuple[np.ndarray, np.ndarray]:
    """Picture (height, width, 3) and transmittance (height, width) of a scene, float64."""
    p = np.asarray(scene.positions, np.float64)
    turn, shift = camera.view[:, :3], camera.view[:, 3]
    t = p @ turn.T + shift
    rgb = colours(scene, p - camera.position)
    cov = covariances(scene.rotations, scene.scales)
    opacity = 1 / (1 + np.exp(-np.asarray(scene.opacity, np.float64)))
    image, light = np.zeros((camera.height, camera.width, 3)), np.ones((camera.height, camera.width))
    open_ = np.ones(light.shape, bool)
    x, y = np.arange(camera.width) + 0.5, np.arange(camera.height)[:, None] + 0.5
    for i in np.argsort(t[:, 2].astype(np.float32), kind="stable"):
        z = t[i, 2]
        if not z > camera.near:
            continue
        flat = flattened(cov[i], t[i], camera)
        det = flat[0, 0] * flat[1, 1] - flat[0, 1] ** 2
        dx = camera.fx * t[i, 0] / z + camera.cx - x
        dy = camera.fy * t[i, 1] / z + camera.cy - y
        power = -0.5 * (flat[1, 1] * dx**2 + flat[0, 0] * dy**2) / det + flat[0, 1] / det * dx * dy
        alpha = np.minimum(MOST, opacity[i] * np.exp(power))
        after = light * (1 - alpha)
        hit = open_ & (alpha >= LEAST)
        open_ &= ~(hit & (after < CLOSED))
        hit &= open_
        image += np.where(hit, alpha * light, 0)[..., None] * rgb[i]
        light = np.where(hit, after, light)
    return image + light[..., None] * np.asarray(background, np.float64), light


def flattened(cov: np.ndarray, t: np.ndarray, camera: Camera) -> np.ndarray:
    """Covariance (2, 2) on the picture, in square pixels, of a splat whose centre is t in the camera's axes."""
    x, y, z = t
    wide, high = 0.15 * camera.width / camera.fx, 0.15 * camera.height / camera.fy  # beyond this the slope is kept
    x = z * np.clip(x / z, -camera.cx / camera.fx - wide, (camera.width - camera.cx) / camera.fx + wide)
    y = z * np.clip(y / z, -camera.cy / camera.fy - high, (camera.height - camera.cy) / camera.fy + high)
    slope = np.array([[camera.fx / z, 0, -camera.fx * x / z**2], [0, camera.fy / z, -camera.fy * y / z**2]])
    m = slope @ camera.view[:, :3]
    return m @ cov @ m.T + LOW_PASS * np.eye(2)


def colours(scene, towards: np.ndarray) -> np.ndarray:
    """Colour (n, 3) of each splat seen along ``towards`` (n, 3)."""
    x, y, z = (towards / np.maximum(np.linalg.norm(towards, axis=1, keepdims=True), 1e-300)).T
    xx, yy, zz = x * x, y * y, z * z
    basis = np.stack([
        -0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x,
        1.0925484305920792 * x * y, -1.0925484305920792 * y * z, 0.31539156525252005 * (2 * zz - xx - yy),
        -1.0925484305920792 * x * z, 0.5462742152960396 * (xx - yy),
        -0.5900435899266435 * y * (3 * xx - yy), 2.890611442640554 * x * y * z, -0.4570457994644658 * y * (4 * zz - xx - yy),
        0.3731763325901154 * z * (2 * zz - 3 * xx - 3 * yy), -0.4570457994644658 * x * (4 * zz - xx - yy),
        1.445305721320277 * z * (xx - yy), -0.5900435899266435 * x * (xx - 3 * yy),
        2.5033429417967046 * x * y * (xx - yy), -1.7701307697799304 * y * z * (3 * xx - yy), 0.9461746957575601 * x * y * (7 * zz - 1),
        -0.6690465435572892 * y * z * (7 * zz - 3), 0.10578554691520431 * (zz * (35 * zz - 30) + 3),
        -0.6690465435572892 * x * z * (7 * zz - 3), 0.47308734787878004 * (xx - yy) * (7 * zz - 1),
        -1.7701307697799304 * x * z * (xx - 3 * yy), 0.6258357354491761 * (xx * (xx - 3 * yy) - yy * (3 * xx - yy))], 1)
    rest = np.asarray(scene.sh_rest, np.float64).reshape(len(x), -1, 3)
    sum_ = 0.28209479177387814 * np.asarray(scene.sh0, np.float64) + np.einsum("nk,nkc->nc", basis[:, :rest.shape[1]], rest)
    return np.maximum(sum_ + 0.5, 0)

"""Pictures of splats: against the readable reference, against gsplat's formulas, the same on every machine, safe on bad scenes."""

import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest

import compand
from compand import _native
from compand.metric.splats import covariances
from compand.op.render import Camera, Renderer, around, render
from compand.op.render_reference import colours, flattened, reference


def scene(n=300, degree=3, seed=0, size=-2.2):
    g = np.random.default_rng(seed)
    k = (degree + 1) ** 2 - 1
    f = {"positions": g.normal(0, 1, (n, 3)), "scales": g.normal(size, 0.9, (n, 3)), "rotations": g.normal(0, 1, (n, 4)),
         "opacity": g.normal(0, 2, n), "sh0": g.normal(0, 1, (n, 3)), "sh_rest": g.normal(0, 0.2, (n, 3 * k))}
    return SimpleNamespace(**{name: x.astype(np.float32) for name, x in f.items()})


CAMERAS = [Camera.at((0, 1, -4), (0, 0, 0), 97, 61), Camera.at((0.3, 0.2, -0.5), (0, 0, 1), 64, 70, fov=80),
           Camera.at((3, 3, -3), (1, 0, 0), 130, 33), Camera.at((0, -5, 0), (0, 0, 0), 16, 16),
           Camera(np.eye(4), 60.0, 75.0, 20.0, 50.0, 80, 64)]


@pytest.fixture
def levels():
    yield [name for name in ("scalar", "avx2", "avx512") if _native.set_isa(name)]
    _native.set_isa("auto")
    _native.set_threads(0)


@pytest.mark.parametrize("degree", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("camera", CAMERAS, ids=range(len(CAMERAS)))
def test_close_to_the_reference(camera, degree):
    s, back = scene(150, degree, degree), (0.2, 0.4, 0.6)
    want, light = reference(s, camera, back)
    picture = Renderer(s)(camera, back)
    assert want.std() > 0.05
    assert np.abs(picture.image - want).max() < 1e-5
    assert np.abs(picture.transmittance - light).max() < 1e-5


def test_needles_and_discs():
    s = scene(60, 0, 1)
    s.scales[:, 0], s.scales[:, 1:] = 1.5, -7
    s.scales[::2, 1] = 1.0
    for camera in CAMERAS[:3]:
        assert np.abs(render(s, camera) - reference(s, camera)[0]).max() < 1e-3  # long exponents cancel in float32


def test_same_bits_on_every_level_and_thread_count(levels):
    for n in (0, 1, 2, 7, 63, 130, 700):
        s = scene(n, n % 4, n, -1.5)
        camera, results = Camera.at((0, 1, -3), (0, 0, 0), 83, 57), []
        for level in levels:
            for threads in (1, 3):
                _native.set_isa(level)
                _native.set_threads(threads)
                results.append(Renderer(s)(camera, (0.5, 0.5, 0.5), weights=True))
        for other in results[1:]:
            assert all(np.array_equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_order_of_splats_does_not_matter():
    s = scene(500)
    turn = np.random.default_rng(3).permutation(500)
    other = SimpleNamespace(**{k: v[turn] for k, v in vars(s).items()})
    a, b = Renderer(s)(CAMERAS[0], weights=True), Renderer(other)(CAMERAS[0], weights=True)
    assert np.array_equal(a.image, b.image) and np.allclose(a.weights[turn], b.weights, rtol=1e-12)


def test_picture_does_not_depend_on_the_tiles():
    s, c = scene(300), CAMERAS[0]
    s.positions *= 0.4  # all on the picture: slopes of those outside depend on its size
    moved = Camera(c.view, c.fx, c.fy, c.cx + 5, c.cy + 11, c.width + 5, c.height + 11)
    whole = render(s, moved)[11:, 5:]
    inner = (slice(4, -4), slice(4, -4))  # float32 places of pixels differ in the last bits
    assert np.abs(whole[inner] - render(s, c)[inner]).max() < 5e-3
    assert np.mean(np.abs(whole - render(s, c)) > 1e-5) < 1e-3


def test_weights_are_what_was_seen():
    picture = Renderer(scene(400))(CAMERAS[0], weights=True)
    assert picture.weights.sum() == pytest.approx((1 - picture.transmittance.astype(np.float64)).sum(), rel=1e-5)
    assert Renderer(scene(4))(CAMERAS[0]).weights is None


def test_bands_of_lists(monkeypatch):
    """Splats that cover everything: lists longer than one band are made in several."""
    s = scene(1800, 0, 5, 1.0)
    s.opacity[:] = -4.8
    picture = Renderer(s)(Camera.at((0, 0, -4), (0, 0, 0), 1600, 1600, fov=60))
    small = Renderer(s)(Camera.at((0, 0, -4), (0, 0, 0), 16, 16, fov=60))
    assert np.abs(picture.image.reshape(16, 100, 16, 100, 3).mean((1, 3)) - small.image).max() < 0.05


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e38, -1e38, 80.0])
@pytest.mark.parametrize("name", ["positions", "scales", "rotations", "opacity", "sh0", "sh_rest"])
def test_values_that_are_not_finite_or_absurd(name, bad):
    s = scene(64)
    getattr(s, name)[::3] = bad
    picture = Renderer(s)(CAMERAS[0], weights=True)
    assert picture.image.shape == (61, 97, 3)
    assert np.isfinite(picture.transmittance).all() and not np.isnan(picture.image).any()
    if name in ("positions", "scales", "rotations") and not np.isfinite(bad) and bad != -np.inf:
        kept = np.arange(64) % 3 != 0
        rest = SimpleNamespace(**{k: v[kept] for k, v in vars(s).items()})
        assert np.array_equal(picture.image, render(rest, CAMERAS[0]))


def test_wrong_shapes_are_named():
    for name in ("positions", "scales", "rotations", "opacity", "sh0", "sh_rest"):
        s = scene(10)
        setattr(s, name, getattr(s, name)[:-1])
        with pytest.raises(compand.InputError, match="splats"):
            Renderer(s)
    s = scene(10)
    s.sh_rest = s.sh_rest[:, :12]
    with pytest.raises(compand.InputError, match="coefficients"):
        Renderer(s)
    for args in [(np.eye(3), 1, 1, 1, 1, 2, 2), (np.eye(4) * 2, 1, 1, 1, 1, 2, 2), (np.eye(4), 0, 1, 1, 1, 2, 2),
                 (np.eye(4), 1, 1, 5, 1, 2, 2), (np.eye(4), 1, 1, 1, 1, 2, 20000), (np.eye(4), np.nan, 1, 1, 1, 2, 2)]:
        with pytest.raises(compand.InputError):
            Camera(*args)
    with pytest.raises(compand.InputError, match="background"):
        Renderer(scene(4))(CAMERAS[0], (0, np.nan, 0))


def test_harmonics_are_orthonormal():
    g = np.random.default_rng(0)
    d = g.normal(0, 1, (200_000, 3))
    one = SimpleNamespace(sh0=np.zeros((len(d), 3)), sh_rest=np.zeros((len(d), 72)))
    values = []
    for k in range(24):
        one.sh_rest[:] = 0
        one.sh_rest[:, 3 * k] = 0.1  # small: colours below zero are cut
        values.append((colours(one, d)[:, 0] - 0.5) / 0.1)
    gram = np.array(values) @ np.array(values).T * 4 * np.pi / len(d)
    assert np.abs(gram - np.eye(24)).max() < 0.03


@pytest.fixture(scope="module")
def gsplat():
    found = importlib.util.find_spec("gsplat")
    if not found:
        pytest.skip("gsplat is not installed; its formulas in PyTorch are a second opinion")
    path = f"{found.submodule_search_locations[0]}/cuda/_torch_impl.py"
    spec = importlib.util.spec_from_file_location("gsplat_torch_impl", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("camera", CAMERAS, ids=range(len(CAMERAS)))
def test_projection_and_colours_as_in_gsplat(gsplat, camera):
    import torch

    s = scene(200)
    cov = covariances(s.rotations, s.scales)
    view = torch.tensor(np.concatenate([camera.view, [[0, 0, 0, 1]]]))
    k = torch.tensor([[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1.0]], dtype=torch.float64)
    radii, means, depths, conics, _ = gsplat._fully_fused_projection(
        torch.tensor(s.positions, dtype=torch.float64), torch.tensor(cov), view[None], k[None], camera.width, camera.height,
        near_plane=camera.near)
    seen = (radii[0] > 0).all(-1).numpy()
    assert seen.sum() > 20
    for i in np.flatnonzero(seen):
        t = camera.view[:, :3] @ s.positions[i].astype(np.float64) + camera.view[:, 3]
        flat = np.linalg.inv(flattened(cov[i], t, camera))
        assert np.allclose(conics[0, i].numpy(), [flat[0, 0], flat[0, 1], flat[1, 1]], rtol=1e-6, atol=1e-9)
        assert np.allclose(means[0, i].numpy(), [camera.fx * t[0] / t[2] + camera.cx, camera.fy * t[1] / t[2] + camera.cy])
        assert depths[0, i].item() == pytest.approx(t[2])
    for degree in range(5):
        s = scene(200, degree)
        towards = s.positions - camera.position
        all_ = np.concatenate([s.sh0[:, None], s.sh_rest.reshape(200, -1, 3)], 1)
        theirs = gsplat._spherical_harmonics(degree, torch.tensor(towards), torch.tensor(all_, dtype=torch.float64))
        assert np.allclose(np.maximum(theirs.numpy() + 0.5, 0), colours(s, towards), atol=1e-6)


def test_cameras_look_at_the_middle():
    s = scene(2000, size=-3)
    s.positions += np.float32([5, 6, 7])
    views = around(s, 24, 80, 60)
    assert len(views) == 24 and len({c.name for c in views}) == 24
    for c in views:
        x, y, z = c.view[:, :3] @ np.median(s.positions[s.opacity > 0], 0) + c.view[:, 3]
        assert z > 0 and abs(x / z) < 1e-3 and abs(y / z) < 1e-3
        assert np.allclose(c.view[:, :3] @ c.view[:, :3].T, np.eye(3)) and np.linalg.det(c.view[:, :3]) == pytest.approx(1)
        assert c.name.startswith("orbit") and 0.1 < (Renderer(s)(c).transmittance < 0.5).mean() < 0.95
    heights = [c.position[1] - 6 for c in views]
    assert min(heights) < 0 < max(heights)


def test_cameras_stay_inside_a_wide_background():
    s = scene(4000)
    s.positions[:1500] *= 20 / np.linalg.norm(s.positions[:1500], axis=1, keepdims=True)
    s.scales[:1500] = 0.5
    assert all(c.name.startswith("within") and np.linalg.norm(c.position) < 5 for c in around(s))
    assert all(np.linalg.norm(c.position) > 30 for c in around(s, kind="orbit"))


def test_a_room_is_seen_from_inside():
    s = scene(4000)
    s.positions *= 5 / np.linalg.norm(s.positions, axis=1, keepdims=True)
    views = around(s, 8, 64, 48)
    assert all(c.name.startswith("inside") and np.linalg.norm(c.position) < 2 for c in views)
    assert all(Renderer(s)(c).transmittance.mean() < 0.9 for c in views)


def test_a_hollow_object_is_seen_from_outside():
    """Fur: an inner sphere of one colour, what is on it has many."""
    s = scene(6000, 0)
    s.positions *= 5 / np.linalg.norm(s.positions, axis=1, keepdims=True)
    s.positions[:2000] *= 0.95
    s.scales[:2000], s.opacity[:2000], s.sh0[:2000] = -0.7, 5, 0.3
    views = around(s, 8, 64, 48)
    assert all(c.name.startswith("orbit") and np.linalg.norm(c.position) > 5 for c in views)


def test_placement_refuses_what_it_cannot_do():
    s = scene(20)
    for kind, views, message in (("spiral", 4, "spiral"), ("auto", 0, "one view")):
        with pytest.raises(compand.InputError, match=message):
            around(s, views, kind=kind)
    with pytest.raises(compand.InputError, match="no splats"):
        around(scene(0))
    s.positions[:] = 3  # all in one place
    assert len(around(s, 4)) == 4


def test_a_smaller_picture_of_the_same_camera():
    s = scene(300)
    c = Camera.at((0, 1, -4), (0, 0, 0), 160, 120)
    half = c.resized(80)
    assert (half.width, half.height) == (80, 60)
    assert np.abs(render(s, c).reshape(60, 2, 80, 2, 3).mean((1, 3)) - render(s, half)).mean() < 0.03

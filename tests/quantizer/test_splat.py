"""The coder of splats: laws, equal bits on every machine, errors within steps, damage."""

import numpy as np
import pytest

from compand import Codec, CompandError, FitError, SpecError, _native
from compand.modality.splats import order
from compand.stage import replace
from compand.testing import laws


def rows(n, rest=3, seed=0, sorted_=True):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 14 + 3 * rest)).astype(np.float32)
    x[:, 3:6] -= 3
    x[:, 14:] *= 0.2
    return x[order(x[:, :3])] if sorted_ else x


def axes(q):
    w, x, y, z = (q / np.linalg.norm(q, axis=1, keepdims=True)).T.astype(np.float64)
    return np.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y), 2 * (x * y + w * z), 1 - 2 * (x * x + z * z),
                     2 * (y * z - w * x), 2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], 1).reshape(-1, 3, 3)


def covariance(x):
    m = axes(x[:, 6:10]) * np.exp(x[:, None, 3:6].astype(np.float64))
    return m @ m.swapaxes(1, 2)


@pytest.mark.parametrize("spec", ["splat", "splat:8:20:10:256:0.01:0.02", "splat:rank=0", "splat:rank=4:adapt=1.0"])
def test_laws(spec):
    stage = Codec(spec).stage
    for d in (14, 23, 59):
        for x in laws.samples(1, d):
            for law in laws.LAWS:
                law(stage, x)


@pytest.mark.parametrize("rest", [0, 3, 8, 15, 24])
def test_errors_stay_within_steps(rest):
    x = rows(2000, rest)
    codec = Codec("splat:6:16:9:200:0.02:0.03:adapt=0.0:trade=0.0").fit(x)
    y = codec.decode(codec.encode(x))
    longest = np.sort(np.exp(x[:, 3:6]), 1)
    size = np.sqrt(longest[:, 1] * longest[:, 2])
    assert (np.abs(x[:, :3] - y[:, :3]).max(1) <= size / 64 * 1.1 + 1e-6).all()  # at most a step, but usually far less than half:
    scales = np.sort(x[:, 3:6])[:, ::-1] - y[:, 3:6]
    alpha, color = 1 / (1 + np.exp(-x[:, 10])) - 1 / (1 + np.exp(-y[:, 10])), x[:, 11:14] - y[:, 11:14]
    assert np.abs(scales).max() <= np.log(2) / 16 + 1e-4 and np.abs(alpha).max() < 0.01 and np.abs(color).max() < 0.02
    uniform = 12 ** -0.5
    assert np.sqrt(np.mean(scales ** 2)) < 0.91 * uniform * np.log(2) / 16
    assert np.sqrt(np.mean(color ** 2)) < 0.89 * uniform * 0.02
    if rest:
        assert np.sqrt(np.mean((x[:, 14:] - y[:, 14:]) ** 2)) < 0.02
    a, b = covariance(x), covariance(y)
    assert np.percentile(np.linalg.norm(a - b, axis=(1, 2)) / np.linalg.norm(a, axis=(1, 2)), 95) < 0.08


def test_order_is_free_when_rows_are_sorted_and_kept_when_not():
    x = rows(3000, 0)
    shuffled = x[np.random.default_rng(1).permutation(len(x))]
    codec = Codec("splat").fit(x)
    a, b = codec.encode(x), codec.encode(shuffled)
    assert a.blocks[0].parts["order"].nbytes == 2 and b.blocks[0].parts["order"].nbytes > 12 * 3000 / 8
    assert a.nbytes < b.nbytes - 10 * 3000 / 8
    y, z = codec.decode(a), codec.decode(b)
    assert np.array_equal(y[order(y[:, :3])], z[order(z[:, :3])]) or np.abs(z[:, :3] - shuffled[:, :3]).max() < 0.1


@pytest.mark.parametrize("rest", [0, 8])
def test_levels_agree(rest):
    """Every instruction set makes and reads the same bytes."""
    try:
        for n in [*range(1, 131, 8), 5000]:
            x = rows(n, rest, n, sorted_=n % 2 == 0)
            codec = Codec("splat:rank=5" if rest else "splat").fit(x)
            found = []
            for level in ("scalar", "avx2", "avx512"):
                try:
                    _native.set_isa(level)
                except ValueError:
                    continue
                codes = codec.encode(x)
                found.append((codes.to_bytes(), codec.decode(codes).tobytes()))
            assert all(f == found[0] for f in found), n
    finally:
        _native.set_isa("auto")


def test_many_blocks_decode_alone():
    x = rows(80_000, 0)
    codec = Codec("splat").fit(x)
    codes = codec.encode(x)
    assert [b.rows for b in codes.blocks] == [65536, 80_000 - 65536]
    wide = Codec("splat:block=1024").fit(rows(1500, 15)).encode(rows(1500, 15))
    assert [b.rows for b in wide.blocks] == [1024, 476]
    assert np.array_equal(codec.decode(codes, rows=slice(76_000, 76_100)), codec.decode(codes)[76_000:76_100])


def test_damage_is_told():
    x = rows(300, 3)
    codec = Codec("splat").fit(x)
    stage, parts = codec.stage, codec.stage.encode(x)
    form = codec.form(x.shape, "float32")
    rng = np.random.default_rng(0)
    refused = 0
    for i in range(1500):
        bad = dict(parts)
        name = list(parts)[i % 8]
        data = parts[name].copy()
        if i % 5 == 0:
            data = data[:rng.integers(0, len(data) + 1)]
        elif len(data):
            data[rng.integers(0, len(data), 1 + i % 3)] ^= np.uint8(1 << rng.integers(0, 8))
        bad[name] = data
        try:
            assert stage.decode(bad, form).shape == x.shape
        except CompandError:
            refused += 1
    assert refused > 1000


@pytest.mark.parametrize("gain", [3e38, np.inf, np.nan])
def test_gains_no_fit_makes(gain):
    x = rows(50, 3)
    stage = Codec("splat").fit(x).stage
    bad = replace(stage, gain_=np.full_like(stage.gain_, gain))
    with pytest.raises(FitError, match="damaged"):
        bad.decode(stage.encode(x), Codec(stage).form(x.shape, "float32"))


def test_rows_that_are_no_splats():
    with pytest.raises(SpecError, match="14"):
        Codec("splat").fit(np.zeros((4, 13), np.float32))


def test_morton_order_follows_the_curve():
    x = np.float32([[1, 1, 1], [-1, -1, -1], [1, -1, -1], [-1, 1, 1], [1, 1, -1], [0, 0, 0], [-0.0, 2, 0]])
    got = order(x)
    assert sorted(got) == list(range(7)) and got[0] == 1  # all negative first
    assert np.array_equal(order(x * 1e-30), got) and np.array_equal(order(np.zeros((0, 3), np.float32)), [])


def test_steps_of_positions_follow_size_without_jumps():
    """A step is the size over 2^position for every splat, not the next power of two."""
    x = rows(4000, 0)
    x[:, 3:6] = np.linspace(-4, -2, 4000)[np.random.default_rng(1).permutation(4000), None]
    codec = Codec("splat:5:64").fit(x)
    off = np.abs(codec.decode(codec.encode(x))[:, :3] - x[:, :3]) / np.exp(x[:, 3:4])
    assert off.max() < 2 ** -5 * 1.1
    means = [off[part].mean() for part in np.array_split(np.argsort(x[:, 3]), 8)]
    assert max(means) < 1.12 * min(means) and max(means) < 0.93 * 2 ** -7


@pytest.mark.parametrize("options", ["turn=0.0", "thin=1.0", "even=true", "turn=0.3:thin=0.4:even=true"])
def test_options_change_only_their_attribute(options):
    x = rows(3000, 0)
    plain, other = (Codec(f"splat:5:16:9:200:0.02{more}:trade=0.0").fit(x) for more in ("", f":{options}"))
    a, b = (codec.decode(codec.encode(x)) for codec in (plain, other))
    assert np.array_equal(a[:, 3:6], b[:, 3:6])
    longest = np.sort(np.exp(x[:, 3:6]), 1)
    size = np.cbrt(longest.prod(1)) if "thin=1.0" in options else longest[:, 2] if "thin" in options else np.sqrt(longest[:, 1:].prod(1))
    assert np.percentile(np.abs(x[:, :3] - b[:, :3]).max(1) / size, 95) < 1 / 32
    assert np.abs(1 / (1 + np.exp(-x[:, 10])) - 1 / (1 + np.exp(-b[:, 10]))).max() < (0.0045 if "even" in options else 0.009)
    p, q = covariance(x), covariance(b)
    assert np.percentile(np.linalg.norm(p - q, axis=(1, 2)) / np.linalg.norm(p, axis=(1, 2)), 95) < 0.07


def test_steps_may_be_very_fine():
    x = rows(500, 1)
    codec = Codec("splat:16:256:16:4096:0.0001:0.0001:adapt=0.0:trade=0.0").fit(x)
    y = codec.decode(codec.encode(x))
    assert np.abs(np.sort(x[:, 3:6])[:, ::-1] - y[:, 3:6]).max() < np.log(2) / 256 and np.abs(x[:, 11:14] - y[:, 11:14]).max() < 1e-4
    p, q = covariance(x), covariance(y)
    assert np.percentile(np.linalg.norm(p - q, axis=(1, 2)) / np.linalg.norm(p, axis=(1, 2)), 95) < 0.005


def test_an_unknown_format_is_damage():
    x = rows(100, 0)
    codec = Codec("splat").fit(x)
    parts = dict(codec.encode(x).blocks[0].parts)
    for mark in (b"\x85", b"\x80"):  # format 5, and none
        tree = parts["tree"].copy()
        tree[:1] = np.frombuffer(mark, np.uint8)
        with pytest.raises(CompandError):
            codec.stage.decode(parts | {"tree": tree}, codec.form(x.shape, "float32"))


def test_a_price_of_bits_saves_more_than_wider_steps_of_the_same_error():
    """Error and bits of harmonics chosen together: fewer bits than nearest steps, beyond a dead zone, of at least that error."""
    rng = np.random.default_rng(3)
    x = rows(6000, 15)
    x[:, 14:] = 0.05 * rng.laplace(size=(6000, 45)) ** 3

    def measured(spec):
        codec = Codec(spec).fit(x)
        codes = codec.encode(x)
        return codes.blocks[0].parts["sh"].nbytes, float(np.mean((codec.decode(codes) - x)[:, 14:] ** 2))

    size, error = measured("splat:6:16:9:200:0.2:0.2:adapt=0.0:trade=0.15")
    wider = [measured(f"splat:6:16:9:200:0.2:{step}:adapt=0.0:trade=0.0") for step in np.linspace(0.15, 0.3, 16).round(4)]
    assert size < min(n for n, e in wider if e <= error)


def test_steps_between_sixty_fourths_do_not_matter_and_those_of_them_do():
    x = rows(3000, 0)
    sizes = {p: Codec(f"splat:{p}:16:{p + 3}").fit(x).encode(x).blocks[0].parts for p in (5.0, 5.004, 5.016)}
    for part in ("fine", "rotation"):
        assert sizes[5.0][part].nbytes == sizes[5.004][part].nbytes < sizes[5.016][part].nbytes


def test_far_numbers_come_back():
    """What is nowhere near foretold, up to the most that steps of colour allow."""
    x = rows(300, 0)
    x[::7, 11:14] *= 10.0 ** np.arange(-3, 4).repeat(7)[:len(x[::7]), None]
    codec = Codec("splat:6:256:9:200:0.001:adapt=0.0:trade=0.0").fit(x)
    assert np.abs(codec.decode(codec.encode(x))[:, 11:14] - x[:, 11:14]).max() < 0.001 * 2

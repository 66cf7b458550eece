"""Neural residual codes: what they decode to, on every instruction set; training lowers the error; bytes that no encoder made."""

from dataclasses import replace

import numpy as np
import pytest

import compand
from compand import _native
from compand.errors import CompandError, FitError
from compand.quantizer.neural import Neural


def rows(n, seed=0, d=8):
    """Rows whose second half is a curved function of the first, and noise."""
    x = np.random.default_rng(seed).standard_normal((n, d), dtype=np.float32)
    x[:, d // 2:] = np.abs(x[:, :d // 2]) * 2 - 1 + x[:, d // 2:] * np.float32(0.15)
    return x


def bent(x, **options):
    """A stage fitted to x whose networks say something."""
    q = Neural(5, hidden=16, **options).fit(x)
    leave = np.random.default_rng(1).standard_normal(q.leave_.shape) * 0.02
    return replace(q, leave_=leave.astype(np.float16)).with_gains(x)


def error(q, x):
    y = q.decode(q.encode(x), (*x.shape, "float32"))
    return float(np.square(x - y).sum() / np.square(x).sum())


def test_every_level_gives_the_same_ids_and_values(request):
    request.addfinalizer(lambda: _native.set_isa("auto"))
    x = rows(700)
    q, found = bent(x), []
    for level in ("scalar", "avx2", "avx512"):
        if _native.set_isa(level):
            parts = q.encode(x)
            found.append((parts["ids"].tobytes(), parts["gain"].tobytes(), q.decode(parts, (*x.shape, "float32")).tobytes()))
    assert len(set(found)) == 1


def test_decoding_is_the_formula():
    x = rows(300)
    q = bent(x)
    parts = q.encode(x)
    w = {name: getattr(q, name).astype(np.float64) for name in ("codewords_", "enter_", "context_", "bias_", "leave_")}
    near = np.zeros(x.shape)
    for m, ids in enumerate(parts["ids"].T):
        c = w["codewords_"][m][ids]
        inner = np.maximum(c @ w["enter_"][m] + near @ w["context_"][m] + w["bias_"][m], 0) if m else np.zeros((len(x), 16))
        near = near + c + inner @ w["leave_"][m]
    near *= q.gains(parts)[:, None] * q.unit_[0]
    np.testing.assert_allclose(q.decode(parts, (*x.shape, "float32")), near, rtol=1e-4, atol=1e-4)


def test_more_beginnings_find_less_error():
    x = rows(800)
    assert error(bent(x, beam=8), x) < error(bent(x, beam=2), x) < error(bent(x, beam=1), x)


def test_training_lowers_the_error_of_rows_it_has_not_seen():
    pytest.importorskip("torch")
    from compand.torch import train_neural

    x, held = rows(4000), rows(1000, seed=9)
    codec = compand.Codec("neural:3:hidden=32:beam=1").fit(x)
    seen = []
    trained = train_neural(codec, x, epochs=8, batch=64, rate=6e-3, tell=lambda i, e: seen.append(e))
    before, after = (error(c.stage, held) for c in (codec, trained))
    assert after < 0.98 * before, (before, after)
    own = error(trained.stage, x)
    assert abs(np.mean(seen[-60:]) - own) < 0.2 * own  # training saw what decoding gives
    codes = trained.encode(held)
    again = compand.Codec.decompress(codes.to_bytes())
    np.testing.assert_array_equal(again, trained.decode(codes))
    for wrong, kind in ((compand.Codec("int:8"), CompandError), (compand.Codec("neural:4"), FitError)):
        with pytest.raises(kind):
            train_neural(wrong, x)


def test_codes_are_searched_and_can_refine_a_short_list():
    x = rows(1500)
    for spec in ("klt,neural:5:hidden=8", "(klt,grouped:4)+neural:5:hidden=8"):
        codes = compand.Codec(spec).fit(x).encode(x)
        found = compand.search(x[:50], codes, 10, metric="cosine")[1]
        assert (found == np.arange(50)[:, None]).any(1).mean() > 0.9


def test_weights_that_are_not_finite_decode_to_something():
    x = rows(300)
    q = bent(x)
    codes = compand.Codec(replace(q, leave_=np.full_like(q.leave_, np.inf), enter_=np.full_like(q.enter_, np.nan))).encode(x)
    try:
        assert compand.Codec.decompress(codes.to_bytes()).shape == x.shape
    except CompandError:
        pass


def test_too_few_rows_are_refused():
    with pytest.raises(FitError, match="needs rows"):
        Neural(4).fit(rows(1))

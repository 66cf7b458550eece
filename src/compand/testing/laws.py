"""The laws every stage must obey. Plug-in authors run them on their own stages:

    from compand.testing import laws

    def test_my_stage():
        laws.check(MyStage)                      # many configurations, needs hypothesis
        laws.obey(MyStage(4), laws.samples(1)[0])  # one configuration on one array, needs nothing

Each law is a function ``law_*(stage, x)`` that raises AssertionError with what went wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import fields
from ..array import to_numpy
from ..codec import Codec
from ..dtypes import dtype as dtype_of
from ..errors import CompandError, FitError, InputError, SpecError
from ..spec import parse
from ..stage import Form, Stage

DONE_WITH = "int:8"  # what follows a lossy transform so that it can be tested as a codec


def samples(seed: int = 0, d: int = 24) -> list[np.ndarray]:
    """Arrays that find mistakes: Gaussian, one row, one column, zeros, constant, outliers, tiny, huge, integers, half precision."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((67, d)).astype(np.float32)
    spiky = x.copy()
    spiky[::7, ::5] *= 100
    return [x, x[:1], x[:, :1], x[:, : d - 1], np.zeros_like(x), np.full_like(x, 3.25), spiky, x * np.float32(1e-30),
            x * np.float32(1e30), np.rint(x * 9), x.astype(np.float16), x.astype(np.float64), x + np.float32(1000)]


def codec_of(stage: Stage) -> Codec:
    """A codec that uses the stage, whatever its kind."""
    if stage.kind == "quantizer":
        return Codec(stage)
    if stage.kind == "entropy":
        return Codec(parse("bytes") | stage)
    return Codec(stage | parse("raw" if stage.raw else DONE_WITH))


def fitted(stage: Stage, x: np.ndarray) -> Codec | None:
    """The codec fitted to x, or None where the stage says with a named error that it cannot take such data."""
    try:
        codec = codec_of(stage).fit(x)
        codec.encode(x[:1])
        return codec
    except (FitError, SpecError, InputError) as e:
        assert len(str(e)) > 10, "an error must say what to do"
        return None


def law_text_is_canonical(stage: Stage, x: np.ndarray) -> None:
    """``parse(str(s)) == s`` and the text is stable."""
    again = parse(str(stage))
    assert str(again) == str(stage), f"{stage} reads back as {again}"
    assert again == type(stage)(**{f.name: getattr(stage, f.name) for f in fields.of(type(stage))})


def law_shape_and_dtype_come_back(stage: Stage, x: np.ndarray) -> None:
    """Decoding gives the source's shape and dtype, finite for finite input."""
    if codec := fitted(stage, x):
        x_hat = codec.decode(codec.encode(x))
        assert x_hat.shape == x.shape and x_hat.dtype == x.dtype, f"{x_hat.dtype}{x_hat.shape} for {x.dtype}{x.shape}"
        assert np.isfinite(x_hat).all(), "finite input decoded to NaN or infinity"


def law_lossless_keeps_every_bit(stage: Stage, x: np.ndarray) -> None:
    """Raw stages return every bit, NaN payloads included."""
    if stage.raw or stage.kind == "entropy":
        noise = np.frombuffer(np.random.default_rng(5).bytes(x.nbytes), x.dtype).reshape(x.shape)
        for bits in (x, noise):
            codec = fitted(stage, bits)
            assert codec is None or codec.decode(codec.encode(bits)).tobytes() == bits.tobytes(), "bits changed"


def law_encoding_is_deterministic(stage: Stage, x: np.ndarray) -> None:
    """The same input gives the same bytes, also from a strided array."""
    if codec := fitted(stage, x):
        wide = np.zeros((x.shape[0] * 2, x.shape[1] + 3), x.dtype)
        wide[::2, 2:-1] = x
        first = codec.encode(x).to_bytes()
        assert codec.encode(x.copy()).to_bytes() == first, "two encodings differ"
        assert codec.encode(wide[::2, 2:-1]).to_bytes() == first, "a strided view encodes differently"


def law_file_keeps_the_codec(stage: Stage, x: np.ndarray) -> None:
    """Through the bytes of a file: same spec, state and decoded values."""
    if codec := fitted(stage, x):
        codes = codec.encode(x)
        assert np.array_equal(Codec.decompress(codes.to_bytes()), codec.decode(codes), equal_nan=x.dtype.kind == "f")


def law_rows_decode_alone(stage: Stage, x: np.ndarray) -> None:
    """Any range of rows equals that range of the whole."""
    if (codec := fitted(stage, x)) and len(x) > 2:
        codes = codec.encode(x)
        whole = codec.decode(codes)
        assert np.array_equal(codec.decode(codes, rows=slice(1, len(x) - 1)), whole[1:-1], equal_nan=x.dtype.kind == "f")


def law_empty_is_fine(stage: Stage, x: np.ndarray) -> None:
    """No rows in, no rows out."""
    if codec := fitted(stage, x):
        assert codec.decode(codec.encode(x[:0])).shape == (0, x.shape[1])


def law_nan_is_refused(stage: Stage, x: np.ndarray) -> None:
    """A lossy codec names the row of the first NaN or infinite value."""
    if stage.raw or stage.kind == "entropy" or x.dtype.kind != "f" or not len(x):
        return
    if codec := fitted(stage, x):
        for value in (np.nan, np.inf):
            bad = x.copy()
            bad[len(x) // 2, 0] = value
            try:
                codec.encode(bad)
            except InputError as e:
                assert f"row {len(x) // 2}" in str(e)
            else:
                raise AssertionError(f"{value} was encoded silently")


def law_every_machine_decodes_alike(stage: Stage, x: np.ndarray) -> None:
    """All instruction sets and thread counts give the same codes and, for exact stages, the same values."""
    from .. import _native

    if codec := fitted(stage, x):
        codes = codec.encode(x)
        bytes_, values = codes.to_bytes(), codec.decode(codes)
        try:
            for isa in ("scalar", "avx2", "avx512"):
                for threads in (1, 3):
                    if not _native.set_isa(isa):
                        continue
                    _native.set_threads(threads)
                    if codec.stage.exact:
                        assert codec.encode(x).to_bytes() == bytes_, f"other bytes with {isa}, {threads} threads"
                        assert np.array_equal(codec.decode(codes), values, equal_nan=x.dtype.kind == "f"), f"other values with {isa}"
        finally:
            _native.set_isa("auto")
            _native.set_threads(0)


def law_torch_agrees(stage: Stage, x: np.ndarray) -> None:
    """torch tensors give the same codes as NumPy arrays, up to ties of rounding (only where torch is already imported)."""
    if "torch" not in sys.modules or stage.kind == "entropy" or x.dtype == np.uint16:
        return
    import torch

    if codec := fitted(stage, x):
        t = torch.from_numpy(np.ascontiguousarray(x))
        a, b = codec.decode(codec.encode(x)), codec.decode(codec.encode(t), like=t)
        assert isinstance(b, torch.Tensor) and tuple(b.shape) == x.shape
        close(a, to_numpy(b), x)


def close(a: np.ndarray, b: np.ndarray, x: np.ndarray) -> None:
    """a and b agree: all but 5 % of the values within 1e-4 of the scale (the rest may have rounded the other way)."""
    scale = np.abs(x.astype(np.float64)).max(initial=0) + 1e-300
    off = np.abs(a.astype(np.float64) - b.astype(np.float64)) > 1e-4 * scale
    assert off.mean() <= 0.05 if off.size > 50 else off.sum() <= 2, f"{off.mean():.1%} of values differ"


def law_layout_says_what_encode_gives(stage: Stage, x: np.ndarray) -> None:
    """Parts have the declared names, shapes, dtypes and alphabets; stored bytes can be foretold."""
    if stage.kind == "quantizer" and (codec := fitted(stage, x)) and x.size:
        form = codec.form(x.shape, str(x.dtype))
        parts = codec.stage.encode(codec._flow(codec._rows(x)[0], form))
        layout = codec.stage.layout(form)
        assert parts.keys() == layout.keys()
        for path, part in layout.items():
            a = to_numpy(parts[path])
            assert part.shape == (-1,) or a.shape == part.shape, f"{path}: {a.shape}, declared {part.shape}"
            if part.k is None:
                kept = a.astype(dtype_of(part.dtype or "uint8")).astype(a.dtype)
                assert kept.tobytes() == np.ascontiguousarray(a).tobytes(), f"{path}: values of {a.dtype} do not fit {part.dtype}"
            elif a.size:
                assert a.dtype.kind in "iu" and 0 <= a.min() and int(a.max()) < part.k, f"{path}: {a.min()}..{a.max()} of {part.k}"
        assert codec.stage.state(form).keys() == codec.state().keys()
        assert codec.stage.layout(Form(0, form.d, form.dtype)).keys() == layout.keys()


LAWS: tuple[Callable[[Stage, np.ndarray], None], ...] = tuple(f for name, f in list(globals().items()) if name.startswith("law_"))


def obey(stage: Stage, x: np.ndarray) -> None:
    """Run every law for one configuration on one array."""
    for law in LAWS:
        try:
            law(stage, x)
        except (AssertionError, CompandError) as e:
            raise AssertionError(f"{stage} on {x.dtype}{list(x.shape)} breaks {law.__name__}: {type(e).__name__}: {e}") from e


def strategy(cls: type[Stage]) -> Any:
    """A hypothesis strategy over configurations of a stage class, from its fields' types and ranges (kept small)."""
    from hypothesis import strategies as st

    def of(f: fields.Field):
        if f.choices:
            s = st.sampled_from(f.choices)
        elif f.type is bool:
            s = st.booleans()
        elif f.type is int:
            low, high = (f.range.start, f.range.stop - 1) if f.range else (0, 64)
            s = st.integers(low, min(high, max(low, 40)))
        elif f.type is float:
            s = st.floats(*(f.range or (0.01, 4.0)), allow_nan=False)
        elif f.type is tuple:
            s = st.lists(st.integers(2, 8), min_size=1, max_size=3).map(tuple)
        else:
            s = st.just(f.default) if f.default is not fields.MISSING else st.nothing()
        if f.optional:
            s = st.none() | s
        return s if f.default is fields.MISSING else st.just(f.default) | s

    def build(values: dict) -> Stage | None:
        try:
            return cls(**values)
        except SpecError:
            return None

    drawn = st.fixed_dictionaries({f.name: of(f) for f in fields.of(cls)}).map(build).filter(lambda s: s is not None)
    shown = [s for s in map(parse, cls.examples) if isinstance(s, cls)]
    free = any(f.type is str and not f.choices and f.default is fields.MISSING for f in fields.of(cls))
    return st.sampled_from(shown) if free else st.sampled_from(shown) | drawn if shown else drawn


def check(cls: type[Stage], examples: int = 20) -> None:
    """Run every law over drawn configurations of a stage class and the arrays of `samples`."""
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st

    arrays = samples()

    @settings(max_examples=examples, deadline=None, derandomize=True, database=None, report_multiple_bugs=False,
              suppress_health_check=list(HealthCheck))
    @given(strategy(cls), st.integers(0, len(arrays) - 1))
    def run(stage, i):
        obey(stage, arrays[i])

    run()

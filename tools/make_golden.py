"""Add a golden file for each stage that has none. Existing ones are never rewritten: they promise that old files decode.

    python tools/make_golden.py   # after adding a stage; commit what appears in tests/golden

Each STAGE.cpd holds the stage at work on real embeddings; STAGE.npy is what it decoded to on the day it was made.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

import compand
from compand.errors import CompandError
from compand.registry import builtin
from compand.testing.laws import codec_of

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"


def main() -> None:
    GOLDEN.mkdir(exist_ok=True)
    x = compand.open(Path(compand.__file__).parent / "demo" / "embeddings.cpd")["array"].array(rows=slice(0, 48))[:, :48]
    for name, cls in builtin().items():
        target = GOLDEN / f"{name}.cpd"
        if target.exists():
            continue
        try:
            codec = compand.Codec(cls.examples[0]) if cls.examples else codec_of(cls())
        except (CompandError, TypeError) as e:
            raise SystemExit(f"{name}: give the class `examples` ({e})") from e
        source = x if codec.stage.raw else x.astype(np.float32)
        if name == "neighbours":
            source = x.astype(np.float32) * np.float32(1.1)  # all bits of mantissas in use
        if name == "splat":
            source = source[:, :38]  # rows of splats have 14 + 3 K values
        if name in ("image", "tokens"):
            source = source * 500 + 128  # values of pixels
        if name == "ranks":
            source = source.astype(compand.dtypes.dtype("bfloat16"))
        codec = codec.fit(source)
        if name == "neural":  # as if trained: a network that is only fitted bends nothing
            leave = np.random.default_rng(0).standard_normal(codec.stage.leave_.shape) / 9
            codec = compand.Codec(replace(codec.stage, leave_=leave.astype(np.float16)))
        codes = codec.encode(source)
        target.write_bytes(codes.to_bytes())
        np.save(target.with_suffix(".npy"), codec.decode(codes))
        print(f"{target.name}: {codec.spec}, {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()

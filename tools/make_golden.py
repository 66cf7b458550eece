"""Add a golden file for each stage that has none. Existing ones are never rewritten: they promise that old files decode.

    python tools/make_golden.py   # after adding a stage; commit what appears in tests/golden

Each STAGE.cpd holds the stage at work on real embeddings; STAGE.npy is what it decoded to on the day it was made.
"""

from pathlib import Path

import numpy as np

import compand
from compand.errors import CompandError
from compand.registry import builtin
from compand.testing.laws import codec_of

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
# Specs for stages whose defaults need arguments or company.
SPECS = {"int": "int:4:group=16", "float": "float:e4m3", "table": "table:16", "vq": "vq:16:dim=8", "pq": "pq:8x4",
         "pca": "pca:16,int:8", "lowrank": "lowrank:4", "sparse": "sparse:0.05", "pyramid": "pyramid:6", "fsq": "fsq:8x8x4x4",
         "reshape": "reshape:8,int:4", "blocks": "blocks:4x4,int:4", "planes": "planes", "scale": "scale:rms:per=row,int:8"}


def main() -> None:
    GOLDEN.mkdir(exist_ok=True)
    x = compand.open(Path(compand.__file__).parent / "demo" / "embeddings.cpd")["embeddings"].array(rows=slice(0, 48))[:, :48]
    for name, cls in builtin().items():
        target = GOLDEN / f"{name}.cpd"
        if target.exists():
            continue
        try:
            codec = compand.Codec(SPECS[name]) if name in SPECS else codec_of(cls())
        except (CompandError, TypeError) as e:
            raise SystemExit(f"{name}: add an example to SPECS in {__file__} ({e})") from e
        source = x if codec.stage.raw or name in ("rans", "mixed", "lzma") else x.astype(np.float32)
        codes = codec.fit(source).encode(source)
        target.write_bytes(codes.to_bytes())
        np.save(target.with_suffix(".npy"), codec.fit(source).decode(codes))
        print(f"{target.name}: {codec.spec}, {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()

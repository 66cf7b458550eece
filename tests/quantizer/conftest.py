import lzma
import os
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def embeddings():
    """2,000 real sentence embeddings: (2000, 384) float32."""
    folder = Path(os.environ.get("COMPAND_DATA") or Path(__file__).parents[2].parent / "shared/data")
    path = folder / "vectors/minilm-query.i16.xz"
    if not path.exists():
        pytest.skip(f"no real embeddings at {path}; set COMPAND_DATA")
    u = np.frombuffer(lzma.open(path).read(), np.uint8)
    z = (u[:u.size // 2].astype(np.uint16) << 8) | u[u.size // 2:]
    return ((z >> 1).astype(np.int32) ^ -(z & 1).astype(np.int32)).astype(np.float32).reshape(-1, 384) / 8192

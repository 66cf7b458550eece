"""The example notebook runs from its first cell to its last."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


def test_notebook_runs(tmp_path):
    pytest.importorskip("safetensors")
    cells = json.loads((Path(__file__).parents[2] / "docs" / "run.ipynb").read_text())["cells"]
    code = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "tokens/s" in done.stdout

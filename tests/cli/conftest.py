"""Small originals of every kind the command line takes."""

import json

import numpy as np
import pytest

pytest.importorskip("typer")


@pytest.fixture
def there(tmp_path, monkeypatch):
    """A folder of its own to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def vectors():
    rng = np.random.default_rng(7)
    return (rng.standard_normal((600, 12)) @ rng.standard_normal((12, 48)) + rng.standard_normal((600, 48))).astype(np.float32)


@pytest.fixture
def npy(there, vectors):
    np.save("v.npy", vectors)
    return "v.npy"


@pytest.fixture(scope="session")
def tensors():
    rng = np.random.default_rng(3)
    found = {f"h.{i}.{n}.weight": (rng.standard_t(6, (80, 64)) * 0.02 * 4**i).astype(np.float32) for i in range(3) for n in "qv"}
    return found | {"norm.weight": np.ones(64, np.float32), "ids": np.arange(20)}


@pytest.fixture
def model(there, tensors):
    safetensors = pytest.importorskip("safetensors.numpy")
    safetensors.save_file(tensors, "m.safetensors", {"format": "pt"})
    return "m.safetensors"


@pytest.fixture
def folder(there, model):
    (there / "hub").mkdir()
    (there / model).rename(there / "hub" / "model.safetensors")
    (there / "hub" / "config.json").write_text(json.dumps({"model_type": "tiny"}))
    return "hub"


@pytest.fixture
def run():
    """Run the command line in this process: run("info", path) → result with exit_code, stdout, stderr."""
    from typer.testing import CliRunner

    from compand.cli.app import app

    return lambda *words: CliRunner().invoke(app, [str(w) for w in words])


@pytest.fixture
def ok(run):
    """The same, and it must end well; its stdout."""
    def call(*words):
        result = run(*words)
        assert result.exit_code == 0, result.output
        return result.stdout
    return call

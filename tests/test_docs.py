"""Every example runs: docstrings of all modules, python and shell blocks of the documents."""

import doctest
import os
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "compand"
DOCS = [p for p in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")] if p.name != "CHANGELOG.md"]


@pytest.mark.parametrize("path", sorted(SRC.rglob("*.py")), ids=lambda p: str(p.relative_to(SRC)))
def test_docstring_examples(path, tmp_path, monkeypatch):
    if ">>>" not in path.read_text():
        pytest.skip("no example")
    monkeypatch.chdir(tmp_path)
    relative = path.relative_to(SRC.parent).with_suffix("")
    if relative.parts[1] in ("torch", "hf"):
        pytest.importorskip("torch")
    name = ".".join(relative.parts[:-1] if relative.name == "__init__" else relative.parts)
    result = doctest.testmod(import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert not result.failed


def skip_without(output: str) -> None:
    """Skip where what failed needs a package that an extra brings and that is not there; core packages always are."""
    for name in re.findall(r"No module named '(\w+)", output):
        if name != "compand":
            with suppress(ModuleNotFoundError):
                assert find_spec(name) is None, output
            pytest.skip(f"needs {name}, which is not installed")
    if extra := re.search(r"pip install '?compand\[\w+\]", output):
        pytest.skip(f"says {extra[0]!r}")


def blocks(language):
    for path in DOCS:
        for i, match in enumerate(re.finditer(rf"^```{language}\n(.*?)^```", path.read_text(), re.M | re.S)):
            yield pytest.param(match.group(1), id=f"{path.name}-{i}")


@pytest.fixture
def folder(data, tmp_path):
    """A fresh copy for each block."""
    return shutil.copytree(data, tmp_path / "work")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with the real data that the examples name: emb.npy and model.safetensors."""
    folder = tmp_path_factory.mktemp("docs")
    demo = SRC / "demo"
    for source, target in (("embeddings.cpd", "emb.npy"), ("model.cpd", "model.safetensors")):
        subprocess.run([sys.executable, "-m", "compand", "decompress", demo / source, "-o", folder / target], check=True)
    return folder


@pytest.mark.parametrize("code", list(blocks("python")))
def test_python_block(code, folder):
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        skip_without(done.stderr)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("code", list(blocks("sh")))
def test_shell_block(code, folder):
    """Blocks marked sh run as they are, but for set-up commands, which CI has run already."""
    lines = [line for line in code.splitlines() if not re.match(r"\s*(make|git|pip|python -m venv)\b", line)]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(["bash", "-euc", "\n".join(lines)], cwd=folder, capture_output=True, text=True, env={**os.environ, "PATH": path})
    if done.returncode:
        skip_without(done.stderr)
    assert done.returncode == 0, done.stderr + done.stdout

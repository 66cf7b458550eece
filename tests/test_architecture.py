"""The plan of the house, held by tests: what may import what, how long a file may be, what loading costs."""

import ast
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "compand"
MODULES = sorted(SRC.rglob("*.py"))
RANK = {"": 0, "fit": 1, "transform": 1, "quantizer": 1, "entropy": 1, "op": 2, "metric": 1, "testing": 3,
        "torch": 3, "modality": 3,
        "integration": 4, "hf": 4, "lm": 4, "jobs": 4, "demo": 4, "cli": 5, "report": 4}


def room(path: Path) -> str:
    parts = path.relative_to(SRC).parts
    return parts[0] if len(parts) > 1 else ""


def imports_at_load(path: Path):
    """Modules imported when the file is loaded (not inside functions or TYPE_CHECKING blocks)."""
    def visit(nodes):
        for node in nodes:
            if isinstance(node, ast.Import):
                yield from ((a.name, 0) for a in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield (node.module or "", node.level)
            elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                yield from visit(node.orelse)
            elif isinstance(node, (ast.If, ast.Try, ast.ClassDef, ast.With)):
                yield from visit(node.body)
    return visit(ast.parse(path.read_text()).body)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SRC)))
def test_imports_run_one_way(path):
    own = room(path)
    for name, level in imports_at_load(path):
        if level == 0:
            assert name.split(".")[0] not in {"torch", "scipy", "pickle", "marshal", "dill"} or own in {"torch", "hf"}, \
                f"{path.name} loads {name}"
            continue
        base = path.relative_to(SRC).parts[:-1]
        target = (*base[: len(base) - level + 1], *name.split("."))
        other = target[0] if target[0] in RANK and (SRC / target[0]).is_dir() else ""
        if own == "" and other == "entropy":
            continue  # codes.py names the coder of a part
        assert RANK[other] <= RANK[own], f"{path.relative_to(SRC)} ({own or 'core'}) imports {other}"


def test_modules_stay_small():
    lengths = {p: len(p.read_text().splitlines()) for p in MODULES if p.name != "__init__.py"}
    assert statistics.median(lengths.values()) <= 150
    assert {str(p): n for p, n in lengths.items() if n > 500} == {}
    assert not [p for p in MODULES if p.stem in {"utils", "helpers", "common", "manager", "misc"}]


def test_files_that_texts_name_are_there():
    texts = [ROOT / name for name in ("FORMAT.md", "CONTRIBUTING.md", "SECURITY.md", "README.md")] + sorted((ROOT / "docs").glob("*.md"))
    for text in texts:
        for name in re.findall(r"`((?:native|src|tests|tools|fuzz|benchmarks)/[\w/.-]+\.\w+)`", text.read_text()):
            assert "NAME" in name or (ROOT / name).exists(), f"{text.name}: {name}"


def test_import_is_light():
    code = ("import sys, time; t = time.perf_counter(); import numpy; n = time.perf_counter(); import compand;"
            "print([m for m in ('torch', 'scipy', 'pandas', 'pyarrow', 'typer', 'rich', 'hypothesis') if m in sys.modules])")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_no_code_is_ever_loaded_from_a_file():
    for path in MODULES:
        text = path.read_text()
        assert not re.search(r"\b(pickle\.loads?|marshal\.loads?)\(|(?<![.\w])(eval|exec)\(", text) \
            and "allow_pickle=True" not in text, path


def test_repository_names_no_machine():
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if names.returncode:
        pytest.skip("not a git checkout")
    for name in names.stdout.splitlines():
        path = ROOT / name
        text = path.suffix in {".py", ".md", ".toml", ".txt", ".json", ".hpp", ".cpp", ".sh", ""}
        if text and path.is_file() and path != Path(__file__):
            assert not re.search(r"/(root|home)/\w", path.read_text(errors="ignore")), name

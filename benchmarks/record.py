"""What every benchmark shares: the machine, fair timing, a JSON file and a table."""

from __future__ import annotations

import datetime
import gc
import json
import os
import pathlib
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata

RESULTS = pathlib.Path(__file__).parent / "results"
PEERS = ("numpy", "constriction", "zstandard", "pcodec", "faiss-cpu", "turbovec", "scann", "usearch", "rabitqlib", "scalable-vs",
         "zipnn", "lmzip", "safetensors", "torch")


def machine() -> dict:
    """CPU model, CPUs this process may use, load, instruction set, versions."""
    from compand import _native

    cpu = platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as lines:
            cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), cpu)
    versions = {}
    for name in ("compand", *PEERS):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {"cpu": cpu, "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "isa": _native.isa(), "system": platform.platform(terse=True), "python": platform.python_version(),
            "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None, "versions": versions}


def interleave(fns: Mapping[str, Callable[[], object]], rounds: int, seconds: float = 60,
               clock: Callable[[], float] = time.perf_counter, twice: bool = False) -> dict[str, float]:
    """Median seconds of each function; every round runs each of them once, so that all meet the same noise.

    Stops after ``seconds`` once three rounds are done. One run before the first round is not counted. ``clock``: for functions that use
    one thread, `time.process_time` leaves out what the machine's other work takes. ``twice``: each runs twice in a row and the second
    run counts, as the first may be the one that asks the system for memory which the function before has given back.
    """
    times: dict[str, list[float]] = {name: [] for name in fns}
    begin = time.perf_counter()
    for done in range(-1, rounds):
        for name, fn in fns.items():
            gc.collect()
            if twice:
                fn()
            start = clock()
            fn()
            if done >= 0:
                times[name].append(clock() - start)
        if done >= 2 and time.perf_counter() - begin > seconds:
            break
    return {name: statistics.median(t) for name, t in times.items()}


def save(name: str, rows: list[dict], **about) -> pathlib.Path:
    """Write benchmarks/results/NAME.json: machine, date, command, what the caller adds, and the rows."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), **when(), **about, "rows": rows}, indent=1) + "\n")
    return path


def when() -> dict[str, str]:
    """Date and command of this run, for the file or, where runs replace some of its rows, for each of those."""
    return {"date": datetime.date.today().isoformat(),
            "command": " ".join(["python", "benchmarks/" + os.path.basename(sys.argv[0]), *map(_without_folders, sys.argv[1:])])}


def rows(name: str) -> list[dict]:
    """The rows that benchmarks/results/NAME.json has now."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text())["rows"] if path.exists() else []


def dated_rows(name: str) -> list[dict]:
    """`rows` with the date and command of their own run: those of the file where a row has none."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return []
    whole = json.loads(path.read_text())
    return [{**row, **{k: row.get(k, whole.get(k)) for k in ("date", "command")}} for row in whole["rows"]]


def _without_folders(words: str) -> str:
    """An argument with the absolute paths in it cut to their last names: where files lay says nothing to others."""
    return " ".join(re.sub(r"(^|=)/\S*/", r"\1", word) for word in words.split(" "))


def table(rows: list[dict]) -> str:
    """Rows as a Markdown table; columns in order of first appearance."""
    names = list(dict.fromkeys(key for row in rows for key in row))

    def text(value) -> str:
        if value is None:
            return "-"
        if isinstance(value, float):
            return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
        return str(value)

    lines = ["| " + " | ".join(names) + " |", "| " + " | ".join("---" for _ in names) + " |"]
    return "\n".join(lines + ["| " + " | ".join(text(row.get(n)) for n in names) + " |" for row in rows])

"""Scenes of splats: size at equal errors, pictures at equal size, speed, against SPZ, SOG and compressed PLY.

    python benchmarks/splats.py --data FOLDER [--more scene.ply ...] [--peer "node PATH/splat-transform"] [--views 20]

Peers are written and read back by PlayCanvas's splat-transform (npm install @playcanvas/splat-transform), the version it reports.
FOLDER holds the scenes of the shared test data. **All of them were quantized before** (SPZ, compressed PLY, SOG): where a
column has few distinct values, noise of half their distance is added before anything is measured, so that no coder gains by
meeting the old grid; ``noised`` names those columns. Scenes given with --more that are float PLY are taken as they are.

"equal errors": each of our steps is widened until the error of its attribute just stays within the peer's (of harmonics: half
of SPZ's). Position: p95 of distance over size; scale: RMS of logarithms; shape: p95 of the covariance's relative error, which is
where rotation is felt; opacity: RMS of alpha; sh0 and sh: RMS.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import numpy as np
import record

from compand import Codec, CompandError, _native
from compand.metric import attribute_errors
from compand.modality.packing import lossless_spec
from compand.modality.splats import Splats, matrix, order, read, write
from compand.modality.splats.quality import spec_of
from compand.modality.splats.scene import from_matrix
from compand.op.compare import render_quality
from compand.op.render import around

SCENES = {"biker": "biker.spz", "guitar": "guitar.compressed.ply", "playbot-31k": "playbot/3_0", "playbot-250k": "playbot/1_0",
          "playcanvas-logo": "playcanvas-logo"}
TIGHT = "turn=0.25:thin=1.0:even=true"  # the steps that meet the errors as they are defined here with the fewest bits
SAMPLE = 15000  # splats on which steps are sought
PEERS = {"spz": ".spz", "sog": ".sog", "compressed ply": ".compressed.ply"}


def noised(scene: Splats, seed: int = 0) -> tuple[Splats, list[str]]:
    """The scene with its old grid blurred: uniform noise up to halfway to the next values of a column that has few."""
    rng, touched = np.random.default_rng(seed), []
    x = matrix(scene).astype(np.float64)
    names = ["position"] * 3 + ["scale"] * 3 + ["rotation"] * 4 + ["opacity"] + ["sh0"] * 3 + ["sh"] * (x.shape[1] - 14)
    for j in range(x.shape[1]):
        levels, at = np.unique(x[:, j], return_inverse=True)
        if not 2 < len(levels) < len(x) / 2:
            continue
        middle = (levels[1:] + levels[:-1]) / 2
        low, high = np.concatenate([levels[:1], middle]), np.concatenate([middle, levels[-1:]])
        x[:, j] = low[at] + rng.random(len(x)) * (high - low)[at]
        touched.append(names[j])
    return from_matrix(x.astype(np.float32)), sorted(set(touched))


def flat(e: dict) -> dict[str, float]:
    """The errors that are held against each other."""
    return {"position": e["position"]["p95"], "scale": e["scale"], "shape": e["shape"]["p95"], "opacity": e["opacity"], "sh0": e["sh0"],
            "sh": e["sh"], "sh_relative": e["sh_relative"] if e["sh_signal"] else 0.0, "rotation": e["rotation"]["mean"]}


def coded(x: np.ndarray, spec: str) -> tuple[int, np.ndarray, dict[str, float]]:
    """Bytes of a file, what is decoded, bits a splat by part."""
    codec = Codec(spec).fit(x)
    codes = codec.encode(x)
    parts = {p: 8 * sum(b.parts[p].nbytes for b in codes.blocks) / len(x) for p in codes.blocks[0].parts}
    return len(codes.to_bytes()), codec.decode(codes), {p: round(v, 2) for p, v in parts.items()}


def matched(scene: Splats, x: np.ndarray, goal: dict[str, float], rounds: int = 9) -> dict:
    """Our smallest file whose errors stay within the goal's, attribute by attribute, found on a sample and then held by all splats."""
    some = np.ascontiguousarray(x[::-(-len(x) // SAMPLE)])
    part = from_matrix(some)
    low = {"position": 0.0, "opacity": 3.0, "sh0": 1.0, "sh": 0.0}  # logarithms of fineness
    high = {"position": 14.0, "opacity": 12.0, "sh0": 12.0, "sh": 12.0}

    def spec_at(p: dict[str, float], scale: int, rotation: float) -> str:
        return (f"splat:{p['position']:.3f}:{scale}:{rotation:.2f}:{round(2 ** p['opacity'])}:{2 ** -p['sh0']:.4g}:{2 ** -p['sh']:.4g}"
                f":adapt=0.0:{TIGHT}")

    def errors(s: Splats, x: np.ndarray, spec: str) -> tuple[dict[str, float], int, dict[str, float]]:
        nbytes, y, parts = coded(x, spec)
        return flat(attribute_errors(s, from_matrix(y))), nbytes, parts

    for _ in range(rounds):
        p = {k: (low[k] + high[k]) / 2 for k in low}
        e, *_ = errors(part, some, spec_at(p, 16, 6))
        for k in low:
            fine = e[k] <= goal[k] or (k == "sh" and not scene.degree)
            high[k], low[k] = (p[k], low[k]) if fine else (high[k], p[k])
    least = next((s for s in range(2, 256) if errors_of_scale(x, s) <= goal["scale"]), 256)
    found = []
    tried = 0
    for scale in sorted({min(256, round(least * 1.12 ** i)) for i in range(48)}):
        if tried == 3 or (errors(part, some, spec_at(high, scale, 16))[0]["shape"] > goal["shape"] and scale < 256):
            continue  # what scales leave of the shape's error is for rotation
        tried += 1
        coarse, fine = 2.0, 16.0
        for _ in range(7):
            middle = (coarse + fine) / 2
            e, _, bits = errors(part, some, spec_at(high, scale, middle))
            coarse, fine = (coarse, middle) if e["shape"] <= goal["shape"] else (middle, fine)
            if e["shape"] <= goal["shape"]:
                found.append((bits["scale"] + bits["rotation"], scale, middle))
    _, scale, rotation = min(found) if found else (0, 256, 16.0)
    for _ in range(6):  # what the sample did not show
        spec = spec_at(high, scale, rotation)
        e, nbytes, bits = errors(scene, x, spec)
        over = [k for k in ("position", "scale", "shape", "opacity", "sh0", "sh") if e[k] > goal[k] and (k != "sh" or scene.degree)]
        if not over:
            break
        high = {k: v + 0.02 * (k in over) for k, v in high.items()}
        scale, rotation = min(256, scale + ("scale" in over)), min(16.0, rotation + 0.06 * ("shape" in over))
    if over:
        y = from_matrix(coded(x, spec)[1])
        return {"spec": spec, "bytes_per_splat": nbytes / len(x), "errors": e, "bits": bits, "not_within": sorted(over), "decoded": y}
    return relaxed(scene, x, goal, spec)


MOVES: tuple[dict[str, float], ...] = (
    {"position": -0.0625}, {"position": -1 / 64}, {"rotation": -0.0625}, {"rotation": -1 / 64}, {"turn": -0.125},
    {"turn": -0.125, "rotation": -0.125}, {"scale": -1}, {"scale": -1, "rotation": 0.0625}, {"scale": 1, "rotation": -0.0625},
    {"opacity": -1}, {"color": 0.01}, {"sh": 0.01})


def relaxed(scene: Splats, x: np.ndarray, goal: dict[str, float], spec: str, rounds: int = 2) -> dict:
    """The spec with steps wider, one at a time or one against another, while errors stay within the goal's and the file shrinks."""
    words = spec.split(":")
    named = dict(w.split("=") for w in words[7:])
    p = dict(zip(("position", "scale", "rotation", "opacity", "color", "sh"), map(float, words[1:7]), strict=True))
    p |= {"turn": float(named.pop("turn")), "position": round(64 * p["position"]) / 64, "rotation": round(64 * p["rotation"]) / 64}

    def tried(p: dict[str, float]) -> dict:
        spec = (f"splat:{p['position']:.6f}:{p['scale']:.0f}:{p['rotation']:.6f}:{p['opacity']:.0f}:{p['color']:.4g}:{p['sh']:.4g}:"
                f"adapt={named['adapt']}:turn={p['turn']:g}:thin={named['thin']}:even={named['even']}")
        nbytes, rows, bits = coded(x, spec)
        y = from_matrix(rows)
        e = flat(attribute_errors(scene, y))
        over = [k for k in ("position", "scale", "shape", "opacity", "sh0", "sh") if e[k] > goal[k] and (k != "sh" or scene.degree)]
        return {"spec": spec, "bytes_per_splat": nbytes / len(x), "errors": e, "bits": bits, "not_within": sorted(over), "decoded": y}

    best = tried(p)
    for _ in range(12):  # steps of an older coder may be a little too wide
        for k in best["not_within"]:
            name, more = {"position": ("position", 1 / 32), "scale": ("scale", 1), "shape": ("rotation", 1 / 32), "opacity": ("opacity", 1),
                          "sh0": ("color", -0.02), "sh": ("sh", -0.02)}[k]
            p[name] = p[name] * (1 + more) if name in ("color", "sh") else p[name] + more
        if not best["not_within"]:
            break
        best = tried(p)
    for _ in range(rounds):
        before = best["bytes_per_splat"]
        for move in MOVES:
            if "sh" in move and not scene.degree:
                continue
            while True:  # as long as it helps
                q = {k: v * (1 + move.get(k, 0)) if k in ("color", "sh") else v + move.get(k, 0) for k, v in p.items()}
                if q["turn"] < 0 or q["scale"] < 1 or q["opacity"] < 2:
                    break
                new = tried(q)
                if new["not_within"] or not (best["not_within"] or new["bytes_per_splat"] < best["bytes_per_splat"]):
                    break
                p, best = q, new
        if best["bytes_per_splat"] == before:
            break
    return best


def relaxed_row(row: dict, scene: Splats, rows: list[dict], views: int) -> dict:
    """A row of ours at a peer's errors, with steps as wide as they may be."""
    scene = scene.take(order(scene.positions))
    kind = row["kind"].removeprefix("compand at errors of ")
    other = next(r for r in rows if r["scene"] == row["scene"] and r["kind"] == kind)
    e = other["errors"]
    ours = relaxed(scene, matrix(scene), {**e, "sh": e["sh"] / 2 if kind == "spz" else e["sh"]}, row["spec"])
    if ours["not_within"] or ours["bytes_per_splat"] >= row["bytes_per_splat"]:
        return row
    q = render_quality(scene, ours.pop("decoded"), around(scene, views, 320, 240))
    smaller = 1 - ours["bytes_per_splat"] / other["bytes_per_splat"]
    return {**row, **ours, "smaller": smaller, "psnr": q["psnr"], "psnr_seen": q["psnr_seen"]}


def errors_of_scale(x: np.ndarray, scale: int) -> float:
    """RMS of logarithms rounded to so many steps an octave."""
    step = np.log(2) / scale
    return float(np.sqrt(np.mean((np.rint(x[:, 3:6] / step) * step - x[:, 3:6]) ** 2)))


def peer(tool: str, kind: str, path: pathlib.Path, folder: pathlib.Path, limit: float) -> tuple[int, Splats] | str:
    """Bytes of the scene in a peer's format, and the scene read back; or why not. What an earlier run left in ``folder`` is taken."""
    out, back = folder / f"o{PEERS[kind]}", folder / f"back-{kind}.ply"
    words = tool.split()
    try:
        if out.exists() and back.exists():
            return out.stat().st_size, read(back)
        extra = ["-g", "cpu"] if kind == "sog" else []
        subprocess.run([*words, "-q", "-w", *extra, str(path), str(out)], check=True, capture_output=True, timeout=limit)
        subprocess.run([*words, "-q", "-w", str(out), str(back)], check=True, capture_output=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return f"not done in {limit:.0f} s"
    except (OSError, subprocess.CalledProcessError) as e:
        return f"failed: {e}"
    return out.stat().st_size, read(back)


def at_size(x: np.ndarray, nbytes: float) -> tuple[str, int, np.ndarray]:
    """The best quality within so many bytes."""
    low, high = 1.0, 100.0
    for _ in range(7):
        middle = (low + high) / 2
        low, high = (middle, high) if coded(x, spec_of(middle))[0] <= nbytes else (low, middle)
    n, y, _ = coded(x, spec_of(low))
    return spec_of(low), n, y


def scene_rows(name: str, scene: Splats, touched: list[str], a: argparse.Namespace) -> list[dict]:
    """Everything measured of one scene."""
    scene = scene.take(order(scene.positions))
    x, n = matrix(scene), len(scene)
    about = {"scene": name, "splats": n, "degree": scene.degree, "noised": touched}
    cameras = around(scene, a.views, 320, 240)
    rows = [{**about, "kind": "ply", "bytes_per_splat": 4 * (x.shape[1] + 3)}]
    with tempfile.TemporaryDirectory() as folder:
        if a.keep:
            folder = str(pathlib.Path(a.keep, name))
            pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
        path = pathlib.Path(folder, "scene.ply")
        write(path, scene, overwrite=True)
        for kind in PEERS:
            got = peer(a.peer, kind, path, pathlib.Path(folder), a.limit) if a.peer else "no --peer given"
            if isinstance(got, str):
                rows.append({**about, "kind": kind, "skipped": got})
                continue
            size, back = got
            e = flat(attribute_errors(scene, back))
            q = render_quality(scene, back, cameras)
            rows.append({**about, "kind": kind, "bytes_per_splat": size / n, "errors": e, "psnr": q["psnr"], "psnr_seen": q["psnr_seen"]})
            goal = {**e, "sh": e["sh"] / 2 if kind == "spz" else e["sh"]}
            ours = matched(scene, x, goal)
            q = render_quality(scene, ours.pop("decoded"), cameras)
            rows.append({**about, "kind": f"compand at errors of {kind}", **ours, "smaller": 1 - ours["bytes_per_splat"] * n / size,
                         "psnr": q["psnr"], "psnr_seen": q["psnr_seen"]})
            print(name, kind, f"{size / n:.2f}", "compand", f"{ours['bytes_per_splat']:.2f}", ours["not_within"],
                  f"{rows[-2]['psnr']:.2f} {q['psnr']:.2f} dB", flush=True)
    return [*rows, *sized_rows(about, scene, cameras), lossless_row(about, scene)]


def sized_rows(about: dict, scene: Splats, cameras: list) -> list[dict]:
    """Pictures of our files of 9 and 13 bytes a splat at the default trade-off."""
    scene = scene.take(order(scene.positions))
    x, n, rows = matrix(scene), len(scene), []
    for budget in (9, 13):
        spec, size, y = at_size(x, budget * n)
        q = render_quality(scene, from_matrix(y), cameras)
        rows.append({**about, "kind": f"compand at {budget} B", "spec": spec, "bytes_per_splat": size / n, "psnr": q["psnr"],
                     "psnr_min": q["psnr_min"], "psnr_seen": q["psnr_seen"], "ssim": q["ssim"]})
        print(about["scene"], budget, "B", f"{q['psnr']:.2f} dB", flush=True)
    return rows


def lossless_row(about: dict, scene: Splats) -> dict:
    """Every bit of every splat, in an order of our own; the spec before (planes of attributes apart) beside it."""
    scene = scene.take(order(scene.positions))
    x, spec = matrix(scene), lossless_spec(modality="splats")
    start = time.perf_counter()
    codes = Codec(spec).encode(x)
    middle = time.perf_counter()
    back = Codec(spec).decode(codes)
    end = time.perf_counter()
    assert back.tobytes() == x.tobytes()
    planes = sum(len(Codec("planes,rans:1").encode(v).to_bytes()) for v in scene.arrays().values() if v.size)
    return {**about, "kind": "compand lossless", "spec": spec, "bytes_per_splat": len(codes.to_bytes()) / len(x),
            "bytes_per_splat_of_planes": planes / len(x), "encode_per_s": len(x) / (middle - start),
            "decode_per_s": len(x) / (end - middle)}


ALTERNATIVES = ("vq:1024,rans", "vq:4096,rans", "+".join(["vq:256"] * 4) + ",rans", "+".join(["vq:1024"] * 6) + ",rans", "pq:9x8,rans",
                "klt,ecsq:4,rans", "klt,ecsq:8,rans")


def harmonics_rows(name: str, scene: Splats) -> list[dict]:
    """Other ways to code harmonics alone (a shared codebook, residual codebooks, products), and ours at no more than their error."""
    scene = scene.take(order(scene.positions))
    x, rest, rows = matrix(scene), scene.sh_rest, []
    for spec in ALTERNATIVES if rest.size else ():
        try:
            codec = Codec(spec).fit(rest)
        except CompandError as e:
            rows.append({"scene": name, "kind": f"harmonics: {spec}", "skipped": str(e).splitlines()[0]})
            continue
        codes = codec.encode(rest)
        error = float(np.sqrt(np.mean((codec.decode(codes) - rest) ** 2)))
        low, high = -2.0, 12.0
        for _ in range(9):
            middle = (low + high) / 2
            own = Codec(f"splat:sh={2 ** -middle:.5g}:adapt=0.0").fit(x)
            mine = own.encode(x)
            fine = float(np.sqrt(np.mean((own.decode(mine)[:, 14:] - rest) ** 2))) <= error
            low, high = (low, middle) if fine else (middle, high)
            if fine:
                ours = (own.nbytes + sum(b.parts["sh"].nbytes for b in mine.blocks)) / len(x)
        rows.append({"scene": name, "kind": f"harmonics: {spec}", "error": error, "bytes_per_splat": (codes.nbytes + codec.nbytes) / len(x),
                     "splat_bytes": ours})
        print(rows[-1], flush=True)
    return rows


def gsplat_row(name: str, scene: Splats, python: str) -> list[dict]:
    """gsplat's PNG method and ours at its errors, without harmonics above the constant (gsplat_png.py says why)."""
    scene = scene.with_degree(0).take(order(scene.positions))
    x, n = matrix(scene), len(scene)
    script = pathlib.Path(__file__).with_name("gsplat_png.py")
    with tempfile.TemporaryDirectory() as folder:
        given, out, back = (pathlib.Path(folder, f) for f in ("in.npz", "out", "back.npz"))
        np.savez(given, **scene.arrays())
        try:
            subprocess.run([python, str(script), str(given), str(out), str(back)], check=True, capture_output=True, timeout=600)
        except (OSError, subprocess.SubprocessError) as e:
            return [{"scene": name, "kind": "gsplat png", "skipped": f"failed: {type(e).__name__}"}]
        size = sum(p.stat().st_size for p in out.iterdir())
        other = Splats(**np.load(back))
    e = flat(attribute_errors(scene, other))
    e["sh"] = 0.0
    ours = matched(scene, x, e)
    cameras = around(scene, 20, 320, 240)
    pictures = [render_quality(scene, s, cameras) for s in (other, ours.pop("decoded"))]
    about = {"scene": name, "splats": n, "degree": 0}
    return [{**about, "kind": "gsplat png", "bytes_per_splat": size / n, "errors": e, "psnr": pictures[0]["psnr"]},
            {**about, "kind": "compand at errors of gsplat png", **ours, "psnr": pictures[1]["psnr"],
             "smaller": 1 - ours["bytes_per_splat"] * n / size}]


def speed_row(name: str, scene: Splats) -> dict:
    """Splats a second on one thread, without and with fitting, at the default quality."""
    x = matrix(scene.take(order(scene.positions)))
    _native.set_threads(1)
    codec = Codec(spec_of(50)).fit(x)
    codes = codec.encode(x)
    t = record.interleave({"fit + encode": lambda: Codec(spec_of(50)).fit(x).encode(x), "encode": lambda: codec.encode(x),
                           "decode": lambda: codec.decode(codes), "order": lambda: order(x[:, :3])}, 7, 20)
    _native.set_threads(0)
    return {"scene": name, "kind": "speed", "splats": len(x), "bytes_per_splat": codes.nbytes / len(x),
            **{f"{k} splats/s": len(x) / v for k, v in t.items()}}


def part(row: dict) -> str:
    """Which run makes a row."""
    if row["kind"].endswith("gsplat png"):
        return "gsplat"
    return row["kind"] if row["kind"] in ("speed", "compand lossless") else "harmonics" if row["kind"].startswith("harmonics") else "scene"


def main() -> None:
    """Measure every scene that is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("COMPAND_DATA", "../shared/data"))
    parser.add_argument("--more", nargs="*", default=[], help="further scenes, NAME=PATH or PATH, taken as they are")
    parser.add_argument("--peer", default="", help="how to call splat-transform")
    parser.add_argument("--scenes", nargs="*", help="only these")
    parser.add_argument("--views", type=int, default=20)
    parser.add_argument("--limit", type=float, default=300, help="seconds a peer may take for a file")
    parser.add_argument("--keep", help="folder in which files of peers are kept, and taken from by the next run")
    parser.add_argument("--harmonics", action="store_true", help="only other ways to code harmonics; keeps the other rows")
    parser.add_argument("--gsplat", default="", help="only gsplat's PNG method, by this Python, which has gsplat; keeps the other rows")
    parser.add_argument("--speed", action="store_true", help="only speed; keeps the other rows of the results")
    parser.add_argument("--sized", action="store_true", help="only pictures at 9 and 13 bytes; keeps the other rows of the results")
    parser.add_argument("--lossless", action="store_true", help="only without loss; keeps the other rows of the results")
    parser.add_argument("--relax", default="", help="only ours at the errors of this peer, from steps in the results; keeps the rest")
    a = parser.parse_args()
    result = record.RESULTS / "splats.json"
    before = json.loads(result.read_text()) if result.exists() else {"rows": []}
    old = before["rows"]
    found: dict[str, tuple[pathlib.Path, bool]] = {k: (pathlib.Path(a.data, "splats", v), True) for k, v in SCENES.items()}
    for word in a.more:
        name, _, path = word.rpartition("=")
        found[name or pathlib.Path(path).stem] = (pathlib.Path(path), False)
    rows: list[dict] = []
    for name, (path, quantized) in found.items():
        if not path.exists() or (a.scenes and name not in a.scenes):
            print(f"{name}: {'not asked for' if path.exists() else 'not there'}")
            continue
        start = time.perf_counter()
        scene = read(path)
        scene.opacity, scene.scales = np.clip(scene.opacity, -16, 16), np.clip(scene.scales, -40, 40)
        scene, touched = noised(scene) if quantized else (scene, [])
        if a.gsplat:
            rows += gsplat_row(name, scene, a.gsplat)
            print(rows[-2:], flush=True)
            continue
        if a.relax:
            ours = (name, f"compand at errors of {a.relax}")
            rows += [relaxed_row(r, scene, old, a.views) for r in old if (r["scene"], r["kind"]) == ours]
            print(rows[-1:], flush=True)
            continue
        if a.sized:
            about = {"scene": name, "splats": len(scene), "degree": scene.degree, "noised": touched}
            rows += sized_rows(about, scene, around(scene, a.views, 320, 240))
            continue
        if a.lossless:
            rows.append(lossless_row({"scene": name, "splats": len(scene), "degree": scene.degree, "noised": touched}, scene))
            print(rows[-1], flush=True)
            continue
        rows += [speed_row(name, scene)] if a.speed else harmonics_rows(name, scene) if a.harmonics else scene_rows(name, scene, touched, a)
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    key = (lambda r: r["kind"]) if a.relax or a.sized else part
    done = {(r["scene"], key(r)) for r in rows}
    rows = [r for r in old if (r["scene"], key(r)) not in done] + rows
    said = before.get("peer", "")
    if a.peer:
        told = subprocess.run([*a.peer.split(), "--version"], capture_output=True, text=True)
        said = (told.stdout + told.stderr).strip()
    sys.argv[1:] = [re.sub(r"(^|[= ])/\S*/", r"\1", w) for w in sys.argv[1:]]  # folders of this machine are nobody's business
    record.save("splats", rows, peer=said)
    print(record.table([{k: v for k, v in r.items() if isinstance(v, (str, int, float))} for r in rows]))


if __name__ == "__main__":
    main()

"""Manners: what is refused, how it is said, and what is left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

COMPAND = [sys.executable, "-m", "compand"]


def call(*words, **options):
    return subprocess.run([*COMPAND, *map(str, words)], capture_output=True, timeout=60, **options)


def test_refuses_to_overwrite(ok, run, npy):
    ok("compress", npy, "-o", "a.cpd")
    before = Path("a.cpd").read_bytes()
    for words in (("compress", npy, "int:2", "-o", "a.cpd"), ("decompress", "a.cpd", "-o", npy)):
        refused = run(*words)
        assert refused.exit_code == 1 and "exists" in refused.stderr and "-f" in refused.stderr and refused.stderr.count("\n") == 1
    assert Path("a.cpd").read_bytes() == before
    ok("compress", npy, "int:2", "-o", "a.cpd", "-f")
    assert Path("a.cpd").stat().st_size < len(before)


@pytest.mark.parametrize("words, code, said", [
    (("compress", "v.npy", "int:99"), 1, "^^"),
    (("compress", "v.npy", "hadamrd,int:4"), 1, "did you mean 'hadamard'"),
    (("compress", "v.npy", "hadamard"), 1, "does not give codes"),
    (("compress", "none.npy"), 1, "none.npy"),
    (("compress", "v.npy", "-o", "no/such/folder.cpd"), 1, "no such folder"),
    (("compress", "v.npy", "int:4", "--bits", "3"), 2, "exclude each other"),
    (("compress", "v.npy", "--size", "ten"), 2, "is not a size"),
    (("compress", "v.npy", "--bits", "0"), 2, "above 0"),
    (("compress", "v.npy", "-c", "-o", "x.cpd"), 2, "-c"),
    (("compress", "v.npy", "--bits", "0.01"), 1, "too few"),
    (("compress", "text.txt"), 1, "text.txt"),
    (("decompress", "v.npy"), 1, "not a .cpd file"),
    (("info", "none.cpd"), 1, "none.cpd"),
    (("verify", "v.npy"), 1, "not a .cpd file"),
    (("eval", "v.npy", "none.npy"), 1, "none.npy"),
    (("bench", "int:4", "none.npy"), 1, "none.npy"),
    (("compress", "v.npy", "--keep"), 2, "--keep keeps what surrounds a picture"),
    (("compress", "v.npy", "--key", "9"), 2, "--key is for a folder"),
    (("compress", "v.npy", "--effort", "high"), 2, "--effort goes with --calib"),
    (("compress", "v.npy", "--bits", "3", "--calib", "text.txt", "--keep"), 2, "leave out --keep"),
    (("compress", "v.npy", "--quality", "30", "--calib", "text.txt"), 2, "leave out --quality"),
    (("nonsense",), 2, "nonsense"),
    (("compress",), 2, "INPUT"),
])
def test_failures_are_words(run, there, npy, words, code, said):
    Path("text.txt").write_text("hello " * 10)
    result = run(*words)
    words = " ".join(result.stderr.replace("│", " ").split())  # a box breaks lines
    assert result.exit_code == code and said in words and "Traceback" not in result.output
    assert not list(there.glob("*.cpd")) and not list(there.glob(".*"))


def test_corrupt_files_are_told(ok, run, npy):
    ok("compress", npy, "-o", "a.cpd")
    data = bytearray(Path("a.cpd").read_bytes())
    for at in (9, 1000, len(data) - 300, len(data) - 10):
        bad = bytearray(data)
        bad[at] ^= 0xFF
        Path("bad.cpd").write_bytes(bad)
        result = run("verify", "bad.cpd")
        assert result.exit_code == 1 and result.stderr.startswith("compand: ") and "Traceback" not in result.output
    Path("bad.cpd").write_bytes(data[:1000])
    for verb in ("info", "verify", "decompress"):
        assert run(verb, "bad.cpd").exit_code == 1


def test_nan_is_refused_with_the_way_out(run, there):
    x = np.ones((100, 8), np.float32)
    x[3, 4] = np.nan
    np.save("nan.npy", x)
    result = run("compress", "nan.npy", "int:8")
    assert result.exit_code == 1 and "NaN" in result.stderr and not list(there.glob("*.cpd"))
    assert run("compress", "nan.npy", "--lossless").exit_code == 0
    assert "exact" in run("eval", "nan.npy", "nan.npy.cpd").stdout


def test_compressed_already(ok, run, npy):
    ok("compress", npy)
    result = run("compress", "v.npy.cpd")
    assert result.exit_code == 1 and "already" in result.stderr


def test_pipe_and_quiet(there, npy):
    first = call("compress", npy, "int:8", "-c")
    assert first.returncode == 0 and first.stderr == b""
    Path("a.cpd").write_bytes(first.stdout)
    back = call("decompress", "a.cpd", "-c")
    assert back.returncode == 0 and back.stdout[:6] == b"\x93NUMPY" and back.stderr == b""
    quiet = call("compress", npy, "-q")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, b"", b"")
    told = call("info", "a.cpd", "--json")
    assert json.loads(told.stdout)["bytes"] == len(first.stdout)


def test_terminal_gets_no_binary(there, npy):
    pty = pytest.importorskip("pty")
    leader, follower = pty.openpty()
    result = subprocess.run([*COMPAND, "compress", npy, "-c"], stdout=follower, stderr=subprocess.PIPE, timeout=60)
    os.close(leader), os.close(follower)
    assert result.returncode == 1 and b"terminal" in result.stderr


def test_reader_may_leave(there, npy):
    process = subprocess.Popen([*COMPAND, "compress", npy, "raw", "-c"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.wait(60) == 1
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("which, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupt_leaves_nothing(there, which, code):
    np.save("big.npy", np.random.default_rng(0).standard_normal((60_000, 256), dtype=np.float32))
    process = subprocess.Popen([*COMPAND, "compress", "big.npy", "hadamard,int:4:group=32", "-o", "out.cpd"], stderr=subprocess.PIPE,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))  # a shell's & ignores it
    deadline = time.monotonic() + 30
    while not [p for p in there.iterdir() if p.name != "big.npy"] and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(which)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code and b"Traceback" not in said
    assert [p.name for p in there.iterdir()] == ["big.npy"]


def test_full_disk_says_so(there, npy):
    resource = pytest.importorskip("resource")
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with open("/dev/full", "wb") as full:
        result = subprocess.run([*COMPAND, "compress", npy, "raw", "-c"], stdout=full, stderr=subprocess.PIPE, timeout=60)
    assert result.returncode == 1 and b"disk is full" in result.stderr
    limit = (1 << 16, 1 << 16)

    def small_disk():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)

    short = subprocess.run([*COMPAND, "compress", npy, "raw", "-o", "a.cpd"], capture_output=True, timeout=60, preexec_fn=small_disk)
    assert short.returncode == 1 and b"Traceback" not in short.stderr and not Path("a.cpd").exists()
    assert [p.name for p in there.iterdir()] == ["v.npy"]


def test_without_the_extra(there):
    code = "import sys; sys.modules['typer'] = None; sys.argv = ['compand']; from compand.cli import main; main()"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert result.returncode == 2 and b"compand[cli]" in result.stderr


def test_faults_of_ours_are_words_too(run, there, npy, monkeypatch):
    import compand.cli.compress as verb

    monkeypatch.setattr(verb, "measured", lambda *a: 1 / 0)
    result = run("compress", npy)
    assert result.exit_code == 1 and "please report" in result.stderr
    monkeypatch.setenv("COMPAND_DEBUG", "1")
    assert isinstance(run("compress", npy, "-f").exception, ZeroDivisionError)


def test_help_loads_little():
    code = ("import sys; from compand.cli.app import app\n"
            "print([m for m in ('torch', 'scipy', 'pyarrow', 'rich.progress', 'rich.tree') if m in sys.modules])")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_standard_input_and_output(npy, there):
    whole = Path(npy).read_bytes()
    packed = call("compress", "-", "--lossless", input=whole)
    assert packed.returncode == 0 and packed.stdout[:4] == b"\x89CPD", packed.stderr
    back = call("decompress", "-", input=packed.stdout)
    assert back.returncode == 0 and back.stdout == whole, back.stderr
    assert call("compress", "-", "int:8", "-o", "named.cpd", input=whole).returncode == 0 and Path("named.cpd").stat().st_size > 100
    broken = call("decompress", "-", "-o", "x.npy", input=packed.stdout[:-9])
    assert broken.returncode == 1 and b"cut off" in broken.stderr and not Path("x.npy").exists()

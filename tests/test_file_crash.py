"""A write that is cut short (exception, kill, full disk) leaves the old file or the whole new one, and nothing else for long."""

import errno
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import compand
from compand.container import ChunkWriter

X = np.random.default_rng(1).standard_normal((3000, 64)).astype(np.float32)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a.cpd"
    with compand.Writer(path) as file:
        file.write("old", X[:10], "raw")
    return path


def unchanged(path):
    assert os.listdir(path.parent) == [path.name]
    assert compand.open(path).names == ("old",) and compand.open(path).verify().ok


@pytest.mark.parametrize("options", [{"overwrite": True}, {"append": True}], ids=str)
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_file(path, options, error):
    with pytest.raises(error), compand.Writer(path, **options) as file:
        file.write("new", X, "raw")
        assert len(os.listdir(path.parent)) == 2
        raise error
    unchanged(path)


def test_nothing_is_overwritten_unasked(path):
    with pytest.raises(compand.OverwriteError, match="overwrite=True"):
        compand.Writer(path)
    unchanged(path)
    other = path.with_name("b.cpd")
    with pytest.raises(compand.OverwriteError), compand.Writer(other) as file:
        file.write("x", X, "raw")
        other.write_bytes(b"somebody else was here")
    assert other.read_bytes() == b"somebody else was here" and len(os.listdir(path.parent)) == 2


def test_overwriting_replaces(path):
    before = compand.open(path)
    with compand.Writer(path, overwrite=True) as file:
        file.write("new", X, "raw")
    assert compand.open(path).names == ("new",) and os.listdir(path.parent) == [path.name]
    assert np.array_equal(before["old"].array(), X[:10])  # a map taken earlier shows the old file still


def test_a_link_is_followed(path):
    link = path.with_name("link.cpd")
    link.symlink_to(path)
    with compand.Writer(link, overwrite=True) as file:
        file.write("new", X, "raw")
    assert link.is_symlink() and compand.open(path).names == ("new",)


@pytest.mark.parametrize("options", [{"overwrite": True}, {"append": True}], ids=str)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("after", [0, 1, 2, 5, "finish", "sync", "rename"])
def test_a_full_disk_leaves_the_old_file(path, monkeypatch, options, after, code):
    def fail(*_, **__):
        raise OSError(code, os.strerror(code))

    real, writes = ChunkWriter._put, [0]

    def put(self, at, data):
        writes[0] += 1
        if writes[0] > after:
            fail()
        real(self, at, data)

    if after == "finish":
        monkeypatch.setattr(ChunkWriter, "finish", fail)
    elif after == "sync":
        monkeypatch.setattr(os, "fsync", fail)
    elif after == "rename":
        monkeypatch.setattr(os, "replace", fail)
    else:
        monkeypatch.setattr(ChunkWriter, "_put", put)
    with pytest.raises(OSError) as error, compand.Writer(path, **options) as file:
        for i in range(9):
            file.write(str(i), X + i, "raw")
    assert error.value.errno == code
    monkeypatch.undo()
    unchanged(path)


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
def test_a_real_limit_of_the_system(path):
    """The system itself refuses to write more: the error comes through, the old file stays."""
    code = f"""
import resource, signal, numpy as np, compand
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    with compand.Writer({str(path)!r}, overwrite=True) as file:
        file.write("x", np.ones((1000, 1000)), "raw")
except OSError as e:
    print(e.errno)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == errno.EFBIG
    unchanged(path)


WRITE = """
import sys, numpy as np, compand
rng = np.random.default_rng(1)
print("ready", flush=True)
sys.stdin.readline()
x = rng.integers(0, 9, (4000, 64), np.uint8)
with compand.Writer(sys.argv[1], overwrite=True) as file:
    for i in range(12):
        file.write(f"new{i}", x, "raw" if i % 3 else "bytes,lzma")
print("done", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs kill -9")
def test_kill_at_any_moment_leaves_a_whole_file(path, tmp_path):
    whole = tmp_path / "whole.cpd"
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", WRITE, str(whole)], input="\n", text=True, check=True, capture_output=True)
    old, new = path.read_bytes(), whole.read_bytes()
    whole.unlink()
    clock = random.Random(4)
    outcomes = set()
    for _ in range(12):
        path.write_bytes(old)
        child = subprocess.Popen([sys.executable, "-c", WRITE, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert child.stdout.readline() == "ready\n"
        child.stdin.write("\n")
        child.stdin.flush()
        time.sleep(clock.random() * 0.25)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdin.close()
        child.stdout.close()
        found = path.read_bytes()
        assert found in (old, new)
        outcomes.add((found == new, len(os.listdir(tmp_path))))
    assert time.monotonic() - started < 600
    assert all(files <= 2 for _, files in outcomes)  # each start has removed what the last one left
    with compand.Writer(path, overwrite=True) as file:
        file.write("x", X, "raw")
    assert os.listdir(tmp_path) == [path.name]


def test_temporaries_of_the_living_are_kept(path):
    with compand.Writer(path, overwrite=True) as first:
        first.write("first", X, "raw")
        with compand.Writer(path, overwrite=True) as second:
            second.write("second", X, "raw")
            assert len(os.listdir(path.parent)) == 3
    assert compand.open(path).names == ("first",) and os.listdir(path.parent) == [path.name]


def test_a_damaged_file_is_not_appended_to(path):
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)
    with pytest.raises(compand.CorruptError), compand.Writer(path, append=True):
        pass
    assert path.read_bytes() == bytes(data) and os.listdir(path.parent) == [path.name]

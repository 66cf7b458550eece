"""PLY of splats: what is written is read back bit for bit; other tools' order of properties; damage."""

import numpy as np
import pytest

from compand import CompandError, FormatError, InputError, UnsupportedError
from compand.errors import OverwriteError
from compand.modality.splats import Splats, read, write
from compand.modality.splats.ply import properties


@pytest.mark.parametrize("degree", range(5))
@pytest.mark.parametrize("n", [0, 1, 300])
def test_round_trip(scene, tmp_path, degree, n):
    s = scene(n, degree)
    write(tmp_path / "a.ply", s)
    got = read(tmp_path / "a.ply")
    assert got.degree == degree and not got.extra
    for name, x in s.arrays().items():
        assert np.array_equal(getattr(got, name), x), name
    with pytest.raises(OverwriteError):
        write(tmp_path / "a.ply", s)
    with pytest.raises(InputError, match="suffix"):
        write(tmp_path / "a.obj", s)


def test_layout_is_that_of_the_trainer(scene, tmp_path):
    """f_rest is channel by channel in the file, coefficient by coefficient in memory."""
    s = scene(4, 2)
    write(tmp_path / "a.ply", s)
    data = (tmp_path / "a.ply").read_bytes()
    head, _, body = data.partition(b"end_header\n")
    rows = np.frombuffer(body, "<f4").reshape(4, -1)
    names = [line.split()[2].decode() for line in head.splitlines() if line.startswith(b"property")]
    assert names == properties(s) and rows.shape[1] == len(names) == 14 + 3 + 24
    rest = rows[:, names.index("f_rest_0"):][:, :24].reshape(4, 3, 8)
    assert np.array_equal(rest, s.sh_rest.reshape(4, 8, 3).swapaxes(1, 2))


def test_other_order_types_and_extra_properties(tmp_path, scene):
    s = scene(5, 0)
    names = [n for n in properties(s) if n not in ("nx", "ny", "nz")][::-1]
    cols = {n: v for n, v in zip(("x", "y", "z"), s.positions.T, strict=True)}
    cols |= {f"f_dc_{i}": s.sh0[:, i] for i in range(3)} | {f"scale_{i}": s.scales[:, i] for i in range(3)}
    cols |= {f"rot_{i}": s.rotations[:, i] for i in range(4)} | {"opacity": s.opacity, "label": np.arange(5)}
    rows = np.zeros(5, np.dtype([(n, ">u1" if n == "label" else ">f8") for n in ["label", *names]]))
    for n, x in cols.items():
        rows[n] = x
    head = "".join(f"property {'uchar' if n == 'label' else 'double'} {n}\r\n" for n in rows.dtype.names)
    head = f"ply\r\nformat binary_big_endian 1.0\r\ncomment é\r\nelement vertex 5\r\n{head}end_header\r\n"
    (tmp_path / "b.ply").write_bytes(head.encode() + rows.tobytes())
    got = read(tmp_path / "b.ply")
    assert np.array_equal(got.positions, s.positions) and np.array_equal(got.rotations, s.rotations)
    assert np.array_equal(got.extra["label"], np.arange(5))
    write(tmp_path / "c.ply", got)
    assert np.array_equal(read(tmp_path / "c.ply").extra["label"], np.arange(5))


def test_what_it_is_not(tmp_path):
    for text, error in ((b"ply\nformat ascii 1.0\nelement vertex 0\nend_header\n", UnsupportedError),
                        (b"ply\nformat binary_little_endian 1.0\nelement vertex 1\nproperty float x\nend_header\n\0\0\0\0", FormatError),
                        (b"ply\nformat binary_little_endian 1.0\nelement vertex 99999999999999\nend_header\n", CompandError),
                        (b"ply\nelement face 1\nproperty list uchar int vertex_indices\nend_header\n", UnsupportedError),
                        (b"ply\nelement vertex 1\nproperty float x\nproperty float x\nend_header\n", FormatError),
                        (b"hello", FormatError), (b"", FormatError)):
        (tmp_path / "x.ply").write_bytes(text)
        with pytest.raises(error):
            read(tmp_path / "x.ply")


def test_shapes_are_checked():
    with pytest.raises(InputError, match="rotations"):
        Splats(np.zeros((3, 3)), np.zeros((3, 3)), np.zeros((3, 3)), np.zeros(3), np.zeros((3, 3)))
    with pytest.raises(InputError, match="sh_rest"):
        Splats(np.zeros((3, 3)), np.zeros((3, 3)), np.zeros((3, 4)), np.zeros(3), np.zeros((3, 3)), np.zeros((3, 10)))


def test_degree_can_be_changed(scene):
    s = scene(7, 2)
    assert np.array_equal(s.with_degree(1).sh_rest, s.sh_rest[:, :9])
    assert not s.with_degree(3).sh_rest[:, 24:].any() and s.with_degree(3).degree == 3
    assert np.array_equal(s.take([3, 1]).opacity, s.opacity[[3, 1]])


def test_damage(scene, tmp_path):
    write(tmp_path / "a.ply", scene(3, 1))
    data = (tmp_path / "a.ply").read_bytes()
    rng = np.random.default_rng(0)
    for i in range(1500):
        bad = bytearray(data[:rng.integers(0, len(data))] if i % 3 == 0 else data)
        for at in rng.integers(0, max(1, min(len(bad), 900)), 1 + i % 3):
            if bad:
                bad[at] = rng.choice([0, 10, 32, 48, 57, 255, bad[at] ^ 1])
        (tmp_path / "x.ply").write_bytes(bad)
        try:
            read(tmp_path / "x.ply")
        except CompandError:
            pass

"""Cameras from files; what is no camera is named."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from compand import CompandError, FormatError, InputError
from compand.modality.cameras import read_cameras
from compand.op.camera import Camera

GARDEN = Path(os.environ.get("COMPAND_DATA", Path(__file__).parents[2] / ".." / "shared" / "data")) / "splats" / "test_garden.npz"


def row(camera: Camera, **other):
    return {"id": 0, "img_name": "a.jpg", "width": camera.width, "height": camera.height, "position": camera.position.tolist(),
            "rotation": camera.view[:, :3].T.tolist(), "fx": camera.fx, "fy": camera.fy} | other


def test_cameras_json(tmp_path):
    cameras = [Camera.at((1, 2, 3), (0, 0, 0), 64, 48), Camera.at((-4, 0, 1), (0, 1, 0), 32, 80, fov=70)]
    path = tmp_path / "cameras.json"
    path.write_text(json.dumps([row(c) for c in cameras]))
    for a, b in zip(cameras, read_cameras(path), strict=True):
        assert np.allclose(a.view, b.view) and (a.fx, a.fy, a.cx, a.cy, a.width, a.height) == (b.fx, b.fy, b.cx, b.cy, b.width, b.height)
        assert b.name == "a.jpg"


def test_matrices(tmp_path):
    c = Camera.at((1, 2, 3), (0, 0, 0), 64, 48)
    views = np.concatenate([c.view, [[0, 0, 0, 1]]])[None]
    lens = np.array([[[c.fx, 0, c.cx], [0, c.fy, c.cy], [0, 0, 1]]])
    np.savez(tmp_path / "c.npz", viewmats=views, Ks=lens)
    (found,) = read_cameras(tmp_path / "c.npz")
    assert np.array_equal(found.view, c.view) and (found.width, found.height) == (64, 48)
    np.savez(tmp_path / "d.npz", viewmats=views, Ks=lens, width=100, height=90)
    assert read_cameras(tmp_path / "d.npz")[0].width == 100
    for bad in ({"viewmats": views}, {"viewmats": views[0], "Ks": lens}, {"viewmats": views, "Ks": lens * np.nan},
                {"viewmats": views * 3, "Ks": lens}, {"viewmats": views, "Ks": -lens}):
        np.savez(tmp_path / "bad.npz", **bad)
        with pytest.raises(FormatError):
            read_cameras(tmp_path / "bad.npz")


@pytest.mark.parametrize("text", ["", "{}", "[]", "[1]", "[{}]", "[" * 100_000, "\x00", '[{"position": [NaN, 0, 0]}]', "null",
                                  "PK\x03\x04..."], ids=range(10))
def test_no_cameras(tmp_path, text):
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(CompandError):
        read_cameras(path)


@pytest.mark.parametrize("other", [{"fx": "1"}, {"fx": None}, {"fx": -1}, {"fx": 1e999}, {"width": 0}, {"width": 1e300}, {"height": 10**9},
                                   {"position": [1, 2]}, {"position": "x"}, {"rotation": [[1, 0, 0]] * 3}, {"rotation": {}},
                                   {"position": [float("nan")] * 3}])
def test_absurd_values(tmp_path, other):
    path = tmp_path / "c.json"
    path.write_text(json.dumps([row(Camera.at((1, 2, 3), (0, 0, 0), 64, 48), **other)]))
    try:
        (camera,) = read_cameras(path)
    except FormatError as e:
        assert "camera 0" in str(e)
    else:
        assert other == {"fx": "1"} and camera.fx == 1


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_cameras(tmp_path / "none.json")


def test_garden():
    if not GARDEN.is_file():
        pytest.skip("the garden scene is not on this machine")
    cameras = read_cameras(GARDEN)
    assert [(c.width, c.height) for c in cameras] == [(cameras[0].width, cameras[0].height)] * 3
    points = np.load(GARDEN)["means3d"].astype(np.float64)
    for c in cameras:  # most of the scene is before each camera
        assert (points @ c.view[2, :3] + c.view[2, 3] > 0).mean() > 0.6


@pytest.mark.parametrize("width", [np.nan, np.inf, 1 + 2j])
def test_npz_of_sizes_that_are_none(width, tmp_path):
    np.savez(tmp_path / "c.npz", viewmats=np.eye(4)[None], Ks=np.float64([[[50, 0, 20], [0, 50, 20], [0, 0, 1]]]), width=np.array([width]))
    with pytest.raises(CompandError):
        read_cameras(tmp_path / "c.npz")
